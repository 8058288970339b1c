//! Bounds between the ranges of a sort's first key.
//!
//! ```text
//!  least and greatest values of files, with their rows ─► values as if spread evenly ─► the key of each ─► every so many-th is a bound
//! ```
//!
//! Rows are right with any bounds. Bad ones make large ranges of some and empty ones of others, so that a function has more to sort than another. They are chosen when the query
//! is planned, and nothing is read for them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::{cast, sort_to_indices};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result, ScalarValue, Statistics, plan_err};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, RangePartitioning, SplitPoint};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use gust_protocol::plan::{encode_scalar, file_scan};

/// Values that are looked at for each range.
const SAMPLES_PER_RANGE: usize = 16;

/// Characters of a text, behind those that all texts of a file have in common, by which a text between two others is made.
const CHARACTERS: u32 = 4;

/// Exponents of the distances from the least value between which bounds of floats are guessed: a millionth, and 17 million millions.
const GUESSED_EXPONENTS: (i32, i32) = (-20, 44);

/// Ranges of a key.
pub(super) struct Bounds {
    pub(super) ranges: RangePartitioning,
    /// True if no statistics tell where the values are.
    pub(super) is_guessed: bool,
}

/// Finds bounds between so many ranges of a plan's rows by a key. Equal bounds are one.
///
/// # Errors
/// The reason why there are none.
pub(super) fn bounds(
    rows: &Arc<dyn ExecutionPlan>,
    by: &PhysicalSortExpr,
    wanted: impl Fn(bool) -> usize,
) -> Result<Bounds, String> {
    let unknown = |what: &str| format!("its first key {what}");
    let (scan, key) =
        origin(rows, Arc::clone(&by.expr)).ok_or_else(|| unknown("is not made of one table's columns"))?;
    let is_volatile = |key: &Arc<dyn PhysicalExpr>| key.exists(|part| Ok(part.is_volatile_node())).unwrap_or(true);
    if is_volatile(&by.expr) || is_volatile(&key) {
        return Err(unknown("has another value each time"));
    }
    let columns: Vec<Column> = collect_columns(&key).into_iter().collect();
    let [column] = columns.as_slice() else { return Err(unknown("is not made of one column")) };
    let key_type = by.expr.data_type(&rows.schema()).map_err(|error| error.strip_backtrace())?;
    let field = scan.file_source().table_schema().table_schema().fields().get(column.index()).cloned();
    let Some(field) = field.filter(|_| is_ordered(&key_type)) else { return Err(unknown("has a type without bounds")) };
    let spans = within(spans(scan, column.index()), behind_filters(rows, by, &key));
    let is_guessed = spans.is_empty() && field.data_type().is_floating();
    let wanted = wanted(is_guessed).max(1);
    let samples = match is_guessed {
        true => guessed(field.data_type(), least(scan, column.index()), wanted * SAMPLES_PER_RANGE),
        false => sampled(&spans, field.data_type(), wanted * SAMPLES_PER_RANGE),
    };
    let samples = samples.ok_or_else(|| format!("no least and greatest value of {} are known", column.name()))?;
    let keys = keys(&key, column, samples).map_err(|error| error.strip_backtrace())?;
    if *keys.data_type() != key_type {
        return Err(unknown("has another type where its bounds are made"));
    }
    let points = quantiles(&keys, by, wanted).map_err(|error| error.strip_backtrace())?;
    if points.is_empty() && wanted > 1 {
        return Err(unknown("has no value that is known"));
    }
    if points.first().is_some_and(|point| encode_scalar(point).is_err()) {
        return Err(unknown("has a type whose bounds do not arrive as they are"));
    }
    let ordering = LexOrdering::new([by.clone()]).ok_or_else(|| unknown("is none"))?;
    let points = points.into_iter().map(|value| SplitPoint::new(vec![value])).collect();
    let ranges = RangePartitioning::try_new(ordering, points).map_err(|error| error.strip_backtrace())?;
    Ok(Bounds { ranges, is_guessed })
}

