//! Words that the parser cannot read. They are written as words that it reads, or refused by name.
//!
//! `PREPARE q FROM …` is `PREPARE q AS …`, and question marks are `$1`, `$2` …. A statement
//! that begins with FROM and selects nothing selects all columns. `USE CATALOG c` is `USE c`. `COPY … TO 'x' (FORMAT f)` is
//! `COPY … TO 'x' STORED AS f`. `U&'\0041'` is its text, and `AS MATERIALIZED (` of WITH is `AS (`. A type `ARRAY(t)` is `ARRAY<t>`.
//! CREATE EXTERNAL TABLE of Athena is in [`super::hive`].

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace, Word};

use super::{Refusal, hive};

/// Beginning of statements that are refused.
struct Head {
    /// First words.
    words: &'static [&'static str],
    /// Word that comes later; empty if none has to.
    later: &'static str,
    message: &'static str,
    hint: &'static str,
}

const fn head(words: &'static [&'static str], message: &'static str, hint: &'static str) -> Head {
    Head { words, later: "", message, hint }
}

const PARTITIONS: &str = "there are no partitions to register";
const LISTED: &str = "folders are listed whenever a query is planned; leave it out";
const TRANSACTIONS: &str = "there are no transactions";
const READS: &str = "gust reads; leave it out";

/// Statements of other engines, with what to write instead.
static HEADS: &[Head] = &[
    head(
        &["SUMMARIZE"],
        "SUMMARIZE is not supported",
        "DESCRIBE t has the types; SELECT min(x), max(x), approx_distinct(x), count(x) FROM t",
    ),
    head(&["PIVOT"], "PIVOT as a statement is not supported", "SELECT * FROM t PIVOT (sum(x) FOR k IN ('a', 'b'))"),
    head(&["UNPIVOT"], "UNPIVOT as a statement is not supported", "SELECT * FROM t UNPIVOT (x FOR k IN (a, b))"),
    head(&["ATTACH"], "ATTACH is not supported", "name the catalog in gust.toml, and open it with --catalog"),
    head(&["DETACH"], "DETACH is not supported", READS),
    head(&["INSTALL"], "INSTALL is not supported", "nothing has to be installed; leave it out"),
    head(&["PRAGMA"], "PRAGMA is not supported", "SHOW ALL lists the settings; SET name = value changes one"),
    head(&["EXECUTE", "IMMEDIATE"], "EXECUTE IMMEDIATE is not supported", "give the statement itself, or PREPARE it"),
    head(&["UNLOAD"], "UNLOAD is not supported", "COPY (SELECT ...) TO 'rows.parquet' writes one file of this machine"),
    head(&["MSCK"], PARTITIONS, LISTED),
    Head { words: &["ALTER", "TABLE"], later: "PARTITION", message: PARTITIONS, hint: LISTED },
    head(&["ANALYZE"], "ANALYZE is not supported", "statistics are those of the files; leave it out"),
    head(&["BEGIN"], TRANSACTIONS, READS),
    head(&["START", "TRANSACTION"], TRANSACTIONS, READS),
    head(&["COMMIT"], TRANSACTIONS, READS),
    head(&["ROLLBACK"], TRANSACTIONS, READS),
    head(&["VACUUM"], "VACUUM is not supported", "gust reads; files stay as they are"),
    head(&["OPTIMIZE"], "OPTIMIZE is not supported", "gust reads; files stay as they are"),
    head(&["CALL"], "CALL is not supported", "there are no procedures; give the queries themselves"),
    head(&["GRANT"], "GRANT is not supported", "there are no users; who may read is the storage's matter"),
    head(&["REVOKE"], "REVOKE is not supported", "there are no users; who may read is the storage's matter"),
    head(&["KILL"], "KILL is not supported", "interrupt the program that runs the query"),
    head(&["CREATE", "INDEX"], "CREATE INDEX is not supported", "files are pruned by their statistics; leave it out"),
    head(
        &["CREATE", "UNIQUE", "INDEX"],
        "CREATE INDEX is not supported",
        "files are pruned by their statistics; leave it out",
    ),
    head(&["CREATE", "MACRO"], "CREATE MACRO is not supported", "write its expression, or CREATE VIEW for a query"),
    head(
        &["CREATE", "FUNCTION"],
        "CREATE FUNCTION is not supported",
        "write its expression, or CREATE VIEW for a query",
    ),
    head(&["CREATE", "SEQUENCE"], "CREATE SEQUENCE is not supported", "number rows with row_number() OVER ()"),
    head(&["COMMENT"], "COMMENT is not supported", READS),
    head(
        &["SHOW", "PARTITIONS"],
        "SHOW PARTITIONS is not supported",
        "SELECT DISTINCT with the partition columns: SELECT DISTINCT year, month FROM t",
    ),
    head(
        &["SHOW", "STATS"],
        "SHOW STATS is not supported",
        "SELECT min(x), max(x), approx_distinct(x), count(x) FROM t",
    ),
    head(
        &["SHOW", "VIEWS"],
        "SHOW VIEWS is not supported",
        "SELECT table_name FROM information_schema.tables WHERE table_type = 'VIEW'",
    ),
    head(&["SHOW", "SESSION"], "SHOW SESSION is not supported", "SHOW ALL lists the settings"),
    head(&["REFRESH"], "REFRESH is not supported", "tables are listed whenever a query is planned; leave it out"),
    head(&["TABLE"], "TABLE as a statement is not supported", "FROM t, or SELECT * FROM t"),
    head(&["UPDATE"], "UPDATE is not supported", "gust reads; write with another tool"),
    head(&["MERGE"], "MERGE is not supported", "gust reads; write with another tool"),
];

