//! A stage before its files are packed: its plan, encoded once, with the scans and stores that it needs.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use fragment_fn::NeededColumns;
use gust_protocol::plan::{Obstacle, encode_checked, scans};
use gust_protocol::{Base64, ColumnMatching, StoreAccess};

use super::FunctionAccess;
use crate::model::load::StageLoad;
use crate::planner::combining::{CombinerBounds, Combining, EvenRows};
use crate::planner::deletes::StageDeletes;
use crate::planner::graph::{RowsOrder, Stage, StageLeaf, StageShuffle};
use crate::planner::lanes::fragment_bytes_max;
use crate::planner::passes::aligned::{AlignedExec, GroupKey, aligned_scans, group_keys, without_marks};
use crate::planner::passes::broadcast::{alone, broadcasts, marks_deep, with_leaves};
use crate::planner::passes::cut::is_sorted;
use crate::planner::passes::facts::Facts;
use crate::planner::passes::pack::{
    PackedFragment, PackedUnits, Packing, input_partitions, loads_by_bytes, parts_bytes_min, times,
};
use crate::planner::passes::shuffle::{InOrderExec, Shuffles, StageRules, is_determinate, is_order_free, shuffles};
use crate::planner::passes::spread::keeps_groups;
use crate::planner::shipped::needed_columns;
use crate::tables::facts::{Roots, matching};

/// A stage before its files are packed.
#[derive(Debug)]
pub(super) struct StageTemplate {
    /// Plan of a function.
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) encoded: Base64,
    /// Plan of a function with one lane, where aligned joins tell their scans the keys, as it is and encoded.
    pub(super) of_one_lane: Option<(Arc<dyn ExecutionPlan>, Base64)>,
    /// Scans of its files, in the order of the plan. None where it reads the rows of other stages.
    pub(super) scans: Vec<TemplateScan>,
    /// Words for the fields by which the files of all scans are parted. None where they are not.
    pub(super) aligned: Option<Arc<str>>,
    /// Templates whose rows it reads, by their positions among those that became stages.
    pub(super) producers: Vec<usize>,
    /// Bytes in memory that the rows of each are expected to have.
    pub(super) produced: Vec<Option<u64>>,
    /// Reason to have them come from functions.
    pub(super) reason: Arc<str>,
    pub(super) shuffles: Shuffles,
    /// Ranges by which the rows that it reads are parted. None where their number is open.
    pub(super) ranges: Option<usize>,
    pub(super) order: RowsOrder,
    /// True if all that it does is to make fewer objects.
    pub(super) combines: bool,
    /// Part of the stage that needs no build side. None where the stage gets none.
    pub(super) alone: Option<Box<StageTemplate>>,
    /// Stage that may take its place, whose build sides every function gets. None where its joins are not over exchanges.
    pub(super) copies: Option<Box<StageTemplate>>,
    /// Bytes in memory that its build sides are expected to have.
    pub(super) broadcasts: Vec<Option<u64>>,
    /// Most bytes in memory of all of them.
    pub(super) broadcast_bytes_max: u64,
    pub(super) stages_before: usize,
}

/// Scan of a stage.
#[derive(Debug)]
pub(super) struct TemplateScan {
    pub(super) scan: FileScanConfig,
    pub(super) matching: ColumnMatching,
    pub(super) needed: Option<NeededColumns>,
    pub(super) accesses: Vec<StoreAccess>,
    /// Partitions of its files, where those of several scans are read together.
    pub(super) keys: Vec<GroupKey>,
}

/// Reason of a subtree to be no stage.
pub(super) enum NoStage {
    /// Functions do not reach its files.
    Unreachable(Obstacle),
    /// Its plan does not arrive as it is.
    Kept(Obstacle),
}

