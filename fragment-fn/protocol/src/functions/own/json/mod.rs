//! JSON in texts: Trino's functions over paths, and the operators `->` and `->>` of PostgreSQL and DuckDB.
//!
//! There is no type JSON. A function takes a text and gives a text, with the keys in their order and without white space
//! between them. What is no JSON has no parts: the result is NULL. Only [`parse`] fails over it.

mod path;
mod reader;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListBuilder, StringBuilder};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{Result, exec_err};

use self::path::{Path, Step};
use self::reader::{Reader, compact, scalar, unescaped};
use super::rows::Kind::{Key, Scalar, Text};
use super::rows::{Cells, Last, Returns, Row};
use crate::Advised;

const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    arguments: &'static [(&'static str, super::rows::Kind)],
    returns: Returns,
    body: fn(&Cells) -> Result<ArrayRef>,
) -> Row {
    Row { name, aliases, arguments, optional: 0, returns, body }
}

pub(super) static TABLE: &[Row] = &[
    row("json_extract", &[], &[("json", Text), ("path", Text)], Returns::Text, extract),
    row("json_extract_scalar", &[], &[("json", Text), ("path", Text)], Returns::Text, extract_scalar),
    row("json_get", &[], &[("json", Text), ("key", Key)], Returns::Text, get),
    row(
        "json_get_text",
        &["json_extract_string", "get_json_object"],
        &[("json", Text), ("key", Key)],
        Returns::Text,
        get_text,
    ),
    row("json_parse", &["json_format"], &[("json", Text)], Returns::Text, parse),
    row("json_array_length", &[], &[("json", Text)], Returns::Integer, array_length),
    row("json_array_texts", &[], &[("json", Text)], Returns::Texts, array_texts),
    row("json_size", &[], &[("json", Text), ("path", Text)], Returns::Integer, size),
    row("json_array_contains", &[], &[("json", Text), ("value", Scalar)], Returns::Boolean, array_contains),
    row("json_keys", &[], &[("json", Text)], Returns::Texts, keys),
    row("json_valid", &[], &[("json", Text)], Returns::Boolean, valid),
    row("is_json_scalar", &[], &[("json", Text)], Returns::Boolean, is_scalar),
];

/// Computes a value below a path for each row.
fn below<T, A: FromIterator<Option<T>>>(cells: &Cells, of: impl Fn(&str) -> Option<T>) -> Result<A> {
    let (json, path) = (cells.text(0), cells.text(1));
    let mut paths = Last::new();
    cells.each(|row| {
        let steps = &paths.get(path.at(row), Path::parsed)?.0;
        Ok(Reader::find(json.at(row), steps).and_then(&of))
    })
}

fn extract(cells: &Cells) -> Result<ArrayRef> {
    let texts: arrow::array::StringViewArray = below(cells, |value| Some(compact(value).into_owned()))?;
    Ok(Arc::new(texts))
}

fn extract_scalar(cells: &Cells) -> Result<ArrayRef> {
    let texts: arrow::array::StringViewArray = below(cells, |value| scalar(value).map(Cow::into_owned))?;
    Ok(Arc::new(texts))
}

fn size(cells: &Cells) -> Result<ArrayRef> {
    let sizes: Int64Array = below(cells, |value| Some(Reader::count(value).unwrap_or(0)))?;
    Ok(Arc::new(sizes))
}

/// Computes a text of the value below a key, an index or a path.
fn at_key(cells: &Cells, of: impl for<'a> Fn(&'a str) -> Option<Cow<'a, str>>) -> Result<ArrayRef> {
    let json = cells.text(0);
    let found = |row: usize, steps: &[Step]| {
        let value = Reader::find(json.at(row), steps);
        value.and_then(&of).map(Cow::into_owned)
    };
    if *cells.data_type(1) == DataType::Int64 {
        let index = cells.integer(1);
        return cells.texts(|row| Ok(found(row, &[Step::index(index.at(row))])));
    }
    let key = cells.text(1);
    let mut keys = Last::new();
    cells.texts(|row| {
        let steps = keys.get(key.at(row), |key| {
            // A key such as `$oid` is none.
            let is_path = key == "$" || key.starts_with("$.") || key.starts_with("$[");
            if is_path { Path::parsed(key) } else { Ok(Path(vec![Step::key(key)])) }
        })?;
        Ok(found(row, &steps.0))
    })
}

fn get(cells: &Cells) -> Result<ArrayRef> {
    at_key(cells, |value| Some(compact(value)))
}

