//! Readers of single settings: counts, sizes, durations, places and secrets, each with its bounds.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{Deserialize, Error, Visitor};

/// Upper bound of `functions_max`: ten times the concurrent executions that an AWS account has by default.
pub const FUNCTIONS_MAX: u32 = 10_000;
/// Upper bound of `process.cores`: the cores of a large machine.
pub const CORES_MAX: u32 = 128;
/// Upper bound of `read_ahead_requests_max`: more connections than the system lets a process have open.
pub const READ_AHEAD_REQUESTS_MAX: u32 = 1_024;
/// Upper bound of `shuffle_partitions`: each producer keeps as many regions.
pub const SHUFFLE_PARTITIONS_MAX: u32 = 1_024;
/// Upper bound of `timeout_seconds`: a day.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Upper bound of `server.queries_max` and `server.queued_max`.
pub const QUERIES_MAX: u32 = 1_000;
/// Upper bound of `server.connections_max`. Each is an open file.
const CONNECTIONS_MAX: u32 = 10_000;
/// Upper bound of `server.statements_max`.
pub const STATEMENTS_MAX: u32 = 100_000;
/// Upper bound of `history.retention_days`: ten years.
pub const RETENTION_DAYS_MAX: u32 = 3_650;

/// Names of newtypes. [`super::node`] treats settings with these names specially.
pub(super) const PATH: &str = "gust::Path";
pub(super) const LOCATION: &str = "gust::Location";
pub(super) const SECRET: &str = "gust::Secret";

/// A setting whose value never appears in a log or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// Returns the value itself, for the call that presents it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_newtype_struct(SECRET, TextVisitor { expected: "a string", is_valid: |_| true })
            .map(Self)
    }
}

/// Reads a number of functions.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Count { min: 1, max: FUNCTIONS_MAX })
}

/// Reads a number of cores.
pub(super) fn cores<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Count { min: 1, max: CORES_MAX })
}

/// Reads a number of days.
pub(super) fn days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Count { min: 1, max: RETENTION_DAYS_MAX })
}

/// Reads a number of queries.
pub(super) fn queries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Count { min: 1, max: QUERIES_MAX })
}

/// Reads a number of connections.
pub(super) fn connections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Count { min: 1, max: CONNECTIONS_MAX })
}

/// Reads a number of kept statements.
pub(super) fn statements<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Count { min: 1, max: STATEMENTS_MAX })
}

/// Reads a number of requests; 0 for none.
pub(super) fn count_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Count { min: 0, max: READ_AHEAD_REQUESTS_MAX })
}

/// Reads a number of partitions.
pub(super) fn partitions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    deserializer.deserialize_any(Count { min: 1, max: SHUFFLE_PARTITIONS_MAX }).map(Some)
}

/// Reads a percentage.
pub(super) fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Count { min: 0, max: 100 })
}

/// Visitor of a whole number.
struct Count {
    min: u32,
    max: u32,
}

impl Visitor<'_> for Count {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from {} to {}", self.min, self.max)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u32, E> {
        let valid = u32::try_from(value).ok().filter(|count| (self.min..=self.max).contains(count));
        valid.ok_or_else(|| invalid(&self))
    }
}

/// Reads a number of bytes, plain or with a unit.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Bytes { min: 1 })
}

/// Reads a number of bytes; 0 for none.
pub(super) fn bytes_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Bytes { min: 0 })
}

/// Visitor of a number of bytes.
struct Bytes {
    min: u64,
}

impl Visitor<'_> for Bytes {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = if self.min > 0 { " above zero" } else { "" };
        write!(f, "bytes{least}, such as 536870912, \"512MiB\" or \"2GB\"")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).ok().filter(|bytes| *bytes >= self.min).ok_or_else(|| invalid(&self))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<u64, E> {
        parse_bytes(value).filter(|bytes| *bytes >= self.min).ok_or_else(|| invalid(&self))
    }
}

