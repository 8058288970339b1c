//! Way of deletes to functions, where many would read the same files: the coordinator reads each file once, and writes the positions
//! of each data file, as a vector, and the keys of each group of files into one object of the exchange.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use fragment_fn::{FileDeletes, KeyDigest, classify};
use futures::{StreamExt, stream};
use gust_protocol::exchange::StageObject;
use gust_protocol::{DeleteContent, DeleteFile, FragmentErrorKind, FragmentId, ObjectRef};
use object_store::ObjectStoreExt;
use tokio::sync::OnceCell;

use super::query::QueryContext;
use crate::events::QueryEvent;
use crate::exchange::{EXCHANGE_ACCESS, Exchange};
use crate::planner::{DIGEST_BYTES_MAX, DigestWork, DigestedDeletes, GroupWork, Stage};
use crate::scheduler::FragmentFailure;

/// Most groups of files of keys that are read at a time.
const GROUPS_AT_ONCE_MAX: usize = 4;

/// Digest of a stage's deletes on its way to the functions.
#[derive(Debug)]
pub(super) struct DeletesPublisher {
    stage: Arc<Stage>,
    published: OnceCell<Option<DigestedDeletes>>,
}

impl DeletesPublisher {
    pub(super) fn new(stage: Arc<Stage>) -> Self {
        Self { stage, published: OnceCell::new() }
    }

    /// Returns the parts of the digest that functions read in place of delete files. The first fragment to ask makes them. A part that
    /// would not fit into memory is missing: each function has less to hold.
    ///
    /// # Errors
    /// Those of the delete files, and of the exchange.
    pub(super) async fn published(&self, query: &QueryContext, id: &FragmentId) -> Result<Option<&DigestedDeletes>> {
        let published = self.published.get_or_try_init(|| self.publish(query, id)).await?;
        Ok(published.as_ref())
    }

    async fn publish(&self, query: &QueryContext, id: &FragmentId) -> Result<Option<DigestedDeletes>> {
        let Some(work) = self.stage.deletes.digest() else { return Ok(None) };
        let mut digest = Digest::default();
        digest.add_vectors(&self.stage, work).await?;
        digest.add_keys(&self.stage, work).await?;
        if digest.is_empty() {
            return Ok(None);
        }
        let Exchange { prefix, store, .. } = &query.exchange;
        let path = StageObject::Deletes.path(prefix, &id.query, id.stage);
        let size_bytes = digest.bytes.len() as u64;
        // The event comes before the write, so that the object is cleaned up if the query ends meanwhile.
        query.attempts.events().push(QueryEvent::DeletesPublished { stage: id.stage, bytes: size_bytes });
        let written = store.put(&path, std::mem::take(&mut digest.bytes).into()).await;
        written.map_err(|error| {
            DataFusionError::External(Box::new(FragmentFailure::unpublished(id.clone(), &path, error)))
        })?;
        let object =
            ObjectRef { access: EXCHANGE_ACCESS, path: path.to_string(), size_bytes, etag: None, footer_bytes: None };
        Ok(Some(digest.within(&object)))
    }
}

/// Parts of the object, one after the other.
#[derive(Debug, Default)]
struct Digest {
    bytes: Vec<u8>,
    /// Vector of each data file. None for a file of which no row is deleted.
    vectors: Vec<(String, Option<DeleteContent>)>,
    /// Keys by the positions of their groups.
    keys: Vec<(usize, DeleteContent)>,
}

impl Digest {
    fn is_empty(&self) -> bool {
        self.vectors.is_empty() && self.keys.is_empty()
    }

    /// Adds vectors of data files' deleted positions: all, or none where there would be too many bytes or too little memory.
    async fn add_vectors(&mut self, stage: &Stage, work: &DigestWork) -> Result<()> {
        let files: Vec<&FileDeletes> = work.vectors.iter().filter_map(|unit| stage.deletes_of(*unit)).collect();
        let Some(first) = files.first() else { return Ok(()) };
        // An attempt before may have failed half-way.
        first.forget().await;
        let begin = self.bytes.len();
        let added = self.vectors_of(&files).await;
        first.forget().await;
        if !added? {
            self.bytes.truncate(begin);
            self.vectors.clear();
        }
        Ok(())
    }

    /// Returns false where not all vectors fit.
    async fn vectors_of(&mut self, files: &[&FileDeletes]) -> Result<bool> {
        files.iter().for_each(|deletes| deletes.announce());
        for deletes in files {
            let Some(vector) = fitting(deletes.digest().await)? else { return Ok(false) };
            let content = vector.map(|(vector, cardinality)| {
                let (offset, bytes) = (self.bytes.len() as u64, vector.len() as u64);
                self.bytes.extend(vector);
                DeleteContent::Vector { offset, bytes, cardinality }
            });
            if self.bytes.len() > DIGEST_BYTES_MAX {
                return Ok(false);
            }
            self.vectors.push((deletes.unit().path.clone(), content));
        }
        Ok(true)
    }

    /// Adds the keys of groups of files. A group is left out that there are too many bytes of, or too little memory for.
    async fn add_keys(&mut self, stage: &Stage, work: &DigestWork) -> Result<()> {
        let making = work.keys.iter().map(|group| keys_of(stage, group)).collect::<Vec<_>>();
        let mut made = stream::iter(making).buffered(GROUPS_AT_ONCE_MAX);
        while let Some(digest) = made.next().await {
            let (group, Some(keys)) = digest? else { continue };
            if self.bytes.len() + keys.encoded.len() <= DIGEST_BYTES_MAX {
                self.keys.push((group, keys.content(self.bytes.len() as u64)));
                self.bytes.extend(keys.encoded);
            }
        }
        Ok(())
    }

    /// Returns its parts as delete files.
    fn within(self, object: &ObjectRef) -> DigestedDeletes {
        let file = |content| DeleteFile { file: object.clone(), content };
        DigestedDeletes {
            vectors: self.vectors.into_iter().map(|(path, vector)| (path, vector.map(file))).collect(),
            keys: self.keys.into_iter().map(|(group, keys)| (group, file(keys))).collect(),
        }
    }
}

/// Returns the keys of a group, with its position. None where they do not fit.
async fn keys_of(stage: &Stage, GroupWork { group, unit }: &GroupWork) -> Result<(usize, Option<KeyDigest>)> {
    let Some(deletes) = stage.deletes_of(*unit) else { return Ok((*group, None)) };
    let made = fitting(deletes.digest_keys(*group, DIGEST_BYTES_MAX).await)?;
    Ok((*group, made.flatten()))
}

/// Returns None for what does not fit into memory.
fn fitting<T>(made: Result<T>) -> Result<Option<T>> {
    match made {
        Err(error) if classify(&error).kind == FragmentErrorKind::OutOfMemory => Ok(None),
        made => made.map(Some),
    }
}