/// Returns true for types whose values have one order, in bounds as in sorted rows.
fn is_ordered(data_type: &DataType) -> bool {
    let is_binary = matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)
    );
    let is_interval = matches!(data_type, DataType::Interval(_));
    is_binary
        || data_type.is_string()
        || data_type.is_numeric()
        || *data_type == DataType::Boolean
        || (data_type.is_temporal() && !is_interval)
}

/// Finds the scan that a key's values come from, and the key in terms of its table.
fn origin(
    plan: &Arc<dyn ExecutionPlan>,
    key: Arc<dyn PhysicalExpr>,
) -> Option<(&FileScanConfig, Arc<dyn PhysicalExpr>)> {
    if let Some(scan) = file_scan(plan) {
        let key = match scan.file_source().projection() {
            Some(projection) => projection.unproject_expr(&key).ok()?,
            None => key,
        };
        return Some((scan, key));
    }
    let mut from = None;
    let key = key.transform_down(|part| {
        let Some(column) = part.downcast_ref::<Column>() else { return Ok(Transformed::no(part)) };
        match column_below(plan, column.index()) {
            Some((child, below)) if from.is_none_or(|from| from == child) => {
                from = Some(child);
                Ok(Transformed::new(below, true, TreeNodeRecursion::Jump))
            }
            _ => plan_err!("{column} is of another input, or of none"),
        }
    });
    let (key, child) = (key.data().ok()?, from?);
    origin(plan.children().get(child).copied()?, key)
}

/// Finds the input that a column of an operator comes from, and its value there. Where an operator changes values, only the bounds are worse.
fn column_below(plan: &Arc<dyn ExecutionPlan>, index: usize) -> Option<(usize, Arc<dyn PhysicalExpr>)> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return Some((0, Arc::clone(&projection.expr().get(index)?.expr)));
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return Some((0, Arc::clone(&aggregate.group_expr().expr().get(index)?.0)));
    }
    let children = plan.children();
    let column = |child: usize, index: usize| {
        let schema = children.get(child)?.schema();
        let field = schema.fields().get(index)?;
        Some((child, Arc::new(Column::new(field.name(), index)) as Arc<dyn PhysicalExpr>))
    };
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        let index = join.projection.as_ref().map_or(Some(index), |projection| projection.get(index).copied())?;
        let left = join.left().schema().fields().len();
        return match join.join_type() {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full if index >= left => {
                column(1, index - left)
            }
            JoinType::RightSemi | JoinType::RightAnti => column(1, index),
            JoinType::LeftMark | JoinType::RightMark => None,
            _ => column(0, index),
        };
    }
    let projection = plan.downcast_ref::<FilterExec>().and_then(|filter| filter.projection().as_ref());
    let below = projection.map_or(Some(index), |projection| projection.get(index).copied())?;
    let [input] = children.as_slice() else { return None };
    let (own, schema) = (plan.schema(), input.schema());
    let (own, field) = (own.fields().get(index)?, schema.fields().get(below)?);
    (own.name() == field.name() && own.data_type() == field.data_type()).then(|| column(0, below))?
}

/// Rows of a file, and the least and the greatest value that they are known to have.
struct Span {
    rows: u64,
    least: ScalarValue,
    greatest: ScalarValue,
}

/// Lists what is known of a column in the files of a scan. Files of which nothing is known are taken to be like the others.
fn spans(scan: &FileScanConfig, position: usize) -> Vec<Span> {
    let of = |known: &Statistics| {
        let column = known.column_statistics.get(position)?;
        let bound = |of: &Precision<ScalarValue>| of.get_value().filter(|value| !value.is_null()).cloned();
        let rows = known.num_rows.get_value().map_or(1, |rows| *rows as u64);
        Some(Span { rows, least: bound(&column.min_value)?, greatest: bound(&column.max_value)? })
    };
    let files = scan.file_groups.iter().flat_map(FileGroup::iter);
    let of_files: Vec<Span> = files.filter_map(|file| of(file.statistics.as_deref()?)).collect();
    let of_scan = || of(&scan.statistics()).into_iter().collect();
    let spans = if of_files.is_empty() { of_scan() } else { of_files };
    spans.into_iter().filter(|span| span.rows > 0).collect()
}

