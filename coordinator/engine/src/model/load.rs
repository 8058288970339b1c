//! Loads of a query's fragments and of the coordinator, to read and to send: data, made by the planner.

use std::iter::Sum;
use std::ops::Add;

use gust_protocol::{FragmentLimits, Usage};

/// One fragment's work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FragmentLoad {
    /// Compressed bytes of the projected columns.
    pub weight_bytes: u64,
    /// Encoded bytes into operators that these do not have in them ([`OperatorLoad`]). Those that one lane computes count once a lane.
    pub operator_bytes: u64,
    /// Partitions that run at once; at least one.
    pub lanes: usize,
    /// Reads, with the footers that environments are likely to have kept.
    pub reads: Reads,
    /// Reads, with the footers that environments are sure to have kept.
    pub reads_at_most: Reads,
}

impl FragmentLoad {
    /// Makes the load of a fragment of which only its bytes are known. It reads them in one go; its first byte is part of an attempt's overhead.
    pub fn of_bytes(weight_bytes: u64, lanes: usize) -> Self {
        let reads = Reads::of_bytes(weight_bytes);
        Self { weight_bytes, operator_bytes: 0, lanes, reads, reads_at_most: reads }
    }

    /// Adds the work on files of another scan, in the same lanes.
    #[must_use]
    pub fn beside(self, other: Self) -> Self {
        Self {
            weight_bytes: self.weight_bytes + other.weight_bytes,
            operator_bytes: self.operator_bytes.saturating_add(other.operator_bytes),
            lanes: self.lanes.max(other.lanes),
            reads: self.reads + other.reads,
            reads_at_most: self.reads_at_most + other.reads_at_most,
        }
    }

    /// Adds reads of other files, all of whose bytes are used.
    #[must_use]
    pub fn and_reads(self, reads: &Reads) -> Self {
        Self {
            weight_bytes: self.weight_bytes + reads.bytes,
            reads: self.reads + *reads,
            reads_at_most: self.reads_at_most + *reads,
            ..self
        }
    }
}

/// One stage's work.
#[derive(Debug, Clone, PartialEq)]
pub struct StageLoad {
    pub fragments: Vec<FragmentLoad>,
    pub results: Results,
    /// True if its results go to functions of another stage. They are objects, however small.
    pub sends_parts: bool,
    /// True if its fragments read such results, and begin when they are there.
    pub reads_parts: bool,
    /// Largest result that rides in its response; bytes.
    pub inline_bytes_max: u64,
    /// True if the plan is so long that it goes through the exchange.
    pub publishes_plan: bool,
    /// Delete files that the coordinator reads for the fragments, before these begin. It leaves them one object in the exchange.
    pub digest: Option<LocalLoad>,
    /// Rows that all of its fragments get for joins, as they are expected.
    pub shared: SharedRows,
    /// These rows at their most.
    pub shared_at_most: SharedRows,
    /// Number of stages that end before it begins, one after the other, because it needs their rows.
    pub stages_before: usize,
}

/// Rows in the exchange that all fragments of a stage read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharedRows {
    pub objects: u64,
    pub bytes: u64,
}

impl Add for SharedRows {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { objects: self.objects + other.objects, bytes: self.bytes + other.bytes }
    }
}

impl Sum for SharedRows {
    fn sum<I: Iterator<Item = Self>>(rows: I) -> Self {
        rows.fold(Self::default(), Add::add)
    }
}

impl StageLoad {
    /// Makes the load of a stage of which only its fragments are known. Results ride in their responses.
    pub fn of_fragments(fragments: Vec<FragmentLoad>) -> Self {
        Self {
            fragments,
            results: Results::default(),
            sends_parts: false,
            reads_parts: false,
            inline_bytes_max: u64::MAX,
            publishes_plan: false,
            digest: None,
            shared: SharedRows::default(),
            shared_at_most: SharedRows::default(),
            stages_before: 0,
        }
    }
}

