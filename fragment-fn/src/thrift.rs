//! Walk over Thrift's compact encoding that believes a length only once it has seen the bytes.
//!
//! The Parquet reader reserves memory for as many elements as a list claims, and follows a schema by recursion. A few
//! damaged bytes would end the process, and nothing can catch that. So the Thrift structures of a file are walked here first.
//! Non-goal: the meaning of the fields, apart from the few that claim memory.

/// Result of a walk. The error is the reason why an encoding is refused.
pub(crate) type ThriftResult<T> = Result<T, &'static str>;

/// Deepest structure within structures. Parquet's own need seven levels.
const DEPTH_MAX: usize = 64;

/// Deepest group within groups of a schema. A level costs the Parquet reader a few stack frames; a list in a list has two.
pub(crate) const SCHEMA_DEPTH_MAX: usize = 300;

const CUT: &str = "it ends within a structure";
const STOP: u8 = 0;
const BOOLEANS: [u8; 2] = [1, 2];
const BYTE: u8 = 3;
const INTEGERS: [u8; 3] = [4, 5, 6];
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LISTS: [u8; 2] = [9, 10];
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

/// Header of a list.
struct ListHeader {
    count: usize,
    /// Thrift's type of the elements.
    kind: u8,
}

/// Position in an encoding.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn byte(&mut self) -> ThriftResult<u8> {
        let byte = self.bytes.get(self.at).copied().ok_or(CUT)?;
        self.at += 1;
        Ok(byte)
    }

    fn pass(&mut self, bytes: usize) -> ThriftResult<()> {
        if bytes > self.left() {
            return Err("a length in it is beyond its end");
        }
        self.at += bytes;
        Ok(())
    }

    fn varint(&mut self) -> ThriftResult<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number in it does not end")
    }

    fn integer(&mut self) -> ThriftResult<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Reads the next field's number and type. None at the structure's end.
    fn field(&mut self, last: &mut i64) -> ThriftResult<Option<u8>> {
        let header = self.byte()?;
        if header & 0x0f == STOP {
            return Ok(None);
        }
        *last = match header >> 4 {
            0 => self.integer()?,
            step => last.saturating_add(i64::from(step)),
        };
        Ok(Some(header & 0x0f))
    }

    /// Reads the header of a list. Each element takes at least a byte.
    fn list(&mut self) -> ThriftResult<ListHeader> {
        let header = self.byte()?;
        let count = match header >> 4 {
            15 => self.varint()?,
            few => u64::from(few),
        };
        match usize::try_from(count) {
            Ok(count) if count <= self.left() => Ok(ListHeader { count, kind: header & 0x0f }),
            _ => Err("a list in it claims more elements than there are bytes"),
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> ThriftResult<()> {
        if depth > DEPTH_MAX {
            return Err("its structures are nested too deep");
        }
        match kind {
            kind if BOOLEANS.contains(&kind) => Ok(()),
            BYTE => self.pass(1),
            kind if INTEGERS.contains(&kind) => self.varint().map(drop),
            DOUBLE => self.pass(8),
            UUID => self.pass(16),
            BINARY => {
                let bytes = usize::try_from(self.varint()?).map_err(|_| CUT)?;
                self.pass(bytes)
            }
            kind if LISTS.contains(&kind) => {
                let ListHeader { count, kind } = self.list()?;
                // A boolean element takes a byte, where a boolean field would take none.
                let kind = if BOOLEANS.contains(&kind) { BYTE } else { kind };
                (0..count).try_for_each(|_| self.skip(kind, depth + 1))
            }
            MAP => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                for _ in 0..count {
                    self.skip(kinds >> 4, depth + 1)?;
                    self.skip(kinds & 0x0f, depth + 1)?;
                }
                Ok(())
            }
            STRUCT => {
                let mut last = 0;
                while let Some(kind) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            _ => Err("it has a field of no known type"),
        }
    }

    /// Walks a structure. `read` gets each field's number and type and returns true where it has passed that field.
    fn structure(&mut self, mut read: impl FnMut(&mut Self, i64, u8) -> ThriftResult<bool>) -> ThriftResult<()> {
        let mut last = 0;
        while let Some(kind) = self.field(&mut last)? {
            if !read(self, last, kind)? {
                self.skip(kind, 1)?;
            }
        }
        Ok(())
    }
}

/// Skips a whole structure.
pub(crate) fn structure(bytes: &[u8]) -> ThriftResult<()> {
    Cursor::new(bytes).skip(STRUCT, 0)
}

/// Walks a file's metadata. Returns true where its columns are encrypted.
pub(crate) fn footer(bytes: &[u8]) -> ThriftResult<bool> {
    const SCHEMA: i64 = 2;
    const ENCRYPTION_ALGORITHM: i64 = 8;
    let mut encrypted = false;
    Cursor::new(bytes).structure(|cursor, number, kind| {
        encrypted |= number == ENCRYPTION_ALGORITHM;
        if number == SCHEMA && LISTS.contains(&kind) {
            return schema(cursor).map(|()| true);
        }
        Ok(false)
    })?;
    Ok(encrypted)
}

/// Walks a schema: its nodes in the order of the file, each with its number of children.
fn schema(cursor: &mut Cursor<'_>) -> ThriftResult<()> {
    const CHILDREN: i64 = 5;
    let ListHeader { count: nodes, kind } = cursor.list()?;
    if kind != STRUCT {
        return walk_elements(cursor, nodes, kind);
    }
    // Children still to come, for each open group.
    let mut open: Vec<i64> = Vec::new();
    for _ in 0..nodes {
        let mut children = 0;
        cursor.structure(|cursor, number, kind| {
            if number != CHILDREN || !INTEGERS.contains(&kind) {
                return Ok(false);
            }
            children = cursor.integer()?;
            Ok(true)
        })?;
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if children > 0 {
            open.push(children);
        }
        if open.len() > SCHEMA_DEPTH_MAX {
            return Err("its schema is nested too deep");
        }
        while open.last().is_some_and(|left| *left <= 0) {
            open.pop();
        }
    }
    Ok(())
}

fn walk_elements(cursor: &mut Cursor<'_>, count: usize, kind: u8) -> ThriftResult<()> {
    (0..count).try_for_each(|_| cursor.skip(kind, 1))
}

/// Facts that a page's header claims about the page.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageHeader {
    /// Length of the header itself.
    pub(crate) bytes: usize,
    pub(crate) uncompressed_bytes: i64,
    pub(crate) compressed_bytes: i64,
    pub(crate) is_dictionary: bool,
    pub(crate) values: i64,
    /// Number of the encoding in Thrift.
    pub(crate) encoding: i64,
}

