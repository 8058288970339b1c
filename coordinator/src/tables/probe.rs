//! Finding out which file of a bare table is to blame, once something is known to be wrong.
//!
//! The engine's own errors about a listing tell neither an unreachable store from an empty folder nor one file from another.

use datafusion::common::Result;
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::execution::SessionState;
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use fragment_fn::read_footer;
use futures::TryStreamExt;
use object_store::path::Path;

/// Files that are looked into.
const FILES_MAX: usize = 1_000;

/// What a location holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    Nothing,
    /// Every file that was looked into has a Parquet footer.
    Fine,
}

/// Lists a path, glob or URL and reads footers until one cannot be read.
///
/// # Errors
/// The store's own error, or that of the first broken footer with its file's name.
pub async fn probe(state: &SessionState, location: &str) -> Result<Probed> {
    let url = ListingTableUrl::parse(location)?;
    let store = state.runtime_env().object_store(&url)?;
    let files = url.list_all_files(state, store.as_ref(), "").await?;
    let mut files = std::pin::pin!(files);
    let none_kept = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
    let mut probed = Probed::Nothing;
    for _ in 0..FILES_MAX {
        let file = match files.try_next().await {
            Ok(file) => file,
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(error.context(format!("`{location}`"))),
        };
        let Some(file) = file else { break };
        probed = Probed::Fine;
        let footer = read_footer(store.as_ref(), &file, None, &none_kept).await;
        footer.map_err(|error| error.context(format!("file `{}`", file.location)))?;
    }
    Ok(probed)
}

fn is_missing(error: &datafusion::common::DataFusionError) -> bool {
    use datafusion::common::DataFusionError;
    let DataFusionError::ObjectStore(error) = error else { return false };
    matches!(error.as_ref(), object_store::Error::NotFound { .. })
}
