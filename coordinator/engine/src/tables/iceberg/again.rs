//! A scan's table, asked once more for its files when keys of a join are known.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use datafusion::common::Result;
use gust_catalog::{ScanRequest, Table};
use object_store::path::Path;

use super::external;
use crate::tables::keys::ColumnKeys;
use crate::tables::predicate::having;

/// Table of a scan, as an extension of each of its files. Its stores are the query's.
#[derive(Debug, Clone)]
pub struct AskedAgain(pub(super) Arc<Table>);

impl AskedAgain {
    /// Returns the places of the table's files that may have a row with all of these keys. The scan may have fewer: it has conditions of its own.
    /// Manifests that the process has let go are read again.
    ///
    /// # Errors
    /// Those of [`Table::plan`], and of a path.
    pub async fn places_with(&self, keys: &[ColumnKeys]) -> Result<HashSet<Path>> {
        let Self(table) = self;
        let (predicate, none) = (having(keys, table.schema()), BTreeSet::new());
        let request = ScanRequest { predicate: &predicate, columns: &none, also: &none };
        let plan = table.plan(&request).await.map_err(external)?;
        let places = plan.files.iter().map(|file| Ok(table.place(&file.path.to_string())?.path));
        places.collect::<std::result::Result<_, _>>().map_err(external)
    }
}
