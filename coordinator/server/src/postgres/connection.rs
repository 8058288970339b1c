//! One connection of a client that is known: its messages, one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gust_engine::error::QueryError;
use gust_engine::session::{Piece, Session, Statement, pieces};
use pgwire::messages::PgWireBackendMessage as Answer;
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};
use pgwire::messages::startup::{Authentication, BackendKeyData, ParameterStatus, SecretKey};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answers::{Answers, Told};
use super::catalog::{PgCatalog, Rewritten, may_mention};
use super::commands::Command;
use super::copy::CopyOut;
use super::keys::Key;
use super::messages::{Malformed, Message};
use super::portals::{Portal, Work};
use super::prepared::Prepared;
use super::query::in_turn;
use super::reader::Received;
use super::settings::{Settings, name_of};
use super::startup::Startup;
use super::watch::{Stop, Watch, shutting_down};
use crate::door::{Door, SessionWishes};
use crate::memory::Claims;
use crate::run::FAULT;
use crate::tokens::Principal;

/// Most bytes of a text with statements, as in a request of HTTP.
const SQL_BYTES_MAX: usize = 1 << 20;

/// Most statements of a text. All of them are read before the first one runs.
const STATEMENTS_MAX: usize = 1_000;

/// Words of a statement that its answer needs.
const WORDS_KEPT: usize = 3;

/// Longest time for which portals wait for their client.
const PORTALS_IDLE_MAX: Duration = Duration::from_secs(300);

/// SQLSTATE codes of PostgreSQL.
const TOO_LONG: &str = "54000";
const NO_USER: &str = "28P01";
const TRANSACTION_FAILED: &str = "25P02";

