//! One connection of a client that is known: its messages, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gust_engine::error::QueryError;
use gust_engine::session::{OWN_CATALOG, OWN_SCHEMA, Piece, Session, Statement, pieces};
use pgwire::messages::PgWireBackendMessage as Answer;
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};
use pgwire::messages::startup::{Authentication, BackendKeyData, ParameterStatus, SecretKey};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answers::{Answers, Told};
use super::catalog::{PgCatalog, Rewritten, mentions};
use super::commands::Command;
use super::keys::Key;
use super::messages::{Malformed, Message};
use super::portals::{Portal, Work};
use super::prepared::Prepared;
use super::reader::Received;
use super::settings::{Settings, name_of};
use super::startup::Startup;
use super::watch::{Stop, Watch, shutting_down};
use crate::door::Door;
use crate::run::FAULT;
use crate::tokens::Principal;

/// Most bytes of a text with statements, as in a request of HTTP.
const SQL_BYTES_MAX: usize = 1 << 20;

/// Longest time for which portals wait for their client.
const PORTALS_IDLE_MAX: Duration = Duration::from_secs(300);

/// SQLSTATE codes of PostgreSQL.
const TOO_LONG: &str = "54000";
const TRANSACTION_FAILED: &str = "25P02";
const IN_TRANSACTION: &str = "25001";
const NO_TRANSACTION: &str = "25P01";
const NO_CURSOR: &str = "34000";
const CURSOR_EXISTS: &str = "42P03";

/// Connection with its session, settings, statements and portals.
#[derive(Debug)]
pub(super) struct Connection<W> {
    pub(super) door: Arc<Door>,
    pub(super) principal: Principal,
    pub(super) session: Session,
    /// Catalog in which bare names are looked up; None for the session's own.
    pub(super) catalog: Option<String>,
    /// Tables of PostgreSQL about those tables.
    pub(super) pg_catalog: PgCatalog,
    pub(super) settings: Settings,
    pub(super) key: Key,
    pub(super) answers: Answers<W>,
    pub(super) transaction: TransactionStatus,
    pub(super) statements: BTreeMap<String, Prepared>,
    pub(super) portals: BTreeMap<String, Portal>,
    pub(super) ends: Ends,
}

/// Tokens of a connection's ends.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// The client has gone.
    pub(super) gone: CancellationToken,
    /// No new statement is begun.
    pub(super) draining: CancellationToken,
    /// Statements under way are stopped.
    pub(super) stopping: CancellationToken,
}

impl<W: AsyncWrite + Unpin> Connection<W> {
    /// Takes the client's own settings, and tells what it wants to know.
    pub(super) async fn welcome(&mut self, startup: &Startup) -> Result<(), Stop> {
        self.answers.push(Answer::Authentication(Authentication::Ok)).await?;
        // Without a zone the engine takes `timestamptz` for a time without one.
        self.take("TimeZone", None).await.map_err(Stop::Ends)?;
        for (name, value) in &startup.parameters {
            if let Some(name) = name_of(name) {
                self.take(name, Some(value)).await.map_err(Stop::Ends)?;
            }
        }
        for (name, value) in self.settings.told() {
            self.answers.push(Answer::ParameterStatus(ParameterStatus::new(name.to_owned(), value))).await?;
        }
        let key = BackendKeyData::new(self.key.pid(), SecretKey::I32(self.key.secret()));
        Ok(self.answers.push(Answer::BackendKeyData(key)).await?)
    }

    /// Answers messages until the client goes or the server stops.
    pub(super) async fn serve(mut self, mut messages: mpsc::Receiver<Received>) {
        let ended = self.answer_all(&mut messages).await;
        // Queries end before their client is told.
        self.portals.clear();
        if let Err(Stop::Ends(told) | Stop::Failed(told)) = ended {
            drop(self.answers.fatal(&told).await);
        }
    }

