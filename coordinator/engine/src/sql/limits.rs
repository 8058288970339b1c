//! Limits of a statement's length, depth and width. A statement past a limit is refused with its number and the limit,
//! before anything recurses over it or multiplies it out.
//!
//! Within the limits the engine's planner takes a few seconds, and a stack of [`fragment_fn::stack`] suffices with room
//! to spare. Each limit was tried (`tests/tests/statements.rs`). Non-goal: a statement's running time, which its
//! time-out bounds.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, ObjectName, Query, Select, SetExpr, SetOperator, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::Refusal;
use super::walk::walk;

/// Bytes of a text of statements.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// Levels of nesting: brackets of all kinds, types in angle brackets, EXPLAINs, and pairs of square brackets in a row.
const NESTING_MAX: usize = 100;

/// Words and signs of a text. A parser's tree takes hundreds of bytes for each.
const TOKENS_MAX: usize = 4_000_000;

/// Levels of the parser's recursion. A bracket takes two at most.
pub(crate) const PARSER_DEPTH_MAX: usize = 250;

/// Levels of expressions and queries inside each other. Balanced chains of AND and OR stay far below. Chains of other
/// operators are as deep as they are long, and the planner takes n² steps over them. The stacks hold twice as many.
const DEPTH_MAX: usize = 500;

/// ANDs of a statement. The planner takes filters apart at AND and puts them together again, n² steps each time.
const ANDED_MAX: usize = 3_000;

/// ORs of a statement. The optimizer names a long condition anew at each of its steps: 20,000 ORs take ten seconds and more.
const ORED_MAX: usize = 10_000;

/// Expressions of a statement, in all its queries.
const EXPRESSIONS_MAX: usize = 1_000_000;

/// Columns of one SELECT.
const COLUMNS_MAX: usize = 10_000;

/// Tables of one FROM. The planner takes n³ steps over a chain of joins.
const JOINED_MAX: usize = 200;

/// Queries in a statement's WITH clauses. Each is planned with a copy of all before it.
const CTES_MAX: usize = 1_000;

/// WITH clauses inside each other. The engine looks through each twice as often as through the one around it.
const WITH_DEPTH_MAX: usize = 8;

/// Subqueries inside each other's expressions. Each doubles the planner's work, and 20 take seconds.
const SUBQUERY_DEPTH_MAX: usize = 12;

/// UNIONs of a statement.
const BRANCHES_MAX: usize = 10_000;

/// EXCEPTs and INTERSECTs of a statement: each is a join.
const EXCEPTIONS_MAX: usize = 200;

/// Sets that GROUPING SETS, CUBE and ROLLUP make.
const GROUPING_SETS_MAX: u64 = 4_096;

/// Tables and views of a plan, each as often as the plan holds it after WITH clauses and views are written out.
pub(super) const RELATIONS_MAX: u64 = 4_096;

fn past_limit<N: std::fmt::Display>(count: impl std::fmt::Display, what: &str, max: N, hint: &str) -> Refusal {
    Refusal::new(format!("the statement has {count} {what}; at most {max} are planned"), hint)
}

pub(super) fn check_text(text: &str) -> Result<(), Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        let what = format!("the text has {} bytes; at most {TEXT_BYTES_MAX} are read", text.len());
        return Err(Refusal::new(what, "put long lists of values into a Parquet file and join it"));
    }
    Ok(())
}

/// Refuses a text with too many tokens, or nested too deep for the parser's recursion.
pub(super) fn check_tokens(tokens: &[TokenWithSpan]) -> Result<(), Refusal> {
    let words = || tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_)));
    let count = words().count();
    if count > TOKENS_MAX {
        let hint = "put long lists of values into a Parquet file and join it";
        let what = format!("the text has {count} words and signs; at most {TOKENS_MAX} are read");
        return Err(Refusal::new(what, hint));
    }
    let (mut brackets, mut types, mut explains, mut pairs) = (0_usize, 0_usize, 0_usize, 0_usize);
    let mut before = &Token::EOF;
    let mut deepest = 0;
    for token in words() {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => brackets += 1,
            Token::RParen | Token::RBracket | Token::RBrace => brackets = brackets.saturating_sub(1),
            Token::Lt if is_type(before) => types += 1,
            Token::Gt => types = types.saturating_sub(1),
            Token::ShiftRight => types = types.saturating_sub(2),
            Token::SemiColon => types = 0,
            _ => {}
        }
        explains = if is_keyword(token, Keyword::EXPLAIN) { explains + 1 } else { 0 };
        // INT[][][] is a type of lists, or an expression: each pair is a level.
        pairs = match token {
            Token::RBracket => pairs + 1,
            Token::LBracket if *before == Token::RBracket => pairs,
            _ if *before == Token::LBracket => pairs,
            _ => 0,
        };
        deepest = deepest.max(brackets).max(types).max(explains).max(pairs);
        before = token;
    }
    if deepest > NESTING_MAX {
        let what = format!("the statement is nested {deepest} levels deep; at most {NESTING_MAX} are read");
        let hint = "name inner queries in a WITH clause, and leave out brackets that change nothing";
        return Err(Refusal::new(what, hint));
    }
    Ok(())
}

