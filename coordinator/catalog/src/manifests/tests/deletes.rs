//! Delete files among hand-written manifests.

use super::*;

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
