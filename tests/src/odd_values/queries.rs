//! Random statements over the three tables of odd values. One seed is one statement.
//!
//! Each statement has one right answer: where the order of its rows counts, that order is total.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::expressions::Kind::*;
use super::expressions::{KINDS, Kind, Writer, as_read_by};
use super::own::own_query;

/// Statement, and whether the order of its rows counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub sql: String,
    /// The same in the judge's words, which are mostly ours. None for what it has not.
    pub judged: Option<String>,
    pub ordered: bool,
}

pub(super) const TABLES: [&str; 3] = ["a", "b", "c"];

/// Share of the seeds whose statements are around one of our functions: one of so many.
const OWN_OF: u64 = 8;

/// Returns the statement of a seed.
pub fn query(seed: u64) -> Query {
    if seed % OWN_OF == OWN_OF - 1 {
        return own_query(seed / OWN_OF);
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let shape = random.random_range(0..10);
    let mut writer = Writer { random: &mut random, tables: vec![""] };
    match shape {
        0 | 1 => filtered(&mut writer),
        2 | 3 => grouped(&mut writer),
        4 | 5 => joined(&mut writer),
        6 => with_subquery(&mut writer),
        7 => windows(&mut writer),
        8 => sets(&mut writer),
        _ => nested(&mut writer),
    }
}

fn written(text: &str, ordered: bool) -> Query {
    Query { sql: as_read_by(text, false), judged: Some(as_read_by(text, true)), ordered }
}

fn any_order(sql: String) -> Query {
    written(&sql, false)
}

fn in_order(sql: String) -> Query {
    written(&sql, true)
}

/// Returns ` WHERE …`, or nothing.
fn filter(writer: &mut Writer<'_>, share: f64) -> String {
    if !writer.chance(share) {
        return String::new();
    }
    format!(" WHERE {}", writer.condition(2))
}

/// Returns ` LIMIT n OFFSET m`, ` LIMIT n`, or nothing.
fn limit(writer: &mut Writer<'_>) -> String {
    let rows = writer.random.random_range(0..12);
    match writer.random.random_range(0..4) {
        0 => format!(" LIMIT {rows}"),
        1 => format!(" LIMIT {rows} OFFSET {}", writer.random.random_range(0..6)),
        _ => String::new(),
    }
}

fn direction(writer: &mut Writer<'_>) -> &'static str {
    writer.pick(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST", " ASC NULLS LAST", " DESC NULLS FIRST"])
}

/// Returns up to `most` values, named from `prefix`.
fn values(writer: &mut Writer<'_>, most: u32, prefix: &str) -> Vec<String> {
    let count = writer.random.random_range(1..=most);
    let value = |writer: &mut Writer<'_>, number| {
        let kind = writer.kind();
        let value = if writer.chance(0.15) { writer.number(1) } else { writer.value(kind, 2) };
        format!("{value} AS {prefix}{number}")
    };
    (0..count).map(|number| value(writer, number)).collect()
}

fn filtered(writer: &mut Writer<'_>) -> Query {
    let table = writer.pick(&TABLES);
    let values = values(writer, 4, "v").join(", ");
    let filter = filter(writer, 0.8);
    if writer.chance(0.3) {
        let distinct = writer.pick(&["DISTINCT ", ""]);
        return any_order(format!("SELECT {distinct}{values} FROM {table}{filter}"));
    }
    let (kind, direction) = (writer.kind(), direction(writer));
    let (key, limit) = (writer.value(kind, 1), limit(writer));
    in_order(format!("SELECT id, {values} FROM {table}{filter} ORDER BY {key}{direction}, id{limit}"))
}

/// Returns an aggregate whose result does not depend on the order of its rows.
fn aggregate(writer: &mut Writer<'_>) -> String {
    let kind = writer.kind();
    let value = writer.value(kind, 1);
    let aggregate = match writer.random.random_range(0..12) {
        0 => "count(*)".to_owned(),
        1 => format!("count({value})"),
        2 | 3 => format!("count(DISTINCT {value})"),
        4 => format!("min({value})"),
        5 => format!("max({value})"),
        6 | 7 => {
            let function = writer.pick(&["sum", "avg"]);
            let kind = writer.pick(&[Small, Int, Tame, Decimal]);
            format!("{function}({})", writer.column(kind))
        }
        8 => {
            let function = writer.pick(&["bool_and", "bool_or"]);
            format!("{function}({})", writer.condition(1))
        }
        9 => {
            let text = writer.value(Text, 1);
            let ids: Vec<String> = writer.tables.iter().map(|table| format!("{table}id")).collect();
            format!("string_agg({text}, ',' ORDER BY {})", ids.join(", "))
        }
        10 => format!("sum(DISTINCT {})", writer.column(Small)),
        _ => format!("sum({})", writer.column(Long)),
    };
    match writer.chance(0.2) && !aggregate.contains("ORDER BY") && !aggregate.contains("DISTINCT") {
        true => format!("{aggregate} FILTER (WHERE {})", writer.condition(1)),
        false => aggregate,
    }
}

fn aggregates(writer: &mut Writer<'_>) -> String {
    let count = writer.random.random_range(1..=3);
    let all: Vec<String> = (0..count).map(|number| format!("{} AS m{number}", aggregate(writer))).collect();
    all.join(", ")
}

/// Returns `SELECT keys, aggregates FROM source … GROUP BY keys`, or the aggregates alone.
fn grouping(writer: &mut Writer<'_>, source: &str, filter: &str) -> String {
    let aggregates = aggregates(writer);
    if writer.chance(0.2) {
        return format!("SELECT {aggregates} FROM {source}{filter}");
    }
    let keys = writer.random.random_range(1..=2);
    let keys: Vec<String> = (0..keys)
        .map(|_| {
            let kind = writer.kind();
            writer.value(kind, 1)
        })
        .collect();
    let named: Vec<String> = keys.iter().enumerate().map(|(number, key)| format!("{key} AS g{number}")).collect();
    let positions: Vec<String> = (1..=keys.len()).map(|position| position.to_string()).collect();
    let having = if writer.chance(0.2) { " HAVING count(*) > 1" } else { "" };
    format!("SELECT {}, {aggregates} FROM {source}{filter} GROUP BY {}{having}", named.join(", "), positions.join(", "))
}

fn grouped(writer: &mut Writer<'_>) -> Query {
    let table = writer.pick(&TABLES);
    let filter = filter(writer, 0.5);
    any_order(grouping(writer, table, &filter))
}

const JOINS: [&str; 4] = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];

fn joined(writer: &mut Writer<'_>) -> Query {
    let (left, right, join) = (writer.pick(&TABLES), writer.pick(&TABLES), writer.pick(&JOINS));
    if writer.chance(0.35) {
        return using(writer, left, right, join);
    }
    if writer.chance(0.3) {
        return chain(writer, left, right, join);
    }
    writer.tables = vec!["x.", "y."];
    let on = on(writer, join);
    let filter = filter(writer, 0.4);
    if writer.chance(0.3) {
        return any_order(grouping(writer, &format!("{left} AS x {join} {right} AS y ON {on}"), &filter));
    }
    let values = values(writer, 3, "v").join(", ");
    let (tail, ordered) = match writer.chance(0.5) {
        true => (format!(" ORDER BY x.id, y.id{}", limit(writer)), true),
        false => (String::new(), false),
    };
    let sql =
        format!("SELECT x.id AS xid, y.id AS yid, {values} FROM {left} AS x {join} {right} AS y ON {on}{filter}{tail}");
    written(&sql, ordered)
}

/// Returns a join's condition, mostly an equality. A full join has equalities alone, because DuckDB has no other full joins.
fn on(writer: &mut Writer<'_>, join: &str) -> String {
    let kind = writer.pick(&[Small, Small, Int, Long, Double, Real, Tame, Decimal, Text, Date, Time]);
    let column = kind.column();
    let equality = format!("x.{column} = y.{column}");
    match writer.random.random_range(0..5) {
        0 if join != "FULL JOIN" => format!("{equality} AND {}", writer.condition(1)),
        1 if join != "FULL JOIN" => {
            let compare = writer.pick(&["<", ">=", "<>"]);
            format!("x.k {compare} y.k AND x.{column} IS NOT DISTINCT FROM y.{column}")
        }
        2 => format!("{equality} AND x.k = y.k"),
        _ => equality,
    }
}

/// Joins three tables whose columns have the same names.
fn chain(writer: &mut Writer<'_>, left: &str, right: &str, join: &str) -> Query {
    let (third, again) = (writer.pick(&TABLES), writer.pick(&JOINS));
    let keys = [Small, Int, Long, Double, Tame, Decimal, Text, Date];
    let (key, other) = (writer.pick(&keys).column(), writer.pick(&keys).column());
    let side = writer.pick(&["x", "y"]);
    writer.tables = vec!["x.", "y.", "z."];
    let filter = filter(writer, 0.6);
    any_order(format!(
        "SELECT count(*) AS n, sum(x.id) AS a, sum(y.id) AS b, sum(z.id) AS c FROM {left} AS x {join} {right} AS y \
         ON x.{key} = y.{key} {again} {third} AS z ON {side}.{other} = z.{other}{filter}"
    ))
}

fn using(writer: &mut Writer<'_>, left: &str, right: &str, join: &str) -> Query {
    let keys = writer.pick(&[["k", "k"], ["k", "s"], ["s", "s"], ["g", "g"], ["t", "t"], ["d", "k"]]);
    let (first, second) = (keys[0], keys[1]);
    let list = if first == second { first.to_owned() } else { format!("{first}, {second}") };
    let source = format!("{left} AS x {join} {right} AS y USING ({list})");
    match writer.random.random_range(0..3) {
        0 => any_order(format!("SELECT {first}, count(*) AS n, count({second}) AS c FROM {source} GROUP BY {first}")),
        1 => any_order(format!("SELECT {list}, x.id AS xid, y.id AS yid FROM {source} WHERE {first} IS NOT NULL")),
        _ => in_order(format!("SELECT {list}, x.i AS xi, y.i AS yi FROM {source} ORDER BY {first}, x.id, y.id")),
    }
}

fn with_subquery(writer: &mut Writer<'_>) -> Query {
    let (outer, inner) = (writer.pick(&TABLES), writer.pick(&TABLES));
    let kind = writer.pick(&[Small, Small, Int, Long, Double, Tame, Decimal, Text, Date, Time]);
    let column = kind.column();
    writer.tables = vec!["y."];
    let mut condition = if writer.chance(0.5) { writer.condition(1) } else { "true".to_owned() };
    if writer.chance(0.4) {
        let link = writer.pick(&["x.k = y.k", "x.s = y.s", "x.b = y.b"]);
        condition = format!("{link} AND {condition}");
    }
    let subquery = format!("FROM {inner} AS y WHERE {condition}");
    writer.tables = vec!["x."];
    let predicate = match writer.random.random_range(0..6) {
        0 | 1 => format!("x.{column} IN (SELECT y.{column} {subquery})"),
        2 => format!("x.{column} NOT IN (SELECT y.{column} {subquery})"),
        3 => format!("EXISTS (SELECT 1 {subquery} AND y.{column} = x.{column})"),
        4 => format!("NOT EXISTS (SELECT 1 {subquery} AND y.{column} = x.{column})"),
        _ => format!("x.{column} <= (SELECT max(y.{column}) {subquery})"),
    };
    let also = if writer.chance(0.3) { format!(" AND {}", writer.condition(1)) } else { String::new() };
    in_order(format!("SELECT x.id AS id, x.{column} AS v FROM {outer} AS x WHERE {predicate}{also} ORDER BY x.id"))
}

fn windows(writer: &mut Writer<'_>) -> Query {
    let table = writer.pick(&TABLES);
    let (part, order, value) = (writer.kind(), writer.kind(), writer.kind());
    let (part, order, value) = (writer.value(part, 1), writer.value(order, 1), writer.column(value));
    let direction = direction(writer);
    let partition = if writer.chance(0.7) { format!("PARTITION BY {part} ") } else { String::new() };
    let ties = format!("{partition}ORDER BY {order}{direction}");
    let total = format!("{ties}, id");
    let window = match writer.random.random_range(0..8) {
        0 => format!("row_number() OVER ({total})"),
        1 => format!("rank() OVER ({ties})"),
        2 => format!("dense_rank() OVER ({ties})"),
        3 => format!("lag({value}) OVER ({total})"),
        4 => format!("first_value({value}) OVER ({total})"),
        5 => format!("sum(k) OVER ({total} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"),
        6 => format!("max({value}) OVER ({total})"),
        _ => format!("count({value}) OVER ({partition})"),
    };
    let filter = filter(writer, 0.4);
    in_order(format!("SELECT id, {window} AS o FROM {table}{filter} ORDER BY id"))
}

fn sets(writer: &mut Writer<'_>) -> Query {
    let word = writer.pick(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT"]);
    let count = writer.random.random_range(1..=3);
    let kinds: Vec<Kind> = (0..count).map(|_| writer.pick(&KINDS)).collect();
    let side = |writer: &mut Writer<'_>| {
        let table = writer.pick(&TABLES);
        let columns: Vec<String> =
            kinds.iter().enumerate().map(|(number, kind)| format!("{} AS v{number}", kind.column())).collect();
        format!("SELECT {} FROM {table}{}", columns.join(", "), filter(writer, 0.4))
    };
    let (left, right) = (side(writer), side(writer));
    any_order(format!("{left} {word} {right}"))
}

fn nested(writer: &mut Writer<'_>) -> Query {
    let (outer, inner) = (writer.pick(&TABLES), writer.pick(&TABLES));
    let kind = writer.pick(&[Small, Int, Long, Double, Tame, Decimal, Text, Date, Time, Bool]);
    let key = kind.column();
    let measured = writer.kind();
    let value = writer.value(measured, 1);
    let function = writer.pick(&["min", "max", "count"]);
    let filter = filter(writer, 0.5);
    let grouped =
        format!("SELECT {key} AS h, {function}({value}) AS m, count(*) AS n FROM {inner}{filter} GROUP BY {key}");
    let join = writer.pick(&JOINS);
    match writer.random.random_range(0..4) {
        0 => in_order(format!(
            "WITH q AS ({grouped}) SELECT x.id AS id, q.m AS m, q.n AS n FROM {outer} AS x {join} q ON x.{key} = q.h \
             ORDER BY x.id, q.h, q.n"
        )),
        1 => any_order(format!(
            "WITH q AS ({grouped}) SELECT p.h AS h, p.m AS m, q.n AS n FROM q AS p {join} q ON p.h = q.h WHERE p.n >= q.n"
        )),
        2 => any_order(format!("SELECT n, count(*) AS c, count(DISTINCT h) AS d FROM ({grouped}) AS q GROUP BY n")),
        _ => any_order(format!(
            "SELECT h, m, n FROM ({grouped}) AS q WHERE n = (SELECT max(n) FROM ({grouped}) AS p) OR h IS NULL"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_is_one_statement_and_seeds_differ() {
        assert_eq!(query(7), query(7));
        let many: HashSet<String> = (0..1000).map(|seed| query(seed).sql).collect();
        assert!(many.len() > 950, "{}", many.len());
    }
}
