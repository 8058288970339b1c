//! Facts about a table's files, for the planner.

use std::collections::BTreeMap;

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::physical_plan::FileScanConfig;
use gust_protocol::ColumnMatching;

/// Facts that a table's metadata has about a data file. The table provider attaches them to its `PartitionedFile`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Compressed bytes by Iceberg field id.
    pub column_bytes: BTreeMap<i32, u64>,
    /// Offsets at which row groups begin, in bytes, ascending.
    pub split_offsets: Vec<u64>,
}

/// Key in a table schema's metadata. Its value says, as JSON, how data files' columns are matched to the table's.
pub const MATCHING_KEY: &str = "gust.matching";

/// Returns the matching of the files' columns, as the table provider said in its schema.
pub fn matching(scan: &FileScanConfig) -> Result<ColumnMatching> {
    let Some(matching) = scan.file_schema().metadata().get(MATCHING_KEY) else { return Ok(ColumnMatching::Name) };
    serde_json::from_str(matching).map_err(|e| DataFusionError::External(Box::new(e)))
}
