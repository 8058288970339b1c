//! Iceberg's storage traits over `object_store`. Every byte of metadata goes through the caller's
//! stores, so that its credentials, limits and counters apply.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Serialize, Serializer};
use tokio::sync::OwnedSemaphorePermit;
use url::Url;

use crate::cache::MetadataCache;
use crate::error::{Cause, Error, Result};
use crate::location::Location;

type Resolve = dyn Fn(&Url) -> Result<Arc<dyn ObjectStore>, Cause> + Send + Sync;

/// Source of the stores: it gives the store of a root (`file:///`, `s3://bucket/`). It is called
/// once a file, so it should keep the stores that it has built.
#[derive(Clone)]
pub struct CatalogStores {
    resolve: Arc<Resolve>,
    cache: Arc<MetadataCache>,
    /// Prefixes for which a table's catalog has lent credentials. Empty where it lends none.
    lent: Arc<[LentPrefix]>,
}

/// Credentials for the files whose locations begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LentPrefix {
    pub(crate) prefix: String,
    /// Id of the grant.
    pub(crate) id: String,
}

impl CatalogStores {
    /// Makes stores with a metadata cache of their own.
    pub fn new(resolve: impl Fn(&Url) -> Result<Arc<dyn ObjectStore>, Cause> + Send + Sync + 'static) -> Self {
        CatalogStores { resolve: Arc::new(resolve), cache: Arc::default(), lent: Arc::new([]) }
    }

    /// Makes the same stores with a cache that others share.
    #[must_use]
    pub fn with_cache(self, cache: Arc<MetadataCache>) -> Self {
        CatalogStores { cache, ..self }
    }

    pub(crate) fn cache(&self) -> &MetadataCache {
        &self.cache
    }

    /// Makes the same stores for a table whose catalog lends credentials.
    pub(crate) fn lent(&self, lent: Vec<LentPrefix>) -> Self {
        CatalogStores { lent: lent.into(), ..self.clone() }
    }

    pub(crate) fn lent_prefixes(&self) -> impl Iterator<Item = &str> {
        self.lent.iter().map(|lent| lent.prefix.as_str())
    }

    /// Makes the same stores with the credentials that other stores were lent.
    pub(crate) fn lent_as(self, other: &Self) -> Self {
        CatalogStores { lent: Arc::clone(&other.lent), ..self }
    }

    /// Returns the place of a table's file. The longest prefix for which credentials were lent decides about them: the root of
    /// the store has the grant's id as its user.
    ///
    /// # Errors
    /// Those of `Location::parse`; not lent, where the table's catalog lends credentials for other files alone.
    pub(crate) fn place(&self, table: &str, location: &str) -> Result<Location> {
        let mut place = Location::parse(location)?;
        if self.lent.is_empty() || place.store.scheme() != "s3" {
            return Ok(place);
        }
        let wanted = as_s3(location);
        let covers = |lent: &&LentPrefix| is_below(&wanted, &as_s3(&lent.prefix));
        let found = self.lent.iter().filter(covers).max_by_key(|lent| lent.prefix.len());
        let marked = found.is_some_and(|lent| place.store.set_username(&lent.id).is_ok());
        match marked {
            true => Ok(place),
            false => Err(Error::NotLent {
                table: table.to_owned(),
                file: location.to_owned(),
                prefixes: self.lent.iter().map(|lent| lent.prefix.clone()).collect(),
            }),
        }
    }

    pub(crate) fn locate(&self, location: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let Location { store, path } = self.place("", location)?;
        match (self.resolve)(&store) {
            Ok(store) => Ok((store, path)),
            Err(source) => Err(Error::unreachable(location, source)),
        }
    }

    pub(crate) fn file_io(&self) -> FileIO {
        FileIOBuilder::new(Arc::new(self.clone())).build()
    }
}

impl fmt::Debug for CatalogStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stores")
    }
}

