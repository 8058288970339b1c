//! Manifest lists and manifests, read by field id.
//!
//! ```text
//! list.rs   : a snapshot's manifests, with counts and summaries
//! decode.rs : a manifest's live entries ──▶ entry.rs: packed, with the metrics of the columns that were asked for
//! choose.rs : entries that a query needs ──▶ ScanFile; delete.rs: delete files ──▶ crate::deletes
//! wanted.rs : columns whose metrics are read; value.rs: partition values
//! ```
//!
//! Contract: a manifest of any bytes gives entries or an error that says what is wrong with it.

#![deny(clippy::indexing_slicing)]

pub(crate) mod choose;
pub(crate) mod decode;
pub(crate) mod delete;
pub(crate) mod entry;
pub(crate) mod list;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod value;
pub(crate) mod wanted;

use crate::avro::{FieldAt, Slot};

/// Field of the specification: its id, its names, and the id of the field around it.
struct Known {
    id: u32,
    names: &'static [&'static str],
    parent: Option<Slot>,
}

const fn known(id: u32, names: &'static [&'static str], parent: Option<Slot>) -> Known {
    Known { id, names, parent }
}

/// Finds the slot of a field: its id, if it is among `fields`. A field without an id is found by its name.
fn slot(fields: &[Known], field: FieldAt<'_>) -> Option<Slot> {
    let mut inside = fields.iter().filter(|known| known.parent == field.parent);
    let found = match field.id {
        Some(id) => inside.find(|known| i64::from(known.id) == id),
        // An array's items have no name. One array has one kind of items.
        None => inside.find(|known| known.names.contains(&field.name)),
    };
    found.map(|known| known.id)
}
