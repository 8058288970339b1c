//! A scan of a folder's table: the files that filters leave, with their statistics, in groups.

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{Result, Statistics, project_schema};
use datafusion::datasource::file_format::{FileFormat, FileMeta};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::cache::TableScopedPath;
use datafusion::execution::cache::cache_manager::CachedFileMetadata;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, create_lex_ordering};
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning, PhysicalExpr};
use fragment_fn::{ScanReader, is_same_version};
use futures::{StreamExt, TryStreamExt, stream};
use gust_protocol::ColumnMatching;
use object_store::{ObjectMeta, ObjectStore};

use super::FolderTable;
use super::error::FolderError;
use super::filter::{PartitionFilter, is_decided_by};
use super::listing::{File, ListFilter, find};
use super::names::{FileKind, packing};
use super::{as_read, footers, partitions};
use crate::tables::boxed::AskedScan;
use crate::tables::text::{Packing, TextFormat};

/// Plans a scan.
///
/// # Errors
/// The store's error, with the location. A file's error, with its name. [`FolderError`] for folders that are not as
/// declared.
pub(super) async fn scan(table: &FolderTable, asked: AskedScan<'_>) -> Result<Arc<dyn ExecutionPlan>> {
    let AskedScan { state, projection, filters, limit } = asked;
    let (of_folders, of_files): (Vec<_>, Vec<_>) =
        filters.iter().cloned().partition(|filter| is_decided_by(table.partitions(), filter));
    let store = state.runtime_env().object_store(&table.locations[0].store)?;
    let files = files(table, state, &store, &of_folders).await?;
    // A limit counts only rows that no filter may drop.
    let rows_wanted = limit.filter(|_| of_files.is_empty());
    let FilesForRows { files, is_cut } = with_statistics(table, state, &store, files, rows_wanted).await?;
    let wanted = project_schema(table.columns.table_schema(), projection)?;
    if files.is_empty() {
        return Ok(Arc::new(EmptyExec::new(wanted)));
    }
    let raw = as_read::as_read(table, state, &store, &files).await?;
    let (table, files) = match &raw {
        Some(raw) => (raw, with_statistics(raw, state, &store, files, None).await?.files),
        None => (table, files),
    };
    let GroupedFiles { mut groups, partitioning } = grouped(table, state, files);
    let mut order = order(table, state, &groups)?;
    let options = state.config_options();
    if options.execution.split_file_groups_by_statistics
        && let Some(order) = order.first()
        && let Ok(split) = FileScanConfig::split_groups_by_statistics_with_target_partitions(
            table.columns.table_schema(),
            &groups,
            order,
            state.config().target_partitions(),
        )
        && split.len() <= state.config().target_partitions()
    {
        groups = split;
    }
    order = order.into_iter().filter_map(|order| across_files(order, &groups)).collect();
    let (groups, statistics) = with_summed_statistics(table, groups, is_cut)?;
    let scan =
        FileScanConfigBuilder::new(table.locations[0].store.clone(), table.format.file_source(table.columns.clone()))
            .with_file_groups(groups)
            .with_constraints(table.declared.constraints.clone())
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .with_output_ordering(order)
            .with_output_partitioning(partitioning)
            .build();
    let plan = plan(table, state, store, scan).await?;
    if raw.is_some() { as_read::checked(plan, &wanted) } else { Ok(plan) }
}

/// Plans Parquet with [`ScanReader`], which reads as functions do. Other formats have their own readers.
async fn plan(
    table: &FolderTable,
    state: &dyn Session,
    store: Arc<dyn ObjectStore>,
    scan: FileScanConfig,
) -> Result<Arc<dyn ExecutionPlan>> {
    if scan.file_source().downcast_ref::<ParquetSource>().is_none() {
        return table.format.create_physical_plan(state, scan).await;
    }
    let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
    let scan = ScanReader::new(store, footers, ColumnMatching::Name).attach(scan)?;
    Ok(DataSourceExec::from_data_source(scan))
}

