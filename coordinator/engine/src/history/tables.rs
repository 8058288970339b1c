//! The history as tables of the engine. A query reads them a page at a time while it runs. A history that does not
//! exist yet is empty.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::stream;
use sqlx::sqlite::SqliteConnection;

use super::columns::Table;
use super::error::{HistoryError, HistoryFault};
use super::store::Store;
use super::writer::HistoryWriter;

/// Name of the schema that has the tables.
pub const SCHEMA: &str = "gust";

pub fn table_names() -> Vec<String> {
    Table::all().iter().map(|table| table.name.to_owned()).collect()
}

/// Makes a schema with `queries`, `fragments` and `cost_lines` of a store: of all statements, or of one user's. Nobody reads a file that
/// does not answer its writer.
pub fn schema(store: &Store, of_user: Option<&str>, writer: &HistoryWriter) -> Result<Arc<dyn SchemaProvider>> {
    let schema = MemorySchemaProvider::new();
    for table in Table::all() {
        let name = table.name.to_owned();
        let (store, writer, of_user) = (store.clone(), writer.clone(), of_user.map(str::to_owned));
        let stored = StoredTable { schema: table.schema(), store, writer, of_user, table };
        let provider = StreamingTable::try_new(Arc::clone(&stored.schema), vec![Arc::new(stored)])?;
        schema.register_table(name, Arc::new(provider))?;
    }
    Ok(Arc::new(schema))
}

#[derive(Debug)]
struct StoredTable {
    store: Store,
    writer: HistoryWriter,
    /// User whose statements are shown; None for everyone's.
    of_user: Option<String>,
    table: Table,
    schema: SchemaRef,
}

impl PartitionStream for StoredTable {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (store, table, of_user) = (self.store.clone(), self.table.clone(), self.of_user.clone());
        let reader = PageReader { store, writer: self.writer.clone(), table, of_user, connection: None, after: 0 };
        let pages = stream::try_unfold(reader, |reader| async {
            reader.next().await.map_err(|error| DataFusionError::External(Box::new(error)))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), pages))
    }
}

/// State of a reader.
struct PageReader {
    store: Store,
    writer: HistoryWriter,
    table: Table,
    of_user: Option<String>,
    connection: Option<SqliteConnection>,
    after: i64,
}

impl PageReader {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>, HistoryError> {
        let connection = match self.connection.as_mut() {
            Some(connection) => connection,
            None => {
                // Statements that have ended are seen, also where they have not waited for their records.
                self.writer.settled().await;
                if self.writer.hangs() {
                    return Err(self.store.error(HistoryFault::Slow));
                }
                let Some(connection) = self.store.open().await? else { return Ok(None) };
                self.connection.insert(connection)
            }
        };
        let page = self.store.page(connection, &self.table, self.of_user.as_deref(), self.after).await?;
        Ok(page.map(|page| (page.batch, Self { after: page.last_row, ..self })))
    }
}
