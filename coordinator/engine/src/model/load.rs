//! What a query's fragments, and the coordinator, have to read and to send: data, made by the planner.

use std::iter::Sum;
use std::ops::Add;

use gust_protocol::FragmentLimits;

/// One fragment's work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FragmentLoad {
    /// Compressed bytes of the projected columns.
    pub weight_bytes: u64,
    /// Partitions that run at once; at least one.
    pub lanes: usize,
    /// As far as environments are likely to have kept footers.
    pub reads: Reads,
    /// As far as it can be counted upon.
    pub reads_at_most: Reads,
}

impl FragmentLoad {
    /// A fragment of which no more is known than what it reads: in one go, and its first byte is part of an attempt's overhead.
    pub fn of_bytes(weight_bytes: u64, lanes: usize) -> Self {
        let reads = Reads { bytes: weight_bytes, ..Reads::default() };
        Self { weight_bytes, lanes, reads, reads_at_most: reads }
    }
}

/// One stage's work.
#[derive(Debug, Clone, PartialEq)]
pub struct StageLoad {
    pub fragments: Vec<FragmentLoad>,
    pub results: Results,
    /// A result up to this size rides in its response.
    pub inline_bytes_max: u64,
    /// Whether the plan is so long that it goes through the exchange.
    pub publishes_plan: bool,
}

impl StageLoad {
    /// Fragments of which no more is known than what they read: their results ride in their responses.
    pub fn of_fragments(fragments: Vec<FragmentLoad>) -> Self {
        Self { fragments, results: Results::default(), inline_bytes_max: u64::MAX, publishes_plan: false }
    }
}

/// What a query reads where it runs without functions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LocalLoad {
    pub weight_bytes: u64,
    pub reads: Reads,
}

impl LocalLoad {
    /// A query of which no more is known than what it reads.
    pub fn of_bytes(weight_bytes: u64) -> Self {
        Self { weight_bytes, reads: Reads { bytes: weight_bytes, ..Reads::default() } }
    }
}

impl Add for LocalLoad {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { weight_bytes: self.weight_bytes + other.weight_bytes, reads: self.reads + other.reads }
    }
}

/// Requests and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    /// Files whose end is read.
    pub footers: u64,
    /// Requests for them if every footer of unknown length is longer than what is read at first.
    pub footers_max: u64,
    /// Row groups with something to read.
    pub row_groups: u64,
    /// Requests for the columns of all row groups, neighbours together.
    pub runs: u64,
    /// The same if each column is asked for alone where nobody knows how they lie.
    pub runs_max: u64,
    /// Bytes of footers and of runs: what lies between neighbouring columns is read with them.
    pub bytes: u64,
    /// Files whose columns' sizes nobody knows: they are taken to be equally large.
    pub guessed_files: u64,
}

impl Reads {
    /// GETs where neighbours come together.
    pub fn requests(&self) -> u64 {
        self.footers + self.runs
    }

    /// GETs where what is not known is at its worst.
    pub fn requests_max(&self) -> u64 {
        self.footers_max + self.runs_max
    }
}

impl Add for Reads {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            footers: self.footers + other.footers,
            footers_max: self.footers_max + other.footers_max,
            row_groups: self.row_groups + other.row_groups,
            runs: self.runs + other.runs,
            runs_max: self.runs_max + other.runs_max,
            bytes: self.bytes + other.bytes,
            guessed_files: self.guessed_files + other.guessed_files,
        }
    }
}

impl Sum for Reads {
    fn sum<I: Iterator<Item = Self>>(reads: I) -> Self {
        reads.fold(Self::default(), Add::add)
    }
}

/// Bytes of all results of a stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Results {
    /// None where nobody can say: how many groups an aggregate finds, or how many rows there are.
    pub expected: Option<u64>,
    pub at_most: u64,
}

/// Results of a stage that may wait in memory at once, over all of its fragments.
const RESULTS_HELD_BYTES_MAX: u64 = 256 << 20;

/// The limits of one of `fragments` fragments, whose results may wait in a quarter of the coordinator's memory.
pub fn fragment_limits(limits: FragmentLimits, fragments: usize, memory_bytes_max: u64) -> FragmentLimits {
    let share = RESULTS_HELD_BYTES_MAX.min(memory_bytes_max / 4) / fragments.max(1) as u64;
    FragmentLimits { inline_bytes_max: limits.inline_bytes_max.min(share), ..limits }
}
