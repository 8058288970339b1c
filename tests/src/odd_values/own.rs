//! Random statements around one call of each function that Gust has and DataFusion has not.
//!
//! DuckDB has few of them under their names. The judge's side is then what the call is by its making: the host of
//! `'http://h' || k` is `'h' || k`. A call without such a side is compared between places alone.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::expressions::Kind::*;
use super::expressions::{Writer, as_read_by};
use super::queries::{Query, TABLES};

/// Call of a function, with places for random values.
///
/// `{k}` and `{j}` are small numbers, `{c}` is a column of them, `{n}` is a number from 0 to 9, `{s}` a text, `{r}` a column of texts, none of which is JSON or a time, `{t}` and `{u}` are
/// dates, `{z}` is a time, `{b}` a condition and `{id}` the row's number. A place has one value in both texts.
#[derive(Debug)]
pub struct OwnCall {
    pub name: &'static str,
    pub is_aggregate: bool,
    ours: &'static str,
    /// The same in the judge's words; None where it has none.
    theirs: Option<&'static str>,
}

const fn call(name: &'static str, ours: &'static str, theirs: &'static str) -> OwnCall {
    OwnCall { name, is_aggregate: false, ours, theirs: Some(theirs) }
}

const fn aggregate(name: &'static str, ours: &'static str, theirs: &'static str) -> OwnCall {
    OwnCall { name, is_aggregate: true, ours, theirs: Some(theirs) }
}

/// JSON with a number, a text and a list in it, or a list, or a text that is mostly no JSON.
macro_rules! json {
    () => {
        "CASE WHEN {b} THEN '{\"a\": ' || CAST({k} AS VARCHAR) || ', \"b\": [1, ' || CAST({j} AS VARCHAR) || '], \"c\": \"x\"}' \
         WHEN {n} > 4 THEN '[' || CAST({k} AS VARCHAR) || ', 2]' ELSE {s} END"
    };
}

/// JSON that is one.
macro_rules! valid {
    () => {
        "CASE WHEN {b} THEN '{\"a\": ' || CAST({k} AS VARCHAR) || '}' WHEN {n} > 4 THEN '[' || CAST({k} AS VARCHAR) || ', 2]' ELSE '7' END"
    };
}

/// A day of 2024 as a text.
macro_rules! day {
    () => {
        "('2024-0' || CAST(1 + {n} % 9 AS VARCHAR) || '-1' || CAST({n} AS VARCHAR))"
    };
}

