//! Tables whose manifests are written by hand, as writers in the wild leave them.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

mod damage;
mod deletes;
mod planning;

use std::collections::BTreeSet;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use super::*;
use crate::avro::tests::file;
use crate::cache::MetadataCache;
use crate::error::{Error, Result};
use crate::plan::{VersionRequest, plan_versions};
use crate::predicate::{CompareOp, Predicate};
use crate::scalar::Scalar;
use crate::scan::{
    DeleteContent, DeleteCounts, DeleteFile, DeleteSet, FileDeletes, FilePath, FilePlan, IdentityValue, ScanFile,
    ScanRequest,
};
use crate::storage::CatalogStores;
use crate::table::Table;

/// Table in memory: its metadata, and the files that it names.
pub(crate) struct Lake {
    pub(crate) metadata: Json,
    store: Arc<InMemory>,
    stores: CatalogStores,
}

pub(crate) fn column(id: i32, name: &str, ty: impl Into<Json>) -> Json {
    json!({"id": id, "name": name, "required": false, "type": ty.into()})
}

impl Lake {
    /// Makes a table with a current schema of these columns and one spec.
    pub(crate) fn new(version: u8, columns: Json, spec: Json) -> Lake {
        let store = Arc::new(InMemory::new());
        let opened: Arc<dyn ObjectStore> = store.clone();
        Lake {
            metadata: json!({
                "format-version": version, "location": "s3://b/t", "current-schema-id": 0, "default-spec-id": 0,
                "schemas": [{"schema-id": 0, "type": "struct", "fields": columns}],
                "partition-specs": [{"spec-id": 0, "fields": spec}],
                "current-snapshot-id": 1,
                "snapshots": [{"snapshot-id": 1, "timestamp-ms": 1, "manifest-list": "s3://b/list"}],
            }),
            store,
            stores: CatalogStores::new(move |_| Ok(Arc::clone(&opened))),
        }
    }

    pub(crate) async fn put(&self, name: &str, bytes: Vec<u8>) {
        self.store.put(&Path::from(name), bytes.into()).await.unwrap();
    }

    pub(crate) async fn get(&self, name: &str) -> Option<Vec<u8>> {
        Some(self.store.get(&Path::from(name)).await.ok()?.bytes().await.unwrap().to_vec())
    }

    /// Returns the same table, of which nothing has been read.
    pub(crate) fn afresh(&self) -> Lake {
        self.kept_in(Arc::default())
    }

    fn kept_in(&self, cache: Arc<MetadataCache>) -> Lake {
        let stores = self.stores.clone().with_cache(cache);
        Lake { metadata: self.metadata.clone(), store: Arc::clone(&self.store), stores }
    }

    pub(crate) fn table(&self) -> Table {
        Table::parse("t", "s3://b/t/metadata/v1.json", self.metadata.to_string().as_bytes(), &self.stores).unwrap()
    }

    /// Plans with the metrics of these columns.
    pub(crate) async fn plan(&self, predicate: &Predicate, columns: &[i32]) -> Result<FilePlan> {
        let columns: BTreeSet<i32> = columns.iter().copied().collect();
        self.plan_with(predicate, &columns, &BTreeSet::new()).await
    }

    /// Plans several scans together.
    pub(crate) async fn plans(&self, scans: &[(Predicate, BTreeSet<i32>)]) -> Result<Vec<FilePlan>> {
        let also = BTreeSet::new();
        let table = &self.table();
        let request =
            |(predicate, columns)| VersionRequest { table, request: ScanRequest { predicate, columns, also: &also } };
        let requests: Vec<_> = scans.iter().map(|(predicate, columns)| request((predicate, columns))).collect();
        plan_versions(&requests).await
    }

    async fn plan_with(
        &self,
        predicate: &Predicate,
        columns: &BTreeSet<i32>,
        also: &BTreeSet<i32>,
    ) -> Result<FilePlan> {
        self.table().plan(&ScanRequest { predicate, columns, also }).await
    }

    /// Writes one manifest with its list of version 2, and returns the plan of the whole table.
    async fn whole(&self, manifest: Vec<u8>) -> Result<FilePlan> {
        self.put("list", list(&[listed("s3://b/m", manifest.len(), 0, 0)])).await;
        self.put("m", manifest).await;
        self.plan(&Predicate::AlwaysTrue, &[]).await
    }
}

fn optional(id: i32, name: &str, ty: impl Into<Json>) -> Json {
    json!({"name": name, "type": ["null", ty.into()], "default": null, "field-id": id})
}

