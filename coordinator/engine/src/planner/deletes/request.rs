//! Delete files of one fragment as its request names them.

use std::collections::{BTreeMap, HashMap};

use fragment_fn::FileDeletes;
use gust_protocol::{DeleteFile, DeleteSet, UnitDeletes};

use super::{FragmentDeletes, own};
use crate::exchange::DATA_ACCESS_FIRST;
use crate::planner::passes::units::Unit;

/// Parts of an object in the exchange, which functions read in place of delete files.
#[derive(Debug, Default)]
pub struct DigestedDeletes {
    /// Vectors in place of files of positions, by the paths of their data files. None for a file of which no row is deleted.
    pub vectors: BTreeMap<String, Option<DeleteFile>>,
    /// Keys in place of files of keys, by the positions of their groups in the plan.
    pub keys: BTreeMap<usize, DigestedKeys>,
}

/// Keys in place of files of keys.
#[derive(Debug, Clone)]
pub struct DigestedKeys {
    pub file: DeleteFile,
    /// Sequence number above which files are in it.
    pub since: i64,
    /// Largest of the least sequence numbers of the fragments that it is for. For others their few files are less.
    pub until: i64,
}

/// Delete files of one fragment as its request names them.
#[derive(Debug, Default)]
pub(in crate::planner) struct RequestDeletes<'a> {
    files: Vec<DeleteFile>,
    sets: Vec<DeleteSet>,
    /// Places of the scan's files among them.
    of_scan: HashMap<u32, u32>,
    /// Places of the scan's sets among them, as they are and without positions.
    sets_of_scan: HashMap<(u32, bool), Option<u32>>,
    digested: Option<&'a DigestedDeletes>,
    /// Places of digested vectors.
    of_digested: HashMap<&'a str, u32>,
}

impl<'a> RequestDeletes<'a> {
    /// Names the delete files of units. What is `digested` comes in place of files.
    pub(in crate::planner) fn of(units: &[&Unit], digested: Option<&'a DigestedDeletes>) -> Self {
        let mut found = Self { digested, ..Self::default() };
        let has_vector = |unit: &&&Unit| {
            let path = own(unit).map(|deletes| deletes.unit().path.as_str());
            digested.zip(path).is_some_and(|(digested, path)| digested.vectors.contains_key(path))
        };
        let read = FragmentDeletes::of(units.iter().filter(|unit| !has_vector(unit)).copied());
        found.name(&read, read.vectors.iter().copied().chain(read.positions(|_| true)));
        // Keys of the others are read, too.
        let all = FragmentDeletes::of(units.iter().copied());
        for (group, (files, number)) in all.groups() {
            match digested.and_then(|digested| digested.keys.get(&group)).filter(|made| number <= made.until) {
                Some(made) => {
                    found.name(&all, files.between(number, made.since));
                    found.files.push(made.file.clone());
                }
                None => found.name(&all, files.newer(number)),
            }
        }
        found
    }

    /// Names files of a scan.
    fn name(&mut self, of: &FragmentDeletes<'_>, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let Some(mut file) = of.plan.and_then(|plan| plan.file(number)).cloned() else { continue };
            file.file.access += DATA_ACCESS_FIRST;
            self.of_scan.insert(number, self.files.len() as u32);
            self.files.push(file);
        }
    }

    /// Returns a unit's deletes with the numbers that files and sets have in the request. None where the coordinator has found that
    /// no row is deleted.
    pub(in crate::planner) fn unit(&mut self, own: &FileDeletes) -> Option<UnitDeletes> {
        let unit = own.unit();
        let digested = self.digested.and_then(|digested| digested.vectors.get_key_value(unit.path.as_str()));
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
    pub(in crate::planner) fn into_parts(self) -> (Vec<DeleteFile>, Vec<DeleteSet>) {
        (self.files, self.sets)
    }
}
