//! Every type of value, every function, and the options of operators, through the codec.

use std::collections::BTreeSet;

use arrow::array::{
    Array, ArrayRef, DictionaryArray, FixedSizeListArray, Int32Array, Int64Array, LargeListArray, LargeListViewArray,
    ListArray, ListViewArray, MapBuilder, MapFieldNames, RecordBatch, RunArray, StringArray, StringBuilder,
    StructArray, UnionArray,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::SortOptions;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, Int32Type, IntervalDayTime, IntervalMonthDayNano, IntervalUnit, Schema, SchemaRef, TimeUnit,
    UnionFields, i256,
};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DFSchema, UnnestOptions};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::expr::HigherOrderFunction;
use datafusion::logical_expr::{Expr, ScalarUDF, ident, lambda, lambda_var, lit as literal};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{col, lit};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::{AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::partial_sort::PartialSortExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::unnest::ListUnnest;
use datafusion::prelude::SessionContext;

use super::*;
use crate::plan::{Rows, decode};

fn scan(schema: &SchemaRef) -> Arc<dyn ExecutionPlan> {
    let source = Arc::new(ParquetSource::new(Arc::clone(schema)));
    let files = FileGroup::new(vec![PartitionedFile::new("t/a.parquet", 1234)]);
    let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).with_file_group(files);
    DataSourceExec::from_data_source(scan.build())
}

fn schema(data_types: &[DataType]) -> SchemaRef {
    let fields = data_types.iter().enumerate();
    Arc::new(Schema::new(
        fields.map(|(i, data_type)| Field::new(format!("c{i}"), data_type.clone(), true)).collect::<Vec<_>>(),
    ))
}

fn project(expr: Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Arc<dyn ExecutionPlan> {
    Arc::new(ProjectionExec::try_new(vec![(expr, "x".to_owned())], scan(schema)).expect("a projection"))
}

/// Encodes and decodes a projection, and returns its expression.
fn received(bytes: &Bytes, sent: &Arc<dyn ExecutionPlan>) -> Arc<dyn PhysicalExpr> {
    let plan =
        decode(bytes, &context(sent), Rows::default(), &mut |_, scan| Ok(scan.clone())).expect("it was decoded before");
    expressions(&plan).remove(0)
}

/// Values of every type, without NULLs.
fn values() -> Vec<ScalarValue> {
    use ScalarValue as S;
    let zones = [None, Some(Arc::<str>::from("+02:00")), Some("Europe/Berlin".into())];
    let mut all = vec![
        S::Boolean(Some(true)),
        S::Int8(Some(-128)),
        S::Int16(Some(i16::MIN)),
        S::Int32(Some(i32::MIN)),
        S::Int64(Some(i64::MIN)),
        S::UInt8(Some(255)),
        S::UInt16(Some(u16::MAX)),
        S::UInt32(Some(u32::MAX)),
        S::UInt64(Some(u64::MAX)),
        S::Float32(Some(f32::NAN)),
        S::Float32(Some(-0.0)),
        S::Float64(Some(-f64::NAN)),
        S::Float64(Some(f64::MIN_POSITIVE)),
        S::Decimal32(Some(-123), 9, 2),
        S::Decimal64(Some(-123), 18, 2),
        S::Decimal128(Some(i128::MAX), 38, 10),
        S::Decimal256(Some(i256::MAX), 76, 10),
        S::Utf8(Some("é\u{0}".to_owned())),
        S::LargeUtf8(Some("é".to_owned())),
        S::Utf8View(Some("a text longer than twelve bytes".to_owned())),
        S::Binary(Some(vec![0, 255])),
        S::LargeBinary(Some(vec![0, 255])),
        S::BinaryView(Some(vec![0, 255])),
        S::FixedSizeBinary(2, Some(vec![0, 255])),
        S::Date32(Some(-1)),
        S::Date64(Some(-86_400_000)),
        S::Time32Second(Some(1)),
        S::Time32Millisecond(Some(1)),
        S::Time64Microsecond(Some(1)),
        S::Time64Nanosecond(Some(1)),
        S::DurationSecond(Some(-1)),
        S::DurationMillisecond(Some(-1)),
        S::DurationMicrosecond(Some(-1)),
        S::DurationNanosecond(Some(-1)),
        S::IntervalYearMonth(Some(-1)),
        S::IntervalDayTime(Some(IntervalDayTime::new(-1, 2))),
        S::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(-1, 2, -3))),
    ];
    for zone in zones {
        all.extend([
            S::TimestampSecond(Some(-1), zone.clone()),
            S::TimestampMillisecond(Some(-1), zone.clone()),
            S::TimestampMicrosecond(Some(-1), zone.clone()),
            S::TimestampNanosecond(Some(-1), zone),
        ]);
    }
    all.push(half());
    all.extend(nested().iter().map(|array| S::try_from_array(array, 0).expect("a value")));
    all
}

