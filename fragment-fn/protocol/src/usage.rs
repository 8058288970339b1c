//! Usage of one attempt, as the function metered it. The report, the cost and the time model are made from it.

use serde::{Deserialize, Serialize};

/// Consumption of one attempt, measured inside the function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Storage requests that the function sent.
    pub requests: Requests,
    /// Body bytes read from storage.
    pub bytes_read: u64,
    /// Part of `bytes_read` that was read in the exchange: rows of other functions and of the coordinator, plans, digests of deletes.
    pub exchange_bytes_read: u64,
    /// Body bytes written to storage.
    pub bytes_written: u64,
    /// Rows of the fragment's result.
    pub rows_out: u64,
    /// Largest reservation of the memory pool, in bytes.
    pub memory_peak_bytes: u64,
    /// Bytes that operators spilled to the temporary folder.
    pub spilled_bytes: u64,
    /// CPU time of the whole process during the attempt, in microseconds. 0 where the platform does not tell.
    pub cpu_us: u64,
    pub spans: Spans,
    #[serde(default)]
    pub ahead: AheadUsage,
    #[serde(default)]
    pub late: LateUsage,
    /// Cold start: true for the environment's first attempt.
    pub cold: bool,
}

/// Bytes and requests that were read ahead of computing, by their fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AheadUsage {
    /// Requests for data that were sent before a reader asked.
    pub requests: u64,
    /// Bytes that they asked for.
    pub bytes: u64,
    /// Bytes between the ranges of one request, also of requests that a reader waited for.
    pub gap_bytes: u64,
    /// Bytes that readers took.
    pub taken_bytes: u64,
    /// Bytes that readers asked for and that had not been asked for ahead.
    pub missed_bytes: u64,
    /// Part of `missed_bytes` that had been read before: the plan reads a scan twice.
    pub again_bytes: u64,
    /// Bytes that did not come, because their request failed or was aborted.
    pub aborted_bytes: u64,
    /// Bytes that came and that nobody took, because their rows were pruned.
    pub unused_pruned_bytes: u64,
    /// Bytes that came and that nobody took, because the plan had its rows: a limit, or a join that needs no more. So are those of a
    /// probe side of which no file was opened, also where its keys ruled out all files.
    pub unused_limit_bytes: u64,
    /// Bytes that came and that nobody took, because the query failed or was given up.
    pub unused_cancelled_bytes: u64,
    /// Bytes that came and that nobody took, because an operator needed their memory.
    pub unused_given_back_bytes: u64,
    /// Most bytes for which memory was held at a time.
    pub peak_bytes: u64,
}

impl AheadUsage {
    /// Returns the bytes that came and that nobody took, without gaps.
    pub const fn unused_bytes(self) -> u64 {
        self.unused_pruned_bytes + self.unused_limit_bytes + self.unused_cancelled_bytes + self.unused_given_back_bytes
    }
}

impl std::ops::AddAssign for AheadUsage {
    /// Sums up everything but the peaks, of which it takes the higher one.
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.gap_bytes += other.gap_bytes;
        self.taken_bytes += other.taken_bytes;
        self.missed_bytes += other.missed_bytes;
        self.again_bytes += other.again_bytes;
        self.aborted_bytes += other.aborted_bytes;
        self.unused_pruned_bytes += other.unused_pruned_bytes;
        self.unused_limit_bytes += other.unused_limit_bytes;
        self.unused_cancelled_bytes += other.unused_cancelled_bytes;
        self.unused_given_back_bytes += other.unused_given_back_bytes;
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
    }
}

/// Rows that the keys of joins decided about, where the other columns of a scan were decoded late. Each join of a scan counts its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LateUsage {
    /// Rows whose keys were compared.
    pub rows: u64,
    /// Those among them that were kept.
    pub kept_rows: u64,
    /// Joins whose keys kept too many rows of a scan to go on with, or failed.
    pub given_up: u64,
}

impl std::ops::AddAssign for LateUsage {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.kept_rows += other.kept_rows;
        self.given_up += other.given_up;
    }
}

/// Storage requests by kind, as price books name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    pub get: u64,
    pub head: u64,
    pub list: u64,
    /// PUT, POST and COPY, each part of a multipart upload included.
    pub put: u64,
    pub delete: u64,
    /// GETs that were sent again because the first had not answered in time. `get` includes them.
    #[serde(default)]
    pub hedged: u64,
}

impl Requests {
    pub const fn total(self) -> u64 {
        self.get + self.head + self.list + self.put + self.delete
    }
}

impl std::ops::AddAssign for Requests {
    fn add_assign(&mut self, other: Self) {
        self.get += other.get;
        self.head += other.head;
        self.list += other.list;
        self.put += other.put;
        self.delete += other.delete;
        self.hedged += other.hedged;
    }
}

impl std::ops::Sub for Requests {
    type Output = Self;

    /// Subtracts an earlier count: the requests since then.
    fn sub(self, earlier: Self) -> Self {
        Self {
            get: self.get - earlier.get,
            head: self.head - earlier.head,
            list: self.list - earlier.list,
            put: self.put - earlier.put,
            delete: self.delete - earlier.delete,
            hedged: self.hedged - earlier.hedged,
        }
    }
}

/// Wall time of the attempt's steps inside the function, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spans {
    /// From the request's bytes to an executable plan.
    pub decode_us: u64,
    /// From the plan's start to its last batch.
    pub execute_us: u64,
    /// Encoding the result and writing it to the exchange.
    pub write_us: u64,
    /// From the request's first byte to the response's last.
    pub total_us: u64,
    /// Waits for bytes of data files, summed up over all lanes, which wait side by side.
    #[serde(default)]
    pub waited_us: u64,
}
