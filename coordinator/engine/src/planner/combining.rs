//! Functions that make few objects of many for another stage: how many there are for rows of some sizes, and whether they pay. Pure.
//!
//! ```text
//!  bytes of partitions ─► runs of partitions (lanes.rs) ─► groups of producers, where a run is long ─► Combiners ─► do they pay?
//! ```
//!
//! A coordinator cuts the rows that are there. The planner cuts rows of the expected bytes, spread evenly, by the same functions: estimates and EXPLAIN have what would run.

use std::collections::BTreeMap;
use std::iter::Sum;

use super::lanes::{self, LaneParts, Width};

/// Rule of a stage that makes few objects of many, for another stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Combining {
    /// Lanes that read its rows, by the plan.
    pub readers: usize,
    /// Most reads of these lanes without it. 0 for a stage that always runs.
    pub reads_max: u64,
    /// Functions that are expected to run: none where they are not expected to pay.
    pub expected: Combiners,
}

/// Functions that make few objects of many. Each reads a run of partitions from the objects of some producers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Combiners {
    /// All of them.
    pub functions: usize,
    /// Runs of partitions. Each object is read once a run.
    pub runs: usize,
    /// Functions that share one run, at most: each has another group of producers. A reader finds its rows in one object of each.
    pub groups: usize,
}

/// Rows as they are expected: spread evenly over partitions and producers.
#[derive(Debug, Clone, Copy)]
pub struct EvenRows {
    /// Encoded bytes. None where no statistics tell.
    pub bytes: Option<u64>,
    pub partitions: usize,
    pub producers: usize,
}

/// Bounds of the functions that combine objects.
#[derive(Debug, Clone, Copy)]
pub struct CombinerBounds {
    /// Encoded bytes that one has at least, unless there are fewer.
    pub bytes_min: u64,
    /// Encoded bytes that one should read at most.
    pub bytes_max: u64,
    pub functions_max: usize,
}

/// Objects that one function asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObjectReads {
    pub expected: u64,
    pub at_most: u64,
}

impl Sum for ObjectReads {
    fn sum<I: Iterator<Item = Self>>(reads: I) -> Self {
        let add = |sum: Self, each: Self| Self {
            expected: sum.expected + each.expected,
            at_most: sum.at_most + each.at_most,
        };
        reads.fold(Self::default(), add)
    }
}

impl Combining {
    /// Makes the rule with the functions that are expected to run for these rows. Where their bytes are not known, it is one for each run.
    pub fn of(readers: usize, reads_max: u64, rows: &EvenRows, bounds: &CombinerBounds) -> Self {
        let rule = Self { readers, reads_max, expected: Combiners::default() };
        if rows.producers == 0 || !rule.may_pay(rows.producers) {
            return rule;
        }
        let runs = rule.runs_max();
        let expected = match rows.bytes {
            Some(bytes) => rule.cut_evenly(bytes, rows, bounds),
            None => Combiners { functions: runs, runs, groups: 1 },
        };
        if rule.pays(rows.producers, expected) { Self { expected, ..rule } } else { rule }
    }

    /// Returns the most runs of partitions. They are so few that the functions' reads are few, and so many that they are soon done.
    pub fn runs_max(&self) -> usize {
        (self.readers as f64).sqrt().ceil() as usize
    }

    /// Returns the bounds of the runs. A function has one lane, which asks for each object once.
    pub fn width(&self, bytes_min: u64, bytes_max: u64) -> Width {
        let runs = self.runs_max();
        Width { planned: runs, most: runs, lanes: 1, bytes_min, bytes_max }
    }

    /// Returns true if these functions save reads of so many objects.
    pub fn pays(&self, objects: usize, combiners: Combiners) -> bool {
        let Combiners { runs, groups, .. } = combiners;
        let combined = (objects * runs + self.readers * groups) as u64;
        runs > 0 && self.may_pay(objects) && (self.reads_max == 0 || combined <= self.direct_reads(objects) / 2)
    }

    fn direct_reads(&self, objects: usize) -> u64 {
        (objects * self.readers) as u64
    }

    /// Returns true unless so many objects are few enough without functions that combine them.
    fn may_pay(&self, objects: usize) -> bool {
        self.reads_max == 0 || self.direct_reads(objects) > self.reads_max
    }

