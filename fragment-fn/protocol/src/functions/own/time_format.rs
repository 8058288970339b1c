//! Forms of times as text, in the letters of MySQL (`%Y-%m-%d`) and of Joda (`yyyy-MM-dd`).
//!
//! A form is a list of [`Item`]s. [`Form::write`] writes a time by it, and [`Form::read`] reads a text by it. Names are
//! English. A number is read with as many digits as there are, up to its width where another number follows.

use std::fmt::Write as _;

use arrow::array::timezone::Tz;
use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Timelike, Weekday};
use datafusion::common::{DataFusionError, Result};

use crate::Advised;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const HALVES: [&str; 2] = ["AM", "PM"];
/// Letters of a short name.
const SHORT: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Year,
    /// Two digits, from 1970 to 2069.
    YearOfCentury,
    WeekYear,
    Week,
    Month,
    Day,
    DayOfYear,
    /// 1 is Monday.
    DayOfWeek,
    Hour,
    /// 1 to 12.
    HourOfHalf,
    /// 0 to 11.
    HourOfHalfFrom0,
    /// 1 to 24.
    HourFrom1,
    Minute,
    Second,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Literal(String),
    /// Number with so many digits at least when it is written, and at most when it is read.
    Number(Part, usize, usize),
    Month {
        is_short: bool,
    },
    Weekday {
        is_short: bool,
    },
    Half,
    /// Fraction of a second with so many digits.
    Fraction(usize),
    /// `+0100`, with a colon `+01:00`.
    Offset {
        has_colon: bool,
    },
    /// Id of a zone.
    Zone,
    /// Name of a zone. It is written for UTC and for an offset.
    ZoneName,
}

