//! Way of deleted positions to functions, where many would read the same files: the coordinator reads each once, and writes the
//! positions of each data file into the exchange, as a vector.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use fragment_fn::{FileDeletes, classify};
use gust_protocol::exchange::StageObject;
use gust_protocol::{DeleteContent, DeleteFile, FragmentErrorKind, FragmentId, ObjectRef};
use object_store::ObjectStoreExt;
use tokio::sync::OnceCell;

use super::query::QueryContext;
use crate::events::QueryEvent;
use crate::exchange::{EXCHANGE_ACCESS, Exchange};
use crate::planner::{DigestedDeletes, Stage};
use crate::scheduler::FragmentFailure;

/// Most bytes of vectors of one stage. Where there would be more, functions read the files.
const DIGEST_BYTES_MAX: usize = 64 << 20;

/// Vectors of a stage on their way to the functions.
#[derive(Debug)]
pub(super) struct DeletesPublisher {
    stage: Arc<Stage>,
    published: OnceCell<Option<DigestedDeletes>>,
}

impl DeletesPublisher {
    pub(super) fn new(stage: Arc<Stage>) -> Self {
        Self { stage, published: OnceCell::new() }
    }

    /// Returns the vectors that functions read in place of files of positions. The first fragment to ask makes them. None where they
    /// would not fit into memory: each function has less to hold.
    ///
    /// # Errors
    /// Those of the delete files, and of the exchange.
    pub(super) async fn published(&self, query: &QueryContext, id: &FragmentId) -> Result<Option<&DigestedDeletes>> {
        let published = self.published.get_or_try_init(|| self.publish(query, id)).await?;
        Ok(published.as_ref())
    }

    async fn publish(&self, query: &QueryContext, id: &FragmentId) -> Result<Option<DigestedDeletes>> {
        let worth = self.stage.worth_digesting();
        let Some(first) = worth.first() else { return Ok(None) };
        // An attempt before may have failed half-way.
        first.forget().await;
        let vectors = vectors(&worth).await;
        first.forget().await;
        let Some((bytes, places)) = vectors? else { return Ok(None) };
        let Exchange { prefix, store, .. } = &query.exchange;
        let path = StageObject::Deletes.path(prefix, &id.query, id.stage);
        let size_bytes = bytes.len() as u64;
        // The event comes before the write, so that the object is cleaned up if the query ends meanwhile.
        query.attempts.events().push(QueryEvent::DeletesPublished { stage: id.stage, bytes: size_bytes });
        let written = store.put(&path, bytes.into()).await;
        written.map_err(|error| {
            DataFusionError::External(Box::new(FragmentFailure::unpublished(id.clone(), &path, error)))
        })?;
        let object =
            ObjectRef { access: EXCHANGE_ACCESS, path: path.to_string(), size_bytes, etag: None, footer_bytes: None };
        let file = |(offset, bytes, cardinality)| DeleteFile {
            file: object.clone(),
            content: DeleteContent::Vector { offset, bytes, cardinality },
        };
        Ok(Some(places.into_iter().map(|(path, place)| (path, place.map(file))).collect()))
    }
}

/// Bytes of vectors one after the other, and each data file's vector: its offset, its length and its number of positions.
type Vectors = (Vec<u8>, Vec<(String, Option<(u64, u64, u64)>)>);

/// Makes vectors of data files' deleted positions. None where there would be too many bytes, or too little memory.
async fn vectors(worth: &[&FileDeletes]) -> Result<Option<Vectors>> {
    worth.iter().for_each(|deletes| deletes.announce());
    let (mut bytes, mut places) = (Vec::new(), Vec::new());
    for deletes in worth {
        let digest = match deletes.digest().await {
            Err(error) if classify(&error).kind == FragmentErrorKind::OutOfMemory => return Ok(None),
            digest => digest?,
        };
        let place = digest.map(|(vector, cardinality)| {
            let place = (bytes.len() as u64, vector.len() as u64, cardinality);
            bytes.extend(vector);
            place
        });
        if bytes.len() > DIGEST_BYTES_MAX {
            return Ok(None);
        }
        places.push((deletes.unit().path.clone(), place));
    }
    Ok(Some((bytes, places)))
}
