//! Delete files that the coordinator reads once for all fragments of a stage, and what fragments then read of deletes.
//!
//! A digest is worth its while where many fragments would ask for the same files again:
//!
//! - **Files of positions** become a vector for each data file. A fragment reads the vectors of its own data files, which lie side by
//!   side, with one request.
//! - **Files of keys** with the same fields and the same scope become one list of keys. A fragment reads all of it, so that a digest
//!   saves requests rather than bytes: a writer of streams leaves thousands of small files ([`super::keys`]).
//!
//! A digest has bounds. Vectors have their room first, and then the lists of keys. Of each kind those come first that save most.

use std::collections::{BTreeMap, BTreeSet};

use fragment_fn::{BRIDGE_BYTES_MAX, DeletePlan, FileDeletes, KeyGroup};
use gust_protocol::LeafId;

use super::keys::{DigestedGroup, digested_groups};
use super::{FragmentDeletes, own, part, read_bytes, reads};
use crate::model::load::Reads;
use crate::planner::passes::pack::PackedFragment;
use crate::planner::passes::units::Unit;

/// Part of a digest's bytes that is planned with. What Parquet has packed well may need twice as many.
const PLANNED_SHARE: usize = 2;

/// Bounds above which the coordinator reads delete files for the fragments of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestBounds {
    /// Fragments of which each reads a file by itself.
    pub readers_max: usize,
    /// Bytes of reads that a digest has to save. A request counts as `bridge_bytes`.
    pub saved_bytes_min: i64,
    /// Bytes of reads that a list of keys has to save each fragment that reads it.
    pub saved_each_bytes_min: i64,
    /// Most bytes of a stage's digest. Where there would be more, functions read the files.
    pub bytes_max: usize,
    /// Bytes that cost as much as a request: the largest gap that is read along.
    pub bridge_bytes: u64,
}

impl DigestBounds {
    /// Bounds of tests: all that can be digested is.
    pub const NONE: Self = Self {
        readers_max: 0,
        saved_bytes_min: i64::MIN,
        saved_each_bytes_min: i64::MIN,
        bytes_max: 64 << 20,
        bridge_bytes: BRIDGE_BYTES_MAX,
    };

    /// Returns what requests and their bytes cost, in bytes.
    pub(super) fn cost(&self, requests: u64, bytes: u64) -> i64 {
        let cost = requests.saturating_mul(self.bridge_bytes).saturating_add(bytes);
        // So that sums of them do not overflow.
        cost.min(1 << 44) as i64
    }

    /// Returns the most bytes that a digest is planned with.
    fn planned_bytes_max(&self) -> u64 {
        (self.bytes_max / PLANNED_SHARE) as u64
    }
}

impl Default for DigestBounds {
    fn default() -> Self {
        Self {
            readers_max: 4,
            saved_bytes_min: 32 << 20,
            saved_each_bytes_min: 1,
            bytes_max: 64 << 20,
            bridge_bytes: BRIDGE_BYTES_MAX,
        }
    }
}

/// Deletes of a stage: what each fragment reads of them, and what the coordinator reads for all.
#[derive(Debug, Clone, Default)]
pub struct StageDeletes {
    fragments: Vec<Reads>,
    digest: Option<DigestWork>,
}

/// Work of the coordinator on the deletes of a stage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestWork {
    /// Units for whose data files a vector is made of files of positions, each file once and those of a fragment together.
    pub vectors: Vec<usize>,
    /// Groups of files of keys of which one list is made, those first that save most.
    pub keys: Vec<GroupWork>,
    /// Number of the delete files that are read.
    pub files: usize,
    pub reads: Reads,
    /// About the bytes that are written.
    pub written_bytes: u64,
    /// Most bytes that are written.
    pub bytes_max: usize,
}

/// Work on one group of files of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupWork {
    /// Position of the group in the plan.
    pub group: usize,
    /// Unit whose rows it may delete.
    pub unit: usize,
    /// Sequence number above which files are read. Fragments read older files themselves.
    pub since: i64,
    /// Largest of the least sequence numbers of the fragments that read the list. Others read the few files that they need.
    pub until: i64,
}