fn half() -> ScalarValue {
    let half = cast(&Int32Array::from(vec![2]), &DataType::Float16).expect("a half");
    ScalarValue::try_from_array(&half, 0).expect("a value")
}

fn nested() -> Vec<ArrayRef> {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3), Some(4)]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("c"), Some("d")]));
    let field = |name: &str, array: &ArrayRef| Field::new(name, array.data_type().clone(), true);
    let marked = field("n", &numbers).with_metadata([("PARQUET:field_id".to_owned(), "7".to_owned())].into());
    let structs: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(marked), Arc::clone(&numbers)),
        (Arc::new(field("t", &texts)), Arc::clone(&texts)),
    ]));
    let item = |array: &ArrayRef| Arc::new(field("element", array));
    let lists = |values: &ArrayRef| -> Vec<ArrayRef> {
        let offsets = || ScalarBuffer::from(vec![0_i32, 2]);
        let (large, sizes) = (ScalarBuffer::from(vec![0_i64, 2]), ScalarBuffer::from(vec![2_i64, 2]));
        let offsets32 = arrow::buffer::OffsetBuffer::<i32>::from_lengths([2, 2]);
        let offsets64 = arrow::buffer::OffsetBuffer::<i64>::from_lengths([2, 2]);
        vec![
            Arc::new(ListArray::new(item(values), offsets32, Arc::clone(values), None)),
            Arc::new(LargeListArray::new(item(values), offsets64, Arc::clone(values), None)),
            Arc::new(FixedSizeListArray::new(item(values), 2, Arc::clone(values), None)),
            Arc::new(ListViewArray::new(
                item(values),
                offsets(),
                ScalarBuffer::from(vec![2, 2]),
                Arc::clone(values),
                None,
            )),
            Arc::new(LargeListViewArray::new(item(values), large, sizes, Arc::clone(values), None)),
        ]
    };
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), arrow::array::Int64Builder::new());
    maps.keys().append_value("k");
    maps.values().append_null();
    maps.append(true).expect("a map");
    let keys = Int32Array::from(vec![0, 1, 2, 3]);
    let union_fields = UnionFields::try_new([0, 1], [field("n", &numbers), field("t", &texts)]).expect("fields");
    let type_ids = ScalarBuffer::from(vec![0_i8, 1, 0, 1]);
    let union = UnionArray::try_new(union_fields, type_ids, None, vec![Arc::clone(&numbers), Arc::clone(&texts)]);
    let runs = RunArray::<Int32Type>::try_new(&Int32Array::from(vec![4]), &StringArray::from(vec!["run"]));
    let mut all = lists(&numbers);
    all.extend(lists(&structs));
    all.extend([
        structs,
        Arc::new(maps.finish()),
        Arc::new(DictionaryArray::<Int32Type>::new(keys, texts)),
        Arc::new(union.expect("a union")),
        Arc::new(runs.expect("runs")),
    ]);
    all
}

