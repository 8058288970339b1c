//! Hints about columns that there are not.

use std::collections::BTreeSet;

/// Most names of columns in a hint.
const FIELDS_MAX: usize = 12;

/// Words that other engines read without brackets, and their hidden columns, with what to write instead.
const WORDS: [(&str, &str); 11] = [
    (
        "$path",
        "tables over folders have it, called by one name: FROM schema.t AS t; SELECT file_path FROM \"t$files\" lists the files of an Iceberg table",
    ),
    ("localtimestamp", "now() is the time in UTC; CAST(now() AS TIMESTAMP) has no zone"),
    ("localtime", "current_time() is the time in UTC"),
    ("current_user", "whoever runs the program; gust.queries has user_name"),
    ("session_user", "whoever runs the program; gust.queries has user_name"),
    ("sysdate", "now() is the time in UTC"),
    ("rownum", "row_number() OVER ()"),
    ("filename", "\"$path\" is the file of a row"),
    ("$file_size", "\"$path\" is the file of a row; there are no other hidden columns"),
    ("$file_modified_time", "\"$path\" is the file of a row; there are no other hidden columns"),
    ("_metadata", "\"$path\" is the file of a row; there are no other hidden columns"),
];

/// Returns what to write in place of a word that the engine took for a column. `message` is the engine's first line.
pub(crate) fn hint_of_column(message: &str) -> Option<&'static str> {
    let (_, name) = message.split_once("No field named ")?;
    let name = name.split([' ', '.']).next()?.trim_matches('"').to_lowercase();
    WORDS.iter().find(|(word, _)| *word == name).map(|(_, hint)| *hint)
}

/// Shortens the engine's list of valid fields: each stands once, and the first few are enough.
pub(crate) fn few_fields(hint: &str) -> String {
    let Some(list) = hint.strip_prefix("Valid fields are ") else { return hint.to_owned() };
    let mut seen = BTreeSet::new();
    let names: Vec<&str> = list.trim_end_matches('.').split(", ").filter(|name| seen.insert(name.to_owned())).collect();
    let more = names.len().saturating_sub(FIELDS_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let few = &names[..names.len() - more];
    format!("Valid fields are {}{rest}.", few.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_engines_are_known() {
        for (message, hint) in [
            ("No field named localtimestamp", Some("now()")),
            ("No field named \"$file_size\"", Some("$path")),
            ("Schema error: No field named LOCALTIME.", Some("current_time()")),
            ("No field named x", None),
            ("there is no table `localtime`", None),
        ] {
            let told = hint_of_column(message);
            assert_eq!(told.is_some(), hint.is_some(), "{message}");
            assert!(told.zip(hint).is_none_or(|(told, hint)| told.contains(hint)), "{message}: {told:?}");
        }
    }

    #[test]
    fn a_hint_has_a_dozen_columns_at_most() {
        let many: Vec<String> = (0..20).map(|number| format!("t.c{number}")).collect();
        let hint = few_fields(&format!("Valid fields are {}.", many.join(", ")));
        assert!(hint.ends_with("t.c11 and 8 more."), "{hint}");
        assert_eq!(few_fields("Valid fields are t.a, t.b, t.a."), "Valid fields are t.a, t.b.");
        assert_eq!(few_fields("another hint"), "another hint");
    }
}
