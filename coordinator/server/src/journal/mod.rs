//! Journals of submitted statements, in the exchange: after the end of a server, however it came, another goes on with them.
//!
//! ```text
//!  submitted ── 5 s ──► begun ─► work ─► beat ─► work … ─► ended, and removed        (keeper)
//!                                          ┄ kill -9 ┄► taken ─► work … ─► ended     (takeover, of another server or the next start)
//! ```
//!
//! An owner writes at least every few seconds. A server that sees no new entry for as long as the last one promised takes the statement over:
//! by its own clock alone, so that no two clocks have to agree. Who writes the next entry owns the statement ([`Journals`]).
//!
//! A journal has the text of the statements and the hash of the user's token. Statements with OPTIONS, which may hold secrets, have none
//! ([`may_be_kept`]). Who may write into the exchange may submit statements by it.
//!
//! Non-goals: rows of statements that have ended.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gust_engine::config::{Label, LabelError};
use gust_engine::exchange::{Appended, ENTRY_BYTES_MAX, Journals};
use gust_engine::money::Money;
use gust_engine::resume::{WorkDone, WorkLog};
use gust_engine::session::pieces;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::door::{Base, SessionWishes};
use crate::jwt::WebToken;
use crate::run::Asked;
use crate::statements::Key;
use crate::tokens::{Credential, Hash, Principal};

mod takeover;

/// Version of the entries. A server leaves journals of other versions alone.
const VERSION: u32 = 2;

/// Bytes of results that one entry has, about.
const RESULTS_BYTES_MAX: usize = 8 << 20;

/// Tries to write the end of a journal after the first one, for which the statement's end waits, and the pause before each.
const END_TRIES_MAX: usize = 3;
const END_PAUSE: Duration = Duration::from_secs(1);

/// Pauses behind tries to remove a journal.
const REMOVAL_PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::ZERO];

/// Time for which the end of a journal is tried after that.
const END_LATER_MAX: Duration = Duration::from_secs(3_600);

/// Bytes of a whole journal. A statement with more is not taken over.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;

/// Journals of this server and of others.
#[derive(Debug)]
pub(crate) struct Keeping {
    journals: Journals,
    /// Name of this server's process, so that no two entries are equal.
    owner: String,
    /// Age of a statement from which on it has a journal.
    after: Duration,
    /// True once the store has shown that it creates an entry once.
    is_usable: AtomicBool,
    /// Wakes the look at others' journals.
    woken: Notify,
    /// Statements that this server is taking over, or whose end it still writes: two requests to end one must not both claim it.
    claimed: Mutex<HashSet<String>>,
}

/// Statement that this server is taking over, or whose end it still writes, until it is dropped.
#[derive(Debug)]
struct Claim<'a> {
    keeping: &'a Keeping,
    id: &'a str,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.keeping.claimed.lock().expect("no holder panics").remove(self.id);
    }
}

/// Place at which a server goes on with a journal.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Position {
    /// Number of the next entry.
    next: u32,
    /// Bytes of the entries before it.
    bytes: u64,
    /// Servers that ended without a word while they had the statement.
    deaths: u32,
}

/// An entry, as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    owner: String,
    /// Time in which the next entry comes, or the owner is taken for gone.
    lease: Duration,
    /// Servers that ended without a word while they had the statement.
    deaths: u32,
    /// Tells two entries of one server apart. A write that is repeated has the same.
    #[serde(default)]
    nonce: String,
    what: What,
}

/// Part of an entry that every version can read.
#[derive(Deserialize)]
struct Header {
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Begun(Box<Submitted>),
    Work(Box<WorkDone>),
    Beat,
    /// Another server takes it over.
    Taken,
    /// The statement has ended, and its objects are about to be removed.
    Ended,
}

