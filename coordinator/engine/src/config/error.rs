//! Errors of a configuration. Each names the key, the value, the place and the next step, so that the reader can correct
//! it.

use std::fmt::{self, Display};
use std::path::PathBuf;

use serde::de::{Error, Expected, Unexpected};

use super::node::VARIABLE_PREFIX;
use crate::nearest::nearest;

/// Place where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment { variable: String },
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("by default"),
            Self::File { path, line } => write!(f, "in {} line {line}", path.display()),
            Self::Environment { variable } => write!(f, "in the environment variable `{variable}`"),
        }
    }
}

/// A setting and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Key with its tables, e.g. `s3.endpoint`.
    pub key: String,
    pub origin: Origin,
}

impl Setting {
    pub(super) fn new(key: impl Into<String>, origin: Origin) -> Box<Self> {
        Box::new(Self { key: key.into(), origin })
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.key, self.origin)
    }
}

/// Error in a configuration. The user can correct every kind; nothing has been run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} line {line} is not valid TOML: {reason}", path.display())]
    Syntax { path: PathBuf, line: usize, reason: String },
    #[error("unknown key {setting}")]
    UnknownKey { setting: Box<Setting>, hint: String },
    #[error("unknown environment variable `{variable}`")]
    UnknownVariable { variable: String, hint: String },
    #[error("missing key `{}`; its table stands {}", setting.key, setting.origin)]
    MissingKey { setting: Box<Setting> },
    #[error("invalid value {value} for {setting}: expected {expected}")]
    InvalidValue { setting: Box<Setting>, value: String, expected: String, hint: Option<String> },
    #[error("{setting} does not fit the other settings: {reason}")]
    Conflict { setting: Box<Setting>, reason: &'static str, hint: &'static str },
    #[error("{setting} is a key of catalogs of type {owners}, and this one is of type {kind}")]
    ForeignKey { setting: Box<Setting>, owners: String, kind: &'static str, hint: String },
}

impl ConfigError {
    /// Returns the next step.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::UnknownKey { hint, .. } | Self::UnknownVariable { hint, .. } | Self::ForeignKey { hint, .. } => {
                Some(hint)
            }
            Self::InvalidValue { hint, .. } => hint.as_deref(),
            Self::Conflict { hint, .. } => Some(hint),
            _ => None,
        }
    }
}

/// An error as serde sees it, before the key's path and place are known.
#[derive(Debug)]
pub(super) struct ConfigFault {
    problem: Problem,
    /// Tables' keys, innermost first.
    keys: Vec<String>,
    found: Option<Box<Found>>,
}

/// Value that was found, and its place.
#[derive(Debug)]
struct Found {
    origin: Origin,
    value: String,
}

#[derive(Debug)]
enum Problem {
    UnknownKey { name: String, valid: &'static [&'static str] },
    MissingKey { name: &'static str },
    UnknownValue { name: String, valid: &'static [&'static str] },
    WrongValue { expected: String },
}

impl ConfigFault {
    fn new(problem: Problem) -> Self {
        Self { problem, keys: Vec::new(), found: None }
    }

    /// Adds the place and the value. An inner place that is there already stays.
    pub fn at(mut self, origin: &Origin, value: impl FnOnce() -> String) -> Self {
        self.found.get_or_insert_with(|| Box::new(Found { origin: origin.clone(), value: value() }));
        self
    }

    /// Adds the key of the table around it.
    pub fn under(mut self, key: &str) -> Self {
        self.keys.push(key.to_owned());
        self
    }

    pub fn hide_value(mut self) -> Self {
        if let Some(found) = &mut self.found {
            found.value = "(hidden)".to_owned();
        }
        self
    }

    pub fn into_error(self) -> ConfigError {
        let Found { origin, value } =
            self.found.map_or_else(|| Found { origin: Origin::Default, value: String::new() }, |found| *found);
        let mut keys = self.keys;
        keys.reverse();
        match self.problem {
            Problem::UnknownKey { name, valid } => unknown_key(&keys, &name, valid, origin),
            Problem::MissingKey { name } => {
                ConfigError::MissingKey { setting: Setting::new(dotted(&keys, name), origin) }
            }
            Problem::UnknownValue { name, valid } => {
                let hint = nearest(&name, valid.iter().copied());
                let hint = hint.map(|near| format!("did you mean \"{near}\"?"));
                let expected = format!("one of {}", quoted(valid.iter(), '"'));
                ConfigError::InvalidValue { setting: Setting::new(keys.join("."), origin), value, expected, hint }
            }
            Problem::WrongValue { expected } => {
                let (setting, hint) = (Setting::new(keys.join("."), origin), None);
                ConfigError::InvalidValue { setting, value, expected, hint }
            }
        }
    }
}

fn unknown_key(tables: &[String], name: &str, valid: &[&str], origin: Origin) -> ConfigError {
    if let Origin::Environment { variable } = origin {
        // One underscore stands where two belong: `s3_endpoint` for `s3__endpoint`.
        let nested =
            valid.iter().find_map(|key| Some(format!("{key}__{}", name.strip_prefix(key)?.strip_prefix('_')?)));
        let near = nearest(name, valid.iter().copied()).map(str::to_owned).or(nested);
        let as_variable = |key: &str| {
            let keys = tables.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join("__");
            format!("{VARIABLE_PREFIX}{}", keys.to_uppercase())
        };
        let hint = match near {
            Some(near) => format!("did you mean `{}`?", as_variable(&near)),
            None => format!("valid variables are {}", quoted(valid.iter().map(|key| as_variable(key)), '`')),
        };
        return ConfigError::UnknownVariable { variable, hint };
    }
    let hint = match nearest(name, valid.iter().copied()) {
        Some(near) => format!("did you mean `{}`?", dotted(tables, near)),
        None => format!("valid keys are {}", quoted(valid.iter().map(|key| dotted(tables, key)), '`')),
    };
    ConfigError::UnknownKey { setting: Setting::new(dotted(tables, name), origin), hint }
}

fn dotted(tables: &[String], key: &str) -> String {
    tables.iter().map(String::as_str).chain([key]).collect::<Vec<_>>().join(".")
}

fn quoted(names: impl Iterator<Item = impl Display>, quote: char) -> String {
    names.map(|name| format!("{quote}{name}{quote}")).collect::<Vec<_>>().join(", ")
}

impl Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.problem)
    }
}

impl std::error::Error for ConfigFault {}

impl Error for ConfigFault {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(Problem::WrongValue { expected: message.to_string() })
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Problem::WrongValue { expected: expected.to_string() })
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Problem::WrongValue { expected: expected.to_string() })
    }

    fn unknown_variant(name: &str, valid: &'static [&'static str]) -> Self {
        Self::new(Problem::UnknownValue { name: name.to_owned(), valid })
    }

    fn unknown_field(name: &str, valid: &'static [&'static str]) -> Self {
        Self::new(Problem::UnknownKey { name: name.to_owned(), valid })
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new(Problem::MissingKey { name })
    }
}
