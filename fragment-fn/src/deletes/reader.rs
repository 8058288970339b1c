//! Reading of a scan's delete files, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Formatter};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use arrow::datatypes::SchemaRef;
use chrono::DateTime;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use gust_protocol::{DeleteContent, DeleteFile, FragmentErrorKind, ObjectRef, UnitDeletes};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use parquet::errors::ParquetError;
use roaring::RoaringTreemap;
use tokio::sync::OnceCell;

use super::equality::Keys;
use super::positions::{self, Positions};
use super::{DamagedDeletes, vector};
use crate::classify::{classify, find};
use crate::fault::FileFault;
use crate::panics::catch_panic;
use crate::pinned::PinnedFile;
use crate::scan::{FileReader, open_alone};

/// Most delete files that are read for one data file at a time.
const READS_MAX: usize = 8;

/// Reader of the delete files of one scan. Each is read when the first data file needs it, and kept until the scan is dropped.
pub struct DeleteReader {
    /// Stores by [`gust_protocol::AccessId`].
    stores: Arc<[Arc<dyn ObjectStore>]>,
    files: Arc<[DeleteFile]>,
    /// Paths of the data files that name each vector and each file of positions.
    wanted: BTreeMap<u32, BTreeSet<String>>,
    /// Positions of each file that has any.
    positions: Vec<OnceCell<Positions>>,
    groups: Vec<KeyGroup>,
    /// Columns of the table, of which keys are some.
    table: SchemaRef,
    /// Keeps nothing: each footer is read once.
    footers: Arc<FileMetadataCache>,
    /// Memory of the positions.
    rows_held: MemoryReservation,
    /// Memory of the keys.
    keys_held: MemoryReservation,
}

/// Files of keys with the same fields and the same scope.
pub(super) struct KeyGroup {
    pub(super) ids: Vec<i32>,
    scope: u32,
    /// Files by their positions.
    pub(super) files: Vec<u32>,
    /// Largest sequence number of them.
    newest: i64,
    keys: OnceCell<Arc<Keys>>,
}

