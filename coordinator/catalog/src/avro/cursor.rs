//! Avro's binary values, read from the front of a slice. A length or a number that cannot be is an error, never a panic.

use crate::avro::AvroFault;

/// Most bytes of a number in Avro's form.
const NUMBER_BYTES_MAX: usize = 10;

/// Bytes that are not read yet.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes a number of bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], AvroFault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(AvroFault::Ends)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], AvroFault> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(AvroFault::Ends)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Reads a zigzag number of variable length.
    pub(crate) fn long(&mut self) -> Result<i64, AvroFault> {
        // Most numbers of a manifest have one byte.
        if let [byte, rest @ ..] = self.rest
            && byte & 0x80 == 0
        {
            self.rest = rest;
            return Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1));
        }
        let mut value = 0_u64;
        for (position, byte) in self.rest.iter().take(NUMBER_BYTES_MAX).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                self.rest = self.rest.get(position + 1..).unwrap_or_default();
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        match self.rest.len() < NUMBER_BYTES_MAX {
            true => Err(AvroFault::Ends),
            false => Err(AvroFault::Invalid("a number of more than 10 bytes".to_owned())),
        }
    }

    pub(crate) fn int(&mut self) -> Result<i32, AvroFault> {
        let value = self.long()?;
        value.try_into().map_err(|_| AvroFault::Invalid(format!("{value} is no int")))
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, AvroFault> {
        let [byte] = self.array()?;
        match byte {
            0 | 1 => Ok(byte == 1),
            other => Err(AvroFault::Invalid(format!("{other} is no boolean"))),
        }
    }

    pub(crate) fn float(&mut self) -> Result<f32, AvroFault> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub(crate) fn double(&mut self) -> Result<f64, AvroFault> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// Reads bytes, or a text's bytes, behind their length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], AvroFault> {
        let length = self.length()?;
        self.take(length)
    }

    /// Reads a count of bytes.
    pub(crate) fn length(&mut self) -> Result<usize, AvroFault> {
        let length = self.long()?;
        usize::try_from(length).map_err(|_| AvroFault::Invalid(format!("a length of {length} bytes")))
    }

    /// Reads the head of a block of an array or a map: the count of its items, and their bytes where the writer says them.
    pub(crate) fn block(&mut self) -> Result<ItemBlock, AvroFault> {
        let count = self.long()?;
        let bytes = match count < 0 {
            true => Some(self.length()?),
            false => None,
        };
        let count = count.unsigned_abs();
        // Each item has one byte at least: `program.rs` refuses items without.
        match usize::try_from(count) {
            Ok(count) if count <= self.remaining() => Ok(ItemBlock { count, bytes }),
            _ => Err(AvroFault::Invalid(format!("{count} items in {} bytes", self.remaining()))),
        }
    }
}

pub(crate) struct ItemBlock {
    pub(crate) count: usize,
    pub(crate) bytes: Option<usize>,
}
