//! Requests of one scan: they are sent, their bodies are kept, and readers take them.
//!
//! A reader finds each range in a piece that has come, in a piece under way, or nowhere. What is nowhere it reads itself, at
//! once. What is found and taken is marked in the same step, so that no range is asked for twice.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join, join_all};
use object_store::{Error, Result};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::budget::{Grant, Part};
use super::memory::Hold;
use super::scan::{FileAhead, ScanAhead, ScanState};
use super::units::{FoundPart, Next, PieceId, Taken, Wanted};
use crate::footer::footer_guess;
use crate::hedging::Waited;
use crate::scan::OpenFile;

/// Body of a piece. The last clone that is dropped aborts its request.
type Body = Shared<BoxFuture<'static, Result<Bytes, Arc<Error>>>>;

/// Starts a read that is dropped with its handle. It is no task of a statement's that computes ([`datafusion::common::runtime::SpawnedTask`]), and waits for none: the
/// time of a read is the store's.
fn spawned<T: Send + 'static>(reading: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(reading))
}

/// GET that was sent ahead.
pub(super) struct Piece {
    body: Body,
    /// Mark that a reader waits for it: only then it may be sent again.
    mark: Waited,
    /// None once an operator needed the memory more: the bytes are then counted nowhere, as those in a decoder.
    pub(super) hold: Option<Hold>,
    _share: Part,
}

/// Part of a range that a reader asks for.
struct ReadPart {
    range: Range<u64>,
    /// None where the reader sends it itself.
    body: Option<FoundBody>,
}

/// Bytes that a reader has found.
struct FoundBody {
    body: Body,
    slice: Range<usize>,
}

/// Part of a range, after its request ahead has ended.
struct PartRead {
    range: Range<u64>,
    /// None where the request has failed, or there was none.
    bytes: Option<Bytes>,
    was_found: bool,
}

impl ScanAhead {
    /// Sends what is next. False where budget or memory do not suffice.
    pub(super) fn send(self: &Arc<Self>, next: &Next) -> bool {
        match next {
            Next::Footer(number) => self.send_footer(*number, next),
            Next::Piece(wanted) => self.send_piece(wanted, next),
        }
    }

    fn send_piece(self: &Arc<Self>, wanted: &Wanted, next: &Next) -> bool {
        let bytes = wanted.range.end - wanted.range.start;
        let Some(hold) = self.query.memory.try_hold(bytes) else { return false };
        let Some(Grant { slot, share }) = self.query.try_grant(bytes, self.depth_bytes()) else { return false };
        let Some(runtime) = self.query.runtime.get() else { return false };
        let _inside = runtime.enter();
        let mut state = self.lock();
        if !state.units.ask(next) {
            drop(state);
            return true;
        }
        let Wanted { id, file, range } = wanted.clone();
        let file = self.file(&mut state, file);
        let (scan, mark) = (Arc::downgrade(self), Waited::default());
        let marked = mark.clone();
        let reading = async move {
            let read = file.pinned.range_ahead(range, &marked).await;
            drop(slot);
            if let Err(error) = &read {
                tracing::debug!(%error, "a read ahead failed");
            }
            if let Some(scan) = scan.upgrade() {
                match &read {
                    Ok(_) => scan.lock().units.came(id),
                    Err(_) => scan.failed(id),
                }
            }
            read.map_err(Arc::new)
        };
        // The task runs though nobody waits for it.
        let task = spawned(reading.instrument(self.query.span.clone()));
        let body = async move {
            task.await
                .unwrap_or_else(|error| Err(Arc::new(Error::Generic { store: "read-ahead", source: Box::new(error) })))
        };
        let body = body.boxed().shared();
        state.pieces.insert(id, Piece { body, mark, hold: Some(hold), _share: share });
        state.sent += 1;
        true
    }

    /// Lets a piece go that failed. Readers who wait for it, and later ones, read its ranges themselves.
    fn failed(&self, id: PieceId) {
        let piece = {
            let mut state = self.lock();
            state.units.failed(id);
            state.pieces.remove(&id)
        };
        drop(piece);
    }

    fn send_footer(self: &Arc<Self>, number: u32, next: &Next) -> bool {
        let planned = &self.spec.files[number as usize];
        let (file, is_opened) = {
            let mut state = self.lock();
            (self.file(&mut state, number), state.opened.contains(&number))
        };
        if let Some(footer) = file.known_footer() {
            if self.lock().units.ask(next) {
                self.plan(number, &footer);
            }
            return true;
        }
        if is_opened {
            // Its reader reads the footer, which needs no budget.
            let _is_asked_now = self.lock().units.ask(next);
            return true;
        }
        let (size, known) = (file.pinned.object().size, planned.metadata_size_hint);
        let bytes = known.map_or_else(|| footer_guess(size), |bytes| bytes as u64).min(size);
        let Some(hold) = self.query.memory.try_hold(bytes) else { return false };
        let Some(Grant { slot, share }) = self.query.try_grant(bytes, self.depth_bytes()) else { return false };
        let Some(runtime) = self.query.runtime.get() else { return false };
        let _inside = runtime.enter();
        let (scan, reading) = (Arc::downgrade(self), Arc::clone(&file));
        let reading = async move {
            let footer = reading.footer().await;
            drop(slot);
            let Some(scan) = scan.upgrade() else { return };
            match footer {
                Ok(footer) => scan.footer_came(number, &footer),
                Err(error) => {
                    tracing::debug!(%error, "a footer could not be read ahead");
                    scan.leave(number);
                }
            }
            let task = scan.lock().reading_footers.remove(&number);
            drop(task);
        };
        let mut state = self.lock();
        // A reader may have opened the file since. Its hold would then stay until the scan ends.
        if !state.units.ask(next) || state.opened.contains(&number) {
            drop(state);
            return true;
        }
        state.reading_footers.insert(number, spawned(reading.instrument(self.query.span.clone())));
        state.ahead.insert(number, FileAhead { _file: file, hold: Some(hold), _share: Some(share) });
        true
    }

