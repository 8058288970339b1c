//! Settings: defaults that are safe on a laptop < `gust.toml` < `GUST_*` environment < flags.
//!
//! Reading is pure: [`Config::load`] takes the file's text, the environment and the flags' overrides. There are two
//! exceptions. [`ConfigFile::find`] reads the disk, and the default of `memory_bytes_max` asks the machine once.
//!
//! An unknown key is an error with a hint to the nearest key. It is never ignored, because a mistyped limit would be no
//! limit.
//!
//! Two groups come from the environment unless they are set. The credentials of S3 come from `AWS_*`. The history's
//! place and user come from XDG_STATE_HOME, HOME and USER.
//!
//! Non-goals: this module does not check that a file, folder or store exists. The first user of the setting finds out.

mod catalogs;
mod error;
mod function_name;
mod grants;
mod history;
mod join;
mod label;
mod node;
mod prefer;
mod server;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fragment_fn::late::LateColumns;
use gust_protocol::AheadBounds;
use serde::Deserialize;

use crate::memory::machine;
use crate::money::{Money, Price};
use node::Node;

pub use catalogs::{CatalogConfig, GlueConfig, RestAccess, RestConfig, S3TablesConfig, SecretSource, SqliteConfig};
pub use error::{ConfigError, Origin, Setting};
pub use function_name::{CLONES_MAX, FunctionName};
pub use grants::{GrantConfig, OWN_CATALOG, OWN_SCHEMA, TablePattern};
pub use history::{HistoryConfig, StatementKept};
pub use join::{AlignedPlace, BuildFirst, JoinPlace, ShufflePlace, SortPlace};
pub use label::{LABELS_MAX, Label, LabelError, is_label_key, labels};
pub use prefer::Prefer;
pub use server::{
    BudgetConfig, BudgetHolder, BudgetPeriod, JournalsWanted, JwtConfig, LinksKind, ServerConfig, TlsConfig,
};
pub use units::{CORES_MAX, FUNCTIONS_MAX, QUERIES_MAX, RETENTION_DAYS_MAX, Secret, TIMEOUT_MAX, is_timeout};

