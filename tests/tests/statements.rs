//! Statements at and past their limits, and syntax that the engine would ignore: rows or words, in time, and never an abort.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use datafusion::prelude::SessionContext;

use crate::bad_input::{Place, STOPPED_WITHIN, check, fails, in_time};

/// Processor time for a statement, in seconds, with our crates not optimized. A process that takes more is killed.
const PROCESSOR_SECONDS_MAX: u64 = 30;
/// Time after which a statement without a time-out counts as hanging: no busy machine makes one as long.
const HANGS_AFTER: Duration = Duration::from_secs(300);

enum Expect {
    /// The statement has these rows, as CSV.
    Rows(&'static str),
    /// The statement is refused with a message that has this part.
    Refused(&'static str),
    /// The statement ends with rows, or with an error of exit code 1.
    Ends,
}
use Expect::{Ends, Refused, Rows};

/// Runs a program with a text on stdin.
#[track_caller]
fn with_text(mut command: Command, text: &Path, ends_within: Duration, what: &str) -> Output {
    command.stdin(File::open(text).expect("readable"));
    in_time(command, ends_within, what)
}

fn on_local(place: &Place, name: &str, text: &str) -> Output {
    let path: PathBuf = place.path(name);
    std::fs::write(&path, text).expect("written");
    let arguments = ["query", "--on", "local", "--report", "none", "--format", "csv", "-"];
    with_text(place.gust_within(PROCESSOR_SECONDS_MAX, &arguments), &path, HANGS_AFTER, name)
}

fn chain(one: &str, count: usize, by: &str) -> String {
    vec![one; count].join(by)
}

fn listed(count: usize, by: &str, one: impl Fn(usize) -> String) -> String {
    (0..count).map(one).collect::<Vec<_>>().join(by)
}

const ONE: &str = "(SELECT CAST(1 AS BIGINT) AS a, CAST('0.5' AS DOUBLE) AS x) AS t";

fn ctes(count: usize, next: impl Fn(usize) -> String) -> String {
    format!(
        "WITH c0 AS (SELECT 1 AS a){}",
        (1..=count).map(|at| format!(", c{at} AS ({})", next(at - 1))).collect::<String>()
    )
}

#[test]
fn long_and_deep_statements_end() {
    let doubled = |at: usize| format!("SELECT x.a FROM c{at} x JOIN c{at} y ON x.a = y.a");
    let over = "FROM (VALUES (1), (7000)) t(a)";
    let cases: Vec<(&str, String, Expect)> = vec![
        ("plus-490", format!("SELECT {} AS n", chain("1", 490, "+")), Rows("n\n490\n")),
        ("plus-2000", format!("SELECT {}", chain("1", 2_000, "+")), Refused("more than 500 levels deep")),
        ("plus-10000", format!("SELECT {}", chain("1", 10_000, "+")), Refused("more than 500 levels deep")),
        ("plus-100000", format!("SELECT {}", chain("1", 100_000, "+")), Refused("more than 500 levels deep")),
        ("copy-490", format!("COPY (SELECT {} AS n) TO 'copied.csv'", chain("1", 490, "+")), Rows("")),
        (
            "copy-2000",
            format!("COPY (SELECT {}) TO 'deep.csv'", chain("1", 2_000, "+")),
            Refused("more than 500 levels deep"),
        ),
        (
            "copy-100000",
            format!("COPY (SELECT {}) TO 'deep.csv'", chain("1", 100_000, "+")),
            Refused("more than 500 levels deep"),
        ),
        (
            "explain-copy",
            format!("EXPLAIN COPY (SELECT {}) TO 'deep.csv'", chain("1", 100_000, "+")),
            Refused("more than 500 levels deep"),
        ),
        (
            "external-default",
            format!(
                "CREATE EXTERNAL TABLE e (a INT DEFAULT {}) STORED AS CSV LOCATION 'e.csv'",
                chain("1", 100_000, "+")
            ),
            Refused("more than 500 levels deep"),
        ),
        (
            "external-order",
            format!(
                "CREATE EXTERNAL TABLE e (a INT) STORED AS CSV WITH ORDER ({}) LOCATION 'e.csv'",
                chain("a", 100_000, "+")
            ),
            Refused("more than 500 levels deep"),
        ),
        (
            "external-check",
            format!(
                "CREATE EXTERNAL TABLE e (a INT, CHECK ({} > 0)) STORED AS CSV LOCATION 'e.csv'",
                chain("a", 100_000, "+")
            ),
            Refused("more than 500 levels deep"),
        ),
        ("plus-columns", format!("SELECT {} AS n FROM {ONE}", chain("a", 490, "+")), Rows("n\n490\n")),
        ("plus-minus", format!("SELECT a{} AS n FROM {ONE}", " + 2 - a * 2".repeat(240)), Rows("n\n1\n")),
        ("times-over", format!("SELECT a{} AS n FROM {ONE}", " * 2 / 2 % 3".repeat(160)), Rows("n\n1\n")),
        ("plus-doubles", format!("SELECT {} AS n FROM {ONE}", chain("x", 480, "+")), Rows("n\n240.0\n")),
        ("words-5000000", format!("SELECT {}", "1,".repeat(2_500_000)), Refused("words and signs; at most 4000000")),
        (
            "using-60",
            format!("SELECT a, count(*) AS n FROM {ONE}{} GROUP BY a", listed(60, "", |at| format!(" JOIN (SELECT 1 AS a) t{at} USING (a)"))),
            Rows("a,n\n1,1\n"),
        ),
        (
            "using-star",
            "SELECT * FROM (SELECT 1 AS a, 2 AS b) t LEFT JOIN (SELECT 1 AS a, 3 AS c) u USING (a) LEFT JOIN (SELECT 2 AS a, 4 AS d) v USING (a) LEFT JOIN (SELECT 1 AS a, 5 AS e) w USING (a)".to_owned(),
            Rows("a,b,c,d,e\n1,2,3,,5\n"),
        ),
        ("between-between", "SELECT 1 BETWEEN 0 AND 2 BETWEEN 0 AND 1".to_owned(), Refused("error: Internal error: Failed to coerce types Boolean and Int64 in BETWEEN expression.\n")),
        (
            "or-10000",
            format!("SELECT count(*) AS n {over} WHERE {}", listed(10_000, " OR ", |at| format!("a={at}"))),
            Rows("n\n2\n"),
        ),
        (
            "or-ranges",
            format!(
                "SELECT count(*) AS n {over} WHERE {}",
                listed(3_000, " OR ", |at| format!("a > {at} AND a < {}", at + 2))
            ),
            Rows("n\n1\n"),
        ),
        (
            "and-3000",
            format!("SELECT count(*) AS n {over} WHERE {}", listed(3_000, " AND ", |at| format!("a<>{}", at + 2))),
            Rows("n\n2\n"),
        ),
        (
            "in-100000",
            format!("SELECT count(*) AS n {over} WHERE a IN ({})", listed(100_000, ",", |at| at.to_string())),
            Rows("n\n2\n"),
        ),
        (
            "in-texts",
            format!(
                "SELECT count(*) AS n FROM (VALUES ('v9')) t(a) WHERE a IN ({})",
                listed(20_000, ",", |at| format!("'v{at}'"))
            ),
            Rows("n\n1\n"),
        ),
        (
            "values-50000",
            format!("SELECT count(*) AS n FROM (VALUES {}) t(a)", listed(50_000, ",", |at| format!("({at})"))),
            Rows("n\n50000\n"),
        ),
        ("casts-2000", format!("SELECT 1{}", "::int".repeat(2_000)), Refused("more than 500 levels deep")),
        ("casts-490", format!("SELECT 1{} AS n", "::int".repeat(490)), Rows("n\n1\n")),
        ("concat-2000", format!("SELECT {}", chain("'a'", 2_000, "||")), Refused("more than 500 levels deep")),
        (
            "union-3000",
            format!("SELECT count(*) AS n FROM ({})", chain("SELECT 1", 3_000, " UNION ALL ")),
            Rows("n\n3000\n"),
        ),
        (
            "union-distinct",
            format!("SELECT count(*) AS n FROM ({})", chain("SELECT 1", 500, " UNION ")),
            Rows("n\n1\n"),
        ),
        ("except-150", chain("SELECT 1 AS n", 150, " EXCEPT "), Rows("n\n")),
        ("except-1000", chain("SELECT 1", 1_000, " EXCEPT "), Refused("at most 200")),
        ("ctes-999", format!("{} SELECT a FROM c999", ctes(999, |at| format!("SELECT a FROM c{at}"))), Rows("a\n1\n")),
        (
            "ctes-5000",
            format!("{} SELECT a FROM c4999", ctes(4_999, |at| format!("SELECT a FROM c{at}"))),
            Refused("at most 1000"),
        ),
        ("doubling-8", format!("{} SELECT count(*) AS n FROM c8", ctes(8, doubled)), Rows("n\n1\n")),
        ("doubling-18", format!("{} SELECT count(*) FROM c18", ctes(18, doubled)), Refused("262144 tables")),
        ("doubling-40", format!("{} SELECT count(*) FROM c40", ctes(40, doubled)), Refused("at most 4096")),
        (
            "doubled-views",
            format!(
                "CREATE VIEW v0 AS SELECT 1 AS a; {}; SELECT 1",
                listed(18, "; ", |at| format!(
                    "CREATE VIEW v{} AS SELECT x.a FROM v{at} x JOIN v{at} y ON x.a = y.a",
                    at + 1
                ))
            ),
            Refused("8192 tables"),
        ),
        (
            "views-of-views",
            format!(
                "CREATE VIEW v0 AS SELECT 1 AS a; {}; SELECT 1",
                listed(200, "; ", |at| format!("CREATE VIEW v{} AS SELECT a FROM v{at}", at + 1))
            ),
            Refused("levels deep; at most 300"),
        ),
        (
            "joins-100",
            format!("SELECT count(*) AS n FROM {}", listed(100, " CROSS JOIN ", |at| format!("(SELECT 1) t{at}"))),
            Rows("n\n1\n"),
        ),
        (
            "joins-300",
            format!("SELECT 1 FROM {}", listed(300, " CROSS JOIN ", |at| format!("(SELECT 1) t{at}"))),
            Refused("300 tables in one FROM"),
        ),
        ("parens-90", format!("SELECT {}1{} AS n", "(".repeat(90), ")".repeat(90)), Rows("n\n1\n")),
        (
            "parens-5000",
            format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000)),
            Refused("nested 5000 levels deep"),
        ),
        ("parens-open", format!("SELECT {}", "(".repeat(90)), Ends),
        ("parens-tables", format!("SELECT 1 FROM {}t{}", "(".repeat(90), ")".repeat(90)), Ends),
        ("parens-rows", format!("SELECT 1 FROM {}VALUES (1){} t", "(".repeat(60), ")".repeat(60)), Ends),
        ("functions-90", format!("SELECT {}1{} AS n", "abs(".repeat(90), ")".repeat(90)), Rows("n\n1\n")),
        ("cases-90", format!("SELECT {}1{} AS n", "CASE WHEN true THEN ".repeat(80), " END".repeat(80)), Ends),
        ("subqueries-10", format!("{}1{}", "SELECT (".repeat(10), ")".repeat(10)), Ends),
        (
            "subqueries-40",
            format!("{}1{}", "SELECT (".repeat(40), ")".repeat(40)),
            Refused("inside each other's expressions"),
        ),
        ("in-subqueries-12", format!("{}1{}", "SELECT 1 WHERE 1 IN (SELECT ".repeat(12), ")".repeat(12)), Ends),
        (
            "derived-60",
            format!("SELECT n FROM {}(SELECT 1 AS n) t{}", "(SELECT n FROM ".repeat(60), ") t".repeat(60)),
            Rows("n\n1\n"),
        ),
        (
            "withs-30",
            format!("{}SELECT 1{}", "WITH c AS (".repeat(30), ") SELECT 1".repeat(30)),
            Refused("WITH clauses inside each other"),
        ),
        ("nots", format!("SELECT {}true", "NOT ".repeat(5_000)), Ends),
        ("minuses", format!("SELECT {}1", "- ".repeat(5_000)), Refused("nested too deep")),
        ("is-nulls", format!("SELECT 1{}", " IS NULL".repeat(10_000)), Refused("more than 500 levels deep")),
        (
            "zones",
            format!("SELECT now(){}", " AT TIME ZONE 'UTC'".repeat(5_000)),
            Refused("more than 500 levels deep"),
        ),
        (
            "subscripts",
            format!("SELECT l{} FROM (SELECT [1] AS l)", "[1]".repeat(10_000)),
            Refused("nested 10000 levels"),
        ),
        ("dots", format!("SELECT a{} FROM (SELECT 1 AS a)", ".a".repeat(10_000)), Ends),
        ("list-types", format!("SELECT CAST(NULL AS INT{})", "[]".repeat(100_000)), Refused("nested 100000 levels")),
        (
            "angle-types",
            format!("SELECT CAST(NULL AS {}INT{})", "ARRAY<".repeat(50_000), ">".repeat(50_000)),
            Refused("nested 50000 levels"),
        ),
        (
            "struct-types",
            format!("SELECT CAST(NULL AS {}INT{})", "STRUCT<a ".repeat(20_000), ">".repeat(20_000)),
            Refused("nested 20000 levels"),
        ),
        ("explains", format!("{}SELECT 1", "EXPLAIN ".repeat(100_000)), Refused("nested 100000 levels")),
        (
            "columns",
            format!("SELECT {}", listed(2_000, ", ", |at| format!("a + {at} AS c{at}")) + " FROM (SELECT 1 AS a)"),
            Ends,
        ),
        ("columns-20000", format!("SELECT {}", chain("1", 20_000, ",")), Refused("20000 columns in one SELECT")),
        (
            "cube-10",
            format!(
                "SELECT count(*) AS n FROM (SELECT 1 FROM (VALUES ({})) t({}) GROUP BY CUBE({}))",
                chain("1", 10, ","),
                listed(10, ",", |at| format!("c{at}")),
                listed(10, ",", |at| format!("c{at}"))
            ),
            Rows("n\n1024\n"),
        ),
        (
            "cube-20",
            format!("SELECT 1 GROUP BY CUBE({})", listed(20, ",", |at| format!("c{at}"))),
            Refused("1048576 grouping sets"),
        ),
        (
            "whens-5000",
            format!("SELECT CASE a {} END AS n {over}", listed(5_000, " ", |at| format!("WHEN {at} THEN {at}"))),
            Ends,
        ),
        ("arguments-5000", format!("SELECT length(concat({})) AS n", chain("'a'", 5_000, ",")), Rows("n\n5000\n")),
        (
            "statements",
            chain("SET datafusion.execution.batch_size = 100", 10_001, ";"),
            Refused("10001 statements; at most 10000"),
        ),
        ("mark", "\u{feff}SELECT 1 AS n".to_owned(), Rows("n\n1\n")),
    ];
    let place = Place::new("");
    for (name, text, expect) in cases {
        let started = Instant::now();
        let output = on_local(&place, name, &text);
        eprintln!("{name}: {:.2} s", started.elapsed().as_secs_f64());
        let words: String = String::from_utf8_lossy(&output.stderr).chars().take(500).collect();
        match expect {
            Rows(rows) => {
                assert_eq!(output.status.code(), Some(0), "{name}: {words}");
                assert_eq!(String::from_utf8_lossy(&output.stdout), rows, "{name}");
            }
            Refused(part) => {
                assert_eq!(output.status.code(), Some(1), "{name}: {words}");
                assert!(words.contains(part), "{name}: `{part}` is not in {words}");
            }
            Ends => assert!(matches!(output.status.code(), Some(0 | 1)), "{name}: {:?} {words}", output.status),
        }
        assert!(!words.contains("panicked") && !words.contains("overflow"), "{name}: {words}");
    }
}

