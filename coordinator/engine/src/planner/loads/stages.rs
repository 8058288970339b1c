//! The work of fragments on functions, and of scans on the coordinator, for the model. Pure.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::LeafId;
use gust_protocol::plan::file_scan;
use object_store::ObjectMeta;

use super::memory::{MemoryNeed, fragment_need, held_by};
use super::operators::{operators, operators_of_stage};
use super::reads::{Reader, ScannedFiles};
use super::results::{PlanRows, compressed, results, results_of_parts};
use crate::exchange::PLAN_INLINE_BYTES_MAX;
use crate::model::attempts::expected_times;
use crate::model::load::{FragmentLoad, LocalLoad, OperatorLoad, Reads, SharedRows, StageLoad, fragment_limits};
use crate::model::{FleetFacts, FunctionSize, Workload};
use crate::planner::Stage;
use crate::planner::combining::ObjectReads;
use crate::planner::deletes::{FragmentDeletes, StageDeletes};
use crate::planner::graph::is_parquet;
use crate::planner::passes::pack::{PackedFragment, PackedUnits, Packing, packed};
use crate::planner::passes::stages::{CutPlan, Packer};
use crate::planner::passes::units::{Unit, WeighedFile, units, weighed};
use crate::tables::facts::store_of;

/// Probability below which an event is left out of upper amounts.
const SELDOM: f64 = 0.01;

/// Reads of a physical plan that runs on the coordinator.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalReads {
    /// Amount of data of its Parquet scans.
    pub workload: Workload,
    pub load: LocalLoad,
    /// Number of scans of other files, whose reads are not known.
    pub others: usize,
}

/// Functions of one size, and the facts about their fleet.
#[derive(Clone, Copy)]
pub struct FunctionReaders<'a> {
    pub facts: &'a FleetFacts,
    pub size: &'a FunctionSize,
}

