//! Versions of tables in FROM, in the words of other engines, which the parser does not read or the planner ignores.
//!
//! ```text
//!  t FOR VERSION AS OF 5, t FOR SYSTEM_VERSION AS OF 'tag'          Athena, Trino
//!  t FOR TIMESTAMP AS OF e, t FOR SYSTEM_TIME AS OF e
//!  t VERSION AS OF 5, t TIMESTAMP AS OF '2026-01-01'                 Spark
//!  t AT (VERSION => 5), t AT (TIMESTAMP => e)                        DuckDB
//! ```
//!
//! In the tokens, the version becomes a part of the table's name, behind a mark that no name has, and the table gets its own
//! name as an alias. So it goes through the parser and the planner as any other table. [`pin`] replaces the text of the
//! version by its value. [`shown`] writes the name as it was.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as EngineStatement;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Query, Statement, VisitorMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::{Keyword, RESERVED_FOR_TABLE_ALIAS};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace, Word};
use gust_catalog::Version;

use super::limits::{RELATIONS_MAX, folded_name};
use super::walk::walk_mut;
use super::words::is_word;
use super::{Refusal, inner_mut};
use crate::error::QueryError;

/// Mark between a table's name and its version.
const MARK: char = '\u{1}';

/// Words of a version, as they were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Version,
    Timestamp,
}

impl Asked {
    const ALL: [Self; 2] = [Self::Version, Self::Timestamp];

    const fn letter(self) -> char {
        match self {
            Self::Version => 'v',
            Self::Timestamp => 't',
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Version => "VERSION",
            Self::Timestamp => "TIMESTAMP",
        }
    }

    fn of(token: &Token) -> Option<Self> {
        let is = |words: [&str; 2]| words.iter().any(|word| is_word(token, word));
        if is(["VERSION", "SYSTEM_VERSION"]) {
            return Some(Self::Version);
        }
        is(["TIMESTAMP", "SYSTEM_TIME"]).then_some(Self::Timestamp)
    }
}

/// Most words and signs of a version's value.
const VALUE_WORDS_MAX: usize = 128;

/// Words that are given to the parser first. Most values are shorter.
const VALUE_WORDS_FIRST: usize = 16;

/// Words behind a value at which the parser may look before it ends the value.
const LOOKAHEAD_WORDS: usize = 4;

/// Version in the words of a text. Places are numbers of words.
struct Found {
    asked: Asked,
    /// Place of the table's name.
    name: usize,
    /// Places of the value's words.
    first: usize,
    end: usize,
    /// Place behind the version.
    after: usize,
}

/// Beginning of a statement, up to a place.
struct Begun {
    /// Place of the first word.
    first: usize,
    has_from: bool,
}

/// Words and signs of a text, without the spaces between them.
struct Words<'a> {
    tokens: &'a [TokenWithSpan],
    /// Places of the words among the tokens.
    places: Vec<usize>,
    /// Words that were looked at, each as often as it was.
    looks: Cell<usize>,
}

impl<'a> Words<'a> {
    fn of(tokens: &'a [TokenWithSpan]) -> Self {
        let is_word = |(_, token): &(usize, &TokenWithSpan)| !matches!(token.token, Token::Whitespace(_));
        let places = tokens.iter().enumerate().filter(is_word).map(|(place, _)| place).collect();
        Self { tokens, places, looks: Cell::new(tokens.len()) }
    }

    fn token(&self, at: usize) -> Option<&'a TokenWithSpan> {
        self.looks.set(self.looks.get() + 1);
        self.places.get(at).map(|place| &self.tokens[*place])
    }

    fn get(&self, at: usize) -> Option<&'a Token> {
        self.token(at).map(|token| &token.token)
    }

    fn is(&self, at: usize, word: &str) -> bool {
        self.get(at).is_some_and(|token| is_word(token, word))
    }

    fn asked(&self, at: usize) -> Option<Asked> {
        self.get(at).and_then(Asked::of)
    }
}

/// Writes the versions of a text into its tables' names.
///
/// # Errors
/// A refusal of a version of something that is no table, and of a version that is no value.
pub(super) fn rewrite(tokens: &mut Vec<TokenWithSpan>) -> Result<(), Refusal> {
    rewrite_counted(tokens).map(drop)
}

