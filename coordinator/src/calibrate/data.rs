//! The tables that a calibration reads.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::WriterProperties;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::demo::generate::{Layout, generate};
use crate::demo::table::TpchTable;

/// Files of the larger tables: enough for row groups to be spread over a few functions.
const FILES: usize = 4;
const COLUMNS: usize = 8;
const ROW_GROUP_ROWS: usize = 32 * 1024;
/// Of the compressed table: 600,000 rows of lineitem, about 17 MB.
const SCALE: f64 = 0.1;
/// Of the dense table, for each lane of a function.
const DENSE_ROWS: usize = 4 << 20;
const DENSE_COLUMNS: usize = 4;

/// Objects under one prefix, and files that only the coordinator reads.
pub(super) struct Data {
    pub store: Arc<dyn ObjectStore>,
    /// Key prefix inside the store.
    pub prefix: Key,
    /// The same as a URL, with a slash at its end.
    pub url: String,
    /// Of the coordinator's machine.
    pub folder: PathBuf,
}

/// Why there is no data to measure with.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error(
        "the calibration's tables cannot be written to {place}: {error}\nhint: check `exchange`, the credentials and the bucket's policy"
    )]
    Store { place: String, error: object_store::Error },
    #[error("the calibration's tables cannot be made: {0}")]
    Made(String),
}

impl Data {
    /// Writes all tables: `tiny` (`tiny_files` of one row), `plain` (random integers, `plain_bytes`), `dense` (a few kilobytes of very
    /// many rows, one row group a lane) and, in the folder, `lineitem`.
    pub async fn write(&self, tiny_files: usize, plain_bytes: u64, lanes: usize) -> Result<(), DataError> {
        for file in 0..tiny_files {
            self.put("tiny", file, plain_file(file as u64, 1).map_err(|e| DataError::Made(e.to_string()))?).await?;
        }
        let rows = plain_rows(plain_bytes);
        for file in 0..FILES {
            self.put("plain", file, plain_file(file as u64, rows).map_err(|e| DataError::Made(e.to_string()))?).await?;
        }
        self.put("dense", 0, dense_file(lanes).map_err(|e| DataError::Made(e.to_string()))?).await?;
        let layout = Layout::bare(FILES, ROW_GROUP_ROWS);
        let made = generate(TpchTable::LineItem, SCALE, &self.folder, &layout, &|_| ControlFlow::Continue(()));
        made.map_err(|error| DataError::Made(error.to_string()))?;
        Ok(())
    }

    async fn put(&self, table: &str, file: usize, bytes: Bytes) -> Result<(), DataError> {
        let key = self.key(table, file);
        let put = self.store.put(&key, bytes.into()).await;
        put.map(drop).map_err(|error| DataError::Store { place: self.url.clone(), error })
    }

    fn key(&self, table: &str, file: usize) -> Key {
        self.prefix.parts().chain(Key::from(format!("{table}/{file:05}.parquet")).parts()).collect()
    }

    /// An object of some kilobytes.
    pub fn one_file(&self) -> Key {
        self.key("plain", 0)
    }

    /// The statements that make tables of it: `one` is a file of `tiny`, `piece` a file of `plain`.
    pub fn create(&self) -> Vec<String> {
        let tables = [
            ("tiny", "tiny/"),
            ("one", "tiny/00000.parquet"),
            ("plain", "plain/"),
            ("piece", "plain/00000.parquet"),
            ("dense", "dense/"),
        ];
        let create = |(name, place): (&str, &str)| {
            format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{}{place}'", self.url)
        };
        tables.map(create).into()
    }

    /// The statement that makes a table of what only the coordinator reads.
    pub fn create_lineitem(&self) -> String {
        let folder = self.folder.display();
        format!("CREATE EXTERNAL TABLE lineitem STORED AS PARQUET LOCATION '{folder}/'")
    }

    pub async fn remove(&self) {
        use futures::TryStreamExt;
        let found: Result<Vec<_>, _> = self.store.list(Some(&self.prefix)).try_collect().await;
        for meta in found.unwrap_or_default() {
            if let Err(error) = self.store.delete(&meta.location).await {
                tracing::warn!(%error, "an object of the calibration stays");
            }
        }
    }
}

/// What `plain` or a file of it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    /// Of the values, as they lie in storage.
    pub bytes: f64,
    /// All of a row group is read with one request.
    pub row_groups: f64,
}

impl Plain {
    pub fn piece(plain_bytes: u64) -> Self {
        let rows = plain_rows(plain_bytes);
        let bytes = (rows * COLUMNS * size_of::<i64>()) as f64;
        Self { bytes, row_groups: rows.div_ceil(ROW_GROUP_ROWS) as f64 }
    }

    pub fn whole(plain_bytes: u64) -> Self {
        let Self { bytes, row_groups } = Self::piece(plain_bytes);
        Self { bytes: FILES as f64 * bytes, row_groups: FILES as f64 * row_groups }
    }
}

fn plain_rows(plain_bytes: u64) -> usize {
    (plain_bytes as usize / (FILES * COLUMNS * size_of::<i64>())).max(1)
}

/// The same over and over: next to nothing to read, and as much to compute as there are rows.
fn dense_file(lanes: usize) -> Result<Bytes, ParquetError> {
    // Two values: a column of one would be computed once.
    let values = || (0..DENSE_ROWS).map(|row| if row < DENSE_ROWS / 2 { 7 } else { 8 });
    let column = || Arc::new(Int64Array::from_iter_values(values())) as ArrayRef;
    let columns: Vec<_> = (0..DENSE_COLUMNS).map(|index| (format!("c{index}"), column())).collect();
    let rows = RecordBatch::try_from_iter(columns)?;
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(DENSE_ROWS)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
    for _ in 0..lanes.max(1) {
        writer.write(&rows)?;
        writer.flush()?;
    }
    Ok(writer.into_inner()?.into())
}

/// Random integers, neither encoded nor compressed: reading them is all that takes time.
fn plain_file(seed: u64, rows: usize) -> Result<Bytes, ParquetError> {
    let mut random = SmallRng::seed_from_u64(seed);
    // 44 random bits and a sign: their sums do not overflow.
    let mut column = || {
        let values: Int64Array = (0..rows).map(|_| Some(random.random::<i64>() >> 19)).collect();
        Arc::new(values) as ArrayRef
    };
    let columns: Vec<_> = (0..COLUMNS).map(|index| (format!("c{index}"), column())).collect();
    let rows = RecordBatch::try_from_iter(columns)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
    writer.write(&rows)?;
    Ok(writer.into_inner()?.into())
}