/// Rewrites the words of all statements.
///
/// # Errors
/// A refusal of a statement of another engine, with what to write instead.
pub(super) fn rewrite(tokens: &mut Vec<TokenWithSpan>) -> Result<(), Refusal> {
    let mut from_first = Vec::new();
    let mut begin = 0;
    for statement in tokens.split_mut(|token| token.token == Token::SemiColon) {
        let this = begin;
        begin += statement.len() + 1;
        let mut places = Vec::new();
        let mut marks = Vec::new();
        for (place, TokenWithSpan { token, .. }) in statement.iter().enumerate() {
            match token {
                Token::Whitespace(_) => {}
                Token::Placeholder(mark) if mark == "?" => marks.push(place),
                _ => places.push(place),
            }
        }
        let is_numbered = |token: &TokenWithSpan| matches!(&token.token, Token::Placeholder(mark) if mark != "?");
        if !marks.is_empty() && statement.iter().any(is_numbered) {
            return Err(Refusal::new(
                "a statement has `?` and numbered parameters",
                "write `?` or $1, $2 for all of them",
            ));
        }
        let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&statement[*place].token, word));
        for head in HEADS {
            let begins = head.words.iter().enumerate().all(|(at, word)| is(at, word));
            if begins && (head.later.is_empty() || (0..places.len()).any(|at| is(at, head.later))) {
                return Err(Refusal::new(head.message, head.hint));
            }
        }
        if (0..places.len()).any(|at| is(at, "ASOF") && (is(at + 1, "JOIN") || is(at + 1, "LEFT"))) {
            let hint = "join on <=, and keep QUALIFY row_number() OVER (PARTITION BY ... ORDER BY ... DESC) = 1";
            return Err(Refusal::new("ASOF JOIN is not supported", hint));
        }
        refuse_syntax(statement, &places)?;
        hive::rewrite(statement, &places)?;
        let blank = materialized(statement, &places);
        let angles = array_types(statement, &places);
        let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&statement[*place].token, word));
        let format = if is(0, "COPY") { format_of_copy(statement, &places)? } else { None };
        let names_kind = ["CATALOG", "SCHEMA", "DATABASE"].iter().any(|kind| is(1, kind));
        // The name tells which it is.
        let kind = (is(0, "USE") && names_kind && places.len() > 2).then(|| places[1]);
        if is(0, "FROM") && !has_outer_select(statement) {
            from_first.push(this + places[0]);
        }
        let from = (is(0, "PREPARE") && is(2, "FROM")).then(|| places[2]);
        if let Some(kind) = kind {
            statement[kind].token = Token::Whitespace(Whitespace::Space);
        }
        if let Some(CopyFormatWords { open, format, name, close }) = format {
            let words = [(open, "STORED"), (format, "AS"), (name.0, name.1.as_str())];
            words.into_iter().for_each(|(place, word)| statement[place].token = Token::make_keyword(word));
            statement[close].token = Token::Whitespace(Whitespace::Space);
        }
        for place in blank {
            statement[place].token = Token::Whitespace(Whitespace::Space);
        }
        for (place, token) in angles {
            statement[place].token = token;
        }
        for TokenWithSpan { token, .. } in statement.iter_mut() {
            if let Token::UnicodeStringLiteral(text) = token {
                *token = Token::SingleQuotedString(std::mem::take(text));
            }
        }
        for (number, place) in marks.into_iter().enumerate() {
            statement[place].token = Token::Placeholder(format!("${}", number + 1));
        }
        if let Some(from) = from {
            statement[from].token = Token::make_keyword("AS");
        }
    }
    if !from_first.is_empty() {
        select_all(tokens, from_first);
    }
    Ok(())
}

