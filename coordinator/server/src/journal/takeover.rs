//! Statements of servers that are gone: found, taken over, and gone on with.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::exchange::{Appended, ENTRY_BYTES_MAX, JournalListed};
use gust_engine::resume::{Inherited, WorkDone, WorkLog};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Header, JOURNAL_BYTES_MAX, Keeping, Position, Record, Submitted, VERSION, What};
use crate::admission::Waiting;
use crate::door::{Base, Door};

/// Most servers that end without a word while they have a statement. One that ends its server would end the next one as well.
const DEATHS_MAX: u32 = 3;

/// Most servers of a statement, those that stop in order among them.
const SERVERS_MAX: usize = 200;

/// Pause between looks while no other server's journal is there.
const IDLE_PAUSE: Duration = Duration::from_secs(60);

/// Shortest pause between looks.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// First pause after a store that did not answer, which grows up to [`IDLE_PAUSE`].
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Journals that are watched.
const WATCHED_MAX: usize = 1_000;

/// Entries that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// Bytes of a journal that is read at all, and number of its last entry. Servers write less, and what others write is not believed.
const READ_BYTES_MAX: u64 = JOURNAL_BYTES_MAX + ENTRY_BYTES_MAX;
const ENTRIES_MAX: u32 = 1 << 24;

/// Tries to take a statement from a server that writes on.
const CANCEL_TRIES_MAX: usize = 5;

/// Journal of another server.
#[derive(Debug)]
enum Watched {
    /// Its last entry, and when that was seen first.
    Alive { last: u32, since: Instant, lease: Duration },
    /// The same of one that means something else here, and whether the log says that nobody goes on with it.
    Elsewhere { last: u32, since: Instant, lease: Duration, is_told: bool },
    /// It makes no sense.
    Foreign,
}

/// Last entry of a journal that another server writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Its statement may be taken over after the lease.
    Alive(Duration),
    /// Its server has other catalogs, or another set-up.
    Elsewhere(Duration),
}

/// Purpose for which a statement is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    GoOn,
    Cancel,
}