    /// Reads what a reader waits for. Scans with such readers are served first.
    pub(crate) async fn waited<T>(&self, reading: impl Future<Output = T>) -> T {
        let _waiting = Waiting::enter(&self.waiting);
        reading.await
    }

    /// Reads ranges of a file for a reader. Waits for those under way, and sends requests for those that are nowhere.
    ///
    /// # Errors
    /// The store's, from a request that was sent for this reader.
    pub(crate) async fn take(&self, number: u32, file: &OpenFile, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let _waiting = Waiting::enter(&self.waiting);
        let (parts, released) = {
            let mut state = self.lock();
            let Taken { found, released } = state.units.take(number, ranges);
            let parts = found.into_iter().zip(ranges).map(|(found, range)| found.into_parts(range));
            let parts: Vec<Vec<ReadPart>> =
                parts.map(|parts| parts.into_iter().map(|part| state.found(part)).collect()).collect();
            let mut released = state.removed(&released);
            for piece in &mut released.pieces {
                // Bytes that a reader waits for are counted in no pool, as without reading ahead.
                piece.hold = None;
            }
            (parts, released)
        };
        self.query.pump();
        let each: Vec<usize> = parts.iter().map(Vec::len).collect();
        let parts: Vec<ReadPart> = parts.into_iter().flatten().collect();
        let missing: Vec<Range<u64>> =
            parts.iter().filter(|part| part.body.is_none()).map(|part| part.range.clone()).collect();
        let bodies = join_all(parts.into_iter().map(|ReadPart { range, body }| async move {
            let Some(FoundBody { body, slice }) = body else {
                return PartRead { range, bytes: None, was_found: false };
            };
            // A failure is dropped: this reader sends its own request.
            let bytes = body.await.ok().filter(|body| slice.end <= body.len()).map(|body| body.slice(slice));
            PartRead { range, bytes, was_found: true }
        }));
        let account = &self.query.account;
        let (fetched, mut read) = account.waited(join(self.demand(file, &missing), bodies)).await;
        let mut fetched = fetched?.into_iter();
        read.iter_mut().filter(|part| !part.was_found).for_each(|part| part.bytes = fetched.next());
        let failed: Vec<Range<u64>> =
            read.iter().filter(|part| part.bytes.is_none()).map(|part| part.range.clone()).collect();
        let failed_bytes: u64 = failed.iter().map(|range| range.end - range.start).sum();
        if failed_bytes > 0 {
            self.lock().units.missed(failed_bytes);
        }
        let mut again = account.waited(self.demand(file, &failed)).await?.into_iter();
        let mut read = read.into_iter().filter_map(|part| part.bytes.or_else(|| again.next()));
        let whole = |parts: usize| match read.by_ref().take(parts).collect::<Vec<_>>() {
            mut parts if parts.len() == 1 => parts.swap_remove(0),
            parts => parts.concat().into(),
        };
        let read: Vec<Bytes> = each.into_iter().map(whole).collect();
        let in_decoder = Arc::new(self.query.member.over(0, read.iter().map(|bytes| bytes.len() as u64).sum()));
        let counted = |bytes| Bytes::from_owner(Counted { bytes, _part: Arc::clone(&in_decoder) });
        let read = read.into_iter().map(counted).collect();
        drop(released);
        self.query.pump();
        Ok(read)
    }

    /// Reads ranges at once, whatever the budget.
    async fn demand(&self, file: &OpenFile, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let _over = self.query.member.over(1, bytes);
        let read = file.pinned.ranges(ranges).await?;
        self.query.account.note_gaps(read.gap_bytes);
        Ok(read.bytes)
    }
}

/// Bytes of a row group in a decoder. The budget counts them until the decoder lets all of them go.
struct Counted {
    bytes: Bytes,
    _part: Arc<Part>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl ScanState {
    /// Returns a part of a range, with the body of the piece in which it was found.
    fn found(&self, FoundPart { range, piece }: FoundPart) -> ReadPart {
        let body = |(id, slice)| {
            let piece = self.pieces.get(&id)?;
            piece.mark.set();
            Some(FoundBody { body: piece.body.clone(), slice })
        };
        ReadPart { range, body: piece.and_then(body) }
    }
}

/// Reader that waits, for as long as the value lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