/// Sends a literal and returns whether it arrives. The rows that it makes decide.
fn arrives(value: &ScalarValue) -> bool {
    let schema = schema(&[DataType::Int64]);
    let sent = project(lit(value.clone()), &schema);
    let Ok(bytes) = encode_checked(&sent) else { return false };
    let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![1, 2]))]).expect("a batch");
    let rows = |expr: &Arc<dyn PhysicalExpr>| -> ArrayRef {
        expr.evaluate(&batch).and_then(|value| value.into_array(2)).expect("a literal has a value")
    };
    let (expect, found) = (rows(&expressions(&sent)[0]), rows(&received(&bytes, &sent)));
    assert_eq!(found.data_type(), expect.data_type());
    assert_eq!(format!("{found:?}"), format!("{expect:?}"));
    true
}

/// Lists the values that do not travel in 55.2. One that travels is taken out here, and nothing else has to change.
#[test]
fn values_of_every_type_arrive_or_are_refused() {
    let mut kept = BTreeSet::new();
    for value in values() {
        let data_type = value.data_type();
        let null = ScalarValue::try_new_null(&data_type).expect("a NULL of every type");
        for value in [value, null] {
            let arrives = arrives(&value);
            assert_eq!(encode_scalar(&value).is_ok(), arrives, "{value:?} of {data_type}");
            let projected = project(lit(value.clone()), &schema(&[DataType::Int64]));
            assert_eq!(loses_values(&projected, &mut HashMap::new()), !arrives, "{value:?} of {data_type}");
            if !arrives {
                kept.insert(format!("{}{data_type}", if value.is_null() { "NULL of " } else { "" }));
            }
        }
    }
    let kept: Vec<&str> = kept.iter().map(String::as_str).collect();
    assert_eq!(kept, KEPT_VALUES);
}

const KEPT_VALUES: &[&str] = &["Float16"];

#[test]
fn a_float16_literal_is_told_with_its_type() {
    let obstacle =
        encode_checked(&project(lit(half()), &schema(&[DataType::Int64]))).expect_err("55.2 makes it a Float32");
    assert_eq!(obstacle, "literal 2 of type Float16 arrives as literal 2 of type Float32");
}

#[test]
fn types_travel_as_deep_as_they_can_be_decoded() {
    let deep = |levels: usize| {
        (0..levels).fold(DataType::Int64, |below, _| DataType::Struct(vec![Field::new("s", below, true)].into()))
    };
    let check = |levels: usize| {
        let schema = schema(&[deep(levels)]);
        let sent = project(col("c0", &schema).expect("a column"), &schema);
        let arrives = encode_checked(&sent);
        assert_eq!(loses_values(&scan(&schema), &mut HashMap::new()), arrives.is_err(), "{levels} levels");
        arrives
    };
    assert!(check(20).is_ok());
    let obstacle = check(40).expect_err("prost gives up at 100 messages");
    assert!(obstacle.contains("cannot be decoded again"), "{obstacle}");
}

/// Calls each function with the types that its signature gives as examples.
#[test]
fn every_scalar_function_arrives() {
    let (mut sent, mut kept) = (0, Vec::new());
    let ours: BTreeSet<String> = functions::added().into_iter().collect();
    let is_tried = |name: &str| name.starts_with("gust_try_");
    let mut added = ours.clone();
    added.extend(functions::scalar().iter().map(|function| function.name().to_owned()).filter(|name| is_tried(name)));
    for function in functions::scalar() {
        let mut examples = function.signature().type_signature.get_example_types();
        if ours.contains(function.name()) || is_tried(function.name()) {
            examples.extend(own_types(&function));
        }
        for types in examples {
            let Some(plan) = call(&function, &types) else { continue };
            sent += 1;
            added.remove(function.name());
            match encode_checked(&plan) {
                Ok(bytes) => {
                    let expr = received(&bytes, &plan);
                    assert_eq!(expr.to_string(), expressions(&plan)[0].to_string());
                }
                Err(obstacle) => kept.push(format!("{}: {obstacle}", function.name())),
            }
        }
    }
    assert!(sent > 500, "only {sent} calls were made");
    assert_eq!(kept, Vec::<String>::new(), "of {sent}");
    let aggregates: BTreeSet<String> = functions::aggregate().iter().map(|f| f.name().to_owned()).collect();
    let of_lambdas: BTreeSet<String> = functions::higher_order().iter().map(|f| f.name().to_owned()).collect();
    added.retain(|name| !of_lambdas.contains(name));
    assert!(added.is_subset(&aggregates), "no call was made of {added:?}");
}