fn required(id: i32, name: &str, ty: impl Into<Json>) -> Json {
    json!({"name": name, "type": ty.into(), "field-id": id})
}

fn map(key: i32, value: i32, ty: &str) -> Json {
    let name = format!("k{key}_v{value}");
    json!({"type": "array", "logicalType": "map", "items": {"type": "record", "name": name, "fields": [
        required(key, "key", "int"), required(value, "value", ty)]}})
}

/// Schema of manifests, whose partition has these fields.
pub(crate) fn manifest_schema(partition: &[Json]) -> Json {
    json!({"type": "record", "name": "manifest_entry", "fields": [
        required(0, "status", "int"),
        optional(1, "snapshot_id", "long"),
        optional(3, "sequence_number", "long"),
        optional(4, "file_sequence_number", "long"),
        required(2, "data_file", json!({"type": "record", "name": "r2", "fields": [
            optional(134, "content", "int"),
            required(100, "file_path", "string"),
            required(101, "file_format", "string"),
            required(102, "partition", json!({"type": "record", "name": "r102", "fields": partition})),
            required(103, "record_count", "long"),
            required(104, "file_size_in_bytes", "long"),
            optional(108, "column_sizes", map(117, 118, "long")),
            optional(109, "value_counts", map(119, 120, "long")),
            optional(110, "null_value_counts", map(121, 122, "long")),
            optional(137, "nan_value_counts", map(138, 139, "long")),
            optional(125, "lower_bounds", map(126, 127, "bytes")),
            optional(128, "upper_bounds", map(129, 130, "bytes")),
            optional(131, "key_metadata", "bytes"),
            optional(132, "split_offsets", json!({"type": "array", "items": "long", "element-id": 133})),
            optional(135, "equality_ids", json!({"type": "array", "items": "int", "element-id": 136})),
            optional(140, "sort_order_id", "int"),
            optional(143, "referenced_data_file", "string"),
            optional(144, "content_offset", "long"),
            optional(145, "content_size_in_bytes", "long"),
        ]})),
    ]})
}

/// Makes an added entry of ten rows without metrics.
pub(crate) fn entry(path: &str, partition: Json) -> Json {
    json!({"status": 1, "snapshot_id": 1, "data_file": {"content": 0, "file_path": path, "file_format": "PARQUET",
        "partition": partition, "record_count": 10, "file_size_in_bytes": 1000}})
}

pub(crate) fn manifest(partition: &[Json], spec: &Json, entries: &[Json]) -> Vec<u8> {
    let header = [("partition-spec", spec.to_string()), ("partition-spec-id", "0".to_owned())];
    file(&manifest_schema(partition), &header, "deflate", entries)
}

/// Describes a manifest as lists of version 2 do.
pub(crate) fn listed(path: &str, bytes: usize, content: i32, sequence_number: i64) -> Json {
    json!({"manifest_path": path, "manifest_length": bytes, "partition_spec_id": 0, "content": content,
        "sequence_number": sequence_number, "min_sequence_number": 0, "added_snapshot_id": 1,
        "added_files_count": 1, "existing_files_count": 0, "deleted_files_count": 0,
        "added_rows_count": 10, "existing_rows_count": 0})
}

pub(crate) fn list(manifests: &[Json]) -> Vec<u8> {
    let summary = json!({"type": "array", "element-id": 508, "items": {"type": "record", "name": "r508", "fields": [
        required(509, "contains_null", "boolean"), optional(518, "contains_nan", "boolean"),
        optional(510, "lower_bound", "bytes"), optional(511, "upper_bound", "bytes")]}});
    let schema = json!({"type": "record", "name": "manifest_file", "fields": [
        required(500, "manifest_path", "string"), required(501, "manifest_length", "long"),
        required(502, "partition_spec_id", "int"), required(517, "content", "int"),
        required(515, "sequence_number", "long"), required(516, "min_sequence_number", "long"),
        required(503, "added_snapshot_id", "long"), optional(504, "added_files_count", "int"),
        optional(505, "existing_files_count", "int"), optional(506, "deleted_files_count", "int"),
        optional(512, "added_rows_count", "long"), optional(513, "existing_rows_count", "long"),
        optional(507, "partitions", summary), optional(519, "key_metadata", "bytes")]});
    file(&schema, &[], "null", manifests)
}

