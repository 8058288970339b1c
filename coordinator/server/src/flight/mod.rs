//! Arrow Flight SQL on the server's port: queries, prepared statements, metadata.
//!
//! ```text
//!  message ─► http (host, user) ─► service ─► handles, metadata ─► planning (a queue beside that of queries)
//!                                     └ DoGet ─► admission ─► run (a task) ─► batches ─► messages
//! ```
//!
//! A FlightInfo starts nothing: its ticket has the statement, and DoGet runs it. A statement ends with its stream, or by CancelFlightInfo.
//! PollFlightInfo submits it instead, and its rows are kept. Each call has a session of its own, with the options of the session whose
//! cookie it has.
//!
//! Non-goals: Substrait, transactions, bulk loads. Gust reads.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow_flight::flight_service_server::FlightServiceServer;
use arrow_flight::{FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket};
use arrow_ipc::writer::IpcWriteOptions;
use axum::{Router, middleware};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use gust_engine::error::QueryError;
use gust_engine::session::{Described, OWN_CATALOG, OWN_SCHEMA, Session, Statement};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

mod abilities;
mod bodies;
mod calls;
mod cancel;
mod handles;
mod keys;
mod metadata;
mod parameters;
mod poll;
mod rows;
mod service;
mod sessions;
mod status;
mod wishes;

use crate::admission::Permit;
use crate::door::{Door, PLANNING_TIME_MAX, SessionWishes};
use crate::otlp::trace_parent;
use crate::run::{Asked, dismissed, panicked, parsed};
use crate::tokens::Principal;
use calls::Calls;
use cancel::Streams;
use handles::Handles;
use sessions::Sessions;
pub(crate) use status::as_status;
use status::{of_error, of_flight, of_full};
use wishes::{Wishes, wishes};

/// Location that stands for the connection on which the client asked.
const SAME_CONNECTION: &str = "arrow-flight-reuse-connection://?";

/// Most bytes of a statement.
const SQL_BYTES_MAX: usize = 1 << 20;

/// The service.
#[derive(Debug)]
struct Flight {
    door: Arc<Door>,
    handles: Handles,
    streams: Streams,
    sessions: Sessions,
}

/// Makes the routes of the service.
pub(crate) fn routes(door: Arc<Door>) -> Router {
    let (handles, streams, sessions) = (Handles::default(), Streams::default(), Sessions::default());
    let flight = Flight { door, handles, streams, sessions };
    let service = FlightServiceServer::new(Calls(Arc::new(flight)));
    let routes = Routes::new(service.max_decoding_message_size(bodies::MESSAGE_BYTES_MAX)).into_axum_router();
    routes.layer(middleware::from_fn_with_state(bodies::places(), bodies::bounded))
}

/// Returns the user of a call, whom the layer above has found.
fn principal<T>(request: &Request<T>) -> Result<Principal, Status> {
    let principal = request.extensions().get::<Principal>().cloned();
    principal.ok_or_else(|| Status::internal("nobody has asked who the user is"))
}

fn bounded(sql: String) -> Result<String, Status> {
    match sql.len() <= SQL_BYTES_MAX {
        true => Ok(sql),
        false => Err(Status::invalid_argument(format!("the statement is longer than {SQL_BYTES_MAX} bytes"))),
    }
}

/// Returns the text of a handle or a ticket.
fn text(bytes: Bytes) -> Result<String, Status> {
    String::from_utf8(bytes.into()).map_err(|_| Status::not_found("the handle is not of this server"))
}

fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let message: Result<IpcMessage, _> = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into();
    let IpcMessage(bytes) = message.map_err(|error: ArrowError| of_flight(error))?;
    Ok(bytes)
}

/// Makes the answer that leads to rows. Their columns, as the stream tells them, may be unknown until the statement runs.
fn info(schema: Option<&Schema>, ticket: Bytes, of: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket)).with_location(SAME_CONNECTION);
    let mut info = FlightInfo::new().with_endpoint(endpoint).with_descriptor(of.into_inner());
    if let Some(schema) = schema {
        info = info.try_with_schema(schema).map_err(of_flight)?;
    }
    Ok(Response::new(info))
}

impl Flight {
    /// Makes the request of a call, with the options of its session where the call has no wishes of its own.
    fn asked<T>(&self, call: &Request<T>, sql: String) -> Result<Asked, Status> {
        let (principal, Wishes { mut session, dry_run }) = (principal(call)?, wishes(call)?);
        self.sessions.narrow(&principal, call, &mut session);
        session.trace_parent = trace_parent(call.metadata().as_ref());
        Ok(Asked { principal, sql, dry_run, is_linked: false, wishes: session })
    }

    /// Opens a session in which names can be listed whatever the catalog of bare names says.
    async fn listing_session(&self, principal: &Principal) -> Result<Session, Status> {
        let session = self.door.session(principal, SessionWishes::default()).await;
        let session = session.map_err(|error| of_error(&error))?;
        session.use_schema(OWN_CATALOG, OWN_SCHEMA);
        Ok(session)
    }

    /// Does what plans or lists, in its turn, which ends with the work, and with threads that hold it.
    async fn in_turn<'a, T>(
        &self,
        principal: &Principal,
        work: impl FnOnce(Arc<Permit>) -> BoxFuture<'a, Result<T, Status>> + Send,
    ) -> Result<T, Status> {
        let user = principal.user.as_deref().unwrap_or_default();
        let turn = Arc::new(self.door.planning.queue(user).map_err(|full| of_full(&full))?.turn().await);
        let work = AssertUnwindSafe(work(Arc::clone(&turn))).catch_unwind();
        let work = tokio::time::timeout(PLANNING_TIME_MAX, work);
        tokio::select! {
            done = work => match done {
                Ok(Ok(done)) => done,
                Ok(Err(_)) => Err(of_error(&panicked())),
                Err(_) => Err(of_error(&QueryError::timed_out(PLANNING_TIME_MAX))),
            },
            () = self.door.dismissed(principal) => Err(of_error(&dismissed())),
            () = self.door.stopping.cancelled() => Err(Status::unavailable("the server shuts down")),
        }
    }

    /// Returns the types of a statement's parameters and rows. Those of several statements are known when they run.
    async fn describe(&self, asked: Asked, values: Vec<ScalarValue>) -> Result<Described, Status> {
        let Asked { principal, sql, dry_run, wishes, .. } = asked;
        let of_user = &principal;
        let describing = move |turn: Arc<Permit>| {
            let described = async move {
                let session = self.door.session(of_user, wishes).await?;
                let mut statements = parsed(&session, sql).await?;
                if dry_run {
                    statements = statements.into_iter().map(Statement::as_dry_run).collect();
                }
                let last = statements.pop().ok_or_else(|| QueryError::sql("there is no statement"))?;
                match statements.is_empty() {
                    true => session.describe_holding(last.with_parameters(values), &[], Box::new(turn)).await,
                    false => Ok(Described { parameters: Vec::new(), schema: None }),
                }
            };
            described.map_err(|error: QueryError| of_error(&error)).boxed()
        };
        self.in_turn(&principal, describing).await
    }
}
