//! Statements of a text before they are parsed, with their words, for faces that carry some statements out themselves.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::error::QueryError;

/// SQLSTATE code of PostgreSQL for text that is no SQL.
const SYNTAX: &str = "42601";

/// Statement of a text, without its semicolon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    /// Characters of the whole text before it.
    pub characters_before: usize,
    pub words: Vec<Word>,
}

/// Word of a statement, and the byte of the statement's text at which it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub kind: WordKind,
    pub end: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WordKind {
    /// Keyword or name without quotes, in small letters.
    Bare(String),
    /// Name in quotes.
    Quoted(String),
    /// Value in single quotes.
    Text(String),
    /// Number or sign.
    Other(String),
}

impl Word {
    /// Returns the word if it is without quotes, in small letters.
    pub fn bare(&self) -> Option<&str> {
        match &self.kind {
            WordKind::Bare(word) => Some(word),
            _ => None,
        }
    }

    /// Returns the name or value that the word stands for.
    pub fn value(&self) -> &str {
        match &self.kind {
            WordKind::Bare(value) | WordKind::Quoted(value) | WordKind::Text(value) | WordKind::Other(value) => value,
        }
    }
}

/// Splits a text at its semicolons. Statements without a word are left out.
///
/// # Errors
/// [`crate::error::ErrorKind::Sql`] with line and column for a text that has no words, such as an open quote.
pub fn pieces(text: &str) -> Result<Vec<Piece>, QueryError> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| QueryError::sql(error.to_string()).with_sqlstate(SYNTAX).with_source(error))?;
    let mut places =
        Places { rest: text.char_indices(), line: 1, column: 1, byte: 0, characters: 0, length: text.len() };
    let (mut pieces, mut words) = (Vec::new(), Vec::new());
    let (mut start, mut characters_before) = (0, 0);
    for TokenWithSpan { token, span } in tokens {
        if matches!(token, Token::Whitespace(_)) {
            continue;
        }
        places.go_to(span.start);
        let before = places.byte;
        if token == Token::SemiColon {
            end(&mut pieces, &mut words, &text[start..before], characters_before);
            places.go_to(span.end);
            (start, characters_before) = (places.byte, places.characters);
            continue;
        }
        if words.is_empty() {
            (start, characters_before) = (before, places.characters);
        }
        places.go_to(span.end);
        if let Some(kind) = kind(token) {
            words.push(Word { kind, end: places.byte - start });
        }
    }
    end(&mut pieces, &mut words, &text[start..], characters_before);
    Ok(pieces)
}

fn end(pieces: &mut Vec<Piece>, words: &mut Vec<Word>, text: &str, characters_before: usize) {
    if !words.is_empty() {
        pieces.push(Piece { text: text.to_owned(), characters_before, words: std::mem::take(words) });
    }
}

fn kind(token: Token) -> Option<WordKind> {
    Some(match token {
        Token::EOF => return None,
        Token::Word(word) if word.quote_style.is_none() => WordKind::Bare(word.value.to_lowercase()),
        Token::Word(word) => WordKind::Quoted(word.value),
        Token::SingleQuotedString(value) | Token::EscapedStringLiteral(value) => WordKind::Text(value),
        other => WordKind::Other(other.to_string()),
    })
}

/// Place in a text that only goes forward.
struct Places<'a> {
    rest: std::str::CharIndices<'a>,
    line: u64,
    column: u64,
    byte: usize,
    characters: usize,
    length: usize,
}

impl Places<'_> {
    fn go_to(&mut self, to: Location) {
        while (self.line, self.column) < (to.line, to.column) {
            let Some((_, character)) = self.rest.next() else { break };
            (self.line, self.column) =
                if character == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
            self.characters += 1;
            self.byte = self.rest.clone().next().map_or(self.length, |(byte, _)| byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_outside_of_quotes_and_comments() {
        let text = " -- a; b\nSET x = 'a;b';; select \"Ä;\", $1 -- ;\n ;/* ; */ \nBEGIN";
        let pieces = pieces(text).expect("words");
        let texts: Vec<_> = pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(texts, ["SET x = 'a;b'", "select \"Ä;\", $1 -- ;\n ", "BEGIN"]);
        for piece in &pieces {
            let rest: String = text.chars().skip(piece.characters_before).collect();
            assert!(rest.starts_with(&piece.text), "{piece:?}");
        }
        let words: Vec<_> = pieces[1].words.iter().map(|word| (word.value(), &pieces[1].text[..word.end])).collect();
        assert_eq!(words[..2], [("select", "select"), ("Ä;", "select \"Ä;\"")]);
        assert_eq!(pieces[0].words[0].bare(), Some("set"));
        assert_eq!(pieces[1].words[1].bare(), None);
    }

    #[test]
    fn texts_without_statements_have_no_pieces() {
        for text in ["", " ", ";;", "-- x", "/* x */;"] {
            assert_eq!(pieces(text).expect("words"), []);
        }
        let open = pieces("SELECT 'x").expect_err("an open quote");
        assert_eq!((open.sqlstate(), open.position().map(|at| at.column)), ("42601", Some(8)), "{open}");
    }
}
