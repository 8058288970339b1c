use std::fmt::Write as _;
use std::path::Path;

use datafusion::execution::{SessionState, SessionStateBuilder};

use super::*;
use crate::sql::parsed;

fn state() -> SessionState {
    let functions = gust_protocol::functions::scalar();
    let of_lambdas = gust_protocol::functions::higher_order();
    let state = SessionStateBuilder::new().with_default_features().with_scalar_functions(functions);
    state.with_higher_order_functions(of_lambdas).build()
}

fn translated(text: &str) -> Result<String, Refusal> {
    let mut statement = parsed(text);
    translate(&mut statement, &Known::of(&state())).map(|_| statement.to_string())
}

#[test]
fn calls_are_written_as_the_engines() {
    for (call, expect) in [
        ("if(a, 1)", "CASE WHEN a THEN 1 END"),
        ("IF(a > b, 1, -2)", "CASE WHEN (a > b) THEN 1 ELSE (-2) END"),
        ("if(if(a, b, c), 1)", "CASE WHEN (CASE WHEN a THEN b ELSE c END) THEN 1 END"),
        ("year(d)", "CAST(date_part('year', d) AS BIGINT)"),
        ("mod(a + 1, 2) * 3", "((a + 1) % 2) * 3"),
        ("try(CAST(a AS INT))", "TRY_CAST(a AS INT)"),
        ("try(CAST(split_part(a, '-', 2) AS INT))", "TRY_CAST(split_part(a, '-', 2) AS INT)"),
        ("every(a) FILTER (WHERE b)", "bool_and(a) FILTER (WHERE b)"),
        ("count_if(a > 1)", "count(*) FILTER (WHERE (a > 1))"),
        ("count_if(a) FILTER (WHERE b OR c)", "count(*) FILTER (WHERE (a) AND (b OR c))"),
        ("count_if(a) OVER (PARTITION BY b)", "count(*) FILTER (WHERE a) OVER (PARTITION BY b)"),
        ("max_by(a, b) FILTER (WHERE c)", "first_value(a ORDER BY b DESC) FILTER (WHERE (b IS NOT NULL) AND c)"),
        ("geometric_mean(a) FILTER (WHERE b)", "exp(avg(ln(a)) FILTER (WHERE b))"),
        ("listagg(a, '-') WITHIN GROUP (ORDER BY b DESC)", "string_agg(a, '-' ORDER BY b DESC)"),
        ("listagg(DISTINCT a)", "string_agg(DISTINCT a, '')"),
        ("listagg(a, '-' ON OVERFLOW ERROR) WITHIN GROUP (ORDER BY b)", "string_agg(a, '-' ORDER BY b)"),
        ("group_concat(a ORDER BY a SEPARATOR ';')", "string_agg(a, ';' ORDER BY a)"),
        (
            "count(DISTINCT a, b + 1)",
            "count(DISTINCT CASE WHEN (a IS NOT NULL AND (b + 1) IS NOT NULL) THEN struct(a, b + 1) END)",
        ),
        ("count(a, b)", "count(a, b)"),
        ("count(*)", "count(*)"),
        ("approx_percentile(a, 0.5) FILTER (WHERE b)", "approx_percentile_cont(a, 0.5) FILTER (WHERE b)"),
        (
            "approx_percentile(a, ARRAY[0.1, 0.9])",
            "CASE WHEN (count(a) > 0) THEN ARRAY[approx_percentile_cont(a, 0.1), approx_percentile_cont(a, 0.9)] END",
        ),
        ("approx_distinct(a, 0.05)", "approx_distinct(a)"),
        ("array_remove(a, 1)", "array_remove_all(a, 1)"),
        ("list_sort(a)", "array_sort(a, 'ASC', 'NULLS LAST')"),
        ("array_sort(a, 'DESC')", "array_sort(a, 'DESC')"),
        (
            "to_unixtime(a)",
            "CASE WHEN date_part('epoch', a) IS NOT NULL THEN CAST(CAST(arrow_cast(a, 'Timestamp(Microsecond, None)') AS BIGINT) AS DOUBLE) / 1000000 END",
        ),
        ("array_average(a)", "array_avg(a)"),
        ("random(5)", "CAST(FLOOR(random() * 5) AS BIGINT)"),
        ("approx_percentile(a, b, 0.5)", "approx_percentile_cont_with_weight(a, b, 0.5)"),
        ("to_char(a, '%Y')", "to_char(a, '%Y')"),
        ("to_char(a, b)", "to_char(a, b)"),
        ("date_format(a, '%Y-%m-%d')", "date_format(a, '%Y-%m-%d')"),
        ("format_datetime(a, 'yyyy')", "format_datetime(a, 'yyyy')"),
        ("try(json_parse(a))", "gust_try_json_parse(a)"),
        ("try(CAST(date_parse(a, '%Y') AS DATE))", "TRY_CAST(gust_try_date_parse(a, '%Y') AS DATE)"),
        ("try(element_at(a, 2))", "element_at(a, 2)"),
        ("try(element_at(a, b))", "gust_try_element_at(a, b)"),
        ("try(json_extract_scalar(a, b))", "gust_try_json_extract_scalar(a, b)"),
        ("try(CAST(json_extract_scalar(a, '$.b') AS INT))", "TRY_CAST(json_extract_scalar(a, '$.b') AS INT)"),
        ("try(a / b)", "a / gust_try_divisor(b, a)"),
        ("try(CAST(a % b AS INT))", "TRY_CAST(a % gust_try_divisor(b, a) AS INT)"),
        ("try(upper(a))", "upper(a)"),
        ("regexp_replace(a, 'x', '\\$1', 'g')", "regexp_replace(a, 'x', '$1', 'g')"),
        ("regexp_replace(a, 'x', '\\1 $')", "regexp_replace(a, 'x', '\\1 $')"),
        ("try(CAST((CAST(trim(a) AS DOUBLE)) AS INT))", "TRY_CAST(TRY_CAST(TRIM(a) AS DOUBLE) AS INT)"),
        ("regexp_replace(a, 'x')", "regexp_replace(a, 'x', '', 'g')"),
        ("regexp_replace(a, 'x', 'y')", "regexp_replace(a, 'x', 'y')"),
        ("datediff(day, a, b)", "CAST(CAST(b AS DATE) - CAST(a AS DATE) AS BIGINT)"),
        ("user", "user"),
        ("unnest(a)", "unnest(a)"),
        ("sum(a)", "sum(a)"),
    ] {
        let written =
            translated(&format!("SELECT {call} AS x FROM t")).unwrap_or_else(|error| panic!("{call}: {error:?}"));
        // Brackets around a comparison may be more than are needed.
        let bare = |text: &str| text.replace(['(', ')'], "");
        assert_eq!(bare(&written), bare(&format!("SELECT {expect} AS x FROM t")), "{call}");
        parsed(&written);
    }
}

