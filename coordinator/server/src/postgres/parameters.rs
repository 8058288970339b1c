//! Values of parameters, from their types on the wire to those of the engine.

use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use bytes::Buf;
use datafusion::common::ScalarValue;
use pgwire::api::Type;

use super::answers::Told;
use super::numeric::text_numeric;

/// SQLSTATE codes of PostgreSQL.
const NOT_BINARY: &str = "22P03";
const NOT_TEXT: &str = "22P02";
const NO_TYPE: &str = "42704";
const OUT_OF_RANGE: &str = "22003";

/// Days and microseconds from 1970, with which Arrow begins, to 2000, with which PostgreSQL does.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROSECONDS: i64 = EPOCH_DAYS as i64 * DAY_MICROSECONDS;
const DAY_MICROSECONDS: i64 = 86_400_000_000;

/// Returns the declared type of a parameter; None if the client leaves it open.
///
/// # Errors
/// The type is not one of those that are taken.
pub(super) fn declared(oid: u32) -> Result<Option<Type>, Told> {
    if oid == 0 || oid == Type::UNKNOWN.oid() {
        return Ok(None);
    }
    let found = Type::from_oid(oid).filter(|found| arrow_type(found).is_some());
    found.map(Some).ok_or_else(|| {
        let name = Type::from_oid(oid).map_or_else(|| format!("with the number {oid}"), |found| format!("`{found}`"));
        Told::new(NO_TYPE, format!("no parameter has the type {name} here")).with_hint("send it as text, and cast it")
    })
}

/// Returns the engine's type of a parameter; None for those that are not taken.
pub(super) fn arrow_type(pg_type: &Type) -> Option<DataType> {
    Some(match *pg_type {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 | Type::OID => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        // Its precision is that of the value.
        Type::NUMERIC => DataType::Decimal128(38, 10),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::CHAR | Type::UUID | Type::JSON => DataType::Utf8,
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIME => DataType::Time64(TimeUnit::Microsecond),
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        Type::INTERVAL => DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano),
        _ => return None,
    })
}

/// Reads a parameter's value.
///
/// # Errors
/// The bytes are no value of the type.
pub(super) fn value(
    number: usize,
    bytes: Option<&[u8]>,
    is_binary: bool,
    wire: &Type,
    wanted: &DataType,
) -> Result<ScalarValue, Told> {
    let refused = |sqlstate, why: &str| Told::new(sqlstate, format!("parameter ${number}: {why}"));
    let Some(bytes) = bytes else {
        return ScalarValue::try_new_null(wanted).map_err(|error| refused(NO_TYPE, &error.strip_backtrace()));
    };
    if is_binary {
        let value =
            binary(bytes, wire).ok_or_else(|| refused(NOT_BINARY, &format!("these bytes are no binary `{wire}`")))?;
        // A decimal number keeps its own digits.
        let is_decimal = *wire == Type::NUMERIC;
        return if is_decimal { Ok(value) } else { cast(&value, wanted).map_err(|why| refused(NOT_BINARY, &why)) };
    }
    let text = std::str::from_utf8(bytes).map_err(|_| refused("22021", "the value is not UTF-8"))?;
    let value = match wanted {
        // Spaces are part of a text.
        wanted if is_text(wanted) => ScalarValue::from(text),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let bytes = unescaped(text).ok_or_else(|| refused(NOT_TEXT, "these are no bytes, such as \\x00ff"))?;
            ScalarValue::Binary(Some(bytes))
        }
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            return decimal(text.trim()).map_err(|(sqlstate, why)| refused(sqlstate, why));
        }
        DataType::Date32
        | DataType::Date64
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(_, None)
            if *wire != Type::TIMESTAMPTZ && *wire != Type::TIMETZ =>
        {
            ScalarValue::from(without_zone(text.trim()))
        }
        _ => ScalarValue::from(text.trim()),
    };
    cast(&value, wanted).map_err(|why| refused(NOT_TEXT, &why))
}

/// Returns a date or a time without the zone that clients write behind it, as PostgreSQL reads values that have none.
fn without_zone(text: &str) -> &str {
    let Some((time, zone)) = text.rfind(['+', '-']).map(|at| text.split_at(at)) else { return text };
    let is_zone = zone[1..].split(':').all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit()));
    // The last two digits of a date are no zone.
    let is_whole = time.contains(':') || time.matches('-').count() >= 2;
    if is_zone && is_whole { time.trim_end() } else { text }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, value) => is_text(value),
        data_type => data_type.is_string(),
    }
}

fn cast(value: &ScalarValue, wanted: &DataType) -> Result<ScalarValue, String> {
    let cast = value.cast_to(wanted).map_err(|error| error.strip_backtrace())?;
    if cast.is_null() { Err(format!("it is no {wanted}")) } else { Ok(cast) }
}

