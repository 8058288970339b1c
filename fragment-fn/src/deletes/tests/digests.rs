//! Digests that a coordinator makes of delete files.

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::TimeUnit;
use arrow_ipc::reader::StreamReader;
use datafusion::execution::memory_pool::GreedyMemoryPool;

use super::*;

#[tokio::test]
async fn a_digest_deletes_what_its_files_delete() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let rows: Vec<(&str, i64)> = [2, 3, 11, 29].map(|row| ("s3://lake/a.parquet", row)).to_vec();
    let first = table.positions("p1.parquet", &rows[..3]).await;
    let second = table.positions("p2.parquet", &rows[2..]).await;
    let named = Unit { positions: vec![first, second], ..unit("a.parquet") };
    let deletes_of = |scan: FileScanConfig| {
        let file = scan.file_groups[0].iter().next().expect("a file").clone();
        file.extensions.get_arc::<FileDeletes>().expect("deletes")
    };
    let deletes = deletes_of(table.scan(&[(file.clone(), Some(named))], &[0]).build());
    let VectorDigest { encoded, cardinality } = deletes.digest(&TURNS).await.expect("read").expect("deleted rows");
    assert_eq!(cardinality, 4);
    let content = DeleteContent::Vector { offset: 0, bytes: encoded.len() as u64, cardinality };
    let digest = table.delete_file("digest", encoded.to_vec(), content).await;
    let files = [(file.clone(), Some(Unit { vector: Some(digest), ..unit("a.parquet") }))];
    assert_eq!(table.ids(&files).await.expect("rows"), without(0..30, &[2, 3, 11, 29]));
    let none = Unit { positions: vec![first], ..unit("other.parquet") };
    let deletes = deletes_of(table.scan(&[(file, Some(none.clone()))], &[0]).build());
    assert!(deletes.digest(&TURNS).await.expect("read").is_none());
    // A reader that was not told of the data file would find none of its rows.
    let stores: Arc<[Arc<dyn ObjectStore>]> = Arc::from([Arc::clone(&table.store) as Arc<dyn ObjectStore>]);
    let schema = Arc::clone(&table.schema);
    let (sets, units) = shared(&[none]);
    let planned = DeletePlan::new("t".to_owned(), table.deletes.clone(), sets);
    let reader = Arc::new(DeleteReader::new(stores, planned, [], schema, &table.pool));
    let error = FileDeletes::new(reader, units[0].clone())
        .expect("a known file")
        .digest(&TURNS)
        .await
        .expect_err("unknown")
        .to_string();
    assert!(error.contains("nobody has said that `s3://lake/other.parquet` needs positions"), "{error}");
}

