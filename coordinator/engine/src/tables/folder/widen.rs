//! One type for a column whose files differ in it: the narrowest that holds the values of both.
//!
//! ```text
//!  integers ─▶ the wider; with DECIMAL a wider DECIMAL; with FLOAT or DOUBLE a DOUBLE (FLOAT up to 16 bits)
//!  DECIMALs ─▶ all digits on either side of the point     DATE ─▶ TIMESTAMP     texts ─▶ text, bytes ─▶ bytes, in any layout
//!  lists, structs ─▶ their elements; a field that a struct lacks is NULL
//! ```
//!
//! Numbers and text have no such type, and times with and without a zone have none: a reader could not know the
//! meaning. BIGINT and DOUBLE make a DOUBLE, as in DuckDB, which is not exact above 2^53.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};

/// Returns the type that both fit in, or None. The sides can be exchanged.
pub(super) fn widen(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{
        Binary, BinaryView, Date32, Date64, Dictionary, FixedSizeBinary, LargeBinary, LargeList, List, Map, Null,
        Struct, Time32, Time64, Timestamp,
    };
    if a == b {
        return Some(a.clone());
    }
    let is_binary = |t: &DataType| matches!(t, Binary | LargeBinary | BinaryView | FixedSizeBinary(_));
    match (a, b) {
        (Null, other) | (other, Null) => Some(other.clone()),
        (Dictionary(_, inner), other) | (other, Dictionary(_, inner)) => widen(inner, other),
        (a, b) if a.is_string() && b.is_string() => Some(DataType::Utf8View),
        (a, b) if is_binary(a) && is_binary(b) => Some(BinaryView),
        (a, b) if a.is_numeric() && b.is_numeric() => number(a, b),
        (Date32, Date64) | (Date64, Date32) => Some(Date64),
        (Date32 | Date64, Timestamp(unit, None)) | (Timestamp(unit, None), Date32 | Date64) => {
            Some(Timestamp(*unit, None))
        }
        (Timestamp(a, None), Timestamp(b, None)) => Some(Timestamp(finer(*a, *b), None)),
        (Timestamp(a, Some(zone)), Timestamp(b, Some(other))) => {
            let zone = if zone == other { Arc::clone(zone) } else { "UTC".into() };
            Some(Timestamp(finer(*a, *b), Some(zone)))
        }
        (Time32(a) | Time64(a), Time32(b) | Time64(b)) => Some(match finer(*a, *b) {
            unit @ (TimeUnit::Second | TimeUnit::Millisecond) => Time32(unit),
            unit => Time64(unit),
        }),
        (List(a), List(b)) => Some(List(element(a, b)?)),
        (List(a) | LargeList(a), List(b) | LargeList(b)) => Some(LargeList(element(a, b)?)),
        (Struct(a), Struct(b)) => fields(a, b).map(Struct),
        (Map(a, sorted), Map(b, also)) => Some(Map(element(a, b)?, *sorted && *also)),
        _ => None,
    }
}

fn finer(a: TimeUnit, b: TimeUnit) -> TimeUnit {
    a.max(b)
}

/// Widens an element. Elements are matched by place, not by name, because writers call them `item` or `element`.
fn element(a: &FieldRef, b: &FieldRef) -> Option<FieldRef> {
    // The engine matches a struct's fields by place below lists and maps. All must be there, in one order.
    if let (DataType::Struct(a), DataType::Struct(b)) = (a.data_type(), b.data_type())
        && !a.iter().map(|field| field.name()).eq(b.iter().map(|field| field.name()))
    {
        return None;
    }
    let nullable = a.is_nullable() || b.is_nullable();
    Some(Arc::new(Field::new(a.name(), widen(a.data_type(), b.data_type())?, nullable)))
}

fn fields(a: &Fields, b: &Fields) -> Option<Fields> {
    let mut all: Vec<FieldRef> = Vec::with_capacity(a.len());
    for field in a {
        all.push(match b.find(field.name()) {
            Some((_, other)) => {
                let nullable = field.is_nullable() || other.is_nullable();
                Arc::new(Field::new(field.name(), widen(field.data_type(), other.data_type())?, nullable))
            }
            None => Arc::new(field.as_ref().clone().with_nullable(true)),
        });
    }
    let new = b.iter().filter(|field| a.find(field.name()).is_none());
    all.extend(new.map(|field| Arc::new(field.as_ref().clone().with_nullable(true))));
    Some(all.into())
}

fn number(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Float16, Float32, Float64};
    if a.is_integer() && b.is_integer() {
        return integer(a, b);
    }
    if a.is_floating() || b.is_floating() {
        // A FLOAT holds integers of 24 bits.
        let is_small =
            |t: &DataType| matches!(t, DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16);
        let fits_single = |t: &DataType| matches!(t, Float16 | Float32) || is_small(t);
        return Some(if fits_single(a) && fits_single(b) { Float32 } else { Float64 });
    }
    let (a, b) = (digits(a)?, digits(b)?);
    let scale = a.fraction.max(b.fraction);
    decimal(a.whole.max(b.whole) + scale, scale)
}

