//! State of one scan that is read ahead: its files, what is known of them, and what was sent.
//!
//! [`super::fetch`] sends its requests and hands over their bodies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::{Debug, Formatter};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, ParquetRowSelection};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::file::metadata::ParquetMetaData;
use tokio_util::task::AbortOnDropHandle;

use super::QueryState;
use super::budget::Part;
use super::fetch::Piece;
use super::layout::{FileLayout, PrunedFile, Schemas, layout};
use super::memory::Hold;
use super::spec::ScanSpec;
use super::units::{End, Next, PieceId, Units};
use crate::deletes::FileDeletes;
use crate::pace::Pace;
use crate::panics::catch_panic;
use crate::pinned::PinnedFile;
use crate::scan::{InStore, OpenFile, ScanReader};

/// Shortest time between two looks at a scan's dynamic filters. A sort with a limit changes its filter with every batch.
const FILTER_PAUSE: Duration = Duration::from_millis(10);

/// Look at a scan's dynamic filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// If the last one is some time ago, and nobody plans files now.
    Sometimes,
    /// A file is opened now: only its own row groups are chosen anew at once. Others may wait for the lock.
    AtOnce,
    /// The filter of a join is complete now, before any file was opened: what was asked for is dropped, too.
    AllAtOnce,
}

/// Files that a scan remembers before it forgets those that nobody holds.
const OPEN_MAX: usize = 1024;

/// Read-ahead of one scan.
pub(crate) struct ScanAhead {
    pub(super) spec: ScanSpec,
    pub(super) stores: Arc<[Arc<dyn ObjectStore>]>,
    pub(super) footers: Arc<FileMetadataCache>,
    bridge_bytes: u64,
    pub(super) query: Arc<QueryState>,
    /// Position in the order in which the plan consumes its scans.
    pub(super) rank: usize,
    /// Refusals of the store's client that the query has seen.
    refusals: AtomicU64,
    pace: Option<Arc<Pace>>,
    /// Readers that wait for bytes.
    pub(super) waiting: AtomicUsize,
    /// It is locked before `state`, where both are.
    pub(super) planning: Mutex<Planning>,
    pub(super) state: Mutex<ScanState>,
}

/// Knowledge from which files are planned.
pub(super) struct Planning {
    pub(super) known: Schemas,
    /// Files that were planned, or cannot be.
    pub(super) planned: BTreeSet<u32>,
    /// Rows that are left of files which no reader has opened yet. None where the opener may know more.
    pub(super) pruned: HashMap<u32, Option<PrunedFile>>,
    /// Time at which the dynamic filters were looked at.
    pub(super) looked: Option<Instant>,
    /// True where a filter has changed, and the files that wait were not laid out anew.
    is_stale: bool,
}

pub(super) struct ScanState {
    pub(super) units: Units,
    pub(super) pieces: HashMap<PieceId, Piece>,
    /// Footers under way.
    pub(super) reading_footers: BTreeMap<u32, AbortOnDropHandle<()>>,
    /// Files whose footers were read ahead, until a reader opens them.
    pub(super) ahead: BTreeMap<u32, FileAhead>,
    /// Files that somebody holds.
    pub(super) open: HashMap<Path, Weak<OpenFile>>,
    /// Files that readers have opened.
    pub(super) opened: BTreeSet<u32>,
    /// Pieces that were sent.
    pub(super) sent: usize,
    /// True once a reader has opened a file.
    pub(super) is_polled: bool,
    pub(super) streams_begun: usize,
    pub(super) streams_live: usize,
    /// Count of the scan in the budget, until it is closed.
    pub(super) place: Option<Part>,
    pub(super) is_closed: bool,
}

/// File that no reader has opened yet.
pub(super) struct FileAhead {
    pub(super) _file: Arc<OpenFile>,
    pub(super) hold: Option<Hold>,
    pub(super) _share: Option<Part>,
}

/// Parts that a scan lets go. It is dropped without a lock, because its parts of the budget make queries look again.
#[derive(Default)]
pub(super) struct Dropped {
    pub(super) pieces: Vec<Piece>,
    pub(super) files: Vec<FileAhead>,
    /// Memory of parts that stay.
    pub(super) holds: Vec<Hold>,
    pub(super) _footers: Vec<AbortOnDropHandle<()>>,
    pub(super) _place: Option<Part>,
}