/// Work of operators that the bytes of scans do not have in them: encoded bytes into joins, sorts, merges, windows, and aggregates of rows that other operators
/// made. A core takes them in at the rate at which it takes in a scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperatorLoad {
    /// Bytes that all cores share.
    pub bytes: u64,
    /// Bytes that one core computes, such as a build side that is gathered.
    pub one_core_bytes: u64,
}

impl OperatorLoad {
    /// Makes the work on `bytes` bytes.
    pub fn of(bytes: u64, is_one_core: bool) -> Self {
        match is_one_core {
            true => Self { bytes: 0, one_core_bytes: bytes },
            false => Self { bytes, one_core_bytes: 0 },
        }
    }

    /// Sums up the bytes, whoever computes them.
    pub fn all_bytes(&self) -> u64 {
        self.bytes.saturating_add(self.one_core_bytes)
    }
}

impl Add for OperatorLoad {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            one_core_bytes: self.one_core_bytes.saturating_add(other.one_core_bytes),
        }
    }
}

/// Work of the coordinator: all of a query's, or the part that functions leave to it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LocalLoad {
    pub weight_bytes: u64,
    pub operators: OperatorLoad,
    pub reads: Reads,
    /// Part of `reads` that goes to files of this machine, and costs nothing.
    pub of_files: Reads,
}

impl LocalLoad {
    /// Makes the load of a query of which only its bytes are known.
    pub fn of_bytes(weight_bytes: u64) -> Self {
        Self { weight_bytes, reads: Reads::of_bytes(weight_bytes), ..Self::default() }
    }
}

impl Add for LocalLoad {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            weight_bytes: self.weight_bytes + other.weight_bytes,
            operators: self.operators + other.operators,
            reads: self.reads + other.reads,
            of_files: self.of_files + other.of_files,
        }
    }
}

/// Requests and bytes of the coordinator, and the part of them that is billed. Files of this machine cost nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnUsage {
    pub all: Usage,
    pub billed: Usage,
}

/// Requests and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    /// Requests for ends of files, one a file.
    pub footers: u64,
    /// Requests for them if every footer of unknown length is longer than the first read.
    pub footers_max: u64,
    /// Row groups with something to read.
    pub row_groups: u64,
    /// Requests for the columns of all row groups, neighbours together.
    pub runs: u64,
    /// Requests for them if each column of a file without a known layout is asked for alone.
    pub runs_max: u64,
    /// Bytes of footers and of runs, with the gaps between neighbouring columns.
    pub bytes: u64,
    /// Files whose columns have unknown sizes: they count as equally large.
    pub guessed_files: u64,
    /// True if some of them go over the network: they wait for first bytes.
    pub is_remote: bool,
}

impl Reads {
    /// Makes reads over the network of which only the bytes are known.
    fn of_bytes(bytes: u64) -> Self {
        Self { bytes, is_remote: true, ..Self::default() }
    }

    /// Returns the number of GETs where neighbours come together.
    pub fn requests(&self) -> u64 {
        self.footers + self.runs
    }

    /// Returns the number of GETs where unknown layouts are at their worst.
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
            is_remote: self.is_remote || other.is_remote,
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
    /// Expected bytes. None where the number of rows, or of an aggregate's groups, is not known.
    pub expected: Option<u64>,
    pub at_most: u64,
}

/// Bytes of a stage's results that may wait in memory at once, over all of its fragments.
const RESULTS_HELD_BYTES_MAX: u64 = 256 << 20;

/// Returns the limits of one of `fragments` fragments, whose results may wait in a quarter of the coordinator's memory.
pub fn fragment_limits(limits: FragmentLimits, fragments: usize, memory_bytes_max: u64) -> FragmentLimits {
    let share = RESULTS_HELD_BYTES_MAX.min(memory_bytes_max / 4) / fragments.max(1) as u64;
    FragmentLimits { inline_bytes_max: limits.inline_bytes_max.min(share), ..limits }
}
