//! Check of a plan's way: the plan is encoded and decoded again, and both plans are compared.
//!
//! datafusion-proto 55.2 loses some things silently: a Float16 literal becomes a Float32 literal. It cannot decode all that
//! it encodes either, such as types nested 32 levels deep. A list of its faults would be incomplete, so a plan is sent
//! only if it comes back equal. Compared are schemas, the operators' one-line displays, expressions with the types and
//! values of their literals, and functions by value.
//!
//! The settings that functions were planned with are not compared. Those that matter travel as
//! [`crate::StagePlan::options`].

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef, Schema};
use bytes::Bytes;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::datasource::physical_plan::ParquetSource;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::AggregateUDF;
use datafusion::logical_expr::physical_planning_context::ScalarSubqueryResults;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr, Literal};
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr::{HigherOrderFunctionExpr, ScalarFunctionExpr};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr, displayable};
use datafusion::prelude::SessionConfig;
use object_store::memory::InMemory;

use super::{decode_with, emptied, encode_emptied, encode_scalar, file_scan};
use crate::functions;

/// Phrase that names the reason why functions cannot run a plan.
pub type Obstacle = String;

/// Encodes a fragment's plan without its files and statistics, if the plan arrives as it is.
///
/// # Errors
/// The first difference between the plan and its decoded copy.
pub fn encode_checked(plan: &Arc<dyn ExecutionPlan>) -> Result<Bytes, Obstacle> {
    let plan = &emptied(plan).map_err(|error| brief(&error))?;
    let bytes =
        encode_emptied(Arc::clone(plan)).map_err(|error| format!("it cannot be encoded ({})", brief(&error)))?;
    let subqueries = subqueries(plan).map_err(|error| brief(&error))?;
    for data_type in subqueries.iter().filter(|data_type| !data_type.is_null()) {
        let sample = ScalarValue::new_default(data_type).map_err(|error| brief(&error))?;
        encode_scalar(&sample)
            .map_err(|_| format!("a subquery's value of type {data_type} does not arrive as it is"))?;
    }
    let context = context(plan);
    let received = decode_with(&bytes, &context, ScalarSubqueryResults::new(subqueries.len()))
        .map_err(|error| format!("it cannot be decoded again ({})", brief(&error)))?;
    same_plans(plan, &received).map(|()| bytes)
}

/// Returns true if an operator computes with a value of a type that does not arrive as it is, or scans files with such a type. One value of each
/// type stands for all, and `known` keeps which types arrive: this is much cheaper than [`encode_checked`].
pub fn loses_values(node: &Arc<dyn ExecutionPlan>, known: &mut HashMap<DataType, bool>) -> bool {
    let mut is_lost = |data_type: &DataType, sample: &dyn Fn() -> Result<ScalarValue>| {
        if let Some(arrives) = known.get(data_type) {
            return !arrives;
        }
        let arrives = sample().is_ok_and(|value| encode_scalar(&value).is_ok());
        known.insert(data_type.clone(), arrives);
        !arrives
    };
    let scanned = file_scan(node).map(|scan| Arc::clone(scan.file_schema()));
    let nested = scanned.iter().flat_map(|schema| schema.fields()).map(|field| field.data_type());
    if nested
        .filter(|data_type| data_type.is_nested())
        .any(|nested| is_lost(nested, &|| ScalarValue::try_new_null(nested)))
    {
        return true;
    }
    let mut loses = |expr: &Arc<dyn PhysicalExpr>| {
        if let Some(literal) = expr.downcast_ref::<Literal>() {
            let value = literal.value();
            // NULLs of all types arrive.
            return Ok(!value.is_null() && is_lost(&value.data_type(), &|| Ok(value.clone())));
        }
        let Some(subquery) = expr.downcast_ref::<ScalarSubqueryExpr>() else { return Ok(false) };
        let field = return_field(subquery)?;
        Ok(is_lost(field.data_type(), &|| ScalarValue::new_default(field.data_type())))
    };
    expressions(node).iter().any(|expr| expr.exists(&mut loses).unwrap_or(true))
}