#[test]
fn columns_keep_the_names_that_were_written() {
    for (text, expect) in [
        ("SELECT year(d), a FROM t", "SELECT CAST(date_part('year', d) AS BIGINT) AS \"year(d)\", a FROM t"),
        ("SELECT sum(a), every(b) AS c FROM t", "SELECT sum(a), bool_and(b) AS c FROM t"),
        (
            "SELECT * FROM (SELECT lcase(\"a\") FROM t) q",
            "SELECT * FROM (SELECT lower(\"a\") AS \"lcase(\"\"a\"\")\" FROM t) q",
        ),
    ] {
        assert_eq!(translated(text).as_deref(), Ok(expect));
    }
}

#[test]
fn what_there_is_not_is_refused_with_what_to_write() {
    for (call, message, hint) in [
        ("json_value(a, '$.b')", "there is no function `json_value` at Line: 1, Column: 8", "json_extract_scalar"),
        ("coutn(a)", "there is no function `coutn` at Line: 1, Column: 8", "did you mean `count`?"),
        ("xyzzyx(a)", "there is no function `xyzzyx` at Line: 1, Column: 8", "SHOW FUNCTIONS"),
        ("s.f(a)", "there is no function `s.f` at Line: 1, Column: 8", "SHOW FUNCTIONS"),
        ("strftime(a, '%Y')", "there is no function `strftime`", "to_char(x, format)"),
        ("if(a)", "if takes 2 or 3 arguments, and 1 is given at Line: 1, Column: 8", "docs/dialect.md"),
        ("year(DISTINCT a)", "DISTINCT of year is not supported", "inner query"),
        ("year(a) OVER ()", "OVER of year is not supported", "has no OVER"),
        ("max_by(DISTINCT a, b)", "DISTINCT of max_by is not supported", "inner query"),
        ("max_by(a, b) OVER ()", "max_by as a window function is not supported", "join with the aggregate"),
        ("count_if(*)", "count_if with * or names of arguments", "by their places"),
        ("try(a * b)", "try of * is not supported", "TRY_CAST"),
        ("try(sqrt(a))", "try of sqrt is not supported", "TRY_CAST"),
        ("decode(a, 1, 2, 3)", "decode with 4 arguments is not supported at Line: 1, Column: 8", "CASE x WHEN"),
        ("approx_percentile(a, 0.5, 0.01)", "approx_percentile with an accuracy is not supported", "(x, 0.5)"),
        ("approx_percentile(a)", "approx_percentile with 1 arguments is not supported", "approx_percentile(x, share)"),
        ("to_char(a, 'YYYY-MM-DD')", "to_char with the format 'YYYY-MM-DD' is not supported", "%Y-%m-%d"),
        ("date_format(a, 'yyyy-MM-dd')", "date_format with the format 'yyyy-MM-dd' is not supported", "%Y-%m-%d"),
        ("format_datetime(a, '%Y')", "format_datetime with the format '%Y' is not supported", "yyyy-MM-dd"),
        ("datediff('week', a, b)", "datediff by this unit is not supported", "'minute'"),
        ("try(element_at(a, b + 1))", "try of + is not supported", "TRY_CAST"),
        ("try(CAST(split_part(a, '-', b) AS INT))", "try of split_part is not supported", "TRY_CAST"),
        ("try(CAST(split_part(a, '-', 0) AS INT))", "try of split_part is not supported", "TRY_CAST"),
        ("try(CAST(regexp_replace(a, b, 'x') AS INT))", "try of regexp_replace is not supported", "TRY_CAST"),
        ("try(CAST(substr(a, 1, b) AS INT))", "try of substring is not supported", "TRY_CAST"),
        ("try(CAST(coalesce(CAST(a AS INT), 0) AS BIGINT))", "try of coalesce is not supported", "TRY_CAST"),
        ("regexp_replace(a, 'x', '$1')", "regexp_replace with a replacement like $1 is not supported", "'g'"),
        ("approx_percentile(a, ARRAY[0.1]) FILTER (WHERE b)", "FILTER of approx_percentile", "CASE WHEN"),
        ("group_concat(a, ';')", "group_concat with 2 arguments is not supported", "string_agg(x, ';')"),
        ("approx_distinct(a, 0.001)", "approx_distinct with this standard error", "exact"),
        ("listagg(a, ',' ON OVERFLOW TRUNCATE WITHOUT COUNT)", "listagg with ON OVERFLOW TRUNCATE", "left("),
        ("regexp_position(random(), 'a')", "regexp_position of a volatile value is not supported", "inner query"),
        ("count(DISTINCT random(), a)", "count of a volatile value", "inner query"),
    ] {
        let refusal = translated(&format!("SELECT {call} FROM t")).expect_err(call);
        assert!(refusal.message.starts_with(message), "{call}: {refusal:?}");
        assert!(refusal.hint.as_deref().is_some_and(|given| given.contains(hint)), "{call}: {refusal:?}");
    }
}

