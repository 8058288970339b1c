//! Statements that the connection carries out itself, and their words: transactions, settings, cursors.

use gust_engine::session::{Piece, Word};

use super::answers::Told;
use super::copy::CopyOut;
use super::settings::name_of;

/// SQLSTATE codes of PostgreSQL.
const SYNTAX: &str = "42601";
const NOT_SUPPORTED: &str = "0A000";

/// Meaning of a statement for the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Begin,
    Commit,
    Rollback,
    /// Savepoint to make, to release or to go back to.
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// Statement without a meaning here, by its tag.
    Ignored(&'static str),
    /// Setting that clients of PostgreSQL know; None sets it back.
    Set {
        name: &'static str,
        value: Option<String>,
        /// It holds until the end of the transaction.
        is_local: bool,
    },
    ResetAll,
    DiscardAll,
    Show(&'static str),
    Declare {
        cursor: String,
        outlives_transaction: bool,
        query: Piece,
    },
    Fetch(Fetch),
    /// Rows as lines, for the client.
    CopyOut(CopyOut),
    /// Cursor to close; None for all.
    CloseCursor(Option<String>),
    DeallocateAll,
    /// Prepared statement of the protocol or of SQL.
    Deallocate(String),
    /// Statement of the engine.
    Sql,
}

/// Rows that a cursor gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) cursor: String,
    /// None for all.
    pub(super) rows: Option<usize>,
    /// True if the rows are skipped, not sent.
    pub(super) is_move: bool,
}

impl Command {
    /// Returns the meaning of a statement.
    pub(super) fn of(piece: &Piece) -> Result<Self, Told> {
        let words = &piece.words;
        let bare: Vec<&str> = words.iter().map_while(Word::bare).take(8).collect();
        Ok(match bare.as_slice() {
            ["begin", ..] | ["start", "transaction", ..] => Self::Begin,
            ["commit" | "end" | "rollback", .., "and", "chain"] => {
                return Err(Told::new(NOT_SUPPORTED, "AND CHAIN is not carried out").with_hint("BEGIN anew"));
            }
            ["commit" | "end", ..] => Self::Commit,
            ["rollback", "to", ..] | ["rollback", "work" | "transaction", "to", ..] => {
                Self::RollbackTo(savepoint(words)?)
            }
            ["rollback" | "abort", ..] => Self::Rollback,
            ["savepoint", ..] => Self::Savepoint(savepoint(words)?),
            ["release", ..] => Self::Release(savepoint(words)?),
            ["set", rest @ ..] => set(rest, words),
            ["reset", "all"] => Self::ResetAll,
            ["reset", ..] => match setting(&words[1..]) {
                Some((name, 0)) => Self::Set { name, value: None, is_local: false },
                _ => Self::Sql,
            },
            ["discard", "all"] => Self::DiscardAll,
            ["discard", ..] => Self::Ignored("DISCARD"),
            ["show", "transaction", "isolation", "level"] => Self::Show("transaction_isolation"),
            ["show", "time", "zone"] => Self::Show("TimeZone"),
            ["show", ..] => match setting(&words[1..]) {
                Some((name, 0)) => Self::Show(name),
                _ => Self::Sql,
            },
            ["declare", ..] => declare(piece)?,
            ["fetch", ..] => Self::Fetch(fetch(&words[1..], false)?),
            ["move", ..] => Self::Fetch(fetch(&words[1..], true)?),
            ["copy", ..] => CopyOut::of(piece)?.map_or(Self::Sql, Self::CopyOut),
            ["close", "all"] => Self::CloseCursor(None),
            ["close", ..] if words.len() == 2 => Self::CloseCursor(Some(words[1].value().to_owned())),
            ["deallocate", "all"] | ["deallocate", "prepare", "all"] => Self::DeallocateAll,
            ["deallocate", ..] => match words.last() {
                Some(name) => Self::Deallocate(name.value().to_owned()),
                None => Self::Sql,
            },
            ["unlisten", ..] => Self::Ignored("UNLISTEN"),
            _ => Self::Sql,
        })
    }

    /// Tells if the command is carried out in a transaction that has failed.
    pub(super) fn mends_transaction(&self) -> bool {
        matches!(self, Self::Commit | Self::Rollback | Self::RollbackTo(_))
    }
}

/// Returns the name of a savepoint, which is the last word.
fn savepoint(words: &[Word]) -> Result<String, Told> {
    let keywords = ["savepoint", "release", "to"];
    let name = words.last().filter(|word| !word.bare().is_some_and(|word| keywords.contains(&word)));
    name.map(|name| name.value().to_owned()).ok_or_else(|| Told::new(SYNTAX, "there is no savepoint's name"))
}