/// CASEs and NOTs that are open inside one level of brackets.
#[derive(Default)]
struct OpenWords {
    cases: usize,
    nots: usize,
}

/// Counts the levels of the parser's recursion at most: two for a bracket, one for a CASE and for each NOT before an
/// operand.
pub(crate) fn recursions(tokens: &[TokenWithSpan]) -> usize {
    let words = tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_)));
    let (mut levels, mut deepest) = (vec![OpenWords::default()], 0);
    for token in words {
        let is_inside = levels.len() > 1;
        let OpenWords { cases, nots } = levels.last_mut().expect("pushed before");
        match token {
            token if is_keyword(token, Keyword::NOT) => *nots += 1,
            token if is_keyword(token, Keyword::CASE) => *cases += 1,
            token if is_keyword(token, Keyword::END) => *cases = cases.saturating_sub(1),
            Token::LParen | Token::LBracket | Token::LBrace => levels.push(OpenWords::default()),
            Token::RParen | Token::RBracket | Token::RBrace if is_inside => drop(levels.pop()),
            _ => *nots = 0,
        }
        let open: usize = levels.iter().map(|open| open.cases + open.nots).sum();
        deepest = deepest.max(2 * (levels.len() - 1) + open);
    }
    deepest
}

fn is_keyword(token: &Token, keyword: Keyword) -> bool {
    matches!(token, Token::Word(word) if word.keyword == keyword && word.quote_style.is_none())
}

fn is_type(token: &Token) -> bool {
    [Keyword::ARRAY, Keyword::STRUCT, Keyword::MAP].iter().any(|keyword| is_keyword(token, *keyword))
}

