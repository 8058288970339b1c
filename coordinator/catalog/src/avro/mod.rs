//! Avro files, read by field id.
//!
//! ```text
//! Container ── header: schema ── compile, with slots ──▶ Program
//!     │                                                    │
//!     └── blocks, inflated one at a time ── Program::read ─┴──▶ Sink: values of the slots, in the order of the file
//! ```
//!
//! Only values that a slot was given to are handed on; the others are passed over. Names matter only where a field has no id.
//! Contract: any bytes give values or an [`AvroFault`]. A block is inflated within [`codec::BLOCK_BYTES_MAX`], all blocks of a
//! file within [`INFLATED_BYTES_MAX`]. A sink takes the memory of what it keeps from a [`Room`].

#![deny(clippy::indexing_slicing)]

pub(crate) mod codec;
mod cursor;
mod program;
#[cfg(test)]
pub(crate) mod tests;

use serde_json::Value as Json;

use codec::Codec;
use cursor::Cursor;
pub(crate) use program::{FieldAt, Program, Slot};

const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// Most entries of a file's header.
const HEADER_ENTRIES_MAX: usize = 10_000;
/// Most bytes of all blocks of a file, inflated.
const INFLATED_BYTES_MAX: usize = 512 << 20;
/// Bytes that an allocation takes beside its own, about.
const ALLOCATION_BYTES: usize = 32;

/// Reason why a file cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AvroFault {
    #[error("it ends early")]
    Ends,
    #[error("{0}")]
    Invalid(String),
    #[error("codec {0}")]
    Codec(String),
    #[error("it ends within block {block}")]
    EndsIn { block: usize },
    #[error("block {block}: {why}")]
    Block { block: usize, why: String },
}

impl AvroFault {
    fn in_block(self, block: usize) -> Self {
        match self {
            AvroFault::Ends => AvroFault::EndsIn { block },
            AvroFault::Invalid(why) => AvroFault::Block { block, why },
            other => other,
        }
    }
}

/// Value of a slot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Boolean(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    /// Bytes, fixed bytes, or the bytes of a text.
    Bytes(&'a [u8]),
}

/// Memory that a sink may take for what it keeps of a file: few bytes of a file can stand for many in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    bytes_max: usize,
    left: usize,
}

impl Room {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Room { bytes_max, left: bytes_max }
    }

    /// Takes bytes of a list that grows.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), AvroFault> {
        let left = self.left.checked_sub(bytes);
        let full = || AvroFault::Invalid(format!("it takes more than {} bytes of memory", self.bytes_max));
        self.left = left.ok_or_else(full)?;
        Ok(())
    }

    /// Gives back bytes that were taken.
    pub(crate) fn give(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes).min(self.bytes_max);
    }

    /// Takes bytes that are allocated alone.
    pub(crate) fn take_alone(&mut self, bytes: usize) -> Result<(), AvroFault> {
        self.take(bytes.saturating_add(ALLOCATION_BYTES))
    }
}

/// Receiver of a file's values. A value that is NULL is not handed on.
pub(crate) trait Sink {
    fn value(&mut self, slot: Slot, value: Value<'_>) -> Result<(), AvroFault>;

    /// Begins the next record of an array that has a slot.
    fn item(&mut self, slot: Slot) -> Result<(), AvroFault>;

    /// Ends an object of the file.
    fn finish(&mut self) -> Result<(), AvroFault>;
}

/// File with its header read.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    header: Vec<(&'a [u8], &'a [u8])>,
    codec: Codec,
    sync: &'a [u8],
    blocks: Cursor<'a>,
}

impl<'a> Container<'a> {
    pub(crate) fn open(file: &'a [u8]) -> Result<Self, AvroFault> {
        let rest = file.strip_prefix(MAGIC).ok_or_else(|| AvroFault::Invalid("it is no Avro file".to_owned()))?;
        let mut cursor = Cursor::new(rest);
        let mut header = Vec::new();
        loop {
            let block = cursor.block()?;
            if block.count == 0 {
                break;
            }
            if header.len() + block.count > HEADER_ENTRIES_MAX {
                return Err(AvroFault::Invalid(format!("its header has more than {HEADER_ENTRIES_MAX} entries")));
            }
            for _ in 0..block.count {
                header.push((cursor.bytes()?, cursor.bytes()?));
            }
        }
        let sync = cursor.take(SYNC_BYTES)?;
        let mut container = Container { header, codec: Codec::Null, sync, blocks: cursor };
        let codec = container.text("avro.codec")?.unwrap_or("null");
        container.codec = Codec::by_name(codec)?;
        Ok(container)
    }

    /// Returns a text of the header.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, AvroFault> {
        let found = self.header.iter().find(|(found, _)| *found == key.as_bytes());
        let text = found.map(|(_, value)| std::str::from_utf8(value)).transpose();
        text.map_err(|_| AvroFault::Invalid(format!("{key} of its header is no text")))
    }

    /// Returns the schema of the file's objects.
    pub(crate) fn schema(&self) -> Result<Json, AvroFault> {
        let schema = self.text("avro.schema")?.ok_or_else(|| AvroFault::Invalid("it has no schema".to_owned()))?;
        serde_json::from_str(schema).map_err(|error| AvroFault::Invalid(format!("its schema: {error}")))
    }

    /// Reads all objects.
    pub(crate) fn read(&self, program: &Program, sink: &mut impl Sink) -> Result<(), AvroFault> {
        let mut rest = self.blocks.clone();
        let mut buffer = Vec::new();
        let mut number = 0;
        let mut inflated_bytes = 0;
        while !rest.is_empty() {
            number += 1;
            let read = self.read_block(&mut rest, program, sink, &mut buffer);
            inflated_bytes += read.map_err(|fault| fault.in_block(number))?;
            if inflated_bytes > INFLATED_BYTES_MAX {
                return Err(AvroFault::Invalid(format!("it inflates to more than {INFLATED_BYTES_MAX} bytes")));
            }
        }
        Ok(())
    }

    /// Reads the objects of the next block, and returns the bytes that it inflated to.
    fn read_block(
        &self,
        rest: &mut Cursor<'a>,
        program: &Program,
        sink: &mut impl Sink,
        buffer: &mut Vec<u8>,
    ) -> Result<usize, AvroFault> {
        let count = rest.long()?;
        let bytes = rest.length()?;
        let block = rest.take(bytes)?;
        if rest.take(SYNC_BYTES)? != self.sync {
            return Err(AvroFault::Invalid("it does not end with the file's marker".to_owned()));
        }
        let inflated = self.codec.inflate(block, buffer)?;
        let count = usize::try_from(count).ok().filter(|count| *count <= inflated.len());
        let count = count.ok_or_else(|| AvroFault::Invalid("it claims more objects than bytes".to_owned()))?;
        let mut objects = Cursor::new(inflated);
        for _ in 0..count {
            // What ends early here is the block, whatever follows in the file.
            program.read(&mut objects, sink)?;
            sink.finish()?;
        }
        match objects.is_empty() {
            true => Ok(inflated.len()),
            false => Err(AvroFault::Invalid("it holds more than its objects".to_owned())),
        }
    }
}
