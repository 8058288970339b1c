//! Way of deletes to functions, where many would read the same files: the coordinator reads each file once, and writes the positions
//! of each data file, as a vector, and the keys of each group of files into one object of the exchange.
//!
//! Both are made beside each other. A part that is not made is no fault: functions read the delete files in its place. So it is with
//! a part for which there is no room, in the object or in memory, and with one that a store fails, in reading or in writing: functions
//! ask again, and their attempts are repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result};
use fragment_fn::{DIGEST_READS_MAX, FileDeletes, KeyDigest, VectorDigest, classify};
use futures::{StreamExt, stream};
use gust_protocol::exchange::StageObject;
use gust_protocol::{DeleteContent, DeleteFile, FragmentErrorKind, FragmentId, ObjectRef};
use object_store::{ObjectStoreExt, PutPayload};
use tokio::sync::{OnceCell, Semaphore};

use super::query::QueryContext;
use crate::events::QueryEvent;
use crate::exchange::{EXCHANGE_ACCESS, Exchange};
use crate::planner::{DigestWork, DigestedDeletes, DigestedKeys, GroupWork, Stage};
use crate::scheduler::FragmentFailure;

/// Most groups of files of keys that are read at a time.
const GROUPS_AT_ONCE_MAX: usize = 4;

/// Digest of a stage's deletes on its way to the functions.
#[derive(Debug)]
pub(super) struct DeletesPublisher {
    stage: Arc<Stage>,
    published: OnceCell<Result<Option<DigestedDeletes>, Arc<DataFusionError>>>,
}

impl DeletesPublisher {
    pub(super) fn new(stage: Arc<Stage>) -> Self {
        Self { stage, published: OnceCell::new() }
    }

    /// Returns the parts of the digest that functions read in place of delete files. The first fragment to ask makes them, and none
    /// makes them again after a failure.
    ///
    /// # Errors
    /// Those of the delete files that would fail in functions, too, and of the exchange.
    pub(super) async fn published(&self, query: &QueryContext, id: &FragmentId) -> Result<Option<&DigestedDeletes>> {
        let publish = || async { self.publish(query, id).await.map_err(Arc::new) };
        match self.published.get_or_init(publish).await {
            Ok(published) => Ok(published.as_ref()),
            Err(error) => Err(DataFusionError::Shared(Arc::clone(error))),
        }
    }

    async fn publish(&self, query: &QueryContext, id: &FragmentId) -> Result<Option<DigestedDeletes>> {
        let Some(work) = self.stage.deletes.digest() else { return Ok(None) };
        let room = Room(AtomicUsize::new(work.bytes_max));
        let turns = Semaphore::new(DIGEST_READS_MAX);
        let making = Making { stage: &self.stage, work, room: &room, turns: &turns };
        let (vectors, keys) = futures::try_join!(making.vectors(), making.keys())?;
        if vectors.is_empty() && keys.is_empty() {
            return Ok(None);
        }
        let mut digest = Digest::default();
        vectors.into_iter().for_each(|(path, vector)| digest.add_vector(path, vector));
        keys.into_iter().for_each(|(group, keys)| digest.add_keys(group, keys));
        let Exchange { prefix, store, .. } = &query.exchange;
        let path = StageObject::Deletes.path(prefix, &id.query, id.stage);
        // The event comes before the write, so that the object is cleaned up if the query ends meanwhile.
        query.attempts.events().push(QueryEvent::DeletesPublished {
            stage: id.stage,
            bytes: digest.size_bytes,
            vectors: digest.vectors.iter().filter(|(_, vector)| vector.is_some()).count(),
            keys: digest.keys.len(),
        });
        let written = store.put(&path, std::mem::take(&mut digest.parts).into_iter().collect::<PutPayload>()).await;
        match written.map_err(DataFusionError::from) {
            Ok(_) => {}
            Err(error) if classify(&error).kind.is_retryable() => return Ok(None),
            Err(DataFusionError::ObjectStore(error)) => {
                let failure = FragmentFailure::unpublished(id.clone(), &path, *error);
                return Err(DataFusionError::External(Box::new(failure)));
            }
            Err(error) => return Err(error),
        }
        let (path, size_bytes) = (path.to_string(), digest.size_bytes);
        let object = ObjectRef { access: EXCHANGE_ACCESS, path, size_bytes, etag: None, footer_bytes: None };
        Ok(Some(digest.within(&object)))
    }
}

/// Bytes that the object may still have.
struct Room(AtomicUsize);

impl Room {
    fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes room for a part. False where it is too large.
    fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Parts of the object, one after the other.
#[derive(Debug, Default)]
struct Digest {
    parts: Vec<Bytes>,
    size_bytes: u64,
    /// Vector of each data file. None for a file of which no row is deleted.
    vectors: Vec<(String, Option<DeleteContent>)>,
    keys: Vec<(GroupWork, DeleteContent)>,
}

impl Digest {
    /// Adds a part, and returns its offset.
    fn add(&mut self, part: Bytes) -> u64 {
        let offset = self.size_bytes;
        self.size_bytes += part.len() as u64;
        self.parts.push(part);
        offset
    }