fn delete(path: &str, content: i32, format: &str, change: impl FnOnce(&mut Json)) -> Json {
    let mut file = entry(path, json!({}));
    file["data_file"]["content"] = json!(content);
    file["data_file"]["file_format"] = json!(format);
    file["data_file"]["record_count"] = json!(3);
    change(&mut file["data_file"]);
    file
}

fn names(plan: &FilePlan) -> Vec<String> {
    plan.files.iter().map(|file| file.path.to_string()).collect()
}

fn equals(column: &str, value: Scalar) -> Predicate {
    Predicate::Compare { column: column.to_owned(), op: CompareOp::Eq, value }
}

fn identity(field_id: i32, value: Scalar) -> IdentityValue {
    IdentityValue { field_id, value: Some(value) }
}

/// F3: the column that a spec was made from is gone, and its manifests were rewritten.
#[tokio::test]
async fn a_partition_of_a_dropped_column_is_read() {
    let spec = json!([{"source-id": 2, "field-id": 1000, "name": "p", "transform": "identity"}]);
    let mut lake = Lake::new(2, json!([column(1, "id", "int")]), spec.clone());
    let entries = [entry("s3://b/a", json!({"p": "x"})), entry("s3://b/b", json!({"p": null}))];
    let bytes = manifest(&[optional(1000, "p", "string")], &spec, &entries);
    let plan = lake.whole(bytes.clone()).await.unwrap();
    assert_eq!(names(&plan), ["s3://b/a", "s3://b/b"]);
    // No schema says the type of the value any more.
    let unread = IdentityValue { field_id: 2, value: None };
    assert_eq!(plan.files[0].identity_values[..], [unread]);
    assert_eq!(plan.files[1].identity_values[..], []);
    let older = json!({"schema-id": 7, "type": "struct", "fields": [column(1, "id", "int"), column(2, "p", "string")]});
    lake.metadata["schemas"].as_array_mut().unwrap().push(older);
    let plan = lake.whole(bytes).await.unwrap();
    assert_eq!(plan.files[0].identity_values[..], [identity(2, Scalar::String("x".into()))]);
}

/// F4, F6: a partition field has the name of a column, as a void field of version 1, and as ClickHouse writes it.
#[tokio::test]
async fn a_partition_field_may_have_the_name_of_a_column() {
    let columns = json!([column(1, "id", "int"), column(2, "p", "int")]);
    let void = json!([{"source-id": 2, "field-id": 1000, "name": "p", "transform": "void"}]);
    let lake = Lake::new(1, columns.clone(), void.clone());
    let plan = lake.whole(manifest(&[optional(1000, "p", "int")], &void, &[entry("a", json!({"p": null}))])).await;
    assert_eq!(plan.unwrap().files[0].identity_values[..], []);

    let bucket = json!([{"source-id": 2, "field-id": 1000, "name": "p", "transform": "bucket[4]"}]);
    let lake = Lake::new(2, columns, bucket.clone());
    let entries: Vec<_> = (0..4).map(|bucket| entry(&format!("f{bucket}"), json!({"p": bucket}))).collect();
    lake.whole(manifest(&[optional(1000, "p", "int")], &bucket, &entries)).await.unwrap();
    let plan = lake.plan(&equals("p", Scalar::Int(34)), &[]).await.unwrap();
    // The specification's hash of 34 is 2017239379.
    assert_eq!(names(&plan), ["f3"]);
}

