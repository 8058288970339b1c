//! A hint is a field of its own from its origin to the face. One file writes it below its message, and none cuts it out again.

use gust_tests::localstack;

use crate::arrows::{Source, code, sources};

/// Folders of the sources whose errors have hints.
const SOURCES: [&str; 7] = [
    "coordinator/src",
    "coordinator/engine/src",
    "coordinator/catalog/src",
    "coordinator/output/src",
    "coordinator/server/src",
    "fragment-fn/src",
    "fragment-fn/protocol/src",
];

/// File that writes a message and its hint.
const RENDERER: &str = "fragment-fn/protocol/src/error.rs";

/// Returns true where a text of the code has a hint in it, also where the text goes on in the next line.
fn is_glued(source: &Source) -> bool {
    let lines: Vec<&str> = source.text.lines().collect();
    let mut text = String::new();
    for (number, _) in code(source) {
        let line = lines[number - 1].trim_start();
        if line.starts_with("//") {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begun) => text += begun,
            None => text += &format!("{line}\n"),
        }
    }
    text.contains(r"\nhint:") || text.contains("\"hint: ")
}

#[test]
fn a_hint_is_no_part_of_a_message() {
    let mut glued = Vec::new();
    for folder in SOURCES {
        let mut found = Vec::new();
        sources(&localstack::root().join(folder), &format!("{folder}/"), &mut found);
        assert!(!found.is_empty(), "{folder} has sources");
        glued.extend(found.into_iter().filter(is_glued).map(|source| source.path));
    }
    assert_eq!(glued, [RENDERER], "the hint of an error is a field, and `with_hint_line` shows it");
}

#[test]
fn a_hint_in_a_message_is_found() {
    let source = |text: &str| Source { path: "a.rs".to_owned(), text: text.to_owned() };
    let check = |text: &str, expect: bool| assert_eq!(is_glued(&source(text)), expect, "{text}");
    check(r#"let a = "gone\nhint: look elsewhere";"#, true);
    check(r#"#[error("`s3://{bucket}`: gone\nhint: {hint}")]"#, true);
    check("let a = format!(\n    \"gone\\n\\\n     hint: look elsewhere\"\n);", true);
    check(r#"let a = "hint: look elsewhere"; format!("{what}\n{a}")"#, true);
    check(r#"words.split_once("\nhint: ")"#, true);
    check("Refusal { message, hint: None }\n// a\\nhint: b", false);
    check("#[cfg(test)]\nmod tests {\n    const A: &str = \"a\\nhint: b\";\n}\n", false);
}
