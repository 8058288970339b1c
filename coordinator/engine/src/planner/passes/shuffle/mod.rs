//! Pass 4: exchanges by hash are marked whose both sides are functions: rows of equal keys meet in one function of another stage.
//!
//! ```text
//!  final aggregate                final aggregate          one stage of functions, each with some of the partitions
//!    └─► exchange by hash   ─►      └─► ShuffleExec        rows in the exchange, by partition
//!          └─► fragment                   └─► exchange by hash ─► fragment     another stage; the exchange says how its rows are parted
//! ```
//!
//! An operator over marks needs no rows but those of its own partition, as DataFusion planned it: the marks below one stage have one number of partitions, and
//! each fragment has the same partitions of all of them. The stage ends below an operator that asks nothing of its partitions.
//!
//! Where each of many functions would ask each of many others, a stage without operators stands between them. It has few functions, each of which makes one object of
//! a run of partitions of all objects. Whether it runs is known when the objects are there (`exec/shuffle`).
//!
//! Where the build side of a join turns out to be small, another stage takes the place of the join's ([`copies`]).
//!
//! Sorts without a limit have exchanges, too, by ranges of their first key ([`mod@ranges`]).

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ExecutionPlan, Partitioning, PhysicalExpr, replace_children_if_necessary};

use super::aligned::AlignedExec;
use super::broadcast::{Joins, broadcasts, may_be_fragment};
use super::cut::{has_row_over_none, is_fragment, is_partition_local};
use super::facts::Facts;
use super::pack::PARTITIONS_MAX;
use crate::config::{AlignedPlace, BuildFirst, JoinPlace, ShufflePlace, SortPlace};
use crate::model::FunctionSize;
use crate::planner::loads::results::compressed;
use choice::{Choice, choice, joins_large_sides};
use ranges::ranged;

mod bounds;
mod choice;
mod copies;
mod in_order;
mod mark;
mod ranges;

pub use copies::{build_sides, with_copies};
pub use in_order::InOrderExec;
pub use mark::{InPlaceOfShuffle, ShuffleExec, shuffles, with_shuffles};

/// Rule of the exchanges between functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shuffles {
    /// Place of the operators that need all rows of a key.
    pub place: ShufflePlace,
    /// Place of sorts without a limit.
    pub sort: SortPlace,
    /// Partitions of every exchange. None where they are chosen.
    pub partitions: Option<usize>,
    /// Least bytes in memory of the rows that `auto` has functions send to one another.
    pub bytes_min: u64,
    /// Most reads between two stages; beyond it functions between them combine objects.
    pub reads_max: u64,
    /// True if there are functions enough for more reads.
    pub may_combine: bool,
    /// Joins whose build side is run before the other one.
    pub build_first: BuildFirst,
}

impl Shuffles {
    /// Rule by which there are none.
    pub const NONE: Self = Self {
        place: ShufflePlace::Local,
        sort: SortPlace::Local,
        partitions: None,
        bytes_min: 0,
        reads_max: u64::MAX,
        may_combine: false,
        build_first: BuildFirst::Auto,
    };

    /// Returns the rule for functions of these sizes.
    #[must_use]
    pub fn among(self, sizes: &[FunctionSize]) -> Self {
        let partitions = self.partitions.unwrap_or(PARTITIONS_MAX);
        let reads = |size: &FunctionSize| {
            let lanes = size.functions_max.saturating_mul(size.lanes).min(partitions);
            size.functions_max.saturating_mul(lanes) as u64
        };
        Self { may_combine: sizes.iter().any(|size| reads(size) > self.reads_max), ..self }
    }

    /// Decides on a stage over exchanges, with the reason.
    fn choice(&self, stage: &Arc<dyn ExecutionPlan>) -> Choice {
        match self.place {
            ShufflePlace::Auto => choice(stage, self.bytes_min),
            ShufflePlace::Hash => Ok("a setting asks for it".to_owned()),
            ShufflePlace::Local => Err("a setting asks for it".to_owned()),
        }
    }
}

/// Rules of the operators that functions do beside scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageRules {
    pub joins: Joins,
    pub aligned: AlignedPlace,
    pub shuffles: Shuffles,
    pub facts: Facts,
}

impl StageRules {
    /// Rules by which functions only scan.
    pub const SCANS: Self =
        Self { joins: Joins::LOCAL, aligned: AlignedPlace::Local, shuffles: Shuffles::NONE, facts: Facts::NONE };

