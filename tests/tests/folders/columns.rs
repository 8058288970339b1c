//! Files whose columns differ, from each other and from those that are declared.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, LargeStringArray, StringArray, StructArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn files_with_different_columns_are_read_or_named() {
    let pair = |a: Content, b: Content| vec![("0.parquet", a), ("1.parquet", b)];
    check(vec![
        case(
            pair(column("a", Int32Array::from(vec![1])), column("a", Int64Array::from(vec![1_i64 << 40]))),
            "(a BIGINT) STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT sum(a) FROM t", Rows(&["1099511627777"])),
                ("SELECT sum(a) FROM '$T/*.parquet'", Rows(&["1099511627777"])),
                ("SELECT max(a), min(a) FROM '$T/' WHERE a > 0", Rows(&["1099511627776|1"])),
                ("SELECT a FROM t WHERE a < 2", Rows(&["1"])),
            ],
        ),
        case(
            pair(column("v", Int64Array::from(vec![1, 3])), column("v", Int32Array::from(vec![1, 3]))),
            "",
            vec![("SELECT count(*) AS n, sum(v) AS s FROM '$T/'", Rows(&["4|8"]))],
        ),
        // The column is declared too narrow: a value that does not fit is an error, never another value.
        case(
            pair(column("a", Int32Array::from(vec![1])), column("a", Int64Array::from(vec![1_i64 << 40]))),
            "(a INT) STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT sum(a) FROM t WHERE a <> 5", Error(&["1099511627776", "Int32", "`a`", "1.parquet"])),
                ("SELECT a FROM t", Error(&["1099511627776", "Int32", "`a`", "1.parquet"])),
                ("SELECT max(a) FROM t", Error(&["1099511627776", "Int32", "`a`", "1.parquet"])),
            ],
        ),
        case(
            pair(column("a", Float64Array::from(vec![1.5])), column("a", Int64Array::from(vec![2]))),
            "(a INT) STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT a FROM t", Error(&["column `a` is Float64", "Int32 in the table"])),
                ("SELECT sum(a) FROM '$T/'", Rows(&["3.5"])),
            ],
        ),
        case(
            pair(column("a", Float32Array::from(vec![0.5])), column("a", Float64Array::from(vec![0.25]))),
            "",
            vec![("SELECT sum(a) FROM '$T/'", Rows(&["0.75"]))],
        ),
        case(
            pair(
                column("a", Decimal128Array::from(vec![150]).with_precision_and_scale(5, 2).expect("a decimal")),
                column("a", Decimal128Array::from(vec![1234]).with_precision_and_scale(10, 3).expect("a decimal")),
            ),
            "",
            vec![("SELECT a FROM '$T/' WHERE a > 1", Rows(&["1.500", "1.234"]))],
        ),
        case(
            pair(column("a", Int64Array::from(vec![-1])), column("a", UInt64Array::from(vec![u64::MAX]))),
            "",
            vec![("SELECT a FROM '$T/' WHERE a <> 0", Rows(&["-1", "18446744073709551615"]))],
        ),
        case(
            pair(
                column("a", Date32Array::from(vec![0])),
                column("a", TimestampMicrosecondArray::from(vec![3_600_000_000])),
            ),
            "",
            vec![(
                "SELECT a FROM '$T/' WHERE a < TIMESTAMP '2000-01-01'",
                Rows(&["1970-01-01T00:00:00", "1970-01-01T01:00:00"]),
            )],
        ),
        case(
            pair(
                column("a", TimestampNanosecondArray::from(vec![1])),
                column("a", TimestampMicrosecondArray::from(vec![1])),
            ),
            "",
            vec![("SELECT a FROM '$T/'", Rows(&["1970-01-01T00:00:00.000000001", "1970-01-01T00:00:00.000001"]))],
        ),
        case(
            pair(column("a", StringArray::from(vec!["x"])), column("a", LargeStringArray::from(vec!["y"]))),
            "",
            vec![("SELECT a FROM '$T/' WHERE a <> ''", Rows(&["x", "y"]))],
        ),
        case(
            pair(column("a", Int64Array::from(vec![1])), column("b", Int64Array::from(vec![2]))),
            "(a BIGINT, b BIGINT, c VARCHAR) STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT a, b FROM '$T/'", Rows(&["1|NULL", "NULL|2"])),
                ("SELECT b FROM '$T/' WHERE a IS NULL", Rows(&["2"])),
                ("SELECT a, c FROM t WHERE b IS NULL", Rows(&["1|NULL"])),
            ],
        ),
        case(
            pair(
                column(
                    "s",
                    StructArray::from(vec![(
                        Arc::new(Field::new("x", DataType::Int32, true)),
                        Arc::new(Int32Array::from(vec![1])) as ArrayRef,
                    )]),
                ),
                column(
                    "s",
                    StructArray::from(vec![
                        (
                            Arc::new(Field::new("y", DataType::Int64, true)),
                            Arc::new(Int64Array::from(vec![2])) as ArrayRef,
                        ),
                        (
                            Arc::new(Field::new("x", DataType::Int64, true)),
                            Arc::new(Int64Array::from(vec![3])) as ArrayRef,
                        ),
                    ]),
                ),
            ),
            "",
            vec![("SELECT s['x'], s['y'] FROM '$T/'", Rows(&["1|NULL", "3|2"]))],
        ),
        case(
            pair(column("a", Int64Array::from(vec![1])), column("a", StringArray::from(vec!["x"]))),
            "(a VARCHAR) STORED AS PARQUET LOCATION '$T/'",
            vec![
                (
                    "SELECT a FROM '$T/'",
                    Error(&[
                        "column `a` is Int64 in",
                        "0.parquet`",
                        "Utf8View in",
                        "1.parquet`",
                        "declare the columns",
                    ]),
                ),
                ("SELECT a FROM t WHERE a <> ''", Rows(&["1", "x"])),
            ],
        ),
        case(
            pair(column("a", BooleanArray::from(vec![true])), column("a", BinaryArray::from(vec![b"x" as &[u8]]))),
            "",
            vec![("SELECT a FROM '$T/'", Error(&["column `a` is Boolean in"]))],
        ),
        case(
            vec![("a.parquet", column("a", Int64Array::from(vec![1_700_000_000])))],
            "(a TIMESTAMP) STORED AS PARQUET LOCATION '$T/'",
            vec![("SELECT a FROM t", Error(&["column `a` is Int64 in", "Timestamp"]))],
        ),
        // The file has two columns of one name.
        case(
            vec![(
                "a.parquet",
                Content::Parquet(vec![
                    ("id", Arc::new(Int64Array::from(vec![1]))),
                    ("value", Arc::new(Int64Array::from(vec![10]))),
                    ("value", Arc::new(Int64Array::from(vec![100]))),
                ]),
            )],
            "(id BIGINT, value BIGINT) STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT * FROM '$T/'", Error(&["a.parquet` has two columns named `value`"])),
                ("SELECT value FROM t", Error(&["two columns named `value`"])),
            ],
        ),
        case(
            vec![(
                "a.parquet",
                Content::Parquet(vec![
                    ("ID", Arc::new(Int64Array::from(vec![1]))),
                    ("id", Arc::new(Int64Array::from(vec![2]))),
                ]),
            )],
            "",
            vec![("SELECT \"ID\", id FROM '$T/'", Rows(&["1|2"]))],
        ),
    ])
    .await;
}

