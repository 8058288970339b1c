//! Values as PostgreSQL writes them, as text and as binary.
//!
//! The crate of the wire writes plain values. Its lists and records mix NULL up with empty text, its moments lose the minutes of
//! their zone, and what it cannot say becomes NULL. These are written here.

use std::fmt::Write as _;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Field, Float32Type, Float64Type, Int8Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_pg::datatypes::field_into_pg_type;
use arrow_pg::encoder::{Encoder, encode_value};
use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Offset, TimeZone};
use pgwire::api::Type;
use pgwire::api::results::{FieldFormat, FieldInfo};
use pgwire::error::PgWireResult;
use pgwire::types::ToSqlText;
use postgres_types::{IsNull, Kind, ToSql};

use super::answers::Told;

/// SQLSTATE codes of PostgreSQL.
const FAULT: &str = "XX000";
const OUT_OF_RANGE: &str = "22008";

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// Days from 1970, with which Arrow begins, to 2000, with which PostgreSQL does.
const EPOCH_DAYS: i64 = 10_957;

/// First and last day that PostgreSQL has: 4714-11-24 BC, and the last of the year 5874897.
const DAYS: std::ops::RangeInclusive<i64> = -2_440_588..=2_145_042_905;

/// Writes a value, in the format that the client was told; false, and nothing, for NULL.
///
/// # Errors
/// PostgreSQL has no such value.
pub(super) fn write(
    array: &ArrayRef,
    row: usize,
    field: &Field,
    told: &FieldInfo,
    out: &mut BytesMut,
) -> Result<bool, Told> {
    if array.is_null(row) || array.data_type().is_null() {
        return Ok(false);
    }
    let is_text = told.format() == FieldFormat::Text;
    match array.data_type() {
        DataType::Int8 => {
            let value = i16::from(array.as_primitive::<Int8Type>().value(row));
            if is_text { text(out, value) } else { out.put_i16(value) }
        }
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row), is_text, out),
        DataType::Float32
            if is_text && let Some(word) = word(array.as_primitive::<Float32Type>().value(row).into()) =>
        {
            text(out, word);
        }
        DataType::Float64 if is_text && let Some(word) = word(array.as_primitive::<Float64Type>().value(row)) => {
            text(out, word);
        }
        DataType::Date32 => date(array.as_primitive::<Date32Type>().value(row).into(), is_text, out)?,
        DataType::Date64 => {
            let milliseconds = array.as_primitive::<Date64Type>().value(row);
            date(milliseconds.div_euclid(DAY / 1_000), is_text, out)?;
        }
        DataType::Time32(_) | DataType::Time64(_) => time(microseconds(array, row), is_text, out)?,
        DataType::Timestamp(_, zone) => moment(microseconds(array, row), zone.as_deref(), is_text, out)?,
        DataType::Duration(_) if microseconds(array, row).is_none() => return Err(out_of_range("an interval")),
        DataType::List(item) => list(&array.as_list::<i32>().value(row), item, told, out)?,
        DataType::LargeList(item) => list(&array.as_list::<i64>().value(row), item, told, out)?,
        DataType::FixedSizeList(item, _) => list(&array.as_fixed_size_list().value(row), item, told, out)?,
        DataType::Struct(fields) => {
            let columns = fields.iter().map(AsRef::as_ref).zip(array.as_struct().columns());
            record(columns.collect(), row, told, out)?;
        }
        DataType::Dictionary(_, value) => {
            let plain = cast(&array.slice(row, 1), value).map_err(|error| Told::new(FAULT, error.to_string()))?;
            return write(&plain, 0, &field.clone().with_data_type(value.as_ref().clone()), told, out);
        }
        _ => {
            let mut plain = Plain { out, is_null: false };
            encode_value(&mut plain, array, row, field, told).map_err(|error| fault(&error))?;
            return Ok(!plain.is_null);
        }
    }
    Ok(true)
}

/// Makes the error of a value that cannot be written.
pub(super) fn fault(error: &dyn std::error::Error) -> Told {
    Told::new(FAULT, format!("a value cannot be sent: {error}")).with_hint("cast the column, for example to text")
}

fn out_of_range(what: &str) -> Told {
    Told::new(OUT_OF_RANGE, format!("{what} is out of the range that PostgreSQL has"))
        .with_hint("cast the column, for example to text or bigint")
}