#[test]
fn copies_are_bounded() {
    let nested = (0..40).fold("a".to_owned(), |inside, _| format!("regexp_position({inside}, 'x')"));
    let refusal = translated(&format!("SELECT {nested} FROM t")).expect_err("it doubles 40 times");
    assert!(refusal.message.contains("other engines' functions are "), "{refusal:?}");
}

/// Each state has hash maps of its own.
#[test]
fn hints_are_the_same_in_each_run() {
    let hint = |name: &str| translated(&format!("SELECT {name}(a)")).expect_err(name).hint;
    for name in ["slit", "mx", "nvll", "tru", "sine", "array_concta"] {
        let first = hint(name);
        assert!((0..5).all(|_| hint(name) == first), "{name}: {first:?}");
    }
}

#[test]
fn the_engine_has_what_calls_are_written_as() {
    let state = state();
    let known = Known::of(&state);
    let mut refused: Vec<&str> = Vec::new();
    for row in names::NAMES.iter().chain(names::FORMS).chain(trino::TRINO) {
        match row.meaning {
            Meaning::Renamed(to) => assert!(known.own_name(to).is_some(), "{to}"),
            Meaning::Written(text) | Meaning::Aggregated { text, .. } => {
                let mut written = parsed(&format!("SELECT {text}"));
                assert_eq!(translate(&mut written, &known), Ok(false), "{text}");
                assert_eq!(written.to_string(), parsed(&format!("SELECT {text}")).to_string());
                let arguments = *row.arguments.end();
                assert!(uses(&template(text), arguments).iter().all(|uses| *uses > 0), "{text}: arguments are lost");
                assert_eq!(uses(&template(text), arguments + 1)[arguments], 0, "{text}: too few arguments");
            }
            Meaning::Chosen { .. } => {}
            Meaning::Refused(_) => refused.extend(row.names),
        }
        if !matches!(row.meaning, Meaning::Refused(_)) {
            assert!(row.names.iter().all(|name| !refused.contains(name)), "a refusal hides a row: {:?}", row.names);
        }
    }
    refused.sort_unstable();
    let count = refused.len();
    refused.dedup();
    assert_eq!(refused.len(), count, "a name is refused twice");
}

