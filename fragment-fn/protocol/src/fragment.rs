//! The request: a stage's plan once, and the inputs and limits of each fragment of the stage.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::parts::PartsInput;
use crate::{Base64, FragmentResult};

/// One attempt at one fragment, with everything that a stateless function needs to run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvokeRequest {
    /// [`crate::version::PROTOCOL_VERSION`] of the coordinator. It is checked before the rest is decoded.
    pub version: u32,
    /// [`crate::version::fingerprint`] of the coordinator. It is checked together with the version.
    pub fingerprint: String,
    pub fragment: Fragment,
    /// Number of the attempt, from 0. It is a part of the result object's key.
    pub attempt: u32,
    /// Moment at which the function gives up by itself, in milliseconds since the Unix epoch.
    pub deadline_unix_ms: u64,
    pub access: AccessTable,
    pub stage: StagePlan,
}

/// The sub-plan that all fragments of a stage run, encoded once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePlan {
    pub plan: PlanRef,
    /// Facts about each leaf that the plan's encoding loses, in the order of a pre-order walk.
    pub leaves: Vec<LeafSpec>,
    /// Values of the scalar subqueries that the plan refers to by position, each encoded by [`crate::plan::encode_scalar`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scalars: Vec<Base64>,
    /// Rows that all fragments read, by the numbers of the plan's [`crate::plan::ExchangeExec`]s: here or in the exchange.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<FragmentResult>,
    pub output: Output,
    /// DataFusion session options that differ from the defaults, such as `datafusion.execution.batch_size`.
    pub options: BTreeMap<String, String>,
}

/// Place of [`crate::plan::encode`]'s bytes: a physical plan whose leaves are placeholders without files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanRef {
    /// The request itself.
    Inline(Base64),
    /// An object that all fragments of the stage read, where the plan is too long for each request.
    Object { object: ObjectRef, crc32: u32 },
}

/// Facts about one leaf that travel beside the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafSpec {
    pub matching: ColumnMatching,
}

/// Rule that matches a data file's columns to the table's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnMatching {
    /// By name: bare Parquet.
    Name,
    /// By `PARQUET:field_id`: Iceberg. A renamed column is found, and a new one is never mistaken for an old one.
    FieldId(FieldIdRules),
}

/// Rules of a table for files and columns that field ids alone do not match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldIdRules {
    /// Names that have an id in files without field ids: the table's `schema.name-mapping.default`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<MappedName>,
    /// Values of fields that a file lacks, at any depth, each encoded by [`crate::plan::encode_scalar`]: `initial-default`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defaults: Vec<(i32, Base64)>,
}

/// Field of a name mapping: any of the names stands for the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedName {
    /// None where the names belong to no field of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i32>,
    pub names: Vec<String>,
    /// Fields below: of a struct, `element` of a list, `key` and `value` of a map.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<MappedName>,
}

/// Destination of a fragment's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The coordinator: inline in the response up to [`FragmentLimits::inline_bytes_max`], else one object under `prefix`.
    Gather { access: AccessId, prefix: String },
    /// Functions of another stage: rows by partition ([`crate::parts`]), by the keys of the exchange that is the plan's root: by their hash, or by as many ranges. They are inline
    /// or one object like those of [`Self::Gather`].
    Parts { access: AccessId, prefix: String, partitions: u32 },
}

impl Output {
    /// Returns the store of the exchange, and the prefix of keys in it.
    pub fn place(&self) -> (AccessId, &str) {
        match self {
            Self::Gather { access, prefix } | Self::Parts { access, prefix, .. } => (*access, prefix),
        }
    }
}

/// Unit of remote work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fragment {
    pub id: FragmentId,
    pub inputs: Vec<(LeafId, Input)>,
    /// Rows of other stages, by the numbers of the plan's [`crate::plan::PartsExec`]s.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartsInput>,
    pub limits: FragmentLimits,
}

/// Identity of a fragment. With the attempt's number it names one invocation and one result object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FragmentId {
    pub query: String,
    pub stage: u32,
    pub index: u32,
}

impl std::fmt::Display for FragmentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.query, self.stage, self.index)
    }
}

/// Position of a leaf in a pre-order walk of the stage's plan.
pub type LeafId = u32;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    Scan(Scan),
}

/// Data files of one leaf, and the files that delete rows of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// Lanes of scan units. A lane is one partition of the plan and runs on one core.
    pub lanes: Vec<Vec<ScanUnit>>,
    /// Delete files that units need, each once. Units and sets name them by their position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deletes: Vec<DeleteFile>,
    /// Deletes that units share, each once. Units name them by their position.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delete_sets: Vec<DeleteSet>,
    /// Name of the table whose delete files these are, for messages.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub table: String,
}

/// Deletes that data files share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeleteSet {
    /// Files of positions that may name the data files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<u32>,
    /// Scopes of the files of keys that apply, where their number is larger than [`UnitDeletes::sequence_number`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<u32>,
}

