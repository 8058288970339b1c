//! A submitted statement on its way: its turn, its rows into a spool, its end and that of its journal.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datafusion::error::DataFusionError;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_engine::error::QueryError;
use gust_engine::events::{EventLog, StampedEvent};
use gust_engine::resume::WorkLog;
use gust_engine::session::RunningStatement;
use gust_output::StreamError;
use gust_protocol::exchange::ExchangeError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Ended, Entry, Query, Rows, State};
use crate::admission::Waiting;
use crate::door::Door;
use crate::journal::Keeper;
use crate::links::Objects;
use crate::memory::MemoryWait;
use crate::plain::PlainColumns;
use crate::run::{Asked, Done, Failure, Sink, gone, panicked, run, unrun};
use crate::space::{Share, Space};
use crate::spool::{Spool, SpoolWriter, undeclared};

/// First events of an ended statement that are kept, and last ones, and the bytes of the texts of either.
const EVENTS_KEPT_MAX: usize = 1_000;
const EVENTS_KEPT_BYTES_MAX: usize = 128 << 10;

/// Time after which no attempt of an earlier server writes any more: Lambda's longest invocation, and a minute.
pub(crate) const LATE_WRITES_MAX: Duration = Duration::from_secs(16 * 60);

/// Runs a statement in its turn and ends it. Without a turn it ends with the error, and with what earlier servers have spent.
pub(super) async fn carry_out(
    door: Arc<Door>,
    asked: Asked,
    turn: Result<Waiting, QueryError>,
    mut spooling: Spooling,
) {
    let entry = Arc::clone(&spooling.entry);
    let permit = match turn {
        Ok(waiting) => tokio::select! {
            permit = waiting.turn() => Ok(permit),
            gone = gone(&door, &asked.principal, entry.cancel.clone().cancelled_owned().boxed()) => Err(gone),
        },
        Err(error) => Err(error),
    };
    let ended = match &permit {
        Ok(_) => {
            entry.state.send_replace(State::Running { query: None });
            // After a panic its client would wait for an end that never comes.
            let ran = AssertUnwindSafe(Box::pin(run(&door, asked, &mut spooling))).catch_unwind().await;
            ran.unwrap_or_else(|_| Err(panicked().into()))
        }
        Err(error) => {
            spooling.ending().await;
            Err(match spooling.work() {
                Some(work) => Box::pin(unrun(&door, asked, work, error.clone())).await,
                None => error.clone().into(),
            })
        }
    };
    drop(permit);
    end(door, spooling, ended).await;
}

/// Ends a statement, and its journal.
pub(super) async fn end(door: Arc<Door>, mut spooling: Spooling, ended: Result<Done, Failure>) {
    let entry = Arc::clone(&spooling.entry);
    spooling.ending().await;
    let journaled = spooling.journaled.take();
    if journaled.as_ref().is_some_and(|journaled| journaled.keeper.is_taken()) {
        // Its end is the other server's.
        door.statements.give_up(&entry);
        if let Some(keeping) = &door.keeping {
            keeping.look_soon();
        }
        return;
    }
    let state = entry.state();
    let of_failure = ended.as_ref().err().and_then(|failure| failure.id.clone());
    let (query_id, events_total) = (state.query_id().map(str::to_owned).or(of_failure), state.events_total());
    let events = state.log().map(kept).unwrap_or_default();
    let unwanted = query_id.clone().filter(|_| spooling.is_linked && ended.is_err());
    let result = ended.map(|done| {
        let rows = match spooling.taken.take() {
            None => Rows::None,
            Some(Taken::Spool(spool)) => Rows::Spooled(spool),
            Some(Taken::Objects(objects, share)) => Rows::Linked(Arc::new(door.links.rows(&done.id, objects, share))),
        };
        (done, rows)
    });
    entry.state.send_replace(State::Ended(Arc::new(Ended {
        query_id,
        events,
        events_total,
        result,
        at: Instant::now(),
    })));
    let Some(Journaled { work, keeper, .. }) = journaled else {
        if let Some(query) = unwanted {
            door.links.give_up(query);
        }
        return;
    };
    if keeper.is_unended() {
        // Its client does not wait for it, and neither do those who want the place.
        drop(tokio::spawn(remove(door, work, keeper, unwanted)));
    } else {
        remove(door, work, keeper, unwanted).await;
    }
}