/// F9: bounds of another length, cut texts, promoted types, bounds of fields inside others.
#[tokio::test]
async fn odd_bounds_lose_no_row_and_fail_nothing() {
    let columns = json!([
        column(1, "i", "int"),
        column(2, "s", "string"),
        column(3, "t", "timestamp"),
        column(4, "l", json!({"type": "list", "element-id": 5, "element-required": false, "element": "int"}))
    ]);
    let lake = Lake::new(2, columns, json!([]));
    let mut file = entry("a", json!({}));
    let data = &mut file["data_file"];
    let bound = |id: i32, bytes: &[u8]| json!({"key": id, "value": bytes});
    data["lower_bounds"] = json!([
        bound(1, &5_i64.to_le_bytes()),
        bound(2, b"ab\xc3"),
        bound(3, &1_i32.to_le_bytes()),
        bound(5, &[1, 2, 3])
    ]);
    data["upper_bounds"] =
        json!([bound(1, &9_i64.to_le_bytes()), bound(2, b"\xff\xff"), bound(3, &2_i32.to_le_bytes())]);
    data["null_value_counts"] = json!([{"key": 1, "value": -3}]);
    lake.whole(manifest(&[], &json!([]), &[file])).await.unwrap();
    let check = async |predicate: Predicate, expect: usize| {
        let plan = lake.plan(&predicate, &[1, 2, 3, 5]).await.unwrap();
        assert_eq!(plan.files.len(), expect, "{predicate:?}");
    };
    const DAY: i64 = 86_400_000_000;
    check(equals("i", Scalar::Int(7)), 1).await;
    check(equals("i", Scalar::Int(4)), 0).await;
    check(equals("s", Scalar::String("b".into())), 1).await;
    check(equals("s", Scalar::String("a".into())), 0).await;
    check(equals("t", Scalar::Timestamp(DAY + 1)), 1).await;
    check(equals("t", Scalar::Timestamp(2 * DAY + 1)), 0).await;
    let plan = lake.plan(&Predicate::AlwaysTrue, &[1, 2, 3, 5]).await.unwrap();
    let facts = |id| plan.files[0].column(id).unwrap();
    assert_eq!((facts(1).nulls, &facts(1).lower), (None, &Some(Scalar::Int(5))));
    assert_eq!((&facts(2).lower, &facts(2).upper), (&Some(Scalar::String("ab".into())), &None));
    assert_eq!(facts(5).lower, None);
}

/// F10: a list of version 1 has no counts, no content, no sequence numbers.
#[tokio::test]
async fn a_list_of_the_first_version_is_read_under_a_table_of_the_second() {
    let lake = Lake::new(2, json!([column(1, "id", "int")]), json!([]));
    let schema = json!({"type": "record", "name": "manifest_file", "fields": [
        required(500, "manifest_path", "string"), required(501, "manifest_length", "long"),
        required(502, "partition_spec_id", "int"), optional(503, "added_snapshot_id", "long"),
        optional(504, "added_data_files_count", "int"), optional(505, "existing_data_files_count", "int")]});
    let mut old = entry("a", json!({}));
    old["status"] = json!(0);
    let bytes = manifest(&[], &json!([]), &[old]);
    let listed = json!({"manifest_path": "s3://b/m", "manifest_length": bytes.len(), "partition_spec_id": 0});
    lake.put("list", file(&schema, &[], "null", &[listed])).await;
    lake.put("m", bytes).await;
    let plan = lake.plan(&Predicate::AlwaysTrue, &[]).await.unwrap();
    assert_eq!((names(&plan), plan.files[0].sequence_number), (vec!["a".to_owned()], 0));
}

#[tokio::test]
async fn a_snapshot_without_a_list_names_its_manifests() {
    let mut lake = Lake::new(1, json!([column(1, "id", "int")]), json!([]));
    lake.metadata["snapshots"][0] = json!({"snapshot-id": 1, "timestamp-ms": 1, "manifests": ["s3://b/m", "s3://b/n"]});
    lake.put("m", manifest(&[], &json!([]), &[entry("a", json!({}))])).await;
    lake.put("n", manifest(&[], &json!([]), &[entry("b", json!({}))])).await;
    let plan = lake.plan(&Predicate::AlwaysTrue, &[]).await.unwrap();
    assert_eq!(names(&plan), ["a", "b"]);
    assert_eq!(plan.pruning.files_total, 2);
}

/// F14: transforms that are unknown prune nothing, and their values stand for nothing.
#[tokio::test]
async fn a_transform_of_tomorrow_prunes_nothing() {
    let spec = json!([
        {"source-id": 1, "field-id": 1000, "name": "z", "transform": "zorder[3]"},
        {"source-ids": [1, 2], "field-id": 1001, "name": "two", "transform": "bucket[4]"}]);
    let lake = Lake::new(3, json!([column(1, "a", "int"), column(2, "b", "int")]), spec.clone());
    let partition = [optional(1000, "z", "string"), optional(1001, "two", "int")];
    lake.whole(manifest(&partition, &spec, &[entry("f", json!({"z": "?", "two": 1}))])).await.unwrap();
    for predicate in [equals("a", Scalar::Int(1)), Predicate::IsNull { column: "b".to_owned(), negated: false }] {
        let plan = lake.plan(&predicate, &[]).await.unwrap();
        assert_eq!((names(&plan), plan.files[0].identity_values.len()), (vec!["f".to_owned()], 0));
    }
}