/// Refuses syntax that the parser cannot read and that one word gives away.
fn refuse_syntax(statement: &[TokenWithSpan], places: &[usize]) -> Result<(), Refusal> {
    let token = |at: usize| places.get(at).map(|place| &statement[*place].token);
    let is = |at: usize, word: &str| token(at).is_some_and(|token| is_word(token, word));
    let opens = |at: usize| token(at) == Some(&Token::LParen);
    let refused = |what: &str, hint: &str| Err(Refusal::new(format!("{what} is not supported"), hint));
    if is(0, "VALUES") && token(1).is_some() && !opens(1) {
        return refused("VALUES of rows without brackets", "VALUES (1), (2)");
    }
    if is(0, "EXPLAIN") && opens(1) && ["TYPE", "IO"].iter().any(|kind| is(2, kind)) {
        let hint = "EXPLAIN shows the plan and its place, EXPLAIN COST the dollars, EXPLAIN ANALYZE runs it";
        return refused("EXPLAIN (TYPE ...)", hint);
    }
    let mut brackets = 0_usize;
    let (mut depth, mut depth_of_items) = (0_usize, usize::MAX);
    for at in 0..places.len() {
        match token(at) {
            Some(Token::LParen) if token(at + 1) != Some(&Token::Plus) => depth += 1,
            Some(Token::RParen) => depth = depth.saturating_sub(1),
            Some(Token::LBracket | Token::LBrace) => brackets += 1,
            Some(Token::RBracket | Token::RBrace) => brackets = brackets.saturating_sub(1),
            Some(Token::LParen) if token(at + 1) == Some(&Token::Plus) && token(at + 2) == Some(&Token::RParen) => {
                return refused("the (+) of an outer join", "write LEFT JOIN ... ON");
            }
            _ => {}
        }
        if is(at, "FILTER") && opens(at + 1) && at > 0 && token(at - 1) == Some(&Token::RParen) && !is(at + 2, "WHERE")
        {
            return refused("FILTER without WHERE", "sum(x) FILTER (WHERE condition)");
        }
        if is(at, "USING") && is(at + 1, "SAMPLE") {
            return refused(
                "USING SAMPLE",
                "FROM t TABLESAMPLE BERNOULLI (10), or ORDER BY random() LIMIT 10 for a number of rows",
            );
        }
        if is(at, "POSITIONAL") && is(at + 1, "JOIN") {
            return refused("POSITIONAL JOIN", "number the rows of both: row_number() OVER () AS n, and join by n");
        }
        if is(at, "SELECT") {
            depth_of_items = depth;
        }
        // Commas of calls and lambdas are deeper.
        let is_behind_comma = || token(at - 1) == Some(&Token::Comma) && depth == depth_of_items;
        let begins_item = at > 0 && (is(at - 1, "SELECT") || is(at - 1, "DISTINCT") || is_behind_comma());
        if brackets == 0
            && begins_item
            && matches!(token(at), Some(Token::Word(_)))
            && token(at + 1) == Some(&Token::Colon)
        {
            return refused(
                "a name in front of a colon",
                "count(*) AS n names a column; x ->> 'key' is a value of JSON",
            );
        }
        if brackets > 0 && is(at, "FOR") && is(at + 2, "IN") {
            return refused("a list comprehension", "transform(filter(list, x -> x > 1), x -> x * 2)");
        }
        if is(at, "json_object") && opens(at + 1) {
            return refused(
                "json_object",
                "--format json writes nested values as JSON; named_struct('name', x) is one",
            );
        }
    }
    Ok(())
}