impl StageDeletes {
    pub(in crate::planner) fn of(units: &[Unit], fragments: &[PackedFragment], bounds: &DigestBounds) -> Self {
        let Some(plan) = units.iter().find_map(own).map(FileDeletes::plan) else { return Self::default() };
        if units.iter().any(|unit| unit.leaf > 0) {
            // Each partition of several tables is read once, and so are most of its delete files.
            return Self::of_scans(units, fragments);
        }
        let each: Vec<FragmentDeletes<'_>> =
            fragments.iter().map(|fragment| FragmentDeletes::of(fragment.units().map(|unit| &units[unit]))).collect();
        let vectors = Vectors::of(plan, units, fragments, &each, bounds);
        let keys = digested_groups(plan, &each, bounds, bounds.planned_bytes_max().saturating_sub(vectors.bytes));
        let of_groups: BTreeMap<usize, &DigestedGroup> = keys.iter().map(|own| (own.group, own)).collect();
        let reads_of = |(fragment, own): (&PackedFragment, &FragmentDeletes<'_>)| {
            let of_plan = |number| plan.file(number).map(reads).unwrap_or_default();
            let undigested = own.positions(|set| !vectors.sets.contains_key(&set));
            let of_files: Reads = own.vectors.iter().copied().chain(undigested).map(of_plan).sum();
            let of_group = |(group, (files, number)): (usize, (&KeyGroup, i64))| match of_groups
                .get(&group)
                .filter(|own| number <= own.until)
            {
                Some(own) => part(own.bytes) + files.between(number, own.since).map(of_plan).sum::<Reads>(),
                None => files.newer(number).map(of_plan).sum(),
            };
            let of_keys: Reads = own.groups().into_iter().map(of_group).sum();
            of_files + of_keys + vectors.reads(units, fragment)
        };
        let reads = fragments.iter().zip(&each).map(reads_of).collect();
        Self { fragments: reads, digest: digest(plan, units, fragments, &vectors, &keys, bounds) }
    }

    /// Counts what fragments read themselves of the delete files of several scans.
    fn of_scans(units: &[Unit], fragments: &[PackedFragment]) -> Self {
        let leaves: BTreeSet<LeafId> = units.iter().map(|unit| unit.leaf).collect();
        let reads_of = |fragment: &PackedFragment| {
            let of_leaf = |leaf: &LeafId| {
                let own = fragment.units().map(|unit| &units[unit]).filter(|unit| unit.leaf == *leaf);
                FragmentDeletes::of(own).reads()
            };
            leaves.iter().map(of_leaf).sum()
        };
        Self { fragments: fragments.iter().map(reads_of).collect(), digest: None }
    }

    /// Returns what a fragment reads of delete files, or of their digest.
    pub fn reads(&self, fragment: usize) -> Reads {
        self.fragments.get(fragment).copied().unwrap_or_default()
    }

    /// Returns the coordinator's work. None where functions read all delete files themselves.
    pub fn digest(&self) -> Option<&DigestWork> {
        self.digest.as_ref()
    }
}

/// Collects the coordinator's work.
fn digest(
    plan: &DeletePlan,
    units: &[Unit],
    fragments: &[PackedFragment],
    vectors: &Vectors,
    keys: &[DigestedGroup],
    bounds: &DigestBounds,
) -> Option<DigestWork> {
    let mut work = DigestWork { bytes_max: bounds.bytes_max, ..DigestWork::default() };
    let (mut files, mut unit_of) = (BTreeSet::new(), BTreeMap::new());
    // Fragment by fragment.
    let deletes = || {
        let units_of = fragments.iter().flat_map(PackedFragment::units);
        units_of.filter_map(|unit| Some((unit, own(&units[unit])?)))
    };
    if !vectors.sets.is_empty() {
        let mut known = BTreeSet::new();
        for (unit, deletes) in deletes() {
            let Some(bytes) = vectors.bytes_of(deletes).filter(|_| known.insert(deletes.unit().path.as_str())) else {
                continue;
            };
            work.vectors.push(unit);
            work.written_bytes += bytes;
            files.extend(&plan.set(deletes.unit()).positions);
        }
    }
    let digested: BTreeSet<usize> = keys.iter().map(|own| own.group).collect();
    if !digested.is_empty() {
        for (unit, deletes) in deletes() {
            let scopes = plan.set(deletes.unit()).scopes.iter();
            for group in scopes.flat_map(|scope| plan.groups_of(*scope)).filter(|group| digested.contains(group)) {
                unit_of.entry(group).or_insert(unit);
            }
        }
    }
    for DigestedGroup { group, since, until, bytes, .. } in keys {
        let (Some(files_of), Some(unit)) = (plan.groups().get(*group), unit_of.get(group)) else { continue };
        work.keys.push(GroupWork { group: *group, unit: *unit, since: *since, until: *until });
        work.written_bytes += bytes;
        files.extend(files_of.newer(*since));
    }
    work.files = files.len();
    work.reads = files.into_iter().filter_map(|file| plan.file(file)).map(reads).sum();
    (work.files > 0).then_some(work)
}

