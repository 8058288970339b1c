//! Texts: parts, regular expressions, URLs.
//!
//! Regular expressions are those of the crate `regex`, as everywhere here: it has no look-around and no references to groups.
//! URLs are read by RFC 3986, as Java does. The crate `url` follows browsers, and would change what it reads.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use datafusion::common::Result;
use regex::Regex;

use super::json::texts_of;
use super::rows::Kind::{Integer, Text};
use super::rows::{Cells, Last, Returns, Row};
use crate::Advised;

const fn row(
    name: &'static str,
    arguments: &'static [(&'static str, super::rows::Kind)],
    optional: usize,
    returns: Returns,
    body: fn(&Cells) -> Result<ArrayRef>,
) -> Row {
    Row { name, aliases: &[], arguments, optional, returns, body }
}

const URL: &[(&str, super::rows::Kind)] = &[("url", Text)];

pub(super) static TABLE: &[Row] = &[
    row("split", &[("text", Text), ("delimiter", Text), ("limit", Integer)], 1, Returns::Texts, split),
    row("regexp_extract", &[("text", Text), ("pattern", Text), ("group", Integer)], 1, Returns::Text, extract),
    row("regexp_extract_all", &[("text", Text), ("pattern", Text), ("group", Integer)], 1, Returns::Texts, extract_all),
    row("regexp_split", &[("text", Text), ("pattern", Text)], 0, Returns::Texts, regexp_split),
    row("url_extract_protocol", URL, 0, Returns::Text, |cells| part_of_url(cells, |url| Some(url.scheme.to_owned()))),
    row("url_extract_host", URL, 0, Returns::Text, |cells| part_of_url(cells, |url| Some(url.host.to_owned()))),
    row("url_extract_path", URL, 0, Returns::Text, |cells| part_of_url(cells, |url| decoded(url.path, false))),
    row("url_extract_query", URL, 0, Returns::Text, |cells| part_of_url(cells, |url| decoded(url.query, false))),
    row("url_extract_fragment", URL, 0, Returns::Text, |cells| part_of_url(cells, |url| decoded(url.fragment, false))),
    row("url_extract_port", URL, 0, Returns::Integer, port),
    row("url_extract_parameter", &[("url", Text), ("name", Text)], 0, Returns::Text, parameter),
    row("url_encode", &[("text", Text)], 0, Returns::Text, encode),
    row("url_decode", &[("text", Text)], 0, Returns::Text, decode),
];

fn split(cells: &Cells) -> Result<ArrayRef> {
    let (text, delimiter) = (cells.text(0), cells.text(1));
    let limit = (cells.len() > 2).then(|| cells.integer(2));
    let parts: Vec<Option<Vec<String>>> = cells.each(|row| {
        let (text, delimiter) = (text.at(row), delimiter.at(row));
        if delimiter.is_empty() {
            return Err(Advised::new(
                "split by an empty text has no parts",
                "string_to_array(x, NULL) has the letters",
            )
            .into());
        }
        let parts = |parts: &mut dyn Iterator<Item = &str>| Ok(Some(parts.map(str::to_owned).collect()));
        match limit.as_ref().map(|limit| limit.at(row)) {
            None => parts(&mut text.split(delimiter)),
            Some(limit) => match usize::try_from(limit) {
                Ok(limit @ 1..) => parts(&mut text.splitn(limit, delimiter)),
                _ => Err(Advised::new(format!("split into {limit} parts"), "the limit is 1 or more").into()),
            },
        }
    })?;
    Ok(texts_of(parts))
}

fn compiled(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| {
        let cut: String = pattern.chars().take(60).collect();
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let hint = "patterns are those of Rust's crate regex: no look-around, no references to groups";
        Advised::new(format!("the pattern '{cut}' is not supported: {why}"), hint).into()
    })
}

/// Computes each row with its pattern and its group; 0 is the whole match.
fn matched<T, A: FromIterator<Option<T>>>(
    cells: &Cells,
    mut of: impl FnMut(&str, &Regex, usize) -> Option<T>,
) -> Result<A> {
    let (text, pattern) = (cells.text(0), cells.text(1));
    let group = (cells.len() > 2).then(|| cells.integer(2));
    let mut patterns = Last::new();
    cells.each(|row| {
        let pattern = patterns.get(pattern.at(row), compiled)?;
        let group = group.as_ref().map_or(0, |group| group.at(row));
        match usize::try_from(group) {
            Ok(group) if group < pattern.captures_len() => Ok(of(text.at(row), pattern, group)),
            _ => {
                let message = format!("{}: the pattern has no group {group}", cells.name());
                Err(Advised::new(message, "groups are counted from 1, and 0 is the whole match").into())
            }
        }
    })
}

fn extract(cells: &Cells) -> Result<ArrayRef> {
    let texts: arrow::array::StringViewArray = matched(cells, |text, pattern, group| match group {
        0 => pattern.find(text).map(|found| found.as_str().to_owned()),
        _ => pattern.captures(text)?.get(group).map(|found| found.as_str().to_owned()),
    })?;
    Ok(Arc::new(texts))
}

fn extract_all(cells: &Cells) -> Result<ArrayRef> {
    let all: Vec<Option<Vec<Option<String>>>> = matched(cells, |text, pattern, group| {
        let of_group = |captures: regex::Captures<'_>| captures.get(group).map(|found| found.as_str().to_owned());
        Some(pattern.captures_iter(text).map(of_group).collect())
    })?;
    Ok(texts_of(all))
}

