//! The calls of Flight SQL.

use std::pin::Pin;

use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, CommandGetCatalogs,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementQuery, CommandStatementUpdate,
    DoPutPreparedStatementResult, ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, Ticket,
};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream};
use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::handles::Bound;
use super::keys::{Keys, types};
use super::poll::stored_id;
use super::rows::{Messages, known, messages, told, update};
use super::sessions::message;
use super::status::of_flight;
use super::{Flight, abilities, bounded, info, metadata, parameters, principal, schema_bytes, text};

/// Most statements that one update runs, one for each row of values.
const UPDATES_MAX: usize = 100;

/// Sign between a statement and the name of its ticket.
const NONCE: char = '\0';

type Info = Result<Response<FlightInfo>, Status>;
type Rows = Result<Response<Messages>, Status>;

/// Returns the statement of a ticket's handle. A client that has made its ticket itself gives it no name.
fn statement_of(handle: &str) -> &str {
    let named = handle.rsplit_once(NONCE).filter(|(_, name)| Uuid::try_parse(name).is_ok());
    named.map_or(handle, |(sql, _)| sql)
}

/// Makes a ticket with a command, which DoGet reads again.
pub(super) fn ticket(command: impl ProstMessageExt) -> Bytes {
    command.as_any().encode_to_vec().into()
}

fn check_tables(query: &CommandGetTables) -> Result<(), Status> {
    let patterns = [&query.catalog, &query.db_schema_filter_pattern, &query.table_name_filter_pattern];
    metadata::check(patterns.map(Option::as_ref), query.table_types.len())
}

#[tonic::async_trait]
impl FlightSqlService for Flight {
    type FlightService = Self;

    /// Returns the secret as a bearer's: the layer above has checked it.
    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>, Status> {
        let secret = crate::http::secret(&request.metadata().clone().into_headers());
        let answer = HandshakeResponse { protocol_version: 0, payload: Bytes::new() };
        let answers: Pin<Box<dyn Stream<Item = _> + Send>> = stream::iter([Ok(answer)]).boxed();
        let mut response = Response::new(answers);
        if let Some(bearer) = secret.and_then(|secret| MetadataValue::try_from(format!("Bearer {secret}")).ok()) {
            response.metadata_mut().insert("authorization", bearer);
        }
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let sql = bounded(query.query)?;
        let described = self.describe(self.asked(&request, sql.clone())?, Vec::new()).await?;
        let columns = described.schema.map(|columns| told(&columns)).transpose()?;
        // A ticket of its own lets its stream be cancelled, and no other.
        let handle = format!("{sql}{NONCE}{}", Uuid::now_v7().simple());
        info(columns.as_deref(), ticket(TicketStatementQuery { statement_handle: handle.into() }), request)
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let principal = principal(&request)?;
        let handle = text(query.prepared_statement_handle)?;
        let prepared = self.handles.get(&principal, &handle)?;
        let Bound { version, values } = prepared.bound();
        let values = parameters::only_values(values.as_ref())?;
        // Values may give columns other types than those that were guessed.
        let columns = match values.is_empty() {
            true => prepared.described.schema.clone(),
            false => {
                prepared.takes(values.len())?;
                self.describe(self.asked(&request, prepared.sql.clone())?, values).await?.schema
            }
        };
        let columns = columns.map(|columns| told(&columns)).transpose()?;
        // The ticket is about these values, and not about those that the client may send later.
        let handle = format!("{handle}.{version}.{}", Uuid::now_v7().simple());
        let command = CommandPreparedStatementQuery { prepared_statement_handle: handle.into() };
        info(columns.as_deref(), ticket(command), request)
    }

    async fn get_flight_info_catalogs(&self, query: CommandGetCatalogs, request: Request<FlightDescriptor>) -> Info {
        info(Some(&query.into_builder().schema()), ticket(query), request)
    }

    async fn get_flight_info_schemas(&self, query: CommandGetDbSchemas, request: Request<FlightDescriptor>) -> Info {
        metadata::check([query.catalog.as_ref(), query.db_schema_filter_pattern.as_ref(), None], 0)?;
        info(Some(&query.clone().into_builder().schema()), ticket(query), request)
    }

    async fn get_flight_info_tables(&self, query: CommandGetTables, request: Request<FlightDescriptor>) -> Info {
        check_tables(&query)?;
        info(Some(&query.clone().into_builder().schema()), ticket(query), request)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(Some(&query.into_builder().schema()), ticket(query), request)
    }

