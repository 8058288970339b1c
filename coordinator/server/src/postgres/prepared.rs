//! The extended protocol: statements that are prepared, bound to values, described and executed.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use gust_engine::session::{Described, Piece};
use pgwire::api::Type;
use pgwire::messages::PgWireBackendMessage as Answer;
use pgwire::messages::data::NoData;
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete};
use tokio::io::AsyncWrite;

use super::answers::Told;
use super::commands::Command;
use super::connection::{Connection, split};
use super::messages::{Bind, Target};
use super::parameters::{arrow_type, declared, value};
use super::portals::{Portal, Work, shown};
use super::query::in_turn;
use super::rows::{Columns, parameter_description, pg_type};
use super::watch::Stop;

/// Most statements that a connection prepares, and most portals that it opens.
const STATEMENTS_MAX: usize = 1_000;
const PORTALS_MAX: usize = 100;

/// Most bytes of the texts of a connection's prepared statements, whose trees are many times as large.
const STATEMENT_BYTES_MAX: usize = 4 << 20;

/// Most bytes of the values of a connection's portals.
const VALUE_BYTES_MAX: usize = 64 << 20;

/// SQLSTATE codes of PostgreSQL.
const SYNTAX: &str = "42601";
const STATEMENT_EXISTS: &str = "42P05";
const NO_STATEMENT: &str = "26000";
const PORTAL_EXISTS: &str = "42P03";
const NO_PORTAL: &str = "34000";
const TOO_MANY: &str = "53400";
const PROTOCOL: &str = "08P01";

/// Statement that a client has prepared.
#[derive(Debug)]
pub(super) struct Prepared {
    piece: Arc<Piece>,
    /// Bytes of the client's text.
    bytes: usize,
    work: Prototype,
    /// Types of parameters; None where the client leaves them open.
    declared: Vec<Option<Type>>,
    /// Types of parameters and rows, once they were asked for.
    described: Option<Arc<Described>>,
}

#[derive(Debug, Clone)]
enum Prototype {
    Empty,
    Command(Command, Option<gust_engine::session::Statement>),
    Statement(gust_engine::session::Statement),
}

impl Prepared {
    /// Returns the types of its parameters on the wire.
    fn parameters(&self, described: &Described) -> Vec<Type> {
        let declared = |index: usize| self.declared.get(index).cloned().flatten();
        let types = described.parameters.iter().enumerate();
        types.map(|(index, data_type)| declared(index).unwrap_or_else(|| pg_type(data_type))).collect()
    }
}