/// A statement as it was submitted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Submitted {
    pub(crate) submitted: DateTime<Utc>,
    /// Digest of what makes it mean the same on another server.
    deployment: String,
    user: Option<String>,
    credential: Option<SavedCredential>,
    sql: String,
    #[serde(default)]
    pub(crate) is_linked: bool,
    catalog: Option<String>,
    schema: Option<String>,
    cap_nano_dollars: Option<u64>,
    timeout: Option<Duration>,
    labels: Vec<(String, String)>,
    pub(crate) key: Option<(String, [u8; 32])>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SavedCredential {
    Token(Hash),
    Web { ends: DateTime<Utc>, subject: String, groups: Vec<String> },
}

impl Submitted {
    fn of(asked: &Asked, submitted: DateTime<Utc>, key: Option<&Key>, deployment: &str) -> Self {
        let Asked { principal: Principal { user, credential }, sql, is_linked, wishes, .. } = asked.clone();
        let SessionWishes { catalog, schema, cap, timeout, labels, trace_parent: _, base: _ } = wishes;
        let credential = credential.map(|credential| match credential {
            Credential::Token(hash) => SavedCredential::Token(hash),
            Credential::Web(web) => {
                let WebToken { ends, subject, groups } = WebToken::clone(&web);
                SavedCredential::Web { ends, subject, groups }
            }
        });
        Self {
            submitted,
            deployment: deployment.to_owned(),
            user,
            credential,
            sql,
            is_linked,
            catalog,
            schema,
            cap_nano_dollars: cap.map(Money::nano_dollars),
            timeout,
            labels: labels.into_iter().map(|Label { key, value }| (key, value)).collect(),
            key: key.map(|Key { key, hash }| (key.clone(), *hash)),
        }
    }

    pub(crate) fn principal(&self) -> Principal {
        let credential = self.credential.clone().map(|credential| match credential {
            SavedCredential::Token(hash) => Credential::Token(hash),
            SavedCredential::Web { ends, subject, groups } => {
                Credential::Web(Arc::new(WebToken { ends, subject, groups }))
            }
        });
        Principal { user: self.user.clone(), credential }
    }

    /// Returns the request that it was.
    ///
    /// # Errors
    /// [`LabelError`] for a label that is none any more.
    pub(crate) fn asked(self) -> Result<Asked, LabelError> {
        let principal = self.principal();
        let Self { sql, is_linked, catalog, schema, cap_nano_dollars, timeout, labels, .. } = self;
        let cap = cap_nano_dollars.map(Money::from_nano_dollars);
        let wishes = SessionWishes { catalog, schema, cap, timeout, ..SessionWishes::default() }.with_labels(labels)?;
        Ok(Asked { principal, sql, dry_run: false, is_linked, wishes })
    }
}

impl Keeping {
    pub(crate) fn new(journals: Journals, after: Duration) -> Arc<Self> {
        let owner = Uuid::now_v7().simple().to_string();
        let (is_usable, woken, claimed) = (AtomicBool::new(false), Notify::new(), Mutex::default());
        Arc::new(Self { journals, owner, after, is_usable, woken, claimed })
    }

    /// Begins to take a statement over. None while this server does so already.
    fn claim<'a>(&'a self, id: &'a str) -> Option<Claim<'a>> {
        let is_new = self.claimed.lock().expect("no holder panics").insert(id.to_owned());
        is_new.then(|| Claim { keeping: self, id })
    }

    /// Tells if this server is taking a statement over, or still writes its end.
    fn is_claimed(&self, id: &str) -> bool {
        self.claimed.lock().expect("no holder panics").contains(id)
    }

    /// Makes the entry of a statement that begins over these catalogs; None for one that ends with its server.
    pub(crate) fn submitted(
        &self,
        asked: &Asked,
        at: DateTime<Utc>,
        key: Option<&Key>,
        base: &Base,
    ) -> Option<Submitted> {
        let is_kept = self.is_usable.load(Ordering::Relaxed) && !asked.dry_run && may_be_kept(&asked.sql);
        is_kept.then(|| Submitted::of(asked, at, key, &base.deployment))
    }