    /// Returns the rules by which functions only scan, where the settings leave it open whether they do more. None where a setting asks for more, or for no more.
    pub fn only_scans(self) -> Option<Self> {
        let (joins, Shuffles { place, sort, .. }) = (self.joins.place, self.shuffles);
        let asks_for_more = joins == JoinPlace::Broadcast
            || place == ShufflePlace::Hash
            || sort == SortPlace::Ranges
            || self.aligned == AlignedPlace::Functions;
        let is_open = joins == JoinPlace::Auto || place == ShufflePlace::Auto || sort == SortPlace::Auto;
        (is_open && !asks_for_more).then_some(Self { facts: self.facts, ..Self::SCANS })
    }

    /// Returns true if functions may do a part of operators that take so many encoded bytes.
    pub fn may_move(&self, bytes: u64) -> bool {
        let Shuffles { place, sort, bytes_min, .. } = self.shuffles;
        let of_joins = match self.joins.place {
            JoinPlace::Local => None,
            JoinPlace::Broadcast => Some(1),
            JoinPlace::Auto => Some(compressed(self.joins.probe_bytes_min)),
        };
        let of_shuffles = match place {
            ShufflePlace::Local => None,
            ShufflePlace::Hash => Some(1),
            ShufflePlace::Auto => Some(compressed(bytes_min)),
        };
        let of_sorts = match sort {
            SortPlace::Local => None,
            SortPlace::Ranges => Some(1),
            SortPlace::Auto => Some(compressed(bytes_min)),
        };
        let of_aligned = (self.aligned == AlignedPlace::Functions).then_some(1);
        let least = [of_joins, of_shuffles, of_sorts, of_aligned].into_iter().flatten().min();
        least.is_some_and(|least| bytes >= least.max(1))
    }
}

/// Rule that has both sides of joins parted by their keys, before exchanges are put under joins. Joins stay as they are that functions do with copies of a
/// build side, and those that need one place: `NOT IN` over NULLs, and joins without an equality.
#[derive(Debug)]
pub struct PartitionJoins(pub StageRules);