/// Keys of several fields, scopes and numbers, with NULLs, of a column that was dropped, of a struct's field, and of promoted types.
#[tokio::test]
async fn a_digest_of_keys_deletes_what_its_files_delete() {
    let mut table = Table::new();
    let inner = |fields: Vec<Field>| DataType::Struct(fields.into());
    let structs = |data_type: &DataType, column: ArrayRef| -> ArrayRef {
        let DataType::Struct(fields) = data_type else { panic!("{data_type}") };
        Arc::new(arrow::array::StructArray::new(fields.clone(), vec![column], None))
    };
    let written = inner(vec![field(7, "y", DataType::Int32)]);
    let wanted = inner(vec![field(7, "renamed", DataType::Int64)]);
    table.schema = Arc::new(Schema::new(vec![
        field(1, "id", DataType::Int64),
        field(2, "name", DataType::Utf8View),
        field(3, "\0key 3", DataType::Int32),
        field(5, "s", wanted.clone()),
    ]));
    let ids = || 0..ROWS as i64;
    let names: StringArray = ids().map(|id| (id % 4 != 3).then(|| format!("n{}", id % 4))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids())),
        Arc::new(names),
        Arc::new(Int32Array::from_iter_values(ids().map(|id| (id % 5) as i32))),
        structs(&written, Arc::new(Int32Array::from_iter_values(ids().map(|id| 100 + id as i32)))),
    ];
    let fields = vec![
        field(1, "id", DataType::Int64),
        field(2, "name", DataType::Utf8),
        field(3, "gone", DataType::Int32),
        field(5, "s", written),
    ];
    let file = table.put("a.parquet", parquet(fields, columns)).await;
    let file = PartitionedFile::new("a.parquet", file.size_bytes);
    let names = |names: Vec<Option<&str>>| {
        vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(names)) as ArrayRef)]
    };
    let gone = |values: Vec<i32>| (field(3, "gone", DataType::Int32), Arc::new(Int32Array::from(values)) as ArrayRef);
    let id = |values: Vec<i32>| (field(1, "id", DataType::Int32), Arc::new(Int32Array::from(values)) as ArrayRef);
    // The numbers of keys of one group differ, and `n2` has two.
    table.keys("e0", names(vec![Some("n2"), None]), 0, 2).await;
    table.keys("e1", names(vec![Some("n2"), Some("nobody's")]), 0, 4).await;
    table.keys("e2", names(vec![Some("n0")]), 1, 3).await;
    table.keys("e3", vec![gone(vec![0, 1]), id(vec![5, 11])], 0, 5).await;
    let key = inner(vec![field(7, "renamed", DataType::Int64)]);
    let values = structs(&key, Arc::new(Int64Array::from(vec![Some(101), Some(113), None])));
    let content = DeleteContent::Equality { ids: vec![7], scope: 0, sequence_number: 3 };
    table.delete_file("e4", parquet(vec![field(5, "s", key)], vec![values]), content).await;
    // No key at all.
    table.keys("e5", names(Vec::new()), 2, 9).await;
    let deleted = |id: i64, number: i64, scopes: &[u32]| {
        let zero = scopes.contains(&0);
        zero && number < 4 && id % 4 == 2
            || zero && number < 2 && id % 4 == 3
            || scopes.contains(&1) && number < 3 && id % 4 == 0
            || zero && number < 5 && matches!(id, 5 | 11)
            || zero && number < 3 && matches!(id, 1 | 13)
    };
    let mut gets = Vec::new();
    for is_digested in [false, true] {
        if is_digested {
            table.digest_keys().await;
            assert!(table.deletes.iter().all(|file| file.file.path == "exchange/deletes"));
        }
        let before = table.counters.requests().get;
        for scopes in [&[0][..], &[1], &[0, 1, 2], &[2]] {
            for number in 1..6 {
                let own = Unit { scopes: scopes.to_vec(), sequence_number: number, ..unit("a.parquet") };
                let expect: Vec<i64> = ids().filter(|id| !deleted(*id, number, scopes)).collect();
                let found = table.ids(&[(file.clone(), Some(own))]).await.expect("rows");
                assert_eq!(found, expect, "{scopes:?}, {number}, digested: {is_digested}");
            }
        }
        gets.push(table.counters.requests().get - before);
    }
    assert!(gets[1] < gets[0], "{gets:?}");
}

/// A fragment reads the vectors of its data files with one request.
#[tokio::test]
async fn vectors_of_a_digest_are_read_together() {
    let mut table = Table::new();
    table.pool = Arc::new(GreedyMemoryPool::new(1 << 20));
    let (mut bytes, mut contents) = (Vec::new(), Vec::new());
    for row in 0..4 {
        let vector = vector::encode(&RoaringTreemap::from_iter([row, 20 + row])).expect("short");
        let (offset, length) = (bytes.len() as u64, vector.len() as u64);
        contents.push(DeleteContent::Vector { offset, bytes: length, cardinality: 2 });
        bytes.extend(vector);
    }
    let object = table.put("exchange/deletes", bytes).await;
    table.deletes = contents.into_iter().map(|content| DeleteFile { file: object.clone(), content }).collect();
    let units: Vec<Unit> =
        (0..4).map(|number| Unit { vector: Some(number), ..unit(&format!("{number}.parquet")) }).collect();
    let (sets, units) = shared(&units);
    let counted: Arc<dyn ObjectStore> =
        Arc::new(CountingStore::new(Arc::clone(&table.store) as _, Arc::clone(&table.counters)));
    let planned = DeletePlan::new("t".to_owned(), table.deletes.clone(), sets);
    let reader = DeleteReader::new(Arc::from([counted]), planned, &units, Arc::clone(&table.schema), &table.pool);
    let reader = Arc::new(reader.with_exchange(0));
    let deletes = |unit: &UnitDeletes| FileDeletes::new(Arc::clone(&reader), unit.clone()).expect("known files");
    let deletes: Vec<_> = units.iter().map(deletes).collect();
    // A plan that runs twice.
    for gets in 1..=2 {
        deletes.iter().for_each(FileDeletes::announce);
        for (deletes, row) in deletes.iter().zip(0..) {
            let found = deletes.deleted().await.expect("read").expect("deleted rows");
            assert_eq!(found.rows.iter().collect::<Vec<_>>(), [row, 20 + row]);
        }
        assert_eq!((table.counters.requests().get, table.pool.reserved()), (gets, 0));
        deletes[0].forget().await;
    }
}