/// Writes the line of some names. None for those that are refused.
fn line(Row { names, arguments, meaning }: &Row) -> Option<String> {
    let here = listing::here(meaning)?.replace('|', "\\|");
    let is_prose = matches!(meaning, Meaning::Chosen { .. });
    let here = if is_prose { here } else { format!("`{here}`") };
    let calls: Vec<String> = names.iter().map(|name| listing::call(name, arguments)).collect();
    Some(format!("| {} | {here} |\n", calls.join(", ")))
}

/// Writes the table of `docs/dialect.md`.
fn page() -> String {
    let mut page = "| call | here |\n|---|---|\n".to_owned();
    let mut refused: BTreeSet<&str> = BTreeSet::new();
    for row in names::NAMES.iter().chain(names::FORMS) {
        match line(row) {
            Some(line) => page += &line,
            None if names::foreign(row.names[0]).is_empty() => {}
            None => refused.extend(row.names.iter().copied()),
        }
    }
    let kept = |name: &&str| names::foreign(name).iter().all(|row| matches!(row.meaning, Meaning::Refused(_)));
    let refused: Vec<&str> = refused.into_iter().filter(kept).collect();
    let mut lines = vec!["Refused, with what to write instead:".to_owned()];
    for (place, name) in refused.iter().enumerate() {
        let end = if place + 1 == refused.len() { '.' } else { ',' };
        match lines.last_mut().filter(|line| line.len() + name.len() < 158) {
            Some(line) => write!(line, " {name}{end}").expect("to a string"),
            None => lines.push(format!("{name}{end}")),
        }
    }
    format!("{page}\n{}\n", lines.join("\n"))
}

