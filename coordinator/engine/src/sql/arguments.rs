//! Messages of the engine about the arguments of a call. They list signatures, in the words of the engine's types, and may
//! ask for a bug report. The call, the argument and its type are told instead.
//!
//! ```text
//!  … No function matches … 'sum(Utf8View)' … Candidate functions: sum(Decimal) sum(Float64) …
//!  ─► sum takes a number, and varchar is given; hint: CAST(x AS DOUBLE) makes a number of a text
//! ```

use super::Refusal;

/// SQLSTATE code of PostgreSQL for a call that no function fits.
const NO_FUNCTION: &str = "42883";

const MATCHES: &str = "No function matches the given name and argument types '";

/// Kind of a value, as far as hints care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Time,
    Boolean,
    Other,
    /// A place that takes a value of every kind.
    Any,
}

impl Kind {
    /// Returns the kind of a type as the engine writes it, in arguments and in signatures.
    fn of(written: &str) -> Self {
        let is = |begins: &[&str]| begins.iter().any(|begin| written.starts_with(begin));
        match written {
            "Any" | "Null" => Self::Any,
            _ if is(&["Utf8", "LargeUtf8", "String", "Dictionary(Int"]) => Self::Text,
            _ if is(&["Int64", "Int32", "Int16", "Int8", "UInt", "Float", "Decimal", "Numeric", "Integer"]) => {
                Self::Number
            }
            _ if is(&["Timestamp", "Date", "Time"]) => Self::Time,
            "Boolean" => Self::Boolean,
            _ => Self::Other,
        }
    }

    /// Returns the kind of a type by the name that `typeof` has for it.
    fn of_name(name: &str) -> Self {
        match name {
            "varchar" => Self::Text,
            "bigint" | "integer" | "smallint" | "tinyint" | "double" | "real" | "decimal" => Self::Number,
            "date" | "timestamp" | "timestamp with time zone" | "time" => Self::Time,
            "boolean" => Self::Boolean,
            _ => Self::Other,
        }
    }

    fn words(self) -> Option<&'static str> {
        match self {
            Self::Text => Some("a text"),
            Self::Number => Some("a number"),
            Self::Time => Some("a date or a time"),
            Self::Boolean => Some("a condition"),
            Self::Other | Self::Any => None,
        }
    }
}

/// Returns the next step where a value is of another kind than a call takes.
fn cast(given: Kind, wanted: &[Kind]) -> Option<&'static str> {
    match (given, wanted) {
        (Kind::Text, [.., Kind::Number]) => Some("CAST(x AS DOUBLE) makes a number of a text"),
        (Kind::Text, [.., Kind::Time]) => {
            Some("CAST(x AS TIMESTAMP) makes a time of a text, date_parse(x, format) of other forms")
        }
        (Kind::Number, [.., Kind::Time]) => Some("from_unixtime(x) makes a time of seconds since 1970"),
        (Kind::Number | Kind::Time | Kind::Boolean, [.., Kind::Text]) => Some("CAST(x AS VARCHAR) makes a text"),
        (Kind::Time, [.., Kind::Number]) => {
            Some("to_unixtime(x) makes seconds of a time, date_diff('day', a, b) days of two")
        }
        (_, [.., Kind::Boolean]) => Some("write a condition, such as x > 0"),
        _ => None,
    }
}

