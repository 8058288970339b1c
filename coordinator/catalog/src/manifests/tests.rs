//! Tables whose manifests are written by hand, as writers in the wild leave them.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

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
        let request = |(predicate, columns)| ScanRequest { predicate, columns, also: &also };
        let requests: Vec<_> = scans.iter().map(|(predicate, columns)| request((predicate, columns))).collect();
        self.table().plans(&requests).await
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

/// A plan grows by data files and by delete files, not by their product.
#[tokio::test]
async fn data_files_share_one_set_of_deletes() {
    let lake = Lake::new(3, json!([column(1, "id", "int")]), json!([]));
    let data: Vec<Json> = (0..40).map(|number| entry(&format!("f{number}"), json!({}))).collect();
    let by_keys = |file: &mut Json| file["equality_ids"] = json!([1]);
    let keys = (0..30).map(|number| delete(&format!("e{number}"), 2, "PARQUET", by_keys));
    let positions = (0..20).map(|number| delete(&format!("p{number}"), 1, "PARQUET", |_| ()));
    let deletes: Vec<Json> = keys.chain(positions).collect();
    let (data, deletes) = (manifest(&[], &json!([]), &data), manifest(&[], &json!([]), &deletes));
    lake.put("list", list(&[listed("s3://b/m", data.len(), 0, 1), listed("s3://b/d", deletes.len(), 1, 2)])).await;
    lake.put("m", data).await;
    lake.put("d", deletes).await;
    let plan = lake.plan(&Predicate::AlwaysTrue, &[]).await.unwrap();
    assert_eq!((plan.files.len(), plan.deletes.len(), plan.delete_sets.len()), (40, 50, 1));
    assert_eq!((plan.delete_sets[0].positions.len(), plan.delete_sets[0].equality.len()), (20, 1));
    assert!(plan.files.iter().all(|file| file.deletes.set == Some(0)));
}

/// An imported file has a column of the partition's name, with other values and bounds. Its rows have the partition's value, so that
/// these bounds keep no delete away.
#[tokio::test]
async fn a_delete_by_the_partition_reaches_an_imported_file_with_other_bounds() {
    let spec = json!([{"source-id": 2, "field-id": 1000, "name": "p", "transform": "identity"}]);
    let lake = Lake::new(2, json!([column(1, "id", "int"), column(2, "p", "int")]), spec.clone());
    let bounds = |file: &mut Json, lower: i32, upper: i32, nulls: i32| {
        file["null_value_counts"] = json!([{"key": 2, "value": nulls}]);
        file["lower_bounds"] = json!([{"key": 2, "value": lower.to_le_bytes()}]);
        file["upper_bounds"] = json!([{"key": 2, "value": upper.to_le_bytes()}]);
    };
    let mut imported = entry("f", json!({"p": 1}));
    bounds(&mut imported["data_file"], 70, 90, 0);
    let delete = delete("e", 2, "PARQUET", |file| {
        file["partition"] = json!({"p": 1});
        file["equality_ids"] = json!([2]);
        bounds(file, 1, 1, 0);
    });
    let partition = [optional(1000, "p", "int")];
    let (data, deletes) = (manifest(&partition, &spec, &[imported]), manifest(&partition, &spec, &[delete]));
    lake.put("list", list(&[listed("s3://b/m", data.len(), 0, 1), listed("s3://b/d", deletes.len(), 1, 2)])).await;
    lake.put("m", data).await;
    lake.put("d", deletes).await;
    let plan = lake.plan(&Predicate::AlwaysTrue, &[]).await.unwrap();
    assert_eq!((plan.deletes.len(), plan.files[0].deletes.set), (1, Some(0)));
}