/// Returns the places of `[NOT] MATERIALIZED` in front of a query in WITH: the rows are the same.
fn materialized(statement: &[TokenWithSpan], places: &[usize]) -> Vec<usize> {
    let token = |at: usize| places.get(at).map(|place| &statement[*place].token);
    let is = |at: usize, word: &str| token(at).is_some_and(|token| is_word(token, word));
    let of = |at: usize| {
        let word = at + 1 + usize::from(is(at + 1, "NOT"));
        let is_hint = is(at, "AS") && is(word, "MATERIALIZED") && token(word + 1) == Some(&Token::LParen);
        places[at + 1..].iter().take(if is_hint { word - at } else { 0 }).copied()
    };
    (0..places.len()).flat_map(of).collect()
}

/// Returns the brackets of types `ARRAY(t)` behind AS, `::` or another such bracket, as the parser reads them.
fn array_types(statement: &[TokenWithSpan], places: &[usize]) -> Vec<(usize, Token)> {
    let token = |at: usize| places.get(at).map(|place| &statement[*place].token);
    let is = |at: usize, word: &str| token(at).is_some_and(|token| is_word(token, word));
    let mut angles = Vec::new();
    let mut open: Vec<bool> = Vec::new();
    for (at, place) in places.iter().enumerate() {
        let is_type =
            |at: usize| at > 0 && (is(at - 1, "AS") || matches!(token(at - 1), Some(Token::DoubleColon | Token::Lt)));
        match token(at) {
            Some(Token::LParen) => {
                let inside = at > 1 && open.last() == Some(&true) && token(at - 2) == Some(&Token::LParen);
                let is_array = at > 0 && is(at - 1, "ARRAY") && (is_type(at - 1) || inside);
                open.push(is_array);
                if is_array {
                    angles.push((*place, Token::Lt));
                }
            }
            Some(Token::RParen) if open.pop() == Some(true) => angles.push((*place, Token::Gt)),
            _ => {}
        }
    }
    angles
}

/// Places of the words `(FORMAT name)`, and the name.
struct CopyFormatWords {
    open: usize,
    format: usize,
    name: (usize, String),
    close: usize,
}

