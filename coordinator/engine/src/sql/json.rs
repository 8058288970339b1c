//! JSON's operators, casts and literals, as calls of functions.
//!
//! ```text
//!  a -> 'k'                            json_get(a, 'k')
//!  a ->> 'k' = 'x'                     json_get_text(a, 'k') = 'x'
//!  CAST(json_extract(a, p) AS BIGINT)  CAST(json_extract_scalar(a, p) AS BIGINT)
//!  CAST(json_extract(a, p) AS INT[])   CAST(json_array_texts(json_extract(a, p)) AS INT[])
//!  JSON 'text'                         json_parse('text')
//! ```
//!
//! The parser binds an arrow less tightly than a comparison, and so reads `a ->> ('k' = 'x')`. PostgreSQL binds it more tightly.
//! Brackets are kept in the tree, so that a comparison without them is known for one that was read so.

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, Spanned, TypedString, Value,
};

use super::Refusal;
use super::limits::folded_name;
use super::template::{filled, template};

/// Rewrites an expression whose parts are rewritten.
///
/// # Errors
/// A refusal of a cast to nested arrays, a map or a row: the engine would make a list of one text.
pub(super) fn rewrite(expr: &mut Expr) -> Result<(), Refusal> {
    match expr {
        Expr::BinaryOp { op: op @ (BinaryOperator::Arrow | BinaryOperator::LongArrow), left, right } => {
            let call = match op {
                BinaryOperator::Arrow => "json_get($1, $2)",
                _ => "json_get_text($1, $2)",
            };
            let at = left.span();
            let (mut of, mut key) = (take(left), take(right));
            let (of_slot, key_slot) = (last(&mut of), first(&mut key));
            *key_slot = filled(template(call), &[take(of_slot), take(key_slot)], None, at);
            *of_slot = key;
            *expr = of;
            compared(expr)
        }
        Expr::BinaryOp { .. } | Expr::InList { .. } => compared(expr),
        Expr::Cast {
            kind: CastKind::Cast | CastKind::TryCast | CastKind::DoubleColon, expr: of, data_type, ..
        } => scalar(of, data_type),
        Expr::TypedString(TypedString { data_type: DataType::JSON, value, .. }) => {
            let text = Expr::Value(value.clone());
            *expr = filled(template("json_parse($1)"), &[text], None, expr.span());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Refuses a comparison of JSON with a text that is no JSON: they are never equal. Texts have their quotes in JSON.
fn compared(expr: &Expr) -> Result<(), Refusal> {
    use BinaryOperator::{Eq, NotEq};
    let mut pairs = match expr {
        Expr::BinaryOp { op: Eq | NotEq, left, right } => vec![(left, right.as_ref()), (right, left.as_ref())],
        Expr::InList { expr, list, .. } => list.iter().map(|value| (expr, value)).collect(),
        _ => return Ok(()),
    };
    pairs.retain(|(json, _)| is_json(json));
    for (_, value) in pairs {
        let Expr::Value(value) = value else { continue };
        let Value::SingleQuotedString(text) = &value.value else { continue };
        if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
            let cut: String = text.chars().take(40).collect();
            let what = format!("JSON is compared with '{cut}', which is no JSON");
            let hint = "json_extract_scalar(x, '$.path') and x ->> 'key' are the text without quotes";
            return Err(Refusal::new(what, hint));
        }
    }
    Ok(())
}

/// Tells a call whose result is JSON.
fn is_json(expr: &Expr) -> bool {
    match expr {
        Expr::Nested(of) => is_json(of),
        Expr::Function(Function { name, .. }) => match name.0.as_slice() {
            [part] => part
                .as_ident()
                .is_some_and(|name| ["json_extract", "json_get", "json_parse"].contains(&folded_name(name).as_str())),
            _ => false,
        },
        _ => false,
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(Value::Null.into()))
}

/// Tells an operator that is neither a comparison, one of patterns among them, nor `||`.
fn is_other_operator(expr: &Expr) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq, Spaceship, StringConcat};
    use BinaryOperator::{PGILikeMatch, PGLikeMatch, PGNotILikeMatch, PGNotLikeMatch};
    use BinaryOperator::{PGRegexIMatch, PGRegexMatch, PGRegexNotIMatch, PGRegexNotMatch};
    let Expr::BinaryOp { op, .. } = expr else { return false };
    let is_of_pattern = matches!(
        op,
        PGRegexMatch
            | PGRegexIMatch
            | PGRegexNotMatch
            | PGRegexNotIMatch
            | PGLikeMatch
            | PGILikeMatch
            | PGNotLikeMatch
            | PGNotILikeMatch
    );
    !is_of_pattern && !matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | Spaceship | StringConcat)
}

