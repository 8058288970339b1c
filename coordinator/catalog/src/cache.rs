//! Decoded metadata files of a process, bounded by bytes.
//!
//! A file of a table never changes, so that it is known by its table and its path. A file is read once, however many queries
//! ask at the same time: they wait for the first, and if that fails or goes away, the next begins.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::manifests::entry::DecodedManifest;
use crate::manifests::list::ManifestFile;
use crate::metadata::TableMetadata;

/// Most bytes of decoded metadata that a process keeps, where nobody says another bound.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Most KiB of a store's metadata files, as they lie in it, that are in memory at once. Stores do not wait for each other.
const READ_KIB_MAX: u32 = 32 << 10;

/// Decoded metadata of the tables of a process.
#[derive(Debug)]
pub struct MetadataCache {
    bytes_max: usize,
    state: Mutex<State>,
    /// Bounds of what is read at once, by the stores' roots.
    reads: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Bound of the files that are decoded at once.
    decodes: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Arc<Key>, Slot>,
    /// Keys of the values that are there, by their latest use.
    by_use: BTreeMap<u64, Arc<Key>>,
    held_bytes: usize,
    /// Number of the latest use.
    clock: u64,
    decoded_manifests: u64,
    decoded_lists: u64,
}

/// Name of a file and its kind. `table` is a name that no other table has: a table that is made anew may use paths again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// Metadata file whose path no other file will ever have.
    Metadata(String),
    /// Manifest list of a snapshot.
    List { table: String, path: String, snapshot: i64 },
    /// Manifest of this length.
    Manifest { table: String, path: String, bytes: u64 },
}

#[derive(Debug, Clone)]
pub(crate) enum Cached {
    Metadata(Arc<TableMetadata>),
    List(Arc<Vec<Arc<ManifestFile>>>),
    Manifest(Arc<DecodedManifest>),
}

/// Kind of file.
pub(crate) trait Kept: Sized + Send + Sync {
    fn keep(self: Arc<Self>) -> Cached;

    /// Returns the file, where it is of this kind.
    fn kept(cached: &Cached) -> Option<&Arc<Self>>;
}

#[derive(Debug)]
struct Slot {
    cell: Arc<OnceCell<Cached>>,
    /// Columns whose metrics a manifest is read with, ascending.
    keep: Arc<[i32]>,
    /// Bytes that the value holds. 0 until it is there.
    bytes: usize,
    used: u64,
}

impl Default for MetadataCache {
    fn default() -> Self {
        Self::new(HELD_BYTES_MAX)
    }
}

