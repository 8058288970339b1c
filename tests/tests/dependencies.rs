//! Dependencies of the crates: each is named by its crate's code, and no second Arrow stands outside its fence.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use gust_tests::localstack;
use toml::Table;

/// Folder of each crate. Folders of other crates in it are not its own.
const CRATES: [&str; 8] = [
    "coordinator",
    "coordinator/engine",
    "coordinator/catalog",
    "coordinator/output",
    "coordinator/server",
    "fragment-fn",
    "fragment-fn/protocol",
    "tests",
];

/// Crate that brings features for all others' tests. No code names it.
const FEATURES: &str = "gust-features";

fn table(path: &Path) -> Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[derive(Clone, Copy, PartialEq)]
enum Code {
    All,
    /// Without unit tests and test suites.
    Program,
}

/// Finds every name of a crate's sources that may be a crate's: before `::` or `!`, or after `use`. Comments do not count.
fn names(root: &Path, folder: &str, code: Code, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root.join(folder)).expect("a folder").flatten() {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() && !CRATES.contains(&path.as_str()) {
            if code == Code::All || !path.ends_with("/tests") {
                names(root, &path, code, found);
            }
        } else if path.ends_with(".rs") && (code == Code::All || !path.ends_with("tests.rs")) {
            let text = std::fs::read_to_string(entry.path()).expect("text");
            let tests = text.find("#[cfg(test)]\nmod tests {").filter(|_| code == Code::Program);
            let text = &text[..tests.unwrap_or(text.len())];
            text.lines().for_each(|line| found.extend(names_in(line.split("// ").next().unwrap_or(line))));
        }
    }
}

fn names_in(line: &str) -> Vec<String> {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_of_name) {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_of_name(c)).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        let is_path = after.starts_with("::") || after.starts_with('!') && !after.starts_with("!=");
        if !before.ends_with("::") && !before.ends_with('.') && (is_path || before.ends_with("use ")) {
            names.push(name.to_owned());
        }
        // Words before the next name still have to be seen.
        rest = after;
        if name == "use" {
            let used = rest.trim_start();
            let end = used.find(|c| !is_of_name(c)).unwrap_or(used.len());
            names.push(used[..end].to_owned());
        }
    }
    names
}

#[test]
fn names_of_crates_are_told_from_other_words() {
    let check = |line: &str, expect: &[&str]| assert_eq!(names_in(line), expect, "{line}");
    check("let url = self.url;", &[]);
    check("let at = url::Url::parse(text)?;", &["url"]);
    check("use tokio;", &["tokio"]);
    check("tracing::warn!(x, \"y\"); if a != b {}", &["tracing"]);
    check("    pub use crate::x;", &["crate", "crate"]);
}

/// A crate's program names its dependencies, and its tests may name its development dependencies. The tests' own crate is all tests.
#[test]
fn every_dependency_is_named_by_its_crate() {
    let root = localstack::root();
    let mut unused = Vec::new();
    let mut taken = BTreeSet::new();
    for folder in CRATES {
        let manifest = table(&root.join(folder).join("Cargo.toml"));
        let program = if folder == "tests" { Code::All } else { Code::Program };
        for (kind, code) in
            [("dependencies", program), ("dev-dependencies", Code::All), ("build-dependencies", Code::All)]
        {
            let Some(dependencies) = manifest.get(kind).and_then(|value| value.as_table()) else { continue };
            let mut named = BTreeSet::new();
            names(&root, folder, code, &mut named);
            let is_unused = |name: &&String| !named.contains(&name.replace('-', "_")) && name.as_str() != FEATURES;
            unused.extend(dependencies.keys().filter(is_unused).map(|name| format!("{folder}: {name} of {kind}")));
            taken.extend(dependencies.keys().cloned());
        }
    }
    let workspace = table(&root.join("Cargo.toml"));
    let dependencies = workspace["workspace"]["dependencies"].as_table().expect("the table");
    unused.extend(dependencies.keys().filter(|name| !taken.contains(*name)).map(|name| format!("workspace: {name}")));
    assert!(unused.is_empty(), "nobody names:\n{}", unused.join("\n"));
}