/// Returns the least and the greatest value that statistics expect behind filters. None where the key is more than a column, or nothing is known.
fn behind_filters(
    rows: &Arc<dyn ExecutionPlan>,
    by: &PhysicalSortExpr,
    key: &Arc<dyn PhysicalExpr>,
) -> Option<[ScalarValue; 2]> {
    let column = by.expr.downcast_ref::<Column>().filter(|_| key.is::<Column>())?;
    let known = StatisticsContext::new().compute(rows.as_ref(), &StatisticsArgs::new()).ok()?;
    let known = known.column_statistics.get(column.index())?;
    let bound = |of: &Precision<ScalarValue>| of.get_value().filter(|value| !value.is_null()).cloned();
    Some([bound(&known.min_value)?, bound(&known.max_value)?])
}

/// Cuts what is known of files to the part behind filters. All of it stays where no file has a part there.
fn within(spans: Vec<Span>, part: Option<[ScalarValue; 2]>) -> Vec<Span> {
    let Some([from, to]) = part else { return spans };
    let cut = |span: &Span| {
        let least = if from > span.least { &from } else { &span.least };
        let greatest = if to < span.greatest { &to } else { &span.greatest };
        (least <= greatest).then(|| Span { rows: span.rows, least: least.clone(), greatest: greatest.clone() })
    };
    let cut: Vec<Span> = spans.iter().filter_map(cut).collect();
    if cut.is_empty() { spans } else { cut }
}

/// Makes about so many values, as if those of each file were spread evenly. None where nothing is known of them.
fn sampled(spans: &[Span], data_type: &DataType, count: usize) -> Option<ArrayRef> {
    let total = spans.iter().map(|span| u128::from(span.rows)).sum::<u128>().max(1);
    let mut before = 0;
    let mut share = |span: &Span| {
        let first = before * count as u128 / total;
        before += u128::from(span.rows);
        (before * count as u128 / total - first) as usize
    };
    let parts = |count: usize| (0..count).map(move |at| (at as f64 + 0.5) / count as f64);
    if data_type.is_string() {
        let text = |value: &ScalarValue| value.try_as_str().flatten().map(str::to_owned);
        let mut texts = Vec::with_capacity(count);
        for span in spans {
            let (least, greatest) = (text(&span.least)?, text(&span.greatest)?);
            texts.extend(parts(share(span)).map(|part| text_between(&least, &greatest, part)));
        }
        return (!texts.is_empty()).then(|| cast(&StringArray::from_iter_values(texts), data_type).ok())?;
    }
    let values = |of: fn(&Span) -> &ScalarValue| ScalarValue::iter_to_array(spans.iter().map(of).cloned()).ok();
    let (least, greatest) = (values(|span| &span.least)?, values(|span| &span.greatest)?);
    let (Some(least), Some(greatest)) = (as_numbers(&least), as_numbers(&greatest)) else {
        // Others have no values between two of them.
        let both = spans.iter().flat_map(|span| [span.least.clone(), span.greatest.clone()]);
        return ScalarValue::iter_to_array(both).ok();
    };
    let mut numbers = Vec::with_capacity(count);
    for (at, span) in spans.iter().enumerate() {
        let (from, to) = (least.value(at), greatest.value(at));
        numbers.extend(parts(share(span)).map(|part| from + (to - from) * part));
    }
    of_numbers(numbers, data_type)
}

/// Returns the least value of all files that tell theirs.
fn least(scan: &FileScanConfig, position: usize) -> Option<f64> {
    let files = scan.file_groups.iter().flat_map(FileGroup::iter);
    let of_file = |known: &Statistics| {
        let value = known.column_statistics.get(position)?.min_value.get_value()?.to_array().ok()?;
        as_numbers(&value).filter(|number| number.is_valid(0)).map(|number| number.value(0))
    };
    let values = files.filter_map(|file| of_file(file.statistics.as_deref()?));
    values.filter(|value| value.is_finite()).min_by(f64::total_cmp)
}