/// Sums up the reads of a plan's scans, and the work of its operators. Units are runs of at least `unit_bytes_min`, and gaps of at most `bridge_bytes` are read along.
pub fn local_reads(
    plan: &Arc<dyn ExecutionPlan>,
    footers: &FileMetadataCache,
    unit_bytes_min: u64,
    bridge_bytes: u64,
) -> Result<LocalReads> {
    let mut found = LocalReads::default();
    plan.apply(|node| {
        match file_scan(node) {
            Some(scan) if is_parquet(scan) => {
                let units = units(scan, &whole_files(scan), footers, |_| unit_bytes_min);
                let deletes = FragmentDeletes::of(&units).reads();
                let weight_bytes = units.iter().map(|unit| unit.weight_bytes).sum::<u64>() + deletes.bytes;
                found.workload.scans += 1;
                found.workload.units += units.len();
                found.workload.bytes += weight_bytes;
                found.load.weight_bytes += weight_bytes;
                let of_data = ScannedFiles::of(scan, footers).reads(&units, Reader::Coordinator, bridge_bytes);
                let reads = of_data + deletes;
                found.load.reads = found.load.reads + reads;
                if !of_data.is_remote {
                    found.load.of_files = found.load.of_files + reads;
                }
            }
            Some(_) => found.others += 1,
            None => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    found.load.operators = operators(plan);
    Ok(found)
}

/// The stages of a cut plan, for one packing after the other. Files are weighed and looked up once.
pub struct StageMaker<'a> {
    packer: Packer<'a>,
    files: Vec<StageFiles<'a>>,
}

/// Facts about one stage that are the same for all packings.
struct StageFiles<'a> {
    /// Files of its scans, by their numbers. Empty where it reads rows of other stages.
    files: Vec<ScannedFiles<'a>>,
    rows: PlanRows,
    /// Work of the plan's operators, over all fragments.
    operators: OperatorLoad,
    /// Memory that the plan's operators hold.
    held: Vec<MemoryNeed>,
}

impl<'a> StageMaker<'a> {
    pub fn of(cut: &'a CutPlan, footers: &'a FileMetadataCache) -> Self {
        let files = |(scans, plan): (Vec<&'a FileScanConfig>, _)| StageFiles {
            files: scans.into_iter().map(|scan| ScannedFiles::of(scan, footers)).collect(),
            rows: PlanRows::of(plan),
            operators: operators_of_stage(plan),
            held: held_by(plan),
        };
        Self { packer: cut.packer(footers), files: cut.scans().zip(cut.plans()).map(files).collect() }
    }

    /// Returns the most memory that a fragment of these stages is expected to need, in bytes.
    pub fn need_bytes(&self, stages: &[Stage]) -> u64 {
        let need = |(stage, files): (&Stage, &StageFiles<'_>)| fragment_need(stage, &files.held).bytes;
        stages.iter().zip(&self.files).map(need).max().unwrap_or_default()
    }

    /// Packs stages for functions of a size, the first with the number `first`, with their loads and expected times. Results may wait in
    /// `memory_bytes_max` here.
    pub fn stages(
        &mut self,
        first: u32,
        packing: &Packing,
        memory_bytes_max: u64,
        readers: FunctionReaders<'_>,
    ) -> Vec<Stage> {
        let mut stages = self.packer.stages(first, packing);
        let at_once = readers.size.at_once(stages.iter().map(|stage| stage.fragments.len()).sum());
        // Producers come before the stages that read their rows.
        for (position, files) in self.files.iter_mut().enumerate() {
            let (before, others) = stages.split_at_mut(position);
            let Some(stage) = others.first_mut() else { break };
            let read: Vec<&Stage> = read_by(stage, before).collect();
            stage.load = files.load(stage, &read, at_once, memory_bytes_max, readers);
        }
        let loads: Vec<&StageLoad> = stages.iter().map(|stage| &stage.load).collect();
        let expected = expected_times(&loads, &readers.facts.machines(readers.size));
        for (stage, expected) in stages.iter_mut().zip(expected) {
            stage.expected = expected;
        }
        stages
    }
}

/// Lists the stages whose rows a stage is expected to read: those below a stage that combines objects, where it is not expected to run.
fn read_by<'a>(stage: &'a Stage, before: &'a [Stage]) -> impl Iterator<Item = &'a Stage> {
    let read = |of: &'a Stage| before.iter().filter(|before| of.shuffle.producers.contains(&before.index));
    read(stage).flat_map(move |producer| {
        let stands_aside = producer.shuffle.combining.is_some() && producer.fragments.is_empty();
        let below: Vec<&Stage> = if stands_aside { read(producer).collect() } else { vec![producer] };
        below
    })
}

impl StageFiles<'_> {
    /// Returns the load of a stage whose functions work in `at_once` environments, and read the rows of the stages `read`.
    fn load(
        &mut self,
        stage: &Stage,
        read: &[&Stage],
        at_once: usize,
        memory_bytes_max: u64,
        readers: FunctionReaders<'_>,
    ) -> StageLoad {
        let Self { files, rows, operators, .. } = self;
        let is_over_parts = files.is_empty();
        let mut fragments: Vec<FragmentLoad> = match is_over_parts {
            false => {
                let load = |(fragment, packed)| {
                    let of_leaf = |(leaf, files): (LeafId, &mut ScannedFiles<'_>)| {
                        let own = UnitsOf { units: &stage.units, leaf, url: stage.url_of(leaf) };
                        fragment_load(files, own, packed, at_once, readers)
                    };
                    let load = (0..).zip(files.iter_mut()).map(of_leaf).reduce(FragmentLoad::beside);
                    let load = load.unwrap_or_else(|| FragmentLoad::of_bytes(0, packed.lanes.len()));
                    load.and_reads(&stage.deletes.reads(fragment))
                };
                stage.fragments.iter().enumerate().map(load).collect()
            }
            true => vec![parts_load(stage, read); stage.fragments.len()],
        };
        let share = operators.bytes / fragments.len().max(1) as u64;
        for load in &mut fragments {
            let each = share.saturating_add(operators.one_core_bytes.saturating_mul(load.lanes as u64));
            // The bytes that it reads of other stages are those into its lowest operator.
            load.operator_bytes = if is_over_parts { each.saturating_sub(load.weight_bytes) } else { each };
        }
        let parts: Vec<&StageLoad> = read.iter().map(|producer| &producer.load).collect();
        let limits = fragment_limits(readers.size.limits, fragments.len(), memory_bytes_max);
        StageLoad {
            results: match is_over_parts {
                false => results(stage, rows),
                true => results_of_parts(stage, rows, &parts),
            },
            sends_parts: stage.shuffle.partitions.is_some(),
            reads_parts: stage.is_over_parts(),
            inline_bytes_max: limits.inline_bytes_max,
            publishes_plan: stage.plan_bytes() > PLAN_INLINE_BYTES_MAX,
            digest: digest_load(&stage.deletes, &fragments),
            fragments,
            shared: shared_rows(stage, |bytes| bytes.unwrap_or_default()),
            shared_at_most: shared_rows(stage, |_| stage.broadcast_bytes_max),
            stages_before: stage.stages_before,
        }
    }
}

/// Returns the work of one fragment over exchanges, which reads the rows of the stages `read`. Rows of unknown size are as many as they can be.
fn parts_load(stage: &Stage, read: &[&Stage]) -> FragmentLoad {
    let fragments = stage.fragments.len().max(1) as u64;
    let lanes = stage.fragments.first().map_or(1, |fragment| fragment.lanes.len());
    let expected = |load: &StageLoad| load.results.expected.unwrap_or(compressed(load.results.at_most));
    let at_most = |load: &StageLoad| compressed(load.results.at_most).max(expected(load));
    let parts = || read.iter().map(|producer| &producer.load);
    let asked = object_reads(stage, read, lanes as u64);
    let reads = |bytes: u64| Reads {
        runs: asked.expected,
        runs_max: asked.at_most,
        row_groups: 1,
        bytes: bytes.div_ceil(fragments),
        is_remote: parts().flat_map(|load| &load.fragments).any(|fragment| fragment.reads.is_remote),
        ..Reads::default()
    };
    let reads_expected = reads(parts().map(expected).sum());
    let reads_at_most = reads(parts().map(at_most).sum());
    FragmentLoad { reads_at_most, reads: reads_expected, ..FragmentLoad::of_bytes(reads_expected.bytes, lanes) }
}

/// Counts the objects that one fragment of a stage asks for, in so many lanes. A lane asks each producer for a range. Of functions that combine objects it asks those of its run, and
/// one of these asks the producers of its group.
fn object_reads(stage: &Stage, read: &[&Stage], lanes: u64) -> ObjectReads {
    let of = |producer: &&Stage| {
        let objects = producer.fragments.len() as u64;
        let each = match (stage.shuffle.combining, producer.shuffle.combining) {
            (Some(combining), _) => combining.expected.reads_each(objects),
            (None, Some(combining)) => return combining.expected.reads_of(lanes, stage.fragments.len() as u64),
            (None, None) => objects * lanes,
        };
        ObjectReads { expected: each, at_most: each }
    };
    read.iter().map(of).sum()
}

/// Returns the rows that a stage's fragments read in the exchange. `bytes` makes the bytes in memory of a build side from those that are expected.
fn shared_rows(stage: &Stage, bytes: impl Fn(Option<u64>) -> u64) -> SharedRows {
    let encoded = stage.broadcasts.iter().map(|expected| compressed(bytes(*expected)));
    let mut room = stage.rows_inline_bytes_max();
    let objects = encoded.filter(|bytes| {
        let fits = *bytes <= room;
        room -= if fits { *bytes } else { 0 };
        !fits
    });
    objects.map(|bytes| SharedRows { objects: 1, bytes }).sum()
}

/// The scans of a plan that was not made for functions, for one packing after the other, as if each were a stage. Files are weighed and looked up
/// once.
pub struct LocalScans<'a>(Vec<LocalScan<'a>>);