    async fn get_flight_info_sql_info(&self, query: CommandGetSqlInfo, request: Request<FlightDescriptor>) -> Info {
        abilities::check(&query)?;
        info(Some(&abilities::data().schema()), ticket(query), request)
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(Some(&Keys::Primary.rows().schema()), ticket(query), request)
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(Some(&Keys::Foreign.rows().schema()), ticket(query), request)
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(Some(&Keys::Foreign.rows().schema()), ticket(query), request)
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(Some(&Keys::Foreign.rows().schema()), ticket(query), request)
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(Some(&types().schema()), ticket(query), request)
    }

    async fn do_get_statement(&self, ticket: TicketStatementQuery, request: Request<Ticket>) -> Rows {
        let (principal, handle) = (principal(&request)?, text(ticket.statement_handle)?);
        if let Some(id) = stored_id(&handle) {
            return Ok(Response::new(self.stored(&principal, id).await?));
        }
        let asked = self.asked(&request, bounded(statement_of(&handle).to_owned())?)?;
        let starting = messages(&self.door, asked, Vec::new());
        Ok(Response::new(self.streams.of(&principal, &handle, starting).await?))
    }

    async fn do_get_prepared_statement(&self, query: CommandPreparedStatementQuery, request: Request<Ticket>) -> Rows {
        let principal = principal(&request)?;
        let handle = text(query.prepared_statement_handle)?;
        let mut parts = handle.split('.');
        let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let prepared = self.handles.get(&principal, name)?;
        let bound = match version.parse() {
            Ok(version) => prepared.bound_at(version)?,
            Err(_) => prepared.bound(),
        };
        let values = parameters::only_values(bound.values.as_ref())?;
        prepared.takes(values.len())?;
        let starting = messages(&self.door, self.asked(&request, prepared.sql.clone())?, values);
        Ok(Response::new(self.streams.of(&principal, &handle, starting).await?))
    }

    async fn do_get_catalogs(&self, query: CommandGetCatalogs, request: Request<Ticket>) -> Rows {
        let principal = principal(&request)?;
        let listing = async { metadata::catalogs(&self.listing_session(&principal).await?, query) }.boxed();
        Ok(Response::new(known(self.in_turn(&principal, |_| listing).await?)))
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, request: Request<Ticket>) -> Rows {
        metadata::check([query.catalog.as_ref(), query.db_schema_filter_pattern.as_ref(), None], 0)?;
        let principal = principal(&request)?;
        let listing = async { metadata::schemas(&self.listing_session(&principal).await?, query).await }.boxed();
        Ok(Response::new(known(self.in_turn(&principal, |_| listing).await?)))
    }

    async fn do_get_tables(&self, query: CommandGetTables, request: Request<Ticket>) -> Rows {
        check_tables(&query)?;
        let principal = principal(&request)?;
        let listing = async { metadata::tables(&self.listing_session(&principal).await?, query).await }.boxed();
        Ok(Response::new(known(self.in_turn(&principal, |_| listing).await?)))
    }

    async fn do_get_table_types(&self, query: CommandGetTableTypes, _: Request<Ticket>) -> Rows {
        Ok(Response::new(known(metadata::table_types(query)?)))
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, _: Request<Ticket>) -> Rows {
        Ok(Response::new(known(abilities::rows(query)?)))
    }

    async fn do_get_primary_keys(&self, _: CommandGetPrimaryKeys, _: Request<Ticket>) -> Rows {
        Ok(Response::new(known(Keys::Primary.rows())))
    }

    async fn do_get_exported_keys(&self, _: CommandGetExportedKeys, _: Request<Ticket>) -> Rows {
        Ok(Response::new(known(Keys::Foreign.rows())))
    }

    async fn do_get_imported_keys(&self, _: CommandGetImportedKeys, _: Request<Ticket>) -> Rows {
        Ok(Response::new(known(Keys::Foreign.rows())))
    }

    async fn do_get_cross_reference(&self, _: CommandGetCrossReference, _: Request<Ticket>) -> Rows {
        Ok(Response::new(known(Keys::Foreign.rows())))
    }

