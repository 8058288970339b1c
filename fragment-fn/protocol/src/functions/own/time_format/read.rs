//! Texts as times.

use arrow::array::timezone::Tz;
use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Weekday};
use datafusion::common::Result;

use super::{Form, HALVES, Item, MONTHS, Part, WEEKDAYS, named};
use crate::Advised;

/// Parts of a time that a text has.
#[derive(Debug, Default)]
struct Parts {
    year: Option<i32>,
    week_year: Option<i32>,
    week: Option<u32>,
    month: Option<u32>,
    day: Option<u32>,
    day_of_year: Option<u32>,
    day_of_week: Option<u32>,
    hour: Option<u32>,
    hour_of_half: Option<u32>,
    is_afternoon: bool,
    minute: u32,
    second: u32,
    nanos: u32,
    zone: Option<Tz>,
}

impl Form {
    /// Reads a local time, with its zone where the text has one.
    ///
    /// # Errors
    /// A text that does not fit.
    pub(in crate::functions::own) fn read(&self, text: &str) -> Result<(NaiveDateTime, Option<Tz>)> {
        self.parts(text).and_then(|parts| parts.time().map(|time| (time, parts.zone))).ok_or_else(|| {
            let cut: String = text.chars().take(60).collect();
            Advised::new(
                format!("the text '{cut}' does not fit the format '{}'", self.text),
                "try(...) around the call is NULL where the text does not fit",
            )
            .into()
        })
    }

    fn parts(&self, text: &str) -> Option<Parts> {
        let mut parts = Parts::default();
        let mut rest = text;
        for item in &self.items {
            rest = match item {
                Item::Literal(literal) => rest.strip_prefix(literal.as_str())?,
                Item::Number(part, _, most) => {
                    let (number, rest) = number(rest, *most, *part == Part::Year)?;
                    parts.set(*part, number)?;
                    rest
                }
                // Joda reads long and short names by either letter.
                Item::Month { .. } => {
                    let (month, rest) = name(rest, &MONTHS, true)?;
                    parts.month = Some(month + 1);
                    rest
                }
                Item::Weekday { .. } => {
                    let (day, rest) = name(rest, &WEEKDAYS, true)?;
                    parts.day_of_week = Some(day + 1);
                    rest
                }
                Item::Half => {
                    let (half, rest) = name(rest, &HALVES, false)?;
                    parts.is_afternoon = half == 1;
                    rest
                }
                Item::Fraction(_) => {
                    let (nanos, rest) = fraction(rest)?;
                    parts.nanos = nanos;
                    rest
                }
                Item::Offset { .. } => {
                    let (zone, rest) = offset(rest)?;
                    parts.zone = Some(zone);
                    rest
                }
                Item::Zone | Item::ZoneName => {
                    let is_of_name =
                        |sign: char| sign.is_ascii_alphanumeric() || matches!(sign, '/' | '_' | '+' | '-' | ':');
                    let end = rest.find(|sign| !is_of_name(sign)).unwrap_or(rest.len());
                    let (name, rest) = rest.split_at(end);
                    parts.zone = Some(if name == "Z" { "UTC" } else { name }.parse().ok()?);
                    rest
                }
            };
        }
        rest.is_empty().then_some(parts)
    }
}

impl Parts {
    fn set(&mut self, part: Part, number: i32) -> Option<()> {
        let unsigned = number.unsigned_abs();
        match part {
            Part::Year => self.year = Some(number),
            Part::YearOfCentury => self.year = Some(number + if number < 70 { 2000 } else { 1900 }),
            Part::WeekYear => self.week_year = Some(number),
            Part::Week => self.week = Some(unsigned),
            Part::Month => self.month = Some(unsigned),
            Part::Day => self.day = Some(unsigned),
            Part::DayOfYear => self.day_of_year = Some(unsigned),
            Part::DayOfWeek => self.day_of_week = Some(unsigned),
            Part::Hour => self.hour = Some(unsigned),
            Part::HourFrom1 => {
                self.hour = Some(unsigned).filter(|hour| (1..=24).contains(hour)).map(|hour| hour % 24);
                self.hour?;
            }
            Part::HourOfHalf => {
                self.hour_of_half = Some(unsigned).filter(|hour| (1..=12).contains(hour)).map(|hour| hour % 12);
                self.hour_of_half?;
            }
            Part::HourOfHalfFrom0 => {
                self.hour_of_half = Some(unsigned).filter(|hour| *hour < 12);
                self.hour_of_half?;
            }
            Part::Minute => self.minute = unsigned,
            Part::Second => self.second = unsigned,
        }
        Some(())
    }

