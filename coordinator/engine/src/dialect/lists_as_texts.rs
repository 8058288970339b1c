//! A list, a map or a struct that a function would read as a text is refused.
//!
//! DataFusion 55.2 writes them as texts: `concat(ARRAY[1], ARRAY[2])` is `[1][2]`, `left([1, 2, 3], 2)` is `[1`, and
//! `rpad(list, 9, 'x')` the list's text filled up. Trino and DuckDB join the lists of the first, and refuse the others. No caller
//! wants the text. A function that has a meaning for lists has it in [`gust_protocol::functions`]: `length`, `reverse`, `contains`.
//!
//! Take this out when the functions of DataFusion do not cast a list to a text.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::sql::Refusal;

/// Rule that runs before types are coerced.
#[derive(Debug)]
pub(super) struct ListsAsTexts;

impl AnalyzerRule for ListsAsTexts {
    fn name(&self) -> &str {
        "gust_lists_as_texts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|node| {
            let schema = merge_schema(&node.inputs());
            node.apply_expressions(|expr| {
                expr.apply(|part| match part {
                    Expr::ScalarFunction(call) => match text_of(part, call, &schema) {
                        Some(what) => {
                            let what = format!("{} of {what} is not supported", call.name());
                            Err(Refusal::new(what, hint(call.name())).into())
                        }
                        None => Ok(TreeNodeRecursion::Continue),
                    },
                    _ => Ok(TreeNodeRecursion::Continue),
                })
            })
        })?;
        Ok(plan)
    }
}

/// Returns the kind of an argument that a call would read as a text. A call that fails anyway has none.
fn text_of(call: &Expr, of: &ScalarFunction, schema: &DFSchema) -> Option<&'static str> {
    let types: Vec<DataType> = of.args.iter().map(|arg| arg.get_type(schema).ok()).collect::<Option<_>>()?;
    let nested = types.iter().find_map(kind)?;
    if matches!(of.name(), "concat" | "concat_ws") {
        // A list among lists is a list.
        let is_text = call.get_type(schema).is_ok_and(|of| kind(&of).is_none());
        return is_text.then_some(nested);
    }
    let fields: Vec<FieldRef> = types.iter().map(|of| Arc::new(Field::new("", of.clone(), true))).collect();
    let coerced = fields_with_udf(&fields, of.func.as_ref()).ok()?;
    types.iter().zip(&coerced).find_map(|(given, taken)| kind(given).filter(|_| taken.data_type().is_string()))
}

fn kind(of: &DataType) -> Option<&'static str> {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView, Map, Struct};
    match of {
        List(_) | LargeList(_) | FixedSizeList(..) | ListView(_) | LargeListView(_) => Some("a list"),
        Map(..) => Some("a map"),
        Struct(_) => Some("a struct"),
        _ => None,
    }
}

fn hint(name: &str) -> &'static str {
    match name {
        "concat" => "a || b and array_concat(a, b) join lists, array_to_string(a, ', ') writes a list as a text",
        "concat_ws" => "array_to_string(a, ', ') joins the elements of a list",
        "left" | "right" | "substr" => "a[1:2] is a part of a list, a[-2:-1] its last elements",
        "lpad" | "rpad" => "array_resize(a, n, x) fills a list up",
        "strpos" | "find_in_set" => "array_position(a, x) is the place of an element",
        "repeat" => "array_repeat(a, n) has the list n times",
        "replace" => "array_replace_all(a, x, y) replaces elements",
        "character_length" | "octet_length" | "bit_length" => "cardinality(a) counts the entries of a list or a map",
        _ => "transform(a, x -> upper(x)) has it for each element, array_to_string(a, ', ') writes a list as a text",
    }
}
