//! Pass 2, before [`super::broadcast`]: joins are marked of Iceberg tables whose files are parted by the joins' keys in the same way. Functions do them partition by partition, and
//! send one another nothing.
//!
//! ```text
//!  join                            join                                           one stage: each fragment has some of the
//!    ├─► exchange by hash ─► scan    ├─► AlignedExec ─► exchange by hash ─► scan    partition values, of all scans, and
//!    └─► exchange by hash ─► scan    └─► AlignedExec ─► exchange by hash ─► scan    needs no exchange
//! ```
//!
//! DataFusion asks of an exchange by hash that rows of equal keys have the same partition, whatever the function from keys to partitions is. Values of
//! partition fields are such a function, if it is the same for all scans that meet: the same transforms, of keys at the same position and of the same type, in
//! all files of all scans. So operators are right over marks that are right over exchanges ([`super::shuffle`]), and NULL, whose transform is NULL, is a
//! key like others.

mod layout;
mod mark;
mod packing;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, JoinOnRef, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, PhysicalExpr, replace_children_if_necessary};

use super::shuffle::{is_key_local, keeps_order, takes_any};
use crate::config::AlignedPlace;
use crate::tables::facts::PartField;
use layout::{Side, common_fields, is_one_scan, scan_of, through, words};

pub use layout::{GroupKey, group_keys};
pub use mark::{AlignedExec, aligned_scans, without_marks};
pub(super) use packing::AlignedFiles;

/// Rule that has both sides of joins parted by their keys, where the files of both already are. It comes last of the rules for joins.
#[derive(Debug)]
pub struct AlignJoins(pub AlignedPlace);

