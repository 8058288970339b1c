//! Statements of servers that are gone: found, taken over, and gone on with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::exchange::Appended;
use gust_engine::resume::{Inherited, WorkDone, WorkLog};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Header, Keeping, Record, Submitted, VERSION, What};
use crate::door::Door;

/// Most servers that a statement outlives. One that ends its server would end the next one as well.
const TAKEOVERS_MAX: u32 = 3;

/// Pause between looks while no other server's journal is there.
const IDLE_PAUSE: Duration = Duration::from_secs(60);

/// Shortest pause between looks.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Journals that are watched.
const WATCHED_MAX: usize = 1_000;

/// Entries that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// Journal of another server.
#[derive(Debug)]
enum Watched {
    /// Its last entry, and when that was seen first.
    Alive { last: u32, since: Instant, lease: Duration },
    /// It makes no sense.
    Foreign,
}

impl Door {
    /// Takes statements over whose servers are gone, until this one stops. `shown` hears when those that are there are shown.
    pub(crate) async fn take_over(self: Arc<Self>, shown: oneshot::Sender<()>) {
        let mut shown = Some(shown);
        let Some(keeping) = self.keeping.clone() else { return };
        let mut watched = HashMap::<String, Watched>::new();
        loop {
            match keeping.journals.list().await {
                Ok(listed) => {
                    self.statements.keep_unowned(|id| listed.contains_key(id));
                    watched.retain(|id, _| listed.contains_key(id) && !self.statements.owns(id));
                    for (id, last) in listed.into_iter().take(WATCHED_MAX) {
                        if !self.statements.owns(&id) {
                            self.look_at(&keeping, &mut watched, id, last).await;
                        }
                    }
                }
                Err(error) => tracing::warn!("journals in the exchange cannot be listed: {error}"),
            }
            if let Some(shown) = shown.take() {
                // Nobody may wait for it any more.
                let _is_awaited = shown.send(()).is_ok();
            }
            let leases = watched.values().filter_map(|watched| match watched {
                Watched::Alive { lease, .. } => Some(*lease / 4),
                Watched::Foreign => None,
            });
            let pause = leases.min().unwrap_or(IDLE_PAUSE).clamp(PAUSE_MIN, IDLE_PAUSE);
            if self.stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Looks at a journal that is not this server's, and takes it over if its owner is gone.
    async fn look_at(
        self: &Arc<Self>,
        keeping: &Keeping,
        watched: &mut HashMap<String, Watched>,
        id: String,
        last: u32,
    ) {
        match watched.get(&id) {
            Some(Watched::Foreign) => {}
            Some(Watched::Alive { last: seen, since, lease }) if *seen == last => {
                if since.elapsed() >= *lease {
                    watched.remove(&id);
                    if !self.claim(keeping, &id, last).await {
                        watched.insert(id, Watched::Foreign);
                    }
                }
            }
            known => {
                let is_new = known.is_none();
                // One that cannot be read, or is of others' users, is looked at again the next time.
                if let Some(lease) = self.found(keeping, &id, last, is_new).await {
                    watched.insert(id, Watched::Alive { last, since: Instant::now(), lease });
                }
            }
        }
    }

    /// Reads the last entry of a journal, and shows its statement's user that it is there. Returns the lease; None if it is not to be taken over.
    async fn found(&self, keeping: &Keeping, id: &str, last: u32, is_new: bool) -> Option<Duration> {
        let Record { lease, what, .. } = keeping.record(id, last).await?;
        if matches!(what, What::Ended) {
            // Its owner may have been killed while it removed the rest.
            return Some(lease);
        }
        let submitted = keeping.begun(id).await?;
        // It is another server's, with other users.
        if !self.lets_in(&submitted) {
            return None;
        }
        if is_new {
            self.statements.show_unowned(id, submitted.principal(), &submitted);
        }
        Some(lease)
    }

    /// Tells if the user of a statement may still run it.
    fn lets_in(&self, submitted: &Submitted) -> bool {
        let principal = submitted.principal();
        self.has_users() == (principal.user.is_some() && principal.credential.is_some())
            && self.knows(&principal).is_ok()
    }

    /// Takes a statement over, unless another server is faster, and goes on with it. Returns false if its journal makes no sense.
    async fn claim(self: &Arc<Self>, keeping: &Keeping, id: &str, last: u32) -> bool {
        let Some(Record { takeovers, what, .. }) = keeping.record(id, last).await else { return true };
        if matches!(what, What::Ended) {
            self.statements.keep_unowned(|kept| kept != id);
            self.remove_leftovers(keeping, id).await;
            return true;
        }
        let Some(submitted) = keeping.begun(id).await.filter(|submitted| self.lets_in(submitted)) else { return false };
        // It waits for its turn at the next look if there is no room now.
        let user = submitted.principal().user.unwrap_or_default();
        let Ok(waiting) = self.admission.queue(&user) else { return true };
        let takeovers = takeovers + 1;
        let taken = keeping.encoded(What::Taken, takeovers);
        match keeping.journals.append(id, last + 1, &taken).await {
            Ok(Appended::Done) => {}
            Ok(Appended::Taken) => return true,
            Err(error) => {
                tracing::warn!(id, "its journal cannot be written: {error}");
                return true;
            }
        }
        if takeovers > TAKEOVERS_MAX {
            // Its work may be what ends servers, and is not read.
            let message = format!("{takeovers} servers have ended while the statement ran");
            let hint =
                "look into their logs; a smaller share of the memory for each query is `queries_max` under [server]";
            let failed = QueryError::new(ErrorKind::Resources, message).with_hint(hint);
            let work = WorkLog::new(id.to_owned(), Inherited::of(id, [Vec::new()]));
            self.statements.resume(self, *submitted, work, last + 2, Err(failed));
            return true;
        }
        let read = stream::iter(0..=last).map(|number| keeping.journals.read(id, number)).buffered(READS_AT_ONCE);
        let read: Vec<Bytes> = match read.try_collect().await {
            Ok(read) => read,
            Err(error) => {
                // It is tried again after a lease.
                tracing::warn!(id, "its journal cannot be read: {error}");
                return true;
            }
        };
        let records = read.iter().map(decoded).collect::<Option<Vec<_>>>();
        let Some(Story { submitted, notes }) = records.and_then(Story::of) else {
            tracing::warn!(id, "its journal makes no sense; `gust exchange gc` removes it later");
            return false;
        };
        tracing::info!(id, takeovers, "a statement of a server that is gone is taken over");
        let work = WorkLog::new(id.to_owned(), Inherited::of(id, notes));
        self.statements.resume(self, *submitted, work, last + 2, Ok(waiting));
        true
    }

    /// Removes what a statement of another server has left.
    pub(crate) async fn remove_leftovers(&self, keeping: &Keeping, id: &str) {
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

impl Keeping {
    pub(super) async fn record(&self, id: &str, number: u32) -> Option<Record> {
        let read = self.journals.read(id, number).await;
        read.ok().and_then(|entry| decoded(&entry))
    }

    /// Reads the statement of a journal.
    async fn begun(&self, id: &str) -> Option<Box<Submitted>> {
        match self.record(id, 0).await?.what {
            What::Begun(submitted) => Some(submitted),
            What::Work(_) | What::Beat | What::Taken | What::Ended => None,
        }
    }
}

fn decoded(entry: &Bytes) -> Option<Record> {
    let Header { version } = serde_json::from_slice(entry).ok()?;
    (version == VERSION).then(|| serde_json::from_slice(entry).ok()).flatten()
}

/// Journal that was read.
pub(super) struct Story {
    pub(super) submitted: Box<Submitted>,
    /// Notes of each server that had it.
    pub(super) notes: Vec<Vec<WorkDone>>,
}

impl Story {
    /// Reads entries, from the first on; None if they do not begin with a statement.
    fn of(records: Vec<Record>) -> Option<Self> {
        let mut records = records.into_iter();
        let What::Begun(submitted) = records.next()?.what else { return None };
        let mut story = Self { submitted, notes: vec![Vec::new()] };
        for Record { what, .. } in records {
            match what {
                What::Work(done) => story.notes.last_mut()?.push(*done),
                What::Taken => story.notes.push(Vec::new()),
                What::Begun(_) | What::Beat | What::Ended => {}
            }
        }
        Some(story)
    }
}