/// Cuts a message to 200 characters: some messages hold whole plans.
fn brief(error: &DataFusionError) -> String {
    const CHARS_MAX: usize = 200;
    let text = error.strip_backtrace();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Lists the types of the scalar subqueries that a plan refers to, by position. A position without a reference has type NULL.
fn subqueries(plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<DataType>> {
    let mut types = Vec::new();
    plan.apply(|node| {
        node.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
            expr.apply(|expr| {
                if let Some(subquery) = expr.downcast_ref::<ScalarSubqueryExpr>() {
                    let index = position(subquery);
                    types.resize(types.len().max(index + 1), DataType::Null);
                    types[index] = return_field(subquery)?.data_type().clone();
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(types)
}

/// Makes the context in which a function decodes, with stores that hold nothing.
fn context(plan: &Arc<dyn ExecutionPlan>) -> TaskContext {
    type Known<F> = LazyLock<HashMap<String, Arc<F>>>;
    static SCALAR: Known<datafusion::logical_expr::ScalarUDF> =
        LazyLock::new(|| functions::scalar().into_iter().map(|f| (f.name().to_owned(), f)).collect());
    static HIGHER_ORDER: LazyLock<HashMap<String, Arc<datafusion::logical_expr::HigherOrderUDF>>> =
        LazyLock::new(|| functions::higher_order().into_iter().map(|f| (f.name().to_owned(), f)).collect());
    static AGGREGATE: Known<AggregateUDF> =
        LazyLock::new(|| functions::aggregate().into_iter().map(|f| (f.name().to_owned(), f)).collect());
    static WINDOW: Known<datafusion::logical_expr::WindowUDF> =
        LazyLock::new(|| functions::window().into_iter().map(|f| (f.name().to_owned(), f)).collect());
    let runtime = Arc::new(RuntimeEnv::default());
    for scan in super::scans(plan) {
        let url: &ObjectStoreUrl = &scan.object_store_url;
        runtime.register_object_store(url.as_ref(), Arc::new(InMemory::new()));
    }
    TaskContext::new(
        None,
        "check".to_owned(),
        SessionConfig::new(),
        SCALAR.clone(),
        HIGHER_ORDER.clone(),
        AGGREGATE.clone(),
        WINDOW.clone(),
        runtime,
    )
}

fn same_plans(sent: &Arc<dyn ExecutionPlan>, received: &Arc<dyn ExecutionPlan>) -> Result<(), Obstacle> {
    let mut metadata_is_read = false;
    sent.apply(|node| {
        metadata_is_read |= expressions(node).iter().any(reads_metadata);
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(|error| brief(&error))?;
    let mut open = vec![(sent, received)];
    while let Some((sent, received)) = open.pop() {
        let name = sent.name();
        if name != received.name() || sent.children().len() != received.children().len() {
            return Err(format!("{name} arrives as {}", received.name()));
        }
        same_expressions(name, &expressions(sent), &expressions(received))?;
        same_operators(sent, received)?;
        same_schemas(name, &sent.schema(), &received.schema(), metadata_is_read)?;
        open.extend(sent.children().into_iter().zip(received.children()));
    }
    Ok(())
}

/// Compares names, types and nullability of fields. datafusion-proto loses some of their metadata, which is compared
/// only where the plan reads metadata.
fn same_schemas(operator: &str, sent: &Schema, received: &Schema, metadata_is_read: bool) -> Result<(), Obstacle> {
    if sent == received {
        return Ok(());
    }
    if sent.fields().len() != received.fields().len() || (metadata_is_read && sent.metadata() != received.metadata()) {
        return Err(format!("the schema of {operator} changes on its way"));
    }
    for (sent, received) in sent.fields().iter().zip(received.fields()) {
        let (name, data_type) = (sent.name(), sent.data_type());
        if data_type != received.data_type() {
            return Err(format!(
                "column `{name}` of {operator} arrives as {} and not as {data_type}",
                received.data_type()
            ));
        }
        let same = name == received.name() && sent.is_nullable() == received.is_nullable();
        if !same || (metadata_is_read && sent.metadata() != received.metadata()) {
            return Err(format!("column `{name}` of {operator} changes on its way"));
        }
    }
    Ok(())
}

/// Functions that read the metadata of a field.
const METADATA_FUNCTIONS: [&str; 2] = ["arrow_metadata", "arrow_field"];

fn reads_metadata(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.exists(|expr| {
        let function = expr.downcast_ref::<ScalarFunctionExpr>();
        Ok(function.is_some_and(|function| METADATA_FUNCTIONS.contains(&function.name())))
    })
    .unwrap_or(true)
}

/// Compares the parts of operators besides schema and expressions.
fn same_operators(sent: &Arc<dyn ExecutionPlan>, received: &Arc<dyn ExecutionPlan>) -> Result<(), Obstacle> {
    let name = sent.name();
    let changed = |what: &str| Err(format!("{what} of {name} changes on its way"));
    if let (Some(sent), Some(received)) = (file_scan(sent), file_scan(received)) {
        let options = |scan: &datafusion::datasource::physical_plan::FileScanConfig| {
            let source = scan.file_source().downcast_ref::<ParquetSource>();
            source.map(|source| source.table_parquet_options().clone())
        };
        let same = sent.file_schema() == received.file_schema()
            && sent.table_partition_cols() == received.table_partition_cols()
            && sent.limit == received.limit
            && sent.object_store_url == received.object_store_url
            && options(sent) == options(received);
        return if same { Ok(()) } else { changed("an option") };
    }
    if displayable(sent.as_ref()).one_line().to_string() != displayable(received.as_ref()).one_line().to_string() {
        return changed("an option");
    }
    if sent.fetch() != received.fetch() {
        return changed("the limit");
    }
    if let (Some(sent), Some(received)) =
        (sent.downcast_ref::<AggregateExec>(), received.downcast_ref::<AggregateExec>())
    {
        let grouped = |plan: &AggregateExec| (plan.group_expr().groups().to_vec(), plan.limit_options());
        if grouped(sent) != grouped(received) || sent.aggr_expr().len() != received.aggr_expr().len() {
            return changed("the grouping");
        }
        for (sent, received) in sent.aggr_expr().iter().zip(received.aggr_expr()) {
            let orders = |f: &datafusion::physical_expr::aggregate::AggregateFunctionExpr| -> Vec<_> {
                f.order_bys().iter().map(|by| by.options).collect()
            };
            let same = unordered(sent.fun()) == unordered(received.fun())
                && sent.name() == received.name()
                && sent.field() == received.field()
                && sent.is_distinct() == received.is_distinct()
                && sent.ignore_nulls() == received.ignore_nulls()
                && sent.is_reversed() == received.is_reversed()
                && orders(sent) == orders(received);
            if !same {
                return Err(format!("aggregate `{}` changes on its way", sent.name()));
            }
        }
    }
    if let (Some(sent), Some(received)) = (sent.downcast_ref::<HashJoinExec>(), received.downcast_ref::<HashJoinExec>())
    {
        let filter = |join: &HashJoinExec| {
            join.filter().map(|filter| (filter.column_indices().to_vec(), Arc::clone(filter.schema())))
        };
        let same = sent.null_equality() == received.null_equality()
            && sent.null_aware == received.null_aware
            && sent.projection == received.projection;
        let (Some((sent_from, sent_over)), Some((received_from, received_over))) = (filter(sent), filter(received))
        else {
            let same = same && sent.filter().is_some() == received.filter().is_some();
            return if same { Ok(()) } else { changed("an option") };
        };
        if !same || sent_from != received_from {
            return changed("an option");
        }
        return same_schemas("a join's condition", &sent_over, &received_over, false);
    }
    if let (Some(sent), Some(received)) = (sent.downcast_ref::<UnnestExec>(), received.downcast_ref::<UnnestExec>()) {
        let same = sent.list_column_indices() == received.list_column_indices()
            && sent.struct_column_indices() == received.struct_column_indices()
            && sent.options() == received.options();
        return if same { Ok(()) } else { changed("an option") };
    }
    Ok(())
}

/// Makes the function for an input without order. An order only saves it work, and datafusion-proto forgets the order.
fn unordered(function: &AggregateUDF) -> AggregateUDF {
    let without = function.clone().with_beneficial_ordering(false);
    without.ok().flatten().unwrap_or_else(|| function.clone())
}

fn expressions(plan: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn PhysicalExpr>> {
    let mut found = Vec::new();
    let visited = plan.apply_expressions(&mut |expr| {
        found.push(Arc::clone(expr));
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
    found
}

/// Compares expressions without recursion: expressions may be deep.
fn same_expressions(
    operator: &str,
    sent: &[Arc<dyn PhysicalExpr>],
    received: &[Arc<dyn PhysicalExpr>],
) -> Result<(), Obstacle> {
    if sent.len() != received.len() {
        return Err(format!("{operator} has {} expressions, {} arrive", sent.len(), received.len()));
    }
    let mut open: Vec<_> = sent.iter().zip(received).collect();
    while let Some((sent, received)) = open.pop() {
        let (below, below_received) = (sent.children(), received.children());
        if below.len() != below_received.len() || !same_node(sent, received) {
            return Err(format!("{} arrives as {}", describe(sent), describe(received)));
        }
        open.extend(below.into_iter().zip(below_received));
    }
    Ok(())
}

/// Returns the subquery's field, which does not depend on the input.
fn return_field(subquery: &ScalarSubqueryExpr) -> Result<FieldRef> {
    subquery.return_field(&Schema::empty())
}

#[expect(deprecated, reason = "55.2 has no other way to tell which subquery it is")]
fn position(subquery: &ScalarSubqueryExpr) -> usize {
    subquery.index().as_usize()
}

/// Compares two expressions without their children.
fn same_node(sent: &Arc<dyn PhysicalExpr>, received: &Arc<dyn PhysicalExpr>) -> bool {
    if (sent.as_ref() as &dyn Any).type_id() != (received.as_ref() as &dyn Any).type_id() {
        return false;
    }
    // Both filters are filled where they run.
    if sent.is::<DynamicFilterPhysicalExpr>() {
        return true;
    }
    if let (Some(sent), Some(received)) =
        (sent.downcast_ref::<ScalarSubqueryExpr>(), received.downcast_ref::<ScalarSubqueryExpr>())
    {
        return position(sent) == position(received) && return_field(sent).ok() == return_field(received).ok();
    }
    // Equality of function expressions would compare their settings, too.
    if let (Some(sent), Some(received)) =
        (sent.downcast_ref::<ScalarFunctionExpr>(), received.downcast_ref::<ScalarFunctionExpr>())
    {
        return sent.fun() == received.fun()
            && sent.name() == received.name()
            && sent.return_type() == received.return_type()
            && sent.nullable() == received.nullable();
    }
    if let (Some(sent), Some(received)) =
        (sent.downcast_ref::<HigherOrderFunctionExpr>(), received.downcast_ref::<HigherOrderFunctionExpr>())
    {
        return sent.fun() == received.fun()
            && sent.name() == received.name()
            && sent.return_type() == received.return_type();
    }
    let count = sent.children().len();
    if count == 0 {
        return sent.eq(received);
    }
    let leaves = || -> Vec<Arc<dyn PhysicalExpr>> { (0..count).map(|i| Arc::new(Column::new("", i)) as _).collect() };
    let alone = |expr: &Arc<dyn PhysicalExpr>| Arc::clone(expr).with_new_children(leaves());
    match (alone(sent), alone(received)) {
        (Ok(sent), Ok(received)) => sent.eq(&received),
        _ => sent.eq(received),
    }
}

/// Writes an expression for a message. A literal has its type beside it.
fn describe(expr: &Arc<dyn PhysicalExpr>) -> String {
    match expr.downcast_ref::<Literal>() {
        Some(literal) => format!("literal {literal} of type {}", literal.value().data_type()),
        None => format!("`{expr}`"),
    }
}

#[cfg(test)]
mod tests;