/// All settings, checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Place where statements run. Default `auto`.
    pub on: Target,
    /// Platform that `auto` uses when functions are worth it. Default `processes`.
    pub invoker: InvokerKind,
    /// Most functions that one query uses at a time, 1 to [`FUNCTIONS_MAX`]. Default 4, the cores of a laptop. Four
    /// functions with the default memory need no more than a laptop's memory. Raise it for a platform that scales.
    #[serde(deserialize_with = "units::count")]
    pub functions_max: u32,
    /// Permission for a statement with an explicit target to run locally when functions fail. Default false: a user who
    /// asks for functions wants to know when they do not work.
    pub allow_fallback: bool,
    /// Time after which a statement is stopped (`timeout_seconds`). Default 300: well above an interactive query, and
    /// well below the 900 seconds that a function can live.
    #[serde(rename = "timeout_seconds", deserialize_with = "units::seconds")]
    pub timeout: Duration,
    /// Quantity that the choice of place, number of functions and memory size keeps little. None is money with a
    /// deadline, else seconds with `auto`. Other targets then use all functions of the first size.
    pub prefer: Option<Prefer>,
    /// Time within which a statement should be done (`deadline_seconds`). The choice is among candidates whose upper
    /// estimate keeps it; without any it is the fastest. Nothing is stopped at it.
    #[serde(rename = "deadline_seconds", deserialize_with = "units::optional_seconds")]
    pub deadline: Option<Duration>,
    /// Size of the coordinator's memory pool in bytes; above it operators spill. Default 60 % of the memory of this
    /// machine or container ([`crate::memory::machine`]), 2 GiB if that is not known. The default is large because
    /// joins hold their smaller side, which is fast if it fits. Function processes have pools of their own beside it
    /// ([`Config::function_memory_bytes`]).
    #[serde(deserialize_with = "units::bytes")]
    pub memory_bytes_max: u64,
    /// Size of one function's memory pool in bytes. Default 2 GiB: about the memory at which Lambda gives one whole
    /// core (1,769 MB).
    #[serde(deserialize_with = "units::bytes")]
    pub function_memory_bytes: u64,
    /// Bytes that one function may spill to its temporary folder. Default 512 MiB, which Lambda gives for free.
    #[serde(deserialize_with = "units::bytes")]
    pub function_temp_bytes: u64,
    /// Most requests for data that the coordinator, and each function, has under way before a reader waits for them. Functions
    /// with less than a core ask for less. Default 64: with 27 ms to
    /// the first byte, twice as many gained 5 % more (TPC-H, scale factor 1, two cores, a prototype over plain DataFusion;
    /// not measured with this reader). 0 turns reading ahead off.
    #[serde(deserialize_with = "units::count_or_none")]
    pub read_ahead_requests_max: u32,
    /// Most bytes that the coordinator, and each function, holds before a reader wants them. Default 128 MiB, and at most a
    /// tenth of a query's memory and an eighth of a function's. 0 turns reading ahead off.
    #[serde(deserialize_with = "units::bytes_or_none")]
    pub read_ahead_bytes_max: u64,
    /// Largest percentage of the rows that it sees which the keys of each join may let through where a scan's other columns are
    /// decoded late, for the rows that are left only, by the coordinator and in each function. Default 1: whole pages are left out then. 0 decodes no columns late. 100 does
    /// so always, which is for tests.
    #[serde(deserialize_with = "units::percent")]
    pub late_columns_percent_max: u32,
    /// Place of joins in a query that uses functions. Default `auto`: functions join their rows with a side of which each gets a copy, if that
    /// side is expected to be within `broadcast_bytes_max` and the rows of the other side are expected to be many, unless an estimate prefers scans alone.
    /// `broadcast` asks only for the former, `local` keeps joins on the coordinator.
    pub join: JoinPlace,
    /// Most bytes in memory of the rows that every function of a stage gets for joins. Default 8 MiB. With their hash tables they have at most
    /// half of a function's memory. If there are more rows than was expected, the coordinator joins.
    #[serde(deserialize_with = "units::bytes")]
    pub broadcast_bytes_max: u64,
    /// Place of joins of Iceberg tables whose files are parted by the same identity, bucket or truncate transforms of the joins' keys. Default `local`: that of
    /// other joins. `functions` joins them partition by partition, without copies and without rows between functions, wherever that is right.
    pub aligned_joins: AlignedPlace,
    /// Place of groups, joins of two large sides and windows in a query that uses functions. Default `local`: the coordinator. `hash` has functions send
    /// rows to one another, each those of its keys, through the exchange. `auto` does so where statistics say that the coordinator would get many rows, unless an estimate prefers scans alone. What no
    /// function can do stays on the coordinator.
    pub shuffle: ShufflePlace,
    /// Place of `ORDER BY` without a limit in a query that uses functions. Default `local`: functions sort what they have read, and the coordinator merges their rows, of which
    /// it holds all. `ranges` has functions send rows to one another, each those of some range of the first key: the coordinator takes the sorted rows of one after the
    /// other. `auto` does so where statistics say that the coordinator would get many rows. A sort of whose first key no bounds are known stays `local`.
    pub sort: SortPlace,
    /// Least bytes in memory, for `auto`, of each side of a join, of all groups, or of the rows of a window or a sort. Default 64 MiB.
    #[serde(deserialize_with = "units::bytes")]
    pub shuffle_bytes_min: u64,
    /// Number of partitions of such rows; at most 1,024. Each function of the next stage reads some of them. None is four times the lanes of these functions, 16 to
    /// 256, and at least 64 where functions may be many. With a number, all functions that may be used are, however few the rows are.
    #[serde(deserialize_with = "units::partitions")]
    pub shuffle_partitions: Option<u32>,
    /// Most reads of such rows from one stage to the next, for each bucket of the exchange. Beyond it some functions between the two make few objects of many. Default
    /// 8,192, which S3 answers in one and a half seconds. With 0 they always do.
    pub shuffle_reads_max: u64,
    /// Joins of two large sides, as `shuffle` makes them, that run their build side first. If it turns out to be within `broadcast_bytes_max`, each function gets a copy of it, and
    /// the other side's rows are joined where they are scanned. Default `auto`: those that `shuffle = "auto"` has chosen by a guess at the build side's rows, if functions read
    /// no more for it than for the other side. `always` and `never` are for all of them. None does with `join = "local"`.
    pub build_first: BuildFirst,
    /// Folder that operators spill to. None is the system's temporary folder.
    #[serde(deserialize_with = "units::optional_path")]
    pub temp_folder: Option<PathBuf>,
    /// Folder or URL (`file://`, `s3://`) for results that are too large for a function's response. All functions must
    /// reach it. `s3://ONE,TWO/PREFIX` spreads its objects over several buckets of one region and with the same keys, at most 16: S3 answers at
    /// first 5,500 reads a second of each. None is a private folder under the temporary folder.
    #[serde(deserialize_with = "units::optional_location")]
    pub exchange: Option<String>,
    /// Compressed bytes of the projected columns that one fragment should read. Default 64 MiB. That is long enough to
    /// pay for its invocation. It is short enough to stay well inside the burst (about 300 MiB) of a Lambda function's
    /// network.
    #[serde(deserialize_with = "units::bytes")]
    pub fragment_bytes_target: u64,
    /// Iceberg catalogs by the name that `--catalog` takes.
    pub catalogs: BTreeMap<String, CatalogConfig>,
    pub s3: S3Config,
    pub process: ProcessConfig,
    pub lambda: LambdaConfig,
    pub cost: CostConfig,
    pub history: HistoryConfig,
    pub iceberg: IcebergConfig,
    pub server: ServerConfig,
    /// File in which `gust calibrate` keeps its figures, and from which the time model reads them. None is
    /// `gust/time-model.toml` beside the history. Without the file, published figures count.
    #[serde(deserialize_with = "units::optional_path")]
    pub time_model: Option<PathBuf>,
    /// File of these settings; None without one. It may hold secrets, which no query of a server reads.
    #[serde(skip)]
    pub file: Option<PathBuf>,
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
            read_ahead_requests_max: 64,
            read_ahead_bytes_max: 128 << 20,
            late_columns_percent_max: 1,
            join: JoinPlace::Auto,
            broadcast_bytes_max: 8 << 20,
            aligned_joins: AlignedPlace::Local,
            shuffle: ShufflePlace::Local,
            sort: SortPlace::Local,
            shuffle_bytes_min: 64 << 20,
            shuffle_partitions: None,
            shuffle_reads_max: 8_192,
            build_first: BuildFirst::Auto,
            temp_folder: None,
            exchange: None,
            fragment_bytes_target: 64 << 20,
            catalogs: BTreeMap::new(),
            s3: S3Config::default(),
            process: ProcessConfig::default(),
            lambda: LambdaConfig::default(),
            cost: CostConfig::default(),
            history: HistoryConfig::default(),
            iceberg: IcebergConfig::default(),
            server: ServerConfig::default(),
            time_model: None,
            file: None,
        }
    }
}

