//! The one writer of a process's history. Records are written one after the other. While the file does not answer, none waits for it: a
//! statement has no record then. A long queue is another thing: who has waited in it for too long has no record, and others go on waiting.
//!
//! A server's statements wait for their record for a moment only ([`HistoryWriter::of_server`]). A disk that is slow for seconds would
//! else hold their answers up, and with their places those who wait for a turn.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{HistoryError, HistoryFault};
use super::record::Record;
use super::store::Store;
use super::{NO_PLACE, NO_PLACE_HINT, RecordInput, WRITE_MAX, record};
use crate::config::HistoryConfig;
use crate::error::QueryError;

/// Most records that wait for their turn. One more is not written.
const QUEUED_MAX: usize = 1_000;

/// Time after which a write under way hangs. It is below [`WRITE_MAX`]: when the first statement goes on that has waited for it, the next do not wait.
const HANGING_MIN: Duration = Duration::from_secs(4);

/// Longest time for which a server's statement waits for its record. A disk that is well writes one within a few milliseconds.
const SERVER_WAIT_MAX: Duration = Duration::from_millis(50);

/// Writer of records. Clones share its turn.
#[derive(Debug, Clone)]
pub struct HistoryWriter(Arc<State>);

#[derive(Debug)]
struct State {
    turn: Arc<Semaphore>,
    queue: Semaphore,
    hanging_min: Duration,
    /// Listener for records for which their statement has not waited; None where each waits to the end.
    late: Option<mpsc::Sender<LateRecord>>,
    /// Beginning of the write under way.
    begun: Mutex<Option<Instant>>,
}

/// Record of a statement that has waited long enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRecord {
    /// Id of the statement.
    pub id: String,
    /// Reason why it is not in the history; None if it is.
    pub why: Option<String>,
}

/// Knowledge of a record when its statement goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    Written,
    /// It is on its way, or none is wanted. A [`LateRecord`] tells of the former.
    Unknown,
}

/// Turn of a write, until it is dropped.
struct Turn {
    state: Arc<State>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.state.begun() = None;
    }
}

impl State {
    fn begun(&self) -> MutexGuard<'_, Option<Instant>> {
        self.begun.lock().expect("no holder panics")
    }
}

impl Default for HistoryWriter {
    fn default() -> Self {
        Self::with_patience(HANGING_MIN)
    }
}

impl HistoryWriter {
    /// Makes a writer of which a write hangs after this time.
    fn with_patience(hanging_min: Duration) -> Self {
        Self::of(hanging_min, None)
    }

    /// Makes the writer of a server, whose statements wait for their record for a moment only. The receiver hears of the others.
    pub fn of_server() -> (Self, mpsc::Receiver<LateRecord>) {
        let (late, receiver) = mpsc::channel(QUEUED_MAX);
        (Self::of(HANGING_MIN, Some(late)), receiver)
    }

    fn of(hanging_min: Duration, late: Option<mpsc::Sender<LateRecord>>) -> Self {
        let (turn, queue) = (Arc::new(Semaphore::new(1)), Semaphore::new(QUEUED_MAX));
        Self(Arc::new(State { turn, queue, hanging_min, late, begun: Mutex::default() }))
    }

    /// Waits until the records that are on their way are written, for [`WRITE_MAX`] at most.
    pub async fn settled(&self) {
        // Turns are given in the order in which they are asked for.
        if self.hangs() || tokio::time::timeout(WRITE_MAX, self.0.turn.acquire()).await.is_err() {
            tracing::warn!("the history is slow: records of statements that have ended are not written yet");
        }
    }

    /// Tells if the file does not answer: the write under way has begun long ago.
    pub fn hangs(&self) -> bool {
        self.0.begun().is_some_and(|begun| begun.elapsed() >= self.0.hanging_min)
    }

