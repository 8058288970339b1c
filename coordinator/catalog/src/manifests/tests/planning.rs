//! Plans over several manifests: routes, and what is decoded.

use super::*;

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