/// Returns a refusal in place of a message that no signature of a function fits; None if the message is another.
pub(super) fn of_call(message: &str) -> Option<Refusal> {
    let (before, rest) = message.split_once(MATCHES)?;
    let (call, rest) = rest.split_once("'. You might")?;
    let (name, given) = call.strip_suffix(')')?.split_once('(')?;
    let given = parts(given);
    let shown = name.strip_prefix("gust_try_").unwrap_or(name);
    let refusal = |message: String, hint: Option<&str>| {
        let lists = || format!("SHOW FUNCTIONS LIKE '{shown}' has its arguments");
        Refusal::new(message, hint.map_or_else(lists, str::to_owned)).with_sqlstate(NO_FUNCTION)
    };
    if let Some(own) = own_words(before) {
        // Ours say what an argument is, and the type that is given in its place.
        let plain = own.split(' ').map(plain_type).collect::<Vec<_>>().join(" ");
        let tail = plain.rsplit_once(", and ").and_then(|(told, of)| Some((told, of.strip_suffix(" is given")?)));
        let (told, of) = match tail {
            Some((told, of)) => (format!("{told}, and {} is given", type_name(of)), type_name(of)),
            None => (plain.clone(), String::new()),
        };
        let of = of.as_str();
        let wanted = [(" a text", Kind::Text), (" an integer", Kind::Number), (" a date or a timestamp", Kind::Time)];
        let wanted = wanted.iter().find(|(words, _)| own.contains(words)).map_or(Kind::Other, |(_, kind)| *kind);
        return Some(refusal(told, cast(Kind::of_name(of), &[wanted])));
    }
    let candidates = candidates(rest, name);
    if let Some(signatures) = &candidates
        && signatures.iter().all(|signature| signature.len() != given.len())
    {
        let mut numbers: Vec<usize> = signatures.iter().map(Vec::len).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
        let noun = if numbers == ["1"] { "argument" } else { "arguments" };
        let verb = if given.len() == 1 { "is" } else { "are" };
        let message = format!("{shown} takes {} {noun}, and {} {verb} given", numbers.join(" or "), given.len());
        return Some(refusal(message, None));
    }
    for (place, of) in given.iter().enumerate() {
        let signatures = candidates.iter().flatten().filter(|signature| signature.len() == given.len());
        let mut wanted: Vec<Kind> = Vec::new();
        for kind in signatures.map(|signature| signature[place]) {
            if !wanted.contains(&kind) {
                wanted.push(kind);
            }
        }
        let of_given = Kind::of(of);
        let words: Vec<&str> = wanted.iter().filter_map(|kind| kind.words()).collect();
        if words.is_empty() || wanted.contains(&of_given) || wanted.contains(&Kind::Any) {
            continue;
        }
        wanted.retain(|kind| kind.words().is_some());
        let at = if given.len() == 1 { String::new() } else { format!(" as argument {}", place + 1) };
        let message = format!("{shown} takes {}{at}, and {} is given", words.join(" or "), type_name(of));
        return Some(refusal(message, cast(of_given, &wanted)));
    }
    let types: Vec<String> = given.iter().map(|of| type_name(of)).collect();
    let hint = match given.first().map(|of| Kind::of(of)) {
        Some(Kind::Other) => None,
        Some(_) if rest.contains("(array") => Some("ARRAY[...] makes a list, array_agg(x) gathers rows"),
        Some(_) if rest.contains("(map") => Some("map(keys, values) makes a map"),
        _ => None,
    };
    Some(refusal(format!("{shown} does not take ({})", types.join(", ")), hint))
}

/// Returns the words of one of our functions inside the engine's.
fn own_words(before: &str) -> Option<&str> {
    let (_, own) = before.split_once("user-defined coercion failed with: ")?;
    let own = own.trim_start_matches("Error during planning: ").trim_start_matches("External error: ");
    let own = own.trim_end_matches(['.', ' ']);
    let is_engines = ["Failed to coerce", "Function '", "Execution error", "The function"]
        .iter()
        .any(|begin| own.starts_with(begin));
    (!is_engines).then_some(own)
}

