//! DataFusion's optimizer, with a guard around five of its rules.
//!
//! `push_down_filter`: a filter stays above an aggregate that has a row even without input rows. DataFusion 55.2 pushes
//! a condition without columns (`HAVING (SELECT false)`, a LEFT JOIN's `ON false`, once its constants are computed)
//! below `SELECT count(*)`. The aggregate then counts no rows and answers 0 instead of nothing. DataFusion's physical
//! rule does it right. Only conditions without columns can pass an aggregate without groups at all, so that the guard
//! loses nothing.
//!
//! `eliminate_group_by_constant`: `GROUP BY CAST(d AS DOUBLE), d` stays as it is. DataFusion 55.2 wants to compute the
//! first from the second above the aggregate, calls both `d`, and fails. The rule is left out where it fails with that.
//!
//! `extract_equijoin_predicate`, `eliminate_cross_join`: a join in which NULLs are equal keeps its keys to itself. The
//! first rule makes one of `a.r IS NOT DISTINCT FROM b.r`. DataFusion 55.2 has one setting of NULLs for all keys of a
//! join. It adds `a.s = b.s` of a WHERE to them, or takes the keys into a join without the setting: then NULLs of s are
//! equal, or those of r are not.
//!
//! `simplify_expressions`: some expressions are spared (`spared`), and IN lists do not meet (`in_lists`). After the
//! rule a condition has its constants at the right (`1 < x` as `x > 1`). DataFusion 55.2 turns them before it computes
//! them (`DATE '2020-01-01' = d`), and not in a join. Beside `x = 1`, in a filter or pushed below a join, it takes
//! `1 = x` for contradictory, because the texts differ. It takes `x >= 1` for stricter than `1 < x`.
//!
//! `spared` and `in_lists` name reports. No report of the others is known (seen in 55.2). Take each out when its
//! `datafusion_alone_…` fails.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{NullEquality, Result};
use datafusion::logical_expr::{Aggregate, BinaryExpr, Expr, Filter, JoinType, LogicalPlan};
use datafusion::optimizer::optimizer::Optimizer;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// Names of DataFusion's rules.
const PUSH_DOWN_FILTER: &str = "push_down_filter";
const ELIMINATE_GROUPS: &str = "eliminate_group_by_constant";
const SIMPLIFY: &str = "simplify_expressions";
const EXTRACT_KEYS: &str = "extract_equijoin_predicate";
const ELIMINATE_CROSS: &str = "eliminate_cross_join";

/// Names of all rules that are guarded.
const GUARDED: [&str; 5] = [PUSH_DOWN_FILTER, ELIMINATE_GROUPS, SIMPLIFY, EXTRACT_KEYS, ELIMINATE_CROSS];

/// Words of the error with which `eliminate_group_by_constant` fails.
const REPEATED_NAME_ERROR: &str = "unique expression names";

/// Lists DataFusion's rules in their order, some of them guarded.
pub(super) fn rules() -> Vec<Rule> {
    let guarded = |rule: Rule| match GUARDED.contains(&rule.name()) {
        true => Arc::new(Guarded(rule)) as Rule,
        false => rule,
    };
    Optimizer::new().rules.into_iter().map(guarded).collect()
}

#[derive(Debug)]
struct Guarded(Rule);

impl OptimizerRule for Guarded {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match &plan {
            LogicalPlan::Filter(Filter { input, .. })
                if self.name() == PUSH_DOWN_FILTER && may_have_row_without_input(input) =>
            {
                Ok(Transformed::no(plan))
            }
            // The rule would find nothing to eliminate in columns.
            LogicalPlan::Aggregate(Aggregate { group_expr, .. })
                if self.name() == ELIMINATE_GROUPS && group_expr.iter().all(|by| matches!(by, Expr::Column(_))) =>
            {
                Ok(Transformed::no(plan))
            }
            LogicalPlan::Aggregate(_) if self.name() == ELIMINATE_GROUPS => {
                match self.0.rewrite(plan.clone(), config) {
                    Err(error) if error.to_string().contains(REPEATED_NAME_ERROR) => Ok(Transformed::no(plan)),
                    rewritten => rewritten,
                }
            }
            _ if self.name() == EXTRACT_KEYS && has_equal_nulls(&plan) => Ok(Transformed::no(plan)),
            // The rule goes through the whole plan by itself.
            _ if self.name() == ELIMINATE_CROSS && has_inner_of_equal_nulls(&plan)? => Ok(Transformed::no(plan)),
            _ if self.name() == SIMPLIFY => super::spared::spared(plan)?
                .transform_data(|plan| super::in_lists::simplified(self.0.as_ref(), plan, config))?
                .transform_data(constants_right),
            _ => self.0.rewrite(plan, config),
        }
    }
}

/// Puts the constants in the condition of a filter or a join at the right of each comparison.
fn constants_right(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if !matches!(plan, LogicalPlan::Filter(_) | LogicalPlan::Join(_)) {
        return Ok(Transformed::no(plan));
    }
    plan.map_expressions(|expr| {
        expr.transform_up(|expr| match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right })
                if matches!((&*left, &*right), (Expr::Literal(..), Expr::Column(_))) && op.swap().is_some() =>
            {
                let op = op.swap().unwrap_or(op);
                Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(right, op, left))))
            }
            other => Ok(Transformed::no(other)),
        })
    })
}