impl PhysicalOptimizerRule for AlignJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if self.0 == AlignedPlace::Local {
            return Ok(plan);
        }
        plan.transform_up(|node| match node.downcast_ref::<HashJoinExec>() {
            Some(join) if *join.partition_mode() != PartitionMode::Partitioned && may_align(join) => {
                Ok(Transformed::yes(join.builder().with_partition_mode(PartitionMode::Partitioned).build_exec()?))
            }
            _ => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "align_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Returns true for a join that may become a part of an aligned stage, before there are exchanges.
fn may_align(join: &HashJoinExec) -> bool {
    fn may_stand_below(plan: &Arc<dyn ExecutionPlan>) -> bool {
        match plan.downcast_ref::<HashJoinExec>() {
            Some(join) => {
                *join.partition_mode() == PartitionMode::Partitioned
                    && may_stand_below(join.left())
                    && may_stand_below(join.right())
            }
            None => is_one_scan(plan) || through(plan).is_some_and(may_stand_below),
        }
    }
    let sides = sides(join.on(), join.left(), join.right());
    !join.null_aware && sides.iter().all(|side| may_stand_below(&side.plan)) && common_fields(&sides).is_ok()
}

/// Returns the sides of a join with their keys, without the exchanges and sorts below it.
fn sides(on: JoinOnRef<'_>, left: &Arc<dyn ExecutionPlan>, right: &Arc<dyn ExecutionPlan>) -> [Side; 2] {
    let (left_keys, right_keys): (Vec<_>, Vec<_>) = on.iter().cloned().unzip();
    let side = |plan: &Arc<dyn ExecutionPlan>, keys: Vec<Arc<dyn PhysicalExpr>>| {
        let mut plan = plan;
        let is_passed = |plan: &Arc<dyn ExecutionPlan>| {
            plan.is::<RepartitionExec>() || plan.is::<CoalescePartitionsExec>() || plan.is::<SortExec>()
        };
        while is_passed(plan) && plan.fetch().is_none() {
            let [below] = plan.children()[..] else { break };
            plan = below;
        }
        Side { plan: Arc::clone(plan), keys }
    };
    [side(left, left_keys), side(right, right_keys)]
}

/// A plan with its marks.
#[derive(Debug)]
pub struct Aligned {
    pub plan: Arc<dyn ExecutionPlan>,
    /// Reasons of joins not to be aligned.
    pub kept: Vec<String>,
}

/// Marks the scans of aligned joins.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt.
pub fn aligned(plan: &Arc<dyn ExecutionPlan>, place: AlignedPlace) -> Result<Aligned> {
    if place == AlignedPlace::Local {
        return Ok(Aligned { plan: Arc::clone(plan), kept: Vec::new() });
    }
    let plan = match stage(plan)? {
        Some(stage) => stage,
        None => below(plan)?,
    };
    let mut kept = Vec::new();
    note_kept(&plan, &mut kept);
    kept.dedup();
    Ok(Aligned { plan, kept })
}

/// Returns true if all leaves of a plan are marks, and every operator above them is local to a key's partition.
pub(super) fn is_aligned(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let children = plan.children();
    plan.is::<AlignedExec>() || (!children.is_empty() && is_key_local(plan) && children.into_iter().all(is_aligned))
}

/// Marks what lies below an operator that stays on the coordinator.
fn below(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let takes_any = takes_any(plan);
    let mut children = Vec::new();
    for child in plan.children() {
        let stage = if takes_any { stage(child)? } else { None };
        children.push(match stage {
            Some(stage) => stage,
            None => below(child)?,
        });
    }
    match children.is_empty() {
        true => Ok(Arc::clone(plan)),
        false => replace_children_if_necessary(Arc::clone(plan), children),
    }
}

/// Returns a plan with its marks, if it has a join and all of it can be one stage over aligned scans.
fn stage(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let mut sides = Vec::new();
    if !are_keyed(plan, &mut sides) || sides.len() < 2 {
        return Ok(None);
    }
    let Ok(fields) = common_fields(&sides) else { return Ok(None) };
    let mut values = BTreeSet::new();
    for (side, fields) in sides.iter().zip(&fields) {
        let Some(scan) = scan_of(&side.plan) else { return Ok(None) };
        values.extend(group_keys(scan, fields)?);
    }
    let told = told(&sides, &fields, values.len());
    let mut fields = fields.into_iter();
    let marked = |node: Arc<dyn ExecutionPlan>| {
        if !node.is::<RepartitionExec>() {
            return Ok(Transformed::no(node));
        }
        let Some(fields) = fields.next() else { return internal_err!("an exchange has no fields") };
        let mark: Arc<dyn ExecutionPlan> = Arc::new(AlignedExec::new(node, fields, Arc::clone(&told)));
        Ok(Transformed::new(mark, true, TreeNodeRecursion::Jump))
    };
    Arc::clone(plan).transform_down(marked).data().map(Some)
}

/// Collects the sides of the exchanges under a plan, all over one scan each. Returns false where something else is there.
fn are_keyed(plan: &Arc<dyn ExecutionPlan>, found: &mut Vec<Side>) -> bool {
    if let Some(exchange) = plan.downcast_ref::<RepartitionExec>() {
        let Partitioning::Hash(keys, _) = exchange.partitioning() else { return false };
        found.push(Side { plan: Arc::clone(exchange.input()), keys: keys.clone() });
        return !keeps_order(exchange) && is_one_scan(exchange.input());
    }
    let children = plan.children();
    !children.is_empty() && is_key_local(plan) && children.into_iter().all(|child| are_keyed(child, found))
}

/// Writes what the files are parted by.
fn told(sides: &[Side], fields: &[Arc<[PartField]>], values: usize) -> Arc<str> {
    let side = |(side, fields): (&Side, &Arc<[PartField]>)| {
        let scan = scan_of(&side.plan)?;
        Some(fields.iter().map(|field| words(field, scan)).collect::<Vec<_>>().join(", "))
    };
    let sides: Vec<String> = sides.iter().zip(fields).filter_map(side).collect();
    format!("by {}; {values} values", sides.join(" = ")).into()
}

/// Notes the joins that are not aligned.
fn note_kept(plan: &Arc<dyn ExecutionPlan>, kept: &mut Vec<String>) {
    if is_aligned(plan) {
        return;
    }
    let hash = plan.downcast_ref::<HashJoinExec>().map(|join| sides(join.on(), join.left(), join.right()));
    let sorted = || plan.downcast_ref::<SortMergeJoinExec>().map(|join| sides(join.on(), join.left(), join.right()));
    if let Some(sides) = hash.or_else(sorted) {
        let keys = |side: &Side| side.keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let is_null_aware = plan.downcast_ref::<HashJoinExec>().is_some_and(|join| join.null_aware);
        let why = match sides.iter().all(|side| is_one_scan(&side.plan)) {
            _ if is_null_aware => Some("a NULL of NOT IN decides about the rows of all partitions".to_owned()),
            true => common_fields(&sides).err(),
            false => Some("a side is more than one scan of Parquet with filters and columns".to_owned()),
        };
        let why = why.unwrap_or_else(|| "operators beside it need rows of other partitions".to_owned());
        kept.push(format!("of [{}] = [{}]: {why}", keys(&sides[0]), keys(&sides[1])));
    }
    plan.children().into_iter().for_each(|child| note_kept(child, kept));
}
