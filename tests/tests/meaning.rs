//! SQL where DataFusion 55.2 gives it another meaning: rows by hand, on every target, and random queries against DuckDB.
//!
//! Each table of cases names the place that puts it right. That place can go when the table's cases pass without it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::{DataType, Int64Type};
use gust_engine::config::Target;
use gust_engine::error::ErrorKind;
use gust_engine::session::Session;
use gust_tests::asks::{Reader, ask, lines};
use gust_tests::query::{run, session};
use gust_tests::subqueries;
use parquet::arrow::ArrowWriter;
use tempfile::TempDir;

/// Result of a statement: rows in the order that it asks for, cells divided by `|`; or an error with these words.
enum Expect {
    Rows(&'static [&'static str]),
    Error(&'static str),
}
use Expect::{Error, Rows};

type Cases = &'static [(&'static str, Expect)];

/// `in_subquery`: apache/datafusion#25336, #25347, #25340, #25480, #8241.
const IN_SUBQUERY: Cases = &[
    ("SELECT k FROM l WHERE k NOT IN (SELECT k FROM r WHERE r.z > l.z) ORDER BY k", Rows(&[])),
    ("SELECT v FROM l WHERE k NOT IN (SELECT k FROM r WHERE r.z < l.z) ORDER BY v", Rows(&["b", "d"])),
    ("SELECT v FROM l WHERE k NOT IN (SELECT k FROM r WHERE r.k = l.k) ORDER BY v", Rows(&["b", "c", "d"])),
    ("SELECT v FROM l WHERE k NOT IN (SELECT k FROM r) ORDER BY v", Rows(&[])),
    ("SELECT v FROM l WHERE k NOT IN (SELECT k FROM r WHERE k IS NOT NULL) ORDER BY v", Rows(&["b", "d"])),
    ("SELECT v FROM l WHERE k NOT IN (SELECT k FROM r WHERE false) ORDER BY v", Rows(&["a", "b", "c", "d"])),
    ("SELECT v FROM l WHERE NULL NOT IN (SELECT k FROM r) ORDER BY v", Rows(&[])),
    ("SELECT v FROM l WHERE NULL NOT IN (SELECT k FROM r WHERE z > 100) ORDER BY v", Rows(&["a", "b", "c", "d"])),
    ("SELECT v FROM l WHERE 3 NOT IN (SELECT k FROM r) ORDER BY v", Rows(&[])),
    ("SELECT v FROM l WHERE 3 NOT IN (SELECT k FROM r WHERE r.z < l.z) ORDER BY v", Rows(&["a", "b", "c", "d"])),
    ("SELECT v FROM l WHERE NOT (k IN (SELECT k FROM r WHERE r.z < l.z) AND z > 5) ORDER BY v", Rows(&["b", "d"])),
    ("SELECT v FROM l WHERE k NOT IN (SELECT k FROM r) OR z > 35 ORDER BY v", Rows(&["d"])),
    ("SELECT v FROM l WHERE (k IN (SELECT k FROM r)) IS NULL ORDER BY v", Rows(&["b", "c", "d"])),
    ("SELECT v FROM l WHERE k <> ALL (SELECT k FROM r) ORDER BY v", Rows(&[])),
    ("SELECT v FROM l WHERE 0 IN (SELECT count(*) FROM r WHERE r.z = l.z) ORDER BY v", Rows(&["b", "c", "d"])),
    ("SELECT v FROM l WHERE k NOT IN (SELECT max(k) FROM r WHERE r.z = l.z) ORDER BY v", Rows(&["a"])),
    ("SELECT v FROM l WHERE NOT EXISTS (SELECT max(k) FROM r WHERE r.z = l.z) ORDER BY v", Rows(&[])),
    ("SELECT v FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.z < l.z OFFSET 1)", Error("hint: join the outer query")),
    ("SELECT v FROM l WHERE k IN (SELECT k FROM r WHERE r.z < l.z LIMIT 1)", Error("hint: join the outer query")),
    ("SELECT v, k IN (SELECT k FROM r) FROM l ORDER BY v", Rows(&["a|true", "b|NULL", "c|NULL", "d|NULL"])),
    (
        "SELECT v, k NOT IN (SELECT k FROM r WHERE z < 20) AS n FROM l ORDER BY v",
        Rows(&["a|false", "b|true", "c|NULL", "d|true"]),
    ),
    (
        "SELECT v, k IN (SELECT k FROM r WHERE false) OR z > 35 FROM l ORDER BY v",
        Rows(&["a|false", "b|false", "c|false", "d|true"]),
    ),
    (
        "SELECT v, EXISTS (SELECT 1 FROM r WHERE z > 20), NOT EXISTS (SELECT 1 FROM r) FROM l WHERE k = 1",
        Rows(&["a|true|false"]),
    ),
    ("SELECT v, k IN (SELECT k FROM r WHERE r.z < l.z) FROM l", Error("hint: LEFT JOIN the subquery")),
    ("SELECT count(*) FILTER (WHERE k IN (SELECT k FROM r)) FROM l", Error("hint: LEFT JOIN the subquery")),
];

