use std::sync::mpsc as std_mpsc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date64Array, Decimal128Array, DurationMillisecondArray, Float64Array, Int32Builder,
    Int64Array, IntervalMonthDayNanoArray, ListArray, MapBuilder, MapFieldNames, StringArray, StringBuilder,
    StringViewArray, StructArray, Time32MillisecondArray, Time32SecondArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampSecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Int32Type, IntervalMonthDayNanoType, Schema};
use arrow_ipc::reader::StreamReader;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length")
}

fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
    batch(vec![("n", Arc::new(Int64Array::from_iter_values(range)))])
}

/// Writes each statement's batches with `write_rows`, one statement after the other.
fn written(format: OutputFormat, statements: &[&[RecordBatch]]) -> String {
    let mut writer = RowWriter::new(Vec::new(), format);
    for batches in statements {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let counted = writer.write_rows(&batches[0].schema(), batches.iter().cloned().map(Ok)).expect("a valid result");
        assert_eq!(counted, rows as u64);
    }
    String::from_utf8(writer.out.out).expect("every format but arrow is text")
}

#[track_caller]
fn check(format: OutputFormat, batch: &RecordBatch, expect: &str) {
    assert_eq!(written(format, &[std::slice::from_ref(batch)]), expect, "as {format:?}");
}

fn plain() -> RecordBatch {
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a,\"b\"\nc"), Some(""), None]));
    let decimal = Decimal128Array::from(vec![Some(150), Some(-5), None]).with_precision_and_scale(10, 2);
    let moment = TimestampMicrosecondArray::from(vec![Some(0), Some(1_500_000), None]);
    batch(vec![
        ("i", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("text", text),
        ("f", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN), None]))),
        ("d", Arc::new(decimal.expect("a valid scale"))),
        ("b", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
        ("at", Arc::new(moment)),
    ])
}

#[test]
fn scalars_and_nulls() {
    let table = "\
+------+-------+------+-------+-------+-------------------------+
| i    | text  | f    | d     | b     | at                      |
+------+-------+------+-------+-------+-------------------------+
| 1    | a,\"b\" | 0.1  | 1.50  | true  | 1970-01-01T00:00:00     |
|      | c     |      |       |       |                         |
| NULL |       | NaN  | -0.05 | false | 1970-01-01T00:00:01.500 |
| 3    | NULL  | NULL | NULL  | NULL  | NULL                    |
+------+-------+------+-------+-------+-------------------------+
";
    check(OutputFormat::Table, &plain(), table);
    let csv = "\
i,text,f,d,b,at
1,\"a,\"\"b\"\"\nc\",0.1,1.50,true,1970-01-01T00:00:00
,,NaN,-0.05,false,1970-01-01T00:00:01.500
3,,,,,
";
    check(OutputFormat::Csv, &plain(), csv);
    let rows = [
        r#"{"i":1,"text":"a,\"b\"\nc","f":0.1,"d":1.50,"b":true,"at":"1970-01-01T00:00:00"}"#,
        r#"{"i":null,"text":"","f":null,"d":-0.05,"b":false,"at":"1970-01-01T00:00:01.500"}"#,
        r#"{"i":3,"text":null,"f":null,"d":null,"b":null,"at":null}"#,
    ];
    check(OutputFormat::Json, &plain(), &format!("[{}]\n", rows.join(",")));
    check(OutputFormat::Ndjson, &plain(), &format!("{}\n", rows.join("\n")));
}

#[test]
fn empty_results_keep_their_shape() {
    let empty = RecordBatch::new_empty(plain().schema());
    let table = "\
+---+------+---+---+---+----+
| i | text | f | d | b | at |
+---+------+---+---+---+----+
+---+------+---+---+---+----+
";
    check(OutputFormat::Table, &empty, table);
    check(OutputFormat::Csv, &empty, "i,text,f,d,b,at\n");
    check(OutputFormat::Json, &empty, "[]\n");
    check(OutputFormat::Ndjson, &empty, "");
}

