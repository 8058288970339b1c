//! Rows of statements that clients read in the exchange, by links. They are deleted when their statement is forgotten.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use gust_engine::exchange::{KeptPart, KeptResults};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::space::Share;
use crate::statements::LATE_WRITES_MAX;

/// Pauses after each try to delete rows.
const REMOVAL_PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_secs(1), Duration::ZERO];

/// Linked rows of a server's statements.
#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) results: KeptResults,
    removals: TaskTracker,
    runtime: Handle,
    /// Token that says that the server stops.
    stopping: CancellationToken,
}

/// Objects with the rows of a statement, and their columns.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) schema: SchemaRef,
    pub(crate) parts: Vec<KeptPart>,
}

impl Objects {
    /// Takes the objects of functions, in the order of their keys. Those without rows are left out, but for one that tells the columns.
    pub(crate) fn of_functions(schema: SchemaRef, mut parts: Vec<KeptPart>) -> Self {
        parts.sort_by(|one, other| one.path.cmp(&other.path));
        let has_rows = parts.iter().any(|part| part.rows > 0);
        match has_rows {
            true => parts.retain(|part| part.rows > 0),
            false => parts.truncate(1),
        }
        Self { schema, parts }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// Objects of a statement that has ended. They go with it.
#[derive(Debug)]
pub(crate) struct LinkedRows {
    query: String,
    pub(crate) objects: Objects,
    /// Space of the objects. It is given back when they are gone.
    share: Option<Share>,
    links: Arc<Links>,
}

impl Drop for LinkedRows {
    fn drop(&mut self) {
        let (links, query, share) = (Arc::clone(&self.links), std::mem::take(&mut self.query), self.share.take());
        // The last owner may be a thread without a runtime.
        let runtime = self.links.runtime.clone();
        let removal = async move {
            links.remove(&query).await;
            drop(share);
        };
        drop(self.links.removals.spawn_on(removal, &runtime));
    }
}

impl Links {
    /// Makes the links of a server. It is called in its runtime.
    pub(crate) fn new(results: KeptResults, stopping: CancellationToken) -> Arc<Self> {
        Arc::new(Self { results, removals: TaskTracker::new(), runtime: Handle::current(), stopping })
    }

    /// Keeps the objects of a query, as long as its statement is kept.
    pub(crate) fn rows(self: &Arc<Self>, query: &str, objects: Objects, share: Share) -> LinkedRows {
        LinkedRows { query: query.to_owned(), objects, share: Some(share), links: Arc::clone(self) }
    }

    /// Deletes what a query has left that failed: now, and when no attempt of its can write any more.
    pub(crate) fn give_up(self: &Arc<Self>, query: String) {
        let links = Arc::clone(self);
        drop(self.removals.spawn(async move {
            links.remove(&query).await;
            if links.stopping.run_until_cancelled(tokio::time::sleep(LATE_WRITES_MAX)).await.is_some() {
                links.remove(&query).await;
            }
        }));
    }

    async fn remove(&self, query: &str) {
        for pause in REMOVAL_PAUSES {
            match self.results.remove(query).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(query, %error, "its linked rows could not be deleted"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits until what is to be deleted is gone, for this time at most.
    pub(crate) async fn ended(&self, time: Duration) {
        self.removals.close();
        if tokio::time::timeout(time, self.removals.wait()).await.is_err() {
            tracing::warn!("some linked rows were not deleted in time; `gust exchange gc` does it later");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;

    #[test]
    fn objects_without_rows_are_left_out_but_for_one() {
        let part = |number: u32, rows| KeptPart { path: format!("x/0000{number}-0"), rows, bytes: 8, crc32: number };
        for (parts, expect) in [
            (vec![part(2, 5), part(0, 0), part(1, 3)], vec![1, 2]),
            (vec![part(1, 0), part(0, 0)], vec![0]),
            (vec![], vec![]),
        ] {
            let rows: u64 = parts.iter().map(|part| part.rows).sum();
            let objects = Objects::of_functions(Arc::new(Schema::empty()), parts);
            let kept: Vec<u32> = objects.parts.iter().map(|part| part.crc32).collect();
            assert_eq!((kept, objects.rows()), (expect, rows));
        }
    }
}
