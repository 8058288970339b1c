//! Table of names that other engines have, with what each is here.
//!
//! A name means what PostgreSQL and DuckDB mean by it where both have it, and otherwise what Trino and Athena mean. A name
//! that two engines use for different things, or whose meaning cannot be written here, is refused with what to write
//! instead. A function of the engine's own under such a name comes before this table.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use super::chosen::{self, Call, Choice};
use super::tried;
use crate::sql::Refusal;

/// Some names with one meaning, for calls with so many arguments.
pub(super) struct Row {
    pub(super) names: &'static [&'static str],
    pub(super) arguments: RangeInclusive<usize>,
    pub(super) meaning: Meaning,
}

/// Meaning of a call.
pub(super) enum Meaning {
    /// The engine has it under another name. All clauses stay.
    Renamed(&'static str),
    /// An expression of the arguments. The call has no clauses.
    Written(&'static str),
    /// An expression with one aggregate, to which FILTER goes, and OVER if it may be a window's.
    Aggregated { text: &'static str, onto: &'static str, is_window: bool },
    /// Depends on the arguments. The text is the dialect page's.
    Chosen { text: &'static str, choose: fn(&Call<'_>) -> Result<Choice, Refusal> },
    /// Is not there. The hint says what to write.
    Refused(&'static str),
}

use Meaning::{Aggregated, Chosen, Refused, Renamed, Written};

/// Any number of arguments.
const ANY: RangeInclusive<usize> = 0..=usize::MAX;

pub(super) const fn row(names: &'static [&'static str], arguments: RangeInclusive<usize>, meaning: Meaning) -> Row {
    Row { names, arguments, meaning }
}

const fn refused(names: &'static [&'static str], hint: &'static str) -> Row {
    row(names, ANY, Refused(hint))
}

const LAMBDAS: &str = "unnest the array in an inner query, and gather it with array_agg";