/// File of an Iceberg table that deletes rows of data files, or a part of an object that the coordinator has made of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteFile {
    pub file: ObjectRef,
    pub content: DeleteContent,
}

/// Rows that a delete file deletes, and how it says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeleteContent {
    /// Parquet rows of a data file's path and a position in it.
    Positions,
    /// Deletion vector of one data file: bytes `[offset, offset + bytes)`, which hold `cardinality` positions.
    Vector { offset: u64, bytes: u64, cardinality: u64 },
    /// Parquet rows of keys. Rows with such a key in the fields `ids` are deleted where the unit's set has `scope` and the unit
    /// a smaller number.
    Equality { ids: Vec<i32>, scope: u32, sequence_number: i64 },
    /// Keys of all [`Self::Equality`] files of a scope and of the fields `ids`, each once, with its largest sequence number; `newest` is
    /// the largest of all. The coordinator has written them: bytes `[offset, offset + bytes)`, an Arrow stream with this checksum.
    Keys { ids: Vec<i32>, scope: u32, newest: i64, offset: u64, bytes: u64, crc32: u32 },
}

/// One data file, or a run of its row groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanUnit {
    pub file: ObjectRef,
    /// Byte range `[start, end)`: the unit has the row groups that begin in it. None is the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
    /// Values of the table's partition columns (hive layout), each a protobuf-encoded `ScalarValue`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_values: Vec<Base64>,
    /// Values that all rows share in columns that the file may lack: Iceberg field ids and [`crate::plan::encode_scalar`]d
    /// values. None is a value that the coordinator could not understand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<(i32, Option<Base64>)>,
    /// Footer with this unit's row groups and the columns of the fragment, as Thrift. None where the function reads the
    /// file's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footer: Option<Base64>,
    /// Deleted rows of the file. None where none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletes: Option<UnitDeletes>,
}

/// Deleted rows of one data file, by delete files of [`Scan::deletes`]. Positions are the file's, also where the unit is a run
/// of its row groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitDeletes {
    /// Path of the data file as the table's metadata spells it: files of positions name it so. Empty where it is the URL of the
    /// file's store and the file's path.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Rows of the whole data file by its manifest.
    pub rows: u64,
    /// Deletion vector of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<u32>,
    /// Other deletes of the file, a position in [`Scan::delete_sets`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<u32>,
    /// Data sequence number of the data file.
    pub sequence_number: i64,
}

/// An immutable object, as it was when it was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub access: AccessId,
    /// Key inside the store, percent-encoded as `object_store` does.
    pub path: String,
    pub size_bytes: u64,
    /// Version of the object; the function refuses another. None where the planner saw no etag (Iceberg manifests).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Length of footer and page index together, in bytes, where the planner knows it. It makes one exact read of a guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footer_bytes: Option<u64>,
}

/// Index into the request's [`AccessTable`].
pub type AccessId = u16;

/// Ways to reach the stores that the fragment touches, indexed by [`AccessId`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTable(pub Vec<StoreAccess>);

/// Address and settings of one store. Without credentials in `options`, the function's own role is used.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoreAccess {
    /// `file:///` or `s3://bucket/`.
    pub url: String,
    /// `object_store` S3 settings, e.g. `aws_endpoint`, `aws_region`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl std::fmt::Debug for StoreAccess {
    /// Names the settings but not their values, some of which are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreAccess").field("url", &self.url).field("options", &self.options.keys()).finish()
    }
}

/// Bounds of one attempt that the function enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FragmentLimits {
    /// Size of the memory pool, in bytes.
    pub memory_bytes_max: u64,
    /// Size of the spill folder, in bytes.
    pub temp_bytes_max: u64,
    /// Largest result that travels in the response, in bytes before base64.
    pub inline_bytes_max: u64,
    /// Largest gap between ranges of one request, in bytes.
    pub bridge_bytes: u64,
    #[serde(default)]
    pub ahead: AheadBounds,
    /// Largest percentage of a scan's rows that the keys of a join may keep where its other columns are decoded late. 0 is never.
    #[serde(default)]
    pub late_columns_percent_max: u32,
}

/// Most requests and bytes that are read ahead at a time. Zero of either turns reading ahead off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AheadBounds {
    /// Requests in flight.
    pub requests_max: u32,
    /// Bytes in flight, and those that came and were not taken.
    pub bytes_max: u64,
}

impl AheadBounds {
    /// Bounds under which nothing is read ahead.
    pub const OFF: Self = Self { requests_max: 0, bytes_max: 0 };

    pub fn is_off(self) -> bool {
        self.requests_max == 0 || self.bytes_max == 0
    }

    /// Returns the lower of each bound.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { requests_max: self.requests_max.min(other.requests_max), bytes_max: self.bytes_max.min(other.bytes_max) }
    }
}