#[test]
fn names_may_come_twice() {
    let column = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let twice = batch(vec![("id", column(1)), ("id", column(2)), ("id_2", column(3)), ("id", column(4))]);
    let table = "\
+----+----+------+----+
| id | id | id_2 | id |
+----+----+------+----+
| 1  | 2  | 3    | 4  |
+----+----+------+----+
";
    check(OutputFormat::Table, &twice, table);
    check(OutputFormat::Csv, &twice, "id,id,id_2,id\n1,2,3,4\n");
    check(OutputFormat::Ndjson, &twice, "{\"id\":1,\"id_2\":2,\"id_2_2\":3,\"id_3\":4}\n");
}

fn nested() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
    let fields = Fields::from(vec![Field::new("x", DataType::Utf8View, true)]);
    let inner: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a\"b"), None]));
    let record = StructArray::new(fields, vec![inner], None);
    let mut map = MapBuilder::new(Some(MapFieldNames::default()), Int32Builder::new(), StringBuilder::new());
    map.keys().append_value(7);
    map.values().append_value("seven");
    map.append(true).expect("keys and values are of one length");
    map.append(false).expect("an absent map");
    batch(vec![("list", Arc::new(list)), ("record", Arc::new(record)), ("map", Arc::new(map.finish()))])
}

#[test]
fn nested_values() {
    let table = "\
+-----------+-----------+------------+
| list      | record    | map        |
+-----------+-----------+------------+
| [1, NULL] | {x: a\"b}  | {7: seven} |
| NULL      | {x: NULL} | NULL       |
+-----------+-----------+------------+
";
    check(OutputFormat::Table, &nested(), table);
    let csv = "\
list,record,map
\"[1,null]\",\"{\"\"x\"\":\"\"a\\\"\"b\"\"}\",{7: seven}
,\"{\"\"x\"\":null}\",
";
    check(OutputFormat::Csv, &nested(), csv);
    let rows = "\
{\"list\":[1,null],\"record\":{\"x\":\"a\\\"b\"},\"map\":\"{7: seven}\"}
{\"list\":null,\"record\":{\"x\":null},\"map\":null}
";
    check(OutputFormat::Ndjson, &nested(), rows);
}

#[test]
fn statements_follow_each_other() {
    let one = numbers(1..2);
    let two = [numbers(2..3), numbers(3..4)];
    let statements: [&[RecordBatch]; 2] = [std::slice::from_ref(&one), &two];
    let table = "\
+---+
| n |
+---+
| 1 |
+---+

+---+
| n |
+---+
| 2 |
| 3 |
+---+
";
    assert_eq!(written(OutputFormat::Table, &statements), table);
    assert_eq!(written(OutputFormat::Csv, &statements), "n\n1\n\nn\n2\n3\n");
    assert_eq!(written(OutputFormat::Json, &statements), "[{\"n\":1}]\n[{\"n\":2},{\"n\":3}]\n");
    assert_eq!(written(OutputFormat::Ndjson, &statements), "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
}

#[test]
fn rows_without_columns_are_rows() {
    let options = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(2));
    let schema = Arc::new(Schema::empty());
    let two = RecordBatch::try_new_with_options(schema.clone(), Vec::new(), &options).expect("rows");
    check(OutputFormat::Table, &two, "(2 rows without columns)\n");
    check(OutputFormat::Csv, &two, "\n\n\n");
    check(OutputFormat::Json, &two, "[{},{}]\n");
    check(OutputFormat::Ndjson, &two, "{}\n{}\n");
    let mut writer = RowWriter::new(Vec::new(), OutputFormat::Arrow);
    writer.write_rows(&schema, [Ok(two)].into_iter()).expect("a valid result");
    let read = StreamReader::try_new(writer.out.out.as_slice(), None).expect("a stream");
    assert_eq!(read.map(|batch| batch.expect("a batch").num_rows()).sum::<usize>(), 2);
}

#[test]
fn rows_of_other_columns_are_refused() {
    let announced = |data_type: DataType| Arc::new(Schema::new(vec![Field::new("n", data_type, true)]));
    let none = RecordBatch::new_empty(Arc::new(Schema::empty()));
    let texts = batch(vec![("n", Arc::new(StringViewArray::from(vec!["a"])) as ArrayRef)]);
    for format in OutputFormat::ALL {
        for (schema, came, words) in [
            (announced(DataType::Int32), numbers(1..2), "column `n` was announced as Int32, and rows of Int64 came"),
            (announced(DataType::Utf8), texts.clone(), "announced as Utf8, and rows of Utf8View came"),
            (announced(DataType::Int64), none.clone(), "1 columns were announced, and rows of 0 came"),
        ] {
            let mut writer = RowWriter::new(Vec::new(), format);
            let refused = writer.write_rows(&schema, [Ok(came)].into_iter()).expect_err("other columns");
            assert!(refused.to_string().contains(words) && refused.hint().is_some(), "{format:?}: {refused}");
        }
    }
}

#[test]
fn labels_may_differ_from_what_was_announced() {
    let record = |nullable: bool, metadata: &str| {
        let inner = Fields::from(vec![Field::new("x", DataType::Int64, nullable)]);
        let item = Field::new("item", DataType::Struct(inner.clone()), nullable)
            .with_metadata([("about".to_owned(), metadata.to_owned())].into());
        let values = StructArray::new(inner, vec![Arc::new(Int64Array::from(vec![1]))], None);
        let lists = ListArray::new(Arc::new(item), OffsetBuffer::from_lengths([1]), Arc::new(values), None);
        let field = Field::new("l", lists.data_type().clone(), nullable);
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::new(lists)]).expect("a list")
    };
    for format in OutputFormat::ALL {
        let mut writer = RowWriter::new(Vec::new(), format);
        let rows = writer.write_rows(&record(false, "a").schema(), [Ok(record(true, "b"))].into_iter());
        assert_eq!(rows.expect("equal values"), 1, "{format:?}");
    }
}

