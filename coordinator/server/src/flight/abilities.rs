//! The server's abilities, as Flight SQL names them: each of its SqlInfo that a server without writes has.

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    CommandGetSqlInfo, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedGroupBy, SqlSupportedSubqueries, SqlSupportedTransaction, SqlSupportedUnions, SupportedSqlGrammar,
};
use tonic::Status;

use super::SQL_BYTES_MAX;
use super::status::of_flight;

/// Most abilities that one call asks for.
const IDS_MAX: usize = 1_000;

/// Words that are no names without quotes, beside those of SQL:2003.
const KEYWORDS: [&str; 6] = ["ANTI", "EXCLUDE", "ILIKE", "LIMIT", "QUALIFY", "SEMI"];

/// Level of SQL-92, whose enumeration the crate does not show.
const ANSI_92_ENTRY: i32 = 0;

/// Functions of ODBC that are there under the same names.
const NUMERIC: [&str; 18] = [
    "ABS", "ACOS", "ASIN", "ATAN", "ATAN2", "CEILING", "COS", "COT", "DEGREES", "EXP", "FLOOR", "LOG10", "PI", "POWER",
    "RADIANS", "ROUND", "SIN", "SQRT",
];
const TEXT: [&str; 12] = [
    "ASCII",
    "CONCAT",
    "LEFT",
    "LENGTH",
    "LOWER",
    "LTRIM",
    "REPEAT",
    "REPLACE",
    "RIGHT",
    "RTRIM",
    "SUBSTRING",
    "UPPER",
];
const TIME: [&str; 5] = ["CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "EXTRACT", "NOW"];

/// Limits that are not there. 0 says so.
const UNLIMITED: [SqlInfo; 19] = [
    SqlInfo::SqlMaxBinaryLiteralLength,
    SqlInfo::SqlMaxCharLiteralLength,
    SqlInfo::SqlMaxColumnNameLength,
    SqlInfo::SqlMaxColumnsInGroupBy,
    SqlInfo::SqlMaxColumnsInIndex,
    SqlInfo::SqlMaxColumnsInOrderBy,
    SqlInfo::SqlMaxColumnsInSelect,
    SqlInfo::SqlMaxColumnsInTable,
    SqlInfo::SqlMaxConnections,
    SqlInfo::SqlMaxCursorNameLength,
    SqlInfo::SqlMaxIndexLength,
    SqlInfo::SqlDbSchemaNameLength,
    SqlInfo::SqlMaxProcedureNameLength,
    SqlInfo::SqlMaxCatalogNameLength,
    SqlInfo::SqlMaxRowSize,
    SqlInfo::SqlMaxStatements,
    SqlInfo::SqlMaxTableNameLength,
    SqlInfo::SqlMaxTablesInSelect,
    SqlInfo::SqlMaxUsernameLength,
];

static ABILITIES: LazyLock<SqlInfoData> = LazyLock::new(|| {
    let mut about = SqlInfoDataBuilder::new();
    about.append(SqlInfo::FlightSqlServerName, "Gust");
    about.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    about.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    for (name, text) in [
        (SqlInfo::SqlIdentifierQuoteChar, "\""),
        (SqlInfo::SqlSearchStringEscape, "\\"),
        (SqlInfo::SqlExtraNameCharacters, ""),
        (SqlInfo::SqlSchemaTerm, "schema"),
        (SqlInfo::SqlCatalogTerm, "catalog"),
        (SqlInfo::SqlProcedureTerm, "procedure"),
    ] {
        about.append(name, text);
    }
    for (name, is_so) in [
        (SqlInfo::FlightSqlServerReadOnly, true),
        (SqlInfo::FlightSqlServerSql, true),
        (SqlInfo::FlightSqlServerSubstrait, false),
        (SqlInfo::FlightSqlServerCancel, false),
        (SqlInfo::FlightSqlServerBulkIngestion, false),
        (SqlInfo::FlightSqlServerIngestTransactionsSupported, false),
        // A table ends with the call that has made it.
        (SqlInfo::SqlDdlCatalog, false),
        (SqlInfo::SqlDdlSchema, false),
        (SqlInfo::SqlDdlTable, false),
        (SqlInfo::SqlAllTablesAreSelectable, true),
        (SqlInfo::SqlSupportsColumnAliasing, true),
        (SqlInfo::SqlNullPlusNullIsNull, true),
        (SqlInfo::SqlSupportsTableCorrelationNames, true),
        (SqlInfo::SqlSupportsDifferentTableCorrelationNames, false),
        (SqlInfo::SqlSupportsExpressionsInOrderBy, true),
        (SqlInfo::SqlSupportsOrderByUnrelated, true),
        (SqlInfo::SqlSupportsLikeEscapeClause, true),
        (SqlInfo::SqlSupportsNonNullableColumns, true),
        (SqlInfo::SqlSupportsIntegrityEnhancementFacility, false),
        (SqlInfo::SqlCatalogAtStart, true),
        (SqlInfo::SqlSelectForUpdateSupported, false),
        (SqlInfo::SqlStoredProceduresSupported, false),
        (SqlInfo::SqlCorrelatedSubqueriesSupported, true),
        (SqlInfo::SqlMaxRowSizeIncludesBlobs, true),
        (SqlInfo::SqlTransactionsSupported, false),
        (SqlInfo::SqlDataDefinitionCausesTransactionCommit, false),
        (SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false),
        (SqlInfo::SqlBatchUpdatesSupported, false),
        (SqlInfo::SqlSavepointsSupported, false),
        (SqlInfo::SqlNamedParametersSupported, false),
        (SqlInfo::SqlLocatorsUpdateCopy, false),
        (SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false),
    ] {
        about.append(name, is_so);
    }
    let bit = |number: i32| 1_i32 << number;
    for (name, number) in [
        (SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32),
        (SqlInfo::FlightSqlServerTransactionTimeout, 0),
        (SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32),
        (SqlInfo::SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32),
        (SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32),
        (SqlInfo::SqlSupportedGroupBy, bit(SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32)),
        (
            SqlInfo::SqlSupportedGrammar,
            bit(SupportedSqlGrammar::SqlMinimumGrammar as i32) | bit(SupportedSqlGrammar::SqlCoreGrammar as i32),
        ),
        (SqlInfo::SqlAnsi92SupportedLevel, bit(ANSI_92_ENTRY)),
        (SqlInfo::SqlOuterJoinsSupportLevel, bit(SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32)),
        (SqlInfo::SqlSchemasSupportedActions, 0),
        (SqlInfo::SqlCatalogsSupportedActions, 0),
        (SqlInfo::SqlSupportedPositionedCommands, 0),
        (
            SqlInfo::SqlSupportedSubqueries,
            bit(SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32)
                | bit(SqlSupportedSubqueries::SqlSubqueriesInExists as i32)
                | bit(SqlSupportedSubqueries::SqlSubqueriesInIns as i32)
                | bit(SqlSupportedSubqueries::SqlSubqueriesInQuantifieds as i32),
        ),
        (
            SqlInfo::SqlSupportedUnions,
            bit(SqlSupportedUnions::SqlUnion as i32) | bit(SqlSupportedUnions::SqlUnionAll as i32),
        ),
        (SqlInfo::SqlDefaultTransactionIsolation, 0),
        (SqlInfo::SqlSupportedTransactionsIsolationLevels, 0),
        (SqlInfo::SqlSupportedResultSetTypes, bit(1)),
    ] {
        about.append(name, number);
    }
    for name in UNLIMITED {
        about.append(name, 0_i64);
    }
    about.append(SqlInfo::SqlMaxStatementLength, SQL_BYTES_MAX as i64);
    for (name, words) in [
        (SqlInfo::SqlKeywords, &KEYWORDS[..]),
        (SqlInfo::SqlNumericFunctions, &NUMERIC[..]),
        (SqlInfo::SqlStringFunctions, &TEXT[..]),
        (SqlInfo::SqlSystemFunctions, &[][..]),
        (SqlInfo::SqlDatetimeFunctions, &TIME[..]),
    ] {
        about.append(name, words);
    }
    about.build().expect("the list is well formed")
});

pub(super) fn data() -> &'static SqlInfoData {
    &ABILITIES
}

/// Refuses lists of ids that would take long to compare.
pub(super) fn check(query: &CommandGetSqlInfo) -> Result<(), Status> {
    match query.info.len() <= IDS_MAX {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!("more than {IDS_MAX} abilities are asked for"))),
    }
}

pub(super) fn rows(query: CommandGetSqlInfo) -> Result<RecordBatch, Status> {
    check(&query)?;
    query.into_builder(&ABILITIES).build().map_err(of_flight)
}
