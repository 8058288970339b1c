//! Programs that are measured beside each other.

use std::path::Path;
use std::process::Command;

use gust_tests::peer;
use gust_tests::s3::{REGION, S3Server, SECRET_ACCESS_KEY, identity};

use super::Scenario::{self, Latency, Loopback, SmallFiles};
use crate::tax::sibling;
use SideKind::{EarlierBuild, Engine, ThisBuild, TunedEngine};

/// Program with its settings.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) kind: SideKind,
    /// Argument that chooses the engine, or the place where Gust runs.
    argument: &'static str,
    /// Rows that functions send to one another; none by its settings' defaults.
    exchange: Option<&'static str>,
    variables: &'static [(&'static str, &'static str)],
    pub(super) scenarios: &'static [Scenario],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SideKind {
    ThisBuild,
    EarlierBuild,
    /// Another engine with its defaults.
    Engine,
    /// Another engine with settings for many files.
    TunedEngine,
}

const ALL: &[Scenario] = &[Latency, SmallFiles, Loopback];
const LATE: &[Scenario] = &[Latency, SmallFiles];

/// Polars opens few files ahead on a machine with few cores.
const MANY_READERS: &[(&str, &str)] = &[("POLARS_NUM_READERS_PRE_INIT", "128"), ("POLARS_MAX_CONCURRENT_SCANS", "64")];

pub(super) static SIDES: [Side; 11] = [
    side("local", ThisBuild, "local", ALL),
    side("local-before", EarlierBuild, "local", ALL),
    side("processes", ThisBuild, "processes", &[Latency]),
    side("processes-before", EarlierBuild, "processes", &[Latency]),
    Side { exchange: Some("auto"), ..side("processes-auto", ThisBuild, "processes", &[Loopback]) },
    Side { exchange: Some("shuffle"), ..side("processes-shuffle", ThisBuild, "processes", &[Loopback]) },
    side("stock", ThisBuild, "stock", &[Latency, Loopback]),
    side("polars", Engine, "polars", LATE),
    Side { variables: MANY_READERS, ..side("polars-tuned", TunedEngine, "polars", LATE) },
    side("duckdb", Engine, "duckdb", LATE),
    side("datafusion", Engine, "datafusion", LATE),
];

const fn side(name: &'static str, kind: SideKind, argument: &'static str, scenarios: &'static [Scenario]) -> Side {
    Side { name, kind, argument, exchange: None, variables: &[], scenarios }
}

impl Side {
    /// Returns the key by which the server knows the side's requests.
    pub(super) fn access_key(&self) -> String {
        identity::access_key(self.name)
    }

    /// Returns the command that starts the side, None for an earlier build without one.
    pub(super) fn command(
        &self,
        server: &S3Server,
        earlier_build: Option<&Path>,
        functions: u32,
        cache: &Path,
    ) -> anyhow::Result<Option<Command>> {
        let gust = |program: &Path| {
            let mut command = Command::new(program);
            command.arg(self.argument);
            if self.argument == "processes" {
                command.arg(functions.to_string()).args(self.exchange);
            }
            command
        };
        let mut command = match self.kind {
            ThisBuild => gust(&sibling("gust_peer")?),
            EarlierBuild => match earlier_build {
                Some(folder) => gust(&folder.join("gust_peer")),
                None => return Ok(None),
            },
            Engine | TunedEngine => peer::engine(self.argument, cache)?,
        };
        command
            .env("AWS_ENDPOINT_URL", server.endpoint())
            .env("AWS_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", self.access_key())
            .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)
            .envs(self.variables.iter().copied());
        Ok(Some(command))
    }
}
