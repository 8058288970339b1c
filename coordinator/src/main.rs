use std::process::ExitCode;

fn main() -> ExitCode {
    gust::cli::main(std::env::args_os().collect())
}
