//! Messages of the engine that show a syntax tree. The construct is told by its name instead.

use super::Refusal;

/// A construct by the name of its tree, as it is written, and what to write instead.
const NAMES: [(&str, &str, &str); 24] = [
    (
        "WindowFunction",
        "a window function in WHERE, ON or GROUP BY",
        "QUALIFY row_number() OVER (...) = 1, or an inner query",
    ),
    ("MatchRecognize", "MATCH_RECOGNIZE", "use lag() and lead() OVER (PARTITION BY ... ORDER BY ...)"),
    ("AsOf", "ASOF JOIN", "join on <=, and keep QUALIFY row_number() OVER (PARTITION BY ... ORDER BY ... DESC) = 1"),
    (
        "OuterReferenceColumn",
        "LATERAL over more than an array's elements",
        "write it as a join, or unnest(...) in SELECT",
    ),
    ("JsonTable", "JSON_TABLE", "read the file as JSON lines, whose objects become structs"),
    ("OpenJsonTable", "OPENJSON", "read the file as JSON lines, whose objects become structs"),
    ("XmlTable", "XMLTABLE", "there is no XML here"),
    ("TableFunction", "TABLE(...) of a function", "call it in FROM: FROM generate_series(1, 10)"),
    ("SemanticView", "SEMANTIC_VIEW", "query its tables"),
    ("Convert", "CONVERT", "CAST(x AS type)"),
    ("Collate", "COLLATE", "texts are compared by code points; lower(x) compares without case"),
    ("IsNormalized", "IS NORMALIZED", "texts are compared as they are"),
    ("MatchAgainst", "MATCH ... AGAINST", "use LIKE or regexp_like(x, pattern)"),
    ("MemberOf", "MEMBER OF", "array_has(list, x)"),
    ("Lambda", "a lambda outside a call", "unnest the array in an inner query, and gather it with array_agg"),
    ("OuterJoin", "the (+) of an outer join", "write LEFT JOIN ... ON"),
    ("Prefixed", "a text with an introducer", "write the text alone"),
    ("InUnnest", "IN UNNEST", "x = ANY (list)"),
    ("CrossApply", "CROSS APPLY", "write it as a join"),
    ("OuterApply", "OUTER APPLY", "write it as a join"),
    ("StraightJoin", "STRAIGHT_JOIN", "write JOIN"),
    ("ArrayJoin", "ARRAY JOIN", "unnest(...) in SELECT"),
    ("Function", "a call behind a dot", "call it with its argument: upper(x)"),
    ("Identifier", "a field behind a dot of a value", "x['name'] is the field of a row"),
];

/// Words of the engine about what it does not do, the construct by its name, and what to write instead.
const NOT_IMPLEMENTED: [(&str, &str, &str); 9] = [
    ("ANY in LIKE expression", "LIKE ANY", "write each comparison: a LIKE 'x%' OR a LIKE 'y%'"),
    ("Operator DIV is not yet supported", "the operator //", "of integers / is a division without a rest"),
    ("PGStartsWith", "the operator ^@", "starts_with(x, 'begin')"),
    ("Empty tuple not supported yet", "()", "leave GROUP BY () out: aggregates without GROUP BY are one row"),
    (
        "unnest() can only be applied to array",
        "UNNEST of this type",
        "UNNEST(list), or UNNEST(map_keys(m), map_values(m)) AS u(k, v)",
    ),
    (
        "names given as column alias",
        "UNNEST of rows into their fields",
        "name the row: UNNEST(list) AS u(r), and take r['name']",
    ),
    ("HAVING clause references: row_number()", "a window function in HAVING", "QUALIFY row_number() OVER (...) = 1"),
    ("HAVING clause references: rank()", "a window function in HAVING", "QUALIFY rank() OVER (...) = 1"),
    ("Unsupported Value", "a text like this", "write it as 'text'"),
];

/// Types that there are not, by their beginnings, and what to write instead.
const TYPES: [(&str, &str); 5] = [
    (
        "JSON",
        "json_parse(x) reads JSON from a text, json_extract_scalar(x, '$.path') a value; --format json writes nested values",
    ),
    ("Map", "map(keys, values) makes a map of two arrays; of JSON take json_extract_scalar(x, '$.key') for each key"),
    ("ROW", "named_struct('name', x, ...) makes a row; its values are cast before"),
    ("VARBINARY(", "VARBINARY has no length: write VARBINARY"),
    ("VARCHAR2", "write VARCHAR"),
];

/// Returns a refusal by name in place of the engine's words about what it does not do; None if the message is another.
pub(super) fn not_implemented(message: &str) -> Option<Refusal> {
    if let Some((_, written)) = message.split_once("Unsupported SQL type ") {
        let written = written.lines().next().unwrap_or_default();
        let known = TYPES.iter().find(|(begin, _)| written.to_lowercase().starts_with(&begin.to_lowercase()));
        let hint = known.map_or("docs/dialect.md has what is written otherwise here", |(_, hint)| hint);
        return Some(Refusal::new(format!("the type {} is not supported", short(written)), hint));
    }
    let (_, what, hint) = NOT_IMPLEMENTED.iter().find(|(words, ..)| message.contains(words))?;
    Some(Refusal::new(format!("{what} is not supported"), *hint))
}

