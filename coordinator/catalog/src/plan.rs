//! Choice of the data files that a query has to read of a snapshot.
//!
//! ```text
//! manifest list ──▶ manifests ──▶ data files
//!      │ partition     │ partition values, then
//!      │ summaries     │ column bounds and counts
//!      ▼               ▼
//!   unread          left out, each with the Reason
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::avro::AvroFault;
use crate::cache::{Cached, Key};
use crate::error::{Error, MetadataFile, Result};
use crate::manifests::choose::{Chooser, Wanted};
use crate::manifests::decode;
use crate::manifests::entry::{Content, DecodedManifest, Format};
use crate::manifests::list::{self, ManifestFile};
use crate::metadata::{ManifestSource, Snapshot};
use crate::prune::BoundPredicate;
use crate::scan::{FilePlan, Pruned, Pruning, ScanRequest};
use crate::table::Table;

/// Most manifests in flight at once.
const MANIFEST_READS_MAX: usize = 16;

impl Table {
    /// Chooses the data files of the pinned snapshot that may hold a row matching the predicate.
    ///
    /// # Errors
    /// Unsupported (live delete files, files that are not Parquet, encryption), missing, unreachable or
    /// corrupt metadata, invalid (a column that the table does not have).
    pub async fn plan(&self, request: &ScanRequest<'_>) -> Result<FilePlan> {
        let bound = BoundPredicate::new(request.predicate, self.schema())?;
        let mut plan = FilePlan::default();
        let Some(snapshot) = &self.metadata().snapshot else {
            plan.pruning.set_bytes_total(None);
            return Ok(plan);
        };
        let manifests = self.manifests(snapshot).await?;
        let live = manifests.iter().filter(|manifest| manifest.live_files() != Some(0)).cloned();
        let (deletes, data): (Vec<_>, Vec<_>) = live.partition(|manifest| manifest.has_deletes);
        self.refuse_deletes(deletes).await?;

        let wanted = Arc::new(Wanted::new(self.metadata(), request.columns, &bound));
        let specs = self.metadata().specs.iter().filter_map(|spec| {
            let chooser = Chooser::new(self, spec.id, &bound, &wanted)?;
            Some((spec.id, Arc::new(chooser)))
        });
        let choosers: HashMap<i32, Arc<Chooser>> = specs.collect();
        let reads = self.choose_manifests(data, &choosers, &mut plan.pruning)?;
        let ids = wanted.ids();
        let selections =
            stream::iter(reads).map(|manifest| self.select(manifest, &choosers, &ids)).buffered(MANIFEST_READS_MAX);
        let mut plan = selections
            .try_fold(plan, async |mut plan, selection: FilePlan| {
                plan.merge(selection);
                Ok(plan)
            })
            .await?;
        plan.pruning.set_bytes_total(snapshot.files_bytes);
        Ok(plan)
    }

    /// Chooses the manifests to read. It books those that partition summaries exclude.
    fn choose_manifests(
        &self,
        manifests: Vec<ManifestFile>,
        choosers: &HashMap<i32, Arc<Chooser>>,
        pruning: &mut Pruning,
    ) -> Result<Vec<ManifestFile>> {
        let mut reads = Vec::new();
        for manifest in manifests {
            pruning.manifests_total += 1;
            let excluded = match manifest.spec_id {
                Some(id) => self.chooser(id, choosers)?.excluded_manifest(&manifest),
                None => None,
            };
            // A manifest that does not count its files is read, so that they can be counted.
            match (manifest.live_files(), excluded) {
                (Some(files), Some(reason)) => {
                    pruning.files_total += files;
                    pruning.book(Pruned { reason: reason.clone(), manifests: 1, files, bytes: None });
                }
                _ => reads.push(manifest),
            }
        }
        Ok(reads)
    }

