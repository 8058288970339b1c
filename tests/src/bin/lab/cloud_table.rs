//! A table whose bytes take longer than their computation: random integers, neither encoded nor compressed.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use bytes::Bytes;
use gust_tests::s3::S3Server;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Deserialize;

/// Files of one row group each.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudTable {
    pub seed: u64,
    pub files: usize,
    pub rows_per_file: usize,
    pub columns: usize,
}

impl CloudTable {
    /// Puts the files into a folder. Returns the statement that creates a table of them; folder and table are called `name`.
    pub async fn put(&self, server: &S3Server, name: &str) -> anyhow::Result<String> {
        let store = server.store()?;
        for file in 0..self.files {
            store.put(&Path::from(format!("{name}/{file:04}.parquet")), self.file(file)?.into()).await?;
        }
        let location = server.url(&format!("{name}/"));
        Ok(format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{location}'"))
    }

    /// Returns `SELECT count(*), sum(c0), …` over the first columns.
    pub fn query(&self, columns: usize) -> String {
        let sums: Vec<String> = (0..columns.min(self.columns)).map(|column| format!("sum(c{column})")).collect();
        format!("SELECT count(*), {} FROM t", sums.join(", "))
    }

    /// Returns the bytes of the values in the first columns.
    pub fn bytes(&self, columns: usize) -> u64 {
        (self.files * self.rows_per_file * columns.min(self.columns) * size_of::<i64>()) as u64
    }

    fn file(&self, file: usize) -> anyhow::Result<Bytes> {
        let mut rng = StdRng::seed_from_u64(self.seed + file as u64);
        // Values have 44 random bits and a sign, so their sums do not overflow.
        let mut column = || {
            let values: Int64Array = (0..self.rows_per_file).map(|_| Some(rng.random::<i64>() >> 19)).collect();
            Arc::new(values) as ArrayRef
        };
        let columns: Vec<_> = (0..self.columns).map(|index| (format!("c{index}"), column())).collect();
        let rows = RecordBatch::try_from_iter(columns)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(Some(self.rows_per_file))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))?;
        writer.write(&rows)?;
        Ok(writer.into_inner()?.into())
    }
}