/// Makes about so many floats where no greatest value is known: Parquet does not count NaN. Their distances from the least value are of all orders of magnitude, and as many of
/// each, so that values that are spread evenly are in many ranges, however far they go. Without a least value the distances are those from zero.
fn guessed(data_type: &DataType, least: Option<f64>, count: usize) -> Option<ArrayRef> {
    let (low, high) = (2_f64.powi(GUESSED_EXPONENTS.0).to_bits(), 2_f64.powi(GUESSED_EXPONENTS.1).to_bits());
    let signs: &[f64] = if least.is_some() { &[1.0] } else { &[1.0, -1.0] };
    let steps = (count / signs.len()).max(1) as u64;
    // Bits of positive floats are in their order.
    let distances = (0..steps).map(|at| f64::from_bits(low + (high - low) / steps * at));
    let numbers = distances.flat_map(|distance| signs.iter().map(move |sign| least.unwrap_or(0.0) + sign * distance));
    of_numbers(numbers.collect(), data_type)
}

/// Returns the whole numbers that times are stored as. None for numbers.
fn whole(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Date32 | DataType::Time32(_) => Some(DataType::Int32),
        _ if data_type.is_temporal() => Some(DataType::Int64),
        _ => None,
    }
}

/// Returns the values of a type as floats. None for types that are no numbers and no times.
fn as_numbers(values: &ArrayRef) -> Option<Float64Array> {
    let data_type = values.data_type();
    if !data_type.is_numeric() && !data_type.is_temporal() {
        return None;
    }
    let values = match whole(data_type) {
        Some(whole) => cast(values, &whole).ok()?,
        None => Arc::clone(values),
    };
    Some(cast(&values, &DataType::Float64).ok()?.as_primitive::<Float64Type>().clone())
}

/// Makes values of a type of floats.
fn of_numbers(numbers: Vec<f64>, data_type: &DataType) -> Option<ArrayRef> {
    if numbers.is_empty() {
        return None;
    }
    let numbers: ArrayRef = Arc::new(Float64Array::from(numbers));
    let numbers = match whole(data_type) {
        Some(whole) => cast(&numbers, &whole).ok()?,
        None => numbers,
    };
    cast(&numbers, data_type).ok()
}

/// Makes a text between two others, as if characters were digits.
fn text_between(least: &str, greatest: &str, part: f64) -> String {
    const DIGIT: u128 = 0x11_0000;
    let common = least.chars().zip(greatest.chars()).take_while(|(a, b)| a == b).count();
    let number = |text: &str| {
        let digits = text.chars().skip(common).map(u128::from).chain(std::iter::repeat(0));
        digits.take(CHARACTERS as usize).fold(0, |number, digit| number * DIGIT + digit)
    };
    let (from, to) = (number(least), number(greatest));
    let between = from + (to.saturating_sub(from) as f64 * part) as u128;
    let mut text: String = least.chars().take(common).collect();
    for digit in (0..CHARACTERS).rev().map(|at| (between / DIGIT.pow(at) % DIGIT) as u32) {
        let Some(character) = char::from_u32(digit) else {
            // Surrogates are no characters: this is the next one.
            text.push('\u{e000}');
            break;
        };
        text.push(character);
    }
    text.trim_end_matches('\0').to_owned()
}