impl Door {
    /// Takes statements over whose servers are gone, until this one stops. `shown` hears when those that are there are shown.
    pub(crate) async fn take_over(self: Arc<Self>, shown: oneshot::Sender<()>) {
        let mut shown = Some(shown);
        let Some(keeping) = self.keeping.clone() else { return };
        if !self.stopping.run_until_cancelled(keeping.probe(&mut shown)).await.unwrap_or_default() {
            return;
        }
        let mut watched = HashMap::<String, Watched>::new();
        loop {
            match keeping.journals.list().await {
                Ok(listed) => {
                    self.statements.keep_unowned(|id| listed.contains_key(id));
                    watched.retain(|id, _| listed.contains_key(id) && !self.statements.owns(id));
                    for (id, listed) in listed.into_iter().take(WATCHED_MAX) {
                        if !self.statements.owns(&id) && !keeping.is_claimed(&id) {
                            self.look_at(&keeping, &mut watched, id, listed).await;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!("journals in the exchange cannot be listed: {error}");
                    // Their owners may not reach it either. Each has its whole time again.
                    watched.clear();
                }
            }
            if let Some(shown) = shown.take() {
                // Nobody may wait for it any more.
                let _is_awaited = shown.send(()).is_ok();
            }
            let leases = watched.values().filter_map(|watched| match watched {
                Watched::Alive { lease, .. } => Some(*lease / 4),
                Watched::Elsewhere { .. } | Watched::Foreign => None,
            });
            let pause = leases.min().unwrap_or(IDLE_PAUSE).clamp(PAUSE_MIN, IDLE_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = keeping.woken.notified() => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    /// Looks at a journal that is not this server's, and takes it over if its owner is gone.
    async fn look_at(
        self: &Arc<Self>,
        keeping: &Keeping,
        watched: &mut HashMap<String, Watched>,
        id: String,
        listed: JournalListed,
    ) {
        let last = listed.last;
        match watched.get_mut(&id) {
            Some(Watched::Foreign) => {}
            Some(Watched::Elsewhere { last: seen, since, lease, is_told }) if *seen == last => {
                if !*is_told && since.elapsed() >= *lease {
                    let differs =
                        "its server had other catalogs, `reach`, --catalog, --setup, provider of users or machine";
                    tracing::warn!(id, "a statement whose server is gone is not taken over here: {differs}");
                    *is_told = true;
                }
            }
            Some(Watched::Alive { last: seen, since, lease }) if *seen == last => {
                if since.elapsed() >= *lease {
                    watched.remove(&id);
                    if !self.claim(keeping, &id, listed, Purpose::GoOn).await {
                        watched.insert(id, Watched::Foreign);
                    }
                }
            }
            known => {
                let is_new = known.is_none();
                let was_told = matches!(known, Some(Watched::Elsewhere { is_told: true, .. }));
                // One that cannot be read, or is of others' users, is looked at again the next time.
                let Some(found) = self.found(keeping, &id, last, is_new).await else { return };
                let since = Instant::now();
                let seen = match found {
                    Found::Alive(lease) => Watched::Alive { last, since, lease },
                    Found::Elsewhere(lease) => Watched::Elsewhere { last, since, lease, is_told: was_told },
                };
                watched.insert(id, seen);
            }
        }
    }

    /// Reads the last entry of a journal, and shows its statement's user that it is there. None if it is not to be taken over now.
    async fn found(&self, keeping: &Keeping, id: &str, last: u32, is_new: bool) -> Option<Found> {
        let Record { lease, what, .. } = keeping.record(id, last).await.ok().flatten()?;
        if matches!(what, What::Ended) {
            // Its owner may have been killed while it removed the rest.
            return Some(Found::Alive(lease));
        }
        let submitted = keeping.begun(id).await?;
        let base = self.base();
        if submitted.deployment != base.deployment {
            return Some(Found::Elsewhere(lease));
        }
        // It is another user's, whom this server does not know.
        if !self.lets_in(&base, &submitted) {
            return None;
        }
        if is_new {
            self.statements.show_unowned(id, submitted.principal(), &submitted);
        }
        Some(Found::Alive(lease))
    }

    /// Tells if a statement means the same over these catalogs, and its user may still run it.
    fn lets_in(&self, base: &Base, submitted: &Submitted) -> bool {
        let principal = submitted.principal();
        submitted.deployment == base.deployment
            && self.has_users() == (principal.user.is_some() && principal.credential.is_some())
            && self.knows(&principal).is_ok()
    }

    /// Ends a statement. One that another server has is taken from it, and ends here.
    pub(crate) async fn cancel(self: &Arc<Self>, entry: &crate::statements::Entry) {
        entry.cancel();
        let Some(keeping) = self.keeping.as_ref().filter(|_| entry.is_unowned()) else { return };
        for _ in 0..CANCEL_TRIES_MAX {
            let listed = keeping.journals.list().await.ok().and_then(|listed| listed.get(&entry.id).copied());
            let Some(listed) = listed else { return };
            let is_done = !self.claim(keeping, &entry.id, listed, Purpose::Cancel).await;
            if is_done || !entry.is_unowned() {
                return;
            }
        }
    }

    /// Takes a statement over, unless another server is faster, and goes on with it or ends it. Returns false if its journal makes no sense.
    async fn claim(
        self: &Arc<Self>,
        keeping: &Keeping,
        id: &str,
        JournalListed { last, bytes }: JournalListed,
        purpose: Purpose,
    ) -> bool {
        // Another request of this server may be about to take it, or have it.
        let Some(_claim) = keeping.claim(id).filter(|_| !self.statements.owns(id)) else { return true };
        let Ok(Some(before)) = keeping.record(id, last).await else { return true };
        if matches!(before.what, What::Ended) {
            self.statements.keep_unowned(|kept| kept != id);
            self.remove_leftovers(keeping, id).await;
            return true;
        }
        if bytes > READ_BYTES_MAX || last > ENTRIES_MAX {
            tracing::warn!(id, bytes, last, "its journal is too long to be read; `gust exchange gc` removes it later");
            return false;
        }
        let base = self.base();
        let begun = keeping.begun(id).await.filter(|submitted| self.lets_in(&base, submitted));
        let Some(submitted) = begun else { return false };
        let turn = match purpose {
            // It waits for its turn at the next look if there is no room now.
            Purpose::GoOn => match self.admission.queue(&submitted.principal().user.unwrap_or_default()) {
                Ok(waiting) => Ok(waiting),
                Err(_) => return true,
            },
            Purpose::Cancel => Err(QueryError::interrupted()),
        };
        // A server that left the statement is not dead, and nor is one that takes it again.
        let is_death = purpose == Purpose::GoOn && !before.lease.is_zero() && before.owner != keeping.owner;
        let deaths = before.deaths + u32::from(is_death);
        let taken = keeping.encoded(What::Taken, deaths);
        match keeping.journals.append(id, last + 1, &taken).await {
            Ok(Appended::Done) => {}
            Ok(Appended::Taken) => return true,
            Err(error) => {
                tracing::warn!(id, "its journal cannot be written: {error}");
                return true;
            }
        }
        let turn = turn.and_then(|waiting| may_go_on(waiting, deaths, bytes));
        let story = match keeping.story(id, last, turn.is_ok()).await {
            Ok(Some(story)) => story,
            Ok(None) => {
                tracing::warn!(id, "its journal makes no sense; `gust exchange gc` removes it later");
                return false;
            }
            Err(error) => {
                // It is tried again after a lease.
                tracing::warn!(id, "its journal cannot be read: {error}");
                return true;
            }
        };
        let turn = match story.notes.len() > SERVERS_MAX {
            true => Err(QueryError::new(ErrorKind::Resources, format!("{SERVERS_MAX} servers have had the statement"))),
            false => turn,
        };
        tracing::info!(id, deaths, "a statement of another server is taken over");
        let position = Position { next: last + 2, bytes: bytes + taken.len() as u64, deaths };
        let work = WorkLog::new(id.to_owned(), Inherited::of(id, story.notes));
        self.statements.resume(self, *submitted, work, position, turn, base);
        true
    }

    /// Removes what a statement of another server has left.
    async fn remove_leftovers(&self, keeping: &Keeping, id: &str) {
        let cleaned = self.clean_exchange(id).await;
        let removed = match cleaned {
            Ok(_) => keeping.journals.remove(id).await.map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(id, "what it has left in the exchange cannot be removed: {error}");
        }
    }
}

/// Gives the place in the queue up for a statement that must not run again.
fn may_go_on(waiting: Waiting, deaths: u32, bytes: u64) -> Result<Waiting, QueryError> {
    let failed = |message: String| QueryError::new(ErrorKind::Resources, message);
    if deaths > DEATHS_MAX {
        let hint = "look into their logs; a smaller share of the memory for each query is `queries_max` under [server]";
        return Err(failed(format!("{deaths} servers have ended while the statement ran")).with_hint(hint));
    }
    if bytes > JOURNAL_BYTES_MAX {
        let message = format!("the statement's journal has more than {JOURNAL_BYTES_MAX} bytes");
        return Err(failed(message).with_hint("submit it again"));
    }
    Ok(waiting)
}

impl Keeping {
    /// Finds out if the store creates an entry once. False for a store that does not: then there are no journals. It waits for a store
    /// that does not answer. Nobody else does.
    async fn probe(&self, shown: &mut Option<oneshot::Sender<()>>) -> bool {
        let mut pause = PROBE_PAUSE;
        loop {
            // One id for all tries: each of them leaves an object where nothing may be deleted.
            match self.journals.creates_once(&self.owner).await {
                Ok(is_usable) => {
                    if !is_usable {
                        let what = "the exchange's store does not create an object once (If-None-Match)";
                        tracing::warn!("{what}: submitted statements end with this server");
                    }
                    self.is_usable.store(is_usable, Ordering::Relaxed);
                    return is_usable;
                }
                Err(error) if pause == PROBE_PAUSE => {
                    drop(shown.take());
                    tracing::warn!(
                        "submitted statements end with this server until the exchange can be written: {error}"
                    );
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(IDLE_PAUSE);
        }
    }

    /// Reads an entry. None if there is none, or if it makes no sense.
    pub(super) async fn record(&self, id: &str, number: u32) -> Result<Option<Record>, String> {
        let read = self.journals.read(id, number).await.map_err(|error| error.to_string())?;
        Ok(read.as_ref().and_then(decoded))
    }

    /// Reads the statement of a journal.
    async fn begun(&self, id: &str) -> Option<Box<Submitted>> {
        match self.record(id, 0).await.ok().flatten()?.what {
            What::Begun(submitted) => Some(submitted),
            What::Work(_) | What::Beat | What::Taken | What::Ended => None,
        }
    }

    /// Reads a journal up to an entry, with or without results. None if it makes no sense.
    async fn story(&self, id: &str, last: u32, has_results: bool) -> Result<Option<Story>, String> {
        let mut read = stream::iter(0..=last).map(|number| self.journals.read(id, number)).buffered(READS_AT_ONCE);
        let mut story = Story::default();
        while let Some(entry) = read.next().await {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Err(error.to_string()),
            };
            // Nobody writes an entry that is missing any more.
            let Some(record) = entry.as_ref().and_then(decoded) else { return Ok(None) };
            story.add(record.what, has_results);
        }
        Ok((!story.notes.is_empty()).then_some(story))
    }
}

fn decoded(entry: &Bytes) -> Option<Record> {
    let Header { version } = serde_json::from_slice(entry).ok()?;
    (version == VERSION).then(|| serde_json::from_slice(entry).ok()).flatten()
}

/// Work of a journal that was read: the notes of each server that had the statement.
#[derive(Debug, Default)]
struct Story {
    notes: Vec<Vec<WorkDone>>,
}

impl Story {
    fn add(&mut self, what: What, has_results: bool) {
        match what {
            What::Begun(_) | What::Taken => self.notes.push(Vec::new()),
            What::Work(mut done) => {
                if !has_results {
                    done.results.clear();
                }
                if let Some(notes) = self.notes.last_mut() {
                    notes.push(*done);
                }
            }
            What::Beat | What::Ended => {}
        }
    }
}
