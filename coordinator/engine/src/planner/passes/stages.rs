//! Pass 6: each subtree that was cut off becomes the template of a stage, encoded once for all packings.
//!
//! ```text
//!  plan ─► marked ─► cut ─► subtree ─► merged, encoded, its store ─► StageTemplate ─► weighed files ─► units, pack ─► Stage
//!                                 └─► does not arrive as it is ─► stays in the coordinator's plan
//! ```
//!
//! A stage over exchanges has no files. Its fragments have lanes for partitions of the rows that other stages send.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use fragment_fn::NeededColumns;
use gust_protocol::plan::{Obstacle, encode_checked, scans};
use gust_protocol::{Base64, ColumnMatching, StoreAccess};

use super::broadcast::{Joins, alone, broadcasts, marked, marks_deep, unmarked, with_leaves};
use super::cut::{cut, has_rows_over_none, is_sorted};
use super::pack::{Lane, PackedFragment, Packing, input_partitions, over_parts, pack, parts_bytes_min};
use super::shuffle::{Shuffled, Shuffles, StageRules, is_determinate, is_order_free, shuffled, shuffles};
use super::spread::keeps_groups;
use super::unions::into_branches;
use super::units::{Unit, WeighedFile, pinned_fragments_max, units, units_of, weighed};
use crate::model::Reason;
use crate::model::load::{FragmentLoad, StageLoad};
use crate::planner::deletes::StageDeletes;
use crate::planner::graph::{Combining, DistributedPlan, Placement, Stage, StageShuffle};
use crate::planner::loads::results::compressed;
use crate::planner::shipped::needed_columns;
use crate::tables::facts::{Roots, matching};

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
    /// Reasons of exchanges by hash to stay on the coordinator.
    kept_shuffles: Vec<String>,
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
    /// Scan of its files. None where it reads the rows of other stages.
    scan: Option<TemplateScan>,
    /// Templates whose rows it reads, by their positions among those that became stages.
    producers: Vec<usize>,
    /// Bytes in memory that the rows of each are expected to have.
    produced: Vec<Option<u64>>,
    /// Reason to have them come from functions.
    reason: Arc<str>,
    shuffles: Shuffles,
    /// True if all that it does is to make fewer objects.
    combines: bool,
    /// Part of the stage that needs no build side. None where the stage gets none.
    alone: Option<Box<StageTemplate>>,
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
    /// joins, all joins stay on the coordinator, so that the scans below them may travel. If it is a stage over exchanges or below one, all of these stay there.
    ///
    /// # Errors
    /// The engine's, and those of `reach`.
    pub fn of(
        plan: &Arc<dyn ExecutionPlan>,
        rules: StageRules,
        reach: &dyn Fn(&str) -> Result<FunctionAccess>,
    ) -> Result<Placement<Self>> {
        let whole = plan;
        let Shuffled { plan, kept } = shuffled(&into_branches(&marked(plan, rules.joins)?)?, rules.shuffles)?;
        let (mut templates, mut unreachable) = (Vec::new(), None);
        let (mut stuck_joins, mut stuck_shuffles) = (false, None);
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
                    if is_producer || !read.is_empty() {
                        stuck_shuffles = stuck_shuffles.take().or_else(|| Some(obstacle.clone()));
                    }
                    templates.push(Err(KeptSubtree { subtree: Arc::clone(&subtree), obstacle }));
                }
            }
            Ok(subtree)
        })?;
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
        Ok(Placement::Functions(Self { plan, templates, kept_shuffles: kept }))
    }

    /// Lists the subtrees that stay in the coordinator's plan.
    pub fn kept(&self) -> impl Iterator<Item = &Arc<dyn ExecutionPlan>> {
        self.templates.iter().filter_map(|template| Some(&template.as_ref().err()?.subtree))
    }

    /// Lists the scans of its stages: none of a stage over exchanges.
    pub fn scans(&self) -> impl Iterator<Item = Option<&FileScanConfig>> {
        self.templates.iter().flatten().map(|template| Some(&template.scan.as_ref()?.scan))
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
        Ok(DistributedPlan { plan, stages, kept, kept_shuffles: self.kept_shuffles.clone() })
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
                let functions = combining.functions();
                let functions = if combining.pays(objects, functions) { functions } else { 0 };
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
        let Some(TemplateScan { scan, .. }) = &template.scan else {
            let produced = template.produced.iter().copied().sum::<Option<u64>>();
            return Self::Parts(produced.map(compressed));
        };
        match keeps_groups(scan) {
            true => Self::Groups(grouped(scan, footers)),
            false => Self::Weighed(weighed(scan, scan.file_groups.iter().flat_map(FileGroup::iter), footers)),
        }
    }

    fn packed(&self, packing: &Packing) -> PackedUnits {
        match self {
            Self::Groups(groups) => groups.clone(),
            Self::Weighed(files) => packed(files, packing),
            Self::Parts(bytes) => over_parts(*bytes, packing),
        }
    }
}

