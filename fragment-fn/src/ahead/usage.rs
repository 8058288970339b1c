//! Account of what a query read ahead and what became of it.

use std::ops::AddAssign;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use gust_protocol::AheadUsage;

use super::units::UnitsUsage;

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
    /// Returns the sums of all scans that have ended.
    pub fn usage(&self) -> AheadUsage {
        *self.ended.lock().expect("no holder panics")
    }

    /// Returns the microseconds that readers have waited for bytes so far, summed up over all lanes.
    pub fn waited_us(&self) -> u64 {
        self.waited_us.load(Relaxed)
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