#[test]
fn arrow_streams_are_read_back() {
    let mut writer = RowWriter::new(Vec::new(), OutputFormat::Arrow);
    let empty = RecordBatch::new_empty(nested().schema());
    writer.write_rows(&nested().schema(), [Ok(nested()), Ok(nested())].into_iter()).expect("a valid result");
    writer.write_rows(&empty.schema(), std::iter::empty()).expect("a valid empty result");
    let mut bytes = writer.out.out.as_slice();
    let first = StreamReader::try_new(&mut bytes, None).expect("a stream");
    assert_eq!(first.collect::<Result<Vec<_>, _>>().expect("two batches"), [nested(), nested()]);
    let second = StreamReader::try_new(&mut bytes, None).expect("another stream");
    assert_eq!(second.schema(), empty.schema());
    assert_eq!(second.count(), 0);
}

#[test]
fn long_tables_come_in_blocks_and_lose_no_row() {
    #[track_caller]
    fn check(rows_max: usize, text_bytes_max: usize, batches: &[RecordBatch], expect: &[&[i64]]) {
        let mut out = Vec::new();
        let limits = table::BlockLimits { rows_max, text_bytes_max };
        table::write(&mut out, &batches[0].schema(), batches.iter().cloned().map(Ok), &limits).expect("a valid result");
        let text = String::from_utf8(out).expect("tables are text");
        let blocks: Vec<Vec<i64>> = text
            .split("| n")
            .skip(1)
            .map(|block| block.split(['|', '\n', ' ']).filter_map(|cell| cell.parse().ok()).collect())
            .collect();
        assert_eq!(blocks, expect, "{text}");
    }
    check(3, 1000, &[numbers(0..3)], &[&[0, 1, 2]]);
    check(3, 1000, &[numbers(0..7)], &[&[0, 1, 2], &[3, 4, 5], &[6]]);
    check(3, 1000, &[numbers(0..2), numbers(2..2), numbers(2..6)], &[&[0, 1, 2], &[3, 4, 5]]);
    check(10, 4, &[numbers(8..13)], &[&[8, 9, 10], &[11, 12]]);
    check(10, 1, &[numbers(10..12)], &[&[10], &[11]]);
    check(10, 1, &[numbers(0..0)], &[&[]]);
}

