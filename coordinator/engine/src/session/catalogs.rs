//! Catalogs of a session: the one in which bare names are looked up, the names that a statement lists, and names that are near
//! a wrong one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use datafusion::catalog::information_schema::INFORMATION_SCHEMA;
use datafusion::common::{ResolvedTableReference, TableReference};
use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, ObjectName, ObjectNamePart, SetExpr, Statement as SqlStatement, TableFactor, Use, Value,
};
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use gust_catalog::NamesRoom;

use super::Session;
use super::statement::OWN_CATALOG;
use crate::error::{ErrorKind, QueryError, with_causes};
use crate::history;
use crate::nearest::nearest;
use crate::sql::{folded_name, quoted};
use crate::tables::catalog::{IcebergCatalog, Listing, list, list_one};

/// Longest search for a name that is near a wrong one.
const SEARCH_MAX: Duration = Duration::from_secs(3);
/// Names among which a near one is searched.
const SEARCH_NAMES_MAX: usize = 100_000;
/// Catalogs that are listed at once.
const CATALOGS_AT_ONCE: usize = 4;

/// Most tables of one name that a hint lists.
const NEAR_MAX: usize = 5;
/// SQLSTATE code of PostgreSQL for a schema that is not there.
const NO_SCHEMA: &str = "3F000";