/// Place where a statement runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Functions if the estimates say that they are worth it, else local.
    #[default]
    Auto,
    /// The coordinator alone.
    Local,
    /// Functions inside the coordinator's process, for tests.
    InProcess,
    /// Functions as child processes of the coordinator.
    Processes,
    /// Functions deployed on AWS Lambda.
    Lambda,
}

impl Target {
    pub const ALL: [Self; 5] = [Self::Auto, Self::Local, Self::InProcess, Self::Processes, Self::Lambda];

    /// Returns the name in flags and settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Local => "local",
            Self::InProcess => "in-process",
            Self::Processes => "processes",
            Self::Lambda => "lambda",
        }
    }

    /// Returns true if estimates pick how a statement runs: its place, its number of functions, their memory. Else the target is used as
    /// it is.
    pub(crate) fn picks_by_estimate(self, prefer: Option<Prefer>, deadline: Option<Duration>) -> bool {
        match self {
            Self::Auto => true,
            Self::Local => false,
            _ => prefer.is_some() || deadline.is_some(),
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

/// The S3 service. Without keys the `AWS_*` environment counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// `http://` or `https://` URL of a service that is not AWS's own.
    pub endpoint: Option<String>,
    /// Region of the buckets. None is that of the environment or the profile.
    pub region: Option<String>,
    /// Permission to send requests unencrypted. Default false.
    pub allow_http: bool,
    /// Place of the bucket's name: in the URL's path if true, in the host name if false. Default false.
    pub path_style: bool,
    /// Id of the access key. None is that of the environment, the profile, SSO, the container or the instance.
    pub access_key_id: Option<String>,
    /// Secret of the access key.
    pub secret_access_key: Option<Secret>,
    /// Token of temporary keys.
    pub session_token: Option<Secret>,
    /// Buckets that are read without credentials, such as those of public data sets.
    pub anonymous_buckets: Vec<String>,
}

/// Functions as child processes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessConfig {
    /// The function's binary. None is this very program.
    #[serde(deserialize_with = "units::optional_path")]
    pub program: Option<PathBuf>,
    /// Cores of one function, 1 to [`CORES_MAX`]: that many lanes of a fragment run at once. Default 1, because the
    /// functions share this machine's cores.
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
    /// Deployed functions, each as `NAME:ALIAS` or ARN. Attempts rotate over the equal ones, because each function
    /// starts environments at a rate of its own (1,000 every 10 seconds).
    pub functions: Vec<FunctionName>,
    /// Region of the functions. None is the region of an ARN in `functions`, else that of the environment or the
    /// profile.
    pub region: Option<String>,
    /// `http://` or `https://` URL of a service that is not AWS's own.
    pub endpoint: Option<String>,
    /// Memory size of the functions to use. None lets estimates pick among all sizes. Without estimates it is the
    /// smallest size with a whole core, else the largest.
    pub memory_mb: Option<u32>,
}

