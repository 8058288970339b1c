//! Price books: data with a region, a date and a source. The project has some; a file of one's own overrides them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use chrono::NaiveDate;
use serde::Deserialize;

use crate::money::Price;
use crate::nearest::nearest;

/// Region whose prices count where none is known: the largest one, and in most lists the cheapest.
pub const DEFAULT_REGION: &str = "us-east-1";

/// Age in days above which a book is told with its age. AWS rarely changes a list price; after a year one looks again.
pub const AGE_DAYS_MAX: u32 = 365;

/// The project's own books.
const BOOKS: [(&str, &str); 5] = [
    ("us-east-1", include_str!("prices/us-east-1.toml")),
    ("us-east-2", include_str!("prices/us-east-2.toml")),
    ("us-west-2", include_str!("prices/us-west-2.toml")),
    ("eu-west-1", include_str!("prices/eu-west-1.toml")),
    ("eu-central-1", include_str!("prices/eu-central-1.toml")),
];

/// The project's books that were read, in the order of [`BOOKS`]. Each statement asks for its prices.
static READ: [OnceLock<PriceBook>; BOOKS.len()] = [const { OnceLock::new() }; BOOKS.len()];

/// Prices of one region, in US dollars.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceBook {
    pub region: String,
    /// Day on which the prices were looked up.
    #[serde(deserialize_with = "date")]
    pub date: NaiveDate,
    pub source: String,
    pub lambda: LambdaPrices,
    pub s3: S3Prices,
    pub transfer: TransferPrices,
    pub logs: LogPrices,
    pub athena: AthenaPrices,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LambdaPrices {
    pub gb_second_x86_64: Price,
    pub gb_second_arm64: Price,
    pub million_requests: Price,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Prices {
    /// Price of a thousand GET or HEAD.
    pub thousand_get: Price,
    /// Price of a thousand PUT, POST, COPY or LIST.
    pub thousand_put: Price,
    pub gb_month: Price,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferPrices {
    pub gb_to_internet: Price,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPrices {
    pub gb_ingested: Price,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AthenaPrices {
    pub tb_scanned: Price,
}

/// Reason why there are no prices.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    #[error("there is no price book for region `{region}`{near}")]
    UnknownRegion { region: String, near: String, known: String },
    #[error("price book `{}`: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("price book `{}` is for region `{theirs}`, not for `{ours}`", path.display())]
    OtherRegion { path: PathBuf, theirs: String, ours: String },
}

impl PriceError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownRegion { known, .. } => {
                Some(format!("known are {known}; name a file of your own with `cost.prices`"))
            }
            Self::Unreadable { .. } => None,
            Self::OtherRegion { .. } => Some("correct `region` in the file, or `cost.region`".to_owned()),
        }
    }
}

impl PriceBook {
    /// Lists the regions whose prices the project knows.
    pub fn regions() -> impl Iterator<Item = &'static str> {
        BOOKS.iter().map(|(region, _)| *region)
    }

    /// Opens the project's book of a region.
    pub fn of_region(region: &str) -> Result<Self, PriceError> {
        let Some(at) = BOOKS.iter().position(|(name, _)| *name == region) else {
            let near = nearest(region, Self::regions());
            return Err(PriceError::UnknownRegion {
                region: region.to_owned(),
                near: near.map_or_else(String::new, |near| format!("; did you mean `{near}`?")),
                known: Self::regions().collect::<Vec<_>>().join(", "),
            });
        };
        if let Some(book) = READ[at].get() {
            return Ok(book.clone());
        }
        let book = Self::parse(BOOKS[at].1, Path::new(region))?;
        Ok(READ[at].get_or_init(|| book).clone())
    }

    /// Reads a book of one's own.
    pub fn of_file(path: &Path) -> Result<Self, PriceError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| PriceError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, PriceError> {
        toml::from_str(text)
            .map_err(|error| PriceError::Unreadable { path: path.to_owned(), reason: error.to_string() })
    }

    /// Returns the days since the prices were looked up. A date in the future counts as today.
    pub fn age_days(&self, today: NaiveDate) -> u32 {
        u32::try_from((today - self.date).num_days()).unwrap_or_default()
    }

    /// Returns the words about a book that is too old to be believed.
    pub fn staleness(&self, today: NaiveDate) -> Option<String> {
        let age = self.age_days(today);
        (age > AGE_DAYS_MAX).then(|| {
            format!(
                "the prices of {} are {age} days old ({}); check them and set `cost.prices`",
                self.region, self.date
            )
        })
    }

    /// Lists every price with its unit.
    pub fn entries(&self) -> [(&'static str, Price, &'static str); 9] {
        [
            ("lambda, x86_64", self.lambda.gb_second_x86_64, "GB-second"),
            ("lambda, arm64", self.lambda.gb_second_arm64, "GB-second"),
            ("lambda, invocations", self.lambda.million_requests, "million"),
            ("s3, GET and HEAD", self.s3.thousand_get, "thousand"),
            ("s3, PUT, POST, COPY and LIST", self.s3.thousand_put, "thousand"),
            ("s3, storage", self.s3.gb_month, "GB-month"),
            ("transfer to the internet", self.transfer.gb_to_internet, "GB"),
            ("logs, ingestion", self.logs.gb_ingested, "GB"),
            ("athena, scanned (to compare)", self.athena.tb_scanned, "TB"),
        ]
    }
}

