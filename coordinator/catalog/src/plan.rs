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

//! Scans of one statement are planned together, also those of several versions of a table: each manifest is decoded once for all of
//! them. [`reading`] reads lists and manifests, [`collected`] gathers what is chosen.

mod collected;
mod reading;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};

use crate::cache::in_background;
use crate::error::{MetadataFile, Result};
use crate::manifests::choose::{Chooser, Selection};
use crate::manifests::delete::FoundDelete;
use crate::manifests::list::ManifestFile;
use crate::manifests::wanted::Wanted;
use crate::prune::BoundPredicate;
use crate::scan::{FilePlan, PartitionHit, Pruned, ScanRequest};
use crate::table::Table;
use collected::Collected;

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
/// Manifest lists by the snapshots' ids.
type Lists = HashMap<i64, Arc<Manifests>>;

/// Question of a scan to a version of its table.
#[derive(Debug, Clone, Copy)]
pub struct VersionRequest<'a> {
    pub table: &'a Table,
    pub request: ScanRequest<'a>,
}

/// Scan that is planned.
struct Question<'a> {
    table: &'a Table,
    /// Position among those that are planned together.
    position: usize,
    columns: &'a BTreeSet<i32>,
    /// True where metrics are read for its deletes that were not asked for.
    asks_more: bool,
    wanted: Arc<Wanted>,
    choosers: Choosers,
    deletes: Vec<Arc<FoundDelete>>,
}

/// Manifest that the snapshots of scans list, by their positions.
struct Listed {
    manifest: Arc<ManifestFile>,
    scans: Vec<usize>,
}

/// Manifest with the scans that need it.
struct Read<'a> {
    manifest: Arc<ManifestFile>,
    questions: Vec<&'a Question<'a>>,
}

/// Manifest of deletes, with the scans of each version that need it and a chooser of the version.
struct DeletesRead<'a> {
    manifest: Arc<ManifestFile>,
    versions: Vec<(&'a Table, &'a Choosers, Vec<usize>)>,
}

impl Table {
    /// Chooses the data files of the pinned snapshot that may hold a row matching the predicate, and the delete files that
    /// apply to them.
    ///
    /// # Errors
    /// Unsupported (files that are not Parquet, encryption), missing, unreachable or corrupt metadata, invalid (a column
    /// that the table does not have).
    pub async fn plan(&self, request: &ScanRequest<'_>) -> Result<FilePlan> {
        let mut plans = plan_versions(&[VersionRequest { table: self, request: *request }]).await?;
        Ok(plans.pop().unwrap_or_default())
    }
}