fn get_text(cells: &Cells) -> Result<ArrayRef> {
    at_key(cells, |value| match value.as_bytes().first() {
        Some(b'{' | b'[') => Some(compact(value)),
        _ => scalar(value),
    })
}

fn parse(cells: &Cells) -> Result<ArrayRef> {
    let json = cells.text(0);
    cells.texts(|row| match Reader::find(json.at(row), &[]) {
        Some(value) => Ok(Some(compact(value).into_owned())),
        None => {
            let text: String = json.at(row).chars().take(40).collect();
            let message = format!("{}: the text is not JSON: {text}", cells.name());
            let hint = "try(json_parse(x)) is NULL where the text is not JSON; json_valid(x) tells";
            Err(Advised::new(message, hint).into())
        }
    })
}

fn array_length(cells: &Cells) -> Result<ArrayRef> {
    let json = cells.text(0);
    let lengths: Int64Array = cells.each(|row| {
        let value = Reader::find(json.at(row), &[]).filter(|value| value.starts_with('['));
        Ok(value.and_then(Reader::count))
    })?;
    Ok(Arc::new(lengths))
}

/// Lists the values of an array: the texts of scalars, and JSON of others.
fn array_texts(cells: &Cells) -> Result<ArrayRef> {
    let json = cells.text(0);
    let all: Vec<Option<Vec<Option<String>>>> = cells.each(|row| {
        let Some(value) = Reader::find(json.at(row), &[]).filter(|value| value.starts_with('[')) else {
            return Ok(None);
        };
        let mut texts = Vec::new();
        Reader::each_element(value, |element| {
            let text = if element.starts_with(['{', '[']) { Some(compact(element)) } else { scalar(element) };
            texts.push(text.map(Cow::into_owned));
        });
        Ok(Some(texts))
    })?;
    Ok(texts_of(all))
}

fn array_contains(cells: &Cells) -> Result<ArrayRef> {
    let json = cells.text(0);
    let wanted = cells.spread(1)?;
    let is_wanted = |row: usize, element: &str| match wanted.data_type() {
        DataType::Boolean => element == if wanted.as_boolean().value(row) { "true" } else { "false" },
        DataType::Int64 => element.parse() == Ok(wanted.as_primitive::<Int64Type>().value(row)),
        // As in Trino, an integer is no double.
        DataType::Float64 => {
            element.contains(['.', 'e', 'E']) && element.parse() == Ok(wanted.as_primitive::<Float64Type>().value(row))
        }
        _ => element.starts_with('"') && unescaped(element).as_deref() == Some(wanted.as_string_view().value(row)),
    };
    let found: BooleanArray = cells.each(|row| {
        let Some(value) = Reader::find(json.at(row), &[]).filter(|value| value.starts_with('[')) else {
            return Ok(None);
        };
        let mut is_found = false;
        Reader::each_element(value, |element| is_found |= is_wanted(row, element));
        Ok(Some(is_found))
    })?;
    Ok(Arc::new(found))
}

fn keys(cells: &Cells) -> Result<ArrayRef> {
    let json = cells.text(0);
    let all: Vec<Option<Vec<String>>> = cells.each(|row| {
        let Some(value) = Reader::find(json.at(row), &[]) else { return Ok(None) };
        let mut keys = Vec::new();
        Reader::each_key(value, |key| keys.extend(unescaped(key).map(Cow::into_owned)));
        Ok(Some(keys))
    })?;
    Ok(texts_of(all))
}

/// Makes an array of lists of texts, or of texts that may be NULL.
pub(super) fn texts_of<T: Into<Option<String>>>(rows: Vec<Option<Vec<T>>>) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in rows {
        let is_there = row.is_some();
        for text in row.into_iter().flatten() {
            let text: Option<String> = text.into();
            lists.values().append_option(text);
        }
        lists.append(is_there);
    }
    Arc::new(lists.finish())
}

fn valid(cells: &Cells) -> Result<ArrayRef> {
    let json = cells.text(0);
    let valid: BooleanArray = cells.each(|row| Ok(Some(Reader::find(json.at(row), &[]).is_some())))?;
    Ok(Arc::new(valid))
}

