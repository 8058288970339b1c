//! A table's metadata file: what a scan needs of it.
//!
//! ```text
//! bytes ── inflate ──▶ JSON ── json.rs ──▶ TableMetadata
//!                                │
//!                                └── schema.rs: types, fields     spec.rs: partition specs
//! ```
//!
//! Versions 1 to 3 are read. Unknown keys are ignored, and so is what no scan needs. A type that cannot be read is refused
//! by name where the current schema has it; an older schema with such a type is left out.

mod json;
pub(crate) mod schema;
mod spec;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use crate::types::{Field, Schema};

pub(crate) use spec::{Spec, SpecPart, parts};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Most bytes of a metadata file, inflated.
const INFLATED_BYTES_MAX: u64 = 256 << 20;
/// Most values of a metadata file: in memory, each takes many times its bytes.
const VALUES_MAX: usize = 8_000_000;
const ENCRYPTION_PROPERTY: &str = "encryption.key-id";

/// Reason why metadata cannot be used.
#[derive(Debug)]
pub(crate) enum MetadataFault {
    Corrupt(String),
    Unsupported { feature: String, next: &'static str },
}

impl MetadataFault {
    pub(crate) fn corrupt(why: impl Into<String>) -> Self {
        MetadataFault::Corrupt(why.into())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct TableMetadata {
    pub(crate) format_version: u8,
    /// Name that no other table has. Version 1 may leave it out.
    pub(crate) uuid: Option<String>,
    /// Folder of the table.
    pub(crate) location: String,
    /// Schemas that can be read: the current one first, then from the newest to the oldest.
    pub(crate) schemas: Vec<Schema>,
    /// Ids of the schemas, in the same order.
    pub(crate) schema_ids: Vec<i64>,
    pub(crate) specs: Vec<Spec>,
    pub(crate) default_spec_id: i32,
    /// The pinned snapshot: the current one, unless a version was asked for. `None` for a table without data.
    pub(crate) snapshot: Option<Snapshot>,
    /// Id of the table's current snapshot, also where another one is pinned.
    pub(crate) current_id: Option<i64>,
    /// Snapshots that have not expired, as the file lists them. Those without manifests are left out.
    pub(crate) snapshots: Arc<[Snapshot]>,
    /// Branches and tags by name.
    pub(crate) references: Arc<BTreeMap<String, Reference>>,
    /// Current snapshots of the past, the oldest first.
    pub(crate) log: Arc<[LogEntry]>,
    /// Counts of distinct values by field id, of each snapshot for which somebody has counted them.
    pub(crate) distinct: Arc<BTreeMap<i64, BTreeMap<i32, u64>>>,
    pub(crate) is_encrypted: bool,
    /// Bytes that it holds, about.
    pub(crate) held_bytes: usize,
    properties: BTreeMap<String, String>,
}

/// Branch or tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) snapshot: i64,
    pub(crate) is_branch: bool,
    pub(crate) max_age_ms: Option<i64>,
    pub(crate) min_snapshots: Option<i32>,
    pub(crate) max_snapshot_age_ms: Option<i64>,
}

/// Time at which a snapshot became the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) timestamp_ms: i64,
    pub(crate) snapshot: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) id: i64,
    pub(crate) parent: Option<i64>,
    /// Schema that was the current one. Version 1 may leave it out.
    pub(crate) schema_id: Option<i64>,
    /// Summary of the commit, as JSON. Empty where there is none.
    pub(crate) summary: Box<str>,
    pub(crate) is_encrypted: bool,
    /// Time of the commit, in milliseconds since 1970.
    pub(crate) timestamp_ms: i64,
    pub(crate) manifests: ManifestSource,
    /// Bytes of all data files, as the commit summed them up.
    pub(crate) files_bytes: Option<u64>,
    pub(crate) totals: Totals,
}

/// Files of a snapshot, as the commit summed them up. None where it did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) data: Option<Total>,
    /// Delete files. Their rows are positions, bits of vectors, and keys.
    pub(crate) deletes: Option<Total>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) files: u64,
    pub(crate) rows: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum ManifestSource {
    /// File that lists the manifests.
    List(String),
    /// Manifests of a snapshot of version 1 without such a file.
    Paths(Vec<String>),
}

/// Field of one of the table's schemas.
#[derive(Debug, Clone)]
pub(crate) struct FoundField<'a> {
    /// Dotted name.
    pub(crate) name: String,
    pub(crate) field: &'a Field,
}

impl TableMetadata {
    /// Parses a metadata file, gzipped or not.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, MetadataFault> {
        let inflated = match bytes.starts_with(&GZIP_MAGIC) {
            true => Some(inflate(bytes)?),
            false => None,
        };
        let bytes = inflated.as_deref().unwrap_or(bytes);
        let values = bytes.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
        match values > VALUES_MAX {
            true => Err(MetadataFault::corrupt(format!("it has more than {VALUES_MAX} values"))),
            false => json::parse(bytes),
        }
    }

    pub(crate) fn schema(&self) -> &Schema {
        static EMPTY: Schema = Schema { fields: Vec::new() };
        self.schemas.first().unwrap_or(&EMPTY)
    }

    /// Finds a field by its id, in the current schema or else in the newest that has it.
    pub(crate) fn field(&self, id: i32) -> Option<FoundField<'_>> {
        self.schemas.iter().find_map(|schema| find(&schema.fields, id))
    }

    /// Returns the dotted name that a column has today.
    pub(crate) fn current_name(&self, id: i32) -> Option<String> {
        find(&self.schema().fields, id).map(|found| found.name)
    }

    /// Lists the fields of all schemas at every depth, those of the current one first.
    pub(crate) fn all_fields(&self) -> Vec<&Field> {
        let mut all = Vec::new();
        self.schemas.iter().flat_map(|schema| &schema.fields).for_each(|field| field.collect(&mut all));
        all
    }

    pub(crate) fn spec(&self, id: i32) -> Option<&Spec> {
        self.specs.iter().find(|spec| spec.id == id)
    }

    /// Returns the fields of the spec for new files. An unpartitioned table of version 1 may not list its spec.
    pub(crate) fn default_spec(&self) -> &[spec::SpecPart] {
        self.spec(self.default_spec_id).map_or(&[], |spec| &spec.parts)
    }

    /// Returns all properties of the table.
    pub(crate) fn properties(&self) -> &BTreeMap<String, String> {
        &self.properties
    }

    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }
}

/// Finds a field by its id among these and those below them.
fn find(fields: &[Field], id: i32) -> Option<FoundField<'_>> {
    fields.iter().find_map(|field| {
        if field.id == id {
            return Some(FoundField { name: field.name.clone(), field });
        }
        let below = field.ty.children().find_map(|child| find(std::slice::from_ref(child), id))?;
        Some(FoundField { name: format!("{}.{}", field.name, below.name), field: below.field })
    })
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, MetadataFault> {
    let mut inflated = Vec::new();
    match MultiGzDecoder::new(bytes).take(INFLATED_BYTES_MAX + 1).read_to_end(&mut inflated) {
        Ok(read) if read as u64 > INFLATED_BYTES_MAX => {
            Err(MetadataFault::corrupt(format!("it inflates to more than {INFLATED_BYTES_MAX} bytes")))
        }
        Ok(_) => Ok(inflated),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(MetadataFault::corrupt("its gzip stream ends early"))
        }
        Err(error) => Err(MetadataFault::corrupt(format!("its gzip stream: {error}"))),
    }
}