/// Makes the plan that a function runs in the place of `subtree`.
fn merged(subtree: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
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
        let untold = merged(&with_leaves(subtree)?);
        let told = rules.facts.told(Arc::clone(&untold))?;
        // A filter saves work, and is no reason to stay.
        let travelling = |plan: Arc<dyn ExecutionPlan>| encode_checked(&plan).map(|encoded| (plan, Base64(encoded)));
        let (plan, encoded) = match travelling(told).or_else(|_| travelling(untold)) {
            Ok(travelling) => travelling,
            Err(obstacle) => return Ok(Err(NoStage::Kept(obstacle))),
        };
        let mut scans = scans(&plan);
        let scan = match (scans.pop(), scans.is_empty(), shuffles(subtree).is_empty()) {
            (Some(scan), true, true) => match TemplateScan::of(scan, reach)? {
                Ok(scan) => Some(scan),
                Err(obstacle) => return Ok(Err(obstacle)),
            },
            (None, _, false) => None,
            _ => {
                return Err(DataFusionError::Internal("a fragment is not over one scan, or over exchanges".to_owned()));
            }
        };
        let alone = match broadcasts(subtree).is_empty() {
            true => None,
            false => match Self::of(&alone(subtree), rules, reach)? {
                Ok(alone) => Some(Box::new(alone)),
                Err(obstacle) => return Ok(Err(obstacle)),
            },
        };
        Ok(Ok(Self {
            plan,
            encoded,
            scan,
            producers: Vec::new(),
            produced: Vec::new(),
            reason: "".into(),
            shuffles: rules.shuffles,
            combines: shuffles(subtree).iter().any(|mark| mark.is_combined()),
            alone,
            broadcasts: broadcasts(subtree).iter().map(|mark| mark.bytes()).collect(),
            broadcast_bytes_max: rules.joins.bytes_max,
            stages_before: marks_deep(subtree),
        }))
    }

    /// Returns the rule of stages that combine objects for this one, which has these fragments.
    fn combining(&self, fragments: &[PackedFragment], packing: &Packing) -> Combining {
        let lanes = lanes_of(fragments);
        let readers = lanes.min(input_partitions(self.shuffles, lanes, packing));
        Combining { readers, reads_max: self.shuffles.reads_max }
    }

    fn stage(&self, index: u32, PackedUnits { units, fragments }: PackedUnits, packing: &Packing) -> Stage {
        let load = StageLoad::of_fragments(loads_by_bytes(&units, &fragments));
        let deletes = StageDeletes::of(&units, &fragments, &packing.digest);
        let scan = self.scan.as_ref();
        let lanes = lanes_of(&fragments);
        Stage {
            index,
            expected: times(&load.fragments, packing),
            load,
            plan: Arc::clone(&self.plan),
            encoded: self.encoded.clone(),
            matching: scan.map(|scan| scan.matching.clone()),
            needed: scan.and_then(|scan| scan.needed.clone()),
            accesses: scan.map(|scan| scan.accesses.clone()).unwrap_or_default(),
            units,
            fragments,
            deletes,
            sorted: is_sorted(&self.plan),
            keeps_groups: scan.is_some_and(|scan| keeps_groups(&scan.scan)),
            shuffle: StageShuffle {
                partitions: None,
                producers: Vec::new(),
                siblings: 0,
                reason: "".into(),
                is_determinate: is_determinate(&self.plan) && (scan.is_some() || is_order_free(&self.plan)),
                input_partitions: input_partitions(self.shuffles, lanes, packing),
                fragment_bytes_min: parts_bytes_min(self.shuffles, packing),
                fragments_max: packing.functions_max.max(1),
                model: packing.model,
                combining: None,
            },
            alone: None,
            broadcasts: self.broadcasts.clone(),
            broadcast_bytes_max: self.broadcast_bytes_max,
            stages_before: self.stages_before,
            packing: *packing,
        }
    }
}

