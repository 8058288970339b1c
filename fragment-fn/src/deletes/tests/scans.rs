//! Deletes beside the other ways of a scan: filters, limits, late columns, reading ahead; and random deletes of all kinds.

use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, binary, col, lit};
use datafusion::physical_plan::collect;
use gust_protocol::AheadBounds;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::ahead::{AheadAccount, ReadBudget};

#[tokio::test]
async fn filters_and_limits_count_rows_that_are_left() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", 0..12).await;
    let names = vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(vec!["n1"])) as ArrayRef)];
    table.keys("e.parquet", names, 0, 2).await;
    let with_vector = Unit { vector: Some(vector), ..unit("a.parquet") };
    let with_keys = Unit { scopes: vec![0], ..with_vector.clone() };
    // n1 are 13, 17, 21, 25 and 29.
    for (deletes, left) in [(with_vector, (12..30).collect()), (with_keys, without(12..30, &[13, 17, 21, 25, 29]))] {
        let files = [(file.clone(), Some(deletes))];
        for limit in [1, 7, 40] {
            let scan = table.scan(&files, &[0]).with_limit(Some(limit)).build();
            let rows: usize = table.run(scan).await.expect("rows").iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, limit.min(left.len()), "limit {limit}");
        }
        // Pruned by page statistics, then by deletes; the filter itself stands above the scan.
        let id = col("id", &table.schema).expect("a column");
        let predicate = binary(id, Operator::Lt, lit(16_i64), &table.schema).expect("a comparison");
        let scan = table.scan(&files, &[0]).build();
        let source = scan.file_source().downcast_ref::<ParquetSource>().expect("Parquet").with_predicate(predicate);
        let scan = FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).build();
        let batches = table.run(scan).await.expect("rows");
        let ids: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        let kept = |below: i64| left.iter().copied().filter(|id| *id < below).collect::<Vec<_>>();
        assert_eq!(ids, kept(20), "pages of five rows, row groups of ten");
    }
}

/// The keys of a join let rows through that are not deleted, and no others come back.
#[tokio::test]
async fn late_columns_are_of_rows_that_are_left() {
    const JOINED: [i64; 6] = [3, 7, 12, 17, 22, 27];
    let mut table = Table::new();
    table.late = LateColumns { kept_percent_max: 100 };
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", [1, 2, 11, 12, 13, 14, 15, 16]).await;
    let names = vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(vec!["n3", "n1"])) as ArrayRef)];
    table.keys("e.parquet", names, 0, 2).await;
    let with_vector = Unit { vector: Some(vector), ..unit("a.parquet") };
    let with_keys = Unit { scopes: vec![0], ..with_vector.clone() };
    let left = without(0..30, &[1, 2, 11, 12, 13, 14, 15, 16]);
    let without_keys = left.iter().copied().filter(|id| id % 4 != 1).collect();
    // Columns are not late where keys are compared with them.
    for (deletes, left, is_late) in [(with_vector, left, true), (with_keys, without_keys, false)] {
        let id = col("id", &table.schema).expect("a column");
        let keys = Arc::new(DynamicFilterPhysicalExpr::new(vec![Arc::clone(&id)], lit(true)));
        // One of each page, so that none is pruned.
        let one = |key: i64| binary(Arc::clone(&id), Operator::Eq, lit(key), &table.schema);
        let mut any = one(3).expect("a comparison");
        for key in JOINED.into_iter().skip(1) {
            any = binary(any, Operator::Or, one(key).expect("a comparison"), &table.schema).expect("a filter");
        }
        keys.update(any).expect("a filter");
        keys.mark_complete();
        let scan = table.scan(&[(file.clone(), Some(deletes))], &[0, 1]).build();
        let source = scan.file_source().downcast_ref::<ParquetSource>().expect("Parquet").with_predicate(keys);
        let scan = FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).build();
        let batches = table.run(scan).await.expect("rows");
        let ids: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        let kept = |id: &i64| !is_late || JOINED.contains(id);
        assert_eq!(ids, left.into_iter().filter(kept).collect::<Vec<_>>());
    }
}