#[test]
fn every_function_of_lambdas_arrives() {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)];
    let map = DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false);
    let schema = schema(&[list, DataType::Int64, map]);
    let named = DFSchema::try_from(Arc::clone(&schema)).expect("columns");
    let (list, number, map, var) = (|| ident("c0"), || ident("c1"), || ident("c2"), lambda_var);
    let calls = [
        ("array_any_match", vec![list(), lambda(["x"], var("x").gt(number()))]),
        ("array_filter", vec![list(), lambda(["x"], var("x").gt(number()))]),
        ("array_first", vec![list(), lambda(["x"], var("x").gt(number()))]),
        ("array_transform", vec![list(), lambda(["x"], var("x") + number())]),
        ("map_filter", vec![map(), lambda(["k", "v"], var("v").gt(number()))]),
        (
            "reduce",
            vec![
                list(),
                literal(0i64),
                lambda(["s", "x"], var("s") + var("x") * number()),
                lambda(["s"], var("s") - number()),
            ],
        ),
        ("transform_values", vec![map(), lambda(["k", "v"], var("v") + number())]),
        ("zip_with", vec![list(), list(), lambda(["a", "b"], var("a") + var("b"))]),
    ];
    let functions = functions::higher_order();
    let names: BTreeSet<&str> = functions.iter().map(|function| function.name()).collect();
    assert_eq!(calls.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(), names, "a function has no call");
    for (name, arguments) in calls {
        let function = functions.iter().find(|function| function.name() == name).expect(name);
        let call = Expr::HigherOrderFunction(HigherOrderFunction::new(Arc::clone(function), arguments));
        let call = call.resolve_lambda_variables(&named).expect(name).data;
        let call = SessionContext::new().create_physical_expr(call, &named).expect(name);
        let plan = project(call, &schema);
        let bytes = encode_checked(&plan).unwrap_or_else(|obstacle| panic!("{name}: {obstacle}"));
        assert_eq!(received(&bytes, &plan).to_string(), expressions(&plan)[0].to_string(), "{name}");
    }
}

/// Finds types that a function of ours takes as they are.
fn own_types(function: &ScalarUDF) -> Vec<Vec<DataType>> {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let of = [DataType::Utf8View, DataType::Int64, time, list];
    let mut all: Vec<Vec<DataType>> = vec![vec![]];
    for length in 0..3 {
        let longest: Vec<Vec<DataType>> = all.iter().filter(|types| types.len() == length).cloned().collect();
        all.extend(
            longest.iter().flat_map(|types| of.iter().map(|of| [types.as_slice(), std::slice::from_ref(of)].concat())),
        );
    }
    all.retain(|types| function.coerce_types(types).is_ok_and(|coerced| coerced == *types));
    all
}

/// Makes a call. None where the function refuses types that its signature promises.
fn call(function: &Arc<ScalarUDF>, types: &[DataType]) -> Option<Arc<dyn ExecutionPlan>> {
    let schema = schema(types);
    let arguments = schema.fields().iter().map(|field| col(field.name(), &schema).expect("a column")).collect();
    let options = Arc::new(ConfigOptions::default());
    let call = ScalarFunctionExpr::try_new(Arc::clone(function), arguments, &schema, options).ok()?;
    Some(project(Arc::new(call), &schema))
}