fn is_scalar(cells: &Cells) -> Result<ArrayRef> {
    let json = cells.text(0);
    let scalars: BooleanArray = cells.each(|row| match Reader::find(json.at(row), &[]) {
        Some(value) => Ok(Some(!value.starts_with(['{', '[']))),
        None => exec_err!("{}: the text is not JSON", cells.name()),
    })?;
    Ok(Arc::new(scalars))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(json: &str, path: &str) -> Option<String> {
        let path = Path::parsed(path).expect("a path");
        Reader::find(json, &path.0).map(|value| compact(value).into_owned())
    }

    #[test]
    fn values_are_found_by_their_paths() {
        let json = r#" {"a": [1, {"b c": "x\u00e9\n", "b": null}], "a": 2, "0": true, "d": {"e": [ ] , "f":-1.5e3}} "#;
        for (path, expect) in [
            ("$", Some(r#"{"a":[1,{"b c":"x\u00e9\n","b":null}],"a":2,"0":true,"d":{"e":[],"f":-1.5e3}}"#)),
            ("$.a", Some(r#"[1,{"b c":"x\u00e9\n","b":null}]"#)),
            ("$.a[0]", Some("1")),
            ("$.a.0", Some("1")),
            ("$.a[1].b", Some("null")),
            ("$.a[1]['b c']", Some(r#""x\u00e9\n""#)),
            (r#"$.a[1]["b c"]"#, Some(r#""x\u00e9\n""#)),
            ("$[0]", Some("true")),
            ("$.d.f", Some("-1.5e3")),
            ("$.d.e[0]", None),
            ("$.a[2]", None),
            ("$.d.f.g", None),
            ("$.x", None),
        ] {
            assert_eq!(below(json, path).as_deref(), expect, "{path}");
        }
        assert_eq!(Reader::find("[1,2,3]", &[Step::index(-1)]), Some("3"));
        assert_eq!(Reader::find("[1,2,3]", &[Step::index(-4)]), None);
        assert_eq!(scalar(r#""x\u00e9\ud83d\ude00\n""#).as_deref(), Some("xé😀\n"));
        assert_eq!(scalar("null"), None);
    }

    #[test]
    fn texts_that_are_no_json_have_no_parts() {
        for json in [
            "",
            " ",
            "x",
            "{",
            "{\"a\":1",
            "{\"a\":1}x",
            "{'a':1}",
            "[1,]",
            "[1 2]",
            "{\"a\" 1}",
            "01",
            "1.",
            "-",
            ".5",
            "1e",
            "\"\n\"",
            r#""\x""#,
            r#""\u12g4""#,
            "nul",
            "truex",
            "{\"a\":1,}",
            "[}",
            "NaN",
            "+1",
        ] {
            assert_eq!(Reader::find(json, &[]), None, "{json}");
            assert!(serde_json::from_str::<serde_json::Value>(json).is_err(), "{json}");
        }
        for json in ["0", "-0", "1.5E-3", "\"\"", "[]", "{}", "\t[ null , false ]\r\n", "-0.0e+1"] {
            assert!(Reader::find(json, &[]).is_some(), "{json}");
        }
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Reader::find(&deep(1000), &[]).is_some());
        assert!(Reader::find(&deep(1001), &[]).is_none());
    }

    /// serde_json is the judge of random damage.
    #[test]
    fn what_is_json_is_what_serde_json_reads() {
        let text = r#"{"a":[1,-2.50,"x\"y\u0041",{"b":null,"c":[true,false]}],"d":{"":{}}}"#;
        let signs = b"{}[],:\"\\0123eE+-. ntufalsr";
        let mut random = 7u64;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            usize::try_from(random >> 33).expect("31 bits") % below
        };
        for _ in 0..20_000 {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..=next(3) {
                let at = next(bytes.len());
                match next(3) {
                    0 => bytes[at] = signs[next(signs.len())],
                    1 => bytes.insert(at, signs[next(signs.len())]),
                    _ => drop(bytes.remove(at)),
                }
            }
            let json = String::from_utf8(bytes).expect("ASCII");
            let read = serde_json::from_str::<serde_json::Value>(&json);
            // A lone surrogate is none for serde_json alone.
            let is_json = read.as_ref().map_or_else(|error| error.to_string().contains("surrogate"), |_| true);
            // So is a number that no double holds.
            let is_json = is_json || read.is_err_and(|error| error.to_string().contains("out of range"));
            assert_eq!(Reader::find(&json, &[]).is_some(), is_json, "{json}");
        }
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        for path in ["", "a", "$.", "$..a", "$.*", "$[*]", "$[", "$['a]", "$a", "$[?(@.a)]", "$.a[1:2]"] {
            assert!(Path::parsed(path).is_err(), "{path}");
        }
    }
}
