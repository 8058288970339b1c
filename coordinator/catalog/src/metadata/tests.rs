//! Metadata files of all versions.

use std::io::Write;

use serde_json::{Value as Json, json};

use super::*;
use crate::types::{InitialDefault, Transform, Type};

fn parsed(json: &Json) -> TableMetadata {
    TableMetadata::parse(json.to_string().as_bytes()).unwrap()
}

fn fault(json: &Json) -> String {
    match TableMetadata::parse(json.to_string().as_bytes()).unwrap_err() {
        MetadataFault::Corrupt(why) => why,
        MetadataFault::Unsupported { feature, .. } => feature,
    }
}

fn column(id: i32, name: &str, ty: impl Into<Json>) -> Json {
    json!({"id": id, "name": name, "required": false, "type": ty.into()})
}

/// Makes metadata of version 2 with two schemas and two specs.
fn second_version() -> Json {
    json!({
        "format-version": 2, "table-uuid": "x", "location": "s3://b/t", "last-sequence-number": 4, "a-key-of-tomorrow": [1],
        "schemas": [
            {"schema-id": 0, "type": "struct", "fields": [column(1, "id", "int"), column(2, "gone", "string")]},
            {"schema-id": 1, "type": "struct", "fields": [column(1, "id", "long"),
                column(3, "s", json!({"type": "struct", "fields": [column(4, "x", "date")]}))]},
        ],
        "current-schema-id": 1,
        "partition-specs": [
            {"spec-id": 0, "fields": []},
            {"spec-id": 1, "fields": [
                {"source-id": 2, "field-id": 1000, "name": "gone", "transform": "identity"},
                {"source-id": 1, "field-id": 1001, "name": "b", "transform": "bucket[16]"}]},
        ],
        "default-spec-id": 1,
        "properties": {"a": "b", "n": 7},
        "current-snapshot-id": 9,
        "snapshots": [
            {"snapshot-id": 8, "timestamp-ms": 1, "manifest-list": "old"},
            {"snapshot-id": 9, "timestamp-ms": 2, "manifest-list": "new", "summary": {"total-files-size": "77"}}],
    })
}

#[test]
fn the_second_version_is_read() {
    let metadata = parsed(&second_version());
    assert_eq!((metadata.format_version, metadata.location.as_str()), (2, "s3://b/t"));
    let names: Vec<_> = metadata.schema().fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["id", "s"]);
    let field = |id| metadata.field(id).map(|found| (found.name, found.field.ty.clone()));
    assert_eq!(field(1), Some(("id".to_owned(), Type::Long)));
    assert_eq!(field(2), Some(("gone".to_owned(), Type::String)));
    assert_eq!(field(4), Some(("s.x".to_owned(), Type::Date)));
    assert_eq!(field(9), None);
    let parts: Vec<_> = metadata.default_spec().iter().map(|part| (part.field_id, part.transform)).collect();
    assert_eq!(parts, [(1000, Transform::Identity), (1001, Transform::Bucket(16))]);
    let snapshot = metadata.snapshot.as_ref().unwrap();
    assert_eq!((snapshot.id, snapshot.timestamp_ms, snapshot.files_bytes), (9, 2, Some(77)));
    assert!(matches!(&snapshot.manifests, ManifestSource::List(list) if list == "new"));
    assert_eq!((metadata.property("a"), metadata.property("n")), (Some("b"), None));
    assert!(!metadata.is_encrypted);
}

#[test]
fn the_first_version_is_read_with_what_it_leaves_out() {
    let mut json = json!({
        "format-version": 1, "location": "/t",
        "schema": {"type": "struct", "fields": [column(1, "p", "int")]},
        "partition-spec": [{"source-id": 1, "name": "p", "transform": "void"}],
        "current-snapshot-id": -1,
    });
    let metadata = parsed(&json);
    assert!(metadata.snapshot.is_none());
    let [part] = metadata.default_spec() else { panic!() };
    assert_eq!((part.field_id, part.transform, part.source()), (1000, Transform::Void, Some(1)));

    json["current-snapshot-id"] = json!(5);
    json["snapshots"] = json!([{"snapshot-id": 5, "timestamp-ms": 1, "manifests": ["a.avro", "b.avro"]}]);
    let snapshot = parsed(&json).snapshot.unwrap();
    assert!(matches!(snapshot.manifests, ManifestSource::Paths(paths) if paths == ["a.avro", "b.avro"]));
    json["schemas"] = json!([{"schema-id": 3, "type": "struct", "fields": [column(1, "q", "int")]}]);
    json["current-schema-id"] = json!(3);
    assert_eq!(parsed(&json).schema().fields[0].name, "q");
}

