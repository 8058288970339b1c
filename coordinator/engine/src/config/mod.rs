//! Settings: `gust.toml` < `GUST_*` environment < flags, and defaults that are safe on a laptop.
//!
//! Reading is pure: [`Config::load`] takes the file's text, the environment and the flags' overrides. Only
//! [`ConfigFile::find`] touches the disk, and the default of `memory_bytes_max` is what the machine has, asked once. A key that does
//! not exist is an error with the nearest one that does, never ignored: a mistyped limit would be no limit. The credentials of S3
//! come from the `AWS_*` environment, unless given; the history's place and user from XDG_STATE_HOME, HOME and USER, unless given.
//!
//! Non-goals: whether a file, folder or store that is named here exists is for its first user to find out.

mod error;
mod function_name;
mod label;
mod node;
mod prefer;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::memory::machine;
use crate::money::{Money, Price};
use node::Node;

pub use error::{ConfigError, Origin, Setting};
pub use function_name::{CLONES_MAX, FunctionName};
pub use label::{BadLabel, LABELS_MAX, Label, is_label_key, labels};
pub use prefer::Prefer;
pub use units::{CORES_MAX, FUNCTIONS_MAX, RETENTION_DAYS_MAX, Secret, TIMEOUT_MAX, is_timeout};

/// All settings, checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where statements run. Default `auto`.
    pub on: Target,
    /// What `auto` uses where functions pay. Default `processes`.
    pub invoker: InvokerKind,
    /// Most functions that one query uses at a time, 1 to [`FUNCTIONS_MAX`]. Default 4: what a laptop has in cores, and
    /// with the default memory of a function no more than a laptop has in memory. Raise it for a platform that scales.
    #[serde(deserialize_with = "units::count")]
    pub functions_max: u32,
    /// Whether a statement with an explicit target may run locally when functions fail. Default false: who asks for
    /// functions wants to know when they do not work.
    pub allow_fallback: bool,
    /// `timeout_seconds`: a statement is stopped after this long. Default 300: well above an interactive query and well
    /// below the 900 seconds that a function can live.
    #[serde(rename = "timeout_seconds", deserialize_with = "units::seconds")]
    pub timeout: Duration,
    /// What decides where a statement runs, with how many functions and of which of the deployed sizes. Default: seconds, by
    /// `auto`'s own rules; with a deadline dollars.
    pub prefer: Option<Prefer>,
    /// `deadline_seconds`: pick what is expected to be done by then even at most. Nothing is stopped at it.
    #[serde(rename = "deadline_seconds", deserialize_with = "units::optional_seconds")]
    pub deadline: Option<Duration>,
    /// Size of the coordinator's memory pool; above it operators spill. Default 60 % of what this machine or container has
    /// ([`crate::memory::machine`]), 2 GiB where it does not tell: joins hold their smaller side, which is fast where it fits.
    /// Function processes have theirs ([`Config::function_memory_bytes`]) beside it.
    #[serde(deserialize_with = "units::bytes")]
    pub memory_bytes_max: u64,
    /// Size of one function's memory pool. Default 2 GiB: about the memory at which Lambda gives one whole core
    /// (1,769 MB).
    #[serde(deserialize_with = "units::bytes")]
    pub function_memory_bytes: u64,
    /// What one function may spill to its temporary folder. Default 512 MiB, which Lambda gives for free.
    #[serde(deserialize_with = "units::bytes")]
    pub function_temp_bytes: u64,
    /// Where operators spill. None is the system's temporary folder.
    #[serde(deserialize_with = "units::optional_path")]
    pub temp_folder: Option<PathBuf>,
    /// Where functions leave results that are too large for their response: a folder or a URL (`file://`, `s3://`) that
    /// they all can reach. None is a private folder under the temporary folder.
    #[serde(deserialize_with = "units::optional_location")]
    pub exchange: Option<String>,
    /// Compressed bytes of the projected columns that one fragment should read. Default 64 MiB: long enough to pay for
    /// its invocation, short enough to stay well inside the burst (about 300 MiB) of a Lambda function's network.
    #[serde(deserialize_with = "units::bytes")]
    pub fragment_bytes_target: u64,
    /// Iceberg catalogs by the name that `--catalog` takes.
    pub catalogs: BTreeMap<String, CatalogConfig>,
    pub s3: S3Config,
    pub process: ProcessConfig,
    pub lambda: LambdaConfig,
    pub cost: CostConfig,
    pub history: HistoryConfig,
    /// Where `gust calibrate` keeps its figures, and the time model has them from. None is `gust/time-model.toml` beside the history;
    /// a file that is not there leaves published figures.
    #[serde(deserialize_with = "units::optional_path")]
    pub time_model: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            on: Target::Auto,
            invoker: InvokerKind::Processes,
            functions_max: 4,
            allow_fallback: false,
            timeout: Duration::from_secs(300),
            prefer: None,
            deadline: None,
            memory_bytes_max: machine::pool_bytes(),
            function_memory_bytes: 2 << 30,
            function_temp_bytes: 512 << 20,
            temp_folder: None,
            exchange: None,
            fragment_bytes_target: 64 << 20,
            catalogs: BTreeMap::new(),
            s3: S3Config::default(),
            process: ProcessConfig::default(),
            lambda: LambdaConfig::default(),
            cost: CostConfig::default(),
            history: HistoryConfig::default(),
            time_model: None,
        }
    }
}

