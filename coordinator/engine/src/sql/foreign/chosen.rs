//! Calls whose meaning depends on their arguments.

use datafusion::sql::sqlparser::ast::{
    Array, BinaryOperator, DataType, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, LambdaFunction, ListAggOnOverflow,
    ObjectName, UnaryOperator, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::sql::Refusal;
use crate::sql::balance::paired;
use crate::sql::template::{filled, in_brackets, template};

/// Call of a function.
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) function: &'a Function,
    pub(super) list: &'a FunctionArgumentList,
    /// Arguments by position.
    pub(super) arguments: &'a [Expr],
    /// Clause that an expression cannot have, if there is one.
    pub(super) clause: Option<&'static str>,
    pub(super) at: Span,
}

/// Form in which a call is written here.
pub(super) enum Choice {
    /// The call itself.
    Itself,
    /// A template of these arguments.
    Template(&'static str, Vec<Expr>),
    /// A tree that has each of `copied` so many times more than the call.
    Tree { tree: Box<Expr>, copied: Vec<Expr>, times: usize },
}

impl Choice {
    pub(super) fn tree(tree: Expr) -> Self {
        Self::Tree { tree: Box::new(tree), copied: Vec::new(), times: 0 }
    }
}

impl Call<'_> {
    /// Refuses a clause that the call's meaning has no place for.
    pub(super) fn without_clauses(&self) -> Result<(), Refusal> {
        match self.clause {
            None => Ok(()),
            Some(clause) => {
                let what = format!("{clause} of {} is not supported", self.name);
                let hint = match clause {
                    "FILTER" => format!("give {} CASE WHEN condition THEN x END", self.name),
                    "DISTINCT" => format!("{} over SELECT DISTINCT in an inner query", self.name),
                    _ => format!("{} is written as an expression here, which has no {clause}", self.name),
                };
                Err(Refusal::new(what, hint))
            }
        }
    }

    pub(super) fn refused(&self, what: &str, hint: &str) -> Refusal {
        Refusal::new(format!("{} {what} is not supported", self.name), hint)
    }

    /// Returns the call of another function with the same clauses.
    pub(super) fn renamed(&self, name: &str, list: FunctionArgumentList) -> Function {
        let name = ObjectName::from(Ident::with_span(self.at, name));
        Function { name, args: FunctionArguments::List(list), ..self.function.clone() }
    }
}

pub(super) fn positional(arguments: impl IntoIterator<Item = Expr>) -> Vec<FunctionArg> {
    arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect()
}

pub(super) fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

pub(super) fn bare(mut expr: &Expr) -> &Expr {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

/// Returns a number that is written out.
pub(super) fn number(expr: &Expr) -> Option<f64> {
    match bare(expr) {
        Expr::Value(ValueWithSpan { value: Value::Number(number, _), .. }) => number.parse().ok(),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => number(expr).map(|number| -number),
        _ => None,
    }
}

/// Refuses a lambda that compares.
pub(super) fn array_sort(call: &Call<'_>) -> Result<Choice, Refusal> {
    match bare(&call.arguments[1]) {
        Expr::Lambda(_) => Err(call.refused(
            "with a lambda",
            "unnest the array in an inner query, and gather it with array_agg(x ORDER BY ...)",
        )),
        _ => Ok(Choice::Itself),
    }
}

pub(super) fn to_char(call: &Call<'_>) -> Result<Choice, Refusal> {
    with_percents(call, "the letters are those of strftime: '%Y-%m-%d %H:%M:%S'")
}

pub(super) fn date_format(call: &Call<'_>) -> Result<Choice, Refusal> {
    with_percents(
        call,
        "the letters are those of MySQL: '%Y-%m-%d %H:%i:%s'; format_datetime(x, 'yyyy-MM-dd') has Joda's",
    )
}

/// Refuses a format with letters, none of which would be a part of the time.
fn with_percents(call: &Call<'_>, hint: &str) -> Result<Choice, Refusal> {
    with_format(call, hint, |format| format.contains('%') || !format.contains(|sign: char| sign.is_ascii_alphabetic()))
}

/// `format_datetime` by Joda's letters: a percent sign is one of another engine's.
pub(super) fn format_datetime(call: &Call<'_>) -> Result<Choice, Refusal> {
    let is_joda = |format: &str| {
        let mut signs = format.chars().zip(format.chars().skip(1));
        !signs.any(|(sign, next)| sign == '%' && next.is_ascii_alphabetic())
    };
    with_format(
        call,
        "the letters are those of Joda: 'yyyy-MM-dd HH:mm:ss'; date_format(x, '%Y-%m-%d') has MySQL's",
        is_joda,
    )
}

fn with_format(call: &Call<'_>, hint: &str, is_format: impl Fn(&str) -> bool) -> Result<Choice, Refusal> {
    match bare(&call.arguments[1]) {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(format), .. }) if !is_format(format) => {
            Err(call.refused(&format!("with the format '{format}'"), hint))
        }
        _ => Ok(Choice::Itself),
    }
}

