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
//!   are the file's, also where a unit is a run of its row groups.
//! - Keys are compared with each row that is decoded. The key columns are read, too, and dropped again.
//! - Each delete file is read once a scan. What it says is kept, and counted in the memory pool, until the scan is dropped.
//! - A delete that makes no sense fails the query. So does a file whose deletes were not applied ([`DeletesApplied`]): no fault
//!   brings rows back.
//!
//! [`source`] wraps a scan's file source, [`reader`] reads delete files ([`vector`], [`positions`], [`equality`]), and [`selection`]
//! makes the selection of rows. Reading ahead asks for the pages of deleted rows, too, and for no file of which most rows are deleted.
//!
//! Non-goals: which delete files apply to a data file (the catalog's planning), and deletes in Avro or ORC.

mod equality;
mod positions;
mod reader;
mod selection;
mod source;
#[cfg(test)]
mod tests;
mod vector;

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;
use gust_protocol::{DeleteContent, DeleteFile, UnitDeletes};
use parquet::arrow::arrow_reader::RowSelection;

pub use reader::DeleteReader;

pub(crate) use source::{ScanDeletes, with_keys};

use equality::Keys;

/// Deleted rows of a data file, as an extension of its `PartitionedFile`.
#[derive(Clone)]
pub struct FileDeletes {
    reader: Arc<DeleteReader>,
    unit: UnitDeletes,
}

impl FileDeletes {
    /// Makes the deletes of a file. `unit` names delete files of `reader`.
    ///
    /// # Errors
    /// A position that names none.
    pub fn new(reader: Arc<DeleteReader>, unit: UnitDeletes) -> Result<Self> {
        let count = reader.files().len();
        match unit.vector.iter().chain(&unit.positions).find(|file| **file as usize >= count) {
            Some(file) => Err(DataFusionError::Plan(format!("`{}` names delete file {file} of {count}", unit.path))),
            None => Ok(Self { reader, unit }),
        }
    }

    pub fn unit(&self) -> &UnitDeletes {
        &self.unit
    }

    /// Returns the delete files of the scan, which the unit names by their positions.
    pub fn files(&self) -> &Arc<[DeleteFile]> {
        self.reader.files()
    }

    /// Lists the delete files that the data file needs, by their positions in [`Self::files`].
    pub fn needed(&self) -> impl Iterator<Item = u32> {
        let of_keys = self.reader.groups(&self.unit).flat_map(|group| group.files.iter());
        self.unit.vector.iter().chain(&self.unit.positions).chain(of_keys).copied()
    }

    /// Reads the positions of deleted rows, and encodes them as one vector, with its number of positions. None where there are none.
    /// So a coordinator reads a file of positions once that many functions would read.
    ///
    /// # Errors
    /// Errors of reading the delete files, and a vector that would be too long.
    pub async fn digest(&self) -> Result<Option<(Vec<u8>, u64)>> {
        let Some(deleted) = self.reader.deleted(&self.unit).await? else { return Ok(None) };
        let encoded = vector::encode(&deleted).map_err(|reason| {
            DataFusionError::ResourcesExhausted(format!("deleted rows of `{}`: {reason}", self.unit.path))
        })?;
        Ok(Some((encoded, deleted.len())))
    }

    /// Returns true where the deletes are, also, positions in the file.
    pub(crate) fn has_positions(&self) -> bool {
        self.unit.vector.is_some() || !self.unit.positions.is_empty()
    }

    /// Returns true where a vector deletes most rows of the file, by its manifest.
    pub(crate) fn deletes_most(&self) -> bool {
        let file = self.unit.vector.and_then(|file| self.files().get(file as usize));
        match file.map(|file| &file.content) {
            Some(DeleteContent::Vector { cardinality, .. }) => *cardinality > self.unit.rows / 2,
            _ => false,
        }
    }

    /// Lists the field ids of the keys by which rows of the file are deleted.
    fn key_ids(&self) -> impl Iterator<Item = i32> {
        self.reader.groups(&self.unit).flat_map(|group| group.ids.iter().copied())
    }

    /// Reads the positions, and selects the rows that are left. None where none is deleted.
    async fn selection(&self) -> Result<Option<RowSelection>> {
        let deleted = self.reader.deleted(&self.unit).await?;
        Ok(deleted.map(|deleted| selection::selection(&deleted, self.unit.rows)))
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
