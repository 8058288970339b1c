//! Rows as a drawn table.
//!
//! A column's width is known only after its last row, and a result need not fit into memory. So the rows of a long
//! result come in several blocks. Each block is a whole table with its own header and widths.

use std::fmt;
use std::io::Write;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_options;

use super::OutputError;

/// Format in which NULL differs from an empty text. A value that cannot be shown has the reason in its place.
const FORMAT: FormatOptions<'static> = FormatOptions::new().with_null("NULL").with_display_error(true);

/// Bounds of one drawn block. A single row is drawn whatever its size.
#[derive(Debug)]
pub(super) struct BlockLimits {
    pub rows_max: usize,
    /// Bytes of all cells' text. The drawing holds it about three times.
    pub text_bytes_max: usize,
}

impl Default for BlockLimits {
    fn default() -> Self {
        Self { rows_max: 10_000, text_bytes_max: 16 << 20 }
    }
}

pub(super) fn write(
    out: &mut impl Write,
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, OutputError>>,
    limits: &BlockLimits,
) -> Result<(), OutputError> {
    if schema.fields().is_empty() {
        let rows = batches.map(|batch| batch.map(|batch| batch.num_rows())).sum::<Result<usize, _>>()?;
        return Ok(writeln!(out, "({rows} rows without columns)")?);
    }
    // The empty batch draws the header of a result without rows.
    let mut pending = vec![RecordBatch::new_empty(schema.clone())];
    let (mut rows, mut text_bytes) = (0, 0);
    for batch in batches {
        let batch = batch?;
        let formatters = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &FORMAT))
            .collect::<Result<Vec<_>, _>>()?;
        let mut start = 0;
        for row in 0..batch.num_rows() {
            let row_bytes = text_bytes_of(&formatters, row)?;
            if rows > 0 && (rows == limits.rows_max || text_bytes + row_bytes > limits.text_bytes_max) {
                pending.push(batch.slice(start, row - start));
                draw(out, &pending)?;
                pending.truncate(1);
                (rows, text_bytes, start) = (0, 0, row);
            }
            rows += 1;
            text_bytes += row_bytes;
        }
        if start < batch.num_rows() {
            pending.push(batch.slice(start, batch.num_rows() - start));
        }
    }
    // It is never empty: a block is drawn only when another row follows it.
    draw(out, &pending)
}

fn draw(out: &mut impl Write, batches: &[RecordBatch]) -> Result<(), OutputError> {
    let drawn = pretty_format_batches_with_options(batches, &FORMAT)?.to_string();
    Ok(writeln!(out, "{}", without_controls(drawn))?)
}

/// Shows control characters as their pictures: a terminal would obey them.
pub(super) fn without_controls(drawn: String) -> String {
    let is_obeyed = |sign: char| sign.is_control() && !matches!(sign, '\n' | '\t');
    if !drawn.contains(is_obeyed) {
        return drawn;
    }
    let shown = |sign: char| match sign {
        sign if !is_obeyed(sign) => sign,
        '\u{7f}' => '\u{2421}',
        sign => char::from_u32(0x2400 + u32::from(sign)).filter(|_| sign.is_ascii()).unwrap_or('\u{fffd}'),
    };
    drawn.chars().map(shown).collect()
}

fn text_bytes_of(columns: &[ArrayFormatter<'_>], row: usize) -> Result<usize, ArrowError> {
    let mut length = Length(0);
    columns.iter().try_for_each(|column| column.value(row).write(&mut length))?;
    Ok(length.0)
}

/// Counts the bytes that are written to it.
struct Length(usize);

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}