fn regexp_split(cells: &Cells) -> Result<ArrayRef> {
    let parts: Vec<Option<Vec<String>>> =
        matched(cells, |text, pattern, _| Some(pattern.split(text).map(str::to_owned).collect()))?;
    Ok(texts_of(parts))
}

/// Parts of a URL, as they are written. What is missing is empty.
#[derive(Debug, Default, PartialEq, Eq)]
struct Url<'a> {
    scheme: &'a str,
    host: &'a str,
    port: Option<i64>,
    path: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    /// Reads a URL; None where it has a sign that no URL has.
    fn parsed(text: &'a str) -> Option<Self> {
        let is_of_url = |sign: char| !sign.is_control() && !sign.is_whitespace() && !"<>\"{}|\\^`".contains(sign);
        if !text.chars().all(is_of_url) || decoded(text, false).is_none() {
            return None;
        }
        let mut url = Self::default();
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        (url.fragment, url.query) = (fragment, query);
        let rest = match rest.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => {
                url.scheme = scheme;
                // A mail address has no path.
                if rest.is_empty() {
                    return None;
                }
                rest
            }
            _ => rest,
        };
        let Some(rest) = rest.strip_prefix("//") else {
            let is_opaque = !url.scheme.is_empty() && !rest.starts_with('/');
            url.path = if is_opaque { "" } else { rest };
            return Some(url);
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
            Some(at) => (&authority[..at], &authority[at + 1..]),
            None => (authority, ""),
        };
        (url.host, url.path) = (host, path);
        url.port = if port.is_empty() { None } else { Some(i64::from(port.parse::<u16>().ok()?)) };
        Some(url)
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|sign: char| sign.is_ascii_alphabetic())
        && text.chars().all(|sign| sign.is_ascii_alphanumeric() || matches!(sign, '+' | '-' | '.'))
}

fn part_of_url(cells: &Cells, part: impl Fn(&Url<'_>) -> Option<String>) -> Result<ArrayRef> {
    let url = cells.text(0);
    cells.texts(|row| Ok(Url::parsed(url.at(row)).and_then(|url| part(&url))))
}

fn port(cells: &Cells) -> Result<ArrayRef> {
    let url = cells.text(0);
    let ports: Int64Array = cells.each(|row| Ok(Url::parsed(url.at(row)).and_then(|url| url.port)))?;
    Ok(Arc::new(ports))
}

fn parameter(cells: &Cells) -> Result<ArrayRef> {
    let (url, name) = (cells.text(0), cells.text(1));
    cells.texts(|row| {
        let Some(url) = Url::parsed(url.at(row)) else { return Ok(None) };
        let mut parameters = url.query.split('&').map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
        let found = parameters.find(|(key, _)| decoded(key, true).as_deref() == Some(name.at(row)));
        Ok(found.filter(|(key, _)| !key.is_empty()).and_then(|(_, value)| decoded(value, true)))
    })
}

fn encode(cells: &Cells) -> Result<ArrayRef> {
    let text = cells.text(0);
    cells.texts(|row| {
        let encoded: String = text.at(row).bytes().fold(String::new(), |mut encoded, byte| {
            match byte {
                b'-' | b'_' | b'.' | b'*' => encoded.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
                b' ' => encoded.push('+'),
                _ => encoded.push_str(&format!("%{byte:02X}")),
            }
            encoded
        });
        Ok(Some(encoded))
    })
}

fn decode(cells: &Cells) -> Result<ArrayRef> {
    let text = cells.text(0);
    cells.texts(|row| {
        let text = text.at(row);
        let cut = || text.chars().take(60).collect::<String>();
        let failed =
            || Advised::new(format!("'{}' is not what url_encode writes", cut()), "an escape is like %2F").into();
        decoded(text, true).map(Some).ok_or_else(failed)
    })
}

/// Reads the escapes of a text; None where one is none. Bytes that are no UTF-8 become the sign for that.
fn decoded(text: &str, is_plus_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if is_plus_space => b' ',
            byte => byte,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_cut_into_their_parts() {
        let url = |scheme, host, port, path, query, fragment| Some(Url { scheme, host, port, path, query, fragment });
        for (text, expect) in [
            ("http://Ex.com:81/a/b?q=1&r=#f", url("http", "Ex.com", Some(81), "/a/b", "q=1&r=", "f")),
            ("http://e.com", url("http", "e.com", None, "", "", "")),
            ("https://u:p@e.com/?x", url("https", "e.com", None, "/", "x", "")),
            ("http://[::1]:8080/", url("http", "[::1]", Some(8080), "/", "", "")),
            ("http://[::1]/", url("http", "[::1]", None, "/", "", "")),
            ("/a?b#c", url("", "", None, "/a", "b", "c")),
            ("mailto:a@b.c", url("mailto", "", None, "", "", "")),
            ("", url("", "", None, "", "", "")),
            ("http://e.com/a b", None),
            ("http://e.com/%zz", None),
            ("http://e.com:x/", None),
            ("http://e.com/<a>", None),
        ] {
            assert_eq!(Url::parsed(text), expect, "{text}");
        }
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(decoded("a%20b+c%C3%A9", true).as_deref(), Some("a b cé"));
        assert_eq!(decoded("a+b", false).as_deref(), Some("a+b"));
        assert_eq!(decoded("%2", true), None);
        assert_eq!(decoded("%+1", true), None);
        assert_eq!(decoded("%ff", true).as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn patterns_that_are_not_supported_say_why() {
        for pattern in ["(?=a)", "(", r"(a)\1"] {
            let error = compiled(pattern).expect_err(pattern).to_string();
            assert!(error.contains("is not supported"), "{error}");
        }
    }
}
