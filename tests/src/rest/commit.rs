//! Changes of a table's metadata, by the protocol's updates, on its JSON.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

static TABLES: AtomicU64 = AtomicU64::new(1);

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn uuid() -> String {
    let (number, time) = (TABLES.fetch_add(1, Ordering::Relaxed), now_ms());
    format!("{:08x}-{:04x}-4000-8000-{:012x}", number, std::process::id() & 0xffff, time)
}

/// Returns the greatest id of a schema's fields, at any depth.
fn last_column_id(schema: &Value) -> i64 {
    match schema {
        Value::Object(fields) => {
            let own = ["id", "element-id", "key-id", "value-id"].iter().filter_map(|key| fields.get(*key)?.as_i64());
            own.chain(fields.values().map(last_column_id)).max().unwrap_or(0)
        }
        Value::Array(items) => items.iter().map(last_column_id).max().unwrap_or(0),
        _ => 0,
    }
}

/// Makes the metadata of a new table from a request.
pub(super) fn new_metadata(location: &str, request: &Value) -> anyhow::Result<Value> {
    let mut schema = request["schema"].clone();
    schema["schema-id"] = json!(0);
    let or = |value: &Value, other: Value| if value.is_object() { value.clone() } else { other };
    let mut spec = or(&request["partition-spec"], json!({"fields": []}));
    spec["spec-id"] = json!(0);
    let order = or(&request["write-order"], json!({"order-id": 0, "fields": []}));
    let properties = or(&request["properties"], json!({}));
    let version = properties["format-version"].as_str().and_then(|version| version.parse().ok()).unwrap_or(2);
    let last_partition =
        spec["fields"].as_array().into_iter().flatten().filter_map(|field| field["field-id"].as_i64()).max();
    let last_column = last_column_id(schema.get("fields").context("a schema has fields")?);
    Ok(json!({
        "format-version": version, "table-uuid": uuid(), "location": location, "last-sequence-number": 0,
        "last-updated-ms": now_ms(), "last-column-id": last_column, "current-schema-id": 0, "schemas": [schema],
        "default-spec-id": 0, "partition-specs": [spec], "last-partition-id": last_partition.unwrap_or(999),
        "default-sort-order-id": order["order-id"], "sort-orders": [order], "properties": properties,
        "current-snapshot-id": Value::Null, "snapshots": [], "snapshot-log": [], "metadata-log": [], "refs": {},
    }))
}

/// Notes the metadata file before a commit.
pub(super) fn log(metadata: &mut Value, before: &str) -> anyhow::Result<()> {
    let time = metadata["last-updated-ms"].clone();
    list(metadata, "metadata-log")?.push(json!({"timestamp-ms": time, "metadata-file": before}));
    metadata["last-updated-ms"] = json!(now_ms());
    Ok(())
}

/// Tells if a requirement of a commit holds.
pub(super) fn holds(wanted: &Value, metadata: &Value, is_there: bool) -> bool {
    let same = |told: &str, own: &str| wanted[told] == metadata[own];
    match wanted["type"].as_str().unwrap_or_default() {
        "assert-create" => !is_there,
        "assert-table-uuid" => same("uuid", "table-uuid"),
        "assert-ref-snapshot-id" => {
            let name = wanted["ref"].as_str().unwrap_or_default();
            metadata["refs"][name]["snapshot-id"] == wanted["snapshot-id"]
        }
        "assert-current-schema-id" => same("current-schema-id", "current-schema-id"),
        "assert-last-assigned-field-id" => same("last-assigned-field-id", "last-column-id"),
        "assert-last-assigned-partition-id" => same("last-assigned-partition-id", "last-partition-id"),
        "assert-default-spec-id" => same("default-spec-id", "default-spec-id"),
        "assert-default-sort-order-id" => same("default-sort-order-id", "default-sort-order-id"),
        _ => false,
    }
}

fn list<'a>(metadata: &'a mut Value, name: &str) -> anyhow::Result<&'a mut Vec<Value>> {
    let fields = metadata.as_object_mut().context("metadata is an object")?;
    fields.entry(name).or_insert_with(|| json!([])).as_array_mut().with_context(|| format!("{name} is a list"))
}

fn object<'a>(metadata: &'a mut Value, name: &str) -> anyhow::Result<&'a mut Map<String, Value>> {
    let fields = metadata.as_object_mut().context("metadata is an object")?;
    fields.entry(name).or_insert_with(|| json!({})).as_object_mut().with_context(|| format!("{name} is an object"))
}

