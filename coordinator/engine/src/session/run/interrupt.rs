//! Ends nested-loop joins that compare for hours and find nothing, once nobody wants their rows any more.
//!
//! A task ends where its operators wait, and such a join compares all pairs inside one step. So its condition fails once the rows were
//! dropped.
//!
//! Non-goals: other operators are not watched. A cross join under an aggregate hands its rows on without a pause (DataFusion 55.2).

use std::fmt::{Display, Formatter};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

/// Mark that the rows of a plan were dropped. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Dropped(Arc<AtomicBool>);

/// Sets the mark at its end.
struct SetAtEnd(Dropped);

impl Drop for SetAtEnd {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Dropped {
    /// Makes the conditions of nested-loop joins fail once the mark is set.
    pub(super) fn watch(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let watched = plan.transform_up(|plan| {
            let watched =
                plan.downcast_ref::<NestedLoopJoinExec>().map(|join| self.watch_condition(join)).transpose()?;
            Ok(watched.flatten().map_or_else(|| Transformed::no(plan), Transformed::yes))
        });
        Ok(watched?.data)
    }

    fn watch_condition(&self, join: &NestedLoopJoinExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(condition) = join.filter() else { return Ok(None) };
        let watched = Watched { condition: Arc::clone(condition.expression()), dropped: self.clone() };
        let indices = condition.column_indices().to_vec();
        let condition = JoinFilter::new(Arc::new(watched), indices, Arc::clone(condition.schema()));
        let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
        let builder = NestedLoopJoinExecBuilder::new(left, right, *join.join_type());
        let builder = builder.with_filter(Some(condition)).with_projection_ref(join.projection().clone());
        Ok(Some(Arc::new(builder.build()?)))
    }

    /// Sets the mark when the rows are dropped.
    pub(super) fn set_with(self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let at_end = SetAtEnd(self);
        let held = move |batch| {
            let _held = &at_end;
            batch
        };
        Box::pin(RecordBatchStreamAdapter::new(rows.schema(), rows.map(held)))
    }
}

/// Condition that fails once the mark is set.
#[derive(Debug)]
struct Watched {
    condition: Arc<dyn PhysicalExpr>,
    dropped: Dropped,
}

impl PartialEq for Watched {
    fn eq(&self, other: &Self) -> bool {
        self.condition.eq(&other.condition)
    }
}

impl Eq for Watched {}

impl Hash for Watched {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.condition.hash(state);
    }
}

impl Display for Watched {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.condition.fmt(f)
    }
}

impl PhysicalExpr for Watched {
    fn data_type(&self, schema: &Schema) -> Result<DataType> {
        self.condition.data_type(schema)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        self.condition.nullable(schema)
    }

    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.condition.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.dropped.0.load(Ordering::Relaxed) {
            return Err(DataFusionError::Execution("the rows are not wanted any more".to_owned()));
        }
        self.condition.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.condition]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match children.as_slice() {
            [condition] => Ok(Arc::new(Self { condition: Arc::clone(condition), dropped: self.dropped.clone() })),
            _ => Err(DataFusionError::Internal("a watched condition has one child".to_owned())),
        }
    }

    fn fmt_sql(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.condition.fmt_sql(f)
    }
}
