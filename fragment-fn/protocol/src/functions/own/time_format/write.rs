//! Times as text.

use std::fmt::Write as _;

use chrono::{Datelike, NaiveDateTime, Timelike};
use datafusion::common::Result;

use super::{Form, HALVES, Item, MONTHS, Part, WEEKDAYS, named};
use crate::Advised;

impl Form {
    /// Writes a local time. `zone` has its name, and its offset from UTC in seconds.
    ///
    /// # Errors
    /// The name of a zone that has a name in each half of the year.
    pub(in crate::functions::own) fn write(&self, time: NaiveDateTime, zone: (&str, i32)) -> Result<String> {
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
}
