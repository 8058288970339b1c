//! Large constants are refused where they would be written into every row.
//!
//! `SELECT repeat('x', 10000000) FROM t` is a constant by the time it is planned. It has as many bytes as one call may
//! make. The engine then copies it for each row of a batch, and runs out of memory. The copies of one batch have the
//! bound of one call.
//!
//! A text of a SELECT list is bounded also where it is only compared. A list or struct that an expression only looks
//! into is not copied and stays. So does every constant of a WHERE.

use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use gust_protocol::functions::CALL_RESULT_BYTES_MAX;

use crate::sql::Refusal;

/// Last rule of all, which finds constants computed.
#[derive(Debug)]
pub(super) struct BoundedConstants;

impl OptimizerRule for BoundedConstants {
    fn name(&self) -> &str {
        "gust_bounded_constants"
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let batch_rows = config.options().execution.batch_size.get();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::Projection(projection) = node {
                check(projection, batch_rows)?;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Transformed::no(plan))
    }
}

fn check(projection: &Projection, batch_rows: usize) -> Result<()> {
    let rows = projection.input.max_rows().map_or(batch_rows, |rows| rows.min(batch_rows)).max(1);
    let value_bytes_max = CALL_RESULT_BYTES_MAX / rows as u64;
    for expr in &projection.expr {
        let is_whole = matches!(unaliased(expr), Expr::Literal(..));
        expr.apply(|part| {
            let Expr::Literal(value, _) = part else { return Ok(TreeNodeRecursion::Continue) };
            let bytes = value.size() as u64;
            if bytes > value_bytes_max && (is_whole || is_text(&value.data_type())) {
                let what = format!(
                    "a constant of {bytes} bytes would be written into each row; with {rows} rows at once it may have at most {value_bytes_max} bytes"
                );
                let hint = "make it smaller, or SET datafusion.execution.batch_size to fewer rows";
                return Err(Refusal::new(what, hint).into());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(())
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

fn is_text(of: &DataType) -> bool {
    use DataType::{Binary, BinaryView, LargeBinary, LargeUtf8, Utf8, Utf8View};
    matches!(of, Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView)
}