/// Tells if a plan is an aggregate that may have a row without input rows: it has no groups, or grouping sets.
fn may_have_row_without_input(plan: &LogicalPlan) -> bool {
    let LogicalPlan::Aggregate(Aggregate { group_expr, .. }) = plan else { return false };
    group_expr.is_empty() || matches!(group_expr.as_slice(), [Expr::GroupingSet(_)])
}

/// Tells if a plan is a join by keys of which NULLs are equal.
fn has_equal_nulls(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(join) if join.null_equality == NullEquality::NullEqualsNull && !join.on.is_empty())
}

fn has_inner_of_equal_nulls(plan: &LogicalPlan) -> Result<bool> {
    let mut any = false;
    plan.apply_with_subqueries(|plan| {
        any |= matches!(plan, LogicalPlan::Join(join) if join.join_type == JoinType::Inner) && has_equal_nulls(plan);
        Ok(if any { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(any)
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// A query that counts no rows, and then drops the count's row.
    const NONE: &str = "SELECT * FROM (SELECT count(*) AS c FROM (VALUES (1)) AS t(a)) AS t WHERE (SELECT false)";
    const CASTS: &str = "SELECT CAST(a AS DOUBLE) AS x, a AS y, count(*) FROM (VALUES (1)) AS t(a) GROUP BY 1, 2";

    /// Counts the rows of a query.
    async fn rows(rules: Vec<Rule>, sql: &str) -> Result<usize> {
        let state = SessionStateBuilder::new_with_default_features().with_optimizer_rules(rules).build();
        let context = SessionContext::new_with_state(state);
        let rows = context.sql(sql).await?.collect().await?;
        Ok(rows.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn a_condition_without_columns_stays_above_a_count() {
        assert_eq!(rows(rules(), NONE).await.expect("rows"), 0);
    }

    /// Fails when DataFusion is corrected. Then the guard can go, as after every test of this name.
    #[tokio::test]
    async fn datafusion_alone_pushes_a_condition_below_a_count() {
        assert_eq!(rows(Optimizer::new().rules, NONE).await.expect("rows"), 1);
    }

    #[tokio::test]
    async fn a_column_and_its_cast_are_grouped_by() {
        assert_eq!(rows(rules(), CASTS).await.expect("rows"), 1);
    }

    #[tokio::test]
    async fn datafusion_alone_fails_on_a_column_and_its_cast() {
        let failed = rows(Optimizer::new().rules, CASTS).await.expect_err("fails");
        assert!(failed.to_string().contains(REPEATED_NAME_ERROR), "{failed}");
    }

    /// Queries that have a row. A simplifier loses it if it lets lists meet, or takes `1 = x` for another value
    /// than `x = 1`.
    const LISTS: &str =
        "SELECT * FROM (VALUES (NULL), (1)) AS t(x) WHERE (x NOT IN (1, 2, 3, 4) OR x NOT IN (5, 6, 7, 8)) IS NULL";
    const TURNED: &str =
        "SELECT * FROM (SELECT * FROM (VALUES (1)) AS t(x) WHERE x = 1) AS t JOIN (VALUES (7)) AS u(y) ON 1 = t.x";

    #[tokio::test]
    async fn lists_do_not_meet() {
        assert_eq!(rows(rules(), LISTS).await.expect("rows"), 1);
    }

    #[tokio::test]
    async fn datafusion_alone_lets_lists_meet() {
        assert_eq!(rows(Optimizer::new().rules, LISTS).await.expect("rows"), 0);
    }

    #[tokio::test]
    async fn a_constant_is_the_same_on_either_side() {
        assert_eq!(rows(rules(), TURNED).await.expect("rows"), 1);
    }

    #[tokio::test]
    async fn datafusion_alone_takes_a_turned_constant_for_another() {
        assert_eq!(rows(Optimizer::new().rules, TURNED).await.expect("rows"), 0);
    }

    /// Queries with NULLs. The first has no row, since NULLs of s are not equal. The second has one, since those of
    /// r are.
    const KEYS: [&str; 2] = [
        "SELECT * FROM (VALUES (1, CAST(NULL AS INT))) AS a(r, s) JOIN (VALUES (1, CAST(NULL AS INT))) AS b(r, s) ON a.r IS NOT DISTINCT FROM b.r WHERE a.s = b.s",
        "SELECT * FROM (VALUES (1, CAST(NULL AS INT))) AS a(k, r) JOIN (VALUES (1, CAST(NULL AS INT))) AS b(k, r) ON a.r IS NOT DISTINCT FROM b.r \
         JOIN (VALUES (1)) AS c(k) ON c.k = a.k",
    ];

    #[tokio::test]
    async fn keys_of_equal_nulls_stay_apart() {
        let counts = [rows(rules(), KEYS[0]).await.expect("rows"), rows(rules(), KEYS[1]).await.expect("rows")];
        assert_eq!(counts, [0, 1]);
    }

    #[tokio::test]
    async fn datafusion_alone_mixes_keys_of_equal_nulls() {
        let rules = || Optimizer::new().rules;
        let counts = [rows(rules(), KEYS[0]).await.expect("rows"), rows(rules(), KEYS[1]).await.expect("rows")];
        assert_eq!(counts, [1, 0]);
    }

    /// The guard finds DataFusion's rules by their names.
    #[test]
    fn every_guarded_rule_is_one_of_datafusions() {
        let names: Vec<String> = Optimizer::new().rules.iter().map(|rule| rule.name().to_owned()).collect();
        assert!(GUARDED.iter().all(|name| names.iter().any(|known| known == name)));
    }
}
