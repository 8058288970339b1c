//! The name of the file in every error that comes from reading it.
//!
//! The engine's decoders do not know which file they decode, and an operator above a scan sees rows of many files. This
//! module puts a file source around the engine's and maps the errors of each file's planning and rows. Errors of the
//! decoder and panics become a [`FileFault`]; errors of the query's own expressions stay as they are.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display, Formatter};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, FileSource};
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_plan::DisplayFormatType;
use datafusion_datasource::morsel::{Morsel, MorselPlan, MorselPlanner, Morselizer};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use gust_protocol::FragmentErrorKind;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::errors::ParquetError;

use crate::ahead::{ScanAhead, ScanStream};
use crate::classify::{classify, find};
use crate::fault::FileFault;
use crate::forwarding::forwarding_to;
use crate::panics::catch_panic;

/// Makes the scan's errors name the file. Its streams tell `ahead` when they end.
pub(crate) fn naming_file(scan: FileScanConfig, ahead: Option<Arc<ScanAhead>>) -> FileScanConfig {
    let source = Arc::new(FileNamingSource { source: Arc::clone(scan.file_source()), ahead });
    FileScanConfigBuilder::from(scan).with_source(source).build()
}

/// File source whose errors name the file.
struct FileNamingSource {
    source: Arc<dyn FileSource>,
    ahead: Option<Arc<ScanAhead>>,
}

impl FileSource for FileNamingSource {
    forwarding_to!(source);

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let inner = self.source.create_morselizer(store, scan, partition)?;
        let columns = Arc::clone(self.source.table_schema().file_schema());
        let texts = TextColumns::of(self.source.as_ref(), &columns)?;
        let stream = self.ahead.as_ref().map(ScanAhead::stream);
        Ok(Box::new(FileNamingMorselizer { inner, columns, texts: Arc::new(texts), _stream: stream }))
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { source: self.source.with_batch_size(batch_size), ahead: self.ahead.clone() })
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.source.fmt_extra(kind, f)
    }
}

#[derive(Debug)]
struct FileNamingMorselizer {
    columns: SchemaRef,
    texts: Arc<TextColumns>,
    inner: Box<dyn Morselizer>,
    /// Dropped with the stream of the partition.
    _stream: Option<ScanStream>,
}

impl Morselizer for FileNamingMorselizer {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let name = Arc::new(DataFile {
            path: file.object_meta.location.clone(),
            columns: Arc::clone(&self.columns),
            texts: Arc::clone(&self.texts),
        });
        let planner = named(&name, || self.inner.plan_file(file))?;
        Ok(Box::new(FileStep { name, inner: planner }))
    }
}

/// Facts about a file that its errors tell.
#[derive(Debug)]
struct DataFile {
    path: Path,
    columns: SchemaRef,
    texts: Arc<TextColumns>,
}

/// Columns of a scan whose bytes may be no UTF-8 text.
#[derive(Debug, Default)]
struct TextColumns {
    /// Columns of text.
    text: BTreeSet<String>,
    /// Columns of bytes that the scan casts to text. No adapter sees such a cast if files have the table's types.
    cast_bytes: BTreeSet<String>,
}

impl TextColumns {
    fn of(source: &dyn FileSource, columns: &Schema) -> Result<Self> {
        let mut texts = Self::default();
        let read = source.projection().into_iter().flat_map(|projection| projection.iter().map(|expr| &expr.expr));
        for expr in read.chain(source.filter().as_ref()) {
            expr.apply(|expr| {
                let cast = expr.downcast_ref::<CastExpr>().filter(|cast| cast.cast_type().is_string());
                if let Some(column) = cast.and_then(|cast| cast.expr().downcast_ref::<Column>()) {
                    texts.cast_bytes.insert(column.name().to_owned());
                } else if let Some(column) = expr.downcast_ref::<Column>()
                    && columns.field_with_name(column.name()).is_ok_and(|field| has_text(field.data_type()))
                {
                    texts.text.insert(column.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(texts)
    }
}

fn has_text(of: &DataType) -> bool {
    match of {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_text(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_text(field.data_type())),
        DataType::Dictionary(_, values) => has_text(values),
        other => other.is_string(),
    }
}

impl Display for DataFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Display::fmt(&self.path, f)
    }
}

/// Step in the reading of one file.
#[derive(Debug)]
struct FileStep<T> {
    name: Arc<DataFile>,
    inner: T,
}

impl MorselPlanner for FileStep<Box<dyn MorselPlanner>> {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Self { name, inner } = *self;
        let Some(mut plan) = named(&name, || inner.plan())? else { return Ok(None) };
        let step = |inner| Box::new(FileStep { name: Arc::clone(&name), inner });
        let morsels = plan.take_morsels().into_iter().map(|inner| step_of_morsel(&name, inner)).collect();
        let planners = plan.take_ready_planners().into_iter().map(|inner| step(inner) as Box<dyn MorselPlanner>);
        let mut wrapped = MorselPlan::new().with_morsels(morsels).with_planners(planners.collect());
        if let Some(pending) = plan.take_pending_planner() {
            let mut pending = pending.into_future();
            let name = Arc::clone(&name);
            wrapped.set_pending_planner(async move {
                let polled = std::future::poll_fn(|context| match catch_panic(|| pending.poll_unpin(context)) {
                    Ok(polled) => polled,
                    Err(panic) => Poll::Ready(Err(panicked(&name, &panic))),
                });
                let planner = polled.await.map_err(|error| with_name(&name, error))?;
                Ok(Box::new(FileStep { name, inner: planner }) as Box<dyn MorselPlanner>)
            });
        }
        Ok(Some(wrapped))
    }
}

fn step_of_morsel(name: &Arc<DataFile>, inner: Box<dyn Morsel>) -> Box<dyn Morsel> {
    Box::new(FileStep { name: Arc::clone(name), inner })
}

impl Morsel for FileStep<Box<dyn Morsel>> {
    fn into_stream(self: Box<Self>) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { name, inner } = *self;
        FileRows { name, inner: Some(inner.into_stream()) }.boxed()
    }
}

/// Rows of one file. They end after an error.
struct FileRows {
    name: Arc<DataFile>,
    inner: Option<BoxStream<'static, Result<RecordBatch>>>,
}

impl Stream for FileRows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = catch_panic(|| inner.poll_next_unpin(context));
        let error = match polled {
            Ok(Poll::Ready(Some(Err(error)))) => with_name(&self.name, error),
            Err(panic) => panicked(&self.name, &panic),
            Ok(polled) => return polled,
        };
        self.inner = None;
        Poll::Ready(Some(Err(error)))
    }
}