/// Names that the engine does not have, or has for another function.
pub(super) static NAMES: &[Row] = &[
    // Conditions and types.
    row(&["if", "iff", "iif"], 2..=2, Written("CASE WHEN $1 THEN $2 END")),
    row(&["if", "iff", "iif"], 3..=3, Written("CASE WHEN $1 THEN $2 ELSE $3 END")),
    row(
        &["try"],
        1..=1,
        Chosen {
            text: "NULL where a CAST fails, a division by zero, or a function that reads JSON, a date or a URL, or `element_at`; nothing else is tried",
            choose: tried::tried,
        },
    ),
    row(&["zeroifnull"], 1..=1, Written("coalesce($1, 0)")),
    row(&["nullifzero"], 1..=1, Written("nullif($1, 0)")),
    row(&["isnull"], 1..=1, Written("($1 IS NULL)")),
    row(&["isnotnull"], 1..=1, Written("($1 IS NOT NULL)")),
    // Dates.
    row(&["year"], 1..=1, Written("CAST(date_part('year', $1) AS BIGINT)")),
    row(&["quarter"], 1..=1, Written("CAST(date_part('quarter', $1) AS BIGINT)")),
    row(&["month"], 1..=1, Written("CAST(date_part('month', $1) AS BIGINT)")),
    row(&["week", "week_of_year", "weekofyear"], 1..=1, Written("CAST(date_part('week', $1) AS BIGINT)")),
    row(&["day", "day_of_month", "dayofmonth"], 1..=1, Written("CAST(date_part('day', $1) AS BIGINT)")),
    row(&["hour"], 1..=1, Written("CAST(date_part('hour', $1) AS BIGINT)")),
    row(&["minute"], 1..=1, Written("CAST(date_part('minute', $1) AS BIGINT)")),
    row(&["second"], 1..=1, Written("CAST(date_part('second', $1) AS BIGINT)")),
    row(&["millisecond"], 1..=1, Written("(CAST(date_part('millisecond', $1) AS BIGINT) % 1000)")),
    row(&["day_of_week", "dow", "isodow"], 1..=1, Written("CAST(date_part('isodow', $1) AS BIGINT)")),
    row(&["day_of_year", "doy", "dayofyear"], 1..=1, Written("CAST(date_part('doy', $1) AS BIGINT)")),
    row(&["year_of_week", "yow", "isoyear"], 1..=1, Written("CAST(date_part('isoyear', $1) AS BIGINT)")),
    row(&["date"], 1..=1, Written("CAST($1 AS DATE)")),
    row(&["datediff"], 2..=2, Written("CAST(CAST($1 AS DATE) - CAST($2 AS DATE) AS BIGINT)")),
    row(
        &["datediff"],
        3..=3,
        Chosen { text: "the number of boundaries of that unit between two times", choose: chosen::datediff },
    ),
    row(&["dateadd", "timestampadd"], 3..=3, Chosen { text: "`date_add(a, b, c)`", choose: chosen::add }),
    row(&["timestampdiff"], 3..=3, Chosen { text: "`date_diff(a, b, c)`", choose: chosen::diff }),
    row(&["add_months"], 2..=2, Written("date_add('month', $2, $1)")),
    row(&["str_to_date"], 2..=2, Renamed("date_parse")),
    row(&["with_timezone"], 2..=2, Written("($1 AT TIME ZONE $2)")),
    row(&["curdate"], 0..=0, Written("current_date()")),
    // Numbers.
    row(&["mod"], 2..=2, Written("($1 % $2)")),
    row(&["ceiling"], 1..=1, Renamed("ceil")),
    row(&["truncate"], 1..=2, Renamed("trunc")),
    row(&["sign"], 1..=1, Renamed("signum")),
    row(&["e"], 0..=0, Written("exp(1)")),
    row(&["infinity"], 0..=0, Written("CAST('Infinity' AS DOUBLE)")),
    row(&["nan"], 0..=0, Written("CAST('NaN' AS DOUBLE)")),
    row(&["is_nan"], 1..=1, Renamed("isnan")),
    row(&["is_infinite", "isinf"], 1..=1, Written("(abs($1) = CAST('Infinity' AS DOUBLE))")),
    row(&["is_finite", "isfinite"], 1..=1, Written("(abs($1) < CAST('Infinity' AS DOUBLE))")),
    row(&["bitwise_and"], 2..=2, Written("($1 & $2)")),
    row(&["bitwise_or"], 2..=2, Written("($1 | $2)")),
    row(&["bitwise_xor", "xor"], 2..=2, Written("(($1 | $2) - ($1 & $2))")),
    row(&["bitwise_not"], 1..=1, Written("(-1 - $1)")),
    // Texts and bytes.
    row(&["lcase"], 1..=1, Renamed("lower")),
    row(&["ucase"], 1..=1, Renamed("upper")),
    row(&["len"], 1..=1, Renamed("length")),
    row(&["strlen"], 1..=1, Renamed("octet_length")),
    row(&["codepoint", "unicode"], 1..=1, Renamed("ascii")),
    row(&["startswith", "prefix"], 2..=2, Renamed("starts_with")),
    row(&["endswith", "suffix"], 2..=2, Renamed("ends_with")),
    row(&["charindex", "locate"], 2..=2, Written("strpos($2, $1)")),
    row(&["string_split", "str_split"], 2..=2, Renamed("split")),
    row(&["string_split_regex", "regexp_split_to_array"], 2..=2, Renamed("regexp_split")),
    row(&["regexp_substr"], 2..=2, Renamed("regexp_extract")),
    row(&["parse_json"], 1..=1, Renamed("json_parse")),
    row(&["levenshtein_distance"], 2..=2, Renamed("levenshtein")),
    row(
        &["regexp_position"],
        2..=2,
        Written("CASE WHEN regexp_instr($1, $2) = 0 THEN -1 ELSE regexp_instr($1, $2) END"),
    ),
    row(&["to_base64", "base64"], 1..=1, Written("encode($1, 'base64pad')")),
    row(&["from_base64", "unbase64"], 1..=1, Written("decode($1, 'base64')")),
    row(&["from_hex", "unhex"], 1..=1, Written("decode($1, 'hex')")),
    row(&["to_utf8"], 1..=1, Written("CAST(CAST($1 AS VARCHAR) AS BYTEA)")),
    row(&["from_utf8"], 1..=1, Written("CAST($1 AS VARCHAR)")),
    row(&["gen_random_uuid", "newid"], 0..=0, Renamed("uuid")),
    // Arrays and maps.
    row(&["list_value", "list_pack", "array"], ANY, Renamed("make_array")),
    row(&["array_size"], 1..=1, Renamed("array_length")),
    row(&["array_average"], 1..=1, Renamed("array_avg")),
    row(&["list_remove"], 2..=2, Renamed("array_remove_all")),
    row(&["list_sort"], 1..=1, Written("array_sort($1, 'ASC', 'NULLS LAST')")),
    row(&["map_from_arrays"], 2..=2, Written("map($1, $2)")),
    row(&["transform", "list_apply", "array_apply"], 2..=2, Renamed("array_transform")),
    row(&["filter"], 2..=2, Renamed("array_filter")),
    row(&["aggregate"], 4..=4, Renamed("reduce")),
    row(&["any_match"], 2..=2, Renamed("array_any_match")),
    row(&["all_match"], 2..=2, Chosen { text: "`NOT any_match(a, x -> NOT ...)`", choose: chosen::all_match }),
    row(&["none_match"], 2..=2, Written("(NOT array_any_match($1, $2))")),
    // Aggregates.
    row(
        &["count_if", "countif"],
        1..=1,
        Aggregated { text: "count(*) FILTER (WHERE $1)", onto: "count", is_window: true },
    ),
    row(&["arbitrary"], 1..=1, Renamed("any_value")),
    row(&["every"], 1..=1, Renamed("bool_and")),
    row(&["first"], 1..=1, Renamed("first_value")),
    row(&["last"], 1..=1, Renamed("last_value")),
    row(&["list"], 1..=1, Renamed("array_agg")),
    row(&["variance"], 1..=1, Renamed("var_samp")),
    row(&["bitwise_and_agg"], 1..=1, Renamed("bit_and")),
    row(&["bitwise_or_agg"], 1..=1, Renamed("bit_or")),
    row(&["bitwise_xor_agg"], 1..=1, Renamed("bit_xor")),
    row(
        &["max_by"],
        2..=2,
        Aggregated {
            text: "first_value($1 ORDER BY $2 DESC) FILTER (WHERE $2 IS NOT NULL)",
            onto: "first_value",
            is_window: false,
        },
    ),
    row(
        &["min_by"],
        2..=2,
        Aggregated {
            text: "first_value($1 ORDER BY $2) FILTER (WHERE $2 IS NOT NULL)",
            onto: "first_value",
            is_window: false,
        },
    ),
    row(
        &["arg_max", "argmax"],
        2..=2,
        Aggregated {
            text: "first_value($1 ORDER BY $2 DESC) FILTER (WHERE $2 IS NOT NULL AND $1 IS NOT NULL)",
            onto: "first_value",
            is_window: false,
        },
    ),
    row(
        &["arg_min", "argmin"],
        2..=2,
        Aggregated {
            text: "first_value($1 ORDER BY $2) FILTER (WHERE $2 IS NOT NULL AND $1 IS NOT NULL)",
            onto: "first_value",
            is_window: false,
        },
    ),
    row(&["geometric_mean", "geomean"], 1..=1, Aggregated { text: "exp(avg(ln($1)))", onto: "avg", is_window: true }),
    row(
        &["approx_percentile"],
        2..=2,
        Chosen {
            text: "`approx_percentile_cont(a, b)`, or an array of them where b is an array",
            choose: chosen::approx_percentile,
        },
    ),
    row(
        &["approx_percentile"],
        3..=3,
        Chosen {
            text: "`approx_percentile_cont_with_weight(a, b, c)`; an accuracy in place of a weight is refused",
            choose: chosen::weighted_percentile,
        },
    ),
    row(&["approx_quantile"], 2..=2, Renamed("approx_percentile_cont")),
    row(&["percentile"], 2..=2, Renamed("percentile_cont")),
    row(&["approx_count_distinct"], 1..=1, Renamed("approx_distinct")),
    row(
        &["listagg"],
        1..=2,
        Chosen { text: "`string_agg(a, b ORDER BY ...)`; without b the texts touch", choose: chosen::listagg },
    ),
    row(
        &["group_concat"],
        1..=1,
        Chosen { text: "`string_agg(a, ',')`, or with its SEPARATOR", choose: chosen::group_concat },
    ),
    // Names that are refused.
    refused(&["pg_typeof"], "typeof(x) tells the type"),
    refused(
        &["json_value", "json_query", "json_extract_path_text"],
        "json_extract_scalar(x, '$.path') is a value, json_extract a part",
    ),
    refused(&["json_exists"], "json_extract(x, '$.path') IS NOT NULL"),
    refused(&["json_table"], "json_extract_scalar(x, '$.list[0]') for each place"),
    refused(&["from_json", "json_transform"], "json_extract_scalar(x, '$.path') for each value"),
    refused(&["json_array_get"], "json_extract(x, '$[0]')"),
    refused(&["json_type", "json_structure"], "json_array_length(x) IS NOT NULL tells an array"),
    refused(&["to_json"], "--format json writes nested values as JSON"),
    refused(
        &["json_object", "json_array", "json_agg", "json_object_agg", "row_to_json"],
        "--format json writes nested values as JSON",
    ),
    refused(&["strptime"], "date_parse(x, format) reads a text, by the letters of MySQL: '%Y-%m-%d %H:%i:%s'"),
    refused(&["strftime"], "to_char(x, format) writes a time, by the letters of strftime: '%Y-%m-%d %H:%M:%S'"),
    refused(&["timestamp"], "CAST(x AS TIMESTAMP); an offset in the text is turned to UTC"),
    refused(&["to_iso8601"], "CAST(x AS VARCHAR)"),
    refused(&["adddate"], "add an interval: x + INTERVAL '1' MONTH"),
    refused(&["date_sub", "datesub", "subdate"], "subtract an interval: x - INTERVAL '1' DAY"),
    refused(
        &["months_between", "age"],
        "date_diff('month', a, b) counts whole months; a - b is the time between two times",
    ),
    refused(
        &["dayofweek", "weekday"],
        "day_of_week(x) is 1 on Monday and 7 on Sunday; extract(dow FROM x) is 0 on Sunday",
    ),
    refused(&["dayname"], "to_char(x, '%A') is the day's name, to_char(x, '%a') its first letters"),
    refused(&["monthname"], "to_char(x, '%B') is the month's name, to_char(x, '%b') its first letters"),
    refused(&["yearweek"], "year_of_week(x) * 100 + week(x)"),
    refused(&["epoch", "unix_timestamp"], "to_unixtime(x) is seconds with their fraction, a DOUBLE"),
    refused(&["to_unix_timestamp"], "CAST(floor(to_unixtime(x)) AS BIGINT)"),
    refused(&["epoch_ms"], "CAST(extract(epoch FROM x) * 1000 AS BIGINT)"),
    refused(&["time_bucket"], "date_bin(INTERVAL '15' MINUTE, x, origin)"),
    refused(&["getdate", "sysdate", "current_timezone"], "now() is the time, in UTC"),
    refused(
        &["at_timezone"],
        "x AT TIME ZONE 'Europe/Berlin' of a time with a zone; of one without write CAST(x AS TIMESTAMP WITH TIME ZONE) AT TIME ZONE ...",
    ),
    row(
        &["group_concat"],
        2..=2,
        Refused("string_agg(x, ';') has a separator; MySQL joins both arguments: concat(a, b)"),
    ),
    refused(&["isnull", "notnull"], "x IS NULL tells, coalesce(x, y) replaces"),
    refused(&["ord"], "ascii(x) is the code point of the first character"),
    refused(&["hex"], "encode(x, 'hex') of bytes, to_hex(x) of a number"),
    refused(&["split_to_map", "split_to_multimap", "str_to_map"], "split_part(x, delimiter, n)"),
    refused(&["regexp_matches"], "regexp_like(x, pattern) tells, regexp_match(x, pattern) has the groups"),
    refused(&["regexp_full_match"], "regexp_like(x, '^(?:pattern)$')"),
    refused(&["parse_url"], "url_extract_host(x), url_extract_path(x), url_extract_parameter(x, name)"),
    refused(&["format", "printf"], "join the parts with ||, and write numbers with CAST(x AS VARCHAR)"),
    refused(&["soundex", "word_stem", "hamming_distance"], "levenshtein(a, b) compares spellings"),
    refused(
        &["human_readable_seconds"],
        "CAST(x / 3600 AS INT) is the number of hours, x % 3600 the seconds of the rest",
    ),
    refused(&["parse_duration"], "CAST('90 minutes' AS INTERVAL), or INTERVAL '90' MINUTE"),
    refused(&["normalize"], "texts are compared by code points; write them in one form before"),
    refused(&["bar"], "repeat('*', CAST(x * 10 AS INT))"),
    refused(&["zip"], "UNNEST(a, b) AS u(x, y) in FROM has the pairs; zip_with(a, b, (x, y) -> ...) joins them"),
    refused(&["xxhash64", "murmur3", "crc32", "hash", "sha1", "farm_fingerprint"], "md5(x) or sha256(x)"),
    refused(&["bitwise_left_shift"], "x << n; n counts modulo the width of the type"),
    refused(
        &["bitwise_right_shift"],
        "x >> n keeps the sign; for a positive x it is the same, and n counts modulo the width of the type",
    ),
    refused(&["width_bucket"], "floor((x - low) / (high - low) * n) + 1"),
    refused(&["list_reduce", "aggregate"], "reduce(a, 0, (s, x) -> s + x, s -> s)"),
    refused(&["transform_keys", "map_zip_with"], LAMBDAS),
    refused(
        &["map_concat", "map_from_entries", "multimap_from_entries"],
        "map(keys, values) makes a map of two arrays",
    ),
    refused(&["ngrams", "combinations", "shuffle"], "unnest the array in an inner query"),
    refused(&["set_agg"], "array_agg(DISTINCT x)"),
    refused(&["collect_set"], "array_agg(DISTINCT x) FILTER (WHERE x IS NOT NULL)"),
    refused(&["collect_list"], "array_agg(x) FILTER (WHERE x IS NOT NULL)"),
    refused(
        &["set_union", "map_union"],
        "unnest the arrays in an inner query, and gather them with array_agg(DISTINCT x)",
    ),
    refused(&["numeric_histogram"], "SELECT floor(x / 10), count(*) ... GROUP BY 1 has a row for each range"),
    refused(&["approx_most_frequent", "approx_top_k"], "SELECT x ... GROUP BY x ORDER BY count(*) DESC LIMIT 3"),
    refused(&["skewness", "kurtosis", "entropy"], "there are stddev, var_samp, corr and regr_slope"),
    refused(&["product"], "exp(sum(ln(x))), for numbers above 0"),
    refused(&["quantile", "quantile_disc", "percentile_disc"], "percentile_cont(x, share), or approx_percentile_cont"),
    refused(&["approx_percentile"], "approx_percentile(x, share), or approx_percentile(x, weight, share)"),
    row(&["max_by", "arg_max", "argmax"], 3..=3, Refused("(array_agg(x ORDER BY y DESC NULLS LAST))[1:n]")),
    row(&["min_by", "arg_min", "argmin"], 3..=3, Refused("(array_agg(x ORDER BY y))[1:n]")),
    refused(&["generate_subscripts"], "generate_series(1, array_length(x))"),
    refused(&["percentile_approx"], "approx_percentile_cont(x, share)"),
    refused(&["any", "some"], "bool_or(x)"),
    refused(&["all"], "write each comparison: a LIKE 'x%' AND a LIKE '%y'"),
    refused(&["columns"], "name the columns, or leave some out: * EXCLUDE (a, b)"),
    refused(&["ratio_to_report"], "x / sum(x) OVER ()"),
    refused(&["current_database", "current_catalog"], "SHOW datafusion.catalog.default_catalog"),
    refused(&["current_schema"], "SHOW datafusion.catalog.default_schema"),
    refused(&["struct_pack", "object_construct"], "named_struct('name', x, ...)"),
    refused(&["struct_extract"], "x['name']"),
    refused(&["to_number", "to_decimal"], "CAST(x AS DECIMAL(18, 2))"),
    refused(&["safe_divide"], "a / nullif(b, 0)"),
    refused(&["safe_cast", "try_to_number", "try_to_date", "try_convert"], "TRY_CAST(x AS type)"),
    refused(&["convert"], "CAST(x AS type)"),
];

