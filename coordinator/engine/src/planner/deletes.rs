//! Delete files of a fragment, or of a scan on the coordinator: each once, under numbers of its own. Pure.
//!
//! A file of positions that many fragments need may be read once, by the coordinator. Its positions then travel as vectors
//! ([`DigestedDeletes`]), of which each fragment reads those of its data files.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fragment_fn::{DeletePlan, FileDeletes};
use gust_protocol::{DeleteContent, DeleteFile, DeleteSet, UnitDeletes};

use super::passes::units::Unit;
use crate::exchange::DATA_ACCESS_FIRST;

/// Fragments of a stage above which a file of positions may be read for all of them at once.
const READERS_MAX: usize = 4;
/// Bytes of repeated reads of a file of positions above which it is.
const REPEATED_BYTES_MAX: u64 = 32 << 20;

/// Vectors in place of files of positions, by the paths of their data files. None for a file of which no row is deleted.
pub type DigestedDeletes = BTreeMap<String, Option<DeleteFile>>;

/// Delete files that the units of one fragment need, by their numbers in the scan. Units of one fragment mostly share their sets, so
/// that its size goes by the delete files, not by them and the units.
#[derive(Debug, Default)]
pub(super) struct FragmentDeletes<'a> {
    plan: Option<&'a DeletePlan>,
    vectors: BTreeSet<u32>,
    /// Files of positions, ascending.
    positions: Vec<u32>,
    /// Scopes of files of keys, with the least sequence number of their data files: older keys delete none of their rows.
    scopes: BTreeMap<u32, i64>,
}

impl<'a> FragmentDeletes<'a> {
    pub(super) fn of(units: impl IntoIterator<Item = &'a Unit>) -> Self {
        let mut found = Self::default();
        // Least sequence number of the units of each set.
        let mut sets: BTreeMap<u32, i64> = BTreeMap::new();
        for deletes in units.into_iter().filter_map(|unit| unit.file.extensions.get::<FileDeletes>()) {
            let UnitDeletes { vector, set, sequence_number: number, .. } = deletes.unit();
            found.plan = Some(deletes.plan());
            found.vectors.extend(vector);
            if let Some(set) = set {
                sets.entry(*set).and_modify(|oldest| *oldest = (*oldest).min(*number)).or_insert(*number);
            }
        }
        let known = found.plan.map(DeletePlan::sets).unwrap_or_default();
        for (set, number) in sets.iter().filter_map(|(set, number)| Some((known.get(*set as usize)?, *number))) {
            found.positions.extend(&set.positions);
            for scope in &set.scopes {
                found.scopes.entry(*scope).and_modify(|oldest| *oldest = number.min(*oldest)).or_insert(number);
            }
        }
        if sets.len() > 1 {
            found.positions.sort_unstable();
            found.positions.dedup();
        }
        found
    }

    /// Lists the delete files by their numbers in the scan, each once.
    fn numbers(&self) -> impl Iterator<Item = u32> {
        let newer = |(scope, number): (&u32, &i64)| self.plan.map(|plan| plan.newer(*scope, *number));
        let of_keys = self.scopes.iter().filter_map(newer).flatten();
        self.vectors.iter().chain(&self.positions).copied().chain(of_keys)
    }

    /// Lists the delete files.
    pub(super) fn files(&self) -> impl Iterator<Item = &'a DeleteFile> {
        let plan = self.plan;
        self.numbers().filter_map(move |number| plan?.file(number))
    }

    /// Sums up the bytes that are read of them.
    pub(super) fn bytes(&self) -> u64 {
        self.files().map(read_bytes).sum()
    }
}

/// Delete files of one fragment as its request names them.
#[derive(Debug, Default)]
pub(super) struct RequestDeletes<'a> {
    files: Vec<DeleteFile>,
    sets: Vec<DeleteSet>,
    /// Places of the scan's files among them.
    of_scan: HashMap<u32, u32>,
    /// Places of the scan's sets among them, as they are and without positions.
    sets_of_scan: HashMap<(u32, bool), Option<u32>>,
    /// Vectors in place of files of positions, by the paths of their data files.
    digested: Option<&'a DigestedDeletes>,
    /// Places of these vectors.
    of_digested: HashMap<&'a str, u32>,
}

