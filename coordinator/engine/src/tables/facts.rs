//! What a table tells the planner of its files.

use std::collections::BTreeMap;

/// What a table's metadata tells about a data file, attached to its `PartitionedFile` by the table provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Compressed bytes by Iceberg field id.
    pub column_bytes: BTreeMap<i32, u64>,
    /// Where row groups begin, ascending.
    pub split_offsets: Vec<u64>,
}

/// Key of a table schema's metadata under which its provider says, as JSON, how data files are matched to it.
pub const MATCHING_KEY: &str = "gust.matching";
