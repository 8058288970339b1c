//! Patterns of paths, with the meaning that they have in a shell and in DuckDB.
//!
//! `*` and `?` stay within one name. `**` goes through any number of folders, also none. `[a-c]` and `[!a-c]` (or
//! `[^a-c]`) are one character, and `{a,b}` is either. The `glob` crate matches. Here braces are opened, and a listing
//! learns how to list little: the folders above the first pattern, and the folders that cannot hold a match.

use glob::{MatchOptions, Pattern, PatternError};

const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// Alternatives that braces may make, at most.
const ALTERNATIVES_MAX: usize = 1_000;

/// One alternative of a pattern, below the folders that it names literally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    /// Literal folders above the first pattern.
    pub(super) root: Vec<String>,
    whole: Pattern,
    /// Patterns of folders up to the first `**`.
    folders: Vec<Pattern>,
    /// True if `**` follows them.
    is_deep: bool,
    /// Pattern of the file's own name.
    name: String,
}

/// Tells if a text is a pattern at all.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '{'])
}

/// Place of a name in a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum NamePlace {
    /// Folder at a depth below the root.
    Folder {
        depth: usize,
    },
    File,
}

impl Glob {
    /// Parses all alternatives of `path`. A slash at its end means everything below the folders that match.
    ///
    /// # Errors
    /// A class without an end, or more alternatives than [`ALTERNATIVES_MAX`].
    pub(super) fn parse(path: &str) -> Result<Vec<Self>, String> {
        let path = if path.ends_with('/') { format!("{path}**") } else { path.to_owned() };
        let mut globs = Vec::new();
        for alternative in open_braces(&path)? {
            let glob = Self::of(&alternative).map_err(|e| format!("{} at character {}", e.msg, e.pos + 1))?;
            if !globs.contains(&glob) {
                globs.push(glob);
            }
        }
        Ok(globs)
    }

    fn of(path: &str) -> Result<Self, PatternError> {
        let segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(as_crate_pattern).collect();
        let is_literal = |segment: &&String| !is_pattern(segment);
        let literal = segments.iter().take(segments.len().saturating_sub(1)).take_while(is_literal).count();
        let (root, below) = segments.split_at(literal);
        let deep = below.iter().position(|segment| segment == "**");
        let folders = &below[..deep.unwrap_or(below.len().saturating_sub(1))];
        Ok(Self {
            root: root.to_vec(),
            whole: Pattern::new(&below.join("/"))?,
            folders: folders.iter().map(|segment| Pattern::new(segment)).collect::<Result<_, _>>()?,
            is_deep: deep.is_some(),
            name: below.last().cloned().unwrap_or_default(),
        })
    }

    /// Tells if a file matches, by its names below the root.
    pub(super) fn matches(&self, names: &[&str]) -> bool {
        self.whole.matches_with(&names.join("/"), OPTIONS)
    }

    /// Tells if a folder, by its names below the root, may hold a match at any depth.
    pub(super) fn may_be_below(&self, names: &[&str]) -> bool {
        let mut pairs = names.iter().zip(&self.folders);
        pairs.all(|(name, folder)| folder.matches_with(name, OPTIONS))
            && (self.is_deep || names.len() <= self.folders.len())
    }

    /// Tells if a listing of one folder at this depth below the root would skip files that a listing of all below it
    /// has.
    pub(super) fn narrows(&self, depth: usize) -> bool {
        let rest = self.folders.get(depth..).unwrap_or_default();
        let files_only = !self.is_deep && depth == self.folders.len();
        files_only || rest.iter().any(|folder| folder.as_str() != "*")
    }

    /// Tells if the pattern asks for names with this beginning. `_*` asks for those that a bare `*` leaves out.
    pub(super) fn asks_for_hidden(&self, place: NamePlace, first: char) -> bool {
        let pattern = match place {
            NamePlace::File => Some(self.name.as_str()),
            NamePlace::Folder { depth } => self.folders.get(depth).map(Pattern::as_str),
        };
        pattern.is_some_and(|pattern| pattern.starts_with(first))
    }

    /// Tells if it goes through any number of folders.
    pub(super) fn is_deep(&self) -> bool {
        self.is_deep
    }

    /// Tells if the pattern itself says how names end.
    pub(super) fn names_extension(&self) -> bool {
        self.name.rsplit_once('.').is_some_and(|(_, extension)| !extension.contains('*'))
    }
}

/// Writes `**` beside other characters as `*`, and `[^` as `[!`: the crate knows only these.
fn as_crate_pattern(segment: &str) -> String {
    let mut segment = segment.replace("[^", "[!");
    while segment != "**" && segment.contains("**") {
        segment = segment.replace("**", "*");
    }
    segment
}

