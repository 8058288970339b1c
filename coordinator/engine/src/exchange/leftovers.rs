//! Leftovers of queries that ended long ago: a coordinator that was killed cannot clean up after itself.
//!
//! Only keys of Gust's results, plans, deletes and journals are counted, and only those of queries whose id (a UUIDv7) tells their age.
//! Other objects are not Gust's. A query's objects are kept or removed together: the journal of one that lives is written all the time.
//! Rows that wait for a client are a lot of their own, for as long as a server keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use gust_protocol::exchange::{result_at, stage_object_at};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use uuid::Uuid;

use super::Exchange;
use super::journal::entry_at;
use super::kept::kept_at;

/// Objects that can be removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    pub queries: BTreeSet<String>,
    pub paths: Vec<Path>,
    pub bytes: u64,
    /// Results and plans of queries that are not old enough.
    pub objects_kept: usize,
    /// Objects that are not Gust's.
    pub objects_foreign: usize,
}

impl Exchange {
    /// Finds the results and plans of queries that began more than `older_than` before `now` and wrote nothing since. Rows for clients are
    /// not found within `kept_for` of their last object.
    pub async fn leftovers(
        &self,
        older_than: Duration,
        kept_for: Duration,
        now: SystemTime,
    ) -> object_store::Result<Leftovers> {
        let prefix = Path::parse(&self.prefix).unwrap_or_default();
        let mut listing = self.store.list(Some(&prefix));
        let mut found = Leftovers::default();
        // Objects of each query, or of its rows for a client, with the time at which it was alive for the last time.
        let mut lots = BTreeMap::<(String, bool), (SystemTime, Vec<ObjectMeta>)>::new();
        while let Some(object) = listing.try_next().await? {
            let result = result_at(&self.prefix, &object.location).map(|key| key.fragment.query);
            let owner = result.or_else(|| stage_object_at(&self.prefix, &object.location));
            let owner = owner.or_else(|| entry_at(&self.prefix, &object.location).map(|key| key.id));
            let kept = kept_at(&self.prefix, &object.location);
            let (owner, is_kept) = (owner.or(kept.clone()), kept.is_some());
            let Some((query, begun)) = owner.and_then(|query| begun(&query).map(|begun| (query, begun))) else {
                found.objects_foreign += 1;
                continue;
            };
            let (alive, objects) = lots.entry((query, is_kept)).or_insert((begun, Vec::new()));
            *alive = (*alive).max(written(&object));
            objects.push(object);
        }
        for ((query, is_kept), (alive, objects)) in lots {
            let age = if is_kept { older_than.max(kept_for) } else { older_than };
            if alive + age <= now {
                found.bytes += objects.iter().map(|object| object.size).sum::<u64>();
                found.paths.extend(objects.into_iter().map(|object| object.location));
                found.queries.insert(query);
            } else {
                found.objects_kept += objects.len();
            }
        }
        Ok(found)
    }

    /// Deletes the objects. An object that is gone already is no error.
    pub async fn remove(&self, leftovers: &Leftovers) -> object_store::Result<()> {
        for path in &leftovers.paths {
            match self.store.delete(path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns the start of a query, if its name is one that a coordinator gives.
fn begun(query: &str) -> Option<SystemTime> {
    let id = Uuid::try_parse(query).ok().filter(|id| id.simple().to_string() == query)?;
    let (seconds, nanos) = id.get_timestamp().filter(|_| id.get_version_num() == 7)?.to_unix();
    Some(UNIX_EPOCH + Duration::new(seconds, nanos))
}

fn written(object: &ObjectMeta) -> SystemTime {
    object.last_modified.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gust_protocol::StoreAccess;
    use object_store::memory::InMemory;
    use uuid::{NoContext, Timestamp};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn query_begun(at: SystemTime) -> String {
        let since = at.duration_since(UNIX_EPOCH).expect("after 1970");
        Uuid::new_v7(Timestamp::from_unix(NoContext, since.as_secs(), since.subsec_nanos())).simple().to_string()
    }

    #[tokio::test]
    async fn only_old_results_with_gusts_keys_are_removed() {
        let now = SystemTime::now();
        let (old, new) = (query_begun(now - 3 * HOUR), query_begun(now + HOUR));
        let random = Uuid::new_v4().simple();
        let keys = [
            format!("x/{old}/0/00000-0.arrows"),
            format!("x/{old}/1/00003-65536.arrows"),
            format!("x/journals/{old}/000000"),
            format!("x/results/{old}/0/00000-0.arrows"),
            format!("x/{new}/0/00000-0.arrows"),
            format!("x/{old}/0/00000-0.parquet"),
            format!("x/{old}/table/data.arrows"),
            format!("x/{random}/0/00000-0.arrows"),
            "x/q/0/00000-0.arrows".to_owned(),
            format!("y/{old}/0/00000-0.arrows"),
        ];
        let store = Arc::new(InMemory::new());
        for key in &keys {
            store.put(&Path::from(key.as_str()), "rows".into()).await.expect("in memory");
        }
        let access = StoreAccess { url: "memory:///".into(), options: Default::default() };
        let exchange = Exchange { access, prefix: "x".into(), store: store.clone() };
        let fresh = exchange.leftovers(HOUR, HOUR, now).await.expect("in memory");
        assert_eq!((fresh.paths.len(), fresh.objects_kept), (0, 5), "what was written just now is kept");
        let later = now + HOUR + HOUR / 4;
        let found = exchange.leftovers(HOUR, 2 * HOUR, later).await.expect("in memory");
        assert_eq!(found.queries.iter().collect::<Vec<_>>(), [&old]);
        assert_eq!((found.paths.len(), found.objects_kept, found.objects_foreign, found.bytes), (3, 2, 4, 12));
        let all = exchange.leftovers(HOUR, HOUR, later).await.expect("in memory");
        assert_eq!((all.paths.len(), all.objects_kept), (4, 1), "rows for a client have had their time, too");
        exchange.remove(&found).await.expect("in memory");
        let left: Vec<String> =
            store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.expect("in memory");
        assert!(left.iter().all(|key| keys[3..].contains(key)) && left.len() == 7, "{left:?}");
    }
}
