//! Lambdas, which the parser's dialect does not read: there `x -> y` is JSON's operator.
//!
//! An arrow begins a lambda only at the beginning of an argument of a function that takes one. There
//! `transform(a, x -> x + 1)` is read as `transform(a, gust_lambda(x, x + 1))`, and becomes a lambda in the tree. DuckDB's
//! `lambda x, y: x + y` is read, too.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, LambdaFunction, LambdaFunctionParameter,
    LambdaSyntax, OneOrManyWithParens, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::limits::folded_name;
use super::walk::walk_mut;

/// Functions that take lambdas, here or in other engines.
const TAKERS: [&str; 25] = [
    "aggregate",
    "all_match",
    "any_match",
    "array_any_match",
    "array_apply",
    "array_filter",
    "array_first",
    "array_sort",
    "array_transform",
    "filter",
    "list_aggregate",
    "list_any_match",
    "list_apply",
    "list_filter",
    "list_first",
    "list_reduce",
    "list_transform",
    "map_filter",
    "map_zip_with",
    "none_match",
    "reduce",
    "transform",
    "transform_keys",
    "transform_values",
    "zip_with",
];

const MARK: &str = "gust_lambda";

/// Marks the lambdas among the words of a text.
pub(super) fn mark(tokens: &mut Vec<TokenWithSpan>) {
    let is_arrow = |token: &TokenWithSpan| matches!(token.token, Token::Arrow | Token::Colon);
    if !tokens.iter().any(is_arrow) {
        return;
    }
    /// Brackets that are open.
    struct Open {
        takes: bool,
        is_in_lambda: bool,
    }
    let mut marked: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    let mut open: Vec<Open> = Vec::new();
    let mut begins = false;
    let mut name: Option<String> = None;
    let mut at = 0;
    while let Some(TokenWithSpan { token, span }) = tokens.get(at) {
        let of = |token: Token| TokenWithSpan { token, span: *span };
        if let (true, Some(Open { takes: true, is_in_lambda })) = (begins, open.last_mut())
            && let Some((parameters, length)) = head(&tokens[at..])
        {
            *is_in_lambda = true;
            begins = false;
            marked.extend([of(Token::make_word(MARK, None)), of(Token::LParen)]);
            for parameter in parameters {
                marked.extend([parameter, of(Token::Comma)]);
            }
            at += length;
            continue;
        }
        match token {
            Token::Whitespace(_) => {}
            Token::LParen | Token::LBracket | Token::LBrace => {
                let takes = *token == Token::LParen && name.as_deref().is_some_and(|name| TAKERS.contains(&name));
                open.push(Open { takes, is_in_lambda: false });
                begins = true;
            }
            Token::Comma | Token::RParen | Token::RBracket | Token::RBrace => {
                if let Some(Open { is_in_lambda: is_in_lambda @ true, .. }) = open.last_mut() {
                    *is_in_lambda = false;
                    marked.push(of(Token::RParen));
                }
                if *token != Token::Comma {
                    open.pop();
                }
                begins = *token == Token::Comma;
            }
            _ => begins = false,
        }
        name = match token {
            Token::Word(word) => Some(word.value.to_lowercase()),
            Token::Whitespace(_) => name,
            _ => None,
        };
        marked.push(tokens[at].clone());
        at += 1;
    }
    *tokens = marked;
}

