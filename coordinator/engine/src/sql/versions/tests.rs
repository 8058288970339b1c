use super::*;
use crate::sql::{parsed, tokens};

#[test]
fn versions_become_parts_of_names() {
    for (text, expect) in [
        ("SELECT * FROM t FOR VERSION AS OF 5", "SELECT * FROM \"t\u{1}v\u{1}5\" AS \"t\""),
        ("SELECT * FROM c.n.T for system_version as of -5 AS x", "SELECT * FROM c.n.\"t\u{1}v\u{1}-5\" AS x"),
        ("SELECT * FROM \"T\" VERSION AS OF 'a b' x", "SELECT * FROM \"T\u{1}v\u{1}'a b'\" x"),
        (
            "SELECT * FROM t FOR TIMESTAMP AS OF (current_timestamp - interval '1' day) WHERE a = 1",
            "SELECT * FROM \"t\u{1}t\u{1}(current_timestamp - interval '1' day)\" AS \"t\" WHERE a = 1",
        ),
        (
            "SELECT * FROM t FOR SYSTEM_TIME AS OF TIMESTAMP '2026-01-01' JOIN u TIMESTAMP AS OF '2026-01-02' ON true",
            "SELECT * FROM \"t\u{1}t\u{1}TIMESTAMP '2026-01-01'\" AS \"t\" JOIN \"u\u{1}t\u{1}'2026-01-02'\" AS \"u\" ON true",
        ),
        ("SELECT * FROM t AT (VERSION => 5), t", "SELECT * FROM \"t\u{1}v\u{1}5\" AS \"t\", t"),
        ("SELECT * FROM t AT (TIMESTAMP => now()) y", "SELECT * FROM \"t\u{1}t\u{1}now()\" y"),
        ("DESCRIBE t FOR VERSION AS OF 5", "DESCRIBE \"t\u{1}v\u{1}5\""),
        ("DESCRIBE SELECT t.id FROM t FOR VERSION AS OF 5", "DESCRIBE SELECT t.id FROM \"t\u{1}v\u{1}5\" AS \"t\""),
        // Other uses of the words.
        ("SELECT version AS of FROM t", "SELECT version AS of FROM t"),
        ("SELECT t.version AS of, timestamp AS of FROM t", "SELECT t.version AS of, timestamp AS of FROM t"),
        ("SELECT a AT TIME ZONE 'UTC' FROM t", "SELECT a AT TIME ZONE 'UTC' FROM t"),
        ("SELECT version FROM version", "SELECT version FROM version"),
    ] {
        let written = parsed(text).to_string();
        assert_eq!(written, expect, "{text}");
        let again = shown(&written);
        assert!(!again.contains(MARK), "{again}");
        assert_eq!(parsed(&again).to_string(), written, "what is shown means the same");
    }
}

#[test]
fn a_version_that_is_not_understood_is_refused() {
    for (text, message) in [
        ("SELECT * FROM (SELECT 1) FOR VERSION AS OF 5", "only a table has versions, and `)` is no table's name"),
        (
            "SELECT * FROM 'a.parquet' FOR VERSION AS OF 5",
            "only a table has versions, and `'a.parquet'` is no table's name",
        ),
        ("SELECT * FROM t FOR VERSION AS OF", "a version is not understood: VERSION AS OF has no value behind it"),
        ("SELECT * FROM t AT (TIMESTAMP => )", "a version is not understood: TIMESTAMP AS OF has no value behind it"),
        ("SELECT * FROM t VERSION AS OF x FOR VERSION AS OF 5", "a table has two versions"),
        ("DESCRIBE SELECT * FROM t x FOR VERSION AS OF 5", "only a table has versions, and `x` is no table's name"),
        ("DESC SELECT * FROM t AS x VERSION AS OF 5", "only a table has versions, and `x` is no table's name"),
        ("SELECT * FROM t \"x y\" FOR VERSION AS OF 5", "only a table has versions, and `\"x y\"` is no table's name"),
        (
            "SELECT * FROM (SELECT 1) x FOR TIMESTAMP AS OF now()",
            "only a table has versions, and `x` is no table's name",
        ),
        ("SELECT * FROM UNNEST([1]) u AT (VERSION => 5)", "only a table has versions, and `u` is no table's name"),
        (
            &format!("SELECT * FROM t FOR VERSION AS OF 1{}", " + 1".repeat(100)),
            "the value of VERSION AS OF has more than 128 words and signs",
        ),
        ("SELECT * FROM t AT (VERSION => 5, 6)", "a version is not understood: VERSION AS OF has no value behind it"),
    ] {
        let told = QueryError::from_engine(tokens(text).expect_err(text));
        assert_eq!(told.message(), message, "{text}");
    }
}