/// Returns the first operand of comparisons without brackets.
fn first(expr: &mut Expr) -> &mut Expr {
    if is_other_operator(expr) {
        return expr;
    }
    match expr {
        Expr::BinaryOp { left, .. } | Expr::AnyOp { left, .. } | Expr::AllOp { left, .. } => first(left),
        Expr::IsUnknown(of) | Expr::IsNotUnknown(of) | Expr::Collate { expr: of, .. } => first(of),
        Expr::IsNull(of) | Expr::IsNotNull(of) | Expr::IsTrue(of) | Expr::IsFalse(of) => first(of),
        Expr::IsNotTrue(of) | Expr::IsNotFalse(of) | Expr::IsDistinctFrom(of, _) | Expr::IsNotDistinctFrom(of, _) => {
            first(of)
        }
        Expr::InList { expr, .. } | Expr::InSubquery { expr, .. } | Expr::Between { expr, .. } => first(expr),
        Expr::Like { expr, .. }
        | Expr::ILike { expr, .. }
        | Expr::SimilarTo { expr, .. }
        | Expr::RLike { expr, .. } => first(expr),
        operand => operand,
    }
}

/// Returns the last operand of comparisons without brackets.
fn last(expr: &mut Expr) -> &mut Expr {
    if is_other_operator(expr) {
        return expr;
    }
    match expr {
        Expr::BinaryOp { right, .. } => last(right),
        Expr::IsDistinctFrom(_, of) | Expr::IsNotDistinctFrom(_, of) => last(of),
        Expr::Between { high, .. } => last(high),
        Expr::Like { pattern, escape_char: None, .. } | Expr::ILike { pattern, escape_char: None, .. } => last(pattern),
        operand => operand,
    }
}

/// Tells if a type is that of one value.
fn is_plain(of: &DataType) -> bool {
    !matches!(of, DataType::Array(_) | DataType::Map(..) | DataType::Struct(..) | DataType::JSON | DataType::Tuple(_))
}