/// Reading ahead knows key columns, and leaves a file of which most is deleted to its readers.
#[tokio::test]
async fn reading_ahead_changes_no_row() {
    let mut table = Table::new();
    let files = [table.large("a.parquet", 0).await, table.large("b.parquet", 1 << 20).await];
    let deleted = 5_000..55_000_u64;
    let most = table.vector("most.puffin", deleted.clone()).await;
    let few = table.vector("few.puffin", (0..LARGE_ROWS).step_by(100)).await;
    let keys = vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(vec!["n2"])) as ArrayRef)];
    table.keys("e.parquet", keys, 0, 2).await;
    let large = |path: &str| Unit { rows: LARGE_ROWS, ..unit(path) };
    let url = ObjectStoreUrl::parse("s3://lake").expect("a URL");
    let bounds = AheadBounds { requests_max: 16, bytes_max: 64 << 20 };
    let read = async |files: &[(PartitionedFile, Option<Unit>)]| {
        let mut scan = table.scan(files, &[0]).build();
        scan.object_store_url = url.clone();
        let (budget, account) = (ReadBudget::new(bounds), Arc::<AheadAccount>::default());
        let ahead = budget.query(bounds, &table.pool, Arc::clone(&account));
        let batches = table.run_with(scan, Some(&ahead)).await.expect("rows");
        drop(ahead);
        let mut ids: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        ids.sort_unstable();
        (ids, account.usage())
    };
    // Each row group of the second file is read ahead, with its key column.
    let second = Unit { vector: Some(few), scopes: vec![0], ..large("b.parquet") };
    let (ids, usage) = read(&[(files[1].clone(), Some(second))]).await;
    let rows = (0..LARGE_ROWS as i64).filter(|row| row % 100 != 0).map(|row| row + (1 << 20));
    assert_eq!(ids, rows.filter(|id| id % 4 != 2).collect::<Vec<_>>());
    assert!(usage.taken_bytes > 0 && usage.missed_bytes == 0 && usage.again_bytes == 0, "{usage:?}");
    let first = Unit { vector: Some(most), ..large("a.parquet") };
    let (ids, usage) = read(&[(files[0].clone(), Some(first))]).await;
    assert_eq!(ids, (0..LARGE_ROWS).filter(|row| !deleted.contains(row)).map(|row| row as i64).collect::<Vec<_>>());
    assert_eq!((usage.bytes, usage.taken_bytes), (0, 0), "{usage:?}");
}

/// Random deletes of all kinds over two files, which are read whole or by row groups, against a row-by-row judge.
#[tokio::test]
async fn random_deletes_leave_the_right_rows() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut table = Table::new();
        let files = [table.data("a.parquet", 0).await, table.data("b.parquet", 100).await];
        let paths = ["s3://lake/a.parquet", "s3://lake/b.parquet"];
        let mut units = ["a.parquet", "b.parquet"].map(unit);
        let mut left: Vec<(usize, i64)> =
            [0, 1].into_iter().flat_map(|file| (0..ROWS as i64).map(move |row| (file, row))).collect();
        let share = random.random_range(0.0..1.0);
        if random.random_bool(0.5) {
            let rows: Vec<u64> = (0..ROWS).filter(|_| random.random_bool(share)).collect();
            left.retain(|(file, row)| *file != 0 || !rows.contains(&(*row as u64)));
            units[0].vector = Some(table.vector("v.puffin", rows).await);
        }
        for number in 0..random.random_range(0..3) {
            let all = [0, 1].into_iter().flat_map(|file| (0..ROWS as i64).map(move |row| (file, row)));
            let named: Vec<(usize, i64)> = all.filter(|_| random.random_bool(share)).collect();
            let rows: Vec<(&str, i64)> = named.iter().map(|(file, row)| (paths[*file], *row)).collect();
            let written = table.positions(&format!("p{number}.parquet"), &rows).await;
            // A file that a unit does not name deletes nothing of it.
            let names = [random.random_bool(0.7), random.random_bool(0.7)];
            units.iter_mut().zip(names).filter(|(_, names)| *names).for_each(|(unit, _)| unit.positions.push(written));
            left.retain(|row| !names[row.0] || !named.contains(row));
        }
        for unit in &mut units {
            unit.sequence_number = random.random_range(1..5);
            unit.scopes = (0..2).filter(|_| random.random_bool(0.6)).collect();
        }
        for number in 0..random.random_range(0..3) {
            let (scope, newer) = (random.random_range(0..2), random.random_range(1..6));
            let (key, is_null) = (random.random_range(0..3_i64), random.random_bool(0.3));
            let name = (!is_null).then(|| format!("n{key}"));
            let column: ArrayRef = Arc::new(StringArray::from(vec![name]));
            let fields = vec![(field(2, "name", DataType::Utf8), column)];
            table.keys(&format!("e{number}.parquet"), fields, scope, newer).await;
            let has_key = |file: usize, row: i64| (100 * file as i64 + row) % 4 == if is_null { 3 } else { key };
            left.retain(|(file, row)| {
                let applies = units[*file].scopes.contains(&scope) && newer > units[*file].sequence_number;
                !(applies && has_key(*file, *row))
            });
        }
        let mut parts = Vec::new();
        for (file, unit) in files.iter().zip(units) {
            let whole = vec![file.clone()];
            let own = if random.random_bool(0.5) { whole } else { groups_of(&table, file).await };
            parts.extend(own.into_iter().map(|part| (part, Some(unit.clone()))));
        }
        let expect: Vec<i64> = left.iter().map(|(file, row)| 100 * *file as i64 + row).collect();
        assert_eq!(table.ids(&parts).await.expect("rows"), expect, "seed {seed}");
    }
}

#[tokio::test]
async fn a_scan_whose_deletes_are_not_applied_reads_nothing() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", [1]).await;
    let files = [(file, Some(Unit { vector: Some(vector), ..unit("a.parquet") }))];
    // Attached, but not by `attach` of a plan.
    let scan = table.reader().attach(table.scan(&files, &[0]).build()).expect("Parquet");
    let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(scan);
    let error = collect(plan, Arc::new(TaskContext::default())).await.expect_err("deleted rows").to_string();
    assert!(error.contains("`a.parquet` would be read with its deleted rows"), "{error}");
}