impl PhysicalOptimizerRule for PartitionJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if self.0.shuffles.place == ShufflePlace::Local {
            return Ok(plan);
        }
        plan.transform_up(|node| match node.downcast_ref::<HashJoinExec>() {
            Some(join) if is_parted(join, self.0) => {
                Ok(Transformed::yes(join.builder().with_partition_mode(PartitionMode::Partitioned).build_exec()?))
            }
            _ => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "partition_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Returns true for a join of two sides that are to be parted by its keys.
fn is_parted(join: &HashJoinExec, StageRules { joins, shuffles, .. }: StageRules) -> bool {
    let is_broadcast = || may_be_fragment(join.right()) && joins.takes(join);
    let is_worth_it = || shuffles.place != ShufflePlace::Auto || joins_large_sides(join, shuffles.bytes_min);
    *join.partition_mode() == PartitionMode::CollectLeft
        && !join.null_aware
        && !join.on().is_empty()
        && !is_broadcast()
        && is_worth_it()
}

/// A plan with its marks.
#[derive(Debug)]
pub struct Shuffled {
    pub plan: Arc<dyn ExecutionPlan>,
    /// Reasons of exchanges to stay on the coordinator.
    pub kept: Vec<String>,
}

/// Marks the exchanges between functions.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt.
pub fn shuffled(plan: &Arc<dyn ExecutionPlan>, shuffles: Shuffles) -> Result<Shuffled> {
    let mut marking = Marking { shuffles, kept: Vec::new() };
    let mut plan = Arc::clone(plan);
    if shuffles.place != ShufflePlace::Local {
        plan = match marking.stage(&plan)? {
            Some(stage) => stage,
            None => marking.below(&plan)?,
        };
        note_kept(&plan, shuffles.place, &mut marking.kept);
    }
    let Marking { mut kept, .. } = marking;
    if shuffles.sort != SortPlace::Local {
        plan = ranged(&plan, shuffles, &mut kept)?;
    }
    kept.dedup();
    Ok(Shuffled { plan, kept })
}

/// Notes the exchanges that have no functions at both sides, unless a choice has told it. Those of aligned joins are not needed.
fn note_kept(plan: &Arc<dyn ExecutionPlan>, place: ShufflePlace, kept: &mut Vec<String>) {
    if plan.is::<ShuffleExec>() || plan.is::<AlignedExec>() {
        return;
    }
    if let Some(exchange) = plan.downcast_ref::<RepartitionExec>()
        && let Partitioning::Hash(keys, _) = exchange.partitioning()
    {
        let above =
            || (place == ShufflePlace::Hash).then(|| "an operator above it stays on the coordinator".to_owned());
        let why = why_kept(exchange).or_else(above);
        kept.extend(why.map(|why| format!("by hash of [{}]: {why}", keys_text(keys))));
    }
    plan.children().into_iter().for_each(|child| note_kept(child, place, kept));
}

/// Returns the reason why an exchange has no functions at both sides. None where it may have them.
fn why_kept(exchange: &RepartitionExec) -> Option<String> {
    if keeps_order(exchange) {
        return Some("its rows keep an order".to_owned());
    }
    why_not_sent(&exchange.schema()).or_else(|| why_stays(exchange.input()))
}

/// Returns the reason why functions do not have all of a plan.
fn why_stays(plan: &Arc<dyn ExecutionPlan>) -> Option<String> {
    let mut input = plan;
    while !is_fragment(input) && !is_keyed(input) {
        match input.children().as_slice() {
            [below] if is_key_local(input) => input = below,
            _ => return Some(format!("{} below it stays on the coordinator", input.name())),
        }
    }
    None
}

/// Returns the reason why rows do not go from functions to functions because of their columns.
fn why_not_sent(schema: &Schema) -> Option<String> {
    let is_shared = schema.fields().iter().any(|field| shares_values(field.data_type()));
    is_shared.then(|| "a column has a dictionary, or lists or structs of texts".to_owned())
}

/// Returns true if an operator takes rows from any partition. Others may want those of a key in one, which fragments do not keep together.
pub(super) fn takes_any(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<CoalescePartitionsExec>()
        || plan.is::<SortPreservingMergeExec>()
        || plan.is::<RepartitionExec>()
        || plan.is::<UnionExec>()
}

/// Returns true if an exchange keeps an order. It merges then, and the plan above relies on it.
pub(super) fn keeps_order(exchange: &RepartitionExec) -> bool {
    exchange.preserve_order() || exchange.properties().output_ordering().is_some()
}

fn keys_text(keys: &[Arc<dyn PhysicalExpr>]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Marking of one plan.
struct Marking {
    shuffles: Shuffles,
    kept: Vec<String>,
}

impl Marking {
    /// Returns a plan with its marks, if all of it can be one stage over exchanges and that is worth it.
    fn stage(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(stage) = keyed(plan, self.shuffles)? else { return Ok(None) };
        match self.shuffles.choice(plan) {
            Ok(reason) => because(stage, &reason.into()).map(Some),
            Err(why) => {
                let keys = shuffles(&stage).iter().map(|mark| format!("[{}]", mark.keys())).collect::<Vec<_>>();
                self.kept.push(format!("by hash of {}: {why}", keys.join(" and ")));
                Ok(None)
            }
        }
    }

    /// Marks what lies below an operator that stays on the coordinator.
    fn below(&mut self, plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let takes_any = takes_any(plan);
        let mut children = Vec::new();
        for child in plan.children() {
            let stage = if takes_any { self.stage(child)? } else { None };
            children.push(match stage {
                Some(stage) => stage,
                None => self.below(child)?,
            });
        }
        match children.is_empty() {
            true => Ok(Arc::clone(plan)),
            false => replace_children_if_necessary(Arc::clone(plan), children),
        }
    }
}

/// Gives all marks of a plan their reason.
fn because(plan: Arc<dyn ExecutionPlan>, reason: &Arc<str>) -> Result<Arc<dyn ExecutionPlan>> {
    let give = |node: Arc<dyn ExecutionPlan>| match node.downcast_ref::<ShuffleExec>() {
        Some(mark) => Ok(Transformed::yes(Arc::new(mark.because(reason)) as _)),
        None => Ok(Transformed::no(node)),
    };
    plan.transform_down(give).data()
}

/// Returns a plan with its marks, if all of it can be one stage over exchanges.
fn keyed(plan: &Arc<dyn ExecutionPlan>, rule: Shuffles) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(exchange) = plan.downcast_ref::<RepartitionExec>() {
        let is_hash = matches!(exchange.partitioning(), Partitioning::Hash(..));
        if !is_hash || keeps_order(exchange) || why_not_sent(&plan.schema()).is_some() {
            return Ok(None);
        }
        let Some(input) = producer(exchange.input(), rule)? else { return Ok(None) };
        let exchange = replace_children_if_necessary(Arc::clone(plan), vec![input])?;
        let mark = ShuffleExec::new(exchange);
        return Ok(Some(Arc::new(if rule.may_combine { mark.combined()? } else { mark })));
    }
    if !is_key_local(plan) {
        return Ok(None);
    }
    let mut children = Vec::new();
    for child in plan.children() {
        match keyed(child, rule)? {
            Some(child) => children.push(child),
            None => return Ok(None),
        }
    }
    replace_children_if_necessary(Arc::clone(plan), children).map(Some)
}

/// Returns true if the rows of one partition share values of a column with the rows of all others. Each partition would have all values.
fn shares_values(data_type: &DataType) -> bool {
    fn is_shared(data_type: &DataType) -> bool {
        matches!(data_type, DataType::Utf8View | DataType::BinaryView) || shares_values(data_type)
    }
    match data_type {
        DataType::Dictionary(..) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => is_shared(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_shared(field.data_type())),
        DataType::Union(..) | DataType::RunEndEncoded(..) => true,
        _ => false,
    }
}

/// Returns the plan of functions that send rows to others, with its own marks. A build side that may turn out to be too large for functions leaves the rows
/// to the coordinator.
fn producer(plan: &Arc<dyn ExecutionPlan>, rule: Shuffles) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    match is_fragment(plan) && broadcasts(plan).is_empty() {
        true => Ok(Some(Arc::clone(plan))),
        false => keyed(plan, rule),
    }
}

/// Returns true if an operator computes each partition of its inputs without the others, where rows of equal keys are in one partition.
pub(super) fn is_key_local(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return *join.partition_mode() == PartitionMode::Partitioned && !join.null_aware;
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let groups = aggregate.group_expr();
        return match aggregate.mode() {
            // Somebody has to make the row over no rows, and a stage without rows has no fragments.
            AggregateMode::Partial => !has_row_over_none(aggregate),
            AggregateMode::FinalPartitioned => !groups.is_empty(),
            // A grouping set may have no keys, and then has one row over all partitions.
            AggregateMode::SinglePartitioned => !groups.is_empty() && groups.is_single(),
            _ => false,
        };
    }
    if let Some(window) = plan.downcast_ref::<WindowAggExec>() {
        return !window.partition_keys().is_empty();
    }
    if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
        return !window.partition_keys().is_empty();
    }
    plan.is::<SortMergeJoinExec>() || is_partition_local(plan)
}

