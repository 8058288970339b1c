//! Random queries of mixed types, which planning coerces and output formats then write.
//!
//! One seed is one query. Its expressions mix types where SQL lets the planner find a common one: CASE, COALESCE, UNION ALL, IN,
//! arithmetic, casts, NULL. Some queries are refused; the caller counts those that ran.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Files of the tables `t` and `u`: path, columns over a number `v`, and offset of `v`. Most columns but `k` have a NULL.
pub const TABLES: [(&str, &str, u64); 3] = [
    ("t/0.parquet", T, 0),
    ("t/1.parquet", T, 7),
    (
        "u/0.parquet",
        "v AS k, CAST(v AS INT) AS a, CAST(nullif(v, 2) AS VARCHAR) AS b, CAST(v AS DOUBLE) / 4 AS c,
         arrow_cast(DATE '2024-02-28' + CAST(v AS INT), 'Date32') AS d, CAST(v AS DECIMAL(9, 1)) AS e",
        0,
    ),
];

/// Rows of each file.
pub const ROWS: u64 = 7;

const T: &str = "v AS k,
    arrow_cast(nullif(v, 1), 'Int8') AS i8, arrow_cast(nullif(v, 2) * 1000, 'Int32') AS i32,
    nullif(v, 3) * 10000000000 AS i64, arrow_cast(nullif(v, 4), 'UInt16') AS u16,
    arrow_cast(nullif(v, 5) * 9, 'UInt64') AS u64,
    arrow_cast(CASE v WHEN 1 THEN 'NaN' WHEN 2 THEN '-0.0' WHEN 3 THEN NULL ELSE '1.25' END, 'Float32') AS f32,
    CAST(CASE v WHEN 4 THEN 'NaN' WHEN 5 THEN 'inf' WHEN 6 THEN NULL ELSE '-7.125' END AS DOUBLE) AS f64,
    CAST(nullif(v, 2) AS DECIMAL(5, 2)) / 4 AS n2, CAST(nullif(v, 7) AS DECIMAL(30, 0)) * 1000000000000 AS n0,
    nullif(concat('text ', v, CASE WHEN v % 2 = 0 THEN ',\"é' ELSE '' END), 'text 3') AS s,
    arrow_cast(CASE WHEN v < 5 THEN 'low' WHEN v = 5 THEN NULL ELSE '' END, 'Dictionary(Int32, Utf8)') AS w,
    nullif(v % 2, 0) = 1 AS p, arrow_cast(concat('b', v), 'Binary') AS x,
    DATE '2024-02-28' + CAST(nullif(v, 4) AS INT) AS d,
    to_timestamp_micros(1709164799500000 + v * 3600000000) AS ts,
    arrow_cast(1711841400000 + v * 3600000, 'Timestamp(Millisecond, Some(\"Europe/Berlin\"))') AS tz,
    CASE WHEN v % 3 = 0 THEN NULL ELSE make_array(v, NULL, v * 2) END AS l,
    CASE WHEN v = 5 THEN NULL ELSE named_struct('a', CAST(v AS INT), 'b', concat('s', v)) END AS st,
    CASE WHEN v = 6 THEN NULL ELSE map(['a', 'b'], [v, NULL]) END AS m";

/// Kind of an expression: expressions of one kind can stand for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Text,
    Truth,
    Moment,
    List,
    Record,
}

const KINDS: [Kind; 9] = [
    Kind::Number,
    Kind::Number,
    Kind::Number,
    Kind::Text,
    Kind::Text,
    Kind::Truth,
    Kind::Moment,
    Kind::List,
    Kind::Record,
];

struct Maker {
    random: StdRng,
}

/// Returns the query of a seed, over the tables `t` and `u`.
pub fn query(seed: u64) -> String {
    Maker { random: StdRng::seed_from_u64(seed) }.query()
}