/// Deep expressions run on functions, too: they are encoded, decoded and evaluated there.
#[tokio::test(flavor = "multi_thread")]
async fn deep_expressions_run_on_functions() {
    let place = Place::new("functions_max = 2\n");
    place.parquet("t/a.parquet", "SELECT value AS a FROM generate_series(1, 100)").await;
    for (name, condition, rows) in [
        ("or", listed(2_000, " OR ", |at| format!("a = {}", at * 2)), "n\n50\n"),
        ("mixed", listed(1_000, " OR ", |at| format!("a * 2 = {}", at * 4)), "n\n50\n"),
        ("in", format!("a IN ({})", listed(20_000, ",", |at| (at * 2).to_string())), "n\n50\n"),
        ("plus", format!("{} > 0", chain("a", 60, "+")), "n\n100\n"),
    ] {
        let path = place.path(name);
        std::fs::write(&path, format!("SELECT count(*) AS n FROM 't/' WHERE {condition}")).expect("written");
        for on in ["in-process", "processes", "auto"] {
            let arguments =
                ["query", "--on", on, "--format", "csv", "--report", "json", "--report-file", "report.json", "-"];
            let output = with_text(place.gust_within(PROCESSOR_SECONDS_MAX, &arguments), &path, HANGS_AFTER, name);
            check(&output, 0, &[]);
            assert_eq!(String::from_utf8_lossy(&output.stdout), rows, "{name} on {on}");
            // The limit of processor time ends functions, too. Nobody else may answer for one that it has ended.
            let report = std::fs::read(place.path("report.json")).expect("written");
            let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
            let is_remote = report["fragments_adopted"].as_u64() > Some(0) && report["fell_back"].is_null();
            assert!(is_remote || on == "auto", "{name} on {on}: {report}");
        }
    }
}