/// Cuts the text of a statement's part.
fn short(text: &str) -> String {
    const SIGNS_MAX: usize = 60;
    match text.char_indices().nth(SIGNS_MAX) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns a refusal by name in place of a message with a syntax tree in it; None if the message has none.
pub(super) fn by_name(message: &str) -> Option<Refusal> {
    let is_dump = message.contains("Span(") || message.contains(": Some(") || message.contains("Ident {");
    let is_node = ["(Field {", "(WindowFunction {"].iter().any(|node| message.contains(node));
    if !is_dump && !is_node {
        return None;
    }
    // The outermost node is the first word before a bracket that is written as the engine's types are.
    let is_type =
        |word: &&str| word.chars().next().is_some_and(char::is_uppercase) && word.chars().any(char::is_lowercase);
    let opened = message.match_indices(['{', '(']).find_map(|(end, _)| {
        let word = message[..end].trim_end();
        let begin = word.rfind(|letter: char| !letter.is_alphanumeric()).map_or(0, |place| place + 1);
        Some(&word[begin..]).filter(is_type)
    })?;
    let (what, hint) = match NAMES.iter().find(|(node, ..)| *node == opened) {
        Some((_, what, hint)) => ((*what).to_owned(), *hint),
        None => (words(opened), "docs/dialect.md has what is written otherwise here"),
    };
    Some(Refusal::new(format!("{what} is not supported"), hint))
}

/// Returns a refusal by name in place of the parser's message about an operator that it does not know.
pub(super) fn operator(message: &str) -> Option<Refusal> {
    let (_, token) = message.split_once("No infix parser for token ")?;
    let (_, word) = token.split_once("value: \"")?;
    let (word, rest) = word.split_once('"')?;
    let place = rest.rfind(" at Line: ").map_or("", |place| &rest[place..]);
    let hint = "of integers / is a division without a rest and % the rest; power(a, b) is a power";
    Some(Refusal::new(format!("there is no operator `{word}`{place}"), hint))
}

/// Writes `SetTimeZone` as `SET TIME ZONE`.
fn words(node: &str) -> String {
    let mut words = String::new();
    for letter in node.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_uppercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_told_by_their_names() {
        let message = "sql parser error: No infix parser for token Word(Word { value: \"DIV\", quote_style: None, keyword: DIV }) at Line: 1, Column: 10";
        let refusal = operator(message).expect("an operator");
        assert_eq!(refusal.message, "there is no operator `DIV` at Line: 1, Column: 10");
        assert_eq!(operator("sql parser error: Expected: AND, found: 7"), None);
    }

    #[test]
    fn what_is_not_done_is_told_by_its_name() {
        for (message, expect, hint) in [
            ("This feature is not implemented: ANY in LIKE expression", "LIKE ANY is not supported", " OR "),
            (
                "This feature is not implemented: Unsupported SQL type JSON",
                "the type JSON is not supported",
                "json_parse",
            ),
            ("Unsupported SQL type ROW(a, INTEGER)", "the type ROW(a, INTEGER) is not supported", "named_struct"),
            ("Unsupported SQL type GEOMETRY", "the type GEOMETRY is not supported", "docs/dialect.md"),
        ] {
            let told = not_implemented(message).expect(message);
            assert_eq!(told.message, expect);
            assert!(told.hint.as_deref().is_some_and(|given| given.contains(hint)), "{told:?}");
        }
        assert_eq!(not_implemented("No field named x"), None);
    }

    #[test]
    fn trees_are_told_by_their_names() {
        for (message, expect) in [
            (
                "This feature is not implemented: Unsupported ast node in sqltorel: Convert { is_try: false, expr: Value(ValueWithSpan { value: Number(\"1\", false), span: Span(Location(1,16)..) }) }",
                "CONVERT is not supported",
            ),
            (
                "Unsupported JOIN operator ArrayJoin(On(BinaryOp { left: CompoundIdentifier([Ident { value: \"t\" }]) }))",
                "ARRAY JOIN is not supported",
            ),
            (
                "Unsupported interval argument. Expected string literal or number, got: Tuple([Value(ValueWithSpan { value: Number(\"1\"), span: Span(Location(1,17)) })])",
                "TUPLE is not supported",
            ),
            (
                "Physical plan does not support logical expression OuterReferenceColumn(Field { name: \"tags\" }, Column)",
                "LATERAL over more than an array's elements is not supported",
            ),
            (
                "Physical plan does not support logical expression WindowFunction(WindowFunction { fun: WindowUDF(WindowUDF {",
                "a window function in WHERE, ON or GROUP BY is not supported",
            ),
        ] {
            assert_eq!(by_name(message).map(|refusal| refusal.message).as_deref(), Some(expect));
        }
        for message in ["TOP", "No field named x", "Operator -> is not yet supported (yet)", "a { b }"] {
            assert_eq!(by_name(message), None, "{message}");
        }
    }
}