#[tokio::test]
async fn a_digest_of_keys_has_bounds() {
    let mut table = Table::new();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
    let schema = Arc::new(Schema::new(vec![field(1, "id", DataType::Int64)]));
    let rows = RecordBatch::try_new(schema, vec![ids]).expect("a batch");
    for sequence_number in [2, 3] {
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("written");
        let content = DeleteContent::Equality { ids: vec![1], scope: 0, sequence_number };
        table.delete_file(&format!("e{sequence_number}"), writer.into_inner().expect("a file"), content).await;
    }
    // Returns the bytes of a digest. They count in the pool as long as they are held.
    let digest = async |table: &Table, bytes_max: usize| {
        let made = table.deletes_of(&unit("a.parquet")).digest_keys(0, i64::MIN, bytes_max, &TURNS).await;
        let made = made.map(|made| {
            made.map(|KeyDigest { encoded, .. }| {
                assert_eq!(table.pool.reserved(), encoded.len());
                let part = encoded.slice(7..9);
                drop(encoded);
                assert!(table.pool.reserved() > 0, "{part:?} is held");
                table.pool.reserved()
            })
        });
        assert_eq!(table.pool.reserved(), 0);
        made
    };
    let whole = digest(&table, 1 << 20).await.expect("read").expect("each key once");
    assert!((100_000..800_000).contains(&whole), "{whole} bytes");
    assert!(digest(&table, whole).await.expect("read").is_some());
    assert!(digest(&table, whole - 1).await.expect("read").is_none(), "a byte too many");
    for pool in [1 << 20, 9 << 20] {
        table.pool = Arc::new(GreedyMemoryPool::new(pool));
        let error = digest(&table, 1 << 20).await.expect_err("too little memory");
        assert_eq!(classify(&error).kind, FragmentErrorKind::OutOfMemory, "{error}");
    }
}

/// Lists the numbers of keys of each batch of the digest.
async fn batches(table: &Table) -> Vec<usize> {
    let Some(DeleteContent::Keys { offset, bytes, .. }) = table.deletes.first().map(|file| &file.content) else {
        panic!("{:?}", table.deletes)
    };
    let object =
        table.store.get(&Path::from("exchange/deletes")).await.expect("an object").bytes().await.expect("bytes");
    let stream = object.slice(*offset as usize..(*offset + *bytes) as usize);
    let reader = StreamReader::try_new(std::io::Cursor::new(stream), None).expect("a stream");
    reader.map(|batch| batch.expect("a batch").num_rows()).collect()
}

/// Keys of ids below a count have the number 2, and those divisible by 3 the number 5, too: around the ends of batches.
#[tokio::test]
async fn a_digest_of_several_batches_has_all_keys() {
    const BATCH: i64 = 16 << 10;
    let mut table = Table::new();
    let file = table.large("a.parquet", 0).await;
    let all = || 0..LARGE_ROWS as i64;
    for (count, expect) in [(BATCH - 1, 1), (BATCH, 1), (BATCH + 1, 2), (50_000, 4)] {
        table.deletes.clear();
        for (step, number) in [(1, 2), (3, 5)] {
            let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..count).step_by(step)));
            table.keys(&format!("e{number}"), vec![(field(1, "id", DataType::Int64), ids)], 0, number).await;
        }
        table.digest_keys().await;
        let found = batches(&table).await;
        assert_eq!((found.len(), found.iter().sum::<usize>() as i64), (expect, count), "{found:?}");
        for number in 1..=5 {
            let own = Unit { rows: LARGE_ROWS, scopes: vec![0], sequence_number: number, ..unit("a.parquet") };
            let left = |id: &i64| *id >= count || number >= 5 || number >= 2 && id % 3 != 0;
            let expect: Vec<i64> = all().filter(left).collect();
            let found = table.ids(&[(file.clone(), Some(own))]).await.expect("rows");
            assert!(found == expect, "{count} keys, {number}: {} rows, not {}", found.len(), expect.len());
        }
    }
}

