//! The keys of a metadata file.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::metadata::{
    ENCRYPTION_PROPERTY, LogEntry, ManifestSource, MetadataFault, Reference, Snapshot, Spec, TableMetadata, Total,
    Totals, schema, spec,
};
use crate::types::Schema;

const FORMAT_VERSION_MAX: u64 = 3;
/// Id of "no snapshot" in old files.
const NO_SNAPSHOT: i64 = -1;
/// Property of a blob of statistics: its count of distinct values.
const DISTINCT_PROPERTY: &str = "ndv";

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct VersionJson {
    format_version: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MetadataJson {
    format_version: u64,
    table_uuid: Option<String>,
    location: Option<String>,
    schema: Option<SchemaJson>,
    #[serde(default)]
    schemas: Option<Vec<SchemaJson>>,
    current_schema_id: Option<i32>,
    partition_spec: Option<Json>,
    #[serde(default)]
    partition_specs: Option<Vec<SpecJson>>,
    default_spec_id: Option<i32>,
    #[serde(default)]
    snapshots: Option<Vec<SnapshotJson>>,
    current_snapshot_id: Option<i64>,
    #[serde(default)]
    refs: Option<BTreeMap<String, ReferenceJson>>,
    #[serde(default)]
    snapshot_log: Option<Vec<LogJson>>,
    properties: Option<BTreeMap<String, Text>>,
    /// List of which those are left out that cannot be read.
    statistics: Option<Json>,
    encryption_keys: Option<Vec<IgnoredAny>>,
}

/// Schema with its id, parsed at once: thousands of schemas take many times more as JSON.
struct SchemaJson {
    id: i64,
    schema: Result<Schema, MetadataFault>,
}

impl<'de> Deserialize<'de> for SchemaJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let id = json.get("schema-id").and_then(Json::as_i64).unwrap_or(0);
        Ok(SchemaJson { id, schema: schema::schema(&json) })
    }
}

/// Text, or something else that is not kept.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Other(IgnoredAny),
}