/// F5: a void field keeps the name of a column that is gone.
#[test]
fn a_void_field_may_have_the_name_of_a_dropped_column() {
    let metadata = parsed(&json!({
        "format-version": 1, "location": "/t", "current-schema-id": 1, "default-spec-id": 1,
        "schemas": [
            {"schema-id": 0, "type": "struct", "fields": [column(1, "a", "int"), column(2, "p", "int")]},
            {"schema-id": 1, "type": "struct", "fields": [column(1, "a", "int")]}],
        "partition-specs": [
            {"spec-id": 0, "fields": [{"source-id": 2, "field-id": 1000, "name": "p", "transform": "identity"}]},
            {"spec-id": 1, "fields": [{"source-id": 2, "field-id": 1000, "name": "p", "transform": "void"}]}],
    }));
    assert_eq!(metadata.field(2).unwrap().name, "p");
    assert_eq!(metadata.default_spec()[0].transform, Transform::Void);
}

/// F12, F14: a column of type unknown, transforms of several columns, and transforms of tomorrow.
#[test]
fn the_third_version_is_read() {
    let mut json = second_version();
    json["format-version"] = json!(3);
    json["schemas"][1]["fields"][0] = column(1, "id", "unknown");
    json["partition-specs"][1]["fields"] = json!([
        {"source-ids": [1, 2], "field-id": 1000, "name": "two", "transform": "bucket[4]"},
        {"source-ids": [1], "field-id": 1001, "name": "one", "transform": "identity"},
        {"source-id": 1, "field-id": 1002, "name": "new", "transform": "zorder[3]"}]);
    let metadata = parsed(&json);
    assert_eq!(metadata.schema().fields[0].ty, Type::Unknown);
    let parts = metadata.default_spec().iter();
    let parts: Vec<_> = parts.map(|part| (part.name.as_str(), part.source(), part.transform)).collect();
    let expect = [
        ("two", None, Transform::Unknown),
        ("one", Some(1), Transform::Identity),
        ("new", Some(1), Transform::Unknown),
    ];
    assert_eq!(parts, expect);
}

#[test]
fn initial_defaults_are_read_or_refused_by_name() {
    let mut json = second_version();
    json["format-version"] = json!(3);
    let mut fields = |default: Json, ty: Json| {
        json["schemas"][1]["fields"][0] = column(1, "id", ty);
        json["schemas"][1]["fields"][0]["initial-default"] = default;
        TableMetadata::parse(json.to_string().as_bytes())
            .map(|metadata| metadata.schema().fields[0].initial_default.clone())
    };
    let text = |text: &str| Some(InitialDefault::Text(text.to_owned()));
    let mut check = |default: Json, ty: Json, expect: Option<InitialDefault>| {
        assert_eq!(fields(default.clone(), ty).ok(), Some(expect), "{default}");
    };
    check(json!(null), json!("int"), None);
    check(json!(7), json!("int"), text("7"));
    check(json!("14.20"), json!("decimal(4, 2)"), text("14.20"));
    check(json!(true), json!("boolean"), text("true"));
    let structure = || json!({"type": "struct", "fields": [column(8, "a", "int")]});
    check(json!({}), structure(), Some(InitialDefault::OfItsFields));
    for (default, ty) in [(json!({"8": 1}), structure()), (json!([1]), json!("int")), (json!(1), json!("unknown"))] {
        let Err(MetadataFault::Unsupported { feature, .. }) = fields(default.clone(), ty) else { panic!("{default}") };
        assert!(feature.contains("column id of type") && feature.contains("with an initial default"), "{feature}");
    }
}

/// F7: also in version 3.
#[test]
fn gzipped_metadata_is_read() {
    let mut json = second_version();
    json["format-version"] = json!(3);
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(json.to_string().as_bytes()).unwrap();
    let bytes = writer.finish().unwrap();
    assert_eq!(TableMetadata::parse(&bytes).unwrap().format_version, 3);
    for end in 2..bytes.len() {
        let Err(MetadataFault::Corrupt(why)) = TableMetadata::parse(&bytes[..end]) else { panic!("cut at {end}") };
        assert_eq!(why, "its gzip stream ends early", "cut at {end}");
    }
}

