//! Functions whose memory does not hold several partitions of other functions' rows: the coordinator has to take their fragments apart.
//!
//! Each attempt at such a fragment runs out of memory, unless a fault ends it before. One partition always fits.

use std::collections::{BTreeMap, BTreeSet};

use gust_protocol::parts::{Regions, Slice};
use gust_protocol::{FragmentError, FragmentErrorKind, FragmentId, InvokeRequest};

use super::fault::Fault;
use super::fragment_rows::number;
use super::parts::slices;

/// Fragments of one in so many run out of memory, drawn by their names.
const ONE_IN: u64 = 3;

/// Queries whose functions have little memory, and the rows that they sent.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    queries: BTreeSet<String>,
    /// Regions of each attempt's rows.
    written: BTreeMap<(FragmentId, u32), Regions>,
}

impl Shortage {
    pub(super) fn expect(&mut self, query: &str) {
        self.queries.insert(query.to_owned());
    }

    /// Notes the rows of an attempt. What it writes a second time is no answer.
    pub(super) fn note(&mut self, id: &FragmentId, attempt: u32, regions: &Regions) {
        if self.queries.contains(&id.query) {
            self.written.entry((id.clone(), attempt)).or_insert_with(|| regions.clone());
        }
    }

    /// Returns the rows of an attempt with this fault, or its failure if it runs out of memory.
    pub(super) fn held<T>(
        &self,
        seed: u64,
        request: &InvokeRequest,
        fault: Option<Fault>,
        rows: T,
    ) -> Result<T, FragmentError> {
        match !fault.is_some_and(Fault::ends_attempt) && self.is_felt(seed, request) {
            true => Err(FragmentError::new(FragmentErrorKind::OutOfMemory, "one partition would fit")),
            false => Ok(rows),
        }
    }

    fn is_felt(&self, seed: u64, request: &InvokeRequest) -> bool {
        let id = &request.fragment.id;
        self.queries.contains(&id.query)
            && number(seed, (id, "little memory")).is_multiple_of(ONE_IN)
            && slices(request).flat_map(|slice| self.partitions(&id.query, &slice)).collect::<BTreeSet<_>>().len() > 1
    }

    /// Lists the partitions of a slice that have rows.
    fn partitions(&self, query: &str, slice: &Slice) -> Vec<usize> {
        let producer = FragmentId { query: query.to_owned(), stage: slice.stage, index: slice.index };
        let Some(Regions(regions)) = self.written.get(&(producer, slice.attempt)) else { return Vec::new() };
        let (mut end, mut found) = (0, Vec::new());
        for (partition, region) in regions.iter().enumerate() {
            let start = end;
            end += region.bytes;
            if region.bytes > 0 && slice.start <= start && end <= slice.start + slice.bytes {
                found.push(partition);
            }
        }
        found
    }
}
