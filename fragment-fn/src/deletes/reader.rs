//! Reading of a scan's delete files, each once.

use std::collections::HashMap;
use std::fmt::{Debug, Formatter};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use chrono::DateTime;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use gust_protocol::{AccessId, DeleteContent, DeleteSet, FragmentErrorKind, ObjectRef, UnitDeletes};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use parquet::errors::ParquetError;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use super::equality::{KeyReader, Keys};
use super::key_stream::{KEYS_BYTES_MAX, KeyStream};
use super::planned::{DeletePlan, KeyGroup};
use super::positions::{self, Deleted, Positions};
use super::runs::{HeldBytes, VectorRuns};
use super::shared::{Shared, Users};
use super::{DIGEST_READS_MAX, DamagedDeletes, vector};
use crate::bridge::BRIDGE_BYTES_MAX;
use crate::classify::{classify, find};
use crate::fault::FileFault;
use crate::panics::catch_panic;
use crate::pinned::PinnedFile;
use crate::scan::{FileReader, open_alone};

/// Most delete files that are read for one data file at a time.
const READS_MAX: usize = 8;

/// Reader of the delete files of one scan. Each is read when the first data file needs it. What it says is kept until the last of the
/// files that were announced has had it.
pub struct DeleteReader {
    /// Stores by [`gust_protocol::AccessId`].
    stores: Arc<[Arc<dyn ObjectStore>]>,
    plan: DeletePlan,
    /// Store of what the coordinator has written for this query.
    exchange: Option<AccessId>,
    /// Largest gap between ranges of one request.
    bridge_bytes: u64,
    /// Vectors that are read together.
    runs: VectorRuns,
    /// Data files with a vector or files of positions, by their paths.
    data: HashMap<Arc<str>, PositionedFile>,
    /// Positions of each delete file that has any, where it is read.
    positions: Vec<Mutex<Option<Positions>>>,
    /// Keys of each of the plan's groups.
    keys: Vec<Shared<Keys>>,
    /// Least sequence number of the data files of each group. Older keys delete none of their rows.
    oldest: Vec<i64>,
    /// Columns of the table, of which keys are some.
    table: SchemaRef,
    /// Keeps nothing: each footer is read once.
    footers: Arc<FileMetadataCache>,
    /// Memory of the positions.
    rows_held: MemoryReservation,
    /// Memory of the keys.
    keys_held: MemoryReservation,
}

/// Data file with a vector or files of positions.
#[derive(Default)]
struct PositionedFile {
    users: Users,
    /// Sets of its units, mostly one.
    sets: Vec<u32>,
}

/// Turns to read a file for a digest, each one at a time. None for a scan: one that has a turn may wait for another that waits for one.
type Turns<'a> = Option<&'a Semaphore>;

/// Group of files of keys, as data files ask for it.
struct GroupKeys<'a> {
    group: &'a KeyGroup,
    keys: &'a Shared<Keys>,
    /// Least sequence number of the data files.
    oldest: i64,
}