/// Returns the id that an update names. −1 is the one that was added last.
fn id_of(update: &Value, name: &str, added: Option<&Value>) -> Value {
    match update[name].as_i64() {
        Some(-1) => added.cloned().unwrap_or(Value::Null),
        _ => update[name].clone(),
    }
}

/// Applies an update.
pub(super) fn apply(metadata: &mut Value, update: &Value) -> anyhow::Result<()> {
    let kept = |items: &mut Vec<Value>, key: &str, item: &Value| {
        items.retain(|known| known[key] != item[key]);
        items.push(item.clone());
    };
    match update["action"].as_str().unwrap_or_default() {
        "assign-uuid" => metadata["table-uuid"] = update["uuid"].clone(),
        "upgrade-format-version" => metadata["format-version"] = update["format-version"].clone(),
        "set-location" => metadata["location"] = update["location"].clone(),
        "add-schema" => {
            let last = last_column_id(&update["schema"]).max(metadata["last-column-id"].as_i64().unwrap_or(0));
            metadata["last-column-id"] = json!(last);
            kept(list(metadata, "schemas")?, "schema-id", &update["schema"]);
        }
        "set-current-schema" => {
            let added = list(metadata, "schemas")?.last().map(|schema| schema["schema-id"].clone());
            metadata["current-schema-id"] = id_of(update, "schema-id", added.as_ref());
        }
        "add-spec" => {
            let fields = update["spec"]["fields"].as_array().into_iter().flatten();
            let last = fields.filter_map(|field| field["field-id"].as_i64()).max().unwrap_or(999);
            metadata["last-partition-id"] = json!(last.max(metadata["last-partition-id"].as_i64().unwrap_or(999)));
            kept(list(metadata, "partition-specs")?, "spec-id", &update["spec"]);
        }
        "set-default-spec" => {
            let added = list(metadata, "partition-specs")?.last().map(|spec| spec["spec-id"].clone());
            metadata["default-spec-id"] = id_of(update, "spec-id", added.as_ref());
        }
        "add-sort-order" => kept(list(metadata, "sort-orders")?, "order-id", &update["sort-order"]),
        "set-default-sort-order" => {
            let added = list(metadata, "sort-orders")?.last().map(|order| order["order-id"].clone());
            metadata["default-sort-order-id"] = id_of(update, "sort-order-id", added.as_ref());
        }
        "add-snapshot" => {
            let snapshot = &update["snapshot"];
            metadata["last-sequence-number"] = snapshot["sequence-number"].clone();
            list(metadata, "snapshots")?.push(snapshot.clone());
        }
        "set-snapshot-ref" => {
            let name = update["ref-name"].as_str().context("a reference has a name")?;
            let mut reference = update.clone();
            let fields = reference.as_object_mut().context("an update is an object")?;
            fields.retain(|key, value| !["action", "ref-name"].contains(&key.as_str()) && !value.is_null());
            object(metadata, "refs")?.insert(name.to_owned(), reference);
            if name == "main" {
                let (id, now) = (update["snapshot-id"].clone(), now_ms());
                let snapshots = list(metadata, "snapshots")?;
                let snapshot = snapshots.iter().find(|snapshot| snapshot["snapshot-id"] == id);
                let time = snapshot.and_then(|snapshot| snapshot["timestamp-ms"].as_i64()).unwrap_or(now);
                // A snapshot that becomes the current one again does so now.
                let is_new = snapshots.last().is_some_and(|last| last["snapshot-id"] == id);
                let time = if is_new { time } else { now };
                metadata["current-snapshot-id"] = id.clone();
                list(metadata, "snapshot-log")?.push(json!({"snapshot-id": id, "timestamp-ms": time}));
            }
        }
        "remove-snapshot-ref" => {
            let name = update["ref-name"].as_str().context("a reference has a name")?;
            object(metadata, "refs")?.remove(name);
        }
        "remove-snapshots" => {
            let gone = update["snapshot-ids"].as_array().cloned().unwrap_or_default();
            for name in ["snapshots", "snapshot-log"] {
                list(metadata, name)?.retain(|snapshot| !gone.contains(&snapshot["snapshot-id"]));
            }
        }
        "set-properties" => {
            let updates = update["updates"].as_object().cloned().unwrap_or_default();
            object(metadata, "properties")?.extend(updates);
        }
        "remove-properties" => {
            for name in update["removals"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                object(metadata, "properties")?.remove(name);
            }
        }
        other => bail!("the update {other} is not known"),
    }
    Ok(())
}
