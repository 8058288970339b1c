use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::can_expr_be_pushed_down_with_schemas;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{InListExpr, IsNullExpr, binary, case, col, lit};
use datafusion::physical_expr_common::physical_expr::snapshot_physical_expr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;

use super::source::Opening;
use super::*;

fn schema() -> SchemaRef {
    let field = |name: &str, of: DataType| Field::new(name, of, true);
    Arc::new(Schema::new(vec![field("k", DataType::Int64), field("v", DataType::Int64), field("f", DataType::Float64)]))
}

fn column(name: &str) -> Arc<dyn PhysicalExpr> {
    col(name, &schema()).expect("a column")
}

fn compared(name: &str, operator: Operator, value: i64) -> Arc<dyn PhysicalExpr> {
    binary(column(name), operator, lit(value), &schema()).expect("a comparison")
}

/// Makes the filter of a join that has not built anything yet.
fn join(keys: &[&str]) -> Arc<DynamicFilterPhysicalExpr> {
    let keys = keys.iter().map(|key| column(key)).collect();
    Arc::new(DynamicFilterPhysicalExpr::new(keys, lit(true)))
}

fn built(join: &DynamicFilterPhysicalExpr, filter: Arc<dyn PhysicalExpr>) {
    join.update(filter).expect("updated");
    join.mark_complete();
}

fn scan(filters: &[Arc<dyn PhysicalExpr>], change: impl Fn(ParquetSource) -> ParquetSource) -> FileScanConfigBuilder {
    let source = ParquetSource::new(schema()).with_predicate(conjunction(filters.iter().cloned()));
    FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(change(source)))
        .with_file_group(FileGroup::new(vec![PartitionedFile::new("a", 1)]))
}

const RULE: LateColumns = LateColumns { kept_percent_max: 20 };

fn opening(scan: FileScanConfigBuilder, rule: LateColumns) -> Option<Opening> {
    Opening::of(&mut scan.build(), rule, &Arc::default(), None)
}

fn late(filters: &[Arc<dyn PhysicalExpr>]) -> Option<Opening> {
    opening(scan(filters, |source| source), RULE)
}

/// Returns the predicate of a file that is opened now. None if it is read as planned.
fn predicate(late: &Opening) -> Option<Arc<dyn PhysicalExpr>> {
    late.way().filter(Way::differs).map(|way| late.filters.predicate(&way))
}

/// Returns the conjuncts that the decoder evaluates, and the words for what prunes.
fn parts(predicate: &Arc<dyn PhysicalExpr>) -> (Vec<String>, Option<String>) {
    let is_decoded = |part: &&Arc<dyn PhysicalExpr>| can_expr_be_pushed_down_with_schemas(part, &schema());
    let decoded = split_conjunction(predicate).into_iter().filter(is_decoded).map(ToString::to_string).collect();
    let pruning = PruningPredicateBuilder::new().with_file_schema(schema()).build(Arc::clone(predicate));
    (decoded, pruning.map(|pruning| pruning.predicate_expr().to_string()))
}

#[test]
fn keys_alone_decide_about_rows_and_everything_prunes() {
    let join = join(&["k"]);
    let filters = [compared("v", Operator::Gt, 3), Arc::clone(&join) as _];
    let late = late(&filters).expect("a join's filter");
    assert!(predicate(&late).is_none(), "its build side is not complete");
    built(&join, compared("k", Operator::Eq, 5));
    let (decoded, pruning) = parts(&predicate(&late).expect("a complete filter"));
    assert_eq!(decoded, ["DynamicFilter [ k@0 = 5 ]"]);
    assert!(pruning.is_some());
    let planned = parts(&conjunction([Arc::clone(&filters[1]), Arc::clone(&filters[0])])).1;
    assert_eq!(pruning, planned);
}

#[test]
fn a_filter_that_changes_keeps_a_file_as_planned() {
    let (join, top) = (join(&["k"]), join(&["v"]));
    let late = late(&[Arc::clone(&join) as _, Arc::clone(&top) as _]).expect("a join's filter");
    built(&join, compared("k", Operator::Eq, 5));
    assert_eq!(parts(&predicate(&late).expect("the other has no value")).0, ["DynamicFilter [ k@0 = 5 ]"]);
    top.update(compared("v", Operator::Lt, 9)).expect("updated");
    assert!(predicate(&late).is_none());
}

#[test]
fn scans_whose_rows_are_counted_or_filtered_by_the_decoder_stay_as_they_are() {
    let filter: [Arc<dyn PhysicalExpr>; 1] = [join(&["k"])];
    let plain = || scan(&filter, |source| source);
    assert!(opening(plain(), RULE).is_some());
    assert!(opening(plain(), LateColumns::NEVER).is_none());
    assert!(opening(plain().with_limit(Some(1)), RULE).is_none());
    let pushed = scan(&filter, |source| source.with_pushdown_filters(true));
    assert!(opening(pushed, RULE).is_none());
    let nested = Field::new("l", DataType::new_list(DataType::Int64, true), true);
    let flat = schema();
    let fields = flat.fields().iter().cloned().chain([Arc::new(nested)]);
    let nested =
        ParquetSource::new(Arc::new(Schema::new(fields.collect::<Vec<_>>()))).with_predicate(Arc::clone(&filter[0]));
    let nested = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(nested));
    assert!(opening(nested, RULE).is_none());
    assert!(late(&[compared("k", Operator::Eq, 5)]).is_none());
    assert!(late(&[join(&["f"])]).is_none(), "0.0 equals -0.0");
    let sum = binary(column("k"), Operator::Divide, column("v"), &schema()).expect("an expression");
    assert!(late(&[Arc::new(DynamicFilterPhysicalExpr::new(vec![sum], lit(true)))]).is_none(), "it may fail");
}

