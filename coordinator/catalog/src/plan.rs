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

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::avro::AvroFault;
use crate::cache::{Key, in_background};
use crate::deletes::{DeleteFault, DeleteIndex, DeletesOf, FoundDeletes};
use crate::error::{Error, MetadataFile, Result};
use crate::inspect::FileInfo;
use crate::manifests::choose::{Chooser, SelectedPartition, Selection};
use crate::manifests::decode;
use crate::manifests::delete::FoundDelete;
use crate::manifests::entry::DecodedManifest;
use crate::manifests::list::{self, ManifestFile};
use crate::manifests::wanted::Wanted;
use crate::metadata::{ManifestSource, Snapshot};
use crate::predicate::Predicate;
use crate::prune::BoundPredicate;
use crate::scan::{ColumnFacts, DeleteSet, FileDeletes, FilePlan, PartitionHit, Pruned, Pruning, ScanRequest};
use crate::table::Table;

/// Most manifests in flight at once.
const MANIFEST_READS_MAX: usize = 16;
/// Most bytes of a snapshot's metrics for which those of all columns are kept, so that no other query has to read its manifests
/// again.
const METRICS_BYTES_ALL: u64 = 16 << 20;
/// Bytes of a column's metrics in memory, about: counts, bounds and size.
const METRIC_BYTES: u64 = 80;

