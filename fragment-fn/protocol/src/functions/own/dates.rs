//! Dates and times: units added and counted, and texts of MySQL's, Joda's and ISO's forms.
//!
//! Days and longer units are those of the time's own zone. A time without a zone in a text is in UTC.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Int64Array, PrimitiveArray, TimestampMicrosecondArray, make_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Int64Type, IntervalMonthDayNano, TimeUnit};
use chrono::{
    DateTime, Datelike, Days, LocalResult, Months, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone,
    Weekday,
};
use datafusion::common::{DataFusionError, Result};

use super::rows::Kind::{Integer, Text, Time};
use super::rows::{Cells, Last, Returns, Row, UTC};
use super::time_format::{Form, fraction, offset, to_utc};
use crate::Advised;

const fn row(
    name: &'static str,
    arguments: &'static [(&'static str, super::rows::Kind)],
    returns: Returns,
    body: fn(&Cells) -> Result<ArrayRef>,
) -> Row {
    Row { name, aliases: &[], arguments, optional: 0, returns, body }
}

pub(super) static TABLE: &[Row] = &[
    row("date_add", &[("unit", Text), ("n", Integer), ("time", Time)], Returns::Argument(2), add),
    Row {
        name: "last_day_of_month",
        aliases: &["last_day"],
        arguments: &[("time", Time)],
        optional: 0,
        returns: Returns::Date,
        body: last_day,
    },
    row("date_diff", &[("unit", Text), ("from", Time), ("to", Time)], Returns::Integer, diff),
    row("date_format", &[("time", Time), ("format", Text)], Returns::Text, |cells| write(cells, Form::mysql)),
    row("format_datetime", &[("time", Time), ("format", Text)], Returns::Text, |cells| write(cells, Form::joda)),
    row("date_parse", &[("text", Text), ("format", Text)], Returns::Timestamp, date_parse),
    row("parse_datetime", &[("text", Text), ("format", Text)], Returns::Instant, parse_datetime),
    row("from_iso8601_timestamp", &[("text", Text)], Returns::Instant, from_iso8601_timestamp),
    row("from_iso8601_date", &[("text", Text)], Returns::Date, from_iso8601_date),
];

