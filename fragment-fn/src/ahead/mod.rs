//! Reading ahead: requests of a query's scans are under way before its readers ask for them.
//!
//! ```text
//!  plan ─► attach ─► ScanReader of each scan ─► FileReader ── take ─┬─ ready ──────────────────┐
//!            │                                                      ├─ under way: waited for ──┼─► rows
//!            ▼                                                      └─ missing: read at once ──┘
//!          ReadAhead ── pump ─► next footer or piece of each scan ─► budget, memory ─► PinnedFile ─► store
//! ```
//!
//! A scan's [`units`] know what to read next, from the facts of the scan ([`spec`]), its footers ([`layout`]) and the part
//! of it that the plan will read ([`consumption`]). The [`budget`] bounds the requests and bytes of a process, and
//! [`backoff`] those of a query whose memory operators need. [`fetch`] sends requests and keeps their bodies, and [`scan`]
//! has the state of one scan. A store that asks for fewer requests halves those of the query for a while ([`backoff`]).
//!
//! 1. A range is asked for at most once a scan. A second GET by hedging, by a plan that reads twice, or for bytes that were
//!    given back, is counted apart.
//! 2. A reader that waits never waits for the budget.
//! 3. A request that fails before its bytes are wanted fails nothing. Its reader sends its own.
//! 4. Readers get exactly the ranges that they ask for.
//! 5. Each request reads a [`crate::PinnedFile`]: etag, size, hedging and counting are as without reading ahead.
//! 6. A wrong prediction changes no row. Bytes that were not predicted are counted as missed.
//! 7. Requests are aborted with the stream that would have read them, and nothing of them is left.
//! 8. Memory is reserved before a request is sent. It is given back when an operator needs it, and fails no query.
//!    What a decoder holds is part of the budget, so that less is read ahead beside large row groups. It is in no pool.
//! 9. Local files are not read ahead.
//!
//! 10. As many bytes are under way as keep the pipe full: its latency times its rate, as the client's [`Pace`](crate::pace::Pace)
//!     measures them. More would wait behind each other, and a reader would wait longer for its own. Bytes that have come wait
//!     in the larger budget, because a reader may take them in bursts. Until a rate is known, and for a few requests, only the
//!     budget bounds.
//!
//! Non-goals: listings, writes, other formats than Parquet, and bytes that two scans of a query share.

mod backoff;
mod budget;
mod consumption;
mod fetch;
mod layout;
mod memory;
mod scan;
mod spec;
mod units;
mod usage;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Instant;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::plan::file_scan;
use gust_protocol::{AheadBounds, LeafId};
use tokio::runtime::Handle;

pub use budget::ReadBudget;
pub use consumption::{Begins, Consumption, Reading, readings};
pub use memory::{GivesBack, READ_AHEAD};
pub use usage::AheadAccount;

pub(crate) use scan::{OpenedFile, ScanAhead, ScanStream};

use crate::deletes::ScanDeletes;
use crate::file_errors::naming_file;
use crate::late::{self, LateColumns, opening_each};
use crate::scan::ScanReader;
use backoff::Backoff;
use budget::{Grant, Member, Room};
use memory::AheadMemory;
use scan::Look;
use spec::ScanSpec;
use units::{End, Next, PieceBounds, Units};

/// Size at which a row group's request is split. S3 advises requests of 8 to 16 MiB ("Performance design patterns for
/// Amazon S3"); the shorter ones come side by side.
const PIECE_BYTES_MAX: u64 = 8 << 20;

/// Read-ahead of one query or attempt. Whoever reads its rows holds it: when it is dropped, all its requests are aborted.
pub struct ReadAhead {
    query: Arc<QueryState>,
}

/// State that the scans of a query share.
struct QueryState {
    member: Member,
    memory: AheadMemory,
    account: Arc<AheadAccount>,
    span: tracing::Span,
    /// Runtime of its requests, from the start on.
    runtime: OnceLock<Handle>,
    /// Scans in the order in which the plan consumes them.
    scans: Mutex<Vec<Weak<ScanAhead>>>,
    /// Most streams of one scan.
    streams_max: AtomicU32,
    /// Bound on the bytes that it holds at a time.
    memory_backoff: Mutex<Backoff>,
    /// Bound on the requests that it has under way.
    requests_backoff: Mutex<Backoff>,
    this: Weak<QueryState>,
}

thread_local! {
    /// Queries that look again after the one that this thread looks for now; None while it looks for none.
    static LATER: RefCell<Option<Vec<Weak<QueryState>>>> = const { RefCell::new(None) };
}

