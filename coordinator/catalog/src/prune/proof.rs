//! Proof by brute force that pruning loses no row: random rows in random files, random predicates.
//!
//! The judges share nothing with the code under test. iceberg's transform functions make the
//! partition values. Rows are matched one by one, under every order that engines use for floats
//! (IEEE 754, total, NaN largest) and UUIDs (signed, unsigned). `AlwaysTrue` may stand for anything,
//! so it takes every truth value. Metrics are incomplete, and some cannot be right.

mod tables;

use std::cmp::Ordering;

use iceberg::transform::create_transform_function;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::convert;
use crate::manifests::choose::summary_range;
use crate::manifests::list::Summary;
use crate::manifests::value::result_type as result_type_of;
use crate::predicate::Predicate;
use crate::scan::ColumnFacts;
use crate::types::{Field, Schema, Transform, Type};

const MANIFESTS_PER_CASE: usize = 100;
const FILES_PER_MANIFEST: usize = 3;
const PREDICATES_PER_MANIFEST: usize = 20;
const ROWS_PER_FILE_MAX: usize = 4;

/// Value of the partitioned column `a`, and value of the column `b`.
type Row = (Option<Scalar>, Option<i32>);

#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// Order of floats by IEEE 754, and signed order of UUIDs.
    Ieee,
    /// Total order of floats (DataFusion's), and unsigned order of UUIDs.
    Total,
    /// Order in which NaN is one value and the largest, whatever its sign, and zeros are equal (DuckDB's, PostgreSQL's).
    Largest,
}

#[derive(Clone, Copy)]
struct Judge {
    order: Order,
    unknown: Option<bool>,
}

impl Judge {
    fn all() -> impl Iterator<Item = Judge> {
        let unknowns = [Some(true), Some(false), None];
        [Order::Ieee, Order::Total, Order::Largest].into_iter().flat_map(move |order| {
            let judge = move |unknown| Judge { order, unknown };
            unknowns.into_iter().map(judge)
        })
    }