impl<W: AsyncWrite + Unpin> Connection<W> {
    /// Prepares a statement.
    pub(super) async fn prepare(&mut self, name: String, sql: &str, types: &[u32]) -> Result<(), Stop> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Told::new(STATEMENT_EXISTS, format!("there is a prepared statement `{name}` already")).into());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            let told = Told::new(TOO_MANY, format!("{STATEMENTS_MAX} statements are prepared; no more are kept"));
            return Err(told.with_hint("DEALLOCATE ALL").into());
        }
        let others = self.statements.iter().filter(|(other, _)| **other != name);
        let bytes = sql.len() + others.map(|(_, prepared)| prepared.bytes).sum::<usize>();
        if bytes > STATEMENT_BYTES_MAX {
            let message = format!("prepared statements have {bytes} bytes; at most {STATEMENT_BYTES_MAX} are kept");
            return Err(Told::new(TOO_MANY, message).with_hint("DEALLOCATE ALL").into());
        }
        let declared = types.iter().map(|oid| declared(*oid)).collect::<Result<Vec<_>, _>>()?;
        let mut pieces = split(sql)?;
        let piece = pieces.pop();
        if !pieces.is_empty() {
            return Err(Told::new(SYNTAX, "one statement is prepared at a time").into());
        }
        let (piece, work) = match piece {
            None => (Piece { text: String::new(), characters_before: 0, words: Vec::new() }, Prototype::Empty),
            Some(mut piece) => {
                let watch = self.watch();
                let work = match self.work(&mut piece, &watch).await? {
                    Work::Command(command, statement) => Prototype::Command(command, statement),
                    Work::Statement(statement) => Prototype::Statement(statement),
                    Work::Empty | Work::Open(_) | Work::Done => Prototype::Empty,
                };
                (piece, work)
            }
        };
        let bytes = sql.len();
        self.statements.insert(name, Prepared { piece: Arc::new(piece), bytes, work, declared, described: None });
        Ok(self.answers.push(Answer::ParseComplete(ParseComplete::new())).await?)
    }

    /// Returns the types of a prepared statement.
    async fn described(&mut self, name: &str) -> Result<Arc<Described>, Stop> {
        let prepared = self.statement(name)?;
        if let Some(described) = &prepared.described {
            return Ok(Arc::clone(described));
        }
        let schema = match &prepared.work {
            Prototype::Statement(statement) | Prototype::Command(Command::Declare { .. }, Some(statement)) => {
                let types: Vec<Option<DataType>> =
                    prepared.declared.iter().map(|declared| declared.as_ref().and_then(arrow_type)).collect();
                let (statement, piece) = (statement.clone(), Arc::clone(&prepared.piece));
                let is_cursor = matches!(prepared.work, Prototype::Command(..));
                let (watch, session) = (self.watch(), &self.session);
                let described = in_turn(&self.door, &self.principal, &watch, |turn| {
                    session.describe_holding(statement, &types, Box::new(turn))
                });
                let described = described.await?;
                let failed = |error| Told::of(&error, &piece.text, piece.characters_before);
                let Described { parameters, schema } = described.map_err(failed)?;
                // DECLARE itself has no rows.
                let described = Arc::new(Described { parameters, schema: schema.filter(|_| !is_cursor) });
                if let Some(prepared) = self.statements.get_mut(name) {
                    prepared.described = Some(Arc::clone(&described));
                }
                return Ok(described);
            }
            Prototype::Command(Command::Show(setting), _) => Some(shown(setting)),
            Prototype::Command(Command::Fetch(fetch), _) => self.cursor_schema(&fetch.cursor),
            Prototype::Command(..) | Prototype::Empty => None,
        };
        Ok(Arc::new(Described { parameters: Vec::new(), schema }))
    }

    fn statement(&self, name: &str) -> Result<&Prepared, Told> {
        self.statements
            .get(name)
            .ok_or_else(|| Told::new(NO_STATEMENT, format!("there is no prepared statement `{name}`")))
    }

    fn cursor_schema(&self, cursor: &str) -> Option<SchemaRef> {
        self.portals.get(cursor).and_then(Portal::schema).cloned()
    }

    pub(super) fn has_room_for_a_portal(&self) -> Result<(), Told> {
        if self.portals.len() < PORTALS_MAX {
            return Ok(());
        }
        let told = Told::new(TOO_MANY, format!("{PORTALS_MAX} portals are open; no more are kept"));
        Err(told.with_hint("close cursors, or end the transaction"))
    }

    /// Makes a portal of a statement and its values.
    pub(super) async fn bind(&mut self, bind: Bind) -> Result<(), Stop> {
        let Bind { portal, statement: name, formats, values, result_formats } = bind;
        if portal.is_empty() {
            self.portals.remove("");
        }
        if self.portals.contains_key(&portal) {
            return Err(Told::new(PORTAL_EXISTS, format!("there is a portal `{portal}` already")).into());
        }
        self.has_room_for_a_portal()?;
        let of_values: usize = values.iter().flatten().map(|value| value.len()).sum();
        let bytes = of_values + self.portals.values().map(|portal| portal.value_bytes).sum::<usize>();
        if bytes > VALUE_BYTES_MAX {
            let message = format!("the values of portals have {bytes} bytes; at most {VALUE_BYTES_MAX} are kept");
            return Err(Told::new(TOO_MANY, message).with_hint("close portals, or end the transaction").into());
        }
        let told = self.statement(&name)?.described.clone();
        let described = match told {
            Some(described) => Some(described),
            None if values.is_empty() && self.statement(&name)?.declared.is_empty() => None,
            None => Some(self.described(&name).await?),
        };
        let prepared = self.statement(&name)?;
        let mut parameters = Vec::with_capacity(values.len());
        if let Some(described) = &described {
            let wanted = described.parameters.len();
            if values.len() != wanted || (formats.len() > 1 && formats.len() != wanted) {
                let given = values.len();
                let message = format!("{given} values are bound, and the statement has {wanted} parameters");
                return Err(Told::new(PROTOCOL, message).into());
            }
            let types = prepared.parameters(described);
            for (index, bytes) in values.iter().enumerate() {
                let is_binary = formats.get(index).or(formats.first()) == Some(&1);
                let (wire, data_type) = (&types[index], &described.parameters[index]);
                parameters.push(value(index + 1, bytes.as_deref(), is_binary, wire, data_type)?);
            }
        }
        let with_values = |statement: &gust_engine::session::Statement| statement.clone().with_parameters(parameters);
        let work = match &prepared.work {
            Prototype::Empty => Work::Empty,
            Prototype::Statement(statement) => Work::Statement(with_values(statement)),
            Prototype::Command(command, statement) => {
                Work::Command(command.clone(), statement.as_ref().map(with_values))
            }
        };
        let mut made = Portal::new(Arc::clone(&prepared.piece), work, result_formats);
        made.value_bytes = of_values;
        made.described = described.and_then(|described| described.schema.clone());
        self.portals.insert(portal, made);
        Ok(self.answers.push(Answer::BindComplete(BindComplete::new())).await?)
    }

    /// Tells the types of a statement or a portal.
    pub(super) async fn describe(&mut self, target: &Target) -> Result<(), Stop> {
        let columns = match target {
            Target::Statement(name) => {
                let described = self.described(name).await?;
                let types = self.statement(name)?.parameters(&described);
                self.answers.push(Answer::ParameterDescription(parameter_description(&types))).await?;
                described.schema.as_ref().map(|schema| Columns::new(schema, &[])).transpose()?
            }
            Target::Portal(name) => {
                let portal = self.portal(name)?;
                let formats = portal.formats.clone();
                let schema = match (portal.schema(), &portal.work) {
                    (Some(schema), _) => Some(Arc::clone(schema)),
                    (None, Work::Statement(statement)) => {
                        let (statement, piece) = (statement.clone(), Arc::clone(&portal.piece));
                        let (watch, session) = (self.watch(), &self.session);
                        let described = in_turn(&self.door, &self.principal, &watch, |turn| {
                            session.describe_holding(statement, &[], Box::new(turn))
                        });
                        let described = described.await?;
                        let failed = |error| Told::of(&error, &piece.text, piece.characters_before);
                        described.map_err(failed)?.schema
                    }
                    (None, Work::Command(Command::Show(setting), _)) => Some(shown(setting)),
                    (None, Work::Command(Command::Fetch(fetch), _)) => self.cursor_schema(&fetch.cursor),
                    (None, _) => None,
                };
                if let (Some(portal), Some(schema)) = (self.portals.get_mut(name), &schema) {
                    portal.described = Some(Arc::clone(schema));
                }
                schema.map(|schema| Columns::new(&schema, &formats)).transpose()?
            }
        };
        let answer = match columns {
            Some(columns) => Answer::RowDescription(columns.description()),
            None => Answer::NoData(NoData::new()),
        };
        Ok(self.answers.push(answer).await?)
    }

    fn portal(&self, name: &str) -> Result<&Portal, Told> {
        self.portals.get(name).ok_or_else(|| Told::new(NO_PORTAL, format!("there is no portal `{name}`")))
    }

    /// Executes a portal, up to so many rows; 0 stands for all.
    pub(super) async fn execute_portal(&mut self, name: &str, rows: usize) -> Result<(), Stop> {
        self.may_run(&self.portal(name)?.work)?;
        // The portal of a statement that fails is gone.
        let Some(mut portal) = self.portals.remove(name) else { return Ok(()) };
        let watch = self.watch();
        self.execute(&mut portal, Some(rows).filter(|rows| *rows > 0), false, &watch).await?;
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// Closes a statement or a portal. One that is not there is closed already.
    pub(super) async fn close(&mut self, target: &Target) -> Result<(), Stop> {
        match target {
            Target::Statement(name) => drop(self.statements.remove(name)),
            Target::Portal(name) => drop(self.portals.remove(name)),
        }
        Ok(self.answers.push(Answer::CloseComplete(CloseComplete::new())).await?)
    }
}