/// `using` and `merged_keys`: apache/datafusion#22881.
const USING: Cases = &[
    (
        "SELECT k, v, w FROM l FULL JOIN r USING (k) ORDER BY w, v",
        Rows(&["1|a|x", "NULL|NULL|y", "5|NULL|z", "2|b|NULL", "NULL|c|NULL", "4|d|NULL"]),
    ),
    ("SELECT k, v, w FROM l RIGHT JOIN r USING (k) ORDER BY w", Rows(&["1|a|x", "NULL|NULL|y", "5|NULL|z"])),
    (
        "SELECT * FROM l RIGHT JOIN r USING (k) ORDER BY w",
        Rows(&["1|10|a|5|x", "NULL|NULL|NULL|50|y", "5|NULL|NULL|10|z"]),
    ),
    (
        "SELECT * FROM r LEFT JOIN l USING (k) ORDER BY w",
        Rows(&["1|5|x|10|a", "NULL|50|y|NULL|NULL", "5|10|z|NULL|NULL"]),
    ),
    (
        "SELECT * EXCLUDE (v, w) FROM r LEFT JOIN l USING (k) ORDER BY r.z",
        Rows(&["5|1|10", "10|5|NULL", "50|NULL|NULL"]),
    ),
    ("SELECT l.k, r.k, k FROM l FULL JOIN r USING (k) WHERE k = 5", Rows(&["NULL|5|5"])),
    (
        "SELECT k, count(*) FROM l FULL JOIN r USING (k) GROUP BY k ORDER BY k",
        Rows(&["1|1", "2|1", "4|1", "5|1", "NULL|2"]),
    ),
    ("SELECT count(*) FROM l FULL JOIN r USING (k) GROUP BY k HAVING k > 2 ORDER BY k DESC", Rows(&["1", "1"])),
    ("SELECT k + 1 AS n FROM l FULL JOIN r USING (k) WHERE k > 2 ORDER BY k", Rows(&["5", "6"])),
    (
        "SELECT k, v, r.w, x.z FROM l FULL JOIN r USING (k) FULL JOIN r AS x USING (k) WHERE k IS NOT NULL ORDER BY k",
        Rows(&["1|a|x|5", "2|b|NULL|NULL", "4|d|NULL|NULL", "5|NULL|z|10"]),
    ),
    ("SELECT k FROM (SELECT k FROM l FULL JOIN r USING (k)) s WHERE k > 4", Rows(&["5"])),
    (
        "SELECT k FROM l FULL JOIN r USING (k) WHERE EXISTS (SELECT 1 FROM r AS y WHERE y.k = 5 AND k = y.k) ORDER BY k",
        Rows(&["1", "2", "4", "5", "NULL", "NULL"]),
    ),
    ("SELECT k FROM l FULL JOIN r USING (k) WHERE EXISTS (SELECT 1 FROM f WHERE f.n = k)", Error("No field named k")),
    ("SELECT k, l.* FROM l FULL JOIN r USING (k) WHERE k = 5", Rows(&["5|NULL|NULL|NULL"])),
    ("SELECT l.v FROM l NATURAL FULL JOIN r", Error("hint: write JOIN ... USING")),
];

