//! One store made of several buckets: each object is in the bucket that its key chooses.
//!
//! ```text
//!  key ─► checksum ─► one of the buckets: reads, writes, deletes
//!  listing ─► all of them, one after the other
//! ```
//!
//! S3 serves so many requests a second for a bucket that is new to them. The objects of an exchange come at once, and each of many functions reads
//! a part of each.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// Most buckets of one store.
pub const BUCKETS_MAX: usize = 16;

/// Deletes that are under way at once.
const DELETES_AT_ONCE_MAX: usize = 16;

/// Store of several buckets.
#[derive(Debug)]
pub(crate) struct SpreadStore {
    buckets: Vec<Arc<dyn ObjectStore>>,
}

/// Returns the position of an object's bucket among so many. Coordinator and functions have to agree on it.
fn bucket_of(key: &Path, buckets: usize) -> usize {
    crc32fast::hash(key.as_ref().as_bytes()) as usize % buckets.max(1)
}

impl SpreadStore {
    /// Returns the one bucket, or a store of all. There is one at least.
    pub(crate) fn of(mut buckets: Vec<Arc<dyn ObjectStore>>) -> Arc<dyn ObjectStore> {
        match buckets.len() {
            1 => buckets.remove(0),
            _ => Arc::new(Self { buckets }),
        }
    }

    fn bucket(&self, key: &Path) -> &Arc<dyn ObjectStore> {
        &self.buckets[bucket_of(key, self.buckets.len())]
    }

    /// Returns the bucket of both keys.
    fn common(&self, from: &Path, to: &Path) -> Result<&Arc<dyn ObjectStore>> {
        let buckets = self.buckets.len();
        if bucket_of(from, buckets) == bucket_of(to, buckets) {
            return Ok(self.bucket(from));
        }
        let source = format!("`{from}` and `{to}` are in two buckets");
        Err(Error::NotSupported { source: source.into() })
    }
}

impl Display for SpreadStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.buckets.iter().map(ToString::to_string).collect();
        write!(f, "spread({})", names.join(", "))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for SpreadStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.bucket(location).put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.bucket(location).put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.bucket(location).get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.bucket(location).get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let buckets = self.buckets.clone();
        let delete = move |key: Result<Path>| {
            let buckets = buckets.clone();
            async move {
                let key = key?;
                buckets[bucket_of(&key, buckets.len())].delete(&key).await?;
                Ok(key)
            }
        };
        locations.map(delete).buffered(DELETES_AT_ONCE_MAX).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let lists: Vec<_> = self.buckets.iter().map(|bucket| bucket.list(prefix)).collect();
        stream::iter(lists).flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let lists: Vec<_> = self.buckets.iter().map(|bucket| bucket.list_with_offset(prefix, offset)).collect();
        stream::iter(lists).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let lists = self.buckets.iter().map(|bucket| bucket.list_with_delimiter(prefix));
        let lists: Vec<ListResult> = futures::future::try_join_all(lists).await?;
        let folders: BTreeSet<Path> = lists.iter().flat_map(|list| list.common_prefixes.iter().cloned()).collect();
        let objects = lists.into_iter().flat_map(|list| list.objects).collect();
        Ok(ListResult { common_prefixes: folders.into_iter().collect(), objects })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.common(from, to)?.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.common(from, to)?.rename_opts(from, to, options).await
    }
}

/// Signers of URLs of such a store's objects, one for each bucket.
#[derive(Debug, Clone)]
pub struct Signers(pub(crate) Vec<AmazonS3>);

impl Signers {
    /// Returns the signer of an object.
    pub fn of(&self, key: &Path) -> &dyn Signer {
        &self.0[bucket_of(key, self.0.len())]
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::PutMode;
    use object_store::memory::InMemory;

    use super::*;

    async fn keys(store: &dyn ObjectStore, folder: Option<&str>) -> Vec<String> {
        let folder = folder.map(Path::from);
        let listed = store.list(folder.as_ref()).map_ok(|object| object.location.to_string());
        let mut keys: Vec<String> = listed.try_collect().await.expect("in memory");
        keys.sort();
        keys
    }

    #[tokio::test]
    async fn each_object_is_in_one_bucket_and_is_found_there() {
        let buckets: Vec<Arc<dyn ObjectStore>> = (0..3).map(|_| Arc::new(InMemory::new()) as _).collect();
        let store = SpreadStore::of(buckets.clone());
        let all: Vec<String> = (0..60).map(|index| format!("x/q/{}/{index:05}-0.arrows", index / 30)).collect();
        for key in &all {
            store.put(&Path::from(key.as_str()), key.clone().into()).await.expect("in memory");
        }
        let mut parts = Vec::new();
        for bucket in &buckets {
            let part = keys(bucket.as_ref(), None).await;
            assert!(part.len() >= 10, "no bucket has much less than its third: {part:?}");
            parts.extend(part);
        }
        parts.sort();
        assert_eq!(parts, all, "each object is there once");
        assert_eq!(keys(store.as_ref(), None).await, all);
        assert_eq!(keys(store.as_ref(), Some("x/q/1")).await, all[30..]);
        for key in &all {
            let path = Path::from(key.as_str());
            let read = store.get(&path).await.expect("there").bytes().await.expect("in memory");
            assert_eq!(read, key.as_bytes());
            assert_eq!(store.get_ranges(&path, &[0..1, 2..3]).await.expect("there"), ["x", "q"]);
            let again = store.put_opts(&path, "other".into(), PutMode::Create.into()).await;
            assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{key}");
        }
        let folders = store.list_with_delimiter(Some(&Path::from("x/q"))).await.expect("in memory");
        let names: Vec<String> = folders.common_prefixes.iter().map(ToString::to_string).collect();
        assert_eq!((names, folders.objects.len()), (vec!["x/q/0".to_owned(), "x/q/1".to_owned()], 0));
        let wanted: Vec<Result<Path>> = all[..59].iter().map(|key| Ok(Path::from(key.as_str()))).collect();
        let deleted: Vec<Path> = store.delete_stream(stream::iter(wanted).boxed()).try_collect().await.expect("there");
        assert_eq!((deleted.len(), keys(store.as_ref(), None).await), (59, all[59..].to_vec()));
    }
}
