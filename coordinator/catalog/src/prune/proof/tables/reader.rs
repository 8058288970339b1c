//! Rows that a reader finds by a plan.

use std::collections::BTreeSet;

use super::history::Deleted;
use super::*;
use crate::scan::{DeleteContent, DeleteSet, FilePlan};

impl History {
    /// Lists the rows that a reader finds by a plan.
    pub(super) fn read(&self, plan: &FilePlan, matches: &dyn Fn(&Row) -> bool) -> BTreeSet<(String, usize)> {
        let contents = |number: &u32| {
            let path = plan.deletes[*number as usize].path.to_string();
            &self.deletes.iter().find(|delete| delete.path == path).unwrap().content
        };
        let mut found = BTreeSet::new();
        for planned in &plan.files {
            let path = planned.path.to_string();
            let file = self.files.iter().find(|file| file.path == path).unwrap();
            let none = DeleteSet::default();
            let set = planned.deletes.set.map_or(&none, |set| &plan.delete_sets[set as usize]);
            let is_deleted = |position: usize, row: &Row| {
                let by_vector = planned.deletes.vector.iter().any(|number| match contents(number) {
                    Deleted::Vector { of, positions } => *of == path && positions.contains(&position),
                    other => panic!("{other:?} is no vector"),
                });
                let by_positions = set.positions.iter().any(|number| match contents(number) {
                    Deleted::Positions { rows, .. } => rows.contains(&(path.clone(), position)),
                    other => panic!("{other:?} has no positions"),
                });
                let by_keys = (0..).zip(&plan.deletes).any(|(number, delete)| match &delete.content {
                    DeleteContent::Equality { scope, sequence_number, .. } => {
                        let Deleted::Keys(keys) = contents(&number) else { panic!("{delete:?} has no keys") };
                        set.equality.contains(scope)
                            && *sequence_number > planned.sequence_number
                            && keys.contains(&row.1)
                    }
                    _ => false,
                });
                by_vector || by_positions || by_keys
            };
            for (position, row) in file.rows.iter().enumerate() {
                if matches(row) && !is_deleted(position, row) {
                    found.insert((path.clone(), position));
                }
            }
        }
        found
    }
}
