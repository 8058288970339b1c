//! A table that exists and cannot be loaded: a catalog's, or a folder that has a table's name.
//!
//! A listing of tables or of all columns gets past it, and so does a statement that makes a table of that name. A query
//! that reads it gets the reason, by [`broken_table_error`] where there is a plan.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::{TableType, source_as_provider};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;

/// Table without columns. Reading it fails.
#[derive(Debug)]
pub struct BrokenTable {
    error: Arc<DataFusionError>,
    schema: SchemaRef,
}

impl BrokenTable {
    pub(super) fn new(error: DataFusionError) -> Self {
        Self { error: Arc::new(error), schema: Arc::new(Schema::empty()) }
    }

    /// Returns the reason why it cannot be loaded, each time that it is called.
    pub fn error(&self) -> DataFusionError {
        DataFusionError::Shared(Arc::clone(&self.error))
    }
}

/// Finds the first such table of a plan, and returns the reason why it cannot be read.
pub fn broken_table_error(plan: &LogicalPlan) -> Option<DataFusionError> {
    let mut found = None;
    let visited = plan.apply_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = node else { return Ok(TreeNodeRecursion::Continue) };
        let Ok(provider) = source_as_provider(&scan.source) else { return Ok(TreeNodeRecursion::Continue) };
        found = provider.downcast_ref::<BrokenTable>().map(BrokenTable::error);
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
    found
}

#[async_trait]
impl TableProvider for BrokenTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(self.error())
    }
}