/// `functions::sum`, `integers`: apache/datafusion#17539.
const OVERFLOW: Cases = &[
    ("SELECT sum(i) FROM big", Error("hint: sum(CAST(... AS DECIMAL(38, 0)))")),
    ("SELECT n > 0, sum(i) FROM big GROUP BY n > 0", Error("does not fit in BIGINT")),
    ("SELECT sum(DISTINCT i) FROM big", Error("does not fit in BIGINT")),
    (
        "SELECT sum(i) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM big",
        Error("does not fit in BIGINT"),
    ),
    ("SELECT sum(CAST(i AS DECIMAL(38, 0))) FROM big", Rows(&["18446744073709551612"])),
    ("SELECT sum(i) FROM big WHERE n < 3", Rows(&["9223372036854775807"])),
    ("SELECT sum(i - 1) FROM big WHERE n = 2", Rows(&["9223372036854775805"])),
    ("SELECT sum(CASE WHEN n = 3 THEN -i ELSE i END) FROM big", Rows(&["2"])),
    (
        "SELECT g, sum(i), sum(DISTINCT n), count(DISTINCT n) FROM big WHERE n < 3 GROUP BY g ORDER BY g",
        Rows(&["0|9223372036854775806|2|1", "1|1|1|1"]),
    ),
    (
        "SELECT n, sum(n) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM big ORDER BY n",
        Rows(&["1|1", "2|3", "3|5"]),
    ),
    (
        "SELECT n, sum(DISTINCT g) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM big ORDER BY n",
        Rows(&["1|1", "2|1", "3|1"]),
    ),
    ("SELECT sum(d) FROM big", Error("does not fit in 38 digits")),
    ("SELECT g, sum(d) FROM big GROUP BY g", Error("does not fit in 38 digits")),
    ("SELECT sum(CAST(d AS DECIMAL(76, 0))) FROM big", Rows(&["180000000000000000000000000000000000000"])),
    ("SELECT avg(d) FROM big WHERE n = 1", Error("")),
    ("SELECT sum(n), sum(n + 0.5) FROM big", Rows(&["6|7.5"])),
    ("SELECT i + n FROM big", Error("hint: CAST(... AS DECIMAL(38, 0))")),
    ("SELECT i * 2 FROM big", Error("overflows")),
    ("SELECT -i - 3 FROM big", Error("overflows")),
    ("SELECT 9223372036854775807 + n FROM big", Error("overflows")),
    ("SELECT 9223372036854775807 + 1", Error("overflows")),
    ("SELECT i - n FROM big WHERE n < 3 ORDER BY n", Rows(&["0", "9223372036854775804"])),
    ("SELECT CAST(i AS DECIMAL(38, 0)) + n FROM big WHERE n = 3", Rows(&["9223372036854775808"])),
    ("SELECT n FROM big WHERE i + 1 < 5 AND n < 2", Rows(&["1"])),
    ("SELECT n FROM big WHERE n > 0 ORDER BY abs(n - 3), n LIMIT 2", Rows(&["3", "2"])),
    ("SELECT n FROM f WHERE x >= 0 ORDER BY abs(x - 1), abs(x), n LIMIT 2", Rows(&["5", "1"])),
];

