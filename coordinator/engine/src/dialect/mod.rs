//! Meanings of SQL that DataFusion 55.2 does not have.
//!
//! ```text
//!  text ─► statement ─► using ─► DataFusion's planner ─► 1, 2, 3 ─► its analyzer ─► 4, 5, 6 ─► its optimizer
//! ```
//!
//! 1. `own_functions`: functions are those of [`gust_protocol::functions`], also where the planner brought its own.
//!    `lateral_unnest`: `CROSS JOIN UNNEST(t.list)` has the elements of each row's list. `lists_as_texts`: a list
//!    that a function would read as a text is refused. `times_as_numbers`: so is a time beside a number. `json_casts`: a cast of a
//!    column with JSON reads the text inside the quotes.
//! 2. `merged_keys`: the key of `JOIN … USING` is the merged one (marked by `using` before planning).
//! 3. `unions`: Iceberg's nested columns go into a UNION with others. `copies`: INTERSECT ALL and EXCEPT ALL count
//!    equal rows. `dates`: a date and hours are a point in time. `doubles`: DOUBLE and DECIMAL meet as DOUBLE.
//!    `time_units`: dates and constants get the unit of the points in time that they meet.
//! 4. `in_subquery`, `in_projection`: `IN` and `NOT IN` over a subquery are three-valued, also in a SELECT list.
//!    `partitions`: a window's computed PARTITION BY is computed below the window.
//! 5. `float_keys`: floats are grouped, joined, compared and ordered with one zero and one NaN. `correlated_casts`: a
//!    value that is computed and compared with an outer row is a column.
//! 6. `integers`: integer arithmetic fails where it overflows.
//!
//! `types` gives TIME microseconds while a statement is planned. The optimizer is `guarded`: a filter stays above an
//! aggregate that has a row even without input rows, IN lists do not meet (`in_lists`), and casts that lose something
//! stay (`spared`). After all of its rules `constants` refuses large constants that every row would get.
//!
//! A rule runs only if the plan has a part that it changes (`contents`), because each rule rebuilds the plan.
//!
//! Each rule is a pure rewrite of the plan. It keeps the columns' names. It keeps their types, too, unless they are its
//! point (`dates`, `doubles`). A second run changes nothing. Each has a test, in its file, `tests/tests/meaning.rs` or
//! `tests/cases/`. Non-goals: faster plans, and any other meaning than PostgreSQL's and DuckDB's.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{Analyzer, AnalyzerRule, OptimizerRule};

mod constants;
mod contents;
mod copies;
mod correlated_casts;
mod dates;
mod doubles;
mod float_keys;
mod guarded;
mod in_lists;
mod in_projection;
mod in_subquery;
mod integers;
mod json_casts;
mod lateral_unnest;
mod lists_as_texts;
mod merged_keys;
mod own_functions;
mod partitions;
mod spared;
mod time_units;
mod times_as_numbers;
mod types;
mod unions;
mod using;

use contents::Contents;
pub(crate) use types::Types;
pub(crate) use using::mark_merged_keys;

/// Lists DataFusion's rules and ours, in the order in which they run.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let before = Rules {
        name: "gust_before_types",
        rules: vec![
            NeededRule::new(|plan| plan.other_functions, own_functions::OwnFunctions),
            NeededRule::new(|plan| plan.unnests, lateral_unnest::LateralUnnest),
            NeededRule::new(|plan| plan.calls, lists_as_texts::ListsAsTexts),
            NeededRule::new(|plan| plan.json, json_casts::JsonCasts),
            NeededRule::new(|plan| plan.any_times, times_as_numbers::TimesAsNumbers),
            NeededRule::new(|plan| plan.merged_keys, merged_keys::MergedKeys),
            NeededRule::new(|plan| plan.unions, unions::UnmarkedUnions),
            NeededRule::new(|plan| plan.set_joins, copies::CountedCopies),
            NeededRule::new(|plan| plan.sums, dates::DatesAndHours),
            NeededRule::new(|plan| plan.floats && plan.decimals || plan.times, doubles::Doubles),
        ],
    };
    let after = Rules {
        name: "gust_after_types",
        rules: vec![
            NeededRule::new(|plan| plan.subqueries, in_subquery::InSubqueries),
            NeededRule::new(|plan| plan.windows, partitions::ComputedPartitions),
            NeededRule::new(|plan| plan.floats, float_keys::FloatKeys),
            NeededRule::new(|plan| plan.subqueries, correlated_casts::CorrelatedCasts),
            NeededRule::new(|plan| plan.arithmetic, integers::CheckedIntegers),
        ],
    };
    let [before, after] = [before, after].map(|rules| Arc::new(rules) as Arc<dyn AnalyzerRule + Send + Sync>);
    [before].into_iter().chain(Analyzer::new().rules).chain([after]).collect()
}

/// A rule, and a test that tells if it has anything to do.
#[derive(Debug)]
struct NeededRule {
    is_needed: fn(&Contents) -> bool,
    rule: Box<dyn AnalyzerRule + Send + Sync>,
}

impl NeededRule {
    fn new(is_needed: fn(&Contents) -> bool, rule: impl AnalyzerRule + Send + Sync + 'static) -> Self {
        Self { is_needed, rule: Box::new(rule) }
    }
}

/// Rules in their order. None of them makes work for a later one that had none.
#[derive(Debug)]
struct Rules {
    name: &'static str,
    rules: Vec<NeededRule>,
}

impl AnalyzerRule for Rules {
    fn name(&self) -> &str {
        self.name
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let contents = Contents::of(&plan)?;
        let mut needed = self.rules.iter().filter(|rule| (rule.is_needed)(&contents));
        needed.try_fold(plan, |plan, needed| needed.rule.analyze(plan, config))
    }
}

/// Lists DataFusion's rules, with guards around those that err, and ours after all of them.
pub(crate) fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let last: Arc<dyn OptimizerRule + Send + Sync> = Arc::new(constants::BoundedConstants);
    guarded::rules().into_iter().chain([last]).collect()
}

/// Rewrites a plan's own expressions, under the names that they had.
fn map_named(
    plan: LogicalPlan,
    mut rewrite: impl FnMut(Expr) -> Result<Transformed<Expr>>,
) -> Result<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&plan);
    let mapped = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(rewrite(expr)?.update_data(|expr| name.restore(expr)))
    })?;
    match mapped.transformed {
        true => mapped.map_data(LogicalPlan::recompute_schema),
        false => Ok(mapped),
    }
}