/// Prices, and the cap of a statement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostConfig {
    /// Region whose prices count. None is the functions' region, else the data's.
    pub region: Option<String>,
    /// Price book in place of the project's. Those in `coordinator/engine/src/cost/prices/` are the pattern.
    #[serde(deserialize_with = "units::optional_path")]
    pub prices: Option<PathBuf>,
    /// Dollars that one statement may cost. None is no limit.
    pub max: Option<Money>,
    /// Dollars per hour of the coordinator's machine.
    pub coordinator_hour: Option<Price>,
    /// Place of the coordinator: true outside of AWS, so that its reads leave the region and cost money.
    pub coordinator_outside: Option<bool>,
}

/// Iceberg tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IcebergConfig {
    /// Permission to take the bounds of whole numbers, decimals, dates and times in a table's metadata for the least and greatest
    /// value of a data file, so that `min` and `max` read no data. Default true, as in Spark. The specification lets a writer
    /// leave loose bounds; none that is known does for these types.
    pub trust_bounds: bool,
}

impl Default for IcebergConfig {
    fn default() -> Self {
        Self { trust_bounds: true }
    }
}

/// Settings from flags. None leaves a setting to the environment, the file and the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    pub on: Option<Target>,
    pub functions_max: Option<u32>,
    pub allow_fallback: Option<bool>,
    pub timeout: Option<Duration>,
    pub prefer: Option<Prefer>,
    pub deadline: Option<Duration>,
    pub cap: Option<Money>,
}

/// A configuration file that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// Path as the user named it. Errors show it, and relative paths in the file start from its folder.
    pub path: PathBuf,
    pub text: String,
}