impl<'a> RequestDeletes<'a> {
    /// Names the delete files of units. Those that are `digested` come in place of files of positions.
    pub(super) fn of(units: &[&Unit], digested: Option<&'a DigestedDeletes>) -> Self {
        let mut found = Self { digested, ..Self::default() };
        let is_digested = |unit: &&&Unit| {
            let path = unit.file.extensions.get::<FileDeletes>().map(|deletes| deletes.unit().path.as_str());
            digested.zip(path).is_some_and(|(digested, path)| digested.contains_key(path))
        };
        let read = FragmentDeletes::of(units.iter().filter(|unit| !is_digested(unit)).copied());
        // Keys of the others are read, too.
        let all = FragmentDeletes::of(units.iter().copied());
        let needed = FragmentDeletes { vectors: read.vectors, positions: read.positions, ..all };
        for (number, file) in needed.numbers().zip(needed.files()) {
            let mut file = file.clone();
            file.file.access += DATA_ACCESS_FIRST;
            found.of_scan.insert(number, found.files.len() as u32);
            found.files.push(file);
        }
        found
    }

    /// Returns a unit's deletes with the numbers that files and sets have in the request. None where the coordinator has found that
    /// no row is deleted.
    pub(super) fn unit(&mut self, own: &FileDeletes) -> Option<UnitDeletes> {
        let unit = own.unit();
        let digested = self.digested.and_then(|digested| digested.get_key_value(unit.path.as_str()));
        let vector = match digested {
            Some((path, vector)) => vector.as_ref().map(|vector| self.vector(path, vector)),
            None => unit.vector.and_then(|vector| self.of_scan.get(&vector).copied()),
        };
        let set = unit.set.and_then(|set| self.set(own, set, digested.is_some()));
        (vector.is_some() || set.is_some()).then(|| UnitDeletes { vector, set, ..unit.clone() })
    }

    /// Returns the place of a vector that the coordinator has made. Units of one file share it.
    fn vector(&mut self, path: &'a str, made: &DeleteFile) -> u32 {
        let next = self.files.len() as u32;
        let place = *self.of_digested.entry(path).or_insert(next);
        if place == next {
            self.files.push(made.clone());
        }
        place
    }

    /// Returns the place of a set. None for one that is empty without its positions.
    fn set(&mut self, own: &FileDeletes, number: u32, is_digested: bool) -> Option<u32> {
        if let Some(known) = self.sets_of_scan.get(&(number, is_digested)) {
            return *known;
        }
        let DeleteSet { positions, scopes } = own.plan().set(own.unit());
        let place = |number: &u32| self.of_scan.get(number).copied();
        let positions = if is_digested { Vec::new() } else { positions.iter().filter_map(place).collect() };
        let set = DeleteSet { positions, scopes: scopes.clone() };
        let place = (set != DeleteSet::default()).then(|| {
            self.sets.push(set);
            self.sets.len() as u32 - 1
        });
        self.sets_of_scan.insert((number, is_digested), place);
        place
    }

    /// Returns the files and the sets.
    pub(super) fn into_parts(self) -> (Vec<DeleteFile>, Vec<DeleteSet>) {
        (self.files, self.sets)
    }
}

