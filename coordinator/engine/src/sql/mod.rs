//! Changes to a statement between its text and the engine's planner. They are pure: no tables, no files, no settings.
//!
//! ```text
//!  text ─► tokens ─► (the engine's parser) ─► shape ─► prepare ─► (the engine's planner) ─► unique, where names clash
//! ```
//!
//! 1. `tokens` skips a byte order mark. It refuses a text that is too long or too nested, before the parser recurses
//!    over it. Words of other engines that the parser cannot read are changed or refused ([`words`], [`hive`], [`lambdas`], [`between`]), and versions of tables go into names ([`versions`]).
//! 2. `shape` corrects the right side of IS DISTINCT FROM ([`distinct`]) and balances long chains ([`balance`]). Then
//!    it refuses a statement that is too deep, too wide or too large ([`limits`]).
//! 3. `prepare` keeps the texts of the result's columns ([`names`]). It joins the levels of nested namespaces ([`relations`]). It writes other engines' statements, syntax and
//!    functions as the engine's ([`statements`], [`syntax`], [`pivots`], [`json`], [`foreign`]). Then it looks for syntax that the engine parses and ignores. It refuses that by name ([`ignored`]),
//!    or writes it as what it means ([`rewrites`], [`lengths`], [`quantified`], [`similar`], [`sample`]).
//! 4. `unique` gives columns of one name aliases that differ, in a statement that was refused for its names
//!    ([`names`]).
//!
//! Each step leaves a statement that prints as SQL. Non-goals: types and rows, which are the planner's.

mod arguments;
mod balance;
mod between;
mod columns;
mod copies;
mod distinct;
mod dumps;
mod foreign;
mod hive;
mod ignored;
mod json;
mod known;
mod lambdas;
mod lengths;
pub(crate) mod limits;
mod map_unnest;
mod names;
pub(crate) mod paths;
mod pivots;
mod quantified;
mod readers;
mod relations;
mod reserved;
mod rewrites;
mod sample;
mod similar;
mod statements;
mod syntax;
mod template;
pub(crate) mod versions;
mod walk;
mod with_scopes;
mod words;

use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::sql::parser::{CopyToSource, CopyToStatement, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast::{Statement as SqlStatement, Visit, VisitMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{TokenWithSpan, Tokenizer};

pub(crate) use columns::{few_fields, hint_of_column};
pub(crate) use foreign::WrittenCalls;
pub(crate) use known::{Dialect, Known};
pub(crate) use limits::{check_relations, folded_name};
pub(crate) use map_unnest::as_lists;
pub(crate) use names::{Names, UniquelyNamed, unique};
pub(crate) use walk::walk_mut;

use crate::error::QueryError;

/// Reason why a statement is not planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub message: String,
    /// Next step.
    pub hint: Option<String>,
    /// SQLSTATE code, where it is not that of all refusals.
    pub sqlstate: Option<&'static str>,
}

impl Refusal {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), sqlstate: None }
    }

    fn with_sqlstate(self, sqlstate: &'static str) -> Self {
        Self { sqlstate: Some(sqlstate), ..self }
    }
}

impl From<ParserError> for Refusal {
    /// Converts the parser's error over SQL that this folder wrote.
    fn from(error: ParserError) -> Self {
        Self { message: error.to_string(), hint: None, sqlstate: None }
    }
}

impl From<Refusal> for QueryError {
    fn from(Refusal { message, hint, sqlstate }: Refusal) -> Self {
        let told = Self::sql(message).with_default_hint(hint);
        match sqlstate {
            Some(sqlstate) => told.with_sqlstate(sqlstate),
            None => told,
        }
    }
}

impl From<Refusal> for DataFusionError {
    fn from(refusal: Refusal) -> Self {
        QueryError::from(refusal).into()
    }
}

/// Puts a name into quotes where it needs them.
pub(crate) fn quoted(name: &str) -> String {
    let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && name.starts_with(|c: char| !c.is_ascii_digit());
    if is_plain && !reserved::is_reserved(name) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// Cuts a text into tokens, without a byte order mark.
///
/// # Errors
/// [`DataFusionError::SQL`] for a text that has no tokens, such as an open quote. A [`Refusal`] for a text that is past a
/// limit.
pub(crate) fn tokens(text: &str) -> Result<Vec<TokenWithSpan>, DataFusionError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    limits::check_text(text)?;
    let mut tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().map_err(ParserError::from)?;
    limits::check_tokens(&tokens)?;
    versions::rewrite(&mut tokens)?;
    words::rewrite(&mut tokens)?;
    lambdas::mark(&mut tokens);
    between::bracket(&mut tokens);
    Ok(tokens)
}