/// `float_keys`: apache/datafusion#16254. The column has −0.0, 0.0, both NaN, 1.0 and NULL, one a row.
const FLOATS: Cases = &[
    ("SELECT count(DISTINCT x) AS n, count(*) FILTER (WHERE x = 0) AS z FROM f", Rows(&["3|2"])),
    ("SELECT x, count(*) FROM f GROUP BY x ORDER BY x", Rows(&["0.0|2", "1.0|1", "NaN|2", "NULL|1"])),
    ("SELECT x, n % 2, count(*) FROM f WHERE x = 0 GROUP BY x, n % 2 ORDER BY 2", Rows(&["0.0|0|1", "0.0|1|1"])),
    ("SELECT DISTINCT x FROM f ORDER BY x", Rows(&["0.0", "1.0", "NaN", "NULL"])),
    ("SELECT x FROM f UNION SELECT -0.0 ORDER BY x", Rows(&["0.0", "1.0", "NaN", "NULL"])),
    ("SELECT x FROM f INTERSECT SELECT CAST(0 AS DOUBLE)", Rows(&["0.0"])),
    ("SELECT x FROM f EXCEPT SELECT CAST('NaN' AS DOUBLE) ORDER BY x", Rows(&["0.0", "1.0", "NULL"])),
    ("SELECT count(*) FROM f a JOIN f b ON a.x = b.x", Rows(&["9"])),
    ("SELECT count(*) FROM f a JOIN f b USING (x)", Rows(&["9"])),
    ("SELECT count(*) FROM f a JOIN f b ON a.x > b.x", Rows(&["8"])),
    ("SELECT count(*) FROM f WHERE x = CAST('NaN' AS DOUBLE)", Rows(&["2"])),
    ("SELECT count(*) FROM f WHERE x > 5", Rows(&["2"])),
    ("SELECT count(*) FROM f WHERE x < 5", Rows(&["3"])),
    ("SELECT count(*) FROM f WHERE x BETWEEN 0 AND 5", Rows(&["3"])),
    ("SELECT count(*) FROM f WHERE x NOT BETWEEN 0 AND 5", Rows(&["2"])),
    ("SELECT count(*) FROM f WHERE x IN (0, CAST('NaN' AS DOUBLE))", Rows(&["4"])),
    ("SELECT count(*) FROM f WHERE x IN (SELECT x FROM f WHERE n <= 2)", Rows(&["2"])),
    ("SELECT n FROM f WHERE x NOT IN (SELECT x FROM f WHERE n = 1 OR n = 3)", Rows(&["5"])),
    ("SELECT n FROM f ORDER BY x, n", Rows(&["1", "2", "5", "3", "4", "6"])),
    ("SELECT n, rank() OVER (ORDER BY x) FROM f ORDER BY n", Rows(&["1|1", "2|1", "3|4", "4|4", "5|3", "6|6"])),
    ("SELECT n, count(*) OVER (PARTITION BY x) FROM f ORDER BY n", Rows(&["1|2", "2|2", "3|2", "4|2", "5|1", "6|1"])),
    ("SELECT min(x), max(x) FROM f", Rows(&["0.0|NaN"])),
    (
        "SELECT g, min(-1 / y), max(-y) FROM (SELECT n = 5 AS g, y FROM f WHERE n > 4) s GROUP BY g ORDER BY g",
        Rows(&["false|-1.0|-1.0", "true|0.0|-inf"]),
    ),
    ("SELECT n % 2, max(x) FROM f WHERE n < 6 GROUP BY n % 2 ORDER BY 1", Rows(&["0|NaN", "1|NaN"])),
    ("SELECT array_agg(DISTINCT x ORDER BY x) FROM f WHERE x = 0", Rows(&["[0.0]"])),
    (
        "SELECT x, count(*) FROM f GROUP BY ROLLUP (x) ORDER BY 2, 1",
        Rows(&["1.0|1", "NULL|1", "0.0|2", "NaN|2", "NULL|6"]),
    ),
    ("SELECT count(*) FROM (SELECT make_array(x) AS a FROM f WHERE x = 0 GROUP BY make_array(x)) s", Rows(&["1"])),
    (
        "SELECT CASE x WHEN CAST('NaN' AS DOUBLE) THEN 'nan' WHEN 0 THEN 'zero' ELSE 'other' END FROM f ORDER BY n",
        Rows(&["zero", "zero", "nan", "nan", "other", "other"]),
    ),
    ("SELECT x FROM f WHERE n = 1", Rows(&["-0.0"])),
    ("SELECT count(*) FROM f WHERE (x - x) / (x - x) > 5", Rows(&["5"])),
];

