//! A typed value: a literal of a predicate, a bound of a column, a partition value.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::types::Type;

/// A typed value. Serialized bounds must keep every bit of a float, which not every JSON reader does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    Boolean(bool),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Decimal {
        unscaled: i128,
        precision: u32,
        scale: u32,
    },
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
    /// Microseconds since 1970-01-01, no zone.
    Timestamp(i64),
    /// Microseconds since 1970-01-01 UTC.
    Timestamptz(i64),
    /// Nanoseconds since 1970-01-01, no zone.
    TimestampNs(i64),
    /// Nanoseconds since 1970-01-01 UTC.
    TimestamptzNs(i64),
    String(String),
    /// UUID, big-endian.
    Uuid(u128),
    Fixed(Vec<u8>),
    Binary(Vec<u8>),
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

impl Scalar {
    /// Returns the memory that it holds beside itself, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Scalar::String(text) => text.len(),
            Scalar::Fixed(bytes) | Scalar::Binary(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// Decodes a bound of a column of this type, in the specification's bytes. The writer may have known the column before a
    /// promotion of its type. `None` where the bytes are no value: some writers leave such bounds.
    pub(crate) fn from_bound(bytes: &[u8], ty: &Type) -> Option<Scalar> {
        let int = || bytes.try_into().ok().map(i32::from_le_bytes);
        let wide = || bytes.try_into().ok().map(i64::from_le_bytes);
        let long = || wide().or_else(|| int().map(i64::from));
        // ClickHouse has written eight bytes for ints and dates.
        let narrow = || int().or_else(|| wide()?.try_into().ok());
        let instant = |per_day: i64| match int() {
            Some(days) => i64::from(days).checked_mul(per_day),
            None => wide(),
        };
        Some(match ty {
            Type::Boolean => match bytes {
                [byte] => Scalar::Boolean(*byte != 0),
                _ => return None,
            },
            Type::Int => Scalar::Int(narrow()?),
            Type::Long => Scalar::Long(long()?),
            Type::Float => Scalar::Float(f32::from_le_bytes(bytes.try_into().ok()?)),
            Type::Double => match bytes.try_into() {
                Ok(bytes) => Scalar::Double(f64::from_le_bytes(bytes)),
                Err(_) => Scalar::Double(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))),
            },
            Type::Decimal { precision, scale } => {
                Scalar::Decimal { unscaled: big_endian(bytes)?, precision: *precision, scale: *scale }
            }
            Type::Date => Scalar::Date(narrow()?),
            Type::Time => Scalar::Time(wide()?),
            Type::Timestamp => Scalar::Timestamp(instant(MICROS_PER_DAY)?),
            Type::Timestamptz => Scalar::Timestamptz(instant(MICROS_PER_DAY)?),
            Type::TimestampNs => Scalar::TimestampNs(instant(MICROS_PER_DAY * 1_000)?),
            Type::TimestamptzNs => Scalar::TimestamptzNs(instant(MICROS_PER_DAY * 1_000)?),
            Type::String => Scalar::String(text(bytes)?.to_owned()),
            Type::Uuid => Scalar::Uuid(u128::from_be_bytes(bytes.try_into().ok()?)),
            Type::Fixed(_) => Scalar::Fixed(bytes.to_vec()),
            Type::Binary => Scalar::Binary(bytes.to_vec()),
            Type::Unknown | Type::Struct(_) | Type::List(_) | Type::Map(..) => return None,
        })
    }

    /// Orders values of one kind, and across the promotions that Iceberg allows (int and long, float
    /// and double). Zeros of either sign are equal.
    ///
    /// `None` where there is no order to rely on: other kinds, decimals of another scale, NaN, and
    /// unequal UUIDs, which writers have ordered both signed and unsigned.
    pub fn compare(&self, other: &Scalar) -> Option<Ordering> {
        use Scalar::*;
        match (self, other) {
            (Boolean(a), Boolean(b)) => Some(a.cmp(b)),
            (Int(a), Int(b)) | (Date(a), Date(b)) => Some(a.cmp(b)),
            (Long(a), Long(b))
            | (Time(a), Time(b))
            | (Timestamp(a), Timestamp(b))
            | (Timestamptz(a), Timestamptz(b))
            | (TimestampNs(a), TimestampNs(b))
            | (TimestamptzNs(a), TimestamptzNs(b)) => Some(a.cmp(b)),
            (Int(a), Long(b)) => Some(i64::from(*a).cmp(b)),
            (Long(a), Int(b)) => Some(a.cmp(&i64::from(*b))),
            (Float(a), Float(b)) => a.partial_cmp(b),
            (Double(a), Double(b)) => a.partial_cmp(b),
            (Float(a), Double(b)) => f64::from(*a).partial_cmp(b),
            (Double(a), Float(b)) => a.partial_cmp(&f64::from(*b)),
            (Decimal { scale, .. }, Decimal { scale: other, .. }) if scale != other => None,
            (Decimal { unscaled: a, .. }, Decimal { unscaled: b, .. }) => Some(a.cmp(b)),
            (String(a), String(b)) => Some(a.cmp(b)),
            (Uuid(a), Uuid(b)) => (a == b).then_some(Ordering::Equal),
            (Fixed(a) | Binary(a), Fixed(b) | Binary(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Returns true where a column of this type can hold the value, promotions either way included.
    pub fn fits(&self, ty: &Type) -> bool {
        match (self, ty) {
            (Scalar::Decimal { scale, .. }, Type::Decimal { scale: other, .. }) => scale == other,
            (Scalar::Boolean(_), Type::Boolean)
            | (Scalar::Int(_) | Scalar::Long(_), Type::Int | Type::Long)
            | (Scalar::Float(_) | Scalar::Double(_), Type::Float | Type::Double)
            | (Scalar::Date(_), Type::Date)
            | (Scalar::Time(_), Type::Time)
            | (Scalar::Timestamp(_), Type::Timestamp)
            | (Scalar::Timestamptz(_), Type::Timestamptz)
            | (Scalar::TimestampNs(_), Type::TimestampNs)
            | (Scalar::TimestamptzNs(_), Type::TimestamptzNs)
            | (Scalar::String(_), Type::String)
            | (Scalar::Uuid(_), Type::Uuid)
            | (Scalar::Fixed(_) | Scalar::Binary(_), Type::Fixed(_) | Type::Binary) => true,
            _ => false,
        }
    }

    pub(crate) fn is_nan(&self) -> bool {
        match self {
            Scalar::Float(value) => value.is_nan(),
            Scalar::Double(value) => value.is_nan(),
            _ => false,
        }
    }

    pub(crate) fn is_float(&self) -> bool {
        matches!(self, Scalar::Float(_) | Scalar::Double(_))
    }

    /// Returns the value `step` away, for kinds whose values can be counted. `None` past the kind's end.
    pub(crate) fn step(&self, step: i8) -> Option<Scalar> {
        let narrow = |value: i32| value.checked_add(i32::from(step));
        let wide = |value: i64| value.checked_add(i64::from(step));
        Some(match *self {
            Scalar::Int(v) => Scalar::Int(narrow(v)?),
            Scalar::Date(v) => Scalar::Date(narrow(v)?),
            Scalar::Long(v) => Scalar::Long(wide(v)?),
            Scalar::Time(v) => Scalar::Time(wide(v)?),
            Scalar::Timestamp(v) => Scalar::Timestamp(wide(v)?),
            Scalar::Timestamptz(v) => Scalar::Timestamptz(wide(v)?),
            Scalar::TimestampNs(v) => Scalar::TimestampNs(wide(v)?),
            Scalar::TimestamptzNs(v) => Scalar::TimestamptzNs(wide(v)?),
            Scalar::Decimal { unscaled, precision, scale } => {
                Scalar::Decimal { unscaled: unscaled.checked_add(i128::from(step))?, precision, scale }
            }
            _ => return None,
        })
    }
}

/// Decodes a number of 1 to 16 bytes.
fn big_endian(bytes: &[u8]) -> Option<i128> {
    let first = *bytes.first()?;
    if bytes.len() > size_of::<i128>() {
        return None;
    }
    let sign = if first & 0x80 == 0 { 0 } else { -1 };
    Some(bytes.iter().fold(sign, |value, byte| value << 8 | i128::from(*byte)))
}

/// Returns a text that may have been cut within its last character, up to there. `None` where it is no text.
fn text(bytes: &[u8]) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok(),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_read_in_the_column_type_of_today() {
        let check = |bytes: &[u8], ty: Type, expect: Option<Scalar>| {
            assert_eq!(Scalar::from_bound(bytes, &ty), expect, "{bytes:?} as {ty}");
        };
        let decimal = |unscaled| Some(Scalar::Decimal { unscaled, precision: 38, scale: 2 });
        let decimal_type = || Type::Decimal { precision: 38, scale: 2 };
        check(&[1], Type::Boolean, Some(Scalar::Boolean(true)));
        check(&[], Type::Boolean, None);
        check(&7_i32.to_le_bytes(), Type::Int, Some(Scalar::Int(7)));
        check(&(-7_i64).to_le_bytes(), Type::Int, Some(Scalar::Int(-7)));
        check(&(1_i64 << 40).to_le_bytes(), Type::Int, None);
        check(&[1, 2], Type::Int, None);
        check(&7_i32.to_le_bytes(), Type::Long, Some(Scalar::Long(7)));
        check(&7_i64.to_le_bytes(), Type::Long, Some(Scalar::Long(7)));
        check(&0.5_f32.to_le_bytes(), Type::Double, Some(Scalar::Double(0.5)));
        check(&0.5_f64.to_le_bytes(), Type::Float, None);
        check(&9_i64.to_le_bytes(), Type::Date, Some(Scalar::Date(9)));
        check(&2_i32.to_le_bytes(), Type::Timestamp, Some(Scalar::Timestamp(2 * 86_400_000_000)));
        check(&(-1_i32).to_le_bytes(), Type::TimestampNs, Some(Scalar::TimestampNs(-86_400_000_000_000)));
        check(&i32::MAX.to_le_bytes(), Type::TimestampNs, None);
        check(&[0xff], decimal_type(), decimal(-1));
        check(&[0x00, 0xff], decimal_type(), decimal(255));
        check(&[0x80; 16], decimal_type(), decimal(i128::from_be_bytes([0x80; 16])));
        check(&[0; 17], decimal_type(), None);
        check(&[], decimal_type(), None);
        check("né".as_bytes(), Type::String, Some(Scalar::String("né".into())));
        // Cut within é, and bytes that are no text at all.
        check(&[b'n', 0xc3], Type::String, Some(Scalar::String("n".into())));
        check(&[0xff, b'n'], Type::String, None);
        check(&[7; 16], Type::Uuid, Some(Scalar::Uuid(u128::from_be_bytes([7; 16]))));
        check(&[7; 15], Type::Uuid, None);
        check(&[7], Type::Unknown, None);
    }

    #[test]
    fn compare_orders_one_kind_and_its_promotions() {
        let decimal = |unscaled, scale| Scalar::Decimal { unscaled, precision: 9, scale };
        let check = |a: Scalar, b: Scalar, expect: Option<Ordering>| {
            assert_eq!(a.compare(&b), expect, "{a:?} {b:?}");
            assert_eq!(b.compare(&a), expect.map(Ordering::reverse), "{b:?} {a:?}");
        };
        check(Scalar::Int(-1), Scalar::Long(0), Some(Ordering::Less));
        check(Scalar::Float(0.5), Scalar::Double(0.25), Some(Ordering::Greater));
        check(Scalar::Double(-0.0), Scalar::Double(0.0), Some(Ordering::Equal));
        check(Scalar::Double(f64::NAN), Scalar::Double(0.0), None);
        check(decimal(100, 2), decimal(99, 2), Some(Ordering::Greater));
        check(decimal(100, 2), decimal(1, 0), None);
        check(Scalar::Date(1), Scalar::Timestamp(2), None);
        check(Scalar::Timestamp(1), Scalar::Timestamptz(1), None);
        check(Scalar::String("é".into()), Scalar::String("z".into()), Some(Ordering::Greater));
        check(Scalar::Binary(vec![0x80]), Scalar::Fixed(vec![0x7f]), Some(Ordering::Greater));
        check(Scalar::Uuid(1), Scalar::Uuid(1), Some(Ordering::Equal));
        check(Scalar::Uuid(1), Scalar::Uuid(2), None);
    }

    #[test]
    fn step_stops_at_the_end_of_a_kind() {
        let check = |value: Scalar, step, expect| assert_eq!(value.step(step), expect);
        check(Scalar::Int(5), -1, Some(Scalar::Int(4)));
        check(Scalar::Int(i32::MAX), 1, None);
        check(Scalar::Date(i32::MIN), -1, None);
        check(Scalar::Double(1.0), 1, None);
        check(Scalar::String("a".into()), 1, None);
    }
}
