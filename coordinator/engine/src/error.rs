//! Errors of a statement, and errors in words.

use std::error::Error;
use std::fmt::{Display, Formatter};
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::DataFusionError;
use gust_protocol::with_hint_line;
use serde::Serialize;

/// Formats an error and all of its causes on one line. A hint of a cause is left out.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    for _ in 0..16 {
        let Some(current) = cause else { break };
        let next = match current.downcast_ref::<QueryError>() {
            Some(error) => error.message.clone(),
            None => current.to_string(),
        };
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = current.source();
    }
    text
}

/// Indents the lines of a text after the first by `columns`.
pub(crate) fn continued(text: impl Display, columns: usize) -> String {
    text.to_string().trim_end().replace('\n', &format!("\n{:columns$}", ""))
}

/// Kind of a failed statement: it says what the user can do, and gives the program's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The text is not SQL, or names something that does not exist.
    Sql,
    /// The query failed over its data. A file is missing, changed or broken, or an expression cannot be computed.
    Data,
    /// Memory or temporary space did not suffice.
    Resources,
    /// Functions failed, and the query was not allowed to run elsewhere.
    Functions,
    /// The deadline passed.
    TimedOut,
    /// The statement would have cost more than its cap.
    CapReached,
    Interrupted,
    /// The session itself could not be set up.
    Setup,
}

impl ErrorKind {
    pub const ALL: [Self; 8] = [
        Self::Sql,
        Self::Data,
        Self::Resources,
        Self::Functions,
        Self::TimedOut,
        Self::CapReached,
        Self::Interrupted,
        Self::Setup,
    ];

    /// Returns the kind in one word, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sql => "sql",
            Self::Data => "data",
            Self::Resources => "resources",
            Self::Functions => "functions",
            Self::TimedOut => "timed-out",
            Self::CapReached => "cap-reached",
            Self::Interrupted => "interrupted",
            Self::Setup => "setup",
        }
    }

    /// Returns PostgreSQL's code for errors of this kind, for errors without a more exact one.
    fn sqlstate(self) -> &'static str {
        match self {
            Self::Sql => "42000",
            Self::Data => "22000",
            Self::Resources => "53200",
            Self::Functions => "58000",
            Self::TimedOut | Self::Interrupted => "57014",
            Self::CapReached => "53400",
            Self::Setup => "F0000",
        }
    }
}

/// Place in a statement's text, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    pub line: u64,
    /// Column in characters.
    pub column: u64,
}

impl Position {
    /// Reads the position that ends a message about a statement's text, or stands in it. The parser has it nowhere else.
    fn in_message(message: &str) -> Option<Self> {
        let (_, rest) = message.rsplit_once(" at Line: ")?;
        let (line, rest) = rest.split_once(", Column: ")?;
        let column = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Self { line: line.parse().ok()?, column: column.parse().ok()? })
    }
}

/// A statement's failure.
///
/// Its display is the message and, on a line of its own, the hint.
#[derive(Debug, Clone)]
pub struct QueryError {
    kind: ErrorKind,
    sqlstate: &'static str,
    message: String,
    hint: Option<String>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl QueryError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, sqlstate: kind.sqlstate(), message: message.into(), hint: None, source: None }
    }

    pub fn sql(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Sql, message)
    }

    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    pub fn functions(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Functions, message)
    }

    pub fn setup(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Setup, message)
    }

    pub fn timed_out(after: Duration) -> Self {
        let after = humantime::format_duration(after);
        Self::new(ErrorKind::TimedOut, format!("the statement did not finish within {after}"))
            .with_hint("allow more with --timeout")
    }

    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    /// Sets the hint, the next step.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Sets the hint if there is none yet.
    #[must_use]
    pub fn with_default_hint(self, hint: Option<impl Into<String>>) -> Self {
        Self { hint: self.hint.or(hint.map(Into::into)), ..self }
    }

    /// Sets PostgreSQL's code of five letters, where it is more exact than the kind's.
    #[must_use]
    pub fn with_sqlstate(self, sqlstate: &'static str) -> Self {
        Self { sqlstate, ..self }
    }

    /// Keeps the error underneath.
    #[must_use]
    pub fn with_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Arc::new(source)), ..self }
    }

    /// Takes the cause of another error over the same fault.
    #[must_use]
    pub(crate) fn with_source_of(self, other: &Self) -> Self {
        Self { source: other.source.clone(), ..self }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns PostgreSQL's code of five letters.
    pub fn sqlstate(&self) -> &'static str {
        self.sqlstate
    }

    /// Returns the thing and the reason, without the next step.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the place in the statement's text that the error is about, if it is known.
    pub fn position(&self) -> Option<Position> {
        // Other errors may quote data, which may look like a position.
        if self.kind == ErrorKind::Sql { Position::in_message(&self.message) } else { None }
    }

    /// Returns the next step.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Returns true if the same statement could succeed without functions.
    pub fn may_succeed_locally(&self) -> bool {
        matches!(self.kind, ErrorKind::Functions | ErrorKind::Resources)
    }
}

impl Display for QueryError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&with_hint_line(&self.message, self.hint()))
    }
}

impl From<QueryError> for DataFusionError {
    /// Errors travel through DataFusion as they are.
    fn from(error: QueryError) -> Self {
        Self::External(Box::new(error))
    }
}

impl Error for QueryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_causes_has_no_hint() {
        let refused = QueryError::sql("scheme `gs` is not supported").with_hint("use s3://");
        let error = QueryError::data("cannot reach gs://lake/t").with_source(refused);
        assert_eq!(
            with_causes(&std::io::Error::other(error)),
            "cannot reach gs://lake/t: scheme `gs` is not supported"
        );
    }

    #[test]
    fn lines_after_the_first_are_indented() {
        assert_eq!(continued("one", 4), "one");
        assert_eq!(continued("one\ntwo\n\nthree\n", 2), "one\n  two\n  \n  three");
    }

    #[test]
    fn a_position_is_read_from_an_error_about_sql() {
        let check = |error: QueryError, expect: Option<(u64, u64)>| {
            assert_eq!(error.position().map(|at| (at.line, at.column)), expect, "{error}");
        };
        check(QueryError::sql("Expected: end of statement, found: k at Line: 1, Column: 27"), Some((1, 27)));
        check(QueryError::sql("no column `x` at Line: 20, Column: 3: there is y"), Some((20, 3)));
        for none in ["at Line: 1, Column: 2", "x at Line: one, Column: 2", "x at Line: 1, Column: ", "x", ""] {
            check(QueryError::sql(none), None);
        }
        check(QueryError::data("cannot cast 'a at Line: 1, Column: 2'"), None);
    }

    #[test]
    fn a_hint_stands_beside_the_message() {
        let error = QueryError::sql("there is no table `t`").with_hint("SHOW TABLES").with_sqlstate("42P01");
        assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Sql, "42P01"));
        assert_eq!((error.message(), error.hint()), ("there is no table `t`", Some("SHOW TABLES")));
        assert_eq!(error.to_string(), "there is no table `t`\nhint: SHOW TABLES");
    }
}
