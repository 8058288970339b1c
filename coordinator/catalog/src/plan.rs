//! Choice of the data files that a query has to read of a snapshot.
//!
//! ```text
//! manifest list ──▶ manifests ──▶ data files
//!      │ partition     │ partition values, then
//!      │ summaries     │ column bounds and counts
//!      ▼               ▼
//!   unread          left out, each with the Reason
//!
//! delete manifests ──▶ delete files ──▶ DeleteIndex ──▶ those of each data file
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::avro::AvroFault;
use crate::cache::{Cached, Key};
use crate::deletes::{DeleteFault, DeleteIndex, DeletesOf};
use crate::error::{Error, MetadataFile, Result};
use crate::manifests::choose::{Chooser, SelectedPartition, Selection};
use crate::manifests::decode;
use crate::manifests::delete::FoundDelete;
use crate::manifests::entry::DecodedManifest;
use crate::manifests::list::{self, ManifestFile};
use crate::manifests::wanted::Wanted;
use crate::metadata::{ManifestSource, Snapshot};
use crate::prune::BoundPredicate;
use crate::scan::{FilePlan, PartitionHit, Pruned, Pruning, ScanRequest};
use crate::table::Table;

/// Most manifests in flight at once.
const MANIFEST_READS_MAX: usize = 16;

/// Choosers by partition spec.
type Choosers = HashMap<i32, Arc<Chooser>>;

impl Table {
    /// Chooses the data files of the pinned snapshot that may hold a row matching the predicate, and the delete files that
    /// apply to them.
    ///
    /// # Errors
    /// Unsupported (files that are not Parquet, encryption), missing, unreachable or corrupt metadata, invalid (a column
    /// that the table does not have).
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
        let deletes = self.find_deletes(deletes, &bound).await?;

        // Bounds of their keys tell which files equality deletes can meet.
        let mut asked = request.columns.clone();
        asked.extend(deletes.iter().flat_map(|found| found.delete.equality_ids()));
        let wanted = Arc::new(Wanted::new(self.metadata(), &asked, &bound));
        let choosers = self.choosers(&bound, &wanted);
        let reads = self.choose_manifests(data, &choosers, &mut plan.pruning)?;
        let ids = wanted.ids();
        let selections =
            stream::iter(reads).map(|manifest| self.select(manifest, &choosers, &ids)).buffered(MANIFEST_READS_MAX);
        let collected = selections
            .try_fold(Collected { plan, ..Collected::default() }, async |mut collected, selection| {
                collected.merge(selection);
                Ok(collected)
            })
            .await?;
        let mut plan = collected.with_deletes(self, deletes)?;
        if asked.len() > request.columns.len() {
            plan.files.iter_mut().for_each(|file| file.keep_columns(request.columns));
        }
        let is_pinned = |hit: &PartitionHit| choosers.get(&hit.spec_id).is_some_and(|chooser| chooser.is_pinned());
        plan.route.is_pinned = !plan.route.partitions.is_empty() && plan.route.partitions.iter().all(is_pinned);
        plan.pruning.set_bytes_total(snapshot.files_bytes);
        Ok(plan)
    }

    fn choosers(&self, bound: &BoundPredicate, wanted: &Arc<Wanted>) -> Choosers {
        let specs = self.metadata().specs.iter();
        specs.filter_map(|spec| Some((spec.id, Arc::new(Chooser::new(self, spec.id, bound, wanted)?)))).collect()
    }

    /// Lists the delete files of partitions that the predicate needs.
    async fn find_deletes(&self, manifests: Vec<ManifestFile>, bound: &BoundPredicate) -> Result<Vec<FoundDelete>> {
        if manifests.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = Arc::new(Wanted::of_deletes(self.metadata()));
        let choosers = self.choosers(bound, &wanted);
        let mut reads = Vec::new();
        for manifest in manifests {
            let excluded = match manifest.spec_id {
                Some(id) => self.chooser(id, &choosers)?.excluded_manifest(&manifest).is_some(),
                None => false,
            };
            if !excluded {
                reads.push(manifest);
            }
        }
        let (choosers, ids) = (&choosers, &wanted.ids());
        let found = stream::iter(reads)
            .map(async |manifest| {
                let decoded = self.manifest(&manifest, ids).await?;
                let chooser = self.chooser(manifest.spec_id.or(decoded.spec_id).unwrap_or(0), choosers)?;
                let found = chooser.deletes(&decoded, &manifest);
                found.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
            })
            .buffered(MANIFEST_READS_MAX);
        found.try_concat().await
    }

    /// Chooses the manifests to read. It books those that partition summaries exclude.
    fn choose_manifests(
        &self,
        manifests: Vec<ManifestFile>,
        choosers: &Choosers,
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

    fn chooser<'a>(&self, spec_id: i32, choosers: &'a Choosers) -> Result<&'a Arc<Chooser>> {
        choosers.get(&spec_id).ok_or_else(|| {
            let why = format!("a manifest names partition spec {spec_id}, which it does not have");
            Error::corrupt(self.metadata_location(), why)
        })
    }

    async fn select(&self, manifest: ManifestFile, choosers: &Choosers, wanted: &[i32]) -> Result<Selection> {
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
}