/// A pipe whose reader goes after a number of bytes.
#[derive(Debug)]
struct Closing(usize);

impl Write for Closing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_goes_is_no_failure_to_write() {
    for format in OutputFormat::ALL {
        for bytes in [0, 1, 20] {
            let mut writer = RowWriter::new(Closing(bytes), format);
            let result = writer.write_rows(&plain().schema(), (0..10).map(|_| Ok(plain())));
            assert!(matches!(result, Err(OutputError::ReaderGone)), "{format:?} after {bytes}: {result:?}");
        }
    }
}

#[test]
fn an_output_that_fails_is_named() {
    #[derive(Debug)]
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for format in OutputFormat::ALL {
        let mut writer = RowWriter::new(Full, format);
        let error = writer.write_rows(&plain().schema(), [Ok(plain())].into_iter()).expect_err("a full disk");
        assert!(error.to_string().contains("no storage space"), "{format:?}: {error}");
        assert!(matches!(error, OutputError::Write(_)), "{format:?}: {error:?}");
    }
}

/// Shares the written bytes, and counts as a reader that goes when its receiver does.
#[derive(Debug)]
struct Sent(std_mpsc::Sender<Vec<u8>>);

impl Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sent(receiver: &std_mpsc::Receiver<Vec<u8>>) -> String {
    String::from_utf8(receiver.try_iter().flatten().collect()).expect("text")
}

fn stream(batches: Vec<Result<RecordBatch, ArrowError>>) -> impl Stream<Item = Result<RecordBatch, ArrowError>> {
    futures::stream::iter(batches)
}

#[tokio::test]
async fn streams_are_written_whole() {
    let (sender, receiver) = std_mpsc::channel();
    let output = RowOutput::new(Sent(sender), OutputFormat::Json);
    let batches = (0..10).map(|n| Ok(numbers(n..n + 1))).collect();
    let rows = output.write_stream(numbers(0..0).schema(), stream(batches)).await.expect("a valid result");
    assert_eq!(rows, 10);
    let rows = output.write_stream(numbers(0..0).schema(), stream(vec![])).await.expect("an empty result");
    assert_eq!(rows, 0);
    let objects: Vec<String> = (0..10).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(sent(&receiver), format!("[{}]\n[]\n", objects.join(",")));
}

#[tokio::test]
async fn a_failed_query_leaves_its_rows_unfinished() {
    let (sender, receiver) = std_mpsc::channel();
    let output = RowOutput::new(Sent(sender), OutputFormat::Json);
    let batches = vec![Ok(numbers(0..1)), Err(ArrowError::DivideByZero), Ok(numbers(1..2))];
    let error = output.write_stream(numbers(0..0).schema(), stream(batches)).await.expect_err("a failed query");
    assert!(matches!(error, StreamError::Query(ArrowError::DivideByZero)), "{error:?}");
    assert_eq!(sent(&receiver), "[{\"n\":0}");
}

#[tokio::test]
async fn an_endless_query_ends_with_its_reader() {
    let (sender, receiver) = std_mpsc::channel();
    drop(receiver);
    let output = RowOutput::new(Sent(sender), OutputFormat::Csv);
    let endless = futures::stream::repeat_with(|| Ok::<_, ArrowError>(numbers(0..1)));
    let error = output.write_stream(numbers(0..0).schema(), endless).await.expect_err("nobody reads");
    assert!(matches!(error, StreamError::Output(OutputError::ReaderGone)), "{error:?}");
}