impl Text {
    fn text(self) -> Option<String> {
        match self {
            Text::Text(text) => Some(text),
            Text::Other(_) => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SpecJson {
    spec_id: i32,
    fields: Json,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SnapshotJson {
    snapshot_id: i64,
    #[serde(default)]
    timestamp_ms: i64,
    manifest_list: Option<String>,
    manifests: Option<Vec<String>>,
    parent_snapshot_id: Option<i64>,
    schema_id: Option<i64>,
    summary: Option<Box<RawValue>>,
    key_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SummaryJson {
    total_files_size: Option<Text>,
    total_data_files: Option<Text>,
    total_records: Option<Text>,
    total_delete_files: Option<Text>,
    total_position_deletes: Option<Text>,
    total_equality_deletes: Option<Text>,
}

impl SummaryJson {
    fn totals(self) -> (Option<u64>, Totals) {
        let number = |text: Option<Text>| text?.text()?.parse::<u64>().ok();
        let total = |files: Option<u64>, rows: Option<u64>| Some(Total { files: files?, rows: rows? });
        let positions = number(self.total_position_deletes);
        let deleted = positions.zip(number(self.total_equality_deletes)).and_then(|(a, b)| a.checked_add(b));
        let totals = Totals {
            data: total(number(self.total_data_files), number(self.total_records)),
            deletes: total(number(self.total_delete_files), deleted),
        };
        (number(self.total_files_size), totals)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ReferenceJson {
    snapshot_id: i64,
    r#type: String,
    max_ref_age_ms: Option<i64>,
    min_snapshots_to_keep: Option<i32>,
    max_snapshot_age_ms: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LogJson {
    snapshot_id: i64,
    timestamp_ms: i64,
}

/// Puffin file of statistics. What a sketch in it has counted stands beside its place.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StatisticsJson {
    snapshot_id: i64,
    #[serde(default)]
    blob_metadata: Vec<BlobJson>,
}

#[derive(Deserialize)]
struct BlobJson {
    #[serde(default)]
    fields: Vec<i32>,
    #[serde(default)]
    properties: BTreeMap<String, Text>,
}

impl StatisticsJson {
    fn distinct(self) -> BTreeMap<i32, u64> {
        let of_blob = |mut blob: BlobJson| {
            let [field] = blob.fields[..] else { return None };
            Some((field, blob.properties.remove(DISTINCT_PROPERTY)?.text()?.parse().ok()?))
        };
        self.blob_metadata.into_iter().filter_map(of_blob).collect()
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<TableMetadata, MetadataFault> {
    let invalid = |error: serde_json::Error| MetadataFault::corrupt(error.to_string());
    let (format_version, json) = match serde_json::from_slice::<MetadataJson>(bytes) {
        Ok(json) => (json.format_version, Ok(json)),
        // A later version may have any other shape.
        Err(error) => {
            let VersionJson { format_version } = serde_json::from_slice(bytes).map_err(invalid)?;
            (format_version, Err(error))
        }
    };
    if !(1..=FORMAT_VERSION_MAX).contains(&format_version) {
        return Err(MetadataFault::Unsupported {
            feature: format!("format version {format_version}"),
            next: "use a version that knows it, or write the table in format version 3 or lower",
        });
    }
    let mut json = json.map_err(invalid)?;
    let (schema_ids, schemas) = schemas(json.schemas.take(), json.schema.take(), json.current_schema_id)?;
    let location = json.location.take().ok_or_else(|| MetadataFault::corrupt("it has no location"))?;
    let specs = match (json.partition_specs.filter(|specs| !specs.is_empty()), &json.partition_spec) {
        (Some(specs), _) => {
            let specs = specs.iter().map(|json| Ok(Spec { id: json.spec_id, parts: spec::parts(&json.fields)? }));
            specs.collect::<Result<Vec<_>, MetadataFault>>()?
        }
        (None, Some(fields)) => vec![Spec { id: 0, parts: spec::parts(fields)? }],
        // A table that was never parted may list no spec.
        (None, None) => vec![Spec { id: 0, parts: Vec::new() }],
    };
    let properties = json.properties.unwrap_or_default().into_iter();
    let properties: BTreeMap<_, _> = properties.filter_map(|(name, value)| Some((name, value.text()?))).collect();
    let id = json.current_snapshot_id.filter(|id| *id != NO_SNAPSHOT);
    let mut snapshot = None;
    let mut snapshots = Vec::new();
    for listed in json.snapshots.unwrap_or_default() {
        let is_current = id == Some(listed.snapshot_id);
        match listed.parse() {
            Ok(listed) => {
                if is_current && snapshot.is_none() {
                    snapshot = Some(listed.clone());
                }
                snapshots.push(listed);
            }
            Err(fault) if is_current => return Err(fault),
            Err(_) => {}
        }
    }
    if let (Some(id), None) = (id, &snapshot) {
        return Err(MetadataFault::corrupt(format!("it has no snapshot {id}, which is its current")));
    }
    let references = json.refs.unwrap_or_default().into_iter().map(|(name, json)| (name, json.parse()));
    let log = json.snapshot_log.unwrap_or_default();
    let log = log.iter().map(|entry| LogEntry { timestamp_ms: entry.timestamp_ms, snapshot: entry.snapshot_id });
    let statistics = json.statistics.as_mut().and_then(Json::as_array_mut).map(std::mem::take).unwrap_or_default();
    let statistics = statistics.into_iter().filter_map(|json| serde_json::from_value::<StatisticsJson>(json).ok());
    let distinct = statistics.map(|file| (file.snapshot_id, file.distinct()));
    let is_encrypted = json.encryption_keys.is_some_and(|keys| !keys.is_empty())
        || properties.contains_key(ENCRYPTION_PROPERTY)
        || snapshot.as_ref().is_some_and(|snapshot| snapshot.is_encrypted);
    let mut metadata = TableMetadata {
        format_version: format_version as u8,
        uuid: json.table_uuid,
        location,
        schemas,
        schema_ids,
        default_spec_id: json.default_spec_id.unwrap_or(0),
        specs,
        current_id: id,
        snapshot,
        snapshots: snapshots.into(),
        references: Arc::new(references.collect()),
        log: log.collect(),
        distinct: Arc::new(distinct.filter(|(_, counts)| !counts.is_empty()).collect()),
        is_encrypted,
        held_bytes: 0,
        properties,
    };
    metadata.held_bytes = held_bytes(&metadata);
    Ok(metadata)
}

/// Returns the memory that metadata holds, in bytes, about.
fn held_bytes(metadata: &TableMetadata) -> usize {
    let fields = metadata.all_fields().into_iter().map(|field| size_of_val(field) + field.name.len());
    let properties = metadata.properties.iter().map(|(name, value)| 64 + name.len() + value.len());
    let parts = metadata.specs.iter().flat_map(|spec| &spec.parts).map(|part| size_of_val(part) + part.name.len());
    let snapshots = metadata.snapshots.iter().map(|snapshot| {
        let manifests = match &snapshot.manifests {
            ManifestSource::Paths(paths) => paths.iter().map(|path| size_of_val(path) + path.len()).sum(),
            ManifestSource::List(list) => list.len(),
        };
        size_of_val(snapshot) + snapshot.summary.len() + manifests
    });
    let references = metadata.references.keys().map(|name| size_of::<Reference>() + name.len());
    let distinct = metadata.distinct.values().map(|counts| 64 + 32 * counts.len());
    let history = snapshots.chain(references).chain(distinct).sum::<usize>() + size_of_val(&*metadata.log);
    size_of::<TableMetadata>() + fields.chain(properties).chain(parts).sum::<usize>() + history
}

/// Orders the schemas with their ids, the current one first. Older ones that cannot be read are left out.
fn schemas(
    all: Option<Vec<SchemaJson>>,
    only: Option<SchemaJson>,
    current: Option<i32>,
) -> Result<(Vec<i64>, Vec<Schema>), MetadataFault> {
    let missing = || MetadataFault::corrupt("it has no schema");
    let mut older = all.unwrap_or_default();
    let newest = match (current, only) {
        (_, only) if older.is_empty() => only.ok_or_else(missing)?,
        (Some(current), _) => {
            let found = older.iter().position(|schema| schema.id == i64::from(current));
            let missing = || MetadataFault::corrupt(format!("it has no schema {current}, which is its current"));
            older.swap_remove(found.ok_or_else(missing)?)
        }
        (None, only) => only.ok_or_else(missing)?,
    };
    older.sort_by_key(|schema| std::cmp::Reverse(schema.id));
    let mut schemas = (vec![newest.id], vec![newest.schema?]);
    schemas.extend(older.into_iter().filter_map(|older| Some((older.id, older.schema.ok()?))));
    Ok(schemas)
}

impl ReferenceJson {
    fn parse(self) -> Reference {
        Reference {
            snapshot: self.snapshot_id,
            is_branch: self.r#type == "branch",
            max_age_ms: self.max_ref_age_ms,
            min_snapshots: self.min_snapshots_to_keep,
            max_snapshot_age_ms: self.max_snapshot_age_ms,
        }
    }
}

impl SnapshotJson {
    fn parse(self) -> Result<Snapshot, MetadataFault> {
        let id = self.snapshot_id;
        let manifests = match (self.manifest_list, self.manifests) {
            (Some(list), _) => ManifestSource::List(list),
            (None, Some(paths)) => ManifestSource::Paths(paths),
            (None, None) => return Err(MetadataFault::corrupt(format!("its snapshot {id} has no manifest list"))),
        };
        let parsed = self.summary.as_ref().map(|summary| serde_json::from_str::<SummaryJson>(summary.get()));
        let parsed = parsed.transpose().map_err(|error| MetadataFault::corrupt(error.to_string()))?;
        let (files_bytes, totals) = parsed.map(SummaryJson::totals).unwrap_or_default();
        Ok(Snapshot {
            id,
            parent: self.parent_snapshot_id,
            schema_id: self.schema_id,
            summary: self.summary.map(|summary| summary.get().into()).unwrap_or_default(),
            is_encrypted: self.key_id.is_some(),
            timestamp_ms: self.timestamp_ms,
            manifests,
            files_bytes,
            totals,
        })
    }
}
