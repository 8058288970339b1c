//! Delete files of one scan as a plan names them: each once, and each set of them that data files share. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use gust_protocol::{DeleteContent, DeleteFile, DeleteSet, UnitDeletes};

/// Delete files of a scan. A number of one is its position in [`Self::files`].
#[derive(Debug, Default)]
pub struct DeletePlan {
    /// Name of the table, for messages.
    table: String,
    files: Vec<DeleteFile>,
    sets: Vec<DeleteSet>,
    /// Groups of files of keys, by their scopes and then by their fields.
    groups: Vec<KeyGroup>,
    none: DeleteSet,
}

/// Files of keys with the same fields and the same scope.
#[derive(Debug)]
pub struct KeyGroup {
    pub scope: u32,
    /// Field ids, ascending.
    pub ids: Vec<i32>,
    /// Files, the oldest first.
    files: Vec<KeyFile>,
}

/// File of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct KeyFile {
    /// Largest sequence number of its keys.
    newest: i64,
    number: u32,
}

impl KeyGroup {
    /// Lists its files by their numbers, the oldest first.
    pub fn files(&self) -> impl Iterator<Item = u32> {
        self.files.iter().map(|file| file.number)
    }

    /// Returns the largest sequence number of its keys.
    pub fn newest(&self) -> i64 {
        self.files.last().map_or(i64::MIN, |file| file.newest)
    }

    /// Lists the files with keys that delete rows of a data file with the sequence number `number`.
    pub fn newer(&self, number: i64) -> impl ExactSizeIterator<Item = u32> {
        self.between(number, i64::MAX)
    }

    /// Lists the files among these that are not newer than `until`.
    pub fn between(&self, number: i64, until: i64) -> impl ExactSizeIterator<Item = u32> {
        let older = self.files.partition_point(|file| file.newest <= number);
        let end = self.files.partition_point(|file| file.newest <= until);
        self.files.get(older..end).unwrap_or_default().iter().map(|file| file.number)
    }
}

impl DeletePlan {
    pub fn new(table: String, files: Vec<DeleteFile>, sets: Vec<DeleteSet>) -> Self {
        let mut groups: BTreeMap<(u32, Vec<i32>), Vec<KeyFile>> = BTreeMap::new();
        for (file, number) in files.iter().zip(0..) {
            let (ids, scope, newest) = match &file.content {
                DeleteContent::Equality { ids, scope, sequence_number } => (ids, *scope, *sequence_number),
                DeleteContent::Keys { ids, scope, newest, .. } => (ids, *scope, *newest),
                DeleteContent::Positions | DeleteContent::Vector { .. } => continue,
            };
            let mut ids = ids.clone();
            ids.sort_unstable();
            ids.dedup();
            groups.entry((scope, ids)).or_default().push(KeyFile { newest, number });
        }
        let group = |((scope, ids), mut files): ((u32, Vec<i32>), Vec<KeyFile>)| {
            files.sort_unstable();
            KeyGroup { scope, ids, files }
        };
        Self { table, files, sets, groups: groups.into_iter().map(group).collect(), none: DeleteSet::default() }
    }

    pub fn table(&self) -> &str {
        &self.table
    }

    pub fn files(&self) -> &[DeleteFile] {
        &self.files
    }

    pub fn sets(&self) -> &[DeleteSet] {
        &self.sets
    }

    pub fn file(&self, number: u32) -> Option<&DeleteFile> {
        self.files.get(number as usize)
    }

    /// Returns the deletes that a data file shares with others.
    pub fn set(&self, unit: &UnitDeletes) -> &DeleteSet {
        unit.set.and_then(|set| self.sets.get(set as usize)).unwrap_or(&self.none)
    }

    pub fn groups(&self) -> &[KeyGroup] {
        &self.groups
    }

    /// Returns the positions of a scope's groups in [`Self::groups`].
    pub fn groups_of(&self, scope: u32) -> Range<usize> {
        let first = self.groups.partition_point(|group| group.scope < scope);
        first..self.groups.partition_point(|group| group.scope <= scope)
    }
}