/// Finds the format in the options of a COPY that has them in brackets. `places` are those of its words.
///
/// # Errors
/// A refusal of other options, and of COPY FROM.
fn format_of_copy(statement: &[TokenWithSpan], places: &[usize]) -> Result<Option<CopyFormatWords>, Refusal> {
    let token = |at: usize| places.get(at).map(|place| &statement[*place].token);
    let is = |at: usize, word: &str| token(at).is_some_and(|token| is_word(token, word));
    let mut depth = 0_usize;
    let outside = (0..places.len()).filter(|at| {
        match token(*at) {
            Some(Token::LParen) => depth += 1,
            Some(Token::RParen) => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    });
    match outside.into_iter().find(|at| is(*at, "TO") || is(*at, "FROM")) {
        Some(from) if is(from, "FROM") => {
            Err(Refusal::new("COPY FROM is not supported", "gust reads files where they are: SELECT * FROM 'rows.csv'"))
        }
        Some(to) => {
            // After TO and the file's name.
            let open = to + 2 + usize::from(is(to + 2, "WITH"));
            match (token(open), token(open + 2), token(open + 3), token(open + 4)) {
                (
                    Some(Token::LParen),
                    Some(Token::Word(Word { value: name, .. }) | Token::SingleQuotedString(name)),
                    Some(Token::RParen),
                    None,
                ) if is(open + 1, "FORMAT") && open == to + 2 => {
                    let [format, name_at, close] = [1, 2, 3].map(|more| places[open + more]);
                    Ok(Some(CopyFormatWords { open: places[open], format, name: (name_at, name.clone()), close }))
                }
                (Some(Token::LParen), ..) => Err(Refusal::new(
                    "COPY: options in brackets are not supported, but FORMAT alone is",
                    "COPY (SELECT ...) TO 'rows.parquet' (FORMAT PARQUET); the query chooses and changes the columns",
                )),
                _ => Ok(None),
            }
        }
        None => Ok(None),
    }
}

/// Writes `SELECT *` at these places.
fn select_all(tokens: &mut Vec<TokenWithSpan>, places: Vec<usize>) {
    let mut places = places.into_iter().peekable();
    for (place, token) in std::mem::take(tokens).into_iter().enumerate() {
        if places.next_if_eq(&place).is_some() {
            let span = token.span;
            let space = || Token::Whitespace(Whitespace::Space);
            let all = [Token::make_keyword("SELECT"), space(), Token::Mul, space()];
            tokens.extend(all.map(|token| TokenWithSpan { token, span }));
        }
        tokens.push(token);
    }
}

/// Tells if a statement has a SELECT outside all brackets.
fn has_outer_select(statement: &[TokenWithSpan]) -> bool {
    let mut depth = 0_usize;
    statement.iter().any(|TokenWithSpan { token, .. }| {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && is_word(token, "SELECT")
    })
}

/// Tells if a token is this word. A quoted word is a name.
pub(super) fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(given) if given.quote_style.is_none() && given.value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParserBuilder;

    use crate::sql::{parsed, tokens};

    #[test]
    fn words_are_written_as_the_parser_reads_them() {
        for (text, expect) in [
            (
                "PREPARE q FROM SELECT a FROM t WHERE a > ? AND b < ?",
                "PREPARE q AS SELECT a FROM t WHERE a > $1 AND b < $2",
            ),
            ("prepare q as select ?", "PREPARE q AS SELECT $1"),
            ("PREPARE q AS SELECT $2, $1", "PREPARE q AS SELECT $2, $1"),
            ("SELECT a FROM t WHERE b = ? AND c IN (?, '?')", "SELECT a FROM t WHERE b = $1 AND c IN ($2, '?')"),
            (
                "SELECT \"asof\".a FROM t AS \"asof\" JOIN u ON true",
                "SELECT \"asof\".a FROM t AS \"asof\" JOIN u ON true",
            ),
            ("SELECT pragma FROM t", "SELECT pragma FROM t"),
            ("USE CATALOG lake", "USE lake"),
            ("USE SCHEMA lake.a", "USE lake.a"),
            ("USE catalog", "USE catalog"),
            ("; FROM t WHERE a IN (SELECT 1) LIMIT 2", "SELECT * FROM t WHERE a IN (SELECT 1) LIMIT 2"),
            ("FROM t SELECT a", "FROM t SELECT a"),
            ("SELECT U&'\\0041b'", "SELECT 'Ab'"),
            ("WITH x AS MATERIALIZED (SELECT 1) SELECT * FROM x", "WITH x AS (SELECT 1) SELECT * FROM x"),
            ("WITH x AS NOT MATERIALIZED (SELECT 1) SELECT * FROM x", "WITH x AS (SELECT 1) SELECT * FROM x"),
            (
                "SELECT CAST(a AS ARRAY(BIGINT)), b::ARRAY(ARRAY(VARCHAR(3)))",
                "SELECT CAST(a AS ARRAY<BIGINT>), b::ARRAY<ARRAY<VARCHAR(3)>>",
            ),
            (
                "SELECT ARRAY(SELECT 1) AS array, materialized FROM t",
                "SELECT ARRAY(SELECT 1) AS array, materialized FROM t",
            ),
        ] {
            assert_eq!(parsed(text).to_string(), expect);
        }
    }

    #[test]
    fn a_copy_in_brackets_is_read() {
        for (text, expect) in [
            ("COPY t TO 'x' (FORMAT parquet)", "COPY t TO x STORED AS PARQUET"),
            ("copy (SELECT a FROM t) to 'x'(format 'csv')", "COPY (SELECT a FROM t) TO x STORED AS CSV"),
            ("COPY (SELECT (a) FROM t) TO 'x.csv'", "COPY (SELECT (a) FROM t) TO x.csv"),
        ] {
            let mut parser = DFParserBuilder::new(tokens(text).expect("words")).build().expect("a parser");
            assert_eq!(parser.parse_statement().expect(text).to_string(), expect);
        }
    }

    #[test]
    fn statements_of_other_engines_are_refused_with_what_to_write() {
        for (text, message, hint) in [
            ("SUMMARIZE t", "SUMMARIZE is not supported", "DESCRIBE"),
            ("SELECT 1; /* more */ msck repair TABLE t", "there are no partitions to register", "leave it out"),
            (
                "ALTER TABLE t ADD IF NOT EXISTS PARTITION (a = 1)",
                "there are no partitions to register",
                "leave it out",
            ),
            ("BEGIN", "there are no transactions", "leave it out"),
            ("EXECUTE IMMEDIATE 'SELECT 1'", "EXECUTE IMMEDIATE is not supported", "PREPARE"),
            ("SELECT 1 FROM t ASOF JOIN u ON t.a >= u.a", "ASOF JOIN is not supported", "QUALIFY"),
            ("SHOW VIEWS", "SHOW VIEWS is not supported", "information_schema.tables"),
            ("REFRESH TABLE t", "REFRESH is not supported", "leave it out"),
            ("TABLE t", "TABLE as a statement is not supported", "FROM t"),
            ("VALUES 1, 2", "VALUES of rows without brackets is not supported", "VALUES (1), (2)"),
            ("EXPLAIN (TYPE IO) SELECT 1", "EXPLAIN (TYPE ...) is not supported", "EXPLAIN COST"),
            ("SELECT 1 FROM a, b WHERE a.x = b.x (+)", "the (+) of an outer join is not supported", "LEFT JOIN"),
            ("SELECT sum(a) FILTER (b > 1) FROM t", "FILTER without WHERE is not supported", "FILTER (WHERE"),
            ("SELECT * FROM t USING SAMPLE 10%", "USING SAMPLE is not supported", "TABLESAMPLE"),
            ("SELECT [x * 2 FOR x IN [1, 2]]", "a list comprehension is not supported", "transform"),
            ("SELECT json_object('a': 1)", "json_object is not supported", "named_struct"),
            ("SHOW PARTITIONS t", "SHOW PARTITIONS is not supported", "SELECT DISTINCT"),
            ("SELECT $1, ?", "a statement has `?` and numbered parameters", "for all of them"),
            ("COPY t FROM 'rows.csv'", "COPY FROM is not supported", "SELECT * FROM"),
            (
                "COPY (SELECT a FROM t) TO 'x.csv' (HEADER, DELIMITER ';')",
                "COPY: options in brackets are not supported, but FORMAT alone is",
                "FORMAT PARQUET",
            ),
            (
                "COPY t TO 'x.csv' WITH (FORMAT csv)",
                "COPY: options in brackets are not supported, but FORMAT alone is",
                "FORMAT PARQUET",
            ),
        ] {
            let told = crate::error::QueryError::from_engine(tokens(text).expect_err(text));
            assert_eq!(told.message(), message, "{text}");
            assert!(told.hint().is_some_and(|given| given.contains(hint)), "{text}: {told:?}");
        }
    }
}
