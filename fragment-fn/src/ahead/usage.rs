//! Account of what a query read ahead and what became of it.

use std::ops::AddAssign;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::units::UnitsUsage;

/// Bytes and requests that were read ahead, by their fate, and the time that readers waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AheadUsage {
    /// Requests for data that were sent before a reader asked.
    pub requests: u64,
    pub bytes: u64,
    /// Bytes between the ranges of one request.
    pub gap_bytes: u64,
    pub taken_bytes: u64,
    /// Bytes that readers asked for and that had not been asked for ahead.
    pub missed_bytes: u64,
    /// Part of `missed_bytes` that had been read before: the plan reads a scan twice.
    pub again_bytes: u64,
    /// Bytes that nobody took, because their rows were pruned.
    pub unused_pruned_bytes: u64,
    /// Bytes that nobody took, because the query ended before.
    pub unused_cancelled_bytes: u64,
    /// Bytes that nobody took, because an operator needed their memory.
    pub unused_given_back_bytes: u64,
    /// Bytes whose request failed before a reader wanted them.
    pub unused_failed_bytes: u64,
    /// Time that readers waited for bytes, summed up over all lanes.
    pub waited: Duration,
}

impl AddAssign<UnitsUsage> for AheadUsage {
    fn add_assign(&mut self, of: UnitsUsage) {
        self.requests += of.requests;
        self.bytes += of.bytes;
        self.gap_bytes += of.gap_bytes;
        self.taken_bytes += of.taken_bytes;
        self.missed_bytes += of.missed_bytes;
        self.again_bytes += of.again_bytes;
        self.unused_pruned_bytes += of.unused_pruned_bytes;
        self.unused_cancelled_bytes += of.unused_cancelled_bytes;
        self.unused_given_back_bytes += of.unused_given_back_bytes;
        self.unused_failed_bytes += of.unused_failed_bytes;
    }
}

/// Running account of a query. Its plans may be several: one that is run again counts, too.
#[derive(Debug, Default)]
pub struct AheadAccount {
    /// Sums of the scans that have ended.
    ended: Mutex<AheadUsage>,
    waited_us: AtomicU64,
}

impl AheadAccount {
    /// Returns the sums of all scans that have ended, and the time that was waited so far.
    pub fn usage(&self) -> AheadUsage {
        let ended = *self.ended.lock().expect("no holder panics");
        AheadUsage { waited: Duration::from_micros(self.waited_us.load(Relaxed)), ..ended }
    }

    pub(super) fn add(&self, scan: UnitsUsage) {
        *self.ended.lock().expect("no holder panics") += scan;
    }

    /// Begins to count a wait, which ends when the value is dropped.
    pub(super) fn wait(&self) -> Wait<'_> {
        Wait { account: self, since: Instant::now() }
    }
}

/// Wait of one reader.
pub(super) struct Wait<'a> {
    account: &'a AheadAccount,
    since: Instant,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.account.waited_us.fetch_add(waited, Relaxed);
    }
}
