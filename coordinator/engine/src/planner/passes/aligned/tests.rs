//! Fields that scans share, and what is made of them.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{JoinType, NullEquality};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::physical_plan::displayable;
use gust_catalog::{PartedBy, Scalar, Transform, Type};
use gust_protocol::{Input, LeafId, Output, StoreAccess};
use object_store::path::Path;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use super::*;
use crate::model::TimeModel;
use crate::planner::deletes::DigestBounds;
use crate::planner::passes::facts::Facts;
use crate::planner::passes::pack::{PackedFragment, Packing};
use crate::planner::passes::samples::shape;
use crate::planner::passes::shuffle::StageRules;
use crate::planner::passes::stages::{CutPlan, FunctionAccess};
use crate::planner::passes::units::Unit;
use crate::tables::facts::{FileFacts, FilePartition, PartValue, Partition};

/// Values of the fields of the partitions of a scan's files: a file each.
type Parts = Vec<Vec<PartedBy>>;

fn part(source_id: i32, transform: Transform, source_type: Type, value: Option<Scalar>) -> PartedBy {
    PartedBy { source_id, transform, source_type, value }
}

fn buckets(source_type: Type, count: u32, values: impl IntoIterator<Item = i32>) -> Parts {
    let bucket = |value| vec![part(1, Transform::Bucket(count), source_type.clone(), Some(Scalar::Int(value)))];
    values.into_iter().map(bucket).collect()
}

/// Makes a side over a scan of one column `k` of this type, whose field has the id 1.
fn side(data_type: DataType, files: &Parts) -> Side {
    let metadata = [(PARQUET_FIELD_ID_META_KEY.to_owned(), "1".to_owned())].into();
    let schema = Arc::new(Schema::new(vec![Field::new("k", data_type, true).with_metadata(metadata)]));
    let partition = |values: &Vec<PartedBy>| values.iter().filter_map(PartValue::of).collect::<Partition>();
    let partitions: Arc<[Partition]> = files.iter().map(partition).collect();
    let file = |number: u32| {
        let mut file = PartitionedFile::new(format!("{number}"), 10);
        let parted = Some(FilePartition::new(Arc::clone(&partitions), number));
        file.extensions.insert(FileFacts { parted, ..FileFacts::default() });
        file
    };
    let files = FileGroup::new((0..partitions.len() as u32).map(file).collect());
    let source = Arc::new(ParquetSource::new(Arc::clone(&schema)));
    let scan: FileScanConfig =
        FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).with_file_groups(vec![files]).build();
    Side { plan: DataSourceExec::from_data_source(scan), keys: vec![Arc::new(Column::new("k", 0))] }
}

/// Makes the same side with its key in another type.
fn cast_to(side: Side, data_type: &DataType) -> Side {
    let key = cast(Arc::clone(&side.keys[0]), &side.plan.schema(), data_type.clone()).expect("a cast");
    Side { keys: vec![key], ..side }
}

fn longs(count: u32) -> Side {
    side(DataType::Int64, &buckets(Type::Long, count, 0..3))
}

/// Makes a side with a file of each of these values of `truncate[8]`.
fn cut_ints(values: &[i32]) -> Side {
    let cut = |value: &i32| vec![part(1, Transform::Truncate(8), Type::Int, Some(Scalar::Int(*value)))];
    side(DataType::Int32, &values.iter().map(cut).collect())
}

/// Makes a side with a file of each of these values of `bucket[4]`.
fn longs_of(values: &[i32]) -> Side {
    side(DataType::Int64, &buckets(Type::Long, 4, values.iter().copied()))
}