/// Form of times as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Form {
    text: String,
    items: Vec<Item>,
}

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
    /// Reads a form in MySQL's letters.
    ///
    /// # Errors
    /// A letter that Trino does not know either.
    pub(super) fn mysql(text: &str) -> Result<Self> {
        use Part::*;
        let mut items = Vec::new();
        let mut signs = text.chars();
        while let Some(sign) = signs.next() {
            if sign != '%' {
                literal(&mut items, sign);
                continue;
            }
            let Some(letter) = signs.next() else { return Err(unknown(text, "%", "%% is a percent sign")) };
            match letter {
                'a' => items.push(Item::Weekday { is_short: true }),
                'W' => items.push(Item::Weekday { is_short: false }),
                'b' => items.push(Item::Month { is_short: true }),
                'M' => items.push(Item::Month { is_short: false }),
                'c' => items.push(Item::Number(Month, 1, 2)),
                'm' => items.push(Item::Number(Month, 2, 2)),
                'd' => items.push(Item::Number(Day, 2, 2)),
                'e' => items.push(Item::Number(Day, 1, 2)),
                'f' => items.push(Item::Fraction(6)),
                'H' => items.push(Item::Number(Hour, 2, 2)),
                'k' => items.push(Item::Number(Hour, 1, 2)),
                'h' | 'I' => items.push(Item::Number(HourOfHalf, 2, 2)),
                'l' => items.push(Item::Number(HourOfHalf, 1, 2)),
                'i' => items.push(Item::Number(Minute, 2, 2)),
                'j' => items.push(Item::Number(DayOfYear, 3, 3)),
                'p' => items.push(Item::Half),
                's' | 'S' => items.push(Item::Number(Second, 2, 2)),
                'T' => items.extend(Self::mysql("%H:%i:%S")?.items),
                'r' => items.extend(Self::mysql("%h:%i:%S %p")?.items),
                'v' => items.push(Item::Number(Week, 2, 2)),
                'x' => items.push(Item::Number(WeekYear, 4, 4)),
                'Y' => items.push(Item::Number(Year, 4, 4)),
                'y' => items.push(Item::Number(YearOfCentury, 2, 2)),
                'D' | 'U' | 'u' | 'V' | 'w' | 'X' => {
                    return Err(unknown(
                        text,
                        &format!("%{letter}"),
                        "it is not supported; letters are %Y %y %m %c %b %M %d %e %j %H %k %h %I %l %p %i %s %f %a %W %x %v %T %r",
                    ));
                }
                other => literal(&mut items, other),
            }
        }
        Ok(Self { text: text.to_owned(), items })
    }

    /// Reads a form in Joda's letters.
    ///
    /// # Errors
    /// A letter that is unknown, or a quote that is not closed.
    pub(super) fn joda(text: &str) -> Result<Self> {
        use Part::*;
        let mut items = Vec::new();
        let mut signs = text.chars().peekable();
        while let Some(sign) = signs.next() {
            if sign == '\'' {
                if signs.next_if_eq(&'\'').is_some() {
                    literal(&mut items, '\'');
                    continue;
                }
                loop {
                    match signs.next() {
                        None => return Err(unknown(text, "'", "a quote is not closed")),
                        Some('\'') if signs.next_if_eq(&'\'').is_none() => break,
                        Some(quoted) => literal(&mut items, quoted),
                    }
                }
                continue;
            }
            if !sign.is_ascii_alphabetic() {
                literal(&mut items, sign);
                continue;
            }
            let mut count = 1;
            while signs.next_if_eq(&sign).is_some() {
                count += 1;
            }
            let number = |part, most: usize| Item::Number(part, count, most.max(count));
            items.push(match sign {
                'y' | 'Y' if count == 2 => Item::Number(YearOfCentury, 2, 2),
                'y' | 'Y' => number(Year, 9),
                'x' if count != 2 => number(WeekYear, 9),
                'M' if count > 2 => Item::Month { is_short: count == SHORT },
                'M' => number(Month, 2),
                'd' => number(Day, 2),
                'D' => number(DayOfYear, 3),
                'w' => number(Week, 2),
                'e' => number(DayOfWeek, 1),
                'E' => Item::Weekday { is_short: count <= SHORT },
                'a' => Item::Half,
                'H' => number(Hour, 2),
                'h' => number(HourOfHalf, 2),
                'K' => number(HourOfHalfFrom0, 2),
                'k' => number(HourFrom1, 2),
                'm' => number(Minute, 2),
                's' => number(Second, 2),
                'S' => Item::Fraction(count),
                'Z' if count < 3 => Item::Offset { has_colon: count == 2 },
                'Z' => Item::Zone,
                'z' => Item::ZoneName,
                other => {
                    return Err(unknown(
                        text,
                        &other.to_string(),
                        "letters that stand for themselves are put in 'quotes'",
                    ));
                }
            });
        }
        for place in 1..items.len() {
            // A year before another number has as many digits as letters.
            if let (Item::Number(_, least, most), Item::Number(..) | Item::Fraction(_)) = pair(&mut items, place) {
                *most = *least;
            }
        }
        Ok(Self { text: text.to_owned(), items })
    }

    /// Reads a form in Joda's letters by which texts are read.
    ///
    /// # Errors
    /// Those of [`Form::joda`], and a year of two digits: Joda's century goes with the year in which it runs.
    pub(super) fn joda_to_read(text: &str) -> Result<Self> {
        let form = Self::joda(text)?;
        if form.items.iter().any(|item| matches!(item, Item::Number(Part::YearOfCentury, ..))) {
            let hint = "write yyyy; date_parse(x, '%d/%m/%y') reads the years from 1970 to 2069";
            return Err(Advised::new(format!("`yy` in the format '{text}' has no century of its own"), hint).into());
        }
        Ok(form)
    }

    /// Writes a local time. `zone` has its name, and its offset from UTC in seconds.
    ///
    /// # Errors
    /// The name of a zone that has a name in each half of the year.
    pub(super) fn write(&self, time: NaiveDateTime, zone: (&str, i32)) -> Result<String> {
        let mut text = String::new();
        let (is_afternoon, of_half) = time.hour12();
        for item in &self.items {
            let written = match item {
                Item::Literal(literal) => write!(text, "{literal}"),
                Item::Number(part, least, _) => {
                    let least = *least;
                    let number = match part {
                        Part::Year => time.year(),
                        Part::YearOfCentury => time.year().rem_euclid(100),
                        Part::WeekYear => time.iso_week().year(),
                        part => match part {
                            Part::Week => time.iso_week().week(),
                            Part::Month => time.month(),
                            Part::Day => time.day(),
                            Part::DayOfYear => time.ordinal(),
                            Part::DayOfWeek => time.weekday().number_from_monday(),
                            Part::HourOfHalf => of_half,
                            Part::HourOfHalfFrom0 => of_half % 12,
                            Part::HourFrom1 if time.hour() == 0 => 24,
                            Part::Minute => time.minute(),
                            Part::Second => time.second(),
                            _ => time.hour(),
                        }
                        .cast_signed(),
                    };
                    let sign = if number < 0 { "-" } else { "" };
                    write!(text, "{sign}{:0least$}", number.unsigned_abs())
                }
                Item::Month { is_short } => {
                    write!(text, "{}", named(MONTHS[time.month0() as usize], *is_short))
                }
                Item::Weekday { is_short } => {
                    let day = time.weekday().num_days_from_monday() as usize;
                    write!(text, "{}", named(WEEKDAYS[day], *is_short))
                }
                Item::Half => write!(text, "{}", HALVES[usize::from(is_afternoon)]),
                Item::Fraction(digits) => {
                    let all = format!("{:09}", time.nanosecond() % 1_000_000_000);
                    let kept: String = all.chars().chain(std::iter::repeat('0')).take(*digits).collect();
                    write!(text, "{kept}")
                }
                Item::Offset { has_colon } => {
                    let (sign, minutes) = (if zone.1 < 0 { '-' } else { '+' }, zone.1.unsigned_abs() / 60);
                    let colon = if *has_colon { ":" } else { "" };
                    write!(text, "{sign}{:02}{colon}{:02}", minutes / 60, minutes % 60)
                }
                Item::ZoneName if zone.0 != "UTC" && zone.0.starts_with(|sign: char| sign.is_alphabetic()) => {
                    let hint = "ZZZ is the zone's id, ZZ its offset";
                    let message = format!("`z` in the format '{}' has no name of {}", self.text, zone.0);
                    return Err(Advised::new(message, hint).into());
                }
                Item::Zone | Item::ZoneName => write!(text, "{}", zone.0),
            };
            debug_assert!(written.is_ok(), "a String has room");
        }
        Ok(text)
    }

    /// Reads a local time, with its zone where the text has one.
    ///
    /// # Errors
    /// A text that does not fit.
    pub(super) fn read(&self, text: &str) -> Result<(NaiveDateTime, Option<Tz>)> {
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

fn unknown(form: &str, letter: &str, hint: &str) -> DataFusionError {
    Advised::new(format!("`{letter}` in the format '{form}' has no meaning"), hint).into()
}

fn literal(items: &mut Vec<Item>, sign: char) {
    match items.last_mut() {
        Some(Item::Literal(literal)) => literal.push(sign),
        _ => items.push(Item::Literal(sign.to_string())),
    }
}

fn pair(items: &mut [Item], place: usize) -> (&mut Item, &Item) {
    let (before, from) = items.split_at_mut(place);
    (&mut before[place - 1], &from[0])
}

fn named(name: &str, is_short: bool) -> &str {
    if is_short { &name[..SHORT] } else { name }
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
pub(super) fn fraction(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let nanos: String = digits.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some((nanos.parse().ok()?, rest))
}

/// Reads `Z`, `+01`, `+0100` or `+01:00`.
pub(super) fn offset(text: &str) -> Option<(Tz, &str)> {
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
pub(super) fn to_utc(local: NaiveDateTime, zone: Tz) -> Option<NaiveDateTime> {
    zone.from_local_datetime(&local).earliest().map(|time| time.naive_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> NaiveDateTime {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").expect("a time")
    }

    #[test]
    fn times_are_written_in_the_letters_of_mysql() {
        let at = time("2024-01-05T13:05:09.123456");
        for (form, expect) in [
            ("%Y-%m-%d %H:%i:%s", "2024-01-05 13:05:09"),
            ("%M %e, %y", "January 5, 24"),
            ("%a %b %c", "Fri Jan 1"),
            ("%W %j", "Friday 005"),
            ("%T|%r", "13:05:09|01:05:09 PM"),
            ("%k %l %I %p %f", "13 1 01 PM 123456"),
            ("%x-W%v %% q", "2024-W01 % q"),
        ] {
            let written = Form::mysql(form).expect(form).write(at, ("UTC", 0)).expect(form);
            assert_eq!(written, expect, "{form}");
        }
        for form in ["%D", "%U", "%w", "%X", "%"] {
            assert!(Form::mysql(form).is_err(), "{form}");
        }
    }

    #[test]
    fn times_are_written_in_the_letters_of_joda() {
        let at = time("2024-01-05T00:05:09.123");
        for (form, expect) in [
            ("yyyyMMdd HH:mm", "20240105 00:05"),
            ("yy M MMM MMMM d", "24 1 Jan January 5"),
            ("EEE EEEE e", "Fri Friday 5"),
            ("h K k a", "12 0 24 AM"),
            ("SSS S SSSSSS", "123 1 123000"),
            ("xxxx-'W'ww", "2024-W01"),
            ("'o''clock' ''D''", "o'clock '5'"),
            ("Z ZZ ZZZ", "+0130 +01:30 Zone/Name"),
        ] {
            let written = Form::joda(form).expect(form).write(at, ("Zone/Name", 5400)).expect(form);
            assert_eq!(written, expect, "{form}");
        }
        let name = |zone: &str| Form::joda("HH z").expect("a form").write(at, (zone, 0));
        assert_eq!(name("UTC").expect("a name"), "00 UTC");
        assert_eq!(name("+00:00").expect("a name"), "00 +00:00");
        assert!(name("Europe/Berlin").expect_err("CET or CEST").to_string().contains("has no name of Europe/Berlin"));
        assert!(Form::joda_to_read("dd/MM/yy").is_err(), "which century");
        assert!(Form::joda_to_read("dd/MM/yyyy").is_ok());
        for form in ["yyyy-MM-dd'T", "yyyyb", "Q"] {
            assert!(Form::joda(form).is_err(), "{form}");
        }
    }

    #[test]
    fn texts_are_read() {
        let mysql = |form: &str, text: &str| Form::mysql(form).expect(form).read(text).ok().map(|(time, _)| time);
        for (form, text, expect) in [
            ("%d/%m/%Y %H:%i", "31/01/2024 13:05", "2024-01-31T13:05:00"),
            ("%Y%m%d", "20240131", "2024-01-31T00:00:00"),
            ("%Y-%c-%e", "2024-1-5", "2024-01-05T00:00:00"),
            ("%Y-%m-%d %h:%i %p", "2024-01-05 12:30 am", "2024-01-05T00:30:00"),
            ("%Y-%m-%d %h:%i %p", "2024-01-05 12:30 PM", "2024-01-05T12:30:00"),
            ("%d %b %Y", "5 feb 2024", "2024-02-05T00:00:00"),
            ("%d %M %y", "05 february 69", "2069-02-05T00:00:00"),
            ("%y", "70", "1970-01-01T00:00:00"),
            ("%W, %d %b %Y", "Friday, 05 January 2024", "2024-01-05T00:00:00"),
            ("%H:%i:%s.%f", "13:05:09.5", "1970-01-01T13:05:09.5"),
            ("%m-%d", "02-29", "2000-02-29T00:00:00"),
            ("%j", "060", "2000-02-29T00:00:00"),
            ("%j", "366", "2000-12-31T00:00:00"),
            ("%d %M %Y", "05 Feb 2024", "2024-02-05T00:00:00"),
            ("%W, %d %b %Y", "Fri, 05 January 2024", "2024-01-05T00:00:00"),
            ("%Y %j", "2024 366", "2024-12-31T00:00:00"),
            ("%x-W%v", "2020-W53", "2020-12-28T00:00:00"),
        ] {
            assert_eq!(mysql(form, text), Some(time(expect)), "{form} {text}");
        }
        for (form, text) in [
            ("%Y", "x"),
            ("%Y", "2024 "),
            ("%Y-%m-%d", "2024-13-01"),
            ("%Y-%m-%d", "2023-02-29"),
            ("%H", "24"),
            ("%h", "13"),
            ("%W %Y-%m-%d", "Monday 2024-01-05"),
            ("%Y-%m-%d %H", "2024-01-31"),
            ("%b", "Foo"),
        ] {
            assert_eq!(mysql(form, text), None, "{form} {text}");
        }
        let joda = |form: &str, text: &str| {
            let (time, zone) = Form::joda(form).expect(form).read(text).ok()?;
            zone.map_or(Some(time), |zone| to_utc(time, zone))
        };
        for (form, text, expect) in [
            ("yyyy-MM-dd HH", "2024-01-31 13", "2024-01-31T13:00:00"),
            ("yyyyMMddHHmmss", "20240131130509", "2024-01-31T13:05:09"),
            ("yyyy-MM-dd Z", "2024-01-31 +02:00", "2024-01-30T22:00:00"),
            ("yyyy-MM-dd z", "2024-07-31 Europe/Berlin", "2024-07-30T22:00:00"),
            ("dd/MMM/yyyy:HH:mm:ss Z", "31/Jan/2024:13:05:09 -0530", "2024-01-31T18:35:09"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSS'Z'", "2024-01-31T13:05:09.123Z", "2024-01-31T13:05:09.123"),
        ] {
            assert_eq!(joda(form, text), Some(time(expect)), "{form} {text}");
        }
        assert_eq!(joda("yyyy-MM-dd HH:mm z", "2024-03-31 02:30 Europe/Berlin"), None, "clocks skip it");
    }
}
