//! Pass 6: each subtree that was cut off becomes the template of a stage, encoded once for all packings.
//!
//! ```text
//!  plan ─► marked ─► cut ─► subtree ─► merged, encoded, its store ─► StageTemplate ─► weighed files ─► units, pack ─► Stage
//!                                 └─► does not arrive as it is ─► stays in the coordinator's plan
//! ```
//!
//! A stage over exchanges has no files. Its fragments have lanes for partitions of the rows that other stages send.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use fragment_fn::NeededColumns;
use gust_protocol::plan::{Obstacle, encode_checked, scans};
use gust_protocol::{Base64, ColumnMatching, StoreAccess};

use super::aligned::{Aligned, AlignedExec, AlignedFiles, GroupKey, aligned, aligned_scans, group_keys, without_marks};
use super::broadcast::{Joins, alone, broadcasts, marked, marks_deep, unmarked, with_leaves};
use super::cut::{cut, has_rows_over_none, is_sorted};
use super::facts::Facts;
use super::pack::{
    Lane, PackedFragment, PackedUnits, Packing, grouped, input_partitions, loads_by_bytes, over_parts, packed,
    parts_bytes_min, times,
};
use super::shuffle::{InOrderExec, Shuffled, Shuffles, StageRules, is_determinate, is_order_free, shuffled, shuffles};
use super::spread::keeps_groups;
use super::unions::into_branches;
use super::units::{WeighedFile, weighed};
use crate::config::AlignedPlace;
use crate::model::Reason;
use crate::model::load::StageLoad;
use crate::planner::deletes::StageDeletes;
use crate::planner::graph::{Combining, DistributedPlan, Placement, RowsOrder, Stage, StageLeaf, StageShuffle};
use crate::planner::loads::operators::{OperatorsBeside, operators_beside};
use crate::planner::loads::results::compressed;
use crate::planner::shipped::needed_columns;
use crate::tables::facts::{Roots, matching};

mod copies;

/// Access of functions to a store.
#[derive(Debug, Clone)]
pub enum FunctionAccess {
    Through(StoreAccess),
    /// No access, with the reason.
    Never(Obstacle),
}

/// Maker of the leaf that runs a stage, from the stage and its subtree.
pub type Leaf<'a> = dyn Fn(Arc<Stage>, &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> + Sync + 'a;

/// A distributed plan and its templates.
#[derive(Debug)]
pub struct CutPlan {
    plan: Arc<dyn ExecutionPlan>,
    /// Templates in the order in which [`cut`] finds subtrees.
    templates: Vec<Result<StageTemplate, KeptSubtree>>,
    /// Reasons of exchanges, by hash or by ranges, to stay on the coordinator.
    kept_shuffles: Vec<String>,
    /// Reasons of joins not to be aligned.
    not_aligned: Vec<String>,
}

/// A subtree that stays in the coordinator's plan.
#[derive(Debug)]
struct KeptSubtree {
    subtree: Arc<dyn ExecutionPlan>,
    obstacle: Obstacle,
}

/// A stage before its files are packed.
#[derive(Debug)]
struct StageTemplate {
    /// Plan of a function.
    plan: Arc<dyn ExecutionPlan>,
    encoded: Base64,
    /// Plan of a function with one lane, where aligned joins tell their scans the keys, as it is and encoded.
    of_one_lane: Option<(Arc<dyn ExecutionPlan>, Base64)>,
    /// Scans of its files, in the order of the plan. None where it reads the rows of other stages.
    scans: Vec<TemplateScan>,
    /// Words for the fields by which the files of all scans are parted. None where they are not.
    aligned: Option<Arc<str>>,
    /// Templates whose rows it reads, by their positions among those that became stages.
    producers: Vec<usize>,
    /// Bytes in memory that the rows of each are expected to have.
    produced: Vec<Option<u64>>,
    /// Reason to have them come from functions.
    reason: Arc<str>,
    shuffles: Shuffles,
    /// Ranges by which the rows that it reads are parted. None where their number is open.
    ranges: Option<usize>,
    order: RowsOrder,
    /// True if all that it does is to make fewer objects.
    combines: bool,
    /// Part of the stage that needs no build side. None where the stage gets none.
    alone: Option<Box<StageTemplate>>,
    /// Stage that may take its place, whose build sides every function gets. None where its joins are not over exchanges.
    copies: Option<Box<StageTemplate>>,
    /// Bytes in memory that its build sides are expected to have.
    broadcasts: Vec<Option<u64>>,
    /// Most bytes in memory of all of them.
    broadcast_bytes_max: u64,
    stages_before: usize,
}

/// Scan of a stage.
#[derive(Debug)]
struct TemplateScan {
    scan: FileScanConfig,
    matching: ColumnMatching,
    needed: Option<NeededColumns>,
    accesses: Vec<StoreAccess>,
    /// Partitions of its files, where those of several scans are read together.
    keys: Vec<GroupKey>,
}

