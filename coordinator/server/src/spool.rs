//! Rows of a finished statement, kept in a file until its client has fetched them.
//!
//! ```text
//!  batches ─► pages of some thousand rows, each an Arrow IPC stream ─► one file without a name ─► pages in any format
//! ```
//!
//! The file has no name, so that it goes with the server, however that ends. Memory holds one page, and where pages begin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use gust_engine::error::{ErrorKind, QueryError};
use gust_output::OutputError;

use crate::plain::PlainColumns;
use crate::space::{Share, Space};

/// Rows after which a page ends.
const PAGE_ROWS: usize = 10_000;

/// Bytes in memory after which a page ends.
const PAGE_BYTES: usize = 4 << 20;

/// File with its part of the space, which it gives back at its end.
#[derive(Debug)]
struct SpoolFile {
    file: File,
    bytes: u64,
    share: Share,
}

/// Rows that are being written.
pub(crate) struct SpoolWriter {
    file: SpoolFile,
    columns: PlainColumns,
    pages: Vec<Page>,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: usize,
}

/// Place of a page in the file.
#[derive(Debug, Clone, Copy)]
struct Page {
    offset: u64,
    bytes: usize,
    rows: u64,
}

/// All rows of a statement. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    file: Arc<SpoolFile>,
    schema: SchemaRef,
    pages: Arc<[Page]>,
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> QueryError {
    QueryError::new(ErrorKind::Resources, format!("the rows cannot be kept: {error}"))
        .with_hint("free space in temp_folder, or stream the rows with POST /v1/query")
        .with_source(error)
}

/// Makes the error of rows that are not as they were announced.
pub(crate) fn undeclared(error: &OutputError) -> QueryError {
    QueryError::data(error.to_string()).with_default_hint(error.hint()).with_sqlstate("XX000")
}

impl SpoolWriter {
    /// Opens a file in a folder for rows of these columns.
    pub(crate) fn new(folder: &Path, announced: &Schema, space: &Arc<Space>) -> Result<Self, QueryError> {
        let file = tempfile::tempfile_in(folder).map_err(failed)?;
        let file = SpoolFile { file, bytes: 0, share: Share::of(space) };
        let columns = PlainColumns::new(announced);
        Ok(Self { file, columns, pages: Vec::new(), pending: Vec::new(), pending_rows: 0, pending_bytes: 0 })
    }

    /// Adds rows. It blocks while a page is written.
    ///
    /// # Errors
    /// [`ErrorKind::Resources`] if the disk is full, or the rows take more than they may.
    pub(crate) fn push(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        let batch = self.columns.conform(batch).map_err(|error| undeclared(&error))?;
        let row_bytes = sliced_bytes(&batch) / batch.num_rows().max(1);
        let mut start = 0;
        while start < batch.num_rows() {
            let room = PAGE_BYTES.saturating_sub(self.pending_bytes) / row_bytes.max(1);
            let rows = room.max(1).min(PAGE_ROWS - self.pending_rows).min(batch.num_rows() - start);
            self.pending.push(batch.slice(start, rows));
            start += rows;
            self.pending_rows += rows;
            self.pending_bytes += rows * row_bytes;
            // A page ends where another row does not fit.
            if self.pending_rows >= PAGE_ROWS || self.pending_bytes + row_bytes > PAGE_BYTES {
                self.write_page()?;
            }
        }
        Ok(())
    }

    fn write_page(&mut self) -> Result<(), QueryError> {
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new(&mut bytes, &self.columns.schema()).map_err(failed)?;
        let mut rows = 0;
        for batch in self.pending.drain(..) {
            rows += batch.num_rows() as u64;
            writer.write(&batch).map_err(failed)?;
        }
        writer.finish().map_err(failed)?;
        drop(writer);
        (self.pending_rows, self.pending_bytes) = (0, 0);
        let offset = self.file.bytes;
        self.file.share.grow_to(offset + bytes.len() as u64)?;
        self.file.bytes += bytes.len() as u64;
        self.file.file.write_all_at(&bytes, offset).map_err(failed)?;
        self.pages.push(Page { offset, bytes: bytes.len(), rows });
        Ok(())
    }

    /// Ends the rows. There is one page at least.
    pub(crate) fn finish(mut self) -> Result<Spool, QueryError> {
        if !self.pending.is_empty() || self.pages.is_empty() {
            self.write_page()?;
        }
        Ok(Spool { file: Arc::new(self.file), schema: self.columns.schema(), pages: self.pages.into() })
    }
}

/// Returns the bytes of a batch's rows. A slice shares the buffers of its whole.
fn sliced_bytes(batch: &RecordBatch) -> usize {
    let bytes = |column: &arrow::array::ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default();
    batch.columns().iter().map(bytes).sum()
}

