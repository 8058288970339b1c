//! Statements that outlive the request that submitted them, by their ids.
//!
//! ```text
//!  submitted ─► QUEUED ◄─► RUNNING ─► SUCCEEDED (rows in a spool) | FAILED | CANCELLED ─► forgotten after a while
//! ```
//!
//! Each belongs to its user: for others its id does not exist. Statements, their rows and their time are bounded.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use gust_engine::config::ServerConfig;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::events::{EventLog, StampedEvent};
use gust_engine::resume::{Inherited, WorkLog};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::admission::{Full, Place, Ticket, Waiting};
use crate::door::{Base, Door};
use crate::journal::{Position, Submitted};
use crate::links::LinkedRows;
use crate::memory::MemoryWait;
use crate::run::{Asked, Done, Failure, spawn};
use crate::space::Space;
use crate::spool::Spool;
use crate::tokens::Principal;
pub(crate) use work::LATE_WRITES_MAX;
use work::{Journaled, Spooling, carry_out, end};

mod work;

/// Statements of a server. The oldest is first.
#[derive(Debug)]
pub(crate) struct Statements {
    entries: Mutex<Entries>,
    statements_max: usize,
    keep: Duration,
    /// Space of rows in files of the folder.
    space: Arc<Space>,
    /// Space of rows in the exchange.
    links_space: Arc<Space>,
    folder: PathBuf,
}

#[derive(Debug, Default)]
struct Entries {
    /// Ids begin with the time, so that their order is that of submission.
    by_id: BTreeMap<String, Arc<Entry>>,
    /// Ids by the user and the key that he gave.
    by_key: HashMap<(Principal, String), String>,
}

/// A submitted statement.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: String,
    principal: Principal,
    /// Key of the user's, and the hash of what he submitted with it.
    key: Option<(String, [u8; 32])>,
    pub(crate) submitted: DateTime<Utc>,
    held: Mutex<Held>,
    cancel: CancellationToken,
    memory_wait: MemoryWait,
    state: watch::Sender<State>,
}

/// Server that has a statement.
#[derive(Debug, Clone, Copy)]
enum Held {
    /// This one, with its place in the queue if it is to run.
    Here(Option<Ticket>),
    /// Another one, or nobody now.
    Elsewhere,
}

/// State of a statement. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) enum State {
    /// It waits for its turn, or for memory. One that has begun and waits for memory once more has its query.
    Queued {
        query: Option<Query>,
    },
    Running {
        query: Option<Query>,
    },
    Ended(Arc<Ended>),
}

/// Last statement of a text on its way.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) id: String,
    pub(crate) events: EventLog,
}

/// End of a statement.
#[derive(Debug)]
pub(crate) struct Ended {
    query_id: Option<String>,
    /// First and last events with their numbers, within their bounds.
    events: Vec<(usize, StampedEvent)>,
    /// Number of all events that there were.
    events_total: usize,
    pub(crate) result: Result<(Done, Rows), Failure>,
    at: Instant,
}

/// Rows of a statement that succeeded.
#[derive(Debug)]
pub(crate) enum Rows {
    /// The statement has none to show.
    None,
    Spooled(Spool),
    /// Clients read them in the exchange.
    Linked(Arc<LinkedRows>),
}

impl Rows {
    /// Returns the rows that this server has kept, if there are some.
    ///
    /// # Errors
    /// [`ErrorKind::Sql`] for rows that are behind links.
    pub(crate) fn spool(&self) -> Result<Option<&Spool>, QueryError> {
        match self {
            Self::None => Ok(None),
            Self::Spooled(spool) => Ok(Some(spool)),
            Self::Linked(_) => Err(QueryError::sql("the rows of this statement are behind links")),
        }
    }
}

impl State {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "QUEUED",
            Self::Running { .. } => "RUNNING",
            Self::Ended(ended) => match &ended.result {
                Ok(_) => "SUCCEEDED",
                Err(failure) if failure.error.kind() == ErrorKind::Interrupted => "CANCELLED",
                Err(_) => "FAILED",
            },
        }
    }

    /// Returns the log of a statement that has begun.
    pub(crate) fn log(&self) -> Option<&EventLog> {
        match self {
            Self::Queued { query: Some(query) } | Self::Running { query: Some(query) } => Some(&query.events),
            _ => None,
        }
    }

    pub(crate) fn query_id(&self) -> Option<&str> {
        match self {
            Self::Queued { query } | Self::Running { query } => query.as_ref().map(|query| query.id.as_str()),
            Self::Ended(ended) => ended.query_id.as_deref(),
        }
    }

    /// Returns so many events at most, from a position on.
    pub(crate) fn events(&self, since: usize, max: usize) -> Vec<(usize, StampedEvent)> {
        if let Self::Ended(ended) = self {
            let wanted = ended.events.iter().filter(|(number, _)| *number >= since);
            return wanted.take(max).cloned().collect();
        }
        let events = self.log().map_or_else(Vec::new, |log| log.since(since));
        (since..).zip(events).take(max).collect()
    }

    /// Returns the number of all events until now.
    pub(crate) fn events_total(&self) -> usize {
        match self {
            Self::Ended(ended) => ended.events_total,
            _ => self.log().map_or(0, |log| log.snapshot().len()),
        }
    }

    pub(crate) fn is_ended(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// Reason why a statement is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error(transparent)]
    Full(#[from] Full),
    #[error("{0} statements are under way; no more are taken")]
    TooMany(usize),
    /// The key belongs to another text.
    #[error("the idempotency key was used for another request")]
    KeyReused,
}

/// Wish to submit a statement once, however often it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) key: String,
    /// Hash of the request.
    pub(crate) hash: [u8; 32],
}

