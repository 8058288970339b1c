//! Cut of the last files of the coordinator's own scans at row groups. It runs when a plan's streams start, and EXPLAIN ANALYZE shows it.
//!
//! ```text
//!  queue of a scan   ▭▭▭▭ ▭▭▭▭ ▭▭▭▭ ▭▭▭▭ ▭▭▭▭       two streams take the next one when they are done
//!  cut               ▭▭▭▭ ▭▭▭▭ ▭▭▭▭ ▭▭ ▭▭ ▭ ▭ ▭ ▭   no part has more than its share of what is left
//! ```
//!
//! The streams of a scan take files from one queue, or the byte ranges that DataFusion has made of them. A whole last file keeps one core for its own time, or for that of a late answer, while the
//! others have nothing to do. So the last files become runs of row groups. A part is opened like a file, so that the first ones stay whole.
//!
//! Non-goals: scans that keep an order or a partitioning, and those with a limit, whose first files are the ones that count.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, ParquetRowSelection};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::plan::file_scan;

use super::units::{RowGroupSpan, Unit, WeighedFile, runs, weighed};
use crate::planner::graph::is_parquet;

/// Parts of what is left of a scan, for each stream. A part is at most one of them.
const PARTS: u64 = 2;

/// Least bytes of a part's projected columns. A core computes on them for 4 ms (120 MB/s); to open a part takes it about half a millisecond.
pub const PART_BYTES_MIN: u64 = 512 << 10;

/// Cuts the last files of each scan of a plan. Parts have at least `part_bytes_min` bytes of projected columns, but for the row groups that have less.
pub fn with_short_tails(
    plan: Arc<dyn ExecutionPlan>,
    footers: &FileMetadataCache,
    config: &ConfigOptions,
    part_bytes_min: u64,
) -> Result<Arc<dyn ExecutionPlan>> {
    let cut = |node: Arc<dyn ExecutionPlan>| {
        let Some(scan) = file_scan(&node).filter(|scan| takes_turns(scan, config)) else {
            return Ok(Transformed::no(node));
        };
        let groups = short_tail(scan, footers, part_bytes_min);
        Ok(match groups.iter().map(FileGroup::len).eq(scan.file_groups.iter().map(FileGroup::len)) {
            true => Transformed::no(node),
            false => {
                let cut = FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups).build();
                Transformed::yes(DataSourceExec::from_data_source(cut) as _)
            }
        })
    };
    plan.transform_down(cut).data()
}

/// Returns true where streams take files from one queue, and each file is one of Parquet that is read as it is planned.
fn takes_turns(scan: &FileScanConfig, config: &ConfigOptions) -> bool {
    let is_narrowed = |file: &PartitionedFile| {
        file.extensions.contains::<ParquetAccessPlan>() || file.extensions.contains::<ParquetRowSelection>()
    };
    is_parquet(scan)
        && scan.file_groups.len() > 1
        && !scan.preserve_order
        && scan.output_partitioning.is_none()
        && scan.limit.is_none()
        && config.execution.enable_file_stream_work_stealing
        && !scan.file_groups.iter().flat_map(FileGroup::iter).any(is_narrowed)
}

/// Returns the groups of a scan with the last files of the queue cut. It has all groups, the first one first.
fn short_tail(scan: &FileScanConfig, footers: &FileMetadataCache, part_bytes_min: u64) -> Vec<FileGroup> {
    let parts = PARTS * scan.file_groups.len() as u64;
    let mut left = 0;
    let of_group = |group: &FileGroup| {
        let mut cut: Vec<PartitionedFile> = Vec::with_capacity(group.len());
        for file in group.files().iter().rev() {
            // A file of a large rest would stay whole, and is not looked up.
            let share = left / parts;
            let may_be_cut = share < file.effective_size();
            let found = if may_be_cut { weighed(scan, [file], footers).pop() } else { None };
            let Some(WeighedFile { file: known, row_groups }) = found else {
                left += file.effective_size();
                cut.push(file.clone());
                continue;
            };
            let own = within(&known, row_groups);
            if own.is_empty() {
                // Nobody knows where its row groups begin, or none of the known ones begins in this part.
                left += file.effective_size();
                cut.push(file.clone());
                continue;
            }
            left += own.iter().map(|group| group.weight_bytes).sum::<u64>();
            let units = runs(&known, &own, (left / parts).max(part_bytes_min));
            cut.extend(units.into_iter().rev().map(|Unit { file, .. }| file));
        }
        cut.reverse();
        FileGroup::new(cut)
    };
    let mut groups: Vec<FileGroup> = scan.file_groups.iter().rev().map(of_group).collect();
    groups.reverse();
    groups
}