/// Planning that computes for long is stopped like any other work, and does not hold the program up.
#[test]
fn long_planning_is_stopped_by_the_time_out() {
    let place = Place::new("");
    // Ordering these joins takes some seconds, and they are below all limits.
    let joins = listed(190, " JOIN ", |at| match at {
        0 => "(SELECT 1 AS a) t0".to_owned(),
        at => format!("(SELECT 1 AS a) t{at} ON t{at}.a = t{}.a", at - 1),
    });
    std::fs::write(place.path("joins"), format!("SELECT count(*) FROM {joins}")).expect("written");
    let arguments = ["query", "--on", "local", "--timeout", "100ms", "-"];
    let output = with_text(place.gust_within(10, &arguments), &place.path("joins"), STOPPED_WITHIN, "joins");
    check(&output, 124, &["did not finish within 100ms"]);
}

/// Syntax that DataFusion 55.2 parses and then ignores. Each still runs there: when one does not, its refusal here can go.
const IGNORED: &[(&str, &str)] = &[
    (
        "SELECT count(*) FROM t TABLESAMPLE BERNOULLI (10) REPEATABLE (3)",
        "TABLESAMPLE BERNOULLI (10) REPEATABLE (3) is not supported",
    ),
    ("SELECT count(*) FROM t SAMPLE 10", "SAMPLE 10 is not supported"),
    ("SELECT count(*) FROM (SELECT * FROM t) x TABLESAMPLE (10 ROWS)", "TABLESAMPLE (10 ROWS) is not supported"),
    ("SELECT a FROM t FOR UPDATE", "FOR UPDATE is not supported"),
    ("SELECT a FROM t FOR SHARE SKIP LOCKED", "FOR SHARE"),
    ("SELECT a FROM t FOR XML AUTO", "FOR XML"),
    ("SELECT a FROM t SETTINGS max_threads = 1", "SETTINGS is not supported"),
    ("SELECT a FROM t FORMAT JSONCompact", "FORMAT is not supported\nhint: leave it out, and use --format"),
    ("SELECT a FROM t FINAL", "FINAL is not supported"),
    ("SELECT a FROM t PREWHERE a = 2", "PREWHERE is not supported\nhint: write WHERE"),
    ("SELECT a FROM t START WITH a = 1 CONNECT BY PRIOR a = a", "CONNECT BY is not supported"),
    ("SELECT a FROM t WITH (NOLOCK)", "a table hint"),
    ("SELECT a FROM t PARTITION (p0)", "PARTITION (...) is not supported"),
    ("SELECT * FROM generate_series(1, 3) WITH ORDINALITY", "WITH ORDINALITY is not supported"),
    ("SELECT a, sum(a) FROM t GROUP BY a WITH TOTALS", "GROUP BY WITH TOTALS is not supported"),
    ("SELECT a, sum(a) FROM t GROUP BY ALL WITH ROLLUP", "GROUP BY WITH ROLLUP is not supported"),
    ("SELECT * ILIKE '%a%' FROM t", "* ILIKE is not supported"),
    ("SELECT 1_000", "a number with _ between its digits"),
    ("SELECT sum(0.5)(a) FROM t", "sum with two lists of arguments"),
    ("SELECT abs(a) IGNORE NULLS FROM t", "IGNORE NULLS or RESPECT NULLS of abs"),
    ("SELECT abs(a) FILTER (WHERE a > 1) FROM t", "FILTER of abs is not supported"),
    ("SELECT upper(DISTINCT s) FROM t", "DISTINCT of upper is not supported"),
    ("SELECT abs(a ORDER BY a) FROM t", "ORDER BY of abs is not supported"),
    ("SELECT abs(a) WITHIN GROUP (ORDER BY a) FROM t", "WITHIN GROUP of abs is not supported"),
    ("SELECT rank() IGNORE NULLS OVER (ORDER BY a) FROM t", "IGNORE NULLS or RESPECT NULLS of rank"),
];