impl Statements {
    /// Makes a server's statements, whose rows are in files of a folder, or in the exchange.
    pub(crate) fn new(server: &ServerConfig, folder: PathBuf) -> Self {
        Self {
            entries: Mutex::default(),
            statements_max: server.statements_max as usize,
            keep: server.keep,
            space: Arc::new(Space::of_results(server.results_bytes_max)),
            links_space: Arc::new(Space::of_links(server.links_bytes_max)),
            folder,
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().expect("no holder panics")
    }

    /// Takes a statement, and starts it when its turn has come. A key that was used finds its first statement.
    pub(crate) fn submit(&self, door: &Arc<Door>, asked: Asked, key: Option<Key>) -> Result<Arc<Entry>, NotTaken> {
        let mut entries = self.entries();
        drop(entries.forget(Instant::now(), self.keep));
        if let Some(Key { key, hash }) = &key
            && let Some(id) = entries.by_key.get(&(asked.principal.clone(), key.clone()))
            && let Some(entry) = entries.by_id.get(id)
        {
            let is_same = entry.key.as_ref().is_some_and(|(_, of)| of == hash);
            return if is_same { Ok(Arc::clone(entry)) } else { Err(NotTaken::KeyReused) };
        }
        if entries.by_id.len() >= self.statements_max && !entries.forget_oldest(&asked.principal) {
            return Err(NotTaken::TooMany(entries.by_id.len()));
        }
        let waiting = door.admission.queue(asked.principal.user.as_deref().unwrap_or_default())?;
        let base = door.base();
        let entry = Arc::new(Entry {
            id: Uuid::now_v7().simple().to_string(),
            principal: asked.principal.clone(),
            key: key.clone().map(|Key { key, hash }| (key, hash)),
            submitted: Utc::now(),
            held: Mutex::new(Held::Here(Some(waiting.ticket()))),
            cancel: CancellationToken::new(),
            memory_wait: MemoryWait::default(),
            state: watch::Sender::new(State::Queued { query: None }),
        });
        entries.insert(&entry);
        drop(entries);
        let journaled = door.keeping.as_ref().and_then(|keeping| {
            let submitted = keeping.submitted(&asked, entry.submitted, key.as_ref(), &base)?;
            let work = WorkLog::new(entry.id.clone(), Inherited::default());
            let keeper = keeping.keep(submitted, Arc::clone(&work), Position::default(), entry.cancel.clone());
            Some(Journaled { work, keeper, stopping: door.stopping.clone() })
        });
        let spooling = self.spooling(&entry, journaled, asked.is_linked);
        spawn(door, carry_out(Arc::clone(door), asked.admitted(base), Ok(waiting), spooling));
        Ok(entry)
    }

    fn spooling(&self, entry: &Arc<Entry>, journaled: Option<Journaled>, is_linked: bool) -> Spooling {
        Spooling {
            entry: Arc::clone(entry),
            folder: self.folder.clone(),
            space: Arc::clone(if is_linked { &self.links_space } else { &self.space }),
            taken: None,
            is_linked,
            journaled,
        }
    }

    /// Goes on with a statement of another server over these catalogs, from this place in its journal on, in its turn, or ends it.
    pub(crate) fn resume(
        &self,
        door: &Arc<Door>,
        submitted: Submitted,
        work: Arc<WorkLog>,
        position: Position,
        turn: Result<Waiting, QueryError>,
        base: Base,
    ) {
        let entry = self.show_unowned(work.id(), submitted.principal(), &submitted);
        let Some(keeping) = &door.keeping else { return };
        entry.hold(Held::Here(turn.as_ref().ok().map(Waiting::ticket)));
        let keeper = keeping.keep(submitted.clone(), Arc::clone(&work), position, entry.cancel.clone());
        let journaled = Some(Journaled { work, keeper, stopping: door.stopping.clone() });
        let spooling = self.spooling(&entry, journaled, submitted.is_linked);
        let asked = match submitted.asked() {
            Ok(asked) => asked.admitted(base),
            Err(error) => {
                spawn(door, end(Arc::clone(door), spooling, Err(QueryError::sql(error.to_string()).into())));
                return;
            }
        };
        spawn(door, carry_out(Arc::clone(door), asked, turn, spooling));
    }

    /// Shows a statement that another server has, or had, as one that waits.
    pub(crate) fn show_unowned(&self, id: &str, principal: Principal, submitted: &Submitted) -> Arc<Entry> {
        let mut entries = self.entries();
        if let Some(entry) = entries.by_id.get(id) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry {
            id: id.to_owned(),
            principal,
            key: submitted.key.clone(),
            submitted: submitted.submitted,
            held: Mutex::new(Held::Elsewhere),
            cancel: CancellationToken::new(),
            memory_wait: MemoryWait::default(),
            state: watch::Sender::new(State::Queued { query: None }),
        });
        entries.insert(&entry);
        entry
    }