    fn compare(self, a: &Scalar, b: &Scalar) -> Option<Ordering> {
        match (a, b) {
            (Scalar::Float(a), Scalar::Float(b)) => self.compare_floats(f64::from(*a), f64::from(*b)),
            (Scalar::Double(a), Scalar::Double(b)) => self.compare_floats(*a, *b),
            (Scalar::Uuid(a), Scalar::Uuid(b)) if self.order != Order::Ieee => Some(a.cmp(b)),
            (Scalar::Uuid(a), Scalar::Uuid(b)) => Some((*a as i128).cmp(&(*b as i128))),
            (Scalar::String(a), Scalar::String(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Scalar::Binary(a), Scalar::Binary(b)) => Some(a.cmp(b)),
            (Scalar::Boolean(a), Scalar::Boolean(b)) => Some(a.cmp(b)),
            (Scalar::Decimal { unscaled: a, .. }, Scalar::Decimal { unscaled: b, .. }) => Some(a.cmp(b)),
            _ => Some(integer(a).cmp(&integer(b))),
        }
    }

    fn compare_floats(self, a: f64, b: f64) -> Option<Ordering> {
        match self.order {
            Order::Ieee => a.partial_cmp(&b),
            Order::Total => Some(a.total_cmp(&b)),
            Order::Largest => a.partial_cmp(&b).or(Some(a.is_nan().cmp(&b.is_nan()))),
        }
    }

    /// Returns SQL's TRUE, FALSE, or NULL.
    fn matches(self, predicate: &Predicate, row: &Row) -> Option<bool> {
        let value = |column: &str| match column {
            "a" => row.0.clone(),
            _ => row.1.map(Scalar::Int),
        };
        match predicate {
            Predicate::AlwaysTrue => self.unknown,
            Predicate::AlwaysFalse => Some(false),
            Predicate::And(all) => {
                let all: Vec<_> = all.iter().map(|p| self.matches(p, row)).collect();
                match all.contains(&Some(false)) {
                    true => Some(false),
                    false => (!all.contains(&None)).then_some(true),
                }
            }
            Predicate::Or(any) => {
                let any: Vec<_> = any.iter().map(|p| self.matches(p, row)).collect();
                match any.contains(&Some(true)) {
                    true => Some(true),
                    false => (!any.contains(&None)).then_some(false),
                }
            }
            Predicate::Not(p) => self.matches(p, row).map(|truth| !truth),
            Predicate::Compare { column, op, value: literal } => {
                let order = self.compare(&value(column)?, literal);
                Some(match op {
                    CompareOp::Eq => order == Some(Ordering::Equal),
                    CompareOp::NotEq => order != Some(Ordering::Equal),
                    CompareOp::Lt => order == Some(Ordering::Less),
                    CompareOp::LtEq => order.is_some_and(Ordering::is_le),
                    CompareOp::Gt => order == Some(Ordering::Greater),
                    CompareOp::GtEq => order.is_some_and(Ordering::is_ge),
                })
            }
            Predicate::In { column, values, negated } => {
                let value = value(column)?;
                let equal = |v: &Scalar| self.compare(&value, v) == Some(Ordering::Equal);
                Some(values.iter().any(equal) != *negated)
            }
            Predicate::IsNull { column, negated } => Some(value(column).is_none() != *negated),
            Predicate::StartsWith { column, prefix, negated } => match value(column)? {
                Scalar::String(value) => Some(value.starts_with(prefix) != *negated),
                _ => None,
            },
        }
    }
}

fn integer(value: &Scalar) -> i64 {
    match value {
        Scalar::Int(v) | Scalar::Date(v) => i64::from(*v),
        Scalar::Long(v)
        | Scalar::Time(v)
        | Scalar::Timestamp(v)
        | Scalar::Timestamptz(v)
        | Scalar::TimestampNs(v)
        | Scalar::TimestamptzNs(v) => *v,
        other => panic!("{other:?} is not counted"),
    }
}

/// Draws from few values, so that literals meet rows, and from the edges of the type.
fn random_value(ty: &Type, rng: &mut StdRng) -> Scalar {
    let small = rng.random_range(-30..30);
    let edge = rng.random_ratio(1, 20);
    const HOUR: i64 = 3_600_000_000;
    // Instants lie around 1970, hours and days apart, with and without a fraction.
    let instant = small * HOUR * [1, 24, 24 * 31][rng.random_range(0..3)] + [0, 1, -1][rng.random_range(0..3)];
    let narrow = match edge {
        true => [i32::MIN, i32::MIN + 3, i32::MAX][rng.random_range(0..3)],
        false => small as i32,
    };
    let text: String =
        (0..rng.random_range(0..5)).map(|_| ['a', 'b', 'é', '\u{10348}'][rng.random_range(0..4)]).collect();
    match ty {
        Type::Boolean => Scalar::Boolean(rng.random()),
        Type::Int => Scalar::Int(narrow),
        Type::Long if edge => Scalar::Long([i64::MIN, i64::MIN + 3, i64::MAX][rng.random_range(0..3)]),
        Type::Long => Scalar::Long(small),
        Type::Float => Scalar::Float(random_double(small, rng) as f32),
        Type::Double => Scalar::Double(random_double(small, rng)),
        Type::Decimal { precision, scale } => {
            Scalar::Decimal { unscaled: i128::from(small), precision: *precision, scale: *scale }
        }
        Type::Date => Scalar::Date(narrow.clamp(-1_000_000, 1_000_000)),
        Type::Time => Scalar::Time(small.abs()),
        Type::Timestamp => Scalar::Timestamp(instant),
        Type::Timestamptz => Scalar::Timestamptz(instant),
        Type::TimestampNs => Scalar::TimestampNs(instant * 1_000 + [0, 1, -1][rng.random_range(0..3)]),
        Type::TimestamptzNs => Scalar::TimestamptzNs(instant * 1_000),
        Type::String => Scalar::String(text),
        Type::Uuid => Scalar::Uuid((small as i128) as u128),
        Type::Binary => Scalar::Binary(text.into_bytes()),
        other => panic!("no values of {other}"),
    }
}

fn random_double(small: i64, rng: &mut StdRng) -> f64 {
    match rng.random_range(0..12) {
        0 => f64::NAN,
        1 => -f64::NAN,
        2 => 0.0,
        3 => -0.0,
        4 => f64::INFINITY,
        _ => small as f64 / 2.0,
    }
}

fn random_predicate(a: &Type, depth: u32, rng: &mut StdRng) -> Predicate {
    let (column, ty) = match rng.random_ratio(3, 4) {
        true => ("a".to_string(), a),
        false => ("b".to_string(), &Type::Int),
    };
    let ops = {
        use CompareOp::*;
        [Eq, NotEq, Lt, LtEq, Gt, GtEq]
    };
    let below = |rng: &mut StdRng| random_predicate(a, depth - 1, rng);
    match rng.random_range(0..if depth > 0 { 10 } else { 6 }) {
        0..=2 => Predicate::Compare { column, op: ops[rng.random_range(0..ops.len())], value: random_value(ty, rng) },
        3 => Predicate::In {
            column,
            values: (0..rng.random_range(0..4)).map(|_| random_value(ty, rng)).collect(),
            negated: rng.random_ratio(1, 3),
        },
        4 => Predicate::IsNull { column, negated: rng.random() },
        5 => match (ty, random_value(ty, rng)) {
            (Type::String, Scalar::String(prefix)) => {
                Predicate::StartsWith { column, prefix, negated: rng.random_ratio(1, 3) }
            }
            _ => [Predicate::AlwaysTrue, Predicate::AlwaysFalse][rng.random_range(0..2)].clone(),
        },
        6 | 7 => Predicate::And(vec![below(rng), below(rng)]),
        8 => Predicate::Or(vec![below(rng), below(rng)]),
        _ => Predicate::Not(Box::new(below(rng))),
    }
}

/// Makes rows that share a partition value, as a writer would put them into one file, and returns that value, too.
fn random_rows(ty: &Type, transform: Transform, rng: &mut StdRng) -> (Vec<Row>, Option<Scalar>) {
    let null_rows = rng.random_ratio(1, 8);
    let random_a = |rng: &mut StdRng| (!null_rows).then(|| random_value(ty, rng));
    let first = random_a(rng);
    let partition = first.as_ref().and_then(|a| judge_transform(transform, ty, a));
    let mut rows = vec![(first, random_b(rng))];
    // Few values share a bucket or a string, so that many are tried.
    for _ in 0..40 {
        let a = random_a(rng);
        let same = a.as_ref().and_then(|a| judge_transform(transform, ty, a)) == partition;
        if same && rows.len() < ROWS_PER_FILE_MAX {
            rows.push((a, random_b(rng)));
        }
    }
    (rows, partition)
}

fn random_b(rng: &mut StdRng) -> Option<i32> {
    rng.random_ratio(3, 4).then(|| rng.random_range(-30..30))
}

fn judge_transform(transform: Transform, ty: &Type, value: &Scalar) -> Option<Scalar> {
    if transform == Transform::Unknown {
        return None;
    }
    let (Type::Binary, Transform::Truncate(width)) = (ty, transform) else {
        let function = create_transform_function(&convert::to_transform(transform)).unwrap();
        let datum = convert::to_datum(value, &convert::tests::primitive(ty)).unwrap();
        let result = function.transform_literal(&datum).unwrap()?;
        let scalar = convert::tests::scalar(result.data_type(), result.literal()).unwrap();
        // iceberg forgets the type of a decimal that it truncates.
        return Some(match (scalar, value) {
            (Scalar::Decimal { unscaled, .. }, Scalar::Decimal { precision, scale, .. }) => {
                Scalar::Decimal { unscaled, precision: *precision, scale: *scale }
            }
            (scalar, _) => scalar,
        });
    };
    // iceberg's functions do not truncate binary values.
    let Scalar::Binary(bytes) = value else {
        panic!("{value:?} is not binary");
    };
    let cut = bytes.iter().copied().take(width as usize);
    Some(Scalar::Binary(cut.collect()))
}

/// File as its manifest describes it.
#[derive(Debug)]
struct File {
    record_count: u64,
    partition: Option<Scalar>,
    columns: [ColumnFacts; 2],
}

/// Makes the file's metrics, with gaps that writers leave.
fn describe(rows: &[Row], partition: Option<Scalar>, rng: &mut StdRng) -> File {
    let columns: [Vec<Option<Scalar>>; 2] =
        [rows.iter().map(|row| row.0.clone()).collect(), rows.iter().map(|row| row.1.map(Scalar::Int)).collect()];
    let record_count = rows.len() as u64;
    let columns = columns.map(|column| {
        let values: Vec<_> = column.iter().flatten().collect();
        let mut count = |n: usize| rng.random_ratio(4, 5).then_some(n as u64);
        let mut facts = ColumnFacts {
            values: count(column.len()),
            nulls: count(column.len() - values.len()),
            nans: count(values.iter().filter(|v| v.is_nan()).count()),
            ..ColumnFacts::default()
        };
        let mut sorted: Vec<_> = values.into_iter().filter(|v| !v.is_nan()).collect();
        let judge = Judge { order: Order::Total, unknown: None };
        sorted.sort_by(|a, b| judge.compare(a, b).unwrap());
        if let (Some(lower), Some(upper)) = (sorted.first(), sorted.last()) {
            facts.lower = rng.random_ratio(4, 5).then(|| loosen_lower(lower, rng));
            facts.upper = rng.random_ratio(4, 5).then(|| loosen_upper(upper, rng));
        }
        if rng.random_ratio(1, 10) {
            spoil(&mut facts, record_count, rng);
        }
        facts
    });
    File { record_count, partition, columns }
}

/// Puts in metrics that some writers have left and that cannot be right.
fn spoil(facts: &mut ColumnFacts, rows: u64, rng: &mut StdRng) {
    match rng.random_range(0..3) {
        0 => facts.nulls = Some(rows + rng.random_range(1..3)),
        1 => facts.values = Some(rows + rng.random_range(1..3)),
        _ => {
            let order = facts.lower.as_ref().zip(facts.upper.as_ref());
            if order.is_some_and(|(lower, upper)| lower.compare(upper) == Some(Ordering::Less)) {
                std::mem::swap(&mut facts.lower, &mut facts.upper);
            }
        }
    }
}

/// Truncates a bound as writers do, or narrows it to the type that the column had before its promotion.
fn loosen_lower(bound: &Scalar, rng: &mut StdRng) -> Scalar {
    match bound {
        Scalar::String(text) if rng.random() => Scalar::String(text.chars().take(2).collect()),
        Scalar::Binary(bytes) if rng.random() => Scalar::Binary(bytes[..bytes.len().min(2)].into()),
        other => narrowed(other, rng),
    }
}

fn loosen_upper(bound: &Scalar, rng: &mut StdRng) -> Scalar {
    match bound {
        Scalar::String(text) if text.chars().count() > 2 => {
            let mut cut: Vec<char> = text.chars().take(2).collect();
            // Some writers forget to round up a truncated bound.
            if rng.random_ratio(3, 4) {
                cut[1] = char::from_u32(cut[1] as u32 + 1).unwrap();
            }
            Scalar::String(cut.into_iter().collect())
        }
        Scalar::Binary(bytes) if bytes.len() > 2 && rng.random_ratio(1, 4) => Scalar::Binary(bytes[..2].into()),
        other => narrowed(other, rng),
    }
}

fn narrowed(bound: &Scalar, rng: &mut StdRng) -> Scalar {
    match bound {
        Scalar::Long(value) if rng.random() => match i32::try_from(*value) {
            Ok(value) => Scalar::Int(value),
            Err(_) => bound.clone(),
        },
        Scalar::Double(value) if rng.random() => Scalar::Float(*value as f32),
        other => other.clone(),
    }
}

/// Runs one type under one transform, and returns the number of files that pruning left out.
fn prove(ty: &Type, transform: Transform, rng: &mut StdRng) -> usize {
    let field = |id, name: &str, ty: &Type| Field {
        id,
        name: name.to_string(),
        required: false,
        ty: ty.clone(),
        initial_default: None,
    };
    let schema = Schema { fields: vec![field(1, "a", ty), field(2, "b", &Type::Int)] };
    let spec = [SpecField {
        source_id: 1,
        field: PartitionField { name: "p".to_string(), column: "a".to_string(), transform },
    }];
    let mut pruned = 0;
    for _ in 0..MANIFESTS_PER_CASE {
        let files: Vec<_> = (0..FILES_PER_MANIFEST)
            .map(|_| {
                let (rows, partition) = random_rows(ty, transform, rng);
                (describe(&rows, partition, rng), rows)
            })
            .collect();
        let summary = summarize(&files, ty, transform, rng);
        for _ in 0..PREDICATES_PER_MANIFEST {
            let predicate = random_predicate(ty, 3, rng);
            let bound = BoundPredicate::new(&predicate, &schema).unwrap();
            let node = bound.project(&spec);
            let whole = node.excluded(std::slice::from_ref(&summary));
            for (file, rows) in &files {
                let point = ValueRange::of_partition(file.partition.as_ref(), transform);
                let facts = |id: i32| file.columns.get(id as usize - 1);
                let columns = bound.column_ids().map(|id| ValueRange::of_column(file.record_count, facts(id)));
                let ranges: Vec<_> = [point].into_iter().chain(columns).collect();
                let alone = node.excluded(&ranges[..1]).or(node.excluded(&ranges));
                pruned += usize::from(alone.is_some());
                let matching = Judge::all().find_map(|judge| {
                    let matches = |row: &&Row| judge.matches(&predicate, row) == Some(true);
                    rows.iter().find(matches)
                });
                if let (Some(reason), Some(row)) = (whole.or(alone), matching) {
                    panic!("{ty} {transform}: {reason} lost {row:?} of {file:?}: {predicate:?}");
                }
            }
        }
    }
    pruned
}

/// Makes the summary of the files' partition values, as a manifest list holds it.
fn summarize(files: &[(File, Vec<Row>)], ty: &Type, transform: Transform, rng: &mut StdRng) -> ValueRange {
    let values: Vec<_> = files.iter().map(|(file, _)| &file.partition).collect();
    let judge = Judge { order: Order::Total, unknown: None };
    let mut sorted: Vec<_> = values.iter().filter_map(|v| v.as_ref()).collect();
    let contains_nan = sorted.iter().any(|value| value.is_nan());
    sorted.retain(|value| !value.is_nan());
    sorted.sort_by(|a, b| judge.compare(a, b).unwrap());
    let result_type = convert::to_transform(transform).result_type(&convert::tests::primitive(ty).into());
    let result_type = result_type.unwrap().as_primitive_type().unwrap().clone();
    let encode = |value: &&Scalar| {
        let datum = convert::to_datum(value, &result_type).unwrap();
        datum.to_bytes().unwrap().into_vec().into_boxed_slice()
    };
    // Some writers never write bounds.
    if rng.random_ratio(1, 10) {
        sorted.clear();
    }
    let summary = Summary {
        contains_null: Some(values.iter().any(|value| value.is_none())),
        contains_nan: rng.random_ratio(4, 5).then_some(contains_nan),
        lower: sorted.first().map(encode),
        upper: sorted.last().map(encode),
    };
    summary_range(&summary, result_type_of(transform, ty).as_ref(), transform)
}

#[test]
fn no_matching_row_is_lost() {
    use Transform::*;
    let decimal = Type::Decimal { precision: 9, scale: 2 };
    let cases: [(&[Type], &[Transform]); 5] = [
        (&[Type::Boolean, Type::Float, Type::Double], &[Identity, Void, Unknown]),
        (
            &[Type::Int, Type::Long, decimal, Type::String],
            &[Identity, Bucket(1), Bucket(7), Truncate(1), Truncate(3), Truncate(10), Void],
        ),
        (&[Type::Binary], &[Identity, Bucket(7), Truncate(2)]),
        (&[Type::Uuid, Type::Time], &[Identity, Bucket(7)]),
        (
            &[Type::Date, Type::Timestamp, Type::Timestamptz, Type::TimestampNs, Type::TimestamptzNs],
            &[Identity, Bucket(7), Year, Month, Day, Hour],
        ),
    ];
    let mut rng = StdRng::seed_from_u64(7);
    for (types, transforms) in cases {
        for ty in types {
            for transform in transforms {
                if (ty, *transform) == (&Type::Date, Hour) {
                    continue;
                }
                let pruned = prove(ty, *transform, &mut rng);
                assert!(pruned > 1_000, "{ty} {transform} pruned only {pruned}");
            }
        }
    }
}