    /// Lets others' journals be looked at soon.
    pub(crate) fn look_soon(&self) {
        self.woken.notify_one();
    }

    /// Returns the time after which an owner that writes nothing is taken for gone.
    fn lease(&self) -> Duration {
        3 * self.after
    }

    fn encoded(&self, what: What, deaths: u32) -> Bytes {
        self.encoded_for(what, deaths, self.lease())
    }

    fn encoded_for(&self, what: What, deaths: u32, lease: Duration) -> Bytes {
        let nonce = Uuid::now_v7().simple().to_string();
        let record = Record { version: VERSION, owner: self.owner.clone(), lease, deaths, nonce, what };
        // All of it are texts and numbers.
        serde_json::to_vec(&record).unwrap_or_default().into()
    }

    /// Keeps the journal of a statement in a task of its own, from this place on. A statement that is lost to another server is given up,
    /// and cancelled.
    pub(crate) fn keep(
        self: &Arc<Self>,
        submitted: Submitted,
        work: Arc<WorkLog>,
        position: Position,
        cancel: CancellationToken,
    ) -> Keeper {
        let stop = CancellationToken::new();
        let writer = Writer {
            keeping: Arc::clone(self),
            work,
            position,
            written: Instant::now(),
            failures: 0,
            unanswered: None,
            ended: None,
            held: Held::Ours,
        };
        let task = tokio::spawn(writer.run(submitted, stop.clone(), cancel));
        Keeper { stop, task: Some(task), writer: None }
    }
}

/// Journal of one statement of this server.
#[derive(Debug)]
pub(crate) struct Keeper {
    stop: CancellationToken,
    task: Option<JoinHandle<Writer>>,
    writer: Option<Writer>,
}

impl Keeper {
    /// Leaves the statement to the next server, because this one stops. There is no wait for it.
    pub(crate) async fn leave(&mut self) {
        let Some(task) = self.task.take() else { return };
        self.stop.cancel();
        let Ok(mut writer) = task.await else { return };
        if writer.is_kept() {
            let mut written = Some(Appended::Done);
            while written == Some(Appended::Done)
                && let Some(done) = writer.work.take(RESULTS_BYTES_MAX)
            {
                let entry = writer.keeping.encoded(What::Work(Box::new(done)), writer.position.deaths);
                written = writer.write(&entry).await;
            }
            let left = writer.keeping.encoded_for(What::Beat, writer.position.deaths, Duration::ZERO);
            // Without a first entry there is nobody to whom it is left.
            if writer.write(&left).await != Some(Appended::Taken) && writer.position.next > 0 {
                writer.give_up(Held::Left);
            }
        }
        self.writer = Some(writer);
    }