/// Tells if a location is below a prefix, which ends where one of its names ends. `s3` is above everything.
pub(crate) fn is_below(location: &str, prefix: &str) -> bool {
    let rest = location.strip_prefix(prefix);
    rest.is_some_and(|rest| prefix == "s3" || rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

/// Writes the schemes s3a and s3n as s3.
pub(crate) fn as_s3(location: &str) -> std::borrow::Cow<'_, str> {
    match location.split_once("://") {
        Some(("s3a" | "s3n", rest)) => format!("s3://{rest}").into(),
        _ => location.into(),
    }
}

/// Metadata file in memory.
#[derive(Debug)]
pub(crate) struct ReadFile {
    pub(crate) bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Largest metadata file, in bytes. A larger one is taken for a mistake.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 30;

impl CatalogStores {
    /// Reads a whole metadata file.
    pub(crate) async fn read(&self, location: &str) -> Result<Bytes> {
        Ok(self.read_held(location).await?.bytes)
    }

    /// Reads a whole metadata file, once its store may be read so much. Others of the store wait until it is dropped.
    pub(crate) async fn read_held(&self, location: &str) -> Result<ReadFile> {
        let Location { store: root, .. } = self.place("", location)?;
        let (store, path) = self.locate(location)?;
        let failed = |error| Error::from_object_store(location, error);
        let object = store.get(&path).await.map_err(failed)?;
        if object.meta.size > FILE_BYTES_MAX {
            let size = object.meta.size;
            return Err(Error::corrupt(location, format!("it has {size} bytes, more than any metadata file should")));
        }
        // The store says the size: what a list says may be wrong, or missing.
        let permit = self.cache.may_read(root.as_str(), object.meta.size).await;
        Ok(ReadFile { bytes: object.bytes().await.map_err(failed)?, _permit: permit })
    }

    fn locate_for_iceberg(&self, location: &str) -> iceberg::Result<(Arc<dyn ObjectStore>, Path)> {
        self.locate(location).map_err(|error| {
            let kind = iceberg::ErrorKind::Unexpected;
            iceberg::Error::new(kind, "cannot resolve the location").with_source(error)
        })
    }
}

fn for_iceberg(error: object_store::Error) -> iceberg::Error {
    iceberg::Error::new(iceberg::ErrorKind::Unexpected, "storage failed").with_source(error)
}

/// iceberg can send its storage to other processes. A resolver lives in this process.
impl Serialize for CatalogStores {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        Err(S::Error::custom("a store resolver cannot be serialized"))
    }
}

impl StorageFactory for CatalogStores {
    fn build(&self, _: &StorageConfig) -> iceberg::Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }

    // `#[typetag::serde]` would add these, but would also register the type for deserialization.
    fn typetag_name(&self) -> &'static str {
        "Stores"
    }

    fn typetag_deserialize(&self) {}
}

#[expect(clippy::disallowed_methods, reason = "iceberg's trait asks for HEAD; no read or commit here does")]
#[async_trait]
impl Storage for CatalogStores {
    async fn exists(&self, location: &str) -> iceberg::Result<bool> {
        let (store, path) = self.locate_for_iceberg(location)?;
        match store.head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(for_iceberg(error)),
        }
    }

    async fn metadata(&self, location: &str) -> iceberg::Result<FileMetadata> {
        let (store, path) = self.locate_for_iceberg(location)?;
        let object = store.head(&path).await.map_err(for_iceberg)?;
        Ok(FileMetadata { size: object.size })
    }

    async fn read(&self, location: &str) -> iceberg::Result<Bytes> {
        let (store, path) = self.locate_for_iceberg(location)?;
        let object = store.get(&path).await.map_err(for_iceberg)?;
        object.bytes().await.map_err(for_iceberg)
    }

    async fn reader(&self, location: &str) -> iceberg::Result<Box<dyn FileRead>> {
        let (store, path) = self.locate_for_iceberg(location)?;
        Ok(Box::new(MetadataObject { store, path }))
    }

    async fn write(&self, location: &str, bytes: Bytes) -> iceberg::Result<()> {
        let (store, path) = self.locate_for_iceberg(location)?;
        store.put(&path, bytes.into()).await.map_err(for_iceberg)?;
        Ok(())
    }

    async fn writer(&self, location: &str) -> iceberg::Result<Box<dyn FileWrite>> {
        let (store, path) = self.locate_for_iceberg(location)?;
        Ok(Box::new(MetadataUpload { object: MetadataObject { store, path }, bytes: BytesMut::new() }))
    }

    async fn delete(&self, location: &str) -> iceberg::Result<()> {
        let (store, path) = self.locate_for_iceberg(location)?;
        store.delete(&path).await.map_err(for_iceberg)
    }

    async fn delete_prefix(&self, location: &str) -> iceberg::Result<()> {
        let (store, path) = self.locate_for_iceberg(location)?;
        let paths = store.list(Some(&path)).map_ok(|object| object.location);
        let deleted = store.delete_stream(paths.boxed());
        deleted.try_for_each(async |_| Ok(())).await.map_err(for_iceberg)
    }

    async fn delete_stream(&self, locations: BoxStream<'static, String>) -> iceberg::Result<()> {
        let mut locations = locations;
        while let Some(location) = locations.next().await {
            Storage::delete(self, &location).await?;
        }
        Ok(())
    }

    fn new_input(&self, location: &str) -> iceberg::Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), location.to_string()))
    }

    fn new_output(&self, location: &str) -> iceberg::Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), location.to_string()))
    }

    fn typetag_name(&self) -> &'static str {
        "Stores"
    }

    fn typetag_deserialize(&self) {}
}