/// Removes the journal of a statement that has ended, and what it has left in the exchange: the linked rows of the query `unwanted`, too.
async fn remove(door: Arc<Door>, work: Arc<WorkLog>, mut keeper: Keeper, unwanted: Option<String>) {
    let was_unended = keeper.is_unended();
    if !keeper.end_later(&door.stopping).await {
        return;
    }
    if let Some(query) = unwanted.filter(|_| !work.is_disowned()) {
        door.links.give_up(query);
    }
    let has_left_some = work.is_inherited() && !work.is_disowned();
    if has_left_some || was_unended {
        clean(&door, work.id()).await;
    }
    keeper.remove().await;
    if has_left_some {
        // Attempts that no note tells of may write on.
        let id = work.id().to_owned();
        drop(tokio::spawn(async move {
            if door.stopping.run_until_cancelled(tokio::time::sleep(LATE_WRITES_MAX)).await.is_some() {
                clean(&door, &id).await;
            }
        }));
    }
}

async fn clean(door: &Door, id: &str) {
    if let Err(error) = door.clean_exchange(id).await {
        tracing::warn!(id, "the exchange could not be cleaned: {error}; `gust exchange gc` does it later");
    }
}

/// Returns the first and the last events of a log, with their numbers. A log of a thousand fragments would be kept as long as the
/// rows are. An event that is too large by itself is left out.
fn kept(log: &EventLog) -> Vec<(usize, StampedEvent)> {
    let events: Vec<(usize, StampedEvent)> = (0..).zip(log.snapshot()).collect();
    let (first, rest) = events.split_at(events.len().min(EVENTS_KEPT_MAX));
    let last = &rest[rest.len().saturating_sub(EVENTS_KEPT_MAX)..];
    let mut kept = within_bytes(first.iter());
    let mut of_end = within_bytes(last.iter().rev());
    of_end.reverse();
    kept.extend(of_end);
    kept
}

/// Takes events in their order, and leaves those out that would pass the bound.
fn within_bytes<'a>(events: impl Iterator<Item = &'a (usize, StampedEvent)>) -> Vec<(usize, StampedEvent)> {
    let mut bytes = 0;
    let fits = |(_, stamped): &&(usize, StampedEvent)| {
        let more = format!("{:?}", stamped.event).len();
        let fits = bytes + more <= EVENTS_KEPT_BYTES_MAX;
        bytes += if fits { more } else { 0 };
        fits
    };
    events.filter(fits).cloned().collect()
}

/// Rows of a statement that were taken.
pub(super) enum Taken {
    Spool(Spool),
    /// Objects in the exchange, with their part of its space.
    Objects(Objects, Share),
}

/// Rows of a statement on their way into its spool, or into the exchange.
pub(super) struct Spooling {
    pub(super) entry: Arc<Entry>,
    pub(super) folder: PathBuf,
    /// Space of the place where the rows stay.
    pub(super) space: Arc<Space>,
    pub(super) taken: Option<Taken>,
    /// True if the rows stay in the exchange.
    pub(super) is_linked: bool,
    /// Journal of the statement; None if it ends with the server.
    pub(super) journaled: Option<Journaled>,
}

/// Statement that another server may go on with.
pub(super) struct Journaled {
    pub(super) work: Arc<WorkLog>,
    pub(super) keeper: Keeper,
    /// Token that says that the server stops.
    pub(super) stopping: CancellationToken,
}

impl Journaled {
    /// Ends the journal before anything is removed, or leaves it to the next server if this one stops.
    async fn end(&mut self) {
        match self.stopping.is_cancelled() {
            true => self.keeper.leave().await,
            false => self.keeper.end().await,
        }
    }
}

