//! Facts about a table's files, for the planner.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use fragment_fn::InStore;
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
