//! A file source around DataFusion's that decides for each file how it is opened.

use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex};

use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::metrics::{Count, MetricBuilder};
use datafusion_datasource::morsel::{MorselPlan, MorselPlanner, Morselizer};
use object_store::ObjectStore;

use super::{Filter, Filters, LateColumns, Way, source};
use crate::ahead::{AheadAccount, ScanAhead};
use crate::forwarding::forwarding_to;

/// Largest size of the keys that a stream keeps decoded between its filter and its rows. Beyond it they are decoded twice.
const KEYS_BYTES_MAX: usize = 16 << 20;

/// Ways in which a stream's last files were read, at most. Filters are few, and are given up one after the other.
const WAYS_MAX: usize = 4;

/// Part that the decoder of a scan has in what becomes of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decides {
    /// It may leave out rows by a filter.
    Rows,
    /// It leaves out row groups and pages.
    Nothing,
}

/// Makes a Parquet scan open each file in the way that pays then. Returns other scans as they are. `account` is told of the rows that keys
/// decide about.
pub(crate) fn opening_each(
    mut scan: FileScanConfig,
    rule: LateColumns,
    account: &Arc<AheadAccount>,
    ahead: Option<Arc<ScanAhead>>,
) -> (FileScanConfig, Decides) {
    match Opening::of(&mut scan, rule, account, ahead) {
        Some(source) => {
            let decides = if source.filters.may_decide_rows() { Decides::Rows } else { Decides::Nothing };
            (FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).build(), decides)
        }
        None => {
            let parquet = scan.file_source().downcast_ref::<ParquetSource>();
            let is_plain = parquet.is_some_and(|parquet| !parquet.table_parquet_options().global.pushdown_filters);
            (scan, if is_plain { Decides::Nothing } else { Decides::Rows })
        }
    }
}

/// Parquet source that decides for each file how it is opened.
#[derive(Clone)]
pub(super) struct Opening {
    parquet: ParquetSource,
    /// The scan without its files.
    scan: Arc<FileScanConfig>,
    pub(super) filters: Filters,
    /// None where nothing is read ahead.
    ahead: Option<Arc<ScanAhead>>,
}

impl Opening {
    pub(super) fn of(
        scan: &mut FileScanConfig,
        rule: LateColumns,
        account: &Arc<AheadAccount>,
        ahead: Option<Arc<ScanAhead>>,
    ) -> Option<Self> {
        let parquet = source(scan)?.clone();
        let filters = Filters::of(scan, &parquet, rule, account);
        if ahead.is_none() && !filters.may_decide_rows() {
            return None;
        }
        let files = std::mem::take(&mut scan.file_groups);
        let without_files = Arc::new(scan.clone());
        scan.file_groups = files;
        Some(Self { parquet, scan: without_files, filters, ahead })
    }

    fn with_parquet(&self, parquet: &Arc<dyn FileSource>) -> Self {
        let parquet = parquet.downcast_ref::<ParquetSource>().unwrap_or(&self.parquet).clone();
        Self { parquet, ..self.clone() }
    }

    /// Returns the way for a file that is opened now, None to read it as planned.
    pub(super) fn way(&self) -> Option<Way> {
        self.filters.way(self.parquet.table_schema())
    }

    /// Returns the source of files that are read in a way.
    fn parquet(&self, way: &Way) -> ParquetSource {
        let parquet = self.parquet.with_predicate(self.filters.predicate(way));
        if way.rows.is_empty() {
            return parquet;
        }
        let mut options = self.parquet.table_parquet_options().clone();
        options.global.pushdown_filters = true;
        options.global.reorder_filters = false;
        options.global.max_predicate_cache_size.get_or_insert(KEYS_BYTES_MAX);
        parquet.with_table_parquet_options(options)
    }
}

impl FileSource for Opening {
    forwarding_to!(parquet);

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        scan: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let planned = self.parquet.create_morselizer(Arc::clone(&store), scan, partition)?;
        let made = Mutex::default();
        let left_out = self
            .ahead
            .as_ref()
            .map(|_| MetricBuilder::new(self.parquet.metrics()).counter("row_groups_pruned_ahead", partition));
        Ok(Box::new(OpeningFiles { source: self.clone(), store, partition, planned, made, left_out }))
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(self.with_parquet(&self.parquet.with_batch_size(batch_size)))
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        self.parquet.fmt_extra(kind, f)?;
        if !self.filters.may_decide_rows() {
            return Ok(());
        }
        let told: Vec<String> = self.filters.0.iter().filter_map(Filter::told).collect();
        match kind {
            DisplayFormatType::TreeRender => Ok(()),
            _ => write!(f, ", late_columns=[{}]", told.join(", ")),
        }
    }
}

/// Plans each file in the way that pays when it is opened.
struct OpeningFiles {
    source: Opening,
    store: Arc<dyn ObjectStore>,
    partition: usize,
    planned: Box<dyn Morselizer>,
    made: Mutex<Vec<(Way, Arc<dyn Morselizer>)>>,
    /// Row groups that the opener does not see, because reading ahead has ruled them out. None where nothing is read ahead.
    left_out: Option<Count>,
}

impl Morselizer for OpeningFiles {
    fn plan_file(&self, mut file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        let Some(mut way) = self.source.way() else { return self.planned.plan_file(file) };
        let ahead = self.source.ahead.as_ref().filter(|_| way.unknown.is_empty());
        if let Some(pruned) = ahead.and_then(|ahead| ahead.pruned(self.partition, &file)) {
            if let Some(count) = &self.left_out {
                count.add(pruned.row_groups_left_out);
            }
            if pruned.is_empty() {
                return Ok(Box::new(NoRows));
            }
            file.extensions.insert(pruned.rows);
            file.arrow_schema = pruned.coerced.or(file.arrow_schema);
            if !self.source.filters.0.is_empty() {
                way = way.once_pruned();
            }
        }
        match way.differs() {
            true => self.made(way)?.plan_file(file),
            false => self.planned.plan_file(file),
        }
    }
}

impl OpeningFiles {
    /// Returns the morselizer of files that are read in a way. Those of the last ways are kept.
    fn made(&self, way: Way) -> Result<Arc<dyn Morselizer>> {
        let mut made = self.made.lock().expect("no holder panics");
        if let Some((_, same)) = made.iter().find(|(of, _)| *of == way) {
            return Ok(Arc::clone(same));
        }
        let parquet = self.source.parquet(&way);
        let new: Arc<dyn Morselizer> =
            parquet.create_morselizer(Arc::clone(&self.store), &self.source.scan, self.partition)?.into();
        if made.len() >= WAYS_MAX {
            made.remove(0);
        }
        made.push((way, Arc::clone(&new)));
        Ok(new)
    }
}

impl Debug for OpeningFiles {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpeningFiles").field("planned", &self.planned).finish_non_exhaustive()
    }
}

/// File of which no row group is read.
#[derive(Debug)]
struct NoRows;

impl MorselPlanner for NoRows {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        Ok(None)
    }
}
