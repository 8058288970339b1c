//! Statements about `pg_catalog` in the engine's words.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, Ident, ObjectName, ObjectNamePart, Statement, Value, visit_expressions_mut, visit_relations_mut,
};
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use gust_engine::session::{OWN_CATALOG, Piece, Word, WordKind};

use super::super::startup::SERVER_VERSION;
use super::PG_CATALOG;

static PARSER: LazyLock<PostgresCompatibilityParser> = LazyLock::new(PostgresCompatibilityParser::new);

/// Smallest number of a table.
const FIRST_NUMBER: i64 = 16_384;

/// Functions and types of PostgreSQL that the engine does not have, beside names that begin with `pg_`.
const WORDS: &[&str] = &[
    "array_lower",
    "array_upper",
    "current_catalog",
    "current_database",
    "current_schema",
    "current_schemas",
    "current_setting",
    "current_user",
    "format_type",
    "has_database_privilege",
    "has_schema_privilege",
    "has_table_privilege",
    "parse_ident",
    "quote_ident",
    "regclass",
    "regtype",
    "session_user",
    "version",
];

/// Tells if a statement mentions what only PostgreSQL has.
pub(in super::super) fn mentions(piece: &Piece) -> bool {
    piece.words.iter().filter_map(Word::bare).any(|word| word.starts_with("pg_") || WORDS.contains(&word))
}

/// Tells if a statement may need names of tables.
pub(super) fn mentions_relations(piece: &Piece) -> bool {
    let of_names = |word: &str| word.starts_with("pg_") || ["regclass", "regtype"].contains(&word);
    piece.words.iter().filter_map(Word::bare).any(of_names)
}

/// Tells if a statement needs columns of tables.
pub(super) fn mentions_columns(piece: &Piece) -> bool {
    piece.words.iter().any(|word| word.bare() == Some("pg_attribute"))
}

/// Returns the numbers of a statement that may be a table's.
pub(super) fn numbers(piece: &Piece) -> BTreeSet<i64> {
    let numbers = piece.words.iter().filter_map(|word| word.value().parse().ok());
    numbers.filter(|number| *number >= FIRST_NUMBER).collect()
}

/// Returns the texts of a statement that may be a table's name. psql writes a name as a pattern.
pub(super) fn texts(piece: &Piece) -> BTreeSet<&str> {
    let texts = piece.words.iter().filter_map(|word| match &word.kind {
        WordKind::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.map(|text| text.strip_prefix("^(").and_then(|text| text.strip_suffix(")$")).unwrap_or(text)).collect()
}

/// Returns a statement as the engine reads it; None for one that has no such form.
pub(super) fn rewritten(text: &str) -> Option<String> {
    let mut statements = PARSER.parse(text).ok()?;
    let (Some(mut statement), true) = (statements.pop(), statements.is_empty()) else { return None };
    qualify(&mut statement);
    plain_types(&mut statement);
    Some(statement.to_string())
}

/// Names the catalog of tables of `pg_catalog`, which is not that of bare names.
fn qualify(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_relations_mut(statement, |ObjectName(parts)| {
        let is_of_it =
            |part: &ObjectNamePart| part.as_ident().is_some_and(|it| it.value.eq_ignore_ascii_case(PG_CATALOG));
        if parts.len() == 2 && is_of_it(&parts[0]) {
            parts.insert(0, ObjectNamePart::Identifier(Ident::new(OWN_CATALOG)));
        }
        ControlFlow::Continue(())
    });
}

/// Replaces types of PostgreSQL in casts by plain ones: numbers of things are whole numbers. The version is one that clients know.
fn plain_types(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Expr::Cast { data_type, .. } = expr
            && let Some(plain) = plain(data_type)
        {
            *data_type = plain;
        }
        if let Expr::Function(function) = expr
            && function.name.to_string().eq_ignore_ascii_case("version")
        {
            let version = format!("PostgreSQL {SERVER_VERSION} (Gust {})", env!("CARGO_PKG_VERSION"));
            *expr = Expr::Value(Value::SingleQuotedString(version).with_empty_span());
        }
        ControlFlow::Continue(())
    });
}

fn plain(data_type: &DataType) -> Option<DataType> {
    let DataType::Custom(ObjectName(parts), arguments) = data_type else {
        return matches!(data_type, DataType::Regclass).then_some(DataType::Int(None));
    };
    if !arguments.is_empty() {
        return None;
    }
    let name = parts.last()?.as_ident()?.value.to_lowercase();
    Some(match name.as_str() {
        "oid" | "int4" => DataType::Int(None),
        name if name.starts_with("reg") => DataType::Int(None),
        "int2" => DataType::SmallInt(None),
        "int8" => DataType::BigInt(None),
        "bool" => DataType::Boolean,
        "text" | "name" | "char" | "varchar" | "bpchar" => DataType::Varchar(None),
        "float8" => DataType::Double(datafusion::sql::sqlparser::ast::ExactNumberInfo::None),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use gust_engine::session::pieces;

    use super::*;

    fn piece(sql: &str) -> Piece {
        pieces(sql).expect("words").remove(0)
    }

    #[test]
    fn only_what_is_postgresqls_is_rewritten() {
        for (sql, expect) in [
            ("SELECT relname FROM pg_class", true),
            ("SELECT version()", true),
            ("SELECT 'orders'::regclass", true),
            ("SELECT 'pg_class' AS name", false),
            ("SELECT \"pg_class\" FROM t", false),
            ("SELECT count(*) FROM orders", false),
        ] {
            assert_eq!(mentions(&piece(sql)), expect, "{sql}");
        }
    }

    #[test]
    fn names_are_whole_and_types_are_plain() {
        for (sql, expect) in [
            ("SELECT c.oid FROM pg_class c", "FROM datafusion.pg_catalog.pg_class"),
            (
                "SELECT pg_catalog.pg_get_userbyid(d.datdba) FROM pg_catalog.pg_database d",
                "SELECT pg_get_userbyid(d.datdba)",
            ),
            ("SELECT version()", "SELECT 'PostgreSQL 16.6 (Gust "),
            ("SELECT a.attrelid::regclass::pg_catalog.text FROM pg_attribute a", "::INT::VARCHAR"),
        ] {
            let rewritten = rewritten(sql).expect(sql);
            assert!(rewritten.contains(expect), "{sql}: {rewritten}");
        }
        assert_eq!(rewritten("SELECT 1 FORM pg_class pg_class"), None);
        let psql = piece("SELECT 1 WHERE a.attrelid = '16390' AND c.relname ~ '^(orders)$' AND x = 7");
        assert_eq!(numbers(&psql).into_iter().collect::<Vec<_>>(), [16_390]);
        assert!(texts(&psql).contains("orders"));
    }
}