/// Plans scans of versions of one table, and returns their plans in the order of the requests. Each manifest that one of them needs is
/// decoded once for all, whatever the process keeps of it, as long as their plans have room side by side.
///
/// # Errors
/// Those of [`Table::plan`].
pub fn plan_versions<'a>(requests: &'a [VersionRequest<'a>]) -> BoxFuture<'a, Result<Vec<FilePlan>>> {
    Box::pin(async move {
        let lists = lists(requests).await?;
        let mut sizes = Vec::with_capacity(requests.len());
        for VersionRequest { table, request } in requests {
            let manifests = table.snapshot_id().and_then(|id| lists.get(&id));
            let files = manifests.into_iter().flat_map(|manifests| manifests.iter());
            let files = files.map(|manifest| manifest.live_files().unwrap_or(0)).fold(0, u64::saturating_add);
            let of_file = FILE_BYTES + METRIC_BYTES.saturating_mul(request.columns.len() as u64);
            sizes.push(files.saturating_mul(of_file));
        }
        let (mut plans, mut rest, mut sizes) = (Vec::with_capacity(requests.len()), requests, sizes.as_slice());
        while !rest.is_empty() {
            let mut held = 0_u64;
            let fits = |bytes: &&u64| {
                held = held.saturating_add(**bytes);
                held <= TOGETHER_BYTES_MAX
            };
            let count = sizes.iter().take_while(fits).count().max(1);
            let (together, others) = rest.split_at(count);
            plans.extend(planned_together(together, &lists).await?);
            (rest, sizes) = (others, sizes.get(count..).unwrap_or_default());
        }
        Ok(plans)
    })
}

/// Reads the manifest lists of the scans' snapshots, each once.
async fn lists(requests: &[VersionRequest<'_>]) -> Result<Lists> {
    let mut lists = Lists::new();
    for VersionRequest { table, .. } in requests {
        let Some(snapshot) = &table.metadata().snapshot else { continue };
        if let Entry::Vacant(place) = lists.entry(snapshot.id) {
            place.insert(table.manifests(snapshot).await?);
        }
    }
    Ok(lists)
}

async fn planned_together(requests: &[VersionRequest<'_>], lists: &Lists) -> Result<Vec<FilePlan>> {
    let bound = requests.iter().map(|of| BoundPredicate::new(of.request.predicate, of.table.schema()));
    let bound = bound.collect::<Result<Vec<_>>>()?;
    let mut collected: Vec<Collected> = requests.iter().map(|_| Collected::default()).collect();
    let (deletes, data): (Vec<_>, Vec<_>) =
        listed(requests, lists).into_iter().partition(|listed| listed.manifest.has_deletes);
    let deletes = find_deletes(deletes, requests, &bound).await?;
    let asking = requests.iter().zip(&bound).zip(deletes).enumerate();
    let questions: Vec<Question<'_>> = asking
        .map(|(position, ((VersionRequest { table, request }, bound), deletes))| {
            // Bounds of their keys tell which files equality deletes can meet.
            let mut asked = request.columns.clone();
            asked.extend(deletes.iter().flat_map(|found| found.delete.equality_ids()));
            let wanted = Arc::new(Wanted::new(table.metadata(), &asked, bound));
            let choosers = table.choosers(bound, &wanted);
            let asks_more = asked.len() > request.columns.len();
            Question { table, position, columns: request.columns, asks_more, wanted, choosers, deletes }
        })
        .collect();
    let mut ids: Vec<i32> = questions.iter().flat_map(|question| question.wanted.ids()).collect();
    ids.extend(requests.iter().flat_map(|of| of.request.also));
    let ids = ids_to_keep(requests, &data, ids);
    let reads = choose_manifests(data, &questions, &mut collected)?;
    // A closure in the stream would not be general enough for futures that move between threads.
    let selecting: Vec<_> = reads.into_iter().map(|read| select(read, &ids)).collect();
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
        plans.push(finished(question, collected).await?);
    }
    Ok(plans)
}

/// Lists the live manifests of the scans' snapshots, each once, in the order of the lists.
fn listed(requests: &[VersionRequest<'_>], lists: &Lists) -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    // A list may name a manifest twice, and two lists may say other things of one.
    let mut places: HashMap<&ManifestFile, Vec<usize>> = HashMap::new();
    for (scan, VersionRequest { table, .. }) in requests.iter().enumerate() {
        let Some(manifests) = table.snapshot_id().and_then(|id| lists.get(&id)) else { continue };
        let mut times: HashMap<&ManifestFile, usize> = HashMap::new();
        for manifest in manifests.iter().filter(|manifest| manifest.live_files() != Some(0)) {
            let (known, time) = (places.entry(&**manifest).or_default(), times.entry(&**manifest).or_default());
            match known.get(*time).and_then(|place| all.get_mut(*place)) {
                Some(listed) => listed.scans.push(scan),
                None => {
                    known.push(all.len());
                    all.push(Listed { manifest: Arc::clone(manifest), scans: vec![scan] });
                }
            }
            *time += 1;
        }
    }
    all
}

/// Makes a plan of what was selected for a scan.
async fn finished(question: Question<'_>, collected: Collected) -> Result<FilePlan> {
    let Question { table, columns, asks_more, choosers, deletes, .. } = question;
    let mut plan = match deletes.is_empty() {
        true => collected.plan,
        false => {
            let own = table.clone();
            in_background(table.metadata_location(), move || collected.with_deletes(&own, deletes)).await?
        }
    };
    if asks_more {
        plan.files.iter_mut().for_each(|file| file.keep_columns(columns));
    }
    let is_pinned = |hit: &PartitionHit| choosers.get(&hit.spec_id).is_some_and(|chooser| chooser.is_pinned());
    plan.route.is_pinned = !plan.route.partitions.is_empty() && plan.route.partitions.iter().all(is_pinned);
    plan.name_partitions();
    plan.pruning.set_bytes_total(table.metadata().snapshot.as_ref().and_then(|snapshot| snapshot.files_bytes));
    plan.count_deletes();
    Ok(plan)
}

/// Lists the columns whose metrics are kept of the manifests, ascending: `ids`, and all that the table ever had, where they are few.
fn ids_to_keep(requests: &[VersionRequest<'_>], manifests: &[Listed], mut ids: Vec<i32>) -> Vec<i32> {
    if let Some(VersionRequest { table, .. }) = requests.first() {
        ids.extend(ids_of_few(table, manifests.iter().map(|listed| &*listed.manifest)));
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Lists the columns that a table ever had, where manifests of data have few metrics of them. Else none.
fn ids_of_few<'a>(table: &Table, mut manifests: impl Iterator<Item = &'a ManifestFile>) -> Vec<i32> {
    let all = table.metadata().all_fields();
    let files = manifests.try_fold(0_u64, |sum, manifest| sum.checked_add(manifest.live_files()?));
    let bytes = files.map(|files| files.saturating_mul(all.len() as u64).saturating_mul(METRIC_BYTES));
    match bytes.is_some_and(|bytes| bytes <= METRICS_BYTES_ALL) {
        true => all.into_iter().map(|field| field.id).collect(),
        false => Vec::new(),
    }
}

/// Lists for each scan the delete files of the partitions that it needs.
async fn find_deletes(
    manifests: Vec<Listed>,
    requests: &[VersionRequest<'_>],
    bound: &[BoundPredicate],
) -> Result<Vec<Vec<Arc<FoundDelete>>>> {
    let mut found: Vec<Vec<Arc<FoundDelete>>> = requests.iter().map(|_| Vec::new()).collect();
    if manifests.is_empty() {
        return Ok(found);
    }
    let choosers = requests.iter().zip(bound).map(|(VersionRequest { table, .. }, bound)| {
        let wanted = Arc::new(Wanted::of_deletes(table.metadata()));
        (*table, wanted.ids(), table.choosers(bound, &wanted))
    });
    let choosers: Vec<(&Table, Vec<i32>, Choosers)> = choosers.collect();
    let version = |table: &Table| (table.snapshot_id(), table.schema_id());
    let mut reads = Vec::new();
    for Listed { manifest, scans } in manifests {
        let mut versions: Vec<(&Table, &Choosers, Vec<usize>)> = Vec::new();
        for scan in scans {
            let Some((table, _, choosers)) = choosers.get(scan) else { continue };
            let chooser = table.chooser(manifest.spec_id, choosers)?;
            if chooser.is_some_and(|chooser| chooser.excluded_manifest(&manifest).is_some()) {
                continue;
            }
            match versions.iter_mut().find(|(known, ..)| version(known) == version(table)) {
                Some((.., scans)) => scans.push(scan),
                None => versions.push((table, choosers, vec![scan])),
            }
        }
        if !versions.is_empty() {
            reads.push(DeletesRead { manifest, versions });
        }
    }
    let mut ids: Vec<i32> = choosers.iter().flat_map(|(_, ids, _)| ids.iter().copied()).collect();
    ids.sort_unstable();
    ids.dedup();
    let reading: Vec<_> = reads.into_iter().map(|read| deletes_of(read, &ids)).collect();
    let mut reading = stream::iter(reading).buffered(MANIFEST_READS_MAX);
    while let Some(read) = reading.try_next().await? {
        for (scans, deletes) in read {
            for scan in scans {
                if let Some(found) = found.get_mut(scan) {
                    found.extend(deletes.iter().map(Arc::clone));
                }
            }
        }
    }
    drop(reading);
    Ok(found)
}

/// Lists the delete files of a manifest, for the scans of each version. What it deletes depends on its spec and the version's columns.
async fn deletes_of(read: DeletesRead<'_>, ids: &[i32]) -> Result<Vec<(Vec<usize>, Vec<Arc<FoundDelete>>)>> {
    let DeletesRead { manifest, versions } = read;
    let mut found = Vec::with_capacity(versions.len());
    let mut decoded = None;
    for (table, choosers, scans) in versions {
        let decoded = match &decoded {
            Some(decoded) => Arc::clone(decoded),
            None => Arc::clone(decoded.insert(table.manifest(&manifest, ids).await?)),
        };
        let chooser = table.chooser_of(&manifest, &decoded, choosers)?;
        let of = Arc::clone(&manifest);
        let deletes = in_background(&manifest.path, move || chooser.deletes(&decoded, &of)).await;
        let deletes = deletes.map_err(|error| error.in_table(table.name(), MetadataFile::Manifest))?;
        found.push((scans, deletes.into_iter().map(Arc::new).collect()));
    }
    Ok(found)
}

/// Chooses the manifests to read. It books those that partition summaries exclude.
fn choose_manifests<'a>(
    manifests: Vec<Listed>,
    questions: &'a [Question<'a>],
    collected: &mut [Collected],
) -> Result<Vec<Read<'a>>> {
    let mut reads = Vec::new();
    for Listed { manifest, scans } in manifests {
        let mut needing = Vec::new();
        for scan in scans {
            let (Some(question), Some(Collected { plan, .. })) = (questions.get(scan), collected.get_mut(scan)) else {
                continue;
            };
            plan.pruning.manifests_total += 1;
            let chooser = question.table.chooser(manifest.spec_id, &question.choosers)?;
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

/// Selects the files of a manifest, for each scan that needs it by its position.
async fn select(read: Read<'_>, ids: &[i32]) -> Result<Vec<(usize, Selection)>> {
    let Read { manifest, questions } = read;
    let Some(table) = questions.first().map(|question| question.table) else { return Ok(Vec::new()) };
    let decoded = table.manifest(&manifest, ids).await?;
    let chooser = |question: &&Question<'_>| {
        Ok((question.position, question.table.chooser_of(&manifest, &decoded, &question.choosers)?))
    };
    let choosers = questions.iter().map(chooser).collect::<Result<Vec<_>>>()?;
    let location = manifest.path.clone();
    let select = move || {
        let selected = choosers.into_iter();
        selected.map(|(position, chooser)| Ok((position, chooser.select(&decoded, &manifest)?))).collect()
    };
    let selected: Result<Vec<_>> = in_background(&location, select).await;
    selected.map_err(|error| error.in_table(table.name(), MetadataFile::Manifest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifests::tests::{Lake, column};
    use crate::predicate::Predicate;

    /// Lists are as long as their writer likes, and may name one manifest in many ways.
    #[test]
    fn a_list_that_names_a_manifest_often_takes_no_longer() {
        const ENTRIES: u64 = 100_000;
        let lake = Lake::new(2, json!([column(1, "id", "int")]), json!([]));
        let (table, predicate, columns) = (&lake.table(), &Predicate::AlwaysTrue, &BTreeSet::new());
        let scan = VersionRequest { table, request: ScanRequest { predicate, columns, also: columns } };
        let named = |bytes: u64| Arc::new(ManifestFile { path: "m".to_owned(), bytes, ..ManifestFile::default() });
        // The last one is named twice.
        let manifests: Manifests = (0..ENTRIES).chain([ENTRIES - 1]).map(named).collect();
        let started = std::time::Instant::now();
        let found = listed(&[scan, scan, scan], &Lists::from([(1, Arc::new(manifests))]));
        assert_eq!(found.len() as u64, ENTRIES + 1);
        assert!(found.iter().all(|listed| listed.scans == [0, 1, 2]));
        let lengths = found.iter().map(|listed| listed.manifest.bytes);
        assert!(lengths.eq((0..ENTRIES).chain([ENTRIES - 1])), "in the order of the list");
        // Comparing each with each takes minutes.
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}
