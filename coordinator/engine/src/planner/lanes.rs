//! Partitions of a stage's rows, cut into lanes and fragments once the bytes of all are known. Pure.
//!
//! ```text
//!  bytes of partitions   1 1 1 | 9 9 9 | 1 1 1 1      nine times the median: three lanes have a part of one leaf's rows each
//!  lanes                 0..3    3 3 3   6..10        others have some neighbouring partitions, as even as can be
//! ```

use std::ops::Range;

use super::passes::skew::SHARES_MIN;

/// Encoded bytes that a fragment over exchanges should read at most: a Lambda function's burst is not used up yet.
const FRAGMENT_BYTES_MAX: u64 = 128 << 20;

/// Bytes of a function's memory for each encoded byte that it reads of other stages. Rows are twice as long when they are decoded, and a hash table has them and more.
const MEMORY_PER_FRAGMENT_BYTE: u64 = 8;

/// Times of the median that a partition has at least for it to be much larger than the others.
const MEDIANS_MIN: u64 = 4;

/// Returns the encoded bytes that a fragment over exchanges should read at most, in a function with so much memory.
pub fn fragment_bytes_max(function_memory_bytes: u64) -> u64 {
    FRAGMENT_BYTES_MAX.min(function_memory_bytes / MEMORY_PER_FRAGMENT_BYTE).max(1)
}

/// Rows of one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneParts {
    /// Neighbouring partitions.
    pub partitions: Range<usize>,
    /// Part that it has of one leaf's rows. Other lanes have the rest of them, and each has all rows of the other leaves. None where it has all rows.
    pub part: Option<LeafPart>,
}

/// Part of the rows of one leaf of a stage's plan: those of some neighbouring producers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafPart {
    pub leaf: usize,
    pub producers: Range<usize>,
    /// True if functions that combine objects share a run of partitions. Else its partition is a large one that was split.
    pub is_group: bool,
}

impl LaneParts {
    /// Returns a lane that has all rows of these partitions.
    pub fn whole(partitions: Range<usize>) -> Self {
        Self { partitions, part: None }
    }

    /// Returns the producers whose rows it has of a leaf. None where it has those of all.
    pub fn producers(&self, leaf: usize) -> Option<&Range<usize>> {
        self.part.as_ref().filter(|part| part.leaf == leaf).map(|part| &part.producers)
    }

    /// Returns true if it has a part of a large partition.
    pub fn is_split(&self) -> bool {
        self.part.as_ref().is_some_and(|part| !part.is_group)
    }

    /// Returns a lane of each of its partitions, in their order. Parts stay as they are.
    pub fn each(&self) -> impl Iterator<Item = Self> {
        let part = &self.part;
        self.partitions.clone().map(move |at| Self { partitions: at..at + 1, part: part.clone() })
    }
}

/// Bounds of a stage's fragments.
#[derive(Debug, Clone, Copy)]
pub struct Width {
    /// Fragments by the plan.
    pub planned: usize,
    /// Most fragments.
    pub most: usize,
    pub lanes: usize,
    /// Bytes that a fragment has at least, unless there are fewer.
    pub bytes_min: u64,
    /// Bytes above which there are more fragments than planned.
    pub bytes_max: u64,
}

impl Width {
    fn fragments(&self, bytes: u64) -> usize {
        let of = |each: u64| usize::try_from(bytes.div_ceil(each.max(1))).unwrap_or(usize::MAX);
        of(self.bytes_min).min(self.planned).max(of(self.bytes_max)).clamp(1, self.most.max(1))
    }

    /// Returns the least bytes of a partition whose rows may be in several lanes: it is much larger than the others or than what a lane should read, has at least two
    /// lanes' even share, and is not smaller than a fragment should be.
    fn large(&self, weights: &[u64], share: u64) -> u64 {
        let mut sorted = weights.to_vec();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let of_lane = (self.bytes_max / self.lanes.max(1) as u64).saturating_add(1);
        let large = median.saturating_mul(MEDIANS_MIN).min(of_lane);
        large.max(share.saturating_mul(SHARES_MIN)).max(self.bytes_min)
    }
}