/// Where a statement runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Functions where the numbers say that they pay, else locally
    #[default]
    Auto,
    /// In the coordinator alone
    Local,
    /// Functions inside the coordinator's process, for tests
    InProcess,
    /// Functions as child processes of the coordinator
    Processes,
    /// Functions deployed on AWS Lambda
    Lambda,
}

impl Target {
    pub const ALL: [Self; 5] = [Self::Auto, Self::Local, Self::InProcess, Self::Processes, Self::Lambda];

    /// The name that flags and settings take.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Local => "local",
            Self::InProcess => "in-process",
            Self::Processes => "processes",
            Self::Lambda => "lambda",
        }
    }
}

/// Functions that `auto` may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InvokerKind {
    #[default]
    Processes,
    Lambda,
}

/// An Iceberg catalog.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogConfig {
    #[serde(rename = "type")]
    pub kind: CatalogKind,
    /// The SQLite file.
    #[serde(deserialize_with = "units::path")]
    pub path: PathBuf,
    /// Folder or URL under which the tables lie.
    #[serde(deserialize_with = "units::location")]
    pub warehouse: String,
}

/// What kind of catalog it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatalogKind {
    /// SQL catalog in a SQLite file.
    Sqlite,
}

/// The S3 service. Without keys the `AWS_*` environment counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// `http://` or `https://` URL of a service that is not AWS's own.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Whether requests may go unencrypted. Default false.
    pub allow_http: bool,
    /// Whether the bucket stands in the URL's path instead of its host name. Default false.
    pub path_style: bool,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
}

/// Functions as child processes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// The function's binary. None is this very program.
    #[serde(deserialize_with = "units::optional_path")]
    pub program: Option<PathBuf>,
    /// Cores of one function, 1 to [`CORES_MAX`]: that many lanes of a fragment run at once. Default 1, for the functions
    /// share this machine's cores with each other.
    #[serde(deserialize_with = "units::cores")]
    pub cores: u32,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self { program: None, cores: 1 }
    }
}

/// Functions on AWS Lambda. `terraform output -raw gust_toml` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LambdaConfig {
    /// Deployed functions, each as `NAME:ALIAS` or ARN. Equal ones are clones: attempts go round them, for new environments come
    /// per function (1,000 every 10 seconds).
    pub functions: Vec<FunctionName>,
    /// None is the environment's or the profile's.
    pub region: Option<String>,
    /// `http://` or `https://` URL of a service that is not AWS's own.
    pub endpoint: Option<String>,
    /// Which of the functions to use, by memory size. None is the smallest with a whole core.
    pub memory_mb: Option<u32>,
}

/// What things cost, and what a statement may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostConfig {
    /// Whose prices count. None is the functions' region, or that of the data.
    pub region: Option<String>,
    /// A price book of one's own in place of the project's. The project's own are the pattern: `coordinator/engine/src/cost/prices/`.
    #[serde(deserialize_with = "units::optional_path")]
    pub prices: Option<PathBuf>,
    /// Dollars that one statement may cost. None is no limit.
    pub max: Option<Money>,
    /// Dollars an hour of the coordinator's machine.
    pub coordinator_hour: Option<Price>,
    /// Whether the coordinator runs outside of AWS, so that what it reads leaves the region for money.
    pub coordinator_outside: Option<bool>,
}

