//! Arguments of `gust serve` and `gust token`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::RunArgs;

/// Port of HTTP, as ClickHouse has it.
const PORT: u16 = 8123;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port of the server; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))]
    pub listen: SocketAddr,
    /// Address and port for clients of PostgreSQL, such as psql; port 0 takes a free one [default: none]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub postgres: Option<SocketAddr>,
    /// Take requests without TLS from other machines, because a proxy before the server ends it
    #[arg(long)]
    pub behind_tls_proxy: bool,
    /// Run this file's statements first, e.g. CREATE EXTERNAL TABLE; every session sees their tables; may be given several times
    #[arg(long, value_name = "FILE.sql")]
    pub setup: Vec<PathBuf>,
    /// Use the tables of this catalog from the configuration by their bare names
    #[arg(long, value_name = "NAME")]
    pub catalog: Option<String>,
    /// Check configuration, addresses, certificate, tokens, the identity provider's keys, set-up files, catalogs and the exchange, and end
    #[arg(long)]
    pub check: bool,
    #[command(flatten)]
    pub run: RunArgs,
    /// Configuration file [default: gust.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token: its secret, which is shown once, and its lines for the file of tokens
    #[command(after_help = super::examples::TOKEN_EXAMPLES)]
    New(TokenArgs),
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// Name of the user, as the history has it
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    pub user: String,
    /// Groups of the user
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',', value_parser = parse_name)]
    pub groups: Vec<String>,
    /// Time after which the token is refused, e.g. 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub expires: Option<Duration>,
}

/// Longest name of a user or group.
const NAME_BYTES_MAX: usize = 128;

fn parse_name(text: &str) -> Result<String, String> {
    let is_name = !text.trim().is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
    if is_name && !text.starts_with("--") {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a name has 1 to {NAME_BYTES_MAX} bytes, no control characters, and no two dashes at its beginning"
        ))
    }
}