#[test]
fn fields_are_shared_where_equal_keys_have_equal_values() {
    let decimal = |precision, scale| Type::Decimal { precision, scale };
    let of_decimals = |data_type: DataType, ty: Type| side(data_type, &buckets(ty, 4, 0..3));
    let (int, long) = (DataType::Int32, DataType::Int64);
    let ints = || side(int.clone(), &buckets(Type::Int, 4, 1..4));
    let mixed = {
        // A spec with another field beside it, and NULL.
        let mut files = buckets(Type::Long, 4, [2]);
        files.push(vec![
            part(7, Transform::Identity, Type::String, Some(Scalar::String("x".to_owned()))),
            part(1, Transform::Bucket(4), Type::Long, None),
        ]);
        files
    };
    let older = [buckets(Type::Long, 4, 0..2), vec![Vec::new()]].concat();
    let floats = vec![vec![part(1, Transform::Identity, Type::Double, Some(Scalar::Double(0.0)))]];
    let float_side = || side(DataType::Float64, &floats);
    for (sides, expect) in [
        ([longs(4), longs(4)], true),
        ([longs(4), longs(8)], false),
        ([longs(4), side(long.clone(), &mixed)], true),
        // Files of a spec without the field.
        ([longs(4), side(long.clone(), &older)], false),
        // Without files, a side has no row that could be at another place.
        ([longs(4), side(long.clone(), &Parts::new())], true),
        ([side(long.clone(), &Parts::new()), side(long.clone(), &Parts::new())], false),
        // A wider number has the same bucket, other casts have not.
        ([longs(4), cast_to(ints(), &long)], true),
        ([cast_to(longs(4), &int), ints()], false),
        ([cast_to(longs(4), &DataType::Float64), cast_to(longs(4), &DataType::Float64)], false),
        (
            [
                of_decimals(DataType::Decimal128(9, 2), decimal(9, 2)),
                of_decimals(DataType::Decimal128(9, 2), decimal(9, 2)),
            ],
            true,
        ),
        (
            [
                of_decimals(DataType::Decimal128(9, 2), decimal(9, 2)),
                of_decimals(DataType::Decimal128(9, 4), decimal(9, 4)),
            ],
            false,
        ),
        ([float_side(), float_side()], false),
        // Cut below the least number, writers wrap around.
        ([cut_ints(&[-8, 16]), cut_ints(&[0])], true),
        ([cut_ints(&[-8, i32::MAX - 1]), cut_ints(&[0])], false),
    ] {
        let found = common_fields(&sides);
        assert_eq!(found.is_ok(), expect, "{found:?}: {sides:?}");
        if let Ok(found) = found {
            assert!(found.iter().all(|fields| fields.len() == 1), "{found:?}");
        }
    }
}

#[test]
fn a_reason_names_what_each_side_has() {
    let why = |sides: [Side; 2]| common_fields(&sides).expect_err("a reason");
    assert_eq!(why([longs(4), longs(8)]), "all files of its sides are parted by bucket[4] of k, by bucket[8] of k");
    let plain = side(DataType::Int64, &vec![Vec::new()]);
    assert_eq!(why([longs(4), plain]), "all files of its sides are parted by bucket[4] of k, not by k");
    let cut = cast_to(longs(4), &DataType::Float64);
    assert_eq!(why([cut.clone(), cut]), "no key is a column of a table on each side");
}

/// Makes a join of two sides, each over an exchange where `exchanged` says so.
fn joined(left: &Side, right: &Side, join_type: JoinType, exchanged: bool) -> Arc<dyn ExecutionPlan> {
    let over = |side: &Side| -> Arc<dyn ExecutionPlan> {
        if !exchanged {
            return Arc::clone(&side.plan);
        }
        let partitioning = Partitioning::Hash(side.keys.clone(), 3);
        Arc::new(RepartitionExec::try_new(Arc::clone(&side.plan), partitioning).expect("an exchange"))
    };
    let join = HashJoinExec::try_new(
        over(left),
        over(right),
        vec![(Arc::clone(&left.keys[0]), Arc::clone(&right.keys[0]))],
        None,
        &join_type,
        None,
        PartitionMode::Partitioned,
        NullEquality::NullEqualsNothing,
        false,
    );
    Arc::new(join.expect("a join"))
}

fn packing(functions: usize, lanes_max: usize) -> Packing {
    Packing {
        fragment_bytes_target: 1,
        model: TimeModel::laptop(1),
        functions_max: functions,
        functions: Some(functions),
        lanes_max,
        function_memory_bytes: 2 << 30,
        digest: DigestBounds::default(),
    }
}

/// Lists the files of a scan that a part of a fragment reads.
fn read_of(units: &[Unit], own: impl Iterator<Item = usize>, leaf: LeafId) -> Vec<String> {
    let own = own.map(|unit| &units[unit]).filter(|unit| unit.leaf == leaf);
    own.map(|unit| unit.file.object_meta.location.to_string()).collect()
}