impl Spool {
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages.len()
    }

    pub(crate) fn rows(&self) -> u64 {
        self.pages.iter().map(|page| page.rows).sum()
    }

    /// Reads a page; None after the last one. It blocks.
    pub(crate) fn page(&self, index: usize) -> Option<io::Result<Vec<RecordBatch>>> {
        let Page { offset, bytes, .. } = *self.pages.get(index)?;
        let read = || {
            let mut page = vec![0; bytes];
            self.file.file.read_exact_at(&mut page, offset)?;
            let reader = StreamReader::try_new(page.as_slice(), None).map_err(io::Error::other)?;
            reader.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)
        };
        Some(read())
    }

    /// Reads one page. It blocks.
    pub(crate) fn page_batches(&self, index: usize) -> impl Iterator<Item = Result<RecordBatch, OutputError>> + use<> {
        let batches = match self.page(index) {
            Some(Ok(batches)) => batches.into_iter().map(Ok).collect(),
            Some(Err(error)) => vec![Err(OutputError::Write(error))],
            None => Vec::new(),
        };
        batches.into_iter()
    }

    /// Reads all rows, page by page. It blocks.
    pub(crate) fn batches(&self) -> impl Iterator<Item = Result<RecordBatch, OutputError>> + use<> {
        let spool = self.clone();
        (0..self.pages()).flat_map(move |index| spool.page_batches(index))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from_iter_values(range))]).expect("rows")
    }

    fn spool(batches: &[RecordBatch], space: &Arc<Space>) -> Result<Spool, QueryError> {
        let mut writer = SpoolWriter::new(&std::env::temp_dir(), &batches[0].schema(), space)?;
        for batch in batches {
            writer.push(batch)?;
        }
        writer.finish()
    }

    #[test]
    fn pages_have_all_rows_in_their_order() {
        for (batches, pages) in [
            (vec![numbers(0..0)], 1),
            (vec![numbers(0..1)], 1),
            (vec![numbers(0..10_000)], 1),
            (vec![numbers(0..10_001)], 2),
            (vec![numbers(0..6_000), numbers(6_000..6_000), numbers(6_000..25_000)], 3),
        ] {
            let space = Arc::new(Space::of_results(1 << 20));
            let spool = spool(&batches, &space).expect("kept");
            let expect: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
            assert_eq!((spool.pages(), spool.rows()), (pages, expect));
            let rows: Vec<i64> = spool
                .batches()
                .flat_map(|batch| {
                    batch.expect("rows").column(0).as_ref().to_data().buffers()[0].typed_data::<i64>().to_vec()
                })
                .collect();
            assert_eq!(rows, (0..expect as i64).collect::<Vec<_>>());
            assert!(spool.page(pages).is_none());
        }
    }

    #[test]
    fn large_rows_make_small_pages_and_too_many_are_refused() {
        let text = "x".repeat(1 << 20);
        let schema = Arc::new(Schema::new(vec![Field::new("t", DataType::Utf8, false)]));
        let column = StringArray::from(vec![text.as_str(); 8]);
        let batch = RecordBatch::try_new(schema, vec![Arc::new(column)]).expect("rows");
        let one_by_one: Vec<RecordBatch> = (0..8).map(|row| batch.slice(row, 1)).collect();
        let whole = spool(&[batch], &Arc::new(Space::of_results(12 << 20))).expect("kept");
        assert_eq!(whole.pages(), 3, "a batch is cut where its page is full");
        let space = Arc::new(Space::of_results(12 << 20));
        let first = spool(&one_by_one, &space).expect("kept");
        assert_eq!(first.pages(), 3);
        let error = spool(&one_by_one, &space).expect_err("too many");
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Resources, "53400"));
        drop(first);
        spool(&one_by_one, &space).expect("there is room again");
    }

    /// A sort makes such batches: each refers to the texts of all.
    #[test]
    fn a_view_does_not_drag_the_texts_of_others_along() {
        let texts: Vec<String> = (0..1_000).map(|row| format!("{row:0>200}")).collect();
        let views = StringViewArray::from_iter_values(&texts);
        let schema = Arc::new(Schema::new(vec![Field::new("t", DataType::Utf8View, false)]));
        let batch = RecordBatch::try_new(schema, vec![Arc::new(views)]).expect("rows");
        let sorted: Vec<RecordBatch> = (0..100).map(|of| batch.slice(of * 10, 10)).collect();
        let space = Arc::new(Space::of_results(1 << 20));
        let spool = spool(&sorted, &space).expect("kept");
        let bytes = space.bytes();
        assert!(bytes < 2 * 1_000 * 200, "{bytes} bytes");
        let rows = spool.batches().flat_map(|batch| {
            let batch = batch.expect("rows");
            let column = batch.column(0).as_any().downcast_ref::<StringArray>().expect("plain texts").clone();
            (0..column.len()).map(|row| column.value(row).to_owned()).collect::<Vec<_>>()
        });
        assert_eq!(rows.collect::<Vec<_>>(), texts);
    }
}
