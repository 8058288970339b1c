//! Random expressions of one type over columns of odd values, in words that DuckDB and DataFusion understand alike.
//!
//! Expressions that fail at run time for some rows only (a sum that overflows, a division by nought) are left out: an
//! engine is free to evaluate them or not. Expressions that the two engines understand differently are left out, too. They
//! stand on the dialect page: division of integers, casts that round, the text of a float.

use rand::Rng;
use rand::rngs::SmallRng;

/// Kind of an expression's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Few values, for keys.
    Small,
    Int,
    Long,
    /// Any double, the largest too. Nothing adds them up.
    Double,
    Real,
    /// Doubles whose sums are exact, with NaN and infinities.
    Tame,
    Decimal,
    Wide,
    Text,
    Bool,
    Date,
    Time,
}
use Kind::*;

pub const KINDS: [Kind; 12] = [Small, Int, Long, Double, Real, Tame, Decimal, Wide, Text, Bool, Date, Time];

impl Kind {
    pub fn column(self) -> &'static str {
        match self {
            Small => "k",
            Int => "i",
            Long => "l",
            Double => "f",
            Real => "r",
            Tame => "g",
            Decimal => "d",
            Wide => "w",
            Text => "s",
            Bool => "b",
            Date => "t",
            Time => "z",
        }
    }

    fn literals(self) -> &'static [&'static str] {
        match self {
            Small => &["0", "1", "2", "4", "9", "CAST(NULL AS INT)"],
            Int => &["0", "1", "-1", "7", "CAST('2147483647' AS INT)", "CAST('-2147483648' AS INT)"],
            Long => &[
                "0",
                "1",
                "CAST('9223372036854775807' AS BIGINT)",
                "CAST('-9223372036854775808' AS BIGINT)",
                "CAST('9007199254740993' AS BIGINT)",
            ],
            Double | Real => &[
                "CAST('NaN' AS DOUBLE)",
                "CAST('Infinity' AS DOUBLE)",
                "CAST('-Infinity' AS DOUBLE)",
                "CAST('-0.0' AS DOUBLE)",
                "CAST('0' AS DOUBLE)",
                "CAST('1.5' AS DOUBLE)",
                "CAST(NULL AS DOUBLE)",
            ],
            Tame => {
                &["CAST('0.25' AS DOUBLE)", "CAST('-0.0' AS DOUBLE)", "CAST('3' AS DOUBLE)", "CAST('NaN' AS DOUBLE)"]
            }
            Decimal => &[
                "CAST('0.00' AS DECIMAL(12, 2))",
                "CAST('1.50' AS DECIMAL(12, 2))",
                "CAST('-9999999999.99' AS DECIMAL(12, 2))",
                "CAST('9999999999.99' AS DECIMAL(12, 2))",
            ],
            Wide => &["CAST('0' AS DECIMAL(38, 6))", "CAST('1.5' AS DECIMAL(38, 6))"],
            Text => &["''", "' '", "'a'", "'A'", "'é'", "'NULL'", "'a%b'", "'漢字'"],
            Bool => &["true", "false"],
            Date => &[
                "DATE '0001-01-01'",
                "DATE '1969-12-31'",
                "DATE '1970-01-01'",
                "DATE '2024-02-29'",
                "DATE '9999-12-31'",
            ],
            Time => &[
                "TIMESTAMP '1970-01-01 00:00:00'",
                "TIMESTAMP '1969-12-31 23:59:59.999999'",
                "TIMESTAMP '2024-02-29 12:34:56.789'",
            ],
        }
    }
}

/// Marks around two texts of one meaning: ours and the judge's.
const MARKS: [char; 3] = ['\u{1}', '\u{2}', '\u{3}'];

fn either(ours: &str, theirs: &str) -> String {
    let [begin, middle, end] = MARKS;
    format!("{begin}{ours}{middle}{theirs}{end}")
}

/// Returns a text as we read it, or as the judge does.
pub fn as_read_by(text: &str, is_judge: bool) -> String {
    let [begin, middle, end] = MARKS;
    let (mut kept, mut sides) = (String::new(), Vec::new());
    for sign in text.chars() {
        match sign {
            _ if sign == begin => sides.push(false),
            _ if sign == middle => sides.iter_mut().last().into_iter().for_each(|side| *side = true),
            _ if sign == end => _ = sides.pop(),
            sign if sides.iter().all(|side| *side == is_judge) => kept.push(sign),
            _ => {}
        }
    }
    kept
}

