//! Ends of a statement from outside: its client cancels it or goes, its time passes, the server stops.

use std::io;
use std::time::Duration;

use gust_engine::error::QueryError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answers::Told;

/// SQLSTATE codes of PostgreSQL.
const CANCELLED: &str = "57014";
const SHUTTING_DOWN: &str = "57P01";

/// Reason why a message is not carried out to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The client is told, and the connection goes on.
    Failed(Told),
    /// The client is told, and the connection ends.
    Ends(Told),
    Gone,
}

impl From<Told> for Stop {
    fn from(told: Told) -> Self {
        Self::Failed(told)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Tokens of a statement's ends.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    pub(super) cancelled: CancellationToken,
    pub(super) gone: CancellationToken,
    pub(super) stopping: CancellationToken,
    pub(super) timeout: Option<(Instant, Duration)>,
}

impl Watch {
    /// Waits for a value, unless the statement ends before.
    pub(super) async fn over<T>(&self, value: impl Future<Output = T>) -> Result<T, Stop> {
        let late = async {
            match self.timeout {
                Some((at, _)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Stop::Gone),
            () = self.stopping.cancelled() => Err(Stop::Ends(shutting_down())),
            () = self.cancelled.cancelled() => Err(Told::from(&QueryError::interrupted()).into()),
            () = late => {
                let after = self.timeout.map(|(_, after)| after.as_millis()).unwrap_or_default();
                let told = Told::new(CANCELLED, format!("the statement did not finish within {after} ms"));
                Err(told.with_hint("raise statement_timeout").into())
            }
            value = value => Ok(value),
        }
    }
}

/// Makes the error of a connection that ends with the server.
pub(super) fn shutting_down() -> Told {
    Told::new(SHUTTING_DOWN, "the server shuts down")
}