/// File that a reader has opened, as its scan knows it.
pub(crate) struct OpenedFile {
    pub(crate) file: Arc<OpenFile>,
    pub(crate) number: u32,
}

/// Stream of one partition of a scan.
#[derive(Debug)]
pub(crate) struct ScanStream(Arc<ScanAhead>);

impl ScanAhead {
    pub(super) fn new(spec: ScanSpec, units: Units, rank: usize, reader: &ScanReader, query: Arc<QueryState>) -> Self {
        let known = Schemas::new(&spec);
        query.account.begin_scan();
        let state = ScanState {
            units,
            pieces: HashMap::new(),
            reading_footers: BTreeMap::new(),
            ahead: BTreeMap::new(),
            open: HashMap::new(),
            opened: BTreeSet::new(),
            sent: 0,
            is_polled: false,
            streams_begun: 0,
            streams_live: 0,
            place: Some(query.member.open_scan()),
            is_closed: false,
        };
        Self {
            spec,
            stores: Arc::clone(reader.stores()),
            footers: Arc::clone(reader.footers()),
            bridge_bytes: reader.bridge_bytes(),
            query,
            rank,
            refusals: AtomicU64::new(reader.pace().map_or(0, |pace| pace.slow_downs())),
            pace: reader.pace().cloned(),
            waiting: AtomicUsize::new(0),
            planning: Mutex::new(Planning {
                known,
                planned: BTreeSet::new(),
                pruned: HashMap::new(),
                looked: None,
                is_stale: false,
            }),
            state: Mutex::new(state),
        }
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    /// Returns true if the store has asked for fewer requests since the last call.
    pub(super) fn was_refused(&self) -> bool {
        let refusals = self.pace.as_ref().map_or(0, |pace| pace.slow_downs());
        self.refusals.swap(refusals, Relaxed) < refusals
    }

    /// Returns the bytes under way that keep the store's pipe full; None while that is not known.
    pub(super) fn depth_bytes(&self) -> Option<u64> {
        self.pace.as_ref()?.depth_bytes()
    }

    /// Returns true while a reader waits for bytes of this scan.
    pub(super) fn is_waited_for(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Returns true once a piece for each of its streams was sent.
    pub(super) fn has_begun(&self) -> bool {
        self.lock().sent >= self.spec.lanes.streams()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ScanState> {
        self.state.lock().expect("no holder panics")
    }

    fn lock_planning(&self) -> MutexGuard<'_, Planning> {
        self.planning.lock().expect("no holder panics")
    }

    pub(super) fn next(&self) -> Option<Next> {
        self.lock().units.next()
    }

    /// Returns a file, which readers and requests ahead share.
    pub(super) fn file(&self, state: &mut ScanState, number: u32) -> Arc<OpenFile> {
        let planned = &self.spec.files[number as usize];
        let object = &planned.object_meta;
        let open = state.open.get(&object.location).and_then(Weak::upgrade);
        if let Some(open) = open.filter(|open| open.serves(planned)) {
            return open;
        }
        let pinned = PinnedFile::new(InStore::of(planned).among(&self.stores), object.clone());
        let pinned = pinned.bridging(self.bridge_bytes);
        let file = Arc::new(OpenFile::new(pinned, planned, Arc::clone(&self.footers)));
        if state.open.len() >= OPEN_MAX {
            state.open.retain(|_, open| open.strong_count() > 0);
        }
        state.open.insert(object.location.clone(), Arc::downgrade(&file));
        file
    }

    /// Plans a file whose footer is known, and sends what can be sent of it.
    pub(crate) fn footer_came(&self, number: u32, footer: &Arc<ParquetMetaData>) {
        self.plan(number, footer);
        self.query.pump();
    }

    /// Predicts what is read of a file, once.
    pub(super) fn plan(&self, number: u32, footer: &Arc<ParquetMetaData>) {
        let mut planning = self.lock_planning();
        if !planning.planned.insert(number) {
            return;
        }
        let mut layout = self.layout(&mut planning.known, number, footer);
        let mut state = self.lock();
        if !state.opened.contains(&number) {
            planning.pruned.insert(number, layout.as_mut().and_then(|layout| layout.pruned.take()));
        }
        match layout {
            Some(layout) => state.units.add(number, &layout),
            None => state.units.leave(number),
        }
    }

    /// Returns what is left of a file that a partition opens now. None where the opener has to prune it itself. A file of which
    /// nothing is left counts as opened.
    pub(crate) fn pruned(&self, partition: usize, file: &PartitionedFile) -> Option<PrunedFile> {
        if file.extensions.contains::<FileDeletes>() || file.extensions.contains::<ParquetRowSelection>() {
            return None;
        }
        let number = self.spec.number(file)?;
        let planned = &self.spec.files[number as usize];
        let plan = |file: &PartitionedFile| file.extensions.get::<ParquetAccessPlan>().cloned();
        if planned.partition_values != file.partition_values || plan(planned) != plan(file) {
            return None;
        }
        // The filter of a join is complete when its probe side is polled.
        let is_first = !std::mem::replace(&mut self.lock().is_polled, true);
        self.reprune(if is_first { Look::AllAtOnce } else { Look::AtOnce });
        let footer = {
            let mut state = self.lock();
            self.file(&mut state, number).known_footer()?
        };
        self.plan(number, &footer);
        let pruned = {
            let mut planning = self.lock_planning();
            match planning.pruned.remove(&number) {
                Some(pruned) => pruned?,
                // It was opened before, or a filter has changed since.
                None => self.layout(&mut planning.known, number, &footer)?.pruned?,
            }
        };
        if pruned.is_empty() {
            self.opened(partition, file);
        }
        Some(pruned)
    }

    /// Leaves a file to its readers.
    pub(super) fn leave(&self, number: u32) {
        let mut planning = self.lock_planning();
        if planning.planned.insert(number) {
            self.lock().units.leave(number);
        }
    }

    fn layout(&self, known: &mut Schemas, number: u32, footer: &Arc<ParquetMetaData>) -> Option<FileLayout> {
        let file = &self.spec.files[number as usize];
        match catch_panic(|| layout(&self.spec, known, file, footer)) {
            Ok(Ok(layout)) => return Some(layout),
            Ok(Err(error)) => {
                tracing::debug!(file = %file.object_meta.location, %error, "a file is not read ahead");
            }
            Err(panic) => tracing::debug!(file = %file.object_meta.location, %panic, "a file is not read ahead"),
        }
        None
    }

    /// Drops row groups that dynamic filters have pruned meanwhile.
    pub(super) fn reprune(&self, look: Look) {
        let dropped = {
            // Somebody who plans a file now sees the filter as it is.
            let planning =
                if look == Look::Sometimes { self.planning.try_lock().ok() } else { Some(self.lock_planning()) };
            let Some(mut planning) = planning else { return };
            let is_early = planning.looked.is_some_and(|looked| looked.elapsed() < FILTER_PAUSE);
            if is_early && look == Look::Sometimes {
                return;
            }
            if planning.known.filters_changed(&self.spec) {
                planning.pruned.clear();
                planning.is_stale = true;
            }
            if look == Look::AtOnce {
                return;
            }
            planning.looked = Some(Instant::now());
            if !std::mem::take(&mut planning.is_stale) {
                return;
            }
            let footers: Vec<(u32, Arc<ParquetMetaData>)> = {
                let mut state = self.lock();
                let numbers = state.units.open_files();
                numbers.into_iter().filter_map(|n| Some((n, self.file(&mut state, n).known_footer()?))).collect()
            };
            let mut layouts: HashMap<u32, FileLayout> = HashMap::new();
            for (number, footer) in footers {
                if let Some(mut layout) = self.layout(&mut planning.known, number, &footer) {
                    if !self.lock().opened.contains(&number) {
                        planning.pruned.insert(number, layout.pruned.take());
                    }
                    layouts.insert(number, layout);
                }
            }
            let keep = |file: u32, group: usize| {
                layouts.get(&file).is_none_or(|layout| layout.units.iter().any(|unit| unit.row_group == group))
            };
            // Much work does not follow at once.
            planning.looked = Some(Instant::now());
            let mut state = self.lock();
            let pruned = state.units.reprune(&keep, look == Look::AllAtOnce);
            // A reader that has opened a file asks by the filter of that time.
            layouts.retain(|file, _| !state.opened.contains(file));
            for (file, layout) in &layouts {
                state.units.replan(*file, layout);
            }
            state.removed(&pruned)
        };
        drop(dropped);
    }

    /// Opens a file for the reader of a partition. None for a file that is not the scan's.
    pub(crate) fn opened(&self, partition: usize, file: &PartitionedFile) -> Option<OpenedFile> {
        let number = self.spec.number(file)?;
        let is_first = !std::mem::replace(&mut self.lock().is_polled, true);
        // The filter of a join is complete when its probe side is polled.
        self.reprune(if is_first { Look::AllAtOnce } else { Look::Sometimes });
        let (file, dropped) = {
            let mut planning = self.lock_planning();
            let mut state = self.lock();
            planning.pruned.remove(&number);
            state.opened.insert(number);
            let file = self.file(&mut state, number);
            let left = state.units.opened(partition, number);
            let mut dropped = state.removed(&left);
            dropped.files.extend(state.ahead.remove(&number));
            (file, dropped)
        };
        drop(dropped);
        self.query.pump();
        Some(OpenedFile { file, number })
    }

    /// Lets go of at least so many bytes of memory, if it can. They are free when the returned parts are dropped.
    pub(super) fn give_back(&self, bytes: usize) -> Dropped {
        let mut state = self.lock();
        let ids = state.units.give_back(bytes as u64);
        let mut dropped = state.removed(&ids);
        if dropped.held_bytes() < bytes {
            dropped.holds = state.uncount();
        }
        dropped
    }

    /// Notes that a partition's stream has begun. The scan is closed when the streams of all partitions have ended.
    pub(crate) fn stream(self: &Arc<Self>) -> ScanStream {
        let mut state = self.lock();
        state.streams_begun += 1;
        state.streams_live += 1;
        ScanStream(Arc::clone(self))
    }

    /// Aborts what is under way, and reads nothing ahead from now on.
    pub(super) fn close(&self, end: End) {
        let dropped = {
            let mut state = self.lock();
            if state.is_closed {
                return;
            }
            state.is_closed = true;
            state.units.close(end);
            self.query.account.end_scan(state.units.take_usage());
            Dropped {
                pieces: state.pieces.drain().map(|(_, piece)| piece).collect(),
                files: std::mem::take(&mut state.ahead).into_values().collect(),
                holds: Vec::new(),
                _footers: std::mem::take(&mut state.reading_footers).into_values().collect(),
                _place: state.place.take(),
            }
        };
        drop(dropped);
    }
}

impl Debug for ScanAhead {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScanAhead").field("rank", &self.rank).finish_non_exhaustive()
    }
}

impl Drop for ScanAhead {
    fn drop(&mut self) {
        self.close(End::Cancelled);
        // A plan may read a scan again whose streams have ended.
        let later = self.lock().units.take_usage();
        self.query.account.add(later);
    }
}

impl Drop for ScanStream {
    fn drop(&mut self) {
        let is_last = {
            let mut state = self.0.lock();
            state.streams_live -= 1;
            state.streams_live == 0 && state.streams_begun >= self.0.spec.lanes.streams()
        };
        if is_last {
            // A query that is given up closes all its scans before it drops their streams.
            self.0.close(End::Finished);
        }
    }
}

impl Dropped {
    /// Returns the bytes of memory that are free when it is dropped.
    pub(super) fn held_bytes(&self) -> usize {
        let pieces = self.pieces.iter().filter_map(|piece| piece.hold.as_ref());
        let files = self.files.iter().filter_map(|file| file.hold.as_ref());
        pieces.chain(files).chain(&self.holds).map(Hold::bytes).sum()
    }
}

impl ScanState {
    /// Removes pieces that nobody will ask for again.
    pub(super) fn removed(&mut self, ids: &[PieceId]) -> Dropped {
        Dropped { pieces: ids.iter().filter_map(|id| self.pieces.remove(id)).collect(), ..Dropped::default() }
    }

    /// Counts the memory of what is left no more, once the returned holds are dropped.
    fn uncount(&mut self) -> Vec<Hold> {
        let pieces = self.pieces.values_mut().filter_map(|piece| piece.hold.take());
        let files = self.ahead.values_mut().filter_map(|file| file.hold.take());
        pieces.chain(files).collect()
    }
}
