//! A plan's files as DataFusion's: their stores, their facts, and the deletes of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::Session;
use datafusion::common::{DataFusionError, Result, not_impl_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::execution::object_store::ObjectStoreUrl;
use fragment_fn::{DeletePlan, DeleteReader, FileConstants, FileDeletes, InStore};
use gust_catalog::{DeleteContent, DeleteFile, FilePath, FilePlan, IdentityValue, Location, PartedBy, ScanFile, Table};
use gust_protocol::plan::encode_scalar;
use gust_protocol::{DeleteSet, ObjectRef, UnitDeletes};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use url::{Position, Url};

use super::{external, stores_of};
use crate::storage::Reach;
use crate::tables::facts::{FileFacts, FilePartition, PartValue, Partition, Roots};
use crate::tables::reading::BridgeBytes;
use crate::tables::schema::engine_value;

/// Largest file that is read whole with its footer where that is cheap. Readers keep it until they have left it.
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// Most stores that one table's files may be in.
const STORES_MAX: usize = 64;

/// Files of a plan, and the stores that they and their deletes are in.
pub(super) struct PlannedFiles {
    pub(super) files: Vec<PartitionedFile>,
    /// Store by which DataFusion knows the scan: the first, without its path.
    pub(super) url: ObjectStoreUrl,
    /// Stores by the numbers of [`InStore`].
    pub(super) stores: Arc<[Arc<dyn ObjectStore>]>,
    /// Memory of the values of its partitions, in bytes, about.
    pub(super) partitions_bytes: usize,
}

impl PlannedFiles {
    /// Finds the files of a plan. `schema` has the columns that their deletes compare.
    ///
    /// # Errors
    /// Paths and stores that cannot be opened, values that cannot be encoded, and files in too many stores.
    pub(super) fn of(table: &Table, plan: &FilePlan, schema: &SchemaRef, session: &dyn Session) -> Result<Self> {
        let stores = stores_of(session)?;
        let mut roots = RootList { roots: Vec::new(), reach: stores.reach() };
        let places = plan.files.iter().map(|file| roots.place(table, &file.path)).collect::<Result<Vec<_>>>()?;
        let deletes = plan.deletes.iter().map(|file| roots.delete_file(table, file)).collect::<Result<Vec<_>>>()?;
        let open = |root: &Url| Ok(stores.open_root(root)?);
        let stores: Arc<[_]> = roots.roots.iter().map(open).collect::<Result<Vec<_>>>()?.into();
        let reader = (!deletes.is_empty()).then(|| {
            let units: Vec<UnitDeletes> = plan.files.iter().filter_map(unit_deletes).collect();
            let sets = plan
                .delete_sets
                .iter()
                .map(|set| DeleteSet { positions: set.positions.to_vec(), scopes: set.equality.to_vec() });
            let deletes = DeletePlan::new(table.name().to_owned(), deletes, sets.collect());
            let pool = &session.runtime_env().memory_pool;
            let reader = DeleteReader::new(Arc::clone(&stores), deletes, &units, Arc::clone(schema), pool);
            Arc::new(reader.bridging(BridgeBytes::of(session.config())))
        });
        let url = match roots.roots.first() {
            Some(root) => ObjectStoreUrl::parse(&root[..Position::BeforePath])?,
            None => ObjectStoreUrl::local_filesystem(),
        };
        let roots = roots.told();
        let partition = |values: &[PartedBy]| values.iter().filter_map(PartValue::of).collect::<Partition>();
        let partitions: Arc<[Partition]> = plan.parted_by.iter().map(|values| partition(values)).collect();
        let file = |(file, place): (&ScanFile, Place)| {
            let mut planned = partitioned_file(file, place, plan.route.is_pinned, &partitions)?;
            if let Some(roots) = &roots {
                planned.extensions.insert(roots.clone());
            }
            if let (Some(reader), Some(unit)) = (&reader, unit_deletes(file)) {
                planned.extensions.insert(FileDeletes::new(Arc::clone(reader), unit)?);
            }
            Ok(planned)
        };
        let files = plan.files.iter().zip(places).map(file).collect::<Result<_>>()?;
        let partitions_bytes = partitions.iter().flatten().map(PartValue::held_bytes).sum();
        Ok(Self { files, url, stores, partitions_bytes })
    }
}

/// Roots of the stores that a plan's files are in, each once.
struct RootList<'a> {
    roots: Vec<Url>,
    /// Places that the query may read. Metadata may name any.
    reach: &'a Reach,
}

/// Place of a file: the number of its store's root, and its path there.
struct Place {
    store: u16,
    path: Path,
}

impl RootList<'_> {
    fn place(&mut self, table: &Table, path: &FilePath) -> Result<Place> {
        let Location { store, path } = table.place(&path.to_string()).map_err(external)?;
        self.reach.check(store.as_str(), &path)?;
        let known = self.roots.iter().position(|known| *known == store);
        let number = known.unwrap_or(self.roots.len());
        if number >= STORES_MAX {
            return not_impl_err!("table `{}` has files in more than {STORES_MAX} buckets", table.name());
        }
        if known.is_none() {
            self.roots.push(store);
        }
        Ok(Place { store: number as u16, path })
    }

    fn delete_file(&mut self, table: &Table, file: &DeleteFile) -> Result<gust_protocol::DeleteFile> {
        let Place { store, path } = self.place(table, &file.path)?;
        let content = match &file.content {
            DeleteContent::Positions => gust_protocol::DeleteContent::Positions,
            DeleteContent::Vector { offset, bytes } => {
                gust_protocol::DeleteContent::Vector { offset: *offset, bytes: *bytes, cardinality: file.record_count }
            }
            DeleteContent::Equality { ids, scope, sequence_number } => gust_protocol::DeleteContent::Equality {
                ids: ids.to_vec(),
                scope: *scope,
                sequence_number: *sequence_number,
            },
        };
        let (path, size_bytes) = (path.to_string(), file.size_bytes);
        let file = ObjectRef { access: store, path, size_bytes, etag: None, footer_bytes: None };
        Ok(gust_protocol::DeleteFile { file, content })
    }

    /// Returns what files tell of their roots. None where the scan's URL says it.
    fn told(self) -> Option<Roots> {
        let is_said = |root: &Url| root.scheme() == "file" || root.path() == "/";
        match self.roots.as_slice() {
            [] => None,
            [root] if is_said(root) => None,
            roots => Some(Roots(roots.into())),
        }
    }
}