    async fn answer_all(&mut self, messages: &mut mpsc::Receiver<Received>) -> Result<(), Stop> {
        self.answers.ready(self.transaction).await?;
        let mut skips_to_sync = false;
        loop {
            let message = match self.next(messages).await? {
                None => return Ok(()),
                Some(Received { message: Ok(message), .. }) => message,
                Some(Received { message: Err(Malformed { sqlstate, message }), .. }) => {
                    return Err(Stop::Ends(Told::new(sqlstate, message)));
                }
            };
            let is_extended = !matches!(message, Message::Query(_));
            if skips_to_sync && !matches!(message, Message::Sync) {
                continue;
            }
            skips_to_sync = false;
            match self.answer(message).await {
                Ok(()) => {}
                Err(Stop::Failed(told)) => {
                    self.failed(&told).await?;
                    skips_to_sync = is_extended;
                    if !is_extended {
                        self.ready().await?;
                    }
                }
                Err(ends) => return Err(ends),
            }
        }
    }

    /// Returns the next message. Answers are sent before the client is waited for.
    async fn next(&mut self, messages: &mut mpsc::Receiver<Received>) -> Result<Option<Received>, Stop> {
        if let Ok(message) = messages.try_recv() {
            return Ok(Some(message));
        }
        self.answers.flush().await?;
        let since = Instant::now();
        loop {
            let idle = !self.portals.is_empty();
            let (draining, stopping) = (self.ends.draining.clone(), self.ends.stopping.clone());
            tokio::select! {
                biased;
                message = messages.recv() => return Ok(message),
                () = draining.cancelled(), if self.portals.is_empty() => return Err(Stop::Ends(shutting_down())),
                () = stopping.cancelled() => return Err(Stop::Ends(shutting_down())),
                () = tokio::time::sleep_until(since + PORTALS_IDLE_MAX), if idle => self.portals.clear(),
            }
        }
    }

    async fn answer(&mut self, message: Message) -> Result<(), Stop> {
        match message {
            Message::Query(text) => {
                self.query(&text).await?;
                self.ready().await
            }
            Message::Parse { name, sql, types } => self.prepare(name, &sql, &types).await,
            Message::Bind(bind) => self.bind(bind).await,
            Message::Describe(target) => self.describe(&target).await,
            Message::Execute { portal, rows } => self.execute_portal(&portal, rows).await,
            Message::Close(target) => self.close(&target).await,
            Message::Sync => self.ready().await,
            Message::Flush => Ok(self.answers.flush().await?),
            Message::OfCopy => Ok(()),
            Message::Password(_) => Err(Stop::Ends(Told::new("08P01", "no password is expected"))),
            Message::Terminate => Err(Stop::Gone),
        }
    }

    async fn failed(&mut self, told: &Told) -> Result<(), Stop> {
        if self.transaction == TransactionStatus::Transaction {
            self.transaction = TransactionStatus::Error;
        }
        Ok(self.answers.error(told).await?)
    }

    /// Ends a statement's own transaction, and tells that the next message is waited for.
    async fn ready(&mut self) -> Result<(), Stop> {
        if self.transaction == TransactionStatus::Idle {
            self.close_cursors();
        }
        Ok(self.answers.ready(self.transaction).await?)
    }

    fn close_cursors(&mut self) {
        self.portals.retain(|_, portal| portal.outlives_transaction);
    }

    /// Runs the statements of a text. All are read before the first one runs.
    async fn query(&mut self, text: &str) -> Result<(), Stop> {
        let split = split(text)?;
        if split.is_empty() {
            return Ok(self.answers.push(Answer::EmptyQueryResponse(EmptyQueryResponse::new())).await?);
        }
        let mut portals = Vec::with_capacity(split.len());
        for mut piece in split {
            let work = self.work(&mut piece).await?;
            portals.push(Portal::new(Arc::new(piece), work, Vec::new()));
        }
        for mut portal in portals {
            self.may_run(&portal.work)?;
            self.execute(&mut portal, None, true).await?;
        }
        Ok(())
    }

