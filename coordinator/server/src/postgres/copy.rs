//! `COPY … TO STDOUT`: rows as lines of text or CSV, which psql's `\copy` writes into a file of the client's.
//!
//! Non-goals: COPY FROM, files of the server, and the binary form.

use bytes::{Bytes, BytesMut};
use gust_engine::session::{Piece, Word, WordKind, pieces};
use pgwire::messages::data::DataRow;

use super::answers::Told;

/// SQLSTATE codes of PostgreSQL.
const SYNTAX: &str = "42601";
const NOT_SUPPORTED: &str = "0A000";
const WRONG_VALUE: &str = "22023";
const FAULT: &str = "XX000";

/// Rows that a client copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CopyOut {
    pub(super) query: Piece,
    pub(super) form: Form,
    /// True if the query was made of a table's name: places in its text are not in the client's.
    pub(super) is_of_table: bool,
}

/// Form of the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    is_csv: bool,
    pub(super) has_header: bool,
    delimiter: u8,
    quote: u8,
    escape: u8,
    null: String,
}

impl CopyOut {
    /// Reads a COPY; None if it copies to something else than the client.
    pub(super) fn of(piece: &Piece) -> Result<Option<Self>, Told> {
        let words = &piece.words;
        let to_client =
            words.windows(2).rposition(|pair| [pair[0].bare(), pair[1].bare()] == [Some("to"), Some("stdout")]);
        let Some(to) = to_client.filter(|to| *to > 1) else { return Ok(None) };
        let form = Form::of(&words[to + 2..])?;
        let after = |word: usize| words[word].end;
        let (query, is_of_table) = match words[1].value() == "(" {
            true => {
                if words[to - 1].value() != ")" || to < 4 {
                    return Err(Told::new(SYNTAX, "COPY: expected a query between brackets")
                        .with_hint("COPY (SELECT ...) TO STDOUT"));
                }
                let start = after(1);
                let mut inner: Vec<Word> = words[2..to - 1].to_vec();
                inner.iter_mut().for_each(|word| word.end -= start);
                let characters_before = piece.characters_before + piece.text[..start].chars().count();
                let text = piece.text[start..after(to - 2)].to_owned();
                (Piece { text, characters_before, words: inner }, false)
            }
            false => {
                let bracket = words[..to].iter().position(|word| word.value() == "(");
                let name = &piece.text[after(0)..after(bracket.unwrap_or(to) - 1)];
                let columns = match bracket {
                    None => "*",
                    Some(at) if words[to - 1].value() == ")" && at + 1 < to - 1 => {
                        &piece.text[after(at)..after(to - 2)]
                    }
                    Some(_) => return Err(Told::new(SYNTAX, "COPY: expected columns between brackets")),
                };
                let made = pieces(&format!("SELECT {columns} FROM {name}")).ok().filter(|made| made.len() == 1);
                let made = made.and_then(|mut made| made.pop());
                (made.ok_or_else(|| Told::new(SYNTAX, "COPY: expected a table's name"))?, true)
            }
        };
        Ok(Some(Self { query, form, is_of_table }))
    }
}

impl Form {
    /// Reads the options, as they are written in brackets or, as they once were, without.
    fn of(words: &[Word]) -> Result<Self, Told> {
        let signs = ["(", ")", ",", "with", "as", "="];
        let is_sign =
            |word: &&Word| matches!(word.kind, WordKind::Bare(_) | WordKind::Other(_)) && signs.contains(&word.value());
        let mut words = words.iter().filter(|word| !is_sign(word)).peekable();
        let (mut is_csv, mut has_header) = (false, false);
        let (mut delimiter, mut null, mut quote, mut escape) = (None, None, None, None);
        while let Some(option) = words.next() {
            let refused =
                |value: &str| Told::new(NOT_SUPPORTED, format!("COPY: {} {value} is not carried out", option.value()));
            let mut value = || {
                let value =
                    words.next().ok_or_else(|| Told::new(SYNTAX, format!("COPY: {} has no value", option.value())))?;
                match &value.kind {
                    WordKind::Text(value) | WordKind::Bare(value) => Ok::<_, Told>(value.as_str()),
                    _ => Err(Told::new(SYNTAX, format!("COPY: {} has to be a text in quotes", option.value()))),
                }
            };
            match option.value() {
                "csv" => is_csv = true,
                "text" => is_csv = false,
                "format" => {
                    is_csv = match value()? {
                        "csv" => true,
                        "text" => false,
                        other => return Err(refused(other).with_hint("text or csv")),
                    }
                }
                "header" => {
                    let is_value = |word: &&Word| ["true", "false", "on", "off", "1", "0"].contains(&word.value());
                    has_header = words.next_if(is_value).is_none_or(|word| ["true", "on", "1"].contains(&word.value()));
                }
                "delimiter" => delimiter = Some(sign("DELIMITER", value()?)?),
                "quote" => quote = Some(sign("QUOTE", value()?)?),
                "escape" => escape = Some(sign("ESCAPE", value()?)?),
                "null" => null = Some(value()?.to_owned()),
                "encoding" if value()?.to_ascii_lowercase().replace('-', "") == "utf8" => {}
                _ => {
                    return Err(
                        refused("as an option").with_hint("FORMAT, HEADER, DELIMITER, NULL, QUOTE and ESCAPE are")
                    );
                }
            }
        }
        if !is_csv && (quote.is_some() || escape.is_some()) {
            return Err(Told::new(NOT_SUPPORTED, "COPY: QUOTE and ESCAPE are CSV's"));
        }
        let quote = quote.unwrap_or(b'"');
        let delimiter = delimiter.unwrap_or(if is_csv { b',' } else { b'\t' });
        let null: String = null.unwrap_or_else(|| if is_csv { "" } else { "\\N" }.to_owned());
        // Lines with these could not be read again.
        let is_escape = !is_csv && (delimiter == b'.' || delimiter.is_ascii_lowercase() || delimiter.is_ascii_digit());
        if is_escape || (is_csv && delimiter == quote) {
            return Err(Told::new(WRONG_VALUE, format!("COPY: DELIMITER cannot be `{}`", delimiter as char)));
        }
        let is_sign = |byte: u8| b"\n\r".contains(&byte) || byte == delimiter || (is_csv && byte == quote);
        if null.bytes().any(is_sign) {
            return Err(Told::new(WRONG_VALUE, "COPY: NULL has a sign that ends a value"));
        }
        Ok(Self { is_csv, has_header, delimiter, quote, escape: escape.unwrap_or(quote), null })
    }

