//! Choice of the files of keys that the coordinator makes one list of. Pure.
//!
//! ```text
//!  files of a group, the oldest first    ▢ ▢ ▢ ▣ ▣ ▣ ▣ ▣ ▣      ▣ newer than `since`: read once, into one list
//!  a fragment with old data files          └─┴─┘ reads these itself, and the list
//!  a fragment with newer data files                  └ needs these of the list
//!  a fragment whose data files are newer than `until`    └ reads its few files itself: the list would cost it more
//! ```

use std::cmp::Reverse;
use std::collections::BTreeMap;

use fragment_fn::{DeletePlan, KeyGroup};

use super::digest::DigestBounds;
use super::{FragmentDeletes, read_bytes};

/// Bytes of a Parquet file of keys around its values, at least: a footer and the headers of pages.
const FRAME_BYTES: u64 = 400;

/// Bytes of a list of keys around its keys: the schema and the ends of its batches.
const LIST_BYTES: u64 = 512;

/// Group of files of keys of which one list is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DigestedGroup {
    /// Position of the group in the plan.
    pub(super) group: usize,
    /// Sequence number above which files are in the list.
    pub(super) since: i64,
    /// Largest of the least sequence numbers of the fragments that read it.
    pub(super) until: i64,
    /// About the bytes of the list.
    pub(super) bytes: u64,
    saved: i64,
}

/// Returns the groups of files of keys that are worth a list, those first that save most. All of them have about `bytes_max` bytes.
pub(super) fn digested_groups(
    plan: &DeletePlan,
    each: &[FragmentDeletes<'_>],
    bounds: &DigestBounds,
    bytes_max: u64,
) -> Vec<DigestedGroup> {
    let mut readers: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
    for (group, (_, number)) in each.iter().flat_map(FragmentDeletes::groups) {
        readers.entry(group).or_default().push(number);
    }
    readers.retain(|_, readers| readers.len() > bounds.readers_max);
    let of_group = |(group, readers): (usize, Vec<i64>)| {
        let found = Choice::of(plan, plan.groups().get(group)?, readers, bounds).best(bytes_max)?;
        Some(DigestedGroup { group, ..found })
    };
    let mut found: Vec<DigestedGroup> = readers.into_iter().filter_map(of_group).collect();
    found.sort_by_key(|own| Reverse(own.saved));
    let mut left = bytes_max;
    found.retain(|own| {
        let fits = own.bytes <= left;
        left -= if fits { own.bytes } else { 0 };
        fits
    });
    found
}

/// Files of a group, and the fragments that need some.
struct Choice<'a> {
    bounds: &'a DigestBounds,
    group: &'a KeyGroup,
    /// Least sequence number of the data files of each fragment, ascending.
    readers: Vec<i64>,
    /// Number and bytes of the files from each place on, the oldest first.
    from: Vec<(u64, u64)>,
    /// Cost of the first `n` fragments where each reads its files itself.
    costs: Vec<i64>,
}

impl<'a> Choice<'a> {
    fn of(plan: &DeletePlan, group: &'a KeyGroup, mut readers: Vec<i64>, bounds: &'a DigestBounds) -> Self {
        readers.sort_unstable();
        let bytes = group.files().map(|file| plan.file(file).map_or(0, read_bytes)).collect::<Vec<_>>();
        let mut from = vec![(0, 0); bytes.len() + 1];
        for (place, bytes) in bytes.iter().enumerate().rev() {
            from[place] = (from[place + 1].0 + 1, from[place + 1].1 + bytes);
        }
        let mut choice = Self { bounds, group, readers, from, costs: vec![0] };
        for reader in 0..choice.readers.len() {
            let sum = choice.costs[reader] + choice.own_cost(choice.readers[reader]);
            choice.costs.push(sum);
        }
        choice
    }

    /// Returns number and bytes of the files that are newer than `number`.
    fn newer(&self, number: i64) -> (u64, u64) {
        self.from[self.from.len() - 1 - self.group.newer(number).len()]
    }

    fn own_cost(&self, number: i64) -> i64 {
        let (count, bytes) = self.newer(number);
        self.bounds.cost(count, bytes)
    }

    /// Returns the list that saves most. None where none saves enough.
    fn best(&self, bytes_max: u64) -> Option<DigestedGroup> {
        let mut places: Vec<usize> = (0..self.readers.len()).collect();
        places.dedup_by_key(|place| self.readers[*place]);
        let lists = places.into_iter().filter_map(|place| self.list(place));
        let lists = lists.filter(|list| list.bytes <= bytes_max && list.saved > self.bounds.saved_bytes_min);
        // The first of equal ones, which has most files.
        lists.reduce(|best, list| if list.saved > best.saved { list } else { best })
    }

    /// Returns the list of the files that the fragment at `place` needs. None where too few fragments would read it.
    fn list(&self, place: usize) -> Option<DigestedGroup> {
        let since = self.readers[place];
        let (count, all) = self.newer(since);
        let bytes = all.saturating_sub(count * FRAME_BYTES) + LIST_BYTES;
        let of_list = self.bounds.cost(1, bytes);
        // Cost of what the list spares a fragment.
        let spared = |number: i64| self.own_cost(number.max(since));
        let takes = |number: &i64| spared(*number) - of_list >= self.bounds.saved_each_bytes_min;
        let takers = self.readers.partition_point(takes);
        let until = *self.readers.get(takers.checked_sub(1)?)?;
        // Those before `place` are spared what it is spared.
        let (before, others) = (takers.min(place), takers.max(place));
        let of_takers = before as i64 * spared(since) + self.costs[others] - self.costs[place];
        let saved = of_takers - takers as i64 * of_list - self.bounds.cost(count, all);
        (takers > self.bounds.readers_max).then_some(DigestedGroup { group: 0, since, until, bytes, saved })
    }
}