/// Forms of the engine's own functions that only other engines have.
pub(super) static FORMS: &[Row] = &[
    row(
        &["date_add"],
        3..=3,
        Chosen { text: "`date_add('unit', b, c)`, also with a unit without quotes", choose: chosen::add },
    ),
    row(
        &["date_diff"],
        3..=3,
        Chosen { text: "`date_diff('unit', b, c)`, also with a unit without quotes", choose: chosen::diff },
    ),
    row(&["regexp_replace"], 2..=2, Written("regexp_replace($1, $2, '', 'g')")),
    row(
        &["regexp_replace"],
        3..=4,
        Chosen {
            text: "itself: the first match, and `\\1` is a group; `$1`, Trino's group, is refused",
            choose: chosen::regexp_replace,
        },
    ),
    row(&["array_remove"], 2..=2, Renamed("array_remove_all")),
    row(&["array_sort"], 1..=1, Written("array_sort($1, 'ASC', 'NULLS LAST')")),
    row(
        &["array_sort"],
        2..=2,
        Chosen { text: "itself; a lambda that compares is refused", choose: chosen::array_sort },
    ),
    row(&["random"], 1..=1, Written("CAST(floor(random() * $1) AS BIGINT)")),
    row(&["random"], 2..=2, Written("($1 + CAST(floor(random() * ($2 - $1)) AS BIGINT))")),
    row(&["decode"], 3..=usize::MAX, Refused("CASE x WHEN a THEN b ELSE c END")),
    row(
        &["to_char"],
        2..=2,
        Chosen {
            text: "itself, by the letters of strftime; letters of other engines are refused",
            choose: chosen::to_char,
        },
    ),
    row(
        &["date_format"],
        2..=2,
        Chosen {
            text: "itself, by the letters of MySQL; letters of other engines are refused",
            choose: chosen::date_format,
        },
    ),
    row(
        &["format_datetime"],
        2..=2,
        Chosen {
            text: "itself, by the letters of Joda; letters of other engines are refused",
            choose: chosen::format_datetime,
        },
    ),
    // The part tells what is no time. Microseconds are exact, and their quotient is the nearest double.
    row(
        &["to_unixtime"],
        1..=1,
        Written(
            "CASE WHEN date_part('epoch', $1) IS NOT NULL THEN CAST(CAST(arrow_cast($1, 'Timestamp(Microsecond, None)') AS BIGINT) AS DOUBLE) / 1000000 END",
        ),
    ),
    row(&["replace"], 2..=2, Written("replace($1, $2, '')")),
    row(
        &["count"],
        2..=usize::MAX,
        Chosen { text: "`count(DISTINCT a, b)`: pairs without a NULL in them", choose: chosen::count_distinct },
    ),
    row(
        &["approx_distinct"],
        2..=2,
        Chosen {
            text: "`approx_distinct(a)`, for a standard error b of 0.0082 or more",
            choose: chosen::approx_distinct,
        },
    ),
];

pub(super) fn by_name(table: &'static [Row]) -> HashMap<&'static str, Vec<&'static Row>> {
    let mut rows: HashMap<_, Vec<_>> = HashMap::new();
    for row in table {
        for name in row.names {
            rows.entry(*name).or_default().push(row);
        }
    }
    rows
}

/// Returns what a name is that the engine does not have; none if no other engine has it either.
pub(super) fn foreign(name: &str) -> &'static [&'static Row] {
    static ROWS: LazyLock<HashMap<&str, Vec<&Row>>> = LazyLock::new(|| by_name(NAMES));
    ROWS.get(name).map_or(&[], Vec::as_slice)
}

/// Returns the forms that other engines have of a function of the engine's own.
pub(super) fn forms(name: &str) -> &'static [&'static Row] {
    static ROWS: LazyLock<HashMap<&str, Vec<&Row>>> = LazyLock::new(|| by_name(FORMS));
    ROWS.get(name).map_or(&[], Vec::as_slice)
}
