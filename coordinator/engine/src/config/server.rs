//! Settings of `gust serve`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Config, GrantConfig, StatementKept, units};
use crate::money::Money;

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
    /// Identity provider, whose JSON web tokens are taken beside those of the file. None is a server without one.
    pub jwt: Option<JwtConfig>,
    /// Certificate and key, in PEM. None is a server without TLS.
    pub tls: Option<TlsConfig>,
    /// Most queries that run at the same time, 1 to [`super::QUERIES_MAX`]. Default 8: each is sure of a sixteenth of
    /// `memory_bytes_max`.
    #[serde(deserialize_with = "units::queries")]
    pub queries_max: u32,
    /// Most queries that wait for their turn. One more is refused at once. Default 50.
    #[serde(deserialize_with = "units::queries")]
    pub queued_max: u32,
    /// Most connections of HTTP, 1 to 10,000. One more is closed at once. Default 500.
    #[serde(deserialize_with = "units::connections")]
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
    /// Bytes in the `exchange` that the linked rows of all statements take. Default 64 GiB.
    #[serde(deserialize_with = "units::bytes")]
    pub links_bytes_max: u64,
    /// Kind of the links to rows in the `exchange`. Default `presigned`: where it is S3, clients read there by a link that holds for 15 minutes. With
    /// `proxied` they read through the server.
    pub links: LinksKind,
    /// Time that running queries are given after SIGTERM (`drain_seconds`). Default 30, which is ECS's.
    #[serde(rename = "drain_seconds", deserialize_with = "units::seconds")]
    pub drain: Duration,
    /// Permission to keep journals of submitted statements in the `exchange`, so that they outlive the server. A store that does not create
    /// an object once, or that cannot be written, has none. Nor are there any where the history keeps no text of statements. Default true:
    /// docs/server.md says what is in a journal.
    pub journal: bool,
    /// Age of a submitted statement from which on it has a journal
    /// (`journal_after_seconds`). A server that is silent for three times as long is taken for gone. Default 5.
    #[serde(rename = "journal_after_seconds", deserialize_with = "units::seconds")]
    pub journal_after: Duration,
    /// Dollars that the statements of a user, or of all users of a group, may cost together in a day or a month of UTC. Each
    /// `[[server.budget]]` has `user` or `group`, and `dollars_per_day` or `dollars_per_month`.
    #[serde(rename = "budget")]
    pub budgets: Vec<BudgetConfig>,
    /// File in which the server keeps what was spent of the budgets. None is `gust/budgets.json` beside the history. Servers do not share it.
    #[serde(deserialize_with = "units::optional_path")]
    pub budgets_file: Option<PathBuf>,
    /// Tables and paths that users and groups may read. Each `[[server.grant]]` has `users`, `groups` or both, and `tables`, `paths` or
    /// both. With one, what no grant gives a user does not exist for the user. Default none: everybody reads everything.
    #[serde(rename = "grant")]
    pub grants: Vec<GrantConfig>,
    /// URL of an OpenTelemetry collector that takes traces of statements by OTLP over HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` is
    /// appended. Default none: nothing is sent.
    pub otlp: Option<String>,
}

/// Kind of the links by which a client reads rows in the exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinksKind {
    /// At the store, by a signature, where the store knows some.
    #[default]
    Presigned,
    /// Through the server.
    Proxied,
}

/// Dollars that many statements share.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BudgetFields")]
pub struct BudgetConfig {
    pub holder: BudgetHolder,
    pub period: BudgetPeriod,
    pub limit: Money,
}

/// Holder of a budget, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BudgetHolder {
    User(String),
    /// All users of a group, together.
    Group(String),
}

/// Time after which a budget begins anew, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetPeriod {
    Day,
    Month,
}

/// Keys of a budget, as they are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BudgetFields {
    user: Option<String>,
    group: Option<String>,
    dollars_per_day: Option<Money>,
    dollars_per_month: Option<Money>,
}

impl TryFrom<BudgetFields> for BudgetConfig {
    type Error = &'static str;

    fn try_from(fields: BudgetFields) -> Result<Self, Self::Error> {
        let holder = match (fields.user, fields.group) {
            (Some(user), None) => BudgetHolder::User(user),
            (None, Some(group)) => BudgetHolder::Group(group),
            _ => return Err("either `user` or `group`"),
        };
        let (period, limit) = match (fields.dollars_per_day, fields.dollars_per_month) {
            (Some(limit), None) => (BudgetPeriod::Day, limit),
            (None, Some(limit)) => (BudgetPeriod::Month, limit),
            _ => return Err("either `dollars_per_day` or `dollars_per_month`"),
        };
        Ok(Self { holder, period, limit })
    }
}

impl BudgetHolder {
    /// Returns `user` or `group`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Group(_) => "group",
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::Group(name) => name,
        }
    }
}

impl BudgetPeriod {
    /// Returns `day` or `month`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// Identity provider of the server's users. A user's name is issuer and subject with `#` between.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// Claim `iss` of all tokens.
    pub issuer: String,
    /// Claim `aud` of tokens for this server; a token may name others beside it.
    pub audience: String,
    /// URL of the provider's keys (`jwks_uri`), with https; http is taken on this machine alone.
    pub jwks: String,
    /// Algorithms of signatures that are taken, of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA. Default RS256.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<String>,
    /// Claim with the user's groups, a text or a list of texts. Default none: its users have no groups.
    #[serde(default)]
    pub groups_claim: Option<String>,
}

fn algorithms() -> Vec<String> {
    vec!["RS256".to_owned()]
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

/// Wish for journals of submitted statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalsWanted {
    Yes,
    /// They are turned off, or there is no `exchange` that outlives the server.
    No,
    /// The history keeps no text of a statement. A bucket is not to have it either.
    WithoutTexts,
}

impl Config {
    /// Tells if a server is to keep journals.
    pub fn journals(&self) -> JournalsWanted {
        let keeps_texts = self.history.enabled && self.history.statement == StatementKept::Text;
        match self.server.journal && self.exchange.is_some() {
            true if keeps_texts => JournalsWanted::Yes,
            true => JournalsWanted::WithoutTexts,
            false => JournalsWanted::No,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            reach: Vec::new(),
            hosts: Vec::new(),
            tokens: None,
            jwt: None,
            tls: None,
            queries_max: 8,
            queued_max: 50,
            connections_max: 500,
            statements_max: 1_000,
            keep: Duration::from_secs(3_600),
            results_bytes_max: 4 << 30,
            links_bytes_max: 64 << 30,
            links: LinksKind::Presigned,
            drain: Duration::from_secs(30),
            journal: true,
            journal_after: Duration::from_secs(5),
            budgets: Vec::new(),
            budgets_file: None,
            grants: Vec::new(),
            otlp: None,
        }
    }
}
