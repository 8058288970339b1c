//! The keys of a metadata file.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

use crate::metadata::{
    ENCRYPTION_PROPERTY, ManifestSource, MetadataFault, Snapshot, Spec, TableMetadata, schema, spec,
};

const FORMAT_VERSION_MAX: u64 = 3;
/// Id of "no snapshot" in old files.
const NO_SNAPSHOT: i64 = -1;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct VersionJson {
    format_version: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MetadataJson {
    location: Option<String>,
    schema: Option<Json>,
    #[serde(default)]
    schemas: Option<Vec<Json>>,
    current_schema_id: Option<i32>,
    partition_spec: Option<Json>,
    #[serde(default)]
    partition_specs: Option<Vec<SpecJson>>,
    default_spec_id: Option<i32>,
    #[serde(default)]
    snapshots: Option<Vec<SnapshotJson>>,
    current_snapshot_id: Option<i64>,
    properties: Option<BTreeMap<String, Json>>,
    encryption_keys: Option<Vec<Json>>,
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
    summary: Option<BTreeMap<String, Json>>,
    key_id: Option<Json>,
}

pub(super) fn parse(bytes: &[u8]) -> Result<TableMetadata, MetadataFault> {
    let invalid = |error: serde_json::Error| MetadataFault::corrupt(error.to_string());
    let VersionJson { format_version } = serde_json::from_slice(bytes).map_err(invalid)?;
    if !(1..=FORMAT_VERSION_MAX).contains(&format_version) {
        return Err(MetadataFault::Unsupported {
            feature: format!("format version {format_version}"),
            next: "use a version that knows it, or write the table in format version 3 or lower",
        });
    }
    let mut json: MetadataJson = serde_json::from_slice(bytes).map_err(invalid)?;
    let schemas = schemas(&json)?;
    let location = json.location.take().ok_or_else(|| MetadataFault::corrupt("it has no location"))?;
    let specs = match (&json.partition_specs, &json.partition_spec) {
        (Some(specs), _) => {
            let specs = specs.iter().map(|json| Ok(Spec { id: json.spec_id, parts: spec::parts(&json.fields)? }));
            specs.collect::<Result<Vec<_>, MetadataFault>>()?
        }
        (None, Some(fields)) => vec![Spec { id: 0, parts: spec::parts(fields)? }],
        (None, None) => vec![Spec { id: 0, parts: Vec::new() }],
    };
    let properties = json.properties.unwrap_or_default();
    let current = json.snapshots.unwrap_or_default();
    let id = json.current_snapshot_id.filter(|id| *id != NO_SNAPSHOT);
    let snapshot = match id {
        Some(id) => {
            let found = current.into_iter().find(|snapshot| snapshot.snapshot_id == id);
            Some(
                found
                    .ok_or_else(|| MetadataFault::corrupt(format!("it has no snapshot {id}, which is its current")))?,
            )
        }
        None => None,
    };
    let is_encrypted = json.encryption_keys.is_some_and(|keys| !keys.is_empty())
        || properties.contains_key(ENCRYPTION_PROPERTY)
        || snapshot.as_ref().is_some_and(|snapshot| snapshot.key_id.as_ref().is_some_and(|id| !id.is_null()));
    Ok(TableMetadata {
        format_version: format_version as u8,
        location,
        schemas,
        default_spec_id: json.default_spec_id.unwrap_or(0),
        specs,
        snapshot: snapshot.map(SnapshotJson::parse).transpose()?,
        is_encrypted,
        held_bytes: bytes.len(),
        properties,
    })
}

/// Parses the schemas, the current one first. Older ones that cannot be read are left out.
fn schemas(json: &MetadataJson) -> Result<Vec<crate::types::Schema>, MetadataFault> {
    let missing = || MetadataFault::corrupt("it has no schema");
    let Some(all) = json.schemas.as_ref().filter(|schemas| !schemas.is_empty()) else {
        return Ok(vec![schema::schema(json.schema.as_ref().ok_or_else(missing)?)?]);
    };
    let id = |schema: &Json| schema.get("schema-id").and_then(Json::as_i64).unwrap_or(0);
    let current = match (json.current_schema_id, &json.schema) {
        (Some(current), _) => {
            let found = all.iter().find(|schema| id(schema) == i64::from(current));
            let missing = || MetadataFault::corrupt(format!("it has no schema {current}, which is its current"));
            found.ok_or_else(missing)?
        }
        (None, Some(schema)) => schema,
        (None, None) => return Err(missing()),
    };
    let mut schemas = vec![schema::schema(current)?];
    let mut older: Vec<_> = all.iter().filter(|schema| !std::ptr::eq(*schema, current)).collect();
    older.sort_by_key(|schema| std::cmp::Reverse(id(schema)));
    schemas.extend(older.into_iter().filter_map(|json| schema::schema(json).ok()));
    Ok(schemas)
}

impl SnapshotJson {
    fn parse(self) -> Result<Snapshot, MetadataFault> {
        let id = self.snapshot_id;
        let manifests = match (self.manifest_list, self.manifests) {
            (Some(list), _) => ManifestSource::List(list),
            (None, Some(paths)) => ManifestSource::Paths(paths),
            (None, None) => return Err(MetadataFault::corrupt(format!("its snapshot {id} has no manifest list"))),
        };
        let files_bytes = self.summary.as_ref().and_then(|summary| summary.get("total-files-size"));
        Ok(Snapshot {
            id,
            timestamp_ms: self.timestamp_ms,
            manifests,
            files_bytes: files_bytes.and_then(Json::as_str).and_then(|bytes| bytes.parse().ok()),
        })
    }
}
