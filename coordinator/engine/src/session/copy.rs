//! COPY … TO a file of this machine: its query, and the file that the rows are for.
//!
//! The query is decided, priced, capped, run and recorded like any other. Whoever reads its rows writes the file
//! ([`RunningStatement::take_copy_target`](super::RunningStatement::take_copy_target)): the engine knows no formats of rows.

use std::io;
use std::path::{Path, PathBuf};

use datafusion::sql::parser::{CopyToSource, CopyToStatement, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use url::Url;

use super::statement::{Statement, StatementMode};
use crate::error::QueryError;

const HINT_FILE: &str = "name a file of this machine: COPY (SELECT ...) TO 'rows.parquet'";

/// File that a COPY writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTarget {
    pub path: PathBuf,
    pub format: CopyFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Csv,
    /// One object a line.
    Ndjson,
    Parquet,
}

impl CopyFormat {
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "json" | "ndjson" | "jsonl" => Some(Self::Ndjson),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

impl Statement {
    pub(super) fn is_copy(&self) -> bool {
        matches!(*self.sql, EngineStatement::CopyTo(_))
    }

    /// Returns the statement to plan, and the file of a COPY that is to be written. The statement of a COPY is its query.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] for a COPY that cannot be done, with the reason.
    pub(super) fn without_copy(self) -> Result<(EngineStatement, Option<CopyTarget>), QueryError> {
        match *self.sql {
            EngineStatement::CopyTo(copy) => {
                let target = CopyTarget::of(&copy)?;
                // An estimate writes nothing.
                Ok((query_of(copy)?, (self.mode == StatementMode::Rows).then_some(target)))
            }
            EngineStatement::Explain(explain) if matches!(*explain.statement, EngineStatement::CopyTo(_)) => {
                Err(QueryError::sql("EXPLAIN of COPY is not supported").with_hint("explain the query alone"))
            }
            other => Ok((other, None)),
        }
    }
}

impl CopyTarget {
    /// Reads the file and its format from a COPY, and checks that the file may be made.
    fn of(copy: &CopyToStatement) -> Result<Self, QueryError> {
        let CopyToStatement { target, partitioned_by, stored_as, options, .. } = copy;
        let refused =
            |reason: &str, hint: &str| Err(QueryError::sql(format!("COPY TO `{target}`: {reason}")).with_hint(hint));
        if let Some((option, _)) = options.first() {
            return refused(
                &format!("option `{option}` is not supported"),
                "leave it out; the query chooses and changes the columns",
            );
        }
        if !partitioned_by.is_empty() {
            return refused("PARTITIONED BY is not supported", "write one file a COPY, with WHERE");
        }
        let Some(path) = local_path(target) else {
            return refused("only files of this machine are written", "write it here, and upload it with another tool");
        };
        if target.is_empty() || target.ends_with('/') || path.is_dir() {
            return refused("it is a folder, and COPY writes one file", HINT_FILE);
        }
        let extension = path.extension().map(|extension| extension.to_string_lossy().into_owned());
        let Some(named) = stored_as.clone().or(extension) else {
            return refused(
                "its name has no format",
                "name it .parquet, .csv or .json, or add STORED AS PARQUET, CSV or JSON",
            );
        };
        let Some(format) = CopyFormat::named(&named) else {
            return refused(
                &format!("there is no writer for `{named}`"),
                "name it .parquet, .csv or .json, or add STORED AS PARQUET, CSV or JSON",
            );
        };
        // A link that leads nowhere is a name that is taken, too.
        let found = path.symlink_metadata();
        if found.is_ok() {
            return refused("the file exists", "remove it first, or name another");
        }
        let folder = folder_of(&path);
        if !folder.is_dir() {
            return refused(&format!("there is no folder `{}`", folder.display()), "make the folder, or name another");
        }
        if let Err(error) = found
            && error.kind() != io::ErrorKind::NotFound
        {
            return refused(&error.to_string(), HINT_FILE);
        }
        Ok(Self { path, format })
    }
}

/// Returns the folder of a file; the current one for a bare name.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the path of a file of this machine; None for a URL of another place.
fn local_path(target: &str) -> Option<PathBuf> {
    if !target.contains("://") {
        return Some(PathBuf::from(target));
    }
    let url = Url::parse(target).ok().filter(|url| url.scheme() == "file")?;
    url.to_file_path().ok()
}

fn query_of(copy: CopyToStatement) -> Result<EngineStatement, QueryError> {
    let statement = match copy.source {
        CopyToSource::Query(query) => SqlStatement::Query(query),
        CopyToSource::Relation(name) => {
            let parsed = Parser::parse_sql(&GenericDialect {}, &format!("SELECT * FROM {name}"));
            let parsed = parsed.map_err(|error| QueryError::sql(error.to_string()))?.pop();
            parsed.ok_or_else(|| QueryError::sql("COPY without a table"))?
        }
    };
    Ok(EngineStatement::Statement(Box::new(statement)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Target};
    use crate::session::Session;

    #[tokio::test]
    async fn a_copy_is_its_query_and_its_file() {
        let session = Session::new(Config { on: Target::Local, ..Config::default() }).expect("a session");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("there.csv"), "x\n").expect("written");
        std::os::unix::fs::symlink("nowhere", folder.path().join("link.csv")).expect("a link");
        let at = folder.path().display().to_string();
        let taken = |sql: &str| session.parse(&sql.replace("AT", &at)).expect("SQL").remove(0).without_copy();
        let check = |sql: &str, expect: &str, format: CopyFormat| {
            let (statement, target) = taken(sql).expect("it can be done");
            assert!(matches!(statement, EngineStatement::Statement(_)), "{sql}: {statement}");
            assert_eq!(target, Some(CopyTarget { path: folder.path().join(expect), format }), "{sql}");
        };
        check("COPY (SELECT 1 AS a) TO 'AT/a.parquet'", "a.parquet", CopyFormat::Parquet);
        check("COPY t TO 'AT/a.CSV'", "a.CSV", CopyFormat::Csv);
        check("COPY \"T t\".\"x\" TO 'AT/a b.json'", "a b.json", CopyFormat::Ndjson);
        check("COPY t TO 'file://AT/a%20b.jsonl'", "a b.jsonl", CopyFormat::Ndjson);
        check("COPY t TO 'AT/plain' STORED AS PARQUET", "plain", CopyFormat::Parquet);
        check("COPY t TO 'AT/x.txt' STORED AS CSV", "x.txt", CopyFormat::Csv);
        for (sql, words) in [
            ("COPY t TO 'AT/there.csv'", "there.csv`: the file exists"),
            ("COPY t TO 'AT/link.csv'", "the file exists"),
            ("COPY t TO 'AT'", "it is a folder"),
            ("COPY t TO 'AT/new/'", "it is a folder"),
            ("COPY t TO ''", "it is a folder"),
            ("COPY t TO 'AT/new/a.csv'", "there is no folder"),
            (&format!("COPY t TO 'AT/{}.csv'", "r".repeat(300)), "too long"),
            ("COPY t TO 's3://lake/a.csv'", "only files of this machine"),
            ("COPY t TO 'AT/a.xlsx'", "no writer for `xlsx`"),
            ("COPY t TO 'AT/a.csv.gz'", "no writer for `gz`"),
            ("COPY t TO 'AT/a'", "no format"),
            ("COPY t TO 'AT/a.csv' OPTIONS ('format.delimiter' ';')", "option `format.delimiter`"),
            ("COPY t TO 'AT/a.csv' PARTITIONED BY (k)", "PARTITIONED BY is not supported"),
            ("EXPLAIN COPY t TO 'AT/a.csv'", "EXPLAIN of COPY"),
        ] {
            let refused = taken(sql).expect_err(sql);
            assert!(refused.message().contains(words) && refused.hint().is_some(), "{sql}: {refused}");
        }
        let estimate = session.parse(&format!("COPY t TO '{at}/a.csv'")).expect("SQL").remove(0).as_dry_run();
        assert_eq!(estimate.without_copy().expect("it can be done").1, None, "an estimate writes nothing");
        session.close().await;
    }
}