/// Connection with its session, settings, statements and portals.
#[derive(Debug)]
pub(super) struct Connection<W> {
    pub(super) door: Arc<Door>,
    pub(super) principal: Principal,
    pub(super) session: Session,
    /// Catalog in which bare names are looked up; None for the session's own.
    pub(super) catalog: Option<String>,
    /// Catalog and schema of bare names without a path.
    pub(super) home: [String; 2],
    /// Wishes with which its session was opened.
    pub(super) wishes: SessionWishes,
    /// Tables of PostgreSQL about those tables.
    pub(super) pg_catalog: PgCatalog,
    pub(super) settings: Settings,
    pub(super) key: Key,
    pub(super) answers: Answers<W>,
    pub(super) transaction: TransactionStatus,
    /// Names of the transaction's savepoints, and earlier values of its own settings.
    pub(super) savepoints: Vec<String>,
    pub(super) before_local: BTreeMap<&'static str, Option<String>>,
    pub(super) statements: BTreeMap<String, Prepared>,
    pub(super) portals: BTreeMap<String, Portal>,
    /// Memory that statements of the portals have claimed.
    pub(super) claims: Claims,
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
        let options = startup.options().map_err(Stop::Ends)?;
        for (name, value) in options.iter().chain(&startup.parameters) {
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
            // The room of a message is its own until it is answered.
            let (message, _room) = match self.next(messages).await? {
                None => return Ok(()),
                Some(Received { message: Ok(message), room }) => (message, room),
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
        let stopping = self.ends.stopping.clone();
        tokio::select! {
            flushed = self.answers.flush() => flushed?,
            () = stopping.cancelled() => return Err(Stop::Ends(shutting_down())),
        }
        let since = Instant::now();
        loop {
            let idle = !self.portals.is_empty();
            let (draining, stopping) = (self.ends.draining.clone(), self.ends.stopping.clone());
            tokio::select! {
                biased;
                message = messages.recv() => return Ok(message),
                () = self.door.dismissed(&self.principal) => self.still_knows_the_user()?,
                () = draining.cancelled(), if self.portals.is_empty() => return Err(Stop::Ends(shutting_down())),
                () = stopping.cancelled() => return Err(Stop::Ends(shutting_down())),
                () = tokio::time::sleep_until(since + PORTALS_IDLE_MAX), if idle => self.portals.clear(),
            }
        }
    }

    /// Ends the connection of a user whose token holds no more.
    fn still_knows_the_user(&self) -> Result<(), Stop> {
        self.door
            .knows(&self.principal)
            .map_err(|why| Stop::Ends(Told::new(NO_USER, why.to_string()).with_hint("connect with a new token")))
    }

    async fn answer(&mut self, message: Message) -> Result<(), Stop> {
        if matches!(message, Message::Query(_) | Message::Parse { .. } | Message::Bind(_) | Message::Execute { .. }) {
            self.still_knows_the_user()?;
        }
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

    pub(super) fn close_cursors(&mut self) {
        self.portals.retain(|_, portal| portal.outlives_transaction);
    }

    /// Runs the statements of a text. All are read before the first one runs.
    async fn query(&mut self, text: &str) -> Result<(), Stop> {
        let split = split(text)?;
        if split.len() > STATEMENTS_MAX {
            let count = split.len();
            let told = Told::new(TOO_LONG, format!("a text has {count} statements; at most {STATEMENTS_MAX} are read"));
            return Err(told.with_hint("send them in several texts").into());
        }
        if split.is_empty() {
            return Ok(self.answers.push(Answer::EmptyQueryResponse(EmptyQueryResponse::new())).await?);
        }
        let mut portals = Vec::with_capacity(split.len());
        // A cancellation is one of the whole text.
        let watch = self.watch();
        for mut piece in split {
            let work = self.work(&mut piece, &watch).await?;
            portals.push(Portal::new(Arc::new(piece), work, Vec::new()));
        }
        for mut portal in portals {
            self.may_run(&portal.work)?;
            let watch = Watch { timeout: self.timeout(), ..watch.clone() };
            self.execute(&mut portal, None, true, &watch).await?;
        }
        Ok(())
    }

    /// Reads a statement, and forgets words that no answer needs. One about PostgreSQL's own tables loses its text, for the engine
    /// reads another.
    pub(super) async fn work(&mut self, piece: &mut Piece, watch: &Watch) -> Result<Work, Stop> {
        let mut command = Command::of(piece)?;
        let to_parse = match &mut command {
            Command::Sql => &mut *piece,
            Command::Declare { query, .. } | Command::CopyOut(CopyOut { query, .. }) => query,
            _ => {
                forget_words(piece);
                return Ok(Work::Command(command, None));
            }
        };
        let mut rewritten = None;
        if may_mention(to_parse) {
            let preparing = Box::pin(self.pg_catalog.prepare(&self.session, to_parse));
            let prepared = in_turn(&self.door, &self.principal, watch, |_| preparing).await?;
            rewritten = prepared.map_err(|error| Told::from(&error))?;
        }
        let statement = if let Some(Rewritten { text, is_partial }) = rewritten {
            if is_partial {
                self.answers
                    .warning("01000", "there are very many tables; the columns of the first ones are shown")
                    .await?;
            }
            to_parse.text.clear();
            watch.over(self.parse(&text)).await?
        } else {
            watch.over(self.parse(&to_parse.text)).await?
        };
        forget_words(to_parse);
        let statement = statement.map_err(|error| Told::of(&error, &to_parse.text, to_parse.characters_before))?;
        forget_words(piece);
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
        let ends = matches!(work, Work::Command(command, _) if command.mends_transaction());
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
        Watch {
            cancelled: self.key.begin(),
            gone: self.ends.gone.clone(),
            stopping: self.ends.stopping.clone(),
            timeout: self.timeout(),
        }
    }

    /// Returns the end of a statement that begins now, by the client's own time-out.
    fn timeout(&self) -> Option<(Instant, Duration)> {
        self.settings.statement_timeout().map(|timeout| (Instant::now() + timeout, timeout))
    }
}

fn forget_words(piece: &mut Piece) {
    piece.words.truncate(WORDS_KEPT);
    piece.words.shrink_to_fit();
}

/// Splits a text into statements, within the bound on its length.
pub(super) fn split(text: &str) -> Result<Vec<Piece>, Told> {
    if text.len() > SQL_BYTES_MAX {
        return Err(Told::new(TOO_LONG, format!("a text has {} bytes; at most {SQL_BYTES_MAX} are read", text.len())));
    }
    pieces(text).map_err(|error| Told::of(&error, text, 0))
}