/// Place of a plain value of the crate's.
struct Plain<'a> {
    out: &'a mut BytesMut,
    is_null: bool,
}

impl Encoder for Plain<'_> {
    type Item = ();

    fn encode_field<T>(&mut self, value: &T, told: &FieldInfo) -> PgWireResult<()>
    where
        T: ToSql + ToSqlText + Sized,
    {
        let written = match told.format() {
            FieldFormat::Text => value.to_sql_text(told.datatype(), self.out, told.format_options())?,
            FieldFormat::Binary => value.to_sql(told.datatype(), self.out)?,
        };
        self.is_null = matches!(written, IsNull::Yes);
        Ok(())
    }

    fn take_row(&mut self) {}
}

fn text(out: &mut BytesMut, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("a buffer grows");
}

fn bytes(value: &[u8], is_text: bool, out: &mut BytesMut) {
    if !is_text {
        return out.put_slice(value);
    }
    out.put_slice(b"\\x");
    value.iter().for_each(|byte| text(out, format_args!("{byte:02x}")));
}

/// Returns the word for a number without digits, or with a sign that the crate drops.
fn word(value: f64) -> Option<&'static str> {
    match value {
        f64::INFINITY => Some("Infinity"),
        f64::NEG_INFINITY => Some("-Infinity"),
        value if value == 0.0 && value.is_sign_negative() => Some("-0"),
        _ => None,
    }
}

/// Returns microseconds; None for a number of them that 64 bits do not hold.
fn microseconds(array: &ArrayRef, row: usize) -> Option<i64> {
    fn at<T: ArrowPrimitiveType>(array: &ArrayRef, row: usize) -> i64
    where
        T::Native: Into<i64>,
    {
        let values: &PrimitiveArray<T> = array.as_primitive();
        values.value(row).into()
    }
    let (value, factor) = match array.data_type() {
        DataType::Time32(TimeUnit::Second) => (at::<Time32SecondType>(array, row), 1_000_000),
        DataType::Time32(_) => (at::<Time32MillisecondType>(array, row), 1_000),
        DataType::Time64(TimeUnit::Nanosecond) => {
            return Some(at::<Time64NanosecondType>(array, row).div_euclid(1_000));
        }
        DataType::Time64(_) => (at::<Time64MicrosecondType>(array, row), 1),
        DataType::Timestamp(TimeUnit::Second, _) => (at::<TimestampSecondType>(array, row), 1_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) => (at::<TimestampMillisecondType>(array, row), 1_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => (at::<TimestampMicrosecondType>(array, row), 1),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            return Some(at::<TimestampNanosecondType>(array, row).div_euclid(1_000));
        }
        DataType::Duration(TimeUnit::Second) => (at::<DurationSecondType>(array, row), 1_000_000),
        DataType::Duration(TimeUnit::Millisecond) => (at::<DurationMillisecondType>(array, row), 1_000),
        DataType::Duration(TimeUnit::Microsecond) => (at::<DurationMicrosecondType>(array, row), 1),
        DataType::Duration(TimeUnit::Nanosecond) => (at::<DurationNanosecondType>(array, row) / 1_000, 1),
        _ => return None,
    };
    value.checked_mul(factor)
}

fn date(days: i64, is_text: bool, out: &mut BytesMut) -> Result<(), Told> {
    if !DAYS.contains(&days) {
        return Err(out_of_range("a date"));
    }
    if is_text {
        let is_before_christ = day(days, out);
        out.put_slice(if is_before_christ { b" BC" } else { b"" });
    } else {
        out.put_i32(i32::try_from(days - EPOCH_DAYS).map_err(|_| out_of_range("a date"))?);
    }
    Ok(())
}

/// Writes a day; true for one before Christ.
fn day(days: i64, out: &mut BytesMut) -> bool {
    let (year, month, day) = civil(days);
    let shown = if year > 0 { year } else { 1 - year };
    text(out, format_args!("{shown:04}-{month:02}-{day:02}"));
    year <= 0
}