#[test]
fn every_aggregate_function_arrives() {
    let (mut sent, mut kept) = (BTreeSet::new(), Vec::new());
    for function in functions::aggregate() {
        let (examples, literal) = match function.name() {
            "approx_percentile_cont_with_weight" => (vec![vec![DataType::Float64; 2]], Some(lit(0.5))),
            "approx_percentile_cont" | "percentile_cont" => (vec![vec![DataType::Float64]], Some(lit(0.5))),
            "nth_value" => (vec![vec![DataType::Int64]], Some(lit(2_i64))),
            "string_agg" => (vec![vec![DataType::Utf8]], Some(lit(","))),
            "map_agg" | "multimap_agg" => (vec![vec![DataType::Utf8View, DataType::Float64]], None),
            _ => {
                let examples = function.signature().type_signature.get_example_types();
                let usual = [vec![DataType::Int64], vec![DataType::Float64], vec![DataType::Boolean]];
                (if examples.is_empty() { usual.to_vec() } else { examples }, None)
            }
        };
        for types in examples {
            let schema = schema(&types);
            let columns = schema.fields().iter().map(|field| col(field.name(), &schema).expect("a column"));
            let arguments: Vec<_> = columns.chain(literal.clone()).collect();
            let filter = lit(true);
            let built =
                AggregateExprBuilder::new(Arc::clone(&function), arguments).schema(Arc::clone(&schema)).alias("a");
            let Ok(aggregate) = built.build() else { continue };
            let group = PhysicalGroupBy::new_single(vec![(lit(1_i64), "g".to_owned())]);
            let mode = AggregateMode::Partial;
            let (aggregates, filters) = (vec![Arc::new(aggregate)], vec![Some(filter)]);
            let plan = AggregateExec::try_new(mode, group, aggregates, filters, scan(&schema), Arc::clone(&schema));
            let Ok(plan) = plan else { continue };
            sent.insert(function.name().to_owned());
            let plan: Arc<dyn ExecutionPlan> = Arc::new(plan);
            if let Err(obstacle) = encode_checked(&plan) {
                kept.push(format!("{} of {types:?}: {obstacle}", function.name()));
            }
        }
    }
    assert_eq!(kept, Vec::<String>::new(), "of {sent:?}");
    assert!(sent.len() > 30, "only {sent:?}");
    assert!(
        ["checksum", "histogram", "map_agg", "multimap_agg", "mode"].iter().all(|name| sent.contains(*name)),
        "only {sent:?}"
    );
}

/// Sends each operator that the planner lets into fragments, with the options that it alone has.
#[test]
fn every_operator_of_fragments_arrives() {
    let lists = DataType::List(Arc::new(Field::new("element", DataType::Int64, true)));
    let schema = schema(&[DataType::Boolean, DataType::Int64, lists]);
    let column = |name: &str| col(name, &schema).expect("a column");
    let order = |descending| {
        let options = SortOptions { descending, nulls_first: !descending };
        LexOrdering::new([PhysicalSortExpr { expr: column("c1"), options }]).expect("a column")
    };
    let filter =
        || -> Arc<dyn ExecutionPlan> { Arc::new(FilterExec::try_new(column("c0"), scan(&schema)).expect("a filter")) };
    let sort = SortExec::new(order(true), scan(&schema)).with_preserve_partitioning(true);
    let unnested = schema_of_unnested(&schema);
    let options = UnnestOptions::default().with_preserve_nulls(false);
    let list = ListUnnest { index_in_input_schema: 2, depth: 1 };
    let sum = Arc::clone(functions::aggregate_named("sum").expect("a sum"));
    let sum = AggregateExprBuilder::new(sum, vec![column("c1")]).schema(Arc::clone(&schema)).alias("sum");
    let sum = sum.distinct().build().expect("an aggregate");
    let grouping = PhysicalGroupBy::new(
        vec![(column("c0"), "c0".to_owned()), (column("c1"), "c1".to_owned())],
        vec![(lit(ScalarValue::Boolean(None)), "c0".to_owned()), (lit(ScalarValue::Int64(None)), "c1".to_owned())],
        vec![vec![false, true], vec![true, false]],
        true,
    );
    let (mode, filters) = (AggregateMode::Partial, vec![Some(column("c0"))]);
    let aggregate =
        AggregateExec::try_new(mode, grouping, vec![Arc::new(sum)], filters, scan(&schema), Arc::clone(&schema));
    let plans: Vec<Arc<dyn ExecutionPlan>> = vec![
        scan(&schema),
        filter(),
        filter().with_fetch(Some(3)).expect("filters have limits"),
        project(column("c1"), &schema),
        Arc::new(aggregate.expect("an aggregation")),
        Arc::new(sort.clone()),
        Arc::new(sort.with_fetch(Some(7))),
        Arc::new(LocalLimitExec::new(scan(&schema), u32::MAX as usize)),
        Arc::new(UnnestExec::new(scan(&schema), vec![list], vec![], unnested, options).expect("an unnesting")),
        Arc::new(CooperativeExec::new(scan(&schema))),
        Arc::new(SortPreservingMergeExec::new(order(false), scan(&schema)).with_fetch(Some(5))),
    ];
    for plan in plans {
        let name = plan.name().to_owned();
        encode_checked(&plan).unwrap_or_else(|obstacle| panic!("{name}: {obstacle}"));
    }
    // Once it can be encoded, the planner's cut may let it into fragments again.
    let partial = PartialSortExec::new(order(false), scan(&schema), 1).with_preserve_partitioning(true);
    let obstacle =
        encode_checked(&(Arc::new(partial) as Arc<dyn ExecutionPlan>)).expect_err("55.2 has no message for it");
    assert!(obstacle.starts_with("it cannot be encoded") && obstacle.len() < 300, "{obstacle}");
    // The message has 32 bits for the limit.
    let limit: Arc<dyn ExecutionPlan> = Arc::new(LocalLimitExec::new(scan(&schema), u32::MAX as usize + 5));
    let obstacle = encode_checked(&limit).expect_err("it becomes 4");
    assert!(obstacle.contains("LocalLimitExec"), "{obstacle}");
}

