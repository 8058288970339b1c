//! The function binary as the tests start it: the same few lines as fragment-fn's own `bootstrap`.
//!
//! With `TEST_OTHER_RELEASE` it is a function of another release: it finds another engine's name in each request.

use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use fragment_fn::{Environment, Settings, bootstrap, handler};

#[tokio::main]
async fn main() -> ExitCode {
    let served = match std::env::var_os("TEST_OTHER_RELEASE") {
        None => bootstrap::run().await,
        Some(_) => {
            let environment = Arc::new(Environment::new(Settings::default()));
            let handler = move |payload: Bytes, deadline| {
                let environment = Arc::clone(&environment);
                let payload = String::from_utf8_lossy(&payload).replace(datafusion::DATAFUSION_VERSION, "0.0.0");
                async move { handler::handle(&environment, payload.into(), deadline).await }
            };
            bootstrap::serve(handler).await
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