/// Returns the row groups that lie in the part of the file that is read.
fn within(file: &PartitionedFile, row_groups: Vec<RowGroupSpan>) -> Vec<RowGroupSpan> {
    let Some(part) = &file.range else { return row_groups };
    let is_in =
        |group: &RowGroupSpan| i64::try_from(group.start).is_ok_and(|start| part.start <= start && start < part.end);
    row_groups.into_iter().filter(is_in).collect()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::physical_plan::ParquetSource;
    use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
    use datafusion::execution::cache::default_cache::DefaultCache;
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::physical_expr::Partitioning;
    use object_store::path::Path;

    use super::*;
    use crate::tables::facts::FileFacts;

    const MIB: u64 = 1 << 20;

    /// A file of four row groups of a MiB each.
    fn file(number: usize) -> PartitionedFile {
        let mut file = PartitionedFile::new(format!("t/{number}.parquet"), 4 * MIB);
        let split_offsets = (0..4).map(|group| 4 + group * MIB).collect();
        file.extensions.insert(FileFacts { split_offsets, ..FileFacts::default() });
        file
    }

    fn scan(groups: Vec<Vec<PartitionedFile>>) -> FileScanConfigBuilder {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let url = ObjectStoreUrl::parse("s3://bucket").expect("a URL");
        FileScanConfigBuilder::new(url, Arc::new(ParquetSource::new(schema)))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
    }

    /// Returns the row groups of each part in the order of the queue, as `file: first..end`.
    fn queue(scan: FileScanConfig, config: &ConfigOptions, part_bytes_min: u64) -> Vec<String> {
        let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
        let plan = with_short_tails(DataSourceExec::from_data_source(scan), &footers, config, part_bytes_min);
        let plan = plan.expect("a plan");
        let scan = file_scan(&plan).expect("a scan");
        assert_eq!(scan.file_groups.len(), 2, "streams are as many as before");
        let told = |file: &PartitionedFile| {
            let name = file.object_meta.location.filename().expect("a name").trim_end_matches(".parquet").to_owned();
            match &file.range {
                Some(range) => format!("{name}: {}..{}", range.start >> 20, range.end >> 20),
                None => name,
            }
        };
        scan.file_groups.iter().flat_map(FileGroup::iter).map(told).collect()
    }

    #[test]
    fn the_last_files_are_cut_at_row_groups() {
        let config = ConfigOptions::new();
        let check = |groups: Vec<Vec<PartitionedFile>>, part_bytes_min, expect: &[&str]| {
            assert_eq!(queue(scan(groups).build(), &config, part_bytes_min), expect);
        };
        let ends = ["0", "1", "2", "3: 0..2", "3: 2..4", "4: 0..1", "4: 1..2", "4: 2..3", "4: 3..4"];
        check(vec![(0..3).map(file).collect(), (3..5).map(file).collect()], 1, &ends);
        check(vec![(0..3).map(file).collect(), (3..5).map(file).collect()], 4 * MIB, &["0", "1", "2", "3", "4"]);
        let parts =
            [file(0).with_range(0, 4 << 20), file(1).with_range(0, 2 << 20), file(1).with_range(2 << 20, 4 << 20)];
        let [first, second, third] = parts;
        // A part of a file is cut within itself.
        let expect = ["0: 0..2", "0: 2..4", "1: 0..1", "1: 1..2", "1: 2..3", "1: 3..4"];
        check(vec![vec![first, second], vec![third]], 1, &expect);
        // Nobody knows its row groups.
        let unknown = || PartitionedFile::new("t/9.parquet", 4 * MIB);
        check(vec![vec![file(0)], vec![unknown()]], 1, &["0: 0..2", "0: 2..4", "9"]);
        // Parts of such a file stay, whichever row groups begin in them.
        let half = |from: i64, to: i64| unknown().with_range(from << 20, to << 20);
        check(vec![vec![half(0, 2)], vec![half(2, 4)]], 1, &["9: 0..2", "9: 2..4"]);
    }

    #[test]
    fn scans_whose_files_have_their_place_stay_whole() {
        let whole = ["0", "1"];
        let files = || scan(vec![vec![file(0)], vec![file(1)]]);
        let config = ConfigOptions::new();
        for kept in [
            files().with_preserve_order(true),
            files().with_limit(Some(5)),
            files().with_output_partitioning(Some(Partitioning::UnknownPartitioning(2))),
        ] {
            assert_eq!(queue(kept.build(), &config, 1), whole);
        }
        let mut apart = ConfigOptions::new();
        apart.execution.enable_file_stream_work_stealing = false;
        assert_eq!(queue(files().build(), &apart, 1), whole);
        assert_ne!(queue(files().build(), &config, 1), whole);
    }
}