#[test]
fn no_value_is_obeyed_by_a_terminal() {
    let shown = table::without_controls("a\u{1b}[31m\u{7f}\u{85}\n\té".to_owned());
    assert_eq!(shown, "a\u{241b}[31m\u{2421}\u{fffd}\n\té");
}

fn parquet(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let mut writer = RowWriter::new(Vec::new(), OutputFormat::Parquet);
    writer.write_rows(schema, batches.into_iter().map(Ok)).expect("a valid result");
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(writer.out.out)).expect("a file");
    let empty = RecordBatch::new_empty(reader.schema().clone());
    let read = reader.build().expect("rows").collect::<Result<Vec<_>, _>>().expect("rows");
    if read.is_empty() { vec![empty] } else { read }
}

#[test]
fn parquet_files_are_read_back() {
    for rows in [plain(), nested(), RecordBatch::new_empty(plain().schema())] {
        let read = parquet(&rows.schema(), vec![rows.clone()]);
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].columns(), rows.columns());
    }
    let read = parquet(&numbers(0..0).schema(), (0..10).map(|n| numbers(n..n + 1)).collect());
    assert_eq!(read, [numbers(0..10)]);
}

#[test]
fn parquet_has_unique_names_and_no_strange_types() {
    let column = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    let interval = IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNanoType::make_value(1, 2, 0)]);
    let twice = batch(vec![("id", column(1)), ("id", column(2)), ("i", Arc::new(interval))]);
    let read = parquet(&twice.schema(), vec![twice.clone()]).remove(0);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1 mons 2 days"]));
    assert_eq!(read, batch(vec![("id", column(1)), ("id_2", column(2)), ("i", text)]));
}

/// Arrow's own schema, which the file has for Arrow's readers alone, is left out.
#[test]
fn every_reader_of_parquet_finds_the_same_types() {
    let seconds = || TimestampSecondArray::from(vec![Some(1_700_000_000), None]);
    let millis = || TimestampMillisecondArray::from(vec![Some(1_700_000_000_000), None]);
    let listed = |inner: ArrayRef| {
        let item = Arc::new(Field::new("item", inner.data_type().clone(), true));
        Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([2, 0]), inner, None)) as ArrayRef
    };
    let inside = |inner: ArrayRef| {
        let fields = Fields::from(vec![Field::new("x", inner.data_type().clone(), true)]);
        Arc::new(StructArray::new(fields, vec![inner], None)) as ArrayRef
    };
    let took = || DurationMillisecondArray::from(vec![Some(1_500), None]);
    let texts = || Arc::new(StringArray::from(vec![Some("PT1.5S"), None])) as ArrayRef;
    let written = batch(vec![
        ("at", Arc::new(seconds())),
        ("zoned", Arc::new(seconds().with_timezone("UTC"))),
        ("time", Arc::new(Time32SecondArray::from(vec![Some(3_723), None]))),
        ("day", Arc::new(Date64Array::from(vec![Some(86_400_000), None]))),
        ("took", Arc::new(took())),
        ("list", listed(Arc::new(seconds()))),
        ("record", inside(Arc::new(took()))),
    ]);
    let expect = batch(vec![
        ("at", Arc::new(millis())),
        ("zoned", Arc::new(millis().with_timezone("UTC"))),
        ("time", Arc::new(Time32MillisecondArray::from(vec![Some(3_723_000), None]))),
        ("day", Arc::new(TimestampMillisecondArray::from(vec![Some(86_400_000), None]))),
        ("took", texts()),
        ("list", listed(Arc::new(millis()))),
        ("record", inside(texts())),
    ]);
    let mut writer = RowWriter::new(Vec::new(), OutputFormat::Parquet);
    writer.write_rows(&written.schema(), [Ok(written.clone())].into_iter()).expect("a valid result");
    let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(Bytes::from(writer.out.out), plain);
    let read = reader.and_then(|reader| reader.build()).expect("a file").next().expect("a batch").expect("rows");
    assert_eq!(read, expect);
    assert_eq!(parquet(&written.schema(), vec![written]), [expect]);
    let late = batch(vec![("at", Arc::new(TimestampSecondArray::from(vec![i64::MAX])))]);
    let mut writer = RowWriter::new(Vec::new(), OutputFormat::Parquet);
    let refused = writer.write_rows(&late.schema(), [Ok(late)].into_iter()).expect_err("no milliseconds are so many");
    assert!(refused.to_string().to_lowercase().contains("overflow"), "{refused}");
}