/// Returns packages with their features, as they are resolved for some crates and their tests.
///
/// `edges` chooses the kinds of dependencies: those built for the compiler have features of their own.
fn resolved(edges: &str, of: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--offline", "--edges", edges, "--prefix", "none", "--format", "{p} {f}"]);
    let output = command.args(of).current_dir(localstack::root()).output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    lines.lines().map(|line| line.trim_end_matches(" (*)").trim_end().to_owned()).collect()
}

/// Variant of a package for the compiler that the workspace has, too. `cargo tree` shows a package's subtree at its first place only, which in the
/// workspace is another one.
fn is_hidden_in_workspace(package: &str) -> bool {
    package.starts_with("either ") && package.ends_with(" std,use_std")
}

/// With other features, testing a single crate would build DataFusion once more.
#[test]
fn each_crate_alone_has_the_features_of_the_workspace() {
    for edges in ["normal,build,dev", "no-build,no-proc-macro"] {
        let all = resolved(edges, &["--workspace"]);
        for folder in CRATES {
            let manifest = table(&localstack::root().join(folder).join("Cargo.toml"));
            let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
            let own = resolved(edges, &["--package", &name]);
            let other: Vec<_> = own.difference(&all).filter(|package| !is_hidden_in_workspace(package)).collect();
            assert!(other.is_empty(), "{name}: name with all features in tests/features/Cargo.toml: {other:#?}");
        }
    }
}

/// Returns the packages that need another Arrow than DataFusion's, and are not part of that other Arrow or Iceberg.
fn over_the_fence(lock: &Table) -> Vec<String> {
    let text = |package: &Table, key: &str| package[key].as_str().expect("text").to_owned();
    let packages: Vec<&Table> =
        lock["package"].as_array().expect("packages").iter().flat_map(|p| p.as_table()).collect();
    let is_arrow = |name: &str| name == "parquet" || name == "arrow" || name.starts_with("arrow-");
    let ours = packages.iter().find(|package| text(package, "name") == "datafusion-common").map(|package| {
        let arrow = packages.iter().filter(|package| text(package, "name") == "arrow").map(|p| text(p, "version"));
        let arrows: Vec<String> = arrow.collect();
        assert_eq!(arrows.len(), 1, "{}: one `arrow`, the one that DataFusion brings", text(package, "name"));
        arrows[0].clone()
    });
    let ours = ours.expect("DataFusion");
    let is_other = |dependency: &str| {
        let (name, version) = dependency.split_once(' ').unwrap_or((dependency, &ours));
        is_arrow(name) && version != ours
    };
    let mut found = Vec::new();
    for package in &packages {
        let (name, version) = (text(package, "name"), text(package, "version"));
        let needs = package.get("dependencies").and_then(|value| value.as_array()).into_iter().flatten();
        let needs: Vec<&str> = needs.filter_map(|need| need.as_str()).filter(|need| is_other(need)).collect();
        let is_within = name == "iceberg" || name.starts_with("iceberg-") || is_arrow(&name) && version != ours;
        if !needs.is_empty() && !is_within {
            found.push(format!("{name} {version} needs {}", needs.join(", ")));
        }
    }
    found
}

#[test]
fn another_arrow_stays_behind_the_catalog() {
    let lock = table(&localstack::root().join("Cargo.lock"));
    assert_eq!(over_the_fence(&lock), Vec::<String>::new());
    let needs_iceberg = lock["package"].as_array().expect("packages").iter().filter(|package| {
        let needs = package.get("dependencies").and_then(|value| value.as_array()).into_iter().flatten();
        needs.filter_map(|need| need.as_str()).any(|need| need.split(' ').next() == Some("iceberg"))
    });
    let names: Vec<&str> = needs_iceberg.filter_map(|package| package["name"].as_str()).collect();
    assert_eq!(names, ["gust-catalog"]);
}

#[test]
fn an_arrow_over_the_fence_is_found() {
    let lock = r#"
        [[package]]
        name = "arrow"
        version = "59.3.2"
        [[package]]
        name = "datafusion-common"
        version = "55.2.0"
        dependencies = ["arrow", "arrow-ipc 59.3.2"]
        [[package]]
        name = "iceberg"
        version = "0.10.1"
        dependencies = ["arrow-array 58.4.1"]
        [[package]]
        name = "writer"
        version = "1.0.0"
        dependencies = ["parquet 58.4.1", "arrow-array 59.3.2"]
    "#;
    assert_eq!(over_the_fence(&lock.parse().expect("a lock")), ["writer 1.0.0 needs parquet 58.4.1"]);
}