/// Rewrites a text as [`rewrite`] does. Returns how often it looked at a word, which grows as the text does.
fn rewrite_counted(tokens: &mut Vec<TokenWithSpan>) -> Result<usize, Refusal> {
    if !tokens.iter().any(|token| Asked::of(&token.token).is_some()) {
        return Ok(tokens.len());
    }
    let words = Words::of(tokens);
    let mut written = Vec::new();
    // Tokens that are written, words that are, and the beginning of the statement.
    let (mut copied, mut free) = (0, 0);
    let mut begun = Begun { first: 0, has_from: false };
    let mut at = 1;
    while let Some(token) = words.get(at) {
        if *token == Token::SemiColon {
            begun = Begun { first: at + 1, has_from: false };
        }
        begun.has_from |= is_word(token, "FROM");
        let Some(found) = find(&words, at)? else {
            at += 1;
            continue;
        };
        if found.name < free {
            let hint = "leave one of them out";
            return Err(Refusal::new("a table has two versions", hint));
        }
        refuse_alias(&words, &found, &begun)?;
        let name = words.places[found.name];
        written.extend_from_slice(&tokens[copied..name]);
        written.extend(named(&words, &found, &begun));
        (free, at) = (found.after, found.after);
        copied = words.places[found.after - 1] + 1;
    }
    let looks = words.looks.get();
    if copied > 0 {
        written.extend_from_slice(&tokens[copied..]);
        *tokens = written;
    }
    Ok(looks)
}

/// Finds a version that begins at a place.
fn find(words: &Words<'_>, at: usize) -> Result<Option<Found>, Refusal> {
    let name = at - 1;
    if words.is(at, "AT") {
        let is_version = words.get(at + 1) == Some(&Token::LParen) && words.get(at + 3) == Some(&Token::RArrow);
        let Some(asked) = words.asked(at + 2).filter(|_| is_version) else { return Ok(None) };
        let first = at + 4;
        let end = end_of_value(words, first, asked)?;
        if words.get(end) != Some(&Token::RParen) {
            return Err(no_value(asked));
        }
        return at_name(words, Found { asked, name, first, end, after: end + 1 }).map(Some);
    }
    let has_for = words.is(at, "FOR");
    let kind = if has_for { at + 1 } else { at };
    let Some(asked) = words.asked(kind) else { return Ok(None) };
    if !words.is(kind + 1, "AS") || !words.is(kind + 2, "OF") {
        return Ok(None);
    }
    // `SELECT version AS of`, and `a.version AS of`.
    let is_name = matches!(words.get(name), Some(Token::Word(word)) if word.quote_style.is_some() || !["SELECT", "DISTINCT", "ALL"].iter().any(|other| word.value.eq_ignore_ascii_case(other)));
    if !has_for && !is_name {
        return Ok(None);
    }
    let first = kind + 3;
    let end = end_of_value(words, first, asked)?;
    at_name(words, Found { asked, name, first, end, after: end }).map(Some)
}

fn at_name(words: &Words<'_>, found: Found) -> Result<Found, Refusal> {
    match words.get(found.name) {
        Some(Token::Word(_)) | None => Ok(found),
        Some(other) => {
            Err(Refusal::new(format!("only a table has versions, and `{other}` is no table's name"), RIGHT_PLACE))
        }
    }
}

const RIGHT_PLACE: &str = "write the version right behind the table: FROM t FOR VERSION AS OF 5 AS x";

/// Refuses a version behind an alias. It would be the alias's, and no table's.
fn refuse_alias(words: &Words<'_>, found: &Found, begun: &Begun) -> Result<(), Refusal> {
    let Some(before) = found.name.checked_sub(1).filter(|before| *before > begun.first) else { return Ok(()) };
    let is_alias = match words.get(before) {
        Some(Token::Word(word)) => word.keyword == Keyword::NoKeyword || word.keyword == Keyword::AS,
        Some(token) => *token == Token::RParen,
        None => false,
    };
    let (true, Some(alias)) = (is_alias, words.get(found.name)) else { return Ok(()) };
    Err(Refusal::new(format!("only a table has versions, and `{alias}` is no table's name"), RIGHT_PLACE))
}

fn no_value(asked: Asked) -> Refusal {
    let example = match asked {
        Asked::Version => "FOR VERSION AS OF 5, or FOR VERSION AS OF 'tag'",
        Asked::Timestamp => "FOR TIMESTAMP AS OF TIMESTAMP '2026-01-01 00:00:00'",
    };
    Refusal::new(format!("a version is not understood: {} AS OF has no value behind it", asked.words()), example)
}

