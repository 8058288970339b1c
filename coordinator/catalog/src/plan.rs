//! Choice of the data files that a query has to read of a snapshot.
//!
//! ```text
//! manifest list ──▶ manifests ──▶ data files
//!      │ partition     │ partition values, then
//!      │ summaries     │ column bounds and counts
//!      ▼               ▼
//!   unread          left out, each with the Reason
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec as ice;
use serde::{Deserialize, Serialize};

use crate::error::{Error, MetadataFile, Result};
use crate::manifest::{self, DeleteCounts, Pruner};
use crate::predicate::Predicate;
use crate::prune::{BoundPredicate, PruneReason};
use crate::scalar::Scalar;
use crate::table::Table;

/// Most manifests in flight at once.
const MANIFEST_READS_MAX: usize = 16;

/// A data file as its manifest describes it. Maps are by field id, nested fields included. An entry
/// that the writer did not record is absent. Counts count values; sizes are bytes on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path as written in the manifest, absolute: for `Location::parse`.
    pub path: String,
    pub size_bytes: u64,
    pub record_count: u64,
    pub column_sizes: BTreeMap<i32, u64>,
    /// Counts of values, NULL and NaN included.
    pub value_counts: BTreeMap<i32, u64>,
    pub null_counts: BTreeMap<i32, u64>,
    pub nan_counts: BTreeMap<i32, u64>,
    /// Lower bounds of the values that are neither NULL nor NaN. A bound may be truncated.
    pub lower_bounds: BTreeMap<i32, Scalar>,
    /// Upper bounds of the same values.
    pub upper_bounds: BTreeMap<i32, Scalar>,
    /// Values of the partition fields, in the order of the spec. A field is absent if its value cannot be read.
    pub partition: Vec<PartitionValue>,
    /// Values that all rows share in the identity partition columns of the file's own spec, without NULLs. Files that were
    /// imported may hold these columns nowhere else.
    pub identity_values: Vec<IdentityValue>,
    /// Offsets at which row groups start, ascending. Empty when unknown.
    pub split_offsets: Vec<u64>,
}

/// Value of a partition field in a data file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartitionValue {
    /// Name of the field in its spec.
    pub name: String,
    /// `None` is NULL.
    pub value: Option<Scalar>,
}

/// Value that all rows of a data file share in a column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IdentityValue {
    pub field_id: i32,
    /// `None` is a value that cannot be read.
    pub value: Option<Scalar>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FilePlan {
    /// Files to read, in the order of the manifests.
    pub files: Vec<DataFile>,
    pub pruning: Pruning,
}

/// Savings by metadata. Only live data files are counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruning {
    pub manifests_total: u64,
    pub manifests_read: u64,
    pub files_total: u64,
    pub files_kept: u64,
    /// Bytes of all files. `None` where unread manifests hide them and the snapshot's summary does not tell.
    pub bytes_total: Option<u64>,
    pub bytes_kept: u64,
    /// One entry a reason, in the order of first use. A file counts for the first reason that excluded it.
    pub by_reason: Vec<Pruned>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    pub reason: PruneReason,
    /// Whole manifests that were not read. Their files are among `files`.
    pub manifests: u64,
    pub files: u64,
    /// Bytes of the files. `None` where unread manifests hide them.
    pub bytes: Option<u64>,
}

impl Pruning {
    pub(crate) fn book(&mut self, pruned: Pruned) {
        let known = self.by_reason.iter_mut().find(|known| known.reason == pruned.reason);
        match known {
            Some(known) => {
                known.manifests += pruned.manifests;
                known.files += pruned.files;
                known.bytes = known.bytes.zip(pruned.bytes).map(|(a, b)| a + b);
            }
            None => self.by_reason.push(pruned),
        }
    }