impl MetadataCache {
    pub fn new(bytes_max: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get());
        Self { bytes_max, state: Mutex::default(), reads: Mutex::default(), decodes: Semaphore::new(cores.max(2)) }
    }

    /// Returns an empty cache with the same bound.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self::new(self.bytes_max)
    }

    /// Returns the bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        self.lock().held_bytes
    }

    /// Returns the number of manifests that were decoded.
    pub fn decoded_manifests(&self) -> u64 {
        self.lock().decoded_manifests
    }

    /// Returns the number of manifest lists that were decoded.
    pub fn decoded_lists(&self) -> u64 {
        self.lock().decoded_lists
    }

    /// Waits until a file of this length may be read of a store. A longer one than may be read at once waits until it is alone.
    pub(crate) async fn may_read(&self, root: &str, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, READ_KIB_MAX);
        let reads = {
            let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
            match reads.get(root) {
                Some(reads) => Arc::clone(reads),
                None => {
                    let new = Arc::new(Semaphore::new(READ_KIB_MAX as usize));
                    Arc::clone(reads.entry(root.to_owned()).or_insert(new))
                }
            }
        };
        reads.acquire_many_owned(kib).await.ok()
    }

    /// Decodes a file off the threads that drive I/O, for decoding is CPU work; few at a time, for it takes memory.
    pub(crate) async fn decoding<T: Send + 'static>(
        &self,
        location: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _permit = self.decodes.acquire().await;
        in_background(location, work).await
    }

    /// Returns a file, or reads it with the metrics of at least these columns, ascending.
    pub(crate) async fn get_or_read<T: Kept, F>(
        &self,
        key: Key,
        wanted: &[i32],
        read: impl FnOnce(Arc<[i32]>) -> F + Send,
    ) -> Result<Arc<T>>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let key = Arc::new(key);
        let (cell, keep) = self.slot(&key, wanted);
        let asking = Asking { cache: self, key, cell };
        let cached = asking.cell.get_or_try_init(|| async { Ok(Arc::new(read(keep).await?).keep()) }).await?;
        let other = || Error::Invalid("a metadata file was kept as one of another kind".to_owned());
        T::kept(cached).map(Arc::clone).ok_or_else(other)
    }

    /// Returns the cell of a file, or a new one in its place where its value lacks columns.
    fn slot(&self, key: &Arc<Key>, wanted: &[i32]) -> (Arc<OnceCell<Cached>>, Arc<[i32]>) {
        let mut state = self.lock();
        let State { slots, by_use, held_bytes, clock, .. } = &mut *state;
        *clock += 1;
        let mut keep: Arc<[i32]> = wanted.into();
        if let Some(slot) = slots.get_mut(key) {
            if wanted.iter().all(|id| slot.keep.binary_search(id).is_ok()) {
                if let Some(key) = by_use.remove(&slot.used) {
                    by_use.insert(*clock, key);
                }
                slot.used = *clock;
                return (Arc::clone(&slot.cell), Arc::clone(&slot.keep));
            }
            let mut union: Vec<i32> = slot.keep.iter().chain(wanted).copied().collect();
            union.sort_unstable();
            union.dedup();
            keep = union.into();
        }
        let slot = Slot { cell: Arc::default(), keep: Arc::clone(&keep), bytes: 0, used: *clock };
        let cell = Arc::clone(&slot.cell);
        if let Some(replaced) = slots.insert(Arc::clone(key), slot) {
            *held_bytes -= replaced.bytes;
            by_use.remove(&replaced.used);
        }
        (cell, keep)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Question for a file, until it is answered or dropped.
struct Asking<'a> {
    cache: &'a MetadataCache,
    key: Arc<Key>,
    cell: Arc<OnceCell<Cached>>,
}

impl Drop for Asking<'_> {
    /// Counts a value that has been read, and makes room for it. Drops the slot of one that nobody reads any more.
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        // Given back while the lock is held, so that of several that go at once the last one sees that it is.
        let cell = std::mem::take(&mut self.cell);
        let State { slots, by_use, held_bytes, decoded_manifests, decoded_lists, .. } = &mut *state;
        let Some(slot) = slots.get_mut(&self.key).filter(|slot| Arc::ptr_eq(&slot.cell, &cell)) else { return };
        let bytes = match slot.cell.get() {
            Some(_) if slot.bytes > 0 => return,
            Some(value) => {
                *decoded_manifests += u64::from(matches!(value, Cached::Manifest(_)));
                *decoded_lists += u64::from(matches!(value, Cached::List(_)));
                value.held_bytes().max(1)
            }
            // The slot's and this one.
            None if Arc::strong_count(&cell) == 2 => usize::MAX,
            None => return,
        };
        if bytes > self.cache.bytes_max {
            slots.remove(&self.key);
            return;
        }
        slot.bytes = bytes;
        by_use.insert(slot.used, Arc::clone(&self.key));
        *held_bytes += bytes;
        while *held_bytes > self.cache.bytes_max
            && let Some((_, oldest)) = by_use.pop_first()
        {
            *held_bytes -= slots.remove(&oldest).map_or(0, |slot| slot.bytes);
        }
    }
}

/// Works off the threads that drive I/O. A panic within is the file's fault.
pub(crate) async fn in_background<T: Send + 'static>(
    location: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::corrupt(location, error)),
    }
}

impl Cached {
    fn held_bytes(&self) -> usize {
        match self {
            Cached::Metadata(metadata) => metadata.held_bytes,
            Cached::List(manifests) => manifests.iter().map(|manifest| manifest.held_bytes()).sum(),
            Cached::Manifest(manifest) => manifest.held_bytes(),
        }
    }
}

