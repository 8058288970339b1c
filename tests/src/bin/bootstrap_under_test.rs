//! The function binary as the tests start it: the same few lines as fragment-fn's own `bootstrap`.
//!
//! To the tests' S3 server each process is a client of its own. With `TEST_OTHER_RELEASE` it plays a function of another
//! release: it finds another engine's version in each request.

use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use fragment_fn::{Environment, EnvironmentSettings, bootstrap, handler};
use gust_tests::s3::identity;

fn main() -> ExitCode {
    let environment = Arc::new(Environment::new(EnvironmentSettings::default()));
    let other_release = std::env::var_os("TEST_OTHER_RELEASE").is_some();
    let handler = move |payload: Bytes, deadline| {
        let environment = Arc::clone(&environment);
        let mut payload = identity::of_this_process(payload);
        if other_release {
            payload = String::from_utf8_lossy(&payload).replace(datafusion::DATAFUSION_VERSION, "0.0.0").into();
        }
        async move { handler::handle(&environment, payload, deadline).await }
    };
    match bootstrap::block_on(|| bootstrap::serve(handler)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", gust_protocol::with_hint_line(&error, error.hint()));
            ExitCode::from(error.exit_code())
        }
    }
}
