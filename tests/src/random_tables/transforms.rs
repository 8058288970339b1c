//! Transforms of partition specs, written from the specification, its hashes of appendix B among them.

use chrono::{DateTime, Datelike};
use serde_json::{Value as Json, json};

use super::values::{DAY_MICROS, HOUR_MICROS, Kind, Leaf, Value};
use crate::iceberg::Datum;

/// Transform of a column's values into a partition's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    Identity,
    Bucket,
    Truncate,
    Year,
    Month,
    Day,
    Hour,
    Void,
}

impl Transform {
    const BUCKETS: i32 = 3;
    const WIDTH: i64 = 2;

    /// Lists the transforms that the specification allows for a kind.
    pub(super) fn of(kind: Kind) -> &'static [Transform] {
        use Transform::{Bucket, Day, Hour, Identity, Month, Truncate, Void, Year};
        match kind {
            Kind::Bool | Kind::Float | Kind::Double => &[Identity, Void],
            Kind::Int | Kind::Long | Kind::Text | Kind::Decimal => &[Identity, Bucket, Truncate, Void],
            Kind::Date => &[Identity, Bucket, Year, Month, Day, Void],
            Kind::Timestamp | Kind::Timestamptz => &[Identity, Bucket, Year, Month, Day, Hour, Void],
            Kind::Narrow | Kind::Pair | Kind::List | Kind::Map => &[],
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Transform::Bucket => format!("bucket[{}]", Self::BUCKETS),
            Transform::Truncate => format!("truncate[{}]", Self::WIDTH),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    /// Returns Avro's type of the results for values of a kind.
    pub(super) fn avro(self, kind: Kind, id: i32) -> Json {
        match (self, kind) {
            (Transform::Bucket | Transform::Year | Transform::Month | Transform::Hour, _) => json!("int"),
            (Transform::Day, _) | (_, Kind::Date) => json!({"type": "int", "logicalType": "date"}),
            (_, Kind::Bool) => json!("boolean"),
            (_, Kind::Int) => json!("int"),
            (_, Kind::Float) => json!("float"),
            (_, Kind::Double) => json!("double"),
            (_, Kind::Text) => json!("string"),
            (_, Kind::Decimal) => {
                json!({"type": "fixed", "name": format!("decimal_{id}"), "size": 4, "logicalType": "decimal", "precision": 9,
                "scale": 2})
            }
            _ => json!("long"),
        }
    }

    /// Transforms a value as appendix B of the specification says.
    pub(super) fn apply(self, kind: Kind, leaf: &Leaf) -> Datum {
        let Some(value) = leaf.as_ref().filter(|_| self != Transform::Void) else { return Datum::Null };
        let days = |value: &Value| match kind {
            Kind::Date => value.whole(),
            _ => value.whole().div_euclid(DAY_MICROS),
        };
        let int = |value: i64| Datum::Int(i32::try_from(value).expect("32 bits"));
        let date = |value: &Value| DateTime::from_timestamp(days(value) * 86_400, 0).expect("in range").date_naive();
        match (self, value) {
            (Transform::Bucket, value) => Datum::Int(match (kind, value) {
                (Kind::Decimal, value) => bucket(&shortest(value.whole()), Self::BUCKETS),
                (_, Value::Text(text)) => bucket(text.as_bytes(), Self::BUCKETS),
                (_, value) => bucket(&value.whole().to_le_bytes(), Self::BUCKETS),
            }),
            (Transform::Truncate, Value::Text(text)) => Datum::Text(text.chars().take(Self::WIDTH as usize).collect()),
            (Transform::Truncate, value) => {
                let whole = value.whole();
                let cut = whole - whole.rem_euclid(Self::WIDTH);
                kind.datum(&Some(Value::Whole(cut)))
            }
            (Transform::Year, value) => int(i64::from(date(value).year()) - 1970),
            (Transform::Month, value) => {
                let date = date(value);
                int((i64::from(date.year()) - 1970) * 12 + i64::from(date.month0()))
            }
            (Transform::Day, value) => int(days(value)),
            (Transform::Hour, value) => int(value.whole().div_euclid(HOUR_MICROS)),
            (Transform::Identity | Transform::Void, _) => kind.datum(leaf),
        }
    }
}

/// Returns the fewest big-endian bytes that hold a number.
fn shortest(value: i64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let fits = |count: usize| {
        let shift = 64 - 8 * count as u32;
        (value << shift) >> shift == value
    };
    let count = (1..=8).find(|count| fits(*count)).expect("eight bytes");
    bytes[8 - count..].to_vec()
}

/// Returns the bucket of a value, whose bytes the specification hashes.
pub fn bucket(bytes: &[u8], buckets: i32) -> i32 {
    (murmur3(bytes) & i32::MAX as u32) as i32 % buckets
}

/// Hashes bytes by Murmur3 of 32 bits with seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |block: u32| block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 0_u32;
    let (blocks, rest) = bytes.as_chunks::<4>();
    for block in blocks {
        hash = (hash ^ mix(u32::from_le_bytes(*block))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    if !rest.is_empty() {
        hash ^= mix(u32::from_le_bytes(last));
    }
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[test]
fn hashes_are_those_of_the_specification() {
    assert_eq!(murmur3(&34_i64.to_le_bytes()), 2_017_239_379);
    assert_eq!(murmur3(b"iceberg"), 1_210_000_089);
    assert_eq!(murmur3(&shortest(1420)) as i32, -500_754_589);
    assert_eq!(murmur3(&17_486_i64.to_le_bytes()) as i32, -653_330_422);
    assert_eq!((shortest(-129), shortest(127), shortest(0)), (vec![0xff, 0x7f], vec![0x7f], vec![0]));
}
