//! JSON text, cut into one value a line: readers of lines then read lines, values over several lines, and arrays alike.
//!
//! ```text
//!  {"a": 1}           ┐
//!  {"a":              │
//!   2}                ├─▶ {"a": 1}⏎{"a":  2}⏎
//!  [{"a": 1}, {"a":…] ┘
//! ```
//!
//! Only brackets, commas and quotes are looked at. The values themselves are the decoder's.

/// Form of a file's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Lines, unless the text begins with a square bracket.
    Any,
    Lines,
    Array,
}

/// Reader's place outside of any value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Beginning,
    /// Among values without an array around them.
    Lines,
    /// In the array, where a value may follow. True where the array may end, too.
    BeforeElement(bool),
    AfterElement,
    End,
}

/// Cutter of one text.
#[derive(Debug)]
pub(super) struct Values {
    shape: Shape,
    place: Place,
    /// Brackets that are open inside of the value.
    depth: u64,
    in_string: bool,
    /// True after a backslash in a string.
    is_escaped: bool,
    /// True in a value that is no object and no list.
    in_scalar: bool,
}

impl Values {
    pub(super) fn new(shape: Shape) -> Self {
        let place = if shape == Shape::Lines { Place::Lines } else { Place::Beginning };
        Self { shape, place, depth: 0, in_string: false, is_escaped: false, in_scalar: false }
    }

    /// Takes the next part of the text, and puts its lines behind `lines`.
    ///
    /// # Errors
    /// The reason why the text is no row of values.
    pub(super) fn feed(&mut self, text: &[u8], lines: &mut Vec<u8>) -> Result<(), String> {
        lines.reserve(text.len());
        for &byte in text {
            if self.in_string {
                self.in_string = self.is_escaped || byte != b'"';
                self.is_escaped = !self.is_escaped && byte == b'\\';
                lines.push(byte);
                if !self.in_string && self.depth == 0 {
                    self.end_value(lines);
                }
            } else if self.depth > 0 {
                self.inside(byte, lines);
            } else {
                self.outside(byte, lines)?;
            }
        }
        Ok(())
    }

    /// Ends the text.
    ///
    /// # Errors
    /// The reason why it cannot end here.
    pub(super) fn finish(&mut self, lines: &mut Vec<u8>) -> Result<(), String> {
        if self.depth > 0 || self.in_string {
            return Err("it ends inside of a value".to_owned());
        }
        if self.in_scalar {
            self.end_value(lines);
        }
        match self.place {
            Place::BeforeElement(_) | Place::AfterElement => Err("it ends before its array does".to_owned()),
            Place::Beginning | Place::Lines | Place::End => Ok(()),
        }
    }

    /// Takes a byte inside of a list or an object.
    fn inside(&mut self, byte: u8, lines: &mut Vec<u8>) {
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        // Outside of strings a break is a blank.
        lines.push(if matches!(byte, b'\n' | b'\r') { b' ' } else { byte });
        if self.depth == 0 {
            self.end_value(lines);
        }
    }

    fn outside(&mut self, byte: u8, lines: &mut Vec<u8>) -> Result<(), String> {
        let is_blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        if self.in_scalar && (is_blank || (self.is_in_array() && matches!(byte, b',' | b']'))) {
            self.end_value(lines);
        }
        if is_blank {
            return Ok(());
        }
        if self.in_scalar {
            lines.push(byte);
            return Ok(());
        }
        match (self.place, byte) {
            (Place::Beginning, b'[') => self.place = Place::BeforeElement(true),
            (Place::Beginning, _) if self.shape == Shape::Array => return Err("it is no JSON array".to_owned()),
            (Place::BeforeElement(true), b']') | (Place::AfterElement, b']') => self.place = Place::End,
            (Place::BeforeElement(_), b',' | b']') => return Err("an element of its array is missing".to_owned()),
            (Place::AfterElement, b',') => self.place = Place::BeforeElement(false),
            (Place::AfterElement, _) => return Err("a comma is missing between two elements of its array".to_owned()),
            (Place::End, _) => return Err("its array ends before the file does".to_owned()),
            _ => self.begin_value(byte, lines),
        }
        Ok(())
    }

    fn is_in_array(&self) -> bool {
        matches!(self.place, Place::BeforeElement(_))
    }

    fn begin_value(&mut self, byte: u8, lines: &mut Vec<u8>) {
        if self.place == Place::Beginning {
            self.place = Place::Lines;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = 1,
            _ => self.in_scalar = true,
        }
        lines.push(byte);
    }

    fn end_value(&mut self, lines: &mut Vec<u8>) {
        lines.push(b'\n');
        self.in_scalar = false;
        if self.is_in_array() {
            self.place = Place::AfterElement;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cuts a text that comes in parts of `size` bytes.
    fn cut(text: &str, shape: Shape, size: usize) -> Result<String, String> {
        let (mut values, mut lines) = (Values::new(shape), Vec::new());
        for part in text.as_bytes().chunks(size) {
            values.feed(part, &mut lines)?;
        }
        values.finish(&mut lines)?;
        Ok(String::from_utf8(lines).expect("UTF-8"))
    }

    #[track_caller]
    fn check(text: &str, shape: Shape, expect: Result<&str, &str>) {
        for size in [1, 3, 1000] {
            assert_eq!(cut(text, shape, size), expect.map(str::to_owned).map_err(str::to_owned), "{text} by {size}");
        }
    }

    #[test]
    fn each_value_becomes_a_line() {
        use Shape::{Any, Array, Lines};
        check("{\"a\":1}\n{\"a\":2}", Any, Ok("{\"a\":1}\n{\"a\":2}\n"));
        check(" {\"a\":\r\n[1,\n{\"b\":\"]}\"}]}{}\n\n", Any, Ok("{\"a\":  [1, {\"b\":\"]}\"}]}\n{}\n"));
        check("[{\"a\":\"\\\"],\"}, {\"a\":\n2} ]\n", Any, Ok("{\"a\":\"\\\"],\"}\n{\"a\": 2}\n"));
        check("[{}]", Array, Ok("{}\n"));
        check("[]", Any, Ok(""));
        check("", Any, Ok(""));
        check(" \n", Array, Ok(""));
        check("[1, \"x\",null]", Any, Ok("1\n\"x\"\nnull\n"));
        check("1 \"a b\"\ntrue", Any, Ok("1\n\"a b\"\ntrue\n"));
        check("[1]\n[2]", Lines, Ok("[1]\n[2]\n"));
        check("{\"a\":1},\n{}", Any, Ok("{\"a\":1}\n,\n{}\n"));
    }

    #[test]
    fn a_text_that_is_cut_off_is_no_shorter_table() {
        use Shape::{Any, Array};
        for text in ["{\"a\":", "{\"a\":1}\n{\"a\"", "[{\"a\":\"x", "\"x"] {
            check(text, Any, Err("it ends inside of a value"));
        }
        for text in ["[", "[{}", "[{},", "[1"] {
            check(text, Any, Err("it ends before its array does"));
        }
        check("[{} {}]", Any, Err("a comma is missing between two elements of its array"));
        check("[{},]", Any, Err("an element of its array is missing"));
        check("[,]", Any, Err("an element of its array is missing"));
        check("[{}] {}", Any, Err("its array ends before the file does"));
        check("{}", Array, Err("it is no JSON array"));
    }
}