    /// Sets the bytes of all files, and with them the bytes of a reason that alone hides some.
    fn set_bytes_total(&mut self, summary_bytes: Option<u64>) {
        let known: u64 = self.by_reason.iter().filter_map(|pruned| pruned.bytes).sum();
        let known = self.bytes_kept + known;
        let mut hiding = self.by_reason.iter_mut().filter(|p| p.bytes.is_none());
        let first = hiding.next();
        self.bytes_total = match first {
            None => Some(known),
            Some(_) => summary_bytes.filter(|bytes| *bytes >= known),
        };
        if let (Some(only), None) = (first, hiding.next()) {
            only.bytes = self.bytes_total.map(|total| total - known);
        }
    }
}

impl Table {
    /// Chooses the data files of the pinned snapshot that may hold a row matching the predicate.
    ///
    /// # Errors
    /// Unsupported (live delete files, files that are not Parquet, encryption), missing, unreachable or
    /// corrupt metadata, invalid (a column that the table does not have).
    pub async fn plan(&self, predicate: &Predicate) -> Result<FilePlan> {
        let bound = BoundPredicate::new(predicate, self.schema())?;
        let Some(snapshot) = self.metadata().current_snapshot() else {
            let mut plan = FilePlan::default();
            plan.pruning.set_bytes_total(None);
            return Ok(plan);
        };
        let manifests = self.manifests(snapshot).await?;
        let (deletes, data): (Vec<_>, Vec<_>) = manifests
            .into_iter()
            .filter(|manifest| live_files(manifest) != Some(0))
            .partition(|manifest| manifest.content == ice::ManifestContentType::Deletes);
        self.refuse_deletes(deletes).await?;

        let mut plan = FilePlan::default();
        let reads = self.choose_manifests(data, &bound, &mut plan.pruning)?;
        let selections =
            stream::iter(reads).map(|(manifest, pruner)| self.select(manifest, pruner)).buffered(MANIFEST_READS_MAX);
        let mut plan = selections
            .try_fold(plan, async |mut plan, selection: FilePlan| {
                plan.merge(selection);
                Ok(plan)
            })
            .await?;
        plan.pruning.set_bytes_total(files_bytes(snapshot));
        Ok(plan)
    }

    /// Chooses the manifests to read. It books those that partition summaries exclude.
    fn choose_manifests(
        &self,
        manifests: Vec<ice::ManifestFile>,
        bound: &BoundPredicate,
        pruning: &mut Pruning,
    ) -> Result<Vec<(ice::ManifestFile, Arc<Pruner>)>> {
        let mut pruners: HashMap<i32, Arc<Pruner>> = HashMap::new();
        let mut reads = Vec::new();
        for manifest in manifests {
            let spec_id = manifest.partition_spec_id;
            let pruner = match pruners.get(&spec_id) {
                Some(pruner) => Arc::clone(pruner),
                None => {
                    let pruner = Arc::new(Pruner::new(self, spec_id, bound)?);
                    Arc::clone(pruners.entry(spec_id).or_insert(pruner))
                }
            };
            pruning.manifests_total += 1;
            // A manifest that does not count its files is read, so that they can be counted.
            match (live_files(&manifest), pruner.excluded_manifest(&manifest)) {
                (Some(files), Some(reason)) => {
                    pruning.files_total += files;
                    pruning.book(Pruned { reason: reason.clone(), manifests: 1, files, bytes: None });
                }
                _ => reads.push((manifest, pruner)),
            }
        }
        Ok(reads)
    }

    async fn select(&self, manifest: ice::ManifestFile, pruner: Arc<Pruner>) -> Result<FilePlan> {
        let location = manifest.manifest_path;
        if manifest.key_metadata.is_some() {
            return Err(self.encrypted(&location));
        }
        let bytes = self.read(&location, MetadataFile::Manifest).await?;
        let selected = in_background(location.clone(), move || manifest::select(&bytes, &location, &pruner)).await;
        selected.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
    }