fn date<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<NaiveDate, D::Error> {
    let text = String::deserialize(deserializer)?;
    NaiveDate::parse_from_str(&text, "%Y-%m-%d")
        .map_err(|_| serde::de::Error::custom(format!("`date` is \"{text}\", not a day such as \"2026-11-01\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a day")
    }

    #[test]
    fn every_book_says_where_it_counts_and_where_it_is_from() {
        for region in PriceBook::regions() {
            let book = PriceBook::of_region(region).expect("a book of the project");
            assert_eq!(book.region, region);
            assert!(book.source.starts_with("https://"), "{region}");
            for (what, price, unit) in book.entries() {
                assert!(price.of(1_000, 1).nano_dollars() > 0, "{region}: {what} is free by the {unit}");
            }
        }
        assert!(PriceBook::regions().any(|region| region == DEFAULT_REGION));
    }

    #[test]
    fn an_unknown_region_is_told_with_the_nearest() {
        #[track_caller]
        fn check(region: &str, expect: &str) {
            let error = PriceBook::of_region(region).expect_err("unknown");
            let hint = error.hint().expect("a next step");
            assert!(format!("{error}.").contains(expect) && hint.contains("cost.prices"), "{error}; {hint}");
        }
        check("us-eats-1", "did you mean `us-east-1`?");
        check("eu-centrall-1", "did you mean `eu-central-1`?");
        check("mars", "no price book for region `mars`.");
    }

    #[test]
    fn a_book_grows_old_with_its_age_in_words() {
        let book = PriceBook::of_region(DEFAULT_REGION).expect("a book");
        assert_eq!(book.staleness(day("2026-11-20")), None);
        assert_eq!(book.staleness(day("2027-11-01")), None);
        assert_eq!(book.staleness(day("2020-01-01")), None);
        let told = book.staleness(day("2027-11-02")).expect("stale");
        assert!(told.contains("366 days old (2026-11-01)"), "{told}");
    }

    #[test]
    fn a_file_of_ones_own_is_read_and_its_faults_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mine.toml");
        let own = BOOKS[0].1.replace("us-east-1", "my-region").replace("\"0.20\"", "0.25");
        std::fs::write(&path, &own).expect("written");
        let book = PriceBook::of_file(&path).expect("a book");
        assert_eq!((book.region.as_str(), book.lambda.million_requests.to_string().as_str()), ("my-region", "0.25"));
        #[track_caller]
        fn check(path: &Path, text: &str, expect: &str) {
            std::fs::write(path, text).expect("written");
            let error = PriceBook::of_file(path).expect_err("a fault").to_string();
            assert!(error.contains("mine.toml") && error.contains(expect), "{error}");
        }
        check(&path, &own.replace("thousand_get", "thousand_gets"), "thousand_gets");
        check(&path, &own.replace("\"0.0004\"", "\"-0.0004\""), "not negative");
        check(&path, &own.replace("2026-11-01", "November"), "not a day");
        check(&path, "", "missing field");
        assert!(PriceBook::of_file(&folder.path().join("none.toml")).is_err());
    }
}
