//! The work of fragments on functions, and of scans on the coordinator, for the model. Pure.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::plan::{file_scan, scans};
use object_store::ObjectMeta;

use super::reads::{Reader, ScannedFiles};
use super::results::results;
use crate::exchange::PLAN_INLINE_BYTES_MAX;
use crate::model::attempts::expected_times;
use crate::model::load::{FragmentLoad, LocalLoad, StageLoad, fragment_limits};
use crate::model::{FleetFacts, FunctionSize, Workload};
use crate::planner::Stage;
use crate::planner::graph::is_parquet;
use crate::planner::passes::pack::{PackedFragment, Packing};
use crate::planner::passes::stages::{PackedUnits, packed};
use crate::planner::passes::units::{Unit, units};

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

/// Functions of one size, and the facts about the files that they read.
#[derive(Clone, Copy)]
pub struct FunctionReaders<'a> {
    pub facts: &'a FleetFacts,
    pub size: &'a FunctionSize,
    pub footers: &'a FileMetadataCache,
}

/// Sums up the reads of a plan's scans. Units are runs of at least `unit_bytes_min`.
pub fn local_reads(
    plan: &Arc<dyn ExecutionPlan>,
    footers: &FileMetadataCache,
    unit_bytes_min: u64,
) -> Result<LocalReads> {
    let mut found = LocalReads::default();
    plan.apply(|node| {
        match file_scan(node) {
            Some(scan) if is_parquet(scan) => {
                let units = units(scan, &whole_files(scan), footers, |_| unit_bytes_min);
                let weight_bytes = units.iter().map(|unit| unit.weight_bytes).sum::<u64>();
                found.workload.scans += 1;
                found.workload.units += units.len();
                found.workload.bytes += weight_bytes;
                found.load.weight_bytes += weight_bytes;
                found.load.reads =
                    found.load.reads + ScannedFiles::of(scan, footers).reads(&units, Reader::Coordinator);
            }
            Some(_) => found.others += 1,
            None => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// Gives stages that are packed for functions of a size their loads and expected times. Results may wait in `memory_bytes_max` here.
///
/// # Errors
/// The engine's, where a fragment is not over one scan.
pub fn with_loads(mut stages: Vec<Stage>, memory_bytes_max: u64, readers: FunctionReaders<'_>) -> Result<Vec<Stage>> {
    let loads = stage_loads(&stages, memory_bytes_max, readers)?;
    let expected = expected_times(&loads.iter().collect::<Vec<_>>(), &readers.facts.machines(readers.size));
    for ((stage, load), expected) in stages.iter_mut().zip(loads).zip(expected) {
        (stage.load, stage.expected) = (load, expected);
    }
    Ok(stages)
}

fn stage_loads(stages: &[Stage], memory_bytes_max: u64, readers: FunctionReaders<'_>) -> Result<Vec<StageLoad>> {
    let at_once = readers.size.at_once(stages.iter().map(|stage| stage.fragments.len()).sum());
    let load = |stage: &Stage| {
        let scans = scans(&stage.plan);
        let [scan] = scans.as_slice() else {
            return Err(DataFusionError::Internal(format!("a fragment over {} scans", scans.len())));
        };
        let mut files = ScannedFiles::of(scan, readers.footers);
        let load = |fragment| fragment_load(&mut files, &stage.access.url, &stage.units, fragment, at_once, readers);
        let fragments: Vec<FragmentLoad> = stage.fragments.iter().map(load).collect();
        let limits = fragment_limits(readers.size.limits, fragments.len(), memory_bytes_max);
        Ok(StageLoad {
            results: results(stage),
            inline_bytes_max: limits.inline_bytes_max,
            publishes_plan: stage.plan_bytes() > PLAN_INLINE_BYTES_MAX,
            fragments,
        })
    };
    stages.iter().map(load).collect()
}

/// Returns the least work of functions that read the scans of a plan which was not made for them. Results, and those too large for a response,
/// are known of stages only.
pub fn scan_loads(
    plan: &Arc<dyn ExecutionPlan>,
    packing: &Packing,
    url_of: &dyn Fn(&str) -> String,
    readers: FunctionReaders<'_>,
) -> Result<Vec<StageLoad>> {
    let mut packed_scans = Vec::new();
    plan.apply(|node| {
        if let Some(scan) = file_scan(node).filter(|scan| is_parquet(scan)) {
            let packed = packed(scan, whole_files(scan).iter(), packing, readers.footers);
            packed_scans.push(PackedScan { scan: scan.clone(), url: url_of(scan.object_store_url.as_str()), packed });
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let at_once = readers.size.at_once(packed_scans.iter().map(|scan| scan.packed.fragments.len()).sum());
    let load = |PackedScan { scan, url, packed: PackedUnits { units, fragments } }: &PackedScan| {
        let mut files = ScannedFiles::of(scan, readers.footers);
        let fragment = |fragment| fragment_load(&mut files, url, units, fragment, at_once, readers);
        StageLoad::of_fragments(fragments.iter().map(fragment).collect())
    };
    Ok(packed_scans.iter().map(load).collect())
}

/// A scan as if it were a stage.
struct PackedScan {
    scan: FileScanConfig,
    url: String,
    packed: PackedUnits,
}

/// Returns the work of one fragment of these units, on one of `at_once` environments.
fn fragment_load(
    files: &mut ScannedFiles<'_>,
    url: &str,
    units: &[Unit],
    fragment: &PackedFragment,
    at_once: usize,
    FunctionReaders { facts, size, .. }: FunctionReaders<'_>,
) -> FragmentLoad {
    let misses = |file: &ObjectMeta| facts.warm.misses_footer(size.memory_mb, at_once, url, file);
    // A platform may have ended any environment in between. Processes stay.
    let missed_at_most = |file: &ObjectMeta| if facts.traits.shares_machine { misses(file) } else { 1.0 };
    let own = || fragment.units().map(|unit| &units[unit]);
    let mut reads = |keeps: &dyn Fn(&ObjectMeta) -> bool| files.reads(own(), Reader::Function(keeps));
    FragmentLoad {
        weight_bytes: own().map(|unit| unit.weight_bytes).sum(),
        lanes: fragment.lanes.len(),
        reads: reads(&|file| misses(file) <= 0.5),
        reads_at_most: reads(&|file| missed_at_most(file) <= SELDOM),
    }
}

/// Lists a scan's files, each once and whole: local plans cut them anywhere.
fn whole_files(scan: &FileScanConfig) -> Vec<PartitionedFile> {
    let files = scan.file_groups.iter().flat_map(|group| group.iter());
    let mut files: Vec<_> = files.map(|file| PartitionedFile { range: None, ..file.clone() }).collect();
    files.sort_by(|a, b| a.object_meta.location.cmp(&b.object_meta.location));
    files.dedup_by(|a, b| a.object_meta.location == b.object_meta.location);
    files
}
