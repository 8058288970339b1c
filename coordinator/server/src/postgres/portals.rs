//! Portals: statements with their parameters, which give their rows in as many steps as the client wants.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gust_engine::report::Report;
use gust_engine::session::{Piece, Statement};
use pgwire::messages::PgWireBackendMessage as Answer;
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use pgwire::messages::extendedquery::PortalSuspended;
use pgwire::messages::response::EmptyQueryResponse;
use tokio::io::AsyncWrite;

use super::answers::Told;
use super::commands::{Command, Fetch, tag};
use super::connection::Connection;
use super::copy::{CopyOut, Form};
use super::query::{Part, Query};
use super::rows::{Columns, Rows};
use super::watch::{Stop, Watch};

/// SQLSTATE codes of PostgreSQL.
const NO_CURSOR: &str = "34000";
const CHANGED: &str = "0A000";
const NO_ROWS: &str = "42601";
const FAULT: &str = "XX000";

/// Statement that a client executes.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) piece: Arc<Piece>,
    pub(super) work: Work,
    /// Bytes of the values that were bound.
    pub(super) value_bytes: usize,
    /// Formats of its columns: none, one for all, or one for each.
    pub(super) formats: Vec<i16>,
    /// Columns that the client was told.
    pub(super) described: Option<SchemaRef>,
    /// True for a cursor that lives longer than its transaction.
    pub(super) outlives_transaction: bool,
}

#[derive(Debug)]
pub(super) enum Work {
    /// Text without a statement.
    Empty,
    Command(Command, Option<Statement>),
    Statement(Statement),
    Open(Open),
    Done,
}

/// Rows on their way.
#[derive(Debug)]
pub(super) struct Open {
    source: Source,
    pub(super) schema: SchemaRef,
    is_silent: bool,
    /// Rows that have come and were not wanted yet.
    rest: Option<RecordBatch>,
}

#[derive(Debug)]
enum Source {
    Query(Query),
    /// Rows that are there already.
    Ready,
}

/// Number and end of the rows of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    rows: u64,
    is_last: bool,
}

/// Destination of a step's rows.
enum To<'a> {
    Client(&'a Columns),
    Lines(&'a Columns, &'a Form),
    Nobody,
}

impl Portal {
    pub(super) fn new(piece: Arc<Piece>, work: Work, formats: Vec<i16>) -> Self {
        Self { piece, work, value_bytes: 0, formats, described: None, outlives_transaction: false }
    }

    /// Returns the columns of its rows, as far as they are known.
    pub(super) fn schema(&self) -> Option<&SchemaRef> {
        match &self.work {
            Work::Open(open) => Some(&open.schema),
            _ => self.described.as_ref(),
        }
    }
}

/// Returns the one column of SHOW.
pub(super) fn shown(name: &str) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, false)]))
}

impl<W: AsyncWrite + Unpin> Connection<W> {
    /// Sends the next rows of a portal, all of them without a limit, and the end of the step.
    pub(super) async fn execute(
        &mut self,
        portal: &mut Portal,
        limit: Option<usize>,
        with_columns: bool,
        watch: &Watch,
    ) -> Result<(), Stop> {
        let piece = Arc::clone(&portal.piece);
        let work = std::mem::replace(&mut portal.work, Work::Done);
        let mut open = match work {
            Work::Empty => {
                portal.work = Work::Empty;
                return Ok(self.answers.push(Answer::EmptyQueryResponse(EmptyQueryResponse::new())).await?);
            }
            Work::Done => return Ok(self.answers.complete(tag(&piece, true, 0)).await?),
            Work::Command(Command::Show(name), _) => self.show(name)?,
            Work::Command(Command::Fetch(fetch), _) => {
                return self.fetch(&fetch, &portal.formats, with_columns, watch).await;
            }
            Work::Command(Command::CopyOut(copy), Some(statement)) => {
                return self.copy_out(copy, statement, watch).await;
            }
            Work::Command(command, statement) => {
                let tag = self.carry_out(command, statement, watch).await?;
                return Ok(self.answers.complete(tag).await?);
            }
            Work::Statement(statement) => self.open(statement, &piece, watch).await?,
            Work::Open(open) => {
                open.resume(self, watch).await?;
                open
            }
        };
        let columns = Columns::new(&open.schema, &portal.formats)?;
        if let Some(described) = &portal.described {
            let told = Columns::new(described, &portal.formats)?;
            if !told.are_like(&columns) {
                return Err(Told::new(CHANGED, "the rows are not of the types that were described").into());
            }
        }
        if with_columns && !open.is_silent {
            self.answers.push(Answer::RowDescription(columns.description())).await?;
        }
        let step = self.step(&mut open, &piece, limit, To::Client(&columns), watch).await?;
        if step.is_last {
            return Ok(self.answers.complete(tag(&piece, open.is_silent, step.rows)).await?);
        }
        open.suspend();
        portal.work = Work::Open(open);
        Ok(self.answers.push(Answer::PortalSuspended(PortalSuspended::new())).await?)
    }

