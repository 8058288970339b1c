//! Settings that PostgreSQL's clients send and ask for. Those without a meaning here are kept and told, and change nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::timezone::Tz;

use super::answers::Told;
use super::startup::SERVER_VERSION;

/// SQLSTATE codes of PostgreSQL.
const INVALID: &str = "22023";
const READ_ONLY: &str = "55P02";

/// Most bytes of a value.
const VALUE_BYTES_MAX: usize = 1_024;

struct Known {
    name: &'static str,
    default: &'static str,
    kind: Kind,
    /// True if clients are told it at the beginning, and when it changes.
    is_told: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any text.
    Text,
    /// On or off.
    Switch,
    /// Milliseconds, or a number with its unit.
    Time,
    Encoding,
    Zone,
    DateStyle,
    /// Value that nobody changes.
    Fixed,
}

const fn known(name: &'static str, default: &'static str, kind: Kind) -> Known {
    Known { name, default, kind, is_told: false }
}

const fn told(name: &'static str, default: &'static str, kind: Kind) -> Known {
    Known { name, default, kind, is_told: true }
}

const KNOWN: &[Known] = &[
    told("application_name", "", Kind::Text),
    known("bytea_output", "hex", Kind::Fixed),
    told("client_encoding", "UTF8", Kind::Encoding),
    known("client_min_messages", "notice", Kind::Text),
    told("DateStyle", "ISO, MDY", Kind::DateStyle),
    known("default_transaction_isolation", "read committed", Kind::Text),
    told("default_transaction_read_only", "on", Kind::Switch),
    known("extra_float_digits", "1", Kind::Text),
    known("gust.notice_cost", "off", Kind::Switch),
    known("idle_in_transaction_session_timeout", "0", Kind::Time),
    told("in_hot_standby", "off", Kind::Fixed),
    told("integer_datetimes", "on", Kind::Fixed),
    told("IntervalStyle", "postgres", Kind::Fixed),
    told("is_superuser", "off", Kind::Fixed),
    known("jit", "off", Kind::Text),
    known("lc_collate", "C", Kind::Fixed),
    known("lc_ctype", "C.UTF-8", Kind::Fixed),
    known("lc_messages", "C", Kind::Text),
    known("lc_monetary", "C", Kind::Text),
    known("lc_numeric", "C", Kind::Text),
    known("lc_time", "C", Kind::Text),
    known("lock_timeout", "0", Kind::Time),
    known("max_identifier_length", "63", Kind::Fixed),
    known("row_security", "on", Kind::Switch),
    known("search_path", "\"$user\", public", Kind::Text),
    told("server_encoding", "UTF8", Kind::Fixed),
    told("server_version", SERVER_VERSION, Kind::Fixed),
    known("server_version_num", "160006", Kind::Fixed),
    told("session_authorization", "", Kind::Fixed),
    told("standard_conforming_strings", "on", Kind::Fixed),
    known("statement_timeout", "0", Kind::Time),
    known("synchronous_commit", "on", Kind::Text),
    told("TimeZone", "UTC", Kind::Zone),
    known("transaction_isolation", "read committed", Kind::Text),
    known("transaction_read_only", "on", Kind::Switch),
];

/// Values of a connection's settings.
#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    changed: BTreeMap<&'static str, String>,
}

/// Returns the name of a setting as it is told, if clients of PostgreSQL know it.
pub(super) fn name_of(name: &str) -> Option<&'static str> {
    known_by(name).map(|known| known.name)
}

fn known_by(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(name))
}

impl Settings {
    /// Returns the value of a setting.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let known = known_by(name)?;
        Some(self.changed.get(known.name).map_or(known.default, String::as_str))
    }

    /// Returns the value that a setting has instead of its default.
    pub(super) fn own(&self, name: &str) -> Option<String> {
        self.changed.get(name).cloned()
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.get(name) == Some("on")
    }

    /// Returns the longest time of a statement; None for no bound of the client's.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        self.get("statement_timeout").and_then(time).filter(|time| !time.is_zero())
    }

    /// Returns names and values of which clients are told at the beginning.
    pub(super) fn told(&self) -> impl Iterator<Item = (&'static str, String)> {
        let told = KNOWN.iter().filter(|known| known.is_told);
        told.map(|known| (known.name, self.get(known.name).unwrap_or_default().to_owned()))
    }

    /// Changes a setting; None sets it back. Returns the name and value of which the client is told.
    ///
    /// # Errors
    /// The value does not fit, or nobody may change the setting.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) -> Result<Option<(&'static str, String)>, Told> {
        let Some(known) = known_by(name) else { return Ok(None) };
        let Some(value) = value else {
            self.changed.remove(known.name);
            return Ok(known.is_told.then(|| (known.name, known.default.to_owned())));
        };
        let value = known.value(value)?;
        self.changed.insert(known.name, value.clone());
        Ok(known.is_told.then_some((known.name, value)))
    }

    /// Returns the names of settings that do not have their default.
    pub(super) fn changed(&self) -> impl Iterator<Item = &'static str> {
        self.changed.keys().copied().filter(|name| *name != "session_authorization")
    }

    /// Sets the name that the user has.
    pub(super) fn set_user(&mut self, user: &str) {
        self.changed.insert("session_authorization", user.to_owned());
    }
}

