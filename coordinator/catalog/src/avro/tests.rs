//! Files by hand, of every shape that the format allows, and damaged ones.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use std::io::Write;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::*;

const SYNC: [u8; SYNC_BYTES] = *b"the sync marker!";

/// Encodes a value by a schema. Bytes are lists of numbers. A map or an array is one block.
pub(crate) fn encode(schema: &Json, value: &Json, out: &mut Vec<u8>) {
    match schema {
        Json::Array(branches) => {
            let is_null = |branch: &Json| branch == "null";
            let branch = branches.iter().position(|branch| is_null(branch) == value.is_null()).unwrap();
            put_long(out, branch as i64);
            encode(&branches[branch], value, out);
        }
        Json::Object(object) => match object["type"].as_str() {
            Some("record") => {
                for field in object["fields"].as_array().unwrap() {
                    encode(&field["type"], &value[field["name"].as_str().unwrap()], out);
                }
            }
            Some("array") => {
                let items = value.as_array().unwrap();
                if !items.is_empty() {
                    put_long(out, items.len() as i64);
                    items.iter().for_each(|item| encode(&object["items"], item, out));
                }
                put_long(out, 0);
            }
            Some("fixed") => out.extend(bytes_of(value)),
            _ => encode(&object["type"], value, out),
        },
        Json::String(name) => match name.as_str() {
            "null" => {}
            "boolean" => out.push(u8::from(value.as_bool().unwrap())),
            "int" | "long" => put_long(out, value.as_i64().unwrap()),
            "float" => out.extend((float_of(value) as f32).to_le_bytes()),
            "double" => out.extend(float_of(value).to_le_bytes()),
            // A fixed type that was named before.
            "two" => out.extend(bytes_of(value)),
            _ => {
                let bytes = bytes_of(value);
                put_long(out, bytes.len() as i64);
                out.extend(bytes);
            }
        },
        other => panic!("{other} is no schema"),
    }
}

/// Reads a number. JSON has no NaN, so that it may be a text.
fn float_of(value: &Json) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap()
}

fn bytes_of(value: &Json) -> Vec<u8> {
    match value {
        Json::String(text) => text.as_bytes().to_vec(),
        Json::Array(bytes) => bytes.iter().map(|byte| byte.as_u64().unwrap() as u8).collect(),
        other => panic!("{other} is no bytes"),
    }
}