/// Selections of a plan so far.
#[derive(Default)]
struct Collected {
    plan: FilePlan,
    /// Keys of the plan's partitions, in their order.
    keys: Vec<Arc<[u8]>>,
    places: HashMap<Arc<[u8]>, u32>,
}

impl Collected {
    fn merge(&mut self, selection: Selection) {
        let mut places = Vec::with_capacity(selection.partitions.len());
        for SelectedPartition { key, hit } in selection.partitions {
            let next = self.keys.len() as u32;
            let place = *self.places.entry(Arc::clone(&key)).or_insert(next);
            match self.plan.route.partitions.get_mut(place as usize) {
                Some(known) => known.files += hit.files,
                None => {
                    self.plan.route.partitions.push(hit);
                    self.keys.push(key);
                }
            }
            places.push(place);
        }
        self.plan.files.extend(selection.files.into_iter().map(|mut file| {
            file.partition = places.get(file.partition as usize).copied().unwrap_or_default();
            file
        }));
        let pruning = &mut self.plan.pruning;
        pruning.manifests_read += 1;
        pruning.files_total += selection.pruning.files_total;
        pruning.files_kept += selection.pruning.files_kept;
        pruning.bytes_kept += selection.pruning.bytes_kept;
        for pruned in selection.pruning.by_reason {
            pruning.book(pruned);
        }
    }

    /// Gives each file its deletes, and drops the files that vectors delete as a whole.
    fn with_deletes(self, table: &Table, found: Vec<FoundDelete>) -> Result<FilePlan> {
        let Collected { mut plan, keys, .. } = self;
        if found.is_empty() {
            return Ok(plan);
        }
        let fault = |DeleteFault { manifest, why }| {
            Error::corrupt(&*manifest, why).in_table(table.name(), MetadataFile::Manifest)
        };
        let index = DeleteIndex::new(found.iter().map(|found| found.delete.clone()).collect()).map_err(fault)?;
        let mut places: Vec<Option<u32>> = vec![None; found.len()];
        let mut kept = Vec::with_capacity(plan.files.len());
        for mut file in std::mem::take(&mut plan.files) {
            let mut used = Vec::new();
            let path = file.path.to_string();
            let of = DeletesOf {
                path: &path,
                record_count: file.record_count,
                sequence_number: file.sequence_number,
                partition: keys.get(file.partition as usize).map_or(&[], |key| key),
                columns: &file.columns,
            };
            file.deletes = index.of(of, |number| used.push(number)).map_err(fault)?;
            let vector = file.deletes.vector.and_then(|number| found.get(number as usize));
            if vector.is_some_and(|vector| vector.delete.record_count == file.record_count) {
                plan.drop_deleted(&file);
                continue;
            }
            for number in used {
                let Some(place @ None) = places.get_mut(number as usize) else { continue };
                *place = Some(plan.deletes.len() as u32);
                if let Some(found) = found.get(number as usize) {
                    plan.deletes.push(found.to_read(table, &index)?);
                }
            }
            file.deletes.renumber(&places);
            kept.push(file);
        }
        plan.files = kept;
        Ok(plan)
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
