//! Files as other writers leave them, against the table's current schema.

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, LargeListArray, ListArray, MapArray, RecordBatch, StringArray,
    StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{Fields, Int32Type, TimeUnit};
use arrow::util::pretty::pretty_format_columns;
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::functions::core::get_field;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExprSimplifier;
use datafusion::physical_expr::expressions::{binary, col, lit};
use gust_protocol::plan::encode_scalar;
use gust_protocol::{Base64, MappedName};

use super::*;

fn field(id: i32, name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true).with_metadata([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into())
}

fn structure(fields: Vec<Field>) -> DataType {
    DataType::Struct(Fields::from(fields))
}

fn list(id: i32, item: DataType) -> DataType {
    DataType::List(Arc::new(field(id, "element", item)))
}

fn large_list(id: i32, item: DataType) -> DataType {
    DataType::LargeList(Arc::new(field(id, "element", item)))
}

fn map(key: i32, value: i32, data_type: DataType) -> DataType {
    let key = field(key, "key", DataType::Utf8).with_nullable(false);
    let entries = Field::new("key_value", structure(vec![key, field(value, "value", data_type)]), false);
    DataType::Map(Arc::new(entries), false)
}

fn int(id: i32, name: &str) -> Field {
    field(id, name, DataType::Int32)
}

fn integers(values: &[Option<i32>]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

fn structs(data_type: &DataType, columns: Vec<ArrayRef>, nulls: Option<&[bool]>) -> ArrayRef {
    let DataType::Struct(fields) = data_type else { panic!("{data_type}") };
    let nulls = nulls.map(|valid| NullBuffer::from(valid.to_vec()));
    Arc::new(StructArray::new(fields.clone(), columns, nulls))
}

/// Reads the column `name` of a file of one column as the table's one column.
fn read(wanted: &Field, found: &Field, values: ArrayRef) -> Result<ArrayRef> {
    evaluate(wanted, found, values, &|table| col(wanted.name(), table))
}

fn evaluate(
    wanted: &Field,
    found: &Field,
    values: ArrayRef,
    expr: &dyn Fn(&Schema) -> Result<Arc<dyn PhysicalExpr>>,
) -> Result<ArrayRef> {
    let table = Arc::new(Schema::new(vec![wanted.clone()]));
    let file = Arc::new(Schema::new(vec![found.clone()]));
    let adapted = FieldIdMatching::default().create(Arc::clone(&table), Arc::clone(&file))?.rewrite(expr(&table)?)?;
    let rows = values.len();
    let batch = RecordBatch::try_new(file, vec![values])?;
    adapted.evaluate(&batch)?.into_array(rows)
}

#[track_caller]
fn check(wanted: &Field, found: &Field, values: ArrayRef, expect: &str) {
    let read = read(wanted, found, values).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read.data_type(), wanted.data_type());
    let printed = pretty_format_columns(wanted.name(), &[read]).expect("printable").to_string();
    let rows: Vec<&str> = printed.lines().skip(3).filter_map(|line| line.strip_prefix("| ")).collect();
    let rows: Vec<&str> = rows.iter().map(|row| row.trim_end_matches('|').trim_end()).collect();
    assert_eq!(rows.join("; "), expect);
}

#[track_caller]
fn refused(wanted: &Field, found: &Field, values: ArrayRef, expect: &str) {
    let error = read(wanted, found, values).expect_err(expect).to_string();
    assert!(error.contains("schema mismatch") && error.contains(expect), "`{expect}` is not in: {error}");
}

/// Makes the written type {a, b}, the table's type {b, c}, and three rows: values, NULLs, and a NULL struct.
fn evolved() -> (DataType, DataType, ArrayRef) {
    let written = structure(vec![int(11, "a"), int(12, "b")]);
    let wanted = structure(vec![int(12, "b"), int(13, "c")]);
    let columns = vec![integers(&[Some(1), None, None]), integers(&[Some(2), None, None])];
    let values = structs(&written, columns, Some(&[true, true, false]));
    (written, wanted, values)
}