    /// Reads the manifests of a snapshot, live or not.
    pub(crate) async fn manifests(&self, snapshot: &ice::Snapshot) -> Result<Vec<ice::ManifestFile>> {
        let location = snapshot.manifest_list();
        let bytes = self.read(location, MetadataFile::ManifestList).await?;
        let version = self.metadata().format_version();
        let list = ice::ManifestList::parse_with_version(&bytes, version)
            .map_err(|error| Error::from_iceberg(location, error).in_table(self.name(), MetadataFile::ManifestList))?;
        Ok(list.entries().to_vec())
    }

    async fn read(&self, location: &str, role: MetadataFile) -> Result<Bytes> {
        self.stores().read(location).await.map_err(|error| error.in_table(self.name(), role))
    }

    async fn refuse_deletes(&self, manifests: Vec<ice::ManifestFile>) -> Result<()> {
        let counts = stream::iter(manifests)
            .map(async |manifest| {
                let location = manifest.manifest_path;
                let bytes = self.read(&location, MetadataFile::Manifest).await?;
                let counted = in_background(location.clone(), move || manifest::count_deletes(&bytes, &location)).await;
                counted.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
            })
            .buffered(MANIFEST_READS_MAX);
        let counts = counts.try_fold(DeleteCounts::default(), async |sum, counts| Ok(sum + counts)).await?;
        if counts == DeleteCounts::default() {
            return Ok(());
        }
        let DeleteCounts { positions, vectors, equalities } = counts;
        Err(Error::Unsupported {
            table: self.name().to_string(),
            feature: format!(
                "live delete files ({positions} of positions, {vectors} deletion vectors, \
                 {equalities} of equality)"
            ),
            next: "compact the table so that its data files are rewritten without deleted rows",
        })
    }
}

impl FilePlan {
    fn merge(&mut self, other: FilePlan) {
        self.files.extend(other.files);
        let pruning = &mut self.pruning;
        pruning.manifests_read += 1;
        pruning.files_total += other.pruning.files_total;
        pruning.files_kept += other.pruning.files_kept;
        pruning.bytes_kept += other.pruning.bytes_kept;
        for pruned in other.pruning.by_reason {
            pruning.book(pruned);
        }
    }
}

/// Decodes off the threads that drive I/O, for decoding is CPU work. A panic within is the file's fault.
async fn in_background<T: Send + 'static>(
    location: String,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::corrupt(location, error)),
    }
}

fn live_files(manifest: &ice::ManifestFile) -> Option<u64> {
    let added = manifest.added_files_count?;
    let existing = manifest.existing_files_count?;
    Some(u64::from(added) + u64::from(existing))
}

/// Returns the bytes of all data files by the snapshot's summary.
fn files_bytes(snapshot: &ice::Snapshot) -> Option<u64> {
    let properties = &snapshot.summary().additional_properties;
    properties.get("total-files-size")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_total_is_known_or_none() {
        let check = |by_reason: &[Option<u64>], summary, expect_total, expect: &[Option<u64>]| {
            let mut pruning = Pruning { bytes_kept: 10, ..Pruning::default() };
            for (i, bytes) in by_reason.iter().enumerate() {
                pruning.book(Pruned {
                    reason: PruneReason::Column(i.to_string()),
                    manifests: u64::from(bytes.is_none()),
                    files: 1,
                    bytes: *bytes,
                });
            }
            pruning.set_bytes_total(summary);
            let bytes: Vec<_> = pruning.by_reason.iter().map(|p| p.bytes).collect();
            assert_eq!((pruning.bytes_total, &bytes[..]), (expect_total, expect), "{by_reason:?}");
        };
        check(&[], None, Some(10), &[]);
        check(&[Some(5)], Some(99), Some(15), &[Some(5)]);
        check(&[Some(5), None], Some(99), Some(99), &[Some(5), Some(84)]);
        check(&[Some(5), None], None, None, &[Some(5), None]);
        check(&[None, None], Some(99), Some(99), &[None, None]);
        // This summary cannot be right.
        check(&[Some(5), None], Some(14), None, &[Some(5), None]);
    }
}
