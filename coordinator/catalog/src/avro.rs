//! Partition fields of a manifest under names that iceberg's Avro reader takes.
//!
//! A partition field may have any name. Java writes it into the Avro schema with other letters in place of those that Avro
//! does not know. PyIceberg writes it as it is. ClickHouse gives it the name of its column. iceberg 0.10 refuses the last
//! two, and would read the first as NULL. Values are found by their order, so each field is renamed after its id in the
//! file's header before iceberg sees it. Take this out when iceberg resolves partition fields by id (apache/iceberg-rust
//! reads them by name as of 0.10.1).

use bytes::Bytes;
use serde_json::Value;

const MAGIC: &[u8] = b"Obj\x01";
/// Field id of a data file's partition, in the specification of manifests.
const PARTITION_FIELD_ID: u64 = 102;
const PARTITION_FIELD_NAME: &str = "partition";
/// First id of partition fields in a spec of version 1 that has none.
const FIRST_PARTITION_ID: u64 = 1000;

/// Renames the partition fields of a manifest after their ids. A manifest with a damaged header stays as it is, and iceberg
/// reports the fault.
pub(crate) fn with_partition_ids_as_names(manifest: &Bytes) -> Bytes {
    renamed(manifest).unwrap_or_else(|| manifest.clone())
}

fn renamed(manifest: &[u8]) -> Option<Bytes> {
    let (mut entries, rest) = read_header(manifest)?;
    let value = |entries: &[HeaderEntry], key: &str| -> Option<Value> {
        let entry = entries.iter().find(|entry| entry.key == key.as_bytes())?;
        serde_json::from_slice(&entry.value).ok()
    };
    let mut spec = value(&entries, "partition-spec")?;
    let mut schema = value(&entries, "avro.schema")?;
    let mut names = Vec::new();
    for (position, field) in spec.as_array_mut()?.iter_mut().enumerate() {
        let id = field["field-id"].as_u64().unwrap_or(FIRST_PARTITION_ID + position as u64);
        let name = format!("_partition_{id}");
        field["name"] = Value::from(name.as_str());
        names.push((id, name));
    }
    for (position, field) in partition_fields(&mut schema)?.iter_mut().enumerate() {
        let by_id = |id: u64| names.iter().find(|(known, _)| *known == id);
        let named = match field["field-id"].as_u64() {
            Some(id) => by_id(id),
            None => names.get(position),
        };
        let (_, name) = named?;
        field["name"] = Value::from(name.as_str());
    }
    for HeaderEntry { key, value } in &mut entries {
        match key.as_slice() {
            b"partition-spec" => *value = serde_json::to_vec(&spec).ok()?,
            b"avro.schema" => *value = serde_json::to_vec(&schema).ok()?,
            _ => {}
        }
    }
    Some(write(&entries, rest))
}

/// Finds the fields of the record that is a data file's partition.
fn partition_fields(schema: &mut Value) -> Option<&mut Vec<Value>> {
    match schema {
        Value::Object(object) => {
            let is_partition = object.get("field-id").and_then(Value::as_u64) == Some(PARTITION_FIELD_ID)
                || (object.get("name").and_then(Value::as_str) == Some(PARTITION_FIELD_NAME)
                    && object.contains_key("type"));
            if is_partition {
                return object.get_mut("type")?.get_mut("fields")?.as_array_mut();
            }
            object.values_mut().find_map(partition_fields)
        }
        Value::Array(items) => items.iter_mut().find_map(partition_fields),
        _ => None,
    }
}

