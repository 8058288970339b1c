//! Manifest lists and manifests of a table, read and decoded.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::{Choosers, MANIFEST_READS_MAX, Manifests, ids_of_few};
use crate::avro::AvroFault;
use crate::cache::{Key, in_background};
use crate::error::{Error, MetadataFile, Result};
use crate::inspect::FileInfo;
use crate::manifests::choose::Chooser;
use crate::manifests::decode;
use crate::manifests::entry::DecodedManifest;
use crate::manifests::list::{self, ManifestFile};
use crate::manifests::wanted::Wanted;
use crate::metadata::{ManifestSource, Snapshot};
use crate::predicate::Predicate;
use crate::prune::BoundPredicate;
use crate::table::Table;

impl Table {
    /// Lists the live files of manifests, in their order, whatever a query would read of them.
    pub(crate) async fn list_files(&self, manifests: &Manifests) -> Result<Vec<FileInfo>> {
        let bound = BoundPredicate::new(&Predicate::AlwaysTrue, self.schema())?;
        let choosers = &self.choosers(&bound, &Arc::new(Wanted::new(self.metadata(), &BTreeSet::new(), &bound)));
        let live = manifests.iter().filter(|manifest| manifest.live_files() != Some(0)).map(Arc::clone);
        let live = live.collect::<Manifests>();
        // As scans keep them, so that a scan in the same statement finds them decoded.
        let mut ids = ids_of_few(self, live.iter().map(|manifest| &**manifest).filter(|known| !known.has_deletes));
        ids.sort_unstable();
        ids.dedup();
        let ids_of_deletes = Wanted::of_deletes(self.metadata()).ids();
        let files = stream::iter(live)
            .map(async |manifest| {
                let ids = if manifest.has_deletes { &ids_of_deletes } else { &ids };
                let decoded = self.manifest(&manifest, ids).await?;
                let chooser = self.chooser_of(&manifest, &decoded, choosers)?;
                let location = manifest.path.clone();
                let found = in_background(&location, move || chooser.files(&decoded, &manifest)).await;
                found.map_err(|error| error.in_table(self.name(), MetadataFile::Manifest))
            })
            .buffered(MANIFEST_READS_MAX);
        files.try_concat().await
    }

    pub(super) fn choosers(&self, bound: &BoundPredicate, wanted: &Arc<Wanted>) -> Choosers {
        let specs = self.metadata().specs.iter();
        specs.filter_map(|spec| Some((spec.id, Arc::new(Chooser::new(self, spec.id, bound, wanted)?)))).collect()
    }

    /// Returns the chooser of a spec. `None` where the list does not say the spec: the manifest says it.
    pub(super) fn chooser<'a>(&self, spec_id: Option<i32>, choosers: &'a Choosers) -> Result<Option<&'a Arc<Chooser>>> {
        let Some(spec_id) = spec_id else { return Ok(None) };
        let chooser = choosers.get(&spec_id).ok_or_else(|| {
            let why = format!("a manifest names partition spec {spec_id}, which it does not have");
            Error::corrupt(self.metadata_location(), why).in_table(self.name(), MetadataFile::Metadata)
        });
        chooser.map(Some)
    }

    pub(super) fn chooser_of(
        &self,
        manifest: &ManifestFile,
        decoded: &DecodedManifest,
        choosers: &Choosers,
    ) -> Result<Arc<Chooser>> {
        let spec_id = manifest.spec_id.or(decoded.spec_id).unwrap_or(0);
        let chooser = self.chooser(Some(spec_id), choosers)?.map(Arc::clone);
        chooser.ok_or_else(|| Error::corrupt(&manifest.path, "it has no partition spec"))
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
    pub(super) async fn manifest(&self, manifest: &ManifestFile, wanted: &[i32]) -> Result<Arc<DecodedManifest>> {
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
