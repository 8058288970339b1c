//! Source of a scan of CSV or JSON: each file is opened, unpacked, cut into values and decoded.
//!
//! DataFusion's `CsvSource` and `JsonSource` are not used. In 55.2 they have one packing for all files, take a JSON array that is cut off
//! for a shorter one, do not follow `null_regex`, and read no number into a column of text.

use std::fmt::Formatter;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::json;
use bytes::Bytes;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};
use datafusion::datasource::file_format::csv::CsvDecoder;
use datafusion::datasource::file_format::json::JsonDecoder;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use datafusion_datasource::decoder::{DecoderDeserializer, deserialize_stream};
use fragment_fn::find;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::ObjectStore;
use regex::{Captures, Regex};

use super::fault::TextFault;
use super::options::{Dialect, TextOptions};
use super::unpack::{self, Parts};
use super::values::{Shape, Values};

/// Rows of a batch where a scan sets no other number.
const BATCH_ROWS: usize = 8192;

/// Most characters of a decoder's message, which quotes a whole row.
const MESSAGE_CHARACTERS_MAX: usize = 400;

/// Source of the files of one table.
#[derive(Debug, Clone)]
pub struct TextSource {
    options: Arc<TextOptions>,
    batch_rows: usize,
    /// True where a file may be read in parts, because each line is a row.
    is_divisible: bool,
    columns: TableSchema,
    projection: SplitProjection,
    metrics: ExecutionPlanMetricsSet,
}

impl TextSource {
    pub(super) fn new(options: Arc<TextOptions>, columns: TableSchema) -> Self {
        let projection = SplitProjection::unprojected(&columns);
        let is_divisible = false;
        Self {
            options,
            batch_rows: BATCH_ROWS,
            is_divisible,
            columns,
            projection,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// Returns the source for these files, which may be divided if none is packed and all say that a line is a row.
    pub(super) fn for_files<'a>(&self, files: impl IntoIterator<Item = &'a PartitionedFile>) -> Self {
        let is_json = matches!(self.options.dialect, Dialect::Json(_));
        let is_divisible = |file: &PartitionedFile| {
            let name = file.object_meta.location.as_ref();
            self.options.packing(name) == CompressionTypeVariant::UNCOMPRESSED
                && (self.options.has_rows_of_lines || is_json && unpack::is_of_lines(name))
        };
        Self { is_divisible: files.into_iter().all(is_divisible), ..self.clone() }
    }
}

impl FileSource for TextSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        _: &FileScanConfig,
        _: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        let columns = self.columns.file_schema();
        let reading = Reading {
            store,
            options: Arc::clone(&self.options),
            batch_rows: self.batch_rows,
            columns: Arc::clone(columns),
            read: self.projection.file_indices.clone(),
        };
        let opener = Arc::new(TextOpener(Arc::new(reading)));
        ProjectionOpener::try_new(self.projection.clone(), opener, columns)
    }

    fn table_schema(&self) -> &TableSchema {
        &self.columns
    }

    fn with_batch_size(&self, batch_rows: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { batch_rows, ..self.clone() })
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        let all = self.projection.source.try_merge(projection)?;
        let projection = SplitProjection::new(self.columns.file_schema(), &all);
        Ok(Some(Arc::new(Self { projection, ..self.clone() })))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        match self.options.dialect {
            Dialect::Csv(_) => "csv",
            Dialect::Json(_) => "json",
        }
    }

    /// A line may begin anywhere, unless the table says otherwise: a value of CSV has breaks within quotes, one of JSON between its parts.
    fn supports_repartitioning(&self) -> bool {
        self.is_divisible
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        match (&self.options.dialect, kind) {
            (Dialect::Csv(csv), DisplayFormatType::Default | DisplayFormatType::Verbose) => {
                write!(f, ", has_header={}", csv.has_header)
            }
            _ => Ok(()),
        }
    }

    fn apply_expressions(
        &self,
        apply: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        datafusion::physical_plan::apply_expression_roots(self.projection.source.iter(), apply)
    }
}

/// Reading of the files of a scan.
#[derive(Debug)]
struct Reading {
    store: Arc<dyn ObjectStore>,
    options: Arc<TextOptions>,
    batch_rows: usize,
    /// Columns of the files.
    columns: SchemaRef,
    /// Places of the columns that are read.
    read: Vec<usize>,
}

struct TextOpener(Arc<Reading>);

impl FileOpener for TextOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let reading = Arc::clone(&self.0);
        Ok(async move { reading.open(file).await }.boxed())
    }
}

/// Returns the text of a file, with a line for each value of JSON.
pub(super) async fn text(
    store: &Arc<dyn ObjectStore>,
    file: &object_store::ObjectMeta,
    options: &TextOptions,
) -> Result<Parts> {
    let parts = unpack::open(store, file, options.packing(file.location.as_ref())).await?;
    Ok(match options.dialect {
        Dialect::Csv(_) => parts,
        Dialect::Json(shape) => one_a_line(parts, shape, file.location.to_string()),
    })
}

