//! Avro, as far as the tests' tables need it: records in one block, not compressed.

use serde_json::Value;

use super::Datum;

/// Makes an Avro file of one block, with names and values of its header.
pub(super) fn avro(schema: &Value, header: &[(&str, String)], rows: &[Vec<u8>]) -> Vec<u8> {
    let sync = [7; 16];
    let mut file = Row(b"Obj\x01".to_vec());
    file.long(2 + header.len() as i64).text("avro.schema").text(&schema.to_string()).text("avro.codec").text("null");
    header.iter().for_each(|(name, value)| {
        file.text(name).text(value);
    });
    file.long(0);
    file.0.extend(sync);
    let block = rows.concat();
    file.long(rows.len() as i64).long(block.len() as i64);
    file.0.extend(block);
    file.0.extend(sync);
    file.0
}

/// Bytes of an Avro value.
#[derive(Default)]
pub(super) struct Row(pub(super) Vec<u8>);

impl Row {
    pub(super) fn of(write: impl FnOnce(&mut Self) -> &mut Self) -> Self {
        let mut row = Self::default();
        write(&mut row);
        row
    }

    /// Writes an array of one block.
    pub(super) fn items(&mut self, items: impl Iterator<Item = Row>) -> &mut Self {
        let items: Vec<Row> = items.collect();
        if !items.is_empty() {
            self.long(items.len() as i64);
            items.into_iter().for_each(|item| self.0.extend(item.0));
        }
        self.long(0)
    }

    pub(super) fn bool(&mut self, value: bool) -> &mut Self {
        self.0.push(value.into());
        self
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.long(bytes.len() as i64);
        self.0.extend(bytes);
        self
    }

    pub(super) fn optional_bytes(&mut self, bytes: Option<Vec<u8>>) -> &mut Self {
        match bytes {
            Some(bytes) => self.some().bytes(&bytes),
            None => self.nothing(),
        }
    }

    /// Writes an optional value of its own kind.
    pub(super) fn datum(&mut self, value: &Datum) -> &mut Self {
        match value {
            Datum::Null => return self.nothing(),
            _ => self.some(),
        };
        match value {
            Datum::Int(value) => self.long((*value).into()),
            Datum::Long(value) => self.long(*value),
            Datum::Text(text) => self.text(text),
            // Avro writes them as bounds do: a flag in a byte, little-endian floats, and a fixed number of bytes.
            other => {
                self.0.extend(other.bytes().unwrap_or_default());
                self
            }
        }
    }

    pub(super) fn long(&mut self, value: i64) -> &mut Self {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest > 0x7f {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.long(text.len() as i64);
        self.0.extend(text.as_bytes());
        self
    }

    /// Begins a value of an optional type.
    pub(super) fn some(&mut self) -> &mut Self {
        self.long(1)
    }

    pub(super) fn nothing(&mut self) -> &mut Self {
        self.long(0)
    }

    pub(super) fn optional(&mut self, value: Option<i64>) -> &mut Self {
        match value {
            Some(value) => self.some().long(value),
            None => self.nothing(),
        }
    }
}