/// Does `work` on a file. Its error or panic names the file.
fn named<T>(name: &DataFile, work: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_panic(work) {
        Ok(done) => done.map_err(|error| with_name(name, error)),
        Err(panic) => Err(panicked(name, &panic)),
    }
}

fn panicked(name: &DataFile, panic: &str) -> DataFusionError {
    FileFault::corrupt(name, format!("it cannot be decoded: {panic}")).into()
}

/// Adds the file's name to an error, where the file is at fault and the error does not name it already.
fn with_name(name: &DataFile, error: DataFusionError) -> DataFusionError {
    if find::<FileFault>(&error).is_some() {
        return error;
    }
    if let Some(reason) = no_text(name, &error) {
        return FileFault::Mismatch { file: name.to_string(), reason }.into();
    }
    match classify(&error).kind {
        FragmentErrorKind::FileCorrupt => FileFault::corrupt(name, error.strip_backtrace()).into(),
        FragmentErrorKind::FileMissing | FragmentErrorKind::FileChanged => match find(&error) {
            Some(object_store::Error::NotFound { source, .. }) => {
                FileFault::Missing { file: name.to_string(), reason: source.to_string() }.into()
            }
            Some(object_store::Error::Precondition { source, .. }) => {
                FileFault::Changed { file: name.to_string(), reason: source.to_string() }.into()
            }
            _ => error,
        },
        FragmentErrorKind::SchemaMismatch => FileFault::mismatch(name, &error).into(),
        FragmentErrorKind::Execution if is_of_decoder(&error) => {
            FileFault::corrupt(name, error.strip_backtrace()).into()
        }
        FragmentErrorKind::Execution => match of_text(name, &error) {
            Some(reason) => FileFault::Mismatch { file: name.to_string(), reason }.into(),
            None => error,
        },
        _ => error,
    }
}

/// Explains bytes that are no UTF-8 text, with the columns that may hold them: neither the decoder nor arrow's cast names one.
fn no_text(file: &DataFile, error: &DataFusionError) -> Option<String> {
    let of_decoder = |said: &String| said.contains("non UTF-8").then(|| (said.clone(), &file.texts.text));
    let found = match find(error) {
        Some(ArrowError::InvalidArgumentError(said)) => {
            said.contains("non-UTF-8").then(|| (said.clone(), &file.texts.cast_bytes))
        }
        Some(ArrowError::ParquetError(said)) => of_decoder(said),
        _ => None,
    };
    let (said, columns) = found.or_else(|| match find(error) {
        Some(ParquetError::General(said)) => of_decoder(said),
        _ => None,
    })?;
    let names: Vec<String> = columns.iter().take(TEXT_COLUMNS_NAMED_MAX).map(|name| format!("`{name}`")).collect();
    let more = if columns.len() > names.len() { " or another" } else { "" };
    (!names.is_empty())
        .then(|| format!("column {}{more} holds bytes that are no UTF-8 text: {said}", names.join(" or ")))
}

/// Most columns that such an error names.
const TEXT_COLUMNS_NAMED_MAX: usize = 5;

/// Returns the message of a CSV or JSON reader about a value or a line, with the column's name.
fn of_text(file: &DataFile, error: &DataFusionError) -> Option<String> {
    let (ArrowError::CsvError(said) | ArrowError::JsonError(said) | ArrowError::ParseError(said)) = find(error)? else {
        return None;
    };
    let named = said.split_once("for column ").and_then(|(before, rest)| {
        let (index, after) = rest.split_once(' ')?;
        let column = file.columns.fields().get(index.parse::<usize>().ok()?)?;
        Some(format!("{before}for column `{}` {after}", column.name()))
    });
    Some(named.unwrap_or_else(|| said.clone()))
}

/// Returns true for the decoder's errors. It reports some of them as Arrow's, with a text only.
fn is_of_decoder(error: &DataFusionError) -> bool {
    find::<ParquetError>(error).is_some() || matches!(find::<ArrowError>(error), Some(ArrowError::ParquetError(_)))
}

impl Debug for FileNamingSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileNamingSource")
    }
}