/// Randomness, and the prefixes that columns are called by.
pub struct Writer<'a> {
    pub random: &'a mut SmallRng,
    /// Prefixes of columns: `x.`, `y.` and `z.`, or the empty one.
    pub tables: Vec<&'static str>,
}

impl Writer<'_> {
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.random_range(0..of.len())]
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    pub fn kind(&mut self) -> Kind {
        self.pick(&KINDS)
    }

    pub fn column(&mut self, kind: Kind) -> String {
        let tables = self.tables.clone();
        format!("{}{}", self.pick(&tables), kind.column())
    }

    pub fn literal(&mut self, kind: Kind) -> &'static str {
        self.pick(kind.literals())
    }

    /// Returns a value of a kind. `depth` bounds its nesting.
    pub fn value(&mut self, kind: Kind, depth: u32) -> String {
        if depth == 0 || self.chance(0.4) {
            return self.column(kind);
        }
        let inner = self.value(kind, depth - 1);
        // A literal would turn the column into nanoseconds, which cannot reach the year 9999.
        if kind != Time && self.chance(0.3) {
            let literal = self.literal(kind);
            return match self.random.random_range(0..4) {
                0 => format!("coalesce({inner}, {literal})"),
                1 => format!("nullif({inner}, {literal})"),
                2 => {
                    let condition = self.condition(depth - 1);
                    format!("CASE WHEN {condition} THEN {inner} ELSE {literal} END")
                }
                _ => {
                    let (condition, other) = (self.condition(depth - 1), self.column(kind));
                    format!("CASE WHEN {condition} THEN {inner} WHEN {other} IS NULL THEN {literal} END")
                }
            };
        }
        let around = match kind {
            Small => ["abs({})", "({} + 1)", "({} * 2)", "({} % 3)", "(- {})"].as_slice(),
            Int => &["({} % 7)", "coalesce({}, 7)", "CAST({} AS BIGINT)"],
            Long => &["({} % 1000)", "coalesce({}, 5)", "nullif({}, 0)"],
            Double => &["abs({})", "(- {})", "coalesce({}, CAST('1' AS DOUBLE))"],
            Real => &["CAST({} AS DOUBLE)", "abs({})", "(- {})"],
            Tame => &["abs({})", "(- {})", "({} + CAST('0.25' AS DOUBLE))", "({} * 2)", "floor({})", "ceil({})"],
            Decimal => &["abs({})", "(- {})", "coalesce({}, 0)", "CAST({} AS DOUBLE)"],
            Wide => &["abs({})", "(- {})"],
            Text => &[
                "upper({})",
                "lower({})",
                "({} || 'x')",
                "substr({}, 1, 2)",
                "trim({})",
                "replace({}, 'a', 'bb')",
                "reverse({})",
                "concat({}, 'y')",
                "lpad({}, 3, 'p')",
                "left({}, 1)",
            ],
            Bool => &["(NOT {})", "({} OR true)", "({} AND NULL)", "({} IS TRUE)"],
            Date => &["coalesce({}, DATE '2000-01-01')", "greatest({}, DATE '1970-01-01')"],
            Time => &["greatest({}, {})", "least({}, {})"],
        };
        let around = self.pick(around);
        if self.chance(0.15) {
            // The same for each element of a list, of which one is taken.
            let (other, place) = (self.column(kind), self.random.random_range(1..=2));
            return format!("(list_transform([{inner}, {other}], lambda e: {}))[{place}]", around.replace("{}", "e"));
        }
        around.replace("{}", &inner)
    }

    /// Returns a small number: a length, a year, a month, a position or a key.
    pub fn number(&mut self, depth: u32) -> String {
        let text = self.value(Text, depth);
        let date = self.value(Date, depth);
        let small = self.value(Small, depth);
        match self.random.random_range(0..11) {
            // Elements that are kept, with a column from outside.
            9 => {
                let (kind, not) = (self.kind(), self.pick(&["", "NOT "]));
                let (element, other, least) = (self.value(kind, depth), self.column(kind), self.column(kind));
                let compare = self.pick(&["=", "<>", "<", ">=", "IS DISTINCT FROM"]);
                let kept =
                    format!("list_filter([{element}, {other}, {element}], lambda e: {not}(e {compare} {least}))");
                format!("coalesce(array_length({kept}), 0)")
            }
            // A list from the left: DuckDB's first element is the state.
            10 => {
                let (other, body) =
                    (self.column(Small), self.pick(&["s + coalesce(e, 7)", "s * 2 + e", "greatest(s, e)"]));
                let ours = format!("reduce([{small}, {other}], 1, (s, e) -> {body}, s -> s * 3)");
                let theirs = format!("(list_reduce([1, {small}, {other}], lambda s, e: {body}) * 3)");
                format!("CAST({} AS INT)", either(&ours, &theirs))
            }
            5 => format!("CAST(date_diff('day', {date}, DATE '2000-01-01') AS INT)"),
            6 => format!("coalesce(array_length(split({text}, 'a')), 0)"),
            7 => format!("coalesce(array_length(regexp_extract_all({text}, '[a-z]')), 0)"),
            8 => format!("CASE WHEN json_valid({text}) THEN 1 ELSE 0 END"),
            0 => format!("length({text})"),
            1 => format!("CAST(extract(year FROM {date}) AS INT)"),
            2 => format!("strpos({text}, 'a')"),
            3 => format!("CAST(extract(month FROM {date}) AS INT)"),
            _ => small,
        }
    }

    /// Returns a condition that is true, false or NULL.
    pub fn condition(&mut self, depth: u32) -> String {
        if depth > 0 && self.chance(0.35) {
            let (left, right) = (self.condition(depth - 1), self.condition(depth - 1));
            return match self.random.random_range(0..5) {
                0 | 1 => format!("({left} AND {right})"),
                2 | 3 => format!("({left} OR {right})"),
                _ => format!("(NOT {left})"),
            };
        }
        let kind = self.kind();
        let value = self.value(kind, depth.min(1));
        let (low, high) = (self.literal(kind), self.literal(kind));
        let compare = self.pick(&["=", "<>", "<", "<=", ">", ">="]);
        match (self.random.random_range(0..11), kind) {
            (0, _) => format!("{value} IS NULL"),
            (1, _) => format!("{value} IS NOT NULL"),
            (2, Bool) => value,
            (2, Text) => {
                let pattern = self.pick(&["a%", "%b", "%", "", "_", "%é%", "a\\%b"]);
                let not = self.pick(&["", "NOT "]);
                format!("{value} {not}LIKE '{pattern}'").replace("a\\%b", "a_b")
            }
            (3, _) if kind != Bool => format!("{value} BETWEEN {low} AND {high}"),
            (4, _) => format!("{value} IN ({low}, {high})"),
            (5, _) => format!("{value} NOT IN ({low}, {high})"),
            (6, _) => {
                let (other, word) = (self.column(kind), self.pick(&["IS DISTINCT FROM", "IS NOT DISTINCT FROM"]));
                format!("{value} {word} {other}")
            }
            (7, _) => {
                let other = self.column(kind);
                format!("{value} {compare} {other}")
            }
            (8, _) => {
                let number = self.number(0);
                format!("{number} {compare} {}", self.random.random_range(-1..4))
            }
            (9, _) => self.lists(kind),
            _ => format!("{value} {compare} {low}"),
        }
    }

    /// Returns two lists for one column, in one condition.
    fn lists(&mut self, kind: Kind) -> String {
        let (column, both) = (self.column(kind), self.pick(&["AND", "OR"]));
        let mut list = || {
            let not = self.pick(&["", "NOT "]);
            let items = (0..self.random.random_range(1..6)).map(|_| match self.random.random_range(0..10) {
                0 => "NULL".to_owned(),
                1 => self.column(kind),
                _ => self.literal(kind).to_owned(),
            });
            let items: Vec<String> = items.collect();
            format!("{column} {not}IN ({})", items.join(", "))
        };
        let (left, right) = (list(), list());
        format!("({left} {both} {right})")
    }
}