/// `functions::frames`: a value that leaves a frame leaves no trace. `y` has 1e20, 1.0, NaN, 1.0, infinity, 1.0 by `n`.
const FRAMES: Cases = &[
    (
        "SELECT n, sum(y) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM f ORDER BY n",
        Rows(&["1|1e20", "2|1e20", "3|NaN", "4|NaN", "5|inf", "6|inf"]),
    ),
    (
        "SELECT n, avg(y) OVER (ORDER BY n DESC ROWS BETWEEN CURRENT ROW AND 0 FOLLOWING) FROM f ORDER BY n",
        Rows(&["1|1e20", "2|1.0", "3|NaN", "4|1.0", "5|inf", "6|1.0"]),
    ),
    (
        "SELECT n, sum(CASE WHEN n = 1 THEN y ELSE 1.0 END) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM f ORDER BY n",
        Rows(&["1|1e20", "2|1e20", "3|2.0", "4|2.0", "5|2.0", "6|2.0"]),
    ),
    (
        "SELECT n, sum(x) OVER (ORDER BY n ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM f WHERE n > 4 ORDER BY n",
        Rows(&["5|1.0", "6|1.0"]),
    ),
    (
        "SELECT n, avg(x) OVER (ORDER BY n ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) FROM f WHERE n > 4 ORDER BY n",
        Rows(&["5|1.0", "6|NULL"]),
    ),
];

/// `functions::corrected`: apache/datafusion#16349. The lists come from Parquet; in one file all are NULL.
const LISTS: Cases = &[
    ("SELECT id, array_concat(l, l) AS a FROM lists ORDER BY id", Rows(&["1|[1, 2, 1, 2]", "2|NULL", "3|NULL"])),
    ("SELECT id, array_append(l, 3) FROM lists ORDER BY id", Rows(&["1|[1, 2, 3]", "2|[3]", "3|[3]"])),
    ("SELECT id, array_prepend(0, l) FROM lists ORDER BY id", Rows(&["1|[0, 1, 2]", "2|[0]", "3|[0]"])),
    (
        "SELECT id, array_distinct(l), array_sort(l), array_reverse(l) FROM lists ORDER BY id",
        Rows(&["1|[1, 2]|[1, 2]|[2, 1]", "2|NULL|NULL|NULL", "3|NULL|NULL|NULL"]),
    ),
    (
        "SELECT id, array_union(l, l), array_intersect(l, l), array_except(l, l) FROM lists WHERE id = 1",
        Rows(&["1|[1, 2]|[1, 2]|[]"]),
    ),
    (
        "SELECT id, array_slice(l, 1, 1), array_pop_back(l), array_remove(l, 1), array_replace(l, 1, 9) FROM lists ORDER BY id",
        Rows(&["1|[1]|[1]|[2]|[9, 2]", "2|NULL|NULL|NULL|NULL", "3|NULL|NULL|NULL|NULL"]),
    ),
    (
        "SELECT id, make_array(l, l) FROM lists ORDER BY id",
        Rows(&["1|[[1, 2], [1, 2]]", "2|[NULL, NULL]", "3|[NULL, NULL]"]),
    ),
    (
        "SELECT id, array_resize(l, 3, 0), flatten(make_array(l, l)) FROM lists WHERE id = 1",
        Rows(&["1|[1, 2, 0]|[1, 2, 1, 2]"]),
    ),
    (
        "SELECT id, l || l, coalesce(l, make_array(7)) FROM lists ORDER BY id",
        Rows(&["1|[1, 2, 1, 2]|[1, 2]", "2|NULL|[7]", "3|NULL|[7]"]),
    ),
    (
        "SELECT id, array_resize(l, 3), array_repeat(l, 1), array_union(l, make_array(7)) FROM lists ORDER BY id",
        Rows(&["1|[1, 2, NULL]|[[1, 2]]|[1, 2, 7]", "2|NULL|[NULL]|NULL", "3|NULL|[NULL]|NULL"]),
    ),
    ("SELECT array_agg(l ORDER BY id) FROM lists", Rows(&["[[1, 2], NULL, NULL]"])),
];