/// Returns the kinds that each signature takes. None where one of them does not say it.
fn candidates(rest: &str, name: &str) -> Option<Vec<Vec<Kind>>> {
    let lines = rest.lines().filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')'));
    let mut signatures = Vec::new();
    for line in lines {
        if ["UserDefined", "Variadic", "NullAry", "Comparable", ".."].iter().any(|words| line.contains(words)) {
            return if line == "NullAry()" { Some(vec![Vec::new()]) } else { None };
        }
        let mut kinds = Vec::new();
        for part in parts(line) {
            // A place may have a name, and types that it takes alike.
            let of = part.split_once(": ").map_or(part, |(_, of)| of);
            match (of.strip_prefix("Numeric("), of.strip_prefix("Any")) {
                (Some(number), _) => {
                    let number: usize = number.strip_suffix(')')?.parse().ok()?;
                    kinds.extend(std::iter::repeat_n(Kind::Number, number));
                }
                (None, _) => kinds.push(Kind::of(of)),
            }
        }
        signatures.push(kinds);
    }
    (!signatures.is_empty()).then_some(signatures)
}

/// Writes a word that is a type of the engine's by the name that `typeof` has for it.
fn plain_type(word: &str) -> String {
    const PLAIN: [&str; 12] = [
        "Boolean",
        "Date32",
        "Float32",
        "Float64",
        "Int16",
        "Int32",
        "Int64",
        "LargeUtf8",
        "Null",
        "UInt64",
        "Utf8",
        "Utf8View",
    ];
    let bare = word.trim_end_matches(',');
    if PLAIN.contains(&bare) { word.replacen(bare, &type_name(bare), 1) } else { word.to_owned() }
}

