//! Deleted rows of Iceberg tables: no reader of a data file sees them.
//!
//! ```text
//!  file of a scan ─► Deleting ─► vector, files of positions ─► selection of rows ─► DataFusion's opener ─► rows ─► rows
//!  with FileDeletes      │            (DeleteReader, each                              │                     ▲
//!                        │             file once a scan)                               └ ScanReader: refuses │
//!                        └─────► files of keys, over a projection with the key columns   what was not applied┘
//! ```
//!
//! - A vector and positions become a selection of rows before the file is opened, so that deleted pages are not decoded. Positions
//!   are the file's, also where a unit is a run of its row groups. Where short runs of deleted rows are many, rows are dropped by
//!   their numbers once they are decoded.
//! - Keys are compared with each row that is decoded. The key columns are read, too, and dropped again.
//! - Each delete file is read once a scan. What it says is kept, and counted in the memory pool, until the last of the data files
//!   that need it has had it. Plans, requests and readers name a set of delete files once, however many data files share it.
//! - A coordinator may read delete files once for all functions. These then read a part of its digest: vectors of data files in place
//!   of files of positions, and one list of keys in place of files of keys.
//! - A delete that makes no sense fails the query. So does a file whose deletes were not applied ([`DeletesApplied`]): no fault
//!   brings rows back.
//!
//! [`planned`] names delete files and their sets, [`source`] wraps a scan's file source, [`behind`] reads what rows are dropped by,
//! [`reader`] reads delete files ([`vector`], [`positions`], [`equality`]) and what a coordinator has made of them ([`runs`] of
//! vectors, [`key_stream`]), and [`selection`] makes the selection of rows. Reading ahead asks for the pages of deleted rows, too, and for no file of which most rows are deleted.
//!
//! Non-goals: which delete files apply to a data file (the catalog's planning), and deletes in Avro or ORC.

mod behind;
mod equality;
mod key_stream;
mod planned;
mod positions;
mod reader;
mod runs;
mod selection;
mod shared;
mod source;
#[cfg(test)]
mod tests;
mod vector;

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, internal_err, plan_err};
use datafusion::execution::memory_pool::MemoryReservation;
use gust_protocol::{DeleteContent, UnitDeletes};
use tokio::sync::Semaphore;

pub use planned::{DeletePlan, KeyGroup};
pub use reader::DeleteReader;

pub(crate) use behind::with_ordinals;
pub(crate) use source::{ScanDeletes, projection_with_keys};

use equality::Keys;
use positions::Deleted;
use runs::HeldBytes;

/// Most delete files that a coordinator reads at a time for all functions of a stage.
pub const DIGEST_READS_MAX: usize = 32;

/// Deleted rows of a data file, encoded as a vector.
#[derive(Debug)]
pub struct VectorDigest {
    /// The vector. It counts in the memory pool as long as it is held.
    pub encoded: Bytes,
    pub cardinality: u64,
}

/// Keys of many files, encoded.
#[derive(Debug)]
pub struct KeyDigest {
    /// The keys. They count in the memory pool as long as they are held.
    pub encoded: Bytes,
    ids: Vec<i32>,
    scope: u32,
    newest: i64,
}

impl KeyDigest {
    /// Describes the keys for a request, where they begin `offset` bytes behind the begin of an object.
    pub fn content(&self, offset: u64) -> DeleteContent {
        let Self { encoded, ids, scope, newest } = self;
        let (bytes, crc32) = (encoded.len() as u64, crc32fast::hash(encoded));
        DeleteContent::Keys { ids: ids.clone(), scope: *scope, newest: *newest, offset, bytes, crc32 }
    }
}

/// Deleted rows of a data file, as an extension of its `PartitionedFile`.
#[derive(Clone)]
pub struct FileDeletes {
    reader: Arc<DeleteReader>,
    unit: Arc<UnitDeletes>,
}

impl FileDeletes {
    /// Makes the deletes of a file. `unit` names delete files of `reader`.
    ///
    /// # Errors
    /// A position that names none.
    pub fn new(reader: Arc<DeleteReader>, unit: UnitDeletes) -> Result<Self> {
        let (files, sets) = (reader.plan().files().len(), reader.plan().sets().len());
        if let Some(file) = unit.vector.filter(|file| *file as usize >= files) {
            return plan_err!("`{}` names delete file {file} of {files}", unit.path);
        }
        if let Some(set) = unit.set.filter(|set| *set as usize >= sets) {
            return plan_err!("`{}` names set {set} of {sets} of delete files", unit.path);
        }
        Ok(Self { reader, unit: Arc::new(unit) })
    }

    pub fn unit(&self) -> &UnitDeletes {
        &self.unit
    }

    /// Returns the delete files of the scan, which the unit names.
    pub fn plan(&self) -> &DeletePlan {
        self.reader.plan()
    }

    /// Announces that the unit's deletes will be asked for once. What all units have had is let go.
    pub fn announce(&self) {
        self.reader.announce(&self.unit);
    }

    /// Lets go of all that was read for the scan, and of all that was announced.
    pub async fn forget(&self) {
        self.reader.forget().await;
    }

