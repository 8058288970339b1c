//! Facts about a table's files, for the planner.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use fragment_fn::InStore;
use gust_catalog::{PartedBy, Scalar, Transform, Type};
use gust_protocol::ColumnMatching;
use url::Url;

/// Facts that a table's metadata has about a data file. The table provider attaches them to its `PartitionedFile`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Compressed bytes by Iceberg field id.
    pub column_bytes: BTreeMap<i32, u64>,
    /// Offsets at which row groups begin, in bytes, ascending.
    pub split_offsets: Vec<u64>,
    /// Number of the file's partition, where the query gives the values of all of its fields.
    pub partition: Option<u32>,
    /// Partition of the file, where the table's metadata has its values.
    pub parted: Option<FilePartition>,
}

/// Partition of a file, among those of its scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePartition {
    all: Arc<[Partition]>,
    number: u32,
}

/// Values of a partition's fields.
pub type Partition = Box<[PartValue]>;

/// Value that the rows of a partition have in a column, transformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartValue {
    pub field: PartField,
    /// None is NULL.
    pub key: Option<PartKey>,
}

/// Column and transform by whose values files are parted. Values that are equal in columns of one type have equal keys, in all tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartField {
    /// Iceberg's id of the column.
    pub column: i32,
    pub transform: Transform,
    /// Type of the column; `Long` for both widths of whole numbers, which hash alike.
    pub source_type: Type,
}

/// Value of a partition field, in a form that is equal for equal values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartKey {
    Number(i128),
    Text(Box<str>),
    Bytes(Box<[u8]>),
}

impl FilePartition {
    pub fn new(all: Arc<[Partition]>, number: u32) -> Self {
        Self { all, number }
    }

    /// Returns the values of the partition's fields.
    pub fn values(&self) -> &[PartValue] {
        self.all.get(self.number as usize).map_or(&[], |partition| partition)
    }

    /// Returns the position of the partition among those of its scan.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl PartValue {
    /// Makes a value of what a table's metadata says. None for floats, of which equal values may differ in their bits, and for cut numbers that are no multiples:
    /// where cutting goes below a type's least number, writers wrap around, each at its own width.
    pub fn of(parted: &PartedBy) -> Option<Self> {
        let PartedBy { source_id, transform, source_type, value } = parted;
        let source_type = match source_type {
            Type::Int | Type::Long => Type::Long,
            Type::Float | Type::Double | Type::Unknown | Type::Struct(_) | Type::List(_) | Type::Map(..) => {
                return None;
            }
            other => other.clone(),
        };
        let key = match value {
            Some(value) => Some(PartKey::of(value)?),
            None => None,
        };
        if let (Transform::Truncate(width), Some(PartKey::Number(number))) = (transform, &key)
            && number.checked_rem_euclid(i128::from(*width)) != Some(0)
        {
            return None;
        }
        Some(Self { field: PartField { column: *source_id, transform: *transform, source_type }, key })
    }

    /// Returns the memory that it holds, in bytes, about.
    pub fn held_bytes(&self) -> usize {
        let heap = match &self.key {
            Some(PartKey::Text(text)) => text.len(),
            Some(PartKey::Bytes(bytes)) => bytes.len(),
            Some(PartKey::Number(_)) | None => 0,
        };
        size_of::<Self>() + heap
    }
}

impl PartKey {
    fn of(value: &Scalar) -> Option<Self> {
        Some(match value {
            Scalar::Float(_) | Scalar::Double(_) => return None,
            Scalar::Boolean(value) => Self::Number((*value).into()),
            Scalar::Int(value) | Scalar::Date(value) => Self::Number((*value).into()),
            Scalar::Long(value)
            | Scalar::Time(value)
            | Scalar::Timestamp(value)
            | Scalar::Timestamptz(value)
            | Scalar::TimestampNs(value)
            | Scalar::TimestamptzNs(value) => Self::Number((*value).into()),
            // The scale is the column's.
            Scalar::Decimal { unscaled, .. } => Self::Number(*unscaled),
            Scalar::String(text) => Self::Text(text.as_str().into()),
            Scalar::Uuid(value) => Self::Bytes(value.to_be_bytes().into()),
            Scalar::Fixed(bytes) | Scalar::Binary(bytes) => Self::Bytes(bytes.as_slice().into()),
        })
    }
}

/// Roots of the stores that a scan's files are in, by the numbers of their [`InStore`]. The table provider attaches them to each file
/// where the scan's URL does not say them: where there are several, and where one has a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Roots(pub Arc<[Url]>);

impl Roots {
    /// Returns the roots of a scan's files.
    ///
    /// # Errors
    /// A scan whose URL is none.
    pub fn of(scan: &FileScanConfig) -> Result<Self> {
        let first = scan.file_groups.iter().flat_map(FileGroup::iter).next();
        if let Some(roots) = first.and_then(|file| file.extensions.get::<Self>()) {
            return Ok(roots.clone());
        }
        let root =
            Url::parse(scan.object_store_url.as_str()).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Self([root].into()))
    }
}

/// Returns the number of a file's store among the scan's.
pub fn store_of(file: &PartitionedFile) -> u16 {
    file.extensions.get::<InStore>().copied().unwrap_or_default().0
}

/// Key in a table schema's metadata. Its value says, as JSON, how data files' columns are matched to the table's.
pub const MATCHING_KEY: &str = "gust.matching";

/// Returns the matching of the files' columns, as the table provider said in its schema.
pub fn matching(scan: &FileScanConfig) -> Result<ColumnMatching> {
    matching_of(scan.file_schema())
}

/// Returns what a table's schema says of the matching.
pub fn matching_of(schema: &Schema) -> Result<ColumnMatching> {
    let Some(matching) = schema.metadata().get(MATCHING_KEY) else { return Ok(ColumnMatching::Name) };
    serde_json::from_str(matching).map_err(|e| DataFusionError::External(Box::new(e)))
}
