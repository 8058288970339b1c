//! CSV and JSON, packed or not: a format of tables over folders that the coordinator reads.
//!
//! ```text
//!  object ─▶ unpack ─▶ values (JSON: one a line) ─┬▶ source: rows, by arrow's decoders
//!                                                 └▶ sample: columns, from the first rows
//! ```
//!
//! - A file is packed as its name says, or as OPTIONS say of all files: gzip, bzip2, xz, zstd. It is unpacked as it is read.
//! - Columns of CSV are read by their place, those of JSON by their name.
//! - A file that is cut off or broken is an error, and never a shorter table. An error names the file, and the row where it is one row's.
//!
//! Non-goals: writing, statistics, and functions. An encoded plan knows no such scan, and the function's package no packer.

mod fault;
mod options;
mod sample;
mod source;
mod unpack;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{GetExt, Result, Statistics, internal_err};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore};

pub use fault::TextFault;
pub use source::TextSource;
pub use unpack::Packing;

use options::{Dialect, TextOptions};

/// Rows of all files together from which columns are inferred.
const SAMPLE_ROWS: usize = 20_480;

/// Least rows of each file from which columns are inferred.
const SAMPLE_ROWS_MIN: usize = 1_000;

/// Format of a table over CSV or JSON.
#[derive(Debug, Clone)]
pub struct TextFormat {
    options: Arc<TextOptions>,
    /// Files among which the rows of a sample are divided.
    files: usize,
}

impl TextFormat {
    /// Makes the format of a table of CSV with these OPTIONS.
    ///
    /// # Errors
    /// Those of an option that is not known or not followed.
    pub fn csv(state: &dyn Session, options: &HashMap<String, String>) -> Result<Self> {
        Ok(Self { options: Arc::new(TextOptions::csv(state, options)?), files: 1 })
    }

    /// Makes the format of a table of JSON with these OPTIONS.
    ///
    /// # Errors
    /// Those of an option that is not known or not followed.
    pub fn json(state: &dyn Session, options: &HashMap<String, String>) -> Result<Self> {
        Ok(Self { options: Arc::new(TextOptions::json(state, options)?), files: 1 })
    }

    /// Divides the rows of a sample among so many files.
    #[must_use]
    pub fn of_files(self, files: usize) -> Self {
        Self { files: files.max(1), ..self }
    }

    /// Tells if OPTIONS say how files are packed, whatever their names say.
    pub fn knows_packing(&self) -> bool {
        self.options.packing_of_all.is_some()
    }
}

#[async_trait]
impl FileFormat for TextFormat {
    fn get_ext(&self) -> String {
        match self.options.dialect {
            Dialect::Csv(_) => "csv".to_owned(),
            Dialect::Json(_) => "json".to_owned(),
        }
    }

    fn get_ext_with_compression(&self, packing: &FileCompressionType) -> Result<String> {
        Ok(self.get_ext() + &packing.get_ext())
    }

    /// None, because each file has a packing of its own.
    fn compression_type(&self) -> Option<FileCompressionType> {
        None
    }

    async fn infer_schema(
        &self,
        _: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
    ) -> Result<SchemaRef> {
        let rows_max = self.options.sample_rows.unwrap_or((SAMPLE_ROWS / self.files).max(SAMPLE_ROWS_MIN));
        let columns = stream::iter(files).then(|file| async move {
            let parts = source::text(store, file, &self.options).await?;
            sample::columns(parts, file.location.to_string(), self.options.dialect.clone(), rows_max).await
        });
        let mut columns: Vec<_> = columns.boxed().try_collect().await?;
        // Merging would make one of two columns of one name.
        let all = if columns.len() == 1 { columns.remove(0) } else { Schema::try_merge(columns)? };
        Ok(Arc::new(all))
    }

    async fn infer_stats(
        &self,
        _: &dyn Session,
        _: &Arc<dyn ObjectStore>,
        columns: SchemaRef,
        _: &ObjectMeta,
    ) -> Result<Statistics> {
        Ok(Statistics::new_unknown(&columns))
    }

    async fn create_physical_plan(&self, _: &dyn Session, scan: FileScanConfig) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(source) = scan.file_source().downcast_ref::<TextSource>() else {
            return internal_err!("a scan of text has another source");
        };
        let source = source.for_files(scan.file_groups.iter().flat_map(FileGroup::iter));
        let scan = FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).build();
        Ok(DataSourceExec::from_data_source(scan))
    }

    fn file_source(&self, columns: TableSchema) -> Arc<dyn FileSource> {
        Arc::new(TextSource::new(Arc::clone(&self.options), columns))
    }
}
