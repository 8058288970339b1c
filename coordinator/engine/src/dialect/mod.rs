//! What SQL means, where DataFusion 55.2 means something else.
//!
//! ```text
//!  text ─► statement ─► using ─► DataFusion's planner ─► 1, 2, 3 ─► its analyzer ─► 4, 5, 6 ─► its optimizer
//! ```
//!
//! 1. `own_functions`: functions are those of [`gust_protocol::functions`], also where the planner brought its own.
//! 2. `merged_keys`: the key of `JOIN … USING` is the merged one (marked by `using` before planning).
//! 3. `unions`, `copies`, `doubles`: nested columns of Iceberg's in a UNION with others; INTERSECT ALL and EXCEPT ALL count equal rows;
//!    DOUBLE and DECIMAL meet as DOUBLE; `dates`: a date and hours are a point in time;
//!    `time_units`: what meets points in time has their unit.
//! 4. `in_subquery`, `in_projection`: `IN` and `NOT IN` over a subquery are three-valued, also in a SELECT list.
//!    `partitions`: what a window partitions by is computed below it.
//! 5. `float_keys`: one zero and one NaN where floats are grouped, joined, compared and ordered.
//!    `correlated_casts`: what is computed and compared with an outer row is a column.
//! 6. `integers`: integer arithmetic fails where it overflows.
//!
//! While a statement is planned `types` has TIME be of microseconds. The optimizer is `guarded`: a filter stays above an aggregate
//! that has a row of no rows, IN lists do not meet (`in_lists`), and casts that lose
//! something stay (`spared`). After all of its rules `constants` refuses large ones that every row would get.
//!
//! A rule runs where the plan has something that it is about (`contents`): nothing else is rebuilt.
//!
//! Each rule is a pure rewrite of the plan that keeps the columns' names, and types but where they are its point (`dates`, `doubles`);
//! one that has run changes nothing when it runs again. Each has a test, in its file, `tests/tests/meaning.rs` or `tests/cases/`.
//! Non-goals: making plans faster; meaning anything else than PostgreSQL and DuckDB do.

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
mod merged_keys;
mod own_functions;
mod partitions;
mod spared;
mod time_units;
mod types;
mod unions;
mod using;

use contents::Contents;
pub(crate) use types::Types;
pub(crate) use using::mark_merged_keys;

/// DataFusion's rules and ours, in the order in which they run.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let before = Rules {
        name: "gust_before_types",
        rules: vec![
            (|plan| plan.other_functions, Box::new(own_functions::OwnFunctions)),
            (|plan| plan.merged_keys, Box::new(merged_keys::MergedKeys)),
            (|plan| plan.unions, Box::new(unions::UnmarkedUnions)),
            (|plan| plan.set_joins, Box::new(copies::CountedCopies)),
            (|plan| plan.sums, Box::new(dates::DatesAndHours)),
            (|plan| plan.floats && plan.decimals || plan.times, Box::new(doubles::Doubles)),
        ],
    };
    let after = Rules {
        name: "gust_after_types",
        rules: vec![
            (|plan| plan.subqueries, Box::new(in_subquery::InSubqueries)),
            (|plan| plan.windows, Box::new(partitions::ComputedPartitions)),
            (|plan| plan.floats, Box::new(float_keys::FloatKeys)),
            (|plan| plan.subqueries, Box::new(correlated_casts::CorrelatedCasts)),
            (|plan| plan.arithmetic, Box::new(integers::CheckedIntegers)),
        ],
    };
    let [before, after] = [before, after].map(|rules| Arc::new(rules) as Arc<dyn AnalyzerRule + Send + Sync>);
    [before].into_iter().chain(Analyzer::new().rules).chain([after]).collect()
}

/// A rule, and whether it has anything to do.
type Rule = (fn(&Contents) -> bool, Box<dyn AnalyzerRule + Send + Sync>);

/// Rules in their order, of which none makes work for a later one that had none.
#[derive(Debug)]
struct Rules {
    name: &'static str,
    rules: Vec<Rule>,
}

impl AnalyzerRule for Rules {
    fn name(&self) -> &str {
        self.name
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> Result<LogicalPlan> {
        let contents = Contents::of(&plan)?;
        let needed = self.rules.iter().filter(|(is_needed, _)| is_needed(&contents));
        needed.map(|(_, rule)| rule).try_fold(plan, |plan, rule| rule.analyze(plan, config))
    }
}

/// DataFusion's optimizer with what it gets wrong guarded, and our rule after all of its.
pub(crate) fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let last: Arc<dyn OptimizerRule + Send + Sync> = Arc::new(constants::BoundedConstants);
    guarded::rules().into_iter().chain([last]).collect()
}

/// `plan` with its own expressions rewritten under the names that they had.
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