/// Keys of one struct that was dropped, two of which no schema has together, and one more field that is no key.
#[tokio::test]
async fn keys_of_a_dropped_struct_come_from_all_schemas() {
    let mut lake = Lake::new(2, json!([column(1, "id", "int")]), json!([]));
    let fields = |fields: Json| json!({"type": "struct", "fields": fields});
    let versions = [
        json!([
            column(3, "y", "int"),
            column(4, "other", "int"),
            column(6, "s", fields(json!([column(7, "a", "int")])))
        ]),
        // Another field had this name before.
        json!([column(5, "y", "string"), column(6, "s", fields(json!([column(8, "a", "long")])))]),
    ];
    for (version, number) in versions.into_iter().zip(1..) {
        let columns = json!([column(1, "id", "int"), column(2, "s", fields(version))]);
        let older = json!({"schema-id": number, "type": "struct", "fields": columns});
        lake.metadata["schemas"].as_array_mut().unwrap().push(older);
    }
    let deletes = |ids: &[i32]| {
        let path = FilePath { folder: "".into(), name: "".into() };
        let content = DeleteContent::Equality { ids: ids.into(), scope: 0, sequence_number: 1 };
        [DeleteFile { path, size_bytes: 1, record_count: 1, content }]
    };
    let table = lake.table();
    let dropped = table.dropped_columns(&deletes(&[3, 5, 7, 8])).unwrap();
    assert_eq!(dropped.len(), 1);
    let mut all = Vec::new();
    dropped[0].collect(&mut all);
    let mut all: Vec<_> = all.iter().map(|field| (field.id, field.name.as_str())).collect();
    all.sort_unstable();
    assert_eq!(all, [(2, "s"), (3, "3"), (5, "5"), (6, "6"), (7, "7"), (8, "8")]);
    assert!(table.dropped_columns(&deletes(&[1])).unwrap().is_empty());
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

#[tokio::test]
async fn bad_manifests_are_named() {
    let lake = || Lake::new(2, json!([column(1, "id", "int")]), json!([]));
    let check = async |bytes: Vec<u8>, expect: &str| {
        let error = lake().whole(bytes).await.unwrap_err();
        assert!(told(&error).contains(expect), "{}", told(&error));
    };
    let with = |change: &dyn Fn(&mut Json)| {
        let mut file = entry("f", json!({}));
        change(&mut file);
        manifest(&[], &json!([]), &[entry("e", json!({})), file])
    };
    let whole = with(&|_| ());
    check(whole[..whole.len() - 1].to_vec(), "cannot read the manifest of table t, s3://b/m: it ends within block 1")
        .await;
    check(b"PAR1".to_vec(), "it is no Avro file").await;
    check(with(&|file| file["status"] = json!(3)), "block 1: entry 1 has status 3").await;
    check(with(&|file| file["data_file"]["record_count"] = json!(-1)), "entry 1 has record count -1").await;
    check(with(&|file| file["data_file"]["file_path"] = json!("")), "entry 1 has no path").await;
    check(with(&|file| file["data_file"]["content"] = json!(1)), "it lists delete file f among data files").await;
    check(with(&|file| file["data_file"]["file_format"] = json!("AVRO")), "data files in format avro (f)").await;
    check(with(&|file| file["data_file"]["key_metadata"] = json!([1])), "encrypted data files (f)").await;
    let bzip2 = file(&manifest_schema(&[]), &[], "bzip2", &[entry("f", json!({}))]);
    check(bzip2, "table t has a manifest in codec bzip2 (s3://b/m), which is not supported").await;
    let other = json!([{"source-id": 1, "field-id": 1000, "name": "p", "transform": "identity"}]);
    check(manifest(&[], &other, &[]), "its partition spec is not the table's spec 0").await;

    // A file that cannot be read does not matter where the query does not need it.
    let lake = lake();
    let mut orc = entry("f", json!({}));
    orc["data_file"]["file_format"] = json!("ORC");
    orc["data_file"]["lower_bounds"] = json!([{"key": 1, "value": 5_i32.to_le_bytes()}]);
    let _ = lake.whole(manifest(&[], &json!([]), &[orc])).await;
    assert_eq!(lake.plan(&equals("id", Scalar::Int(1)), &[]).await.unwrap().files, []);
}

fn delete(path: &str, content: i32, format: &str, change: impl FnOnce(&mut Json)) -> Json {
    let mut file = entry(path, json!({}));
    file["data_file"]["content"] = json!(content);
    file["data_file"]["file_format"] = json!(format);
    file["data_file"]["record_count"] = json!(3);
    change(&mut file["data_file"]);
    file
}

/// Plans a table with one data file `f` of number 1 and these delete files of number 2.
async fn with_deletes(deletes: &[Json]) -> Result<FilePlan> {
    let columns = json!([column(1, "id", "int"), column(2, "x", "double")]);
    let lake = Lake::new(3, columns, json!([]));
    let mut data = entry("f", json!({}));
    data["data_file"]["lower_bounds"] = json!([{"key": 1, "value": 5_i32.to_le_bytes()}]);
    data["data_file"]["upper_bounds"] = json!([{"key": 1, "value": 9_i32.to_le_bytes()}]);
    let data = manifest(&[], &json!([]), &[data]);
    let deletes = manifest(&[], &json!([]), deletes);
    lake.put("list", list(&[listed("s3://b/m", data.len(), 0, 1), listed("s3://b/d", deletes.len(), 1, 2)])).await;
    lake.put("m", data).await;
    lake.put("d", deletes).await;
    lake.plan(&Predicate::AlwaysTrue, &[]).await
}

fn vector_of(path: &str) -> impl FnOnce(&mut Json) {
    let path = path.to_owned();
    move |file| {
        file["referenced_data_file"] = json!(path);
        (file["content_offset"], file["content_size_in_bytes"]) = (json!(4), json!(40));
    }
}

#[tokio::test]
async fn deletes_come_with_the_files_that_they_apply_to() {
    let equality = |file: &mut Json| file["equality_ids"] = json!([1]);
    let apart = |file: &mut Json| {
        file["equality_ids"] = json!([1]);
        file["null_value_counts"] = json!([{"key": 1, "value": 0}]);
        file["lower_bounds"] = json!([{"key": 1, "value": 20_i32.to_le_bytes()}]);
    };
    let mut removed = delete("removed", 1, "PARQUET", |_| ());
    removed["status"] = json!(2);
    let plan = with_deletes(&[
        delete("elsewhere", 1, "puffin", vector_of("g")),
        delete("p", 1, "PARQUET", |_| ()),
        delete("apart", 2, "PARQUET", apart),
        delete("e", 2, "PARQUET", equality),
        removed,
    ])
    .await
    .unwrap();
    let paths: Vec<_> = plan.deletes.iter().map(|file| file.path.to_string()).collect();
    assert_eq!(paths, ["p", "e"]);
    let equality = DeleteContent::Equality { ids: [1].into(), scope: 0, sequence_number: 2 };
    let contents: Vec<_> = plan.deletes.iter().map(|file| &file.content).collect();
    assert_eq!(contents, [&DeleteContent::Positions, &equality]);
    assert_eq!(plan.files[0].deletes, FileDeletes { vector: None, set: Some(0) });
    assert_eq!(plan.delete_sets, [DeleteSet { positions: [0].into(), equality: [0].into() }]);
    assert!(plan.files[0].columns.is_empty(), "bounds for the keys are not what was asked for");
    let DeleteCounts { vectors, positions, equality, .. } = plan.pruning.deletes;
    assert_eq!((vectors, positions, equality), (0, 1, 1));

    let plan =
        with_deletes(&[delete("v", 1, "PUFFIN", vector_of("f")), delete("p", 1, "PARQUET", |_| ())]).await.unwrap();
    assert_eq!((plan.files[0].deletes.set, plan.delete_sets.len()), (None, 0));
    assert_eq!(plan.deletes[0].content, DeleteContent::Vector { offset: 4, bytes: 40 });
    assert_eq!((plan.deletes.len(), plan.files[0].deletes.vector), (1, Some(0)));
    assert_eq!(plan.pruning.deletes, DeleteCounts { vectors: 1, bytes: 40, ..DeleteCounts::default() });

    let all = |file: &mut Json| {
        vector_of("f")(file);
        file["record_count"] = json!(10);
    };
    // Its vector is read before it is believed that no row is left.
    let plan = with_deletes(&[delete("v", 1, "PUFFIN", all)]).await.unwrap();
    assert_eq!((plan.files.len(), plan.deletes.len(), plan.pruning.files_kept), (1, 1, 1));
    assert_eq!(plan.files[0].deletes.vector, Some(0));
}

/// Nothing in a list tells that it was cut between two blocks.
#[tokio::test]
async fn a_list_that_lacks_manifests_is_an_error() {
    let mut lake = Lake::new(2, json!([column(1, "id", "int")]), json!([]));
    lake.metadata["snapshots"][0]["summary"] = json!({"operation": "append", "total-data-files": "2", "total-records": "20",
        "total-delete-files": "1", "total-position-deletes": "3", "total-equality-deletes": "0"});
    for name in ["a", "b"] {
        lake.put(name, manifest(&[], &json!([]), &[entry(name, json!({}))])).await;
    }
    let deletes = manifest(&[], &json!([]), &[delete("p", 1, "PARQUET", |_| ())]);
    let mut of_deletes = listed("s3://b/d", deletes.len(), 1, 2);
    of_deletes["added_rows_count"] = json!(3);
    lake.put("d", deletes).await;
    let [a, b] = ["s3://b/a", "s3://b/b"].map(|path| listed(path, 0, 0, 1));
    let whole = async |lake: &Lake, rows: &[&Json], blocks: usize| {
        let rows: Vec<Json> = rows.iter().map(|row| (*row).clone()).collect();
        let bytes = list(&rows);
        let ends = bytes.windows(16).enumerate().filter(|(_, bytes)| *bytes == b"the sync marker!");
        let ends: Vec<usize> = ends.map(|(start, _)| start + 16).collect();
        assert_eq!(ends.len(), 3, "a header and two blocks");
        lake.put("list", bytes[..ends[blocks]].to_vec()).await;
        lake.afresh().plan(&Predicate::AlwaysTrue, &[]).await
    };
    let plan = whole(&lake, &[&a, &b, &of_deletes], 2).await.unwrap();
    assert_eq!((names(&plan), plan.deletes.len()), (vec!["a".to_owned(), "b".to_owned()], 1));
    let says = |error: Error, expect: &str| {
        let expect = format!("the manifest list of table t, s3://b/list: {expect}");
        assert!(told(&error).contains(&expect), "{}", told(&error));
    };
    let of_data = "of 10 rows, the summary of its snapshot says 2 of 20";
    says(
        whole(&lake, &[&a, &b, &of_deletes], 1).await.unwrap_err(),
        "it has 0 delete files of 0 rows, the summary of its snapshot says 1 of 3",
    );
    says(whole(&lake, &[&of_deletes, &a, &b], 1).await.unwrap_err(), &format!("it has 1 data files {of_data}"));
    says(
        whole(&lake, &[&of_deletes, &a, &b], 0).await.unwrap_err(),
        "it has 0 data files of 0 rows, the summary of its snapshot says 2 of 20",
    );
    // A writer may count one of them wrongly, or nothing at all.
    for (change, counts) in
        [("total-data-files", json!("9")), ("total-records", json!("99")), ("total-records", json!(null))]
    {
        let known = lake.metadata["snapshots"][0]["summary"][change].take();
        lake.metadata["snapshots"][0]["summary"][change] = counts;
        assert_eq!(whole(&lake, &[&a, &b, &of_deletes], 2).await.unwrap().files.len(), 2, "{change}");
        lake.metadata["snapshots"][0]["summary"][change] = known;
    }
    // Sums that were wrong before say nothing.
    lake.put("older", list(std::slice::from_ref(&a))).await;
    let snapshots = lake.metadata["snapshots"].as_array_mut().unwrap();
    snapshots[0]["parent-snapshot-id"] = json!(7);
    for (files, rows, is_error) in [("1", "10", true), ("2", "20", false)] {
        let snapshots = lake.metadata["snapshots"].as_array_mut().unwrap();
        snapshots.truncate(1);
        snapshots.push(json!({"snapshot-id": 7, "timestamp-ms": 0, "manifest-list": "s3://b/older",
            "summary": {"total-data-files": files, "total-records": rows}}));
        assert_eq!(whole(&lake, &[&of_deletes, &a, &b], 1).await.is_err(), is_error, "{files} files");
    }
    lake.metadata["snapshots"].as_array_mut().unwrap().truncate(1);
    assert!(whole(&lake, &[&of_deletes, &a, &b], 1).await.is_ok(), "the snapshot before has expired");
    let mut uncounted = a.clone();
    uncounted["added_rows_count"] = json!(null);
    assert_eq!(whole(&lake, &[&of_deletes, &uncounted, &b], 1).await.unwrap().files.len(), 1);
}

#[tokio::test]
async fn bad_deletes_are_named() {
    let check = async |deletes: &[Json], expect: &str| {
        let error = with_deletes(deletes).await.unwrap_err();
        assert!(told(&error).contains(expect), "{}", told(&error));
    };
    let vector = |path: &str| delete(path, 1, "PUFFIN", vector_of("f"));
    check(
        &[vector("a"), vector("b")],
        "the manifest of table t, s3://b/d: file f has two deletion vectors, in a and in b",
    )
    .await;
    check(&[delete("v", 1, "PUFFIN", |_| ())], "it names no data file for deletion vector v").await;
    let nowhere = |file: &mut Json| file["referenced_data_file"] = json!("f");
    check(&[delete("v", 1, "PUFFIN", nowhere)], "it has no place for deletion vector v").await;
    check(&[delete("d", 0, "PARQUET", |_| ())], "it lists among delete files data file d").await;
    check(&[delete("d", 1, "AVRO", |_| ())], "table t has delete files in format avro (d), which is not supported")
        .await;
    check(&[delete("e", 2, "PARQUET", |_| ())], "it names no columns for equality delete e").await;
    let by = |id: i32| move |file: &mut Json| file["equality_ids"] = json!([id]);
    check(&[delete("e", 2, "PARQUET", by(77))], "e deletes by field 77, which no schema of the table has").await;
    check(&[delete("e", 2, "PARQUET", by(2))], "table t has equality deletes by column x of type double").await;
    let encrypted = |file: &mut Json| file["key_metadata"] = json!([1]);
    check(&[delete("d", 1, "PARQUET", encrypted)], "table t has encrypted delete files (d)").await;
    // A delete that no file needs may be anything.
    let mut old = delete("d", 1, "AVRO", |_| ());
    old["sequence_number"] = json!(0);
    assert!(with_deletes(&[old]).await.unwrap().deletes.is_empty());
}

/// Point 6: equality and IN reach the partitions that can hold them.
#[tokio::test]
async fn points_are_routed_to_their_partitions() {
    let spec = json!([
        {"source-id": 1, "field-id": 1000, "name": "a_bucket", "transform": "bucket[16]"},
        {"source-id": 2, "field-id": 1001, "name": "b_bucket", "transform": "bucket[4]"},
        {"source-id": 3, "field-id": 1002, "name": "gone", "transform": "void"}]);
    let columns = json!([column(1, "a", "int"), column(2, "b", "int"), column(3, "c", "int")]);
    let lake = Lake::new(1, columns, spec.clone());
    let partition =
        [optional(1000, "a_bucket", "int"), optional(1001, "b_bucket", "int"), optional(1002, "gone", "int")];
    let buckets = (0..16).flat_map(|a| (0..4).map(move |b| (a, b)));
    let entries: Vec<_> =
        buckets.map(|(a, b)| entry(&format!("{a}-{b}"), json!({"a_bucket": a, "b_bucket": b, "gone": null}))).collect();
    lake.whole(manifest(&partition, &spec, &entries)).await.unwrap();
    let check = async |predicate: Predicate, is_pinned: bool, files: usize| {
        let plan = lake.plan(&predicate, &[]).await.unwrap();
        assert_eq!((plan.route.is_pinned, plan.files.len()), (is_pinned, files), "{predicate:?}");
        let hit = if is_pinned { plan.route.partitions.len() } else { 0 };
        assert_eq!((plan.pruning.partitions_hit, plan.pruning.partitions.len()), (hit as u64, hit.min(8)));
        assert_eq!(plan.route.partitions.iter().map(|hit| hit.files).sum::<u64>(), files as u64);
        for file in &plan.files {
            let hit = &plan.route.partitions[file.partition as usize];
            let (a, b) = file.path.to_string().split_once('-').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
            assert_eq!(hit.text, format!("a_bucket={a}, b_bucket={b}"));
        }
    };
    let a = |value: i32| equals("a", Scalar::Int(value));
    let b = |value: i32| equals("b", Scalar::Int(value));
    let a_in = |values: &[i32]| Predicate::In {
        column: "a".to_owned(),
        values: values.iter().map(|value| Scalar::Int(*value)).collect(),
        negated: false,
    };
    check(Predicate::AlwaysTrue, false, 64).await;
    check(a(7), false, 4).await;
    check(Predicate::And(vec![a(7), b(7)]), true, 1).await;
    check(Predicate::And(vec![a_in(&[4, 5]), b(10)]), true, 2).await;
    let either = Predicate::Or(vec![Predicate::And(vec![a(4), b(1)]), Predicate::And(vec![a(5), b(2)])]);
    check(either, true, 2).await;
    check(Predicate::Or(vec![a(4), b(1)]), false, 16 + 4 - 1).await;
    let above = Predicate::Compare { column: "a".to_owned(), op: CompareOp::Gt, value: Scalar::Int(1) };
    check(Predicate::And(vec![above, b(1)]), false, 16).await;
}

/// A manifest is decoded once. Where metrics are many, it is decoded again for columns that nobody has asked for.
#[tokio::test]
async fn a_manifest_is_decoded_once() {
    let mut lake = Lake::new(2, json!([column(1, "a", "int"), column(2, "b", "int")]), json!([]));
    let mut value = entry("f", json!({}));
    value["data_file"]["lower_bounds"] =
        json!([{"key": 1, "value": 5_i32.to_le_bytes()}, {"key": 2, "value": 6_i32.to_le_bytes()}]);
    lake.whole(manifest(&[], &json!([]), &[value.clone()])).await.unwrap();
    let decoded = || lake.stores.cache().decoded_manifests();
    for columns in [[1], [2]] {
        let plan = lake.plan(&Predicate::AlwaysTrue, &columns).await.unwrap();
        let ids: Vec<_> = plan.files[0].columns.iter().map(|facts| facts.id).collect();
        assert_eq!(ids, columns, "nobody asked for the others");
    }
    lake.plan(&equals("a", Scalar::Int(1)), &[]).await.unwrap();
    assert_eq!(decoded(), 1, "with the metrics of all columns");

    // Another table with the same paths, ids and lengths. Its columns are too many.
    let columns = (1..=50_000).map(|id| {
        column(id, &["a", "b"].get(id as usize - 1).map_or(format!("c{id}"), |name| (*name).to_owned()), "int")
    });
    lake.metadata["schemas"][0]["fields"] = columns.collect();
    lake.metadata["table-uuid"] = json!("another");
    let bytes = manifest(&[], &json!([]), &[value]);
    let mut listed = listed("s3://b/m", bytes.len(), 0, 0);
    listed["added_files_count"] = json!(5);
    lake.put("list", list(&[listed])).await;
    lake.put("m", bytes).await;
    lake.plan(&Predicate::AlwaysTrue, &[]).await.unwrap();
    let decoded = || lake.stores.cache().decoded_manifests() - 1;
    assert_eq!(decoded(), 1);
    let equals_one = equals("a", Scalar::Int(1));
    let plans = (0..8).map(|_| lake.plan(&equals_one, &[]));
    let plans = futures::future::join_all(plans).await;
    assert!(plans.iter().all(|plan| plan.as_ref().is_ok_and(|plan| plan.files.is_empty())));
    assert_eq!(decoded(), 2, "eight at once read it once, with column a");
    let plan = lake.plan(&Predicate::AlwaysTrue, &[2]).await.unwrap();
    assert_eq!(plan.files[0].column(2).unwrap().lower, Some(Scalar::Int(6)));
    assert!(plan.files[0].column(1).is_none(), "nobody asked for it");
    assert_eq!(decoded(), 3);
    lake.plan(&equals_one, &[1, 2]).await.unwrap();
    assert_eq!(decoded(), 3, "columns that were asked for stay");
    // Two scans of one statement.
    let (one, other, both) = (BTreeSet::from([5]), BTreeSet::from([6]), BTreeSet::from([5, 6]));
    lake.plan_with(&equals_one, &one, &both).await.unwrap();
    lake.plan_with(&equals_one, &other, &both).await.unwrap();
    assert_eq!(decoded(), 4);
    assert!((1..8192).contains(&lake.stores.cache().held_bytes()), "{}", lake.stores.cache().held_bytes());
    // Scans that are planned together, where nothing is kept.
    let small = lake.kept_in(Arc::new(MetadataCache::new(1)));
    let scans = [(equals_one, one), (equals("b", Scalar::Int(6)), other)];
    let plans = small.plans(&scans).await.unwrap();
    assert_eq!(plans.iter().map(|plan| plan.files.len()).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((small.stores.cache().decoded_manifests(), small.stores.cache().held_bytes()), (1, 0));
}

/// A list or a manifest of few bytes may not take gigabytes.
#[test]
fn crafted_files_stay_within_their_memory() {
    let header = |schema: &Json| [("avro.schema", schema.to_string())];
    // Two bytes an object: a path of one letter.
    let path = json!({"type": "record", "name": "m", "fields": [required(500, "manifest_path", "string")]});
    let block = (8 << 20, [2, b'x'].repeat(8 << 20));
    for codec in ["deflate", "zstandard"] {
        let bytes = crate::avro::tests::file_of_blocks(&header(&path), codec, std::slice::from_ref(&block));
        let fault = list::decode(&bytes).unwrap_err().to_string();
        assert_eq!(fault, "block 1: it takes more than 134217728 bytes of memory", "{} bytes", bytes.len());
    }
    // A manifest with as many summaries as bytes.
    let summary = json!({"type": "array", "element-id": 508, "items": {"type": "record", "name": "s", "fields": [
        required(509, "contains_null", "boolean")]}});
    let summaries = json!({"type": "record", "name": "m", "fields": [required(507, "partitions", summary)]});
    let mut block = Vec::new();
    crate::avro::tests::put_long(&mut block, 8 << 20);
    block.resize(9 << 20, 0);
    let bytes = crate::avro::tests::file_of_blocks(&header(&summaries), "deflate", &[(1, block)]);
    assert!(list::decode(&bytes).unwrap_err().to_string().contains("it takes more than"), "{} bytes", bytes.len());

    let of = |file: Json| {
        json!({"type": "record", "name": "e", "fields": [
        required(0, "status", "int"), required(2, "data_file", json!({"type": "record", "name": "f", "fields": file}))]})
    };
    let keep: Arc<[i32]> = Arc::from([0]);
    let check = |schema: &Json, block: (usize, Vec<u8>)| {
        let bytes = crate::avro::tests::file_of_blocks(&header(schema), "deflate", &[block]);
        let fault = decode::decode(&bytes, keep.clone()).unwrap_err().to_string();
        assert!(fault.contains("it takes more than 268435456 bytes of memory"), "{fault}: {} bytes", bytes.len());
    };
    // Offsets, sizes and keys of one entry, of a byte or two each.
    let longs = |id: i32, item: i32| {
        of(json!([required(id, "l", json!({"type": "array", "items": "long", "element-id": item}))]))
    };
    let mut block = vec![2];
    crate::avro::tests::put_long(&mut block, 40 << 20);
    block.resize(block.len() + (40 << 20), 0);
    for schema in [longs(132, 133), longs(135, 136)] {
        check(&schema, (1, block.clone()));
    }
    let mut block = vec![2];
    crate::avro::tests::put_long(&mut block, 20 << 20);
    block.resize(block.len() + (40 << 20), 0);
    check(&of(json!([required(108, "m", map(117, 118, "long"))])), (1, block));
    // Entries of five bytes.
    let small = of(json!([required(100, "p", "string"), required(103, "r", "long"), required(104, "s", "long")]));
    let entry = [2, 2, b'x', 0, 0];
    check(&small, (4 << 20, entry.repeat(4 << 20)));
}

/// Nothing in a manifest says how many blocks it has. Its list does.
#[tokio::test]
async fn a_manifest_that_is_cut_between_blocks_is_refused() {
    let entries: Vec<_> = (0..6).map(|i| entry(&format!("f{i}"), json!({}))).collect();
    let whole = manifest(&[], &json!([]), &entries);
    let check = async |bytes: &[u8], listed_bytes: usize, files: i64, expect: Result<usize, &str>| {
        let lake = Lake::new(2, json!([column(1, "id", "int")]), json!([]));
        let mut row = listed("s3://b/m", listed_bytes, 0, 1);
        row["added_files_count"] = json!(files);
        lake.put("list", list(&[row])).await;
        lake.put("m", bytes.to_vec()).await;
        match (lake.plan(&Predicate::AlwaysTrue, &[]).await, expect) {
            (Ok(plan), Ok(expect)) => assert_eq!(plan.files.len(), expect),
            (Err(error), Err(expect)) => assert!(told(&error).contains(expect), "{}", told(&error)),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    };
    let ends = (1..whole.len()).filter(|end| whole[..*end].ends_with(b"the sync marker!"));
    let ends: Vec<usize> = ends.collect();
    assert_eq!(ends.len(), 3, "behind the header and two of the three blocks");
    for (end, live) in ends.into_iter().zip([0, 2, 4]) {
        let cut = format!("it has {live} live entries in {end} bytes, its list says 6 in {}", whole.len());
        check(&whole[..end], whole.len(), 6, Err(&cut)).await;
    }
    check(&whole, whole.len(), 6, Ok(6)).await;
    // Writers record wrong lengths, and wrong counts.
    check(&whole, whole.len() + 100, 6, Ok(6)).await;
    check(&whole, whole.len(), 7, Ok(6)).await;
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

/// Bytes of lists and metadata that were damaged give a plan or an error.
#[tokio::test]
async fn damaged_lists_and_metadata_give_a_plan_or_an_error() {
    let spec = json!([{"source-id": 1, "field-id": 1000, "name": "p", "transform": "bucket[4]"}]);
    let lake = Lake::new(2, json!([column(1, "p", "int"), column(2, "s", "string")]), spec.clone());
    let bytes = manifest(&[optional(1000, "p", "int")], &spec, &[entry("f", json!({"p": 3}))]);
    let mut row = listed("s3://b/m", bytes.len(), 0, 1);
    row["partitions"] = json!([{"contains_null": false, "contains_nan": null, "lower_bound": [3, 0, 0, 0], "upper_bound": [3, 0, 0, 0]}]);
    lake.put("m", bytes).await;
    let (list, metadata) = (list(&[row]), lake.metadata.to_string().into_bytes());
    lake.put("list", list.clone()).await;
    let mut rng = StdRng::seed_from_u64(17);
    let mut damage = |bytes: &[u8]| {
        let mut damaged = bytes.to_vec();
        for _ in 0..rng.random_range(1..4) {
            let place = rng.random_range(0..damaged.len());
            damaged[place] ^= 1 << rng.random_range(0..8);
        }
        damaged.truncate(if rng.random_ratio(1, 8) { rng.random_range(0..damaged.len()) } else { damaged.len() });
        damaged
    };
    let (mut plans, mut errors) = (0, 0);
    for round in 0..4_000 {
        let metadata = if round % 2 == 0 { damage(&metadata) } else { metadata.clone() };
        if round % 2 == 1 {
            let list = damage(&list);
            if let Ok(found) = list::decode(&list) {
                assert!(found.len() <= list.len());
            }
            lake.put("list", list).await;
        }
        // Nothing of the round before is kept.
        let stores = lake.stores.clone().with_cache(Arc::default());
        let planned = match Table::parse("t", "s3://b/t/metadata/v1.json", &metadata, &stores) {
            Ok(table) => {
                let request = ScanRequest {
                    predicate: &equals("p", Scalar::Int(34)),
                    columns: &BTreeSet::from([1, 2]),
                    also: &BTreeSet::new(),
                };
                table.plan(&request).await
            }
            Err(error) => Err(error),
        };
        match planned {
            Ok(plan) => {
                assert!(plan.files.len() <= 1);
                plans += 1;
            }
            Err(error) => {
                assert!(!told(&error).contains("panic"), "{}", told(&error));
                errors += 1;
            }
        }
        if round % 2 == 1 {
            lake.put("list", self::list(&[])).await;
        }
    }
    assert!(plans > 100 && errors > 100, "{plans} plans, {errors} errors");
}

#[test]
fn every_cut_of_a_manifest_is_an_error_and_damage_neither_panics_nor_claims_memory() {
    let partition = [optional(1000, "p", "string")];
    let spec = json!([{"source-id": 1, "field-id": 1000, "name": "p", "transform": "identity"}]);
    let entries: Vec<_> = (0..6)
        .map(|i| {
            let mut value = entry(&format!("s3://b/{i}"), json!({"p": format!("x{i}")}));
            value["data_file"]["lower_bounds"] = json!([{"key": 1, "value": [i, 0, 0, 0]}]);
            value["data_file"]["split_offsets"] = json!([4, 500]);
            value
        })
        .collect();
    let keep: Arc<[i32]> = Arc::from([1]);
    let mut rng = StdRng::seed_from_u64(7);
    for codec in ["null", "deflate", "zstandard", "snappy"] {
        let header = [("partition-spec", spec.to_string())];
        let bytes = file(&manifest_schema(&partition), &header, codec, &entries);
        assert_eq!(decode::decode(&bytes, keep.clone()).unwrap().entries.len(), 6);
        for end in 0..bytes.len() {
            if let Ok(cut) = decode::decode(&bytes[..end], keep.clone()) {
                // Its list says how many entries it has.
                assert!(cut.entries.len().is_multiple_of(2) && bytes[..end].ends_with(b"the sync marker!"), "{end}");
            }
        }
        for _ in 0..5_000 {
            let mut damaged = bytes.clone();
            for _ in 0..rng.random_range(1..4) {
                let place = rng.random_range(0..damaged.len());
                damaged[place] ^= 1 << rng.random_range(0..8);
            }
            if let Ok(decoded) = decode::decode(&damaged, keep.clone()) {
                assert!(
                    decoded.entries.len() <= 6 && decoded.held_bytes() <= 64 << 10,
                    "{} bytes",
                    decoded.held_bytes()
                );
            }
        }
    }
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
