//! One pass over a JSON text, without a tree. What is found is a part of the text.

use std::borrow::Cow;

use super::path::Step;

/// Levels of nesting that are read. A text that is deeper is no JSON here.
const DEPTH_MAX: u32 = 1000;

pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Returns the value that the steps lead to. None where there is none, or where the text is no JSON.
    pub(super) fn find(text: &'a str, steps: &[Step]) -> Option<&'a str> {
        let mut reader = Self { text, at: 0 };
        let found = reader.below(steps, DEPTH_MAX)?;
        reader.skip_space();
        if reader.at == text.len() { found } else { None }
    }

    /// Counts the elements or members of a value that was found; None for one that has no parts.
    pub(super) fn count(value: &str) -> Option<i64> {
        let mut parts = 0;
        match value.as_bytes().first()? {
            b'[' => Self::each_element(value, |_| parts += 1),
            b'{' => Self::each_key(value, |_| parts += 1),
            _ => return None,
        }
        Some(parts)
    }

    /// Visits the elements of a value that was found.
    pub(super) fn each_element(value: &str, mut visit: impl FnMut(&str)) {
        let mut reader = Reader { text: value, at: 0 };
        if reader.peek() == Some(b'[') {
            reader.array(|reader, _| reader.value(DEPTH_MAX).map(&mut visit));
        }
    }

    /// Visits the keys of a value that was found, with their quotes.
    pub(super) fn each_key(value: &str, mut visit: impl FnMut(&str)) {
        let mut reader = Reader { text: value, at: 0 };
        if reader.peek() == Some(b'{') {
            reader.object(|reader, key| {
                visit(key);
                reader.value(DEPTH_MAX).map(drop)
            });
        }
    }

    /// Reads a value to its end, and returns the part that the steps lead to. The outer None is no JSON.
    fn below(&mut self, steps: &[Step], depth: u32) -> Option<Option<&'a str>> {
        self.skip_space();
        let Some((step, rest)) = steps.split_first() else { return self.value(depth).map(Some) };
        let depth = depth.checked_sub(1)?;
        let mut found = None;
        match self.peek()? {
            b'{' => self.object(|reader, key| match &step.key {
                Some(wanted) if found.is_none() && is_key(key, wanted) => {
                    found = Some(reader.below(rest, depth)?);
                    Some(())
                }
                _ => reader.value(depth).map(drop),
            })?,
            b'[' => {
                let wanted = match step.index {
                    Some(index) if index < 0 => Self { text: self.text, at: self.at }.length(depth)? + index,
                    index => index.unwrap_or(-1),
                };
                self.array(|reader, place| {
                    if place == wanted {
                        found = Some(reader.below(rest, depth)?);
                        return Some(());
                    }
                    reader.value(depth).map(drop)
                })?;
            }
            _ => drop(self.value(depth)?),
        }
        Some(found.flatten())
    }

    fn length(&mut self, depth: u32) -> Option<i64> {
        let mut length = 0;
        self.array(|reader, place| {
            length = place + 1;
            reader.value(depth).map(drop)
        })?;
        Some(length)
    }

    /// Reads a value.
    fn value(&mut self, depth: u32) -> Option<&'a str> {
        self.skip_space();
        let start = self.at;
        match self.peek()? {
            b'{' => {
                let depth = depth.checked_sub(1)?;
                self.object(|reader, _| reader.value(depth).map(drop))?;
            }
            b'[' => {
                let depth = depth.checked_sub(1)?;
                self.array(|reader, _| reader.value(depth).map(drop))?;
            }
            b'"' => drop(self.string()?),
            b't' => self.word("true")?,
            b'f' => self.word("false")?,
            b'n' => self.word("null")?,
            _ => self.number()?,
        }
        Some(&self.text[start..self.at])
    }

    fn object(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.word("{")?;
        self.skip_space();
        if self.take(b'}') {
            return Some(());
        }
        loop {
            self.skip_space();
            let key = self.string()?;
            self.skip_space();
            self.word(":")?;
            member(self, key)?;
            self.skip_space();
            if !self.take(b',') {
                return self.word("}");
            }
        }
    }

    fn array(&mut self, mut element: impl FnMut(&mut Self, i64) -> Option<()>) -> Option<()> {
        self.word("[")?;
        self.skip_space();
        if self.take(b']') {
            return Some(());
        }
        let mut place = 0;
        loop {
            element(self, place)?;
            place += 1;
            self.skip_space();
            if !self.take(b',') {
                return self.word("]");
            }
        }
    }

    /// Reads a text with its quotes.
    fn string(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.word("\"")?;
        loop {
            match self.next()? {
                b'"' => return Some(&self.text[start..self.at]),
                b'\\' => match self.next()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        for _ in 0..4 {
                            self.next().filter(u8::is_ascii_hexdigit)?;
                        }
                    }
                    _ => return None,
                },
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text.as_bytes()[self.at..].starts_with(word.as_bytes()).then(|| self.at += word.len())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

fn is_key(key: &str, wanted: &str) -> bool {
    unescaped(key).as_deref() == Some(wanted)
}

/// Returns the characters of a text with quotes. None for half of a pair of surrogates.
pub(super) fn unescaped(string: &str) -> Option<Cow<'_, str>> {
    let inner = string.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(string).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// Returns the text of a value that has no parts; None for one that has, and for null.
pub(super) fn scalar(value: &str) -> Option<Cow<'_, str>> {
    match value.as_bytes().first()? {
        b'{' | b'[' | b'n' => None,
        b'"' => unescaped(value),
        _ => Some(Cow::Borrowed(value)),
    }
}

/// Returns a value that was found, without white space between its parts.
pub(super) fn compact(value: &str) -> Cow<'_, str> {
    if !value.starts_with(['{', '[']) {
        return Cow::Borrowed(value);
    }
    let (mut is_text, mut is_escaped) = (false, false);
    let kept = value.chars().filter(|&sign| {
        if is_escaped {
            is_escaped = false;
        } else if is_text && sign == '\\' {
            is_escaped = true;
        } else if sign == '"' {
            is_text = !is_text;
        }
        is_text || !matches!(sign, ' ' | '\t' | '\n' | '\r')
    });
    Cow::Owned(kept.collect())
}