/// Refuses a statement, or a part of one, that the planner would not finish.
pub(super) fn check(tree: &impl Visit) -> Result<(), Refusal> {
    let mut visitor = LimitsVisitor::default();
    match walk(tree, &mut visitor) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

#[derive(Default)]
struct LimitsVisitor {
    expressions: usize,
    ands: usize,
    ors: usize,
    depth: usize,
    ctes: usize,
    with_depth: usize,
    subquery_depth: usize,
    branches: usize,
    exceptions: usize,
}

fn check_max(count: usize, max: usize, what: &str, hint: &str) -> ControlFlow<Refusal> {
    if count > max { ControlFlow::Break(past_limit(count, what, max, hint)) } else { ControlFlow::Continue(()) }
}

impl LimitsVisitor {
    fn deeper(&mut self) -> ControlFlow<Refusal> {
        self.depth += 1;
        if self.depth <= DEPTH_MAX {
            return ControlFlow::Continue(());
        }
        let what =
            format!("the statement has expressions more than {DEPTH_MAX} levels deep; at most {DEPTH_MAX} are planned");
        let hint = "a chain of operators is as deep as it is long, unless it is of AND or OR; compute parts of it in an inner query";
        ControlFlow::Break(Refusal::new(what, hint))
    }
}

impl Visitor for LimitsVisitor {
    type Break = Refusal;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        self.expressions += 1;
        check_max(
            self.expressions,
            EXPRESSIONS_MAX,
            "expressions or more",
            "put long lists of values into a Parquet file and join it",
        )?;
        let is_and = matches!(expr, Expr::BinaryOp { op: BinaryOperator::And, .. });
        self.ands += usize::from(is_and);
        check_max(self.ands, ANDED_MAX, "ANDs or more", "compare with a list: a NOT IN (...)")?;
        let is_or = matches!(expr, Expr::BinaryOp { op: BinaryOperator::Or, .. });
        self.ors += usize::from(is_or);
        check_max(self.ors, ORED_MAX, "ORs or more", "compare with a list: a IN (...)")?;
        if has_subquery(expr) {
            self.subquery_depth += 1;
            let hint = "name inner queries in a WITH clause";
            check_max(
                self.subquery_depth,
                SUBQUERY_DEPTH_MAX,
                "subqueries or more inside each other's expressions",
                hint,
            )?;
        }
        self.deeper()
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        self.subquery_depth -= usize::from(has_subquery(expr));
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        if let Some(with) = &query.with {
            self.with_depth += 1;
            check_max(
                self.with_depth,
                WITH_DEPTH_MAX,
                "WITH clauses inside each other",
                "write them one after the other",
            )?;
            self.ctes += with.cte_tables.len();
            check_max(self.ctes, CTES_MAX, "queries in WITH clauses", "split it, by CREATE TABLE AS for instance")?;
        }
        let mut branch = query.body.as_ref();
        let mut seen = vec![];
        loop {
            match branch {
                SetExpr::SetOperation { op, left, right, .. } => {
                    match op {
                        SetOperator::Union => self.branches += 1,
                        _ => self.exceptions += 1,
                    }
                    seen.push(right.as_ref());
                    branch = left;
                }
                _ => match seen.pop() {
                    Some(right) => branch = right,
                    None => break,
                },
            }
        }
        let hint = "put the rows of several branches into one VALUES or one table";
        check_max(self.branches, BRANCHES_MAX, "UNIONs", hint)?;
        check_max(self.exceptions, EXCEPTIONS_MAX, "EXCEPTs and INTERSECTs", "join UNIONs of their branches instead")?;
        self.deeper()
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        self.with_depth -= usize::from(query.with.is_some());
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        check_max(select.projection.len(), COLUMNS_MAX, "columns in one SELECT", "ask for some of them at a time")?;
        let joined: usize = select.from.iter().map(|from| 1 + from.joins.len()).sum();
        check_max(
            joined,
            JOINED_MAX,
            "tables in one FROM",
            "join some of them first, by CREATE TABLE AS for instance",
        )?;
        let sets = grouping_sets(&select.group_by);
        if sets > GROUPING_SETS_MAX {
            let hint = "list the sets that are wanted, in GROUPING SETS";
            return ControlFlow::Break(past_limit(sets, "grouping sets", GROUPING_SETS_MAX, hint));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => {
                let hint = "join some of them first, by CREATE TABLE AS for instance";
                check_max(1 + table_with_joins.joins.len(), JOINED_MAX, "tables in one FROM", hint)
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn has_subquery(expr: &Expr) -> bool {
    matches!(expr, Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. })
}

/// Counts the sets that a GROUP BY makes: each element's sets are combined with the sets of every other.
fn grouping_sets(group_by: &GroupByExpr) -> u64 {
    let GroupByExpr::Expressions(exprs, _) = group_by else { return 1 };
    let sets = exprs.iter().map(|expr| match expr {
        Expr::Cube(sets) => 1_u64.checked_shl(u32::try_from(sets.len()).unwrap_or(u32::MAX)).unwrap_or(u64::MAX),
        Expr::Rollup(sets) => sets.len() as u64 + 1,
        Expr::GroupingSets(sets) => sets.len() as u64,
        _ => 1,
    });
    sets.fold(1, u64::saturating_mul)
}

/// Levels of the plan of a view.
pub(crate) const VIEW_DEPTH_MAX: usize = 300;

/// Refuses a statement whose plan would hold too many tables. `weight` counts the tables in a table's or a view's own
/// plan.
///
/// # Errors
/// A refusal that names the limit.
pub(crate) fn check_relations(
    statement: &datafusion::sql::parser::Statement,
    weight: &dyn Fn(&ObjectName) -> u64,
) -> Result<(), Refusal> {
    let Some(statement) = super::inner(statement) else { return Ok(()) };
    let mut relations = Relations { weight, scopes: vec![Scope::default()] };
    let ControlFlow::Continue(()) = walk(statement, &mut relations);
    let count = relations.scopes.iter().map(|scope| scope.relations).fold(0, u64::saturating_add);
    if count > RELATIONS_MAX {
        let hint = "a query in a WITH clause, or a view, is planned once for each mention of it: keep its rows with CREATE TABLE AS";
        return Err(past_limit(count, "tables once WITH clauses and views are written out", RELATIONS_MAX, hint));
    }
    Ok(())
}

struct Relations<'a> {
    weight: &'a dyn Fn(&ObjectName) -> u64,
    scopes: Vec<Scope>,
}

/// State of the walk inside one query.
#[derive(Default)]
struct Scope {
    /// Names in its WITH clause, of queries that the walk has not reached. The next one is last.
    named: Vec<String>,
    ctes: HashMap<String, u64>,
    relations: u64,
}

impl Visitor for Relations<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        let mut named: Vec<String> = ctes.map(|cte| folded_name(&cte.alias.name)).collect();
        named.reverse();
        self.scopes.push(Scope { named, ..Scope::default() });
        ControlFlow::Continue(())
    }

    // The walk visits the queries of a query's WITH clause in order, before other queries inside it.
    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Self::Break> {
        let ended = self.scopes.pop().expect("pushed before");
        let around = self.scopes.last_mut().expect("the statement's own");
        match around.named.pop() {
            Some(name) => drop(around.ctes.insert(name, ended.relations.max(1))),
            None => around.relations = around.relations.saturating_add(ended.relations),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Self::Break> {
        let name = match relation.0.as_slice() {
            [only] => only.as_ident().map(folded_name),
            _ => None,
        };
        let named = name.and_then(|name| self.scopes.iter().rev().find_map(|scope| scope.ctes.get(&name).copied()));
        let count = named.unwrap_or_else(|| (self.weight)(relation));
        let scope = self.scopes.last_mut().expect("the statement's own");
        scope.relations = scope.relations.saturating_add(count);
        ControlFlow::Continue(())
    }
}

/// Returns a name as the planner compares it: in lower case, unless it is quoted.
pub(crate) fn folded_name(name: &datafusion::sql::sqlparser::ast::Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;
    use crate::sql::{parsed, tokens};

    fn refusal(text: &str) -> Option<Refusal> {
        if let Err(refusal) = check_text(text) {
            return Some(refusal);
        }
        if let Err(refusal) = check_tokens(&Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().unwrap())
        {
            return Some(refusal);
        }
        let mut statement = parsed(text);
        crate::sql::balance::balance(&mut statement);
        check(&statement).err()
    }

    /// The page `docs/dialect.md` has the limits' numbers.
    #[test]
    fn the_page_of_the_dialect_has_the_limits() {
        let page = include_str!("../../../../docs/dialect.md");
        let page = &page[page.find("Limits of a statement").expect("their paragraph")..];
        let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
        let mebibytes = TEXT_BYTES_MAX >> 20;
        let counted = |count: usize| match count {
            0..=999 => count.to_string(),
            1_000..=999_999 => format!("{},{:03}", count / 1_000, count % 1_000),
            _ => format!("{},{:03},{:03}", count / 1_000_000, count / 1_000 % 1_000, count % 1_000),
        };
        for words in [
            format!("{mebibytes} MiB of text"),
            format!("{} words and signs", counted(TOKENS_MAX)),
            format!("{} brackets inside each other", counted(NESTING_MAX)),
            format!("{} expressions", counted(EXPRESSIONS_MAX)),
            format!("{} levels deep", counted(DEPTH_MAX)),
            format!("{} ANDs", counted(ANDED_MAX)),
            format!("{} ORs", counted(ORED_MAX)),
            format!("{} columns of one SELECT", counted(COLUMNS_MAX)),
            format!("{} tables in one FROM", counted(JOINED_MAX)),
            format!("{} queries in WITH clauses", counted(CTES_MAX)),
            format!("{WITH_DEPTH_MAX} WITH clauses inside each other"),
            format!("{} MiB of comparisons with ANY and ALL", crate::sql::copies::COPIED_BYTES_MAX >> 20),
            format!("{SUBQUERY_DEPTH_MAX} subqueries inside each other's expressions"),
            format!("{} UNIONs", counted(BRANCHES_MAX)),
            format!("{} EXCEPTs and INTERSECTs", counted(EXCEPTIONS_MAX)),
            format!("{} grouping sets", counted(GROUPING_SETS_MAX as usize)),
            format!("{} tables once WITH clauses and views are written out", counted(RELATIONS_MAX as usize)),
            format!("views {} levels deep", counted(VIEW_DEPTH_MAX)),
        ] {
            assert!(page.contains(&words), "`{words}` is not in {page}");
        }
    }

    #[test]
    fn limits_are_named_with_both_numbers() {
        let repeated = |text: &str, count: usize, by: &str| vec![text; count].join(by);
        let listed = |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(", ");
        for (text, words) in [
            (format!("SELECT {}1{}", "(".repeat(101), ")".repeat(101)), "nested 101 levels deep; at most 100"),
            (format!("SELECT CAST(NULL AS INT{})", "[]".repeat(101)), "nested 101 levels"),
            (format!("SELECT CAST(NULL AS {}INT{})", "ARRAY<".repeat(101), ">".repeat(101)), "nested 101 levels"),
            (format!("{}SELECT 1", "EXPLAIN ".repeat(101)), "nested 101 levels"),
            (format!("SELECT '{}'", "x".repeat(17 << 20)), "at most 16777216 are read"),
            (format!("SELECT {}", repeated("a", 3_002, " AND ")), "3001 ANDs or more; at most 3000"),
            (format!("SELECT {}", repeated("a", 10_002, " OR ")), "10001 ORs or more; at most 10000"),
            (format!("SELECT {}", repeated("a", 502, "+")), "500 levels deep"),
            (format!("SELECT a{}", " IS NULL".repeat(501)), "500 levels deep"),
            (format!("SELECT {}", repeated("a", 10_001, ",")), "10001 columns in one SELECT; at most 10000"),
            (format!("SELECT 1 FROM {}", repeated("t", 201, ",")), "201 tables in one FROM; at most 200"),
            (repeated("SELECT 1", 202, " EXCEPT "), "201 EXCEPTs and INTERSECTs; at most 200"),
            (repeated("SELECT 1", 10_002, " UNION ALL "), "10001 UNIONs; at most 10000"),
            (format!("SELECT 1 GROUP BY CUBE({})", repeated("a", 13, ",")), "8192 grouping sets; at most 4096"),
            (format!("SELECT 1 GROUP BY CUBE({})", repeated("a", 70, ",")), "grouping sets; at most 4096"),
            (format!("WITH {} SELECT 1", listed(1_001, &|at| format!("c{at} AS (SELECT 1)"))), "1001 queries in WITH"),
            (format!("{}1{}", "SELECT (".repeat(14), ")".repeat(14)), "13 subqueries or more inside each other"),
        ] {
            let refused = refusal(&text).unwrap_or_else(|| panic!("not refused: {words}"));
            assert!(refused.message.contains(words) && refused.hint.is_some(), "{refused:?}");
        }
        for text in [
            format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100)),
            format!("SELECT {}", repeated("a=1", 10_000, " OR ")),
            format!("SELECT {}", repeated("a<b", 1_000, " AND c>d, ")),
            format!("SELECT a IN ({})", repeated("1", 100_000, ",")),
            // The query itself is the 500th level.
            format!("SELECT {}", repeated("a", 499, "+")),
            format!("SELECT {}", repeated("l[1]", 200, "+")),
            repeated("SELECT 1", 10_001, " UNION ALL "),
        ] {
            assert_eq!(refusal(&text), None);
        }
    }

    #[test]
    fn recursions_of_the_parser_are_counted() {
        for (text, expect) in [
            ("SELECT NOT NOT a, NOT b".to_owned(), 2),
            ("SELECT CASE WHEN (NOT a) THEN CASE b WHEN 1 THEN 2 END END, CASE WHEN a THEN 1 END".to_owned(), 4),
            (format!("SELECT {}true", "NOT ".repeat(5_000)), 5_000),
            (format!("SELECT {}1{}", "CASE WHEN a THEN ".repeat(300), " END".repeat(300)), 300),
        ] {
            assert_eq!(recursions(&tokens(&text).unwrap()), expect, "{text:.80}");
        }
    }

    #[test]
    fn mentions_of_a_query_multiply() {
        let count = |text: &str, weight: u64| {
            let statement = datafusion::sql::parser::Statement::Statement(Box::new(parsed(text)));
            check_relations(&statement, &|_| weight).err().map(|refused| refused.message)
        };
        let doubled = |times: usize| {
            let ctes: String =
                (1..=times).map(|at| format!(", c{at} AS (SELECT 1 FROM c{0} x, c{0} y)", at - 1)).collect();
            format!("WITH c0 AS (SELECT 1 FROM t){ctes} SELECT 1 FROM c{times}")
        };
        assert_eq!(count(&doubled(12), 1), None);
        let refused = count(&doubled(18), 1).expect("too many");
        assert!(refused.contains("has 262144 tables") && refused.contains("at most 4096"), "{refused}");
        assert!(count(&doubled(70), 1).expect("too many").contains(&u64::MAX.to_string()));
        assert!(count("SELECT 1 FROM v, v w", 2_049).expect("views").contains("has 4098 tables"));
        // A name in the inner WITH hides the outer one. `s.a` is a table, and neither of them.
        let hidden = "WITH a AS (SELECT 1 FROM t, t u) SELECT 1 FROM (WITH a AS (SELECT 1) SELECT 1 FROM a) x, A, s.a";
        assert!(count(hidden, 2_000).is_some_and(|refused| refused.contains("has 6001 tables")));
        assert_eq!(count("WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT 1 FROM a) SELECT 1 FROM a", 1), None);
    }
}