impl Maker {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of.choose(&mut self.random).expect("something to choose from")
    }

    fn kind(&mut self) -> Kind {
        *KINDS.choose(&mut self.random).expect("kinds")
    }

    fn query(&mut self) -> String {
        let (a, b, c) = (self.kind(), self.kind(), self.kind());
        match self.random.random_range(0..8) {
            0 | 1 => {
                let columns = [a, b, c].map(|kind| self.expr(kind, 2));
                format!("SELECT k, {} AS c0, {} AS c1, {} FROM t", columns[0], columns[1], columns[2])
            }
            2 => format!(
                "SELECT {} AS c0, {} AS c1 FROM t WHERE {}",
                self.expr(a, 2),
                self.expr(b, 1),
                self.expr(Kind::Truth, 1)
            ),
            3 => {
                let (left, right) = (self.expr(a, 1), self.of_u(a));
                let more = if self.random.random_bool(0.3) { " UNION ALL SELECT NULL, NULL" } else { "" };
                format!("SELECT {left} AS c0, k AS c1 FROM t UNION ALL SELECT {right} AS x, a AS y FROM u{more}")
            }
            4 => {
                let key = self.one(&["p", "w", "k % 3", "d"]);
                let (number, any) = (self.expr(Kind::Number, 2), self.column(b));
                let function = self.one(&["sum", "avg", "min", "max"]);
                format!(
                    "SELECT {key} AS c0, {function}({number}) AS c1, count({any}) AS c2, count(DISTINCT {key}) AS c3, max({}) FROM t GROUP BY {key}",
                    self.column(Kind::Moment)
                )
            }
            5 => format!("SELECT {} AS c0, {} FROM t WHERE k < 0", self.expr(a, 2), self.expr(b, 2)),
            6 => format!(
                "SELECT t.k AS c0, coalesce({}, {}) AS c1, u.* FROM t LEFT JOIN u ON t.k = u.k + 3",
                self.column(Kind::Number),
                self.one(&["u.a", "u.c", "u.e", "0", "0.5"]),
            ),
            _ => format!(
                "SELECT c0, c1 FROM (SELECT {} AS c0, lag({}) OVER (ORDER BY k) AS c1, k FROM t) q WHERE k IN ({}, 2, 3.0)",
                self.expr(a, 1),
                self.column(b),
                self.one(&["1", "CAST(1 AS TINYINT)", "1.0"]),
            ),
        }
    }

    fn column(&mut self, kind: Kind) -> &'static str {
        self.one(match kind {
            Kind::Number => &["k", "i8", "i32", "i64", "u16", "u64", "f32", "f64", "n2", "n0"],
            Kind::Text => &["s", "w"],
            Kind::Truth => &["p"],
            Kind::Moment => &["d", "ts", "tz"],
            Kind::List => &["l"],
            Kind::Record => &["st", "m"],
        })
    }

    /// Returns a column of `u`, or a literal, that can stand beside an expression of the kind.
    fn of_u(&mut self, kind: Kind) -> &'static str {
        self.one(match kind {
            Kind::Number => &["a", "c", "e", "k", "1", "NULL", "2.5"],
            Kind::Text => &["b", "'text'", "NULL", "CAST(d AS VARCHAR)"],
            Kind::Truth => &["a = 1", "NULL", "true"],
            Kind::Moment => &["d", "NULL", "CAST(d AS TIMESTAMP)", "DATE '2024-01-01'"],
            Kind::List => &["make_array(a)", "make_array(k, a)", "NULL", "make_array(c)"],
            Kind::Record => &["NULL", "named_struct('a', a, 'b', b)"],
        })
    }

    fn literal(&mut self, kind: Kind) -> &'static str {
        self.one(match kind {
            Kind::Number => &["0", "7", "-1", "1.5", "0.25", "NULL", "CAST(3 AS SMALLINT)", "CAST(2 AS DECIMAL(4, 1))"],
            Kind::Text => &["'first'", "''", "NULL", "'a,b'", "'ä'"],
            Kind::Truth => &["true", "false", "NULL"],
            Kind::Moment => &["DATE '2024-02-29'", "TIMESTAMP '2024-02-29T12:00:00'", "NULL"],
            Kind::List => &["make_array(1, 2)", "make_array(1.5)", "NULL"],
            Kind::Record => &["NULL", "st"],
        })
    }

    fn expr(&mut self, kind: Kind, depth: u32) -> String {
        if depth == 0 || self.random.random_bool(0.2) {
            return if self.random.random_bool(0.7) {
                self.column(kind).to_owned()
            } else {
                self.literal(kind).to_owned()
            };
        }
        let below = depth - 1;
        match self.random.random_range(0..6) {
            0 => format!(
                "CASE WHEN {} THEN {} ELSE {} END",
                self.expr(Kind::Truth, below),
                self.expr(kind, below),
                self.expr(kind, below)
            ),
            1 => format!("coalesce({}, {})", self.expr(kind, below), self.expr(kind, below)),
            2 => format!("CASE k WHEN 2 THEN {} WHEN 5 THEN {} END", self.expr(kind, below), self.expr(kind, below)),
            _ => self.of_kind(kind, below),
        }
    }

    fn of_kind(&mut self, kind: Kind, depth: u32) -> String {
        match kind {
            Kind::Number => match self.random.random_range(0..5) {
                0 => format!("({} {} {})", self.expr(kind, depth), self.one(&["+", "-", "*"]), self.expr(kind, depth)),
                1 => format!(
                    "CAST({} AS {})",
                    self.column(Kind::Number),
                    self.one(&["DOUBLE", "DECIMAL(38, 4)", "REAL"])
                ),
                2 => format!("length({})", self.column(Kind::Text)),
                3 => format!("abs({})", self.one(&["i8", "i32", "n2", "f64"])),
                _ => format!("nullif({}, {})", self.column(kind), self.literal(kind)),
            },
            Kind::Text => match self.random.random_range(0..3) {
                0 => format!("{} || {}", self.column(kind), self.literal(kind)),
                1 => format!("CAST({} AS VARCHAR)", self.one(&["k", "n2", "f64", "d", "ts", "p"])),
                _ => format!("upper({})", self.expr(kind, depth)),
            },
            Kind::Truth => match self.random.random_range(0..4) {
                0 => format!(
                    "{} IN ({}, {})",
                    self.column(Kind::Number),
                    self.one(&["1", "2.5"]),
                    self.one(&["3", "NULL"])
                ),
                1 => format!("({} < {})", self.expr(Kind::Number, depth), self.expr(Kind::Number, depth)),
                2 => format!("{} IS NULL", self.expr(Kind::Text, depth)),
                _ => format!("({} OR {})", self.expr(kind, depth), self.expr(kind, depth)),
            },
            Kind::Moment => match self.random.random_range(0..3) {
                0 => format!("date_trunc('hour', {})", self.one(&["ts", "tz"])),
                1 => format!("CAST({} AS {})", self.one(&["d", "ts"]), self.one(&["DATE", "TIMESTAMP"])),
                _ => format!("({} + INTERVAL '1 day')", self.column(kind)),
            },
            Kind::List => match self.random.random_range(0..3) {
                0 => format!("make_array({}, {})", self.expr(Kind::Number, depth), self.expr(Kind::Number, depth)),
                1 => format!("make_array({})", self.expr(Kind::Record, 0)),
                _ => format!("array_append(l, {})", self.one(&["k", "1", "NULL"])),
            },
            Kind::Record => match self.random.random_range(0..2) {
                0 => format!(
                    "named_struct('x', {}, 'y', {})",
                    self.expr(Kind::Number, depth),
                    self.expr(Kind::Text, depth)
                ),
                _ => format!("map(make_array('a'), make_array({}))", self.expr(Kind::Number, depth)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_query() {
        assert_eq!(query(7), query(7));
        let different: std::collections::BTreeSet<String> = (0..100).map(query).collect();
        assert!(different.len() > 95);
    }
}
