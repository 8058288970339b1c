//! Deletes that apply to a data file, by the facts of manifests alone.
//!
//! | deletes by | apply to | where their sequence number is |
//! |---|---|---|
//! | vector | the file that it names, in place of the file's positions | the file's or larger |
//! | positions of one file | the file that it names | the file's or larger |
//! | positions | files of its spec and partition whose path its bounds admit | the file's or larger |
//! | equality | files of its spec and partition; all files where its spec has no field that is not void | larger |
//!
//! No I/O: no delete file is read to plan. A delete that applies to no file of the plan is left out, whatever it is.

use std::collections::HashMap;
use std::sync::Arc;

use crate::predicate::CompareOp;
use crate::prune::{Condition, Nulls, ValueRange};
use crate::scalar::Scalar;
use crate::scan::{ColumnFacts, DeleteSet};
use crate::types::Type;

/// Field of a position delete file that names data files.
pub(crate) const PATH_FIELD_ID: i32 = i32::MAX - 101;
/// Scope of equality deletes that apply whatever the partition is.
pub(crate) const GLOBAL_SCOPE: u32 = 0;

/// Fault of a delete file's entry, in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeleteFault {
    pub(crate) manifest: Arc<str>,
    pub(crate) why: String,
}

/// Delete file of a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct Delete {
    pub(crate) path: String,
    pub(crate) manifest: Arc<str>,
    pub(crate) sequence_number: i64,
    /// Spec and values of its partition.
    pub(crate) partition: Arc<[u8]>,
    pub(crate) record_count: u64,
    pub(crate) kind: DeleteKind,
}

#[derive(Debug, Clone)]
pub(crate) enum DeleteKind {
    /// Bitmap of the deleted rows of `of`.
    Vector { of: String },
    /// Positions, of the file `of` or of several. Their paths lie within the bounds.
    Positions { of: Option<String>, paths: Option<ColumnFacts> },
    /// Values of these columns. `is_global` where its spec has no field that is not void.
    Equality { keys: Vec<EqualityKey>, is_global: bool },
}

/// Column that an equality delete compares.
#[derive(Debug, Clone)]
pub(crate) struct EqualityKey {
    pub(crate) id: i32,
    pub(crate) ty: Option<Type>,
    pub(crate) facts: Option<ColumnFacts>,
}

/// Data file, on the question of its deletes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeletesOf<'a> {
    pub(crate) path: &'a str,
    pub(crate) record_count: u64,
    pub(crate) sequence_number: i64,
    pub(crate) partition: &'a [u8],
    /// Metrics of the columns that equality deletes compare.
    pub(crate) columns: &'a [ColumnFacts],
}

/// Delete files by what they apply to. Numbers are positions in the list that it was made of.
#[derive(Debug, Default)]
pub(crate) struct DeleteIndex {
    deletes: Vec<Delete>,
    /// Bounds of the deletes, by their numbers.
    bounds: Vec<Bounds>,
    vectors: HashMap<String, u32>,
    by_path: HashMap<String, Vec<u32>>,
    by_partition: HashMap<Arc<[u8]>, Scope>,
    global: Scope,
}

/// Bounds of what a delete file deletes.
#[derive(Debug, Default)]
struct Bounds {
    /// Paths that a position delete file may name. `None`: any.
    paths: Option<ValueRange>,
    /// Columns of an equality delete whose values are known to be within a range, none of them NULL.
    keys: Vec<(i32, ValueRange)>,
}

/// Numbers of deletes, the oldest first.
#[derive(Debug, Default)]
struct Scope {
    /// Number of the scope for equality deletes.
    number: u32,
    positions: Vec<u32>,
    equality: Vec<u32>,
}

/// Deletes of a data file, by their numbers in an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FoundDeletes {
    pub(crate) vector: Option<u32>,
    pub(crate) set: DeleteSet,
}

