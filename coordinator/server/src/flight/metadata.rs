//! Catalogs, schemas and tables, as Flight SQL lists them.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::compute::like;
use arrow::datatypes::Schema;
use arrow_flight::sql::{CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use datafusion::datasource::TableType;
use gust_engine::error::QueryError;
use gust_engine::session::{OWN_CATALOG, Session};
use gust_protocol::with_hint_line;
use tonic::Status;

use super::status::{of_error, of_flight};
use crate::listing::{self, Listed};
use crate::plain::plain_schema;

/// Most tables whose columns one request lists. Each may be a read of metadata.
const TABLES_WITH_COLUMNS_MAX: usize = 1_000;

/// Most bytes of a name or a pattern, and most types of tables, of one request.
const PATTERN_BYTES_MAX: usize = 1 << 10;
const KINDS_MAX: usize = 100;

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

/// Refuses patterns and lists that would take long to compare.
pub(super) fn check(patterns: [Option<&String>; 3], kinds: usize) -> Result<(), Status> {
    if patterns.into_iter().flatten().any(|pattern| pattern.len() > PATTERN_BYTES_MAX) {
        return Err(Status::invalid_argument(format!("a name or a pattern has more than {PATTERN_BYTES_MAX} bytes")));
    }
    if kinds > KINDS_MAX {
        return Err(Status::invalid_argument(format!("more than {KINDS_MAX} types of tables")));
    }
    Ok(())
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
        let tables = listed(catalog, only.is_some(), listing::tables(session, catalog).await)?;
        let schemas = are_like(tables.iter().map(|table| &table.schema), db_schema_filter_pattern.as_deref())?;
        let names = are_like(tables.iter().map(|table| &table.table), table_name_filter_pattern.as_deref())?;
        for ((Listed { schema, table, kind }, has_schema), has_name) in tables.into_iter().zip(schemas).zip(names) {
            let is_kind = kinds.is_empty() || kinds.iter().any(|wanted| wanted == name_of(kind));
            if !(has_schema && has_name && is_kind) {
                continue;
            }
            let mut columns = Arc::new(Schema::empty());
            if with_columns {
                opened += 1;
                if opened > TABLES_WITH_COLUMNS_MAX {
                    let message =
                        format!("more than {TABLES_WITH_COLUMNS_MAX} tables match, and their columns are asked for");
                    return Err(Status::resource_exhausted(with_hint_line(message, Some("narrow the pattern"))));
                }
                // A table that cannot be opened has no columns, and hides no other.
                match listing::columns(session, [catalog, &schema, &table]).await {
                    Ok(found) => columns = plain_schema(&found),
                    Err(error) => tracing::warn!(catalog, schema, table, %error, "a table has no columns to list"),
                }
            }
            rows.append(catalog, schema, table, name_of(kind), &columns).map_err(of_flight)?;
        }
    }
    rows.build().map_err(of_flight)
}

/// Compares names with a pattern of SQL's LIKE, as the builder of the answer does. This spares tables that nobody asked for.
fn are_like<'a>(names: impl Iterator<Item = &'a String>, pattern: Option<&str>) -> Result<Vec<bool>, Status> {
    let Some(pattern) = pattern else { return Ok(names.map(|_| true).collect()) };
    let names = StringArray::from_iter_values(names);
    let found = like(&names, &StringArray::new_scalar(pattern)).map_err(of_flight)?;
    Ok(found.iter().map(|is_like| is_like == Some(true)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_like() {
        for (pattern, name, expect) in [
            ("%", "", true),
            ("ord%", "orders", true),
            ("%d%r%", "orders", true),
            ("o_ders", "orders", true),
            ("order", "orders", false),
            ("orders_", "orders", false),
            ("my\\_table", "my_table", true),
            ("my\\_table", "my-table", false),
            ("a\\%", "a%", true),
            ("a\\%", "ab", false),
            ("a\\\\b", "a\\b", true),
        ] {
            assert_eq!(
                are_like([name.to_owned()].iter(), Some(pattern)).expect("a pattern"),
                [expect],
                "{pattern} {name}"
            );
        }
        assert_eq!(are_like(["x".to_owned()].iter(), None).expect("all"), [true]);
    }

    #[test]
    fn long_patterns_are_refused() {
        let long = "%".repeat(PATTERN_BYTES_MAX + 1);
        assert!(check([None, Some(&"%".to_owned()), None], KINDS_MAX).is_ok());
        assert!(check([None, None, Some(&long)], 0).is_err());
        assert!(check([None; 3], KINDS_MAX + 1).is_err());
    }
}