impl Reading {
    async fn open(self: Arc<Self>, file: PartitionedFile) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        if file.range.is_some() {
            return self.open_part(file).await;
        }
        let parts = text(&self.store, &file.object_meta, &self.options).await?;
        let rows = self.rows(parts, self.batch_rows, true)?;
        let Dialect::Json(_) = self.options.dialect else { return Ok(rows) };
        let told = rows.then(move |batch| {
            let (reading, file) = (Arc::clone(&self), file.clone());
            async move {
                match batch {
                    Ok(batch) => Ok(batch),
                    Err(error) => Err(reading.with_row(&file, error).await),
                }
            }
        });
        Ok(told.boxed())
    }

    /// Opens the lines that begin in a part of a file.
    async fn open_part(&self, file: PartitionedFile) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let object = &file.object_meta;
        let range = file.range.as_ref().map(|range| (u64::try_from(range.start), u64::try_from(range.end)));
        let Some((Ok(start), Ok(end))) = range else { return Err(internal_datafusion_err!("a part ends before 0")) };
        let terminator = match &self.options.dialect {
            Dialect::Csv(csv) => csv.terminator.unwrap_or(b'\n'),
            Dialect::Json(_) => b'\n',
        };
        let (store, path) = (Arc::clone(&self.store), object.location.clone());
        let lines = AlignedBoundaryStream::new(store, path, start, end, object.size, terminator).await?;
        let parts = lines.map_err(DataFusionError::from).boxed();
        if start == 0 {
            let parts = unpack::without_mark(parts, object.location.as_ref()).await?;
            return self.rows(parts, self.batch_rows, true);
        }
        let rows = self.rows(parts, self.batch_rows, false)?;
        Ok(rows.map_err(move |error| after_byte(start, error)).boxed())
    }

    /// Decodes a text.
    fn rows(
        &self,
        parts: Parts,
        batch_rows: usize,
        is_from_start: bool,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let rows = match &self.options.dialect {
            Dialect::Csv(csv) => {
                let decoder = csv::ReaderBuilder::new(Arc::clone(&self.columns))
                    .with_format(csv.format(csv.has_header && is_from_start))
                    .with_batch_size(batch_rows)
                    .with_projection(self.read.clone())
                    .build_decoder();
                let rows = deserialize_stream(parts.fuse(), DecoderDeserializer::new(CsvDecoder::new(decoder)));
                rows.map_err(with_line).boxed()
            }
            Dialect::Json(_) => {
                let decoder = json::ReaderBuilder::new(Arc::new(self.columns.project(&self.read)?))
                    .with_batch_size(batch_rows)
                    .with_coerce_primitive(true)
                    .build_decoder()?;
                deserialize_stream(parts.fuse(), DecoderDeserializer::new(JsonDecoder::new(decoder)))
            }
        };
        Ok(rows.map_err(DataFusionError::from).boxed())
    }

    /// Adds the row to an error of JSON, whose decoder does not know it. The file is read once more, row by row.
    async fn with_row(&self, file: &PartitionedFile, error: DataFusionError) -> DataFusionError {
        let Some(ArrowError::JsonError(said) | ArrowError::ParseError(said)) = find(&error) else { return error };
        let (mut row, reason) = (1, said.clone());
        let again =
            text(&self.store, &file.object_meta, &self.options).await.and_then(|parts| self.rows(parts, 1, true));
        let Ok(mut rows) = again else { return error };
        while let Some(Ok(_)) = rows.next().await {
            row += 1;
        }
        TextFault::Row { file: file.object_meta.location.to_string(), row, reason }.into()
    }
}

/// Counts lines from 1 in the error of a value. The decoder (arrow 59.3) counts them from 0 there, and from 1 in its other errors.
fn with_line(error: ArrowError) -> ArrowError {
    static PLACE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"column (\d+) at line (\d+)").expect("a regular expression"));
    let (ArrowError::CsvError(said) | ArrowError::ParseError(said)) = &error else { return error };
    let counted = PLACE.replace(said, |place: &Captures<'_>| {
        let line = place[2].parse::<u64>().map_or_else(|_| place[2].to_owned(), |line| (line + 1).to_string());
        format!("column {} at line {line}", &place[1])
    });
    let counted = counted.chars().take(MESSAGE_CHARACTERS_MAX).collect();
    match error {
        ArrowError::ParseError(_) => ArrowError::ParseError(counted),
        _ => ArrowError::CsvError(counted),
    }
}

/// Says from where a reader of a part has counted the lines that it names.
fn after_byte(start: u64, error: DataFusionError) -> DataFusionError {
    let Some(ArrowError::CsvError(said) | ArrowError::ParseError(said)) = find(&error) else { return error };
    ArrowError::CsvError(format!("{said}, counted from byte {start}")).into()
}

/// Puts each value of JSON on a line of its own.
fn one_a_line(parts: Parts, shape: Shape, file: String) -> Parts {
    let cut = stream::try_unfold(Some((parts, Values::new(shape))), move |state| {
        let file = file.clone();
        async move {
            let Some((mut parts, mut values)) = state else { return Ok(None) };
            let mut lines = Vec::new();
            let part = parts.try_next().await?;
            let is_over = part.is_none();
            let done = match part {
                Some(part) => values.feed(&part, &mut lines),
                None => values.finish(&mut lines),
            };
            done.map_err(|reason| DataFusionError::from(TextFault::Shape { file, reason }))?;
            Ok(Some((Bytes::from(lines), (!is_over).then_some((parts, values)))))
        }
    });
    cut.boxed()
}