impl DeleteReader {
    /// Makes the reader of a scan over `units`. `table` has the key columns by their field ids. `stores` already count and hedge;
    /// what is kept is counted in `pool`.
    pub fn new<'a>(
        stores: Arc<[Arc<dyn ObjectStore>]>,
        files: Arc<[DeleteFile]>,
        units: impl IntoIterator<Item = &'a UnitDeletes>,
        table: SchemaRef,
        pool: &Arc<dyn MemoryPool>,
    ) -> Self {
        let mut wanted: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for unit in units {
            for file in unit.vector.iter().chain(&unit.positions) {
                wanted.entry(*file).or_default().insert(unit.path.clone());
            }
        }
        let mut groups: BTreeMap<(u32, Vec<i32>), KeyGroup> = BTreeMap::new();
        for (position, file) in (0..).zip(files.iter()) {
            let DeleteContent::Equality { ids, scope, sequence_number } = &file.content else { continue };
            let mut ids = ids.clone();
            ids.sort_unstable();
            ids.dedup();
            let new = || KeyGroup {
                ids: ids.clone(),
                scope: *scope,
                files: Vec::new(),
                newest: i64::MIN,
                keys: OnceCell::new(),
            };
            let group = groups.entry((*scope, ids.clone())).or_insert_with(new);
            group.files.push(position);
            group.newest = group.newest.max(*sequence_number);
        }
        Self {
            stores,
            wanted,
            positions: files.iter().map(|_| OnceCell::new()).collect(),
            files,
            groups: groups.into_values().collect(),
            table,
            footers: Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(0)),
            rows_held: MemoryConsumer::new("deleted rows").register(pool),
            keys_held: MemoryConsumer::new("deleted keys").register(pool),
        }
    }

    pub(super) fn files(&self) -> &Arc<[DeleteFile]> {
        &self.files
    }

    /// Lists the groups of keys that may delete rows of a data file.
    pub(super) fn groups(&self, unit: &UnitDeletes) -> impl Iterator<Item = &KeyGroup> {
        let (scopes, number) = (&unit.scopes, unit.sequence_number);
        self.groups.iter().filter(move |group| scopes.contains(&group.scope) && group.newest > number)
    }

    /// Returns the positions of a data file's deleted rows. None where none is deleted.
    ///
    /// # Errors
    /// A [`FileFault`] that names the delete file, the store's errors, and the pool's.
    pub(super) async fn deleted(&self, unit: &UnitDeletes) -> Result<Option<Arc<RoaringTreemap>>> {
        let named: Vec<u32> = unit.vector.iter().chain(&unit.positions).copied().collect();
        let reading = named.iter().map(|file| self.positions_of(*file, unit)).collect::<Vec<_>>();
        let read: Vec<&Positions> = stream::iter(reading).buffered(READS_MAX).try_collect().await?;
        let mut all: Option<Arc<RoaringTreemap>> = None;
        for (file, positions) in named.iter().zip(read) {
            let Some(own) = positions.get(&unit.path) else { continue };
            if let Some(last) = own.max().filter(|last| *last >= unit.rows) {
                let reason = format!("it deletes row {last} of {}, which has {}", unit.path, unit.rows);
                return Err(FileFault::deletes(&self.file(*file)?.file.path, reason).into());
            }
            all = Some(match all {
                Some(before) => Arc::new(before.as_ref() | own.as_ref()),
                None => Arc::clone(own),
            });
        }
        Ok(all)
    }

    /// Returns the positions of a delete file, which is read once.
    async fn positions_of(&self, file: u32, unit: &UnitDeletes) -> Result<&Positions> {
        let (Some(cell), own) = (self.positions.get(file as usize), self.file(file)?) else {
            return internal_err!("no place for delete file {file}");
        };
        let wanted = self.wanted.get(&file);
        let Some(wanted) = wanted.filter(|wanted| wanted.contains(&unit.path)) else {
            return internal_err!("nobody has said that `{}` needs positions of delete file {file}", unit.path);
        };
        let positions = cell
            .get_or_try_init(|| async {
                let read = async {
                    match own.content {
                        DeleteContent::Positions => {
                            positions::read(self.open(&own.file)?, wanted, &self.rows_held).await
                        }
                        DeleteContent::Vector { offset, bytes, cardinality } => {
                            let read = self.vector(&own.file, offset, bytes).await?;
                            let deleted = vector::decode(&read, unit.rows, cardinality).map_err(|reason| {
                                DamagedDeletes(format!("the deletion vector at byte {offset}: {reason}"))
                            })?;
                            Ok(Positions::from([(unit.path.clone(), Arc::new(deleted))]))
                        }
                        DeleteContent::Equality { .. } => internal_err!("delete file {file} has keys, not positions"),
                    }
                };
                caught(read).await.map_err(|error| named(&own.file, &unit.path, error))
            })
            .await?;
        let is_vector = matches!(own.content, DeleteContent::Vector { .. });
        if is_vector && !positions.contains_key(&unit.path) {
            return internal_err!("the vector of another file is named by `{}`", unit.path);
        }
        Ok(positions)
    }

    /// Reads the bytes of a vector.
    async fn vector(&self, file: &ObjectRef, offset: u64, bytes: u64) -> Result<bytes::Bytes> {
        let end = offset.checked_add(bytes).filter(|end| *end <= file.size_bytes && bytes <= vector::VECTOR_BYTES_MAX);
        let Some(end) = end else {
            let reason = format!("the deletion vector at byte {offset}: it has {bytes} bytes of {}", file.size_bytes);
            return Err(DamagedDeletes(reason).into());
        };
        let held = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_mul(2);
        self.rows_held.try_grow(held)?;
        let pinned = PinnedFile::new(Arc::clone(self.store(file)?), object(file)?);
        Ok(pinned.range(offset..end).await?)
    }

    /// Returns the keys by which rows of a data file are deleted.
    ///
    /// # Errors
    /// Those of [`Self::deleted`], and keys that the table's columns do not have.
    pub(super) async fn keys(&self, unit: &UnitDeletes) -> Result<Vec<Arc<Keys>>> {
        try_join_all(self.groups(unit).map(|group| async {
            let read = group.keys.get_or_try_init(|| self.keys_of(group, unit)).await?;
            Ok(Arc::clone(read))
        }))
        .await
    }

    async fn keys_of(&self, group: &KeyGroup, unit: &UnitDeletes) -> Result<Arc<Keys>> {
        let reading = group.files.iter().map(|file| self.keys_in(*file, group, unit)).collect::<Vec<_>>();
        let mut reading = stream::iter(reading).buffer_unordered(READS_MAX);
        let mut keys = Keys::new(&self.table, &group.ids)?;
        while let Some(read) = reading.try_next().await? {
            keys.merge(read);
        }
        Ok(Arc::new(keys))
    }

    /// Reads the keys of one file.
    async fn keys_in(&self, file: u32, group: &KeyGroup, unit: &UnitDeletes) -> Result<Keys> {
        let mut keys = Keys::new(&self.table, &group.ids)?;
        let own = self.file(file)?;
        let DeleteContent::Equality { sequence_number, .. } = own.content else { return Ok(keys) };
        let read = async { keys.read(self.open(&own.file)?, sequence_number, &self.keys_held).await };
        caught(read).await.map_err(|error| named(&own.file, &unit.path, error))?;
        Ok(keys)
    }

    fn file(&self, file: u32) -> Result<&DeleteFile> {
        let own = self.files.get(file as usize);
        own.ok_or_else(|| DataFusionError::Internal(format!("the scan has no delete file {file}")))
    }

    fn store(&self, file: &ObjectRef) -> Result<&Arc<dyn ObjectStore>> {
        let store = self.stores.get(usize::from(file.access));
        store.ok_or_else(|| DataFusionError::Internal(format!("delete file `{}` has no store", file.path)))
    }

    fn open(&self, file: &ObjectRef) -> Result<FileReader> {
        let mut planned = PartitionedFile::new_from_meta(object(file)?);
        planned.metadata_size_hint = file.footer_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        Ok(open_alone(Arc::clone(self.store(file)?), &planned, Arc::clone(&self.footers)))
    }

    /// Reserves memory beside the kept positions, for what is made of them.
    pub(super) fn reserve(&self, bytes: usize) -> Result<MemoryReservation> {
        let held = self.rows_held.new_empty();
        held.try_grow(bytes)?;
        Ok(held)
    }
}