/// Splits a list at its outer commas.
fn parts(list: &str) -> Vec<&str> {
    let (mut parts, mut begin, mut depth, mut is_text) = (Vec::new(), 0, 0_usize, false);
    for (place, sign) in list.char_indices() {
        match sign {
            '"' => is_text = !is_text,
            '(' | '<' if !is_text => depth += 1,
            ')' | '>' if !is_text => depth = depth.saturating_sub(1),
            ',' if depth == 0 && !is_text => {
                parts.push(list[begin..place].trim());
                begin = place + 1;
            }
            _ => {}
        }
    }
    parts.push(list[begin..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

/// Writes a type of the engine's by the name that `typeof` has for it.
pub(super) fn type_name(written: &str) -> String {
    let inside = |begin: &str| written.strip_prefix(begin).and_then(|rest| rest.strip_suffix(')'));
    // An item of a list may be marked: `non-null Int64`, `Int64, field: 'item'`.
    let item = |of: &str| type_name(parts(of).first().map_or(of, |first| first.trim_start_matches("non-null ")));
    if let Some(of) = inside("List(").or_else(|| inside("LargeList(")).or_else(|| inside("ListView(")) {
        return format!("array({})", item(of));
    }
    if let Some(of) = inside("Dictionary(") {
        return parts(of).get(1).map_or_else(|| "varchar".to_owned(), |of| type_name(of));
    }
    let name = match written {
        "Utf8" | "LargeUtf8" | "Utf8View" => "varchar",
        "Int64" | "UInt64" => "bigint",
        "Int32" | "UInt32" => "integer",
        "Int16" | "UInt16" => "smallint",
        "Int8" | "UInt8" => "tinyint",
        "Float64" => "double",
        "Float32" | "Float16" => "real",
        "Date32" | "Date64" => "date",
        "Null" => "unknown",
        _ if written.starts_with("Timestamp(") && written.contains(", \"") => "timestamp with time zone",
        _ if written.starts_with("Timestamp(") => "timestamp",
        _ if written.starts_with("Time") => "time",
        _ if written.starts_with("Decimal") => "decimal",
        _ if written.starts_with("Interval") => "interval",
        _ if written.starts_with("Map(") => "map",
        _ if written.starts_with("Struct(") => "row",
        _ if written.contains("Binary") => "varbinary",
        other => return other.to_lowercase(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_fits_no_signature_is_told_by_its_argument() {
        const ASKS: &str = "You might need to add explicit type casts.\n\tCandidate functions:";
        let check = |before: &str, call: &str, candidates: &[&str], message: &str, hint: &str| {
            let lines: String = candidates.iter().map(|line| format!("\n\t{line}")).collect();
            let told = of_call(&format!("{before}{MATCHES}{call}'. {ASKS}{lines}")).expect(call);
            assert_eq!(told.message, message, "{call}");
            assert!(told.hint.as_deref().is_some_and(|given| given.contains(hint)), "{call}: {told:?}");
        };
        let internal = "Internal error: Function 'sum' failed to match any signature, errors: … bug report … ";
        let of_sum = ["sum(Decimal)", "sum(UInt64)", "sum(Float64)", "sum(Duration)"];
        check(internal, "sum(Utf8View)", &of_sum[..3], "sum takes a number, and varchar is given", "CAST(x AS DOUBLE)");
        check(
            internal,
            "sum(List(Utf8View))",
            &of_sum,
            "sum does not take (array(varchar))",
            "SHOW FUNCTIONS LIKE 'sum'",
        );
        check(
            internal,
            "substr(Date32, Int64, Int64)",
            &["substr(str: String, start_pos: Int64)", "substr(str: String, start_pos: Int64, length: Int64)"],
            "substr takes a text as argument 1, and date is given",
            "CAST(x AS VARCHAR)",
        );
        check(
            internal,
            "date_part(Utf8, Int64)",
            &["date_part(String, Timestamp)", "date_part(String, Date)"],
            "date_part takes a date or a time as argument 2, and bigint is given",
            "from_unixtime(x)",
        );
        check("", "abs(Utf8View)", &["abs(Numeric(1))"], "abs takes a number, and varchar is given", "AS DOUBLE");
        check("", "rank(Int64)", &["rank(NullAry())"], "rank takes 0 arguments, and 1 is given", "SHOW FUNCTIONS");
        check("", "nullif(Int64)", &["nullif(Comparable(2))"], "nullif does not take (bigint)", "SHOW FUNCTIONS");
        check(
            "",
            "bool_and(Int64)",
            &["bool_and(Boolean)"],
            "bool_and takes a condition, and bigint is given",
            "x > 0",
        );
        check("", "map_keys(Int64)", &["map_keys(map_array)"], "map_keys does not take (bigint)", "map(keys");
        check(
            "Execution error: Function 'split' user-defined coercion failed with: Error during planning: split(text, delimiter[, limit]): text is a text, and Int64 is given. ",
            "split(Int64, Utf8)",
            &["split(UserDefined)"],
            "split(text, delimiter[, limit]): text is a text, and bigint is given",
            "CAST(x AS VARCHAR)",
        );
        check(
            "Execution error: Function 'map_agg' user-defined coercion failed with: Error during planning: map_agg takes 2 arguments, and 1 are given. ",
            "map_agg(Int64)",
            &["map_agg(UserDefined)"],
            "map_agg takes 2 arguments, and 1 are given",
            "SHOW FUNCTIONS LIKE 'map_agg'",
        );
        check(
            "Execution error: Function 'max' user-defined coercion failed with: Execution error: min/max was called with 2 arguments. It requires only 1.. ",
            "max(Int64, Int64)",
            &["max(UserDefined)"],
            "max does not take (bigint, bigint)",
            "SHOW FUNCTIONS LIKE 'max'",
        );
        assert_eq!(of_call("No field named x"), None);
    }

    #[test]
    fn types_have_the_names_of_typeof() {
        for (written, name) in [
            ("Timestamp(ns, \"+00:00\")", "timestamp with time zone"),
            ("Timestamp(µs)", "timestamp"),
            ("List(non-null Int64)", "array(bigint)"),
            ("List(List(Utf8))", "array(array(varchar))"),
            ("Dictionary(Int32, Utf8)", "varchar"),
            ("Decimal128(10, 2)", "decimal"),
            ("Map(\"entries\": Struct(\"key\": Utf8), unsorted)", "map"),
            ("Boolean", "boolean"),
        ] {
            assert_eq!(type_name(written), name);
        }
    }
}