/// Lists the deletes of data files whose positions the coordinator had better read once for all fragments, each file once.
pub(super) fn worth_digesting<'a>(fragments: impl IntoIterator<Item = Vec<&'a Unit>>) -> Vec<&'a FileDeletes> {
    let mut readers: BTreeMap<u32, usize> = BTreeMap::new();
    let mut files: BTreeMap<&str, &FileDeletes> = BTreeMap::new();
    for units in fragments {
        let own = units.iter().filter_map(|unit| unit.file.extensions.get::<FileDeletes>());
        let with_positions = own.filter(|deletes| !deletes.plan().set(deletes.unit()).positions.is_empty());
        files.extend(with_positions.map(|deletes| (deletes.unit().path.as_str(), deletes)));
        let positions = FragmentDeletes::of(units.iter().copied()).positions;
        positions.into_iter().for_each(|file| *readers.entry(file).or_default() += 1);
    }
    let Some(plan) = files.values().next().map(|deletes| deletes.plan()) else { return Vec::new() };
    let is_read_too_often = |number: &u32| {
        let readers = readers.get(number).copied().unwrap_or_default();
        let bytes = plan.file(*number).map_or(0, read_bytes);
        readers > READERS_MAX && bytes.saturating_mul(readers as u64 - 1) > REPEATED_BYTES_MAX
    };
    let worth: Vec<bool> = plan.sets().iter().map(|set| set.positions.iter().any(is_read_too_often)).collect();
    let is_worth =
        |deletes: &&FileDeletes| deletes.unit().set.is_some_and(|set| worth.get(set as usize) == Some(&true));
    files.into_values().filter(is_worth).collect()
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

    fn keys(scope: u32, sequence_number: i64) -> DeleteContent {
        DeleteContent::Equality { ids: vec![1], scope, sequence_number }
    }

    fn deletes(path: &str, vector: Option<u32>, set: Option<u32>) -> UnitDeletes {
        UnitDeletes { path: path.to_owned(), rows: 10, vector, set, sequence_number: 1 }
    }

    fn set(positions: &[u32], scopes: &[u32]) -> DeleteSet {
        DeleteSet { positions: positions.to_vec(), scopes: scopes.to_vec() }
    }

    /// Makes a unit of each data file of a scan with these delete files.
    fn units(files: Vec<DeleteFile>, sets: Vec<DeleteSet>, own: &[UnitDeletes]) -> Vec<Unit> {
        let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        let schema = Arc::new(Schema::empty());
        let reader = DeleteReader::new(Arc::from([]), DeletePlan::new("t".to_owned(), files, sets), own, schema, &pool);
        let reader = Arc::new(reader);
        let unit = |deletes: &UnitDeletes| {
            let mut file = PartitionedFile::new(deletes.path.clone(), 100);
            file.extensions.insert(FileDeletes::new(Arc::clone(&reader), deletes.clone()).expect("its files"));
            Unit { file, weight_bytes: 1 }
        };
        own.iter().map(unit).collect()
    }

    /// Tells what a request says of its units' deletes, with the files' names.
    fn told(units: &[&Unit], digested: Option<&DigestedDeletes>) -> Vec<String> {
        let mut request = RequestDeletes::of(units, digested);
        let own = units.iter().map(|unit| unit.file.extensions.get::<FileDeletes>().expect("deletes"));
        let named: Vec<Option<UnitDeletes>> = own.map(|own| request.unit(own)).collect();
        let (files, sets) = request.into_parts();
        let name = |place: &u32| files[*place as usize].file.path.as_str();
        let told = |unit: &Option<UnitDeletes>| {
            let Some(unit) = unit else { return "none".to_owned() };
            let DeleteSet { positions, scopes } = unit.set.map(|set| sets[set as usize].clone()).unwrap_or_default();
            let positions: Vec<&str> = positions.iter().map(name).collect();
            format!("{} {:?} {positions:?} {scopes:?}", unit.path, unit.vector.as_ref().map(name))
        };
        let all: Vec<&str> = files.iter().map(|file| file.file.path.as_str()).collect();
        assert!(files.iter().all(|file| file.file.access == 1 || file.file.path == "exchange"), "{files:?}");
        [format!("{all:?}, {} sets", sets.len())].into_iter().chain(named.iter().map(told)).collect()
    }

    #[test]
    fn a_request_names_each_delete_file_and_each_set_once() {
        let files = vec![
            file("v", 0, 1000, vector()),
            file("p", 0, 100, DeleteContent::Positions),
            file("q", 0, 200, DeleteContent::Positions),
            file("k", 0, 50, keys(3, 9)),
            file("old", 0, 40, keys(3, 1)),
        ];
        let sets = vec![set(&[], &[3]), set(&[1, 2], &[]), set(&[2], &[3])];
        let own = [
            deletes("a", Some(0), Some(0)),
            deletes("b", None, Some(1)),
            deletes("c", None, Some(2)),
            deletes("d", None, Some(2)),
        ];
        let units = units(files, sets, &own);
        let all = FragmentDeletes::of(&units);
        assert_eq!((all.files().count(), all.bytes()), (4, 10 + 100 + 200 + 50), "old keys delete nothing");
        let units: Vec<&Unit> = units.iter().collect();
        let expect = [
            r#"["v", "p", "q", "k"], 3 sets"#,
            r#"a Some("v") [] [3]"#,
            r#"b None ["p", "q"] []"#,
            r#"c None ["q"] [3]"#,
            r#"d None ["q"] [3]"#,
        ];
        assert_eq!(told(&units, None), expect);
        assert_eq!(told(&units[2..], None), [r#"["q", "k"], 1 sets"#, expect[3], expect[4]]);
        assert_eq!(told(&[], None), ["[], 0 sets"]);

        // The coordinator has read the positions of `b` and `c`.
        let made = file("exchange", 0, 77, vector());
        let digested = DigestedDeletes::from([("b".to_owned(), Some(made)), ("c".to_owned(), None)]);
        // No row of `b` is deleted, and nothing else is asked of its fragment.
        let nothing = DigestedDeletes::from([("b".to_owned(), None)]);
        assert_eq!(told(&units[1..2], Some(&nothing)), ["[], 0 sets", "none"]);
        let expect = [
            r#"["v", "q", "k", "exchange"], 3 sets"#,
            expect[1],
            r#"b Some("exchange") [] []"#,
            "c None [] [3]",
            expect[4],
        ];
        assert_eq!(told(&units, Some(&digested)), expect);
    }

    /// 10,000 data files, 2,000 files of keys and 500 of positions, all of which apply to all.
    #[test]
    fn a_request_of_many_files_is_small() {
        let mut files: Vec<DeleteFile> = (0..500).map(|_| file("p", 0, 1, DeleteContent::Positions)).collect();
        files.extend((0..2_000).map(|_| file("k", 0, 1, keys(0, 9))));
        let sets = vec![set(&(0..500).collect::<Vec<_>>(), &[0])];
        let own: Vec<_> = (0..10_000).map(|number| deletes(&number.to_string(), None, Some(0))).collect();
        let units = units(files, sets, &own);
        let units: Vec<&Unit> = units.iter().collect();
        assert_eq!(FragmentDeletes::of(units.iter().copied()).files().count(), 2_500);
        let mut request = RequestDeletes::of(&units, None);
        let named: Vec<UnitDeletes> =
            units.iter().filter_map(|unit| request.unit(unit.file.extensions.get().expect("deletes"))).collect();
        let (files, sets) = request.into_parts();
        let bytes = serde_json::to_vec(&(named, files, sets)).expect("plain data").len();
        assert!(bytes < 1_200_000, "{bytes} bytes");
    }

    #[test]
    fn positions_are_digested_where_fragments_would_read_many_bytes_again() {
        let check = |size_bytes: u64, fragments: usize, expect: &[&str]| {
            let files = vec![
                file("p", 0, size_bytes, DeleteContent::Positions),
                file("q", 0, 10, DeleteContent::Positions),
                file("k", 0, 1 << 30, keys(3, 9)),
            ];
            let sets = vec![set(&[0], &[3]), set(&[0, 1], &[3])];
            let own: Vec<_> =
                (0..fragments).map(|number| deletes(&format!("{number}"), None, Some(number.min(1) as u32))).collect();
            let units = units(files, sets, &own);
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