impl ReadBudget {
    /// Opens the read-ahead of a query, whose memory is `pool`'s. `account` is told what becomes of it.
    pub fn query(&self, bounds: AheadBounds, pool: &Arc<dyn MemoryPool>, account: Arc<AheadAccount>) -> ReadAhead {
        let query = Arc::new_cyclic(|query: &Weak<QueryState>| {
            let this = Weak::clone(query);
            let wake = move || {
                if let Some(query) = this.upgrade() {
                    query.pump();
                }
            };
            let member = self.member(bounds, Arc::new(wake));
            QueryState {
                memory_backoff: Mutex::new(Backoff::of_memory(member.bounds().bytes_max)),
                requests_backoff: Mutex::new(Backoff::of_requests(member.bounds().requests_max)),
                member,
                memory: AheadMemory::new(pool, Arc::clone(&account)),
                account,
                span: tracing::Span::current(),
                runtime: OnceLock::new(),
                scans: Mutex::default(),
                streams_max: AtomicU32::new(1),
                this: Weak::clone(query),
            }
        });
        ReadAhead { query }
    }
}

impl ReadAhead {
    /// Starts to read. Call it in the runtime that shall send the requests, once the scans are attached.
    pub fn start(&self) {
        // A second start changes nothing.
        let _ = self.query.runtime.set(Handle::current());
        self.query.pump();
    }

    /// Returns the holder of its memory, which a pool may ask to give back.
    pub fn giver(&self) -> Weak<dyn GivesBack> {
        let query: Weak<QueryState> = Arc::downgrade(&self.query);
        query
    }

    /// Ends after the plan's last row. Dropped instead, it counts what nobody took as cancelled: do so before the streams of
    /// a plan that is given up are dropped.
    pub fn finish(self) {
        self.query.close(End::Finished);
    }

    /// Makes the read-ahead of one scan; None where nothing of it is read ahead.
    fn scan(
        &self,
        scan: &FileScanConfig,
        reading: Reading,
        reader: &ScanReader,
        late: LateColumns,
        config: &ConfigOptions,
    ) -> Option<Arc<ScanAhead>> {
        if reading.consumption == Consumption::OnDemand || is_local(scan) {
            return None;
        }
        let spec = ScanSpec::of(scan, reader.column_matching(), late::keys(scan, late), config)?;
        let bounds = PieceBounds {
            bridge_bytes: reader.bridge_bytes(),
            piece_bytes_max: PIECE_BYTES_MAX,
            unit_bytes_max: self.query.member.bounds().bytes_max,
        };
        let units = Units::new(spec.files.len(), spec.lanes.clone(), reading, bounds);
        let streams = u32::try_from(spec.lanes.streams()).unwrap_or(u32::MAX);
        self.query.streams_max.fetch_max(streams, Ordering::Relaxed);
        let query = Arc::clone(&self.query);
        let scan = Arc::new(ScanAhead::new(spec, units, reading.rank, reader, query));
        let mut scans = self.query.scans.lock().expect("no holder panics");
        scans.push(Arc::downgrade(&scan));
        scans.sort_by_key(|scan| scan.upgrade().map_or(usize::MAX, |scan| scan.rank()));
        Some(scan)
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.query.close(End::Cancelled);
    }
}

/// Tells a scan of local files. A disk needs no reading ahead: the system does that.
pub fn is_local(scan: &FileScanConfig) -> bool {
    scan.object_store_url.as_str().starts_with("file:")
}

/// Tells a scan of Parquet of which reading ahead can predict the requests.
pub fn is_predictable(scan: &FileScanConfig) -> bool {
    scan.file_source().downcast_ref::<ParquetSource>().is_some_and(spec::is_predictable)
}

/// Prepares a plan's scans for their execution: errors name their file, deleted rows are left out, and Parquet is read by
/// the reader that `reader` makes for a leaf, ahead if `ahead` says so, with columns as late as `late` says. Leaves count as in
/// [`gust_protocol::plan::scans`]. A scan for which `reader` returns None keeps its own way to read. `account` is told of the
/// waits of all others, and of the rows that are late.
///
/// Call it last: rules that look for a Parquet scan find none in the new plan.
///
/// # Errors
/// Errors of `reader`, and a node that cannot be rebuilt with another scan under it.
pub fn attach(
    plan: Arc<dyn ExecutionPlan>,
    config: &ConfigOptions,
    account: &Arc<AheadAccount>,
    ahead: Option<&ReadAhead>,
    late: LateColumns,
    reader: &mut dyn FnMut(LeafId, &FileScanConfig) -> Result<Option<ScanReader>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let readings = ahead.map(|_| readings(&plan)).unwrap_or_default();
    let mut leaf: LeafId = 0;
    let attached = plan.transform_down(|node| {
        let Some(scan) = file_scan(&node) else { return Ok(Transformed::no(node)) };
        let reading = readings.get(leaf as usize);
        let reader = reader(leaf, scan)?;
        leaf += 1;
        let (scan, ahead) = match reader {
            Some(reader) => {
                let ahead =
                    ahead.zip(reading).and_then(|(ahead, reading)| ahead.scan(scan, *reading, &reader, late, config));
                (reader.for_query(Arc::clone(account), ahead.clone()).attach(scan.clone())?, ahead)
            }
            None => (scan.clone(), None),
        };
        let deletes = ScanDeletes::of(&scan)?;
        let (scan, decides) = opening_each(scan, late, account, ahead.clone());
        let scan = deletes.left_out(scan, decides, account);
        let scan = DataSourceExec::from_data_source(naming_file(scan, ahead));
        Ok(Transformed::yes(scan as Arc<dyn ExecutionPlan>))
    });
    attached.data()
}

