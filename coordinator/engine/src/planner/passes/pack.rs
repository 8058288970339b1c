//! Pass 8: scan units are packed into fragments, and a fragment's into lanes. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::cache::cache_manager::FileMetadataCache;

use super::shuffle::Shuffles;
use super::units::{Unit, WeighedFile, pinned_fragments_max, units, units_of};
use crate::model::TimeModel;
use crate::model::load::FragmentLoad;
use crate::planner::deletes::DigestBounds;

/// Number and size of a stage's fragments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packing {
    /// Projected compressed bytes that one fragment should read, unless the model finds a function's burst to be faster.
    pub fragment_bytes_target: u64,
    pub model: TimeModel,
    /// Most fragments of a stage.
    pub functions_max: usize,
    /// Number of fragments, unless there are fewer units. None packs by `fragment_bytes_target`.
    pub functions: Option<usize>,
    /// Most lanes of a fragment, one a core of the function.
    pub lanes_max: usize,
    /// Memory that the operators of a function have.
    pub function_memory_bytes: u64,
    /// Bounds above which the coordinator reads delete files for the fragments.
    pub digest: DigestBounds,
}

/// One fragment of a stage: scan units by lane. No fragment and no lane is empty, but for a file group without files and for the fragment that makes a
/// row over no rows. Lanes of a stage over exchanges have no units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFragment {
    pub lanes: Vec<Lane>,
}

/// Scan units that one partition of a function reads one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Positions among the stage's units.
    pub units: Vec<usize>,
}

impl PackedFragment {
    /// Returns the positions of its units, lane by lane.
    pub fn units(&self) -> impl Iterator<Item = usize> + Clone {
        self.lanes.iter().flat_map(|lane| lane.units.iter().copied())
    }
}

/// Packs scan units of these `weights`, in bytes, into fragments and lanes.
///
/// The largest unit goes first, into the lightest fragment (LPT: at most 4/3 of the best makespan); then the same within the fragment. Ties go to
/// the lower position, so that equal input gives equal output. No fragment and no lane is empty.
pub fn pack(weights: &[u64], packing: &Packing) -> Vec<PackedFragment> {
    let all: Vec<usize> = (0..weights.len()).collect();
    let bins = lightest_first(&all, weights, fragments(weights, packing));
    let lanes = |bin: &Vec<usize>| lightest_first(bin, weights, packing.lanes_max.min(bin.len()));
    let fragment = |bin| PackedFragment { lanes: lanes(bin).into_iter().map(|units| Lane { units }).collect() };
    bins.iter().map(fragment).collect()
}