impl StageTemplate {
    pub(super) fn of(
        subtree: &Arc<dyn ExecutionPlan>,
        rules: StageRules,
        reach: &dyn Fn(&str) -> Result<FunctionAccess>,
    ) -> Result<Result<Self, NoStage>> {
        let marks = aligned_scans(subtree);
        let untold = merged(&without_marks(&with_leaves(subtree)?)?);
        // DataFusion would look for keys in the partition that its own hash gives them. In one lane there is only one.
        let joins = rules.facts.joins && marks.is_empty();
        let told = Facts { joins, ..rules.facts }.told(Arc::clone(&untold))?;
        let told_alone =
            (joins != rules.facts.joins).then(|| rules.facts.told_alone(Arc::clone(&untold))).transpose()?;
        // A filter saves work, and is no reason to stay.
        let travelling = |plan: Arc<dyn ExecutionPlan>| encode_checked(&plan).map(|encoded| (plan, Base64(encoded)));
        let of_one_lane = told_alone.and_then(|plan| travelling(plan).ok());
        let (plan, encoded) = match travelling(told).or_else(|_| travelling(untold)) {
            Ok(travelling) => travelling,
            Err(obstacle) => return Ok(Err(NoStage::Kept(obstacle))),
        };
        let found = scans(&plan);
        let is_whole = match (found.len(), shuffles(subtree).is_empty()) {
            (0, over_none) => !over_none,
            (1, over_none) => over_none,
            (several, over_none) => over_none && several == marks.len(),
        };
        if !is_whole {
            let what = "a fragment is not over one scan, over aligned scans, or over exchanges";
            return Err(DataFusionError::Internal(what.to_owned()));
        }
        let mut scans = Vec::with_capacity(found.len());
        for (number, scan) in found.into_iter().enumerate() {
            match TemplateScan::of(scan, marks.get(number), reach)? {
                Ok(scan) => scans.push(scan),
                Err(obstacle) => return Ok(Err(obstacle)),
            }
        }
        let alone = match broadcasts(subtree).is_empty() {
            true => None,
            false => match Self::of(&alone(subtree), rules, reach)? {
                Ok(alone) => Some(Box::new(alone)),
                Err(obstacle) => return Ok(Err(obstacle)),
            },
        };
        let order = match is_sorted(&plan) {
            _ if subtree.is::<InOrderExec>() => RowsOrder::InOrder,
            true => RowsOrder::Merged,
            false => RowsOrder::Any,
        };
        let read = shuffles(subtree);
        Ok(Ok(Self {
            plan,
            encoded,
            of_one_lane,
            scans,
            aligned: marks.first().map(|mark| Arc::clone(mark.told())),
            producers: Vec::new(),
            produced: Vec::new(),
            reason: "".into(),
            shuffles: rules.shuffles,
            ranges: read.iter().find_map(|mark| mark.ranges()),
            order,
            combines: read.iter().any(|mark| mark.is_combined()),
            alone,
            copies: Self::with_copies(subtree, order, rules, reach)?,
            broadcasts: broadcasts(subtree).iter().map(|mark| mark.bytes()).collect(),
            broadcast_bytes_max: rules.joins.bytes_max,
            stages_before: marks_deep(subtree),
        }))
    }

    /// Returns the rule of a stage that combines objects for this one, which has these fragments. So many `producers` leave so many encoded bytes.
    pub(super) fn combining(
        &self,
        fragments: &[PackedFragment],
        bytes: Option<u64>,
        producers: usize,
        packing: &Packing,
    ) -> Combining {
        let lanes = lanes_of(fragments);
        let partitions = self.input_partitions(lanes, packing);
        let bounds = CombinerBounds {
            bytes_min: parts_bytes_min(self.shuffles, packing),
            bytes_max: fragment_bytes_max(packing.function_memory_bytes),
            functions_max: packing.functions_max.max(1),
        };
        let rows = EvenRows { bytes, partitions, producers };
        Combining::of(lanes.min(partitions), self.shuffles.reads_max, &rows, &bounds)
    }

    /// Returns the partitions of the rows that it reads, should it have so many lanes.
    fn input_partitions(&self, lanes: usize, packing: &Packing) -> usize {
        self.ranges.unwrap_or_else(|| input_partitions(self.shuffles, lanes, packing))
    }

