//! Prices that count for a configuration, and the facts that they are multiplied with.

use chrono::NaiveDate;

use super::book::{DEFAULT_REGION, PriceBook, PriceError};
use super::{Architecture, Tariff};
use crate::config::Config;

/// The sender of a bill for functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Billed {
    /// No sender: they are priced as if they ran on Lambda.
    AsIf,
    /// Platform of the functions, by the prices of this region as far as the configuration names it.
    In(Option<String>),
}

impl Billed {
    fn region(&self) -> Option<&str> {
        match self {
            Self::AsIf => None,
            Self::In(region) => region.as_deref(),
        }
    }
}

impl PriceBook {
    /// Finds the book that a configuration and its functions ask for. `region` wins over them.
    ///
    /// # Errors
    /// [`PriceError`] if the region has no book, or the file cannot be read or is for another region than the one that is named.
    pub fn of_config(config: &Config, billed: &Billed, region: Option<&str>) -> Result<Self, PriceError> {
        let named = region.or(config.cost.region.as_deref());
        if let Some(path) = &config.cost.prices {
            let book = Self::of_file(path)?;
            return match named.filter(|ours| **ours != book.region) {
                None => Ok(book),
                Some(_) if region.is_some() => Self::of_region(region.unwrap_or_default()),
                Some(ours) => {
                    Err(PriceError::OtherRegion { path: path.clone(), theirs: book.region, ours: ours.to_owned() })
                }
            };
        }
        // A service that is not AWS's own may call its region anything.
        let data = config.s3.region.as_deref().filter(|_| config.s3.endpoint.is_none());
        Self::of_region(named.or(billed.region()).or(data).unwrap_or(DEFAULT_REGION))
    }
}

impl Tariff {
    /// Makes the tariff before the fleet has been asked for its functions.
    ///
    /// # Errors
    /// Those of [`PriceBook::of_config`].
    pub fn of_config(config: &Config, billed: &Billed, today: NaiveDate) -> Result<Self, PriceError> {
        let book = PriceBook::of_config(config, billed, None)?;
        let stale = book.staleness(today);
        let memory_mb = config.function_memory_bytes.div_ceil(1 << 20);
        Ok(Self {
            book,
            architecture: Architecture::of(std::env::consts::ARCH),
            memory_mb: u32::try_from(memory_mb).unwrap_or(u32::MAX),
            as_if: *billed == Billed::AsIf,
            coordinator_hour: config.cost.coordinator_hour,
            coordinator_outside: config.cost.coordinator_outside,
            stale,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigFile, Overrides};

    fn config(text: &str) -> Config {
        let file = ConfigFile { path: "gust.toml".into(), text: text.to_owned() };
        Config::load(Some(&file), [], &Overrides::default()).expect("a valid file")
    }

    #[test]
    fn each_configuration_has_its_region() {
        #[track_caller]
        fn check(text: &str, expect: &str) {
            let book = PriceBook::of_config(&config(text), &Billed::AsIf, None).expect("a book");
            assert_eq!(book.region, expect, "{text}");
        }
        check("", "us-east-1");
        check("[s3]\nregion = 'eu-west-1'", "eu-west-1");
        check("[s3]\nregion = 'garage'\nendpoint = 'https://garage.example'", "us-east-1");
        check("[s3]\nregion = 'eu-west-1'\n[cost]\nregion = 'us-west-2'", "us-west-2");
        let data = config("[s3]\nregion = 'eu-west-1'");
        let billed = Billed::In(Some("eu-central-1".to_owned()));
        let region = |billed| PriceBook::of_config(&data, &billed, None).expect("a book").region;
        assert_eq!((region(billed), region(Billed::In(None))), ("eu-central-1".to_owned(), "eu-west-1".to_owned()));
        let unknown = PriceBook::of_config(&config("[s3]\nregion = 'us-west-9'"), &Billed::AsIf, None)
            .expect_err("unknown")
            .to_string();
        assert!(unknown.contains("`us-west-9`; did you mean `us-west-2`?"), "{unknown}");
    }

    #[test]
    fn a_file_of_ones_own_wins_and_must_be_for_the_region() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("mine.toml");
        let own = include_str!("prices/us-east-1.toml").replace("us-east-1", "mars-1");
        std::fs::write(&path, own).expect("written");
        let prices = format!("[cost]\nprices = {:?}\n", path.display().to_string());
        let region =
            |text: &str, asked| PriceBook::of_config(&config(text), &Billed::AsIf, asked).map(|book| book.region);
        assert_eq!(region(&prices, None).expect("own"), "mars-1");
        assert_eq!(region(&format!("{prices}region = 'mars-1'"), None).expect("own"), "mars-1");
        assert_eq!(region(&prices, Some("eu-west-1")).expect("asked for"), "eu-west-1");
        let error = region(&format!("{prices}region = 'eu-west-1'"), None).expect_err("another region").to_string();
        assert!(error.contains("`mars-1`, not for `eu-west-1`"), "{error}");
    }

    #[test]
    fn processes_are_priced_by_the_memory_that_they_may_have() {
        let today = "2026-11-20".parse().expect("a day");
        let tariff =
            Tariff::of_config(&config("function_memory_bytes = '1500MB'"), &Billed::AsIf, today).expect("prices");
        assert_eq!((tariff.memory_mb, tariff.as_if, tariff.stale), (1431, true, None));
        assert!(!Tariff::of_config(&config(""), &Billed::In(None), today).expect("prices").as_if);
    }
}