/// Choosers by partition spec.
type Choosers = HashMap<i32, Arc<Chooser>>;
type Manifests = Vec<Arc<ManifestFile>>;

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
        let live = manifests.iter().filter(|manifest| manifest.live_files() != Some(0)).map(Arc::clone);
        let (deletes, data): (Vec<_>, Vec<_>) = live.partition(|manifest| manifest.has_deletes);
        let deletes = self.find_deletes(deletes, &bound).await?;

        // Bounds of their keys tell which files equality deletes can meet.
        let mut asked = request.columns.clone();
        asked.extend(deletes.iter().flat_map(|found| found.delete.equality_ids()));
        let wanted = Arc::new(Wanted::new(self.metadata(), &asked, &bound));
        let choosers = self.choosers(&bound, &wanted);
        let ids = self.ids_to_keep(&data, &wanted, request.also);
        let reads = self.choose_manifests(data, &choosers, &mut plan.pruning)?;
        let selections =
            stream::iter(reads).map(|manifest| self.select(manifest, &choosers, &ids)).buffered(MANIFEST_READS_MAX);
        let collected = selections
            .try_fold(Collected { plan, ..Collected::default() }, async |mut collected, selection| {
                collected.merge(selection);
                Ok(collected)
            })
            .await?;
        let mut plan = match deletes.is_empty() {
            true => collected.plan,
            false => {
                let table = self.clone();
                in_background(self.metadata_location(), move || collected.with_deletes(&table, deletes)).await?
            }
        };
        if asked.len() > request.columns.len() {
            plan.files.iter_mut().for_each(|file| file.keep_columns(request.columns));
        }
        let is_pinned = |hit: &PartitionHit| choosers.get(&hit.spec_id).is_some_and(|chooser| chooser.is_pinned());
        plan.route.is_pinned = !plan.route.partitions.is_empty() && plan.route.partitions.iter().all(is_pinned);
        plan.name_partitions();
        plan.pruning.set_bytes_total(snapshot.files_bytes);
        plan.count_deletes();
        Ok(plan)
    }

    /// Lists the live files of manifests, in their order, whatever a query would read of them.
    pub(crate) async fn list_files(&self, manifests: &Manifests) -> Result<Vec<FileInfo>> {
        let bound = BoundPredicate::new(&Predicate::AlwaysTrue, self.schema())?;
        let choosers = &self.choosers(&bound, &Arc::new(Wanted::new(self.metadata(), &BTreeSet::new(), &bound)));
        let live = manifests.iter().filter(|manifest| manifest.live_files() != Some(0)).map(Arc::clone);
        let files = stream::iter(live.collect::<Manifests>())
            .map(async |manifest| {
                let decoded = self.manifest(&manifest, &[]).await?;
                let chooser = self.chooser_of(&manifest, &decoded, choosers)?;
                let location = manifest.path.clone();
                let found = in_background(&location, move || chooser.files(&decoded, &manifest)).await;
                found.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
            })
            .buffered(MANIFEST_READS_MAX);
        files.try_concat().await
    }

    fn choosers(&self, bound: &BoundPredicate, wanted: &Arc<Wanted>) -> Choosers {
        let specs = self.metadata().specs.iter();
        specs.filter_map(|spec| Some((spec.id, Arc::new(Chooser::new(self, spec.id, bound, wanted)?)))).collect()
    }

    /// Lists the columns whose metrics are kept of the manifests, ascending: all that the table ever had, where they are few.
    fn ids_to_keep(&self, manifests: &Manifests, wanted: &Wanted, also: &BTreeSet<i32>) -> Vec<i32> {
        let mut ids = wanted.ids();
        ids.extend(also);
        let all = self.metadata().all_fields();
        let files = manifests.iter().try_fold(0_u64, |sum, manifest| sum.checked_add(manifest.live_files()?));
        let bytes = files.map(|files| files.saturating_mul(all.len() as u64).saturating_mul(METRIC_BYTES));
        if bytes.is_some_and(|bytes| bytes <= METRICS_BYTES_ALL) {
            ids.extend(all.into_iter().map(|field| field.id));
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Lists the delete files of partitions that the predicate needs.
    async fn find_deletes(&self, manifests: Manifests, bound: &BoundPredicate) -> Result<Vec<FoundDelete>> {
        if manifests.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = Arc::new(Wanted::of_deletes(self.metadata()));
        let choosers = self.choosers(bound, &wanted);
        let mut reads = Vec::new();
        for manifest in manifests {
            let chooser = self.chooser(manifest.spec_id, &choosers)?;
            if chooser.is_none_or(|chooser| chooser.excluded_manifest(&manifest).is_none()) {
                reads.push(manifest);
            }
        }
        let (choosers, ids) = (&choosers, &wanted.ids());
        let found = stream::iter(reads)
            .map(async |manifest| {
                let decoded = self.manifest(&manifest, ids).await?;
                let chooser = self.chooser_of(&manifest, &decoded, choosers)?;
                let location = manifest.path.clone();
                let found = in_background(&location, move || chooser.deletes(&decoded, &manifest)).await;
                found.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
            })
            .buffered(MANIFEST_READS_MAX);
        found.try_concat().await
    }

    /// Chooses the manifests to read. It books those that partition summaries exclude.
    fn choose_manifests(&self, manifests: Manifests, choosers: &Choosers, pruning: &mut Pruning) -> Result<Manifests> {
        let mut reads = Vec::new();
        for manifest in manifests {
            pruning.manifests_total += 1;
            let chooser = self.chooser(manifest.spec_id, choosers)?;
            let excluded = chooser.and_then(|chooser| chooser.excluded_manifest(&manifest));
            // A manifest that does not count its files is read, so that they can be counted.
            match (manifest.live_files(), excluded) {
                (Some(files), Some(reason)) => {
                    pruning.files_total = pruning.files_total.saturating_add(files);
                    pruning.book(Pruned { reason: reason.clone(), manifests: 1, files, bytes: None });
                }
                _ => reads.push(manifest),
            }
        }
        Ok(reads)
    }

    /// Returns the chooser of a spec. `None` where the list does not say the spec: the manifest says it.
    fn chooser<'a>(&self, spec_id: Option<i32>, choosers: &'a Choosers) -> Result<Option<&'a Arc<Chooser>>> {
        let Some(spec_id) = spec_id else { return Ok(None) };
        let chooser = choosers.get(&spec_id).ok_or_else(|| {
            let why = format!("a manifest names partition spec {spec_id}, which it does not have");
            Error::corrupt(self.metadata_location(), why).in_table(self.name(), MetadataFile::Metadata)
        });
        chooser.map(Some)
    }

    fn chooser_of(
        &self,
        manifest: &ManifestFile,
        decoded: &DecodedManifest,
        choosers: &Choosers,
    ) -> Result<Arc<Chooser>> {
        let spec_id = manifest.spec_id.or(decoded.spec_id).unwrap_or(0);
        let chooser = self.chooser(Some(spec_id), choosers)?.map(Arc::clone);
        chooser.ok_or_else(|| Error::corrupt(&manifest.path, "it has no partition spec"))
    }

    async fn select(&self, manifest: Arc<ManifestFile>, choosers: &Choosers, wanted: &[i32]) -> Result<Selection> {
        let decoded = self.manifest(&manifest, wanted).await?;
        let chooser = self.chooser_of(&manifest, &decoded, choosers)?;
        let location = manifest.path.clone();
        let selected = in_background(&location, move || chooser.select(&decoded, &manifest)).await;
        selected.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
    }

    /// Lists the manifests of a snapshot, live or not.
    pub(crate) async fn manifests(&self, snapshot: &Snapshot) -> Result<Arc<Manifests>> {
        let location = match &snapshot.manifests {
            ManifestSource::Paths(paths) => {
                let of = |path: &String| Arc::new(ManifestFile { path: path.clone(), ..ManifestFile::default() });
                return Ok(Arc::new(paths.iter().map(of).collect()));
            }
            ManifestSource::List(location) => location,
        };
        let totals = snapshot.totals;
        let key = Key::List { table: self.identity().to_owned(), path: location.clone(), snapshot: snapshot.id };
        let read = async |_| {
            let read = self.stores().read_held(location).await?;
            let decode = move || {
                let manifests = list::decode(&read.bytes)?;
                list::refuse_cut(&manifests, &totals)?;
                Ok(manifests)
            };
            self.decoded(location, MetadataFile::ManifestList, decode).await
        };
        let manifests = self.stores().cache().get_or_read(key, &[], read).await;
        manifests.map_err(|error| error.in_table(self.name(), MetadataFile::ManifestList))
    }

    /// Returns a manifest with the metrics of at least these columns, ascending.
    async fn manifest(&self, manifest: &ManifestFile, wanted: &[i32]) -> Result<Arc<DecodedManifest>> {
        let ManifestFile { path, bytes, .. } = manifest;
        if manifest.is_encrypted {
            return Err(self.encrypted(path));
        }
        let key = Key::Manifest { table: self.identity().to_owned(), path: path.clone(), bytes: *bytes };
        let read = async |keep| {
            let read = self.stores().read_held(path).await?;
            let found_bytes = read.bytes.len();
            let decode = move || decode::decode(&read.bytes, keep);
            let decoded = self.decoded(path, MetadataFile::Manifest, decode).await?;
            refuse_cut(manifest, &decoded, found_bytes as u64)?;
            Ok(decoded)
        };
        let decoded = self.stores().cache().get_or_read(key, wanted, read).await;
        decoded.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
    }

    async fn decoded<T: Send + 'static>(
        &self,
        location: &str,
        role: MetadataFile,
        work: impl FnOnce() -> Result<T, AvroFault> + Send + 'static,
    ) -> Result<T> {
        let (table, file) = (self.name().to_owned(), location.to_owned());
        let work = move || {
            work().map_err(|fault| match fault {
                AvroFault::Codec(codec) => Error::Unsupported {
                    table,
                    feature: format!("a {} in codec {codec} ({file})", role.name()),
                    next: "rewrite the manifests with codec deflate",
                },
                fault => Error::corrupt(file, fault),
            })
        };
        self.stores().cache().decoding(location, work).await
    }
}