fn set(rest: &[&str], words: &[Word]) -> Command {
    let skipped = match rest {
        ["session", "characteristics", ..] | ["transaction", ..] | ["session", "authorization", ..] => {
            return Command::Ignored("SET");
        }
        ["local" | "session", ..] => 2,
        _ => 1,
    };
    let words = &words[skipped.min(words.len())..];
    let (name, values) = match words {
        [time, zone, values @ ..] if (time.bare(), zone.bare()) == (Some("time"), Some("zone")) => ("TimeZone", values),
        [names, values @ ..] if names.bare() == Some("names") => ("client_encoding", values),
        words => match setting(words) {
            Some((name, left)) if left > 1 => (name, &words[words.len() - left + 1..]),
            _ => return Command::Sql,
        },
    };
    let value = match values {
        [only] if matches!(only.bare(), Some("default" | "local")) => None,
        values => Some(joined(values)),
    };
    Command::Set { name, value, is_local: rest.first() == Some(&"local") }
}

/// Returns the values of a list, as one text.
fn joined(values: &[Word]) -> String {
    let mut joined = String::new();
    for value in values {
        match value.value() {
            "," => joined.push_str(", "),
            value => joined.push_str(value),
        }
    }
    joined
}

/// Returns the known setting whose name begins the words, and the number of words after it.
fn setting(words: &[Word]) -> Option<(&'static str, usize)> {
    let first = words.first()?.value();
    let (name, length) = match words.get(1..3) {
        Some([dot, second]) if dot.value() == "." => (format!("{first}.{}", second.value()), 3),
        _ => (first.to_owned(), 1),
    };
    let after = words.get(length).map(Word::value);
    let is_whole = matches!(after, None | Some("=" | "to"));
    Some((name_of(&name).filter(|_| is_whole)?, words.len() - length))
}

fn declare(piece: &Piece) -> Result<Command, Told> {
    let words = &piece.words;
    let refused =
        |why: &str| Told::new(SYNTAX, format!("DECLARE: {why}")).with_hint("DECLARE name CURSOR FOR SELECT ...");
    let cursor = words.get(1).ok_or_else(|| refused("there is no name"))?.value().to_owned();
    let is_for = |word: &Word| word.bare() == Some("for");
    let at = words.iter().position(is_for).ok_or_else(|| refused("there is no FOR"))?;
    let options: Vec<_> = words[2..at.max(2)].iter().filter_map(Word::bare).collect();
    if options.contains(&"scroll") && !options.contains(&"no") {
        return Err(Told::new(NOT_SUPPORTED, "a cursor goes forward only").with_hint("leave SCROLL out"));
    }
    let outlives_transaction = options.windows(2).any(|pair| pair == ["with", "hold"]);
    let start = words[at].end;
    let mut rest: Vec<Word> = words[at + 1..].to_vec();
    for word in &mut rest {
        word.end -= start;
    }
    if rest.is_empty() {
        return Err(refused("there is no query after FOR"));
    }
    let characters_before = piece.characters_before + piece.text[..start].chars().count();
    let query = Piece { text: piece.text[start..].to_owned(), characters_before, words: rest };
    Ok(Command::Declare { cursor, outlives_transaction, query })
}

fn fetch(words: &[Word], is_move: bool) -> Result<Fetch, Told> {
    let refused = |why: &str| Told::new(SYNTAX, why).with_hint("FETCH 1000 FROM name");
    let (last, direction) = words.split_last().ok_or_else(|| refused("there is no cursor"))?;
    let direction: Vec<&str> =
        direction.iter().map(Word::value).filter(|word| !["from", "in"].contains(word)).collect();
    let number = |text: &str| text.parse::<usize>().map_err(|_| refused("rows are counted by a number"));
    let rows = match direction.as_slice() {
        [] | ["next" | "forward"] => Some(1),
        ["all"] | ["forward", "all"] => None,
        ["forward", rows] => Some(number(rows)?),
        ["prior" | "first" | "last" | "absolute" | "relative" | "backward" | "-", ..] => {
            return Err(Told::new(NOT_SUPPORTED, "a cursor goes forward only"));
        }
        [rows] => Some(number(rows)?),
        _ => return Err(refused("a direction and a number are expected")),
    };
    Ok(Fetch { cursor: last.value().to_owned(), rows, is_move })
}

/// Returns the tag that ends a statement of the engine; a query's has the number of its rows.
pub(super) fn tag(piece: &Piece, is_silent: bool, rows: u64) -> String {
    let words: Vec<&str> = piece.words.iter().map_while(Word::bare).take(3).collect();
    match words.as_slice() {
        ["create", "external", "table"] => "CREATE TABLE".to_owned(),
        ["create", "or", "replace"] => "CREATE".to_owned(),
        [first @ ("create" | "drop"), second, ..] => format!("{first} {second}").to_uppercase(),
        [first @ ("explain" | "show"), ..] => first.to_uppercase(),
        [first, ..] if is_silent => first.to_uppercase(),
        _ => format!("SELECT {rows}"),
    }
}

#[cfg(test)]
mod tests {
    use gust_engine::session::pieces;

    use super::*;

    fn command(sql: &str) -> Result<Command, Told> {
        Command::of(&pieces(sql).expect("words").remove(0))
    }

