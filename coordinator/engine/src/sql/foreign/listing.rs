//! The tables as texts, for SHOW FUNCTIONS and the dialect page.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::names::{Meaning, NAMES};

/// Calls by a name of another engine, and what they are here.
pub(in crate::sql) struct Listed {
    pub(in crate::sql) name: &'static str,
    pub(in crate::sql) calls: String,
    pub(in crate::sql) here: String,
}

/// Lists the names of other engines that are not refused, in their order.
pub(in crate::sql) fn listed() -> Vec<Listed> {
    let mut listed: BTreeMap<&'static str, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for row in NAMES {
        let Some(here) = here(&row.meaning) else { continue };
        for name in row.names {
            let (calls, heres) = listed.entry(*name).or_default();
            calls.push(call(name, &row.arguments));
            heres.push(here.clone());
        }
    }
    let joined = |(name, (calls, heres)): (&'static str, (Vec<String>, Vec<String>))| Listed {
        name,
        calls: calls.join("; "),
        here: heres.join("; "),
    };
    listed.into_iter().map(joined).collect()
}

/// Writes a meaning with the arguments a, b and c; None for a name that is refused.
pub(super) fn here(meaning: &Meaning) -> Option<String> {
    match meaning {
        Meaning::Renamed(to) => Some((*to).to_owned()),
        Meaning::Written(text) | Meaning::Aggregated { text, .. } => {
            Some(text.replace("$1", "a").replace("$2", "b").replace("$3", "c"))
        }
        Meaning::Chosen { text, .. } => Some((*text).to_owned()),
        Meaning::Refused(_) => None,
    }
}

/// Writes a call with so many arguments.
pub(super) fn call(name: &str, arguments: &RangeInclusive<usize>) -> String {
    let given = match (*arguments.start(), *arguments.end()) {
        (0, 0) => "",
        (1, 1) => "a",
        (2, 2) => "a, b",
        (3, 3) => "a, b, c",
        (1, 2) => "a[, b]",
        (2, _) => "a, b, ...",
        _ => "...",
    };
    format!("{name}({given})")
}
