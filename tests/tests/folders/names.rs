//! Patterns and sub-folders, and the names that are data.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_reads_the_files_that_match_it() {
    let alb = || {
        vec![
            ("year=2026/month=09/day=01/h=0/a.parquet", ids([1])),
            ("year=2026/month=09/day=02/h=1/a.parquet", ids([2])),
            ("year=2026/month=09/day=11/h=2/a.parquet", ids([3])),
            ("year=2026/month=10/day=01/h=3/a.parquet", ids([4])),
        ]
    };
    let plain = || {
        vec![
            ("a.parquet", ids([1])),
            ("2024/b.parquet", ids([2])),
            ("2024/01/c.parquet", ids([3])),
            ("2025/d e.parquet", ids([4])),
        ]
    };
    check(vec![
        case(vec![("2024/01/15/x.parquet", ids([4]))], "", vec![("SELECT id FROM '$T/'", Rows(&["4"]))]),
        case(
            plain(),
            "STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT id FROM t WHERE id > 0", Rows(&["1", "2", "3", "4"])),
                ("SELECT id FROM '$T/' WHERE id > 0", Rows(&["1", "2", "3", "4"])),
                ("SELECT count(*) AS n FROM '$T/**/*.parquet'", RowsHere(&["4"])),
                ("SELECT id FROM '$T/**'", Rows(&["1", "2", "3", "4"])),
                ("SELECT id FROM '$T/*'", Rows(&["1"])),
                ("SELECT id FROM '$T/*.parquet'", Rows(&["1"])),
                ("SELECT id FROM '$T/*/*.parquet'", Rows(&["2", "4"])),
                ("SELECT id FROM '$T/2024'", Rows(&["2", "3"])),
                ("SELECT id FROM '$T/202?/'", Rows(&["2", "3", "4"])),
                ("SELECT id FROM '$T/202[!4]/*'", Rows(&["4"])),
                ("SELECT id FROM '$T/202[3-4]/**/c.parquet'", Rows(&["3"])),
                ("SELECT id FROM '$T/{a,2024/b}.parquet'", Rows(&["1", "2"])),
                ("SELECT id FROM '$T/202*'", Rows(&["2", "3", "4"])),
                ("SELECT id FROM '$T/?.parquet'", Rows(&["1"])),
                ("SELECT id FROM '$T/2025/d e.parquet'", Rows(&["4"])),
                ("SELECT id FROM '$T/2025/d *'", Rows(&["4"])),
                ("SELECT id FROM '$T/*.csv'", Error(&["*.csv`: there is no such file, and no file matches it"])),
                ("SELECT id FROM '$T/[z.parquet'", Error(&["invalid range pattern", "hint"])),
            ],
        ),
        case(
            alb(),
            "",
            vec![
                ("SELECT id FROM '$T/year=2026/month=09/day=0*/*/*.parquet'", Rows(&["1", "2"])),
                ("SELECT id FROM '$T/*/*/*/*/*.parquet'", Rows(&["1", "2", "3", "4"])),
                ("SELECT id, day FROM '$T/**/day=01/**' WHERE h > 0", Rows(&["4|01"])),
                ("SELECT id FROM '$T/year=2026/month={09,11}/**/*.parquet' WHERE h < 2", Rows(&["1", "2"])),
                ("SELECT id FROM '$T/*.parquet'", Error(&["there is no such file"])),
            ],
        ),
        // A location is a pattern, too, and there may be several.
        case(
            plain(),
            "STORED AS PARQUET LOCATION ('$T/*.parquet', '$T/2025/', '$T/2025/**')",
            vec![("SELECT id FROM t WHERE id > 0", Rows(&["1", "4"]))],
        ),
        // A name with a pattern's characters in it is that file.
        case(
            vec![("a[1].parquet", ids([1])), ("a1.parquet", ids([2])), ("100%41?{x,y}.parquet", ids([3]))],
            "",
            vec![
                ("SELECT id FROM '$T/a[1].parquet'", Rows(&["1"])),
                ("SELECT id FROM '$T/a[0-9].parquet'", Rows(&["2"])),
                ("SELECT id FROM '$T/100%41?{x,y}.parquet'", Rows(&["3"])),
            ],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_data_are_passed_over() {
    let spark = || {
        vec![
            ("_SUCCESS", Content::Bytes("")),
            ("_committed_1", Content::Bytes("{}")),
            ("_temporary/0/part-9.parquet", ids([9])),
            (".part-1.parquet.crc", Content::Bytes("crc")),
            (".hidden/x.parquet", ids([9])),
            ("part-1.snappy.parquet", ids([1])),
            ("part-2", ids([2])),
            ("part-3.c000", ids([3])),
            ("part-4.parquet._COPYING_", ids([9])),
            ("empty.parquet", Content::Bytes("")),
            ("sub", Content::Bytes("")),
            ("README.md", Content::Bytes("# no data")),
            ("notes.csv", Content::Bytes("id\n9\n")),
            ("_x=1/y.parquet", ids([4])),
        ]
    };
    check(vec![
        case(
            spark(),
            "STORED AS PARQUET LOCATION '$T/'",
            vec![
                ("SELECT id FROM '$T/' WHERE id > 0", Rows(&["1", "2", "3", "4"])),
                ("SELECT id FROM t WHERE id > 0", Rows(&["1", "2", "3", "4"])),
                ("SELECT id FROM '$T/*' WHERE id > 0", Rows(&["1", "2", "3"])),
                ("SELECT id FROM '$T/_temporary/0/part-9.parquet'", Rows(&["9"])),
                ("SELECT id FROM '$T/_t*/**/*.parquet'", Rows(&["9"])),
                ("SELECT id FROM '$T/notes.csv'", RowsHere(&["9"])),
                (
                    "SELECT id FROM '$T/empty.parquet'",
                    Error(&["1 name was left out: `empty.parquet`", "an empty file is no data"]),
                ),
                ("SELECT id FROM '$T/_SUCC*'", Error(&["there is no data in it", "1 name was left out: `_SUCCESS`"])),
            ],
        ),
        case(
            vec![("part-00000", ids([1])), ("_metadata", Content::Bytes("x"))],
            "",
            vec![("SELECT id FROM '$T/'", Rows(&["1"]))],
        ),
        case(
            vec![
                ("a.csv", Content::Bytes("id,name\n1,x\n")),
                ("b.txt", Content::Bytes("id,name\n2,y\n")),
                ("_SUCCESS", Content::Bytes("x")),
            ],
            "STORED AS CSV LOCATION '$T/'",
            vec![
                ("SELECT name FROM '$T/' WHERE id = 2", RowsHere(&["y"])),
                ("SELECT name FROM t WHERE id = 1", RowsHere(&["x"])),
                ("SELECT id FROM '$T/*.csv'", RowsHere(&["1"])),
            ],
        ),
        case(
            vec![("p=1/a.json", Content::Bytes("{\"id\":1}\n")), ("p=2/b.ndjson", Content::Bytes("{\"id\":2}\n"))],
            "(id BIGINT, p INT) STORED AS JSON PARTITIONED BY (p) LOCATION '$T/'",
            vec![
                ("SELECT id, p FROM t WHERE p = 2", RowsHere(&["2|2"])),
                ("SELECT id, p FROM '$T/' WHERE id = 1", RowsHere(&["1|1"])),
            ],
        ),
        case(
            vec![("a.csv", Content::Bytes("id\n1\n")), ("b.json", Content::Bytes("{\"id\":2}\n"))],
            "",
            vec![("SELECT id FROM '$T/'", Error(&["several formats", "a.csv", "b.json"]))],
        ),
        case(
            vec![("a.tsv", Content::Bytes("id\tname\n1\tx\n"))],
            "",
            vec![("SELECT name FROM '$T/a.tsv'", RowsHere(&["x"]))],
        ),
        case(
            vec![("a.csv.gz", Content::Bytes("x"))],
            "",
            vec![("SELECT * FROM '$T/a.csv.gz'", Error(&["a.csv.gz` cannot be unpacked as gzip"]))],
        ),
        // The list of these tables' files is not the folder.
        case(
            vec![("_delta_log/0.json", Content::Bytes("{}")), ("a.parquet", ids([1]))],
            "",
            vec![("SELECT id FROM '$T/'", Error(&["Delta Lake"])), ("SELECT id FROM '$T/*.parquet'", Rows(&["1"]))],
        ),
        case(
            vec![("metadata/v1.metadata.json", Content::Bytes("{}")), ("data/a.parquet", ids([1]))],
            "",
            vec![("SELECT id FROM '$T/'", Error(&["Iceberg", "STORED AS ICEBERG"]))],
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_row_is_its_url_beside_windows_and_subqueries() {
    let files = || vec![("a/1.parquet", ids([1, 2])), ("a/2.parquet", ids([2, 3])), ("b/3.parquet", ids([4]))];
    check(vec![case(
        files(),
        "STORED AS PARQUET LOCATION '$T/a/'",
        vec![
            ("SELECT id FROM t WHERE \"$path\" = '$T/a/2.parquet'", Rows(&["2", "3"])),
            ("SELECT id, \"$path\" = '$T/a/1.parquet' FROM t", Rows(&["1|true", "2|true", "2|false", "3|false"])),
            (
                "SELECT id, \"$path\" = '$T/a/1.parquet', sum(id) OVER (PARTITION BY \"$path\") FROM t",
                Rows(&["1|true|3", "2|true|3", "2|false|5", "3|false|5"]),
            ),
            // A row that an earlier file has, too.
            (
                "SELECT id, \"$path\" = '$T/a/2.parquet' FROM t QUALIFY row_number() OVER (PARTITION BY id ORDER BY \"$path\") > 1",
                Rows(&["2|true"]),
            ),
            ("SELECT right(\"$path\", 9) FROM t WHERE id IN (SELECT max(id) FROM t)", RowsHere(&["2.parquet"])),
            (
                "SELECT right(\"$path\", 9), count(*) FROM t WHERE id NOT IN (SELECT id FROM '$T/b/') GROUP BY \"$path\"",
                RowsHere(&["1.parquet|2", "2.parquet|2"]),
            ),
            (
                "SELECT right(x.\"$path\", 9), right(y.\"$path\", 9) FROM t AS x JOIN t AS y ON x.id = y.id WHERE x.\"$path\" < y.\"$path\"",
                RowsHere(&["1.parquet|2.parquet"]),
            ),
            (
                "SELECT *, x.\"$path\" = '$T/a/1.parquet' FROM public.t AS x WHERE x.id <> 2",
                Rows(&["1|true", "3|false"]),
            ),
            ("SELECT id FROM '$T/**/*.parquet' WHERE \"$path\" LIKE '%/b/%'", Rows(&["4"])),
        ],
    )])
    .await;
}

/// DDL as Athena and Glue write it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_declared_as_athena_does_it() {
    check(vec![case(
        vec![("day=2024-01-01/1.parquet", ids([1])), ("day=2024-01-02/2.parquet", ids([2]))],
        "(`id` bigint COMMENT 'key') COMMENT 'orders' PARTITIONED BY (`day` date) \
         ROW FORMAT SERDE 'org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe' \
         WITH SERDEPROPERTIES ('serialization.format' = '1') \
         STORED AS INPUTFORMAT 'org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat' \
         OUTPUTFORMAT 'org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat' \
         LOCATION '$T/' TBLPROPERTIES ('classification' = 'parquet', 'parquet.compression' = 'SNAPPY')",
        vec![
            ("SELECT id, day FROM t", Rows(&["1|2024-01-01", "2|2024-01-02"])),
            ("SELECT id FROM t WHERE day = DATE '2024-01-02'", Rows(&["2"])),
        ],
    )])
    .await;
}
