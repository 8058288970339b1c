//! Delete files of one scan as a plan names them: each once, and each set of them that data files share. Pure.

use std::collections::BTreeMap;

use gust_protocol::{DeleteContent, DeleteFile, DeleteSet, UnitDeletes};

/// Delete files of a scan. A number of one is its position in [`Self::files`].
#[derive(Debug, Default)]
pub struct DeletePlan {
    /// Name of the table, for messages.
    table: String,
    files: Vec<DeleteFile>,
    sets: Vec<DeleteSet>,
    /// Files of keys by their scopes, the oldest first.
    scopes: BTreeMap<u32, Vec<KeyFile>>,
    none: DeleteSet,
}

/// File of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct KeyFile {
    sequence_number: i64,
    number: u32,
}

impl DeletePlan {
    pub fn new(table: String, files: Vec<DeleteFile>, sets: Vec<DeleteSet>) -> Self {
        let mut scopes: BTreeMap<u32, Vec<KeyFile>> = BTreeMap::new();
        for (file, number) in files.iter().zip(0..) {
            if let DeleteContent::Equality { scope, sequence_number, .. } = file.content {
                scopes.entry(scope).or_default().push(KeyFile { sequence_number, number });
            }
        }
        scopes.values_mut().for_each(|files| files.sort_unstable());
        Self { table, files, sets, scopes, none: DeleteSet::default() }
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

    /// Lists the files of keys of a scope, by their numbers, whose sequence number is larger than `number`.
    pub fn newer(&self, scope: u32, number: i64) -> impl Iterator<Item = u32> {
        let files = self.scopes.get(&scope).map(Vec::as_slice).unwrap_or_default();
        let older = files.partition_point(|file| file.sequence_number <= number);
        files.get(older..).unwrap_or_default().iter().map(|file| file.number)
    }
}