#[test]
fn a_filter_is_given_up_when_most_rows_stay_or_when_it_fails() {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..8192));
    let rows = RecordBatch::try_from_iter([("k", keys)]).expect("one column");
    let kept = |filter: &Arc<dyn PhysicalExpr>| match filter.evaluate(&rows).expect("evaluated") {
        ColumnarValue::Array(kept) => kept.as_boolean().true_count(),
        ColumnarValue::Scalar(_) => rows.num_rows(),
    };
    for (bound, kept_first, kept_last) in [(1638, 1638, 1638), (4096, 4096, 8192)] {
        let tally = Arc::new(Tally::new(RULE, Arc::default()));
        let filter = KeyFilter::over(compared("k", Operator::Lt, bound), Arc::clone(&tally), true);
        let counts: Vec<usize> = (0..5).map(|_| kept(&filter)).collect();
        assert_eq!((counts[0], counts[3], counts[4]), (kept_first, kept_first, kept_last), "{tally}");
        assert_eq!(tally.is_given_up(), kept_last == 8192);
    }
    let tally = Arc::new(Tally::new(RULE, Arc::default()));
    let failing = KeyFilter::over(column("v"), Arc::clone(&tally), true);
    assert_eq!(kept(&failing), 8192);
    assert!(tally.is_given_up());
}

#[test]
fn rows_are_compared_with_all_parts_of_a_build_side() {
    let join = join(&["k"]);
    let routed = |parts: i64| {
        let of = binary(column("k"), Operator::Modulo, lit(parts), &schema()).expect("an expression");
        let parts = (0..parts).map(|n| (lit(n), compared("k", Operator::Eq, 10 + n))).collect();
        case(Some(of), parts, Some(lit(false))).expect("a case")
    };
    let kept_null: Arc<dyn PhysicalExpr> = Arc::new(IsNullExpr::new(column("k")));
    let filter: Arc<dyn PhysicalExpr> = Arc::clone(&join) as _;
    let table = TableSchema::from(schema());
    for (now, expected) in [
        (routed(2), "k@0 = 10 OR k@0 = 11"),
        (
            binary(kept_null, Operator::Or, routed(2), &schema()).expect("a filter"),
            "k@0 IS NULL OR k@0 = 10 OR k@0 = 11",
        ),
        (compared("k", Operator::Eq, 5), "DynamicFilter [ k@0 = 5 ]"),
    ] {
        join.update(now).expect("updated");
        assert_eq!(settled(&filter, &table).to_string(), expected);
    }
    join.update(routed(5)).expect("updated");
    let five = settled(&filter, &table);
    assert!(Arc::ptr_eq(&five, &filter), "a part is found faster than five are compared: {five}");
}

#[test]
fn each_key_of_a_build_side_is_listed_once() {
    let listed = |keys: &[Option<i64>]| {
        let keys: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        let keys = InListExpr::try_new_from_array(column("k"), keys, false, &schema()).expect("a list");
        binary(compared("k", Operator::GtEq, 1), Operator::And, Arc::new(keys), &schema()).expect("a filter")
    };
    let (join, other) = (join(&["k"]), join(&["v"]));
    let late = late(&[Arc::clone(&join) as _, Arc::clone(&other) as _]).expect("a join's filter");
    built(&join, listed(&[Some(1), Some(2), None, Some(1), None, Some(2), Some(1)]));
    let decides_rows = || late.way().is_some_and(|way| !way.rows.is_empty());
    let listing = predicate(&late).expect("a complete filter");
    let mut lists = Vec::new();
    let note = |expr: &Arc<dyn PhysicalExpr>| {
        lists.extend(expr.downcast_ref::<InListExpr>().map(InListExpr::len));
        Ok(TreeNodeRecursion::Continue)
    };
    snapshot_physical_expr(Arc::clone(&listing)).expect("its value").apply(note).expect("visited");
    assert_eq!((lists.as_slice(), decides_rows()), ([3].as_slice(), true), "1, 2 and NULL: {listing}");
    // Many rows stay: it prunes, and decides about no rows. The other prunes once it has a value.
    late.filters.0[0].tally.as_ref().expect("of a join").add(100_000, 100_000);
    let pruned_by = predicate(&late).expect("a complete filter");
    assert!(!decides_rows() && State::of(&pruned_by) == State::Changing, "{pruned_by}");
    built(&other, compared("v", Operator::Eq, 5));
    let pruning = parts(&pruned_by).1.expect("both prune");
    assert!(pruning.contains("k_") && pruning.contains("v_"), "{pruning}");
}

#[test]
fn the_filter_that_keeps_least_comes_first() {
    let (one, other) = (join(&["k"]), join(&["v"]));
    let late = late(&[Arc::clone(&one) as _, Arc::clone(&other) as _]).expect("filters of joins");
    built(&one, compared("k", Operator::Eq, 1));
    built(&other, compared("v", Operator::Eq, 2));
    let tally = late.filters.0[0].tally.as_ref().expect("of a join");
    tally.add(100, 15);
    let decoded = parts(&predicate(&late).expect("filters")).0;
    assert_eq!(decoded, ["DynamicFilter [ v@1 = 2 ]", "DynamicFilter [ k@0 = 1 ]"]);
    tally.add(100_000, 100_000);
    assert_eq!(parts(&predicate(&late).expect("a filter")).0, ["DynamicFilter [ v@1 = 2 ]"]);
}
