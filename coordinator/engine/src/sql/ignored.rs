//! Syntax that the engine parses and then ignores. It is refused by name, because its rows would be another query's.
//!
//! DataFusion 55.2 was seen to ignore each entry. `tests/tests/statements.rs` runs each on DataFusion alone, and an
//! entry can go when DataFusion refuses it or does it. Syntax that can be written as what it means is not here but in
//! [`super::rewrites`].

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArgumentClause, FunctionArguments, GroupByExpr, GroupByWithModifier,
    Query, Select, SelectItem, Statement, TableAlias, TableFactor, Value, Visitor, WildcardAdditionalOptions,
};

use super::Refusal;
use super::walk::walk;

/// Window functions that number rows. A NULL in an argument changes none of them.
const RANKS: [&str; 6] = ["row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile"];

/// Refuses a statement that has such syntax.
///
/// # Errors
/// Names the first such syntax.
pub(super) fn check(statement: &Statement, is_scalar: &dyn Fn(&str) -> bool) -> Result<(), Refusal> {
    match walk(statement, &mut IgnoredSyntax { is_scalar }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

struct IgnoredSyntax<'a> {
    is_scalar: &'a dyn Fn(&str) -> bool,
}

fn refused(what: &str, hint: &str) -> ControlFlow<Refusal> {
    ControlFlow::Break(Refusal::new(format!("{what} is not supported"), hint))
}

fn refuse_if(present: bool, what: &str, hint: &str) -> ControlFlow<Refusal> {
    if present { refused(what, hint) } else { ControlFlow::Continue(()) }
}

impl Visitor for IgnoredSyntax<'_> {
    type Break = Refusal;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if let Some(lock) = query.locks.first() {
            refused(&format!("{lock}"), "gust reads, and locks nothing; leave it out")?;
        }
        refuse_if(query.for_clause.is_some(), "FOR XML and FOR JSON", "leave it out, and use --format json")?;
        refuse_if(query.settings.is_some(), "SETTINGS", "leave it out, or use SET before the query")?;
        refuse_if(query.format_clause.is_some(), "FORMAT", "leave it out, and use --format")
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        refuse_if(select.prewhere.is_some(), "PREWHERE", "write WHERE")?;
        refuse_if(!select.connect_by.is_empty(), "CONNECT BY", "use WITH RECURSIVE")?;
        refuse_if(!select.distribute_by.is_empty(), "DISTRIBUTE BY", "leave it out")?;
        refuse_if(select.value_table_mode.is_some(), "SELECT AS", "name the columns, or use struct(...)")?;
        refuse_if(select.select_modifiers.is_some(), "a modifier after SELECT", "leave it out")?;
        refuse_if(select.exclude.is_some(), "EXCLUDE after the columns", "write it after *: SELECT * EXCLUDE (...)")?;
        let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = &select.group_by;
        for modifier in modifiers {
            let is_all = matches!(select.group_by, GroupByExpr::All(_));
            match modifier {
                GroupByWithModifier::Rollup | GroupByWithModifier::Cube if !is_all => {}
                modifier => refused(
                    &format!("GROUP BY {modifier}"),
                    "use GROUP BY ROLLUP(...), CUBE(...) or GROUPING SETS(...)",
                )?,
            }
        }
        select.projection.iter().try_for_each(check_item)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        let ordinality = "number the rows with row_number() OVER ()";
        match factor {
            TableFactor::Table {
                alias,
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                index_hints,
                ..
            } => {
                refuse_if(!with_hints.is_empty(), "a table hint, WITH (...),", "leave it out")?;
                refuse_if(version.is_some(), "a table's version", "a table is read as it is now")?;
                refuse_if(*with_ordinality, "WITH ORDINALITY", ordinality)?;
                refuse_if(!partitions.is_empty(), "PARTITION (...)", "use WHERE; partitions are pruned by it")?;
                refuse_if(json_path.is_some(), "a path into a table", "use its columns in SELECT")?;
                refuse_if(!index_hints.is_empty(), "an index hint", "leave it out; there are no indexes")?;
                let settings = args.as_ref().is_some_and(|args| args.settings.is_some());
                refuse_if(settings, "SETTINGS", "leave it out")?;
                check_alias(alias.as_ref())
            }
            TableFactor::Derived { alias, .. } => check_alias(alias.as_ref()),
            TableFactor::Function { with_ordinality, alias, .. } => {
                refuse_if(*with_ordinality, "WITH ORDINALITY", ordinality)?;
                check_alias(alias.as_ref())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Function(function) => self.check_function(function),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl IgnoredSyntax<'_> {
    fn check_function(&self, function: &Function) -> ControlFlow<Refusal> {
        let Function { name, parameters, args, filter, null_treatment, within_group, .. } = function;
        let name = name.to_string().to_lowercase();
        let has_parameters = !matches!(parameters, FunctionArguments::None);
        refuse_if(has_parameters, &format!("{name} with two lists of arguments"), "give all arguments in one list")?;
        let (mut distinct, mut ordered, mut nulls) = (false, false, null_treatment.is_some());
        if let FunctionArguments::List(list) = args {
            distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
            ordered = list.clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)));
            nulls |=
                list.clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::IgnoreOrRespectNulls(_)));
        }
        let one_row = (self.is_scalar)(&name);
        let rank = RANKS.contains(&name.as_str());
        let hint = format!("leave it out: {name} is no aggregate of several rows");
        for (present, what) in [
            (one_row && filter.is_some(), "FILTER"),
            (one_row && !within_group.is_empty(), "WITHIN GROUP"),
            ((one_row || rank) && distinct, "DISTINCT"),
            ((one_row || rank) && ordered, "ORDER BY"),
            ((one_row || rank) && nulls, "IGNORE NULLS or RESPECT NULLS"),
        ] {
            refuse_if(present, &format!("{what} of {name}"), &hint)?;
        }
        ControlFlow::Continue(())
    }
}

