//! Files of a plan as they come from manifests, and the deletes that apply to them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::deletes::{DeleteFault, DeleteIndex, DeletesOf, FoundDeletes};
use crate::error::{Error, MetadataFile, Result};
use crate::manifests::choose::{SelectedPartition, Selection};
use crate::manifests::delete::FoundDelete;
use crate::scan::{ColumnFacts, DeleteSet, FileDeletes, FilePlan};
use crate::table::Table;

/// Selections of a plan so far.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) plan: FilePlan,
    /// Keys of the plan's partitions, in their order.
    keys: Vec<Arc<[u8]>>,
    places: HashMap<Arc<[u8]>, u32>,
}

impl Collected {
    pub(super) fn merge(&mut self, selection: Selection) {
        let mut places = Vec::with_capacity(selection.partitions.len());
        for SelectedPartition { key, hit, parted_by } in selection.partitions {
            let next = self.keys.len() as u32;
            let place = *self.places.entry(Arc::clone(&key)).or_insert(next);
            match self.plan.route.partitions.get_mut(place as usize) {
                Some(known) => {
                    known.files += hit.files;
                    // A manifest that lacks a field has the key of one that has NULL there.
                    if let Some(values) = self.plan.parted_by.get_mut(place as usize).filter(|own| **own != parted_by) {
                        *values = Box::default();
                    }
                }
                None => {
                    self.plan.route.partitions.push(hit);
                    self.plan.parted_by.push(parted_by);
                    self.keys.push(key);
                }
            }
            places.push(place);
        }
        self.plan.files.extend(selection.files.into_iter().map(|mut file| {
            file.partition = places.get(file.partition as usize).copied().unwrap_or_default();
            file
        }));
        let pruning = &mut self.plan.pruning;
        pruning.manifests_read += 1;
        pruning.files_total = pruning.files_total.saturating_add(selection.pruning.files_total);
        pruning.files_kept += selection.pruning.files_kept;
        pruning.bytes_kept = pruning.bytes_kept.saturating_add(selection.pruning.bytes_kept);
        for pruned in selection.pruning.by_reason {
            pruning.book(pruned);
        }
    }

    /// Gives each file its deletes. One of which nothing seems to be left stays: its vector is read before that is believed.
    pub(super) fn with_deletes(self, table: &Table, found: Vec<Arc<FoundDelete>>) -> Result<FilePlan> {
        let Collected { mut plan, keys, .. } = self;
        let fault = |DeleteFault { manifest, why }| {
            Error::corrupt(&*manifest, why).in_table(table.name(), MetadataFile::Manifest)
        };
        let index = DeleteIndex::new(found.iter().map(|found| found.delete.clone()).collect()).map_err(fault)?;
        let mut used = vec![false; found.len()];
        let mut sets: HashMap<DeleteSet, u32> = HashMap::new();
        let mut kept = Vec::with_capacity(plan.files.len());
        for mut file in std::mem::take(&mut plan.files) {
            let path = file.path.to_string();
            // The value of such a column is the partition's, also where an imported file has a column of this name.
            let is_partition = |id| file.identity_values.iter().any(|value| value.field_id == id);
            let columns: Cow<'_, [ColumnFacts]> = match file.columns.iter().any(|column| is_partition(column.id)) {
                true => file.columns.iter().filter(|column| !is_partition(column.id)).cloned().collect(),
                false => Cow::Borrowed(&file.columns),
            };
            let of = DeletesOf {
                path: &path,
                record_count: file.record_count,
                sequence_number: file.sequence_number,
                partition: keys.get(file.partition as usize).map_or(&[], |key| key),
                columns: &columns,
            };
            let FoundDeletes { vector, set } = index.of(of, &mut used).map_err(fault)?;
            let next = sets.len() as u32;
            let set = (!set.is_empty()).then(|| *sets.entry(set).or_insert(next));
            file.deletes = FileDeletes { vector, set };
            kept.push(file);
        }
        plan.files = kept;
        // Delete files in use have other places in the plan than in the index.
        let mut places = vec![0; found.len()];
        for ((place, found), _) in places.iter_mut().zip(&found).zip(used).filter(|(_, used)| *used) {
            *place = plan.deletes.len() as u32;
            plan.deletes.push(found.to_read(table, &index)?);
        }
        let place = |number: u32| places.get(number as usize).copied().unwrap_or_default();
        plan.files.iter_mut().for_each(|file| file.deletes.vector = file.deletes.vector.map(place));
        let mut sets: Vec<(DeleteSet, u32)> = sets.into_iter().collect();
        sets.sort_unstable_by_key(|(_, number)| *number);
        let renumbered = |DeleteSet { positions, equality }| DeleteSet {
            positions: positions.into_iter().map(place).collect(),
            equality,
        };
        plan.delete_sets = sets.into_iter().map(|(set, _)| renumbered(set)).collect();
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{PartedBy, PartitionHit};
    use crate::types::{Transform, Type};

    #[test]
    fn values_on_which_manifests_of_one_key_differ_are_not_told() {
        let null = PartedBy { source_id: 1, transform: Transform::Bucket(4), source_type: Type::Long, value: None };
        let mut collected = Collected::default();
        let mut merged = |values: &[PartedBy]| {
            let hit = PartitionHit { spec_id: 0, text: String::new(), files: 1 };
            let partition = SelectedPartition { key: Arc::from([0]), hit, parted_by: values.into() };
            collected.merge(Selection { partitions: vec![partition], ..Selection::default() });
            collected.plan.parted_by.concat()
        };
        let told = std::slice::from_ref(&null);
        assert_eq!(merged(told), told);
        assert_eq!(merged(told), told);
        assert!(merged(&[]).is_empty());
        assert!(merged(told).is_empty());
    }
}
