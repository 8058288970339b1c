//! Keys of grants.

use super::*;

pub(super) fn pattern(text: &str) -> TablePattern {
    TablePattern::try_from(text.to_owned()).expect("a pattern")
}

#[test]
fn a_bad_grant_says_what_is_expected() {
    #[track_caller]
    fn check(file: &str, expect: &str) {
        let error = told(load(file, &[]).expect_err("a bad file"));
        assert_eq!(error, expect, "for {file:?}");
    }
    check(
        "[[server.grant]]\nusers = ['ada']\ntable = ['t']",
        "unknown key `server.grant.table` in lake/gust.toml line 3\nhint: did you mean `server.grant.tables`?",
    );
    for (keys, expected) in [
        ("tables = ['t']", "`users`, `groups` or both"),
        ("users = ['ada']", "`tables`, `paths` or both"),
        ("groups = []\ntables = ['t']", "a name or more in `users` and in `groups`"),
        ("users = []\ngroups = ['a']\ntables = ['t']", "a name or more in `users` and in `groups`"),
        ("users = ['ada']\ntables = []", "one or more in `tables` and in `paths`"),
        ("users = ['ada']\ntables = ['t']\npaths = []", "one or more in `tables` and in `paths`"),
    ] {
        check(
            &format!("\n[[server.grant]]\n{keys}"),
            &format!("invalid value [table] for `server.grant` in lake/gust.toml line 2: expected {expected}"),
        );
    }
    check(
        "[[server.grant]]\nusers = ['ada']\ntables = ['t', 'lake.sales.or*']",
        "invalid value \"lake.sales.or*\" for `server.grant.tables` in lake/gust.toml line 3: expected `*` as a whole part, such as lake.sales.*",
    );
    check(
        "[[server.grant]]\nusers = ['ada']\npaths = ['gs://lake/']",
        "invalid value \"gs://lake/\" for `server.grant.paths` in lake/gust.toml line 3: expected a folder, or a URL that starts with file:// or s3://",
    );
}
