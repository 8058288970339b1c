//! Facts about a table for people: its snapshots, references, manifests, files. They come from metadata alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value as Json;

use crate::error::Result;
use crate::manifests::value::result_type;
use crate::metadata::ManifestSource;
use crate::scalar::Scalar;
use crate::table::Table;
use crate::types::Type;

/// Snapshot that has not expired.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotFacts {
    pub id: i64,
    pub parent: Option<i64>,
    pub timestamp_ms: i64,
    /// Operation of the commit: `append`, `overwrite`, `replace`, `delete`.
    pub operation: Option<String>,
    /// Path of the list of its manifests. None in old files of version 1.
    pub manifest_list: Option<String>,
    /// Summary of the commit, without its operation.
    pub summary: BTreeMap<String, String>,
}

/// Time at which a snapshot became the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    pub made_current_ms: i64,
    pub snapshot: i64,
    /// None where the snapshot has expired, or has none.
    pub parent: Option<i64>,
    /// True if the current snapshot was made from it. Snapshots that were rolled back are no ancestors.
    pub is_current_ancestor: bool,
}

/// Branch or tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceFacts {
    pub name: String,
    pub is_branch: bool,
    pub snapshot: i64,
    pub max_age_ms: Option<i64>,
    pub min_snapshots: Option<i32>,
    pub max_snapshot_age_ms: Option<i64>,
}

/// Manifest of the pinned snapshot. What its list does not say is None.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFacts {
    pub path: String,
    pub bytes: u64,
    pub spec_id: Option<i32>,
    pub has_deletes: bool,
    pub sequence_number: i64,
    /// Snapshot that added it.
    pub snapshot: Option<i64>,
    pub added_files: Option<u64>,
    pub existing_files: Option<u64>,
    pub deleted_files: Option<u64>,
}

/// Content of a live file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileContent {
    Data,
    PositionDeletes,
    EqualityDeletes,
}

/// Partition of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionFacts {
    /// Values in words: `day=2026-01-01, kind=a`.
    pub text: String,
    /// Values by the ids of their partition fields. None is NULL, and a value that is not of the field's type.
    pub values: Vec<(i32, Option<Scalar>)>,
}

/// Field of a table's partitions, in any of its specs.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionColumn {
    pub field_id: i32,
    /// Name in the newest spec that has the field.
    pub name: String,
    pub ty: Type,
}

/// Live file of the pinned snapshot: of data, or of deletes, whether they apply to any or not.
#[derive(Debug, Clone, PartialEq)]
pub struct FileInfo {
    pub content: FileContent,
    pub path: String,
    /// Name of the format, in capitals.
    pub format: String,
    pub spec_id: i32,
    pub partition: Arc<PartitionFacts>,
    pub record_count: u64,
    pub size_bytes: u64,
    /// Columns that deletes by equality compare.
    pub equality_ids: Vec<i32>,
}