/// Computes a key of one column from values of the column.
fn keys(key: &Arc<dyn PhysicalExpr>, column: &Column, values: ArrayRef) -> Result<ArrayRef> {
    let first = Arc::new(Column::new(column.name(), 0));
    let key = Arc::clone(key).transform_down(|part| match part.is::<Column>() {
        true => Ok(Transformed::yes(Arc::clone(&first) as _)),
        false => Ok(Transformed::no(part)),
    });
    let schema = Schema::new(vec![Field::new(column.name(), values.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![values])?;
    key.data()?.evaluate(&batch)?.into_array(batch.num_rows())
}

/// Lists values that part others into so many ranges of like size, in their order. Equal ones are one.
fn quantiles(values: &ArrayRef, by: &PhysicalSortExpr, ranges: usize) -> Result<Vec<ScalarValue>> {
    let order = sort_to_indices(values, Some(by.options), None)?;
    let order: Vec<usize> = order.values().iter().map(|at| *at as usize).filter(|at| values.is_valid(*at)).collect();
    let mut points: Vec<ScalarValue> = Vec::new();
    for range in 1..ranges {
        let Some(at) = order.get(range * order.len() / ranges) else { break };
        let value = ScalarValue::try_from_array(values, *at)?;
        if points.last() != Some(&value) {
            points.push(value);
        }
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use arrow::compute::SortOptions;
    use datafusion::common::utils::compare_rows;

    use super::*;
    use crate::planner::passes::samples::Sample;

    #[test]
    fn values_are_spread_evenly_between_two() {
        let check = |value: &dyn Fn(i64) -> ScalarValue| {
            let span = Span { rows: 7, least: value(0), greatest: value(80) };
            let data_type = value(0).data_type();
            let values = sampled(&[span], &data_type, 4).expect("a type with bounds");
            let expect = ScalarValue::iter_to_array([10, 30, 50, 70].map(value)).expect("one type");
            assert_eq!(&values, &expect);
        };
        check(&|value| ScalarValue::Int64(Some(value)));
        check(&|value| ScalarValue::UInt8(Some(value as u8)));
        check(&|value| ScalarValue::Float64(Some(value as f64)));
        check(&|value| ScalarValue::Date32(Some(value as i32)));
        check(&|value| ScalarValue::Time64Microsecond(Some(value)));
        check(&|value| ScalarValue::TimestampNanosecond(Some(value), Some("UTC".into())));
        check(&|value| ScalarValue::Decimal128(Some(i128::from(value)), 10, 2));
        // A character for each ten.
        let letter = |value: i64| char::from(b'a' + (value / 10) as u8);
        check(&|value| ScalarValue::Utf8View(Some(format!("item {}", letter(value)))));
        // Others are bounds themselves.
        let both = [ScalarValue::from(false), ScalarValue::from(true)];
        let [least, greatest] = both.clone();
        let values = sampled(&[Span { rows: 7, least, greatest }], &DataType::Boolean, 4).expect("bounds");
        assert_eq!(&values, &ScalarValue::iter_to_array(both).expect("one type"));
    }

    #[test]
    fn texts_between_two_are_in_order() {
        for (least, greatest) in
            [("", "z"), ("a", "a\u{10ffff}"), ("\u{d700}", "\u{e000}"), ("same", "same"), ("é", "日本")]
        {
            let texts: Vec<String> = (0..50).map(|at| text_between(least, greatest, f64::from(at) / 50.0)).collect();
            assert!(texts.is_sorted(), "{texts:?}");
            assert!(texts.iter().all(|text| text.as_str() <= greatest), "{least} {greatest}: {texts:?}");
        }
    }

    #[test]
    fn files_count_by_their_rows() {
        let span = |rows, least: i64, greatest: i64| Span {
            rows,
            least: ScalarValue::from(least),
            greatest: ScalarValue::from(greatest),
        };
        let spans = [span(1, 0, 10), span(0, 0, 1_000_000), span(3, 100, 200)];
        let values = sampled(&spans, &DataType::Int64, 100).expect("numbers");
        let low = (0..values.len())
            .filter(|at| ScalarValue::try_from_array(&values, *at).expect("a value") < ScalarValue::from(50_i64));
        assert_eq!((low.count(), values.len()), (25, 100));
        assert!(sampled(&[], &DataType::Int64, 100).is_none());
    }

    #[tokio::test]
    async fn bounds_are_those_of_the_first_key_in_its_order() {
        let sample = Sample::new().await;
        // `a` has 1 to 200 in two files, `b` 0 to 6 in both.
        for (sql, ranges, expect) in [
            ("SELECT a, b FROM t ORDER BY a", 4, &["51", "101", "151"][..]),
            ("SELECT a, b FROM t ORDER BY a DESC", 4, &["150", "100", "50"]),
            ("SELECT b FROM t ORDER BY a, b", 2, &["101"]),
            ("SELECT a FROM t WHERE a BETWEEN 20 AND 60 ORDER BY a", 2, &["40"]),
            ("SELECT a + 1000 AS x FROM t WHERE b > 2 ORDER BY x", 2, &["1101"]),
            ("SELECT a FROM t ORDER BY -a", 2, &["-100"]),
            ("SELECT a FROM t ORDER BY CAST(a AS VARCHAR) || 'x'", 2, &["189x"]),
            // There are no more ranges than values.
            ("SELECT a FROM t ORDER BY b > 100", 8, &["false"]),
            ("SELECT a FROM t ORDER BY a", 1, &[]),
        ] {
            let bounds = of_query(&sample, sql, ranges).await.unwrap_or_else(|why| panic!("{sql}: {why}"));
            let points = bounds.ranges.split_points();
            let near = |point: &SplitPoint, expect: &str| {
                let point = point.values()[0].to_string();
                match (point.parse::<i64>(), expect.parse::<i64>()) {
                    (Ok(point), Ok(expect)) => (point - expect).abs() <= 5,
                    // Texts of numbers begin with a digit.
                    _ => point == expect || (point.ends_with('x') && expect.ends_with('x')),
                }
            };
            let is_near =
                points.len() == expect.len() && points.iter().zip(expect).all(|(at, expect)| near(at, expect));
            assert!(is_near && !bounds.is_guessed, "{sql}: {:?}", bounds.ranges);
        }
        for (sql, expect) in [
            ("SELECT a FROM t ORDER BY a + b", "is not made of one column"),
            ("SELECT a FROM t ORDER BY random()", ""),
            ("SELECT a, count(*) AS n FROM t GROUP BY a ORDER BY n", "is not made of one table's columns"),
        ] {
            let why = of_query(&sample, sql, 4).await.err();
            assert!(why.as_ref().is_some_and(|why| why.contains(expect)), "{sql}: {why:?}");
        }
    }

    /// Finds the bounds of the sort in a query's distributed plan.
    async fn of_query(sample: &Sample, sql: &str, ranges: usize) -> Result<Bounds, String> {
        use datafusion::physical_plan::sorts::sort::SortExec;
        let mut plan = sample.plan(sql).await;
        loop {
            if let Some(sort) = plan.downcast_ref::<SortExec>() {
                return bounds(sort.input(), sort.expr().first(), |_| ranges);
            }
            let below = plan.children().first().copied().cloned();
            plan = below.unwrap_or_else(|| panic!("{sql} has no sort"));
        }
    }

    #[test]
    fn bounds_are_ascending_in_the_order_of_the_key() {
        for data_type in [DataType::Float64, DataType::Float32, DataType::Float16] {
            for least in [None, Some(-300.0), Some(0.0)] {
                let values = guessed(&data_type, least, 1_000).expect("floats");
                for options in [SortOptions::new(false, false), SortOptions::new(true, true)] {
                    let by = PhysicalSortExpr::new(Arc::new(Column::new("f", 0)), options);
                    let points = quantiles(&values, &by, 64).expect("bounds");
                    assert!(points.len() > 10, "{data_type} above {least:?} has {} bounds", points.len());
                    let is_before = |pair: &[ScalarValue]| compare_rows(&pair[..1], &pair[1..], &[options]);
                    assert!(points.windows(2).all(|pair| is_before(pair).expect("alike").is_lt()), "{points:?}");
                }
            }
        }
    }

    /// Values that are spread evenly are in ranges of at most a sixteenth of them, wherever they begin and however far they go.
    #[test]
    fn guessed_bounds_part_what_they_do_not_know() {
        for (least, width) in [(0.0, 1.0), (250.0, 60.0), (-1e6, 2e6), (48.1, 0.2), (900.0, 1e5)] {
            let values = guessed(&DataType::Float64, Some(least), 16 * 1_024).expect("floats");
            let by = PhysicalSortExpr::new_default(Arc::new(Column::new("f", 0)));
            let points = quantiles(&values, &by, 1_024).expect("bounds");
            let mut rows = vec![0; points.len() + 1];
            for at in 0..3_000 {
                let value = ScalarValue::from(least + width * f64::from(at) / 3_000.0);
                rows[points.partition_point(|point| *point <= value)] += 1;
            }
            assert!(rows.iter().max() <= Some(&188), "{least} and {width}: {:?}", rows.iter().max());
        }
    }
}