    pub(super) fn stage(&self, index: u32, PackedUnits { units, fragments }: PackedUnits, packing: &Packing) -> Stage {
        let load = StageLoad::of_fragments(loads_by_bytes(&units, &fragments));
        let deletes = StageDeletes::of(&units, &fragments, &packing.digest);
        let (leaves, accesses) = self.leaves();
        let one_lane = self.of_one_lane.as_ref().filter(|_| fragments.iter().all(|fragment| fragment.lanes.len() == 1));
        let (plan, encoded) = one_lane.map_or((&self.plan, &self.encoded), |(plan, encoded)| (plan, encoded));
        let is_grouped = matches!(self.scans.as_slice(), [scan] if keeps_groups(&scan.scan));
        let input_partitions = self.input_partitions(lanes_of(&fragments), packing);
        let fragments_max = packing.functions_max.max(match self.order {
            // The coordinator holds the rows of two fragments at a time, so that each should have few. They run one after the other where functions are few.
            RowsOrder::InOrder => input_partitions,
            RowsOrder::Any | RowsOrder::Merged => 1,
        });
        Stage {
            index,
            expected: times(&load.fragments, packing),
            load,
            plan: Arc::clone(plan),
            encoded: encoded.clone(),
            leaves,
            aligned: self.aligned.clone(),
            accesses,
            units,
            fragments,
            deletes,
            order: self.order,
            keeps_groups: is_grouped,
            keeps_rows: false,
            shuffle: StageShuffle {
                partitions: None,
                producers: Vec::new(),
                siblings: 0,
                reason: "".into(),
                is_determinate: is_determinate(&self.plan) && (self.scans.len() == 1 || is_order_free(&self.plan)),
                input_partitions,
                fragment_bytes_min: parts_bytes_min(self.shuffles, packing),
                fragments_max,
                model: packing.model,
                combining: None,
            },
            alone: None,
            copies: None,
            broadcasts: self.broadcasts.clone(),
            broadcast_bytes_max: self.broadcast_bytes_max,
            stages_before: self.stages_before,
            packing: *packing,
        }
    }

    /// Makes the scans of a stage, and the accesses to all of their stores, each once.
    fn leaves(&self) -> (Vec<StageLeaf>, Vec<StoreAccess>) {
        let mut accesses: Vec<StoreAccess> = Vec::new();
        let mut leaf = |scan: &TemplateScan| {
            let mut position = |access: &StoreAccess| {
                let known = accesses.iter().position(|known| known == access);
                known.unwrap_or_else(|| {
                    accesses.push(access.clone());
                    accesses.len() - 1
                }) as u16
            };
            let stores = scan.accesses.iter().map(&mut position).collect();
            StageLeaf { matching: scan.matching.clone(), needed: scan.needed.clone(), stores }
        };
        let leaves = self.scans.iter().map(&mut leaf).collect();
        (leaves, accesses)
    }
}

impl TemplateScan {
    fn of(
        scan: FileScanConfig,
        mark: Option<&AlignedExec>,
        reach: &dyn Fn(&str) -> Result<FunctionAccess>,
    ) -> Result<Result<Self, NoStage>> {
        let mut accesses = Vec::new();
        for root in &*Roots::of(&scan)?.0 {
            match reach(root.as_str())? {
                FunctionAccess::Through(access) => accesses.push(access),
                FunctionAccess::Never(obstacle) => return Ok(Err(NoStage::Unreachable(obstacle))),
            }
        }
        let matching = matching(&scan)?;
        let needed = needed_columns(&scan, &matching);
        let keys = mark.map(|mark| group_keys(&scan, mark.fields())).transpose()?.unwrap_or_default();
        Ok(Ok(Self { scan, matching, needed, accesses, keys }))
    }
}

/// Makes the plan that a function runs in the place of `subtree`.
fn merged(subtree: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let subtree = subtree.downcast_ref::<InOrderExec>().map_or(subtree, InOrderExec::input);
    match subtree.output_ordering() {
        // A function merges its lanes into one sorted stream a fragment.
        Some(order) => {
            Arc::new(SortPreservingMergeExec::new(order.clone(), Arc::clone(subtree)).with_fetch(subtree.fetch()))
        }
        None => Arc::clone(subtree),
    }
}

fn lanes_of(fragments: &[PackedFragment]) -> usize {
    fragments.iter().map(|fragment| fragment.lanes.len()).sum()
}