fn lanes_of(fragments: &[PackedFragment]) -> usize {
    fragments.iter().map(|fragment| fragment.lanes.len()).sum()
}

/// Makes the loads of fragments of which only their bytes are known.
pub(in crate::planner) fn loads_by_bytes(units: &[Unit], fragments: &[PackedFragment]) -> Vec<FragmentLoad> {
    let weight = |fragment: &PackedFragment| fragment.units().map(|unit| units[unit].weight_bytes).sum();
    let load = |fragment: &PackedFragment| FragmentLoad::of_bytes(weight(fragment), fragment.lanes.len());
    fragments.iter().map(load).collect()
}

/// Returns the times that fragments are expected to take.
pub(in crate::planner) fn times(fragments: &[FragmentLoad], packing: &Packing) -> Vec<Duration> {
    let time = |fragment: &FragmentLoad| packing.model.fragment_time(fragment.weight_bytes, fragment.lanes);
    fragments.iter().map(time).collect()
}

impl TemplateScan {
    fn of(scan: FileScanConfig, reach: &dyn Fn(&str) -> Result<FunctionAccess>) -> Result<Result<Self, NoStage>> {
        let mut accesses = Vec::new();
        for root in &*Roots::of(&scan)?.0 {
            match reach(root.as_str())? {
                FunctionAccess::Through(access) => accesses.push(access),
                FunctionAccess::Never(obstacle) => return Ok(Err(NoStage::Unreachable(obstacle))),
            }
        }
        let matching = matching(&scan)?;
        let needed = needed_columns(&scan, &matching);
        Ok(Ok(Self { scan, matching, needed, accesses }))
    }
}

/// A scan's units, and fragments of them.
#[derive(Debug, Clone)]
pub(in crate::planner) struct PackedUnits {
    pub(in crate::planner) units: Vec<Unit>,
    pub(in crate::planner) fragments: Vec<PackedFragment>,
}

/// Cuts files at row groups and packs them by weight.
pub(in crate::planner) fn packed(files: &[WeighedFile], packing: &Packing) -> PackedUnits {
    let pinned = pinned_fragments_max(files, packing.fragment_bytes_target);
    let functions_max = pinned.map_or(packing.functions_max, |most| packing.functions_max.min(most));
    let packing = &Packing { functions_max, ..*packing };
    // About four units a fragment are enough to balance, and few enough that footers are not read all over.
    let unit_bytes_min = |total: u64| {
        let fragments = packing.functions.unwrap_or(packing.functions_max).max(1) as u64;
        (total / (4 * fragments)).min(packing.fragment_bytes_target / 4).max(1)
    };
    let units = units_of(files, unit_bytes_min);
    let weights: Vec<u64> = units.iter().map(|unit| unit.weight_bytes).collect();
    PackedUnits { fragments: pack(&weights, packing), units }
}

