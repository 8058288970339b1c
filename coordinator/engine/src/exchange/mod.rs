//! Exchange: the place for results that are too large for a function's response, and for plans that are too long for a
//! request.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use futures::TryStreamExt;
use gust_protocol::StoreAccess;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use crate::storage::Stores;

mod journal;
mod kept;
mod leftovers;

pub use journal::{Appended, ENTRY_BYTES_MAX, JournalListed, Journals};
pub(crate) use kept::kept_prefix;
pub use kept::{Kept, KeptPart, KeptParts, KeptResults, PartWriter};
pub use leftovers::Leftovers;

/// Upper bound of an encoded plan that travels with every fragment. A longer plan goes once, through the exchange.
///
/// Most plans are a few KB. The bound is far below a request's 6 MB, because every fragment sends the plan again.
pub const PLAN_INLINE_BYTES_MAX: usize = 256 << 10;

/// Index of the exchange's store in a request's access table.
pub const EXCHANGE_ACCESS: u16 = 0;
/// Index of the first of the data's stores.
pub const DATA_ACCESS_FIRST: u16 = 1;

/// Takes the URL of an exchange apart: one URL for each of its buckets. A folder is one place.
pub fn places(url: &str) -> Vec<String> {
    let Some(("s3", place)) = url.split_once("://") else { return vec![url.to_owned()] };
    let (buckets, prefix) = place.split_at(place.find('/').unwrap_or(place.len()));
    buckets.split(',').map(|bucket| format!("s3://{bucket}{prefix}")).collect()
}

/// Place for results that do not fit a response.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub access: StoreAccess,
    /// Key prefix inside the store, without slashes at its ends.
    pub prefix: String,
    pub store: Arc<dyn ObjectStore>,
}

impl Exchange {
    /// Returns the same place, reached through a query's stores.
    ///
    /// # Errors
    /// The store's, if it cannot be opened.
    pub fn through(&self, stores: &Stores) -> Result<Self> {
        let url = Url::parse(&self.access.url).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Self { store: stores.open_own(&url)?, ..self.clone() })
    }

    /// Deletes everything that a query's attempts wrote, adopted or not. Returns the number of objects.
    pub async fn clean(&self, query: &str) -> object_store::Result<usize> {
        self.clean_below(&self.prefix, query).await
    }

    async fn clean_below(&self, prefix: &str, query: &str) -> object_store::Result<usize> {
        let prefix = Path::parse(prefix).unwrap_or_default();
        let folder: Path = prefix.parts().chain(Path::from(query).parts()).collect();
        let found: Vec<Path> = self.store.list(Some(&folder)).map_ok(|meta| meta.location).try_collect().await?;
        for path in &found {
            match self.store.delete(path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use object_store::memory::InMemory;

    #[test]
    fn each_bucket_is_a_place() {
        let check = |url: &str, expect: &[&str]| assert_eq!(places(url), expect);
        check("s3://one/x/y", &["s3://one/x/y"]);
        check("s3://one,two/x", &["s3://one/x", "s3://two/x"]);
        check("s3://one,two", &["s3://one", "s3://two"]);
        check("s3://one,two/a,b/", &["s3://one/a,b/", "s3://two/a,b/"]);
        check("file:///a,b", &["file:///a,b"]);
        check("a,b", &["a,b"]);
    }

    #[tokio::test]
    async fn cleaning_removes_one_querys_objects_only() {
        let store = Arc::new(InMemory::new());
        for key in ["x/q1/0/00000-0.arrows", "x/q1/1/00003-1.arrows", "x/q10/0/00000-0.arrows", "q1/a"] {
            store.put(&Path::from(key), "rows".into()).await.expect("in memory");
        }
        let access = StoreAccess { url: "memory:///".into(), options: BTreeMap::new() };
        let exchange = Exchange { access, prefix: "x".into(), store: store.clone() };
        assert_eq!(exchange.clean("q1").await.expect("in memory"), 2);
        let left: Vec<String> =
            store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.expect("in memory");
        assert_eq!(left, ["q1/a", "x/q10/0/00000-0.arrows"]);
    }
}