impl Kept for TableMetadata {
    fn keep(self: Arc<Self>) -> Cached {
        Cached::Metadata(self)
    }

    fn kept(cached: &Cached) -> Option<&Arc<Self>> {
        if let Cached::Metadata(metadata) = cached { Some(metadata) } else { None }
    }
}

impl Kept for Vec<Arc<ManifestFile>> {
    fn keep(self: Arc<Self>) -> Cached {
        Cached::List(self)
    }

    fn kept(cached: &Cached) -> Option<&Arc<Self>> {
        if let Cached::List(manifests) = cached { Some(manifests) } else { None }
    }
}

impl Kept for DecodedManifest {
    fn keep(self: Arc<Self>) -> Cached {
        Cached::Manifest(self)
    }

    fn kept(cached: &Cached) -> Option<&Arc<Self>> {
        if let Cached::Manifest(manifest) = cached { Some(manifest) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn key(path: &str) -> Key {
        Key::Manifest { table: "t".to_owned(), path: path.to_owned(), bytes: 1 }
    }

    fn slots(cache: &MetadataCache) -> usize {
        cache.lock().slots.len()
    }

    async fn put(cache: &MetadataCache, path: &str) {
        cache.get_or_read(key(path), &[], async |_| Ok(DecodedManifest::default())).await.unwrap();
    }

    #[tokio::test]
    async fn a_read_that_is_dropped_leaves_nothing_behind() {
        let cache = MetadataCache::default();
        for _ in 0..3 {
            let forever = cache.get_or_read::<DecodedManifest, _>(key("a"), &[], |_| std::future::pending());
            let waiting = cache.get_or_read::<DecodedManifest, _>(key("a"), &[], |_| std::future::pending());
            let both = futures::future::join(forever, waiting);
            tokio::time::timeout(std::time::Duration::from_millis(5), both).await.unwrap_err();
            assert_eq!(slots(&cache), 0);
        }
    }

    #[tokio::test]
    async fn the_next_begins_where_the_first_fails_and_the_others_share_it() {
        let cache = MetadataCache::default();
        let reads = AtomicU32::new(0);
        let asked = (0..8).map(|_| {
            cache.get_or_read(key("a"), &[], |_| async {
                tokio::task::yield_now().await;
                match reads.fetch_add(1, Ordering::Relaxed) {
                    0 => Err(Error::Invalid("no".to_owned())),
                    _ => Ok(DecodedManifest::default()),
                }
            })
        });
        let found = futures::future::join_all(asked).await;
        assert_eq!(found.iter().filter(|found| found.is_err()).count(), 1);
        assert_eq!((reads.load(Ordering::Relaxed), slots(&cache), cache.decoded_manifests()), (2, 1, 1));
        assert!(cache.held_bytes() > 0);
    }

    #[tokio::test]
    async fn what_was_used_least_lately_goes_first() {
        let one = DecodedManifest::default().held_bytes();
        let cache = MetadataCache::new(2 * one);
        put(&cache, "a").await;
        put(&cache, "b").await;
        put(&cache, "a").await;
        put(&cache, "c").await;
        assert_eq!((cache.held_bytes(), slots(&cache), cache.decoded_manifests()), (2 * one, 2, 3));
        put(&cache, "a").await;
        put(&cache, "c").await;
        assert_eq!(cache.decoded_manifests(), 3, "b went");
        // A value of all the room is kept alone; one of more is not.
        let alone = MetadataCache::new(one);
        put(&alone, "a").await;
        put(&alone, "b").await;
        assert_eq!((alone.held_bytes(), slots(&alone)), (one, 1));
        let small = MetadataCache::new(one - 1);
        put(&small, "a").await;
        assert_eq!((small.held_bytes(), slots(&small)), (0, 0));
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_holds_up_no_other() {
        let cache = MetadataCache::default();
        let _held = cache.may_read("s3://dead/", u64::MAX).await.unwrap();
        let wait = std::time::Duration::from_millis(5);
        assert!(tokio::time::timeout(wait, cache.may_read("s3://dead/", 1)).await.is_err());
        tokio::time::timeout(wait, cache.may_read("s3://other/", u64::MAX)).await.unwrap();
    }
}