    /// Shows a statement as one that waits, because another server has it now.
    fn give_up(&self, entry: &Entry) {
        let mut entries = self.entries();
        entry.hold(Held::Elsewhere);
        entry.state.send_replace(State::Queued { query: None });
        // The token of the old one has ended its work here.
        let anew = Arc::new(Entry {
            id: entry.id.clone(),
            principal: entry.principal.clone(),
            key: entry.key.clone(),
            submitted: entry.submitted,
            held: Mutex::new(Held::Elsewhere),
            cancel: CancellationToken::new(),
            memory_wait: MemoryWait::default(),
            state: watch::Sender::new(State::Queued { query: None }),
        });
        entries.insert(&anew);
    }

    /// Tells if a statement is this server's own.
    pub(crate) fn owns(&self, id: &str) -> bool {
        self.entries().by_id.get(id).is_some_and(|entry| !entry.is_unowned())
    }

    /// Keeps these of the statements of other servers, and forgets the others.
    pub(crate) fn keep_unowned(&self, is_kept: impl Fn(&str) -> bool) {
        let mut entries = self.entries();
        let is_gone = |entry: &&Arc<Entry>| entry.is_unowned() && !is_kept(&entry.id);
        let gone: Vec<String> = entries.by_id.values().filter(is_gone).map(|entry| entry.id.clone()).collect();
        for id in gone {
            drop(entries.remove(&id));
        }
    }

    /// Returns a statement of a user.
    pub(crate) fn get(&self, principal: &Principal, id: &str) -> Option<Arc<Entry>> {
        let mut entries = self.entries();
        drop(entries.forget(Instant::now(), self.keep));
        entries.by_id.get(id).filter(|entry| entry.principal == *principal).cloned()
    }

    /// Lists the statements of a user, the newest first.
    pub(crate) fn list(&self, principal: &Principal) -> Vec<Arc<Entry>> {
        let mut entries = self.entries();
        drop(entries.forget(Instant::now(), self.keep));
        entries.by_id.values().rev().filter(|entry| entry.principal == *principal).cloned().collect()
    }

    /// Returns the number of statements that are under way or kept.
    pub(crate) fn kept(&self) -> usize {
        let mut entries = self.entries();
        drop(entries.forget(Instant::now(), self.keep));
        entries.by_id.len()
    }

    /// Forgets statements that ended longer ago than they are kept, with their files.
    pub(crate) async fn tidy(&self) {
        let old = self.entries().forget(Instant::now(), self.keep);
        // The end of a large file takes its time.
        drop(tokio::task::spawn_blocking(move || drop(old)).await);
    }

    /// Returns the time for which a statement that has ended is kept on.
    pub(crate) fn time_left(&self, ended: &Ended) -> Duration {
        (ended.at + self.keep).saturating_duration_since(Instant::now())
    }

    /// Forgets all statements, with their rows.
    pub(crate) fn clear(&self) {
        drop(std::mem::take(&mut *self.entries()));
    }

    /// Forgets a statement that has ended, with its rows.
    pub(crate) fn forget(&self, entry: &Entry) {
        drop(self.entries().remove(&entry.id));
    }
}

impl Entries {
    fn insert(&mut self, entry: &Arc<Entry>) {
        if let Some((key, _)) = &entry.key {
            self.by_key.insert((entry.principal.clone(), key.clone()), entry.id.clone());
        }
        self.by_id.insert(entry.id.clone(), Arc::clone(entry));
    }