fn schema_of_unnested(schema: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields[2] = Arc::new(Field::new("c2", DataType::Int64, true));
    Arc::new(Schema::new(fields))
}

/// Each comparison finds its difference.
#[test]
fn differences_are_found() {
    let schema = schema(&[DataType::Int64, DataType::Utf8]);
    let other = Arc::new(schema.as_ref().clone().with_metadata([("k".to_owned(), "v".to_owned())].into()));
    let column = |name: &str| col(name, &schema).expect("a column");
    let cases = [
        (project(lit(1_i64), &schema), project(lit(1_i32), &schema)),
        (project(lit(1_i64), &schema), project(lit(2_i64), &schema)),
        (project(column("c0"), &schema), project(column("c1"), &schema)),
        (project(lit(1_i64), &schema), project(lit(1_i64), &other)),
        (project(lit(1_i64), &schema), scan(&schema)),
        (Arc::new(LocalLimitExec::new(scan(&schema), 1)) as _, Arc::new(LocalLimitExec::new(scan(&schema), 2)) as _),
    ];
    for (sent, received) in cases {
        assert!(same_plans(&sent, &sent).is_ok());
        let difference = same_plans(&sent, &received).expect_err("they differ");
        assert!(!difference.is_empty());
    }
    // Literals are compared by value: these display alike.
    let zone = |zone: Option<&str>| lit(ScalarValue::TimestampSecond(Some(0), zone.map(Into::into)));
    assert!(same_plans(&project(zone(None), &schema), &project(zone(Some("UTC")), &schema)).is_err());
    let intervals = [IntervalUnit::DayTime, IntervalUnit::YearMonth].map(DataType::Interval);
    let [one, two] = intervals.map(|unit| lit(ScalarValue::try_new_null(&unit).expect("a NULL")));
    assert!(same_plans(&project(one, &schema), &project(two, &schema)).is_err());
    let units = [TimeUnit::Second, TimeUnit::Nanosecond].map(DataType::Duration);
    let [one, two] = units.map(|unit| lit(ScalarValue::try_new_null(&unit).expect("a NULL")));
    assert!(same_plans(&project(one, &schema), &project(two, &schema)).is_err());
}