/// `functions::bounds`: values made from numbers are bounded.
const BOUNDS: Cases = &[
    ("SELECT repeat('x', 10000000000)", Error("hint: a smaller number")),
    ("SELECT repeat(v, 1000000000) FROM l", Error("`repeat` would make")),
    ("SELECT v FROM l WHERE length(repeat(v, CAST(k AS BIGINT) * 1000000000)) > 0", Error("`repeat` would make")),
    ("SELECT lpad(v, 2000000000) FROM l", Error("`lpad` would make")),
    ("SELECT rpad(v, 2000000000, 'y') FROM l", Error("`rpad` would make")),
    ("SELECT array_repeat(v, 10000000000) FROM l", Error("`array_repeat` would make")),
    ("SELECT range(0, 100000000000)", Error("`range` would make")),
    ("SELECT generate_series(0, k * 1000000000) FROM l", Error("`generate_series` would make")),
    ("SELECT generate_series(DATE '0001-01-01', DATE '9999-01-01', INTERVAL '1 day') FROM l", Error("a constant of")),
    (
        "SELECT repeat('x', 1000000) || v FROM l",
        Error("bytes\nhint: make it smaller, or SET datafusion.execution.batch_size"),
    ),
    ("SELECT array_resize(make_array(k), 10000000000) FROM l", Error("`array_resize` would make")),
    ("SELECT replace(repeat(v, 1000000), 'a', repeat(v, 1000000)) FROM l", Error("`replace` would make")),
    ("SELECT array_to_string(range(k * 1000000), repeat(',', 1000)) FROM l", Error("`array_to_string` would make")),
    (
        "SELECT regexp_replace(repeat(v, 100000), 'a', repeat(v, 100000), 'g') FROM l",
        Error("`regexp_replace` would make"),
    ),
    (
        "SELECT length(regexp_replace(repeat(v, 20000000), '', repeat('b', 64), 'g')) FROM l",
        Error("`regexp_replace` would make"),
    ),
    ("SELECT length(regexp_replace(repeat(v, 2000000), 'zz', 'b', 'g')) FROM l WHERE k = 2", Rows(&["2000000"])),
    (
        "SELECT length(concat(a, a, a, a)) FROM (SELECT repeat(v, 70000000) AS a FROM l WHERE k = 2)",
        Error("`concat` would make"),
    ),
    (
        "SELECT length(concat_ws(a, 'x', 'y', 'z', 'x', 'y')) FROM (SELECT repeat(v, 70000000) AS a FROM l WHERE k = 2)",
        Error("`concat_ws` would make"),
    ),
    ("SELECT concat(v, 'x', NULL, k), concat_ws('-', v, NULL, 'y') FROM l WHERE k = 2", Rows(&["bx2|b-y"])),
    (
        "SELECT array_to_string(range(k), '-'), regexp_replace('aXaX', 'X', 'yy', 'g') FROM l WHERE k = 2",
        Rows(&["0-1|ayyayy"]),
    ),
    (
        "SELECT v, repeat(v, 3), lpad(v, 3), rpad(v, 3, 'é'), array_repeat(k, 2) FROM l WHERE k = 2",
        Rows(&["b|bbb|  b|béé|[2, 2]"]),
    ),
    (
        "SELECT range(k), range(0, 10, 3), generate_series(3, 1, -1) FROM l WHERE k = 2",
        Rows(&["[0, 1]|[0, 3, 6, 9]|[3, 2, 1]"]),
    ),
    ("SELECT length(repeat('x', 1000000))", Rows(&["1000000"])),
    (
        "SELECT replace('aXbX', 'X', 'yy'), repeat('a', -1), array_resize(make_array(1), 2, 0)",
        Rows(&["ayybyy||[1, 0]"]),
    ),
];

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)));
    let batch = batch.expect("columns of one length");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let mut writer = ArrowWriter::try_new(File::create(path).expect("a file"), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
}