impl DeleteReader {
    /// Makes the reader of a scan over `units`. `table` has the key columns by their field ids. `stores` already count and hedge;
    /// what is kept is counted in `pool`.
    pub fn new<'a>(
        stores: Arc<[Arc<dyn ObjectStore>]>,
        plan: DeletePlan,
        units: impl IntoIterator<Item = &'a UnitDeletes>,
        table: SchemaRef,
        pool: &Arc<dyn MemoryPool>,
    ) -> Self {
        let has_positions = |unit: &&UnitDeletes| unit.vector.is_some() || !plan.set(unit).positions.is_empty();
        let mut data: HashMap<Arc<str>, PositionedFile> = HashMap::new();
        let mut oldest_of: HashMap<u32, i64> = HashMap::new();
        let note = |unit: &&UnitDeletes| {
            if let Some(set) = unit.set {
                let oldest = oldest_of.entry(set).or_insert(unit.sequence_number);
                *oldest = unit.sequence_number.min(*oldest);
            }
        };
        for unit in units.into_iter().inspect(note).filter(has_positions) {
            if !data.contains_key(unit.path.as_str()) {
                data.insert(Arc::from(unit.path.as_str()), PositionedFile::default());
            }
            let file = data.get_mut(unit.path.as_str());
            if let Some((file, set)) = file.zip(unit.set).filter(|(file, set)| !file.sets.contains(set)) {
                file.sets.push(set);
            }
        }
        let mut oldest = vec![i64::MAX; plan.groups().len()];
        for (set, number) in &oldest_of {
            let scopes = plan.sets().get(*set as usize).map(|set| set.scopes.as_slice()).unwrap_or_default();
            for group in scopes.iter().flat_map(|scope| plan.groups_of(*scope)) {
                oldest[group] = oldest[group].min(*number);
            }
        }
        Self {
            stores,
            exchange: None,
            bridge_bytes: BRIDGE_BYTES_MAX,
            runs: VectorRuns::default(),
            data,
            positions: plan.files().iter().map(|_| Mutex::default()).collect(),
            keys: plan.groups().iter().map(|_| Shared::default()).collect(),
            oldest,
            plan,
            table,
            footers: Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(0)),
            rows_held: MemoryConsumer::new("deleted rows").register(pool),
            keys_held: MemoryConsumer::new("deleted keys").register(pool),
        }
    }

    /// Makes the reader read ranges with one request where the gap between them has at most so many bytes. Call it before
    /// [`Self::with_exchange`].
    #[must_use]
    pub fn bridging(self, bridge_bytes: u64) -> Self {
        Self { bridge_bytes, ..self }
    }

    /// Tells the store whose files the coordinator has written for this query: what is wrong with them is no damage of the table.
    #[must_use]
    pub(crate) fn with_exchange(self, exchange: AccessId) -> Self {
        let runs = VectorRuns::of(self.plan.files(), exchange, self.bridge_bytes);
        Self { exchange: Some(exchange), runs, ..self }
    }

    pub(super) fn plan(&self) -> &DeletePlan {
        &self.plan
    }

    /// Lists the groups of keys that may delete rows of a data file.
    pub(super) fn groups(&self, unit: &UnitDeletes) -> impl Iterator<Item = &KeyGroup> {
        self.keys_of(unit).map(|own| own.group)
    }

    /// Lists these groups with the places of their keys.
    fn keys_of(&self, unit: &UnitDeletes) -> impl Iterator<Item = GroupKeys<'_>> {
        let numbers = self.plan.set(unit).scopes.iter().flat_map(|scope| self.plan.groups_of(*scope));
        let of_group = |number: usize| {
            let (group, keys) = (self.plan.groups().get(number)?, self.keys.get(number)?);
            Some(GroupKeys { group, keys, oldest: *self.oldest.get(number)? })
        };
        numbers.filter_map(of_group).filter(|own| own.group.newest() > unit.sequence_number)
    }

    /// Announces that a unit will ask for its deletes once.
    pub(super) fn announce(&self, unit: &UnitDeletes) {
        if let Some(file) = self.data.get(unit.path.as_str()) {
            file.users.announce();
        }
        self.keys_of(unit).for_each(|own| own.keys.announce());
    }

    /// Lets go of all that was read, and of all units that were announced.
    pub(super) async fn forget(&self) {
        self.data.values().for_each(|file| file.users.forget());
        for place in &self.positions {
            *place.lock().await = None;
        }
        for keys in &self.keys {
            keys.forget().await;
        }
    }

    /// Returns the positions of a data file's deleted rows. None where none is deleted.
    ///
    /// # Errors
    /// A [`FileFault`] that names the delete file, the store's errors, and the pool's.
    pub(super) async fn deleted(&self, unit: &UnitDeletes, turns: Turns<'_>) -> Result<Option<Arc<Deleted>>> {
        let named: Vec<u32> = unit.vector.iter().chain(&self.plan.set(unit).positions).copied().collect();
        if named.is_empty() {
            return Ok(None);
        }
        let Some((path, data)) = self.data.get_key_value(unit.path.as_str()) else {
            return internal_err!("nobody has said that `{}` needs positions of its deleted rows", unit.path);
        };
        let reading = named.iter().map(|file| self.positions_in(*file, path, unit, turns)).collect::<Vec<_>>();
        let read: Vec<Option<Arc<Deleted>>> = stream::iter(reading).buffered(READS_MAX).try_collect().await?;
        if data.users.is_last() {
            for place in named.iter().filter_map(|file| self.positions.get(*file as usize)) {
                place.lock().await.as_mut().and_then(|kept| kept.get_mut(path)).and_then(Option::take);
            }
        }
        for (file, own) in named.iter().zip(&read) {
            let last = own.as_ref().and_then(|own| own.rows.max()).filter(|last| *last >= unit.rows);
            if let Some(last) = last {
                let reason = format!("it deletes row {last} of {}, which has {}", unit.path, unit.rows);
                return Err(self.fault(self.file(*file)?, reason));
            }
        }
        Deleted::union(read.into_iter().flatten().collect(), &self.rows_held)
    }

    /// Returns the positions in a delete file of one data file's rows.
    async fn positions_in(
        &self,
        number: u32,
        path: &Arc<str>,
        unit: &UnitDeletes,
        turns: Turns<'_>,
    ) -> Result<Option<Arc<Deleted>>> {
        let (Some(place), own) = (self.positions.get(number as usize), self.file(number)?) else {
            return internal_err!("no place for delete file {number}");
        };
        let mut place = place.lock().await;
        // A plan that runs again finds that its positions were let go.
        let is_kept = place.as_ref().is_some_and(|kept| kept.get(path).is_none_or(Option::is_some));
        if !is_kept {
            let _turn = turn(turns).await?;
            let read = self.read_positions(number, path, unit);
            *place = Some(caught(read).await.map_err(|error| self.named(own, &unit.path, error))?);
        }
        let found = place.as_ref().and_then(|kept| kept.get(path));
        let is_vector = self.plan.file(number).is_some_and(|file| matches!(file.content, DeleteContent::Vector { .. }));
        if found.is_none() && is_vector {
            return internal_err!("the vector of another file is named by `{}`", unit.path);
        }
        Ok(found.and_then(Option::clone))
    }

    async fn read_positions(&self, number: u32, path: &Arc<str>, unit: &UnitDeletes) -> Result<Positions> {
        let own = self.file(number)?;
        match self.plan.file(number).map(|file| &file.content) {
            Some(DeleteContent::Positions) => {
                let is_named = |set: &DeleteSet| set.positions.contains(&number);
                let named: Vec<bool> = self.plan.sets().iter().map(is_named).collect();
                let is_named =
                    |file: &PositionedFile| file.sets.iter().any(|set| named.get(*set as usize) == Some(&true));
                let wanted = self.data.iter().filter(|(_, file)| is_named(file)).map(|(path, _)| Arc::clone(path));
                positions::read(self.open(own)?, &wanted.collect(), &self.rows_held).await
            }
            Some(DeleteContent::Vector { offset, bytes, cardinality }) => {
                let (read, memory) = self.vector(number, *offset, *bytes).await?;
                let rows = vector::decode(&read, unit.rows, *cardinality)
                    .map_err(|reason| DamagedDeletes(format!("the deletion vector at byte {offset}: {reason}")))?;
                Ok(Positions::from([(Arc::clone(path), Some(Arc::new(Deleted::new(rows, memory))))]))
            }
            _ => internal_err!("delete file {number} has no positions"),
        }
    }

    /// Reads the bytes of a vector. The memory is for both its bytes and its positions.
    async fn vector(&self, number: u32, offset: u64, bytes: u64) -> Result<(Bytes, MemoryReservation)> {
        let file = self.file(number)?;
        let range = part(file, offset, bytes, vector::VECTOR_BYTES_MAX)
            .map_err(|reason| DamagedDeletes(format!("the deletion vector at byte {offset}: {reason}")))?;
        let memory = self.reserve(usize::try_from(bytes).unwrap_or(usize::MAX).saturating_mul(2))?;
        let read = match self.runs.run(number) {
            Some(run) => run.part(range, |whole| self.held(file, whole)).await?,
            None => self.range(file, range).await?,
        };
        Ok((read, memory))
    }

    async fn held(&self, file: &ObjectRef, range: Range<u64>) -> Result<HeldBytes> {
        let memory = self.reserve(usize::try_from(range.end - range.start).unwrap_or(usize::MAX))?;
        Ok(HeldBytes::new(self.range(file, range).await?, memory))
    }

    async fn range(&self, file: &ObjectRef, range: Range<u64>) -> Result<Bytes> {
        let pinned = PinnedFile::new(Arc::clone(self.store(file)?), object(file)?);
        Ok(pinned.range(range).await?)
    }

    /// Returns the keys by which rows of a data file are deleted.
    ///
    /// # Errors
    /// Those of [`Self::deleted`], and keys that the table's columns do not have.
    pub(super) async fn keys(&self, unit: &UnitDeletes) -> Result<Vec<Arc<Keys>>> {
        let read = |GroupKeys { group, keys, oldest }| async move {
            // Older keys were not kept.
            if unit.sequence_number < oldest {
                return internal_err!("nobody has said that `{}` needs keys of its deleted rows", unit.path);
            }
            keys.get(self.read_keys(group, oldest, unit, None)).await
        };
        try_join_all(self.keys_of(unit).map(read)).await
    }

    /// Reads the keys of a group's files that are newer than `since`, a few files at a time, or as many as there are `turns`. A key that
    /// many files have is held once. `unit` is a data file that needs them, for messages.
    ///
    /// # Errors
    /// Those of [`Self::keys`].
    pub(super) async fn read_keys(
        &self,
        group: &KeyGroup,
        since: i64,
        unit: &UnitDeletes,
        turns: Turns<'_>,
    ) -> Result<Keys> {
        let keys = KeyReader::new(&self.table, &group.ids, since, self.keys_held.new_empty())?;
        let reading = group.newer(since).map(|file| self.keys_in(file, &keys, unit, turns)).collect::<Vec<_>>();
        let at_once = if turns.is_some() { DIGEST_READS_MAX } else { READS_MAX };
        stream::iter(reading).buffer_unordered(at_once).try_collect::<()>().await?;
        Ok(keys.finish())
    }

    /// Reads the keys of one file.
    async fn keys_in(&self, number: u32, keys: &KeyReader, unit: &UnitDeletes, turns: Turns<'_>) -> Result<()> {
        let own = self.file(number)?;
        let _turn = turn(turns).await?;
        let read = async {
            match self.plan.file(number).map(|file| &file.content) {
                Some(DeleteContent::Equality { sequence_number, .. }) => {
                    keys.read(self.open(own)?, *sequence_number).await
                }
                Some(DeleteContent::Keys { offset, bytes, crc32, .. }) => {
                    let range = part(own, *offset, *bytes, KEYS_BYTES_MAX)
                        .map_err(|reason| DamagedDeletes(format!("the keys at byte {offset}: {reason}")))?;
                    let held = self.keys_held.new_empty();
                    held.try_grow(usize::try_from(*bytes).unwrap_or(usize::MAX))?;
                    keys.add(KeyStream { bytes: self.range(own, range).await?, crc32: *crc32 }).await
                }
                _ => internal_err!("delete file {number} has no keys"),
            }
        };
        caught(read).await.map_err(|error| self.named(own, &unit.path, error))
    }

    fn file(&self, number: u32) -> Result<&ObjectRef> {
        let own = self.plan.file(number).map(|file| &file.file);
        own.ok_or_else(|| DataFusionError::Internal(format!("the scan has no delete file {number}")))
    }

    fn store(&self, file: &ObjectRef) -> Result<&Arc<dyn ObjectStore>> {
        let store = self.stores.get(usize::from(file.access));
        store.ok_or_else(|| DataFusionError::Internal(format!("delete file `{}` has no store", file.path)))
    }

    fn open(&self, file: &ObjectRef) -> Result<FileReader> {
        let mut planned = PartitionedFile::new_from_meta(object(file)?);
        planned.metadata_size_hint = file.footer_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let pinned = PinnedFile::new(Arc::clone(self.store(file)?), planned.object_meta.clone());
        Ok(open_alone(pinned.bridging(self.bridge_bytes), &planned, Arc::clone(&self.footers)))
    }

    fn fault(&self, file: &ObjectRef, reason: impl ToString) -> DataFusionError {
        match self.exchange == Some(file.access) {
            true => FileFault::Exchange { object: file.path.clone(), reason: reason.to_string() }.into(),
            false => FileFault::deletes(&file.path, &self.plan.table(), reason).into(),
        }
    }

    /// Makes an error name the delete file and its table, where these are at fault. `of` is the path of the data file that asked.
    fn named(&self, file: &ObjectRef, of: &str, error: DataFusionError) -> DataFusionError {
        if let Some(DamagedDeletes(reason)) = find(&error) {
            return self.fault(file, reason);
        }
        let is_of_exchange = self.exchange == Some(file.access);
        match (find(&error), classify(&error).kind) {
            (Some(FileFault::Corrupt { reason, .. }), _) => self.fault(file, reason),
            (Some(FileFault::Unsupported { .. }), _) => error,
            (_, FragmentErrorKind::FileMissing | FragmentErrorKind::FileChanged) if is_of_exchange => {
                self.fault(file, error.strip_backtrace())
            }
            (_, FragmentErrorKind::FileMissing) => {
                let reason = format!("it holds deleted rows of {of}, of table `{}`", self.plan.table());
                FileFault::Missing { file: file.path.clone(), reason }.into()
            }
            (_, FragmentErrorKind::FileChanged) => {
                let reason = match find(&error) {
                    Some(object_store::Error::Precondition { source, .. }) => source.to_string(),
                    _ => error.strip_backtrace(),
                };
                let reason = format!("{reason}; it holds deleted rows of table `{}`", self.plan.table());
                FileFault::Changed { file: file.path.clone(), reason }.into()
            }
            (_, FragmentErrorKind::FileCorrupt | FragmentErrorKind::SchemaMismatch) => {
                self.fault(file, error.strip_backtrace())
            }
            _ if find::<ParquetError>(&error).is_some() && find::<object_store::Error>(&error).is_none() => {
                self.fault(file, error.strip_backtrace())
            }
            _ => error,
        }
    }

    /// Reserves memory for positions, or for what is made of them.
    pub(super) fn reserve(&self, bytes: usize) -> Result<MemoryReservation> {
        let held = self.rows_held.new_empty();
        held.try_grow(bytes)?;
        Ok(held)
    }
}

/// Waits for a turn to read a file.
async fn turn(turns: Turns<'_>) -> Result<Option<SemaphorePermit<'_>>> {
    let Some(turns) = turns else { return Ok(None) };
    turns.acquire().await.map(Some).map_err(|closed| DataFusionError::Internal(closed.to_string()))
}

/// Returns the range of a part of a file.
///
/// # Errors
/// A phrase about a part that the file does not have, or that is too long.
fn part(file: &ObjectRef, offset: u64, bytes: u64, bytes_max: u64) -> Result<Range<u64>, String> {
    let end = offset.checked_add(bytes).filter(|end| *end <= file.size_bytes && bytes <= bytes_max);
    end.map(|end| offset..end).ok_or_else(|| format!("it has {bytes} bytes of {}", file.size_bytes))
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

impl Debug for DeleteReader {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeleteReader").field("files", &self.plan.files().len()).finish_non_exhaustive()
    }
}
