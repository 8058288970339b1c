//! Statements that a server runs, over Flight SQL: this program sends their text, writes the rows and tells the report.
//!
//! Non-goals: several results. The statements are one request, and the rows are the last one's.

use std::fmt::Write;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::Ticket;
use arrow_flight::decode::{DecodedFlightData, DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use futures::{Stream, StreamExt, stream};
use gust_engine::config::Label;
use gust_engine::error::{ErrorKind, with_causes};
use gust_engine::money::Money;
use gust_protocol::with_hint_line;
use prost::Message;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::CommandError;
use super::args::ServerArgs;
use super::exit::Exit;

mod connect;
pub(super) mod query;

use connect::{Connected, connect};

/// Most bytes of one message of the server. Its rows come in messages of about 2 MiB, and one row is never split.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Header with the wishes for the statements' session.
const REQUEST: &str = "gust-request";

/// Header with the kind of an error.
const KIND: &str = "gust-kind";

/// Next step where the answer is not of this protocol.
const NOT_GUST: &str = "is it `gust serve`, of the version of this program? With TLS, the URL begins with https://";

/// Facts beside the columns of a statement's rows.
#[derive(Debug, Deserialize)]
struct Begun {
    query_id: String,
    is_silent: bool,
}

/// Facts beside the end of the rows.
#[derive(Debug, Deserialize)]
pub(super) struct Ended {
    /// Report as JSON, as the server wrote it.
    pub(super) report: Box<RawValue>,
    pub(super) report_text: String,
}

/// Failure of a statement, or of the connection.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failed {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl From<Failed> for CommandError {
    fn from(Failed { exit, message, hint }: Failed) -> Self {
        Self::new(exit, message).with_hint(hint)
    }
}

impl From<&Status> for Failed {
    fn from(status: &Status) -> Self {
        // A status with a cause was made here: the server has not answered with it.
        if std::error::Error::source(status).is_some() {
            return unreadable(with_causes(status));
        }
        let begins_hint = with_hint_line("", Some(""));
        let (message, hint) = match status.message().split_once(&begins_hint) {
            Some((message, hint)) => (message, Some(hint.to_owned())),
            None => (status.message(), None),
        };
        let kind = status.metadata().get(KIND).and_then(|kind| kind.to_str().ok());
        let kind = ErrorKind::ALL.into_iter().find(|known| kind == Some(known.name()));
        let exit = match (kind, status.code()) {
            // Nobody has pressed Ctrl-C here.
            (Some(ErrorKind::Interrupted), _) => Exit::QueryFailed,
            (Some(kind), _) => Exit::of(kind),
            (None, Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented) => Exit::Usage,
            (None, _) => Exit::QueryFailed,
        };
        let hint = match (kind, status.code()) {
            (None, Code::Unauthenticated) => {
                Some("name a file with the token by --token-file, or set GUST_TOKEN".to_owned())
            }
            (None, Code::Unimplemented) => Some(NOT_GUST.to_owned()),
            _ => hint,
        };
        Self { exit, message: message.to_owned(), hint }
    }
}

impl From<FlightError> for Failed {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => Self::from(&*status),
            error => Self {
                exit: Exit::QueryFailed,
                message: format!("the server's answer cannot be read: {error}"),
                hint: None,
            },
        }
    }
}

/// Statements of one request.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) sql: String,
    pub(super) catalog: Option<&'a str>,
    pub(super) cap: Option<Money>,
    pub(super) timeout: Option<Duration>,
    pub(super) labels: &'a [Label],
    pub(super) dry_run: bool,
}

impl Wanted<'_> {
    /// Returns the members of a request of the HTTP API, in the letters of a header.
    fn header(&self) -> String {
        let mut members = serde_json::Map::new();
        let mut put = |name: &str, value: Option<Value>| value.map(|value| members.insert(name.to_owned(), value));
        put("catalog", self.catalog.map(Value::from));
        put("max_cost", self.cap.map(|cap| decimals(cap).into()));
        put("timeout_seconds", self.timeout.map(|timeout| timeout.as_secs_f64().into()));
        let labels: serde_json::Map<_, _> =
            self.labels.iter().map(|label| (label.key.clone(), Value::from(label.value.as_str()))).collect();
        put("labels", (!labels.is_empty()).then(|| labels.into()));
        put("dry_run", self.dry_run.then(|| true.into()));
        ascii(&Value::Object(members).to_string())
    }
}

/// Writes an amount of dollars in decimals, exactly.
fn decimals(money: Money) -> String {
    let nano = money.nano_dollars();
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

/// Writes a text of JSON in ASCII. Other letters stand in its texts alone.
fn ascii(json: &str) -> String {
    let mut written = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter.is_ascii() {
            true => written.push(letter),
            false => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    let _never_fails = write!(written, "\\u{unit:04x}");
                }
            }
        }
    }
    written
}

/// Server that runs statements.
#[derive(Debug)]
pub(super) struct Remote {
    client: FlightSqlServiceClient<Channel>,
}

/// Rows of a statement on their way. Dropping it cancels the statement.
pub(super) struct Rows {
    messages: FlightDataDecoder,
    pub(super) schema: SchemaRef,
    /// Id of the statement, as the server's history has it.
    query_id: String,
    /// True if the statement has no rows to show.
    pub(super) is_silent: bool,
    ended: Option<Ended>,
}