/// Reads a page's header.
pub(crate) fn page_header(bytes: &[u8]) -> ThriftResult<PageHeader> {
    const DATA: i64 = 5;
    const DICTIONARY: i64 = 7;
    const DATA_V2: i64 = 8;
    let mut cursor = Cursor::new(bytes);
    let mut header = PageHeader::default();
    cursor.structure(|cursor, number, kind| {
        if INTEGERS.contains(&kind) && (2..=3).contains(&number) {
            let bytes = cursor.integer()?;
            *(if number == 2 { &mut header.uncompressed_bytes } else { &mut header.compressed_bytes }) = bytes;
            return Ok(true);
        }
        if kind != STRUCT || ![DATA, DICTIONARY, DATA_V2].contains(&number) {
            return Ok(false);
        }
        header.is_dictionary |= number == DICTIONARY;
        let encoding_number = if number == DATA_V2 { 4 } else { 2 };
        cursor.structure(|cursor, number, kind| {
            let place = match number {
                1 => &mut header.values,
                number if number == encoding_number => &mut header.encoding,
                _ => return Ok(false),
            };
            if !INTEGERS.contains(&kind) {
                return Ok(false);
            }
            *place = cursor.integer()?;
            Ok(true)
        })?;
        Ok(true)
    })?;
    header.bytes = cursor.at;
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_above_the_bytes_is_refused() {
        // These are a list of 2^31 - 1 structures, a text of 2^40 bytes, and structures without an end.
        let list = [0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0x00];
        let text = [0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 0x00];
        let nested = [0x1c; 100];
        for (bytes, expect) in [(&list[..], "claims more elements"), (&text, "beyond its end"), (&nested, "too deep")] {
            let error = structure(bytes).expect_err("refused");
            assert!(error.contains(expect), "{error}");
            assert!(footer(bytes).is_err());
        }
        assert_eq!(structure(&[0x15, 0x02, 0x00]), Ok(()));
        assert_eq!(structure(&[0x15]), Err(CUT));
    }

    #[test]
    fn a_schema_above_the_depth_limit_is_refused() {
        // Field 2 is a list of structures whose field 5 is 1, so that each is the only child of the one before it.
        let schema = |depth: usize| {
            let count = [(depth & 0x7f) as u8 | 0x80, (depth >> 7) as u8];
            let mut bytes = vec![0x29, 0xfc, count[0], count[1]];
            bytes.extend(std::iter::repeat_n([0x55, 0x02, 0x00], depth).flatten());
            bytes.push(0);
            bytes
        };
        assert_eq!(footer(&schema(SCHEMA_DEPTH_MAX)), Ok(false));
        assert_eq!(footer(&schema(SCHEMA_DEPTH_MAX + 1)), Err("its schema is nested too deep"));
    }
}