/// Cuts partitions of these bytes into lanes, and these into fragments. A lane begins and ends with a partition that has bytes and whose join may have rows. Its other
/// partitions are read, too, so that all bytes count for its length. `parts` makes the parts of a large partition, for lanes of so many bytes; none where its
/// rows have to stay together.
pub fn fragments(
    weights: &[u64],
    may_have_rows: &dyn Fn(usize) -> bool,
    parts: &dyn Fn(usize, u64) -> Vec<LeafPart>,
    width: Width,
) -> Vec<Vec<LaneParts>> {
    let total: u64 = weights.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let lanes = width.lanes.max(1);
    let count = width.fragments(total).saturating_mul(lanes);
    // Bytes of a lane, if all had as many.
    let share = (total / count as u64).max(1);
    let large = width.large(weights, share);
    let is_wanted = |partition: usize| weights[partition] > 0 && may_have_rows(partition);
    let whole = |among: Range<usize>| {
        let count = match among.len() == weights.len() {
            true => count,
            false => {
                let bytes: u64 = weights[among.clone()].iter().sum();
                usize::try_from((bytes + share / 2) / share).unwrap_or(usize::MAX).clamp(1, count)
            }
        };
        runs(weights, among, count, &is_wanted).into_iter().map(LaneParts::whole)
    };
    let (mut cut, mut begin): (Vec<LaneParts>, usize) = (Vec::new(), 0);
    for partition in (0..weights.len()).filter(|partition| weights[*partition] >= large && is_wanted(*partition)) {
        let parts = parts(partition, share);
        if parts.len() > 1 {
            cut.extend(whole(begin..partition));
            let lane = |part| LaneParts { part: Some(part), ..LaneParts::whole(partition..partition + 1) };
            cut.extend(parts.into_iter().map(lane));
            begin = partition + 1;
        }
    }
    cut.extend(whole(begin..weights.len()));
    cut.chunks(lanes).map(<[LaneParts]>::to_vec).collect()
}

/// Cuts lanes of more than `bytes_max` by the producers of their rows, for a stage that reads one leaf: at most `most` fragments in all, each of one lane. `by_producer`
/// lists the bytes of a lane's partitions by all producers. A lane that has a part of them counts its own producers, and is cut within these.
pub fn in_groups(
    lanes: Vec<LaneParts>,
    by_producer: &dyn Fn(&LaneParts) -> Vec<u64>,
    bytes_max: u64,
    most: usize,
) -> Vec<Vec<LaneParts>> {
    let own = |lane: &LaneParts| {
        let mut bytes = by_producer(lane);
        let of_others = |producer: usize| lane.producers(0).is_some_and(|own| !own.contains(&producer));
        (0..bytes.len()).filter(|producer| of_others(*producer)).for_each(|producer| bytes[producer] = 0);
        bytes
    };
    let bytes: Vec<Vec<u64>> = lanes.iter().map(own).collect();
    let total: u64 = bytes.iter().flatten().sum();
    // The groups of a lane are one more than its bytes fill, at most.
    let more = most.saturating_sub(lanes.len()).max(1);
    let each = bytes_max.max(total.div_ceil(more as u64)).max(1);
    let grouped = |(lane, bytes): (LaneParts, Vec<u64>)| {
        let count = usize::try_from(bytes.iter().sum::<u64>().div_ceil(each)).unwrap_or(usize::MAX);
        let among = lane.producers(0).cloned().unwrap_or(0..bytes.len());
        let count = count.min(among.len());
        let groups = runs(&bytes, among, count, &|producer| bytes[producer] > 0);
        if groups.len() <= 1 {
            return vec![vec![lane]];
        }
        let is_group = !lane.is_split();
        let part = |producers| LaneParts { part: Some(LeafPart { leaf: 0, producers, is_group }), ..lane.clone() };
        groups.into_iter().map(|producers| vec![part(producers)]).collect()
    };
    lanes.into_iter().zip(bytes).flat_map(grouped).collect()
}

