//! Forms of times as text, in the letters of MySQL (`%Y-%m-%d`) and of Joda (`yyyy-MM-dd`).
//!
//! A form is a list of [`Item`]s. [`Form::write`] writes a time by it, and [`Form::read`] reads a text by it. Names are
//! English. A number is read with as many digits as there are, up to its width where another number follows.

mod letters;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(super) use read::{fraction, offset, to_utc};

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

fn named(name: &str, is_short: bool) -> &str {
    if is_short { &name[..SHORT] } else { name }
}