/// All calls, by the names of [`gust_protocol::functions::added`] and of the functions in `try`.
pub const CALLS: &[OwnCall] = &[
    call("date_add", "date_add('day', {k}, {t})", "CAST({t} + to_days(CAST({k} AS INT)) AS DATE)"),
    call("date_add", "date_add('month', {n}, {t})", "CAST({t} + to_months(CAST({n} AS INT)) AS DATE)"),
    call("date_diff", "date_diff('day', {t}, {u})", "date_diff('day', {t}, {u})"),
    call("date_diff", "date_diff('month', {t}, {u})", "date_sub('month', {t}, {u})"),
    call("last_day_of_month", "last_day_of_month({t})", "last_day({t})"),
    call("date_format", "date_format({z}, '%m/%d %H:%i:%s')", "strftime({z}, '%m/%d %H:%M:%S')"),
    call("format_datetime", "format_datetime({z}, 'MM/dd HH:mm:ss')", "strftime({z}, '%m/%d %H:%M:%S')"),
    call(
        "date_parse",
        concat!("date_parse(", day!(), " || ' 13:05', '%Y-%m-%d %H:%i')"),
        concat!("CAST(", day!(), " AS TIMESTAMP) + INTERVAL 785 MINUTE"),
    ),
    call(
        "parse_datetime",
        concat!("CAST(parse_datetime(", day!(), " || ' 13', 'yyyy-MM-dd HH') AS TIMESTAMP)"),
        concat!("CAST(", day!(), " AS TIMESTAMP) + INTERVAL 13 HOUR"),
    ),
    call(
        "from_iso8601_timestamp",
        concat!("CAST(from_iso8601_timestamp(", day!(), " || 'T13:00:00+02:00') AS TIMESTAMP)"),
        concat!("CAST(", day!(), " AS TIMESTAMP) + INTERVAL 11 HOUR"),
    ),
    call("from_iso8601_date", concat!("from_iso8601_date(", day!(), ")"), concat!("CAST(", day!(), " AS DATE)")),
    call(
        "gust_try_date_parse",
        "try(date_parse(CASE WHEN {b} THEN '2024-02-29' ELSE {r} END, '%Y-%m-%d'))",
        "CASE WHEN {b} THEN TIMESTAMP '2024-02-29 00:00:00' END",
    ),
    call(
        "gust_try_parse_datetime",
        "CAST(try(parse_datetime(CASE WHEN {b} THEN '2024-02-29' ELSE {r} END, 'yyyy-MM-dd')) AS DATE)",
        "CASE WHEN {b} THEN DATE '2024-02-29' END",
    ),
    call(
        "gust_try_from_iso8601_date",
        "try(from_iso8601_date(CASE WHEN {b} THEN '2024-02-29' ELSE {r} END))",
        "CASE WHEN {b} THEN DATE '2024-02-29' END",
    ),
    call(
        "gust_try_from_iso8601_timestamp",
        "CAST(try(from_iso8601_timestamp(CASE WHEN {b} THEN '2024-02-29T01:00:00Z' ELSE {r} END)) AS DATE)",
        "CASE WHEN {b} THEN DATE '2024-02-29' END",
    ),
    call(
        "json_extract",
        concat!("json_extract(", json!(), ", '$.b')"),
        "CASE WHEN {b} AND {k} IS NOT NULL THEN '[1,' || CAST({j} AS VARCHAR) || ']' END",
    ),
    call(
        "json_extract_scalar",
        concat!("json_extract_scalar(", json!(), ", '$.a')"),
        "CASE WHEN {b} AND {j} IS NOT NULL THEN CAST({k} AS VARCHAR) END",
    ),
    call(
        "json_get",
        concat!("json_get(", json!(), ", 'c')"),
        "CASE WHEN {b} AND {j} IS NOT NULL AND {k} IS NOT NULL THEN '\"x\"' END",
    ),
    call(
        "json_get_text",
        concat!("json_get_text(", json!(), ", 'c')"),
        "CASE WHEN {b} AND {j} IS NOT NULL AND {k} IS NOT NULL THEN 'x' END",
    ),
    call("json_parse", concat!("json_parse(", valid!(), ")"), concat!("replace(", valid!(), ", ' ', '')")),
    call(
        "gust_try_json_parse",
        "try(json_parse(CASE WHEN {b} THEN '[1, 2]' ELSE {r} END))",
        "CASE WHEN {b} THEN '[1,2]' END",
    ),
    call(
        "json_array_length",
        concat!("json_array_length(", valid!(), ")"),
        "CASE WHEN NOT coalesce({b}, false) AND {n} > 4 AND {k} IS NOT NULL THEN 2 END",
    ),
    call(
        "json_array_texts",
        concat!("array_to_string(json_array_texts(", valid!(), "), '|')"),
        "CASE WHEN NOT coalesce({b}, false) AND {n} > 4 THEN CAST({k} AS VARCHAR) || '|2' END",
    ),
    call(
        "json_size",
        concat!("json_size(", valid!(), ", '$')"),
        "CASE WHEN {b} THEN CASE WHEN {k} IS NOT NULL THEN 1 END WHEN {n} > 4 THEN CASE WHEN {k} IS NOT NULL THEN 2 END ELSE 0 END",
    ),
    call(
        "json_array_contains",
        "json_array_contains('[' || CAST({k} AS VARCHAR) || ', 2]', CAST({j} AS BIGINT))",
        "CASE WHEN {k} IS NOT NULL AND {j} IS NOT NULL THEN {j} = {k} OR {j} = 2 END",
    ),
    call(
        "json_keys",
        "array_to_string(json_keys('{\"a\": ' || CAST({k} AS VARCHAR) || ', \"b\": {}}'), '|')",
        "CASE WHEN {k} IS NOT NULL THEN 'a|b' END",
    ),
    call("json_valid", "json_valid({s})", "json_valid({s})"),
    call(
        "is_json_scalar",
        concat!("is_json_scalar(", valid!(), ")"),
        "CASE WHEN {b} OR {n} > 4 THEN CASE WHEN {k} IS NOT NULL THEN false END ELSE true END",
    ),
    call("split", "array_to_string(split({s}, 'a'), '|')", "array_to_string(string_split({s}, 'a'), '|')"),
    call("regexp_extract", "regexp_extract({s}, '[a-z]+')", "nullif(regexp_extract({s}, '[a-z]+'), '')"),
    call(
        "regexp_extract_all",
        "coalesce(array_to_string(regexp_extract_all({s}, '[a-z]'), '|'), '')",
        "coalesce(array_to_string(regexp_extract_all({s}, '[a-z]'), '|'), '')",
    ),
    call(
        "regexp_split",
        "array_to_string(regexp_split({s}, '[ab]'), '|')",
        "array_to_string(string_split_regex({s}, '[ab]'), '|')",
    ),
    call(
        "url_extract_protocol",
        "url_extract_protocol('http://h' || CAST({k} AS VARCHAR))",
        "CASE WHEN {k} IS NOT NULL THEN 'http' END",
    ),
    call(
        "url_extract_host",
        "url_extract_host('http://h' || CAST({k} AS VARCHAR) || ':81/x?y#z')",
        "'h' || CAST({k} AS VARCHAR)",
    ),
    call(
        "url_extract_port",
        "url_extract_port('http://h:' || CAST(8000 + {n} AS VARCHAR) || '/x')",
        "CAST(8000 + {n} AS BIGINT)",
    ),
    call(
        "url_extract_path",
        "url_extract_path('http://h/x' || CAST({k} AS VARCHAR) || '?y#z')",
        "'/x' || CAST({k} AS VARCHAR)",
    ),
    call(
        "url_extract_query",
        "url_extract_query('http://h/?a=' || CAST({k} AS VARCHAR) || '#z')",
        "'a=' || CAST({k} AS VARCHAR)",
    ),
    call(
        "url_extract_fragment",
        "url_extract_fragment('http://h/?a#' || CAST({k} AS VARCHAR))",
        "CAST({k} AS VARCHAR)",
    ),
    call("url_extract_parameter", "url_extract_parameter('http://h/?b=1&a=' || url_encode({s}) || '&c', 'a')", "{s}"),
    call("url_encode", "url_encode({s})", "replace(url_encode({s}), '%20', '+')"),
    call("url_decode", "url_decode(url_encode({s}))", "{s}"),
    call("gust_try_date_add", "try(date_add('day', {c}, {t}))", "CAST({t} + to_days(CAST({c} AS INT)) AS DATE)"),
    call(
        "gust_try_date_diff",
        "try(date_diff(CASE WHEN {b} THEN 'day' ELSE 'x' END, {t}, {u}))",
        "CASE WHEN {b} THEN date_diff('day', {t}, {u}) END",
    ),
    call("gust_try_divisor", "try({c} / {j})", "CASE WHEN {j} <> 0 THEN {c} // {j} END"),
    call("gust_try_divisor", "try({c} % {j})", "CASE WHEN {j} <> 0 THEN {c} % {j} END"),
    call(
        "gust_try_element_at",
        "try(element_at([{c}, {j}], CASE WHEN {b} THEN 2 ELSE 0 END))",
        "CASE WHEN {b} THEN {j} END",
    ),
    call(
        "gust_try_json_extract",
        "try(json_extract('{\"a\": [1]}', CASE WHEN {b} THEN '$.a' ELSE '$[*]' END))",
        "CASE WHEN {b} THEN '[1]' END",
    ),
    call(
        "gust_try_json_extract_scalar",
        "try(json_extract_scalar('{\"a\": 7}', CASE WHEN {b} THEN '$.a' ELSE '$[*]' END))",
        "CASE WHEN {b} THEN '7' END",
    ),
    call(
        "gust_try_regexp_extract",
        "try(regexp_extract('abc', CASE WHEN {b} THEN 'b.' ELSE '(' END))",
        "CASE WHEN {b} THEN 'bc' END",
    ),
    call(
        "gust_try_url_decode",
        "try(url_decode(CASE WHEN {b} THEN '%41+' ELSE '%4' END))",
        "CASE WHEN {b} THEN 'A ' END",
    ),
    call("element_at", "element_at([{k}, {j}], -1)", "{j}"),
    call("element_at", "element_at(map(['a', 'b'], [{k}, {j}]), 'b')", "{j}"),
    call(
        "sequence",
        "array_to_string(sequence(CAST({k} AS BIGINT), 3), ',')",
        "array_to_string(CASE WHEN {k} <= 3 THEN generate_series(CAST({k} AS BIGINT), 3) ELSE generate_series(CAST({k} AS BIGINT), 3, -1) END, ',')",
    ),
    call(
        "slice",
        "array_to_string(slice([{n}, coalesce({k}, 7), 5], 2, {n} + 1), ',')",
        "array_to_string([{n}, coalesce({k}, 7), 5][2:{n} + 2], ',')",
    ),
    call(
        "arrays_overlap",
        "arrays_overlap([{k}, 1], [{j}])",
        "CASE WHEN {j} = {k} OR {j} = 1 THEN true WHEN {j} IS NOT NULL AND {k} IS NOT NULL THEN false END",
    ),
    call("typeof", "typeof({t}) || typeof({s})", "'datevarchar'"),
    call("reduce", "reduce([{k}, {n}], 1, (s, e) -> s * 2 + e, s -> s * 3)", "(((1 * 2 + {k}) * 2 + {n}) * 3)"),
    call(
        "zip_with",
        "array_to_string(zip_with([{n}, 1], [2], (x, y) -> x + coalesce(y, 10)), ',')",
        "CAST({n} + 2 AS VARCHAR) || ',11'",
    ),
    call(
        "map_filter",
        "cardinality(map_filter(map(['a', 'b'], [{k}, {j}]), (p, q) -> q > 1 OR p = 'a'))",
        "1 + CASE WHEN {j} > 1 THEN 1 ELSE 0 END",
    ),
    call(
        "transform_values",
        "element_at(transform_values(map(['a', 'b'], [{k}, {j}]), (p, q) -> q + length(p)), 'b')",
        "{j} + 1",
    ),
    aggregate(
        "histogram",
        "coalesce(array_to_string(map_keys(histogram({k})), ',') || ':' || array_to_string(map_values(histogram({k})), ','), '')",
        "coalesce(array_to_string(map_keys(histogram({k})), ',') || ':' || array_to_string(map_values(histogram({k})), ','), '')",
    ),
    aggregate(
        "map_agg",
        "array_to_string(map_values(map_agg({id}, coalesce({k}, 77))), ',')",
        "array_to_string(list(coalesce({k}, 77) ORDER BY {id}), ',')",
    ),
    aggregate(
        "multimap_agg",
        "coalesce(cardinality(multimap_agg(coalesce({k}, 77), {id})), 0)",
        "count(DISTINCT coalesce({k}, 77))",
    ),
    aggregate(
        "mode",
        "mode({k})",
        "list_sort(list_transform(map_entries(histogram({k})), lambda e: {c: -CAST(e.value AS BIGINT), k: e.key}))[1].k",
    ),
    aggregate("checksum", "checksum({s}) IS NULL", "count(*) = 0"),
    OwnCall { name: "checksum", is_aggregate: true, ours: "encode(checksum({k}), 'hex')", theirs: None },
];

