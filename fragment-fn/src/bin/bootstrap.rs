//! The function's program: what AWS Lambda runs, and what `gust` starts on a laptop.

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
