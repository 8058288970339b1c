//! Delete files of a fragment, or of a scan on the coordinator: each once, under numbers of its own. Pure.
//!
//! ```text
//!  units of a fragment ─► FragmentDeletes ─┬─► StageDeletes: reads of each fragment; files that the coordinator had better read ([`digest`],
//!                                          │   [`keys`])
//!                                          └─► RequestDeletes: files and sets as a request names them ([`request`])
//! ```

mod digest;
mod keys;
mod request;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use fragment_fn::{DeletePlan, FileDeletes, KeyGroup, WHOLE_FILE_BYTES_MAX};
use gust_protocol::{DeleteContent, DeleteFile, UnitDeletes};

pub use digest::{DigestBounds, DigestWork, GroupWork, StageDeletes};
pub(super) use request::RequestDeletes;
pub use request::{DigestedDeletes, DigestedKeys};

use super::passes::units::Unit;
use crate::model::load::Reads;

/// Delete files that the units of one fragment need, by their numbers in the scan. Units of one fragment mostly share their sets, so
/// that its size goes by the delete files, not by them and the units.
#[derive(Debug, Default)]
pub(super) struct FragmentDeletes<'a> {
    plan: Option<&'a DeletePlan>,
    vectors: BTreeSet<u32>,
    /// Sets, with the least sequence number of their data files: older keys delete none of their rows.
    sets: BTreeMap<u32, i64>,
}

impl<'a> FragmentDeletes<'a> {
    pub(super) fn of(units: impl IntoIterator<Item = &'a Unit>) -> Self {
        let mut found = Self::default();
        for deletes in units.into_iter().filter_map(own) {
            let UnitDeletes { vector, set, sequence_number: number, .. } = deletes.unit();
            found.plan = Some(deletes.plan());
            found.vectors.extend(vector);
            if let Some(set) = set {
                found.sets.entry(*set).and_modify(|oldest| *oldest = (*oldest).min(*number)).or_insert(*number);
            }
        }
        found
    }

    /// Lists the files of positions of some sets, ascending.
    fn positions(&self, is_wanted: impl Fn(u32) -> bool) -> Vec<u32> {
        let known = self.plan.map(DeletePlan::sets).unwrap_or_default();
        let sets = self.sets.keys().filter(|set| is_wanted(**set)).filter_map(|set| known.get(*set as usize));
        let mut positions: Vec<u32> = sets.flat_map(|set| &set.positions).copied().collect();
        if self.sets.len() > 1 {
            positions.sort_unstable();
            positions.dedup();
        }
        positions
    }

    /// Lists the groups of files of keys that delete rows, with the least sequence number of the data files that need them.
    fn groups(&self) -> BTreeMap<usize, (&'a KeyGroup, i64)> {
        let mut groups: BTreeMap<usize, (&KeyGroup, i64)> = BTreeMap::new();
        let Some(plan) = self.plan else { return groups };
        for (set, number) in
            self.sets.iter().filter_map(|(set, number)| Some((plan.sets().get(*set as usize)?, *number)))
        {
            for group in set.scopes.iter().flat_map(|scope| plan.groups_of(*scope)) {
                let known = plan.groups().get(group).filter(|known| known.newest() > number);
                if let Some(known) = known {
                    groups
                        .entry(group)
                        .and_modify(|(_, oldest)| *oldest = number.min(*oldest))
                        .or_insert((known, number));
                }
            }
        }
        groups
    }

    /// Lists the delete files by their numbers in the scan, each once.
    fn numbers(&self) -> impl Iterator<Item = u32> {
        let of_keys = self.groups().into_values().flat_map(|(group, number)| group.newer(number));
        self.vectors.iter().copied().chain(self.positions(|_| true)).chain(of_keys)
    }

    /// Lists the delete files.
    pub(super) fn files(&self) -> impl Iterator<Item = &'a DeleteFile> {
        let plan = self.plan;
        self.numbers().filter_map(move |number| plan?.file(number))
    }

    /// Counts what a reader of them asks for.
    pub(super) fn reads(&self) -> Reads {
        self.files().map(reads).sum()
    }
}

fn own(unit: &Unit) -> Option<&FileDeletes> {
    unit.file.extensions.get::<FileDeletes>()
}

/// Counts the requests for one delete file. How its row groups lie is not known.
fn reads(file: &DeleteFile) -> Reads {
    let bytes = read_bytes(file);
    let rest = u64::from(bytes > WHOLE_FILE_BYTES_MAX);
    match file.content {
        DeleteContent::Vector { .. } | DeleteContent::Keys { .. } => part(bytes),
        DeleteContent::Positions | DeleteContent::Equality { .. } => Reads {
            footers: 1,
            footers_max: 1 + rest,
            row_groups: rest,
            runs: rest,
            // Each MiB may be a row group of its own.
            runs_max: rest * bytes.div_ceil(1 << 20),
            bytes,
            ..Reads::default()
        },
    }
}

/// Counts the request for a part of a file.
fn part(bytes: u64) -> Reads {
    Reads { runs: 1, runs_max: 1, bytes, ..Reads::default() }
}

/// Returns the bytes that a reader of a delete file asks for.
pub fn read_bytes(file: &DeleteFile) -> u64 {
    match file.content {
        DeleteContent::Vector { bytes, .. } | DeleteContent::Keys { bytes, .. } => bytes,
        DeleteContent::Positions | DeleteContent::Equality { .. } => file.file.size_bytes,
    }
}
