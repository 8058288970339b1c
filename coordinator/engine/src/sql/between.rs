//! Arrows of JSON between BETWEEN and its AND: `x BETWEEN a ->> 'low' AND 9`.
//!
//! The parser binds an arrow less tightly than BETWEEN, so that it looks for AND in its place. The operand gets brackets. An arrow
//! behind AND, or before BETWEEN, is put right in the tree ([`super::json`]).

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::words::is_word;

/// Most words and signs of an operand.
const OPERAND_WORDS_MAX: usize = 1_000;

/// Puts operands with arrows into brackets.
pub(super) fn bracket(tokens: &mut Vec<TokenWithSpan>) {
    let is_arrow = |token: &TokenWithSpan| matches!(token.token, Token::Arrow | Token::LongArrow);
    if !tokens.iter().any(is_arrow) {
        return;
    }
    let mut brackets: Vec<(usize, Token)> = Vec::new();
    for (at, _) in tokens.iter().enumerate().filter(|(_, token)| is_word(&token.token, "BETWEEN")) {
        if let Some(length) = operand_with_arrow(&tokens[at + 1..]) {
            brackets.extend([(at + 1, Token::LParen), (at + 1 + length, Token::RParen)]);
        }
    }
    // An operand may have a BETWEEN in its own brackets.
    brackets.sort_by_key(|(at, _)| *at);
    let mut brackets = brackets.into_iter().peekable();
    let plain = std::mem::take(tokens);
    tokens.reserve(plain.len() + brackets.len());
    for (at, token) in plain.into_iter().enumerate() {
        while let Some((_, bracket)) = brackets.next_if(|(place, _)| *place == at) {
            tokens.push(TokenWithSpan { token: bracket, span: token.span });
        }
        tokens.push(token);
    }
}

/// Returns the number of words before AND, where one that is outside of brackets is an arrow.
fn operand_with_arrow(tokens: &[TokenWithSpan]) -> Option<usize> {
    let (mut depth, mut has_arrow) = (0_usize, false);
    for (length, TokenWithSpan { token, .. }) in tokens.iter().take(OPERAND_WORDS_MAX).enumerate() {
        match token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.checked_sub(1)?,
            _ if is_word(token, "CASE") => depth += 1,
            _ if is_word(token, "END") => depth = depth.checked_sub(1)?,
            Token::Arrow | Token::LongArrow if depth == 0 => has_arrow = true,
            _ if depth == 0 && is_word(token, "AND") => return has_arrow.then_some(length),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use crate::sql::tokens;

    #[test]
    fn operands_with_arrows_get_brackets() {
        for (sql, expect) in [
            ("x BETWEEN a ->> 'l' AND 9", "x BETWEEN( a ->> 'l' )AND 9"),
            ("x BETWEEN 1 AND a ->> 'h'", "x BETWEEN 1 AND a ->> 'h'"),
            ("a -> 'k' BETWEEN f(a -> 'l') AND 9", "a -> 'k' BETWEEN f(a -> 'l') AND 9"),
            (
                "x NOT BETWEEN CASE WHEN b AND c THEN 1 END -> 'l' AND 9 AND d",
                "x NOT BETWEEN( CASE WHEN b AND c THEN 1 END -> 'l' )AND 9 AND d",
            ),
            ("(x BETWEEN a -> 'l')", "(x BETWEEN a -> 'l')"),
            ("\"between\" -> a AND b", "\"between\" -> a AND b"),
            ("BETWEEN", "BETWEEN"),
            (
                "x BETWEEN (y BETWEEN a -> 'l' AND 2) -> 'm' AND 9",
                "x BETWEEN( (y BETWEEN( a -> 'l' )AND 2) -> 'm' )AND 9",
            ),
        ] {
            let words = tokens(sql).expect("words");
            assert_eq!(words.iter().map(|word| word.token.to_string()).collect::<String>(), expect);
        }
    }
}