/// Cuts some neighbours with these bytes into at most so many runs, of bytes as even as can be. A run begins and ends with a neighbour that is wanted.
pub fn runs(
    weights: &[u64],
    among: Range<usize>,
    count: usize,
    is_wanted: &dyn Fn(usize) -> bool,
) -> Vec<Range<usize>> {
    let heaviest = |ends: &[usize]| {
        let starts = std::iter::once(&among.start).chain(ends);
        starts.zip(ends).map(|(start, end)| weights[*start..*end].iter().sum::<u64>()).max()
    };
    let own = &weights[among.clone()];
    let share = own.iter().sum::<u64>() / count.max(1) as u64;
    let even = even(weights, &among, count);
    // One of more than a share is better alone.
    let light = own.iter().any(|weight| *weight > share).then(|| light(weights, &among, count));
    let ends = match light {
        Some(light) if heaviest(&light) < heaviest(&even) => light,
        _ => even,
    };
    let starts = std::iter::once(among.start).chain(ends.iter().copied());
    let trimmed = |(start, end): (usize, &usize)| {
        let first = (start..*end).find(|at| is_wanted(*at))?;
        let end = (first..*end).rfind(|at| is_wanted(*at))? + 1;
        Some(first..end)
    };
    starts.zip(&ends).filter_map(trimmed).collect()
}

/// Returns the ends of runs, each of which ends where the sum of the bytes has its share. Some may be empty.
fn even(weights: &[u64], among: &Range<usize>, count: usize) -> Vec<usize> {
    let total: u128 = weights[among.clone()].iter().map(|weight| u128::from(*weight)).sum();
    let (mut ends, mut sum) = (Vec::with_capacity(count), 0_u128);
    for at in among.clone() {
        sum += u128::from(weights[at]);
        // Without a division: the planner cuts for thousands of producers, for each candidate.
        while total > 0 && ends.len() < count && (ends.len() as u128 + 1) * total <= sum * count as u128 {
            ends.push(at + 1);
        }
    }
    ends.resize(count, among.start);
    ends
}