impl Table {
    /// Lists the snapshots that have not expired, the oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotFacts> {
        let facts = self.metadata().snapshots.iter().map(|snapshot| {
            let mut summary = summary(&snapshot.summary);
            SnapshotFacts {
                id: snapshot.id,
                parent: snapshot.parent,
                timestamp_ms: snapshot.timestamp_ms,
                operation: summary.remove("operation"),
                manifest_list: match &snapshot.manifests {
                    ManifestSource::List(path) => Some(path.clone()),
                    ManifestSource::Paths(_) => None,
                },
                summary,
            }
        });
        let mut facts: Vec<_> = facts.collect();
        facts.sort_by_key(|snapshot| snapshot.timestamp_ms);
        facts
    }

    /// Lists the current snapshots of the past, the oldest first.
    pub fn history(&self) -> Vec<HistoryEntry> {
        let metadata = self.metadata();
        let parents: HashMap<i64, Option<i64>> =
            metadata.snapshots.iter().map(|snapshot| (snapshot.id, snapshot.parent)).collect();
        let mut ancestors = BTreeSet::new();
        let mut next = metadata.current_id;
        // A snapshot that is its own ancestor ends the walk.
        while let Some(id) = next.filter(|id| ancestors.insert(*id)) {
            next = parents.get(&id).copied().flatten();
        }
        let entry = |entry: &crate::metadata::LogEntry| HistoryEntry {
            made_current_ms: entry.timestamp_ms,
            snapshot: entry.snapshot,
            parent: parents.get(&entry.snapshot).copied().flatten(),
            is_current_ancestor: ancestors.contains(&entry.snapshot),
        };
        metadata.log.iter().map(entry).collect()
    }

    /// Lists branches and tags by name.
    pub fn references(&self) -> Vec<ReferenceFacts> {
        let references = self.metadata().references.iter().map(|(name, reference)| ReferenceFacts {
            name: name.clone(),
            is_branch: reference.is_branch,
            snapshot: reference.snapshot,
            max_age_ms: reference.max_age_ms,
            min_snapshots: reference.min_snapshots,
            max_snapshot_age_ms: reference.max_snapshot_age_ms,
        });
        references.collect()
    }

    /// Returns the properties of the table.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        self.metadata().properties()
    }

    /// Lists the manifests of the pinned snapshot, in the order of its list.
    ///
    /// # Errors
    /// Those of reading the list.
    pub fn manifest_facts(&self) -> BoxFuture<'_, Result<Vec<ManifestFacts>>> {
        Box::pin(async move {
            let Some(snapshot) = &self.metadata().snapshot else { return Ok(Vec::new()) };
            let manifests = self.manifests(snapshot).await?;
            let facts = manifests.iter().map(|manifest| ManifestFacts {
                path: manifest.path.clone(),
                bytes: manifest.bytes,
                spec_id: manifest.spec_id,
                has_deletes: manifest.has_deletes,
                sequence_number: manifest.sequence_number,
                snapshot: manifest.snapshot,
                added_files: manifest.added_files,
                existing_files: manifest.existing_files,
                deleted_files: manifest.deleted_files,
            });
            Ok(facts.collect())
        })
    }

    /// Lists the fields of all partition specs, ascending by id. Those that part nothing, or by a transform that nobody knows, are
    /// left out.
    pub fn partition_columns(&self) -> Vec<PartitionColumn> {
        let metadata = self.metadata();
        let mut specs: Vec<_> = metadata.specs.iter().collect();
        specs.sort_by_key(|spec| std::cmp::Reverse(spec.id));
        let mut columns: BTreeMap<i32, PartitionColumn> = BTreeMap::new();
        for part in specs.into_iter().flat_map(|spec| &spec.parts) {
            let source = part.source().and_then(|source| metadata.field(source));
            let ty = source.and_then(|found| result_type(part.transform, &found.field.ty));
            if let (Some(ty), false) = (ty, columns.contains_key(&part.field_id)) {
                let is_taken = columns.values().any(|other| other.name == part.name);
                let name = if is_taken { format!("{}_{}", part.name, part.field_id) } else { part.name.clone() };
                columns.insert(part.field_id, PartitionColumn { field_id: part.field_id, name, ty });
            }
        }
        columns.into_values().collect()
    }

    /// Lists the live files of the pinned snapshot, in the order of its manifests.
    ///
    /// # Errors
    /// Those of reading the manifests.
    pub fn live_files(&self) -> BoxFuture<'_, Result<Vec<FileInfo>>> {
        Box::pin(async move {
            let Some(snapshot) = &self.metadata().snapshot else { return Ok(Vec::new()) };
            let manifests = self.manifests(snapshot).await?;
            self.list_files(&manifests).await
        })
    }
}

fn summary(json: &str) -> BTreeMap<String, String> {
    let parsed = serde_json::from_str::<BTreeMap<String, Json>>(json).unwrap_or_default();
    let text = |value: Json| match value {
        Json::String(text) => text,
        other => other.to_string(),
    };
    parsed.into_iter().map(|(name, value)| (name, text(value))).collect()
}