impl Remote {
    /// Connects to a server.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) async fn connect(url: &str, args: &ServerArgs) -> Result<Self, CommandError> {
        let Connected { channel, token } = connect(url, args).await?;
        let client = FlightServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut client = FlightSqlServiceClient::new_from_inner(client);
        if let Some(token) = token {
            client.set_token(token);
        }
        Ok(Self { client })
    }

    /// Starts statements, and waits for the columns of the last one's rows.
    ///
    /// # Errors
    /// The statements' own, and those of the connection.
    pub(super) async fn run(&mut self, wanted: &Wanted<'_>) -> Result<Rows, Failed> {
        self.client.set_header(REQUEST, wanted.header());
        // The ticket of a statement is its text. A FlightInfo would have it planned twice.
        let command = TicketStatementQuery { statement_handle: wanted.sql.clone().into() };
        let ticket = Ticket::new(command.as_any().encode_to_vec());
        let mut messages = self.client.do_get(ticket).await?.into_inner();
        match messages.next().await.transpose()? {
            Some(DecodedFlightData { inner, payload: DecodedPayload::Schema(schema) }) => {
                let Begun { query_id, is_silent } = serde_json::from_slice(&inner.app_metadata).map_err(unreadable)?;
                Ok(Rows { messages, schema, query_id, is_silent, ended: None })
            }
            _ => Err(unreadable("it does not begin with columns")),
        }
    }
}

impl Rows {
    /// Returns the batches as they come.
    pub(super) fn batches(&mut self) -> impl Stream<Item = Result<RecordBatch, Failed>> {
        stream::unfold(Some(self), |rows| async {
            let rows = rows?;
            match rows.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(rows))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, Failed> {
        while let Some(message) = self.messages.next().await {
            let DecodedFlightData { inner, payload } = message.map_err(|error| self.broken(error))?;
            if !inner.app_metadata.is_empty() {
                self.ended = Some(serde_json::from_slice(&inner.app_metadata).map_err(unreadable)?);
            }
            if let DecodedPayload::RecordBatch(batch) = payload
                && batch.num_rows() > 0
            {
                return Ok(Some(batch));
            }
        }
        match self.ended {
            Some(_) => Ok(None),
            None => Err(self.cut("the server's rows end early".to_owned())),
        }
    }

    /// Makes the failure of an error among the rows: the server's own words, or the end of its connection.
    fn broken(&self, error: FlightError) -> Failed {
        match error {
            // A status with a cause was made here: the server was one of ours until then.
            FlightError::Tonic(status) if std::error::Error::source(&*status).is_some() => {
                self.cut(format!("the connection to the server broke among the rows: {}", with_causes(&*status)))
            }
            error => Failed::from(error),
        }
    }

    fn cut(&self, message: String) -> Failed {
        let hint = format!("run it again; the server's history has it as {}, if the server still runs", self.query_id);
        Failed { exit: Exit::QueryFailed, message, hint: Some(hint) }
    }

    /// Returns the facts of the end, once all batches have come.
    pub(super) fn ended(self) -> Option<Ended> {
        self.ended
    }
}

fn unreadable(why: impl std::fmt::Display) -> Failed {
    let message = format!("the server's answer cannot be read: {why}");
    Failed { exit: Exit::QueryFailed, message, hint: Some(NOT_GUST.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_written_in_ascii() {
        let labels = [Label::new("team", "caf\u{e9} \u{1f600}\"").expect("a label")];
        let wanted = Wanted {
            sql: "SELECT 1".to_owned(),
            catalog: Some("lake"),
            cap: Some(Money::from_nano_dollars(50_000_001)),
            timeout: Some(Duration::from_millis(1_500)),
            labels: &labels,
            dry_run: true,
        };
        let header = wanted.header();
        assert!(header.is_ascii(), "{header}");
        let read: Value = serde_json::from_str(&header).expect("JSON");
        let expect = serde_json::json!({
            "catalog": "lake",
            "max_cost": "0.050000001",
            "timeout_seconds": 1.5,
            "labels": { "team": "caf\u{e9} \u{1f600}\"" },
            "dry_run": true,
        });
        assert_eq!(read, expect);
    }

    #[test]
    fn a_failure_has_the_exit_code_of_its_kind() {
        for (code, kind, message, exit, hint) in [
            (Code::InvalidArgument, "sql", "no table\nhint: look", Exit::QueryFailed, Some("look")),
            (Code::ResourceExhausted, "cap-reached", "dear", Exit::CapReached, None),
            (Code::DeadlineExceeded, "timed-out", "late", Exit::TimedOut, None),
            (Code::Unavailable, "functions", "gone", Exit::FunctionsFailed, None),
            (Code::Unavailable, "", "gone", Exit::QueryFailed, None),
            (Code::InvalidArgument, "a new kind", "odd", Exit::QueryFailed, None),
        ] {
            let mut status = Status::new(code, message);
            status.metadata_mut().insert(KIND, kind.parse().expect("ASCII"));
            let failed = Failed::from(&status);
            assert_eq!((failed.exit, failed.hint.as_deref()), (exit, hint), "{message}");
            assert!(message.starts_with(&failed.message), "{failed}");
        }
        let refused = Failed::from(&Status::unauthenticated("the token is not known"));
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.hint.is_some_and(|hint| hint.contains("--token-file")));
    }
}
