//! Memory of deletes.

use datafusion::execution::memory_pool::GreedyMemoryPool;

use super::*;

#[tokio::test]
async fn what_is_kept_counts_in_the_pool() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", (0..30).step_by(2)).await;
    let keys = vec![(field(1, "id", DataType::Int64), Arc::new(Int64Array::from_iter_values(0..1000)) as ArrayRef)];
    table.keys("e.parquet", keys, 0, 2).await;
    for (deletes, expect) in [
        (Unit { vector: Some(vector), ..unit("a.parquet") }, "deleted rows"),
        (Unit { scopes: vec![0], ..unit("a.parquet") }, "deleted keys"),
    ] {
        table.pool = Arc::new(GreedyMemoryPool::new(100));
        let files = [(file.clone(), Some(deletes))];
        let error = table.ids(&files).await.expect_err(expect);
        assert_eq!(classify(&error).kind, FragmentErrorKind::OutOfMemory, "{error}");
        assert!(error.to_string().contains(expect), "{error}");
        assert_eq!(table.pool.reserved(), 0);
        table.pool = Arc::new(GreedyMemoryPool::new(1 << 20));
        table.ids(&files).await.expect("enough memory");
        assert_eq!(table.pool.reserved(), 0, "it is free after the scan");
    }
}

/// Deletes that were read are let go when the last data file has had it, and a key that many files have is held once.
#[tokio::test]
async fn a_small_pool_serves_one_file_after_the_other() {
    const FILES: u64 = 6;
    let mut table = Table::new();
    let deleted = || (0..LARGE_ROWS).step_by(20);
    let mut vectors = Vec::new();
    for number in 0..FILES {
        let file = table.large(&format!("{number}.parquet"), (number * LARGE_ROWS) as i64).await;
        let vector = table.vector(&format!("{number}.puffin"), deleted()).await;
        let unit = Unit { rows: LARGE_ROWS, vector: Some(vector), ..unit(&format!("{number}.parquet")) };
        // Both halves of the last file need its vector.
        let parts = if number + 1 < FILES { vec![file] } else { groups_of(&table, &file).await };
        vectors.extend(parts.into_iter().map(|part| (part, Some(unit.clone()))));
    }
    let of_one = match &table.deletes[0].content {
        DeleteContent::Vector { bytes, .. } => 2 * *bytes as usize,
        _ => 0,
    };
    let gets = async |table: &Table, files: &[(PartitionedFile, Option<Unit>)], rows: u64| {
        let before = table.counters.requests().get;
        assert_eq!(table.ids(files).await.expect("enough memory for one").len() as u64, rows);
        assert_eq!(table.pool.reserved(), 0);
        table.counters.requests().get - before
    };
    let plain: Vec<_> = vectors.iter().map(|(file, _)| (file.clone(), None)).collect();
    let of_data = gets(&table, &plain, FILES * LARGE_ROWS).await;
    table.pool = Arc::new(GreedyMemoryPool::new(2 * of_one));
    let all = gets(&table, &vectors, FILES * (LARGE_ROWS - deleted().count() as u64)).await;
    assert_eq!(all, of_data + FILES, "each vector is read once");

    // The same keys in five files of each scope.
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..1_000).map(|key| key * 400)));
    table.deletes.clear();
    let mut keyed = Vec::new();
    for (number, (file, _)) in vectors.iter().enumerate().take(FILES as usize) {
        for copy in 0..5 {
            let keys = vec![(field(1, "id", DataType::Int64), Arc::clone(&ids))];
            table.keys(&format!("{number}-{copy}"), keys, number as u32, 2).await;
        }
        let unit = Unit { rows: LARGE_ROWS, scopes: vec![number as u32], ..unit(&format!("{number}.parquet")) };
        keyed.push((file.clone(), Some(unit)));
    }
    // Keys are reserved before it is known that they are held already.
    table.pool = Arc::new(GreedyMemoryPool::new(2 * 1_000 * 80));
    table.ids(&keyed).await.expect("enough memory for one");
    assert_eq!(table.pool.reserved(), 0);
}

/// A vector that was compared with its manifest is read again by the scan, and then let go.
#[tokio::test]
async fn what_was_checked_is_let_go_after_the_scan() {
    let mut table = Table::new();
    table.pool = Arc::new(GreedyMemoryPool::new(1 << 20));
    let file = table.data("a.parquet", 0).await;
    let vector = table.vector("v.puffin", [1, 2]).await;
    let files = [(file, Some(Unit { vector: Some(vector), ..unit("a.parquet") }))];
    let scan = table.scan(&files, &[0]).build();
    let deletes = scan.file_groups[0].files()[0].extensions.get_arc::<FileDeletes>().expect("deletes");
    deletes.check(&TURNS).await.expect("a sound vector");
    assert_eq!(table.pool.reserved(), 0);
    let rows: usize = table.run(scan).await.expect("rows").iter().map(RecordBatch::num_rows).sum();
    assert_eq!((rows, table.pool.reserved()), (28, 0), "its reader is still there");
}

/// Nothing is held of a digest that is given up half-way.
#[tokio::test]
async fn what_was_announced_and_never_asked_for_is_forgotten() {
    let mut table = Table::new();
    table.pool = Arc::new(GreedyMemoryPool::new(1 << 20));
    let rows = [("s3://lake/a.parquet", 1), ("s3://lake/b.parquet", 2), ("s3://lake/foreign.parquet", 2)];
    let positions = vec![table.positions("p", &rows).await];
    let units = ["a.parquet", "b.parquet"].map(|path| Unit { positions: positions.clone(), ..unit(path) });
    // It has no set that names the file.
    let foreign = Unit { vector: Some(0), ..unit("foreign.parquet") };
    let (sets, units) = shared(&[units[0].clone(), units[1].clone(), foreign]);
    let stores: Arc<[Arc<dyn ObjectStore>]> = Arc::from([Arc::clone(&table.store) as Arc<dyn ObjectStore>]);
    let planned = DeletePlan::new("t".to_owned(), table.deletes.clone(), sets);
    let reader = Arc::new(DeleteReader::new(stores, planned, &units, Arc::clone(&table.schema), &table.pool));
    let deletes = |unit: &UnitDeletes| FileDeletes::new(Arc::clone(&reader), unit.clone()).expect("known files");
    let deletes: Vec<_> = units.iter().map(deletes).collect();
    deletes[..2].iter().for_each(FileDeletes::announce);
    assert!(deletes[0].digest(&TURNS).await.expect("read").is_some());
    let of_b = table.pool.reserved();
    assert!(of_b > 0, "the positions of the other file are kept");
    deletes[0].forget().await;
    assert_eq!(table.pool.reserved(), 0);
    // Bytes that no unit names were never held.
    deletes[..2].iter().for_each(FileDeletes::announce);
    for deletes in &deletes[..2] {
        assert!(deletes.digest(&TURNS).await.expect("read").is_some());
    }
    assert_eq!(table.pool.reserved(), 0);
}
