//! Files of an aligned stage: those of one partition, of all scans, are read by one lane. Of a partition that is much larger than others, several lanes read
//! some of one scan's rows each, and all of the other scans', where that gives each row of the join once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::LeafId;
use gust_protocol::plan::file_scan;

use super::layout::{GroupKey, files};
use crate::planner::keys::has_no_row_over;
use crate::planner::passes::pack::{Lane, PackedFragment, PackedUnits, Packing, lightest_first, pack};
use crate::planner::passes::skew::{SHARES_MIN, parts, splittable};
use crate::planner::passes::units::{Unit, WeighedFile, units_of, weighed};

/// Files of an aligned stage, by partition.
#[derive(Debug)]
pub struct AlignedFiles {
    partitions: Vec<PartitionFiles>,
    /// Scans whose rows may be in several lanes.
    splittable: Vec<LeafId>,
}

/// Files of a partition, of each scan that has some.
#[derive(Debug, Default)]
struct PartitionFiles(BTreeMap<LeafId, Vec<WeighedFile>>);

impl AlignedFiles {
    /// Groups the files of a function's plan, whose scans have files of these partitions. Partitions are left out that make no row: those of an inner
    /// join which one side lacks.
    pub fn of<'a>(
        plan: &Arc<dyn ExecutionPlan>,
        scans: impl IntoIterator<Item = (&'a FileScanConfig, &'a [GroupKey])>,
        footers: &FileMetadataCache,
    ) -> Self {
        let mut by_key: BTreeMap<GroupKey, PartitionFiles> = BTreeMap::new();
        for (leaf, (scan, keys)) in (0..).zip(scans) {
            for (file, key) in weighed(scan, files(scan), footers).into_iter().zip(keys) {
                by_key.entry(key.clone()).or_default().0.entry(leaf).or_default().push(file);
            }
        }
        let mut partitions: Vec<PartitionFiles> = by_key.into_values().collect();
        partitions.retain(|PartitionFiles(files)| !has_no_row(plan, &|leaf| !files.contains_key(&leaf)));
        Self { partitions, splittable: splittable_scans(plan) }
    }

    /// Packs the partitions, or parts of them, each into one lane.
    pub fn packed(&self, packing: &Packing) -> PackedUnits {
        let total: u64 = self.partitions.iter().map(PartitionFiles::weight).sum();
        let lanes_max = packing.lanes_max.max(1) as u64;
        // Bytes of a lane, if all had as many.
        let share = match packing.functions {
            Some(functions) => total / (functions.min(packing.functions_max).max(1) as u64 * lanes_max),
            None => packing.fragment_bytes_target / lanes_max,
        };
        let partitions: Vec<Parts> =
            self.partitions.iter().map(|partition| partition.parts(&self.splittable, share.max(1))).collect();
        let places =
            |(partition, parts): (usize, &Parts)| (0..parts.own.len()).map(move |part| Place { partition, part });
        let places: Vec<Place> = partitions.iter().enumerate().flat_map(places).collect();
        let weights: Vec<u64> = places.iter().map(|place| partitions[place.partition].weight(place.part)).collect();
        let mut units = Vec::new();
        let mut lane = |lane: Lane| {
            let (first, mut begun) = (units.len(), BTreeSet::new());
            for Place { partition, part } in lane.units.iter().map(|place| places[*place]) {
                let parts = &partitions[partition];
                units.extend(parts.own[part].iter().cloned());
                // Two parts in one lane meet the same rows of the other scans, which come once.
                if begun.insert(partition) {
                    units.extend(parts.others.iter().cloned());
                }
            }
            Lane { units: (first..units.len()).collect() }
        };
        let fragment =
            |fragment: PackedFragment| PackedFragment { lanes: fragment.lanes.into_iter().map(&mut lane).collect() };
        let fragments = pack(&weights, packing).into_iter().map(fragment).collect();
        PackedUnits { units, fragments }
    }
}

/// Units of a partition, for the lanes that read parts of it.
struct Parts {
    /// Units of each part.
    own: Vec<Vec<Unit>>,
    /// Units that a lane with any of the parts reads, too.
    others: Vec<Unit>,
}

/// Place of a part.
#[derive(Debug, Clone, Copy)]
struct Place {
    partition: usize,
    part: usize,
}

impl Parts {
    /// Returns the bytes that a lane reads for a part.
    fn weight(&self, part: usize) -> u64 {
        self.own[part].iter().chain(&self.others).map(|unit| unit.weight_bytes).sum()
    }
}

impl PartitionFiles {
    fn weight(&self) -> u64 {
        self.0.values().map(|files| weight_of(files)).sum()
    }

    /// Makes the parts of the partition: one, unless its bytes are many times a lane's share. The parts are of one scan then, each to be read together
    /// with all files of the others, and all in all at most twice the partition's bytes.
    fn parts(&self, splittable: &[LeafId], share: u64) -> Parts {
        let whole = || Parts { own: vec![self.units(None)], others: Vec::new() };
        let heaviest = splittable.iter().filter_map(|leaf| Some((weight_of(self.0.get(leaf)?), *leaf))).max();
        let Some((own, split)) = heaviest else { return whole() };
        let total = self.weight();
        let count = parts(own, total, share);
        if total < share.saturating_mul(SHARES_MIN) || count < 2 {
            return whole();
        }
        let cut = self.0.get(&split).map_or_else(Vec::new, |files| units_of(files, |_| (share / 2).max(1)));
        let weights: Vec<u64> = cut.iter().map(|unit| unit.weight_bytes).collect();
        let all: Vec<usize> = (0..cut.len()).collect();
        let part =
            |units: Vec<usize>| units.into_iter().map(|unit| Unit { leaf: split, ..cut[unit].clone() }).collect();
        let own = lightest_first(&all, &weights, count).into_iter().map(part).collect();
        Parts { own, others: self.units(Some(split)) }
    }

    /// Makes units of whole files of all scans but one.
    fn units(&self, without: Option<LeafId>) -> Vec<Unit> {
        let scans = self.0.iter().filter(|(leaf, _)| Some(**leaf) != without);
        let units = |(leaf, files): (&LeafId, &Vec<WeighedFile>)| {
            let whole = units_of(files, |_| u64::MAX);
            let leaf = *leaf;
            whole.into_iter().map(move |unit| Unit { leaf, ..unit })
        };
        scans.flat_map(units).collect()
    }
}

fn weight_of(files: &[WeighedFile]) -> u64 {
    files.iter().map(WeighedFile::weight_bytes).sum()
}

/// Returns true if a plan has no row where `is_empty` says which of its scans have none, by their numbers.
fn has_no_row(plan: &Arc<dyn ExecutionPlan>, is_empty: &dyn Fn(LeafId) -> bool) -> bool {
    fn visit(plan: &Arc<dyn ExecutionPlan>, next: &mut LeafId, is_empty: &dyn Fn(LeafId) -> bool) -> bool {
        if file_scan(plan).is_some() {
            *next += 1;
            return is_empty(*next - 1);
        }
        let below: Vec<bool> = plan.children().into_iter().map(|child| visit(child, next, is_empty)).collect();
        has_no_row_over(plan, &below)
    }
    visit(plan, &mut 0, is_empty)
}

/// Lists the scans of a plan whose rows may be in several lanes, by their numbers.
fn splittable_scans(plan: &Arc<dyn ExecutionPlan>) -> Vec<LeafId> {
    let mut scans = 0..;
    splittable(plan, &mut |plan| file_scan(plan).and_then(|_| scans.next()))
}