    /// Writes the names of columns as a line.
    pub(super) fn header<'a>(&self, names: impl Iterator<Item = &'a str>) -> Bytes {
        let mut line = BytesMut::new();
        for (index, name) in names.enumerate() {
            self.put(&mut line, index, Some(name.as_bytes()), false);
        }
        line.extend_from_slice(b"\n");
        line.freeze()
    }

    /// Writes a row of texts as a line.
    ///
    /// # Errors
    /// A fault: the row is torn.
    pub(super) fn line(&self, row: &DataRow) -> Result<Bytes, Told> {
        let torn = || Told::new(FAULT, "a row is torn");
        let (mut line, mut left) = (BytesMut::with_capacity(row.data.len() + 16), &row.data[..]);
        let count = row.field_count.unsigned_abs() as usize;
        for index in 0..count {
            let (length, rest) = left.split_first_chunk::<4>().ok_or_else(torn)?;
            left = rest;
            let value = match usize::try_from(i32::from_be_bytes(*length)) {
                Err(_) => None,
                Ok(length) => {
                    let (value, rest) = left.split_at_checked(length).ok_or_else(torn)?;
                    left = rest;
                    Some(value)
                }
            };
            self.put(&mut line, index, value, count == 1);
        }
        line.extend_from_slice(b"\n");
        Ok(line.freeze())
    }

    fn put(&self, line: &mut BytesMut, index: usize, value: Option<&[u8]>, is_alone: bool) {
        if index > 0 {
            line.extend_from_slice(&[self.delimiter]);
        }
        let Some(value) = value else { return line.extend_from_slice(self.null.as_bytes()) };
        match self.is_csv {
            true => {
                // A line of `\.` alone once was the end of all.
                let is_end = is_alone && value == b"\\.";
                let is_sign = |byte: &u8| [self.delimiter, self.quote, b'\n', b'\r'].contains(byte);
                if value != self.null.as_bytes() && !is_end && !value.iter().any(is_sign) {
                    return line.extend_from_slice(value);
                }
                line.extend_from_slice(&[self.quote]);
                for byte in value {
                    if [self.quote, self.escape].contains(byte) {
                        line.extend_from_slice(&[self.escape]);
                    }
                    line.extend_from_slice(&[*byte]);
                }
                line.extend_from_slice(&[self.quote]);
            }
            false => {
                for byte in value {
                    let escaped = match byte {
                        0x08 => b'b',
                        0x0c => b'f',
                        b'\n' => b'n',
                        b'\r' => b'r',
                        b'\t' => b't',
                        0x0b => b'v',
                        byte if *byte == b'\\' || *byte == self.delimiter => *byte,
                        byte => {
                            line.extend_from_slice(&[*byte]);
                            continue;
                        }
                    };
                    line.extend_from_slice(&[b'\\', escaped]);
                }
            }
        }
    }
}

