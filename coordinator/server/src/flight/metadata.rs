//! Catalogs, schemas, tables and the server's abilities, as Flight SQL lists them.

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables, SqlInfo,
    SqlSupportedCaseSensitivity, SqlSupportedTransaction,
};
use datafusion::datasource::TableType;
use gust_engine::error::QueryError;
use gust_engine::session::{OWN_CATALOG, Session};
use tonic::Status;

use super::status::{of_error, of_flight};
use crate::listing::{self, Listed};
use crate::plain::plain_schema;

/// Most tables whose columns one request lists. Each may be a read of metadata.
const TABLES_WITH_COLUMNS_MAX: usize = 1_000;

static SQL_INFO: LazyLock<SqlInfoData> = LazyLock::new(|| {
    let mut about = SqlInfoDataBuilder::new();
    about.append(SqlInfo::FlightSqlServerName, "Gust");
    about.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    about.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    about.append(SqlInfo::FlightSqlServerReadOnly, true);
    about.append(SqlInfo::FlightSqlServerSql, true);
    about.append(SqlInfo::FlightSqlServerSubstrait, false);
    about.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    about.append(SqlInfo::FlightSqlServerCancel, false);
    about.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    about.append(SqlInfo::SqlDdlCatalog, false);
    about.append(SqlInfo::SqlDdlSchema, false);
    about.append(SqlInfo::SqlDdlTable, true);
    about.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    about.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    about.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    about.append(SqlInfo::SqlAllTablesAreSelectable, true);
    about.append(SqlInfo::SqlCatalogTerm, "catalog");
    about.append(SqlInfo::SqlSchemaTerm, "schema");
    about.append(SqlInfo::SqlCatalogAtStart, true);
    about.append(SqlInfo::SqlTransactionsSupported, false);
    about.build().expect("the list is well formed")
});

pub(super) fn sql_info() -> &'static SqlInfoData {
    &SQL_INFO
}

/// Returns the names of all catalogs: the session's own, and those of the configuration.
fn catalog_names(session: &Session) -> impl Iterator<Item = &str> {
    std::iter::once(OWN_CATALOG).chain(session.config().catalogs.keys().map(String::as_str))
}

/// Returns the catalogs that a request is about. An empty name stands for what has no catalog, which nothing is.
fn wanted<'a>(session: &'a Session, catalog: Option<&'a str>) -> Vec<&'a str> {
    catalog_names(session).filter(|name| catalog.is_none_or(|catalog| catalog == *name)).collect()
}

/// Returns what a catalog lists. Among all, one that cannot be asked hides no other.
fn listed<T>(catalog: &str, is_one: bool, found: Result<Vec<T>, QueryError>) -> Result<Vec<T>, Status> {
    match found {
        Err(error) if !is_one => {
            tracing::warn!(catalog, %error, "a catalog cannot be listed");
            Ok(Vec::new())
        }
        found => found.map_err(|error| of_error(&error)),
    }
}

pub(super) fn catalogs(session: &Session, query: CommandGetCatalogs) -> Result<RecordBatch, Status> {
    let mut rows = query.into_builder();
    catalog_names(session).for_each(|name| rows.append(name));
    rows.build().map_err(of_flight)
}

pub(super) async fn schemas(session: &Session, query: CommandGetDbSchemas) -> Result<RecordBatch, Status> {
    let only = query.catalog.clone();
    let mut rows = query.into_builder();
    for catalog in wanted(session, only.as_deref()) {
        let schemas = listed(catalog, only.is_some(), listing::schemas(session, catalog).await)?;
        schemas.iter().for_each(|schema| rows.append(catalog, schema));
    }
    rows.build().map_err(of_flight)
}

pub(super) fn table_types(query: CommandGetTableTypes) -> Result<RecordBatch, Status> {
    let mut rows = query.into_builder();
    [TableType::Base, TableType::View].into_iter().for_each(|kind| rows.append(name_of(kind)));
    rows.build().map_err(of_flight)
}

/// Returns the name that clients know a kind of table by.
const fn name_of(kind: TableType) -> &'static str {
    match kind {
        TableType::View => "VIEW",
        TableType::Base | TableType::Temporary => "TABLE",
    }
}

/// Lists tables. Their columns are read only where they are asked for.
pub(super) async fn tables(session: &Session, query: CommandGetTables) -> Result<RecordBatch, Status> {
    let CommandGetTables { catalog: only, db_schema_filter_pattern, table_name_filter_pattern, .. } = query.clone();
    let (kinds, with_columns) = (query.table_types.clone(), query.include_schema);
    let mut rows = query.into_builder();
    let mut opened = 0;
    for catalog in wanted(session, only.as_deref()) {
        for Listed { schema, table, kind } in listed(catalog, only.is_some(), listing::tables(session, catalog).await)?
        {
            let is_wanted = is_like(db_schema_filter_pattern.as_deref(), &schema)
                && is_like(table_name_filter_pattern.as_deref(), &table)
                && (kinds.is_empty() || kinds.iter().any(|wanted| wanted == name_of(kind)));
            if !is_wanted {
                continue;
            }
            let mut columns = Arc::new(Schema::empty());
            if with_columns && opened < TABLES_WITH_COLUMNS_MAX {
                opened += 1;
                // A table that cannot be opened has no columns, and hides no other.
                if let Ok(found) = listing::columns(session, [catalog, &schema, &table]).await {
                    columns = plain_schema(&found);
                }
            }
            rows.append(catalog, schema, table, name_of(kind), &columns).map_err(of_flight)?;
        }
    }
    rows.build().map_err(of_flight)
}

/// Compares a name with a pattern of SQL's LIKE. The builder compares again; this spares tables that nobody asked for.
fn is_like(pattern: Option<&str>, name: &str) -> bool {
    let Some(pattern) = pattern else { return true };
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // Places of the pattern that the name so far may end at.
    let mut places = vec![false; pattern.len() + 1];
    places[0] = true;
    let skip_any = |places: &mut Vec<bool>| {
        (0..pattern.len()).for_each(|at| places[at + 1] |= places[at] && pattern[at] == '%');
    };
    skip_any(&mut places);
    for letter in name {
        let mut next = vec![false; pattern.len() + 1];
        for (at, of) in pattern.iter().enumerate().filter(|(at, _)| places[*at]) {
            match of {
                '%' => next[at] = true,
                '_' => next[at + 1] = true,
                of => next[at + 1] |= *of == letter,
            }
        }
        skip_any(&mut next);
        places = next;
    }
    places[pattern.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_like() {
        for (pattern, name, expect) in [
            ("", "", true),
            ("%", "", true),
            ("%", "orders", true),
            ("ord%", "orders", true),
            ("%ers", "orders", true),
            ("%d%r%", "orders", true),
            ("o_ders", "orders", true),
            ("orders", "orders", true),
            ("order", "orders", false),
            ("orders_", "orders", false),
            ("", "orders", false),
            ("%x%", "orders", false),
            ("_%_", "o", false),
        ] {
            assert_eq!(is_like(Some(pattern), name), expect, "{pattern} {name}");
        }
        assert!(is_like(None, "orders"));
    }
}