#[test]
fn structs_are_matched_by_id() {
    let (written, wanted, values) = evolved();
    let (file, table) = (field(1, "s", written.clone()), field(1, "s", wanted));
    check(&table, &file, Arc::clone(&values), "{b: 2, c: }; {b: , c: }; ");
    // Fields are renamed, swapped, promoted, and lie under another name at the top.
    let swapped = field(1, "renamed", structure(vec![int(12, "a"), field(11, "b", DataType::Int64)]));
    check(&swapped, &file, Arc::clone(&values), "{a: 2, b: 1}; {a: , b: }; ");
    // The table and the file have no field in common.
    let fresh = field(1, "s", structure(vec![int(14, "a")]));
    check(&fresh, &file, Arc::clone(&values), "{a: }; {a: }; ");
    // A field was dropped and added again under its old name.
    let again = field(1, "s", structure(vec![int(15, "a"), int(12, "b")]));
    check(&again, &file, Arc::clone(&values), "{a: , b: 2}; {a: , b: }; ");
    // A struct in a struct.
    let outer = structure(vec![field(2, "in", written)]);
    let nested = structs(&outer, vec![values], Some(&[true, true, true]));
    let inner = structure(vec![int(12, "b"), int(13, "c")]);
    let table = field(1, "s", structure(vec![int(16, "new"), field(2, "inside", inner)]));
    check(
        &table,
        &field(1, "s", outer),
        nested,
        "{new: , inside: {b: 2, c: }}; {new: , inside: {b: , c: }}; {new: , inside: }",
    );
}

#[test]
fn lists_of_every_kind_are_matched_by_id() {
    let (written, wanted, values) = evolved();
    let table = field(1, "l", list(2, wanted));
    let expect = "[{b: 2, c: }]; ; []; [{b: , c: }, ]";
    let nulls = || Some(NullBuffer::from(vec![true, false, true, true]));
    let lengths = [1, 0, 0, 2];
    let DataType::List(item) = list(2, written.clone()) else { panic!() };
    let small = ListArray::new(Arc::clone(&item), OffsetBuffer::from_lengths(lengths), Arc::clone(&values), nulls());
    check(&table, &field(1, "l", list(2, written.clone())), Arc::new(small.clone()), expect);
    let large = LargeListArray::new(item, OffsetBuffer::from_lengths(lengths), values, nulls());
    check(&table, &field(1, "l", large_list(2, written.clone())), Arc::new(large.clone()), expect);
    // A slice of an array begins in the middle of its values.
    check(&table, &field(1, "l", large_list(2, written.clone())), Arc::new(large.slice(2, 2)), "[]; [{b: , c: }, ]");
    check(&table, &field(1, "l", list(2, written)), Arc::new(small.slice(3, 1)), "[{b: , c: }, ]");
    // A list of numbers is promoted, and its element has no id.
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let numbers = LargeListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(7), None])]);
    let file = Field::new("l", DataType::LargeList(item), true).with_metadata(table.metadata().clone());
    check(&field(1, "l", list(2, DataType::Int64)), &file, Arc::new(numbers), "[7, ]");
}

#[test]
fn maps_are_matched_by_id() {
    let (written, wanted, values) = evolved();
    let made = |data_type: &DataType, values: ArrayRef| -> ArrayRef {
        let DataType::Map(entries, _) = map(2, 3, data_type.clone()) else { panic!() };
        let keys: ArrayRef = Arc::new(StringArray::from(vec!["k", "l", "m"]));
        let structs = structs(entries.data_type(), vec![keys, values], None);
        let offsets = OffsetBuffer::from_lengths([1, 0, 2]);
        let nulls = Some(NullBuffer::from(vec![true, false, true]));
        Arc::new(MapArray::new(entries, offsets, structs.as_struct().clone(), nulls, false))
    };
    let (file, table) = (field(1, "m", map(2, 3, written.clone())), field(1, "m", map(2, 3, wanted.clone())));
    let rows = made(&written, Arc::clone(&values));
    check(&table, &file, Arc::clone(&rows), "{k: {b: 2, c: }}; ; {l: {b: , c: }, m: }");
    check(&table, &file, rows.slice(2, 1), "{l: {b: , c: }, m: }");
    // Values may be lists of structs.
    let item = |data_type: &DataType| Arc::new(field(4, "element", data_type.clone()));
    let lists = LargeListArray::new(item(&written), OffsetBuffer::from_lengths([1, 0, 2]), values, None);
    let file = field(1, "m", map(2, 3, large_list(4, written.clone())));
    let table = field(1, "m", map(2, 3, list(4, wanted)));
    let rows = made(&large_list(4, written), Arc::new(lists));
    check(&table, &file, rows, "{k: [{b: 2, c: }]}; ; {l: [], m: [{b: , c: }, ]}");
}

