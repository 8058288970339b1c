//! Columns whose metrics are read from manifests.

use std::collections::{BTreeMap, BTreeSet};

use super::entry::{ABSENT, DecodedManifest, Metrics};
use crate::deletes::PATH_FIELD_ID;
use crate::metadata::TableMetadata;
use crate::prune::BoundPredicate;
use crate::scalar::Scalar;
use crate::scan::ColumnFacts;
use crate::types::Type;

/// Columns whose metrics a scan needs: those that it asks for, and those of its predicate.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Types by id. `None` where no schema has the column.
    types: BTreeMap<i32, Option<Type>>,
    pub(super) asked: BTreeSet<i32>,
    pub(super) of_predicate: Vec<i32>,
}

impl Wanted {
    pub(crate) fn new(metadata: &TableMetadata, asked: &BTreeSet<i32>, bound: &BoundPredicate) -> Self {
        let of_predicate: Vec<i32> = bound.column_ids().collect();
        let ids = asked.iter().chain(&of_predicate);
        let types = ids.map(|id| (*id, metadata.field(*id).map(|found| found.field.ty.clone()))).collect();
        Wanted { types, asked: asked.clone(), of_predicate }
    }

    /// Lists the ids, ascending.
    pub(crate) fn ids(&self) -> Vec<i32> {
        self.types.keys().copied().collect()
    }

    /// Makes the columns of delete files: all that the table ever had, and the paths of data files.
    pub(crate) fn of_deletes(metadata: &TableMetadata) -> Self {
        let mut types = BTreeMap::from([(PATH_FIELD_ID, Some(Type::String))]);
        // The newest schema that has a column says its type.
        metadata.all_fields().into_iter().for_each(|field| {
            types.entry(field.id).or_insert_with(|| Some(field.ty.clone()));
        });
        Wanted { types, asked: BTreeSet::new(), of_predicate: Vec::new() }
    }

    /// Returns the type of a column. `None` where no schema has it.
    pub(crate) fn ty(&self, id: i32) -> Option<Type> {
        self.types.get(&id).cloned().flatten()
    }

    pub(super) fn facts(&self, manifest: &DecodedManifest, metrics: &Metrics) -> ColumnFacts {
        let known = |count: u64| (count != ABSENT).then_some(count);
        let ty = self.types.get(&metrics.id).and_then(Option::as_ref);
        let bound = |bytes: Option<&[u8]>| Scalar::from_bound(bytes?, ty?);
        ColumnFacts {
            id: metrics.id,
            values: known(metrics.values),
            nulls: known(metrics.nulls),
            nans: known(metrics.nans),
            lower: bound(manifest.lower(metrics)),
            upper: bound(manifest.upper(metrics)),
        }
    }
}
