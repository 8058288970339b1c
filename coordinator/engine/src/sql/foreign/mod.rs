//! Calls of functions by the names that other engines have for them.
//!
//! ```text
//!  a call ─► something else in Trino, and the session asks for that? ─► written as Trino's meaning ([`trino`])
//!         ─► the engine's own? ─► stays, but for forms that only others have (FORMS)
//!         ─► in NAMES?         ─► written as what it means here, or refused with what to write
//!         ─► else                 refused; the hint is the name that is spelled most like it
//! ```
//!
//! The tables are in [`names`]. What a call is written as is put into the statement's tree ([`super::template`], [`chosen`]). It
//! is not looked at a second time. Non-goals: types, which are not known here, and relations.

mod chosen;
mod listing;
mod names;
mod tried;
mod trino;
mod written;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DateTimeField, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArguments, Ident, ObjectName, Select, SelectItem, Spanned, Statement, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use self::chosen::{Call, Choice};
pub(super) use self::listing::{Listed, listed};
use self::names::{Meaning, Row};
pub(crate) use self::written::WrittenCalls;
use super::Refusal;
use super::copies::{Copied, CopiedBytes};
use super::known::{Dialect, Known};
use super::limits::folded_name;
use super::template::{Clauses, filled, template, uses};
use super::walk::{walk, walk_mut};
use crate::nearest::nearest;

/// SQLSTATE code of PostgreSQL.
const NO_FUNCTION: &str = "42883";

/// Names that the engine's planner takes for calls, without a function of that name.
const SYNTAX: [&str; 3] = ["unnest", "unnest_outer", "make_map"];

/// Writes calls of functions as the engine's. Returns true if the statement may have become larger.
///
/// # Errors
/// A refusal of a function that there is not, with what to write instead.
pub(super) fn translate(statement: &mut Statement, known: &Known<'_>) -> Result<bool, Refusal> {
    if known.dialect() == Dialect::Trino {
        trino::nulls_last(statement);
    }
    let mut translator = Translator { known, copies: CopiedBytes::default(), items: Vec::new() };
    match walk_mut(statement, &mut translator) {
        ControlFlow::Continue(()) => Ok(translator.copies.is_any_written),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

struct Translator<'a> {
    known: &'a Known<'a>,
    copies: CopiedBytes,
    /// Texts of the items that have no name, for each SELECT around.
    items: Vec<Vec<Option<String>>>,
}

impl VisitorMut for Translator<'_> {
    type Break = Refusal;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        self.items.push(select.projection.iter().map(text_of).collect());
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Refusal> {
        let texts = self.items.pop().unwrap_or_default();
        for (item, text) in select.projection.iter_mut().zip(texts) {
            let (SelectItem::UnnamedExpr(expr), Some(text)) = (&*item, text) else { continue };
            if expr.to_string() != text {
                // The column keeps the name that was written.
                let expr = expr.clone();
                *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', text) };
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Refusal> {
        if let (Expr::Extract { field, .. }, Dialect::Trino) = (&mut *expr, self.known.dialect())
            && matches!(field, DateTimeField::Dow | DateTimeField::DayOfWeek)
        {
            // Monday is 1, Sunday is 7.
            *field = DateTimeField::Isodow;
        }
        if self.known.dialect() == Dialect::Trino
            && let Some((text, arguments)) = trino::substring(expr)
        {
            return match self.fill("substr", text, &arguments, None, expr.span()) {
                Ok(written) => {
                    *expr = written;
                    ControlFlow::Continue(())
                }
                Err(refusal) => ControlFlow::Break(refusal),
            };
        }
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        match self.written(function) {
            Ok(None) => {}
            Ok(Some(written)) => *expr = written,
            Err(refusal) => return ControlFlow::Break(refusal),
        }
        ControlFlow::Continue(())
    }
}

impl Translator<'_> {
    /// Returns what a call is written as; None if it stays.
    fn written(&mut self, function: &Function) -> Result<Option<Expr>, Refusal> {
        let list = match &function.args {
            FunctionArguments::List(list) => list,
            // A word without brackets may be a column, such as `user`.
            FunctionArguments::None => return Ok(None),
            FunctionArguments::Subquery(_) => {
                return Err(Refusal::new(
                    format!("{} of a subquery is not supported", function.name),
                    "ARRAY[...] has values, array_agg(x) gathers those of rows",
                ));
            }
        };
        let name = name_of(&function.name);
        let own = self.known.own_name(&name);
        let is_own = own == Some(name.as_str());
        let of_trino = match self.known.dialect() {
            Dialect::Trino => trino::trino(&name),
            Dialect::Gust => &[],
        };
        let is_trino = of_trino.iter().any(|row| row.arguments.contains(&list.args.len()));
        let rows = match (is_trino, is_own) {
            (true, _) => of_trino,
            (false, true) => names::forms(&name),
            (false, false) => names::foreign(&name),
        };
        if rows.is_empty() && own.is_none() && !SYNTAX.contains(&name.as_str()) {
            return Err(not_found(function, &name, &self.near(&name)));
        }
        let Some(row) = rows.iter().find(|row| row.arguments.contains(&list.args.len())) else {
            let is_there = own.is_some() || rows.is_empty();
            return if is_there { Ok(None) } else { Err(wrong_number(function, &name, list.args.len(), rows)) };
        };
        let arguments = list.args.iter().map(|argument| match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        });
        let arguments: Option<Vec<Expr>> = arguments.collect();
        let at = function.name.span();
        match &row.meaning {
            Meaning::Refused(hint) if is_own || rows.iter().any(|row| !matches!(row.meaning, Meaning::Refused(_))) => {
                let given = list.args.len();
                let message = format!("{name} with {given} arguments is not supported{}", place(function));
                return Err(Refusal::new(message, *hint).with_sqlstate(NO_FUNCTION));
            }
            Meaning::Refused(hint) => return Err(not_found(function, &name, hint)),
            Meaning::Renamed(to) => {
                let name = ObjectName::from(Ident::with_span(at, *to));
                return Ok(Some(Expr::Function(Function { name, ..function.clone() })));
            }
            _ => {}
        }
        let Some(arguments) = arguments else {
            let what = format!("{name} with * or names of arguments is not supported");
            return Err(Refusal::new(what, "give its arguments by their places"));
        };
        let clause = clause_of(function);
        let call =
            Call { name: &name, function, list, arguments: &arguments, clause: clause.or(aggregates(function)), at };
        match &row.meaning {
            Meaning::Written(text) => {
                call.without_clauses()?;
                self.fill(&name, text, &arguments, None, at).map(Some)
            }
            Meaning::Aggregated { text, onto, is_window } => {
                if !is_window && function.over.is_some() {
                    return Err(Refusal::new(
                        format!("{name} as a window function is not supported"),
                        "join with the aggregate, or use first_value(...) OVER (... ORDER BY ...)",
                    ));
                }
                Call { clause, ..call }.without_clauses()?;
                let clauses = Clauses { onto, filter: function.filter.clone(), over: function.over.clone() };
                self.fill(&name, text, &arguments, Some(&clauses), at).map(Some)
            }
            Meaning::Chosen { choose, .. } => match choose(&call)? {
                Choice::Itself => Ok(None),
                Choice::Template(text, arguments) => self.fill(&name, text, &arguments, None, at).map(Some),
                Choice::Tree { tree, copied, times } => {
                    let mut copies = copied.iter();
                    copies.try_for_each(|argument| self.copies.add(argument, times, Copied::Call(&name)))?;
                    self.copies.is_any_written = true;
                    Ok(Some(*tree))
                }
            },
            Meaning::Renamed(_) | Meaning::Refused(_) => Ok(None),
        }
    }

    fn fill(
        &mut self,
        name: &str,
        text: &'static str,
        arguments: &[Expr],
        clauses: Option<&Clauses>,
        at: Span,
    ) -> Result<Expr, Refusal> {
        let tree = template(text);
        for (argument, uses) in arguments.iter().zip(uses(&tree, arguments.len())) {
            self.copies.add(argument, uses.saturating_sub(1), Copied::Call(name))?;
        }
        self.copies.is_any_written = true;
        Ok(filled(tree, arguments, clauses, at))
    }

    /// Returns a hint with the name that is spelled most like `name`. It is the same in each run.
    fn near(&self, name: &str) -> String {
        let mut candidates: BTreeSet<&str> = self.known.names();
        let written = names::NAMES.iter().filter(|row| !matches!(row.meaning, Meaning::Refused(_)));
        candidates.extend(written.flat_map(|row| row.names.iter().copied()));
        match nearest(name, candidates) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "SHOW FUNCTIONS lists what there is".to_owned(),
        }
    }
}