/// Vectors that the coordinator makes of files of positions.
#[derive(Debug, Default)]
struct Vectors {
    /// Sets of delete files whose positions become vectors, with about the bytes of a vector: an even share of the files.
    sets: BTreeMap<u32, u64>,
    /// About the bytes of all vectors.
    bytes: u64,
}

impl Vectors {
    fn of(
        plan: &DeletePlan,
        units: &[Unit],
        fragments: &[PackedFragment],
        each: &[FragmentDeletes<'_>],
        bounds: &DigestBounds,
    ) -> Self {
        let mut readers: BTreeMap<u32, usize> = BTreeMap::new();
        each.iter().flat_map(|own| own.positions(|_| true)).for_each(|file| *readers.entry(file).or_default() += 1);
        readers.retain(|_, readers| *readers > bounds.readers_max);
        if readers.is_empty() {
            return Self::default();
        }
        let bytes = |file: u32| plan.file(file).map_or(0, read_bytes);
        // Data files of each set, and the fragments that would read vectors of them.
        let mut data: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        let mut read: BTreeMap<u32, u64> = BTreeMap::new();
        for fragment in fragments {
            let own = fragment.units().filter_map(|unit| own(&units[unit]));
            let files: BTreeSet<(u32, &str)> =
                own.filter_map(|own| Some((own.unit().set?, own.unit().path.as_str()))).collect();
            let sets: BTreeSet<u32> = files.iter().map(|(set, _)| *set).collect();
            sets.into_iter().for_each(|set| *read.entry(set).or_default() += 1);
            files.into_iter().for_each(|(set, path)| _ = data.entry(set).or_default().insert(path));
        }
        let positions =
            |set: u32| plan.sets().get(set as usize).map(|set| set.positions.as_slice()).unwrap_or_default();
        let mut sharers: BTreeMap<u32, u64> = BTreeMap::new();
        for (set, files) in &data {
            positions(*set).iter().for_each(|file| *sharers.entry(*file).or_default() += files.len() as u64);
        }
        let saves = |set: u32| {
            let again = |file: &u32| Some(bounds.cost(1, bytes(*file)) * (*readers.get(file)? as i64 - 1));
            positions(set).iter().filter_map(again).sum::<i64>()
                - bounds.cost(read.get(&set).copied().unwrap_or_default(), 0)
        };
        let share = |file: &u32| bytes(*file) / sharers.get(file).copied().unwrap_or(1).max(1);
        let is_shared = |set: &u32| positions(*set).iter().any(|file| readers.contains_key(file));
        let mut worth: Vec<(i64, u32)> = data.keys().copied().filter(is_shared).map(|set| (saves(set), set)).collect();
        worth.retain(|(saved, _)| *saved > bounds.saved_bytes_min);
        worth.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut found = Self::default();
        for (_, set) in worth {
            let each: u64 = positions(set).iter().map(share).sum();
            let all = each.saturating_mul(data.get(&set).map_or(0, |files| files.len() as u64));
            if found.bytes.saturating_add(all) <= bounds.planned_bytes_max() {
                found.bytes += all;
                found.sets.insert(set, each);
            }
        }
        found
    }

    /// Returns about the bytes of a data file's vector. None where it has none.
    fn bytes_of(&self, deletes: &FileDeletes) -> Option<u64> {
        self.sets.get(&deletes.unit().set?).copied()
    }

    /// Counts what a fragment reads of the vectors.
    fn reads(&self, units: &[Unit], fragment: &PackedFragment) -> Reads {
        if self.sets.is_empty() {
            return Reads::default();
        }
        let own = fragment.units().filter_map(|unit| own(&units[unit]));
        let each: BTreeMap<&str, u64> =
            own.filter_map(|own| Some((own.unit().path.as_str(), self.bytes_of(own)?))).collect();
        if each.is_empty() { Reads::default() } else { part(each.into_values().sum()) }
    }
}