/// Has a JSON value's own text taken in place of its JSON: of `"5"` that is 5.
fn scalar(of: &mut Expr, as_type: &DataType) -> Result<(), Refusal> {
    if let Expr::Nested(of) = of {
        return scalar(of, as_type);
    }
    let Expr::Function(Function { name, args: FunctionArguments::List(list), .. }) = of else { return Ok(()) };
    let arguments: Option<Vec<Expr>> = list
        .args
        .iter()
        .map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        })
        .collect();
    let [part] = name.0.as_slice() else { return Ok(()) };
    let name = part.as_ident().map(folded_name).unwrap_or_default();
    let written = match (name.as_str(), arguments.as_deref()) {
        ("json_extract", Some([_, _])) => "json_extract_scalar($1, $2)",
        ("json_get", Some([_, _])) => "json_get_text($1, $2)",
        ("json_parse", Some([_])) => "json_extract_scalar($1, '$')",
        _ => return Ok(()),
    };
    if let DataType::Array(ArrayElemTypeDef::AngleBracket(item) | ArrayElemTypeDef::SquareBracket(item, _)) = as_type
        && is_plain(item)
    {
        *of = filled(template("json_array_texts($1)"), std::slice::from_ref(of), None, of.span());
        return Ok(());
    }
    if !is_plain(as_type) {
        let hint = "json_extract_scalar(x, '$.list[0]') is one element, json_array_length(x) their number";
        return Err(Refusal::new(format!("CAST of JSON to {as_type} is not supported"), hint));
    }
    *of = filled(template(written), &arguments.unwrap_or_default(), None, of.span());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use datafusion::sql::sqlparser::ast::VisitorMut;

    use super::*;
    use crate::sql::parsed;
    use crate::sql::walk::walk_mut;

    struct Rewriter;

    impl VisitorMut for Rewriter {
        type Break = ();

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            rewrite(expr).expect("it is written");
            ControlFlow::Continue(())
        }
    }

    #[test]
    fn arrows_are_calls() {
        for (text, expect) in [
            ("a -> 'b'", "json_get(a, 'b')"),
            ("a -> 'b' -> 0 ->> 'c'", "json_get_text(json_get(json_get(a, 'b'), 0), 'c')"),
            ("a ->> 'b' = 'x'", "json_get_text(a, 'b') = 'x'"),
            ("'x' = a ->> 'b'", "'x' = json_get_text(a, 'b')"),
            ("a ->> 'b' = c ->> 'd'", "json_get_text(a, 'b') = json_get_text(c, 'd')"),
            ("a ->> 'b' IS NULL", "json_get_text(a, 'b') IS NULL"),
            ("a ->> 'b' IN ('x', 'y')", "json_get_text(a, 'b') IN ('x', 'y')"),
            ("a ->> 'b' LIKE 'x%' AND c > 1", "json_get_text(a, 'b') LIKE 'x%' AND c > 1"),
            ("a ->> 'b' = ANY(ARRAY['x', c])", "json_get_text(a, 'b') = ANY(ARRAY['x', c])"),
            ("a ->> 'b' <> ALL(c) AND d", "json_get_text(a, 'b') <> ALL(c) AND d"),
            ("a ->> 'b' ~ '^x'", "json_get_text(a, 'b') ~ '^x'"),
            ("a -> 'b' ->> 'c' !~* 'x'", "json_get_text(json_get(a, 'b'), 'c') !~* 'x'"),
            ("'x' ~ a ->> 'b'", "'x' ~ json_get_text(a, 'b')"),
            ("a ->> 'b' = 'x' IS UNKNOWN", "json_get_text(a, 'b') = 'x' IS UNKNOWN"),
            ("NOT a ->> 'b' = 'x'", "NOT json_get_text(a, 'b') = 'x'"),
            ("(a ->> 'b') = 'x'", "(json_get_text(a, 'b')) = 'x'"),
            ("a ->> ('b' || 'c')", "json_get_text(a, ('b' || 'c'))"),
            ("a ->> 'b' || 'c'", "json_get_text(a, 'b') || 'c'"),
            ("CAST(json_extract(a, '$.b') AS BIGINT)", "CAST(json_extract_scalar(a, '$.b') AS BIGINT)"),
            ("(a -> 'b')::INT", "(json_get_text(a, 'b'))::INT"),
            (
                "CAST(json_extract(a, '$.b') AS VARCHAR[])",
                "CAST(json_array_texts(json_extract(a, '$.b')) AS VARCHAR[])",
            ),
            ("CAST(json_parse(a) AS VARCHAR)", "CAST(json_extract_scalar(a, '$') AS VARCHAR)"),
            ("JSON '[1]'", "json_parse('[1]')"),
        ] {
            let mut statement = parsed(&format!("SELECT {text} FROM t"));
            let _ = walk_mut(&mut statement, &mut Rewriter);
            assert_eq!(statement.to_string(), format!("SELECT {expect} FROM t"), "{text}");
        }
        let mut cast = parsed("SELECT CAST(json_extract(a, '$.b') AS VARCHAR[][])");
        let refusal = crate::sql::syntax::rewrite(&mut cast).expect_err("a list of lists");
        assert!(refusal.message.contains("CAST of JSON to VARCHAR[][]"), "{refusal:?}");
        for (text, is_refused) in [
            ("json_extract(a, '$.b') = 'ann'", true),
            ("'ann' <> (json_extract(a, '$.b'))", true),
            ("a -> 'b' = 'ann'", true),
            ("json_extract(a, '$.b') IN ('1', 'ann')", true),
            ("json_extract(a, '$.b') = '\"ann\"'", false),
            ("json_extract(a, '$.b') = '[1,2]'", false),
            ("a -> 'b' IN ('1', 'true', 'null')", false),
            ("a ->> 'b' = 'ann'", false),
        ] {
            let mut statement = parsed(&format!("SELECT {text} FROM t"));
            assert_eq!(crate::sql::syntax::rewrite(&mut statement).is_err(), is_refused, "{text}");
        }
    }
}
