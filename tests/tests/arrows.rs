//! The engine's folders import each other in one direction, so that no circle can arise. `coordinator/engine/arrows.txt` lists
//! them from top to bottom. Test code is free.

use std::collections::BTreeSet;
use std::path::Path;

use gust_tests::localstack;

/// Source file, by its path below `src`.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn sources(folder: &Path, below: &str, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            sources(&entry.path(), &format!("{name}/"), found);
        } else if name.ends_with(".rs") {
            found.push(Source { path: name, text: std::fs::read_to_string(entry.path()).expect("text") });
        }
    }
}

/// Returns the folder, or the file at the top, that a source belongs to.
fn node(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// Returns lines of code with their numbers, without comments and items that are compiled for tests only.
///
/// It relies on rustfmt: an item ends with a brace that stands as far to the right as its beginning.
pub(crate) fn code(Source { path, text }: &Source) -> Vec<(usize, &str)> {
    if path.ends_with("/tests.rs") || path.ends_with("_tests.rs") || path.contains("/tests/") {
        return Vec::new();
    }
    let mut lines = (1..).zip(text.lines());
    let mut code = Vec::new();
    while let Some((number, line)) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let indent = &line[..line.len() - line.trim_start().len()];
            let end = format!("{indent}}}");
            lines.by_ref().find(|(_, line)| {
                *line == end
                    || (line.starts_with(indent) && line.ends_with(';') && !line[indent.len()..].starts_with(' '))
            });
        } else {
            code.push((number, line.split("//").next().unwrap_or(line)));
        }
    }
    code
}

/// Returns the names of the crate's items in a line: the word after `crate::`, and after as many `super::` as lead there.
fn named(path: &str, line: &str) -> Vec<String> {
    let depth = path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '{').collect();
    let ups = "super::".repeat(depth);
    let starts = |prefix: &str| -> Vec<String> {
        let at = line
            .match_indices(prefix)
            .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == ':'));
        at.map(|(at, _)| word(&line[at + prefix.len()..])).collect()
    };
    [starts("crate::"), starts(&ups)].concat()
}

/// Returns the imports that do not point down.
fn wrong(order: &[&str], sources: &[Source]) -> Vec<String> {
    let rank = |node: &str| order.iter().position(|folder| *folder == node);
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| source.path != "lib.rs") {
        let (path, from) = (&source.path, node(&source.path));
        for (number, line) in code(source) {
            for to in named(path, line).iter().filter(|to| *to != from) {
                if !matches!((rank(from), rank(to)), (Some(above), Some(below)) if above < below) {
                    wrong.push(format!("{path}:{number}: {from} imports {to}"));
                }
            }
        }
    }
    wrong
}

fn order(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split('#').next()).map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[test]
fn imports_of_the_engine_point_down() {
    let engine = localstack::root().join("coordinator/engine");
    let text = std::fs::read_to_string(engine.join("arrows.txt")).expect("the folders");
    let order = order(&text);
    let mut found = Vec::new();
    sources(&engine.join("src"), "", &mut found);
    let wrong = wrong(&order, &found);
    assert!(wrong.is_empty(), "not down the list of {}:\n{}", engine.join("arrows.txt").display(), wrong.join("\n"));
    let nodes: BTreeSet<&str> = found.iter().map(|source| node(&source.path)).filter(|node| *node != "lib").collect();
    assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), nodes, "listed on the left, there on the right");
}

#[test]
fn an_import_that_points_up_is_found() {
    let check = |path: &str, text: &str, expect: &[&str]| {
        let found = wrong(&["top", "middle", "ground"], &[Source { path: path.to_owned(), text: text.to_owned() }]);
        assert_eq!(found, expect, "{path}: {text}");
    };
    check("middle/a.rs", "use crate::ground::X;\nuse crate::middle::Y;\nuse super::Z;\nuse std::fmt;", &[]);
    check("middle/a.rs", "\nuse crate::top::X;", &["middle/a.rs:2: middle imports top"]);
    check("middle/mod.rs", "use super::top::X;", &["middle/mod.rs:1: middle imports top"]);
    check("middle/a/b.rs", "fn f() -> super::super::super::top::X {}", &["middle/a/b.rs:1: middle imports top"]);
    check("middle/a/b.rs", "use super::super::top::X;", &[]);
    check("ground.rs", "let x = crate::middle::x();", &["ground.rs:1: ground imports middle"]);
    check("ground.rs", "use crate::{middle, top};", &["ground.rs:1: ground imports {middle"]);
    check("ground.rs", "use crate::unlisted::X;", &["ground.rs:1: ground imports unlisted"]);
    check("ground.rs", "/// See [`crate::top::X`].\nfn x() {} // crate::top", &[]);
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::top::X;\n}\n";
    check("ground.rs", tests, &[]);
    check("ground.rs", &format!("{tests}use crate::top::X;"), &["ground.rs:5: ground imports top"]);
    check("ground.rs", "#[cfg(test)]\nmod tests;\nuse crate::top::X;", &["ground.rs:3: ground imports top"]);
    check("middle/tests.rs", "use crate::top::X;", &[]);
}
