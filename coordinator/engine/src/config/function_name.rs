//! Names of deployed functions in the configuration.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Unexpected};

/// Upper bound of the functions that a configuration names.
pub const CLONES_MAX: usize = 1_000;

/// Name of a function in the configuration: `NAME`, `NAME:ALIAS`, or an ARN with or without alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionName {
    /// Region in the ARN; None for a bare name.
    pub region: Option<String>,
    /// Name or ARN, without its qualifier.
    pub name: String,
    pub qualifier: Option<String>,
}

/// A text that names no function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("NAME:ALIAS, or arn:aws:lambda:REGION:ACCOUNT:function:NAME:ALIAS")]
pub struct NoFunctionName;

impl FromStr for FunctionName {
    type Err = NoFunctionName;

    fn from_str(text: &str) -> Result<Self, NoFunctionName> {
        let parts: Vec<&str> = text.split(':').collect();
        let (region, account, name, qualifier) = match parts.as_slice() {
            ["arn", _, "lambda", region, account, "function", rest @ ..] => match rest {
                [name] => (Some(*region), Some(*account), *name, None),
                [name, qualifier] => (Some(*region), Some(*account), *name, Some(*qualifier)),
                _ => return Err(NoFunctionName),
            },
            [name] => (None, None, *name, None),
            [name, qualifier] => (None, None, *name, Some(*qualifier)),
            _ => return Err(NoFunctionName),
        };
        let is_word = |word: &str| {
            !word.is_empty()
                && word.len() <= 140
                && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_$".contains(&b))
        };
        if ![region, account, Some(name), qualifier].into_iter().flatten().all(is_word) {
            return Err(NoFunctionName);
        }
        let name = match (region, account) {
            (Some(region), Some(account)) => format!("arn:{}:lambda:{region}:{account}:function:{name}", parts[1]),
            _ => name.to_owned(),
        };
        Ok(Self { region: region.map(str::to_owned), name, qualifier: qualifier.map(str::to_owned) })
    }
}

impl<'de> Deserialize<'de> for FunctionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let invalid = |bad: NoFunctionName| D::Error::invalid_value(Unexpected::Str(&text), &bad.to_string().as_str());
        text.parse().map_err(invalid)
    }
}

impl Display for FunctionName {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        self.qualifier.as_ref().map_or(Ok(()), |qualifier| write!(f, ":{qualifier}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arns_are_read_and_others_refused() {
        #[track_caller]
        fn check(text: &str, expect: Option<(Option<&str>, &str, Option<&str>)>) {
            let parsed = text.parse::<FunctionName>();
            let seen = parsed.as_ref().ok().map(|f| (f.region.as_deref(), f.name.as_str(), f.qualifier.as_deref()));
            assert_eq!(seen, expect, "{text}");
            if let Ok(parsed) = &parsed {
                assert_eq!(parsed.to_string(), text);
            }
        }
        let arn = "arn:aws:lambda:eu-central-1:123456789012:function:gust-arm64-2048-0";
        check("gust", Some((None, "gust", None)));
        check("gust:live", Some((None, "gust", Some("live"))));
        check("gust:$LATEST", Some((None, "gust", Some("$LATEST"))));
        check(arn, Some((Some("eu-central-1"), arn, None)));
        check(&format!("{arn}:live"), Some((Some("eu-central-1"), arn, Some("live"))));
        for bad in ["", "a:b:c", "a b", "gust:", "arn:aws:s3:::bucket", "arn:aws:lambda:::function:x", "x/y"] {
            check(bad, None);
        }
    }
}