/// Returns a decimal number with all the digits of its text, which may have a point and an exponent.
fn decimal(text: &str) -> Result<ScalarValue, (&'static str, &'static str)> {
    let none = (NOT_TEXT, "it is no decimal number");
    let too_long = (OUT_OF_RANGE, "the number has more than 76 digits");
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| none)?),
        None => (text, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut all = format!("{whole}{fraction}");
    if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(none);
    }
    // A number of digits that fits is far below this one.
    if all.len() > 1_000 || exponent.unsigned_abs() > 1_000 {
        return Err(too_long);
    }
    // An exponent moves the point.
    let scale = fraction.len() as i32 - exponent;
    all.extend(std::iter::repeat_n('0', usize::try_from(-scale).unwrap_or_default()));
    let scale = usize::try_from(scale).unwrap_or_default();
    let significant = all.trim_start_matches('0');
    let whole_digits = significant.len().saturating_sub(scale);
    let precision = (whole_digits + scale).max(1);
    let padded = format!("{significant:0>precision$}");
    let (whole, fraction) = padded.split_at(precision - scale);
    let wanted = match precision {
        0..=38 => DataType::Decimal128(38, scale as i8),
        39..=76 => DataType::Decimal256(76, scale as i8),
        _ => return Err(too_long),
    };
    let plain = format!("{sign}{}.{fraction}", if whole.is_empty() { "0" } else { whole });
    cast(&ScalarValue::from(plain.trim_end_matches('.')), &wanted).map_err(|_| none)
}