fn integer(a: &DataType, b: &DataType) -> Option<DataType> {
    let bits = |t: &DataType| t.primitive_width().unwrap_or(8) * 8;
    let signed = |bits: usize| match bits {
        8 => Some(DataType::Int8),
        16 => Some(DataType::Int16),
        32 => Some(DataType::Int32),
        64 => Some(DataType::Int64),
        _ => decimal(20, 0),
    };
    match (a.is_signed_integer(), b.is_signed_integer()) {
        (true, true) => signed(bits(a).max(bits(b))),
        (false, false) => Some(if bits(a) > bits(b) { a.clone() } else { b.clone() }),
        (true, false) => signed(bits(a).max(2 * bits(b))),
        (false, true) => signed(bits(b).max(2 * bits(a))),
    }
}

/// Digits of a type's numbers before and after the point.
struct Digits {
    whole: i16,
    fraction: i16,
}

fn digits(of: &DataType) -> Option<Digits> {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    let (whole, fraction) = match of {
        DataType::Int8 | DataType::UInt8 => (3, 0),
        DataType::Int16 | DataType::UInt16 => (5, 0),
        DataType::Int32 | DataType::UInt32 => (10, 0),
        DataType::Int64 => (19, 0),
        DataType::UInt64 => (20, 0),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            (i16::from(*p) - i16::from(*s), i16::from(*s))
        }
        _ => return None,
    };
    Some(Digits { whole, fraction })
}

fn decimal(precision: i16, scale: i16) -> Option<DataType> {
    let (precision, scale) = (u8::try_from(precision).ok()?, i8::try_from(scale).ok()?);
    match precision {
        ..=38 => Some(DataType::Decimal128(precision, scale)),
        39..=76 => Some(DataType::Decimal256(precision, scale)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DataType::*;

    #[track_caller]
    fn check(a: DataType, b: DataType, expect: Option<DataType>) {
        assert_eq!(widen(&a, &b), expect, "{a} and {b}");
        assert_eq!(widen(&b, &a), expect, "{b} and {a}");
    }

    fn structure(fields: &[(&str, DataType)]) -> DataType {
        Struct(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect())
    }

    fn list(of: DataType) -> DataType {
        List(Arc::new(Field::new("item", of, true)))
    }

    #[test]
    fn a_wider_type_holds_the_values_of_both() {
        check(Int32, Int64, Some(Int64));
        check(UInt32, Int32, Some(Int64));
        check(UInt64, Int64, Some(Decimal128(20, 0)));
        check(UInt8, UInt16, Some(UInt16));
        check(Int64, Float64, Some(Float64));
        check(Int32, Float32, Some(Float64));
        check(Int16, Float32, Some(Float32));
        check(Float32, Float64, Some(Float64));
        check(Decimal128(5, 2), Decimal128(10, 3), Some(Decimal128(10, 3)));
        check(Decimal128(38, 0), Decimal128(38, 10), Some(Decimal256(48, 10)));
        check(Int64, Decimal128(5, 2), Some(Decimal128(21, 2)));
        check(Decimal128(5, 2), Float32, Some(Float64));
        check(Utf8, LargeUtf8, Some(Utf8View));
        check(Dictionary(Box::new(Int32), Box::new(Utf8)), Utf8View, Some(Utf8View));
        check(Binary, FixedSizeBinary(3), Some(BinaryView));
        check(Date32, Timestamp(TimeUnit::Microsecond, None), Some(Timestamp(TimeUnit::Microsecond, None)));
        let (ms, ns) = (Timestamp(TimeUnit::Millisecond, None), Timestamp(TimeUnit::Nanosecond, None));
        check(ms, ns.clone(), Some(ns));
        check(Time32(TimeUnit::Second), Time64(TimeUnit::Nanosecond), Some(Time64(TimeUnit::Nanosecond)));
        check(Null, Boolean, Some(Boolean));
        check(list(Int32), list(Int64), Some(list(Int64)));
        let (a, b) = (structure(&[("x", Int32), ("y", Utf8)]), structure(&[("x", Int64), ("y", Utf8)]));
        check(a, b.clone(), Some(b));
        let wide = widen(&structure(&[("x", Int32)]), &structure(&[("y", Utf8)]));
        assert_eq!(wide, Some(structure(&[("x", Int32), ("y", Utf8)])));
    }

    #[test]
    fn types_without_one_meaning_have_no_wider_type() {
        check(Int64, Utf8, None);
        check(Boolean, Int8, None);
        check(Utf8, Date32, None);
        check(Timestamp(TimeUnit::Second, None), Timestamp(TimeUnit::Second, Some("UTC".into())), None);
        check(Decimal128(38, 0), Decimal256(76, 70), None);
        check(list(structure(&[("x", Int32)])), list(structure(&[("y", Int32)])), None);
        check(list(Int32), Int32, None);
    }
}