/// Refuses a replacement that is a group in Trino, and text in PostgreSQL and DuckDB. A dollar with a backslash is text in
/// both.
pub(super) fn regexp_replace(call: &Call<'_>) -> Result<Choice, Refusal> {
    let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(replacement), .. }) = bare(&call.arguments[2])
    else {
        return Ok(Choice::Itself);
    };
    let written = replacement.replace("\\$", "");
    let is_group = |behind: &str| behind.starts_with(|sign: char| sign.is_ascii_digit() || sign == '{');
    if written.split('$').skip(1).any(is_group) {
        return Err(call.refused(
            "with a replacement like $1",
            "\\1 is the first group, \\$ is a dollar; a fourth argument 'g' replaces all matches, as Trino does",
        ));
    }
    if !replacement.contains("\\$") {
        return Ok(Choice::Itself);
    }
    call.without_clauses()?;
    let mut arguments = call.arguments.to_vec();
    arguments[2] = text(&replacement.replace("\\$", "$"));
    let list = FunctionArgumentList { args: positional(arguments), ..call.list.clone() };
    Ok(Choice::tree(Expr::Function(call.renamed(call.name, list))))
}

/// Writes a unit that has no quotes, as Redshift and MySQL have it, with quotes.
fn with_unit(call: &Call<'_>, template: &'static str) -> Result<Choice, Refusal> {
    call.without_clauses()?;
    let unit = match bare(&call.arguments[0]) {
        Expr::Identifier(unit) if unit.quote_style.is_none() => text(&unit.value.to_lowercase()),
        _ if template.starts_with(&format!("{}(", call.name)) => return Ok(Choice::Itself),
        other => other.clone(),
    };
    let arguments = std::iter::once(unit).chain(call.arguments[1..].iter().cloned());
    Ok(Choice::Template(template, arguments.collect()))
}

/// `dateadd(day, 1, x)` and `date_add('day', 1, x)`.
pub(super) fn add(call: &Call<'_>) -> Result<Choice, Refusal> {
    with_unit(call, "date_add($1, $2, $3)")
}

/// `timestampdiff(day, a, b)` and `date_diff('day', a, b)`: whole units.
pub(super) fn diff(call: &Call<'_>) -> Result<Choice, Refusal> {
    with_unit(call, "date_diff($1, $2, $3)")
}

/// `all_match(a, x -> f)`: no element for which f is false.
pub(super) fn all_match(call: &Call<'_>) -> Result<Choice, Refusal> {
    call.without_clauses()?;
    let Expr::Lambda(lambda) = bare(&call.arguments[1]) else {
        return Err(call.refused("without a lambda", "all_match(a, x -> x > 0)"));
    };
    let body = filled(template("(NOT $1)"), std::slice::from_ref(lambda.body.as_ref()), None, call.at);
    let lambda = Expr::Lambda(LambdaFunction { body: Box::new(body), ..lambda.clone() });
    Ok(Choice::Template("(NOT array_any_match($1, $2))", vec![call.arguments[0].clone(), lambda]))
}

/// Seconds since 1970 of a time's last boundary of a unit.
macro_rules! epoch {
    ($unit:literal) => {
        concat!(
            "CASE WHEN arrow_typeof($1) = 'Date32' THEN date_part('epoch', $1) ELSE date_part('epoch', date_trunc('",
            $unit,
            "', $1)) END"
        )
    };
}