/// Reason of a subtree to be no stage.
enum NoStage {
    /// Functions do not reach its files.
    Unreachable(Obstacle),
    /// Its plan does not arrive as it is.
    Kept(Obstacle),
}

impl CutPlan {
    /// Cuts `plan`. A subtree that cannot travel to functions stays in place, which is planning and no fallback: nothing has failed. If it has
    /// joins, all joins stay on the coordinator, so that the scans below them may travel. If it is a stage over exchanges or below one, all of these stay there, and
    /// so do all aligned joins if it has one.
    ///
    /// # Errors
    /// The engine's, and those of `reach`.
    pub fn of(
        plan: &Arc<dyn ExecutionPlan>,
        rules: StageRules,
        reach: &dyn Fn(&str) -> Result<FunctionAccess>,
    ) -> Result<Placement<Self>> {
        let whole = plan;
        let Aligned { plan, kept: not_aligned } = aligned(plan, rules.aligned)?;
        let Shuffled { plan, kept } = shuffled(&into_branches(&marked(&plan, rules.joins)?)?, rules.shuffles)?;
        let (mut templates, mut unreachable) = (Vec::new(), None);
        let (mut stuck_joins, mut stuck_shuffles, mut stuck_aligned) = (false, None, None);
        // Producers are cut right before the stage that reads their rows.
        let (mut stages, mut producers) = (0, Vec::new());
        cut(&plan, &mut |subtree| {
            let read = shuffles(&subtree);
            let read_from = producers.split_off(producers.len().saturating_sub(read.len()));
            let is_producer = subtree.is::<RepartitionExec>();
            match StageTemplate::of(&subtree, rules, reach)? {
                Ok(template) => {
                    let produced = read.iter().map(|mark| mark.bytes()).collect();
                    let reason = read.first().map_or_else(|| "".into(), |mark| Arc::clone(mark.reason()));
                    templates.push(Ok(StageTemplate { producers: read_from, produced, reason, ..template }));
                    if is_producer {
                        producers.push(stages);
                    }
                    stages += 1;
                }
                Err(NoStage::Unreachable(obstacle)) => unreachable = unreachable.take().or(Some(obstacle)),
                Err(NoStage::Kept(obstacle)) => {
                    stuck_joins |= !broadcasts(&subtree).is_empty();
                    if !aligned_scans(&subtree).is_empty() {
                        stuck_aligned = stuck_aligned.take().or_else(|| Some(obstacle.clone()));
                    }
                    if is_producer || !read.is_empty() {
                        stuck_shuffles = stuck_shuffles.take().or_else(|| Some(obstacle.clone()));
                    }
                    templates.push(Err(KeptSubtree { subtree: Arc::clone(&subtree), obstacle }));
                }
            }
            Ok(subtree)
        })?;
        if let Some(obstacle) = stuck_aligned {
            let mut placed = Self::of(whole, StageRules { aligned: AlignedPlace::Local, ..rules }, reach)?;
            if let Placement::Functions(cut) = &mut placed {
                cut.not_aligned.push(format!("all of them: a stage cannot travel: {obstacle}"));
            }
            return Ok(placed);
        }
        if let Some(obstacle) = stuck_shuffles {
            let mut placed = Self::of(whole, StageRules { shuffles: Shuffles::NONE, ..rules }, reach)?;
            if let Placement::Functions(cut) = &mut placed {
                cut.kept_shuffles.push(format!("all of them: a stage cannot travel: {obstacle}"));
            }
            return Ok(placed);
        }
        if stuck_joins {
            return Self::of(whole, StageRules { joins: Joins::LOCAL, ..rules }, reach);
        }
        if let Some(obstacle) = unreachable {
            return Ok(Placement::Here(Reason::PlanNotSupported(obstacle)));
        }
        if let Some(Err(KeptSubtree { obstacle, .. })) = templates.first()
            && templates.iter().all(Result::is_err)
        {
            return Ok(Placement::Here(Reason::NothingTravels(obstacle.clone())));
        }
        Ok(Placement::Functions(Self { plan, templates, kept_shuffles: kept, not_aligned }))
    }

    /// Lists the subtrees that stay in the coordinator's plan.
    pub fn kept(&self) -> impl Iterator<Item = &Arc<dyn ExecutionPlan>> {
        self.templates.iter().filter_map(|template| Some(&template.as_ref().err()?.subtree))
    }

    /// Returns true if functions do more than to scan: they join, or get rows from one another.
    pub fn is_staged(&self) -> bool {
        self.templates.iter().flatten().any(|template| template.stages_before > 0 || template.aligned.is_some())
    }