/// Returns the sign of one byte that an option has.
fn sign(option: &str, value: &str) -> Result<u8, Told> {
    match value.as_bytes() {
        [byte] if !b"\n\r\\".contains(byte) && byte.is_ascii() => Ok(*byte),
        _ => Err(Told::new(WRONG_VALUE, format!("COPY: {option} has to be one sign of ASCII"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Result<Option<CopyOut>, Told> {
        CopyOut::of(&pieces(sql).expect("words").remove(0))
    }

    #[test]
    fn a_copy_is_of_a_query_or_of_a_table() {
        for (sql, query, characters_before) in [
            ("COPY (SELECT (1), 'to stdout') TO STDOUT", "SELECT (1), 'to stdout'", 6),
            ("copy ( SELECT 1 ) to stdout csv header", " SELECT 1", 6),
            ("COPY t TO STDOUT", "SELECT * FROM  t", 0),
            ("COPY a.\"b c\" (x, \"y z\") TO STDOUT WITH (FORMAT csv)", "SELECT x, \"y z\" FROM  a.\"b c\"", 0),
        ] {
            let copy = of(sql).expect(sql).expect(sql);
            assert_eq!((copy.query.text.as_str(), copy.query.characters_before), (query, characters_before), "{sql}");
            assert_eq!(copy.is_of_table, characters_before == 0);
            let last = copy.query.words.last().expect("a word");
            assert_eq!(last.end, copy.query.text.len(), "{sql}: the words are of its text");
        }
        assert_eq!(of("COPY t TO 'file.csv'"), Ok(None));
        assert_eq!(of("COPY t FROM STDIN"), Ok(None));
        for (sql, words) in [
            ("COPY () TO STDOUT", "between brackets"),
            ("COPY (SELECT 1 TO STDOUT", "between brackets"),
            ("COPY t () TO STDOUT", "columns between brackets"),
            ("COPY t TO STDOUT (FORMAT binary)", "format binary"),
            ("COPY t TO STDOUT (FORMAT)", "format has no value"),
            ("COPY t TO STDOUT (FORCE_QUOTE *)", "force_quote"),
            ("COPY t TO STDOUT DELIMITER 'ab'", "DELIMITER has to be one sign"),
            ("COPY t TO STDOUT QUOTE '*'", "are CSV's"),
            ("COPY t TO STDOUT DELIMITER 'n'", "DELIMITER cannot be `n`"),
            ("COPY t TO STDOUT CSV DELIMITER '\"'", "DELIMITER cannot be"),
            ("COPY t TO STDOUT CSV NULL 'a,b'", "NULL has a sign"),
            ("COPY t TO STDOUT NULL 7", "a text in quotes"),
        ] {
            let refused = of(sql).expect_err(sql);
            assert!(refused.message.contains(words), "{sql}: {refused:?}");
        }
    }

    fn lines(options: &str, rows: &[&[Option<&str>]]) -> String {
        let form = of(&format!("COPY t TO STDOUT {options}")).expect(options).expect(options).form;
        let row = |values: &&[Option<&str>]| {
            let mut data = BytesMut::new();
            for value in *values {
                let length = value.map_or(-1, |value| i32::try_from(value.len()).expect("it is short"));
                data.extend_from_slice(&length.to_be_bytes());
                data.extend_from_slice(value.unwrap_or_default().as_bytes());
            }
            form.line(&DataRow::new(data, i16::try_from(values.len()).expect("a few"))).expect("whole")
        };
        let header = if form.has_header { form.header(["k", "a b", "c,d"].into_iter()) } else { Bytes::new() };
        let lines: Vec<u8> = header.into_iter().chain(rows.iter().flat_map(row)).collect();
        String::from_utf8(lines).expect("text")
    }

    /// Lines as PostgreSQL 16 writes them.
    #[test]
    fn lines_are_those_of_postgresql() {
        let rows: &[&[Option<&str>]] =
            &[&[Some("1"), None, Some("")], &[Some("a\tb\\c\nd"), Some("\"q\""), Some("x,y")]];
        assert_eq!(lines("", rows), "1\t\\N\t\na\\tb\\\\c\\nd\t\"q\"\tx,y\n");
        assert_eq!(lines("CSV HEADER", rows), "k,a b,\"c,d\"\n1,,\"\"\n\"a\tb\\c\nd\",\"\"\"q\"\"\",\"x,y\"\n");
        assert_eq!(
            lines("WITH (FORMAT csv, HEADER false, DELIMITER ';', NULL 'x', QUOTE '''')", rows),
            "1;x;\n'a\tb\\c\nd';\"q\";x,y\n"
        );
        assert_eq!(lines("(DELIMITER ',', NULL '-', HEADER)", rows), "k,a b,c\\,d\n1,-,\na\\tb\\\\c\\nd,\"q\",x\\,y\n");
        assert_eq!(lines(r"DELIMITER E'\t' NULL E'\x41'", &[&[Some("1"), None]]), "1\tA\n");
        assert_eq!(lines("CSV", &[&[Some("\\.")], &[Some("")], &[None]]), "\"\\.\"\n\"\"\n\n");
        let torn = DataRow::new(BytesMut::from(&[0, 0, 0, 9, 1][..]), 1);
        assert_eq!(
            of("COPY t TO STDOUT").expect("it").expect("it").form.line(&torn).expect_err("torn").sqlstate,
            FAULT
        );
    }
}
