//! A list inside a joined text is refused.
//!
//! DataFusion 55.2 writes lists as texts: `concat(ARRAY[1], ARRAY[2])` is `[1][2]`, and `concat_ws(',', ARRAY['a', 'b'])`
//! is `[a, b]`. Trino joins the lists of the first, and the elements of the second. DuckDB joins the lists of the first.
//! No caller wants the text.
//!
//! Take this out when the functions of [`gust_protocol::functions`] join lists.

use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::sql::Refusal;

/// Rule that runs before types are coerced.
#[derive(Debug)]
pub(super) struct JoinedLists;

impl AnalyzerRule for JoinedLists {
    fn name(&self) -> &str {
        "gust_joined_lists"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            let is_list = |expr: &Expr| {
                use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView};
                let of = expr.get_type(&schema);
                matches!(of, Ok(List(_) | LargeList(_) | FixedSizeList(..) | ListView(_) | LargeListView(_)))
            };
            node.apply_expressions(|expr| {
                expr.apply(|part| {
                    let Expr::ScalarFunction(call) = part else { return Ok(TreeNodeRecursion::Continue) };
                    let hint = match call.name() {
                        "concat" => {
                            "a || b and array_concat(a, b) join lists, array_to_string(a, ', ') writes a list as a text"
                        }
                        "concat_ws" => "array_to_string(a, ', ') joins the elements of a list",
                        _ => return Ok(TreeNodeRecursion::Continue),
                    };
                    if call.args.iter().any(is_list) && !is_list(part) {
                        let what = format!("{} of a list is not supported", call.name());
                        return Err(Refusal::new(what, hint).into());
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(plan)
    }
}