/// Lists every choice from each `{a,b}`, from left to right. A brace without its end, or without a comma, stands for
/// itself.
fn open_braces(pattern: &str) -> Result<Vec<String>, String> {
    let mut open = vec![(String::new(), pattern.to_owned())];
    let mut done = Vec::new();
    while let Some((before, rest)) = open.pop() {
        if open.len() + done.len() > ALTERNATIVES_MAX {
            return Err(format!("its braces stand for more than {ALTERNATIVES_MAX} paths"));
        }
        let Some(Braces { start, end, choices }) = first_braces(&rest) else {
            done.push(before + &rest);
            continue;
        };
        let (head, tail) = (&rest[..start], &rest[end..]);
        // A choice may hold braces, too. The first choice is done first.
        for choice in choices.into_iter().rev() {
            open.push((format!("{before}{head}"), format!("{choice}{tail}")));
        }
    }
    Ok(done)
}

/// Choices in braces, and their place in a text.
struct Braces<'a> {
    start: usize,
    end: usize,
    choices: Vec<&'a str>,
}

/// Finds the first `{…}` with a comma.
fn first_braces(text: &str) -> Option<Braces<'_>> {
    let starts = text.char_indices().filter(|(_, c)| *c == '{').map(|(at, _)| at);
    for start in starts {
        let (mut depth, mut from, mut choices) = (0, start + 1, Vec::new());
        for (at, c) in text.char_indices().skip_while(|(at, _)| *at < start) {
            match c {
                '{' => depth += 1,
                ',' if depth == 1 => {
                    choices.push(&text[from..at]);
                    from = at + 1;
                }
                '}' if depth == 1 && !choices.is_empty() => {
                    choices.push(&text[from..at]);
                    return Some(Braces { start, end: at + 1, choices });
                }
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matches: &[&str], not: &[&str]) {
        let globs = Glob::parse(pattern).expect(pattern);
        let is_match = |path: &str| {
            globs.iter().any(|glob| {
                let names: Vec<&str> = path.split('/').collect();
                let below = names.len() > glob.root.len() && names.iter().zip(&glob.root).all(|(a, b)| a == b);
                below && glob.matches(&names[glob.root.len()..])
            })
        };
        for path in matches {
            assert!(is_match(path), "`{pattern}` does not match `{path}`");
        }
        for path in not {
            assert!(!is_match(path), "`{pattern}` matches `{path}`");
        }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        check("t/*.parquet", &["t/a.parquet", "t/.parquet"], &["t/x/a.parquet", "t/a.csv", "u/a.parquet"]);
        check("t/**/*.parquet", &["t/a.parquet", "t/x/a.parquet", "t/x/y/a.parquet"], &["t/x/a.csv", "a.parquet"]);
        check("t/**", &["t/a", "t/x/a"], &["t", "u/a"]);
        check("t/*/x/**/b?", &["t/a/x/b1", "t/a/x/y/b1"], &["t/a/b/x/b1", "t/a/x/b", "t/x/b1"]);
        check("t/day=0*/*/[a-c]?.p", &["t/day=01/h/b1.p"], &["t/day=11/h/b1.p", "t/day=01/h/d1.p", "t/day=01/b1.p"]);
        check("[!a]", &["b"], &["a", "bb"]);
        check("[^a-c]", &["d"], &["b"]);
        check("t/{a,b{1,2}}.p", &["t/a.p", "t/b1.p", "t/b2.p"], &["t/b.p", "t/{a.p"]);
        check("{t,u/v}/*.p", &["t/a.p", "u/v/a.p"], &["v/a.p"]);
        check("t/{a}.p*", &["t/{a}.p"], &["t/a.p"]);
        check("t/20*/", &["t/2024/a", "t/2025/x/a"], &["t/1999/a", "t/2024"]);
        check("t/a**b.p", &["t/ab.p", "t/axb.p"], &["t/a/b.p"]);
        check("ä*/ %3A?", &["äö/ %3Ax"], &["äö/ :x"]);
        for bad in ["t/[a", "t/[", "{0,1,2,3,4,5,6,7,8,9}{0,1,2,3,4,5,6,7,8,9}{0,1,2,3,4,5,6,7,8,9}{0,1}"] {
            Glob::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn folders_that_cannot_match_are_not_listed() {
        let glob = &Glob::parse("t/day=0*/*/*.p").expect("a pattern")[0];
        assert_eq!(glob.root, ["t"]);
        assert!(glob.may_be_below(&["day=01", "h"]) && !glob.may_be_below(&["day=11"]));
        assert!(!glob.may_be_below(&["day=01", "h", "deeper"]));
        assert_eq!([0, 1, 2].map(|depth| glob.narrows(depth)), [true, false, true]);
        let deep = &Glob::parse("t/a*/**/b/*.p").expect("a pattern")[0];
        assert!(deep.may_be_below(&["a1", "x", "y"]) && !deep.may_be_below(&["b"]));
        assert_eq!([0, 1, 2].map(|depth| deep.narrows(depth)), [true, false, false]);
        let hidden = &Glob::parse("t/_*/x.p").expect("a pattern")[0];
        assert!(
            hidden.asks_for_hidden(NamePlace::Folder { depth: 0 }, '_')
                && !hidden.asks_for_hidden(NamePlace::File, '_')
        );
    }
}
