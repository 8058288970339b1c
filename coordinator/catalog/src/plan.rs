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
use crate::scan::{ColumnFacts, DeleteSet, FileDeletes, FilePlan, PartitionHit, Pruned, ScanRequest};
use crate::table::Table;

/// Most manifests in flight at once.
const MANIFEST_READS_MAX: usize = 16;
/// Most bytes of a snapshot's metrics for which those of all columns are kept, so that no other query has to read its manifests
/// again.
const METRICS_BYTES_ALL: u64 = 16 << 20;
/// Bytes of a column's metrics in memory, about: counts, bounds and size.
const METRIC_BYTES: u64 = 80;
/// Bytes of a file in a plan, without metrics, about.
const FILE_BYTES: u64 = 300;
/// Most bytes that plans which are made together may take, if nothing is left out.
const TOGETHER_BYTES_MAX: u64 = 512 << 20;

/// Choosers by partition spec.
type Choosers = HashMap<i32, Arc<Chooser>>;
type Manifests = Vec<Arc<ManifestFile>>;

/// Scan that is planned.
struct Question<'a> {
    /// Position among those that are planned together.
    position: usize,
    columns: &'a BTreeSet<i32>,
    /// True where metrics are read for its deletes that were not asked for.
    asks_more: bool,
    wanted: Arc<Wanted>,
    choosers: Choosers,
    deletes: Vec<Arc<FoundDelete>>,
}

/// Manifest with the scans that need it.
struct Read<'a> {
    manifest: Arc<ManifestFile>,
    questions: Vec<&'a Question<'a>>,
}

impl Table {
    /// Chooses the data files of the pinned snapshot that may hold a row matching the predicate, and the delete files that
    /// apply to them.
    ///
    /// # Errors
    /// Unsupported (files that are not Parquet, encryption), missing, unreachable or corrupt metadata, invalid (a column
    /// that the table does not have).
    pub async fn plan(&self, request: &ScanRequest<'_>) -> Result<FilePlan> {
        let mut plans = self.plans(std::slice::from_ref(request)).await?;
        Ok(plans.pop().unwrap_or_default())
    }

    /// Plans several scans of the pinned snapshot, and returns their plans in the order of the requests. Each manifest that one of
    /// them needs is decoded once for all, whatever the process keeps of it, as long as their plans have room side by side.
    ///
    /// # Errors
    /// Those of [`Self::plan`].
    pub async fn plans(&self, requests: &[ScanRequest<'_>]) -> Result<Vec<FilePlan>> {
        let files = match &self.metadata().snapshot {
            Some(snapshot) if requests.len() > 1 => {
                let manifests = self.manifests(snapshot).await?;
                manifests.iter().map(|manifest| manifest.live_files().unwrap_or(0)).fold(0, u64::saturating_add)
            }
            _ => 0,
        };
        let bytes = |request: &ScanRequest<'_>| {
            let of_file = FILE_BYTES + METRIC_BYTES.saturating_mul(request.columns.len() as u64);
            files.saturating_mul(of_file)
        };
        let (mut plans, mut rest) = (Vec::with_capacity(requests.len()), requests);
        while !rest.is_empty() {
            let mut held = 0_u64;
            let fits = |request: &&ScanRequest<'_>| {
                held = held.saturating_add(bytes(request));
                held <= TOGETHER_BYTES_MAX
            };
            let (together, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            plans.extend(self.planned_together(together).await?);
            rest = others;
        }
        Ok(plans)
    }