/// Counts the boundaries of a unit between two times, as DuckDB and Redshift do.
pub(super) fn datediff(call: &Call<'_>) -> Result<Choice, Refusal> {
    call.without_clauses()?;
    let unit = match bare(&call.arguments[0]) {
        Expr::Identifier(unit) => unit.value.to_lowercase(),
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(unit), .. }) => unit.to_lowercase(),
        _ => String::new(),
    };
    let template = match unit.as_str() {
        "year" | "years" => "CAST(date_part('year', $2) - date_part('year', $1) AS BIGINT)",
        "quarter" | "quarters" => {
            "CAST(4 * (date_part('year', $2) - date_part('year', $1)) + date_part('quarter', $2) - date_part('quarter', $1) AS BIGINT)"
        }
        "month" | "months" => {
            "CAST(12 * (date_part('year', $2) - date_part('year', $1)) + date_part('month', $2) - date_part('month', $1) AS BIGINT)"
        }
        "day" | "days" => "CAST(CAST($2 AS DATE) - CAST($1 AS DATE) AS BIGINT)",
        "hour" | "hours" => return Ok(boundaries(call, "CAST(($2 - $1) / 3600 AS BIGINT)", epoch!("hour"))),
        "minute" | "minutes" => return Ok(boundaries(call, "CAST(($2 - $1) / 60 AS BIGINT)", epoch!("minute"))),
        "second" | "seconds" => return Ok(boundaries(call, "CAST($2 - $1 AS BIGINT)", epoch!("second"))),
        _ => {
            return Err(call.refused(
                "by this unit",
                "write one of 'year', 'quarter', 'month', 'day', 'hour', 'minute' and 'second'",
            ));
        }
    };
    Ok(Choice::Template(template, call.arguments[1..].to_vec()))
}

/// Counts boundaries by the seconds since 1970 of both times. A date far from now, such as 9999-12-31, is no timestamp of
/// nanoseconds, which `date_trunc` would make of it.
fn boundaries(call: &Call<'_>, between: &'static str, seconds: &'static str) -> Choice {
    let is_date = |of: &Expr| match bare(of) {
        Expr::TypedString(typed) => typed.data_type == DataType::Date,
        Expr::Cast { data_type, .. } => *data_type == DataType::Date,
        _ => false,
    };
    let side = |of: &Expr| {
        let written = if is_date(of) { "date_part('epoch', $1)" } else { seconds };
        filled(template(written), std::slice::from_ref(of), None, call.at)
    };
    let sides: Vec<Expr> = call.arguments[1..].iter().map(side).collect();
    let tree = filled(template(between), &sides, None, call.at);
    Choice::Tree { tree: Box::new(tree), copied: call.arguments[1..].to_vec(), times: 2 }
}

/// Writes `approx_percentile(x, ARRAY[p, q])` as an array of one call each.
pub(super) fn approx_percentile(call: &Call<'_>) -> Result<Choice, Refusal> {
    const ONE: &str = "approx_percentile_cont";
    let Expr::Array(Array { elem: shares, .. }) = bare(&call.arguments[1]) else {
        return Ok(Choice::tree(Expr::Function(call.renamed(ONE, call.list.clone()))));
    };
    call.without_clauses()?;
    let [value, _] = call.arguments else { return Ok(Choice::Itself) };
    let one = |share: &Expr| {
        filled(template("approx_percentile_cont($1, $2)"), &[value.clone(), share.clone()], None, call.at)
    };
    let each = Expr::Array(Array { elem: shares.iter().map(one).collect(), named: true });
    let whole = filled(template("CASE WHEN count($1) > 0 THEN $2 END"), &[value.clone(), each], None, call.at);
    Ok(Choice::Tree { tree: Box::new(whole), copied: vec![value.clone()], times: shares.len() })
}

