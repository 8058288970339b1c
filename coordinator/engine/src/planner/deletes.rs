//! Delete files of a fragment, or of a scan on the coordinator: each once, under numbers of its own. Pure.
//!
//! A file of positions that many fragments need may be read once, by the coordinator. Its positions then travel as vectors
//! ([`DigestedDeletes`]), of which each fragment reads those of its data files.

use std::collections::{BTreeMap, BTreeSet};

use fragment_fn::FileDeletes;
use gust_protocol::{DeleteContent, DeleteFile, UnitDeletes};

use super::passes::units::Unit;
use crate::exchange::DATA_ACCESS_FIRST;

/// Fragments of a stage above which a file of positions may be read for all of them at once.
const READERS_MAX: usize = 4;
/// Bytes of repeated reads of a file of positions above which it is.
const REPEATED_BYTES_MAX: u64 = 32 << 20;

/// Vectors in place of files of positions, by the paths of their data files. None for a file of which no row is deleted.
pub type DigestedDeletes = BTreeMap<String, Option<DeleteFile>>;

/// Delete files that the units of one fragment need.
#[derive(Debug, Default)]
pub(super) struct FragmentDeletes<'a> {
    /// Files as a request names them.
    files: Vec<DeleteFile>,
    /// Places of the scan's files among them.
    of_scan: BTreeMap<u32, u32>,
    /// Places of vectors in place of files of positions, by the paths of their data files.
    digested: BTreeMap<&'a str, Option<u32>>,
}

impl<'a> FragmentDeletes<'a> {
    pub(super) fn of(units: impl IntoIterator<Item = &'a Unit>) -> Self {
        Self::with(units, None)
    }

    /// Does the same, with vectors where the coordinator has made them.
    pub(super) fn with(units: impl IntoIterator<Item = &'a Unit>, digested: Option<&DigestedDeletes>) -> Self {
        let mut found = Self::default();
        for deletes in units.into_iter().filter_map(|unit| unit.file.extensions.get::<FileDeletes>()) {
            let path = deletes.unit().path.as_str();
            let vector = digested.and_then(|digested| digested.get(path));
            if let Some(vector) = vector.filter(|_| !found.digested.contains_key(path)) {
                let place = vector.as_ref().map(|vector| found.add(vector.clone()));
                found.digested.insert(path, place);
            }
            let is_of_positions = |number: &u32| deletes.unit().positions.contains(number);
            for number in deletes.needed().filter(|number| vector.is_none() || !is_of_positions(number)) {
                let Some(file) = deletes.files().get(number as usize) else { continue };
                if !found.of_scan.contains_key(&number) {
                    let mut file = file.clone();
                    file.file.access += DATA_ACCESS_FIRST;
                    let place = found.add(file);
                    found.of_scan.insert(number, place);
                }
            }
        }
        found
    }

    fn add(&mut self, file: DeleteFile) -> u32 {
        self.files.push(file);
        self.files.len() as u32 - 1
    }

    pub(super) fn files(&self) -> &[DeleteFile] {
        &self.files
    }

    pub(super) fn into_files(self) -> Vec<DeleteFile> {
        self.files
    }

    /// Sums up the bytes that are read of them.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(read_bytes).sum()
    }

    /// Returns a unit's deletes with the numbers that the files have in a request.
    pub(super) fn unit(&self, own: &UnitDeletes) -> UnitDeletes {
        let place = |number: &u32| self.of_scan.get(number).copied();
        let (vector, positions) = match self.digested.get(own.path.as_str()) {
            Some(digested) => (*digested, Vec::new()),
            None => (own.vector.as_ref().and_then(place), own.positions.iter().filter_map(place).collect()),
        };
        UnitDeletes { vector, positions, ..own.clone() }
    }
}

/// Lists the deletes of data files whose positions the coordinator had better read once for all fragments, each file once.
pub(super) fn worth_digesting<'a>(fragments: impl IntoIterator<Item = Vec<&'a Unit>>) -> Vec<&'a FileDeletes> {
    let mut readers: BTreeMap<u32, usize> = BTreeMap::new();
    let mut files: BTreeMap<&str, &FileDeletes> = BTreeMap::new();
    for units in fragments {
        let own = || units.iter().filter_map(|unit| unit.file.extensions.get::<FileDeletes>());
        files.extend(own().map(|deletes| (deletes.unit().path.as_str(), deletes)));
        let positions: BTreeSet<u32> = own().flat_map(|deletes| deletes.unit().positions.clone()).collect();
        positions.into_iter().for_each(|file| *readers.entry(file).or_default() += 1);
    }
    let is_read_too_often = |deletes: &FileDeletes, number: &u32| {
        let readers = readers.get(number).copied().unwrap_or_default();
        let bytes = deletes.files().get(*number as usize).map_or(0, read_bytes);
        readers > READERS_MAX && bytes.saturating_mul(readers as u64 - 1) > REPEATED_BYTES_MAX
    };
    files.retain(|_, deletes| deletes.unit().positions.iter().any(|number| is_read_too_often(deletes, number)));
    files.into_values().collect()
}