impl Session {
    /// Makes a configured catalog the one in which bare names are looked up.
    ///
    /// Its only namespace becomes the default schema, and `default` if it has several or none. Others are written
    /// `namespace.table`.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if no catalog has the name, it cannot be opened or listed, or the history
    /// cannot be shown.
    pub fn use_catalog<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), QueryError>> {
        Box::pin(async move {
            if !self.engine.catalogs.has(name) {
                return Err(self.unknown_catalog(name));
            }
            let first = self.engine.catalogs.first_namespaces(name).await.map_err(|error| in_catalog(name, error))?;
            let default = match first.as_slice() {
                [only] => only.clone(),
                _ => "default".to_owned(),
            };
            self.look_up_in(name, &default)
        })
    }

    fn look_up_in(&self, name: &str, schema: &str) -> Result<(), QueryError> {
        let system = self.engine.system_schema(&self.config, self.history_of.as_deref()).map_err(|error| {
            QueryError::setup(format!("catalog `{name}`: {}", with_causes(&error))).with_source(error)
        })?;
        if self.engine.catalogs.has(name) {
            let catalog = IcebergCatalog::new(&self.engine.catalogs, name).with_schema(history::SCHEMA, system);
            self.catalogs.register_catalog(name.to_owned(), Arc::new(catalog));
        }
        self.use_schema(name, schema);
        Ok(())
    }

    /// Looks bare names up in this schema from now on.
    pub fn use_schema(&self, catalog: &str, schema: &str) {
        let state = self.context.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut();
        catalog.clone_into(&mut options.catalog.default_catalog);
        schema.clone_into(&mut options.catalog.default_schema);
    }

    fn unknown_catalog(&self, name: &str) -> QueryError {
        let near = nearest(name, self.engine.catalogs.names());
        let hint =
            near.map_or("add it to gust.toml under [catalogs]".to_owned(), |near| format!("did you mean `{near}`?"));
        QueryError::setup(format!("there is no catalog `{name}` in the configuration")).with_hint(hint)
    }

    /// Carries out USE: a catalog, a namespace of the present catalog, or both.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if there is no such catalog or namespace, and those of asking a catalog.
    pub(super) async fn use_place(&self, name: &ObjectName) -> Result<(), QueryError> {
        let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(folded_name).collect();
        let is_catalog = |name: &str| name == OWN_CATALOG || self.engine.catalogs.has(name);
        let state = self.context.state();
        let present = state.config_options().catalog.default_catalog.clone();
        let (catalog, schema) = match parts.as_slice() {
            [only] if is_catalog(only) && only != OWN_CATALOG => return self.use_catalog(only).await,
            [only] if is_catalog(only) => return self.look_up_in(only, super::statement::OWN_SCHEMA),
            [first, rest @ ..] if is_catalog(first) && !rest.is_empty() => (first.clone(), rest.join(".")),
            parts => (present, parts.join(".")),
        };
        let is_there = match self.engine.catalogs.has(&catalog) {
            true => {
                let asked = self.engine.catalogs.has_namespace(&catalog, &schema).await;
                asked.map_err(|error| in_catalog(&catalog, error))?
            }
            false => self.catalogs.catalog(&catalog).is_some_and(|found| found.schema(&schema).is_some()),
        };
        if !is_there {
            let known = self.known_namespaces(&catalog).await;
            let catalogs = self.engine.catalogs.names().map(str::to_owned);
            let known: Vec<String> = known.into_iter().chain(catalogs).collect();
            let near = nearest(&schema, known.iter().map(String::as_str));
            let hint =
                near.map_or("SHOW SCHEMAS lists what there is".to_owned(), |near| format!("did you mean `{near}`?"));
            let message = format!("there is no catalog and no namespace `{schema}` in catalog `{catalog}`");
            return Err(QueryError::sql(message).with_hint(hint).with_sqlstate(NO_SCHEMA));
        }
        self.look_up_in(&catalog, &schema)
    }

    async fn known_namespaces(&self, catalog: &str) -> Vec<String> {
        tokio::time::timeout(SEARCH_MAX, self.engine.catalogs.first_namespaces(catalog))
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default()
    }

    /// Lists the names that a statement asks for, so that the engine finds them. Statements that name their tables ask for none.
    ///
    /// The catalogs are the one in which bare names are looked up, and those that the statement names.
    ///
    /// # Errors
    /// Those of asking a catalog.
    pub(super) async fn list_names(
        &self,
        statement: &EngineStatement,
        references: &[TableReference],
        describes: bool,
    ) -> Result<(), QueryError> {
        let Some(shown) = &self.of_query else { return Ok(()) };
        let of_schema: Vec<&TableReference> =
            references.iter().filter(|reference| reference.schema() == Some(INFORMATION_SCHEMA)).collect();
        if of_schema.is_empty() && !describes {
            return Ok(());
        }
        let state = self.context.state();
        let defaults = &state.config_options().catalog;
        if describes {
            // The engine looks through the columns of all tables that it finds.
            if let Some(described) = described(statement) {
                let described = described.resolve(&defaults.default_catalog, &defaults.default_schema);
                let ResolvedTableReference { catalog, schema, table } = described;
                if self.engine.catalogs.has(&catalog) {
                    shown.show(&catalog, Listing::from([(schema.to_string(), [table.to_string()].into())]));
                }
            }
            return Ok(());
        }
        let text = statement.to_string().to_lowercase();
        let named = self.engine.catalogs.names().filter(|name| {
            **name == defaults.default_catalog
                || mentions(&text, &name.to_lowercase())
                || of_schema.iter().any(|reference| reference.catalog() == Some(*name))
        });
        let wanted: BTreeSet<String> = named.map(str::to_owned).collect();
        let with_tables = of_schema.iter().any(|reference| reference.table() != "schemata");
        let namespace = only_namespace(statement).filter(|_| with_tables && references.len() == 1);
        let namespace = namespace.as_deref();
        let room = &NamesRoom::default();
        let listings = stream::iter(wanted).map(|name| async move {
            let listing = match namespace {
                Some(namespace) => list_one(&self.engine.catalogs, &name, namespace).await,
                None => list(&self.engine.catalogs, &name, with_tables, room).await,
            };
            listing.map_err(|error| in_catalog(&name, error)).map(|listing| (name, listing))
        });
        let listings: Vec<_> = listings.buffered(CATALOGS_AT_ONCE).collect().await;
        for listing in listings {
            let (name, listing) = listing?;
            shown.show(&name, listing);
        }
        Ok(())
    }

    /// Tells the log of a name that no grant gives. Its user hears the same as of a table that nobody has.
    pub(super) fn note_ungranted(&self, reference: &TableReference) {
        let Some(grants) = self.engine.catalogs.grants() else { return };
        let state = self.context.state();
        let defaults = &state.config_options().catalog;
        let resolved = reference.clone().resolve(&defaults.default_catalog, &defaults.default_schema);
        let ResolvedTableReference { catalog, schema, table } = &resolved;
        // `t$files` is there with its table.
        let of = table.split_once('$').map_or(&**table, |(of, _)| of);
        if &**schema != history::SCHEMA && !grants.give(catalog, schema, table) && !grants.give(catalog, schema, of) {
            grants.note(catalog, schema, table);
        }
    }

    /// Searches the catalogs for a name that is near a wrong one, for a while: in its namespace, then everywhere.
    ///
    /// Several namespaces may have a table of the very name. They are all returned, at most [`NEAR_MAX`]; else one name is.
    pub(super) async fn near_table(&self, reference: &TableReference) -> Vec<String> {
        let state = self.context.state();
        let defaults = &state.config_options().catalog;
        let resolved = reference.clone().resolve(&defaults.default_catalog, &defaults.default_schema);
        let ResolvedTableReference { catalog, schema, table } = &resolved;
        let search = async {
            if self.engine.catalogs.has(catalog) {
                let beside = self.engine.catalogs.tables(catalog, schema).await.unwrap_or_default();
                if let Some(near) = nearest(table, beside.iter().map(String::as_str)) {
                    return vec![spelled(reference, near)];
                }
            }
            let names = self.engine.catalogs.names().map(str::to_owned).collect::<Vec<_>>();
            let room = &NamesRoom::for_names(SEARCH_NAMES_MAX);
            let listings = stream::iter(names).map(|name| async move {
                let listing = list(&self.engine.catalogs, &name, true, room).await.unwrap_or_default();
                (name, listing)
            });
            let listings: Vec<(String, Listing)> = listings.buffered(CATALOGS_AT_ONCE).collect().await;
            let tables = listings.iter().flat_map(|(catalog, listing)| {
                listing
                    .iter()
                    .flat_map(move |(schema, tables)| tables.iter().map(move |table| (catalog, schema, table)))
            });
            let tables: Vec<_> = tables.collect();
            let names = tables.iter().map(|(_, _, table)| table.as_str());
            let near = match names.clone().any(|name| name == &**table) {
                true => Some(&**table),
                false => nearest(table, names),
            };
            let named = tables.iter().filter(|(_, _, table)| Some(table.as_str()) == near);
            let named = named.take(if near == Some(&**table) { NEAR_MAX } else { 1 });
            let full =
                named.map(|(catalog, schema, table)| [catalog, schema, table].map(|part| quoted(part)).join("."));
            full.collect()
        };
        tokio::time::timeout(SEARCH_MAX, search).await.unwrap_or_default()
    }
}