    /// Reads a statement. One about PostgreSQL's own tables loses its text, for the engine reads another.
    pub(super) async fn work(&mut self, piece: &mut Piece) -> Result<Work, Stop> {
        let mut command = Command::of(piece)?;
        let to_parse = match &mut command {
            Command::Sql => piece,
            Command::Declare { query, .. } => query,
            _ => return Ok(Work::Command(command, None)),
        };
        let statement = if mentions(to_parse) {
            let watch = self.watch();
            let preparing = self.pg_catalog.prepare(&self.session, to_parse);
            let prepared = watch.over(Box::pin(preparing)).await?;
            let Rewritten { text, is_partial } = prepared.map_err(|error| Told::from(&error))?;
            if is_partial {
                self.answers
                    .warning("01000", "there are very many tables; the columns of the first ones are shown")
                    .await?;
            }
            to_parse.text.clear();
            self.parse(&text).await
        } else {
            self.parse(&to_parse.text).await
        };
        let statement = statement.map_err(|error| Told::of(&error, &to_parse.text, to_parse.characters_before))?;
        Ok(match command {
            Command::Sql => Work::Statement(statement),
            command => Work::Command(command, Some(statement)),
        })
    }

    pub(super) async fn parse(&self, sql: &str) -> Result<Statement, QueryError> {
        let (session, sql) = (self.session.clone(), sql.to_owned());
        // Parsing computes, and cannot be interrupted.
        let parsed = tokio::task::spawn_blocking(move || session.parse(&sql)).await;
        let mut parsed = parsed.map_err(|_| QueryError::sql("the parser panicked").with_sqlstate(FAULT))??;
        Ok(parsed.remove(0))
    }

    /// Refuses statements of a transaction that has failed.
    pub(super) fn may_run(&self, work: &Work) -> Result<(), Told> {
        let ends = matches!(work, Work::Command(command, _) if command.ends_transaction());
        if self.transaction == TransactionStatus::Error && !ends {
            return Err(Told::new(
                TRANSACTION_FAILED,
                "the transaction has failed; statements are ignored until its end",
            )
            .with_hint("ROLLBACK"));
        }
        Ok(())
    }

    /// Begins a statement that its client can cancel.
    pub(super) fn watch(&self) -> Watch {
        let timeout = self.settings.statement_timeout().map(|timeout| (Instant::now() + timeout, timeout));
        Watch {
            cancelled: self.key.begin(),
            gone: self.ends.gone.clone(),
            stopping: self.ends.stopping.clone(),
            timeout,
        }
    }

    /// Carries out a command that has no rows. Returns its tag.
    pub(super) async fn carry_out(
        &mut self,
        command: Command,
        statement: Option<Statement>,
        watch: &Watch,
    ) -> Result<String, Stop> {
        let tag = match command {
            Command::Begin => {
                match self.transaction {
                    TransactionStatus::Idle => self.transaction = TransactionStatus::Transaction,
                    _ => self.answers.warning(IN_TRANSACTION, "there is a transaction already").await?,
                }
                "BEGIN"
            }
            Command::Commit | Command::Rollback => {
                let before = std::mem::replace(&mut self.transaction, TransactionStatus::Idle);
                if before == TransactionStatus::Idle {
                    self.answers.warning(NO_TRANSACTION, "there is no transaction").await?;
                }
                self.close_cursors();
                if command == Command::Commit && before != TransactionStatus::Error { "COMMIT" } else { "ROLLBACK" }
            }
            Command::Ignored(tag) => tag,
            Command::Set { name, value } => {
                self.set(name, value.as_deref()).await?;
                if value.is_some() { "SET" } else { "RESET" }
            }
            Command::ResetAll => {
                self.settings_back().await?;
                "RESET"
            }
            Command::DiscardAll => {
                self.settings_back().await?;
                self.change_session("DEALLOCATE ALL").await?;
                self.statements.clear();
                self.portals.clear();
                "DISCARD ALL"
            }
            Command::Declare { cursor, outlives_transaction, query } => {
                self.declare(cursor, outlives_transaction, query, statement, watch).await?;
                "DECLARE CURSOR"
            }
            Command::CloseCursor(Some(cursor)) => {
                let closed = self.portals.remove(&cursor);
                closed.ok_or_else(|| Told::new(NO_CURSOR, format!("there is no cursor `{cursor}`")))?;
                "CLOSE CURSOR"
            }
            Command::CloseCursor(None) => {
                self.portals.clear();
                "CLOSE CURSOR ALL"
            }
            Command::DeallocateAll => {
                self.change_session("DEALLOCATE ALL").await?;
                self.statements.clear();
                "DEALLOCATE ALL"
            }
            Command::Deallocate(name) => {
                if self.statements.remove(&name).is_none() {
                    let quoted = name.replace('"', "\"\"");
                    self.change_session(&format!("DEALLOCATE \"{quoted}\"")).await?;
                }
                "DEALLOCATE"
            }
            Command::Show(_) | Command::Fetch(_) | Command::Sql => "SELECT 0",
        };
        Ok(tag.to_owned())
    }