    /// Lists the reasons of exchanges, by hash or by ranges, to stay on the coordinator.
    pub fn kept_shuffles(&self) -> &[String] {
        &self.kept_shuffles
    }

    /// Sums up the work of the coordinator's operators, without that of the subtrees that stay. Subtrees have the positions of their stages.
    pub fn operators_beside(&self) -> OperatorsBeside {
        let kept: Vec<bool> = self.templates.iter().map(Result::is_err).collect();
        let mut found = operators_beside(&self.plan, &kept);
        for over in &mut found.over_results {
            over.subtree -= kept.iter().take(over.subtree).filter(|is_kept| **is_kept).count();
        }
        found
    }

    /// Lists the scans of its stages, stage by stage: none of a stage over exchanges.
    pub fn scans(&self) -> impl Iterator<Item = Vec<&FileScanConfig>> {
        self.templates.iter().flatten().map(|template| template.scans.iter().map(|scan| &scan.scan).collect())
    }

    /// Lists the plans of its stages.
    pub fn plans(&self) -> impl Iterator<Item = &Arc<dyn ExecutionPlan>> {
        self.templates.iter().flatten().map(|template| &template.plan)
    }

    /// Weighs the files of its stages once, for any number of packings.
    pub fn packer(&self, footers: &FileMetadataCache) -> Packer<'_> {
        let weighed = |template| WeighedTemplate { template, files: TemplateFiles::of(template, footers) };
        Packer { templates: self.templates.iter().flatten().map(weighed).collect() }
    }

    /// Puts a leaf in the place of each of its stages.
    pub fn with_leaves(&self, stages: Vec<Arc<Stage>>, leaf: &Leaf<'_>) -> Result<DistributedPlan> {
        let (mut next, mut templates) = (stages.iter(), self.templates.iter());
        let plan = cut(&self.plan, &mut |subtree| match templates.next() {
            Some(Ok(_)) => {
                let stage = next.next().ok_or_else(|| DataFusionError::Internal("a stage is missing".to_owned()))?;
                Ok(leaf(Arc::clone(stage), &subtree))
            }
            _ => unmarked(&subtree),
        })?;
        let kept =
            self.templates.iter().filter_map(|template| Some(template.as_ref().err()?.obstacle.clone())).collect();
        let (kept_shuffles, not_aligned) = (self.kept_shuffles.clone(), self.not_aligned.clone());
        Ok(DistributedPlan { plan, stages, kept, kept_shuffles, not_aligned })
    }
}

/// Cuts a plan, packs its files, and puts leaves in the place of its stages.
pub fn plan_stages(
    plan: &Arc<dyn ExecutionPlan>,
    packing: &Packing,
    footers: &FileMetadataCache,
    reach: &dyn Fn(&str) -> Result<FunctionAccess>,
    leaf: &Leaf<'_>,
) -> Result<DistributedPlan> {
    let cut = CutPlan::of(plan, StageRules::SCANS, reach)?.on_functions()?;
    cut.with_leaves(cut.packer(footers).stages(0, packing).into_iter().map(Arc::new).collect(), leaf)
}

/// The stages of a plan, whose files are weighed.
#[derive(Debug)]
pub struct Packer<'a> {
    templates: Vec<WeighedTemplate<'a>>,
}

#[derive(Debug)]
struct WeighedTemplate<'a> {
    template: &'a StageTemplate,
    files: TemplateFiles,
}

/// Files of a stage.
#[derive(Debug)]
enum TemplateFiles {
    /// One fragment for each group, whatever the packing.
    Groups(PackedUnits),
    Weighed(Vec<WeighedFile>),
    /// Several scans, whose files are read together by partition.
    Aligned(AlignedFiles),
    /// None: rows of other stages. So many bytes are expected, encoded.
    Parts(Option<u64>),
}