    /// Tells if another server has taken the statement, or may have.
    pub(crate) fn is_taken(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.held == Held::Taken)
    }

    /// Ends the journal before the statement's objects are removed. A statement that another server has taken meanwhile is disowned.
    pub(crate) async fn end(&mut self) {
        let Some(task) = self.task.take() else { return };
        self.stop.cancel();
        let Ok(mut writer) = task.await else { return };
        if writer.is_kept() {
            let mut written = writer.write_end().await;
            for _ in 0..END_TRIES_MAX {
                if written.is_some() {
                    break;
                }
                tokio::time::sleep(END_PAUSE).await;
                written = writer.write_end().await;
            }
            if written.is_none() {
                // Another server may have it by now: nothing of it is removed here.
                writer.held = Held::Unended;
                writer.work.keep_objects();
            }
        }
        self.writer = Some(writer);
    }

    /// Tells if the statement has ended here, and its journal does not say so.
    pub(crate) fn is_unended(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.held == Held::Unended)
    }

    /// Tries on to write the end of the journal, until the server stops. Returns false if it could not be written, or if another server has
    /// the statement: then nothing of it is removed here.
    pub(crate) async fn end_later(&mut self, stopping: &CancellationToken) -> bool {
        let Some(writer) = self.writer.as_mut().filter(|writer| writer.held == Held::Unended) else { return true };
        let (since, pause) = (Instant::now(), writer.keeping.after);
        let (keeping, id) = (Arc::clone(&writer.keeping), writer.work.id().to_owned());
        // Once its client has let go of it, this server would take it for another's, and run it again.
        let _claim = keeping.claim(&id);
        tracing::warn!(id, "the end of its journal cannot be written: it is tried on");
        let mut is_stopping = false;
        while !is_stopping && since.elapsed() < END_LATER_MAX {
            // A last try belongs to the stop.
            is_stopping = stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_none();
            match writer.write_end().await {
                Some(Appended::Done) => {
                    writer.held = Held::Ours;
                    return true;
                }
                Some(Appended::Taken) => return false,
                None => {}
            }
        }
        tracing::warn!(id, "another server may run it again");
        false
    }

    /// Removes the journal of a statement that has ended.
    pub(crate) async fn remove(mut self) {
        self.end().await;
        let Some(writer) = self.writer.take().filter(Writer::is_kept) else { return };
        writer.remove().await;
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Writer of one journal.
#[derive(Debug)]
struct Writer {
    keeping: Arc<Keeping>,
    work: Arc<WorkLog>,
    position: Position,
    /// Time of the last entry that was written.
    written: Instant,
    /// Writes that failed, one after the other.
    failures: u32,
    /// Entry that the store may have, because no answer to its write came. The next number is its own until it is written again.
    unanswered: Option<Bytes>,
    /// Last entry of the journal, once it was tried.
    ended: Option<Bytes>,
    held: Held,
}

/// Holder of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Ours,
    /// Another server has it, or may have it.
    Taken,
    /// It is left to any other server.
    Left,
    /// The statement has ended, and the journal does not say so.
    Unended,
}

impl Writer {
    /// Returns true if there is a journal, or may be one, and it is this server's.
    fn is_kept(&self) -> bool {
        (self.position.next > 0 || self.unanswered.is_some()) && self.held == Held::Ours
    }

    /// Gives the statement up, with its objects.
    fn give_up(&mut self, held: Held) {
        self.held = held;
        self.work.disown();
    }