struct MetadataObject {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

#[async_trait]
impl FileRead for MetadataObject {
    async fn read(&self, range: Range<u64>) -> iceberg::Result<Bytes> {
        let bytes = self.store.get_range(&self.path, range).await;
        bytes.map_err(for_iceberg)
    }
}

/// Metadata file on its way. It is small, so that one request at the end writes it, which is atomic.
struct MetadataUpload {
    object: MetadataObject,
    bytes: BytesMut,
}

#[async_trait]
impl FileWrite for MetadataUpload {
    async fn write(&mut self, bytes: Bytes) -> iceberg::Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn close(&mut self) -> iceberg::Result<()> {
        let bytes = std::mem::take(&mut self.bytes).freeze();
        let MetadataObject { store, path } = &self.object;
        store.put(path, bytes.into()).await.map_err(for_iceberg)?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use object_store::local::LocalFileSystem;

    use super::*;

    /// Makes stores of the local file system alone.
    pub(crate) fn local_stores() -> CatalogStores {
        let local: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
        CatalogStores::new(move |url| match url.scheme() {
            "file" => Ok(Arc::clone(&local)),
            other => Err(format!("no store for {other}").into()),
        })
    }

    #[tokio::test]
    async fn iceberg_reads_and_writes_through_the_stores() {
        let folder = tempfile::tempdir().unwrap();
        let io = local_stores().file_io();
        let file = |name: &str| format!("file://{}/{name}", folder.path().display());

        let output = io.new_output(file("a b/100%.avro")).unwrap();
        output.write("whole".into()).await.unwrap();
        let mut writer = io.new_output(file("parts")).unwrap().writer().await.unwrap();
        writer.write("in ".into()).await.unwrap();
        writer.write("parts".into()).await.unwrap();
        assert!(!io.exists(file("parts")).await.unwrap(), "closing makes it visible");
        writer.close().await.unwrap();

        assert!(folder.path().join("a b/100%.avro").exists(), "names are taken as they are");
        let input = io.new_input(file("parts")).unwrap();
        assert_eq!(input.metadata().await.unwrap().size, 8);
        assert_eq!(input.read().await.unwrap(), "in parts");
        assert_eq!(input.reader().await.unwrap().read(3..5).await.unwrap(), "pa");

        io.delete(file("parts")).await.unwrap();
        io.delete_prefix(file("a b")).await.unwrap();
        assert!(!io.exists(file("parts")).await.unwrap());
        assert!(!io.exists(file("a b/100%.avro")).await.unwrap());
    }

    #[tokio::test]
    async fn read_errors_say_what_to_do() {
        let check = async |location: &str, expect: fn(&Error) -> bool| {
            let error = local_stores().read(location).await.unwrap_err();
            assert!(expect(&error), "{location}: {error:?}");
        };
        check("/no/such/file", |e| matches!(e, Error::Missing { .. })).await;
        check("relative", |e| matches!(e, Error::Invalid(_))).await;
        check("s3://bucket/a", |e| matches!(e, Error::Unreachable { .. })).await;
    }
}
