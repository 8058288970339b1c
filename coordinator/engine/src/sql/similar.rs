//! `SIMILAR TO`: the standard's patterns as regular expressions.
//!
//! The engine takes the pattern for a regular expression and looks for it anywhere in the text. The standard matches
//! the whole text: `%` stands for any characters, `_` for one, and `.`, `^` and `$` for themselves. An escape of LIKE's is written as the
//! backslash, which alone the engine knows.

use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan};

use super::Refusal;

/// Writes a pattern as a regular expression. `escape` makes the character after it stand for itself.
///
/// # Errors
/// A refusal of a pattern that ends in its escape character.
pub(super) fn regex(pattern: &str, escape: Option<char>) -> Result<String, Refusal> {
    let mut regex = String::from("^(?s:");
    let mut rest = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(next) = rest.next() {
        if Some(next) == escape {
            let Some(literal) = rest.next() else {
                let what = format!("SIMILAR TO: the pattern '{pattern}' ends in its escape character");
                return Err(Refusal::new(what, "write the escape character twice"));
            };
            push_literal(&mut regex, literal);
            continue;
        }
        match next {
            '[' if in_class && rest.peek() == Some(&':') => {
                // A class such as [:alpha:] is copied up to its end.
                regex.push('[');
                for inner in rest.by_ref() {
                    regex.push(inner);
                    if inner == ']' {
                        break;
                    }
                }
            }
            '[' if !in_class => {
                in_class = true;
                regex.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    regex.push('^');
                }
            }
            ']' if in_class => {
                in_class = false;
                regex.push(']');
            }
            '-' if in_class => regex.push('-'),
            literal if in_class => push_literal(&mut regex, literal),
            '%' => regex.push_str(".*"),
            '_' => regex.push('.'),
            '|' | '*' | '+' | '?' | '{' | '}' | '(' | ')' => regex.push(next),
            literal => push_literal(&mut regex, literal),
        }
    }
    regex.push_str(")$");
    Ok(regex)
}

/// Adds a character that stands for itself. A backslash would give letters, `<` and `>` a meaning; a comma needs none.
fn push_literal(regex: &mut String, literal: char) {
    if literal.is_ascii_punctuation() && !matches!(literal, '<' | '>' | ',') {
        regex.push('\\');
    }
    regex.push(literal);
}

/// Writes a LIKE's pattern with backslashes in place of its own escape character, which the engine does not know.
///
/// # Errors
/// A refusal of a pattern that is computed, and of an escape of several characters.
pub(super) fn with_backslashes(pattern: &mut Expr, escape: &mut Option<ValueWithSpan>) -> Result<(), Refusal> {
    let Some(of) = escape.clone().and_then(|escape| escape.value.into_string()).filter(|of| of != "\\") else {
        return Ok(());
    };
    let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) = pattern else {
        let hint = "write the pattern out, or with backslashes as it is without ESCAPE";
        return Err(Refusal::new("LIKE ... ESCAPE with a pattern that is computed is not supported", hint));
    };
    let mut signs = of.chars();
    let (mark, None) = (signs.next(), signs.next()) else {
        return Err(Refusal::new(
            "LIKE: the escape character is not one character",
            "give one character, or '' for none",
        ));
    };
    let mut written = String::new();
    let mut rest = text.chars();
    while let Some(sign) = rest.next() {
        match sign {
            sign if Some(sign) == mark => {
                let Some(next) = rest.next() else {
                    return Err(Refusal::new("LIKE: the pattern ends with its escape character", "write it twice"));
                };
                written.extend(['\\', next]);
            }
            '\\' => written.push_str("\\\\"),
            sign => written.push(sign),
        }
    }
    *text = written;
    *escape = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_like_are_backslashes() {
        let like = |pattern: &str, mark: &str| {
            let mut expr = Expr::Value(Value::SingleQuotedString(pattern.to_owned()).into());
            let mut escape = Some(Value::SingleQuotedString(mark.to_owned()).into());
            with_backslashes(&mut expr, &mut escape).map(|()| (expr.to_string(), escape.is_some()))
        };
        for (pattern, mark, expect, is_kept) in [
            ("a$_b%", "$", "'a\\_b%'", false),
            ("a$$\\", "$", "'a\\$\\\\'", false),
            ("a\\_", "\\", "'a\\_'", true),
            ("a\\_", "", "'a\\\\_'", false),
        ] {
            assert_eq!(like(pattern, mark), Ok((expect.to_owned(), is_kept)), "{pattern} {mark}");
        }
        assert!(like("a$", "$").is_err() && like("a", "ab").is_err());
        let mut column = Expr::Identifier("p".into());
        assert!(with_backslashes(&mut column, &mut Some(Value::SingleQuotedString("$".to_owned()).into())).is_err());
    }

    #[test]
    fn patterns_of_the_standard_become_regular_expressions() {
        for (pattern, expect) in [
            ("%bot%", "^(?s:.*bot.*)$"),
            ("a_c", "^(?s:a.c)$"),
            ("a|b", "^(?s:a|b)$"),
            ("(ab|c)+d{2,3}", r"^(?s:(ab|c)+d{2,3})$"),
            ("a.b^c$", r"^(?s:a\.b\^c\$)$"),
            (r"100\%", r"^(?s:100\%)$"),
            (r"a\\b", r"^(?s:a\\b)$"),
            ("[a-z0-9]%", "^(?s:[a-z0-9].*)$"),
            ("[^%_]", r"^(?s:[^\%\_])$"),
            ("[[:alpha:]_]", r"^(?s:[[:alpha:]\_])$"),
            ("[a&&b]", r"^(?s:[a\&\&b])$"),
            ("ä%", "^(?s:ä.*)$"),
            ("<%>", "^(?s:<.*>)$"),
            ("", "^(?s:)$"),
        ] {
            assert_eq!(regex(pattern, Some('\\')).as_deref(), Ok(expect), "{pattern}");
        }
        assert_eq!(regex("100#%", Some('#')).as_deref(), Ok(r"^(?s:100\%)$"));
        assert_eq!(regex(r"a\d", None).as_deref(), Ok(r"^(?s:a\\d)$"));
        assert!(
            regex("a#", Some('#')).expect_err("nothing to escape").message.contains("ends in its escape character")
        );
    }
}