/// Returns true if all leaves of a plan are marks, and every operator above them is local to a key's partition.
pub(super) fn is_keyed(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let children = plan.children();
    plan.is::<ShuffleExec>() || (!children.is_empty() && is_key_local(plan) && children.into_iter().all(is_keyed))
}

/// Aggregates whose values are the same in whichever order their rows come, for types without rounding.
const ORDER_FREE: [&str; 9] = ["count", "sum", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor"];

/// Returns true if a plan over rows of other stages gives the same rows in whichever order those come. Sums of floats, the float that stands for its equals, and
/// windows over ties depend on it.
pub(super) fn is_order_free(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let is_free = match plan.downcast_ref::<AggregateExec>() {
        Some(aggregate) => {
            let schema = aggregate.schema();
            let is_exact = |data_type: &DataType| !data_type.is_floating() && !data_type.is_nested();
            aggregate.aggr_expr().iter().all(|function| ORDER_FREE.contains(&function.fun().name()))
                && schema.fields().iter().all(|field| is_exact(field.data_type()))
        }
        None => !plan.is::<WindowAggExec>() && !plan.is::<BoundedWindowAggExec>(),
    };
    is_free && plan.children().into_iter().all(is_order_free)
}

/// Returns true if a plan gives the same rows whenever it runs over the same rows in the same order. A limit takes the rows that come first.
pub(super) fn is_determinate(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut is_volatile = false;
    let visited = plan.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        is_volatile |= expr.exists(|part| Ok(part.is_volatile_node()))?;
        Ok(TreeNodeRecursion::Continue)
    });
    let limited = plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.limit_options().is_some());
    visited.is_ok()
        && !is_volatile
        && !limited
        && plan.fetch().is_none()
        && !plan.is::<LocalLimitExec>()
        && plan.children().into_iter().all(is_determinate)
}
