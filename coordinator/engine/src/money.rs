//! Money as whole nano-dollars, and prices as whole pico-dollars. Sums are exact, and only a display rounds.

use std::fmt::{Display, Formatter};
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// Amount of US dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money {
    nano_dollars: u64,
}

impl Money {
    pub const ZERO: Self = Self::from_nano_dollars(0);
    pub const MAX: Self = Self::from_nano_dollars(u64::MAX);

    pub const fn from_nano_dollars(nano_dollars: u64) -> Self {
        Self { nano_dollars }
    }

    pub const fn nano_dollars(self) -> u64 {
        self.nano_dollars
    }

    pub const fn saturating_sub(self, other: Self) -> Self {
        Self::from_nano_dollars(self.nano_dollars.saturating_sub(other.nano_dollars))
    }

    /// Returns one of `parts` equal parts, rounded down. Zero parts give the whole amount.
    pub const fn part_of(self, parts: u64) -> Self {
        match self.nano_dollars.checked_div(parts) {
            Some(nano_dollars) => Self::from_nano_dollars(nano_dollars),
            None => self,
        }
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::from_nano_dollars(self.nano_dollars.saturating_add(other.nano_dollars))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl Display for Money {
    /// Writes whole cents from a dollar on, and four significant digits below it: `$12.35`, `$0.0004213`, `$0`.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let nano = self.nano_dollars;
        if nano == 0 {
            return f.write_str("$0");
        }
        let digits = nano.ilog10() + 1;
        let dropped = if nano >= NANO { 7 } else { digits.saturating_sub(4) };
        let unit = 10_u64.pow(dropped);
        let rounded =
            u128::from(nano / unit + u64::from(nano % unit >= unit.div_ceil(2) && unit > 1)) * u128::from(unit);
        let (dollars, rest) = (rounded / u128::from(NANO), rounded % u128::from(NANO));
        let decimals = format!("{rest:09}");
        let kept = (9 - dropped as usize).max(2);
        write!(f, "${dollars}.{}", &decimals[..kept])
    }
}

/// Writes whole nano-dollars.
impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.nano_dollars)
    }
}

/// Reason why a text is no amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("`{0}` is no amount of dollars")]
    NotANumber(String),
    #[error("`{text}` is finer than {unit}")]
    TooFine { text: String, unit: &'static str, decimals: usize },
    #[error("`{text}` is more dollars than can be counted")]
    TooLarge { text: String, whole_max: u64 },
}

impl FromStr for Money {
    type Err = MoneyError;

    /// Reads dollars as a decimal number, with or without `$`.
    ///
    /// # Errors
    /// [`MoneyError`] if the text is no decimal number or too large, or has more than nine digits after the point. Zeros at
    /// its end do not count.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let number = text.trim();
        let number = number.strip_prefix('$').unwrap_or(number);
        let nano_dollars = fixed_point(number, 9, "a nano-dollar").map_err(|error| error.with_text(text))?;
        Ok(Self { nano_dollars })
    }
}

/// Price of one unit, in whole pico-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    pico_dollars: u64,
}

impl Price {
    /// Returns the price of `quantity / units` units, rounded to the nearest nano-dollar, halves up.
    pub fn of(self, quantity: u128, units: u128) -> Money {
        let pico_units = quantity.saturating_mul(u128::from(self.pico_dollars));
        let divisor = units.saturating_mul(PICO_IN_NANO);
        let nano = pico_units.saturating_add(divisor / 2) / divisor;
        Money::from_nano_dollars(u64::try_from(nano).unwrap_or(u64::MAX))
    }
}

impl Display for Price {
    /// Writes all digits.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (dollars, rest) = (self.pico_dollars / PICO, self.pico_dollars % PICO);
        let decimals = format!("{rest:012}");
        let decimals = decimals.trim_end_matches('0');
        write!(f, "{dollars}.{decimals:0<2}")
    }
}

const NANO: u64 = 1_000_000_000;
const PICO: u64 = 1_000_000_000_000;
const PICO_IN_NANO: u128 = 1_000;

impl FromStr for Price {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        fixed_point(text.trim(), 12, "a pico-dollar").map(|pico_dollars| Self { pico_dollars })
    }
}

/// Returns the number times ten to the power of `decimals`, exactly.
fn fixed_point(text: &str, decimals: usize, unit: &'static str) -> Result<u64, MoneyError> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || whole.len() + fraction.len() == 0 {
        return Err(MoneyError::NotANumber(text.to_owned()));
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > decimals {
        return Err(MoneyError::TooFine { text: text.to_owned(), unit, decimals });
    }
    format!("{whole}{fraction:0<decimals$}")
        .parse()
        .map_err(|_| MoneyError::TooLarge { text: text.to_owned(), whole_max: u64::MAX / 10_u64.pow(decimals as u32) })
}