/// Long keys make short batches, so that a reader holds few bytes at a time.
#[tokio::test]
async fn batches_of_a_digest_are_bounded_by_bytes() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let long = |key: usize| format!("{key:060000}");
    let names: Vec<String> = (0..40).map(long).chain(["n2".to_owned()]).collect();
    let names: ArrayRef = Arc::new(StringArray::from(names));
    table.keys("e0", vec![(field(2, "name", DataType::Utf8), names)], 0, 2).await;
    table.digest_keys().await;
    let found = batches(&table).await;
    assert!(found.len() >= 3 && found.iter().all(|keys| (1..=17).contains(keys)), "{found:?}");
    let own = Unit { scopes: vec![0], ..unit("a.parquet") };
    let expect: Vec<i64> = (0..ROWS as i64).filter(|id| id % 4 != 2).collect();
    assert_eq!(table.ids(&[(file, Some(own))]).await.expect("rows"), expect);
}

/// A reader keeps no key that deletes none of its rows, and the keys that are in a digest are those of newer files.
#[tokio::test]
async fn keys_that_delete_nothing_are_not_kept() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let ids = |ids: std::ops::Range<i64>| {
        vec![(field(1, "id", DataType::Int64), Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef)]
    };
    table.keys("large", ids(0..20_000), 0, 2).await;
    table.keys("small", ids(3..5), 0, 3).await;
    let files =
        |number: i64| [(file.clone(), Some(Unit { scopes: vec![0], sequence_number: number, ..unit("a.parquet") }))];
    let newer =
        table.deletes_of(&unit("a.parquet")).digest_keys(0, 2, 1 << 20, &TURNS).await.expect("read").expect("few keys");
    let content = newer.content(0);
    let size_bytes = newer.encoded.len();
    assert!(size_bytes < 2_000, "{size_bytes} bytes");
    for digested in [false, true] {
        if digested {
            table.pool = Arc::new(UnboundedMemoryPool::default());
            table.digest_keys().await;
        }
        // The new file needs two keys only, and the old one all of them.
        table.pool = Arc::new(GreedyMemoryPool::new(if digested { 400_000 } else { 1 << 10 }));
        let found = table.ids(&files(2)).await.expect("room for two keys");
        assert_eq!(found, without(0..ROWS as i64, &[3, 4]), "digested: {digested}");
        let error = table.ids(&files(1)).await.expect_err("no room for 20,000 keys");
        assert_eq!(classify(&error).kind, FragmentErrorKind::OutOfMemory, "{error}");
    }
    table.pool = Arc::new(UnboundedMemoryPool::default());
    assert_eq!(table.ids(&files(1)).await.expect("rows"), Vec::<i64>::new());
    // The digest of the newer file alone.
    table.deletes = vec![DeleteFile { file: table.put("newer", newer.encoded.to_vec()).await, content }];
    assert_eq!(table.ids(&files(2)).await.expect("rows"), without(0..ROWS as i64, &[3, 4]));
}