/// Returns the place behind the value that begins at `first`. The parser gets a few words, and more where these do not suffice, so that
/// many versions in a long text cost no more than the text.
fn end_of_value(words: &Words<'_>, first: usize, asked: Asked) -> Result<usize, Refusal> {
    for words_max in [VALUE_WORDS_FIRST, VALUE_WORDS_MAX] {
        let window: Vec<TokenWithSpan> = (first..first + words_max).map_while(|at| words.token(at)).cloned().collect();
        let (given, is_all) = (window.len(), window.len() < words_max);
        let mut parser = Parser::new(&GenericDialect {}).with_tokens_with_locations(window);
        let parsed = parser.parse_expr();
        match parsed {
            _ if !is_all && parser.index() + LOOKAHEAD_WORDS >= given => {}
            Ok(_) => return Ok(first + parser.index()),
            Err(_) => return Err(no_value(asked)),
        }
    }
    let message = format!("the value of {} AS OF has more than {VALUE_WORDS_MAX} words and signs", asked.words());
    Err(Refusal::new(
        message,
        "write the value itself: FOR VERSION AS OF 5, or FOR TIMESTAMP AS OF TIMESTAMP '2026-01-01 00:00:00'",
    ))
}

/// Writes a table's name with its version.
fn named(words: &Words<'_>, found: &Found, begun: &Begun) -> Vec<TokenWithSpan> {
    let Some(TokenWithSpan { token: Token::Word(word), span }) = words.token(found.name) else { return Vec::new() };
    let (first, end) = (words.places[found.first], words.places[found.end - 1] + 1);
    let text: String = words.tokens[first..end].iter().map(|token| token.token.to_string()).collect();
    let folded = if word.quote_style.is_some() { word.value.clone() } else { word.value.to_lowercase() };
    let marked = format!("{folded}{MARK}{}{MARK}{text}", found.asked.letter());
    let quoted = |value: String| Token::Word(Word { value, quote_style: Some('"'), keyword: Keyword::NoKeyword });
    let mut written = vec![quoted(marked)];
    if takes_alias(words, found, begun) {
        let space = || Token::Whitespace(Whitespace::Space);
        written.extend([space(), Token::make_keyword("AS"), space(), quoted(folded)]);
    }
    written.into_iter().map(|token| TokenWithSpan { token, span: *span }).collect()
}

/// Tells if a table needs its own name as an alias: no alias follows, and the statement queries it. DESCRIBE may be of a query, too.
fn takes_alias(words: &Words<'_>, found: &Found, begun: &Begun) -> bool {
    let begins = |with: &[&str]| with.iter().any(|word| words.is(begun.first, word));
    if begins(&["SHOW", "DROP"]) || (begins(&["DESCRIBE", "DESC"]) && !begun.has_from) {
        return false;
    }
    match words.get(found.after) {
        Some(Token::Word(word)) => {
            let is_alias = word.quote_style.is_some() || !RESERVED_FOR_TABLE_ALIAS.contains(&word.keyword);
            !(is_alias || word.value.eq_ignore_ascii_case("AS"))
        }
        _ => true,
    }
}

/// Replaces the versions in a statement's names by their values.
///
/// # Errors
/// Those of `value`, which gets the text of a version.
pub(crate) fn pin(
    statement: &mut EngineStatement,
    value: &mut dyn FnMut(Asked, &str) -> Result<Version, QueryError>,
) -> Result<(), QueryError> {
    struct Pins<'a> {
        value: &'a mut dyn FnMut(Asked, &str) -> Result<Version, QueryError>,
        /// Names of the WITH clauses so far, which hide tables.
        named: BTreeSet<String>,
        versions: u64,
    }

    impl VisitorMut for Pins<'_> {
        type Break = QueryError;

        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
            for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
                let name = folded_name(&cte.alias.name);
                if name.contains(MARK) {
                    return ControlFlow::Break(has_none(&format!("the query `{}` of WITH", table_of(&name))));
                }
                self.named.insert(name);
            }
            ControlFlow::Continue(())
        }

        fn pre_visit_relation(&mut self, name: &mut ObjectName) -> ControlFlow<QueryError> {
            let is_bare = name.0.len() == 1;
            let Some(ObjectNamePart::Identifier(last)) = name.0.last_mut() else { return ControlFlow::Continue(()) };
            let asked = parted(&last.value).and_then(|(table, letter, text)| {
                let asked = Asked::ALL.into_iter().find(|asked| asked.letter() == letter)?;
                Some((table.to_owned(), asked, text.to_owned()))
            });
            if let Some((table, asked, text)) = asked {
                if is_bare && self.named.contains(&table) {
                    return ControlFlow::Break(has_none(&format!("the query `{table}` of WITH")));
                }
                self.versions += 1;
                if self.versions > RELATIONS_MAX {
                    let message = format!("the statement has more than {RELATIONS_MAX} versions of tables");
                    return ControlFlow::Break(QueryError::sql(message).with_hint("split it into several statements"));
                }
                match (self.value)(asked, &text) {
                    Ok(version) => *last = Ident::with_quote('"', with_version(&table, &version)),
                    Err(error) => return ControlFlow::Break(error),
                }
            }
            ControlFlow::Continue(())
        }
    }

    if let EngineStatement::CreateExternalTable(create) = statement {
        return refuse_made([&create.name]);
    }
    let Some(inner) = inner_mut(statement) else { return refuse_left(statement) };
    match inner {
        Statement::CreateTable(create) => refuse_made([&create.name])?,
        Statement::CreateView(create) => refuse_made([&create.name])?,
        Statement::Drop { names, .. } => refuse_made(names.iter())?,
        _ => {}
    }
    match walk_mut(inner, &mut Pins { value, named: BTreeSet::new(), versions: 0 }) {
        ControlFlow::Continue(()) => refuse_left(statement),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Refuses a version that stands anywhere but behind a table that is read, so that none is ignored.
fn refuse_left(statement: &EngineStatement) -> Result<(), QueryError> {
    /// Writes nothing, and fails at a mark.
    struct Marks;
    impl std::fmt::Write for Marks {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            if text.contains(MARK) { Err(std::fmt::Error) } else { Ok(()) }
        }
    }

    if write!(Marks, "{statement}").is_ok() {
        return Ok(());
    }
    let tokens = Tokenizer::new(&GenericDialect {}, &statement.to_string()).tokenize().unwrap_or_default();
    let left = tokens.iter().find_map(|token| match token {
        Token::Word(word) => {
            parted(&word.value).filter(|(_, letter, _)| Asked::ALL.iter().any(|asked| asked.letter() == *letter))
        }
        _ => None,
    });
    left.map_or(Ok(()), |(name, ..)| {
        let message = format!("only a table has versions, and `{name}` is no table's name");
        Err(QueryError::sql(message).with_hint(RIGHT_PLACE))
    })
}