#[test]
fn types_are_read_or_refused_by_name() {
    let check = |ty: Json, expect: Result<Type, &str>| {
        let json = json!({"type": "struct", "fields": [column(1, "c", ty.clone())]});
        let found = schema::schema(&json).map(|schema| schema.fields[0].ty.clone()).map_err(|fault| match fault {
            MetadataFault::Corrupt(why) => why,
            MetadataFault::Unsupported { feature, .. } => feature,
        });
        assert_eq!(found, expect.map_err(str::to_owned), "{ty}");
    };
    check(json!("decimal(9,2)"), Ok(Type::Decimal { precision: 9, scale: 2 }));
    check(json!("decimal(38, 0)"), Ok(Type::Decimal { precision: 38, scale: 0 }));
    check(json!("decimal(39, 0)"), Err("column c of type decimal(39, 0)"));
    check(json!("fixed[16]"), Ok(Type::Fixed(16)));
    check(json!("timestamptz_ns"), Ok(Type::TimestamptzNs));
    check(json!("variant"), Err("column c of type variant"));
    check(json!("geography(srid:4326)"), Err("column c of type geography(srid:4326)"));
    check(json!({"type": "tuple"}), Err("column c of type tuple"));
    check(json!({"type": "list", "element": "int"}), Err("column element of its schema has no id"));
    check(json!({"type": "struct"}), Err("a struct of its schema has no fields"));
    check(json!(7), Err("column c of its schema has no type"));
    let mut deep = json!("int");
    for id in 0..100 {
        deep = json!({"type": "list", "element-id": 100 + id, "element-required": false, "element": deep});
    }
    check(deep, Err("its schema has more than 64 types inside each other"));
}

#[test]
fn what_cannot_be_used_is_said() {
    let check = |change: &dyn Fn(&mut Json), expect: &str| {
        let mut json = second_version();
        change(&mut json);
        assert_eq!(fault(&json), expect);
    };
    check(&|json| json["format-version"] = json!(4), "format version 4");
    check(&|json| json["current-schema-id"] = json!(7), "it has no schema 7, which is its current");
    check(&|json| json["current-snapshot-id"] = json!(7), "it has no snapshot 7, which is its current");
    check(&|json| json["location"] = json!(null), "it has no location");
    check(&|json| json["schemas"][1]["fields"][0]["id"] = json!(3), "its schema has two columns with id 3");
    check(&|json| json["schemas"][1]["fields"][0]["name"] = json!("s"), "its schema has two columns s");
    check(
        &|json| json["partition-specs"][1]["fields"][0]["source-id"] = json!("x"),
        "partition field gone has no source",
    );
    // A column that is gone may have had any type.
    let mut json = second_version();
    json["schemas"][0]["fields"][1]["type"] = json!("variant");
    assert!(parsed(&json).field(2).is_none());
    // A table that was never parted lists no spec.
    json["partition-specs"] = json!([]);
    json["default-spec-id"] = json!(0);
    assert_eq!(parsed(&json).specs, [Spec { id: 0, parts: Vec::new() }]);
    json["encryption-keys"] = json!([{"key-id": "k"}]);
    assert!(parsed(&json).is_encrypted);
}

/// Few bytes may not take gigabytes.
#[test]
fn crafted_metadata_stays_within_its_memory() {
    let check = |json: &[u8], expect: &str| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        writer.write_all(json).unwrap();
        let bytes = writer.finish().unwrap();
        let Err(MetadataFault::Corrupt(why)) = TableMetadata::parse(&bytes) else { panic!() };
        assert_eq!(why, expect, "{} bytes", bytes.len());
    };
    check(&vec![b' '; (256 << 20) + 1], "it inflates to more than 268435456 bytes");
    check(&[b"{\"schemas\": [".as_slice(), &b"[],".repeat(5 << 20)].concat(), "it has more than 8000000 values");
}

/// F7: as `pigz` and appends to a gzip file leave it.
#[test]
fn gzip_members_follow_one_another() {
    let json = second_version().to_string().into_bytes();
    let parts = json.split_at(100);
    let member = |bytes: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    let bytes = [member(parts.0), member(parts.1)].concat();
    assert_eq!(TableMetadata::parse(&bytes).unwrap().uuid.as_deref(), Some("x"));
}