    fn chooser<'a>(&self, spec_id: i32, choosers: &'a HashMap<i32, Arc<Chooser>>) -> Result<&'a Arc<Chooser>> {
        choosers.get(&spec_id).ok_or_else(|| {
            let why = format!("a manifest names partition spec {spec_id}, which it does not have");
            Error::corrupt(self.metadata_location(), why)
        })
    }

    async fn select(
        &self,
        manifest: ManifestFile,
        choosers: &HashMap<i32, Arc<Chooser>>,
        wanted: &[i32],
    ) -> Result<FilePlan> {
        let decoded = self.manifest(&manifest, wanted).await?;
        let spec_id = manifest.spec_id.or(decoded.spec_id).unwrap_or(0);
        let chooser = Arc::clone(self.chooser(spec_id, choosers)?);
        let selected = in_background(manifest.path.clone(), move || chooser.select(&decoded, &manifest)).await;
        selected.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
    }

    /// Lists the manifests of a snapshot, live or not.
    async fn manifests(&self, snapshot: &Snapshot) -> Result<Arc<[ManifestFile]>> {
        let location = match &snapshot.manifests {
            ManifestSource::Paths(paths) => {
                let of = |path: &String| ManifestFile { path: path.clone(), ..ManifestFile::default() };
                return Ok(paths.iter().map(of).collect());
            }
            ManifestSource::List(location) => location,
        };
        let key = Key::List(location.clone(), snapshot.id);
        let cached = self.stores().cache().get_or_read(key, &[], |_| async move {
            let bytes = self.stores().read(location).await?;
            let manifests = decoded(location.clone(), self.name(), move || list::decode(&bytes)).await?;
            Ok(Cached::List(manifests.into()))
        });
        match cached.await.map_err(|error| error.in_table(self.name(), MetadataFile::ManifestList))? {
            Cached::List(manifests) => Ok(manifests),
            _ => Ok(Arc::default()),
        }
    }

    /// Returns a manifest with the metrics of at least these columns, ascending.
    async fn manifest(&self, manifest: &ManifestFile, wanted: &[i32]) -> Result<Arc<DecodedManifest>> {
        let location = &manifest.path;
        if manifest.is_encrypted {
            return Err(self.encrypted(location));
        }
        let key = Key::Manifest(location.clone(), manifest.bytes);
        let cached = self.stores().cache().get_or_read(key, wanted, |keep| async move {
            let _permit = self.stores().cache().may_read(manifest.bytes).await;
            let bytes = self.stores().read(location).await?;
            let manifest = decoded(location.clone(), self.name(), move || decode::decode(&bytes, keep)).await?;
            Ok(Cached::Manifest(Arc::new(manifest)))
        });
        match cached.await.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))? {
            Cached::Manifest(manifest) => Ok(manifest),
            _ => Ok(Arc::default()),
        }
    }

    async fn refuse_deletes(&self, manifests: Vec<ManifestFile>) -> Result<()> {
        let counts = stream::iter(manifests)
            .map(async |manifest| Ok(DeleteCounts::of(&*self.manifest(&manifest, &[]).await?)))
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

/// Live delete files, by their kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct DeleteCounts {
    positions: u64,
    vectors: u64,
    equalities: u64,
}

impl DeleteCounts {
    fn of(manifest: &DecodedManifest) -> Self {
        let mut counts = Self::default();
        for entry in &manifest.entries {
            let count = match (entry.content, entry.format) {
                (Content::EqualityDeletes, _) => &mut counts.equalities,
                (_, Format::Puffin) => &mut counts.vectors,
                _ => &mut counts.positions,
            };
            *count += 1;
        }
        counts
    }
}

impl std::ops::Add for DeleteCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            positions: self.positions + other.positions,
            vectors: self.vectors + other.vectors,
            equalities: self.equalities + other.equalities,
        }
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

/// Decodes a file off the threads that drive I/O.
async fn decoded<T: Send + 'static>(
    location: String,
    table: &str,
    work: impl FnOnce() -> Result<T, AvroFault> + Send + 'static,
) -> Result<T> {
    let table = table.to_owned();
    in_background(location.clone(), move || {
        work().map_err(|fault| match fault {
            AvroFault::Codec(codec) => Error::Unsupported {
                table,
                feature: format!("manifests in codec {codec} ({location})"),
                next: "rewrite the manifests with codec deflate",
            },
            fault => Error::corrupt(location, fault),
        })
    })
    .await
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
