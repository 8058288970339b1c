//! Statements about `pg_catalog` in the engine's words.
//!
//! The parse tree decides. Only a statement that reads PostgreSQL's tables, calls its functions or casts to its types is rewritten.
//! Rules of the crate that drop or cut subqueries see no statement that reads other tables.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, Statement,
    TableFactor, Value, Visit, Visitor, visit_expressions_mut, visit_relations_mut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_pg_catalog::pg_catalog::PG_CATALOG_TABLES;
use datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use datafusion_pg_catalog::sql::rules::{
    CurrentUserVariableToSessionUserFunctionCall, FixVersionColumnName, PrependUnqualifiedPgTableName,
    RewritePgCatalogOperator, RewriteRegCastToSubquery, SqlStatementRewriteRule, StripCallableQualifier,
};
use gust_engine::session::{OWN_CATALOG, Piece, Word, WordKind};

use super::super::startup::SERVER_VERSION;
use super::PG_CATALOG;
use super::functions::KEYS_OF_INDEX;
use super::routines::PG_PROC;

static PARSER: LazyLock<PostgresCompatibilityParser> = LazyLock::new(PostgresCompatibilityParser::new);

/// Most bytes of a statement about PostgreSQL's own tables. Its tree is walked many times.
const TEXT_BYTES_MAX: usize = 64 << 10;

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
    "to_regtype",
    "version",
];

/// Tells if a statement may mention what only PostgreSQL has. Its tree knows.
pub(in super::super) fn may_mention(piece: &Piece) -> bool {
    piece.words.iter().filter_map(Word::bare).any(is_of_postgresql)
}

fn is_of_postgresql(word: &str) -> bool {
    word.starts_with("pg_") || WORDS.contains(&word)
}

/// Columns of `pg_index` that are lists for PostgreSQL and texts here.
const INDEX_LISTS: [&str; 4] = ["indclass", "indcollation", "indkey", "indoption"];

/// Columns with rights, which are lists for PostgreSQL and texts here.
const RIGHTS: [&str; 2] = ["nspacl", "proacl"];

/// Value of a list that is not known.
const NO_LIST: &str = "CAST(NULL AS VARCHAR[])";

/// Tells if a statement may need names of tables.
pub(super) fn mentions_relations(piece: &Piece) -> bool {
    let of_names = |word: &str| word.starts_with("pg_") || ["regclass", "regtype"].contains(&word);
    piece.words.iter().filter_map(Word::bare).any(of_names)
}

/// Tells if a statement needs columns of tables.
pub(super) fn mentions_columns(piece: &Piece) -> bool {
    piece.words.iter().any(|word| word.bare() == Some("pg_attribute"))
}

/// Tells if a statement needs the names of functions.
pub(super) fn mentions_routines(piece: &Piece) -> bool {
    piece.words.iter().any(|word| word.bare() == Some(PG_PROC))
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

/// Returns a statement as the engine reads it; None for one that is not about PostgreSQL, or has no such form.
pub(super) fn rewritten(text: &str) -> Option<String> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let only = |mut statements: Vec<Statement>| statements.pop().filter(|_| statements.is_empty());
    let (mut statement, is_catalogs_alone) = match Parser::parse_sql(&PostgreSqlDialect {}, text) {
        Ok(statements) => {
            let statement = only(statements)?;
            let about = About::of(&statement);
            if about.is_catalogs_alone() {
                (only(PARSER.parse(text).ok()?)?, true)
            } else if about.is_postgresqls() {
                (beside_other_tables(statement, &about), false)
            } else {
                return None;
            }
        }
        // Some of the clients' statements are known to the crate by their words.
        Err(_) => (only(PARSER.parse(text).ok()?).filter(|statement| About::of(statement).is_catalogs_alone())?, true),
    };
    if is_catalogs_alone {
        forget_lists(&mut statement);
    }
    qualify(&mut statement);
    plain_types(&mut statement);
    Some(statement.to_string())
}

