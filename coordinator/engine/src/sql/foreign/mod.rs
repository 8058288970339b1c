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
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use datafusion::execution::{SessionState, SessionStateBuilder};

    use super::*;
    use crate::sql::parsed;

    fn state() -> SessionState {
        let functions = gust_protocol::functions::scalar();
        let of_lambdas = gust_protocol::functions::higher_order();
        let state = SessionStateBuilder::new().with_default_features().with_scalar_functions(functions);
        state.with_higher_order_functions(of_lambdas).build()
    }

    fn translated(text: &str) -> Result<String, Refusal> {
        let mut statement = parsed(text);
        translate(&mut statement, &Known::of(&state())).map(|_| statement.to_string())
    }

    #[test]
    fn calls_are_written_as_the_engines() {
        for (call, expect) in [
            ("if(a, 1)", "CASE WHEN a THEN 1 END"),
            ("IF(a > b, 1, -2)", "CASE WHEN (a > b) THEN 1 ELSE (-2) END"),
            ("if(if(a, b, c), 1)", "CASE WHEN (CASE WHEN a THEN b ELSE c END) THEN 1 END"),
            ("year(d)", "CAST(date_part('year', d) AS BIGINT)"),
            ("mod(a + 1, 2) * 3", "((a + 1) % 2) * 3"),
            ("try(CAST(a AS INT))", "TRY_CAST(a AS INT)"),
            ("try(CAST(split_part(a, '-', 2) AS INT))", "TRY_CAST(split_part(a, '-', 2) AS INT)"),
            ("every(a) FILTER (WHERE b)", "bool_and(a) FILTER (WHERE b)"),
            ("count_if(a > 1)", "count(*) FILTER (WHERE (a > 1))"),
            ("count_if(a) FILTER (WHERE b OR c)", "count(*) FILTER (WHERE (a) AND (b OR c))"),
            ("count_if(a) OVER (PARTITION BY b)", "count(*) FILTER (WHERE a) OVER (PARTITION BY b)"),
            ("max_by(a, b) FILTER (WHERE c)", "first_value(a ORDER BY b DESC) FILTER (WHERE (b IS NOT NULL) AND c)"),
            ("geometric_mean(a) FILTER (WHERE b)", "exp(avg(ln(a)) FILTER (WHERE b))"),
            ("listagg(a, '-') WITHIN GROUP (ORDER BY b DESC)", "string_agg(a, '-' ORDER BY b DESC)"),
            ("listagg(DISTINCT a)", "string_agg(DISTINCT a, '')"),
            ("listagg(a, '-' ON OVERFLOW ERROR) WITHIN GROUP (ORDER BY b)", "string_agg(a, '-' ORDER BY b)"),
            ("group_concat(a ORDER BY a SEPARATOR ';')", "string_agg(a, ';' ORDER BY a)"),
            (
                "count(DISTINCT a, b + 1)",
                "count(DISTINCT CASE WHEN (a IS NOT NULL AND (b + 1) IS NOT NULL) THEN struct(a, b + 1) END)",
            ),
            ("count(a, b)", "count(a, b)"),
            ("count(*)", "count(*)"),
            ("approx_percentile(a, 0.5) FILTER (WHERE b)", "approx_percentile_cont(a, 0.5) FILTER (WHERE b)"),
            (
                "approx_percentile(a, ARRAY[0.1, 0.9])",
                "CASE WHEN (count(a) > 0) THEN ARRAY[approx_percentile_cont(a, 0.1), approx_percentile_cont(a, 0.9)] END",
            ),
            ("approx_distinct(a, 0.05)", "approx_distinct(a)"),
            ("array_remove(a, 1)", "array_remove_all(a, 1)"),
            ("list_sort(a)", "array_sort(a, 'ASC', 'NULLS LAST')"),
            ("array_sort(a, 'DESC')", "array_sort(a, 'DESC')"),
            (
                "to_unixtime(a)",
                "CASE WHEN date_part('epoch', a) IS NOT NULL THEN CAST(CAST(arrow_cast(a, 'Timestamp(Microsecond, None)') AS BIGINT) AS DOUBLE) / 1000000 END",
            ),
            ("array_average(a)", "array_avg(a)"),
            ("random(5)", "CAST(FLOOR(random() * 5) AS BIGINT)"),
            ("approx_percentile(a, b, 0.5)", "approx_percentile_cont_with_weight(a, b, 0.5)"),
            ("to_char(a, '%Y')", "to_char(a, '%Y')"),
            ("to_char(a, b)", "to_char(a, b)"),
            ("date_format(a, '%Y-%m-%d')", "date_format(a, '%Y-%m-%d')"),
            ("format_datetime(a, 'yyyy')", "format_datetime(a, 'yyyy')"),
            ("try(json_parse(a))", "gust_try_json_parse(a)"),
            ("try(CAST(date_parse(a, '%Y') AS DATE))", "TRY_CAST(gust_try_date_parse(a, '%Y') AS DATE)"),
            ("try(element_at(a, 2))", "element_at(a, 2)"),
            ("try(element_at(a, b))", "gust_try_element_at(a, b)"),
            ("try(json_extract_scalar(a, b))", "gust_try_json_extract_scalar(a, b)"),
            ("try(CAST(json_extract_scalar(a, '$.b') AS INT))", "TRY_CAST(json_extract_scalar(a, '$.b') AS INT)"),
            ("try(a / b)", "a / gust_try_divisor(b, a)"),
            ("try(CAST(a % b AS INT))", "TRY_CAST(a % gust_try_divisor(b, a) AS INT)"),
            ("try(upper(a))", "upper(a)"),
            ("regexp_replace(a, 'x', '\\$1', 'g')", "regexp_replace(a, 'x', '$1', 'g')"),
            ("regexp_replace(a, 'x', '\\1 $')", "regexp_replace(a, 'x', '\\1 $')"),
            ("try(CAST((CAST(trim(a) AS DOUBLE)) AS INT))", "TRY_CAST(TRY_CAST(TRIM(a) AS DOUBLE) AS INT)"),
            ("regexp_replace(a, 'x')", "regexp_replace(a, 'x', '', 'g')"),
            ("regexp_replace(a, 'x', 'y')", "regexp_replace(a, 'x', 'y')"),
            ("datediff(day, a, b)", "CAST(CAST(b AS DATE) - CAST(a AS DATE) AS BIGINT)"),
            ("user", "user"),
            ("unnest(a)", "unnest(a)"),
            ("sum(a)", "sum(a)"),
        ] {
            let written =
                translated(&format!("SELECT {call} AS x FROM t")).unwrap_or_else(|error| panic!("{call}: {error:?}"));
            // Brackets around a comparison may be more than are needed.
            let bare = |text: &str| text.replace(['(', ')'], "");
            assert_eq!(bare(&written), bare(&format!("SELECT {expect} AS x FROM t")), "{call}");
            parsed(&written);
        }
    }

    #[test]
    fn columns_keep_the_names_that_were_written() {
        for (text, expect) in [
            ("SELECT year(d), a FROM t", "SELECT CAST(date_part('year', d) AS BIGINT) AS \"year(d)\", a FROM t"),
            ("SELECT sum(a), every(b) AS c FROM t", "SELECT sum(a), bool_and(b) AS c FROM t"),
            (
                "SELECT * FROM (SELECT lcase(\"a\") FROM t) q",
                "SELECT * FROM (SELECT lower(\"a\") AS \"lcase(\"\"a\"\")\" FROM t) q",
            ),
        ] {
            assert_eq!(translated(text).as_deref(), Ok(expect));
        }
    }

    #[test]
    fn what_there_is_not_is_refused_with_what_to_write() {
        for (call, message, hint) in [
            ("json_value(a, '$.b')", "there is no function `json_value` at Line: 1, Column: 8", "json_extract_scalar"),
            ("coutn(a)", "there is no function `coutn` at Line: 1, Column: 8", "did you mean `count`?"),
            ("xyzzyx(a)", "there is no function `xyzzyx` at Line: 1, Column: 8", "SHOW FUNCTIONS"),
            ("s.f(a)", "there is no function `s.f` at Line: 1, Column: 8", "SHOW FUNCTIONS"),
            ("strftime(a, '%Y')", "there is no function `strftime`", "to_char(x, format)"),
            ("if(a)", "if takes 2 or 3 arguments, and 1 is given at Line: 1, Column: 8", "docs/dialect.md"),
            ("year(DISTINCT a)", "DISTINCT of year is not supported", "inner query"),
            ("year(a) OVER ()", "OVER of year is not supported", "has no OVER"),
            ("max_by(DISTINCT a, b)", "DISTINCT of max_by is not supported", "inner query"),
            ("max_by(a, b) OVER ()", "max_by as a window function is not supported", "join with the aggregate"),
            ("count_if(*)", "count_if with * or names of arguments", "by their places"),
            ("try(a * b)", "try of * is not supported", "TRY_CAST"),
            ("try(sqrt(a))", "try of sqrt is not supported", "TRY_CAST"),
            ("decode(a, 1, 2, 3)", "decode with 4 arguments is not supported at Line: 1, Column: 8", "CASE x WHEN"),
            ("approx_percentile(a, 0.5, 0.01)", "approx_percentile with an accuracy is not supported", "(x, 0.5)"),
            (
                "approx_percentile(a)",
                "approx_percentile with 1 arguments is not supported",
                "approx_percentile(x, share)",
            ),
            ("to_char(a, 'YYYY-MM-DD')", "to_char with the format 'YYYY-MM-DD' is not supported", "%Y-%m-%d"),
            ("date_format(a, 'yyyy-MM-dd')", "date_format with the format 'yyyy-MM-dd' is not supported", "%Y-%m-%d"),
            ("format_datetime(a, '%Y')", "format_datetime with the format '%Y' is not supported", "yyyy-MM-dd"),
            ("datediff('week', a, b)", "datediff by this unit is not supported", "'minute'"),
            ("try(element_at(a, b + 1))", "try of + is not supported", "TRY_CAST"),
            ("try(CAST(split_part(a, '-', b) AS INT))", "try of split_part is not supported", "TRY_CAST"),
            ("try(CAST(split_part(a, '-', 0) AS INT))", "try of split_part is not supported", "TRY_CAST"),
            ("try(CAST(regexp_replace(a, b, 'x') AS INT))", "try of regexp_replace is not supported", "TRY_CAST"),
            ("try(CAST(substr(a, 1, b) AS INT))", "try of substring is not supported", "TRY_CAST"),
            ("try(CAST(coalesce(CAST(a AS INT), 0) AS BIGINT))", "try of coalesce is not supported", "TRY_CAST"),
            ("regexp_replace(a, 'x', '$1')", "regexp_replace with a replacement like $1 is not supported", "'g'"),
            ("approx_percentile(a, ARRAY[0.1]) FILTER (WHERE b)", "FILTER of approx_percentile", "CASE WHEN"),
            ("group_concat(a, ';')", "group_concat with 2 arguments is not supported", "string_agg(x, ';')"),
            ("approx_distinct(a, 0.001)", "approx_distinct with this standard error", "exact"),
            ("listagg(a, ',' ON OVERFLOW TRUNCATE WITHOUT COUNT)", "listagg with ON OVERFLOW TRUNCATE", "left("),
            ("regexp_position(random(), 'a')", "regexp_position of a volatile value is not supported", "inner query"),
            ("count(DISTINCT random(), a)", "count of a volatile value", "inner query"),
        ] {
            let refusal = translated(&format!("SELECT {call} FROM t")).expect_err(call);
            assert!(refusal.message.starts_with(message), "{call}: {refusal:?}");
            assert!(refusal.hint.as_deref().is_some_and(|given| given.contains(hint)), "{call}: {refusal:?}");
        }
    }

    #[test]
    fn copies_are_bounded() {
        let nested = (0..40).fold("a".to_owned(), |inside, _| format!("regexp_position({inside}, 'x')"));
        let refusal = translated(&format!("SELECT {nested} FROM t")).expect_err("it doubles 40 times");
        assert!(refusal.message.contains("other engines' functions are "), "{refusal:?}");
    }

    /// Each state has hash maps of its own.
    #[test]
    fn hints_are_the_same_in_each_run() {
        let hint = |name: &str| translated(&format!("SELECT {name}(a)")).expect_err(name).hint;
        for name in ["slit", "mx", "nvll", "tru", "sine", "array_concta"] {
            let first = hint(name);
            assert!((0..5).all(|_| hint(name) == first), "{name}: {first:?}");
        }
    }

    #[test]
    fn the_engine_has_what_calls_are_written_as() {
        let state = state();
        let known = Known::of(&state);
        let mut refused: Vec<&str> = Vec::new();
        for row in names::NAMES.iter().chain(names::FORMS).chain(trino::TRINO) {
            match row.meaning {
                Meaning::Renamed(to) => assert!(known.own_name(to).is_some(), "{to}"),
                Meaning::Written(text) | Meaning::Aggregated { text, .. } => {
                    let mut written = parsed(&format!("SELECT {text}"));
                    assert_eq!(translate(&mut written, &known), Ok(false), "{text}");
                    assert_eq!(written.to_string(), parsed(&format!("SELECT {text}")).to_string());
                    let arguments = *row.arguments.end();
                    assert!(
                        uses(&template(text), arguments).iter().all(|uses| *uses > 0),
                        "{text}: arguments are lost"
                    );
                    assert_eq!(uses(&template(text), arguments + 1)[arguments], 0, "{text}: too few arguments");
                }
                Meaning::Chosen { .. } => {}
                Meaning::Refused(_) => refused.extend(row.names),
            }
            if !matches!(row.meaning, Meaning::Refused(_)) {
                assert!(row.names.iter().all(|name| !refused.contains(name)), "a refusal hides a row: {:?}", row.names);
            }
        }
        refused.sort_unstable();
        let count = refused.len();
        refused.dedup();
        assert_eq!(refused.len(), count, "a name is refused twice");
    }

    /// Writes the line of some names. None for those that are refused.
    fn line(Row { names, arguments, meaning }: &Row) -> Option<String> {
        let here = listing::here(meaning)?.replace('|', "\\|");
        let is_prose = matches!(meaning, Meaning::Chosen { .. });
        let here = if is_prose { here } else { format!("`{here}`") };
        let calls: Vec<String> = names.iter().map(|name| listing::call(name, arguments)).collect();
        Some(format!("| {} | {here} |\n", calls.join(", ")))
    }

    /// Writes the table of `docs/dialect.md`.
    fn page() -> String {
        let mut page = "| call | here |\n|---|---|\n".to_owned();
        let mut refused: BTreeSet<&str> = BTreeSet::new();
        for row in names::NAMES.iter().chain(names::FORMS) {
            match line(row) {
                Some(line) => page += &line,
                None if names::foreign(row.names[0]).is_empty() => {}
                None => refused.extend(row.names.iter().copied()),
            }
        }
        let kept = |name: &&str| names::foreign(name).iter().all(|row| matches!(row.meaning, Meaning::Refused(_)));
        let refused: Vec<&str> = refused.into_iter().filter(kept).collect();
        let mut lines = vec!["Refused, with what to write instead:".to_owned()];
        for (place, name) in refused.iter().enumerate() {
            let end = if place + 1 == refused.len() { '.' } else { ',' };
            match lines.last_mut().filter(|line| line.len() + name.len() < 158) {
                Some(line) => write!(line, " {name}{end}").expect("to a string"),
                None => lines.push(format!("{name}{end}")),
            }
        }
        format!("{page}\n{}\n", lines.join("\n"))
    }

    #[test]
    fn the_page_has_the_functions_that_datafusion_has_not() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/dialect.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let names = gust_protocol::functions::added();
        let missing: Vec<&String> = names.iter().filter(|name| !page.contains(&format!("{name}("))).collect();
        assert!(names.len() > 30 && missing.is_empty(), "{missing:?}");
    }

    /// `DIALECT_WRITE=1 cargo test` writes it anew.
    #[test]
    fn the_page_lists_the_names() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/dialect.md");
        let of_trino = trino::TRINO.iter().map(|row| line(row).expect("none is refused")).collect::<String>();
        let of_trino = format!("| call | here |\n|---|---|\n{of_trino}");
        for (mark, expect) in [("names", page()), ("trino", of_trino)] {
            let text = std::fs::read_to_string(&path).expect("the page");
            let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->\n"));
            let (head, rest) = text.split_once(&begin).expect("a mark");
            let (table, tail) = rest.split_once(&end).expect("a mark");
            if std::env::var_os("DIALECT_WRITE").is_some() {
                std::fs::write(&path, format!("{head}{begin}{expect}{end}{tail}")).expect("written");
            } else {
                assert_eq!(table, expect);
            }
        }
    }

    /// A call with the same text has another meaning, and all others have their own.
    #[test]
    fn trinos_meaning_comes_before_the_engines() {
        let state = state();
        let written = |sql: &str, dialect: Dialect| {
            let mut statement = parsed(sql);
            translate(&mut statement, &Known::of(&state).with_dialect(dialect)).expect("a meaning");
            statement.to_string()
        };
        for (sql, trino, gust) in [
            ("SELECT concat(a, 'b')", "SELECT (a || 'b') AS \"concat(a, 'b')\"", "SELECT concat(a, 'b')"),
            (
                "SELECT 1 FROM t ORDER BY a DESC, b NULLS FIRST",
                "SELECT 1 FROM t ORDER BY a DESC NULLS LAST, b NULLS FIRST",
                "SELECT 1 FROM t ORDER BY a DESC, b NULLS FIRST",
            ),
            (
                "SELECT 1 FROM t QUALIFY rank() OVER (ORDER BY a DESC) = 1",
                "SELECT 1 FROM t QUALIFY rank() OVER (ORDER BY a DESC NULLS LAST) = 1",
                "SELECT 1 FROM t QUALIFY rank() OVER (ORDER BY a DESC) = 1",
            ),
            ("SELECT 1 WHERE md5(a) = b", "SELECT 1 WHERE decode(md5(a), 'hex') = b", "SELECT 1 WHERE md5(a) = b"),
            ("SELECT 1 WHERE SUBSTR(a, 2) = b", "SELECT 1 WHERE SUBSTR(a, 2) = b", "SELECT 1 WHERE SUBSTR(a, 2) = b"),
            (
                "SELECT 1 WHERE EXTRACT(DOW FROM a) = 7",
                "SELECT 1 WHERE EXTRACT(ISODOW FROM a) = 7",
                "SELECT 1 WHERE EXTRACT(DOW FROM a) = 7",
            ),
            (
                "SELECT 1 WHERE iff(a, b, c)",
                "SELECT 1 WHERE CASE WHEN a THEN b ELSE c END",
                "SELECT 1 WHERE CASE WHEN a THEN b ELSE c END",
            ),
        ] {
            assert_eq!(written(sql, Dialect::Trino), trino);
            assert_eq!(written(sql, Dialect::Gust), gust);
        }
        let from_the_end = "SELECT 1 WHERE SUBSTR(a, -1) = b";
        assert!(written(from_the_end, Dialect::Trino).contains("CASE WHEN "));
        assert_eq!(written(from_the_end, Dialect::Gust), from_the_end);
    }
}