#[test]
fn functions_have_all_files_of_a_value_in_one_lane_and_no_exchange() {
    let plan = joined(&longs_of(&[0, 1, 2, 0]), &longs_of(&[2, 1, 0, 3]), JoinType::Left, true);
    let facts = Facts { joins: true, sorts: true, aggregates: true };
    let rules = StageRules { aligned: AlignedPlace::Functions, facts, ..StageRules::SCANS };
    let through =
        |url: &str| Ok(FunctionAccess::Through(StoreAccess { url: url.to_owned(), options: BTreeMap::new() }));
    let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
    let marked = aligned(&plan, rules.aligned).expect("a plan");
    let scan = "  AlignedExec\n    RepartitionExec\n      DataSourceExec";
    assert_eq!(shape(&marked.plan), format!("HashJoinExec\n{scan}\n{scan}"));
    let cut = CutPlan::of(&plan, rules, &through).expect("a plan").on_functions().expect("it travels");
    let stages = cut.packer(&footers).stages(0, &packing(2, 1));
    let [stage] = stages.as_slice() else { panic!("{stages:?}") };
    assert_eq!(stage.aligned.as_deref(), Some("by bucket[4] of k = bucket[4] of k; 4 values"));
    assert_eq!(shape(&stage.plan), "HashJoinExec\n  DataSourceExec\n  DataSourceExec");
    // A filter of the join's would look for a key in the partition of its hash, where there are several.
    for (packing, is_told) in [(packing(2, 1), true), (packing(1, 2), false)] {
        let stages = cut.packer(&footers).stages(0, &packing);
        let text = displayable(stages[0].plan.as_ref()).indent(true).to_string();
        assert_eq!(text.contains("DynamicFilter"), is_told, "{text}");
    }
    let output = Output::Gather { access: 0, prefix: String::new() };
    let sent = stage.stage_plan(output, BTreeMap::new(), Vec::new()).expect("it can be encoded");
    // Lanes that took files from one another would join rows of different values.
    assert_eq!(sent.options["datafusion.execution.enable_file_stream_work_stealing"], "false");
    assert_eq!(sent.leaves.len(), 2);
    let mut read = Vec::new();
    for fragment in 0..stage.fragments.len() {
        let inputs = stage.inputs(fragment, &footers, None).expect("inputs");
        let lanes = |(leaf, Input::Scan(scan)): &(LeafId, Input)| (*leaf, scan.lanes.len());
        assert_eq!(inputs.iter().map(lanes).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
        let own = |leaf| read_of(&stage.units, stage.fragments[fragment].units(), leaf);
        read.push((own(0), own(1)));
    }
    read.sort();
    // Rows of value 3 meet none on the left.
    let files = |left: &[&str], right: &[&str]| {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        (own(left), own(right))
    };
    assert_eq!(read, [files(&["0", "3"], &["2"]), files(&["1", "2"], &["1", "0"])]);
}

#[test]
fn a_large_partition_is_split_where_each_row_still_comes_once() {
    // Six files of one value on the left, and one on the right; of another value one each.
    let (left, right) = (longs_of(&[0, 0, 0, 0, 0, 0, 1]), longs_of(&[0, 1]));
    let footers = DefaultCache::<Path, CachedFileMetadataEntry>::new(0);
    let fields = common_fields(&[left.clone(), right.clone()]).expect("common fields");
    // Parts of a partition in one lane have the right side's rows once, too.
    let one_lane = Packing { functions: None, ..packing(1, 1) };
    for (join_type, packing, expect) in [
        (JoinType::Inner, packing(5, 1), 4),
        (JoinType::Left, packing(5, 1), 4),
        (JoinType::LeftAnti, packing(5, 1), 4),
        (JoinType::LeftMark, packing(5, 1), 4),
        (JoinType::Right, packing(5, 1), 1),
        (JoinType::RightSemi, packing(5, 1), 1),
        (JoinType::Full, packing(5, 1), 1),
        (JoinType::Inner, packing(1, 2), 1),
        (JoinType::Inner, one_lane, 1),
        (JoinType::LeftSemi, one_lane, 1),
    ] {
        let plan = joined(&left, &right, join_type, false);
        let scans = [&left, &right].map(|side| scan_of(&side.plan).expect("a scan"));
        let keys: Vec<Vec<GroupKey>> =
            scans.iter().zip(&fields).map(|(scan, fields)| group_keys(scan, fields).expect("keys")).collect();
        let scans = scans.into_iter().zip(keys.iter().map(Vec::as_slice));
        let packed = AlignedFiles::of(&plan, scans, &footers).packed(&packing);
        let of_fragment = |fragment: &PackedFragment, leaf| read_of(&packed.units, fragment.units(), leaf);
        let with_large = packed.fragments.iter().filter(|fragment| of_fragment(fragment, 1).contains(&"0".to_owned()));
        assert_eq!(with_large.count(), expect, "{join_type}: {packed:?}");
        // Each file of the left side is read once, in a lane with the file of its value on the right.
        let mut read: Vec<String> = packed.fragments.iter().flat_map(|fragment| of_fragment(fragment, 0)).collect();
        read.sort();
        assert_eq!(read, ["0", "1", "2", "3", "4", "5", "6"], "{join_type}: {packed:?}");
        for lane in packed.fragments.iter().flat_map(|fragment| &fragment.lanes) {
            let of_lane = |leaf| read_of(&packed.units, lane.units.iter().copied(), leaf);
            let (left, mut right) = (of_lane(0), of_lane(1));
            right.sort();
            let mut values: Vec<&str> = left.iter().map(|file| if file == "6" { "1" } else { "0" }).collect();
            values.sort_unstable();
            values.dedup();
            assert_eq!(right, values, "{join_type}: {left:?}");
        }
    }
}
