//! Commands that the connection carries out itself: transactions, settings, cursors.

use std::sync::Arc;

use gust_engine::session::{OWN_CATALOG, Piece, Statement};
use pgwire::messages::PgWireBackendMessage as Answer;
use pgwire::messages::response::TransactionStatus;
use pgwire::messages::startup::ParameterStatus;
use tokio::io::AsyncWrite;

use super::answers::Told;
use super::commands::Command;
use super::connection::Connection;
use super::portals::{Portal, Work};
use super::query::in_turn;
use super::watch::{Stop, Watch};

/// Most savepoints of a transaction.
const SAVEPOINTS_MAX: usize = 1_000;

/// SQLSTATE codes of PostgreSQL.
const TOO_LONG: &str = "54000";
const IN_TRANSACTION: &str = "25001";
const NO_TRANSACTION: &str = "25P01";
const NO_SAVEPOINT: &str = "3B001";
const NO_CURSOR: &str = "34000";
const CURSOR_EXISTS: &str = "42P03";

impl<W: AsyncWrite + Unpin> Connection<W> {
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
            Command::Savepoint(name) => {
                self.is_in_transaction("SAVEPOINT")?;
                if self.savepoints.len() >= SAVEPOINTS_MAX {
                    let told = Told::new(TOO_LONG, format!("a transaction has at most {SAVEPOINTS_MAX} savepoints"));
                    return Err(told.with_hint("RELEASE those that are not needed").into());
                }
                self.savepoints.push(name);
                "SAVEPOINT"
            }
            Command::Release(name) => {
                self.is_in_transaction("RELEASE")?;
                let at = self.savepoint(&name)?;
                self.savepoints.truncate(at);
                "RELEASE"
            }
            Command::RollbackTo(name) => {
                self.is_in_transaction("ROLLBACK TO")?;
                let at = self.savepoint(&name)?;
                self.savepoints.truncate(at + 1);
                self.transaction = TransactionStatus::Transaction;
                "ROLLBACK"
            }
            Command::Commit | Command::Rollback => {
                self.end_local().await?;
                let before = std::mem::replace(&mut self.transaction, TransactionStatus::Idle);
                if before == TransactionStatus::Idle {
                    self.answers.warning(NO_TRANSACTION, "there is no transaction").await?;
                }
                self.close_cursors();
                if command == Command::Commit && before != TransactionStatus::Error { "COMMIT" } else { "ROLLBACK" }
            }
            Command::Ignored(tag) => tag,
            Command::Set { name, value, is_local } => {
                let before = self.settings.own(name);
                self.set(name, value.as_deref()).await?;
                if is_local && self.transaction == TransactionStatus::Idle {
                    // The statement is its own transaction.
                    self.set(name, before.as_deref()).await?;
                } else if is_local {
                    self.before_local.entry(name).or_insert(before);
                } else {
                    self.before_local.remove(name);
                }
                if value.is_some() { "SET" } else { "RESET" }
            }
            Command::ResetAll => {
                self.settings_back().await?;
                "RESET"
            }
            Command::DiscardAll => {
                if self.transaction != TransactionStatus::Idle {
                    return Err(Told::new(IN_TRANSACTION, "DISCARD ALL is not carried out in a transaction").into());
                }
                self.portals.clear();
                self.statements.clear();
                self.open_anew(watch).await?;
                self.settings_back().await?;
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
            Command::Show(_) | Command::Fetch(_) | Command::CopyOut(_) | Command::Sql => "SELECT 0",
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
    pub(super) async fn take(
        &mut self,
        name: &'static str,
        value: Option<&str>,
    ) -> Result<Option<(&'static str, String)>, Told> {
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
    fn look_up_in(&self, path: &str) {
        let mut schemas = path.split(',').map(|schema| schema.trim().trim_matches(['"', '\'']));
        let Some(schema) = schemas.find(|schema| !["$user", "public", ""].contains(schema)) else {
            let [catalog, schema] = &self.home;
            self.session.use_schema(catalog, schema);
            return;
        };
        self.session.use_schema(self.catalog.as_deref().unwrap_or(OWN_CATALOG), schema);
    }

    /// Opens a new session: its tables, views and settings are those of a new connection.
    async fn open_anew(&mut self, watch: &Watch) -> Result<(), Stop> {
        let opened = watch.over(Box::pin(self.door.session(&self.principal, self.wishes.clone()))).await?;
        self.session = opened.map_err(|error| Told::from(&error))?;
        self.pg_catalog.begin_anew();
        self.take("TimeZone", None).await?;
        Ok(())
    }

    fn is_in_transaction(&self, what: &str) -> Result<(), Told> {
        match self.transaction {
            TransactionStatus::Idle => {
                Err(Told::new(NO_TRANSACTION, format!("{what} needs a transaction")).with_hint("BEGIN"))
            }
            _ => Ok(()),
        }
    }

    fn savepoint(&self, name: &str) -> Result<usize, Told> {
        let at = self.savepoints.iter().rposition(|savepoint| savepoint == name);
        at.ok_or_else(|| Told::new(NO_SAVEPOINT, format!("there is no savepoint `{name}`")))
    }

    /// Sets back what SET LOCAL has changed, and forgets savepoints.
    async fn end_local(&mut self) -> Result<(), Stop> {
        self.savepoints.clear();
        for (name, value) in std::mem::take(&mut self.before_local) {
            self.set(name, value.as_deref()).await?;
        }
        Ok(())
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
        let (session, of_cursor) = (&self.session, statement.clone());
        let described = in_turn(&self.door, &self.principal, watch, |turn| {
            session.describe_holding(of_cursor, &[], Box::new(turn))
        });
        let described = described.await?;
        let described = described.map_err(|error| Told::of(&error, &query.text, query.characters_before))?;
        let mut portal = Portal::new(Arc::new(query), Work::Statement(statement), Vec::new());
        portal.described = described.schema;
        portal.outlives_transaction = outlives_transaction;
        self.portals.insert(cursor, portal);
        Ok(())
    }
}