#[test]
fn a_parquet_file_has_one_statement_and_its_end() {
    let mut writer = RowWriter::new(Vec::new(), OutputFormat::Parquet);
    writer.write_rows(&numbers(0..1).schema(), [Ok(numbers(0..1))].into_iter()).expect("a valid result");
    let second = writer.write_rows(&numbers(0..1).schema(), [Ok(numbers(0..1))].into_iter());
    assert!(matches!(second, Err(OutputError::SecondStatement)), "{second:?}");
    let mut cut = RowWriter::new(Vec::new(), OutputFormat::Parquet);
    let batches = [Ok(numbers(0..1)), Err(OutputError::Incomplete)];
    cut.write_rows(&numbers(0..1).schema(), batches.into_iter()).expect_err("it ends early");
    assert!(cut.out.out.starts_with(b"PAR1"), "it began");
    ParquetRecordBatchReaderBuilder::try_new(Bytes::from(cut.out.out))
        .expect_err("no reader takes it for a whole file");
    let none = Arc::new(Schema::empty());
    let refused = RowWriter::new(Vec::new(), OutputFormat::Parquet).write_rows(&none, std::iter::empty());
    assert!(refused.expect_err("no columns").to_string().contains("at least one column"));
}

#[tokio::test]
async fn a_file_has_its_name_when_it_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.csv");
    let names = || std::fs::read_dir(folder.path()).expect("readable").count();
    let dropped = NewFile::create(&path).expect("a file");
    let mut late = dropped.writer().expect("a writer");
    assert_eq!(names(), 1);
    drop(dropped);
    assert_eq!(names(), 0, "nothing is left");
    late.write_all(b"a thread that still writes").and_then(|()| late.flush()).expect("it harms nobody");
    let (first, second) = (NewFile::create(&path).expect("a file"), NewFile::create(&path).expect("another"));
    first.writer().expect("a writer").write_all(b"first").expect("written");
    assert!(!path.exists());
    first.keep().await.expect("the name is free");
    second.writer().expect("a writer").write_all(b"second").expect("written");
    let taken = second.keep().await.expect_err("the name is taken");
    assert!(taken.to_string().contains("the file exists") && taken.hint().is_some(), "{taken}");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "first");
    let OutputError::Unnamed { left, .. } = &taken else { panic!("{taken:?}") };
    assert!(taken.to_string().contains(&left.display().to_string()), "{taken}");
    assert_eq!(std::fs::read_to_string(left).expect("rows that were paid for"), "second");
    assert_eq!(names(), 2, "nothing else is left");
    let long = NewFile::create(&folder.path().join("r".repeat(300))).expect_err("no file has such a name");
    assert!(long.to_string().contains("too long") && names() == 2, "{long}");
    let exists = NewFile::create(&path).expect_err("it is there");
    assert!(exists.to_string().contains("the file exists"), "{exists}");
    let nowhere = NewFile::create(&folder.path().join("no/rows.csv")).expect_err("no folder");
    assert!(nowhere.to_string().contains("folder does not exist"), "{nowhere}");
}