    fn add_vector(&mut self, path: String, vector: Option<VectorDigest>) {
        let content = vector.map(|VectorDigest { encoded, cardinality }| {
            let bytes = encoded.len() as u64;
            DeleteContent::Vector { offset: self.add(encoded), bytes, cardinality }
        });
        self.vectors.push((path, content));
    }

    fn add_keys(&mut self, group: GroupWork, keys: KeyDigest) {
        self.keys.push((group, keys.content(self.size_bytes)));
        self.add(keys.encoded);
    }

    /// Returns its parts as delete files.
    fn within(self, object: &ObjectRef) -> DigestedDeletes {
        let file = |content| DeleteFile { file: object.clone(), content };
        let keys = |(GroupWork { group, since, until, .. }, content): (GroupWork, DeleteContent)| {
            (group, DigestedKeys { file: file(content), since, until })
        };
        DigestedDeletes {
            vectors: self.vectors.into_iter().map(|(path, vector)| (path, vector.map(file))).collect(),
            keys: self.keys.into_iter().map(keys).collect(),
        }
    }
}

/// Vectors of data files, by their paths. None for a file of which no row is deleted.
type Vectors = Vec<(String, Option<VectorDigest>)>;

/// Parts of a stage's digest while they are made.
#[derive(Clone, Copy)]
struct Making<'a> {
    stage: &'a Stage,
    work: &'a DigestWork,
    room: &'a Room,
    /// Turns to read a delete file.
    turns: &'a Semaphore,
}

impl Making<'_> {
    /// Makes the vectors of data files' deleted positions: all, or none where they do not fit.
    async fn vectors(self) -> Result<Vectors> {
        let files: Vec<&FileDeletes> =
            self.work.vectors.iter().filter_map(|unit| self.stage.deletes_of(*unit)).collect();
        let Some(first) = files.first() else { return Ok(Vec::new()) };
        // An attempt before may have failed half-way.
        first.forget().await;
        let mut made = Vec::new();
        let added = self.vectors_of(&files, &mut made).await;
        first.forget().await;
        if let Outcome::Made(true) = Outcome::of(added)? {
            return Ok(made);
        }
        self.room.give_back(made.iter().filter_map(|(_, vector)| Some(vector.as_ref()?.encoded.len())).sum());
        Ok(Vec::new())
    }

    /// Returns false where not all vectors have room.
    async fn vectors_of(self, files: &[&FileDeletes], made: &mut Vectors) -> Result<bool> {
        files.iter().for_each(|deletes| deletes.announce());
        let making = files.iter().map(|deletes| deletes.digest(self.turns)).collect::<Vec<_>>();
        let mut vectors = stream::iter(making).buffered(DIGEST_READS_MAX).zip(stream::iter(files));
        while let Some((vector, deletes)) = vectors.next().await {
            let vector = vector?;
            if vector.as_ref().is_some_and(|vector| !self.room.take(vector.encoded.len())) {
                return Ok(false);
            }
            made.push((deletes.unit().path.clone(), vector));
        }
        Ok(true)
    }

    /// Makes the keys of groups of files. A group that does not fit is left out.
    async fn keys(self) -> Result<Vec<(GroupWork, KeyDigest)>> {
        let making = self.work.keys.iter().map(|group| self.keys_of(*group)).collect::<Vec<_>>();
        let mut making = stream::iter(making).buffered(GROUPS_AT_ONCE_MAX).zip(stream::iter(&self.work.keys));
        let (mut made, mut again) = (Vec::new(), Vec::new());
        while let Some((keys, group)) = making.next().await {
            match Outcome::of(keys)? {
                Outcome::Made(keys) => made.extend(keys.map(|keys| (*group, keys))),
                Outcome::OutOfMemory => again.push(*group),
                Outcome::Failed => {}
            }
        }
        // Each alone, with the memory that others have given back.
        for group in again {
            if let Outcome::Made(Some(keys)) = Outcome::of(self.keys_of(group).await)? {
                made.push((group, keys));
            }
        }
        Ok(made)
    }

    /// Returns the keys of a group. None where they have no room.
    async fn keys_of(self, GroupWork { group, unit, since, .. }: GroupWork) -> Result<Option<KeyDigest>> {
        let bytes_max = self.room.bytes();
        let Some(deletes) = self.stage.deletes_of(unit).filter(|_| bytes_max > 0) else { return Ok(None) };
        let made = deletes.digest_keys(group, since, bytes_max, self.turns).await?;
        Ok(made.filter(|keys| self.room.take(keys.encoded.len())))
    }
}

/// Outcome of making a part.
enum Outcome<T> {
    Made(T),
    OutOfMemory,
    /// A store failed that may do better for functions.
    Failed,
}

impl<T> Outcome<T> {
    /// # Errors
    /// Errors that functions would have, too.
    fn of(made: Result<T>) -> Result<Self> {
        match made.map_err(|error| (classify(&error).kind, error)) {
            Ok(made) => Ok(Self::Made(made)),
            Err((FragmentErrorKind::OutOfMemory, _)) => Ok(Self::OutOfMemory),
            Err((kind, _)) if kind.is_retryable() => Ok(Self::Failed),
            Err((_, error)) => Err(error),
        }
    }
}