#[test]
fn the_page_has_the_functions_that_datafusion_has_not() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/dialect.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let names = gust_protocol::functions::added();
    let missing: Vec<&String> = names.iter().filter(|name| !page.contains(&format!("{name}("))).collect();
    assert!(names.len() > 30 && missing.is_empty(), "{missing:?}");
}

/// `DIALECT_WRITE=1 cargo test` writes it anew.
#[test]
fn the_page_lists_the_names() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/dialect.md");
    let of_trino = trino::TRINO.iter().map(|row| line(row).expect("none is refused")).collect::<String>();
    let of_trino = format!("| call | here |\n|---|---|\n{of_trino}");
    for (mark, expect) in [("names", page()), ("trino", of_trino)] {
        let text = std::fs::read_to_string(&path).expect("the page");
        let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->\n"));
        let (head, rest) = text.split_once(&begin).expect("a mark");
        let (table, tail) = rest.split_once(&end).expect("a mark");
        if std::env::var_os("DIALECT_WRITE").is_some() {
            std::fs::write(&path, format!("{head}{begin}{expect}{end}{tail}")).expect("written");
        } else {
            assert_eq!(table, expect);
        }
    }
}

/// A call with the same text has another meaning, and all others have their own.
#[test]
fn trinos_meaning_comes_before_the_engines() {
    let state = state();
    let written = |sql: &str, dialect: Dialect| {
        let mut statement = parsed(sql);
        translate(&mut statement, &Known::of(&state).with_dialect(dialect)).expect("a meaning");
        statement.to_string()
    };
    for (sql, trino, gust) in [
        ("SELECT concat(a, 'b')", "SELECT (a || 'b') AS \"concat(a, 'b')\"", "SELECT concat(a, 'b')"),
        (
            "SELECT 1 FROM t ORDER BY a DESC, b NULLS FIRST",
            "SELECT 1 FROM t ORDER BY a DESC NULLS LAST, b NULLS FIRST",
            "SELECT 1 FROM t ORDER BY a DESC, b NULLS FIRST",
        ),
        (
            "SELECT 1 FROM t QUALIFY rank() OVER (ORDER BY a DESC) = 1",
            "SELECT 1 FROM t QUALIFY rank() OVER (ORDER BY a DESC NULLS LAST) = 1",
            "SELECT 1 FROM t QUALIFY rank() OVER (ORDER BY a DESC) = 1",
        ),
        ("SELECT 1 WHERE md5(a) = b", "SELECT 1 WHERE decode(md5(a), 'hex') = b", "SELECT 1 WHERE md5(a) = b"),
        ("SELECT 1 WHERE SUBSTR(a, 2) = b", "SELECT 1 WHERE SUBSTR(a, 2) = b", "SELECT 1 WHERE SUBSTR(a, 2) = b"),
        (
            "SELECT 1 WHERE EXTRACT(DOW FROM a) = 7",
            "SELECT 1 WHERE EXTRACT(ISODOW FROM a) = 7",
            "SELECT 1 WHERE EXTRACT(DOW FROM a) = 7",
        ),
        (
            "SELECT 1 WHERE iff(a, b, c)",
            "SELECT 1 WHERE CASE WHEN a THEN b ELSE c END",
            "SELECT 1 WHERE CASE WHEN a THEN b ELSE c END",
        ),
    ] {
        assert_eq!(written(sql, Dialect::Trino), trino);
        assert_eq!(written(sql, Dialect::Gust), gust);
    }
    let from_the_end = "SELECT 1 WHERE SUBSTR(a, -1) = b";
    assert!(written(from_the_end, Dialect::Trino).contains("CASE WHEN "));
    assert_eq!(written(from_the_end, Dialect::Gust), from_the_end);
}