/// Reads `512`, `512B`, `512MiB` or `2 GB`; None for anything else. Numbers are whole. MiB are powers of 1,024 and MB
/// of 1,000. Letter case does not count.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Reads seconds, whole or not, or a text such as `1m 30s`.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Seconds;
    impl Visitor<'_> for Seconds {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "seconds above zero, at most {}, such as 30 or \"30s\"", TIMEOUT_MAX.as_secs())
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<Duration, E> {
            let value = u64::try_from(value).map(Duration::from_secs).ok();
            value.filter(|value| is_timeout(*value)).ok_or_else(|| invalid(&self))
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<Duration, E> {
            let value = Duration::try_from_secs_f64(value).ok();
            value.filter(|value| is_timeout(*value)).ok_or_else(|| invalid(&self))
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<Duration, E> {
            let value = humantime::parse_duration(value).ok();
            value.filter(|value| is_timeout(*value)).ok_or_else(|| invalid(&self))
        }
    }
    deserializer.deserialize_any(Seconds)
}

pub(super) fn optional_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    seconds(deserializer).map(Some)
}

/// Returns true if a statement may be given this long.
pub fn is_timeout(value: Duration) -> bool {
    !value.is_zero() && value <= TIMEOUT_MAX
}

/// Reads a file or folder of this machine. In a configuration file a relative one starts from the file's own folder.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let visitor =
        TextVisitor { expected: "a path on this machine", is_valid: |text| !text.is_empty() && !text.contains("://") };
    deserializer.deserialize_newtype_struct(PATH, visitor).map(PathBuf::from)
}

pub(super) fn optional_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    path(deserializer).map(Some)
}

/// Reads a folder of this machine (like [`path()`]) or a URL of a store that functions can reach.
pub(super) fn location<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let visitor = TextVisitor {
        expected: "a folder, or a URL that starts with file:// or s3://",
        is_valid: |text| match text.split_once("://") {
            Some((scheme, rest)) => ["file", "s3"].contains(&scheme) && !rest.is_empty(),
            None => !text.is_empty(),
        },
    };
    deserializer.deserialize_newtype_struct(LOCATION, visitor)
}

pub(super) fn optional_location<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    location(deserializer).map(Some)
}

/// Reads several locations.
pub(super) fn locations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Location(String);
    impl<'de> Deserialize<'de> for Location {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            location(deserializer).map(Self)
        }
    }
    let locations = Vec::<Location>::deserialize(deserializer)?;
    Ok(locations.into_iter().map(|Location(place)| place).collect())
}

/// Visitor of a text that passes a test.
struct TextVisitor {
    expected: &'static str,
    is_valid: fn(&str) -> bool,
}

impl Visitor<'_> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<String, E> {
        if (self.is_valid)(value) { Ok(value.to_owned()) } else { Err(invalid(&self)) }
    }
}

/// Makes the error without the value, which the value's node adds.
fn invalid<'de, E: Error>(expected: &impl Visitor<'de>) -> E {
    E::invalid_value(serde::de::Unexpected::Other("this value"), expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        #[track_caller]
        fn check(text: &str, expect: Option<u64>) {
            assert_eq!(parse_bytes(text), expect, "for {text:?}");
        }
        check("512", Some(512));
        check("512B", Some(512));
        check("1KiB", Some(1024));
        check("1kb", Some(1000));
        check("512MiB", Some(512 << 20));
        check(" 2 GiB ", Some(2 << 30));
        check("2GB", Some(2_000_000_000));
        check("1TiB", Some(1 << 40));
        check("1TB", Some(1_000_000_000_000));
        check("", None);
        check("GiB", None);
        check("1.5GiB", None);
        check("-1", None);
        check("2 gigs", None);
        check("2M", None);
        check("99999999999TiB", None);
    }

    #[test]
    fn debug_output_hides_secrets() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(hidden)");
    }
}
