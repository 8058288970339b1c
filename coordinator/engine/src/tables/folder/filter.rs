//! Filters over partition columns alone, evaluated on a folder before it is listed.
//!
//! Each comparison is the engine's own, over the folder's typed value. No text of a literal is compared. A folder whose
//! value of a column is not known yet may match.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use datafusion::physical_plan::PhysicalExpr;

use super::partitions::FolderValue;

/// A filter that can be decided with a part of the values.
#[derive(Debug)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    One { expr: Arc<dyn PhysicalExpr>, columns: Vec<usize> },
}

/// Filters of a scan that need no file, all together.
#[derive(Debug)]
pub(super) struct PartitionFilter {
    schema: SchemaRef,
    condition: Condition,
    columns: HashSet<usize>,
}

/// Tells if a filter can be decided by the values of these columns.
pub(super) fn is_decided_by(columns: &[FieldRef], filter: &Expr) -> bool {
    let references = filter.column_refs();
    let are_known = || references.iter().all(|found| columns.iter().any(|column| *column.name() == found.name));
    !references.is_empty() && are_known() && !filter.is_volatile() && !has_subquery(filter)
}

fn has_subquery(filter: &Expr) -> bool {
    let is_query = |expr: &Expr| {
        matches!(
            expr,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::ScalarSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
        )
    };
    filter.exists(|expr| Ok(is_query(expr))).unwrap_or(true)
}

impl PartitionFilter {
    /// Plans the filters over the partition columns.
    ///
    /// # Errors
    /// An error for a filter that the engine cannot plan.
    pub(super) fn new(state: &dyn Session, columns: &[FieldRef], filters: &[Expr]) -> Result<Self> {
        let schema = Arc::new(Schema::new(columns.to_vec()));
        let names = DFSchema::try_from(Arc::clone(&schema))?;
        let conditions = filters.iter().map(|filter| Condition::new(state, &names, filter)).collect::<Result<_>>()?;
        let condition = Condition::All(conditions);
        let mut needed = HashSet::new();
        condition.collect_columns(&mut needed);
        Ok(Self { schema, condition, columns: needed })
    }

    /// Tells if a value that is not known yet may decide.
    pub(super) fn needs_more_than(&self, values: &[Option<FolderValue>]) -> bool {
        self.columns.iter().any(|column| values[*column].is_none())
    }

    /// Tells if rows with these values may be wanted. The answer is exact if all values are known.
    pub(super) fn may_match(&self, values: &[Option<FolderValue>]) -> Result<bool> {
        if self.columns.is_empty() {
            return Ok(true);
        }
        let arrays = self.schema.fields().iter().zip(values).map(|(field, value)| match value {
            Some(FolderValue::Is(value)) => value.to_array(),
            _ => ScalarValue::try_from(field.data_type())?.to_array(),
        });
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays.collect::<Result<_>>()?)?;
        self.condition.may_hold(&batch, values)
    }
}

impl Condition {
    fn new(state: &dyn Session, schema: &DFSchema, filter: &Expr) -> Result<Self> {
        if let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) = filter {
            let sides = vec![Self::new(state, schema, left)?, Self::new(state, schema, right)?];
            return Ok(if *op == Operator::And { Self::All(sides) } else { Self::Any(sides) });
        }
        let bare = filter.clone().transform(|expr| match expr {
            Expr::Column(column) => Ok(Transformed::yes(Expr::Column(column.name.clone().into()))),
            other => Ok(Transformed::no(other)),
        })?;
        let columns = filter.column_refs().into_iter().map(|column| schema.index_of_column_by_name(None, &column.name));
        let columns = columns.flatten().collect();
        Ok(Self::One { expr: state.create_physical_expr(bare.data, schema)?, columns })
    }

    fn collect_columns(&self, into: &mut HashSet<usize>) {
        match self {
            Self::All(conditions) | Self::Any(conditions) => {
                conditions.iter().for_each(|condition| condition.collect_columns(into));
            }
            Self::One { columns, .. } => into.extend(columns),
        }
    }

    /// Tells if the condition may be TRUE. NULL counts as FALSE, also under AND and OR.
    fn may_hold(&self, row: &RecordBatch, values: &[Option<FolderValue>]) -> Result<bool> {
        match self {
            Self::All(conditions) => {
                for condition in conditions {
                    if !condition.may_hold(row, values)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(conditions) => {
                for condition in conditions {
                    if condition.may_hold(row, values)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::One { columns, .. } if columns.iter().any(|c| !matches!(values[*c], Some(FolderValue::Is(_)))) => {
                Ok(true)
            }
            Self::One { expr, .. } => {
                let held = expr.evaluate(row)?.into_array(1)?;
                Ok(held.as_boolean_opt().is_some_and(|held| !held.is_empty() && held.is_valid(0) && held.value(0)))
            }
        }
    }
}