impl DeleteIndex {
    pub(crate) fn new(deletes: Vec<Delete>) -> Result<Self, DeleteFault> {
        let mut index = DeleteIndex::default();
        for (delete, number) in deletes.iter().zip(0..) {
            match &delete.kind {
                DeleteKind::Vector { of } => {
                    if let Some(first) = index.vectors.insert(of.clone(), number) {
                        let first = deletes.get(first as usize).map_or("", |first| first.path.as_str());
                        let why = format!("file {of} has two deletion vectors, in {first} and in {}", delete.path);
                        return Err(delete.fault(why));
                    }
                }
                DeleteKind::Positions { of: Some(path), .. } => {
                    index.by_path.entry(path.clone()).or_default().push(number);
                }
                DeleteKind::Positions { of: None, .. } => index.scope_mut(delete).positions.push(number),
                DeleteKind::Equality { is_global: true, .. } => index.global.equality.push(number),
                DeleteKind::Equality { .. } => index.scope_mut(delete).equality.push(number),
            }
        }
        let age = |number: &u32| deletes.get(*number as usize).map(|delete| delete.sequence_number);
        index.by_path.values_mut().for_each(|numbers| numbers.sort_by_key(age));
        for scope in index.by_partition.values_mut().chain([&mut index.global]) {
            scope.positions.sort_by_key(age);
            scope.equality.sort_by_key(age);
        }
        index.bounds = deletes.iter().map(Bounds::of).collect();
        index.deletes = deletes;
        Ok(index)
    }

    /// Returns those of the numbers, the oldest first, whose sequence number is `from` or larger.
    fn since<'a>(&self, numbers: &'a [u32], from: i64) -> &'a [u32] {
        let is_older =
            |number: &u32| self.deletes.get(*number as usize).is_some_and(|found| found.sequence_number < from);
        numbers.get(numbers.partition_point(is_older)..).unwrap_or_default()
    }

    fn scope_mut(&mut self, delete: &Delete) -> &mut Scope {
        let number = self.by_partition.len() as u32 + 1;
        let partition = Arc::clone(&delete.partition);
        self.by_partition.entry(partition).or_insert(Scope { number, ..Scope::default() })
    }

    /// Returns the scope of an equality delete.
    pub(crate) fn scope(&self, delete: &Delete) -> u32 {
        match &delete.kind {
            DeleteKind::Equality { is_global: true, .. } => GLOBAL_SCOPE,
            _ => self.by_partition.get(&delete.partition).map_or(GLOBAL_SCOPE, |scope| scope.number),
        }
    }

    /// Finds the deletes of a file. It marks the delete files that the file's rows need in `used`, which has a mark for each of the
    /// index. It compares a file with delete files that no file needed so far, and with others until one applies.
    ///
    /// # Errors
    /// A vector that is older than its file, or has more positions than the file has rows.
    pub(crate) fn of(&self, file: DeletesOf<'_>, used: &mut [bool]) -> Result<FoundDeletes, DeleteFault> {
        let scope = self.by_partition.get(file.partition);
        let vector = self.vector_of(&file)?;
        let (mut positions, mut equality) = (Vec::new(), Vec::new());
        if vector.is_none() {
            let of_path = self.by_path.get(file.path).map(Vec::as_slice).unwrap_or_default();
            let of_partition = scope.map(|scope| scope.positions.as_slice()).unwrap_or_default();
            let path = Condition::Compare(CompareOp::Eq, Scalar::String(file.path.to_owned()));
            let admits = |number: &&u32| {
                let paths = self.bounds.get(**number as usize).and_then(|bounds| bounds.paths.as_ref());
                paths.is_none_or(|paths| paths.admits(&path))
            };
            let of_path = self.since(of_path, file.sequence_number).iter();
            let of_partition = self.since(of_partition, file.sequence_number).iter();
            positions.extend(of_path.chain(of_partition).filter(admits));
            positions.sort_unstable();
        }
        for number in vector.iter().chain(&positions) {
            if let Some(used) = used.get_mut(*number as usize) {
                *used = true;
            }
        }
        let mut ranges = HashMap::new();
        let mut meets = |number: u32| {
            let bounds = self.bounds.get(number as usize);
            bounds.is_none_or(|bounds| !bounds.are_apart(&file, &mut ranges))
        };
        for scope in [Some(&self.global), scope].into_iter().flatten() {
            let newer = self.since(&scope.equality, file.sequence_number.saturating_add(1));
            let mut applies = false;
            for number in newer {
                let Some(used) = used.get_mut(*number as usize).filter(|used| !**used) else { continue };
                *used = meets(*number);
                applies |= *used;
            }
            // Those that were in use before tell no more than that one applies.
            let is_used = |number: &&u32| used.get(**number as usize) == Some(&true);
            if applies || newer.iter().filter(is_used).any(|number| meets(*number)) {
                equality.push(scope.number);
            }
        }
        let set = DeleteSet { positions: positions.into(), equality: equality.into() };
        Ok(FoundDeletes { vector, set })
    }

    /// Returns the number of a file's vector.
    ///
    /// # Errors
    /// Those of [`Self::of`].
    fn vector_of(&self, file: &DeletesOf<'_>) -> Result<Option<u32>, DeleteFault> {
        let Some(number) = self.vectors.get(file.path) else { return Ok(None) };
        let Some(vector) = self.deletes.get(*number as usize) else { return Ok(None) };
        let DeletesOf { path, sequence_number, record_count, .. } = file;
        if vector.sequence_number < *sequence_number {
            let why = format!(
                "the deletion vector of {path} has sequence number {}, the file has {sequence_number}",
                vector.sequence_number
            );
            return Err(vector.fault(why));
        }
        if vector.record_count > *record_count {
            let why = format!(
                "the deletion vector of {path} has {} positions, the file has {record_count} rows",
                vector.record_count
            );
            return Err(vector.fault(why));
        }
        Ok(Some(*number))
    }
}

