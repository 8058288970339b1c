//! Rows that files of keys delete.

use arrow::datatypes::Fields;

use super::*;

#[tokio::test]
async fn keys_delete_rows_of_older_files_in_their_scopes() {
    let mut table = Table::new();
    let files = [table.data("a.parquet", 0).await, table.data("b.parquet", 100).await];
    let names = |names: Vec<Option<&str>>| {
        vec![(field(2, "name", DataType::Utf8), Arc::new(StringArray::from(names)) as ArrayRef)]
    };
    table.keys("e0.parquet", names(vec![Some("n2"), None]), 0, 2).await;
    table.keys("e1.parquet", names(vec![Some("n0")]), 1, 3).await;
    let pair = vec![
        (field(1, "id", DataType::Int32), Arc::new(Int32Array::from(vec![1, 5, 9])) as ArrayRef),
        (
            field(2, "name", DataType::LargeUtf8),
            arrow::compute::cast(&StringArray::from(vec!["n1", "n0", "n1"]), &DataType::LargeUtf8).expect("text"),
        ),
    ];
    // Promoted since: the key was an int.
    table.keys("e2.parquet", pair, 0, 2).await;
    let check = async |table: &Table, scopes: [&[u32]; 2], numbers: [i64; 2], deletes: &dyn Fn(usize, i64) -> bool| {
        let unit = |file: usize| Unit {
            scopes: scopes[file].to_vec(),
            sequence_number: numbers[file],
            ..unit(["a.parquet", "b.parquet"][file])
        };
        let scan = [0, 1].map(|file| (files[file].clone(), Some(unit(file))));
        let rows = [0, 1].into_iter().flat_map(|file| (0..30).map(move |row| (file, 100 * file as i64 + row)));
        let expect: Vec<i64> = rows.filter(|(file, id)| !deletes(*file, *id)).map(|(_, id)| id).collect();
        assert_eq!(table.ids(&scan).await.expect("rows"), expect, "{scopes:?} {numbers:?}");
    };
    let scope_0 = |id: i64| matches!(id % 4, 2 | 3) || matches!(id, 1 | 9);
    check(&table, [&[0], &[0]], [1, 1], &|_, id| scope_0(id)).await;
    // A file as new as the deletes keeps its rows.
    check(&table, [&[0], &[0]], [1, 2], &|file, id| file == 0 && scope_0(id)).await;
    // Scopes: of none, of one, of both.
    check(&table, [&[], &[1]], [1, 1], &|file, id| file == 1 && id % 4 == 0).await;
    check(&table, [&[0, 1], &[]], [1, 1], &|file, id| file == 0 && (scope_0(id) || id % 4 == 0)).await;
    check(&table, [&[0, 1], &[]], [2, 1], &|file, id| file == 0 && id % 4 == 0).await;
    // The largest number of a key counts, whatever file came first.
    table.keys("e3.parquet", names(vec![Some("n2")]), 0, 5).await;
    check(&table, [&[0], &[0]], [3, 3], &|_, id| id % 4 == 2).await;
    check(&table, [&[0], &[0]], [5, 5], &|_, _| false).await;
}

#[tokio::test]
async fn keys_need_not_be_columns_that_are_asked_for() {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let gone = vec![(field(3, "gone", DataType::Int32), Arc::new(Int32Array::from(vec![0, 1])) as ArrayRef)];
    table.keys("e0.parquet", gone, 0, 2).await;
    // Dropped from the table, so that it is a hidden column of the scan.
    let mut fields: Vec<Field> = table.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(field(3, "\0key 3", DataType::Int32));
    // Added later: the file lacks it, so that it is NULL there.
    fields.push(field(4, "later", DataType::Utf8View));
    table.schema = Arc::new(Schema::new(fields));
    let files = [(file, Some(Unit { scopes: vec![0, 1], ..unit("a.parquet") }))];
    let left: Vec<i64> = (0..30).filter(|id| id % 5 > 1).collect();
    assert_eq!(table.ids(&files).await.expect("rows"), left);
    // No column at all: rows are only counted.
    let batches = table.run(table.scan(&files, &[]).build()).await.expect("rows");
    assert!(batches.iter().all(|batch| batch.num_columns() == 0));
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), left.len());
    let names = |name: Option<&str>| {
        vec![(field(4, "later", DataType::Utf8), Arc::new(StringArray::from(vec![name])) as ArrayRef)]
    };
    table.keys("e1.parquet", names(Some("x")), 1, 2).await;
    assert_eq!(table.ids(&files).await.expect("rows"), left);
    table.keys("e2.parquet", names(None), 1, 2).await;
    assert_eq!(table.ids(&files).await.expect("rows"), Vec::<i64>::new());
}

#[tokio::test]
async fn a_key_may_be_a_field_of_a_struct() {
    let mut table = Table::new();
    let inner = |fields: Vec<Field>| DataType::Struct(fields.into());
    let structs = |data_type: &DataType, columns: Vec<ArrayRef>| -> ArrayRef {
        let DataType::Struct(fields) = data_type else { panic!("{data_type}") };
        Arc::new(arrow::array::StructArray::new(fields.clone(), columns, None))
    };
    let numbers = |values: std::ops::Range<i32>| Arc::new(Int32Array::from_iter_values(values)) as ArrayRef;
    let written = inner(vec![field(6, "x", DataType::Int32), field(7, "y", DataType::Int32)]);
    let columns = vec![
        Arc::new(Int64Array::from_iter_values(0..10)) as ArrayRef,
        structs(&written, vec![numbers(0..10), numbers(10..20)]),
    ];
    let bytes = parquet(vec![field(1, "id", DataType::Int64), field(5, "s", written)], columns);
    let file = table.put("a.parquet", bytes).await;
    let file = PartitionedFile::new("a.parquet", file.size_bytes);
    // Renamed, and one more field.
    let wanted = inner(vec![field(8, "new", DataType::Int32), field(7, "renamed", DataType::Int64)]);
    table.schema = Arc::new(Schema::new(vec![field(1, "id", DataType::Int64), field(5, "s", wanted)]));
    let key = inner(vec![field(7, "renamed", DataType::Int64)]);
    let values = structs(&key, vec![Arc::new(Int64Array::from(vec![12, 19, 99]))]);
    let bytes = parquet(vec![field(5, "s", key)], vec![values]);
    let content = DeleteContent::Equality { ids: vec![7], scope: 0, sequence_number: 2 };
    table.delete_file("e.parquet", bytes, content).await;
    let files = [(file, Some(Unit { scopes: vec![0], rows: 10, ..unit("a.parquet") }))];
    assert_eq!(table.ids(&files).await.expect("rows"), without(0..10, &[2, 9]));
}

#[test]
fn keys_of_floats_and_of_no_column_are_refused() {
    let schema = Schema::new(vec![field(1, "x", DataType::Float64), field(2, "l", DataType::Struct(Fields::empty()))]);
    let refused = |id: i32| equality::KeyColumn::of(&schema, id).expect_err("no key").to_string();
    assert!(refused(1).contains("rows are deleted by `x` of type Float64"));
    assert!(refused(2).contains("rows are deleted by `l`"));
    assert!(refused(77).contains("rows are deleted by field 77, which the table does not have"));
}