/// Entry of an Avro file's metadata.
struct HeaderEntry {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Reads the metadata of an Avro file, and returns it with the bytes behind it.
fn read_header(file: &[u8]) -> Option<(Vec<HeaderEntry>, &[u8])> {
    let mut rest = file.strip_prefix(MAGIC)?;
    let mut entries = Vec::new();
    loop {
        let count = read_long(&mut rest)?;
        if count == 0 {
            return Some((entries, rest));
        }
        // The block's length in bytes follows a negative count.
        if count < 0 {
            read_long(&mut rest)?;
        }
        for _ in 0..count.unsigned_abs() {
            let key = read_bytes(&mut rest)?;
            entries.push(HeaderEntry { key, value: read_bytes(&mut rest)? });
        }
    }
}

fn write(entries: &[HeaderEntry], rest: &[u8]) -> Bytes {
    let mut file = MAGIC.to_vec();
    write_long(&mut file, entries.len() as i64);
    for HeaderEntry { key, value } in entries {
        for part in [key, value] {
            write_long(&mut file, part.len() as i64);
            file.extend_from_slice(part);
        }
    }
    if !entries.is_empty() {
        write_long(&mut file, 0);
    }
    file.extend_from_slice(rest);
    file.into()
}

fn read_bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(read_long(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes.to_vec())
}

/// Reads a zigzag number of variable length.
fn read_long(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn write_long(file: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1) as u64 ^ (value >> 63) as u64;
    while rest >= 0x80 {
        file.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    file.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(names: &[&str], spelled: &[&str]) -> Bytes {
        let fields = |names: &[&str], more: &str| -> String {
            let fields = names
                .iter()
                .enumerate()
                .map(|(i, name)| format!(r#"{{"name": {}, "field-id": {}, {more}}}"#, Value::from(*name), 1000 + i));
            fields.collect::<Vec<_>>().join(",")
        };
        let schema = format!(
            r#"{{"type": "record", "name": "manifest_entry", "fields": [{{"name": "data_file", "field-id": 2, "type":
            {{"type": "record", "name": "r2", "fields": [{{"name": "partition", "field-id": 102, "type":
            {{"type": "record", "name": "r102", "fields": [{}]}}}}]}}}}]}}"#,
            fields(spelled, r#""type": ["null", "string"]"#)
        );
        let spec = format!("[{}]", fields(names, r#""transform": "identity", "source-id": 1"#));
        let entries = [("avro.schema", schema), ("partition-spec", spec), ("other", "\u{0}\u{1}".to_string())];
        let entries =
            entries.map(|(key, value)| HeaderEntry { key: key.as_bytes().to_vec(), value: value.into_bytes() });
        write(&entries, b"sync and blocks")
    }

    #[test]
    fn names_of_all_kinds_become_ids() {
        let check = |names: &[&str], spelled: &[&str]| {
            let renamed = with_partition_ids_as_names(&manifest(names, spelled));
            let by_id: Vec<String> = (0..names.len()).map(|i| format!("_partition_{}", 1000 + i)).collect();
            let by_id: Vec<&str> = by_id.iter().map(String::as_str).collect();
            let (expect, _) = (manifest(&by_id, &by_id), ());
            let (found, found_rest) = read_header(&renamed).unwrap();
            let (expect, expect_rest) = read_header(&expect).unwrap();
            assert_eq!(found_rest, expect_rest);
            for (found, expect) in found.iter().zip(&expect) {
                let json = |entry: &HeaderEntry| serde_json::from_slice::<Value>(&entry.value).ok();
                assert_eq!(json(found), json(expect), "{names:?} {}", String::from_utf8_lossy(&found.key));
            }
        };
        check(&["day"], &["day"]);
        check(&["é", "a b", "1st", "x-y", "", "日本", "p\"q\\"], &["é", "a b", "1st", "x-y", "", "日本", "p\"q\\"]);
        // The Java writer spells the names in this way.
        check(&["é", "1st", "x-y"], &["_xE9", "_1st", "x_x2Dy"]);
        check(&[], &[]);
    }

    #[test]
    fn bytes_that_are_no_manifest_stay() {
        for bytes in [&b""[..], b"Obj", b"Obj\x01", b"Obj\x01\x02", b"Obj\x01\x00rest", b"PAR1", b"Obj\x01\xff\xff\xff"]
        {
            let bytes = Bytes::copy_from_slice(bytes);
            assert_eq!(with_partition_ids_as_names(&bytes), bytes);
        }
    }

    #[test]
    fn longs_are_zigzag_and_of_variable_length() {
        for value in [0, 1, -1, 63, 64, -64, -65, 1 << 20, i64::MAX, i64::MIN] {
            let mut file = Vec::new();
            write_long(&mut file, value);
            assert_eq!(read_long(&mut file.as_slice()), Some(value));
        }
    }
}