    async fn set(&mut self, name: &'static str, value: Option<&str>) -> Result<(), Stop> {
        if let Some((name, value)) = self.take(name, value).await? {
            self.answers.push(Answer::ParameterStatus(ParameterStatus::new(name.to_owned(), value))).await?;
        }
        Ok(())
    }

    /// Changes a setting. Returns the name and value of which the client is told.
    async fn take(&mut self, name: &'static str, value: Option<&str>) -> Result<Option<(&'static str, String)>, Told> {
        let mut changed = self.settings.clone();
        let told = changed.set(name, value)?;
        match name {
            "TimeZone" => {
                let zone = changed.get(name).unwrap_or_default();
                let zone = if zone.eq_ignore_ascii_case("UTC") { "+00:00" } else { zone };
                let zone = zone.replace('\'', "''");
                self.change_session(&format!("SET datafusion.execution.time_zone = '{zone}'")).await?;
            }
            "search_path" => self.look_up_in(changed.get(name).unwrap_or_default()),
            _ => {}
        }
        self.settings = changed;
        Ok(told)
    }

    /// Carries out a statement that only changes the session. It waits for no turn.
    async fn change_session(&self, sql: &str) -> Result<(), Told> {
        Box::pin(self.session.set_up(sql)).await.map_err(|error| Told::from(&error))
    }

    /// Looks bare names up in the first schema of a path.
    pub(super) fn look_up_in(&self, path: &str) {
        let mut schemas = path.split(',').map(|schema| schema.trim().trim_matches(['"', '\'']));
        let Some(schema) = schemas.find(|schema| !["$user", "public", ""].contains(schema)) else {
            if self.catalog.is_none() {
                self.session.use_schema(OWN_CATALOG, OWN_SCHEMA);
            }
            return;
        };
        self.session.use_schema(self.catalog.as_deref().unwrap_or(OWN_CATALOG), schema);
    }

    async fn settings_back(&mut self) -> Result<(), Stop> {
        let names: Vec<&'static str> = self.settings.changed().collect();
        for name in names {
            self.set(name, None).await?;
        }
        Ok(())
    }

    async fn declare(
        &mut self,
        cursor: String,
        outlives_transaction: bool,
        query: Piece,
        statement: Option<Statement>,
        watch: &Watch,
    ) -> Result<(), Stop> {
        let Some(statement) = statement else { return Ok(()) };
        if self.transaction == TransactionStatus::Idle && !outlives_transaction {
            return Err(Told::new(NO_TRANSACTION, "a cursor needs a transaction")
                .with_hint("BEGIN, or DECLARE it WITH HOLD")
                .into());
        }
        if self.portals.contains_key(&cursor) {
            return Err(Told::new(CURSOR_EXISTS, format!("there is a cursor `{cursor}` already")).into());
        }
        self.has_room_for_a_portal()?;
        let described = watch.over(self.session.describe(statement.clone(), &[])).await?;
        let described = described.map_err(|error| Told::of(&error, &query.text, query.characters_before))?;
        let mut portal = Portal::new(Arc::new(query), Work::Statement(statement), Vec::new());
        portal.described = described.schema;
        portal.outlives_transaction = outlives_transaction;
        self.portals.insert(cursor, portal);
        Ok(())
    }
}

/// Splits a text into statements, within the bound on its length.
pub(super) fn split(text: &str) -> Result<Vec<Piece>, Told> {
    if text.len() > SQL_BYTES_MAX {
        return Err(Told::new(TOO_LONG, format!("a text has {} bytes; at most {SQL_BYTES_MAX} are read", text.len())));
    }
    pieces(text).map_err(|error| Told::of(&error, text, 0))
}