const BYTES: usize = 1 << 20;

/// Returns a text of `block` again and again, cut into tokens.
fn repeats(block: &str) -> Vec<TokenWithSpan> {
    let text = format!("SELECT * FROM {}", block.repeat(BYTES / block.len()));
    Tokenizer::new(&GenericDialect {}, &text).tokenize_with_location().expect(block)
}

#[test]
fn the_search_takes_as_long_as_the_text_is() {
    // A version is looked at in a window of words, whatever stands behind it.
    const LOOKS_MAX: usize = VALUE_WORDS_FIRST + VALUE_WORDS_MAX + 16;
    for (block, is_version) in [
        (" ", false),
        ("t ", false),
        (";", false),
        ("AT ", false),
        ("AT (", false),
        ("FOR ", false),
        ("VERSION AS ", false),
        ("t AT (VERSION, ", false),
        ("/* */ FOR VERSION ", false),
        ("t VERSION AS OF 5, ", true),
        ("t FOR VERSION AS OF 5; ", true),
        ("t AT (TIMESTAMP => now()), ", true),
        ("t FOR TIMESTAMP AS OF now() - 1 - 1 - 1 - 1 - 1 - 1 - 1 - 1 - 1 - 1, ", true),
    ] {
        let mut tokens = repeats(block);
        let before = tokens.len();
        let looks = rewrite_counted(&mut tokens).unwrap_or_else(|refusal| panic!("{block}: {refusal:?}"));
        assert!(looks <= before * LOOKS_MAX, "{block}: {looks} looks at {before} words");
        let marked = |token: &&TokenWithSpan| matches!(&token.token, Token::Word(word) if word.value.contains(MARK));
        let expect = if is_version { BYTES / block.len() } else { 0 };
        assert_eq!(tokens.iter().filter(marked).count(), expect, "{block}");
    }
    let mut nested = repeats("t AT (VERSION => (SELECT * FROM ");
    assert!(rewrite(&mut nested).is_err_and(|refusal| refusal.message.contains("version is not understood")));
}

#[test]
fn only_tables_that_are_read_have_versions() {
    let pinned = |text: &str| {
        let mut statement = EngineStatement::Statement(Box::new(parsed(text)));
        pin(&mut statement, &mut |_, _| Ok(Version::Snapshot(5))).map(|()| statement.to_string())
    };
    let many = format!("SELECT 1 FROM {} u", "t FOR VERSION AS OF 5, ".repeat(5000));
    for (text, message) in [
        ("WITH t AS (SELECT 1) SELECT * FROM t FOR VERSION AS OF 5", "the query `t` of WITH is none"),
        ("WITH t FOR VERSION AS OF 5 AS (SELECT 1) SELECT * FROM t", "the query `t` of WITH is none"),
        ("CREATE TABLE t FOR VERSION AS OF 5 AS SELECT 1", "`t`: a table that is made or dropped has no version"),
        ("CREATE VIEW t FOR VERSION AS OF 5 AS SELECT 1", "`t`: a table that is made or dropped has no version"),
        ("DROP TABLE t FOR VERSION AS OF 5", "`t`: a table that is made or dropped has no version"),
        (&many, "the statement has more than 4096 versions of tables"),
        ("SELECT x FOR VERSION AS OF 5 FROM t", "only a table has versions, and `x` is no table's name"),
    ] {
        let error = pinned(text).expect_err(text);
        assert!(error.message().contains(message), "{text}: {error}");
    }
    let read = "WITH t AS (SELECT * FROM a.t FOR VERSION AS OF 7) SELECT * FROM t";
    assert_eq!(
        pinned(read).expect("a query"),
        "WITH t AS (SELECT * FROM a.\"t\u{1}s\u{1}5\" AS \"t\") SELECT * FROM t"
    );
}

#[test]
fn names_of_versions_are_told_from_others() {
    for version in [Version::Snapshot(-5), Version::Reference("a\"b".to_owned()), Version::TimestampMs(7)] {
        assert_eq!(version_of(&with_version("t", &version)), Some(("t", version)));
    }
    assert_eq!((version_of("t"), table_of("t"), table_of("t\u{1}s\u{1}5")), (None, "t", "t"));
    assert_eq!(version_of("t\u{1}v\u{1}5"), None, "it has no value yet");
}