/// What is kept of each query that the command line runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// Whether queries are recorded. Default true. What was recorded before can be read in any case.
    pub enabled: bool,
    /// The SQLite file. None is `gust/history.db` in the folder of XDG_STATE_HOME, or in `.local/state` of HOME.
    #[serde(deserialize_with = "units::optional_path")]
    pub path: Option<PathBuf>,
    /// Whether statements are kept, or only their hashes. Default `text`.
    pub statement: StatementKept,
    /// Queries that began longer ago are removed as new ones are recorded, 1 to [`RETENTION_DAYS_MAX`]. Default 90: a quarter, for which
    /// most budgets are made.
    #[serde(deserialize_with = "units::days")]
    pub retention_days: u32,
    /// The file grows no larger. Default 1 GiB: half a million queries of ten fragments each, at about 2 KB.
    #[serde(deserialize_with = "units::bytes")]
    pub bytes_max: u64,
    /// Who asks. None is the environment's USER, LOGNAME or USERNAME.
    pub user: Option<String>,
    /// What each query is for; `--label` adds to them and stands above them.
    pub labels: BTreeMap<String, String>,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            path: None,
            statement: StatementKept::Text,
            retention_days: 90,
            bytes_max: 1 << 30,
            user: None,
            labels: BTreeMap::new(),
        }
    }
}

/// What the history keeps of a statement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatementKept {
    /// Its text and the text's hash
    #[default]
    Text,
    /// The hash alone, and no message, which could quote the text
    Hash,
}

/// What flags set; None leaves the setting to the environment, the file and the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub on: Option<Target>,
    pub functions_max: Option<u32>,
    pub allow_fallback: Option<bool>,
    pub timeout: Option<Duration>,
    pub prefer: Option<Prefer>,
    pub deadline: Option<Duration>,
    pub cost_max: Option<Money>,
}

/// A configuration file that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// As the user named it: errors say it, and relative paths in the file start from its folder.
    pub path: PathBuf,
    pub text: String,
}

impl ConfigFile {
    /// The file that `--config` names, which must exist; else `gust.toml` in `folder`, if there is one.
    pub fn find(named: Option<&Path>, folder: &Path) -> Result<Option<Self>, ConfigError> {
        let path = named.map_or_else(|| folder.join("gust.toml"), Path::to_owned);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Self { path, text })),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }
}

impl Config {
    /// Lays the layers over each other: file, then environment, then flags.
    pub fn load(
        file: Option<&ConfigFile>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let mut tree = match file {
            Some(file) => Node::from_toml(&file.path, &file.text)?,
            None => Node::empty(),
        };
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        tree.overlay(&environment);
        let mut config = Self::deserialize(&tree).map_err(error::ConfigFault::into_error)?;
        config.s3.check(&tree)?;
        config.lambda.check(config.s3.allow_http, &tree)?;
        config.history.check(&tree)?;
        config.history.complete(&environment);
        config.time_model = config.time_model.or_else(|| Some(state_folder(&environment)?.join("time-model.toml")));
        config.apply(overrides);
        Ok(config)
    }

    /// Which functions a query uses if it uses any.
    pub fn functions_on(&self) -> Target {
        match (self.on, self.invoker) {
            (Target::Auto | Target::Local, InvokerKind::Processes) => Target::Processes,
            (Target::Auto | Target::Local, InvokerKind::Lambda) => Target::Lambda,
            (explicit, _) => explicit,
        }
    }

    fn apply(&mut self, overrides: &Overrides) {
        let Overrides { on, functions_max, allow_fallback, timeout, prefer, deadline, cost_max } = *overrides;
        self.on = on.unwrap_or(self.on);
        self.functions_max = functions_max.unwrap_or(self.functions_max);
        self.allow_fallback = allow_fallback.unwrap_or(self.allow_fallback);
        self.timeout = timeout.unwrap_or(self.timeout);
        self.prefer = prefer.or(self.prefer);
        self.deadline = deadline.or(self.deadline);
        self.cost.max = cost_max.or(self.cost.max);
    }