fn has_none(what: &str) -> QueryError {
    QueryError::sql(format!("only a table has versions, and {what} is none"))
        .with_hint("write the version behind the table that it reads, with the table's namespace")
}

/// Refuses a version of a table that a statement makes or drops.
fn refuse_made<'a>(names: impl IntoIterator<Item = &'a ObjectName>) -> Result<(), QueryError> {
    let last = |name: &'a ObjectName| name.0.last().and_then(ObjectNamePart::as_ident);
    let marked = names.into_iter().filter_map(last).find(|name| name.value.contains(MARK));
    marked.map_or(Ok(()), |name| {
        Err(QueryError::sql(format!("`{}`: a table that is made or dropped has no version", table_of(&name.value)))
            .with_hint("leave the version out"))
    })
}

fn parted(name: &str) -> Option<(&str, char, &str)> {
    let mut parts = name.splitn(3, MARK);
    let (table, letter, text) = (parts.next()?, parts.next()?, parts.next()?);
    Some((table, letter.chars().next()?, text))
}

/// Returns the name under which the catalogs of a session know a version of a table.
fn with_version(table: &str, version: &Version) -> String {
    match version {
        Version::Snapshot(id) => format!("{table}{MARK}s{MARK}{id}"),
        Version::Reference(name) => format!("{table}{MARK}r{MARK}{name}"),
        Version::TimestampMs(ms) => format!("{table}{MARK}m{MARK}{ms}"),
    }
}

/// Splits the name of a version of a table. None for any other name.
pub(crate) fn version_of(name: &str) -> Option<(&str, Version)> {
    let (table, letter, text) = parted(name)?;
    let version = match letter {
        's' => Version::Snapshot(text.parse().ok()?),
        'r' => Version::Reference(text.to_owned()),
        'm' => Version::TimestampMs(text.parse().ok()?),
        _ => return None,
    };
    Some((table, version))
}

/// Returns the table of a name that may have a version.
pub(crate) fn table_of(name: &str) -> &str {
    name.split_once(MARK).map_or(name, |(table, _)| table)
}

/// Writes the versions in a text of SQL as they were.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    // A marked name stands in double quotes.
    while let Some(mark) = rest.find(MARK) {
        let start = rest[..mark].rfind('"').unwrap_or(mark);
        let mut end = mark;
        loop {
            match rest[end..].find('"') {
                Some(at) if rest[end + at + 1..].starts_with('"') => end += at + 2,
                Some(at) => break end += at,
                None => break end = rest.len(),
            }
        }
        shown.push_str(&rest[..start]);
        let name = rest[(start + 1).min(end)..end].replace("\"\"", "\"");
        match parted(&name) {
            Some((table, letter, text)) => {
                let words = if letter == 't' { Asked::Timestamp.words() } else { Asked::Version.words() };
                shown.push_str(&format!("\"{}\" FOR {words} AS OF {text}", table.replace('"', "\"\"")));
            }
            None => shown.push_str(&name.replace(MARK, " ")),
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests;