#[test]
fn what_cannot_be_matched_is_refused() {
    let (written, wanted, values) = evolved();
    let (file, table) = (field(1, "s", written), field(1, "s", wanted));
    let required = field(1, "s", structure(vec![int(12, "b"), int(13, "c").with_nullable(false)]));
    refused(&required, &file, Arc::clone(&values), "lacks the required field `s.c`");
    let nameless = structure(vec![Field::new("a", DataType::Int32, true), Field::new("b", DataType::Int32, true)]);
    let same = |data_type: &DataType| structs(data_type, vec![integers(&[Some(1)]), integers(&[Some(2)])], None);
    refused(
        &table,
        &field(1, "s", nameless.clone()),
        same(&nameless),
        "nested field `s.a` of a data file has no Iceberg field id",
    );
    let other = field(1, "s", list(2, DataType::Int32));
    refused(&other, &file, values, "`s` is");
    let numbers = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(7)])]);
    let numbers: ArrayRef = Arc::new(ListArray::new(
        Arc::new(field(9, "element", DataType::Int32)),
        numbers.offsets().clone(),
        Arc::clone(numbers.values()),
        None,
    ));
    refused(&other, &field(1, "s", list(9, DataType::Int32)), numbers, "`s.element` has field id 9");
    // The file is refused only where the column is read.
    let table = Arc::new(Schema::new(vec![int(1, "n"), other]));
    let file = Arc::new(Schema::new(vec![int(1, "n"), file]));
    let file = Arc::new(Schema::new(vec![file.field(0).clone(), field(1000, "s", DataType::Int32)]));
    let adapter = FieldIdMatching::default().create(Arc::clone(&table), file).expect("an adapter");
    adapter.rewrite(col("n", &table).expect("a column")).expect("nothing is wrong with it");
}

#[test]
fn a_part_of_a_struct_is_read_alone() {
    let (written, _, values) = evolved();
    let inner = structure(vec![int(12, "x"), int(13, "c"), field(11, "wide", DataType::Int64)]);
    let outer = structure(vec![field(2, "in", written)]);
    let file = field(1, "s", outer.clone());
    let table =
        field(1, "s", structure(vec![field(2, "inside", inner), field(5, "gone", structure(vec![int(6, "g")]))]));
    let rows = structs(&outer, vec![values], None);
    let part = |keys: &'static [&'static str]| {
        move |table: &Schema| -> Result<Arc<dyn PhysicalExpr>> {
            let keys = keys.iter().map(|key| lit(*key));
            let arguments = std::iter::once(col("s", table)?).chain(keys).collect();
            let options = Arc::new(ConfigOptions::default());
            Ok(Arc::new(ScalarFunctionExpr::try_new(get_field(), arguments, table, options)?))
        }
    };
    let check = |keys, expect: &dyn Array, displayed: &str| {
        let found = evaluate(&table, &file, Arc::clone(&rows), &part(keys)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(found.as_ref(), expect, "{keys:?}");
        let schema = |field: &Field| Arc::new(Schema::new(vec![field.clone()]));
        let adapter = FieldIdMatching::default().create(schema(&table), schema(&file)).expect("an adapter");
        let expr = adapter.rewrite(part(keys)(&schema(&table)).expect("an expression")).expect("adapted");
        assert_eq!(expr.to_string(), displayed);
    };
    check(&["inside", "x"], &Int32Array::from(vec![Some(2), None, None]), "get_field(s@0, in, b)");
    check(&["inside", "wide"], &Int64Array::from(vec![Some(1), None, None]), "CAST(get_field(s@0, in, a) AS Int64)");
    check(&["inside", "c"], &Int32Array::from(vec![None, None, None]), "NULL");
    check(&["gone", "g"], &Int32Array::from(vec![None, None, None]), "get_field(NULL, g)");
}