    /// Tells the functions that are expected to read the objects of these stages, for EXPLAIN.
    pub fn told(&self, producers: &str) -> String {
        let Combiners { functions, runs, groups } = self.expected;
        let shared = match groups {
            0 | 1 => String::new(),
            _ => format!(", up to {groups} for each of {runs} runs of partitions,"),
        };
        format!(
            "about {functions} fragments{shared} that make few objects of those of stage {producers}, where these would take more than {} reads",
            self.reads_max,
        )
    }

    /// Cuts rows of so many bytes as a coordinator cuts those that are there.
    fn cut_evenly(&self, bytes: u64, rows: &EvenRows, bounds: &CombinerBounds) -> Combiners {
        // Statistics that say zero do not prove that there are no rows.
        let weights = spread(bytes.max(1), rows.partitions);
        let width = self.width(bounds.bytes_min, bounds.bytes_max);
        let runs = lanes::fragments(&weights, &|_| true, &|_, _| Vec::new(), width).concat();
        let by_producer =
            |lane: &LaneParts| spread(weights[lane.partitions.clone()].iter().sum(), rows.producers.max(1));
        let cut = lanes::in_groups(runs, &by_producer, bounds.bytes_max, bounds.functions_max);
        Combiners::of(cut.iter().flatten())
    }
}

impl Combiners {
    /// Counts functions of one lane each.
    pub fn of<'a>(lanes: impl IntoIterator<Item = &'a LaneParts>) -> Self {
        let mut groups = BTreeMap::<usize, usize>::new();
        lanes.into_iter().for_each(|lane| *groups.entry(lane.partitions.start).or_default() += 1);
        let (functions, runs) = (groups.values().sum(), groups.len());
        Self { functions, runs, groups: groups.into_values().max().unwrap_or_default() }
    }

    /// Returns the objects, of so many, that one of them asks for.
    pub fn reads_each(&self, objects: u64) -> u64 {
        (objects * self.runs as u64).div_ceil(self.functions.max(1) as u64)
    }

    /// Counts their objects that one of `readers` functions with so many lanes asks for. At most one lane at each end of a run has rows of two runs.
    pub fn reads_of(&self, lanes: u64, readers: u64) -> ObjectReads {
        let groups = self.groups as u64;
        let (expected, at_ends) = (lanes * groups, self.runs.saturating_sub(1) as u64 * groups);
        ObjectReads { expected, at_most: expected + at_ends.div_ceil(readers.max(1)) }
    }
}