/// Makes one fragment with one lane of each file group, in the groups' order.
fn grouped(scan: &FileScanConfig, footers: &FileMetadataCache) -> PackedUnits {
    let (mut all, mut fragments) = (Vec::new(), Vec::new());
    for group in &scan.file_groups {
        let group = units(scan, group.iter(), footers, |_| u64::MAX);
        let lane = Lane { units: (all.len()..all.len() + group.len()).collect() };
        fragments.push(PackedFragment { lanes: vec![lane] });
        all.extend(group);
    }
    PackedUnits { units: all, fragments }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
    use datafusion::execution::cache::default_cache::DefaultCache;
    use datafusion::prelude::SessionContext;
    use object_store::path::Path;

    use super::*;
    use crate::model::TimeModel;
    use crate::planner::deletes::DigestBounds;
    use crate::planner::passes::samples::{Sample, hole, shape};

    fn through(url: &str) -> Result<FunctionAccess> {
        Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: Default::default() }))
    }

    fn packing(functions: usize) -> Packing {
        Packing {
            fragment_bytes_target: 1,
            model: TimeModel::laptop(1),
            functions_max: functions,
            functions: Some(functions),
            lanes_max: 1,
            digest: DigestBounds::default(),
        }
    }

    fn arcs(stages: Vec<Stage>) -> Vec<Arc<Stage>> {
        stages.into_iter().map(Arc::new).collect()
    }

    fn on_functions(placement: Placement<CutPlan>) -> CutPlan {
        placement.on_functions().expect("it travels")
    }

    #[tokio::test]
    async fn a_plan_is_cut_once_and_packed_as_often_as_one_likes() {
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        let plan = Sample::new().await.plan("SELECT sum(a) FROM t WHERE b + 0 = 3").await;
        let cut = on_functions(CutPlan::of(&plan, StageRules::SCANS, &through).expect("a plan"));
        let packer = cut.packer(&footers);
        let stages = [1, 2].map(|functions| packer.stages(7, &packing(functions)));
        assert_eq!(stages.each_ref().map(|stages| stages[0].fragments.len()), [1, 2]);
        assert_eq!(stages.each_ref().map(|stages| stages[0].index), [7, 7]);
        assert_eq!(stages[0][0].encoded, stages[1][0].encoded);
        let [_, stages] = stages;
        let planned = cut.with_leaves(arcs(stages), &|_, subtree| hole(subtree)).expect("a plan");
        assert_eq!(shape(&planned.plan), "AggregateExec\n  CoalescePartitionsExec\n    EmptyExec");
        assert_eq!((planned.stages.len(), planned.kept), (1, Vec::new()));
    }

    #[tokio::test]
    async fn lanes_of_a_sorted_stage_are_merged_by_its_function() {
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        let plan = Sample::new().await.plan("SELECT a FROM t ORDER BY b LIMIT 3").await;
        let cut = on_functions(CutPlan::of(&plan, StageRules::SCANS, &through).expect("a plan"));
        let stage = &cut.packer(&footers).stages(0, &packing(1))[0];
        assert!(stage.sorted);
        assert_eq!(shape(&stage.plan), "SortPreservingMergeExec\n  SortExec\n    DataSourceExec");
    }

    #[tokio::test]
    async fn a_subtree_that_cannot_travel_stays_with_its_reason() {
        let sample = Sample::new().await;
        // 55.2 makes a Float32 of it on the way.
        let half = "arrow_cast(b, 'Float16') > arrow_cast(2, 'Float16')";
        let plan = sample.plan(&format!("SELECT a FROM t WHERE {half}")).await;
        let placed = CutPlan::of(&plan, StageRules::SCANS, &through).expect("a plan");
        assert!(
            matches!(&placed, Placement::Here(Reason::NothingTravels(why)) if why.contains("Float16")),
            "{placed:?}"
        );
        let sql = format!("SELECT a FROM t WHERE {half} UNION ALL SELECT a FROM t WHERE b + 0 = 1");
        let cut = on_functions(CutPlan::of(&sample.plan(&sql).await, StageRules::SCANS, &through).expect("a plan"));
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        let planned = cut
            .with_leaves(arcs(cut.packer(&footers).stages(0, &packing(2))), &|_, subtree| hole(subtree))
            .expect("a plan");
        assert_eq!((planned.stages.len(), planned.kept.len(), cut.kept().count()), (1, 1, 1));
        let shape = shape(&planned.plan);
        assert_eq!((shape.matches("DataSourceExec").count(), shape.matches("EmptyExec").count()), (1, 1), "{shape}");
    }

    #[tokio::test]
    async fn a_store_that_functions_do_not_reach_keeps_all_here() {
        let never = |_: &str| Ok(FunctionAccess::Never("it is too far away".to_owned()));
        let plan = Sample::new().await.plan("SELECT a FROM t").await;
        let placed = CutPlan::of(&plan, StageRules::SCANS, &never).expect("a plan");
        assert!(matches!(&placed, Placement::Here(Reason::PlanNotSupported(why)) if why == "it is too far away"));
        let error = placed.on_functions().expect_err("nowhere to go").to_string();
        assert!(error.contains("functions cannot run this query: it is too far away"), "{error}");
    }

    #[tokio::test]
    async fn a_plan_without_parquet_has_no_stages() {
        let context = SessionContext::new();
        let plan = context.sql("SELECT 1").await.expect("SQL").create_physical_plan().await.expect("a plan");
        let cut = on_functions(CutPlan::of(&plan, StageRules::SCANS, &through).expect("a plan"));
        assert_eq!((cut.templates.len(), cut.kept().count()), (0, 0));
    }
}
