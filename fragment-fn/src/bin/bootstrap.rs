//! The function's program. AWS Lambda runs it, and `gust` starts it on a laptop.

use std::process::ExitCode;

fn main() -> ExitCode {
    match fragment_fn::bootstrap::block_on(fragment_fn::bootstrap::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", gust_protocol::with_hint_line(&error, error.hint()));
            ExitCode::from(error.exit_code())
        }
    }
}
