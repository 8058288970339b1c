//! Metadata that is damaged, cut or impossible.

use super::*;

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