/// Returns the deletes of a file as its readers are told of them. None where no row is deleted.
fn unit_deletes(file: &ScanFile) -> Option<UnitDeletes> {
    let deletes = &file.deletes;
    (!deletes.is_empty()).then(|| UnitDeletes {
        path: file.path.to_string(),
        rows: file.record_count,
        vector: deletes.vector,
        set: deletes.set,
        sequence_number: file.sequence_number,
    })
}

/// Returns the memory of a file with its facts, in bytes, about.
pub(super) fn held_bytes(file: &PartitionedFile) -> usize {
    let facts = file.extensions.get::<FileFacts>().map_or(0, |facts| {
        size_of::<FileFacts>() + size_of::<(i32, u64)>() * facts.column_bytes.len() + size_of_val(&*facts.split_offsets)
    });
    size_of::<PartitionedFile>() + file.object_meta.location.as_ref().len() + facts
}

/// Returns the size of a file that is read whole with its footer: one request for all of it costs no more than another for the
/// columns that are wanted. None for others.
pub(super) fn whole_bytes(file: &PartitionedFile, columns: &BTreeSet<i32>, bridge_bytes: u64) -> Option<usize> {
    let (size, facts) = (file.object_meta.size, file.extensions.get::<FileFacts>()?);
    let of_columns = columns.iter().filter_map(|id| facts.column_bytes.get(id)).sum::<u64>();
    // Functions share larger files by their row groups.
    let is_one = facts.split_offsets.len() < 2 && size <= WHOLE_BYTES_MAX;
    // Of a file without a row left only the footer is read.
    let is_left = !file.extensions.get::<FileDeletes>().is_some_and(FileDeletes::deletes_all);
    let is_cheap = of_columns > 0 && size <= of_columns.saturating_add(bridge_bytes);
    if is_one && is_left && is_cheap { usize::try_from(size).ok() } else { None }
}

fn partitioned_file(
    file: &ScanFile,
    Place { store, path }: Place,
    is_pinned: bool,
    partitions: &Arc<[Partition]>,
) -> Result<PartitionedFile> {
    let meta = ObjectMeta {
        location: path,
        // Iceberg's data files never change, so that neither a time nor an etag is needed to tell versions apart. The time tells
        // stores apart.
        last_modified: chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(store.into()),
        size: file.size_bytes,
        e_tag: None,
        version: None,
    };
    let mut planned = PartitionedFile::new_from_meta(meta);
    let column_bytes = file.column_bytes.iter().copied().collect();
    let partition = is_pinned.then_some(file.partition);
    let is_parted = partitions.get(file.partition as usize).is_some_and(|partition| !partition.is_empty());
    let parted = is_parted.then(|| FilePartition::new(Arc::clone(partitions), file.partition));
    planned.extensions.insert(FileFacts {
        column_bytes,
        split_offsets: file.split_offsets.to_vec(),
        partition,
        parted,
    });
    if store > 0 {
        planned.extensions.insert(InStore(store));
    }
    if !file.identity_values.is_empty() {
        let encode = |identity: &IdentityValue| {
            let value = identity.value.as_ref().map(engine_value);
            let value = value.as_ref().map(encode_scalar).transpose();
            Ok((identity.field_id, value.map_err(DataFusionError::Plan)?))
        };
        planned.extensions.insert(FileConstants(file.identity_values.iter().map(encode).collect::<Result<_>>()?));
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_read_whole_where_that_is_cheap() {
        const MIB: u64 = 1 << 20;
        // Size, bytes of the columns 1 and 2, begins of row groups.
        for (size, bytes, groups, expect) in [
            (MIB, [1, 0], vec![], true),
            (MIB + 10, [1, 0], vec![4], false),
            (3 * MIB, [2 * MIB, 5], vec![4], true),
            (3 * MIB, [2 * MIB - 6, 5], vec![4], false),
            (3 * MIB, [2 * MIB, 5], vec![4, MIB], false),
            (5 * MIB, [5 * MIB - 100, 50], vec![4], false),
            (MIB, [0, 0], vec![], false),
        ] {
            let mut file = PartitionedFile::new("a.parquet", size);
            assert_eq!(whole_bytes(&file, &BTreeSet::from([1]), 1 << 20), None, "nothing is known");
            let column_bytes = (1..).zip(bytes).collect();
            file.extensions.insert(FileFacts { column_bytes, split_offsets: groups, ..FileFacts::default() });
            let found = whole_bytes(&file, &BTreeSet::from([1, 2, 9]), 1 << 20);
            assert_eq!(found, expect.then_some(size as usize), "{size} bytes, {bytes:?}");
        }
    }
}