/// Writes `approx_percentile(x, weight, share)`. A share in the second place is another engine's, which has an accuracy behind it.
pub(super) fn weighted_percentile(call: &Call<'_>) -> Result<Choice, Refusal> {
    if number(&call.arguments[1]).is_some_and(|share| share > 0.0 && share < 1.0) {
        return Err(call.refused(
            "with an accuracy",
            "approx_percentile(x, 0.5); a weight is a whole number, in the second place",
        ));
    }
    let list = call.list.clone();
    Ok(Choice::tree(Expr::Function(call.renamed("approx_percentile_cont_with_weight", list))))
}

/// Writes `listagg(x, separator) WITHIN GROUP (ORDER BY y)`.
pub(super) fn listagg(call: &Call<'_>) -> Result<Choice, Refusal> {
    let mut list = call.list.clone();
    if list.args.len() == 1 {
        list.args.extend(positional([text("")]));
    }
    let is_truncated = |clause: &FunctionArgumentClause| {
        matches!(clause, FunctionArgumentClause::OnOverflow(ListAggOnOverflow::Truncate { .. }))
    };
    if list.clauses.iter().any(is_truncated) {
        return Err(
            call.refused("with ON OVERFLOW TRUNCATE", "cut the text with left(..., n): no text is too long here")
        );
    }
    list.clauses.retain(|clause| !matches!(clause, FunctionArgumentClause::OnOverflow(_)));
    if !call.function.within_group.is_empty() {
        list.clauses.push(FunctionArgumentClause::OrderBy(call.function.within_group.clone()));
    }
    let written = call.renamed("string_agg", list);
    Ok(Choice::tree(Expr::Function(Function { within_group: Vec::new(), ..written })))
}

/// Writes MySQL's `group_concat(x ORDER BY y SEPARATOR '-')`.
pub(super) fn group_concat(call: &Call<'_>) -> Result<Choice, Refusal> {
    let mut list = call.list.clone();
    let mut separator = text(",");
    list.clauses.retain(|clause| match clause {
        FunctionArgumentClause::Separator(written) => {
            separator = Expr::Value(written.clone());
            false
        }
        _ => true,
    });
    list.args.extend(positional([separator]));
    Ok(Choice::tree(Expr::Function(call.renamed("string_agg", list))))
}

/// Writes `count(DISTINCT a, b)`: rows of which a value is NULL do not count, as in MySQL, Spark and Hive.
pub(super) fn count_distinct(call: &Call<'_>) -> Result<Choice, Refusal> {
    if call.list.duplicate_treatment != Some(DuplicateTreatment::Distinct) {
        return Ok(Choice::Itself);
    }
    let known = call.arguments.iter().map(|argument| Expr::IsNotNull(Box::new(in_brackets(argument.clone()))));
    let known = paired(known.collect(), |a, b| Expr::BinaryOp {
        left: Box::new(a),
        op: BinaryOperator::And,
        right: Box::new(b),
    });
    let rows = FunctionArgumentList {
        duplicate_treatment: None,
        args: positional(call.arguments.iter().cloned()),
        clauses: Vec::new(),
    };
    let row = Function {
        filter: None,
        over: None,
        null_treatment: None,
        within_group: Vec::new(),
        ..call.renamed("struct", rows)
    };
    let each = filled(template("CASE WHEN $1 THEN $2 END"), &[known, Expr::Function(row)], None, call.at);
    let list = FunctionArgumentList { args: positional([each]), ..call.list.clone() };
    let counted = Expr::Function(call.renamed("count", list));
    Ok(Choice::Tree { tree: Box::new(counted), copied: call.arguments.to_vec(), times: 1 })
}

/// Drops a standard error that the engine keeps anyway: its 2^14 registers err by 1.04 / 2^7.
pub(super) fn approx_distinct(call: &Call<'_>) -> Result<Choice, Refusal> {
    const ERROR: f64 = 0.0082;
    match number(&call.arguments[1]) {
        Some(error) if (ERROR..=0.26).contains(&error) => {
            let list = FunctionArgumentList { args: call.list.args[..1].to_vec(), ..call.list.clone() };
            Ok(Choice::tree(Expr::Function(call.renamed("approx_distinct", list))))
        }
        _ => {
            Err(call
                .refused("with this standard error", "leave it out: the error is 0.0081; count(DISTINCT x) is exact"))
        }
    }
}