/// Finds the files that filters over folders leave, each once, in the order of their paths.
async fn files(
    table: &FolderTable,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    filters: &[Expr],
) -> Result<Vec<PartitionedFile>> {
    let columns = table.partitions();
    let filter = PartitionFilter::new(state, columns, filters)?;
    let nested = !state.config_options().execution.listing_table_ignore_subdirectory;
    let wanted = ListFilter { columns, filter: Some(&filter), nested };
    let mut found = Vec::new();
    for location in &table.locations {
        let mut there = find(state, store, location, wanted).await?;
        let files = std::mem::take(&mut there.files);
        let (files, other): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| is_read_as(table.kind, file));
        if files.is_empty() && !there.is_empty_table(location, &other) {
            return Err(there.with_other(&other).no_file_error(location).into());
        }
        found.extend(files);
    }
    found.sort_by(|a, b| a.meta.location.cmp(&b.meta.location));
    found.dedup_by(|a, b| a.meta.location == b.meta.location);
    refuse_compressed(&table.format, &found)?;
    found.into_iter().map(|file| partitioned(table, file)).collect()
}

/// Tells if a file that was found is read as a format.
pub(super) fn is_read_as(kind: FileKind, file: &File) -> bool {
    file.is_named || kind.reads(file.name())
}

/// Refuses text that is packed in a way that is not read.
///
/// # Errors
/// [`FolderError`] with the first such file.
pub(super) fn refuse_compressed(format: &Arc<dyn FileFormat>, files: &[File]) -> std::result::Result<(), FolderError> {
    let by_name = format.downcast_ref::<TextFormat>().is_some_and(|text| !text.knows_packing());
    match files.iter().find(|file| by_name && packing(file.name()) == Some(Packing::Unknown)) {
        Some(file) => Err(FolderError::Compressed { file: file.meta.location.to_string() }),
        None => Ok(()),
    }
}

fn partitioned(table: &FolderTable, file: File) -> Result<PartitionedFile> {
    let columns = table.partitions();
    let values = partitions::values(columns, file.folders());
    let values = partitions::complete(columns, values, file.meta.location.as_ref())?;
    let file = PartitionedFile::new_from_meta(file.meta).with_partition_values(values);
    Ok(file.with_table_reference(table.declared.name.clone()))
}

/// Files that have the rows that are wanted.
struct FilesForRows {
    files: Vec<PartitionedFile>,
    /// True if files were left out.
    is_cut: bool,
}

/// Adds the statistics of their metadata to files. Stops when the files have more than `rows_wanted` rows.
async fn with_statistics(
    table: &FolderTable,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    files: Vec<PartitionedFile>,
    rows_wanted: Option<usize>,
) -> Result<FilesForRows> {
    let collects = state.config().collect_statistics();
    let count = files.len();
    let told = files.into_iter().map(|file| async move {
        let FileMeta { mut statistics, ordering, .. } = match collects {
            true => file_statistics(table, state, store, &file).await?,
            false => FileMeta::new(Statistics::new_unknown(table.columns.file_schema())),
        };
        let rows = statistics.num_rows;
        let of_folders = file.partition_values.iter().map(|value| partitions::statistics(value, &rows));
        statistics.column_statistics.extend(of_folders);
        let mut file = file.with_ordering(ordering);
        file.statistics = Some(Arc::new(statistics));
        Ok::<_, datafusion::common::DataFusionError>((file, rows))
    });
    let at_once = state.config_options().execution.meta_fetch_concurrency.get();
    let mut told = stream::iter(told).boxed().buffered(at_once);
    let (mut taken, mut rows) = (Vec::new(), Precision::Exact(0));
    while let Some((file, more)) = told.try_next().await? {
        taken.push(file);
        rows = rows.add(&more);
        let is_enough = |wanted: &usize| matches!(rows, Precision::Exact(rows) if rows > *wanted);
        if rows_wanted.as_ref().is_some_and(is_enough) {
            break;
        }
    }
    Ok(FilesForRows { is_cut: taken.len() < count, files: taken })
}

/// Returns the statistics and the order of a file's own columns, from its metadata or from the session's cache.
async fn file_statistics(
    table: &FolderTable,
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    file: &PartitionedFile,
) -> Result<FileMeta> {
    let object: &ObjectMeta = &file.object_meta;
    let cache = state.runtime_env().cache_manager.get_file_statistic_cache();
    let key = TableScopedPath { table: file.table_reference.clone(), path: object.location.clone() };
    if let Some(kept) = cache.as_ref().and_then(|cache| cache.get(&key))
        && kept.is_valid_for(object, &table.fingerprint)
        && is_same_version(&kept.meta, object)
    {
        return Ok(FileMeta::new(Arc::unwrap_or_clone(kept.statistics)).with_ordering(kept.ordering));
    }
    let columns = table.columns.file_schema();
    let told = if table.kind == FileKind::Parquet {
        footers::statistics(state, store, columns, object).await?
    } else {
        table.format.infer_stats_and_ordering(state, store, Arc::clone(columns), object).await?
    };
    if let Some(cache) = cache {
        let kept = CachedFileMetadata::new(
            object.clone(),
            Arc::clone(&table.fingerprint),
            Arc::new(told.statistics.clone()),
            told.ordering.clone(),
        );
        cache.put(&key, kept);
    }
    Ok(told)
}

