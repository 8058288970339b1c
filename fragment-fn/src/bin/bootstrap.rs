//! The function's program: what AWS Lambda runs, and what `gust` starts on a laptop.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match fragment_fn::bootstrap::run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