impl Delete {
    /// Lists the columns that an equality delete compares.
    pub(crate) fn equality_ids(&self) -> impl Iterator<Item = i32> {
        let keys = match &self.kind {
            DeleteKind::Equality { keys, .. } => keys.as_slice(),
            _ => &[],
        };
        keys.iter().map(|key| key.id)
    }

    fn fault(&self, why: String) -> DeleteFault {
        DeleteFault { manifest: Arc::clone(&self.manifest), why }
    }
}

impl Bounds {
    fn of(delete: &Delete) -> Bounds {
        match &delete.kind {
            // Cut and inverted bounds say little, so that they admit a path.
            DeleteKind::Positions { of: None, paths: Some(paths) } => {
                let (lower, upper) = (paths.lower.clone(), paths.upper.clone());
                let paths = ValueRange { lower, upper, nulls: Nulls::Maybe, nan: false, cut: true }.trusted();
                Bounds { paths: Some(paths), keys: Vec::new() }
            }
            DeleteKind::Equality { keys, .. } => {
                let keys = keys.iter().filter(|key| key.ty.as_ref().is_some_and(Type::has_exact_bounds));
                let keys = keys.map(|key| (key.id, ValueRange::of_column(delete.record_count, key.facts.as_ref())));
                // NULL is a key like any other.
                Bounds { paths: None, keys: keys.filter(|(_, range)| range.nulls == Nulls::None).collect() }
            }
            _ => Bounds::default(),
        }
    }

    /// Returns true where an equality delete has no key of the file. `ranges` are those of the file's columns so far.
    fn are_apart(&self, file: &DeletesOf<'_>, ranges: &mut HashMap<i32, ValueRange>) -> bool {
        self.keys.iter().any(|(id, of_keys)| {
            let of_file = ranges.entry(*id).or_insert_with(|| {
                let facts = file.columns.iter().find(|column| column.id == *id);
                ValueRange::of_column(file.record_count, facts)
            });
            below(of_file, of_keys) || below(of_keys, of_file)
        })
    }
}

/// Returns true where all values of `a` are below those of `b`.
fn below(a: &ValueRange, b: &ValueRange) -> bool {
    let order = a.upper.as_ref().zip(b.lower.as_ref()).and_then(|(upper, lower)| upper.compare(lower));
    order == Some(std::cmp::Ordering::Less)
}

#[cfg(test)]
mod tests;