    async fn planned_together(&self, requests: &[ScanRequest<'_>]) -> Result<Vec<FilePlan>> {
        let bound = requests.iter().map(|request| BoundPredicate::new(request.predicate, self.schema()));
        let bound = bound.collect::<Result<Vec<_>>>()?;
        let mut collected: Vec<Collected> = requests.iter().map(|_| Collected::default()).collect();
        let Some(snapshot) = &self.metadata().snapshot else {
            let empty = collected.into_iter().map(|Collected { mut plan, .. }| {
                plan.pruning.set_bytes_total(None);
                plan
            });
            return Ok(empty.collect());
        };
        let manifests = self.manifests(snapshot).await?;
        let live = manifests.iter().filter(|manifest| manifest.live_files() != Some(0)).map(Arc::clone);
        let (deletes, data): (Vec<_>, Vec<_>) = live.partition(|manifest| manifest.has_deletes);
        let deletes = self.find_deletes(deletes, &bound).await?;
        let asking = requests.iter().zip(&bound).zip(deletes).enumerate();
        let questions: Vec<Question<'_>> = asking
            .map(|(position, ((request, bound), deletes))| {
                // Bounds of their keys tell which files equality deletes can meet.
                let mut asked = request.columns.clone();
                asked.extend(deletes.iter().flat_map(|found| found.delete.equality_ids()));
                let wanted = Arc::new(Wanted::new(self.metadata(), &asked, bound));
                let choosers = self.choosers(bound, &wanted);
                let asks_more = asked.len() > request.columns.len();
                Question { position, columns: request.columns, asks_more, wanted, choosers, deletes }
            })
            .collect();
        let mut ids: Vec<i32> = questions.iter().flat_map(|question| question.wanted.ids()).collect();
        ids.extend(requests.iter().flat_map(|request| request.also));
        let ids = self.ids_to_keep(&data, ids);
        let reads = self.choose_manifests(data, &questions, &mut collected)?;
        // A closure in the stream would not be general enough for futures that move between threads.
        let selecting: Vec<_> = reads.into_iter().map(|read| self.select(read, &ids)).collect();
        let mut selections = stream::iter(selecting).buffered(MANIFEST_READS_MAX);
        while let Some(selected) = selections.try_next().await? {
            for (position, selection) in selected {
                if let Some(collected) = collected.get_mut(position) {
                    collected.merge(selection);
                }
            }
        }
        drop(selections);
        let mut plans = Vec::with_capacity(requests.len());
        for (question, collected) in questions.into_iter().zip(collected) {
            plans.push(self.finished(question, collected, snapshot).await?);
        }
        Ok(plans)
    }

    /// Makes a plan of what was selected for a scan.
    async fn finished(&self, question: Question<'_>, collected: Collected, snapshot: &Snapshot) -> Result<FilePlan> {
        let Question { columns, asks_more, choosers, deletes, .. } = question;
        let mut plan = match deletes.is_empty() {
            true => collected.plan,
            false => {
                let table = self.clone();
                in_background(self.metadata_location(), move || collected.with_deletes(&table, deletes)).await?
            }
        };
        if asks_more {
            plan.files.iter_mut().for_each(|file| file.keep_columns(columns));
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

    /// Lists the columns whose metrics are kept of the manifests, ascending: `ids`, and all that the table ever had, where they are few.
    fn ids_to_keep(&self, manifests: &Manifests, mut ids: Vec<i32>) -> Vec<i32> {
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

    /// Lists for each predicate the delete files of the partitions that it needs.
    async fn find_deletes(&self, manifests: Manifests, bound: &[BoundPredicate]) -> Result<Vec<Vec<Arc<FoundDelete>>>> {
        let mut found: Vec<Vec<Arc<FoundDelete>>> = bound.iter().map(|_| Vec::new()).collect();
        if manifests.is_empty() {
            return Ok(found);
        }
        let wanted = Arc::new(Wanted::of_deletes(self.metadata()));
        let choosers: Vec<Choosers> = bound.iter().map(|bound| self.choosers(bound, &wanted)).collect();
        let mut reads = Vec::new();
        for manifest in manifests {
            let mut needing = Vec::new();
            for (position, choosers) in choosers.iter().enumerate() {
                let chooser = self.chooser(manifest.spec_id, choosers)?;
                if chooser.is_none_or(|chooser| chooser.excluded_manifest(&manifest).is_none()) {
                    needing.push((position, choosers));
                }
            }
            if let Some((_, choosers)) = needing.first().copied() {
                let needing: Vec<usize> = needing.into_iter().map(|(position, _)| position).collect();
                reads.push((manifest, choosers, needing));
            }
        }
        let ids = wanted.ids();
        let (reading, needing): (Vec<_>, Vec<_>) = reads
            .into_iter()
            .map(|(manifest, choosers, needing)| (self.deletes_of(manifest, choosers, &ids), needing))
            .unzip();
        let mut reading = stream::iter(reading).buffered(MANIFEST_READS_MAX);
        for needing in needing {
            let deletes = reading.try_next().await?.unwrap_or_default();
            for position in needing {
                if let Some(found) = found.get_mut(position) {
                    found.extend(deletes.iter().map(Arc::clone));
                }
            }
        }
        drop(reading);
        Ok(found)
    }

    /// Lists the delete files of a manifest. What it deletes depends on its spec alone.
    async fn deletes_of(
        &self,
        manifest: Arc<ManifestFile>,
        choosers: &Choosers,
        ids: &[i32],
    ) -> Result<Vec<Arc<FoundDelete>>> {
        let decoded = self.manifest(&manifest, ids).await?;
        let chooser = self.chooser_of(&manifest, &decoded, choosers)?;
        let location = manifest.path.clone();
        let deletes = in_background(&location, move || chooser.deletes(&decoded, &manifest)).await;
        let deletes = deletes.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))?;
        Ok(deletes.into_iter().map(Arc::new).collect())
    }

    /// Chooses the manifests to read. It books those that partition summaries exclude.
    fn choose_manifests<'a>(
        &self,
        manifests: Manifests,
        questions: &'a [Question<'a>],
        collected: &mut [Collected],
    ) -> Result<Vec<Read<'a>>> {
        let mut reads = Vec::new();
        for manifest in manifests {
            let mut needing = Vec::new();
            for (question, Collected { plan, .. }) in questions.iter().zip(&mut *collected) {
                plan.pruning.manifests_total += 1;
                let chooser = self.chooser(manifest.spec_id, &question.choosers)?;
                let excluded = chooser.and_then(|chooser| chooser.excluded_manifest(&manifest));
                // A manifest that does not count its files is read, so that they can be counted.
                match (manifest.live_files(), excluded) {
                    (Some(files), Some(reason)) => {
                        plan.pruning.files_total = plan.pruning.files_total.saturating_add(files);
                        plan.pruning.book(Pruned { reason: reason.clone(), manifests: 1, files, bytes: None });
                    }
                    _ => needing.push(question),
                }
            }
            if !needing.is_empty() {
                reads.push(Read { manifest, questions: needing });
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

    /// Selects the files of a manifest, for each scan that needs it by its position.
    async fn select(&self, read: Read<'_>, ids: &[i32]) -> Result<Vec<(usize, Selection)>> {
        let Read { manifest, questions } = read;
        let decoded = self.manifest(&manifest, ids).await?;
        let chooser = |question: &&Question<'_>| {
            Ok((question.position, self.chooser_of(&manifest, &decoded, &question.choosers)?))
        };
        let choosers = questions.iter().map(chooser).collect::<Result<Vec<_>>>()?;
        let location = manifest.path.clone();
        let select = move || {
            let selected = choosers.into_iter();
            selected.map(|(position, chooser)| Ok((position, chooser.select(&decoded, &manifest)?))).collect()
        };
        let selected: Result<Vec<_>> = in_background(&location, select).await;
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
        let key = Key::List { table: self.identity().to_owned(), path: location.clone(), snapshot: snapshot.id };
        let read = async |_| {
            let read = self.stores().read_held(location).await?;
            let manifests =
                self.decoded(location, MetadataFile::ManifestList, move || list::decode(&read.bytes)).await?;
            if let Some(why) = list::lacking(&manifests, &snapshot.totals)
                && self.trusts_totals(snapshot).await
            {
                return Err(Error::corrupt(location, why));
            }
            Ok(manifests)
        };
        let manifests = self.stores().cache().get_or_read(key, &[], read).await;
        manifests.map_err(|error| error.in_table(self.name(), MetadataFile::ManifestList))
    }

    /// Returns true where the sums in a snapshot's summary are to be believed: those of the snapshot before are right, or there is none.
    /// Sums go wrong in one commit and stay so.
    async fn trusts_totals(&self, snapshot: &Snapshot) -> bool {
        let Some(parent) = snapshot.parent else { return true };
        let parent = self.metadata().snapshots.iter().find(|known| known.id == parent);
        let Some(Snapshot { manifests: ManifestSource::List(location), totals, .. }) = parent else { return false };
        let Ok(read) = self.stores().read_held(location).await else { return false };
        let decode = move || list::decode(&read.bytes);
        let manifests = self.decoded(location, MetadataFile::ManifestList, decode).await;
        manifests.is_ok_and(|manifests| list::is_summed(&manifests, totals))
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
    fn with_deletes(self, table: &Table, found: Vec<Arc<FoundDelete>>) -> Result<FilePlan> {
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