fn ints(values: &[Option<i32>]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Writes the tables of all cases: folders of Parquet files, most of two, so that functions share them.
fn tables() -> TempDir {
    let data = TempDir::with_prefix("gust-meaning-").expect("a temporary folder");
    let at = |path: &str| data.path().join(path);
    write(
        &at("l/0.parquet"),
        vec![("k", ints(&[Some(1), Some(2)])), ("z", ints(&[Some(10), Some(20)])), ("v", texts(&["a", "b"]))],
    );
    write(
        &at("l/1.parquet"),
        vec![("k", ints(&[None, Some(4)])), ("z", ints(&[Some(30), Some(40)])), ("v", texts(&["c", "d"]))],
    );
    write(
        &at("r/0.parquet"),
        vec![("k", ints(&[Some(1), None])), ("z", ints(&[Some(5), Some(50)])), ("w", texts(&["x", "y"]))],
    );
    write(&at("r/1.parquet"), vec![("k", ints(&[Some(5)])), ("z", ints(&[Some(10)])), ("w", texts(&["z"]))]);
    for (file, n, i) in [(0, vec![1, 2], vec![1, i64::MAX - 1]), (1, vec![3], vec![i64::MAX - 2])] {
        let huge =
            Decimal128Array::from(n.iter().map(|n| if *n == 2 { 0 } else { 9 * 10_i128.pow(37) }).collect::<Vec<_>>());
        write(
            &at(&format!("big/{file}.parquet")),
            vec![
                ("n", Arc::new(Int64Array::from(n.clone()))),
                ("g", Arc::new(Int64Array::from(n.iter().map(|n| n % 2).collect::<Vec<_>>()))),
                ("i", Arc::new(Int64Array::from(i))),
                ("d", Arc::new(huge.with_precision_and_scale(38, 0).expect("38 digits"))),
            ],
        );
    }
    let nan = f64::from_bits(f64::NAN.to_bits() | 1 << 63);
    let floats = [Some(-0.0), Some(0.0), Some(f64::NAN), Some(nan), Some(1.0), None];
    for (file, n) in [(0, 1..4), (1, 4..7)] {
        let x: Vec<Option<f64>> = n.clone().map(|n| floats[n as usize - 1]).collect();
        let y: Vec<f64> = n.clone().map(|n| [1e20, 1.0, f64::NAN, 1.0, f64::INFINITY, 1.0][n as usize - 1]).collect();
        write(
            &at(&format!("f/{file}.parquet")),
            vec![
                ("n", Arc::new(Int64Array::from_iter_values(n))),
                ("x", Arc::new(Float64Array::from(x))),
                ("y", Arc::new(Float64Array::from(y))),
            ],
        );
    }
    let list = |lists: Vec<Option<Vec<Option<i64>>>>| -> ArrayRef {
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))
    };
    write(&at("lists/0.parquet"), vec![("id", ints(&[Some(1)])), ("l", list(vec![Some(vec![Some(1), Some(2)])]))]);
    write(&at("lists/1.parquet"), vec![("id", ints(&[Some(2), Some(3)])), ("l", list(vec![None, None]))]);
    data
}