/// Returns the bytes that a reader of a delete file asks for.
pub(super) fn read_bytes(file: &DeleteFile) -> u64 {
    match file.content {
        DeleteContent::Vector { bytes, .. } => bytes,
        DeleteContent::Positions | DeleteContent::Equality { .. } => file.file.size_bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Schema;
    use datafusion::datasource::listing::PartitionedFile;
    use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
    use fragment_fn::DeleteReader;
    use gust_protocol::ObjectRef;

    use super::*;

    fn file(name: &str, access: u16, size_bytes: u64, content: DeleteContent) -> DeleteFile {
        let file = ObjectRef { access, path: name.to_owned(), size_bytes, etag: None, footer_bytes: None };
        DeleteFile { file, content }
    }

    fn vector() -> DeleteContent {
        DeleteContent::Vector { offset: 4, bytes: 10, cardinality: 1 }
    }

    fn keys(scope: u32) -> DeleteContent {
        DeleteContent::Equality { ids: vec![1], scope, sequence_number: 9 }
    }

    fn deletes(path: &str, vector: Option<u32>, positions: &[u32], scopes: &[u32]) -> UnitDeletes {
        let (path, positions, scopes) = (path.to_owned(), positions.to_vec(), scopes.to_vec());
        UnitDeletes { path, rows: 10, vector, positions, scopes, sequence_number: 1 }
    }

    /// Makes a unit of each data file of a scan with these delete files.
    fn units(files: Vec<DeleteFile>, own: &[UnitDeletes]) -> Vec<Unit> {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let schema = Arc::new(Schema::empty());
        let reader = Arc::new(DeleteReader::new(Arc::from([]), files.into(), own, schema, &pool));
        let unit = |deletes: &UnitDeletes| {
            let mut file = PartitionedFile::new(deletes.path.clone(), 100);
            file.extensions.insert(FileDeletes::new(Arc::clone(&reader), deletes.clone()).expect("its files"));
            Unit { file, weight_bytes: 1 }
        };
        own.iter().map(unit).collect()
    }

    #[test]
    fn a_fragment_names_each_delete_file_that_it_needs_once() {
        let files = vec![
            file("v", 0, 1000, vector()),
            file("p", 1, 100, DeleteContent::Positions),
            file("q", 0, 200, DeleteContent::Positions),
            file("k", 0, 50, keys(3)),
        ];
        let own = [deletes("a", Some(0), &[], &[3]), deletes("b", None, &[1, 2], &[]), deletes("c", None, &[2], &[3])];
        let units = units(files, &own);
        let all = FragmentDeletes::of(&units);
        assert_eq!((all.files().len(), all.bytes()), (4, 10 + 100 + 200 + 50));
        let last = FragmentDeletes::of(&units[2..]);
        let names: Vec<_> = last.files().iter().map(|file| (file.file.path.as_str(), file.file.access)).collect();
        assert_eq!(names, [("q", 1), ("k", 1)]);
        assert_eq!(last.unit(&own[2]), deletes("c", None, &[0], &[3]));
        assert!(FragmentDeletes::of(&[]).files().is_empty());

        // The coordinator has read the positions of `b` and `c`.
        let made = file("exchange", 0, 77, vector());
        let digested = DigestedDeletes::from([("b".to_owned(), Some(made.clone())), ("c".to_owned(), None)]);
        let fragment = FragmentDeletes::with(&units, Some(&digested));
        assert_eq!(fragment.unit(&own[0]), deletes("a", Some(0), &[], &[3]));
        let of_b = fragment.unit(&own[1]);
        assert_eq!(fragment.files()[of_b.vector.expect("a vector") as usize], made);
        assert_eq!((of_b.positions.len(), fragment.files().len()), (0, 3));
        assert_eq!(fragment.unit(&own[2]), deletes("c", None, &[], &[3]));
    }

    #[test]
    fn positions_are_digested_where_fragments_would_read_many_bytes_again() {
        let check = |size_bytes: u64, fragments: usize, expect: &[&str]| {
            let files = vec![
                file("p", 0, size_bytes, DeleteContent::Positions),
                file("q", 0, 10, DeleteContent::Positions),
                file("k", 0, 1 << 30, keys(3)),
            ];
            let own: Vec<_> = (0..fragments)
                .map(|number| deletes(&format!("{number}"), None, &[number.min(1) as u32, 0], &[3]))
                .collect();
            let units = units(files, &own);
            let mut found: Vec<_> = worth_digesting(units.iter().map(|unit| vec![unit]));
            found.truncate(2);
            let paths: Vec<_> = found.iter().map(|deletes| deletes.unit().path.as_str()).collect();
            assert_eq!(paths, expect, "{size_bytes} bytes, {fragments} fragments");
        };
        check(1 << 30, 4, &[]);
        check(1 << 30, 5, &["0", "1"]);
        check(1 << 20, 5, &[]);
        check(1 << 20, 100, &["0", "1"]);
    }
}