    /// Reads the positions of deleted rows, and encodes them as one vector. None where there are none. So a coordinator reads a file of
    /// positions once that many functions would read. Each file that is read takes one of `turns`.
    ///
    /// # Errors
    /// Errors of reading the delete files, a vector that would be too long, and the pool's.
    pub async fn digest(&self, turns: &Semaphore) -> Result<Option<VectorDigest>> {
        let Some(deleted) = self.reader.deleted(&self.unit, Some(turns)).await? else { return Ok(None) };
        let encoded = vector::encode(&deleted.rows).map_err(|reason| {
            DataFusionError::ResourcesExhausted(format!("deleted rows of `{}`: {reason}", self.unit.path))
        })?;
        let memory = self.reserve(encoded.len())?;
        let encoded = HeldBytes::new(encoded.into(), memory).into_bytes();
        Ok(Some(VectorDigest { encoded, cardinality: deleted.rows.len() }))
    }

    /// Reads the keys of one of the plan's groups that are newer than `since`, and encodes them. None where they would take more than
    /// `bytes_max` bytes. So a coordinator reads files of keys once that many functions would read. Each takes one of `turns`.
    ///
    /// # Errors
    /// Errors of reading the delete files, whose messages name the file, and the pool's.
    pub async fn digest_keys(
        &self,
        group: usize,
        since: i64,
        bytes_max: usize,
        turns: &Semaphore,
    ) -> Result<Option<KeyDigest>> {
        let Some(group) = self.plan().groups().get(group) else {
            return internal_err!("there is no group {group} of files of keys");
        };
        let keys = self.reader.read_keys(group, since, &self.unit, Some(turns)).await?;
        let encoding = tokio::task::spawn_blocking(move || keys.encode(bytes_max)).await;
        let encoded = encoding.map_err(|panic| DataFusionError::Internal(format!("encoding of keys: {panic}")))??;
        let digest = |encoded: HeldBytes| KeyDigest {
            encoded: encoded.into_bytes(),
            ids: group.ids.clone(),
            scope: group.scope,
            newest: group.newest(),
        };
        Ok(encoded.map(digest))
    }

    /// Returns true where the deletes are, also, positions in the file.
    pub(crate) fn has_positions(&self) -> bool {
        self.unit.vector.is_some() || !self.plan().set(&self.unit).positions.is_empty()
    }

    /// Returns true where keys may delete rows of the file.
    pub(crate) fn has_keys(&self) -> bool {
        self.reader.groups(&self.unit).next().is_some()
    }

    /// Reads the positions of deleted rows, and lets them go: an error of theirs is known where no reader of the file would ask. Each file
    /// that is read takes one of `turns`. A unit that only checks is not announced, so that nothing waits for it.
    ///
    /// # Errors
    /// Those of [`Self::digest`], also where a vector is not the one that its manifest describes.
    pub async fn check(&self, turns: &Semaphore) -> Result<()> {
        self.reader.deleted(&self.unit, Some(turns)).await.map(drop)
    }

    /// Returns true where a vector deletes most rows of the file, by its manifest.
    pub(crate) fn deletes_most(&self) -> bool {
        self.cardinality() > self.unit.rows / 2
    }

    /// Returns true where a vector deletes all rows of the file, by its manifest. A reader that finds it so reads the footer, and nothing else:
    /// a manifest may say too few rows.
    pub fn deletes_all(&self) -> bool {
        self.unit.rows > 0 && self.cardinality() >= self.unit.rows
    }

    /// Returns the positions of the file's vector, by its manifest. 0 without a vector.
    fn cardinality(&self) -> u64 {
        let file = self.unit.vector.and_then(|file| self.plan().file(file));
        match file.map(|file| &file.content) {
            Some(DeleteContent::Vector { cardinality, .. }) => *cardinality,
            _ => 0,
        }
    }

    /// Lists the field ids of the keys by which rows of the file are deleted.
    fn key_ids(&self) -> impl Iterator<Item = i32> {
        self.reader.groups(&self.unit).flat_map(|group| group.ids.iter().copied())
    }

    /// Reads the positions of deleted rows. None where none is deleted.
    async fn deleted(&self) -> Result<Option<Arc<Deleted>>> {
        self.reader.deleted(&self.unit, None).await
    }

    fn reserve(&self, bytes: usize) -> Result<MemoryReservation> {
        self.reader.reserve(bytes)
    }

    /// Reads the keys by which rows of the file are deleted.
    async fn keys(&self) -> Result<Vec<Arc<Keys>>> {
        self.reader.keys(&self.unit).await
    }
}

impl Debug for FileDeletes {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FileDeletes").field(&self.unit).finish()
    }
}

/// Mark of a `PartitionedFile` that its [`FileDeletes`] are applied. [`crate::ScanReader`] opens no file without it.
#[derive(Debug)]
pub(crate) struct DeletesApplied;

/// Fault of a delete file. The code that finds it does not know the file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct DamagedDeletes(String);

impl From<DamagedDeletes> for DataFusionError {
    fn from(damage: DamagedDeletes) -> Self {
        Self::External(Box::new(damage))
    }
}