impl Packer<'_> {
    /// Packs stages, the first of which has the number `first`. Their loads are their bytes until
    /// [`crate::planner::loads::stages::StageMaker`] gives them better ones.
    pub fn stages(&self, first: u32, packing: &Packing) -> Vec<Stage> {
        let packed = self.packed(packing);
        let stages = (first..).zip(&self.templates).zip(packed);
        // Numbers of the stages that may stand in for others come after all of these.
        let mut spare = first + self.templates.len() as u32..;
        let stage =
            |((index, WeighedTemplate { template, .. }), packed): ((u32, &WeighedTemplate<'_>), PackedUnits)| {
                let alone = template.alone.as_ref().zip(template.alone.as_ref().and_then(|_| spare.next()));
                let alone = alone.map(|(alone, index)| Arc::new(alone.stage(index, packed.clone(), packing)));
                Stage { alone, ..template.stage(index, packed, packing) }
            };
        let mut stages: Vec<Stage> = stages.map(stage).collect();
        // Consumers come after their producers. A stage that combines passes partitions on as they are.
        for (consumer, WeighedTemplate { template, .. }) in self.templates.iter().enumerate().rev() {
            let (mut partitions, mut siblings) = (stages[consumer].shuffle.input_partitions, template.producers.len());
            if let (true, Some(own)) = (template.combines, stages[consumer].shuffle.partitions) {
                stages[consumer].shuffle.input_partitions = own;
                (partitions, siblings) = (own, stages[consumer].shuffle.siblings);
            }
            let combining = template.combining(&stages[consumer].fragments, packing);
            for producer in &template.producers {
                stages[consumer].shuffle.producers.push(first + *producer as u32);
                let combines = self.templates[*producer].template.combines;
                let shuffle = &mut stages[*producer].shuffle;
                shuffle.partitions = Some(partitions);
                shuffle.reason = Arc::clone(&template.reason);
                shuffle.siblings = siblings;
                shuffle.combining = combines.then_some(combining);
            }
        }
        for consumer in 0..stages.len() {
            stages[consumer].copies = self.copies_of(&stages, consumer, &mut spare, packing).map(Arc::new);
        }
        stages
    }

    /// Packs all files. A stage that combines objects has no fragments where it is not expected to pay.
    fn packed(&self, packing: &Packing) -> Vec<PackedUnits> {
        let pack =
            |WeighedTemplate { template, files }: &WeighedTemplate<'_>| files.packed(packing).with_rows_of(template);
        let mut all: Vec<PackedUnits> = self.templates.iter().map(pack).collect();
        for (reader, WeighedTemplate { template, .. }) in self.templates.iter().enumerate() {
            let combining = template.combining(&all[reader].fragments, packing);
            for combiner in template.producers.iter().filter(|producer| self.templates[**producer].template.combines) {
                let producers = &self.templates[*combiner].template.producers;
                let objects = producers.iter().map(|producer| all[*producer].fragments.len()).sum();
                let planned = combining.planned();
                let functions = if combining.pays(objects, planned) { planned.runs } else { 0 };
                // One lane asks for each object once.
                let lanes = vec![Lane { units: Vec::new() }];
                all[*combiner].fragments = vec![PackedFragment { lanes }; functions];
            }
        }
        all
    }
}

impl PackedUnits {
    /// Adds a fragment that reads nothing, where there is none and the plan has a row over no rows.
    fn with_rows_of(mut self, template: &StageTemplate) -> Self {
        if self.fragments.is_empty() && has_rows_over_none(&template.plan) {
            self.fragments.push(PackedFragment { lanes: vec![Lane { units: Vec::new() }] });
        }
        self
    }
}

impl TemplateFiles {
    fn of(template: &StageTemplate, footers: &FileMetadataCache) -> Self {
        match template.scans.as_slice() {
            [] => {
                let produced = template.produced.iter().copied().sum::<Option<u64>>();
                Self::Parts(produced.map(compressed))
            }
            [TemplateScan { scan, .. }] if keeps_groups(scan) => Self::Groups(grouped(scan, footers)),
            [TemplateScan { scan, .. }] => {
                Self::Weighed(weighed(scan, scan.file_groups.iter().flat_map(FileGroup::iter), footers))
            }
            scans => {
                let scans = scans.iter().map(|scan| (&scan.scan, scan.keys.as_slice()));
                Self::Aligned(AlignedFiles::of(&template.plan, scans, footers))
            }
        }
    }

    fn packed(&self, packing: &Packing) -> PackedUnits {
        match self {
            Self::Groups(groups) => groups.clone(),
            Self::Aligned(files) => files.packed(packing),
            Self::Weighed(files) => packed(files, packing),
            Self::Parts(bytes) => over_parts(*bytes, packing),
        }
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

impl StageTemplate {
    fn of(
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

    /// Returns the rule of stages that combine objects for this one, which has these fragments.
    fn combining(&self, fragments: &[PackedFragment], packing: &Packing) -> Combining {
        let lanes = lanes_of(fragments);
        let readers = lanes.min(self.input_partitions(lanes, packing));
        Combining { readers, reads_max: self.shuffles.reads_max }
    }

    /// Returns the partitions of the rows that it reads, should it have so many lanes.
    fn input_partitions(&self, lanes: usize, packing: &Packing) -> usize {
        self.ranges.unwrap_or_else(|| input_partitions(self.shuffles, lanes, packing))
    }

    fn stage(&self, index: u32, PackedUnits { units, fragments }: PackedUnits, packing: &Packing) -> Stage {
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

fn lanes_of(fragments: &[PackedFragment]) -> usize {
    fragments.iter().map(|fragment| fragment.lanes.len()).sum()
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

#[cfg(test)]
#[path = "stages_tests.rs"]
mod tests;
