//! The `gust` binary as the tests start it, with the same line as the coordinator's own.

fn main() -> std::process::ExitCode {
    gust::cli::main(std::env::args_os().collect())
}
