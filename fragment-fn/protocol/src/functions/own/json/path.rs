//! Paths: `$.name`, `$['name']`, `$["name"]`, `$[0]`, one after the other.

use std::iter::Peekable;
use std::str::Chars;

use datafusion::common::Result;

use crate::Advised;

/// Step from a value to one of its parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Name of a member.
    pub key: Option<String>,
    /// Place of an element, from the end where it is negative. A name of digits is one, too.
    pub index: Option<i64>,
}

impl Step {
    pub(super) fn key(key: &str) -> Self {
        Self { key: Some(key.to_owned()), index: None }
    }

    pub(super) fn index(index: i64) -> Self {
        Self { key: None, index: Some(index) }
    }

    fn of_path(key: String) -> Self {
        let index = key.parse().ok().filter(|index| *index >= 0);
        Self { key: Some(key), index }
    }
}

/// Steps of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Path(pub Vec<Step>);

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// A text that is no path of these steps.
    pub(super) fn parsed(text: &str) -> Result<Self> {
        let mut signs = text.chars().peekable();
        let mut steps = Vec::new();
        let mut is_path = signs.next() == Some('$');
        while is_path {
            let step = match signs.next() {
                None => return Ok(Self(steps)),
                Some('.') => name(&mut signs, |sign| !matches!(sign, '.' | '[')),
                Some('[') => in_brackets(&mut signs),
                Some(_) => None,
            };
            is_path = step.is_some();
            steps.extend(step.map(Step::of_path));
        }
        let hint = "a path is like $.name, $['name'] and $.list[0]; wildcards and filters are not supported";
        Err(Advised::new(format!("`{text}` is not a path of JSON"), hint).into())
    }
}

fn name(signs: &mut Peekable<Chars<'_>>, is_of_name: impl Fn(char) -> bool) -> Option<String> {
    let mut name = String::new();
    while let Some(sign) = signs.next_if(|sign| is_of_name(*sign)) {
        name.push(sign);
    }
    let is_plain = !name.is_empty() && !name.contains(['*', '?', '(', ')', '@', '\'', '"', ']', ' ']);
    is_plain.then_some(name)
}

fn in_brackets(signs: &mut Peekable<Chars<'_>>) -> Option<String> {
    let step = match signs.next_if(|sign| matches!(sign, '\'' | '"')) {
        // `[1:2]` would be several elements.
        None => name(signs, |sign| sign != ']').filter(|name| !name.contains(':'))?,
        Some(quote) => {
            let mut name = String::new();
            loop {
                match signs.next()? {
                    '\\' => name.push(signs.next()?),
                    sign if sign == quote => break name,
                    sign => name.push(sign),
                }
            }
        }
    };
    (signs.next() == Some(']')).then_some(step)
}