#[tokio::test]
async fn fields_are_found_by_id_whatever_their_names_and_order() {
    let spec = json!([
        {"source-id": 1, "field-id": 1000, "name": "p", "transform": "identity"},
        {"source-id": 2, "field-id": 1001, "name": "q", "transform": "identity"}]);
    let lake = Lake::new(2, json!([column(1, "a", "int"), column(2, "b", "int")]), spec.clone());
    let partition = [optional(1001, "any", "int"), optional(1000, "name", "int")];
    let mut schema = manifest_schema(&partition);
    let value = entry("f", json!({"any": 2, "name": 1}));
    let mut value = value;
    for (from, to) in [("file_path", "path_of_old"), ("record_count", "rows")] {
        let fields = schema["fields"][4]["type"]["fields"].as_array_mut().unwrap();
        let field = fields.iter_mut().find(|field| field["name"] == from).unwrap();
        field["name"] = json!(to);
        value["data_file"][to] = value["data_file"][from].take();
    }
    let plan = lake.whole(file(&schema, &[], "snappy", &[value])).await.unwrap();
    assert_eq!(plan.files[0].identity_values[..], [identity(1, Scalar::Int(1)), identity(2, Scalar::Int(2))]);
    assert_eq!((names(&plan), plan.files[0].record_count), (vec!["f".to_owned()], 10));

    // Fields without ids go by the specification's names, and partition fields by their order.
    let strip = |json: &mut Json| {
        fn strip(json: &mut Json) {
            match json {
                Json::Object(object) => {
                    object.remove("field-id");
                    object.remove("element-id");
                    object.values_mut().for_each(strip);
                }
                Json::Array(items) => items.iter_mut().for_each(strip),
                _ => {}
            }
        }
        strip(json);
    };
    let mut schema = manifest_schema(&[optional(1000, "x", "int"), optional(1001, "y", "int")]);
    strip(&mut schema);
    let mut value = entry("g", json!({"x": 3, "y": 4}));
    value["data_file"]["split_offsets"] = json!([4, 500]);
    value["data_file"]["column_sizes"] = json!([{"key": 2, "value": 20}, {"key": 1, "value": 10}]);
    let lake = Lake::new(2, json!([column(1, "a", "int"), column(2, "b", "int")]), spec);
    lake.whole(file(&schema, &[], "zstandard", &[value])).await.unwrap();
    let plan = lake.plan(&Predicate::AlwaysTrue, &[1, 2]).await.unwrap();
    let ScanFile { identity_values, split_offsets, column_bytes, .. } = &plan.files[0];
    assert_eq!(identity_values[..], [identity(1, Scalar::Int(3)), identity(2, Scalar::Int(4))]);
    assert_eq!((&split_offsets[..], &column_bytes[..]), (&[4, 500][..], &[(1, 10), (2, 20)][..]));
}