    /// Whether estimates of money and time pick how a statement runs. Speed without a deadline is what `auto` goes for anyway.
    pub fn picks_by_estimate(&self) -> bool {
        self.deadline.is_some() || matches!(self.prefer, Some(Prefer::Cost | Prefer::Balanced))
    }
}

impl S3Config {
    /// What no single setting shows.
    fn check(&self, tree: &Node) -> Result<(), ConfigError> {
        let setting = |key: &str| Setting::new(format!("s3.{key}"), tree.origin_of(&["s3", key]));
        let conflict = |key: &str, reason, hint| ConfigError::Conflict { setting: setting(key), reason, hint };
        check_endpoint(self.endpoint.as_deref(), self.allow_http, || setting("endpoint"))?;
        let hint = "set both `s3.access_key_id` and `s3.secret_access_key`, or neither to use the AWS_* environment";
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => Err(conflict("access_key_id", "it stands without a secret", hint)),
            (None, Some(_)) => Err(conflict("secret_access_key", "it stands without a key id", hint)),
            _ => Ok(()),
        }
    }
}

impl LambdaConfig {
    fn check(&self, allow_http: bool, tree: &Node) -> Result<(), ConfigError> {
        let setting = |key: &str| Setting::new(format!("lambda.{key}"), tree.origin_of(&["lambda", key]));
        if self.functions.len() > CLONES_MAX {
            let expected = format!("at most {CLONES_MAX} functions");
            let value = format!("{} functions", self.functions.len());
            return Err(ConfigError::InvalidValue {
                setting: setting("functions"),
                value,
                expected,
                hint: String::new(),
            });
        }
        check_endpoint(self.endpoint.as_deref(), allow_http, || setting("endpoint"))
    }
}

impl HistoryConfig {
    fn check(&self, tree: &Node) -> Result<(), ConfigError> {
        let setting = |key: &str| {
            let keys: Vec<&str> = ["history", "labels"].into_iter().chain((!key.is_empty()).then_some(key)).collect();
            Setting::new(keys.join("."), tree.origin_of(&keys))
        };
        let invalid = |key: &str, value: String, bad: BadLabel| {
            let (expected, hint) = (bad.to_string(), String::new());
            Err(ConfigError::InvalidValue { setting: setting(key), value, expected, hint })
        };
        for (key, value) in &self.labels {
            if let Err(bad) = Label::new(key, value) {
                return invalid(key, format!("{value:?}"), bad);
            }
        }
        match self.labels.len() {
            count if count > LABELS_MAX => invalid("", format!("{count} labels"), BadLabel::TooMany(count)),
            _ => Ok(()),
        }
    }

    /// What the environment says where the settings say nothing.
    fn complete(&mut self, environment: &BTreeMap<String, String>) {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        if self.path.is_none() {
            self.path = state_folder(environment).map(|state| state.join("history.db"));
        }
        if self.user.is_none() {
            self.user = ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(variable).cloned();
        }
    }
}

/// Where programs keep what they learn. Relative folders do not count (XDG Base Directory Specification).
fn state_folder(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let folder = |name: &str| environment.get(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
    Some(state.join("gust"))
}

fn check_endpoint(
    endpoint: Option<&str>,
    allow_http: bool,
    setting: impl FnOnce() -> Box<Setting>,
) -> Result<(), ConfigError> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let url = url::Url::parse(endpoint).ok().filter(url::Url::has_host);
    match url.as_ref().map(url::Url::scheme) {
        Some("https") => Ok(()),
        Some("http") if allow_http => Ok(()),
        Some("http") => {
            let hint = "set `s3.allow_http = true` if that is meant";
            Err(ConfigError::Conflict { setting: setting(), reason: "it is not encrypted", hint })
        }
        _ => {
            let expected = "an http:// or https:// URL".to_owned();
            let (value, hint) = (format!("{endpoint:?}"), String::new());
            Err(ConfigError::InvalidValue { setting: setting(), value, expected, hint })
        }
    }
}

#[cfg(test)]
mod tests;
