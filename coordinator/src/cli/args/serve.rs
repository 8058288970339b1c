//! Arguments of `gust serve`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::RunArgs;

/// Port of HTTP, as ClickHouse has it.
const PORT: u16 = 8123;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port of the server; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))]
    pub listen: SocketAddr,
    /// Run this file's statements first, e.g. CREATE EXTERNAL TABLE; every session sees their tables; may be given several times
    #[arg(long, value_name = "FILE.sql")]
    pub setup: Vec<PathBuf>,
    /// Use the tables of this catalog from the configuration by their bare names
    #[arg(long, value_name = "NAME")]
    pub catalog: Option<String>,
    #[command(flatten)]
    pub run: RunArgs,
    /// Configuration file [default: gust.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
