//! Nearest name to a mistyped one, for hints in errors about configuration keys, tables and columns.
//!
//! Non-goals: it never corrects anything by itself. It ranks by spelling alone, not by meaning.

use strsim::damerau_levenshtein;

/// Returns the candidate spelled most like `name`, if one is close enough for a hint.
///
/// Letter case does not count. A candidate is close if it needs at most one edit for each three letters of `name`, and
/// at least one. An edit is an insertion, a deletion, a replacement or a swap of neighbours. A candidate is close, too,
/// if it starts with `name` and `name` has at least three letters. The first of equally close candidates wins.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let length = name.chars().count();
    let edits_max = (length / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let edits = damerau_levenshtein(&name, &lower);
            let is_start = length >= 3 && lower.starts_with(&name);
            (edits <= edits_max || is_start).then_some((edits, candidate))
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = ["lineitem", "orders", "part", "partsupp", "functions_max", "on"];

    #[track_caller]
    fn check(name: &str, expect: Option<&str>) {
        assert_eq!(nearest(name, NAMES), expect, "for {name:?}");
    }

    #[test]
    fn close_spellings_are_found() {
        check("functons_max", Some("functions_max"));
        check("function_maxs", Some("functions_max"));
        check("line_item", Some("lineitem"));
        check("linietem", Some("lineitem"));
        check("LINEITEM", Some("lineitem"));
        check("order", Some("orders"));
        check("parts", Some("part"));
        check("partsup", Some("partsupp"));
        check("no", Some("on"));
        check("ön", Some("on"));
    }

    #[test]
    fn prefixes_of_three_letters_are_found() {
        check("functions", Some("functions_max"));
        check("line", Some("lineitem"));
        check("par", Some("part"));
        check("o", Some("on"));
        check("fu", None);
    }

    #[test]
    fn far_spellings_are_not_found() {
        check("", None);
        check("customer", None);
        check("xy", None);
        check("lines", None);
    }

    #[test]
    fn the_first_of_equally_close_candidates_wins() {
        assert_eq!(nearest("tab", ["tag", "tap"]), Some("tag"));
        assert_eq!(nearest("tab", []), None);
    }
}