/// Data file, key file and table have their own types. Rows 1, 3 and the NULL of row 5 are deleted by each column alone, and row 1 by
/// pairs of columns.
#[tokio::test]
async fn keys_of_all_types_are_digested() {
    let rows = || (0..6_i64).map(|row| (row < 5).then_some(row));
    let decimals = |precision: u8, scale: i8| -> ArrayRef {
        let values = rows().map(|row| row.map(|row| i128::from(row) * 1_001 - 2_500));
        let values: Decimal128Array = values.collect();
        Arc::new(values.with_precision_and_scale(precision, scale).expect("few digits"))
    };
    let times = |zone: Option<&str>| -> ArrayRef {
        let values = rows().map(|row| row.map(|row| 1_700_000_000_123_456 + row * 86_400_000_001));
        let values: TimestampMicrosecondArray = values.collect();
        Arc::new(match zone {
            Some(zone) => values.with_timezone(zone),
            None => values,
        })
    };
    let bytes = || rows().map(|row| row.map(|row| vec![0, 255 - row as u8, b'x']));
    let fixed = || {
        let values = rows().map(|row| row.map(|row| [row as u8; 16]));
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16).expect("16 bytes")) as ArrayRef
    };
    let texts =
        || -> ArrayRef { Arc::new(rows().map(|row| row.map(|row| format!("é{row}"))).collect::<StringArray>()) };
    let ints = || -> ArrayRef { Arc::new(rows().map(|row| row.map(|row| row as i32 - 2)).collect::<Int32Array>()) };
    let micros = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    let days: Date32Array = rows().map(|row| row.map(|row| row as i32 * 10_000 - 20_000)).collect();
    let clocks: Time64MicrosecondArray = rows().map(|row| row.map(|row| row * 17_000_000_001)).collect();
    let booleans: BooleanArray = rows().map(|row| row.map(|row| row % 2 == 1)).collect();
    // Each column as it was written, and its type in the table.
    let columns: Vec<(ArrayRef, DataType)> = vec![
        (decimals(9, 2), DataType::Decimal128(18, 2)),
        (decimals(38, 10), DataType::Decimal128(38, 10)),
        (Arc::new(days), DataType::Date32),
        (times(None), micros(None)),
        (times(Some("+00:00")), micros(Some("UTC"))),
        (Arc::new(clocks), DataType::Time64(TimeUnit::Microsecond)),
        (Arc::new(booleans), DataType::Boolean),
        (Arc::new(bytes().collect::<BinaryArray>()), DataType::BinaryView),
        (Arc::new(bytes().collect::<BinaryArray>()), DataType::Binary),
        (fixed(), DataType::FixedSizeBinary(16)),
        (texts(), DataType::Utf8View),
        (texts(), DataType::Utf8),
        (ints(), DataType::Int64),
        (ints(), DataType::Int32),
    ];
    let id = |column: usize| column as i32 + 2;
    let mut table = Table::new();
    let of_table =
        columns.iter().enumerate().map(|(column, (_, of))| field(id(column), &format!("c{column}"), of.clone()));
    table.schema =
        Arc::new(Schema::new([field(1, "id", DataType::Int64)].into_iter().chain(of_table).collect::<Vec<_>>()));
    let written = |column: usize| {
        let values = &columns[column].0;
        (field(id(column), &format!("c{column}"), values.data_type().clone()), Arc::clone(values))
    };
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
    let (mut fields, mut arrays) = (vec![field(1, "id", DataType::Int64)], vec![ids]);
    for (field, array) in (0..columns.len()).map(written) {
        fields.push(field);
        arrays.push(array);
    }
    let file = table.put("a.parquet", parquet(fields, arrays)).await;
    let file = PartitionedFile::new("a.parquet", file.size_bytes);
    let take = |values: &ArrayRef, rows: &[u64]| {
        let rows = arrow::array::UInt64Array::from(rows.to_vec());
        arrow::compute::take(values, &rows, None).expect("rows")
    };
    // Scope `n` has keys of column `n`; the scopes behind them have pairs of neighbours.
    for column in 0..columns.len() {
        let (field, values) = written(column);
        table.keys(&format!("e{column}"), vec![(field, take(&values, &[1, 3, 5]))], column as u32, 2).await;
        let next = written((column + 1) % columns.len());
        let pair = [(column, [1, 3, 5]), ((column + 1) % columns.len(), [1, 2, 4])];
        let mut pair: Vec<_> = pair.into_iter().zip([written(column), next]).collect();
        pair.sort_by_key(|((column, _), _)| *column);
        let pair = pair.into_iter().map(|((_, rows), (field, values))| (field, take(&values, &rows))).collect();
        table.keys(&format!("p{column}"), pair, (columns.len() + column) as u32, 2).await;
    }
    for digested in [false, true] {
        if digested {
            table.digest_keys().await;
        }
        for scope in 0..2 * columns.len() {
            let own = Unit { scopes: vec![scope as u32], rows: 6, ..unit("a.parquet") };
            let found = table.ids(&[(file.clone(), Some(own))]).await.expect("rows");
            let (column, is_pair) = (scope % columns.len(), scope >= columns.len());
            let expect: &[i64] = if is_pair { &[0, 2, 3, 4, 5] } else { &[0, 2, 4] };
            let of = &columns[column].1;
            assert_eq!(found, expect, "{of}, pair: {is_pair}, digested: {digested}");
        }
    }
}