pub(crate) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1) as u64 ^ (value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn deflated(bytes: &[u8], codec: &str) -> Vec<u8> {
    match codec {
        "deflate" => {
            let mut writer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(bytes).unwrap();
            writer.finish().unwrap()
        }
        "zstandard" => zstd::encode_all(bytes, 0).unwrap(),
        "snappy" => {
            let mut block = snap::raw::Encoder::new().compress_vec(bytes).unwrap();
            block.extend(crc32fast::hash(bytes).to_be_bytes());
            block
        }
        _ => bytes.to_vec(),
    }
}

/// Writes a file of these blocks.
pub(crate) fn file_of_blocks(header: &[(&str, String)], codec: &str, blocks: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    let codec_entry = [("avro.codec", codec.to_owned())];
    let entries: Vec<_> = header.iter().chain(&codec_entry).collect();
    put_long(&mut file, entries.len() as i64);
    for (key, value) in entries {
        for part in [key.as_bytes(), value.as_bytes()] {
            put_long(&mut file, part.len() as i64);
            file.extend(part);
        }
    }
    put_long(&mut file, 0);
    file.extend(SYNC);
    for (count, bytes) in blocks {
        let bytes = deflated(bytes, codec);
        put_long(&mut file, *count as i64);
        put_long(&mut file, bytes.len() as i64);
        file.extend(bytes);
        file.extend(SYNC);
    }
    file
}

/// Writes a file of these values, two in a block.
pub(crate) fn file(schema: &Json, header: &[(&str, String)], codec: &str, values: &[Json]) -> Vec<u8> {
    let mut entries = vec![("avro.schema", schema.to_string())];
    entries.extend(header.iter().cloned());
    let blocks = values.chunks(2).map(|values| {
        let mut block = Vec::new();
        values.iter().for_each(|value| encode(schema, value, &mut block));
        (values.len(), block)
    });
    file_of_blocks(&entries, codec, &blocks.collect::<Vec<_>>())
}

/// Prints what a sink is given.
#[derive(Default)]
struct Told(Vec<String>);

impl Sink for Told {
    fn value(&mut self, slot: Slot, value: Value<'_>) -> Result<(), AvroFault> {
        self.0.push(match value {
            Value::Bytes(bytes) => format!("{slot}={}", String::from_utf8_lossy(bytes)),
            value => format!("{slot}={value:?}"),
        });
        Ok(())
    }

    fn item(&mut self, slot: Slot) -> Result<(), AvroFault> {
        self.0.push(format!("{slot}:"));
        Ok(())
    }

    fn finish(&mut self) -> Result<(), AvroFault> {
        self.0.push(".".to_owned());
        Ok(())
    }
}

/// Reads all fields that have ids.
fn told(file: &[u8]) -> Result<String, AvroFault> {
    let container = Container::open(file)?;
    let by_id = |field: FieldAt<'_>| field.id.map(|id| id as Slot);
    let program = Program::compile(&container.schema()?, &by_id)?;
    let mut told = Told::default();
    container.read(&program, &mut told)?;
    Ok(told.0.join(" "))
}

fn record(fields: Json) -> Json {
    json!({"type": "record", "name": "r", "fields": fields})
}

#[test]
fn values_are_read_by_id_in_all_codecs() {
    let schema = record(json!([
        {"name": "passed over", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "b", "type": "boolean", "field-id": 1},
        {"name": "i", "type": ["null", "int"], "field-id": 2},
        {"name": "l", "type": ["long", "null"], "field-id": 3},
        {"name": "t", "type": {"type": "string", "logicalType": "x"}, "field-id": 4},
        {"name": "f", "type": {"type": "fixed", "name": "two", "size": 2}, "field-id": 5},
        {"name": "again", "type": ["null", "two"], "field-id": 6},
        {"name": "list", "type": {"type": "array", "items": "long", "element-id": 8}, "field-id": 7},
        {"name": "map", "field-id": 9, "type": {"type": "array", "items": {"type": "record", "name": "kv", "fields": [
            {"name": "key", "type": "int", "field-id": 10}, {"name": "value", "type": "bytes", "field-id": 11}]}}},
        {"name": "d", "type": "double", "field-id": 12},
    ]));
    let value = |i: i64| {
        json!({"passed over": ["x", null], "b": true, "i": if i == 1 { json!(null) } else { json!(-7) }, "l": i64::MIN + i,
            "t": "é", "f": "ab", "again": "cd", "list": [1, 2], "map": [{"key": 5, "value": "v"}], "d": 0.5})
    };
    let one = |i: i64, int: &str| {
        let long = i64::MIN + i;
        format!("1=Boolean(true) {int}3=Long({long}) 4=é 5=ab 6=cd 8=Long(1) 8=Long(2) 10=Int(5) 11=v 12=Double(0.5) .")
    };
    let expect = [one(0, "2=Int(-7) "), one(1, ""), one(2, "2=Int(-7) ")].join(" ");
    for codec in ["null", "deflate", "zstandard", "snappy"] {
        let file = file(&schema, &[], codec, &[value(0), value(1), value(2)]);
        assert_eq!(told(&file).unwrap(), expect, "{codec}");
        for end in 0..file.len() {
            // Nothing in a file says how many blocks it has.
            if told(&file[..end]).is_ok() {
                assert!(file[..end].ends_with(&SYNC), "{codec} cut at {end}");
            }
        }
    }
    let error = told(&file(&schema, &[], "bzip2", &[])).unwrap_err();
    assert_eq!(error, AvroFault::Codec("bzip2".to_owned()));
}

#[test]
fn blocks_of_items_have_their_length_or_not() {
    let schema = record(json!([
        {"name": "passed over", "type": {"type": "array", "items": "long"}},
        {"name": "map", "type": {"type": "map", "values": "long"}},
        {"name": "list", "type": {"type": "array", "items": "long", "element-id": 2}, "field-id": 1},
    ]));
    let mut block = Vec::new();
    let mut put = |values: &[i64]| values.iter().for_each(|value| put_long(&mut block, *value));
    // Two items in two bytes, then one without a length.
    put(&[-2, 2, 5, 6, 1, 7, 0]);
    // One pair of four bytes: a key of two, and a value. Then none.
    put(&[-1, 4, 2]);
    block.extend(b"ab");
    let mut put = |values: &[i64]| values.iter().for_each(|value| put_long(&mut block, *value));
    put(&[9, 0]);
    put(&[-1, 1, 8, 2, 3, 4, 0]);
    let header = [("avro.schema", schema.to_string())];
    let file = file_of_blocks(&header, "null", &[(1, block)]);
    assert_eq!(told(&file).unwrap(), "2=Long(8) 2=Long(3) 2=Long(4) .");
}

#[test]
fn what_cannot_be_is_an_error() {
    let list = record(json!([{"name": "l", "type": {"type": "array", "items": "long", "element-id": 2}}]));
    let union = record(json!([{"name": "u", "type": ["null", "long"], "field-id": 1}]));
    let text = record(json!([{"name": "t", "type": "string", "field-id": 1}]));
    let check = |schema: &Json, longs: &[i64], expect: &str| {
        let mut block = Vec::new();
        longs.iter().for_each(|value| put_long(&mut block, *value));
        let file = file_of_blocks(&[("avro.schema", schema.to_string())], "null", &[(1, block)]);
        assert_eq!(told(&file).unwrap_err().to_string(), expect, "{longs:?}");
    };
    check(&list, &[i64::MAX], "block 1: 9223372036854775807 items in 0 bytes");
    check(&list, &[i64::MIN, 3], "block 1: 9223372036854775808 items in 0 bytes");
    check(&list, &[1, 7], "it ends within block 1");
    check(&union, &[2], "block 1: branch 2 of 2");
    check(&union, &[-1], "block 1: branch -1 of 2");
    check(&text, &[-1], "block 1: a length of -1 bytes");
    check(&text, &[1 << 40], "it ends within block 1");
    check(&union, &[0, 0], "block 1: it holds more than its objects");
    check(&record(json!([])), &[], "its objects have no bytes");
    let nothing = record(json!([{"name": "l", "type": {"type": "array", "items": "null"}}]));
    check(&nothing, &[], "its schema has an array of nothing");
    let endless = record(json!([{"name": "l", "type": "r"}]));
    check(&endless, &[], "its schema has too many types");
    check(&json!("none"), &[], "its schema has no type none");
    check(&json!(7), &[], "its schema has a type that is none: 7");

    let many = file_of_blocks(&[("avro.schema", union.to_string())], "null", &[(1 << 40, vec![0])]);
    assert_eq!(told(&many).unwrap_err().to_string(), "block 1: it claims more objects than bytes");
    let mut unmarked = file_of_blocks(&[("avro.schema", union.to_string())], "null", &[(1, vec![0])]);
    let last = unmarked.len() - 1;
    unmarked[last] ^= 1;
    assert_eq!(told(&unmarked).unwrap_err().to_string(), "block 1: it does not end with the file's marker");
    assert_eq!(told(b"Obj\x02").unwrap_err().to_string(), "it is no Avro file");
}

#[test]
fn blocks_inflate_within_their_bounds() {
    let schema = record(json!([{"name": "t", "type": "string", "field-id": 1}]));
    let mut block = Vec::new();
    encode(&schema, &json!({"t": "x".repeat(1 << 20)}), &mut block);
    for codec in ["deflate", "zstandard", "snappy"] {
        let file = file_of_blocks(&[("avro.schema", schema.to_string())], codec, &[(1, block.clone())]);
        assert_eq!(told(&file).unwrap().len(), (1 << 20) + 4, "{codec}");
    }
    let far = deflated(&vec![0; codec::BLOCK_BYTES_MAX + 1], "zstandard");
    let fault = Codec::Zstandard.inflate(&far, &mut Vec::new()).unwrap_err();
    let bound = far.len() * 4_096;
    assert_eq!(fault.to_string(), format!("it claims more than {bound} bytes"));
    let much = deflated(&vec![0; 1 << 20], "zstandard");
    let mut inflated = Vec::new();
    Codec::Zstandard.inflate(&much, &mut inflated).unwrap();
    assert!(much.len() * 4_096 < inflated.len(), "a small block may be mere zeros");
    // Many blocks are bounded together.
    let unread = record(json!([{"name": "t", "type": "string"}]));
    let file = file_of_blocks(&[("avro.schema", unread.to_string())], "zstandard", &vec![(1, block); 513]);
    assert_eq!(told(&file).unwrap_err().to_string(), "it inflates to more than 536870912 bytes");
    // Snappy says its length in front: it may not claim what its bytes cannot hold.
    let mut claimed = Vec::new();
    for byte in [0x80_u8, 0x80, 0x80, 0x80, 0x0f] {
        claimed.push(byte);
    }
    let fault = Codec::Snappy.inflate(&[claimed, vec![0; 8]].concat(), &mut Vec::new()).unwrap_err();
    assert!(fault.to_string().starts_with("it claims more than"), "{fault}");
}

/// A name is found in the namespace of the types around it, and types of a map are known behind it.
#[test]
fn types_are_found_by_their_full_names() {
    let fixed = |name: &str, size: u32| json!({"type": "fixed", "name": name, "size": size});
    let inner = |namespace: &str, size: u32| {
        json!({"type": "record", "name": "inner", "namespace": namespace, "fields": [
            {"name": "first", "type": fixed("x", size), "field-id": size},
            {"name": "again", "type": ["null", "x"], "field-id": 10 + size}]})
    };
    let schema = record(json!([
        {"name": "a", "type": inner("a", 1)},
        {"name": "b", "type": inner("b.c", 2)},
        {"name": "map", "type": {"type": "map", "values": fixed("in.map", 3)}},
        {"name": "of_a", "type": "a.x", "field-id": 21},
        {"name": "of_b", "type": "b.c.x", "field-id": 22},
        {"name": "of_map", "type": "in.map", "field-id": 23},
        {"name": "short", "type": "map", "field-id": 24},
    ]));
    let mut block = b"1\x021".to_vec();
    block.extend(b"22\x0222\x00".iter().chain(b"122333333"));
    let file = file_of_blocks(&[("avro.schema", schema.to_string())], "null", &[(1, block)]);
    assert_eq!(told(&file).unwrap(), "1=1 11=1 2=22 12=22 21=1 22=22 23=333 24=333 .");
}

#[test]
fn random_damage_neither_panics_nor_claims_memory() {
    let schema = record(json!([
        {"name": "l", "type": {"type": "array", "items": "long", "element-id": 2}, "field-id": 1},
        {"name": "t", "type": ["null", "string"], "field-id": 3},
    ]));
    let values: Vec<_> = (0..20_i64).map(|i| json!({"l": [i, -i, i << 40], "t": "x".repeat(i as usize)})).collect();
    let mut rng = StdRng::seed_from_u64(13);
    for codec in ["null", "deflate", "zstandard", "snappy"] {
        let (file, block) = (file(&schema, &[], codec, &values), deflated(&[7; 10_000], codec));
        let by_name = Codec::by_name(codec).unwrap();
        let bytes_max = block.len() * 1_032 + codec::ZSTANDARD_BYTES;
        assert_eq!(by_name.inflate(&block, &mut Vec::new()).unwrap(), [7; 10_000], "{codec}");
        let mut damage = |bytes: &[u8]| {
            let mut damaged = bytes.to_vec();
            for _ in 0..rng.random_range(1..4) {
                let place = rng.random_range(0..damaged.len());
                damaged[place] ^= 1 << rng.random_range(0..8);
            }
            damaged
        };
        for _ in 0..5_000 {
            let _ = told(&damage(&file));
            let mut buffer = Vec::new();
            let _ = by_name.inflate(&damage(&block), &mut buffer);
            assert!(buffer.capacity() <= 2 * bytes_max, "{codec}: {} bytes", buffer.capacity());
        }
    }
}