impl Known {
    fn value(&self, value: &str) -> Result<String, Told> {
        let name = self.name;
        let refused = |why: &str| Told::new(INVALID, format!("{name}: `{value}` {why}"));
        if value.len() > VALUE_BYTES_MAX {
            return Err(Told::new(INVALID, format!("{name}: a value has at most {VALUE_BYTES_MAX} bytes")));
        }
        match self.kind {
            Kind::Text => Ok(value.to_owned()),
            Kind::Switch => match value.to_ascii_lowercase().as_str() {
                "on" | "true" | "yes" | "1" => Ok("on".to_owned()),
                "off" | "false" | "no" | "0" => Ok("off".to_owned()),
                _ => Err(refused("is neither on nor off")),
            },
            Kind::Time => {
                time(value).map(|_| value.to_owned()).ok_or_else(|| refused("is no time, such as 500ms or 5s"))
            }
            Kind::Zone => match value.parse::<Tz>() {
                Ok(_) => Ok(value.to_owned()),
                Err(_) => Err(refused("is no time zone, such as Europe/Berlin or +02:00")),
            },
            Kind::Encoding => match value.to_ascii_lowercase().replace(['-', '_', '\''], "").as_str() {
                "utf8" | "unicode" => Ok("UTF8".to_owned()),
                _ => Err(refused("is not sent; UTF8 is")),
            },
            Kind::DateStyle if value.to_ascii_lowercase().starts_with("iso") => Ok("ISO, MDY".to_owned()),
            Kind::DateStyle if ["mdy", "default"].contains(&value.to_ascii_lowercase().as_str()) => {
                Ok("ISO, MDY".to_owned())
            }
            Kind::DateStyle => Err(refused("is not written; ISO is")),
            Kind::Fixed if value.eq_ignore_ascii_case(self.default) => Ok(self.default.to_owned()),
            Kind::Fixed => Err(Told::new(READ_ONLY, format!("{name} cannot be changed; it is `{}`", self.default))),
        }
    }
}

/// Reads a time: milliseconds, or a number with its unit.
fn time(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let milliseconds = match text[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_kept_and_told() {
        let mut settings = Settings::default();
        for (name, value, kept) in [
            ("DATESTYLE", "iso, dmy", Ok("ISO, MDY")),
            ("DateStyle", "German", Err("ISO is")),
            ("client_encoding", "utf-8", Ok("UTF8")),
            ("client_encoding", "'utf-8'", Ok("UTF8")),
            ("client_encoding", "LATIN1", Err("UTF8 is")),
            ("TimeZone", "Asia/Kolkata", Ok("Asia/Kolkata")),
            ("TimeZone", "UTC", Ok("UTC")),
            ("TimeZone", "Mars/Base", Err("is no time zone")),
            ("extra_float_digits", "3", Ok("3")),
            ("statement_timeout", "5s", Ok("5s")),
            ("statement_timeout", "soon", Err("is no time")),
            ("gust.notice_cost", "TRUE", Ok("on")),
            ("gust.notice_cost", "perhaps", Err("neither on nor off")),
            ("standard_conforming_strings", "on", Ok("on")),
            ("standard_conforming_strings", "off", Err("cannot be changed")),
            ("application_name", &"x".repeat(2_000), Err("at most 1024 bytes")),
        ] {
            match (settings.set(name, Some(value)), kept) {
                (Ok(_), Ok(kept)) => assert_eq!(settings.get(name), Some(kept), "{name}"),
                (Err(told), Err(words)) => assert!(told.message.contains(words), "{told:?}"),
                (set, _) => panic!("{name} = {value}: {set:?}"),
            }
        }
        assert_eq!(settings.statement_timeout(), Some(Duration::from_secs(5)));
        let told = settings.set("application_name", Some("psql")).expect("a text");
        assert_eq!(told, Some(("application_name", "psql".to_owned())));
        assert!(settings.told().any(|(name, value)| name == "application_name" && value == "psql"));
        settings.set("statement_timeout", None).expect("it is known");
        assert_eq!(settings.statement_timeout(), None);
        assert_eq!((settings.get("nothing"), name_of("timezone")), (None, Some("TimeZone")));
    }
}
