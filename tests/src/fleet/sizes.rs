//! Sizes that rows between functions have by their answers: a few rows stand for gigabytes.
//!
//! A stage's rows are as long as a share of what its functions read. Answers tell these sizes, so that the coordinator chooses functions by them and names slices by
//! them, and the simulated network carries them. The object holds the few rows: a reader finds them by the partitions that its slice spans. Such rows have no faults of their
//! own, because the coordinator would miss most of the object's bytes.

use std::collections::BTreeMap;
use std::ops::Range;

use gust_protocol::parts::{LaneSlices, PartsInput, Regions, Slice};
use gust_protocol::{Base64, FragmentId, InvokeRequest, StreamSummary};

use super::parts::object_slices;

/// Shares of a query's stages, by their numbers. Rows of other stages have the sizes that they have.
pub(super) type Shares = BTreeMap<u32, Share>;

/// Size of a stage's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// Bytes that leave for each byte that is read.
    pub(super) of_read: f64,
    /// True if a function's rows stay in the partitions in which it reads them.
    pub(super) keeps_partitions: bool,
}

/// Sizes of all queries' rows.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    shares: BTreeMap<String, Shares>,
    written: BTreeMap<(FragmentId, u32), Written>,
}

/// Rows of one attempt.
#[derive(Debug)]
struct Written {
    /// First partition that has bytes by the answer.
    first: usize,
    /// Bytes of each partition that has some, by the answer.
    bytes: u64,
    /// Partitions as they are in the object.
    regions: Regions,
}

impl Written {
    /// Returns the partitions that a slice spans.
    fn partitions(&self, slice: &Slice) -> Range<usize> {
        let first = self.first + (slice.start / self.bytes) as usize;
        first..first + (slice.bytes / self.bytes) as usize
    }
}

impl Sizes {
    pub(super) fn expect(&mut self, query: &str, shares: Shares) {
        self.shares.insert(query.to_owned(), shares);
    }

    fn share(&self, id: &FragmentId) -> Option<Share> {
        self.shares.get(&id.query)?.get(&id.stage).copied()
    }

    /// Returns the bytes that a fragment sends which reads so many. None where its rows have the size that they have.
    pub(super) fn sent(&self, id: &FragmentId, read: u64) -> Option<u64> {
        self.share(id).map(|share| (read as f64 * share.of_read) as u64)
    }

    /// Returns the partitions among so many that have rows of a fragment.
    pub(super) fn partitions(&self, request: &InvokeRequest, of: usize) -> Range<usize> {
        if !self.share(&request.fragment.id).is_some_and(|share| share.keeps_partitions) {
            return 0..of;
        }
        let read = object_slices(request).into_iter().filter_map(|slice| {
            let written = self.written.get(&(producer(&request.fragment.id.query, &slice), slice.attempt))?;
            Some(written.partitions(&slice))
        });
        read.reduce(|all, run| all.start.min(run.start)..all.end.max(run.end)).unwrap_or(0..of)
    }

    /// Notes where the rows of an attempt are, and returns the regions of its answer: `sent` bytes, in equal parts for these partitions.
    pub(super) fn told(
        &mut self,
        id: &FragmentId,
        attempt: u32,
        partitions: Range<usize>,
        sent: u64,
        regions: Regions,
    ) -> Regions {
        let bytes = (sent / partitions.len().max(1) as u64).max(1);
        let told = |(partition, region): (usize, &StreamSummary)| StreamSummary {
            bytes: if partitions.contains(&partition) { bytes } else { 0 },
            rows: region.rows,
            crc32: 0,
        };
        let told = Regions(regions.0.iter().enumerate().map(told).collect());
        let written = Written { first: partitions.start, bytes, regions };
        self.written.entry((id.clone(), attempt)).or_insert(written);
        told
    }

    /// Returns rows with their places in the objects. None where all places are as they were told.
    pub(super) fn found(&self, query: &str, parts: &[PartsInput]) -> Option<Vec<PartsInput>> {
        self.shares.get(query)?;
        let lane = |lane: &Base64| {
            let told = LaneSlices::decoded(lane).expect("the coordinator's own");
            let slices = told.slices.into_iter().filter_map(|slice| self.place(query, slice)).collect();
            LaneSlices { slices }.encoded()
        };
        let input = |input: &PartsInput| PartsInput { lanes: input.lanes.iter().map(lane).collect(), ..input.clone() };
        Some(parts.iter().map(input).collect())
    }

    /// Returns a slice with its place in the object. None where it has no rows.
    fn place(&self, query: &str, slice: Slice) -> Option<Slice> {
        let Some(written) = self.written.get(&(producer(query, &slice), slice.attempt)) else { return Some(slice) };
        let (start, StreamSummary { bytes, rows, crc32 }) = written.regions.run(written.partitions(&slice));
        (bytes > 0).then_some(Slice { start, bytes, rows, crc32, ..slice })
    }
}

fn producer(query: &str, slice: &Slice) -> FragmentId {
    FragmentId { query: query.to_owned(), stage: slice.stage, index: slice.index }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_where_they_are() {
        let id = FragmentId { query: "q".to_owned(), stage: 1, index: 2 };
        let mut sizes = Sizes::default();
        assert_eq!(sizes.sent(&id, 100), None);
        assert_eq!(sizes.found("q", &[]), None);
        sizes.expect("q", Shares::from([(1, Share { of_read: 0.5, keeps_partitions: false })]));
        assert_eq!(sizes.sent(&id, 8_000), Some(4_000));
        let region = |bytes, rows, crc32| StreamSummary { bytes, rows, crc32 };
        let real = Regions(vec![region(10, 1, 7), region(0, 0, 0), region(30, 3, 9), region(0, 0, 0)]);
        let bytes = |told: &Regions| told.0.iter().map(|region| region.bytes).collect::<Vec<_>>();
        assert_eq!(bytes(&sizes.told(&id, 5, 0..4, 4_000, real.clone())), [1_000; 4]);
        assert_eq!(bytes(&sizes.told(&id, 6, 1..3, 4_000, real)), [0, 2_000, 2_000, 0]);
        let slice = |attempt, start, bytes| Slice { stage: 1, index: 2, attempt, start, bytes, ..Slice::default() };
        let check = |told: Slice, expect: Option<Slice>| {
            let lanes = vec![LaneSlices { slices: vec![told] }.encoded()];
            let parts = vec![PartsInput { access: 0, prefix: "x".to_owned(), lanes }];
            let found = sizes.found("q", &parts).expect("a query with sizes");
            let found = LaneSlices::decoded(&found[0].lanes[0]).expect("encoded above");
            assert_eq!(found.slices, expect.into_iter().collect::<Vec<_>>());
        };
        // The second partition has no rows, the third has three.
        check(slice(5, 1_000, 1_000), None);
        check(slice(5, 1_000, 2_000), Some(Slice { rows: 3, crc32: 9, ..slice(5, 10, 30) }));
        check(slice(6, 2_000, 2_000), Some(Slice { rows: 3, crc32: 9, ..slice(6, 10, 30) }));
        // The rows of another attempt have the size that they have.
        check(slice(7, 1_000, 2_000), Some(slice(7, 1_000, 2_000)));
    }
}
