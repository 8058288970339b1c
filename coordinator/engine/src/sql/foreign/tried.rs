//! `try(x)`: x in forms that are NULL where they fail.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    Value, ValueWithSpan, Visitor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::chosen::{Call, Choice, bare, number};
use crate::sql::Refusal;
use crate::sql::template::{filled, template};
use crate::sql::walk::walk;

/// Functions that are NULL where an argument is, and fail for none.
const NEVER_FAIL: [&str; 17] = [
    "btrim",
    "cardinality",
    "char_length",
    "concat",
    "json_get",
    "json_get_text",
    "left",
    "length",
    "lower",
    "ltrim",
    "replace",
    "reverse",
    "right",
    "rtrim",
    "strpos",
    "trim",
    "upper",
];

/// Functions that fail for some values of one argument, and its place. A literal is the same in all rows.
const FAIL_BY: [(&str, usize); 8] = [
    ("element_at", 1),
    ("json_extract", 1),
    ("json_extract_scalar", 1),
    ("regexp_extract", 1),
    ("regexp_replace", 1),
    ("split_part", 2),
    ("substr", 2),
    ("substring", 2),
];

/// Tells if a call fails for no value of its columns.
fn never_fails(name: &str, function: &Function) -> bool {
    let Some((_, place)) = FAIL_BY.iter().find(|(failing, _)| *failing == name) else {
        return NEVER_FAIL.contains(&name);
    };
    let FunctionArguments::List(list) = &function.args else { return false };
    match list.args.get(*place) {
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))) => is_harmless(argument),
        Some(_) => false,
        None => true,
    }
}

/// Tells if an argument is a text or a number from 1.
fn is_harmless(argument: &Expr) -> bool {
    let is_text = matches!(bare(argument), Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(_), .. }));
    is_text || number(argument).is_some_and(|number| number >= 1.0)
}

/// `try(CAST(x AS t))` is TRY_CAST, and so on inside: a function that fails for some values has a form that is NULL there. All of
/// this is strict, so that a NULL inside is one of the whole. Other errors cannot be caught.
pub(super) fn tried(call: &Call<'_>) -> Result<Choice, Refusal> {
    call.without_clauses()?;
    let mut tried = bare(&call.arguments[0]).clone();
    match try_inside(&mut tried) {
        // A divisor looks at what is divided.
        ControlFlow::Continue(()) => {
            Ok(Choice::Tree { tree: Box::new(tried), copied: call.arguments.to_vec(), times: 1 })
        }
        ControlFlow::Break(what) => Err(call.refused(
            &format!("of {what}"),
            "TRY_CAST(x AS type) is NULL where the cast fails; compute x in an inner query",
        )),
    }
}

/// Writes casts, quotients and calls in their forms that are NULL where they fail, from the outside in. Breaks at what may fail otherwise.
fn try_inside(expr: &mut Expr) -> ControlFlow<String> {
    match expr {
        Expr::Nested(inner) => return try_inside(inner),
        Expr::Cast { kind, expr: of, .. } => {
            if matches!(kind, CastKind::Cast | CastKind::DoubleColon) {
                *kind = CastKind::TryCast;
            }
            return try_inside(of);
        }
        Expr::BinaryOp { left, op: BinaryOperator::Divide | BinaryOperator::Modulo, right } => {
            try_inside(left)?;
            try_inside(right)?;
            let sides = [right.as_ref().clone(), left.as_ref().clone()];
            **right = filled(template("gust_try_divisor($1, $2)"), &sides, None, Span::empty());
            return ControlFlow::Continue(());
        }
        Expr::Function(function) => {
            let name = function.name.to_string().to_lowercase();
            if !never_fails(&name, function)
                && let Some(arguments) = tried_form(function)
            {
                return arguments.into_iter().try_for_each(try_inside);
            }
        }
        _ => {}
    }
    walk(&*expr, &mut MayFail)
}

/// Writes a call as the form that is NULL where it fails, and returns its arguments. None if it has no such form.
fn tried_form(function: &mut Function) -> Option<Vec<&mut Expr>> {
    let name = function.name.to_string().to_lowercase();
    let FunctionArguments::List(list) = &mut function.args else { return None };
    if !gust_protocol::functions::is_tried(&name) {
        return None;
    }
    let arguments = list.args.iter_mut().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => Some(argument),
        _ => None,
    });
    let arguments = arguments.collect::<Option<Vec<_>>>()?;
    function.name = ObjectName::from(Ident::new(format!("gust_try_{name}")));
    Some(arguments)
}

/// Finds what may fail otherwise than by the cast that is tried.
struct MayFail;

impl Visitor for MayFail {
    type Break = String;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus};
        match expr {
            Expr::BinaryOp { op: op @ (Plus | Minus | Multiply | Divide | Modulo), .. } => {
                ControlFlow::Break(op.to_string())
            }
            Expr::Cast { .. } => ControlFlow::Break("a CAST inside".to_owned()),
            Expr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                if never_fails(&name, function) { ControlFlow::Continue(()) } else { ControlFlow::Break(name) }
            }
            Expr::Substring { substring_for: Some(length), .. } if !is_harmless(length) => {
                ControlFlow::Break("substring".to_owned())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}