/// Returns year, month and day of a day counted from 1970 on. The calendar's own crate ends at the year 262142.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years begin in March, so that a leap day is the last one.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn time(microseconds: Option<i64>, is_text: bool, out: &mut BytesMut) -> Result<(), Told> {
    let value = microseconds.filter(|value| (0..=DAY).contains(value)).ok_or_else(|| out_of_range("a time"))?;
    if is_text {
        clock(value, out)
    } else {
        out.put_i64(value)
    }
    Ok(())
}

fn clock(microseconds: i64, out: &mut BytesMut) {
    let (seconds, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
    text(out, format_args!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60));
    if fraction > 0 {
        text(out, format!(".{fraction:06}").trim_end_matches('0'));
    }
}

fn moment(microseconds: Option<i64>, zone: Option<&str>, is_text: bool, out: &mut BytesMut) -> Result<(), Told> {
    let refused = || out_of_range("a timestamp");
    let value = microseconds.filter(|value| DAYS.contains(&value.div_euclid(DAY))).ok_or_else(refused)?;
    if !is_text {
        out.put_i64(value.checked_sub(EPOCH_DAYS * DAY).ok_or_else(refused)?);
        return Ok(());
    }
    let offset = zone.map(|zone| offset(value, zone)).transpose()?;
    let local = value + offset.unwrap_or_default() * 1_000_000;
    let is_before_christ = day(local.div_euclid(DAY), out);
    out.put_u8(b' ');
    clock(local.rem_euclid(DAY), out);
    if let Some(offset) = offset {
        let (sign, seconds) = (if offset < 0 { '-' } else { '+' }, offset.abs());
        text(out, format_args!("{sign}{:02}", seconds / 3_600));
        if seconds % 3_600 > 0 {
            text(out, format_args!(":{:02}", seconds / 60 % 60));
        }
        if seconds % 60 > 0 {
            text(out, format_args!(":{:02}", seconds % 60));
        }
    }
    out.put_slice(if is_before_christ { b" BC" } else { b"" });
    Ok(())
}

/// Returns the seconds by which a zone is ahead at a moment. Beyond the calendar that zones have it is that of UTC.
fn offset(microseconds: i64, zone: &str) -> Result<i64, Told> {
    let zone: Tz = zone.parse().map_err(|error: arrow::error::ArrowError| Told::new(FAULT, error.to_string()))?;
    let moment = DateTime::from_timestamp_micros(microseconds);
    let offset = moment.map(|moment| zone.offset_from_utc_datetime(&moment.naive_utc()).fix().local_minus_utc());
    Ok(offset.unwrap_or_default().into())
}

/// Writes the values of a list.
fn list(values: &ArrayRef, item: &Field, told: &FieldInfo, out: &mut BytesMut) -> Result<(), Told> {
    let Kind::Array(of) = told.datatype().kind() else {
        return Err(Told::new(FAULT, format!("`{}` is no type of a list", told.datatype())));
    };
    let info = FieldInfo::new(String::new(), None, None, of.clone(), told.format());
    let mut part = BytesMut::new();
    if told.format() == FieldFormat::Binary {
        out.put_i32(i32::from(!values.is_empty()));
        out.put_i32(i32::from(values.logical_null_count() > 0));
        out.put_u32(of.oid());
        if !values.is_empty() {
            out.put_i32(i32::try_from(values.len()).map_err(|error| fault(&error))?);
            out.put_i32(1);
        }
        for row in 0..values.len() {
            sized(values, row, item, &info, out)?;
        }
        return Ok(());
    }
    out.put_u8(b'{');
    for row in 0..values.len() {
        if row > 0 {
            out.put_u8(b',');
        }
        part.clear();
        match write(values, row, item, &info, &mut part)? {
            true => {
                let is_quoted = part.is_empty()
                    || part.eq_ignore_ascii_case(b"NULL")
                    || part.iter().any(|byte| b"{},\"\\".contains(byte) || is_space(*byte));
                quoted(&part, is_quoted, |_| b'\\', out);
            }
            false => out.put_slice(b"NULL"),
        }
    }
    out.put_u8(b'}');
    Ok(())
}