/// Spreads bytes over so many parts that differ by one byte at most.
fn spread(bytes: u64, parts: usize) -> Vec<u64> {
    let count = parts.max(1) as u64;
    let (each, rest) = (bytes / count, bytes % count);
    // A part has one byte more when the rests until then are one more whole byte.
    let mut rests = 0;
    let part = |_| {
        rests += rest;
        let more = u64::from(rests >= count);
        rests -= more * count;
        each + more
    };
    (0..parts).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const BOUNDS: CombinerBounds = CombinerBounds { bytes_min: 8 * MIB, bytes_max: 128 * MIB, functions_max: 1_000 };

    fn rule(reads_max: u64) -> Combining {
        Combining { readers: 256, reads_max, expected: Combiners::default() }
    }

    #[test]
    fn objects_are_combined_where_that_saves_half_of_many_reads() {
        assert_eq!(rule(8_192).runs_max(), 16);
        #[track_caller]
        fn check(rule: Combining, objects: usize, runs: usize, groups: usize, expect: bool) {
            let combiners = Combiners { functions: runs * groups, runs, groups };
            assert_eq!(rule.pays(objects, combiners), expect, "{objects} {runs} {groups}");
        }
        let many = rule(8_192);
        // Reads are as many as may be, and then one object's more.
        check(many, 32, 1, 1, false);
        check(many, 33, 1, 1, true);
        // The rows of lineitem in TPC-H Q3 at scale factor 1000: as many runs as there are functions save nothing, functions that share runs do.
        check(many, 777, 236, 1, false);
        check(many, 777, 16, 15, true);
        // Half of the reads, and more.
        check(many, 64, 16, 28, true);
        check(many, 64, 16, 29, false);
        // There are no rows, also where objects are always combined.
        check(many, 777, 0, 0, false);
        check(rule(0), 1, 16, 15, true);
        check(rule(0), 1, 0, 0, false);
    }

    #[test]
    fn as_many_functions_are_expected_as_run_for_such_rows() {
        /// Checks the functions, runs and groups for 256 partitions, which 256 lanes read.
        #[track_caller]
        fn check(reads_max: u64, bytes: Option<u64>, producers: usize, bounds: &CombinerBounds, expect: [usize; 3]) {
            let rows = EvenRows { bytes, partitions: 256, producers };
            let Combiners { functions, runs, groups } = Combining::of(256, reads_max, &rows, bounds).expected;
            assert_eq!([functions, runs, groups], expect, "{reads_max} {rows:?} {bounds:?}");
        }
        // Each of 777 objects has 41 MB. A 16th of all is 1,991 MB, which is 14.8 times 128 MiB.
        let large = Some(777 * 41_000_000);
        check(8_192, large, 777, &BOUNDS, [240, 16, 15]);
        // There are 84 functions beside one for each run. A group is an 84th of all rows, and a run has 5.25 of these.
        check(8_192, large, 777, &CombinerBounds { functions_max: 100, ..BOUNDS }, [96, 16, 6]);
        // A function of 512 MiB should read 64 MiB: 29.7 in a run.
        check(8_192, large, 777, &CombinerBounds { bytes_max: 64 * MIB, ..BOUNDS }, [480, 16, 30]);
        // 20 MiB are three times the least bytes of a function, and in one object a run.
        check(8_192, Some(20 * MIB), 777, &BOUNDS, [3, 3, 1]);
        // Without statistics it is one function a run.
        check(8_192, None, 777, &BOUNDS, [16, 16, 1]);
        // 40 objects are 10,240 reads. One function a run would make 896 of these; with 5,242 MB in a run 40 groups, the objects themselves, make 10,880.
        check(8_192, Some(40 * 2_000 * MIB), 40, &BOUNDS, [0, 0, 0]);
        check(8_192, None, 40, &BOUNDS, [16, 16, 1]);
        // A producer's rows stay together, also where objects are always combined.
        check(0, Some(10_240 * MIB), 2, &BOUNDS, [32, 16, 2]);
        // Too few objects for so many reads.
        check(8_192, large, 32, &BOUNDS, [0, 0, 0]);
    }

    #[test]
    fn reads_are_those_of_runs_and_of_groups() {
        let combiners = Combiners { functions: 240, runs: 16, groups: 15 };
        // 777 objects are read by 16 runs: 12,432 reads, 51.8 a function.
        assert_eq!(combiners.reads_each(777), 52);
        // A lane asks for an object of each group. 15 ends of runs are 225 more among 256 readers, or among 32 of eight lanes.
        assert_eq!(combiners.reads_of(1, 256), ObjectReads { expected: 15, at_most: 16 });
        assert_eq!(combiners.reads_of(8, 32), ObjectReads { expected: 120, at_most: 128 });
        let alone = Combiners { functions: 15, runs: 15, groups: 1 };
        assert_eq!(alone.reads_each(200), 200);
        // 200 to 214 reads of 200 readers.
        assert_eq!(alone.reads_of(1, 200), ObjectReads { expected: 1, at_most: 2 });
        assert_eq!(Combiners::default().reads_each(777), 0);
    }

    #[test]
    fn functions_that_share_runs_are_told() {
        let told = |expected| Combining { expected, ..rule(8_192) }.told("3");
        let words = "that make few objects of those of stage 3, where these would take more than 8192 reads";
        assert_eq!(told(Combiners { functions: 16, runs: 16, groups: 1 }), format!("about 16 fragments {words}"));
        let shared = "about 240 fragments, up to 15 for each of 16 runs of partitions, ";
        assert_eq!(told(Combiners { functions: 240, runs: 16, groups: 15 }), format!("{shared}{words}"));
    }

    #[test]
    fn bytes_are_spread_evenly() {
        assert_eq!(spread(10, 4), [2, 3, 2, 3]);
        assert_eq!(spread(1, 3), [0, 0, 1]);
        assert!(spread(7, 0).is_empty());
        assert_eq!(spread(u64::MAX, 2), [u64::MAX / 2, u64::MAX / 2 + 1]);
    }
}