/// Returns the statement of a seed: seeds in a row have all calls in a row.
pub fn own_query(seed: u64) -> Query {
    let call = &CALLS[(seed % CALLS.len() as u64) as usize];
    let mut random = SmallRng::seed_from_u64(seed);
    let shape = random.random_range(0..4);
    let mut writer = Writer { random: &mut random, tables: vec![""] };
    let (sql, ordered) = match (call.is_aggregate, shape) {
        (true, 0) => ("SELECT {call} AS v FROM {table}{filter}", false),
        (true, 1) => ("SELECT b AS g, {call} AS v, count(*) AS n FROM {table}{filter} GROUP BY b", false),
        (true, _) => ("SELECT k AS g, {call} AS v FROM {table}{filter} GROUP BY k", false),
        (false, 0) => ("SELECT {call} AS g, count(*) AS n, min(id) AS m FROM {table}{filter} GROUP BY 1", false),
        (false, 1) => ("SELECT id FROM {table} WHERE ({call}) IS NULL OR id < 9 ORDER BY id", true),
        (false, 2) => {
            writer.tables = vec!["x.", "y."];
            (
                "SELECT x.id AS xid, y.id AS yid, {call} AS v FROM {table} AS x JOIN c AS y ON x.k = y.k ORDER BY x.id, y.id",
                true,
            )
        }
        (false, _) => ("SELECT id, {call} AS v FROM {table}{filter} ORDER BY id", true),
    };
    let table = writer.pick(&TABLES);
    let filter = if writer.chance(0.4) { format!(" WHERE {}", writer.condition(1)) } else { String::new() };
    let values = values(&mut writer);
    let written = |call: &str| {
        let call = values.iter().fold(call.to_owned(), |call, (place, value)| call.replace(place, value));
        sql.replace("{table}", table).replace("{filter}", &filter).replace("{call}", &call)
    };
    let judged = call.theirs.map(|theirs| as_read_by(&written(theirs), true));
    Query { sql: as_read_by(&written(call.ours), false), judged, ordered }
}

