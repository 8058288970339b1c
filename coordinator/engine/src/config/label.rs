//! Labels of a query, which say what it is for: `team=ads`.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::HistoryConfig;

/// Upper bound of a query's labels.
pub const LABELS_MAX: usize = 16;
const KEY_CHARS_MAX: usize = 64;
const VALUE_CHARS_MAX: usize = 256;

/// A label: a key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub key: String,
    pub value: String,
}

/// Error in a label or in a set of them. The text says what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("KEY=VALUE, such as team=ads")]
    NoValue,
    #[error("a key of 1 to {KEY_CHARS_MAX} letters, digits, dots, dashes or underscores")]
    Key,
    #[error("a value of 1 to {VALUE_CHARS_MAX} characters, none of them a control character")]
    Value,
    #[error("at most {LABELS_MAX} labels including the configuration's, not {0}")]
    TooMany(usize),
}

impl Label {
    pub fn new(key: &str, value: &str) -> Result<Self, LabelError> {
        let is_value = (1..=VALUE_CHARS_MAX).contains(&value.chars().count()) && !value.chars().any(char::is_control);
        match (is_label_key(key), is_value) {
            (false, _) => Err(LabelError::Key),
            (_, false) => Err(LabelError::Value),
            (true, true) => Ok(Self { key: key.to_owned(), value: value.to_owned() }),
        }
    }
}

/// Returns true if a label can have this key. Such a key needs no escaping anywhere.
pub fn is_label_key(key: &str) -> bool {
    (1..=KEY_CHARS_MAX).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl FromStr for Label {
    type Err = LabelError;

    /// Splits at the first `=`; the value may hold more of them.
    fn from_str(text: &str) -> Result<Self, LabelError> {
        let (key, value) = text.split_once('=').ok_or(LabelError::NoValue)?;
        Self::new(key, value)
    }
}

/// Returns the settings' labels with a statement's own, which win over them.
///
/// # Errors
/// [`LabelError::TooMany`] for more labels than [`LABELS_MAX`].
pub fn labels(settings: &HistoryConfig, own: &[Label]) -> Result<BTreeMap<String, String>, LabelError> {
    let mut labels = settings.labels.clone();
    labels.extend(own.iter().map(|label| (label.key.clone(), label.value.clone())));
    if labels.len() > LABELS_MAX { Err(LabelError::TooMany(labels.len())) } else { Ok(labels) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_and_bounded() {
        #[track_caller]
        fn check(text: &str, expect: Result<(&str, &str), LabelError>) {
            let expect = expect.map(|(key, value)| Label { key: key.to_owned(), value: value.to_owned() });
            assert_eq!(text.parse::<Label>(), expect, "for {text:?}");
        }
        check("team=ads", Ok(("team", "ads")));
        check("cost.center-1_x=a=b, c", Ok(("cost.center-1_x", "a=b, c")));
        check("team=Größe", Ok(("team", "Größe")));
        check("team", Err(LabelError::NoValue));
        check("=ads", Err(LabelError::Key));
        check("a team=ads", Err(LabelError::Key));
        check("team'--=ads", Err(LabelError::Key));
        check("größe=1", Err(LabelError::Key));
        check("team=", Err(LabelError::Value));
        check("team=a\nb", Err(LabelError::Value));
        let (key, value) = ("k".repeat(64), "é".repeat(256));
        check(&format!("{key}={value}"), Ok((&key, &value)));
        check(&format!("{key}k=v"), Err(LabelError::Key));
        check(&format!("k={value}v"), Err(LabelError::Value));
    }

    #[test]
    fn a_statements_own_labels_stand_above_the_settings() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let settings = HistoryConfig { labels: of(&[("team", "ads"), ("env", "prod")]), ..Default::default() };
        let own = [Label::new("team", "search").expect("a label")];
        assert_eq!(labels(&settings, &own), Ok(of(&[("team", "search"), ("env", "prod")])));
        let many: Vec<Label> = (0..15).map(|n| Label::new(&format!("k{n}"), "v").expect("a label")).collect();
        assert_eq!(labels(&settings, &many), Err(LabelError::TooMany(17)));
        assert!(labels(&settings, &many[1..]).is_ok());
    }
}