    /// Starts a statement, and waits for its columns.
    async fn open(&mut self, statement: Statement, piece: &Piece, watch: &Watch) -> Result<Open, Stop> {
        let starting = Query::start(&self.door, &self.principal, &self.session, statement, &self.claims);
        let started = watch.over(starting).await?;
        let mut query = started.map_err(|error| Told::from(&error))?;
        match watch.over(query.next()).await? {
            Part::Started { schema, is_silent } => {
                Ok(Open { source: Source::Query(query), schema, is_silent, rest: None })
            }
            Part::Ended(Err(error)) => Err(Told::of(&error, &piece.text, piece.characters_before).into()),
            Part::Ended(Ok(_)) | Part::Rows(_) => Err(out_of_order()),
        }
    }

    fn show(&self, name: &'static str) -> Result<Open, Stop> {
        let value = self.settings.get(name).unwrap_or_default();
        let schema = shown(name);
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(StringArray::from(vec![value]))]);
        let rows = rows.map_err(|error| Told::new(FAULT, error.to_string()))?;
        Ok(Open { source: Source::Ready, schema, is_silent: false, rest: Some(rows) })
    }

    /// Sends rows until there are as many as wanted, or none any more.
    async fn step(
        &mut self,
        open: &mut Open,
        piece: &Piece,
        limit: Option<usize>,
        to: To<'_>,
        watch: &Watch,
    ) -> Result<Step, Stop> {
        let mut sent = 0;
        loop {
            if let Some(batch) = open.rest.take() {
                let left = limit.map_or(usize::MAX, |limit| limit - sent);
                let count = batch.num_rows().min(left);
                // A client that does not read is one that can be cancelled.
                match &to {
                    To::Client(columns) => watch.over(self.send(columns.rows(&batch.slice(0, count))?)).await??,
                    To::Lines(columns, form) => {
                        let rows = columns.rows(&batch.slice(0, count))?;
                        watch.over(self.send_lines(rows, form)).await??;
                    }
                    To::Nobody => {}
                }
                sent += count;
                if count < batch.num_rows() {
                    open.rest = Some(batch.slice(count, batch.num_rows() - count));
                }
            }
            if limit.is_some_and(|limit| sent >= limit) {
                return Ok(Step { rows: sent as u64, is_last: false });
            }
            let part = match &mut open.source {
                Source::Query(query) => watch.over(query.next()).await?,
                Source::Ready => return Ok(Step { rows: sent as u64, is_last: true }),
            };
            match part {
                Part::Rows(batch) => open.rest = Some(batch),
                Part::Ended(Ok(report)) => {
                    self.notice_cost(&report).await?;
                    return Ok(Step { rows: sent as u64, is_last: true });
                }
                Part::Ended(Err(error)) => return Err(Told::of(&error, &piece.text, piece.characters_before).into()),
                Part::Started { .. } => return Err(out_of_order()),
            }
        }
    }

    async fn send(&mut self, mut rows: Rows) -> Result<(), Stop> {
        while let Some(row) = rows.next() {
            self.answers.push(Answer::DataRow(row?)).await?;
        }
        Ok(())
    }

    async fn send_lines(&mut self, mut rows: Rows, form: &Form) -> Result<(), Stop> {
        while let Some(row) = rows.next() {
            self.answers.push(Answer::CopyData(CopyData::new(form.line(&row?)?))).await?;
        }
        Ok(())
    }

    /// Runs a statement, and sends its rows as lines.
    async fn copy_out(&mut self, copy: CopyOut, statement: Statement, watch: &Watch) -> Result<(), Stop> {
        let CopyOut { mut query, form, is_of_table } = copy;
        if is_of_table {
            // A place in this text is none in the client's.
            query.text.clear();
        }
        let mut open = self.open(statement, &query, watch).await?;
        if open.is_silent {
            return Err(Told::new(NO_ROWS, "COPY: the statement has no rows").into());
        }
        let columns = Columns::new(&open.schema, &[])?;
        let count = open.schema.fields().len();
        let told = CopyOutResponse::new(0, i16::try_from(count).unwrap_or(i16::MAX), vec![0; count]);
        self.answers.push(Answer::CopyOutResponse(told)).await?;
        if form.has_header {
            let names = open.schema.fields().iter().map(|field| field.name().as_str());
            let line = form.header(names);
            self.answers.push(Answer::CopyData(CopyData::new(line))).await?;
        }
        let step = self.step(&mut open, &query, None, To::Lines(&columns, &form), watch).await?;
        self.answers.push(Answer::CopyDone(CopyDone::new())).await?;
        Ok(self.answers.complete(format!("COPY {}", step.rows)).await?)
    }

    async fn notice_cost(&mut self, report: &Report) -> Result<(), Stop> {
        let Some(cost) = report.cost.as_ref().filter(|_| self.settings.is_on("gust.notice_cost")) else {
            return Ok(());
        };
        let id = report.id.as_deref().unwrap_or_default();
        let words = match cost.known == cost.at_most {
            true => format!("query {id} cost {}", cost.known),
            false => format!("query {id} cost {}, at most {}", cost.known, cost.at_most),
        };
        Ok(self.answers.notice(words).await?)
    }

    /// Sends or skips the next rows of a cursor.
    async fn fetch(&mut self, fetch: &Fetch, formats: &[i16], with_columns: bool, watch: &Watch) -> Result<(), Stop> {
        let Fetch { cursor, rows, is_move } = fetch;
        let no_cursor = || Told::new(NO_CURSOR, format!("there is no cursor `{cursor}`"));
        let mut portal = self.portals.remove(cursor).ok_or_else(no_cursor)?;
        let piece = Arc::clone(&portal.piece);
        let open = match std::mem::replace(&mut portal.work, Work::Done) {
            Work::Statement(statement) => Some(self.open(statement, &piece, watch).await?),
            Work::Open(open) => {
                open.resume(self, watch).await?;
                Some(open)
            }
            Work::Done => None,
            Work::Empty | Work::Command(..) => return Err(no_cursor().into()),
        };
        let schema = open.as_ref().map(|open| Arc::clone(&open.schema)).or(portal.described.clone());
        let schema = schema.unwrap_or_else(|| Arc::new(Schema::empty()));
        let columns = Columns::new(&schema, formats)?;
        if with_columns && !is_move {
            self.answers.push(Answer::RowDescription(columns.description())).await?;
        }
        let mut sent = 0;
        if let Some(mut open) = open {
            let to = if *is_move { To::Nobody } else { To::Client(&columns) };
            let step = self.step(&mut open, &piece, *rows, to, watch).await?;
            sent = step.rows;
            if !step.is_last {
                open.suspend();
                portal.work = Work::Open(open);
            }
        }
        portal.described = Some(schema);
        self.portals.insert(cursor.clone(), portal);
        let verb = if *is_move { "MOVE" } else { "FETCH" };
        Ok(self.answers.complete(format!("{verb} {sent}")).await?)
    }
}

impl Open {
    fn suspend(&self) {
        if let Source::Query(query) = &self.source {
            query.suspend();
        }
    }

    async fn resume<W>(&self, connection: &Connection<W>, watch: &Watch) -> Result<(), Stop> {
        if let Source::Query(query) = &self.source {
            let resumed = watch.over(query.resume(&connection.door, &connection.principal)).await?;
            resumed.map_err(|error| Told::from(&error))?;
        }
        Ok(())
    }
}

fn out_of_order() -> Stop {
    Told::new(FAULT, "the parts of a statement came out of order").into()
}