    async fn run(mut self, submitted: Submitted, stop: CancellationToken, cancel: CancellationToken) -> Self {
        let after = self.keeping.after;
        // Most statements end before.
        let mut begun = (self.position.next == 0).then(|| self.keeping.encoded(What::Begun(Box::new(submitted)), 0));
        if begun.is_some() && stop.run_until_cancelled(tokio::time::sleep(after)).await.is_none() {
            return self;
        }
        let mut last = Instant::now();
        loop {
            let is_due = || last.elapsed() >= after;
            let entry = self.unanswered.clone().or_else(|| begun.take()).or_else(|| self.entry(is_due()));
            let mut has_more = false;
            if let Some(entry) = entry {
                has_more = entry.len() > RESULTS_BYTES_MAX;
                let bytes = entry.len() as u64;
                if bytes > ENTRY_BYTES_MAX || self.position.bytes + bytes > JOURNAL_BYTES_MAX {
                    tracing::warn!(id = self.work.id(), "its journal is too long: the statement ends with this server");
                    self.remove().await;
                    self.position.next = 0;
                    return self;
                }
                match self.write(&entry).await {
                    Some(Appended::Done) => last = Instant::now(),
                    Some(Appended::Taken) => {
                        cancel.cancel();
                        return self;
                    }
                    None if self.position.next > 0 && self.written.elapsed() >= self.keeping.lease() => {
                        // Another server may have it by now, and spend for it.
                        tracing::warn!(
                            id = self.work.id(),
                            "its journal cannot be written for too long: it is given up here"
                        );
                        self.give_up(Held::Taken);
                        cancel.cancel();
                        return self;
                    }
                    None => has_more = false,
                }
            }
            // The next server does not know of attempts that begin between two notes.
            let pause = (after / 5).saturating_mul(1 << self.failures.min(8)).min(after);
            if !has_more && stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return self;
            }
        }
    }

    /// Makes the next entry; None if there is nothing new and none is due.
    fn entry(&self, is_due: bool) -> Option<Bytes> {
        let what = match self.work.take(RESULTS_BYTES_MAX) {
            Some(done) => What::Work(Box::new(done)),
            None if is_due => What::Beat,
            None => return None,
        };
        Some(self.keeping.encoded(what, self.position.deaths))
    }

    /// Writes the end of the journal: the same entry each time, because an answer may have been lost.
    async fn write_end(&mut self) -> Option<Appended> {
        let (keeping, deaths) = (&self.keeping, self.position.deaths);
        let ended = self.ended.get_or_insert_with(|| keeping.encoded(What::Ended, deaths)).clone();
        self.write(&ended).await
    }

    /// Writes an entry, after the one that the store may have: another one of its number would look like another server's. None after an
    /// error of the store.
    async fn write(&mut self, entry: &Bytes) -> Option<Appended> {
        if let Some(before) = self.unanswered.clone().filter(|before| before != entry) {
            let appended = self.append(&before).await;
            if appended != Some(Appended::Done) {
                return appended;
            }
        }
        self.append(entry).await
    }

    /// Writes an entry as the next one. None after an error of the store. The first of several is logged.
    async fn append(&mut self, entry: &Bytes) -> Option<Appended> {
        let appended = match self.may_be_lost().await {
            Ok(true) => Ok(Appended::Taken),
            Ok(false) => {
                let appended = self.keeping.journals.append(self.work.id(), self.position.next, entry).await;
                appended.map_err(|error| error.to_string())
            }
            Err(error) => Err(error),
        };
        let id = self.work.id();
        match appended {
            Ok(Appended::Done) => {
                self.position.next += 1;
                self.position.bytes += entry.len() as u64;
                (self.written, self.failures, self.unanswered) = (Instant::now(), 0, None);
                Some(Appended::Done)
            }
            Ok(Appended::Taken) => {
                tracing::warn!(id, "another server has taken the statement over: it is given up here");
                self.give_up(Held::Taken);
                Some(Appended::Taken)
            }
            Err(error) => {
                if self.failures == 0 {
                    tracing::warn!(id, "its journal cannot be written: {error}; it is tried again");
                }
                self.failures += 1;
                self.unanswered = Some(entry.clone());
                None
            }
        }
    }

    /// Tells if another server may have had the statement since the last entry, and may have removed its journal by now. A number that is
    /// free says nothing then.
    async fn may_be_lost(&self) -> Result<bool, String> {
        let Position { next, .. } = self.position;
        if next == 0 || self.written.elapsed() < self.keeping.lease() {
            return Ok(false);
        }
        let last = self.keeping.record(self.work.id(), next - 1).await?;
        Ok(last.is_none_or(|last| last.owner != self.keeping.owner))
    }

    async fn remove(&self) {
        let id = self.work.id();
        for pause in REMOVAL_PAUSES {
            match self.keeping.journals.remove(id).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(id, "its journal cannot be removed: {error}"),
            }
            tokio::time::sleep(pause).await;
        }
        tracing::warn!(id, "`gust exchange gc` removes its journal later");
    }
}

/// Tells if a text may be written into the exchange. Options may hold keys of a store.
fn may_be_kept(sql: &str) -> bool {
    let has_options = |word: &str| word.eq_ignore_ascii_case("options");
    pieces(sql).is_ok_and(|pieces| {
        pieces.iter().flat_map(|piece| &piece.words).filter_map(|word| word.bare()).all(|word| !has_options(word))
    })
}

#[cfg(test)]
mod tests;