const TABLES: [&str; 5] = ["l", "r", "big", "f", "lists"];

async fn open(target: Target, data: &Path) -> Session {
    let session = session(target, 3, env!("CARGO_BIN_EXE_bootstrap_under_test"));
    for table in TABLES {
        let create =
            format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION '{}/'", data.join(table).display());
        run(&session, &create).await.expect("a table");
    }
    session
}

/// Runs the cases on a target, and fails with all that are not as expected.
async fn check(target: Target) {
    let data = tables();
    let session = open(target, data.path()).await;
    let mut wrong = Vec::new();
    for (sql, expect) in [IN_SUBQUERY, USING, OVERFLOW, FLOATS, FRAMES, LISTS, BOUNDS].into_iter().flatten() {
        let reads = TABLES.iter().any(|table| sql.contains(&format!("FROM {table}")));
        let read = if reads { Reader::FunctionsIfAnythingIsRead } else { Reader::Anybody };
        match (ask(&session, target, sql, read).await, expect) {
            (Ok(batches), Rows(rows)) => {
                let seen = lines(&batches, "NULL");
                if seen != *rows {
                    wrong.push(format!("{sql}\n    {seen:?}\n    instead of {rows:?}"));
                }
            }
            (Ok(batches), Error(_)) => wrong.push(format!("{sql}\n    no error: {:?}", lines(&batches, "NULL"))),
            (Err(error), Rows(_)) => wrong.push(format!("{sql}\n    {error}")),
            (Err(error), Error(words)) => {
                let is_typed = matches!(error.kind(), ErrorKind::Sql | ErrorKind::Data);
                if !is_typed || !error.to_string().contains(words) {
                    wrong.push(format!("{sql}\n    {error:?}\n    instead of an error with {words:?}"));
                }
            }
        }
    }
    session.close().await;
    assert!(wrong.is_empty(), "{} cases on {target:?}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_hold_locally() {
    check(Target::Local).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_hold_in_process() {
    check(Target::InProcess).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_hold_on_three_processes() {
    check(Target::Processes).await;
}

/// Batches of several files have one type, whatever Parquet calls the values of a list.
#[tokio::test(flavor = "multi_thread")]
async fn lists_of_all_files_have_one_type() {
    let data = tables();
    let session = open(Target::Local, data.path()).await;
    for call in
        ["array_concat(l, l)", "array_append(l, 3)", "array_distinct(l)", "make_array(l)", "array_slice(l, 1, 1)"]
    {
        let (batches, _) = run(&session, &format!("SELECT {call} AS a FROM lists")).await.expect("rows");
        let types: Vec<&DataType> = batches.iter().map(|batch| batch.column(0).data_type()).collect();
        assert!(types.len() > 1 && types.windows(2).all(|pair| pair[0] == pair[1]), "{call}: {types:?}");
    }
    session.close().await;
}

const TRIALS: u64 = 6;
const QUERIES: usize = 50;

/// Random subqueries and joins over random tables have DuckDB's rows, or Gust refuses them with a reason.
#[tokio::test(flavor = "multi_thread")]
async fn random_subqueries_have_duckdbs_rows() {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (mut right, mut refused) = (0, 0);
    for seed in 0..TRIALS {
        let target = if seed % 2 == 0 { Target::Local } else { Target::InProcess };
        let Some(trial) = subqueries::trial(cache, seed, QUERIES).expect("a trial") else { return };
        let session = session(target, 3, env!("CARGO_BIN_EXE_bootstrap_under_test"));
        let outcome = trial.run(&session).await;
        session.close().await;
        assert!(outcome.wrong.is_empty(), "seed {seed}, {target:?}:\n{}", outcome.wrong.join("\n"));
        (right, refused) = (right + outcome.right, refused + outcome.refused);
    }
    assert!(right > refused * 4, "{right} right, {refused} refused");
}