/// Reads the parameters of a lambda up to its arrow or colon. Returns them, and how many tokens that are.
fn head(tokens: &[TokenWithSpan]) -> Option<(Vec<TokenWithSpan>, usize)> {
    let mut rest =
        tokens.iter().enumerate().filter(|(_, token)| !matches!(token.token, Token::Whitespace(_))).peekable();
    let is_keyword = |token: &Token| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case("lambda"));
    let of_duckdb = rest.peek().is_some_and(|(_, token)| is_keyword(&token.token));
    let mut of_duckdb_names = rest.clone().skip(1);
    // A column may be called lambda.
    let of_duckdb = of_duckdb && of_duckdb_names.next().is_some_and(|(_, token)| matches!(token.token, Token::Word(_)));
    let in_brackets = !of_duckdb && rest.peek().is_some_and(|(_, token)| token.token == Token::LParen);
    if of_duckdb || in_brackets {
        rest.next();
    }
    let mut parameters = Vec::new();
    loop {
        let (_, parameter) = rest.next().filter(|(_, token)| matches!(token.token, Token::Word(_)))?;
        parameters.push(parameter.clone());
        match rest.next()? {
            (_, token) if token.token == Token::Comma && (of_duckdb || in_brackets) => {}
            (_, token) if token.token == Token::RParen && in_brackets => {
                let (end, _) = rest.next().filter(|(_, token)| token.token == Token::Arrow)?;
                return Some((parameters, end + 1));
            }
            (end, token) if token.token == Token::Colon && of_duckdb => return Some((parameters, end + 1)),
            (end, token) if token.token == Token::Arrow && !of_duckdb && !in_brackets => {
                return Some((parameters, end + 1));
            }
            _ => return None,
        }
    }
}

/// Makes lambdas of what is marked.
pub(super) fn rewrite(tree: &mut impl VisitMut) {
    let _ = walk_mut(tree, &mut Rewriter);
}

struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(lambda) = lambda_of(expr) {
            *expr = Expr::Lambda(lambda);
        }
        ControlFlow::Continue(())
    }
}

fn lambda_of(expr: &Expr) -> Option<LambdaFunction> {
    let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr else { return None };
    if name.0.len() != 1 || name.0[0].as_ident().map(folded_name).as_deref() != Some(MARK) {
        return None;
    }
    let mut arguments: Vec<Expr> = Vec::new();
    for argument in &list.args {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = argument else { return None };
        arguments.push(expr.clone());
    }
    let body = Box::new(arguments.pop()?);
    let mut parameters = Vec::new();
    for argument in arguments {
        let Expr::Identifier(name) = argument else { return None };
        parameters.push(LambdaFunctionParameter { name, data_type: None });
    }
    let params = match parameters.len() {
        1 => OneOrManyWithParens::One(parameters.pop()?),
        _ => OneOrManyWithParens::Many(parameters),
    };
    Some(LambdaFunction { params, body, syntax: LambdaSyntax::Arrow })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parsed;

    #[test]
    fn arrows_of_arguments_begin_lambdas() {
        for (text, expect) in [
            ("transform(a, x -> x + 1)", "transform(a, x -> x + 1)"),
            ("TRANSFORM(a, X->X > 1 AND b)", "TRANSFORM(a, X -> X > 1 AND b)"),
            ("filter(a, x -> x -> 'k' = 'v')", "filter(a, x -> x -> 'k' = 'v')"),
            ("reduce(a, 0, (s, x) -> s + x, s -> s)", "reduce(a, 0, (s, x) -> s + x, s -> s)"),
            ("transform(a, x -> transform(x, y -> f(y, 2)))", "transform(a, x -> transform(x, y -> f(y, 2)))"),
            ("transform([1, 2], x -> [x, 2])", "transform([1, 2], x -> [x, 2])"),
            ("list_transform(a, lambda x : x + 1)", "list_transform(a, x -> x + 1)"),
            ("list_reduce(a, lambda x, y: x + y)", "list_reduce(a, (x, y) -> x + y)"),
            ("f(a, x -> 'k')", "f(a, x -> 'k')"),
            ("a -> 'k'", "a -> 'k'"),
            ("transform(a, lambda)", "transform(a, lambda)"),
        ] {
            let mut statement = parsed(&format!("SELECT {text} FROM t"));
            rewrite(&mut statement);
            assert_eq!(statement.to_string(), format!("SELECT {expect} FROM t"), "{text}");
        }
        let lambda = |text: &str| {
            let mut statement = parsed(&format!("SELECT {text} FROM t"));
            rewrite(&mut statement);
            format!("{statement:?}").contains("Lambda(")
        };
        assert!(lambda("filter(a, x -> 'k')") && !lambda("f(a, x -> 'k')") && !lambda("filter(a, b || c -> 'k')"));
    }
}
