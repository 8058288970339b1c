//! Settings of `gust serve`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::units;

/// The server: the places that its queries read, and how many of them run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Folders and URLs that queries may read beside the catalogs' warehouses. Default none: a statement names no other place.
    #[serde(deserialize_with = "units::locations")]
    pub reach: Vec<String>,
    /// Names by which clients may call the server, beside its address and, on loopback, `localhost`. A request for another
    /// host is refused: a web page may have led a browser here under a name of its own.
    pub hosts: Vec<String>,
    /// File of tokens, which `gust token new` makes. With it, each request needs one. None is a server without users.
    #[serde(deserialize_with = "units::optional_path")]
    pub tokens: Option<PathBuf>,
    /// Certificate and key, in PEM. None is a server without TLS.
    pub tls: Option<TlsConfig>,
    /// Most queries that run at the same time, 1 to [`super::QUERIES_MAX`]. Default 4: each is sure of an eighth of
    /// `memory_bytes_max`.
    #[serde(deserialize_with = "units::queries")]
    pub queries_max: u32,
    /// Most queries that wait for their turn. One more is refused at once. Default 100.
    #[serde(deserialize_with = "units::queries")]
    pub queued_max: u32,
    /// Most connections of HTTP. One more is closed at once. Default 500.
    #[serde(deserialize_with = "units::queries")]
    pub connections_max: u32,
    /// Most submitted statements that are under way or kept. One more makes the oldest that has ended go. Default 1,000.
    #[serde(deserialize_with = "units::statements")]
    pub statements_max: u32,
    /// Time for which an ended statement and its rows are kept (`keep_seconds`). Default 3,600.
    #[serde(rename = "keep_seconds", deserialize_with = "units::seconds")]
    pub keep: Duration,
    /// Bytes of disk that the kept rows of all statements take, in `temp_folder`. Default 4 GiB.
    #[serde(deserialize_with = "units::bytes")]
    pub results_bytes_max: u64,
    /// Time that running queries are given after SIGTERM (`drain_seconds`). Default 30, which is ECS's.
    #[serde(rename = "drain_seconds", deserialize_with = "units::seconds")]
    pub drain: Duration,
}

/// Files of the server's TLS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate, and those that lead from it to the authority.
    #[serde(deserialize_with = "units::path")]
    pub certificate: PathBuf,
    /// Private key of the certificate.
    #[serde(deserialize_with = "units::path")]
    pub key: PathBuf,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            reach: Vec::new(),
            hosts: Vec::new(),
            tokens: None,
            tls: None,
            queries_max: 4,
            queued_max: 100,
            connections_max: 500,
            statements_max: 1_000,
            keep: Duration::from_secs(3_600),
            results_bytes_max: 4 << 30,
            drain: Duration::from_secs(30),
        }
    }
}
