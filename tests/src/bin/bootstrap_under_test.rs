//! The function binary as the tests start it: the same few lines as fragment-fn's own `bootstrap`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match fragment_fn::bootstrap::run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