/// Makes a value for each place.
fn values(writer: &mut Writer<'_>) -> Vec<(&'static str, String)> {
    // A value has no other text for the judge, which a list in it may have.
    let number = writer.column(Small);
    let around = writer.pick(&["{}", "({} + 1)", "abs({})", "(- {})", "coalesce({}, 2)", "nullif({}, 1)"]);
    vec![
        ("{k}", around.replace("{}", &number)),
        ("{j}", writer.column(Small)),
        ("{c}", writer.column(Small)),
        ("{n}", format!("coalesce(abs({}) % 10, 3)", writer.column(Small))),
        ("{s}", writer.value(Text, 1)),
        ("{r}", writer.column(Text)),
        ("{t}", writer.column(Date)),
        ("{u}", writer.column(Date)),
        ("{z}", writer.column(Time)),
        ("{b}", format!("{} > 1", writer.column(Small))),
        ("{id}", "id".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gust_protocol::functions;

    use super::*;

    /// A function that is new has to get a call.
    #[test]
    fn each_function_has_a_call() {
        let tried = functions::scalar().into_iter().map(|function| function.name().to_owned());
        let ours: BTreeSet<String> =
            functions::added().into_iter().chain(tried.filter(|name| name.starts_with("gust_try_"))).collect();
        let called: BTreeSet<String> = CALLS.iter().map(|call| call.name.to_owned()).collect();
        assert_eq!(called, ours);
        for call in CALLS {
            let written = match call.name.strip_prefix("gust_try_") {
                Some("divisor") => "try(".to_owned(),
                Some(name) => format!("try({name}("),
                None => format!("{}(", call.name),
            };
            assert!(call.ours.contains(&written), "{call:?} is not called");
        }
    }

    #[test]
    fn seeds_in_a_row_have_all_calls() {
        for (seed, call) in (0_u64..).zip(CALLS) {
            let Query { sql, judged, .. } = own_query(seed);
            let name = call.name.trim_start_matches("gust_try_").replace("divisor", "try");
            assert!(sql.contains(&format!("{name}(")) && !sql.contains("{k}"), "{sql}");
            assert_eq!(judged.is_some(), call.theirs.is_some());
        }
    }
}
