//! Forms as they are written: the letters of MySQL and of Joda.

use datafusion::common::{DataFusionError, Result};

use super::{Form, Item, Part, SHORT};
use crate::Advised;

impl Form {
    /// Reads a form in MySQL's letters.
    ///
    /// # Errors
    /// A letter that Trino does not know either.
    pub(in crate::functions::own) fn mysql(text: &str) -> Result<Self> {
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
    pub(in crate::functions::own) fn joda(text: &str) -> Result<Self> {
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
    pub(in crate::functions::own) fn joda_to_read(text: &str) -> Result<Self> {
        let form = Self::joda(text)?;
        if form.items.iter().any(|item| matches!(item, Item::Number(Part::YearOfCentury, ..))) {
            let hint = "write yyyy; date_parse(x, '%d/%m/%y') reads the years from 1970 to 2069";
            return Err(Advised::new(format!("`yy` in the format '{text}' has no century of its own"), hint).into());
        }
        Ok(form)
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
