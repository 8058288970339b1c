//! The function's program. AWS Lambda runs it, and `gust` starts it on a laptop.

use std::process::ExitCode;

fn main() -> ExitCode {
    match fragment_fn::bootstrap::block_on(fragment_fn::bootstrap::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