#[tokio::test]
async fn sequence_numbers_are_inherited() {
    let check = async |status: i32, number: Json, manifest_number: i64, expect: Result<i64, &str>| {
        let lake = Lake::new(2, json!([column(1, "id", "int")]), json!([]));
        let mut file = entry("f", json!({}));
        (file["status"], file["sequence_number"]) = (json!(status), number.clone());
        let bytes = manifest(&[], &json!([]), &[file]);
        lake.put("list", list(&[listed("s3://b/m", bytes.len(), 0, manifest_number)])).await;
        lake.put("m", bytes).await;
        let plan = lake.plan(&Predicate::AlwaysTrue, &[]).await;
        let found = plan.map(|plan| plan.files[0].sequence_number);
        match (found, expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{status} {number} {manifest_number}"),
            (Err(error), Err(expect)) => assert!(told(&error).contains(expect), "{}", told(&error)),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    };
    check(1, json!(null), 7, Ok(7)).await;
    check(1, json!(3), 7, Ok(3)).await;
    check(0, json!(3), 7, Ok(3)).await;
    check(0, json!(null), 0, Ok(0)).await;
    check(1, json!(-1), 7, Ok(7)).await;
    check(0, json!(null), 7, Err("entry 0 is carried over and has no sequence number")).await;
}

/// Returns an error with its cause.
fn told(error: &Error) -> String {
    match error {
        Error::Corrupt { source, .. } => format!("{error}: {source}"),
        other => other.to_string(),
    }
}

/// Sizes of columns that nobody asked for are summed with their neighbours.
#[tokio::test]
async fn sizes_are_kept_of_the_columns_that_are_asked_for() {
    let columns = (1..=6).map(|id| column(id, &format!("c{id}"), "int"));
    let lake = Lake::new(2, columns.collect(), json!([]));
    let mut value = entry("f", json!({}));
    value["data_file"]["column_sizes"] = (1..=6).map(|id| json!({"key": id, "value": 1 << id})).collect();
    lake.whole(manifest(&[], &json!([]), &[value.clone()])).await.unwrap();
    for (columns, expect) in [
        (vec![], vec![(1, 126)]),
        (vec![3], vec![(1, 6), (3, 8), (4, 112)]),
        (vec![1, 2, 6], vec![(1, 2), (2, 4), (3, 56), (6, 64)]),
    ] {
        let plan = lake.plan(&Predicate::AlwaysTrue, &columns).await.unwrap();
        assert_eq!(plan.files[0].column_bytes[..], expect, "{columns:?}");
    }
    let decoded = decode::decode(&manifest(&[], &json!([]), &[value]), Arc::from([2])).unwrap();
    assert_eq!(decoded.column_bytes(&decoded.entries[0]).len(), 3);
}

#[tokio::test]
async fn errors_name_the_table_and_the_next_step() {
    let mut lake = Lake::new(2, json!([column(1, "id", "int")]), json!([]));
    let bytes = manifest(&[], &json!([]), &[entry("f", json!({}))]);
    let mut row = listed("s3://b/m", bytes.len(), 0, 1);
    row["partition_spec_id"] = json!(7);
    lake.put("list", list(&[row])).await;
    let error = lake.plan(&Predicate::AlwaysTrue, &[]).await.unwrap_err();
    let expect =
        "cannot read the metadata file of table t, s3://b/t/metadata/v1.json: a manifest names partition spec 7";
    assert!(told(&error).starts_with(expect) && error.hint().is_some(), "{}", told(&error));
    lake.put("list", file(&json!({"type": "record", "name": "m", "fields": []}), &[], "bzip2", &[])).await;
    lake.metadata["table-uuid"] = json!("new");
    let error = lake.plan(&Predicate::AlwaysTrue, &[]).await.unwrap_err().to_string();
    assert_eq!(error, "table t has a manifest list in codec bzip2 (s3://b/list), which is not supported");
    // A table that was never parted lists no spec.
    lake.metadata["partition-specs"] = json!([]);
    lake.metadata["table-uuid"] = json!("newer");
    assert_eq!(lake.whole(bytes).await.unwrap().files.len(), 1);
}

/// A summary that tells of no value at all prunes nothing, and neither do numbers that cannot be.
#[tokio::test]
async fn impossible_numbers_lose_no_row() {
    let spec = json!([{"source-id": 1, "field-id": 1000, "name": "p", "transform": "identity"}]);
    let lake = Lake::new(2, json!([column(1, "p", "int")]), spec.clone());
    let bytes = manifest(&[optional(1000, "p", "int")], &spec, &[entry("f", json!({"p": null}))]);
    let mut row = listed("s3://b/m", bytes.len(), 0, 1);
    row["partitions"] =
        json!([{"contains_null": false, "contains_nan": false, "lower_bound": null, "upper_bound": null}]);
    lake.put("list", list(&[row])).await;
    lake.put("m", bytes).await;
    let is_null = Predicate::IsNull { column: "p".to_owned(), negated: false };
    assert_eq!(lake.plan(&is_null, &[]).await.unwrap().files.len(), 1);

    let lake = Lake::new(2, json!([column(1, "p", "int")]), json!([]));
    let mut large = entry("f", json!({}));
    large["data_file"]["record_count"] = json!(i64::MAX);
    let error = lake.whole(manifest(&[], &json!([]), &[large])).await.unwrap_err();
    assert!(told(&error).contains("entry 0 has record count 9223372036854775807"), "{}", told(&error));
}

/// Reads must not depend on the crate that writes.
#[test]
fn reads_do_not_name_the_iceberg_crate() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed = ["write.rs", "convert.rs", "storage.rs", "error.rs", "prune/proof.rs"];
    let mut folders = vec![root.clone()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for found in std::fs::read_dir(folder).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let words = lines.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':'));
            let is_fenced =
                |word: &str| word.starts_with(concat!("iceberg", "::")) || word.starts_with(concat!("ice", "::"));
            let names = words.filter(|word| is_fenced(word)).count();
            assert!(names == 0 || allowed.contains(&name.as_str()), "{name} names iceberg");
            seen += 1;
        }
    }
    assert!(seen > 20);
}