/// Writes the values of a record.
fn record(columns: Vec<(&Field, &ArrayRef)>, row: usize, told: &FieldInfo, out: &mut BytesMut) -> Result<(), Told> {
    let mut part = BytesMut::new();
    let is_text = told.format() == FieldFormat::Text;
    if is_text {
        out.put_u8(b'(');
    } else {
        out.put_i32(i32::try_from(columns.len()).map_err(|error| fault(&error))?);
    }
    for (index, (field, array)) in columns.into_iter().enumerate() {
        let pg_type = field_into_pg_type(&field.clone().into()).unwrap_or(Type::TEXT);
        let info = FieldInfo::new(String::new(), None, None, pg_type, told.format());
        if !is_text {
            out.put_u32(info.datatype().oid());
            sized(array, row, field, &info, out)?;
            continue;
        }
        if index > 0 {
            out.put_u8(b',');
        }
        part.clear();
        if write(array, row, field, &info, &mut part)? {
            let is_quoted = part.is_empty() || part.iter().any(|byte| b"(),\"\\".contains(byte) || is_space(*byte));
            quoted(&part, is_quoted, |byte| byte, out);
        }
    }
    if is_text {
        out.put_u8(b')');
    }
    Ok(())
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// Writes a part of a list or record. In quotes another sign goes before quotes and backslashes.
fn quoted(part: &[u8], is_quoted: bool, before: impl Fn(u8) -> u8, out: &mut BytesMut) {
    if !is_quoted {
        return out.put_slice(part);
    }
    out.put_u8(b'"');
    for byte in part {
        if b"\"\\".contains(byte) {
            out.put_u8(before(*byte));
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

/// Writes a value after the number of its bytes, which is -1 for NULL.
pub(super) fn sized(
    array: &ArrayRef,
    row: usize,
    field: &Field,
    told: &FieldInfo,
    out: &mut BytesMut,
) -> Result<(), Told> {
    with_size(out, |out| write(array, row, field, told, out))
}

/// Writes the number of bytes before what is written; -1 if it is nothing.
pub(super) fn with_size(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<bool, Told>,
) -> Result<(), Told> {
    let start = out.len();
    out.put_i32(-1);
    if write(out)? {
        let length = i32::try_from(out.len() - start - 4).map_err(|error| fault(&error))?;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    } else {
        out.truncate(start + 4);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, DurationSecondArray, Float64Array, Int8Array, IntervalMonthDayNanoArray, ListArray, NullArray,
        StringArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampSecondArray,
    };
    use arrow::datatypes::{Fields, Int32Type};

    use super::*;

    fn written(array: ArrayRef, is_binary: bool) -> Result<Option<Vec<u8>>, Told> {
        let field = Field::new("v", array.data_type().clone(), true);
        let pg_type = field_into_pg_type(&Arc::new(field.clone())).unwrap_or(Type::TEXT);
        let format = if is_binary { FieldFormat::Binary } else { FieldFormat::Text };
        let info = FieldInfo::new(String::new(), None, None, pg_type, format);
        let mut out = BytesMut::new();
        let is_some = write(&array, 0, &field, &info, &mut out)?;
        Ok(is_some.then(|| out.to_vec()))
    }

    fn micros(value: i64, zone: &str) -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![value]).with_timezone(zone))
    }

    fn pair(a: Option<&str>, b: &str) -> ArrayRef {
        let fields: Fields = vec![Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Utf8, true)].into();
        let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec![a])), Arc::new(StringArray::from(vec![b]))];
        Arc::new(StructArray::new(fields, columns, None))
    }

    #[test]
    fn text_is_postgresqls() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None])]);
        let words = StringArray::from(vec![Some("a b"), None, Some(""), Some("null"), Some("q\"\\"), Some("x")]);
        let item = Arc::new(Field::new("item", DataType::Utf8, true));
        let words = ListArray::new(item, arrow::buffer::OffsetBuffer::from_lengths([6]), Arc::new(words), None);
        for (array, expect) in [
            (Arc::new(NullArray::new(1)) as ArrayRef, None),
            (Arc::new(IntervalMonthDayNanoArray::new_null(1)), None),
            (Arc::new(Int8Array::from(vec![-7])), Some("-7")),
            (Arc::new(Float64Array::from(vec![f64::NEG_INFINITY])), Some("-Infinity")),
            (Arc::new(Float64Array::from(vec![-0.0])), Some("-0")),
            (Arc::new(Float64Array::from(vec![f64::NAN])), Some("NaN")),
            (Arc::new(Date32Array::from(vec![19_782])), Some("2024-02-29")),
            (Arc::new(Date32Array::from(vec![-1])), Some("1969-12-31")),
            (Arc::new(Date32Array::from(vec![2_932_897])), Some("10000-01-01")),
            // Caesar died on the Ides of March in 44 BC, which is the 13th in the calendar of today.
            (Arc::new(Date32Array::from(vec![-735_162])), Some("0044-03-13 BC")),
            (Arc::new(Date32Array::from(vec![2_145_042_905])), Some("5874897-12-31")),
            (Arc::new(Time64MicrosecondArray::from(vec![86_400_000_000])), Some("24:00:00")),
            (Arc::new(Time64MicrosecondArray::from(vec![3_723_500_000])), Some("01:02:03.5")),
            (micros(1_704_067_200_000_000, "Asia/Kolkata"), Some("2024-01-01 05:30:00+05:30")),
            (micros(1_704_067_200_000_001, "America/St_Johns"), Some("2023-12-31 20:30:00.000001-03:30")),
            (micros(1_704_067_200_000_000, "+00:00"), Some("2024-01-01 00:00:00+00")),
            (micros(i64::MAX, "Asia/Kolkata"), Some("294247-01-10 04:00:54.775807+00")),
            (pair(None, "x)"), Some("(,\"x)\")")),
            (pair(Some(""), "q\"\\"), Some("(\"\",\"q\"\"\\\\\")")),
            (Arc::new(list), Some("{1,NULL}")),
            (Arc::new(words), Some("{\"a b\",NULL,\"\",\"null\",\"q\\\"\\\\\",x}")),
        ] {
            let name = format!("{array:?}");
            let seen = written(array, false).expect(&name).map(|bytes| String::from_utf8(bytes).expect("text"));
            assert_eq!(seen.as_deref(), expect, "{name}");
        }
    }

    #[test]
    fn binary_is_postgresqls() {
        let list = ListArray::from_iter_primitive::<Int8Type, _, _>(vec![Some(vec![Some(1), None])]);
        let of_list =
            [&1_i32.to_be_bytes()[..], &1_i32.to_be_bytes(), &21_i32.to_be_bytes(), &2_i32.to_be_bytes()].concat();
        let of_list = [&of_list[..], &1_i32.to_be_bytes(), &2_i32.to_be_bytes(), &[0, 1], &[255; 4]].concat();
        let of_pair = [&2_i32.to_be_bytes()[..], &25_i32.to_be_bytes(), &[255; 4], &25_i32.to_be_bytes()].concat();
        let of_pair = [&of_pair[..], &1_i32.to_be_bytes(), b"x"].concat();
        for (array, expect) in [
            (Arc::new(Int8Array::from(vec![-7])) as ArrayRef, Some(vec![255, 249])),
            (Arc::new(IntervalMonthDayNanoArray::new_null(1)), None),
            (Arc::new(Date32Array::from(vec![10_958])), Some(vec![0, 0, 0, 1])),
            (micros(946_684_800_000_001, "Asia/Kolkata"), Some(vec![0, 0, 0, 0, 0, 0, 0, 1])),
            (Arc::new(list), Some(of_list)),
            (pair(None, "x"), Some(of_pair)),
        ] {
            let name = format!("{array:?}");
            assert_eq!(written(array, true).expect(&name), expect, "{name}");
        }
    }

    #[test]
    fn a_value_that_postgresql_does_not_have_is_an_error() {
        for array in [
            Arc::new(Date32Array::from(vec![i32::MAX])) as ArrayRef,
            Arc::new(Date32Array::from(vec![i32::MIN])),
            Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN])),
            Arc::new(TimestampSecondArray::from(vec![i64::MAX])),
            Arc::new(Time64MicrosecondArray::from(vec![-1])),
            Arc::new(Time64MicrosecondArray::from(vec![86_400_000_001])),
            Arc::new(DurationSecondArray::from(vec![i64::MAX])),
        ] {
            for is_binary in [false, true] {
                let told = written(Arc::clone(&array), is_binary).expect_err("out of range");
                assert_eq!(told.sqlstate, OUT_OF_RANGE, "{array:?}");
            }
        }
    }
}
