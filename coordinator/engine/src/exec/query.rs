//! What a query lends to all of its stages.

use std::collections::BTreeMap;
use std::sync::Arc;

use gust_protocol::{Limits, StoreAccess};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use futures::TryStreamExt;

use crate::decide::TimeModel;
use crate::scheduler::QueryAttempts;

/// Made at the door, carried all the way as a session extension.
#[derive(Debug)]
pub struct QueryContext {
    pub id: String,
    pub attempts: QueryAttempts,
    /// What tells how long a fragment should take.
    pub model: TimeModel,
    pub exchange: Exchange,
    pub credentials: StoreCredentials,
    /// Per attempt; a stage lowers `inline_bytes_max` where its fragments are many.
    pub limits: Limits,
    /// Session settings that a function must share.
    pub options: BTreeMap<String, String>,
}

/// With what functions reach S3.
#[derive(Clone)]
pub enum StoreCredentials {
    /// Their own role; nothing of the coordinator's travels.
    Own,
    /// The coordinator's, as object_store's settings: for functions on its own machine. Empty where no store needs them.
    Lent(BTreeMap<String, String>),
}

impl std::fmt::Debug for StoreCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Own => "Own",
            Self::Lent(_) => "Lent(hidden)",
        })
    }
}

impl StoreCredentials {
    /// Keys of object_store's settings that are credentials.
    pub const KEYS: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

    /// A store as functions are told to reach it.
    pub fn apply(&self, access: &StoreAccess) -> StoreAccess {
        let mut access = access.clone();
        match self {
            Self::Own => access.options.retain(|key, _| !Self::KEYS.contains(&key.as_str())),
            Self::Lent(credentials) if access.url.starts_with("s3") => {
                for (key, value) in credentials {
                    access.options.entry(key.clone()).or_insert_with(|| value.clone());
                }
            }
            Self::Lent(_) => {}
        }
        access
    }
}

/// Where results go that do not fit a response.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub access: StoreAccess,
    /// Key prefix inside the store, without slashes at its ends.
    pub prefix: String,
    pub store: Arc<dyn ObjectStore>,
}

impl Exchange {
    /// Deletes everything that a query's attempts wrote, adopted or not. Returns how many objects there were.
    pub async fn clean(&self, query: &str) -> object_store::Result<usize> {
        let prefix = Path::parse(&self.prefix).unwrap_or_default();
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

impl QueryContext {
    /// Results of a stage that may wait in memory at once, over all of its fragments.
    const RESULTS_HELD_BYTES_MAX: u64 = 256 << 20;

    /// The limits of one of `fragments` fragments, whose results may wait in a quarter of the coordinator's memory.
    pub fn fragment_limits(&self, fragments: usize, memory_bytes_max: u64) -> Limits {
        Self::limits_of(self.limits, fragments, memory_bytes_max)
    }

    /// The same from the limits of an attempt whose stage is not known.
    pub fn limits_of(limits: Limits, fragments: usize, memory_bytes_max: u64) -> Limits {
        let share = Self::RESULTS_HELD_BYTES_MAX.min(memory_bytes_max / 4) / fragments.max(1) as u64;
        Limits { inline_bytes_max: limits.inline_bytes_max.min(share), ..limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn a_query_is_cleaned_and_no_other() {
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