/// Returns the text of an item that has no name and calls a function.
fn text_of(item: &SelectItem) -> Option<String> {
    struct Calls;
    impl Visitor for Calls {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if matches!(expr, Expr::Function(_)) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
    match item {
        SelectItem::UnnamedExpr(expr) if walk(expr, &mut Calls).is_break() => Some(expr.to_string()),
        _ => None,
    }
}

fn name_of(name: &ObjectName) -> String {
    let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident()).map(folded_name).collect();
    parts.join(".")
}

/// Returns a clause of a call that none of the expressions here can have.
fn clause_of(function: &Function) -> Option<&'static str> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let clause = list.clauses.first().map(|clause| match clause {
        FunctionArgumentClause::OrderBy(_) => "ORDER BY",
        FunctionArgumentClause::IgnoreOrRespectNulls(_) => "IGNORE NULLS or RESPECT NULLS",
        _ => "a clause behind the arguments",
    });
    let has_parameters = !matches!(function.parameters, FunctionArguments::None);
    clause
        .or(has_parameters.then_some("a second list of arguments"))
        .or((list.duplicate_treatment == Some(DuplicateTreatment::Distinct)).then_some("DISTINCT"))
        .or(function.null_treatment.as_ref().map(|_| "IGNORE NULLS or RESPECT NULLS"))
        .or((!function.within_group.is_empty()).then_some("WITHIN GROUP"))
}

/// Returns a clause of a call that an aggregate can have.
fn aggregates(function: &Function) -> Option<&'static str> {
    function.filter.as_ref().map(|_| "FILTER").or(function.over.as_ref().map(|_| "OVER"))
}

fn place(function: &Function) -> String {
    let start = function.name.span().start;
    if start.line == 0 { String::new() } else { format!(" at Line: {}, Column: {}", start.line, start.column) }
}

fn not_found(function: &Function, name: &str, hint: &str) -> Refusal {
    Refusal::new(format!("there is no function `{name}`{}", place(function)), hint).with_sqlstate(NO_FUNCTION)
}

fn wrong_number(function: &Function, name: &str, given: usize, rows: &[&Row]) -> Refusal {
    let mut wanted: Vec<usize> = rows.iter().flat_map(|row| [*row.arguments.start(), *row.arguments.end()]).collect();
    wanted.dedup();
    let wanted: Vec<String> = wanted.iter().map(usize::to_string).collect();
    let verb = if given == 1 { "is" } else { "are" };
    let noun = if wanted == ["1"] { "argument" } else { "arguments" };
    let message = format!("{name} takes {} {noun}, and {given} {verb} given{}", wanted.join(" or "), place(function));
    Refusal::new(message, "docs/dialect.md has the names of other engines").with_sqlstate(NO_FUNCTION)
}

#[cfg(test)]
mod tests;