    /// Returns the time. What the text does not say is that of 1970-01-01T00:00:00, but the year of a month or a day is
    /// 2000, as Joda has it.
    fn time(&self) -> Option<NaiveDateTime> {
        let is_of_year = self.month.is_some() || self.day.is_some() || self.day_of_year.is_some();
        let year = self.year.unwrap_or(if is_of_year { 2000 } else { 1970 });
        let weekday = match self.day_of_week {
            Some(day) => Some(Weekday::try_from(u8::try_from(day.checked_sub(1)?).ok()?).ok()?),
            None => None,
        };
        let date = match (self.day_of_year, self.week) {
            (Some(day), _) => NaiveDate::from_yo_opt(year, day)?,
            (None, Some(week)) => {
                let year = self.week_year.or(self.year).unwrap_or(2000);
                NaiveDate::from_isoywd_opt(year, week, weekday.unwrap_or(Weekday::Mon))?
            }
            _ => NaiveDate::from_ymd_opt(year, self.month.unwrap_or(1), self.day.unwrap_or(1))?,
        };
        let is_that_day = weekday.is_none_or(|weekday| date.weekday() == weekday);
        if !is_that_day && (self.day.is_some() || self.day_of_year.is_some()) {
            return None;
        }
        let of_half = self.hour_of_half.map(|hour| hour + if self.is_afternoon { 12 } else { 0 });
        let hour = self.hour.or(of_half).unwrap_or(if self.is_afternoon { 12 } else { 0 });
        let time = NaiveTime::from_hms_nano_opt(hour, self.minute, self.second, self.nanos)?;
        Some(date.and_time(time))
    }
}

/// Reads a number of at most so many digits, and returns the text behind it.
fn number(text: &str, most: usize, may_be_negative: bool) -> Option<(i32, &str)> {
    let (sign, digits) = match text.strip_prefix('-').filter(|_| may_be_negative) {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let end = digits.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(digits.len()).min(most);
    let (digits, rest) = digits.split_at(end);
    Some((sign * digits.parse::<i32>().ok()?, rest))
}

/// Reads one of the names, in letters of any case. A short one may be written out.
fn name<'a>(text: &'a str, names: &[&str], is_short: bool) -> Option<(u32, &'a str)> {
    let starts = |name: &&str| text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let place = |names: &mut dyn Iterator<Item = &str>| {
        names.enumerate().find(|(_, name)| starts(name)).map(|(place, name)| (place, name.len()))
    };
    let whole = place(&mut names.iter().copied());
    let (place, length) = whole.or_else(|| place(&mut names.iter().map(|name| named(name, is_short))))?;
    Some((u32::try_from(place).ok()?, &text[length..]))
}

/// Reads the digits of a fraction as nanoseconds.
pub(in crate::functions::own) fn fraction(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let nanos: String = digits.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some((nanos.parse().ok()?, rest))
}

/// Reads `Z`, `+01`, `+0100` or `+01:00`.
pub(in crate::functions::own) fn offset(text: &str) -> Option<(Tz, &str)> {
    if let Some(rest) = text.strip_prefix('Z') {
        return Some(("+00:00".parse().ok()?, rest));
    }
    let sign = text.chars().next().filter(|sign| matches!(sign, '+' | '-'))?;
    let digits = |from: usize| {
        let digits = text.get(from..from + 2)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits)
    };
    let hours = digits(1)?;
    let colon = usize::from(text[3..].starts_with(':'));
    let (minutes, end) = digits(3 + colon).map_or(("00", 3), |minutes| (minutes, 5 + colon));
    Some((format!("{sign}{hours}:{minutes}").parse().ok()?, &text[end..]))
}

/// Returns the time in UTC. A local time that clocks show twice is the first, and one that they skip is none.
pub(in crate::functions::own) fn to_utc(local: NaiveDateTime, zone: Tz) -> Option<NaiveDateTime> {
    zone.from_local_datetime(&local).earliest().map(|time| time.naive_utc())
}
