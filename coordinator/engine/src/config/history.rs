//! Settings of the history.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::label::{LABELS_MAX, Label, LabelError};
use super::node::Node;
use super::{ConfigError, Setting, state_folder, units};

/// Record that is kept of each query of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// Switch of the recording. Default true. Earlier records can be read in any case.
    pub enabled: bool,
    /// The SQLite file. None is `gust/history.db` in the folder of XDG_STATE_HOME, or in `.local/state` of HOME.
    #[serde(deserialize_with = "units::optional_path")]
    pub path: Option<PathBuf>,
    /// Form in which statements are kept. Default `text`.
    pub statement: StatementKept,
    /// Days after which a query is removed, 1 to [`super::RETENTION_DAYS_MAX`]. Removal happens as new queries are recorded.
    /// Default 90: a quarter, for which most budgets are made.
    #[serde(deserialize_with = "units::days")]
    pub retention_days: u32,
    /// Bytes that the file may grow to. Default 1 GiB: half a million queries of ten fragments each, at about 2 KB.
    #[serde(deserialize_with = "units::bytes")]
    pub bytes_max: u64,
    /// User in the record. None is the environment's USER, LOGNAME or USERNAME. The command line falls back to the name of the account.
    pub user: Option<String>,
    /// Labels of each query. `--label` adds to them and wins over them.
    pub labels: BTreeMap<String, String>,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            path: None,
            statement: StatementKept::Text,
            retention_days: 90,
            bytes_max: 1 << 30,
            user: None,
            labels: BTreeMap::new(),
        }
    }
}

/// Form in which the history keeps a statement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatementKept {
    /// Text and its hash.
    #[default]
    Text,
    /// Hash alone, and no error message, because that could quote the text.
    Hash,
}

impl HistoryConfig {
    /// Checks the labels.
    pub(super) fn check(&self, tree: &Node) -> Result<(), ConfigError> {
        let setting = |key: &str| {
            let keys: Vec<&str> = ["history", "labels"].into_iter().chain((!key.is_empty()).then_some(key)).collect();
            Setting::new(keys.join("."), tree.origin_of(&keys))
        };
        let invalid = |key: &str, value: String, bad: LabelError| {
            let (expected, hint) = (bad.to_string(), None);
            Err(ConfigError::InvalidValue { setting: setting(key), value, expected, hint })
        };
        for (key, value) in &self.labels {
            if let Err(bad) = Label::new(key, value) {
                return invalid(key, format!("{value:?}"), bad);
            }
        }
        match self.labels.len() {
            count if count > LABELS_MAX => invalid("", format!("{count} labels"), LabelError::TooMany(count)),
            _ => Ok(()),
        }
    }

    /// Fills settings that are not set from the environment.
    pub(super) fn fill_from_environment(&mut self, environment: &BTreeMap<String, String>) {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        if self.path.is_none() {
            self.path = state_folder(environment).map(|state| state.join("history.db"));
        }
        if self.user.is_none() {
            self.user = ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(variable).cloned();
        }
    }
}