    /// Writes the record of a statement, if the settings want one.
    ///
    /// # Errors
    /// The reason why there is no record.
    pub async fn write(&self, input: &RecordInput<'_>, settings: &HistoryConfig) -> Result<Recorded, QueryError> {
        if !settings.enabled {
            return Ok(Recorded::Unknown);
        }
        let Some(store) = Store::of(settings) else {
            return Err(QueryError::setup(NO_PLACE).with_hint(NO_PLACE_HINT));
        };
        let days = chrono::Duration::days(settings.retention_days.into());
        let oldest = input.meta.started.checked_sub_signed(days).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let make = || record(input, settings.statement);
        let written = match &self.0.late {
            None => self.write_within(WRITE_MAX, &store, make, oldest).await.map(|()| Recorded::Written),
            Some(late) => Box::pin(self.write_soon(late.clone(), input.meta.id.clone(), store, make, oldest)).await,
        };
        written.map_err(|error| {
            QueryError::setup(error.to_string()).with_default_hint(error.fault.hint()).with_source(error)
        })
    }

    /// Begins to write a record, and waits for its end for a moment.
    async fn write_soon(
        &self,
        late: mpsc::Sender<LateRecord>,
        id: String,
        store: Store,
        make: impl FnOnce() -> Record,
        oldest: DateTime<Utc>,
    ) -> Result<Recorded, HistoryError> {
        if self.hangs() {
            return Err(store.error(HistoryFault::Slow));
        }
        let (writer, record) = (self.clone(), make());
        let mut writing =
            tokio::spawn(async move { Box::pin(writer.write_within(WRITE_MAX, &store, || record, oldest)).await });
        if let Ok(written) = tokio::time::timeout(SERVER_WAIT_MAX, &mut writing).await {
            return match written {
                Ok(written) => written.map(|()| Recorded::Written),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => Ok(Recorded::Unknown),
            };
        }
        drop(tokio::spawn(async move {
            let why = match writing.await {
                Ok(written) => written.err().map(|error| error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            // Nobody listens at the end of the process.
            drop(late.send(LateRecord { id, why }).await);
        }));
        Ok(Recorded::Unknown)
    }

    /// Writes a record within a time. Otherwise it is not written, unless the file hangs at the very end of the write.
    async fn write_within(
        &self,
        time: Duration,
        store: &Store,
        make: impl FnOnce() -> Record,
        oldest: DateTime<Utc>,
    ) -> Result<(), HistoryError> {
        let slow = || store.error(HistoryFault::Slow);
        if self.hangs() {
            return Err(slow());
        }
        let _queued = self.0.queue.try_acquire().map_err(|_| slow())?;
        let (record, given_up) = (make(), CancellationToken::new());
        let writing = async {
            let turn = Turn { _turn: Arc::clone(&self.0.turn).acquire_owned().await.ok(), state: Arc::clone(&self.0) };
            *self.0.begun() = Some(Instant::now());
            let (store, given_up) = (store.clone(), given_up.clone());
            // It goes on to its end, and holds its turn, also where nobody waits for it any more.
            let writing = tokio::spawn(async move {
                let _turn = turn;
                store.write(&record, oldest, &given_up).await
            });
            writing.await
        };
        match tokio::time::timeout(time, writing).await {
            Ok(Ok(written)) => written,
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) | Err(_) => {
                given_up.cancel();
                Err(slow())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::config::StatementKept;
    use crate::history::record::tests::{done, events, meta, recorded};

    const SHORT: Duration = Duration::from_millis(300);

    async fn written(writer: &HistoryWriter, store: &Store, id: &str, time: Duration) -> Result<(), HistoryFault> {
        let made = || recorded(&meta(id, "SELECT 1", &[]), &events(id), &done(), StatementKept::Text);
        writer.write_within(time, store, made, DateTime::UNIX_EPOCH).await.map_err(|error| error.fault)
    }

    /// A statement of a server goes on, and its record is written once the file's lock is free.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_statement_of_a_server_waits_for_a_moment_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = HistoryConfig { path: Some(folder.path().join("history.db")), ..HistoryConfig::default() };
        let (store, (writer, mut late)) = (Store::of(&settings).expect("a place"), HistoryWriter::of_server());
        let write = async |id: &str| {
            let sender = writer.0.late.clone().expect("a server's");
            let made = || recorded(&meta(id, "SELECT 1", &[]), &events(id), &done(), StatementKept::Text);
            writer.write_soon(sender, id.to_owned(), store.clone(), made, DateTime::UNIX_EPOCH).await
        };
        // A file that is made anew may take longer than a moment.
        if write("zero").await.expect("it is on its way") == Recorded::Unknown {
            assert_eq!(late.recv().await, Some(LateRecord { id: "zero".to_owned(), why: None }));
        }
        let mut other = store.open().await.expect("readable").expect("it is there");
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("locked");
        let since = Instant::now();
        assert_eq!(write("first").await.expect("it is on its way"), Recorded::Unknown);
        assert!(since.elapsed() < Duration::from_secs(1), "it did not wait: {:?}", since.elapsed());
        sqlx::query("ROLLBACK").execute(&mut other).await.expect("unlocked");
        writer.settled().await;
        assert_eq!(late.recv().await, Some(LateRecord { id: "first".to_owned(), why: None }));
        let ids = sqlx::query_scalar("SELECT id FROM queries ORDER BY id").fetch_all(&mut other).await;
        let ids: Vec<String> = ids.expect("ids");
        assert_eq!(ids, ["first", "zero"]);
    }

    /// Another connection holds the file's lock, so that the first write waits for it, and the second for the first.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_queue_is_no_file_that_hangs() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = HistoryConfig { path: Some(folder.path().join("history.db")), ..HistoryConfig::default() };
        let (store, writer) = (Store::of(&settings).expect("a place"), HistoryWriter::default());
        let patient = Duration::from_secs(20);
        assert_eq!(written(&writer, &store, "zero", patient).await, Ok(()));
        let mut other = store.open().await.expect("readable").expect("it is there");
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.expect("locked");
        let (first, second, unlocked) = tokio::join!(
            written(&writer, &store, "first", patient),
            written(&writer, &store, "second", SHORT),
            async {
                tokio::time::sleep(2 * SHORT).await;
                assert!(!writer.hangs(), "one has waited for too long, and the write has not");
                sqlx::query("ROLLBACK").execute(&mut other).await
            }
        );
        assert_eq!((first, second), (Ok(()), Err(HistoryFault::Slow)));
        unlocked.expect("unlocked");
        assert_eq!(written(&writer, &store, "third", patient).await, Ok(()));
    }

    /// The first write finds out that the file hangs. The others do not wait, and nothing of them is written later.
    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_waits_for_a_file_that_is_known_to_hang() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history.db");
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo of coreutils");
        assert!(made.success());
        let settings = HistoryConfig { path: Some(path.clone()), ..HistoryConfig::default() };
        let (store, writer) = (Store::of(&settings).expect("a place"), HistoryWriter::with_patience(SHORT / 2));
        let write = async |id: &str, time| written(&writer, &store, id, time).await;
        let (first, second) = tokio::join!(write("first", SHORT), write("second", SHORT));
        assert_eq!((first, second), (Err(HistoryFault::Slow), Err(HistoryFault::Slow)));
        let since = Instant::now();
        for number in 0..100 {
            assert_eq!(write(&number.to_string(), SHORT).await, Err(HistoryFault::Slow));
        }
        assert!(since.elapsed() < 20 * SHORT, "they went on, and few of the 100 waited: {:?}", since.elapsed());
        // The file is a file by now, and somebody lets the first write go on.
        std::fs::rename(&path, folder.path().join("fifo")).expect("moved");
        std::fs::write(&path, "").expect("written");
        let reading = tokio::task::spawn_blocking({
            let fifo = folder.path().join("fifo");
            move || std::fs::File::open(fifo)
        });
        reading.await.expect("no panic").expect("opened");
        let patient = Duration::from_secs(20);
        while writer.hangs() {
            assert!(since.elapsed() < patient, "it hangs on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(write("last", patient).await, Ok(()));
        let mut connection = store.open().await.expect("readable").expect("it is there");
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT id FROM queries").fetch_all(&mut connection).await.expect("ids");
        assert_eq!(ids, ["last"]);
    }
}