struct LocalScan<'a> {
    url: String,
    weighed: Vec<WeighedFile>,
    files: ScannedFiles<'a>,
}

impl<'a> LocalScans<'a> {
    /// Finds the scans of Parquet. `url_of` returns the way of functions to a store.
    pub fn of(
        plan: &Arc<dyn ExecutionPlan>,
        footers: &'a FileMetadataCache,
        url_of: &dyn Fn(&str) -> String,
    ) -> Result<Self> {
        let mut scans = Vec::new();
        plan.apply(|node| {
            if let Some(scan) = file_scan(node).filter(|scan| is_parquet(scan)) {
                scans.push(LocalScan {
                    url: url_of(scan.object_store_url.as_str()),
                    weighed: weighed(scan, &whole_files(scan), footers),
                    files: ScannedFiles::of(scan, footers),
                });
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Self(scans))
    }

    /// Returns the least work of functions that read them. Results, and those too large for a response, are known of stages only.
    pub fn loads(&mut self, packing: &Packing, readers: FunctionReaders<'_>) -> Vec<StageLoad> {
        let all: Vec<PackedUnits> = self.0.iter().map(|scan| packed(&scan.weighed, packing)).collect();
        let at_once = readers.size.at_once(all.iter().map(|packed| packed.fragments.len()).sum());
        let load = |(scan, PackedUnits { units, fragments }): (&mut LocalScan<'_>, &PackedUnits)| {
            let LocalScan { url, files, .. } = scan;
            let deletes = StageDeletes::of(units, fragments, &packing.digest);
            let fragment = |(fragment, packed)| {
                let own = UnitsOf { units, leaf: 0, url };
                fragment_load(files, own, packed, at_once, readers).and_reads(&deletes.reads(fragment))
            };
            let fragments: Vec<FragmentLoad> = fragments.iter().enumerate().map(fragment).collect();
            StageLoad { digest: digest_load(&deletes, &fragments), ..StageLoad::of_fragments(fragments) }
        };
        self.0.iter_mut().zip(&all).map(load).collect()
    }
}

/// Returns the coordinator's work on delete files that fragments share. None where there is none.
fn digest_load(deletes: &StageDeletes, fragments: &[FragmentLoad]) -> Option<LocalLoad> {
    let reads = deletes.digest()?.reads;
    let is_remote = fragments.iter().any(|fragment| fragment.reads.is_remote);
    let of_files = if is_remote { Reads::default() } else { reads };
    let reads = Reads { is_remote, ..reads };
    Some(LocalLoad { weight_bytes: reads.bytes, reads, of_files, ..LocalLoad::default() })
}

/// Units of a scan, among those of its stage.
#[derive(Clone, Copy)]
struct UnitsOf<'a> {
    units: &'a [Unit],
    /// Number of the scan.
    leaf: LeafId,
    /// URL of its first store.
    url: &'a str,
}

/// Returns the work of one fragment of units of a scan, without their deletes, on one of `at_once` environments.
fn fragment_load(
    files: &mut ScannedFiles<'_>,
    UnitsOf { units, leaf, url }: UnitsOf<'_>,
    fragment: &PackedFragment,
    at_once: usize,
    FunctionReaders { facts, size }: FunctionReaders<'_>,
) -> FragmentLoad {
    let misses = |file: &ObjectMeta| facts.warm.misses_footer(size.memory_mb, at_once, url, file);
    // A platform may have ended any environment in between. Processes stay.
    let missed_at_most = |file: &ObjectMeta| if facts.traits.shares_machine { misses(file) } else { 1.0 };
    let own = || fragment.units().map(|unit| &units[unit]).filter(|unit| unit.leaf == leaf);
    let is_likely_kept = |file: &ObjectMeta| misses(file) <= 0.5;
    let is_surely_kept = |file: &ObjectMeta| missed_at_most(file) <= SELDOM;
    let reads = files.reads(own(), Reader::Function(&is_likely_kept), size.limits.bridge_bytes);
    // Mostly nothing is kept, or all is.
    let is_sure = |unit: &Unit| {
        let file = &unit.file.object_meta;
        is_likely_kept(file) == is_surely_kept(file)
    };
    FragmentLoad {
        weight_bytes: own().map(|unit| unit.weight_bytes).sum(),
        operator_bytes: 0,
        lanes: fragment.lanes.len(),
        reads,
        reads_at_most: match own().all(is_sure) {
            true => reads,
            false => files.reads(own(), Reader::Function(&is_surely_kept), size.limits.bridge_bytes),
        },
    }
}

/// Lists a scan's files, each once and whole: local plans cut them anywhere.
fn whole_files(scan: &FileScanConfig) -> Vec<PartitionedFile> {
    let files = scan.file_groups.iter().flat_map(|group| group.iter());
    let mut files: Vec<_> = files.map(|file| PartitionedFile { range: None, ..file.clone() }).collect();
    let place = |file: &PartitionedFile| (store_of(file), file.object_meta.location.clone());
    files.sort_by_cached_key(place);
    files.dedup_by(|a, b| (store_of(a), &a.object_meta.location) == (store_of(b), &b.object_meta.location));
    files
}