/// Returns the ends of at most so many runs, the heaviest of which is as light as can be.
fn light(weights: &[u64], among: &Range<usize>, count: usize) -> Vec<usize> {
    let ends = |most: u64| {
        let (mut ends, mut sum) = (Vec::new(), 0_u64);
        for at in among.clone() {
            let more = sum.saturating_add(weights[at]);
            let is_full = more > most && sum > 0;
            if is_full {
                ends.push(at);
            }
            sum = if is_full { weights[at] } else { more };
        }
        ends.push(among.end);
        ends
    };
    let own = &weights[among.clone()];
    let (mut least, mut most) = (own.iter().copied().max().unwrap_or_default(), own.iter().sum::<u64>());
    while least < most {
        let middle = least + (most - least) / 2;
        if ends(middle).len() <= count { most = middle } else { least = middle + 1 }
    }
    ends(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wholes(fragments: &[Vec<LaneParts>]) -> Vec<Vec<(usize, usize)>> {
        let ends = |lane: &LaneParts| (lane.partitions.start, lane.partitions.end);
        fragments.iter().map(|lanes| lanes.iter().map(ends).collect()).collect()
    }

    fn none(_: usize, _: u64) -> Vec<LeafPart> {
        Vec::new()
    }

    #[test]
    fn partitions_are_cut_into_runs_of_like_size() {
        #[track_caller]
        fn check(weights: &[u64], most: usize, lanes: usize, bytes_min: u64, expect: &[&[(usize, usize)]]) {
            let width = Width { planned: most, most, lanes, bytes_min, bytes_max: u64::MAX };
            let cut = wholes(&fragments(weights, &|_| true, &none, width));
            assert_eq!(cut, expect, "{weights:?} {most} {lanes} {bytes_min}");
        }
        check(&[1, 1, 1, 1], 2, 1, 1, &[&[(0, 2)], &[(2, 4)]]);
        check(&[1, 1, 1, 1], 2, 2, 1, &[&[(0, 1), (1, 2)], &[(2, 3), (3, 4)]]);
        check(&[1, 1, 1, 1], 8, 1, 2, &[&[(0, 2)], &[(2, 4)]]);
        check(&[1, 1, 1, 1], 8, 1, 100, &[&[(0, 4)]]);
        check(&[0, 0, 5, 0], 4, 1, 1, &[&[(2, 3)]]);
        check(&[5, 0, 0, 5], 4, 2, 1, &[&[(0, 1), (3, 4)]]);
        check(&[0, 0, 0], 4, 1, 1, &[]);
    }

    #[test]
    fn a_large_partition_has_a_function_alone_and_small_ones_share_one() {
        #[track_caller]
        fn check(weights: &[u64], most: usize, expect: &[&[(usize, usize)]]) {
            let width = Width { planned: most, most, lanes: 1, bytes_min: 1, bytes_max: u64::MAX };
            assert_eq!(wholes(&fragments(weights, &|_| true, &none, width)), expect, "{weights:?} {most}");
        }
        check(&[9, 1, 1, 1], 2, &[&[(0, 1)], &[(1, 4)]]);
        check(&[1, 1, 1, 9], 2, &[&[(0, 3)], &[(3, 4)]]);
        check(&[1, 1, 10, 1, 1], 3, &[&[(0, 2)], &[(2, 3)], &[(3, 5)]]);
        let mut weights = vec![1; 256];
        weights[100] = 1_000;
        check(&weights, 3, &[&[(0, 100)], &[(100, 101)], &[(101, 256)]]);
    }

    #[test]
    fn partitions_whose_join_has_no_row_are_trimmed_and_count() {
        #[track_caller]
        fn check(weights: &[u64], wanted: &[usize], lanes: usize, expect: &[&[(usize, usize)]]) {
            // A lane should read at most 10 bytes.
            let width = Width { planned: 1, most: 100, lanes, bytes_min: 1, bytes_max: 10 * lanes as u64 };
            let cut = wholes(&fragments(weights, &|partition| wanted.contains(&partition), &none, width));
            assert_eq!(cut, expect, "{weights:?} {wanted:?} {lanes}");
        }
        // At the ends, and all.
        check(&[5, 5, 5, 5], &[1], 1, &[&[(1, 2)]]);
        check(&[5, 5, 5, 5], &[2], 1, &[&[(2, 3)]]);
        check(&[5, 5, 5, 5], &[], 1, &[]);
        // Between two that are wanted: what is read counts.
        check(&[1, 8, 1, 10], &[0, 2], 1, &[&[(0, 3)]]);
        check(&[1, 10, 10, 10, 10, 10, 1], &[0, 6], 1, &[&[(0, 1)], &[(6, 7)]]);
        check(&[1, 9, 10, 9, 1], &[0, 4], 2, &[&[(0, 1), (4, 5)]]);
        // One without bytes is not wanted.
        check(&[0, 5, 5, 0], &[0, 1, 2, 3], 1, &[&[(1, 3)]]);
    }

    #[test]
    fn large_partitions_are_split_and_others_are_not() {
        /// Checks the lanes: partitions, and the producers of the leaf that is split.
        #[track_caller]
        fn check(weights: &[u64], width: Width, expect: &[&str]) {
            let halves = |_: usize, _: u64| -> Vec<LeafPart> {
                [0..2, 2..5].into_iter().map(|producers| LeafPart { leaf: 1, producers, is_group: false }).collect()
            };
            let lane = |lane: &LaneParts| {
                let part = lane.producers(1).map_or_else(String::new, |producers| format!(" of {producers:?}"));
                assert_eq!(lane.producers(0), None);
                format!("{:?}{part}", lane.partitions)
            };
            let cut = fragments(weights, &|_| true, &halves, width).concat();
            assert_eq!(cut.iter().map(lane).collect::<Vec<_>>(), expect, "{weights:?} {width:?}");
        }
        let width = Width { planned: 4, most: 4, lanes: 1, bytes_min: 1, bytes_max: u64::MAX };
        check(&[1, 1, 20, 1, 1], width, &["0..2", "2..3 of 0..2", "2..3 of 2..5", "3..5"]);
        check(&[20, 1, 1], width, &["0..1 of 0..2", "0..1 of 2..5", "1..3"]);
        // All of one key.
        check(&[0, 20, 0], width, &["1..2 of 0..2", "1..2 of 2..5"]);
        // Two lanes' share, and not four times the others; and the other way round.
        check(&[8, 3, 3, 2], width, &["0..1", "1..3", "3..4"]);
        check(&[8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], Width { planned: 2, most: 2, ..width }, &["0..2", "2..11"]);
        // It is as large as the others, and no lane should read so much.
        check(
            &[8, 8],
            Width { bytes_max: 5, ..width },
            &["0..1 of 0..2", "0..1 of 2..5", "1..2 of 0..2", "1..2 of 2..5"],
        );
        // A fragment should have more.
        check(&[1, 1, 20, 1, 1], Width { bytes_min: 21, lanes: 4, ..width }, &["0..2", "2..3", "3..5"]);
        // Two lanes in a function.
        let cut = fragments(&[1, 1, 20, 1, 1], &|_| true, &none, Width { planned: 2, lanes: 2, ..width });
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn functions_share_a_long_run_by_producers() {
        /// Checks the fragments: partitions, and the producers of the leaf. Partitions have so many bytes by producer.
        #[track_caller]
        fn check(by_producer: &[&[u64]], lanes: &[LaneParts], bytes_max: u64, most: usize, expect: &[&str]) {
            let bytes = |lane: &LaneParts| -> Vec<u64> {
                by_producer.iter().map(|partitions| partitions[lane.partitions.clone()].iter().sum()).collect()
            };
            let cut = in_groups(lanes.to_vec(), &bytes, bytes_max, most);
            assert!(cut.iter().all(|lanes| lanes.len() == 1), "{cut:?}");
            let lane = |lane: LaneParts| {
                let part = lane.producers(0).map_or_else(String::new, |producers| format!(" of {producers:?}"));
                format!("{:?}{part}", lane.partitions)
            };
            let found: Vec<String> = cut.into_iter().flatten().map(lane).collect();
            assert_eq!(found, expect, "{by_producer:?} {lanes:?} {bytes_max} {most}");
        }
        let (first, second) = (LaneParts::whole(0..2), LaneParts::whole(2..4));
        let both = [first.clone(), second];
        // Eight and four bytes in the two runs, of four producers each.
        let rows: [&[u64]; 4] = [&[1, 1, 0, 1]; 4];
        check(&rows, &both, 8, 100, &["0..2", "2..4"]);
        check(&rows, &both, 4, 100, &["0..2 of 0..2", "0..2 of 2..4", "2..4"]);
        check(
            &rows,
            &both,
            2,
            100,
            &["0..2 of 0..1", "0..2 of 1..2", "0..2 of 2..3", "0..2 of 3..4", "2..4 of 0..2", "2..4 of 2..4"],
        );
        // The rows of one producer stay together, and one without rows is left out.
        check(&[&[9, 9]], std::slice::from_ref(&first), 1, 100, &["0..2"]);
        check(&[&[4, 4], &[0, 0], &[4, 4]], std::slice::from_ref(&first), 8, 100, &["0..2 of 0..1", "0..2 of 2..3"]);
        // No more than there may be: with two more each has six bytes.
        check(&rows, &both, 1, 4, &["0..2 of 0..2", "0..2 of 2..4", "2..4"]);
        check(&rows, &both, 1, 2, &["0..2", "2..4"]);
        // A part of a partition has its own producers' bytes, and is cut within these. It stays as it is where it has no more than a function should read.
        let part = |producers| LaneParts {
            part: Some(LeafPart { leaf: 0, producers, is_group: false }),
            ..LaneParts::whole(0..1)
        };
        check(&rows, &[part(1..3)], 2, 100, &["0..1 of 1..3"]);
        check(&rows, &[part(1..4)], 1, 100, &["0..1 of 1..2", "0..1 of 2..3", "0..1 of 3..4"]);
        // One of 16 bytes in two parts beside a run of 8: with four more fragments each has six of the 24 bytes.
        let skewed: [&[u64]; 4] = [&[4, 1, 1]; 4];
        let lanes = [part(0..2), part(2..4), LaneParts::whole(1..3)];
        let expect = ["0..1 of 0..1", "0..1 of 1..2", "0..1 of 2..3", "0..1 of 3..4", "1..3 of 0..2", "1..3 of 2..4"];
        check(&skewed, &lanes, 1, 7, &expect);
    }

    #[test]
    fn a_group_of_one_partition_is_no_part_of_a_large_one() {
        let split = LeafPart { leaf: 0, producers: 0..2, is_group: false };
        let lanes = vec![LaneParts { part: Some(split), ..LaneParts::whole(0..1) }, LaneParts::whole(1..2)];
        let cut = in_groups(lanes, &|_| vec![4, 4], 4, 100).concat();
        assert_eq!(cut.iter().map(LaneParts::is_split).collect::<Vec<_>>(), [true, true, false, false], "{cut:?}");
    }

    #[test]
    fn a_stage_has_as_many_fragments_as_its_bytes_need() {
        // Planned are 4 of at most 100. A fragment should have 10 to 1,000 bytes.
        let width = Width { planned: 4, most: 100, lanes: 1, bytes_min: 10, bytes_max: 1_000 };
        for (bytes, expect) in
            [(1, 1), (10, 1), (25, 3), (40, 4), (4_000, 4), (4_001, 5), (50_000, 50), (100_001, 100), (u64::MAX, 100)]
        {
            assert_eq!(width.fragments(bytes), expect, "{bytes}");
        }
        // With a number of partitions all planned ones are used.
        assert_eq!(Width { bytes_min: 1, ..width }.fragments(25), 4);
    }

    #[test]
    fn every_partition_with_rows_is_in_one_lane_or_each_of_its_parts_is() {
        for seed in 0_u64..200 {
            let weights: Vec<u64> =
                (0..1 + seed % 17).map(|at| (seed * 31 + at * at * 7) % 5 * (at % 3).pow(4)).collect();
            let may_have_rows = |at: usize| !(seed as usize + at * 5).is_multiple_of(4);
            for (most, lanes) in [(1, 1), (3, 1), (4, 2), (100, 3)] {
                for pieces in [0, 3] {
                    let width = Width { planned: most, most, lanes, bytes_min: 1, bytes_max: u64::MAX };
                    let parts = |_: usize, _: u64| -> Vec<LeafPart> {
                        (0..pieces).map(|at| LeafPart { leaf: 0, producers: at..at + 1, is_group: false }).collect()
                    };
                    let cut: Vec<LaneParts> = fragments(&weights, &may_have_rows, &parts, width).concat();
                    let what = format!("{weights:?} {most} {lanes}: {cut:?}");
                    for (at, weight) in weights.iter().enumerate() {
                        let own: Vec<&LaneParts> = cut.iter().filter(|lane| lane.partitions.contains(&at)).collect();
                        let (wholes, split) = (own.iter().filter(|lane| lane.part.is_none()).count(), own.len());
                        let is_wanted = *weight > 0 && may_have_rows(at);
                        match (wholes, split) {
                            (0, 0) => assert!(!is_wanted, "{at}: {what}"),
                            (0, split) => assert_eq!(split, pieces, "{at}: {what}"),
                            both => assert_eq!(both, (1, 1), "{at}: {what}"),
                        }
                    }
                    assert!(pieces > 0 || cut.len() <= most * lanes, "{what}");
                }
            }
        }
    }

    #[test]
    fn a_fragment_is_taken_apart_by_partitions() {
        let part = LeafPart { leaf: 1, producers: 3..5, is_group: false };
        let split = LaneParts { partitions: 7..8, part: Some(part) };
        let each = |lane: &LaneParts| lane.each().collect::<Vec<_>>();
        assert_eq!(each(&split), std::slice::from_ref(&split));
        assert_eq!(each(&LaneParts::whole(2..4)), [LaneParts::whole(2..3), LaneParts::whole(3..4)]);
    }
}