fn check_item(item: &SelectItem) -> ControlFlow<Refusal> {
    match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
            let WildcardAdditionalOptions { opt_ilike, opt_alias, .. } = options;
            refuse_if(opt_ilike.is_some(), "* ILIKE", "name the columns, or use * EXCLUDE (...)")?;
            refuse_if(opt_alias.is_some(), "an alias of *", "name the columns")
        }
        // 1_000 is the number 1 with the alias _000.
        SelectItem::ExprWithAlias { expr: Expr::Value(value), alias } if alias.quote_style.is_none() => {
            let is_digits = alias.value.starts_with('_') && alias.value.chars().all(|c| c == '_' || c.is_ascii_digit());
            let grouped = is_digits && matches!(value.value, Value::Number(..));
            refuse_if(
                grouped,
                "a number with _ between its digits",
                "write it without, or put the column's name in quotes",
            )
        }
        _ => ControlFlow::Continue(()),
    }
}

fn check_alias(alias: Option<&TableAlias>) -> ControlFlow<Refusal> {
    let Some(alias) = alias else { return ControlFlow::Continue(()) };
    refuse_if(alias.at.is_some(), "AT after a table's alias", "number the rows with row_number() OVER ()")?;
    // FINAL modifies the table before it in ClickHouse. The parser takes it for an alias.
    let is_final =
        !alias.explicit && alias.name.quote_style.is_none() && alias.name.value.eq_ignore_ascii_case("final");
    refuse_if(is_final, "FINAL", "leave it out; as a table's alias, write AS final")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parsed;

    #[test]
    fn ignored_syntax_is_refused_by_its_name() {
        let check = |text: &str| check(&parsed(text), &|name| ["abs", "upper"].contains(&name));
        for (text, words) in [
            ("SELECT 1 FROM t FOR UPDATE", "FOR UPDATE"),
            ("SELECT 1 FROM t FOR SHARE SKIP LOCKED", "FOR SHARE"),
            ("SELECT 1 FROM t FOR XML AUTO", "FOR XML"),
            ("SELECT 1 FROM t SETTINGS max_threads = 1", "SETTINGS"),
            ("SELECT 1 FROM t FORMAT JSONCompact", "FORMAT"),
            ("SELECT 1 FROM t FINAL", "FINAL"),
            ("SELECT 1 FROM t PREWHERE a = 2", "PREWHERE"),
            ("SELECT 1 FROM t START WITH a = 1 CONNECT BY PRIOR a = b", "CONNECT BY"),
            ("SELECT 1 FROM t DISTRIBUTE BY a", "DISTRIBUTE BY"),
            ("SELECT 1 FROM t WITH (NOLOCK)", "a table hint"),
            ("SELECT 1 FROM t PARTITION (p0)", "PARTITION"),
            ("SELECT 1 FROM f(1) WITH ORDINALITY", "WITH ORDINALITY"),
            ("SELECT a, sum(b) FROM t GROUP BY a WITH TOTALS", "GROUP BY WITH TOTALS"),
            ("SELECT a, sum(b) FROM t GROUP BY ALL WITH ROLLUP", "GROUP BY WITH ROLLUP"),
            ("SELECT * ILIKE '%a%' FROM t", "* ILIKE"),
            ("SELECT 1_000", "a number with _"),
            ("SELECT sum(0.5)(a) FROM t", "sum with two lists"),
            ("SELECT abs(a) IGNORE NULLS FROM t", "IGNORE NULLS or RESPECT NULLS of abs"),
            ("SELECT abs(a) FILTER (WHERE a > 1) FROM t", "FILTER of abs"),
            ("SELECT Upper(DISTINCT a) FROM t", "DISTINCT of upper"),
            ("SELECT abs(a ORDER BY a) FROM t", "ORDER BY of abs"),
            ("SELECT abs(a) WITHIN GROUP (ORDER BY a) FROM t", "WITHIN GROUP of abs"),
            ("SELECT rank() IGNORE NULLS OVER (ORDER BY a) FROM t", "IGNORE NULLS or RESPECT NULLS of rank"),
        ] {
            let refused = check(text).expect_err(text);
            let Refusal { message, hint, .. } = refused;
            assert!(message.starts_with(words) && message.ends_with(" is not supported"), "{text}: {message}");
            assert!(hint.is_some(), "{text}");
        }
        for text in [
            "SELECT 1 FROM t AS final, u \"FINAL\"",
            "SELECT 1 AS \"_000\", a _000, 1 AS _x",
            "SELECT sum(DISTINCT a) FILTER (WHERE b), first_value(a) IGNORE NULLS, lag(a) IGNORE NULLS OVER (ORDER BY a) FROM t",
            "SELECT a, sum(b) FROM t GROUP BY a WITH ROLLUP",
            "SELECT * EXCLUDE (a) FROM t",
            "SELECT /*+ HINT */ a FROM t",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }
}