/// These files call text bytes. If the test passes without `tables/folder/text.rs`, that file can go.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_declared_as_text_are_read_or_refused() {
    check(vec![
        case(
            vec![
                ("p=1/a.parquet", column("s", BinaryArray::from(vec![Some("x".as_bytes()), None]))),
                ("p=2/b.parquet", column("s", StringArray::from(vec!["ä"]))),
            ],
            "(s VARCHAR, p INT) STORED AS PARQUET PARTITIONED BY (p) LOCATION '$T/'",
            vec![
                ("SELECT s, p, length(s) FROM t WHERE p < 3", Rows(&["x|1|1", "NULL|1|NULL", "ä|2|1"])),
                ("SELECT p FROM t WHERE s = 'x'", Rows(&["1"])),
                ("SELECT min(s), max(s), count(s) FROM t", Rows(&["x|ä|2"])),
                ("SELECT upper(s) FROM t WHERE p = 1 AND s IS NOT NULL", Rows(&["X"])),
            ],
        ),
        case(
            vec![("a.parquet", column("s", BinaryArray::from(vec![b"x" as &[u8], b"\xff"])))],
            "(s VARCHAR) STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT s FROM t", Error(&["nvalid"])),
                ("SELECT count(*) FROM t WHERE s <> 'y'", Error(&["nvalid"])),
            ],
        ),
    ])
    .await;
}