    #[test]
    fn a_statement_means_what_its_words_say() {
        let set = |name, value: &str| Command::Set { name, value: Some(value.to_owned()), is_local: false };
        let local = Command::Set { name: "statement_timeout", value: Some("5s".to_owned()), is_local: true };
        for (sql, expect) in [
            ("begin isolation level read committed", Command::Begin),
            ("START TRANSACTION READ ONLY", Command::Begin),
            ("END", Command::Commit),
            ("abort", Command::Rollback),
            ("ROLLBACK TO SAVEPOINT a", Command::RollbackTo("a".to_owned())),
            ("ROLLBACK TO a", Command::RollbackTo("a".to_owned())),
            ("SAVEPOINT \"A b\"", Command::Savepoint("A b".to_owned())),
            ("RELEASE SAVEPOINT a", Command::Release("a".to_owned())),
            ("SET extra_float_digits = 3", set("extra_float_digits", "3")),
            ("SET SESSION DateStyle TO 'ISO', MDY", set("DateStyle", "ISO, mdy")),
            ("set local statement_timeout = '5s'", local),
            ("SET TIME ZONE 'Europe/Berlin'", set("TimeZone", "Europe/Berlin")),
            ("SET NAMES 'utf8'", set("client_encoding", "utf8")),
            ("SET gust.notice_cost TO on", set("gust.notice_cost", "on")),
            ("SET timezone = DEFAULT", Command::Set { name: "TimeZone", value: None, is_local: false }),
            ("RESET application_name", Command::Set { name: "application_name", value: None, is_local: false }),
            ("SET gust.max_cost = '1'", Command::Sql),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Command::Ignored("SET")),
            ("SHOW server_version", Command::Show("server_version")),
            ("SHOW TRANSACTION ISOLATION LEVEL", Command::Show("transaction_isolation")),
            ("SHOW TABLES", Command::Sql),
            ("DISCARD ALL", Command::DiscardAll),
            ("CLOSE \"My cursor\"", Command::CloseCursor(Some("My cursor".to_owned()))),
            ("DEALLOCATE ALL", Command::DeallocateAll),
            ("DEALLOCATE a", Command::Deallocate("a".to_owned())),
            ("SELECT 'begin'", Command::Sql),
        ] {
            assert_eq!(command(sql).expect(sql), expect, "{sql}");
        }
    }

    #[test]
    fn cursors_are_declared_and_go_forward() {
        let text = "DECLARE \"c\" INSENSITIVE CURSOR WITH HOLD FOR -- rows\n SELECT ä";
        let Command::Declare { cursor, outlives_transaction, query } = command(text).expect("a cursor") else {
            panic!("no cursor")
        };
        assert_eq!((cursor.as_str(), outlives_transaction), ("c", true));
        assert_eq!((query.text.as_str(), query.characters_before), (" -- rows\n SELECT ä", 44));
        assert_eq!(&query.text[..query.words[0].end], " -- rows\n SELECT");
        for (sql, rows, is_move) in [
            ("FETCH c", Some(1), false),
            ("FETCH NEXT FROM c", Some(1), false),
            ("FETCH 10 IN c", Some(10), false),
            ("FETCH FORWARD 100 FROM \"c\"", Some(100), false),
            ("FETCH ALL FROM c", None, false),
            ("MOVE FORWARD ALL FROM c", None, true),
        ] {
            let fetch = Fetch { cursor: "c".to_owned(), rows, is_move };
            assert_eq!(command(sql).expect(sql), Command::Fetch(fetch), "{sql}");
        }
        for (sql, sqlstate) in [
            ("FETCH BACKWARD 1 FROM c", "0A000"),
            ("FETCH -1 FROM c", "0A000"),
            ("FETCH many FROM c", "42601"),
            ("DECLARE c SCROLL CURSOR FOR SELECT 1", "0A000"),
            ("COMMIT AND CHAIN", "0A000"),
            ("SAVEPOINT", "42601"),
            ("DECLARE c CURSOR", "42601"),
            ("DECLARE c CURSOR FOR", "42601"),
        ] {
            assert_eq!(command(sql).expect_err(sql).sqlstate, sqlstate, "{sql}");
        }
    }

    #[test]
    fn a_tag_names_the_statement() {
        for (sql, is_silent, expect) in [
            ("SELECT 1", false, "SELECT 7"),
            ("WITH a AS (SELECT 1) TABLE a", false, "SELECT 7"),
            ("(SELECT 1)", false, "SELECT 7"),
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'", true, "CREATE TABLE"),
            ("drop view v", true, "DROP VIEW"),
            ("EXPLAIN SELECT 1", false, "EXPLAIN"),
            ("SET gust.max_cost = 1", true, "SET"),
            ("PREPARE s AS SELECT 1", true, "PREPARE"),
        ] {
            assert_eq!(tag(&pieces(sql).expect("words")[0], is_silent, 7), expect, "{sql}");
        }
    }
}
