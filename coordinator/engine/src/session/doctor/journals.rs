//! Tries if journals of submitted statements can be kept in the exchange.

use uuid::Uuid;

use super::ailing;
use crate::config::JournalsWanted;
use crate::error::QueryError;
use crate::exchange::{Exchange, Journals};
use crate::session::Engine;

/// Fate of submitted statements without journals.
const END_WITH_SERVER: &str = "submitted statements end with their server";

impl Engine {
    /// Tells if the exchange's store creates an object once, as journals need it. One object is written and deleted again.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if the store cannot be written.
    pub async fn creates_once(&self) -> Result<bool, QueryError> {
        let exchange = self.exchange();
        // Each try has an id of its own, as each server has.
        let tried = Journals::of(exchange).creates_once(&Uuid::now_v7().simple().to_string()).await;
        tried.map_err(|error| {
            let Exchange { access, prefix, .. } = exchange;
            let what = format!("{}{prefix}: {error}", access.url);
            ailing(what, "check `exchange`, the credentials and the bucket's policy").with_source(error)
        })
    }

    /// Returns the doctor's finding; None where no journals are wanted. Queries need none: their lack is no fault.
    pub(super) async fn examine_journals(&self) -> Option<Result<String, QueryError>> {
        let told = match self.config.journals() {
            JournalsWanted::No => return None,
            JournalsWanted::WithoutTexts => Ok(format!("none, for the history keeps no texts: {END_WITH_SERVER}")),
            JournalsWanted::Yes => self.creates_once().await.map(|creates_once| match creates_once {
                true => "the exchange creates an object once: submitted statements outlive their server".to_owned(),
                false => format!("the exchange does not create an object once (If-None-Match): {END_WITH_SERVER}"),
            }),
        };
        Some(told)
    }
}
