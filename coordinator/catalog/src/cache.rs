//! Decoded metadata files of a process, bounded by bytes.
//!
//! Files of Iceberg's metadata never change, so that a file is known by its path. A file is read once, however many queries
//! ask at the same time: they wait for the first, and if that fails or goes away, the next begins.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::error::Result;
use crate::manifests::entry::DecodedManifest;
use crate::manifests::list::ManifestFile;
use crate::metadata::TableMetadata;

/// Most bytes of decoded metadata that a process keeps, where nobody says another bound.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Most bytes of manifests, as they lie in the store, that are read and decoded at once.
const READ_KIB_MAX: u32 = 32 << 10;

/// Decoded metadata of the tables of a process.
#[derive(Debug)]
pub struct MetadataCache {
    bytes_max: usize,
    state: Mutex<State>,
    reads: Semaphore,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<Key, Slot>,
    held_bytes: usize,
    /// Number of the latest use.
    clock: u64,
    decoded_manifests: u64,
}

/// Name of a file and its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Metadata(String),
    /// Manifest list of a snapshot.
    List(String, i64),
    /// Manifest of this length.
    Manifest(String, u64),
}

#[derive(Debug, Clone)]
pub(crate) enum Cached {
    Metadata(Arc<TableMetadata>),
    List(Arc<[ManifestFile]>),
    Manifest(Arc<DecodedManifest>),
}

#[derive(Debug, Clone)]
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
        Self { bytes_max, state: Mutex::default(), reads: Semaphore::new(READ_KIB_MAX as usize) }
    }

    /// Returns the bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        self.lock().held_bytes
    }

    /// Returns the number of manifests that were decoded.
    pub fn decoded_manifests(&self) -> u64 {
        self.lock().decoded_manifests
    }

    /// Waits until a file of this length may be read. A longer one than may be read at once waits until it is alone.
    pub(crate) async fn may_read(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, READ_KIB_MAX);
        self.reads.acquire_many(kib).await.ok()
    }

    /// Returns a file's value, or reads it with the metrics of at least these columns, ascending.
    pub(crate) async fn get_or_read<F>(
        &self,
        key: Key,
        wanted: &[i32],
        read: impl FnOnce(Arc<[i32]>) -> F + Send,
    ) -> Result<Cached>
    where
        F: Future<Output = Result<Cached>> + Send,
    {
        let Slot { cell, keep, .. } = self.slot(&key, wanted);
        let value = cell.get_or_try_init(|| read(keep)).await.cloned();
        self.settle(&key, &cell, value.as_ref().ok());
        value
    }

    /// Returns the slot of a file, or a new one in its place where its value lacks columns.
    fn slot(&self, key: &Key, wanted: &[i32]) -> Slot {
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        let mut keep: Arc<[i32]> = wanted.into();
        if let Some(slot) = state.slots.get_mut(key) {
            if wanted.iter().all(|id| slot.keep.binary_search(id).is_ok()) {
                slot.used = used;
                return slot.clone();
            }
            let mut union: Vec<i32> = slot.keep.iter().chain(wanted).copied().collect();
            union.sort_unstable();
            union.dedup();
            keep = union.into();
        }
        let slot = Slot { cell: Arc::default(), keep, bytes: 0, used };
        if let Some(replaced) = state.slots.insert(key.clone(), slot.clone()) {
            state.held_bytes -= replaced.bytes;
        }
        slot
    }

    /// Counts a value that has been read, and makes room for it. Drops the slot of one that could not be read.
    fn settle(&self, key: &Key, cell: &Arc<OnceCell<Cached>>, value: Option<&Cached>) {
        let mut state = self.lock();
        let State { slots, held_bytes, decoded_manifests, .. } = &mut *state;
        let Some(slot) = slots.get_mut(key).filter(|slot| Arc::ptr_eq(&slot.cell, cell)) else { return };
        match value {
            None if slot.cell.initialized() => return,
            None => drop(slots.remove(key)),
            Some(_) if slot.bytes > 0 => return,
            Some(value) => {
                slot.bytes = value.held_bytes().max(1);
                *held_bytes += slot.bytes;
                *decoded_manifests += u64::from(matches!(value, Cached::Manifest(_)));
                if slot.bytes > self.bytes_max / 2 {
                    *held_bytes -= slot.bytes;
                    slots.remove(key);
                }
            }
        }
        while state.held_bytes > self.bytes_max && state.evict() {}
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Drops the value that was used least lately. False where there is none.
    fn evict(&mut self) -> bool {
        let held = self.slots.iter().filter(|(_, slot)| slot.bytes > 0);
        let Some((key, bytes)) = held.min_by_key(|(_, slot)| slot.used).map(|(key, slot)| (key.clone(), slot.bytes))
        else {
            return false;
        };
        self.slots.remove(&key);
        self.held_bytes -= bytes;
        true
    }
}

impl Cached {
    fn held_bytes(&self) -> usize {
        match self {
            Cached::Metadata(metadata) => metadata.held_bytes,
            Cached::List(manifests) => manifests.iter().map(ManifestFile::held_bytes).sum(),
            Cached::Manifest(manifest) => manifest.held_bytes(),
        }
    }
}
