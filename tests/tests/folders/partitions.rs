//! Folders `key=value`, declared and not.

use std::sync::Arc;

use arrow::array::Int64Array;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn partition_folders_are_typed_values() {
    let two = |a: &'static str, b: &'static str| vec![(a, ids([1])), (b, ids([2]))];
    let parquet = |columns: &'static str| columns;
    check(vec![
        case(
            vec![
                ("year=2024/month=01/day=05/a.parquet", ids([1])),
                ("year=2024/month=11/day=05/a.parquet", ids([2])),
                ("year=2023/month=1/day=5/a.parquet", ids([3])),
            ],
            parquet("(id BIGINT, year INT, month INT, day INT) STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '$T/'"),
            vec![
                ("SELECT id FROM t WHERE year = 2024 AND month = 1 AND day = 5", Rows(&["1"])),
                ("SELECT id, month FROM t WHERE month = 1", Rows(&["1|1", "3|1"])),
                ("SELECT id FROM t WHERE (year = 2024 AND month = 11) OR (year = 2023 AND month < 2)", Rows(&["2", "3"])),
                ("SELECT id FROM t WHERE month IN (1, 2) AND day BETWEEN 5 AND 6 AND year > 2023", Rows(&["1"])),
                ("SELECT id FROM t WHERE year + month = 2025", Rows(&["1"])),
                ("SELECT max(month), count(*) FROM t WHERE id > 0", Rows(&["11|3"])),
                ("SELECT count(*) FROM t WHERE month = 12", RowsHere(&["0"])),
            ],
        ),
        case(
            two("ts=2024-01-01T12%3A30%3A00/a.parquet", "ts=plain/a.parquet"),
            "(id BIGINT, ts VARCHAR) STORED AS PARQUET PARTITIONED BY (ts) LOCATION '$T/'",
            vec![
                ("SELECT id FROM t WHERE ts = '2024-01-01T12:30:00'", Rows(&["1"])),
                ("SELECT id, ts FROM t WHERE ts LIKE '%:30:%'", Rows(&["1|2024-01-01T12:30:00"])),
                ("SELECT id FROM t WHERE ts <> '2024-01-01T12:30:00'", Rows(&["2"])),
            ],
        ),
        case(
            vec![
                ("p=a~b/a.parquet", ids([1])),
                ("p=a%3D%26%2B%2C%40%28%29%27b/a.parquet", ids([2])),
                ("p=^ |{/a.parquet", ids([3])),
                ("p=100%25/a.parquet", ids([4])),
                ("p=ä ö/a.parquet", ids([5])),
            ],
            "(id BIGINT, p VARCHAR) STORED AS PARQUET PARTITIONED BY (p) LOCATION '$T/'",
            vec![
                ("SELECT id FROM t WHERE p = 'a~b'", Rows(&["1"])),
                ("SELECT id FROM t WHERE p = 'a=&+,@()''b'", Rows(&["2"])),
                ("SELECT id FROM t WHERE p = '^ |{'", Rows(&["3"])),
                ("SELECT id FROM t WHERE p = '100%'", Rows(&["4"])),
                ("SELECT id FROM t WHERE p IN ('ä ö', 'none')", Rows(&["5"])),
                ("SELECT p FROM t WHERE id < 3", Rows(&["a~b", "a=&+,@()'b"])),
            ],
        ),
        case(
            two("d=2024-02-29/a.parquet", "d=2024-03-01/a.parquet"),
            "(id BIGINT, d TIMESTAMP) STORED AS PARQUET PARTITIONED BY (d) LOCATION '$T/'",
            vec![
                ("SELECT id FROM t WHERE d = DATE '2024-02-29'", Rows(&["1"])),
                ("SELECT id FROM t WHERE d > TIMESTAMP '2024-02-29T12:00:00'", Rows(&["2"])),
                ("SELECT id FROM t WHERE date_trunc('month', d) = TIMESTAMP '2024-02-01T00:00:00'", Rows(&["1"])),
            ],
        ),
        case(
            two("p=1.50/a.parquet", "p=2/a.parquet"),
            "(id BIGINT, p DOUBLE) STORED AS PARQUET PARTITIONED BY (p) LOCATION '$T/'",
            vec![
                ("SELECT id FROM t WHERE p = 1.5", Rows(&["1"])),
                ("SELECT id, p FROM t WHERE p >= 2", Rows(&["2|2.0"])),
            ],
        ),
        case(
            two("p=1.5/q=true/a.parquet", "p=-0.25/q=false/a.parquet"),
            "(id BIGINT, p DECIMAL(10, 2), q BOOLEAN) STORED AS PARQUET PARTITIONED BY (p, q) LOCATION '$T/'",
            vec![("SELECT id, p FROM t WHERE q AND p = 1.50", Rows(&["1|1.50"]))],
        ),
        case(
            vec![
                ("p=__HIVE_DEFAULT_PARTITION__/a.parquet", ids([1])),
                ("p=x/a.parquet", ids([2])),
                ("p=/a.parquet", ids([3])),
            ],
            "(id BIGINT, p VARCHAR) STORED AS PARQUET PARTITIONED BY (p) LOCATION '$T/'",
            vec![
                ("SELECT id, p FROM t WHERE p IS NULL", Rows(&["1|NULL"])),
                ("SELECT id FROM t WHERE p IS NOT NULL", Rows(&["2", "3"])),
                ("SELECT id FROM t WHERE p <> 'x'", Rows(&["3"])),
                ("SELECT id FROM t WHERE coalesce(p, 'none') = 'none'", Rows(&["1"])),
                ("SELECT count(p), count(*), min(p), max(p) FROM t", RowsHere(&["2|3||x"])),
                ("SELECT p, sum(id) FROM t GROUP BY p", Rows(&["NULL|1", "x|2", "|3"])),
                ("SELECT id FROM t WHERE p = '__HIVE_DEFAULT_PARTITION__'", RowsHere(&[])),
            ],
        ),
        case(
            two("p=__HIVE_DEFAULT_PARTITION__/a.parquet", "p=7/a.parquet"),
            "(id BIGINT, p INT) STORED AS PARQUET PARTITIONED BY (p) LOCATION '$T/'",
            vec![
                ("SELECT id, p FROM t WHERE p IS NULL", Rows(&["1|NULL"])),
                ("SELECT id, p FROM t WHERE id > 0", Rows(&["1|NULL", "2|7"])),
                ("SELECT count(*) FROM t WHERE p IS NULL", RowsHere(&["1"])),
                ("SELECT id FROM t WHERE NOT (p = 7)", RowsHere(&[])),
            ],
        ),
        // A folder that does not fit is an error that names it, where a row would need it.
        case(
            two("p=x/a.parquet", "p=7/a.parquet"),
            "(id BIGINT, p INT) STORED AS PARQUET PARTITIONED BY (p) LOCATION '$T/'",
            vec![("SELECT id FROM t WHERE id > 0", Error(&["folder `p=x`", "Int32", "`p`"]))],
        ),
        case(
            vec![("a.parquet", ids([1])), ("p=7/a.parquet", ids([2])), ("p=7/_SUCCESS", Content::Bytes(""))],
            "(id BIGINT, p INT) STORED AS PARQUET PARTITIONED BY (p) LOCATION '$T/'",
            vec![("SELECT id FROM t WHERE id > 0", Error(&["a.parquet`", "lies in no folder `p=…`"]))],
        ),
        // Keys are found by name, in any order and case, at any depth.
        case(
            two("Year=2024/x/B=1/a.parquet", "Year=2023/x/B=2/a.parquet"),
            "(id BIGINT, b INT, year INT) STORED AS PARQUET PARTITIONED BY (b, year) LOCATION '$T/'",
            vec![("SELECT id, b, year FROM t WHERE year = 2024", Rows(&["1|1|2024"]))],
        ),
        // The folder's value replaces a column of the file.
        case(
            vec![("p=7/a.parquet", Content::Parquet(vec![("id", Arc::new(Int64Array::from(vec![1]))), ("p", Arc::new(Int64Array::from(vec![9])))]))],
            "",
            vec![("SELECT id, p FROM '$T/' WHERE p = 7", Rows(&["1|7"]))],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undeclared_partition_folders_are_columns() {
    let two = |a: &'static str, b: &'static str| vec![(a, ids([1])), (b, ids([2]))];
    check(vec![
        case(
            two("year=2023/month=9/a.parquet", "year=2024/month=10/a.parquet"),
            "STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT year, max(month) FROM '$T/' WHERE id > 0 GROUP BY year", Rows(&["2023|9", "2024|10"])),
                ("SELECT id FROM '$T/**/*.parquet' WHERE month = 10", Rows(&["2"])),
                ("SELECT id, year FROM '$T/year=2023/*/*.parquet'", Rows(&["1|2023"])),
                ("SELECT id, year FROM '$T/year=2023/month=9/a.parquet'", Rows(&["1|2023"])),
                ("SELECT id FROM t WHERE year = '2024' AND month > 9", Rows(&["2"])),
            ],
        ),
        case(
            two("m=01/d=2024-02-29/a.parquet", "m=02/d=2024-03-01/a.parquet"),
            "STORED AS PARQUET PARTITIONED BY (m, d) LOCATION '$T/'",
            vec![
                ("SELECT m, id FROM '$T/' WHERE m = '01'", Rows(&["01|1"])),
                ("SELECT id FROM '$T/' WHERE d = DATE '2024-03-01'", Rows(&["2"])),
                ("SELECT m, d FROM t WHERE d > DATE '2024-02-29'", Rows(&["02|2024-03-01"])),
            ],
        ),
        case(
            two("p=1/a.parquet", "p=__HIVE_DEFAULT_PARTITION__/a.parquet"),
            "",
            vec![("SELECT id, p FROM '$T/' WHERE id > 0", Rows(&["1|1", "2|NULL"]))],
        ),
        // One file lies outside of the folder, so there is no such column.
        case(
            two("p=1/a.parquet", "a.parquet"),
            "",
            vec![
                ("SELECT id FROM '$T/' WHERE id > 0", Rows(&["1", "2"])),
                ("SELECT p FROM '$T/'", Error(&["No field named p"])),
            ],
        ),
    ])
    .await;
}
