//! Readers of the scans of a plan that runs on the coordinator.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::{Result, internal_datafusion_err};
use datafusion::datasource::physical_plan::{FileScanConfig, ParquetSource};
use datafusion::execution::TaskContext;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::prelude::SessionConfig;
use fragment_fn::{BRIDGE_BYTES_MAX, ScanReader};
use gust_protocol::ColumnMatching;
use object_store::ObjectStore;
use object_store::path::Path;

use super::facts::{Roots, matching};
use crate::storage::Stores;

/// Bytes of footers that the scans of one store keep where no cache outlives them.
pub(super) const FOOTERS_BYTES_MAX: usize = 32 << 20;

/// Maker of the readers of one plan.
pub struct Readers<'a> {
    context: &'a TaskContext,
    stores: &'a Stores,
    /// Footers of Iceberg's files. Their keys are paths, and the numbers of stores among those of the scan.
    footers: HashMap<Roots, Arc<FileMetadataCache>>,
}

/// Largest gap, in bytes, that the coordinator reads along between two ranges of a file: an extension of a session's settings.
#[derive(Debug, Clone, Copy)]
pub struct BridgeBytes(pub u64);

impl BridgeBytes {
    pub(super) fn of(settings: &SessionConfig) -> u64 {
        settings.get_extension::<Self>().map_or(BRIDGE_BYTES_MAX, |gap| gap.0)
    }
}

impl<'a> Readers<'a> {
    pub fn new(context: &'a TaskContext, stores: &'a Stores) -> Self {
        Self { context, stores, footers: HashMap::new() }
    }

    /// Makes the reader of a scan; None for files that are not Parquet.
    ///
    /// # Errors
    /// A store that cannot be opened, and a table that does not say how its columns are matched.
    pub fn reader(&mut self, scan: &FileScanConfig) -> Result<Option<ScanReader>> {
        if scan.file_source().downcast_ref::<ParquetSource>().is_none() {
            return Ok(None);
        }
        let runtime = self.context.runtime_env();
        let roots = Roots::of(scan)?;
        let matching = matching(scan)?;
        let footers = match &matching {
            ColumnMatching::Name => runtime.cache_manager.get_file_metadata_cache(),
            // The files of a table have neither times nor etags, by which a cache that outlives the query could tell versions.
            ColumnMatching::FieldId(_) => {
                let new = || -> Arc<FileMetadataCache> {
                    Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(FOOTERS_BYTES_MAX))
                };
                Arc::clone(self.footers.entry(roots.clone()).or_insert_with(new))
            }
        };
        let pace = self.stores.pace(&scan.object_store_url);
        let bridge_bytes = BridgeBytes::of(self.context.session_config());
        let reader = ScanReader::of_stores(self.opened(scan, &roots)?, footers, matching);
        Ok(Some(reader.bridging(bridge_bytes).paced(pace)))
    }

    /// Opens the stores of a scan, as the query sees them.
    fn opened(&self, scan: &FileScanConfig, roots: &Roots) -> Result<Arc<[Arc<dyn ObjectStore>]>> {
        match &*roots.0 {
            [root] if root.path() == "/" => {
                Ok(Arc::from([self.context.runtime_env().object_store(&scan.object_store_url)?]))
            }
            roots => {
                let stores = self.context.session_config().get_extension::<Stores>();
                let stores = stores.ok_or_else(|| internal_datafusion_err!("the query has no stores"))?;
                roots.iter().map(|root| Ok(stores.open_root(root)?)).collect()
            }
        }
    }
}