/// Leaves the rows of a statement in the exchange: those that functions have not left there are written. They take a part of the space, and
/// where it is full the statement fails. Of functions each fragment is counted at its end.
async fn link(running: &mut RunningStatement, space: &Arc<Space>) -> Result<(Objects, Share), QueryError> {
    let columns = PlainColumns::new(running.schema());
    let mut writer = running.part_writer(columns.schema())?;
    let mut share = Share::of(space);
    let of_store = |error: ExchangeError| QueryError::from_engine(DataFusionError::External(Box::new(error)));
    let written = async {
        while let Some(batch) = running.next().await? {
            if !running.has_kept_rows() {
                let batch = columns.conform(&batch).map_err(|error| undeclared(&error))?;
                writer.push(&batch).await.map_err(of_store)?;
            }
            share.grow_to(running.kept_bytes() + writer.bytes())?;
        }
        Ok::<_, QueryError>(())
    };
    let written = written.await;
    let kept_bytes = running.kept_bytes();
    let (objects, bytes) = match (written, running.take_kept()) {
        (Ok(()), Some(parts)) if !parts.is_empty() => (Objects::of_functions(columns.schema(), parts), kept_bytes),
        // An object without rows tells the columns where no function had any.
        (Ok(()), _) => {
            let parts = writer.finish().await.map_err(of_store)?;
            let objects = Objects { schema: columns.schema(), parts };
            let bytes = kept_bytes + objects.bytes();
            (objects, bytes)
        }
        (Err(error), _) => {
            writer.abort().await;
            return Err(error);
        }
    };
    share.grow_to(bytes)?;
    Ok((objects, share))
}

impl Sink for Spooling {
    async fn take(&mut self, running: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
        let query = Some(Query { id: running.id().to_owned(), events: running.events().clone() });
        self.entry.state.send_replace(State::Running { query });
        if running.is_silent() {
            while running.next().await.map_err(StreamError::Query)?.is_some() {}
            return Ok(0);
        }
        if self.is_linked {
            let (objects, share) = link(running, &self.space).await.map_err(StreamError::Query)?;
            let rows = objects.rows();
            self.taken = Some(Taken::Objects(objects, share));
            return Ok(rows);
        }
        let spool = async {
            let mut writer = SpoolWriter::new(&self.folder, running.schema(), &self.space)?;
            while let Some(batch) = running.next().await? {
                tokio::task::block_in_place(|| writer.push(&batch))?;
            }
            writer.finish()
        };
        let spool = spool.await.map_err(StreamError::Query)?;
        let rows = spool.rows();
        self.taken = Some(Taken::Spool(spool));
        Ok(rows)
    }

    fn work(&self) -> Option<Arc<WorkLog>> {
        self.journaled.as_ref().map(|journaled| Arc::clone(&journaled.work))
    }

    fn memory_wait(&self) -> MemoryWait {
        self.entry.memory_wait.clone()
    }

    async fn ending(&mut self) {
        if let Some(journaled) = &mut self.journaled {
            journaled.end().await;
        }
    }

    fn unwanted(&self) -> BoxFuture<'static, ()> {
        self.entry.cancel.clone().cancelled_owned().boxed()
    }
}

#[cfg(test)]
mod tests {
    use gust_engine::events::QueryEvent;

    use super::*;

    #[test]
    fn events_are_kept_within_their_bounds() {
        for (reason, pushed, least, most) in [
            ("x".repeat(1_000), 5_000, 200, 262),
            (String::new(), 5_000, 2 * EVENTS_KEPT_MAX, 2 * EVENTS_KEPT_MAX),
            (String::new(), 1_001, 1_001, 1_001),
            (String::new(), 7, 7, 7),
            ("x".repeat(300_000), 3, 0, 0),
        ] {
            let log = EventLog::start();
            for _ in 0..pushed {
                log.push(QueryEvent::Replanned { reason: reason.clone() });
            }
            let numbers: Vec<usize> = kept(&log).iter().map(|(number, _)| *number).collect();
            assert!((least..=most).contains(&numbers.len()), "{} of {pushed}", numbers.len());
            assert!(numbers.is_sorted());
            if most > 0 {
                assert_eq!((numbers.first(), numbers.last()), (Some(&0), Some(&(pushed - 1))), "the end is there");
            }
        }
    }
}