impl ConfigFile {
    /// Reads the file that `--config` names, which must exist, else `gust.toml` in `folder` if there is one.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
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
    ///
    /// # Errors
    /// The first fault of the layers, with its key and place.
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
        catalogs::check_keys(&tree)?;
        let mut config = Self::deserialize(&tree).map_err(error::ConfigFault::into_error)?;
        for (name, catalog) in &mut config.catalogs {
            catalog.check(name, &tree)?;
        }
        config.s3.check(&tree)?;
        config.lambda.check(config.s3.allow_http, &tree)?;
        config.history.check(&tree)?;
        config.history.fill_from_environment(&environment);
        config.time_model = config.time_model.or_else(|| Some(state_folder(&environment)?.join("time-model.toml")));
        let budgets_file = &mut config.server.budgets_file;
        *budgets_file = budgets_file.take().or_else(|| Some(state_folder(&environment)?.join("budgets.json")));
        config.file = file.map(|file| file.path.clone());
        config.apply(overrides);
        Ok(config)
    }

    /// Returns the bounds of reading ahead, on the coordinator and for each function.
    pub fn read_ahead(&self) -> AheadBounds {
        AheadBounds { requests_max: self.read_ahead_requests_max, bytes_max: self.read_ahead_bytes_max }
    }

    /// Returns the rule by which the coordinator and each function decode columns late.
    pub fn late_columns(&self) -> LateColumns {
        LateColumns { kept_percent_max: self.late_columns_percent_max }
    }

    /// Returns the platform of the functions that a query uses, if it uses any.
    pub fn functions_on(&self) -> Target {
        match (self.on, self.invoker) {
            (Target::Auto | Target::Local, InvokerKind::Processes) => Target::Processes,
            (Target::Auto | Target::Local, InvokerKind::Lambda) => Target::Lambda,
            (explicit, _) => explicit,
        }
    }

    fn apply(&mut self, overrides: &Overrides) {
        let Overrides { on, functions_max, allow_fallback, timeout, prefer, deadline, cap } = *overrides;
        self.on = on.unwrap_or(self.on);
        self.functions_max = functions_max.unwrap_or(self.functions_max);
        self.allow_fallback = allow_fallback.unwrap_or(self.allow_fallback);
        self.timeout = timeout.unwrap_or(self.timeout);
        self.prefer = prefer.or(self.prefer);
        self.deadline = deadline.or(self.deadline);
        self.cost.max = cap.or(self.cost.max);
    }

    /// Returns true if estimates pick how a statement runs.
    pub fn picks_by_estimate(&self) -> bool {
        self.on.picks_by_estimate(self.prefer, self.deadline)
    }
}

impl S3Config {
    /// Checks the settings that depend on each other.
    fn check(&self, tree: &Node) -> Result<(), ConfigError> {
        let setting = |key: &str| Setting::new(format!("s3.{key}"), tree.origin_of(&["s3", key]));
        let conflict = |key: &str, reason, hint| ConfigError::Conflict { setting: setting(key), reason, hint };
        check_endpoint(self.endpoint.as_deref(), self.allow_http, || setting("endpoint"))?;
        let hint = "set both `s3.access_key_id` and `s3.secret_access_key`, or neither to use the AWS_* environment";
        match (&self.access_key_id, &self.secret_access_key) {
            (Some(_), None) => Err(conflict("access_key_id", "no secret is set", hint)),
            (None, Some(_)) => Err(conflict("secret_access_key", "no key id is set", hint)),
            (None, None) if self.session_token.is_some() => Err(conflict("session_token", "no key id is set", hint)),
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
            return Err(ConfigError::InvalidValue { setting: setting("functions"), value, expected, hint: None });
        }
        check_endpoint(self.endpoint.as_deref(), allow_http, || setting("endpoint"))
    }
}

/// Returns Gust's folder for state. Relative folders do not count (XDG Base Directory Specification).
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
            let (value, hint) = (format!("{endpoint:?}"), None);
            Err(ConfigError::InvalidValue { setting: setting(), value, expected, hint })
        }
    }
}

#[cfg(test)]
mod tests;