/// Rewrites what is PostgreSQL's in a statement that may read other tables.
fn beside_other_tables(mut statement: Statement, about: &About) -> Statement {
    let registers = CurrentUserVariableToSessionUserFunctionCall;
    let mut rules: Vec<&dyn SqlStatementRewriteRule> = vec![&PrependUnqualifiedPgTableName];
    if about.reads_others {
        // A bare name may be a column's.
        call_registers(&mut statement);
    } else {
        rules.push(&registers);
    }
    let casts = RewriteRegCastToSubquery::new();
    rules.extend([
        &StripCallableQualifier as &dyn SqlStatementRewriteRule,
        &FixVersionColumnName,
        &RewritePgCatalogOperator,
        &casts,
    ]);
    rules.into_iter().fold(statement, |statement, rule| rule.rewrite(statement))
}

/// Tables, functions and types of a statement.
#[derive(Debug, Default)]
struct About {
    reads_catalog: bool,
    reads_others: bool,
    calls: bool,
    /// True if it has a name without brackets that is PostgreSQL's only where no table has such a column.
    has_register: bool,
    /// Names that the statement itself gives to queries.
    given: BTreeSet<String>,
}

impl About {
    fn of(statement: &Statement) -> Self {
        let mut about = Self::default();
        let _: ControlFlow<()> = statement.visit(&mut about);
        about
    }

    fn is_catalogs_alone(&self) -> bool {
        self.reads_catalog && !self.reads_others
    }

    fn is_postgresqls(&self) -> bool {
        self.reads_catalog || self.calls || (self.has_register && !self.reads_others)
    }
}