    fn remove(&mut self, id: &str) -> Option<Arc<Entry>> {
        let entry = self.by_id.remove(id)?;
        if let Some((key, _)) = &entry.key {
            self.by_key.remove(&(entry.principal.clone(), key.clone()));
        }
        Some(entry)
    }

    /// Takes statements out that ended longer ago than they are kept.
    fn forget(&mut self, now: Instant, keep: Duration) -> Vec<Arc<Entry>> {
        let is_old = |entry: &&Arc<Entry>| match &*entry.state.borrow() {
            State::Ended(ended) => ended.at + keep <= now,
            _ => false,
        };
        let old: Vec<String> = self.by_id.values().filter(is_old).map(|entry| entry.id.clone()).collect();
        old.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Forgets the oldest ended statement of the user who has most of them. Returns false if none has ended. The newcomer counts
    /// for its user, so that nobody makes others' results go while he has as many.
    fn forget_oldest(&mut self, newcomer: &Principal) -> bool {
        let mut ended = HashMap::<&Principal, (usize, &str)>::new();
        for entry in self.by_id.values().filter(|entry| entry.state().is_ended()) {
            let own = usize::from(entry.principal == *newcomer);
            ended.entry(&entry.principal).or_insert((own, entry.id.as_str())).0 += 1;
        }
        let oldest = ended.values().max_by_key(|(count, _)| *count).map(|(_, id)| (*id).to_owned());
        oldest.and_then(|id| self.remove(&id)).is_some()
    }
}

impl Entry {
    /// Returns the place among those that wait for their turn, or for memory; None if it has none on this server.
    pub(crate) fn place(&self, door: &Door) -> Option<Place> {
        let held = *self.held.lock().expect("no holder panics");
        match (held, self.memory_wait.ticket()) {
            (Held::Here(_), Some(ticket)) => door.memory.place(ticket),
            (Held::Here(ticket), None) => door.admission.place(ticket?),
            (Held::Elsewhere, _) => None,
        }
    }

    fn hold(&self, held: Held) {
        *self.held.lock().expect("no holder panics") = held;
    }

    /// Tells if another server has the statement, or had it.
    pub(crate) fn is_unowned(&self) -> bool {
        matches!(*self.held.lock().expect("no holder panics"), Held::Elsewhere) && !self.state().is_ended()
    }

    pub(crate) fn state(&self) -> State {
        let state = self.state.borrow().clone();
        match state {
            State::Running { query } if self.memory_wait.ticket().is_some() => State::Queued { query },
            state => state,
        }
    }

    /// Waits until the statement has ended, for this long at most. Returns its state.
    pub(crate) async fn wait(&self, time: Duration) -> State {
        let mut states = self.state.subscribe();
        let ended = tokio::time::timeout(time, states.wait_for(State::is_ended)).await;
        drop(ended);
        self.state()
    }

    /// Ends the statement on this server, if it has not ended.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Returns a guard that ends the statement when it is dropped.
    pub(crate) fn cancel_on_drop(&self) -> DropGuard {
        self.cancel.clone().drop_guard()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use gust_engine::events::QueryEvent;
    use gust_engine::session::MemoryGate;

    use super::*;
    use crate::memory::{Gate, unshared};

    #[tokio::test]
    async fn a_statement_that_has_begun_and_waits_for_memory_is_queued() {
        let query = Query { id: "q".to_owned(), events: EventLog::start() };
        query.events.push(QueryEvent::MemoryWanted { bytes: 8 });
        let entry = Entry {
            id: "s".to_owned(),
            principal: Principal::default(),
            key: None,
            submitted: Utc::now(),
            held: Mutex::new(Held::Here(None)),
            cancel: CancellationToken::new(),
            memory_wait: MemoryWait::default(),
            state: watch::Sender::new(State::Running { query: Some(query) }),
        };
        let seen = || {
            let state = entry.state();
            (state.name(), state.query_id().map(str::to_owned), state.events_total())
        };
        let (queued, runs) = (("QUEUED", Some("q".to_owned()), 1), ("RUNNING", Some("q".to_owned()), 1));
        let memory = unshared(10);
        let gate = Gate::of(&memory, "ada", None, entry.memory_wait.clone());
        let other = Gate::of(&memory, "bob", None, MemoryWait::default());
        // It waits each time that it is planned.
        for _ in 0..2 {
            let held = other.claim(8).await.expect("nobody else wants some");
            let mut waiting = gate.claim(8);
            assert!(waiting.as_mut().now_or_never().is_none(), "two do not fit");
            assert_eq!(seen(), queued);
            drop(held);
            drop(waiting.await.expect("its turn"));
            assert_eq!(seen(), runs);
        }
        drop(gate.claim(8).await.expect("nobody else wants some"));
        assert_eq!(seen(), runs);
    }
}