/// Returns the number of fragments for a stage.
fn fragments(weights: &[u64], packing: &Packing) -> usize {
    let total: u64 = weights.iter().sum();
    let wanted = match packing.functions {
        Some(functions) => functions,
        None => {
            let wanted = packing.fragment_bytes_target.max(1);
            let functions_max = packing.functions_max.min(weights.len());
            let target = packing.model.fragment_bytes(total, wanted, functions_max, packing.lanes_max);
            usize::try_from(total.div_ceil(target)).unwrap_or(usize::MAX)
        }
    };
    wanted.clamp(1, packing.functions_max.max(1)).min(weights.len())
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
pub(super) fn grouped(scan: &FileScanConfig, footers: &FileMetadataCache) -> PackedUnits {
    let (mut all, mut fragments) = (Vec::new(), Vec::new());
    for group in &scan.file_groups {
        let group = units(scan, group.iter(), footers, |_| u64::MAX);
        let lane = Lane { units: (all.len()..all.len() + group.len()).collect() };
        fragments.push(PackedFragment { lanes: vec![lane] });
        all.extend(group);
    }
    PackedUnits { units: all, fragments }
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

/// Encoded bytes that a fragment over exchanges should read at least, where all functions may be used.
const PARTS_BYTES_MIN: u64 = 8 << 20;

/// Encoded bytes that a fragment over exchanges should read, where the number of functions is open: a Lambda function's burst is not used up yet.
const PARTS_BYTES_TARGET: u64 = 128 << 20;

/// Returns the least bytes of a fragment over exchanges. Fewer fragments are made where there are fewer.
pub(super) fn parts_bytes_min(shuffles: Shuffles, packing: &Packing) -> u64 {
    match (shuffles.partitions, packing.functions) {
        (Some(_), _) => 1,
        (None, Some(_)) => PARTS_BYTES_MIN,
        (None, None) => PARTS_BYTES_TARGET,
    }
}

/// Packs a stage over exchanges, of which so many encoded bytes are expected. It begins with fewer fragments where fewer bytes come, and with more where each would read
/// too many.
pub(super) fn over_parts(bytes: Option<u64>, packing: &Packing) -> PackedUnits {
    let wanted = packing.functions.or_else(|| usize::try_from(bytes?.div_ceil(PARTS_BYTES_TARGET)).ok());
    let fragments = wanted.unwrap_or(packing.functions_max).clamp(1, packing.functions_max.max(1));
    let lanes = vec![Lane { units: Vec::new() }; packing.lanes_max.max(1)];
    PackedUnits { units: Vec::new(), fragments: vec![PackedFragment { lanes }; fragments] }
}

/// Most partitions of an exchange whose number is not set.
pub(super) const PARTITIONS_MAX: usize = 256;

/// Partitions of an exchange at least, where functions are many: so many lanes may read it if it has more bytes than was expected. Each costs some hundred bytes a producer.
const PARTITIONS_MIN: usize = 64;

/// Returns the partitions of an exchange that so many lanes are expected to read. More partitions than lanes let a lane take some more where others are large.
pub(super) fn input_partitions(shuffles: Shuffles, lanes: usize, packing: &Packing) -> usize {
    let wanted = |lanes: usize| lanes.saturating_mul(4).next_power_of_two().clamp(16, PARTITIONS_MAX);
    let lanes_max = packing.functions_max.saturating_mul(packing.lanes_max);
    shuffles.partitions.unwrap_or_else(|| wanted(lanes).max(wanted(lanes_max).min(PARTITIONS_MIN)))
}

/// Spreads items over at most so many bins, the heaviest first, each into the lightest bin. No bin is empty.
pub(super) fn lightest_first(items: &[usize], weights: &[u64], bins: usize) -> Vec<Vec<usize>> {
    let mut order = items.to_vec();
    order.sort_by_key(|item| (Reverse(weights[*item]), *item));
    let mut packed = vec![Vec::new(); bins];
    let mut loads: BinaryHeap<Reverse<(u64, usize, usize)>> = (0..bins).map(|bin| Reverse((0, 0, bin))).collect();
    for item in order {
        let Some(Reverse((load, count, bin))) = loads.pop() else { break };
        packed[bin].push(item);
        loads.push(Reverse((load + weights[item], count + 1, bin)));
    }
    packed.retain(|bin| !bin.is_empty());
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weights: &[u64], functions: Option<usize>, lanes_max: usize, expect: &[&[&[usize]]]) {
        let packing = Packing {
            fragment_bytes_target: 10,
            model: TimeModel::laptop(1),
            functions_max: 3,
            functions,
            lanes_max,
            function_memory_bytes: 2 << 30,
            digest: DigestBounds::default(),
        };
        let packed = pack(weights, &packing);
        let lanes =
            |fragment: &PackedFragment| fragment.lanes.iter().map(|lane| lane.units.clone()).collect::<Vec<_>>();
        assert_eq!(packed.iter().map(lanes).collect::<Vec<_>>(), expect, "{weights:?} {packing:?}");
    }

    #[test]
    fn largest_first_into_the_lightest() {
        check(&[], None, 2, &[]);
        check(&[3], None, 2, &[&[&[0]]]);
        check(&[1, 9, 5, 5], None, 1, &[&[&[1, 0]], &[&[2, 3]]]);
        check(&[1, 9, 5, 5], None, 2, &[&[&[1], &[0]], &[&[2], &[3]]]);
        check(&[100, 1, 1, 1], None, 1, &[&[&[0]], &[&[1, 3]], &[&[2]]]);
        check(&[1, 1], Some(8), 2, &[&[&[0]], &[&[1]]]);
        check(&[0, 0, 0], Some(2), 1, &[&[&[0, 2]], &[&[1]]]);
    }

    #[test]
    fn every_unit_is_packed_once_and_no_fragment_is_heavy() {
        let weights: Vec<u64> = (0..500).map(|i| (i * 7919) % 101).collect();
        let packing = Packing {
            fragment_bytes_target: 700,
            model: TimeModel::laptop(1),
            functions_max: 64,
            functions: None,
            lanes_max: 4,
            function_memory_bytes: 2 << 30,
            digest: DigestBounds::default(),
        };
        let packed = pack(&weights, &packing);
        let mut seen: Vec<usize> = packed.iter().flat_map(PackedFragment::units).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        let mean = weights.iter().sum::<u64>() / packed.len() as u64;
        let heaviest = packed.iter().map(|fragment| fragment.units().map(|unit| weights[unit]).sum::<u64>()).max();
        assert!(heaviest.is_some_and(|heaviest| heaviest <= mean + 101), "{heaviest:?} over a mean of {mean}");
    }
}
