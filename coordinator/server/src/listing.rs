//! Names of schemas and tables, and columns of tables, as the information schema has them. The history has none of these statements.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::datasource::TableType;
use gust_engine::error::QueryError;
use gust_engine::session::Session;

/// Most names that are listed.
const NAMES_MAX: usize = 100_000;

/// Table that was not loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) kind: TableType,
}

/// Lists the schemas of a catalog.
///
/// # Errors
/// Those of asking the catalog.
pub(crate) async fn schemas(session: &Session, catalog: &str) -> Result<Vec<String>, QueryError> {
    let catalog = text(catalog);
    let sql = format!(
        "SELECT DISTINCT schema_name FROM information_schema.schemata WHERE catalog_name = {catalog} LIMIT {NAMES_MAX}"
    );
    Ok(rows(session, &sql).await?.iter().flat_map(|batch| texts(batch, 0)).collect())
}

/// Lists the tables and views of a catalog. No table is loaded.
///
/// # Errors
/// Those of asking the catalog.
pub(crate) async fn tables(session: &Session, catalog: &str) -> Result<Vec<Listed>, QueryError> {
    let catalog = text(catalog);
    let sql = format!(
        "SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_catalog = {catalog} LIMIT {NAMES_MAX}"
    );
    let mut listed = Vec::new();
    for batch in rows(session, &sql).await? {
        let [schemas, tables, kinds] = [0, 1, 2].map(|column| texts(&batch, column));
        for ((schema, table), kind) in schemas.into_iter().zip(tables).zip(kinds) {
            let kind = if kind == "VIEW" { TableType::View } else { TableType::Base };
            listed.push(Listed { schema, table, kind });
        }
    }
    Ok(listed)
}

/// Returns the columns of a table, given its catalog, its schema and its name.
///
/// # Errors
/// The table is not there, or cannot be read.
pub(crate) async fn columns(session: &Session, names: [&str; 3]) -> Result<SchemaRef, QueryError> {
    let [catalog, schema, table] = names.map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
    let statement = session.parse(&format!("SELECT * FROM {catalog}.{schema}.{table}"))?.remove(0);
    let columns = session.describe(statement, &[]).await?.schema;
    columns.ok_or_else(|| QueryError::sql(format!("`{table}` has no columns")))
}

/// Returns the rows of a statement of our own.
///
/// # Errors
/// Those of the statement.
pub(crate) async fn rows(session: &Session, sql: &str) -> Result<Vec<RecordBatch>, QueryError> {
    let mut running = session.run(session.parse(sql)?.remove(0)).await?;
    let mut batches = Vec::new();
    let ended = loop {
        match running.next().await {
            Ok(Some(batch)) => batches.push(batch),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    running.finish().await;
    ended.map(|()| batches)
}

/// Returns the texts of a column.
pub(crate) fn texts(batch: &RecordBatch, column: usize) -> Vec<String> {
    let Ok(texts) = arrow::compute::cast(batch.column(column), &DataType::Utf8) else { return Vec::new() };
    texts.as_string::<i32>().iter().map(|text| text.unwrap_or_default().to_owned()).collect()
}

fn text(name: &str) -> String {
    format!("'{}'", name.replace('\'', "''"))
}
