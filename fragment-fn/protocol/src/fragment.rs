//! What is sent: a stage's plan once, and for each fragment of the stage its inputs and limits.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Base64;

/// One attempt at one fragment, with everything that a stateless function needs to run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvokeRequest {
    /// [`crate::version::PROTOCOL_VERSION`] of the coordinator; checked before the rest is decoded.
    pub version: u32,
    /// [`crate::version::fingerprint`] of the coordinator; checked with it.
    pub fingerprint: String,
    pub fragment: Fragment,
    /// Counts from 0; part of the result object's key.
    pub attempt: u32,
    /// The function gives up by itself at this moment, in milliseconds since the Unix epoch.
    pub deadline_unix_ms: u64,
    pub access: AccessTable,
    pub stage: StagePlan,
}

/// The sub-plan that all fragments of a stage run, encoded once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePlan {
    pub plan: PlanRef,
    /// What the plan's encoding loses about each leaf, in the order in which a pre-order walk meets them.
    pub leaves: Vec<LeafSpec>,
    /// Values of the scalar subqueries that the plan refers to by position, each [`crate::plan::encode_scalar`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scalars: Vec<Base64>,
    pub output: Output,
    /// DataFusion session options that differ from the defaults, e.g. `datafusion.execution.batch_size`.
    pub options: BTreeMap<String, String>,
}

/// Where [`crate::plan::encode`]'s bytes are: a physical plan whose leaves are placeholders without files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanRef {
    /// In the request itself.
    Inline(Base64),
    /// In an object that all fragments of the stage read, for it would not fit each request.
    Object { object: ObjectRef, crc32: u32 },
}

/// The sidecar of one leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafSpec {
    pub matching: ColumnMatching,
}

/// How a data file's columns are matched to the table's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnMatching {
    /// Bare Parquet.
    Name,
    /// Iceberg: by `PARQUET:field_id`, so that a renamed column is still found and a new one is never mistaken for an old.
    FieldId,
}

/// Where a fragment's rows go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// To the coordinator: inline in the response up to [`Limits::inline_bytes_max`], else one object under `prefix`.
    Gather { access: AccessId, prefix: String },
}

/// One unit of remote work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fragment {
    pub id: FragmentId,
    pub inputs: Vec<(LeafId, Input)>,
    pub limits: Limits,
}

/// Identity of a fragment; with the attempt's number it names one invocation and one result object.
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

/// Position of a leaf in the stage's plan (pre-order).
pub type LeafId = u32;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// Lanes of scan units: a lane is one partition of the plan and runs on one core.
    Scan(Vec<Vec<ScanUnit>>),
}

/// One data file, or a run of its row groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanUnit {
    pub file: ObjectRef,
    /// Byte range `[start, end)`: the row groups that begin in it. None is the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<(u64, u64)>,
    /// Values of the table's partition columns (hive layout), protobuf-encoded `ScalarValue`s.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_values: Vec<Base64>,
    /// Values that all rows share in columns that the file may lack: Iceberg field ids and [`crate::plan::encode_scalar`]d values; None
    /// is a value that the coordinator could not understand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constants: Vec<(i32, Option<Base64>)>,
}

/// One immutable object, as it was when it was planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub access: AccessId,
    /// Key inside the store, percent-encoded as `object_store` does.
    pub path: String,
    pub size_bytes: u64,
    /// The function refuses another version of the object. None where the planner never saw one (Iceberg manifests).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Length of footer and page index together, where the planner knows it: one exact read instead of a guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footer_bytes: Option<u64>,
}

/// Index into the request's [`AccessTable`].
pub type AccessId = u16;

/// How each store that the fragment touches is reached. Indexed by [`AccessId`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTable(pub Vec<StoreAccess>);

/// One store: where it is and with which settings. Without credentials in `options`, the function's own role counts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoreAccess {
    /// `file:///` or `s3://bucket/`.
    pub url: String,
    /// `object_store` S3 settings, e.g. `aws_endpoint`, `aws_region`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl std::fmt::Debug for StoreAccess {
    /// Names the settings but never their values: some are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreAccess").field("url", &self.url).field("options", &self.options.keys()).finish()
    }
}

/// Bounds that the function enforces on one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Size of the memory pool.
    pub memory_bytes_max: u64,
    /// Size of the spill folder.
    pub temp_bytes_max: u64,
    /// Results up to this many bytes (before base64) ride in the response.
    pub inline_bytes_max: u64,
}