#[test]
fn constants_stand_for_absent_columns() {
    let table = Arc::new(Schema::new(vec![
        int(1, "n"),
        field(2, "region", DataType::Utf8View),
        field(3, "s", structure(vec![int(4, "a"), int(5, "k")])),
        field(6, "gone", structure(vec![int(7, "deep")])),
        int(8, "unclear"),
    ]));
    let constants = [
        (2, Some(encode_scalar(&ScalarValue::from("eu")).expect("text"))),
        (5, Some(encode_scalar(&ScalarValue::from(9_i32)).expect("a number"))),
        (7, Some(encode_scalar(&ScalarValue::from(9_i32)).expect("a number"))),
        (8, None),
    ];
    let written = structure(vec![int(4, "a")]);
    let file = Schema::new(vec![int(1, "n"), field(3, "s", written.clone())]);
    let text = serde_json::to_string(&constants).expect("plain data");
    let file = Arc::new(file.with_metadata([("gust.constants".to_owned(), text)].into()));
    let adapter = FieldIdMatching::default().create(Arc::clone(&table), Arc::clone(&file)).expect("an adapter");
    let columns = vec![integers(&[Some(1), None]), structs(&written, vec![integers(&[Some(3), None])], None)];
    let batch = RecordBatch::try_new(file, columns).expect("a batch");
    let read = |name: &str| -> Result<String> {
        let value = adapter.rewrite(col(name, &table)?)?.evaluate(&batch)?.into_array(2)?;
        let printed = pretty_format_columns(name, &[value])?.to_string();
        Ok(printed.lines().skip(3).filter(|line| line.starts_with('|')).collect())
    };
    assert_eq!(read("region").expect("a constant"), "| eu     || eu     |");
    assert_eq!(read("s").expect("rebuilt"), "| {a: 3, k: 9} || {a: , k: 9}  |");
    // Java reads it so, although the partition has the value of `deep`.
    assert_eq!(read("gone").expect("a struct that the file lacks"), "|      ||      |");
    let error = read("unclear").expect_err("a value that is not understood").to_string();
    assert!(error.contains("`unclear`, and its value in the partition metadata cannot be understood"), "{error}");
    assert_eq!(read("n").expect("nothing is wrong with it"), "| 1 ||   |");
}

fn encoded(value: impl Into<ScalarValue>) -> Base64 {
    encode_scalar(&value.into()).expect("a value that travels")
}

fn name(id: i32, names: &[&str], fields: Vec<MappedName>) -> MappedName {
    MappedName { id: Some(id), names: names.iter().map(|name| (*name).to_owned()).collect(), fields }
}

/// Reads all columns of a file as a table's, and prints them: a line for each column.
fn read_table(rules: &FieldIdRules, table: Vec<Field>, file: &Schema, columns: Vec<ArrayRef>) -> Result<String> {
    let (table, file) = (Arc::new(Schema::new(table)), Arc::new(file.clone()));
    let adapter = FieldIdMatching::new(rules.clone()).create(Arc::clone(&table), Arc::clone(&file))?;
    let rows = columns.first().map_or(0, |column| column.len());
    let batch = RecordBatch::try_new(file, columns)?;
    let mut lines = Vec::new();
    for field in table.fields() {
        let value = adapter.rewrite(col(field.name(), &table)?)?.evaluate(&batch)?.into_array(rows)?;
        assert_eq!(value.data_type(), field.data_type());
        let printed = pretty_format_columns(field.name(), &[value])?.to_string();
        let rows: Vec<&str> = printed.lines().skip(3).filter_map(|line| line.strip_prefix("| ")).collect();
        let row = |row: &&str| row.trim_end_matches('|').trim_end().to_owned();
        let rows: Vec<String> = rows.iter().map(row).map(|row| if row.is_empty() { "-".into() } else { row }).collect();
        lines.push(format!("{}: {}", field.name(), rows.join("; ")));
    }
    Ok(lines.join("\n"))
}