/// Balances long chains. Then it refuses a statement that is past a limit.
///
/// # Errors
/// A refusal that names the limit.
pub(crate) fn shape(statement: &mut EngineStatement) -> Result<(), Refusal> {
    match statement {
        EngineStatement::Statement(statement) => shape_tree(statement.as_mut()),
        EngineStatement::Explain(explain) => shape(&mut explain.statement),
        EngineStatement::CopyTo(CopyToStatement { source: CopyToSource::Query(query), .. }) => {
            shape_tree(query.as_mut())
        }
        EngineStatement::CreateExternalTable(create) => {
            shape_tree(&mut create.columns)?;
            shape_tree(&mut create.order_exprs)?;
            shape_tree(&mut create.constraints)
        }
        EngineStatement::CopyTo(_) | EngineStatement::Reset(_) => Ok(()),
    }
}

fn shape_tree(tree: &mut (impl Visit + VisitMut)) -> Result<(), Refusal> {
    lambdas::rewrite(tree);
    balance::balance(tree);
    limits::check(tree)
}

/// Writes a statement as it is meant, with the functions that the session has. Returns the names that are shown for its
/// columns.
///
/// # Errors
/// A refusal that names the syntax that the engine would ignore, or the function that there is not.
pub(crate) fn prepare(statement: &mut EngineStatement, known: &Known<'_>) -> Result<Names, Refusal> {
    let names = Names::written(statement);
    let Some(statement) = inner_mut(statement) else { return Ok(names) };
    relations::rewrite(statement, known.catalogs());
    statements::rewrite(statement, known.catalogs())?;
    syntax::rewrite(statement)?;
    let is_larger = foreign::translate(statement, known)?;
    ignored::check(statement, &|name| known.is_scalar(name))?;
    let mut rewriter = rewrites::MeaningRewriter::default();
    match walk_mut(statement, &mut rewriter) {
        // Written-out names make the statement larger than the one that was checked.
        ControlFlow::Continue(()) if is_larger || rewriter.copies.is_any_written => {
            limits::check(statement).map(|()| names)
        }
        ControlFlow::Continue(()) => Ok(names),
        ControlFlow::Break(refusal) => Err(refusal),
    }
}

/// Returns a refusal by name in place of a message of the engine that shows a syntax tree or signatures, or that names no construct.
pub(crate) fn without_tree(message: &str) -> Option<Refusal> {
    arguments::of_call(message)
        .or_else(|| dumps::not_implemented(message))
        .or_else(|| dumps::by_name(message))
        .or_else(|| dumps::operator(message))
}

/// Writes calls of readers as the paths that they read, where they are no others.
pub(crate) fn write_readers(statement: &mut EngineStatement) {
    if let Some(statement) = inner_mut(statement) {
        readers::write(statement);
    }
}

/// Returns the parser's own statement inside the engine's.
fn inner_mut(statement: &mut EngineStatement) -> Option<&mut SqlStatement> {
    match statement {
        EngineStatement::Statement(statement) => Some(statement),
        EngineStatement::Explain(explain) => inner_mut(&mut explain.statement),
        EngineStatement::CreateExternalTable(_) | EngineStatement::CopyTo(_) | EngineStatement::Reset(_) => None,
    }
}

fn inner(statement: &EngineStatement) -> Option<&SqlStatement> {
    match statement {
        EngineStatement::Statement(statement) => Some(statement),
        EngineStatement::Explain(explain) => inner(&explain.statement),
        EngineStatement::CreateExternalTable(_) | EngineStatement::CopyTo(_) | EngineStatement::Reset(_) => None,
    }
}

/// Parses the first statement of a text, for the tests of this folder.
#[cfg(test)]
fn parsed(text: &str) -> SqlStatement {
    let mut parser = datafusion::sql::parser::DFParserBuilder::new(tokens(text).expect("words"))
        .with_recursion_limit(limits::PARSER_DEPTH_MAX)
        .build()
        .expect("a parser");
    let mut statements = parser.parse_statements().expect("SQL");
    match statements.pop_front().expect("a statement") {
        EngineStatement::Statement(statement) => *statement,
        other => panic!("{other}"),
    }
}