impl MoneyError {
    /// Returns the next step.
    pub fn hint(&self) -> String {
        match self {
            Self::NotANumber(_) => "write a decimal number that is not negative, such as 0.05".to_owned(),
            Self::TooFine { decimals, .. } => format!("write at most {decimals} digits after the point"),
            Self::TooLarge { whole_max, .. } => format!("write at most {whole_max}"),
        }
    }

    /// Puts the text as it was written in place of the part that was read.
    fn with_text(self, written: &str) -> Self {
        let written = written.to_owned();
        match self {
            Self::NotANumber(_) => Self::NotANumber(written),
            Self::TooFine { unit, decimals, .. } => Self::TooFine { text: written, unit, decimals },
            Self::TooLarge { whole_max, .. } => Self::TooLarge { text: written, whole_max },
        }
    }
}

/// Reads an amount or a price from a text or, in TOML, from a number.
struct DollarsVisitor<T>(std::marker::PhantomData<T>);

impl<T: FromStr<Err = MoneyError>> Visitor<'_> for DollarsVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("dollars that are not negative, such as \"0.05\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|error| match error {
            MoneyError::NotANumber(_) => E::invalid_value(Unexpected::Other("this value"), &self),
            other => E::custom(format!("{other}; {}", other.hint())),
        })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    /// Reads the shortest digits that stand for this number: those are the digits in the file.
    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DollarsVisitor(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DollarsVisitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        #[track_caller]
        fn check(text: &str, expect: Option<u64>) {
            assert_eq!(text.parse::<Money>().ok().map(Money::nano_dollars), expect, "for {text:?}");
        }
        check("0.05", Some(50_000_000));
        check("$1", Some(1_000_000_000));
        check(" .5 ", Some(500_000_000));
        check("2.", Some(2_000_000_000));
        check("0.000000001", Some(1));
        check("0", Some(0));
        check("0.0000000001", None);
        check("-1", None);
        check("-0.05", None);
        check("+1", None);
        check("", None);
        check(".", None);
        check("5 cents", None);
        check("1e3", None);
        check("NaN", None);
        check("inf", None);
        check("0,05", None);
        check("99999999999999", None);
    }

    #[test]
    fn an_error_names_the_amount_and_the_bound() {
        for (text, expect) in [
            ("0.0000000001", ("`0.0000000001` is finer than a nano-dollar", "write at most 9 digits after the point")),
            ("$99999999999", ("`$99999999999` is more dollars than can be counted", "write at most 18446744073")),
            ("much", ("`much` is no amount of dollars", "write a decimal number that is not negative, such as 0.05")),
        ] {
            let error = text.parse::<Money>().expect_err("no amount");
            assert_eq!((error.to_string().as_str(), error.hint().as_str()), expect);
        }
        assert_eq!("0.0500000000000".parse::<Money>().expect("zeros say nothing").nano_dollars(), 50_000_000);
        let finest = "0.0000000000001".parse::<Price>().expect_err("no price").to_string();
        assert!(finest.contains("finer than a pico-dollar"), "{finest}");
        let largest = "18446745".parse::<Price>().expect_err("no price");
        assert_eq!(largest.to_string(), "`18446745` is more dollars than can be counted");
        assert_eq!(largest.hint(), "write at most 18446744");
        assert!("18446744".parse::<Price>().is_ok());
    }

    #[test]
    fn amounts_below_a_dollar_show_four_significant_digits() {
        #[track_caller]
        fn check(nano_dollars: u64, expect: &str) {
            assert_eq!(Money::from_nano_dollars(nano_dollars).to_string(), expect);
        }
        check(0, "$0");
        check(1, "$0.000000001");
        check(1_234, "$0.000001234");
        check(421_337, "$0.0004213");
        check(421_350, "$0.0004214");
        check(50_000_000, "$0.05000");
        check(999_960_000, "$1.0000");
        check(12_345_678_901, "$12.35");
        check(1_004_999_999, "$1.00");
        check(u64::MAX, "$18446744073.71");
    }

    #[test]
    fn prices_multiply_exactly_and_round_once() {
        #[track_caller]
        fn check(price: &str, quantity: u128, units: u128, expect: u64) {
            let price: Price = price.parse().expect("a price");
            assert_eq!(price.of(quantity, units).nano_dollars(), expect);
        }
        check("0.0000166667", 1, 1, 16_667);
        check("0.0000166667", 1_000_000, 1, 16_666_700_000);
        check("0.20", 1, 1_000_000, 200);
        check("0.0004", 3, 1_000, 1_200);
        check("0.000000000499", 1, 1, 0);
        check("0.0000000005", 1, 1, 1);
        check("0.023", 0, 1, 0);
    }

    #[test]
    fn prices_show_all_of_their_digits() {
        for (text, expect) in [("0.0000166667", "0.0000166667"), ("5", "5.00"), ("0.2", "0.20"), ("0.00043", "0.00043")]
        {
            assert_eq!(text.parse::<Price>().expect("a price").to_string(), expect);
        }
    }
}