impl Visitor for About {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let given = query.with.iter().flat_map(|with| &with.cte_tables);
        self.given.extend(given.map(|given| given.alias.name.value.to_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { name, args, .. } = factor else { return ControlFlow::Continue(()) };
        let parts = parts(name);
        match (parts.as_slice(), args) {
            ([.., schema, _], None) if schema == PG_CATALOG => self.reads_catalog = true,
            ([.., schema, _], None) if schema == "information_schema" => {}
            ([name], None) if self.given.contains(name) => {}
            ([name], None) if PG_CATALOG_TABLES.contains(&name.as_str()) => self.reads_catalog = true,
            (parts, Some(_)) if is_function(parts) => self.calls = true,
            ([.., name], Some(_)) if ["generate_series", "unnest"].contains(&name.as_str()) => {}
            _ => self.reads_others = true,
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => self.calls |= is_function(&parts(&function.name)),
            Expr::Cast { data_type, .. } => self.calls |= is_type(data_type),
            Expr::Identifier(name) if name.quote_style.is_none() => {
                self.has_register |= name.value.eq_ignore_ascii_case("current_schema");
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Returns the parts of a name in small letters.
fn parts(ObjectName(parts): &ObjectName) -> Vec<String> {
    parts.iter().filter_map(ObjectNamePart::as_ident).map(|part| part.value.to_lowercase()).collect()
}

fn is_function(parts: &[String]) -> bool {
    match parts {
        [name] => is_of_postgresql(name),
        [schema, _] => schema == PG_CATALOG,
        _ => false,
    }
}

fn is_type(data_type: &DataType) -> bool {
    match data_type {
        DataType::Regclass => true,
        DataType::Custom(name, _) => match parts(name).as_slice() {
            [name] => name == "regtype" || name == "regnamespace" || name == "regproc" || name == "oid",
            [schema, _] => schema == PG_CATALOG,
            _ => false,
        },
        _ => false,
    }
}

/// Names functions that are called without brackets as the engine does.
fn call_registers(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Expr::Function(function) = expr
            && matches!(function.args, FunctionArguments::None)
        {
            match parts(&function.name).as_slice() {
                [name] if name == "current_user" => function.name = Ident::new("session_user").into(),
                [name] if name == "current_catalog" => {
                    function.name = Ident::new("current_database").into();
                    function.args = FunctionArguments::List(FunctionArgumentList {
                        args: Vec::new(),
                        duplicate_treatment: None,
                        clauses: Vec::new(),
                    });
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    });
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

/// Tells if an expression is a list that has no value here: the rows of a subquery, or the rights to a thing, which are texts in the crate.
fn is_list_without_value(expr: &Expr) -> bool {
    let Expr::Function(function) = expr else { return false };
    match (parts(&function.name).last().map(String::as_str), &function.args) {
        (Some("array"), FunctionArguments::Subquery(_)) => true,
        (Some("array_to_string"), FunctionArguments::List(list)) => {
            list.args.first().is_some_and(|list| RIGHTS.iter().any(|rights| list.to_string().ends_with(rights)))
        }
        _ => false,
    }
}

/// Leaves lists without a value.
fn forget_lists(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if is_list_without_value(expr) {
            let parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(NO_LIST);
            if let Ok(nothing) = parser.and_then(|mut parser| parser.parse_expr()) {
                *expr = nothing;
            }
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
        if let Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } = expr
            && let Some(escape) = escape_char.take_if(|escape| escape.to_string().len() == 3)
        {
            // The engine's patterns know the backslash alone.
            let text = format!("replace(replace({pattern}, '\\', '\\\\'), {escape}, '\\')");
            let parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(&text);
            if let Ok(replaced) = parser.and_then(|mut parser| parser.parse_expr()) {
                **pattern = replaced;
            }
        }
        if let Expr::Function(function) = expr
            && function.name.to_string().eq_ignore_ascii_case("unnest")
            && INDEX_LISTS.iter().any(|list| function.args.to_string().ends_with(&format!("pg_index.{list})")))
        {
            function.name = Ident::new(KEYS_OF_INDEX).into();
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
    fn patterns_have_the_engines_escape() {
        let sql = "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg/_' || '%' ESCAPE '/'";
        let rewritten = rewritten(sql).expect("it is PostgreSQL's");
        assert!(rewritten.ends_with(r"NOT LIKE replace(replace('pg/_' || '%', '\', '\\'), '/', '\')"), "{rewritten}");
    }

    #[test]
    fn only_what_is_postgresqls_is_rewritten() {
        for (sql, expect) in [
            ("SELECT relname FROM pg_class", true),
            ("SELECT version()", true),
            ("SELECT 'orders'::regclass", true),
            ("SELECT current_schema", true),
            ("SELECT current_user FROM t", true),
            ("SELECT 'pg_class' AS name", false),
            ("SELECT \"pg_class\" FROM t", false),
            ("SELECT count(*) FROM orders", false),
            ("SELECT version, (SELECT count(*) FROM orders o WHERE o.rel = r.id) AS n FROM releases r", false),
            ("SELECT *, version FROM t", false),
            ("SELECT pg_x, current_schema FROM t", false),
        ] {
            let is = may_mention(&piece(sql)) && rewritten(sql).is_some();
            assert_eq!(is, expect, "{sql}: {:?}", rewritten(sql));
        }
        assert_eq!(rewritten(&format!("SELECT version(){}", " + 1".repeat(20_000))), None);
    }

    #[test]
    fn rows_of_other_tables_stay_as_they_are() {
        for (sql, expect) in [
            (
                "SELECT current_user, (SELECT count(*) FROM o WHERE o.a = t.a), t.*, k FROM t",
                "SELECT session_user, (SELECT count(*) FROM o WHERE o.a = t.a), t.*, k FROM t",
            ),
            (
                "SELECT (SELECT max(o.v) FROM o), pg_catalog.pg_backend_pid() FROM t ORDER BY current_schema",
                "SELECT (SELECT max(o.v) FROM o), pg_backend_pid() FROM t ORDER BY current_schema",
            ),
            (
                "SELECT (SELECT v FROM t), relname FROM pg_class",
                "SELECT (SELECT v FROM t), relname FROM datafusion.pg_catalog.pg_class",
            ),
            ("SELECT current_catalog FROM t", "SELECT current_database() FROM t"),
            ("SELECT current_schema(), ARRAY(SELECT v FROM t)", "SELECT current_schema(), ARRAY(SELECT v FROM t)"),
        ] {
            assert_eq!(rewritten(sql).as_deref(), Some(expect), "{sql}");
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
            (
                "SELECT ARRAY(SELECT m.roleid FROM pg_auth_members m WHERE m.member = r.oid) FROM pg_roles r",
                "CAST(NULL AS VARCHAR[])",
            ),
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