/// Files in groups, and the partitioning that the groups keep.
struct GroupedFiles {
    groups: Vec<FileGroup>,
    partitioning: Option<Partitioning>,
}

/// Makes one group a core, or groups by the values of partitions if the session's settings ask for that.
fn grouped(table: &FolderTable, state: &dyn Session, files: Vec<PartitionedFile>) -> GroupedFiles {
    let count = state.config().target_partitions().max(1);
    let least = state.config_options().optimizer.preserve_file_partitions;
    let columns = table.partitions();
    if least > 0 && !columns.is_empty() {
        let groups = FileGroup::new(files.clone()).group_by_partition_values(count);
        if groups.len() >= least {
            let first = table.columns.file_schema().fields().len();
            let by = columns
                .iter()
                .enumerate()
                .map(|(i, c)| Arc::new(Column::new(c.name(), first + i)) as Arc<dyn PhysicalExpr>);
            let partitioning = Partitioning::Hash(by.collect(), groups.len());
            return GroupedFiles { groups, partitioning: Some(partitioning) };
        }
    }
    GroupedFiles { groups: FileGroup::new(files).split_files(count), partitioning: None }
}

/// Returns the order that was declared, or else the one that all files say they are sorted by.
fn order(table: &FolderTable, state: &dyn Session, groups: &[FileGroup]) -> Result<Vec<LexOrdering>> {
    if !table.declared.order.is_empty() {
        return create_lex_ordering(table.columns.table_schema(), &table.declared.order, state.execution_props());
    }
    let mut orders = groups.iter().flat_map(FileGroup::iter).map(|file| file.ordering.as_ref());
    let Some(Some(first)) = orders.next() else { return Ok(Vec::new()) };
    let mut common: Vec<_> = first.iter().cloned().collect();
    for order in orders {
        let same = order.map_or(0, |order| common.iter().zip(order.iter()).take_while(|(a, b)| a == b).count());
        common.truncate(same);
    }
    Ok(LexOrdering::new(common).into_iter().collect())
}

/// Returns the part of an order that holds where one file of a group follows another. DataFusion 55.2 compares only
/// their least and greatest values, and NULLs are among neither. So the order ends before the first column that may
/// have NULLs.
fn across_files(order: LexOrdering, groups: &[FileGroup]) -> Option<LexOrdering> {
    if groups.iter().all(|group| group.len() <= 1) {
        return Some(order);
    }
    let files = || groups.iter().flat_map(FileGroup::iter);
    let has_no_null = |index: usize| {
        files().all(|file| {
            let columns = file.statistics.as_ref().map(|known| &known.column_statistics);
            let column = columns.and_then(|columns| columns.get(index));
            column.is_some_and(|column| column.null_count == Precision::Exact(0))
        })
    };
    let kept = order
        .into_iter()
        .take_while(|by| by.expr.downcast_ref::<Column>().is_some_and(|column| has_no_null(column.index())));
    LexOrdering::new(kept.collect::<Vec<_>>())
}

/// Adds the statistics of their files to groups, and returns those of all files.
fn with_summed_statistics(
    table: &FolderTable,
    groups: Vec<FileGroup>,
    is_cut: bool,
) -> Result<(Vec<FileGroup>, Statistics)> {
    let schema = table.columns.table_schema();
    let of_files = |group: &FileGroup| {
        Statistics::try_merge_iter(group.iter().filter_map(|file| file.statistics.as_deref()), schema)
    };
    let sums = groups.iter().map(of_files).collect::<Result<Vec<_>>>()?;
    let all = Statistics::try_merge_iter(sums.iter(), schema)?;
    let groups = groups.into_iter().zip(sums).map(|(group, sum)| group.with_statistics(Arc::new(sum))).collect();
    Ok((groups, if is_cut { all.to_inexact() } else { all }))
}