    async fn do_get_xdbc_type_info(&self, query: CommandGetXdbcTypeInfo, _: Request<Ticket>) -> Rows {
        Ok(Response::new(known(types().record_batch(query.data_type).map_err(of_flight)?)))
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        update(&self.door, self.asked(&request, bounded(command.query)?)?, Vec::new()).await?;
        Ok(0)
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let principal = principal(&request)?;
        let prepared = self.handles.get(&principal, &text(query.prepared_statement_handle.clone())?)?;
        // The old values must not stay where the new ones cannot be had.
        self.handles.bind(&principal, &prepared, None)?;
        self.handles.bind(&principal, &prepared, parameters::read(request).await?)?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(query.prepared_statement_handle) })
    }

    async fn do_put_prepared_statement_update(
        &self,
        query: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let principal = principal(&request)?;
        let prepared = self.handles.get(&principal, &text(query.prepared_statement_handle)?)?;
        let asked = self.asked(&request, prepared.sql.clone())?;
        let Some(given) = parameters::read(request).await? else {
            update(&self.door, asked, Vec::new()).await?;
            return Ok(0);
        };
        if given.rows.num_rows() > UPDATES_MAX {
            return Err(Status::invalid_argument(format!("more than {UPDATES_MAX} updates in one call")));
        }
        for row in 0..given.rows.num_rows() {
            let values = parameters::values(&given.rows, row)?;
            prepared.takes(values.len())?;
            update(&self.door, asked.clone(), values).await?;
        }
        Ok(0)
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let principal = principal(&request)?;
        let sql = bounded(query.query)?;
        let described = self.describe(self.asked(&request, sql.clone())?, Vec::new()).await?;
        let columns = described.schema.as_ref().map(|columns| told(columns)).transpose()?;
        // No columns tell a client that there are no rows. JDBC then sends an update.
        let dataset_schema = columns.map(|columns| schema_bytes(&columns)).transpose()?.unwrap_or_default();
        let parameter_schema = schema_bytes(&parameters::columns(&described.parameters))?;
        let prepared_statement_handle = self.handles.add(principal, sql, described)?.into();
        Ok(ActionCreatePreparedStatementResult { prepared_statement_handle, dataset_schema, parameter_schema })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        self.handles.remove(&principal(&request)?, &text(query.prepared_statement_handle)?);
        Ok(())
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<arrow_flight::Result, Status>> + Send>>>, Status> {
        let principal = principal(&request)?;
        let body = &request.get_ref().body;
        let mut cookie = None;
        let answer: Bytes = match request.get_ref().r#type.as_str() {
            "CancelFlightInfo" => {
                let CancelFlightInfoRequest { info } = message(body)?;
                let status = self.cancel(&principal, &info.unwrap_or_default()).await?;
                CancelFlightInfoResult { status: status.into() }.encode_to_vec().into()
            }
            "SetSessionOptions" => {
                let is_catalog = |name: &str| self.door.has_catalog(&principal, name);
                let changed = self.sessions.set(&principal, &request, message(body)?, is_catalog);
                cookie = changed.cookie;
                changed.refusals.encode_to_vec().into()
            }
            "GetSessionOptions" => self.sessions.get(&principal, &request).encode_to_vec().into(),
            "CloseSession" => {
                self.sessions.close(&principal, &request);
                // Status 1 is "closed".
                Bytes::from_static(&[8, 1])
            }
            name => return Err(Status::unimplemented(format!("there is no action `{name}`"))),
        };
        let answers: Pin<Box<dyn Stream<Item = _> + Send>> =
            stream::iter([Ok(arrow_flight::Result::new(answer))]).boxed();
        let mut response = Response::new(answers);
        if let Some(cookie) = cookie.and_then(|cookie| MetadataValue::try_from(cookie).ok()) {
            response.metadata_mut().insert("set-cookie", cookie);
        }
        Ok(response)
    }

    /// Does what CancelFlightInfo does, for clients that know its predecessor alone.
    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let principal = principal(&request)?;
        let status = self.cancel(&principal, &message(&query.info)?).await?;
        // Both number their states alike.
        Ok(ActionCancelQueryResult { result: status.into() })
    }

    async fn list_custom_actions(&self) -> Option<Vec<Result<ActionType, Status>>> {
        let actions = [
            ("CancelFlightInfo", "Cancels what a FlightInfo leads to"),
            ("SetSessionOptions", "Sets catalog and schema of a session"),
            ("GetSessionOptions", "Tells catalog and schema of a session"),
            ("CloseSession", "Forgets a session"),
        ];
        let action =
            |(name, words): (&str, &str)| Ok(ActionType { r#type: name.to_owned(), description: words.to_owned() });
        Some(actions.map(action).into())
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