fn object(file: &ObjectRef) -> Result<ObjectMeta> {
    Ok(ObjectMeta {
        location: Path::parse(&file.path)?,
        last_modified: DateTime::UNIX_EPOCH,
        size: file.size_bytes,
        e_tag: file.etag.clone(),
        version: None,
    })
}

/// Does `work`. A panic of a decoder is damage of its file.
async fn caught<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| match catch_panic(|| work.as_mut().poll(context)) {
        Ok(polled) => polled,
        Err(panic) => Poll::Ready(Err(DamagedDeletes(format!("it cannot be decoded: {panic}")).into())),
    })
    .await
}

/// Makes an error name the delete file, where that is at fault. `of` is the path of the data file that asked.
fn named(file: &ObjectRef, of: &str, error: DataFusionError) -> DataFusionError {
    let file = &file.path;
    if let Some(DamagedDeletes(reason)) = find(&error) {
        return FileFault::deletes(file, reason).into();
    }
    match (find(&error), classify(&error).kind) {
        (Some(FileFault::Corrupt { reason, .. }), _) => FileFault::deletes(file, reason).into(),
        (Some(FileFault::Unsupported { .. }), _) => error,
        (_, FragmentErrorKind::FileMissing) => {
            FileFault::Missing { file: file.clone(), reason: format!("it holds deleted rows of {of}") }.into()
        }
        (_, FragmentErrorKind::FileChanged) => {
            let reason = match find(&error) {
                Some(object_store::Error::Precondition { source, .. }) => source.to_string(),
                _ => error.strip_backtrace(),
            };
            FileFault::Changed { file: file.clone(), reason }.into()
        }
        (_, FragmentErrorKind::FileCorrupt | FragmentErrorKind::SchemaMismatch) => {
            FileFault::deletes(file, error.strip_backtrace()).into()
        }
        _ if find::<ParquetError>(&error).is_some() && find::<object_store::Error>(&error).is_none() => {
            FileFault::deletes(file, error.strip_backtrace()).into()
        }
        _ => error,
    }
}

impl Debug for DeleteReader {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeleteReader").field("files", &self.files.len()).finish_non_exhaustive()
    }
}