/// Returns bytes that are written as hexadecimal digits after `\x`, or as they are.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let Some(digits) = text.strip_prefix("\\x") else {
        return (!text.contains('\\')).then(|| text.as_bytes().to_vec());
    };
    if !digits.is_ascii() || digits.len() % 2 != 0 {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

/// Reads a value in its binary form.
fn binary(mut bytes: &[u8], wire: &Type) -> Option<ScalarValue> {
    let has = |length: usize| (bytes.len() == length).then_some(());
    Some(match *wire {
        Type::BOOL => {
            has(1)?;
            ScalarValue::from(bytes[0] != 0)
        }
        Type::INT2 => {
            has(2)?;
            ScalarValue::from(bytes.get_i16())
        }
        Type::INT4 => {
            has(4)?;
            ScalarValue::from(bytes.get_i32())
        }
        Type::INT8 => {
            has(8)?;
            ScalarValue::from(bytes.get_i64())
        }
        Type::OID => {
            has(4)?;
            ScalarValue::from(bytes.get_u32())
        }
        Type::FLOAT4 => {
            has(4)?;
            ScalarValue::from(bytes.get_f32())
        }
        Type::FLOAT8 => {
            has(8)?;
            ScalarValue::from(bytes.get_f64())
        }
        Type::NUMERIC => decimal(&text_numeric(bytes)?).ok()?,
        Type::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        Type::UUID => {
            has(16)?;
            ScalarValue::from(uuid::Uuid::from_slice(bytes).ok()?.to_string())
        }
        Type::DATE => {
            has(4)?;
            ScalarValue::Date32(Some(bytes.get_i32().checked_add(EPOCH_DAYS)?))
        }
        Type::TIME => {
            has(8)?;
            ScalarValue::Time64Microsecond(Some(bytes.get_i64()).filter(|value| (0..=DAY_MICROSECONDS).contains(value)))
        }
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            has(8)?;
            let zone = (*wire == Type::TIMESTAMPTZ).then(|| "+00:00".into());
            ScalarValue::TimestampMicrosecond(Some(bytes.get_i64().checked_add(EPOCH_MICROSECONDS)?), zone)
        }
        Type::INTERVAL => {
            has(16)?;
            let (microseconds, days, months) = (bytes.get_i64(), bytes.get_i32(), bytes.get_i32());
            let nanoseconds = microseconds.checked_mul(1_000)?;
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(months, days, nanoseconds)))
        }
        _ => ScalarValue::from(std::str::from_utf8(bytes).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JDBC writes one behind each date.
    #[test]
    fn a_zone_behind_a_value_that_has_none_is_left_out() {
        for (text, expect) in [
            ("2024-02-29 +00", "2024-02-29"),
            ("2024-02-29", "2024-02-29"),
            ("1999-12-31 23:59:59.5-03:30", "1999-12-31 23:59:59.5"),
            ("1999-12-31 23:59:59.5", "1999-12-31 23:59:59.5"),
            ("12:00:00+05", "12:00:00"),
            ("2024-02", "2024-02"),
            ("+1", "+1"),
            ("", ""),
        ] {
            assert_eq!(without_zone(text), expect, "{text}");
        }
    }

    #[test]
    fn values_are_read_in_both_forms() {
        let day = DataType::Date32;
        let moment = DataType::Timestamp(TimeUnit::Microsecond, None);
        let decimal = DataType::Decimal128(38, 10);
        let numeric: Vec<u8> = [2_i16, 0, 0, 2, 12, 5000].iter().flat_map(|number| number.to_be_bytes()).collect();
        for (wire, text, bytes, wanted, expect) in [
            (Type::BOOL, "t", &[1][..], DataType::Boolean, ScalarValue::from(true)),
            (Type::INT2, "-7", &[0xff, 0xf9], DataType::Int16, ScalarValue::from(-7_i16)),
            (Type::INT4, "7", &7_i32.to_be_bytes(), DataType::Int64, ScalarValue::from(7_i64)),
            (Type::INT8, "7", &7_i64.to_be_bytes(), DataType::Int64, ScalarValue::from(7_i64)),
            (Type::FLOAT8, "0.5", &0.5_f64.to_be_bytes(), DataType::Float64, ScalarValue::from(0.5)),
            (Type::TEXT, " ä'", " ä'".as_bytes(), DataType::Utf8, ScalarValue::from(" ä'")),
            (Type::BYTEA, "\\x00ff", &[0, 255], DataType::Binary, ScalarValue::Binary(Some(vec![0, 255]))),
            (Type::DATE, "2000-01-02", &1_i32.to_be_bytes(), day, ScalarValue::Date32(Some(10_958))),
            (
                Type::TIMESTAMP,
                "2000-01-01 00:00:01.5",
                &1_500_000_i64.to_be_bytes(),
                moment,
                ScalarValue::TimestampMicrosecond(Some(EPOCH_MICROSECONDS + 1_500_000), None),
            ),
            (Type::NUMERIC, "12.50", &numeric, decimal.clone(), ScalarValue::Decimal128(Some(1250), 38, 2)),
        ] {
            let from_text = value(1, Some(text.as_bytes()), false, &wire, &wanted).expect(text);
            let from_binary = value(1, Some(bytes), true, &wire, &wanted).expect(text);
            assert_eq!((&from_text, &from_binary), (&expect, &expect), "{wire}");
            let null = value(1, None, true, &wire, &wanted).expect("NULL");
            assert!(null.is_null() && null.data_type() == wanted, "{wire}: {null:?}");
        }
    }

    #[test]
    fn spaces_and_digits_are_kept() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        for wanted in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View, dictionary] {
            let seen = value(1, Some(b" n1 "), false, &Type::TEXT, &wanted).expect("a text");
            assert_eq!(seen.cast_to(&DataType::Utf8).expect("a text"), ScalarValue::from(" n1 "), "{wanted}");
        }
        let numeric = DataType::Decimal128(38, 10);
        let read = |text: &str| value(1, Some(text.as_bytes()), false, &Type::NUMERIC, &numeric);
        for (text, unscaled, scale) in [
            ("1E+2", 100, 0),
            ("-1.5e-3", -15, 4),
            ("1E-20", 1, 20),
            (".12345678901234", 12_345_678_901_234, 14),
            (" 0012.50 ", 1_250, 2),
            ("0", 0, 0),
            ("0.00", 0, 2),
            ("12.5e1", 125, 0),
        ] {
            assert_eq!(read(text).expect(text), ScalarValue::Decimal128(Some(unscaled), 38, scale), "{text}");
        }
        let long = format!("0.{}", "1".repeat(70));
        assert!(matches!(read(&long), Ok(ScalarValue::Decimal256(Some(_), 76, 70))));
        for (text, sqlstate) in [
            (format!("{}.{}", "1".repeat(10), "1".repeat(70)), OUT_OF_RANGE),
            ("1e77".to_owned(), OUT_OF_RANGE),
            ("1e9999999".to_owned(), OUT_OF_RANGE),
            ("1e".to_owned(), NOT_TEXT),
            (".".to_owned(), NOT_TEXT),
            ("--1".to_owned(), NOT_TEXT),
        ] {
            assert_eq!(read(&text).expect_err(&text).sqlstate, sqlstate, "{text}");
        }
    }

    #[test]
    fn what_is_no_value_is_refused_by_its_number() {
        for (wire, is_binary, bytes, wanted, sqlstate) in [
            (Type::INT4, true, &b"123"[..], DataType::Int32, NOT_BINARY),
            (Type::INT4, false, b"x", DataType::Int32, NOT_TEXT),
            (Type::INT8, true, &[255; 8], DataType::UInt64, NOT_BINARY),
            (Type::TIME, true, &(-1_i64).to_be_bytes(), DataType::Time64(TimeUnit::Microsecond), NOT_BINARY),
            (Type::DATE, false, b"soon", DataType::Date32, NOT_TEXT),
            (Type::BYTEA, false, b"\\xf", DataType::Binary, NOT_TEXT),
            (Type::NUMERIC, true, b"1", DataType::Decimal128(38, 10), NOT_BINARY),
            (Type::TEXT, false, b"\xff", DataType::Utf8, "22021"),
            (Type::TEXT, true, b"\xff", DataType::Utf8, NOT_BINARY),
        ] {
            let told = value(3, Some(bytes), is_binary, &wire, &wanted).expect_err("no value");
            assert!(told.sqlstate == sqlstate && told.message.starts_with("parameter $3: "), "{wire}: {told:?}");
        }
        assert_eq!(declared(0), Ok(None));
        assert_eq!(declared(Type::INT4.oid()), Ok(Some(Type::INT4)));
        assert_eq!(declared(Type::POINT.oid()).expect_err("no such type").sqlstate, NO_TYPE);
        assert_eq!(declared(4_000_000_000).expect_err("no such type").sqlstate, NO_TYPE);
    }
}