fn plain(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

/// Makes a file without ids, {a, s: {x, y}, l: [{z}]}, and its rows.
fn imported() -> (Schema, Vec<ArrayRef>) {
    let inner = structure(vec![plain("x", DataType::Int32), plain("y", DataType::Int32)]);
    let item = structure(vec![plain("z", DataType::Int32)]);
    let element = Arc::new(plain("array", item.clone()));
    let values = structs(&item, vec![integers(&[Some(5), None])], None);
    let lists: ArrayRef =
        Arc::new(ListArray::new(Arc::clone(&element), OffsetBuffer::from_lengths([2, 0]), values, None));
    let file =
        Schema::new(vec![plain("a", DataType::Int32), plain("s", inner.clone()), plain("l", DataType::List(element))]);
    let pair = structs(&inner, vec![integers(&[Some(3), None]), integers(&[Some(4), Some(6)])], Some(&[true, false]));
    (file, vec![integers(&[Some(1), Some(2)]), pair, lists])
}

#[test]
fn names_stand_for_ids_in_a_file_without_any() {
    let (file, rows) = imported();
    let mapping = FieldIdRules {
        names: vec![
            name(1, &["A", "a"], Vec::new()),
            name(2, &["s"], vec![name(3, &["x"], Vec::new())]),
            name(5, &["l"], vec![name(6, &["element"], vec![name(7, &["z"], Vec::new())])]),
            name(8, &["k"], Vec::new()),
        ],
        defaults: vec![(8, encoded(9_i32))],
    };
    // Renamed, promoted and nested; a field that the mapping does not know, and one that the file lacks.
    let table = || {
        vec![
            field(1, "renamed", DataType::Int64),
            field(2, "s", structure(vec![int(4, "y"), int(3, "x")])),
            field(5, "l", list(6, structure(vec![int(7, "q")]))),
            int(8, "k"),
        ]
    };
    let read = read_table(&mapping, table(), &file, rows.clone()).expect("rows");
    assert_eq!(read, "renamed: 1; 2\ns: {y: , x: 3}; -\nl: [{q: 5}, {q: }]; []\nk: 9; 9");
    // The same type as the file's, but for the metadata of its fields.
    let same = field(2, "s", structure(vec![int(3, "x"), int(4, "y")]));
    let read = read_table(&mapping, vec![same], &file, rows.clone()).expect("rows");
    assert_eq!(read, "s: {x: 3, y: }; -");
    // The partition's value comes before the name, at any depth, and also NULL.
    let values = [(1, encoded(7_i32)), (3, encoded(ScalarValue::Int32(None)))].map(|(id, value)| (id, Some(value)));
    let text = serde_json::to_string(&values).expect("plain data");
    let noted = file.clone().with_metadata([("gust.constants".to_owned(), text)].into());
    let read = read_table(&mapping, table(), &noted, rows.clone()).expect("rows");
    assert_eq!(read, "renamed: 7; 7\ns: {y: , x: }; -\nl: [{q: 5}, {q: }]; []\nk: 9; 9");
    // Without a mapping nothing is known.
    let refused = |rules: FieldIdRules, expect: &str| {
        let error = read_table(&rules, table(), &file, rows.clone()).expect_err(expect).to_string();
        assert!(error.contains(expect), "{error}");
    };
    refused(
        FieldIdRules::default(),
        "column `a` of a data file has no Iceberg field id, and the table has no name mapping",
    );
    let twice = FieldIdRules { names: vec![name(1, &["a", "s"], Vec::new())], defaults: Vec::new() };
    refused(twice, "two columns of a data file have the names of field id 1: one is `s`");
}

#[test]
fn a_column_without_an_id_among_others_is_no_column_of_the_table() {
    let file = Schema::new(vec![plain("a", DataType::Int32), int(2, "b")]);
    let mapping = FieldIdRules { names: vec![name(1, &["a"], Vec::new())], defaults: Vec::new() };
    let rows = vec![integers(&[Some(1)]), integers(&[Some(2)])];
    let read = read_table(&mapping, vec![int(1, "a"), int(2, "c")], &file, rows).expect("rows");
    assert_eq!(read, "a: -\nc: 2");
}

#[test]
fn an_absent_field_has_its_initial_default() {
    let written = structure(vec![int(4, "a")]);
    let file = Schema::new(vec![int(1, "n"), field(3, "s", written.clone())]);
    let rows = || vec![integers(&[Some(1), None]), structs(&written, vec![integers(&[Some(3), None])], None)];
    let defaults =
        vec![(2, encoded("x")), (5, encoded(8_i32)), (6, encoded(true)), (7, encoded(1.5_f32)), (9, encoded(2_i32))];
    let rules = FieldIdRules { names: Vec::new(), defaults };
    let table = || {
        vec![
            int(1, "n"),
            field(2, "text", DataType::Utf8View),
            field(3, "s", structure(vec![int(4, "a"), field(5, "promoted", DataType::Int64)])),
            field(6, "made", structure(vec![field(7, "f", DataType::Float64), int(8, "none")])),
            field(10, "null", structure(vec![int(9, "unused")])),
        ]
    };
    let read = read_table(&rules, table(), &file, rows()).expect("rows");
    let expect = "n: 1; -\ntext: x; x\ns: {a: 3, promoted: 8}; {a: , promoted: 8}\n\
                  made: {f: 1.5, none: }; {f: 1.5, none: }\nnull: -; -";
    assert_eq!(read, expect);
    // The value of the file's partition comes first.
    let constants = [(2, Some(encoded(ScalarValue::Utf8(None)))), (5, Some(encoded(4_i32)))];
    let text = serde_json::to_string(&constants).expect("plain data");
    let noted = file.with_metadata([("gust.constants".to_owned(), text)].into());
    let read = read_table(&rules, table(), &noted, rows()).expect("rows");
    let expect = expect.replace("text: x; x", "text: -; -").replace("promoted: 8", "promoted: 4");
    assert_eq!(read, expect);
    // A required field has no NULL.
    let required = int(8, "none").with_nullable(false);
    let made = field(6, "made", structure(vec![field(7, "f", DataType::Float64), required]));
    let error = read_table(&rules, vec![made], &Schema::new(vec![int(1, "n")]), vec![integers(&[None])]);
    let error = error.expect_err("a required field").to_string();
    assert!(error.contains("lacks the required field `made.none`"), "{error}");
}

#[test]
fn promoted_values_stay_and_are_compared_as_the_table_says() {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let day = 86_400_000_000_i64;
    let check = |values: Vec<ScalarValue>, wanted: DataType, bound: ScalarValue, expect: &str, above: &[bool]| {
        let values = ScalarValue::iter_to_array(values).expect("values of one type");
        let file = Arc::new(Schema::new(vec![field(1, "old", values.data_type().clone())]));
        let table = Arc::new(Schema::new(vec![field(1, "new", wanted.clone())]));
        let adapter = FieldIdMatching::default().create(Arc::clone(&table), Arc::clone(&file)).expect("an adapter");
        let batch = RecordBatch::try_new(Arc::clone(&file), vec![values]).expect("a batch");
        let column = adapter.rewrite(col("new", &table).expect("a column")).expect("adapted");
        let read = column.evaluate(&batch).and_then(|value| value.into_array(batch.num_rows())).expect("values");
        assert_eq!(read.data_type(), &wanted);
        let printed = pretty_format_columns("new", &[read]).expect("printable").to_string();
        let rows: Vec<&str> = printed.lines().skip(3).filter_map(|line| line.strip_prefix("| ")).collect();
        let rows: Vec<&str> = rows.iter().map(|row| row.trim_end_matches('|').trim_end()).collect();
        assert_eq!(rows.join("; "), expect);
        // The opener prepares a predicate so: the cast may move to the literal.
        let column = col("new", &table).expect("a column");
        let predicate = binary(column, Operator::Gt, lit(bound), &table).expect("a comparison");
        let predicate = adapter.rewrite(predicate).expect("adapted");
        let predicate = PhysicalExprSimplifier::new(&file).simplify(predicate).expect("simplified");
        let kept = predicate.evaluate(&batch).and_then(|value| value.into_array(batch.num_rows())).expect("a filter");
        let kept: Vec<bool> = kept.as_boolean().iter().map(|kept| kept == Some(true)).collect();
        assert_eq!(kept, above, "{predicate}");
    };
    let days = |days: &[i32]| days.iter().map(|day| ScalarValue::Date32(Some(*day))).collect();
    let noon = ScalarValue::TimestampMicrosecond(Some(day / 2), None);
    check(
        days(&[-1, 0, 1]),
        micros,
        noon,
        "1969-12-31T00:00:00; 1970-01-01T00:00:00; 1970-01-02T00:00:00",
        &[false, false, true],
    );
    let large = ScalarValue::Int64(Some(1 << 40));
    check(vec![7_i32.into(), i32::MAX.into()], DataType::Int64, large, "7; 2147483647", &[false, false]);
    let third = ScalarValue::Float64(Some(0.1));
    check(vec![0.1_f32.into(), 0.5_f32.into()], DataType::Float64, third, "0.10000000149011612; 0.5", &[true, true]);
    let decimal = |value: i128, precision| ScalarValue::Decimal128(Some(value), precision, 2);
    let above = decimal(1_000_000_000, 12);
    check(vec![decimal(12345, 5)], DataType::Decimal128(12, 2), above, "123.45", &[false]);
}
