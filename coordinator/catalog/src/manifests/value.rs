//! Partition values: as a manifest has them, and as the table's types understand them.

use crate::avro::Value;
use crate::scalar::Scalar;
use crate::types::{Transform, Type};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Partition value of a manifest. Its type is the writer's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PartitionValue {
    Boolean(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Bytes(Box<[u8]>),
}

impl PartitionValue {
    pub(crate) fn new(value: Value<'_>) -> Self {
        match value {
            Value::Boolean(v) => PartitionValue::Boolean(v),
            Value::Int(v) => PartitionValue::Int(v),
            Value::Long(v) => PartitionValue::Long(v),
            Value::Float(v) => PartitionValue::Float(v),
            Value::Double(v) => PartitionValue::Double(v),
            Value::Bytes(v) => PartitionValue::Bytes(v.into()),
        }
    }

    /// Appends bytes that tell the value from others. Integers of both widths are alike, and so are all NaNs; zeros of both
    /// signs are not, as in Java.
    pub(crate) fn add_key(&self, key: &mut Vec<u8>) {
        match self {
            PartitionValue::Boolean(v) => key.extend([1, u8::from(*v)]),
            PartitionValue::Int(v) => add(key, 2, &i64::from(*v).to_le_bytes()),
            PartitionValue::Long(v) => add(key, 2, &v.to_le_bytes()),
            PartitionValue::Float(v) => add(key, 3, &canonical(f64::from(*v)).to_le_bytes()),
            PartitionValue::Double(v) => add(key, 3, &canonical(*v).to_le_bytes()),
            PartitionValue::Bytes(v) => {
                add(key, 4, &(v.len() as u64).to_le_bytes());
                key.extend_from_slice(v);
            }
        }
    }

    /// Appends bytes that tell the value from others of one field, also where files of one spec have it in several types.
    pub(crate) fn add_typed_key(&self, ty: Option<&Type>, key: &mut Vec<u8>) {
        match ty.and_then(|ty| self.scalar(ty)) {
            Some(Scalar::Decimal { unscaled, .. }) => add(key, 5, &unscaled.to_le_bytes()),
            Some(Scalar::Uuid(uuid)) => add(key, 6, &uuid.to_le_bytes()),
            Some(Scalar::Timestamp(v) | Scalar::Timestamptz(v) | Scalar::TimestampNs(v) | Scalar::TimestamptzNs(v)) => {
                add(key, 2, &v.to_le_bytes())
            }
            _ => self.add_key(key),
        }
    }

    /// Returns the value in the partition field's type. `None` where it is none of that type.
    pub(crate) fn scalar(&self, ty: &Type) -> Option<Scalar> {
        use PartitionValue as P;
        Some(match (self, ty) {
            (P::Boolean(v), Type::Boolean) => Scalar::Boolean(*v),
            (P::Int(v), Type::Int) => Scalar::Int(*v),
            (P::Int(v), Type::Long) => Scalar::Long(i64::from(*v)),
            (P::Long(v), Type::Int) => Scalar::Int((*v).try_into().ok()?),
            (P::Long(v), Type::Long) => Scalar::Long(*v),
            (P::Int(v), Type::Date) => Scalar::Date(*v),
            (P::Long(v), Type::Date) => Scalar::Date((*v).try_into().ok()?),
            // A date whose column became a timestamp.
            (P::Int(v), Type::Timestamp) => Scalar::Timestamp(days(*v, MICROS_PER_DAY)?),
            (P::Int(v), Type::Timestamptz) => Scalar::Timestamptz(days(*v, MICROS_PER_DAY)?),
            (P::Int(v), Type::TimestampNs) => Scalar::TimestampNs(days(*v, MICROS_PER_DAY * 1_000)?),
            (P::Int(v), Type::TimestamptzNs) => Scalar::TimestamptzNs(days(*v, MICROS_PER_DAY * 1_000)?),
            (P::Long(v), Type::Time) => Scalar::Time(*v),
            (P::Long(v), Type::Timestamp) => Scalar::Timestamp(*v),
            (P::Long(v), Type::Timestamptz) => Scalar::Timestamptz(*v),
            (P::Long(v), Type::TimestampNs) => Scalar::TimestampNs(*v),
            (P::Long(v), Type::TimestamptzNs) => Scalar::TimestamptzNs(*v),
            (P::Float(v), Type::Float) => Scalar::Float(*v),
            (P::Float(v), Type::Double) => Scalar::Double(f64::from(*v)),
            (P::Double(v), Type::Double) => Scalar::Double(*v),
            (P::Bytes(v), Type::String) => Scalar::String(std::str::from_utf8(v).ok()?.to_owned()),
            (P::Bytes(v), Type::Uuid) => uuid_of(v)?,
            (P::Bytes(v), Type::Decimal { .. } | Type::Fixed(_) | Type::Binary) => Scalar::from_bound(v, ty)?,
            _ => return None,
        })
    }
}

/// Reads a UUID from its bytes, or from its text, as some writers have it in Avro.
fn uuid_of(bytes: &[u8]) -> Option<Scalar> {
    let uuid = uuid::Uuid::from_slice(bytes).or_else(|_| uuid::Uuid::try_parse_ascii(bytes));
    uuid.ok().map(|uuid| Scalar::Uuid(uuid.as_u128()))
}

fn add(key: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    key.push(tag);
    key.extend_from_slice(bytes);
}

fn canonical(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

fn days(days: i32, per_day: i64) -> Option<i64> {
    i64::from(days).checked_mul(per_day)
}

/// Returns the type of a partition field's values, by the type of its column.
pub(crate) fn result_type(transform: Transform, source: &Type) -> Option<Type> {
    match transform {
        Transform::Identity | Transform::Truncate(_) => Some(source.clone()),
        Transform::Bucket(_) | Transform::Year | Transform::Month | Transform::Hour => Some(Type::Int),
        Transform::Day => Some(Type::Date),
        Transform::Void | Transform::Unknown => None,
    }
}