const T: &str = "CREATE TABLE t AS SELECT * FROM (VALUES (1, 'Googlebot'), (2, 'b_t'), (2, NULL)) v(a, s)";

#[tokio::test(flavor = "multi_thread")]
async fn syntax_that_would_be_ignored_is_refused_by_name() {
    let alone = SessionContext::new();
    alone.sql(T).await.expect("plan").collect().await.expect("rows");
    let place = Place::new("");
    for (sql, words) in IGNORED {
        let ran = match alone.sql(sql).await {
            Ok(planned) => planned.collect().await,
            Err(error) => Err(error),
        };
        ran.unwrap_or_else(|error| panic!("DataFusion no longer ignores it: {sql}: {error}"));
        fails(&place, &["query", &format!("{T}; {sql}")], 1, &[words, "\nhint: "]);
    }
}

/// Statements whose meaning Gust corrects or keeps, with their rows by hand, as CSV. DataFusion alone is not asked here: when its
/// version rises, look which of the corrections it no longer needs.
const MEANT: &[(&str, &str)] = &[
    ("FROM t", "a,s\n1,Googlebot\n2,b_t\n2,\n"),
    ("SELECT count(*) AS n FROM (FROM t) x", "n\n3\n"),
    ("SELECT a FROM t ORDER BY a FETCH FIRST 1 ROW ONLY", "a\n1\n"),
    ("SELECT a FROM t ORDER BY a OFFSET 1 ROWS FETCH NEXT 1 ROWS ONLY", "a\n2\n"),
    ("SELECT a, count(*) AS n FROM t GROUP BY a WITH ROLLUP ORDER BY a", "a,n\n1,1\n2,2\n,3\n"),
    ("SELECT count(*) AS n FROM t WHERE s SIMILAR TO '%bot%'", "n\n1\n"),
    ("SELECT count(*) AS n FROM t WHERE s SIMILAR TO 'oo'", "n\n0\n"),
    ("SELECT count(*) AS n FROM t WHERE s NOT SIMILAR TO '_#_t' ESCAPE '#'", "n\n1\n"),
    ("SELECT s SIMILAR TO '(Google|Bing)[a-z]{3}' AS hit FROM t ORDER BY s", "hit\ntrue\nfalse\n\"\"\n"),
    (
        "SELECT a, sum(a) OVER (w ORDER BY s) AS n FROM t WINDOW w AS (PARTITION BY a) ORDER BY a, s",
        "a,n\n1,1\n2,2\n2,4\n",
    ),
    ("SELECT a, sum(a) OVER (w) AS n FROM t WINDOW w AS (PARTITION BY a) ORDER BY a", "a,n\n1,1\n2,4\n2,4\n"),
    ("SELECT count(*) BETWEEN 50 AND 200 AS n FROM generate_series(1, 1000) TABLESAMPLE BERNOULLI (10)", "n\ntrue\n"),
    ("SELECT count(t.a) AS n FROM t TABLESAMPLE SYSTEM (100)", "n\n3\n"),
    ("SELECT count(*) AS n FROM (SELECT a FROM t) x TABLESAMPLE (0 PERCENT)", "n\n0\n"),
    // Columns share one name.
    (
        "SELECT ts AT TIME ZONE 'Europe/Berlin' FROM (VALUES (timestamp '2026-09-01 00:00:00')) t(ts) ORDER BY ts",
        "ts\n2026-09-01T00:00:00+02:00\n",
    ),
    ("SELECT a, a FROM t ORDER BY a", "a,a\n1,1\n2,2\n2,2\n"),
    ("SELECT a::int, a::text FROM t ORDER BY a DESC", "a,a\n2,2\n2,2\n1,1\n"),
    ("SELECT CAST(k AS VARCHAR) FROM (VALUES (9), (10)) t(k) ORDER BY k", "k\n9\n10\n"),
    ("SELECT CAST(k AS VARCHAR) FROM (VALUES (9), (10)) t(k) ORDER BY k DESC LIMIT 1", "k\n10\n"),
    ("SELECT *, a::text FROM t ORDER BY a, s", "a,s,a\n1,Googlebot,1\n2,b_t,2\n2,,2\n"),
    ("SELECT count(*), count(*) FROM t", "count(*),count(*)\n3,3\n"),
    ("SELECT sum(a::int) AS i, sum(a::double) AS d FROM t", "i,d\n5,5.0\n"),
    ("SELECT count(*) AS n FROM t GROUP BY a::int, a::text ORDER BY n", "n\n1\n2\n"),
    ("SELECT a::int, count(*) AS n FROM t GROUP BY a::int, a::text ORDER BY n", "a,n\n1,1\n2,2\n"),
    ("SELECT * FROM (SELECT a, a, a::text FROM t) q ORDER BY a", "a,a_1,a_2\n1,1,1\n2,2,2\n2,2,2\n"),
    ("SELECT a, a FROM t UNION ALL SELECT 5, 6 ORDER BY a LIMIT 1", "a,a_1\n1,1\n"),
    ("CREATE VIEW v AS SELECT a, a FROM t; SELECT a_1 FROM v ORDER BY a_1 LIMIT 1", "a_1\n1\n"),
    ("SELECT a AS x, s AS x FROM t WHERE a = 1", "x,x\n1,Googlebot\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn statements_have_the_rows_that_they_mean() {
    let place = Place::new("");
    for (sql, expect) in MEANT {
        let sql = format!("{T}; {sql}");
        let output = place.gust(&["query", "--on", "local", "--format", "csv", &sql]).output().expect("it starts");
        check(&output, 0, &[]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), *expect, "{sql}");
    }
    // An error in a statement is told in the statement's own words.
    for (sql, words) in [
        ("SELECT b, b FROM t", "No field named b"),
        ("SELECT DISTINCT a::text FROM t ORDER BY s", "must appear in select list"),
        ("SELECT a FROM t FETCH FIRST 1 ROWS WITH TIES", "FETCH FIRST with TIES or PERCENT is not supported"),
        (
            "CREATE UNBOUNDED EXTERNAL TABLE u STORED AS CSV LOCATION 'u.csv'",
            "CREATE UNBOUNDED EXTERNAL TABLE is not supported\nhint: leave UNBOUNDED out",
        ),
        (
            "SELECT 1 FROM t TABLESAMPLE BERNOULLI (101)",
            "TABLESAMPLE: 101 is no percentage\nhint: give a number from 0 to 100",
        ),
        ("SELECT a FROM t LIMIT 1 FETCH FIRST ROW ONLY", "a query has both LIMIT and FETCH FIRST"),
        ("SELECT s SIMILAR TO s FROM t", "SIMILAR TO with a pattern that is computed is not supported"),
        ("SELECT sum(a) OVER (w ORDER BY a) FROM t", "there is no window `w`"),
    ] {
        fails(&place, &["query", &format!("{T}; {sql}")], 1, &[words]);
    }
}
