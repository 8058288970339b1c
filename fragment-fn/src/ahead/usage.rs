//! Account of a query's reads of data files: what was read ahead and what became of it, for how long readers waited, and which rows were
//! decoded late.

use std::sync::Mutex;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Instant;

use gust_protocol::{AheadUsage, LateUsage};
use tokio::sync::Notify;

/// Running account of a query. Its plans may be several: one that is run again counts, too.
#[derive(Debug, Default)]
pub struct AheadAccount {
    /// Sums of the scans that have ended, and the gaps of what readers waited for.
    ended: Mutex<AheadUsage>,
    /// Scans that are read ahead and have not ended.
    scans_open: AtomicUsize,
    scan_ended: Notify,
    peak_bytes: AtomicU64,
    waited_us: AtomicU64,
    late: Mutex<LateUsage>,
}

impl AheadAccount {
    /// Returns the sums of all scans that have ended.
    pub fn usage(&self) -> AheadUsage {
        let ended = *self.ended.lock().expect("no holder panics");
        AheadUsage { peak_bytes: self.peak_bytes.load(Relaxed), ..ended }
    }

    /// Returns the microseconds that readers have waited for bytes so far, summed up over all lanes.
    pub fn waited_us(&self) -> u64 {
        self.waited_us.load(Relaxed)
    }

    /// Returns the rows that the keys of joins have decided about so far.
    pub fn late(&self) -> LateUsage {
        *self.late.lock().expect("no holder panics")
    }

    pub(crate) fn note_late(&self, of: LateUsage) {
        *self.late.lock().expect("no holder panics") += of;
    }

    /// Waits until all scans have ended, so that their sums are complete.
    pub async fn complete(&self) {
        loop {
            // It hears also of an end before it is polled.
            let ended = self.scan_ended.notified();
            if self.scans_open.load(SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn begin_scan(&self) {
        self.scans_open.fetch_add(1, SeqCst);
    }

    pub(super) fn end_scan(&self, of: AheadUsage) {
        self.add(of);
        self.scans_open.fetch_sub(1, SeqCst);
        self.scan_ended.notify_waiters();
    }

    pub(super) fn add(&self, of: AheadUsage) {
        *self.ended.lock().expect("no holder panics") += of;
    }

    /// Counts bytes between the ranges of a request that a reader waited for.
    pub(crate) fn note_gaps(&self, gap_bytes: u64) {
        if gap_bytes > 0 {
            self.add(AheadUsage { gap_bytes, ..AheadUsage::default() });
        }
    }

    /// Notes the bytes for which memory is held now.
    pub(super) fn note_held(&self, bytes: u64) {
        self.peak_bytes.fetch_max(bytes, Relaxed);
    }

    /// Counts the time for which a reader waits, also where it is given up before the end.
    pub(crate) async fn waited<T>(&self, reading: impl Future<Output = T>) -> T {
        let _wait = Wait { account: self, since: Instant::now() };
        reading.await
    }
}

/// Wait of one reader. It ends when the value is dropped.
struct Wait<'a> {
    account: &'a AheadAccount,
    since: Instant,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.account.waited_us.fetch_add(waited, Relaxed);
    }
}