impl QueryState {
    /// Sends whatever is next and fits. It waits for nothing. Threads may do so side by side; a call under another one of
    /// its thread is served after that.
    fn pump(&self) {
        let is_nested = LATER.try_with(|later| match later.borrow_mut().as_mut() {
            Some(later) => {
                later.push(Weak::clone(&self.this));
                true
            }
            None => false,
        });
        // A thread that ends looks for nobody.
        if is_nested.unwrap_or(true) {
            return;
        }
        LATER.set(Some(Vec::new()));
        let _looking = Looking;
        self.send_what_fits();
        while let Some(query) = LATER.with_borrow_mut(|later| later.as_mut()?.pop()) {
            if let Some(query) = query.upgrade() {
                query.send_what_fits();
            }
        }
    }

    fn send_what_fits(&self) {
        let is_paused = || self.memory_backoff().is_paused(Instant::now());
        if self.runtime.get().is_none() || is_paused() {
            return;
        }
        let scans = self.scans();
        for scan in &scans {
            scan.reprune(Look::Sometimes);
            if scan.was_refused() {
                self.requests_backoff().note_setback(Instant::now());
            }
        }
        while !is_paused()
            && let Some((scan, next)) = next(&scans)
        {
            if !scan.send(&next) {
                return;
            }
        }
    }

    fn scans(&self) -> Vec<Arc<ScanAhead>> {
        self.scans.lock().expect("no holder panics").iter().filter_map(Weak::upgrade).collect()
    }

    fn memory_backoff(&self) -> MutexGuard<'_, Backoff> {
        self.memory_backoff.lock().expect("no holder panics")
    }

    fn requests_backoff(&self) -> MutexGuard<'_, Backoff> {
        self.requests_backoff.lock().expect("no holder panics")
    }

    /// Grants a request of a scan whose store's pipe is full with `depth_bytes` bytes under way; None while that is not known.
    fn try_grant(&self, bytes: u64, depth_bytes: Option<u64>) -> Option<Grant> {
        let requests_sure = self.streams_max.load(Ordering::Relaxed).saturating_mul(2);
        let now = Instant::now();
        let bytes_max = self.memory_backoff().bound(now);
        let refusals = self.requests_backoff();
        let requests_max = u32::try_from(refusals.bound(now)).unwrap_or(u32::MAX);
        let under_way_bytes_max = refusals.halved(depth_bytes.unwrap_or(u64::MAX), now);
        drop(refusals);
        let at_most = Room { requests_max, bytes_max, under_way_bytes_max };
        self.member.try_grant(bytes, requests_sure, at_most)
    }

    fn close(&self, end: End) {
        for scan in self.scans() {
            scan.close(end);
        }
    }
}

/// Time in which a thread looks for what is next, also if it panics.
struct Looking;

impl Drop for Looking {
    fn drop(&mut self) {
        LATER.set(None);
    }
}

/// Returns the next thing to send: of scans that a reader waits for, of scans that have not begun, of the others.
fn next(scans: &[Arc<ScanAhead>]) -> Option<(&Arc<ScanAhead>, Next)> {
    fn of(scan: &Arc<ScanAhead>) -> Option<(&Arc<ScanAhead>, Next)> {
        Some((scan, scan.next()?))
    }
    let waited = scans.iter().filter(|scan| scan.is_waited_for()).find_map(of);
    let begins = || scans.iter().filter(|scan| !scan.has_begun()).find_map(of);
    waited.or_else(begins).or_else(|| scans.iter().find_map(of))
}

impl GivesBack for QueryState {
    fn give_back(&self, bytes: usize) -> usize {
        let (mut given, mut dropped) = (0, Vec::new());
        for scan in self.scans().iter().rev() {
            if given >= bytes {
                break;
            }
            let of_scan = scan.give_back(bytes - given);
            given += of_scan.held_bytes();
            dropped.push(of_scan);
        }
        // What gives nothing loses nothing.
        if given > 0 {
            // The memory is not free yet, so that no request ahead takes it before the pause.
            self.memory_backoff().note_setback(Instant::now());
        }
        drop(dropped);
        given
    }
}

#[cfg(test)]
mod tests;