/// Spells a near name as the wrong one was spelled.
fn spelled(wrong: &TableReference, near: &str) -> String {
    let before = wrong.catalog().into_iter().chain(wrong.schema());
    before.chain([near]).map(quoted).collect::<Vec<_>>().join(".")
}

/// Tells if a text has a name as a word of its own.
fn mentions(text: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name)
        .any(|(start, _)| !text[..start].ends_with(is_word) && !text[start + name.len()..].starts_with(is_word))
}

/// Returns the namespace in which alone a statement looks for tables: it reads one table, with a condition
/// `table_schema = 'NAMESPACE'`. SHOW TABLES IN and the completion of editors do so.
fn only_namespace(statement: &EngineStatement) -> Option<String> {
    let EngineStatement::Statement(statement) = statement else { return None };
    let SqlStatement::Query(query) = &**statement else { return None };
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let is_of_schema = |name: &ObjectName| {
        let schema = name.0.iter().rev().nth(1).and_then(ObjectNamePart::as_ident);
        schema.is_some_and(|schema| folded_name(schema) == INFORMATION_SCHEMA)
    };
    let reads_schema =
        |relation: &TableFactor| matches!(relation, TableFactor::Table { name, .. } if is_of_schema(name));
    // A subquery may look elsewhere, and columns of a query in WITH may be others.
    let reads_once = query.with.is_none()
        && select.from.len() == 1
        && select.from.iter().all(|from| from.joins.is_empty() && reads_schema(&from.relation))
        && statement.to_string().to_lowercase().matches(INFORMATION_SCHEMA).count() == 1;
    let mut conditions = vec![select.selection.as_ref().filter(|_| reads_once)?];
    while let Some(condition) = conditions.pop() {
        match condition {
            Expr::Nested(inner) => conditions.push(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => conditions.extend([&**left, &**right]),
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let column = match &**left {
                    Expr::Identifier(column) => column,
                    Expr::CompoundIdentifier(parts) => parts.last()?,
                    _ => continue,
                };
                if let Expr::Value(value) = &**right
                    && let Value::SingleQuotedString(namespace) = &value.value
                    && folded_name(column) == "table_schema"
                {
                    return Some(namespace.clone());
                }
            }
            _ => {}
        }
    }
    None
}