/// Nanoseconds of a unit of a timestamp.
fn nanos(of: TimeUnit) -> i64 {
    match of {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Millis(i64),
    Days(i64),
    Months(i64),
}

impl Unit {
    fn parsed(text: &str) -> Result<Self> {
        let lower = text.to_lowercase();
        Ok(match lower.strip_suffix('s').unwrap_or(&lower) {
            "millisecond" => Self::Millis(1),
            "second" => Self::Millis(1_000),
            "minute" => Self::Millis(60_000),
            "hour" => Self::Millis(3_600_000),
            "day" => Self::Days(1),
            "week" => Self::Days(7),
            "month" => Self::Months(1),
            "quarter" => Self::Months(3),
            "year" => Self::Months(12),
            _ => {
                let hint = "it is millisecond, second, minute, hour, day, week, month, quarter or year";
                return Err(Advised::new(format!("`{text}` is no unit of time"), hint).into());
            }
        })
    }
}

fn beyond(what: &str) -> DataFusionError {
    Advised::new(format!("{what} is beyond what the type holds"), "check the number of units").into()
}

/// Longest stretch that clocks skip, and more.
const SKIPPED_MAX: TimeDelta = TimeDelta::hours(25);

/// Type and zone of times.
pub(super) struct Clock {
    of: DataType,
    /// None where days are those of UTC.
    zone: Option<Tz>,
}

impl Clock {
    pub(super) fn of(times: &DataType) -> Result<Self> {
        let zone = match times {
            DataType::Timestamp(_, Some(zone)) if !matches!(zone.as_ref(), "UTC" | UTC | "Z") => {
                Some(Tz::from_str(zone)?)
            }
            _ => None,
        };
        Ok(Self { of: times.clone(), zone })
    }

    /// Returns the time of a value in UTC.
    fn utc(&self, value: i64) -> Option<NaiveDateTime> {
        let DataType::Timestamp(unit, _) = self.of else {
            return DateTime::from_timestamp(value.checked_mul(86_400)?, 0).map(|time| time.naive_utc());
        };
        let unit = nanos(unit);
        let per_second = 1_000_000_000 / unit;
        let (seconds, rest) = (value.div_euclid(per_second), value.rem_euclid(per_second));
        Some(DateTime::from_timestamp(seconds, u32::try_from(rest * unit).ok()?)?.naive_utc())
    }

    /// Returns the local time of a value.
    fn local(&self, value: i64) -> Option<NaiveDateTime> {
        let time = self.utc(value)?;
        Some(self.zone.map_or(time, |zone| zone.from_utc_datetime(&time).naive_local()))
    }

    /// Returns the value of a local time that was moved from the value `from`. Of a time that clocks show twice it is the one
    /// with the offset that `from` had. A time that they skip is as long after their jump.
    fn value(&self, local: NaiveDateTime, from: i64) -> Option<i64> {
        let time = match self.zone {
            Some(zone) => match zone.from_local_datetime(&local) {
                LocalResult::Single(time) => time.naive_utc(),
                LocalResult::Ambiguous(first, second) => {
                    let is_second = second.offset().fix().local_minus_utc() == self.offset(from)?;
                    if is_second { second.naive_utc() } else { first.naive_utc() }
                }
                LocalResult::None => {
                    let before = zone.from_local_datetime(&local.checked_sub_signed(SKIPPED_MAX)?).earliest()?;
                    local.checked_sub_signed(TimeDelta::seconds(before.offset().fix().local_minus_utc().into()))?
                }
            },
            None => local,
        }
        .and_utc();
        match &self.of {
            DataType::Timestamp(TimeUnit::Second, _) => Some(time.timestamp()),
            DataType::Timestamp(TimeUnit::Millisecond, _) => Some(time.timestamp_millis()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Some(time.timestamp_micros()),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => time.timestamp_nanos_opt(),
            _ => Some(time.timestamp().div_euclid(86_400)),
        }
    }

    /// Returns the zone's offset from UTC at a value, in seconds.
    fn offset(&self, value: i64) -> Option<i32> {
        let offset = |zone: Tz, utc| zone.offset_from_utc_datetime(&utc).fix().local_minus_utc();
        let utc = self.utc(value)?;
        Some(self.zone.map_or(0, |zone| offset(zone, utc)))
    }
}

/// Returns the values of times as 64 bits: days, or units of the timestamps.
pub(super) fn values(times: &ArrayRef) -> Result<PrimitiveArray<Int64Type>> {
    let integers = match times.data_type() {
        DataType::Date32 => cast(&cast(times, &DataType::Int32)?, &DataType::Int64)?,
        _ => cast(times, &DataType::Int64)?,
    };
    Ok(integers.as_primitive::<Int64Type>().clone())
}

fn added(clock: &Clock, unit: Unit, n: i64, value: i64) -> Option<i64> {
    let local = || clock.local(value);
    match (unit, &clock.of) {
        (Unit::Millis(millis), DataType::Timestamp(unit, _)) => {
            value.checked_add(n.checked_mul(millis)?.checked_mul(1_000_000 / nanos(*unit))?)
        }
        (Unit::Millis(_), _) => None,
        (Unit::Days(days), _) => {
            let days = n.checked_mul(days)?;
            let moved = match u64::try_from(days) {
                Ok(days) => local()?.checked_add_days(Days::new(days)),
                Err(_) => local()?.checked_sub_days(Days::new(days.unsigned_abs())),
            };
            clock.value(moved?, value)
        }
        (Unit::Months(months), _) => {
            let months = n.checked_mul(months)?;
            let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
            let moved =
                if months < 0 { local()?.checked_sub_months(count) } else { local()?.checked_add_months(count) };
            clock.value(moved?, value)
        }
    }
}

/// Returns `n` months and days and nanoseconds after a value, each of them added once.
pub(super) fn stepped(clock: &Clock, value: i64, n: i64, step: IntervalMonthDayNano) -> Option<i64> {
    let value = added(clock, Unit::Months(step.months.into()), n, value)?;
    let value = added(clock, Unit::Days(step.days.into()), n, value)?;
    match &clock.of {
        DataType::Timestamp(unit, _) => value.checked_add(n.checked_mul(step.nanoseconds)? / nanos(*unit)),
        _ => Some(value),
    }
}

fn add(cells: &Cells) -> Result<ArrayRef> {
    let (unit, n) = (cells.text(0), cells.integer(1));
    let times = cells.spread(2)?;
    let (clock, values) = (Clock::of(times.data_type())?, values(&times)?);
    let is_date = *times.data_type() == DataType::Date32;
    let mut units = Last::new();
    let moved: Int64Array = cells.each(|row| {
        let parsed = *units.get(unit.at(row), Unit::parsed)?;
        if is_date && matches!(parsed, Unit::Millis(_)) {
            let message = format!("date_add of {}s to a date has no date", unit.at(row));
            return Err(Advised::new(message, "CAST(x AS TIMESTAMP) has hours").into());
        }
        let moved = added(&clock, parsed, n.at(row), values.value(row));
        moved.map(Some).ok_or_else(|| beyond("the result of date_add"))
    })?;
    if is_date {
        let days: Option<Vec<Option<i32>>> =
            moved.iter().map(|days| days.map_or(Some(None), |days| i32::try_from(days).ok().map(Some))).collect();
        let days = days.ok_or_else(|| beyond("the result of date_add"))?;
        return Ok(Arc::new(Date32Array::from(days)));
    }
    // The values are those of the type already.
    Ok(make_array(moved.into_data().into_builder().data_type(times.data_type().clone()).build()?))
}

/// Counts whole units from `from` to `to`. A month is whole at the same day and time, and at the last day of a shorter
/// month.
fn counted(clock: &Clock, unit: Unit, from: i64, to: i64) -> Option<i64> {
    match (unit, &clock.of) {
        (Unit::Millis(millis), DataType::Timestamp(unit, _)) => {
            Some(to.checked_sub(from)? / millis / (1_000_000 / nanos(*unit)))
        }
        (Unit::Millis(millis), _) => Some(to.checked_sub(from)?.checked_mul(86_400_000)? / millis),
        (Unit::Days(days), _) => {
            let between = clock.local(to)?.signed_duration_since(clock.local(from)?);
            Some(between.num_days() / days)
        }
        (Unit::Months(months), _) => {
            let (from, to) = (clock.local(from)?, clock.local(to)?);
            let whole = if from <= to { whole_months(from, to) } else { -whole_months(to, from) };
            Some(whole / months)
        }
    }
}

/// Counts as Joda does, in `BasicMonthOfYearDateTimeField`.
fn whole_months(from: NaiveDateTime, to: NaiveDateTime) -> i64 {
    let months = |time: &NaiveDateTime| i64::from(time.year()) * 12 + i64::from(time.month0());
    let is_last_day = to.date().succ_opt().is_none_or(|next| next.day() == 1);
    let day = if is_last_day { from.day().min(to.day()) } else { from.day() };
    months(&to) - months(&from) - i64::from((to.day(), to.time()) < (day, from.time()))
}

fn last_day(cells: &Cells) -> Result<ArrayRef> {
    let times = cells.spread(0)?;
    let (clock, values) = (Clock::of(times.data_type())?, values(&times)?);
    let last = |value: i64| {
        let day = clock.local(value)?.date();
        let last = day.with_day(1)?.checked_add_months(Months::new(1))?.pred_opt()?;
        i32::try_from(last.signed_duration_since(NaiveDate::default()).num_days()).ok()
    };
    let days: Date32Array =
        cells.each(|row| last(values.value(row)).map(Some).ok_or_else(|| beyond("the last day of a month")))?;
    Ok(Arc::new(days))
}

fn diff(cells: &Cells) -> Result<ArrayRef> {
    let unit = cells.text(0);
    let (from, to) = (cells.spread(1)?, cells.spread(2)?);
    let clock = Clock::of(from.data_type())?;
    let (from, to) = (values(&from)?, values(&to)?);
    let mut units = Last::new();
    let counts: Int64Array = cells.each(|row| {
        let unit = *units.get(unit.at(row), Unit::parsed)?;
        counted(&clock, unit, from.value(row), to.value(row)).map(Some).ok_or_else(|| beyond("the result of date_diff"))
    })?;
    Ok(Arc::new(counts))
}

fn write(cells: &Cells, form: fn(&str) -> Result<Form>) -> Result<ArrayRef> {
    let times = cells.spread(0)?;
    let (clock, values) = (Clock::of(times.data_type())?, values(&times)?);
    let zone = match times.data_type() {
        DataType::Timestamp(_, Some(zone)) if zone.as_ref() != UTC => zone.to_string(),
        _ => "UTC".to_owned(),
    };
    let text = cells.text(1);
    let mut forms = Last::new();
    cells.texts(|row| {
        let form = forms.get(text.at(row), form)?;
        let value = values.value(row);
        let (Some(local), Some(offset)) = (clock.local(value), clock.offset(value)) else {
            return Err(beyond("a time's year"));
        };
        form.write(local, (&zone, offset)).map(Some)
    })
}

fn date_parse(cells: &Cells) -> Result<ArrayRef> {
    let (text, form) = (cells.text(0), cells.text(1));
    let mut forms = Last::new();
    let times: TimestampMicrosecondArray = cells.each(|row| {
        let (time, _) = forms.get(form.at(row), Form::mysql)?.read(text.at(row))?;
        Ok(Some(time.and_utc().timestamp_micros()))
    })?;
    Ok(Arc::new(times))
}

fn instants(times: TimestampMicrosecondArray) -> ArrayRef {
    Arc::new(times.with_timezone(UTC))
}

fn parse_datetime(cells: &Cells) -> Result<ArrayRef> {
    let (text, form) = (cells.text(0), cells.text(1));
    let mut forms = Last::new();
    let times: TimestampMicrosecondArray = cells.each(|row| {
        let (time, zone) = forms.get(form.at(row), Form::joda_to_read)?.read(text.at(row))?;
        let time = zone.map_or(Some(time), |zone| to_utc(time, zone));
        Ok(Some(time.ok_or_else(|| beyond("a time that clocks skip"))?.and_utc().timestamp_micros()))
    })?;
    Ok(instants(times))
}

/// Reads a text of ISO 8601.
fn iso<T>(text: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T> {
    read(text).ok_or_else(|| {
        let cut: String = text.chars().take(60).collect();
        let hint = "it is like 2024-01-31, 2024-W05-3, 2024-031 and 2024-01-31T13:05:09.123+01:00";
        Advised::new(format!("'{cut}' is no date or time of ISO 8601"), hint).into()
    })
}

/// Reads `2024`, `2024-01`, `2024-01-31`, `2024-W05`, `2024-W05-3` or `2024-031`.
fn iso_date(text: &str) -> Option<NaiveDate> {
    let number = |part: &str, digits: usize| {
        let is_number = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { part.parse::<u32>().ok() } else { None }
    };
    let mut parts = text.split('-');
    let year = number(parts.next()?, 4)?.cast_signed();
    let parts: Vec<&str> = parts.collect();
    match parts.as_slice() {
        [] => NaiveDate::from_ymd_opt(year, 1, 1),
        [week] if week.starts_with('W') => NaiveDate::from_isoywd_opt(year, number(&week[1..], 2)?, Weekday::Mon),
        [week, day] if week.starts_with('W') => {
            let day = u8::try_from(number(day, 1)?.checked_sub(1)?).ok()?;
            NaiveDate::from_isoywd_opt(year, number(&week[1..], 2)?, Weekday::try_from(day).ok()?)
        }
        [day] if day.len() == 3 => NaiveDate::from_yo_opt(year, number(day, 3)?),
        [month] => NaiveDate::from_ymd_opt(year, number(month, 2)?, 1),
        [month, day] => NaiveDate::from_ymd_opt(year, number(month, 2)?, number(day, 2)?),
        _ => None,
    }
}

/// Reads a date, or a time behind a `T`, with its offset or in UTC.
fn iso_timestamp(text: &str) -> Option<NaiveDateTime> {
    let Some((date, time)) = text.split_once('T') else { return Some(iso_date(text)?.and_time(NaiveTime::MIN)) };
    let end = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(end);
    let (whole, nanos) = match time.split_once(['.', ',']) {
        Some((whole, digits)) => (whole, fraction(digits).filter(|(_, rest)| rest.is_empty())?.0),
        None => (time, 0),
    };
    let number = |part: &str| (part.len() == 2).then(|| part.parse::<u32>().ok()).flatten();
    let parts: Option<Vec<u32>> = whole.split(':').map(number).collect();
    let (hour, minute, second) = match *parts? {
        [hour] if nanos == 0 => (hour, 0, 0),
        [hour, minute] if nanos == 0 => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let local = iso_date(date)?.and_time(NaiveTime::from_hms_nano_opt(hour, minute, second, nanos)?);
    if zone.is_empty() {
        return Some(local);
    }
    let (zone, rest) = offset(zone)?;
    if rest.is_empty() { to_utc(local, zone) } else { None }
}

fn from_iso8601_timestamp(cells: &Cells) -> Result<ArrayRef> {
    let text = cells.text(0);
    let times: TimestampMicrosecondArray =
        cells.each(|row| Ok(Some(iso(text.at(row), iso_timestamp)?.and_utc().timestamp_micros())))?;
    Ok(instants(times))
}

fn from_iso8601_date(cells: &Cells) -> Result<ArrayRef> {
    let text = cells.text(0);
    let epoch = NaiveDate::default();
    let dates: PrimitiveArray<Date32Type> = cells.each(|row| {
        let days = iso(text.at(row), iso_date)?.signed_duration_since(epoch).num_days();
        Ok(Some(i32::try_from(days).map_err(|_| beyond("a date"))?))
    })?;
    Ok(Arc::new(dates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock { of: DataType::Timestamp(TimeUnit::Microsecond, None), zone: None }
    }

    fn at(text: &str) -> i64 {
        clock().value(iso_timestamp(text).expect(text), 0).expect(text)
    }

    #[test]
    fn units_are_added() {
        for (unit, n, from, expect) in [
            ("month", 1, "2024-01-31", "2024-02-29"),
            ("month", -1, "2024-03-31T12:00:00", "2024-02-29T12:00:00"),
            ("quarter", 1, "2023-11-30", "2024-02-29"),
            ("year", 1, "2024-02-29", "2025-02-28"),
            ("week", -1, "2024-03-01", "2024-02-23"),
            ("DAY", 366, "2024-01-01", "2025-01-01"),
            ("second", 86, "2020-03-01", "2020-03-01T00:01:26"),
            ("hours", -1, "1970-01-01", "1969-12-31T23:00:00"),
            ("millisecond", 1500, "1970-01-01", "1970-01-01T00:00:01.5"),
        ] {
            let unit = Unit::parsed(unit).expect(unit);
            assert_eq!(added(&clock(), unit, n, at(from)), Some(at(expect)), "{unit:?} {n} {from}");
        }
        assert!(Unit::parsed("fortnight").is_err());
        assert_eq!(added(&clock(), Unit::Months(12), i64::MAX, 0), None);
        let dates = Clock { of: DataType::Date32, zone: None };
        assert_eq!(added(&dates, Unit::Months(1), 1, 0), Some(31));
        assert_eq!(added(&dates, Unit::Millis(1), 1, 0), None);
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let zone = Tz::from_str("Europe/Berlin").expect("a zone");
        let berlin =
            Clock { of: DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into())), zone: Some(zone) };
        // Clocks are turned on in the night to 31 March 2024.
        assert_eq!(added(&berlin, Unit::Days(1), 1, at("2024-03-30T12:00:00")), Some(at("2024-03-31T11:00:00")));
        assert_eq!(counted(&berlin, Unit::Days(1), at("2024-03-30T12:00:00"), at("2024-03-31T11:00:00")), Some(1));
        assert_eq!(
            counted(&berlin, Unit::Millis(3_600_000), at("2024-03-30T12:00:00"), at("2024-03-31T11:00:00")),
            Some(23)
        );
        assert_eq!(berlin.offset(at("2024-07-01")), Some(7200));
        // They are turned back in the night to 27 October 2024, and show 02:30 at 00:30 and at 01:30 in UTC.
        assert_eq!(berlin.offset(at("2024-10-27T00:30:00")), Some(7200));
        assert_eq!(berlin.offset(at("2024-10-27T01:30:00")), Some(3600));
        for hour in ["00", "01"] {
            let twice = at(&format!("2024-10-27T{hour}:30:00"));
            assert_eq!(added(&berlin, Unit::Days(1), 0, twice), Some(twice));
        }
        // Moved from a day in summer it is the first of the two, and from one in winter the second.
        assert_eq!(added(&berlin, Unit::Days(1), 1, at("2024-10-26T00:30:00")), Some(at("2024-10-27T00:30:00")));
        assert_eq!(added(&berlin, Unit::Days(1), -1, at("2024-10-28T01:30:00")), Some(at("2024-10-27T01:30:00")));
        // 02:30 is skipped.
        assert_eq!(added(&berlin, Unit::Days(1), 1, at("2024-03-30T01:30:00")), Some(at("2024-03-31T01:30:00")));
        // Clocks of this island skip half an hour in the night to 6 October 2024.
        let zone = Tz::from_str("Australia/Lord_Howe").expect("a zone");
        let howe = Clock {
            of: DataType::Timestamp(TimeUnit::Microsecond, Some("Australia/Lord_Howe".into())),
            zone: Some(zone),
        };
        assert_eq!(added(&howe, Unit::Days(1), 1, at("2024-10-04T15:45:00")), Some(at("2024-10-05T15:45:00")));
    }

    #[test]
    fn whole_units_are_counted() {
        for (unit, from, to, expect) in [
            ("day", "2020-03-01", "2020-03-02", 1),
            ("day", "2020-03-01T12:00:00", "2020-03-02T11:59:59", 0),
            ("month", "2024-01-31", "2024-02-01", 0),
            ("month", "2024-01-31", "2024-02-29", 1),
            ("month", "2024-01-30", "2024-03-29", 1),
            ("month", "2024-03-31", "2024-02-29", -1),
            ("year", "2024-02-29", "2025-02-28", 1),
            ("year", "2024-03-01", "2025-02-28", 0),
            ("quarter", "2024-01-01", "2024-12-31", 3),
            ("week", "2024-01-01", "2024-01-14", 1),
            ("hour", "2024-01-02", "2024-01-01T00:30:00", -23),
            ("second", "1969-12-31T23:59:59.5", "1970-01-01T00:00:00.4", 0),
            ("millisecond", "1970-01-01", "1970-01-01T00:00:00.0019", 1),
        ] {
            let parsed = Unit::parsed(unit).expect(unit);
            assert_eq!(counted(&clock(), parsed, at(from), at(to)), Some(expect), "{unit} {from} {to}");
        }
    }

    #[test]
    fn texts_of_iso_8601_are_read() {
        for (text, expect) in [
            ("2020-05-11", "2020-05-11"),
            ("2020-05", "2020-05-01"),
            ("2020", "2020-01-01"),
            ("2020-W10", "2020-03-02"),
            ("2020-W10-3", "2020-03-04"),
            ("2020-123", "2020-05-02"),
        ] {
            assert_eq!(iso_date(text).map(|date| date.to_string()).as_deref(), Some(expect), "{text}");
        }
        for (text, expect) in [
            ("2020-05-11T11:15:05+01:00", "2020-05-11 10:15:05"),
            ("2020-05-11T11:15:05.055-0330", "2020-05-11 14:45:05.055"),
            ("2020-05-11T11:15Z", "2020-05-11 11:15:00"),
            ("2020-05-11T11", "2020-05-11 11:00:00"),
            ("2020-W10T01:00:00", "2020-03-02 01:00:00"),
        ] {
            assert_eq!(iso_timestamp(text).map(|time| time.to_string()).as_deref(), Some(expect), "{text}");
        }
        for text in [
            "",
            "2020-13",
            "2020-05-32",
            "20-05-11",
            "2020-05-11 11:15",
            "2020-05-11T",
            "2020-05-11T25",
            "2020-05-11T11:15:05+1",
            "2020-05-11T11:5",
        ] {
            assert_eq!(iso_timestamp(text), None, "{text}");
        }
    }
}
