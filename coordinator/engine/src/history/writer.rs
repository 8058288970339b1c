//! The one writer of a process's history. Records are written one after the other. While the file does not answer, none waits for it: a
//! statement has no record then.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::error::{HistoryError, HistoryFault};
use super::record::Record;
use super::store::Store;
use super::{NO_PLACE, NO_PLACE_HINT, RecordInput, WRITE_MAX, record};
use crate::config::HistoryConfig;
use crate::error::QueryError;

/// Most records that wait for their turn. One more is not written.
const QUEUED_MAX: usize = 1_000;

/// Writer of records. Clones share its turn.
#[derive(Debug, Clone)]
pub struct HistoryWriter(Arc<State>);

#[derive(Debug)]
struct State {
    turn: Arc<Semaphore>,
    queue: Semaphore,
    writing: Mutex<Writing>,
}

/// Write under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Writing {
    #[default]
    Nothing,
    Something,
    /// Somebody has waited for its end for too long.
    Hangs,
}

/// Turn of a write, until it is dropped.
struct Turn {
    state: Arc<State>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.state.writing() = Writing::Nothing;
    }
}

impl State {
    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().expect("no holder panics")
    }
}

impl Default for HistoryWriter {
    fn default() -> Self {
        let (turn, queue) = (Arc::new(Semaphore::new(1)), Semaphore::new(QUEUED_MAX));
        Self(Arc::new(State { turn, queue, writing: Mutex::default() }))
    }
}

impl HistoryWriter {
    /// Tells if the file does not answer: a write is under way for which somebody has waited for too long.
    pub fn hangs(&self) -> bool {
        *self.0.writing() == Writing::Hangs
    }

    /// Writes the record of a statement, if the settings want one.
    ///
    /// # Errors
    /// The reason why there is no record.
    pub async fn write(&self, input: &RecordInput<'_>, settings: &HistoryConfig) -> Result<(), QueryError> {
        if !settings.enabled {
            return Ok(());
        }
        let Some(store) = Store::of(settings) else {
            return Err(QueryError::setup(NO_PLACE).with_hint(NO_PLACE_HINT));
        };
        let days = chrono::Duration::days(settings.retention_days.into());
        let oldest = input.meta.started.checked_sub_signed(days).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let make = || record(input, settings.statement);
        self.write_within(WRITE_MAX, &store, make, oldest).await.map_err(|error| {
            QueryError::setup(error.to_string()).with_default_hint(error.fault.hint()).with_source(error)
        })
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
            *self.0.writing() = Writing::Something;
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
                let mut writing = self.0.writing();
                if *writing == Writing::Something {
                    *writing = Writing::Hangs;
                }
                Err(slow())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tokio::time::Instant;

    use super::*;
    use crate::config::StatementKept;
    use crate::history::record::tests::{done, events, meta, recorded};

    const SHORT: Duration = Duration::from_millis(300);

    /// The first write finds out that the file hangs. The others do not wait, and nothing of them is written later.
    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_waits_for_a_file_that_is_known_to_hang() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("history.db");
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo of coreutils");
        assert!(made.success());
        let settings = HistoryConfig { path: Some(path.clone()), ..HistoryConfig::default() };
        let (store, writer) = (Store::of(&settings).expect("a place"), HistoryWriter::default());
        let write = async |id: &str, time| {
            let made = || recorded(&meta(id, "SELECT 1", &[]), &events(id), &done(), StatementKept::Text);
            writer.write_within(time, &store, made, DateTime::UNIX_EPOCH).await.map_err(|error| error.fault)
        };
        let (first, second) = tokio::join!(write("first", SHORT), write("second", SHORT));
        assert_eq!((first, second), (Err(HistoryFault::Slow), Err(HistoryFault::Slow)));
        let since = Instant::now();
        for number in 0..100 {
            assert_eq!(write(&number.to_string(), SHORT).await, Err(HistoryFault::Slow));
        }
        assert!(since.elapsed() < SHORT, "they went on at once: {:?}", since.elapsed());
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
