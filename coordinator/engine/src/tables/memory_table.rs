//! Tables of CREATE TABLE AS. Their rows are kept in memory and counted in the session's pool, until the table is
//! dropped.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayData, RecordBatch, RecordBatchOptions};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::{Constraints, Result};
use datafusion::datasource::TableType;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::logical_expr::{CreateMemoryTable, Expr};
use datafusion::physical_plan::ExecutionPlan;

use super::boxed::{AskedScan, boxed_scan};

/// Rows that become a table.
#[derive(Debug)]
pub struct TableRows {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    held: MemoryReservation,
    /// Addresses of the buffers that are counted. Batches may share buffers.
    counted: HashSet<usize>,
}

impl TableRows {
    pub fn new(schema: SchemaRef, table: &str, pool: &Arc<dyn MemoryPool>) -> Self {
        let held = MemoryConsumer::new(format!("table {table}")).register(pool);
        Self { schema, batches: Vec::new(), held, counted: HashSet::new() }
    }

    /// Adds rows, and counts those of their buffers that are new.
    ///
    /// # Errors
    /// An error if the pool has too little memory for them.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let bytes = batch.columns().iter().map(|column| self.uncounted_bytes(&column.to_data())).sum();
        self.held.try_grow(bytes)?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        self.batches.push(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
        Ok(())
    }

    fn uncounted_bytes(&mut self, data: &ArrayData) -> usize {
        let buffers = data.buffers().iter().chain(data.nulls().map(NullBuffer::buffer));
        let new = buffers.filter(|buffer| self.counted.insert(buffer.data_ptr().as_ptr() as usize));
        let own: usize = new.map(Buffer::capacity).sum();
        own + data.child_data().iter().map(|child| self.uncounted_bytes(child)).sum::<usize>()
    }

    /// Makes the table of a statement.
    pub fn into_table(self, create: CreateMemoryTable) -> Result<MemoryTable> {
        let rows = MemTable::try_new(self.schema, vec![self.batches])?
            .with_constraints(create.constraints)
            .with_column_defaults(create.column_defaults.into_iter().collect());
        Ok(MemoryTable { rows, _held: self.held })
    }
}

#[derive(Debug)]
pub struct MemoryTable {
    rows: MemTable,
    _held: MemoryReservation,
}

impl MemoryTable {
    async fn planned(&self, asked: AskedScan<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        self.rows.scan(asked.state, asked.projection, asked.filters, asked.limit).await
    }
}

impl TableProvider for MemoryTable {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn constraints(&self) -> Option<&Constraints> {
        self.rows.constraints()
    }

    fn table_type(&self) -> TableType {
        self.rows.table_type()
    }

    fn get_column_default(&self, column: &str) -> Option<&Expr> {
        self.rows.get_column_default(column)
    }

    boxed_scan!(MemoryTable, MemoryTable::planned);
}