/// Returns the name behind USE.
pub(super) fn used(statement: &EngineStatement) -> Option<&ObjectName> {
    let EngineStatement::Statement(statement) = statement else { return None };
    match &**statement {
        SqlStatement::Use(Use::Object(name) | Use::Catalog(name) | Use::Schema(name) | Use::Database(name)) => {
            Some(name)
        }
        _ => None,
    }
}

/// Returns the table that SHOW COLUMNS or SHOW CREATE TABLE describes. DESCRIBE looks at nothing else than its table.
fn described(statement: &EngineStatement) -> Option<TableReference> {
    let EngineStatement::Statement(statement) = statement else { return None };
    let name = match &**statement {
        SqlStatement::ShowCreate { obj_name, .. } => obj_name,
        SqlStatement::ShowColumns { show_options, .. } => show_options.show_in.as_ref()?.parent_name.as_ref()?,
        _ => return None,
    };
    let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(folded_name).collect();
    match parts.as_slice() {
        [table] => Some(TableReference::bare(table.as_str())),
        [schema, table] => Some(TableReference::partial(schema.as_str(), table.as_str())),
        [catalog, schema, table] => Some(TableReference::full(catalog.as_str(), schema.as_str(), table.as_str())),
        _ => None,
    }
}

pub(super) fn in_catalog(name: &str, error: gust_catalog::Error) -> QueryError {
    let plain = QueryError::of_catalog(ErrorKind::Setup, &error);
    let named = match &error {
        // These name their catalog.
        gust_catalog::Error::Unauthorized { .. }
        | gust_catalog::Error::Forbidden { .. }
        | gust_catalog::Error::Setting { .. } => plain.message().to_owned(),
        _ => format!("catalog `{name}`: {}", plain.message()),
    };
    QueryError::setup(named).with_default_hint(plain.hint()).with_sqlstate(plain.sqlstate()).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_that_looks_in_one_namespace_names_it() {
        for (condition, expect) in [
            ("table_schema = 'a.b'", Some("a.b")),
            ("(table_name LIKE 'x%') AND (true) AND (t.TABLE_SCHEMA = 'a')", Some("a")),
            ("table_schema = 'a' OR true", None),
            ("NOT (table_schema = 'a')", None),
            ("table_schema <> 'a'", None),
            ("table_schema = table_name", None),
            ("table_schema = 'a' AND table_name IN (SELECT table_name FROM information_schema.tables)", None),
        ] {
            let text = format!("SELECT * FROM information_schema.tables t WHERE {condition}");
            let statement = datafusion::sql::parser::DFParser::parse_sql(&text).expect("SQL").remove(0).expect("one");
            assert_eq!(only_namespace(&statement).as_deref(), expect, "{condition}");
        }
        for text in [
            "SELECT * FROM information_schema.tables, x WHERE table_schema = 'a'",
            "WITH n AS (SELECT *, count(*) OVER () AS total FROM information_schema.tables) SELECT total FROM n WHERE table_schema = 'a'",
            "WITH n AS (SELECT 'x' AS table_schema FROM information_schema.tables) SELECT * FROM n WHERE table_schema = 'x'",
            "WITH n AS (SELECT 1) SELECT * FROM information_schema.tables WHERE table_schema = 'a'",
            "SELECT 'information_schema' FROM n WHERE table_schema = 'a'",
        ] {
            let statement = datafusion::sql::parser::DFParser::parse_sql(text).expect("SQL").remove(0).expect("one");
            assert_eq!(only_namespace(&statement), None, "{text}");
        }
    }

    #[test]
    fn a_name_is_mentioned_as_a_word() {
        for (text, expect) in [
            ("select * from lake.a.b", true),
            ("where table_catalog = 'lake'", true),
            ("select lakes from \"lake2\"", false),
            ("lake", true),
        ] {
            assert_eq!(mentions(text, "lake"), expect, "{text}");
        }
    }

    #[test]
    fn a_hint_is_spelled_so_that_it_can_be_copied() {
        assert_eq!(quoted("orders_1"), "orders_1");
        assert_eq!(
            [quoted("a.b"), quoted("Ä"), quoted("x\"y"), quoted("1a")],
            ["\"a.b\"", "\"Ä\"", "\"x\"\"y\"", "\"1a\""]
        );
        let wrong = TableReference::partial("a.b", "ordrs");
        assert_eq!(spelled(&wrong, "Orders"), "\"a.b\".\"Orders\"");
    }
}