/// Refuses a manifest that was cut between two blocks, which nothing in it tells. Lengths in lists are wrong at times, and so may
/// counts be, but not both in one direction.
fn refuse_cut(manifest: &ManifestFile, decoded: &DecodedManifest, found_bytes: u64) -> Result<()> {
    let found = decoded.entries.len() as u64;
    match manifest.live_files() {
        Some(listed) if found < listed && found_bytes < manifest.bytes => {
            let why = format!(
                "it has {found} live entries in {found_bytes} bytes, its list says {listed} in {}",
                manifest.bytes
            );
            Err(Error::corrupt(&manifest.path, why))
        }
        _ => Ok(()),
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
        pruning.files_total = pruning.files_total.saturating_add(selection.pruning.files_total);
        pruning.files_kept += selection.pruning.files_kept;
        pruning.bytes_kept = pruning.bytes_kept.saturating_add(selection.pruning.bytes_kept);
        for pruned in selection.pruning.by_reason {
            pruning.book(pruned);
        }
    }

    /// Gives each file its deletes. One of which nothing seems to be left stays: its vector is read before that is believed.
    fn with_deletes(self, table: &Table, found: Vec<FoundDelete>) -> Result<FilePlan> {
        let Collected { mut plan, keys, .. } = self;
        let fault = |DeleteFault { manifest, why }| {
            Error::corrupt(&*manifest, why).in_table(table.name(), MetadataFile::Manifest)
        };
        let index = DeleteIndex::new(found.iter().map(|found| found.delete.clone()).collect()).map_err(fault)?;
        let mut used = vec![false; found.len()];
        let mut sets: HashMap<DeleteSet, u32> = HashMap::new();
        let mut kept = Vec::with_capacity(plan.files.len());
        for mut file in std::mem::take(&mut plan.files) {
            let path = file.path.to_string();
            // The value of such a column is the partition's, also where an imported file has a column of this name.
            let is_partition = |id| file.identity_values.iter().any(|value| value.field_id == id);
            let columns: Cow<'_, [ColumnFacts]> = match file.columns.iter().any(|column| is_partition(column.id)) {
                true => file.columns.iter().filter(|column| !is_partition(column.id)).cloned().collect(),
                false => Cow::Borrowed(&file.columns),
            };
            let of = DeletesOf {
                path: &path,
                record_count: file.record_count,
                sequence_number: file.sequence_number,
                partition: keys.get(file.partition as usize).map_or(&[], |key| key),
                columns: &columns,
            };
            let FoundDeletes { vector, set } = index.of(of, &mut used).map_err(fault)?;
            let next = sets.len() as u32;
            let set = (!set.is_empty()).then(|| *sets.entry(set).or_insert(next));
            file.deletes = FileDeletes { vector, set };
            kept.push(file);
        }
        plan.files = kept;
        // Delete files in use have other places in the plan than in the index.
        let mut places = vec![0; found.len()];
        for ((place, found), _) in places.iter_mut().zip(&found).zip(used).filter(|(_, used)| *used) {
            *place = plan.deletes.len() as u32;
            plan.deletes.push(found.to_read(table, &index)?);
        }
        let place = |number: u32| places.get(number as usize).copied().unwrap_or_default();
        plan.files.iter_mut().for_each(|file| file.deletes.vector = file.deletes.vector.map(place));
        let mut sets: Vec<(DeleteSet, u32)> = sets.into_iter().collect();
        sets.sort_unstable_by_key(|(_, number)| *number);
        let renumbered = |DeleteSet { positions, equality }| DeleteSet {
            positions: positions.into_iter().map(place).collect(),
            equality,
        };
        plan.delete_sets = sets.into_iter().map(|(set, _)| renumbered(set)).collect();
        Ok(plan)
    }
}
