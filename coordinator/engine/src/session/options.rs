//! Options of one session. They are given when it is opened. SET and RESET change them for the statements after.
//!
//! `SET gust.max_cost = '0.05'` stays inside the session, and so do most of DataFusion's settings. Settings that reach
//! beyond it are refused.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::Result as EngineResult;
use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::logical_expr::{LogicalPlan, Statement};

use super::Session;
use crate::cap::SharedBudgets;
use crate::config::{Config, Label, Prefer, labels};
use crate::error::QueryError;
use crate::money::{Money, MoneyError};
use crate::nearest::nearest;
use crate::sql::Dialect;
use crate::tables::grants::TableGrants;

/// Options of a session's own. None stands for the engine's configuration.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Name of the user, for the history.
    pub principal: Option<String>,
    /// True if the history's tables show the principal's own statements alone.
    pub own_history: bool,
    /// Labels of the session's statements, which win over the configuration's.
    pub labels: Vec<Label>,
    /// Most money that a statement may cost, until SET changes it.
    pub cap: Option<Money>,
    pub timeout: Option<Duration>,
    /// Quantity that the choice among a query's candidates keeps little.
    pub prefer: Option<Prefer>,
    /// Time within which a statement should be done. Nothing is stopped at it.
    pub deadline: Option<Duration>,
    /// Budgets that the session's statements share with others.
    pub budgets: Option<SharedBudgets>,
    /// Tables and paths that exist for the user; None for all.
    pub grants: Option<Arc<TableGrants>>,
    /// Span of the client that asks. The engine hands it on with statements that have ended.
    pub trace_parent: Option<TraceParent>,
}

/// Span in which a client asks for a statement, as W3C's Trace Context names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    /// True if the client records its trace.
    pub is_sampled: bool,
    /// Facts of the client's for its own tracing.
    pub state: String,
}

impl SessionOptions {
    /// Returns the configuration of a session with these options.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Setup`] if there are too many labels.
    pub(super) fn over(self, engine: &Config) -> Result<Config, QueryError> {
        let mut config = engine.clone();
        let labels = labels(&config.history, &self.labels);
        config.history.labels = labels.map_err(|bad| QueryError::setup(format!("labels: expected {bad}")))?;
        config.history.user = self.principal.or(config.history.user);
        config.cost.max = self.cap.or(config.cost.max);
        config.timeout = self.timeout.unwrap_or(config.timeout);
        config.prefer = self.prefer.or(config.prefer);
        config.deadline = self.deadline.or(config.deadline);
        Ok(config)
    }
}

/// Policy on DataFusion's settings that a session may change.
#[derive(Debug, Clone)]
pub enum SettingsPolicy {
    /// All settings that stay inside the session.
    OwnSession,
    /// These settings alone.
    Listed(&'static [Allowed]),
}

/// Setting that may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    pub name: &'static str,
    /// Least and greatest value, if it is a number.
    pub bounds: Option<(u64, u64)>,
}

/// Prefix of DataFusion's settings that belong to the whole process: memory, spill folder, caches.
const OF_THE_PROCESS: &str = "datafusion.runtime.";

impl SettingsPolicy {
    /// Checks if a session may write files of this machine.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if it may not.
    pub(super) fn check_copy(&self) -> Result<(), QueryError> {
        match self {
            Self::OwnSession => Ok(()),
            Self::Listed(_) => Err(QueryError::sql("COPY ... TO writes files of the server, and is not allowed")
                .with_hint("take the rows of the query, and write them on your side")
                .with_sqlstate("42501")),
        }
    }

    /// Returns true if a session may change a setting.
    pub(super) fn may_change(&self, name: &str) -> bool {
        NAMES.contains(&name) || self.check(name, None).is_ok()
    }

    /// Checks if a session may set `name` to `value`; None resets it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if it may not set `name`, or not to `value`.
    fn check(&self, name: &str, value: Option<&str>) -> Result<(), QueryError> {
        if name.starts_with(OF_THE_PROCESS) {
            let hint = "memory_bytes_max and temp_folder are set in gust.toml, for all sessions";
            return Err(QueryError::sql(format!("`{name}` is a setting of the whole process")).with_hint(hint));
        }
        let Self::Listed(allowed) = self else { return Ok(()) };
        let Some(allowed) = allowed.iter().find(|allowed| allowed.name == name) else {
            let names: Vec<_> = NAMES.into_iter().chain(allowed.iter().map(|allowed| allowed.name)).collect();
            return Err(QueryError::sql(format!("a session may not change `{name}`"))
                .with_hint(format!("it may change {}", names.join(", "))));
        };
        let (Some((least, most)), Some(value)) = (allowed.bounds, value) else { return Ok(()) };
        match value.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(()),
            _ => Err(QueryError::sql(format!("{name}: {value} is no number from {least} to {most}"))),
        }
    }
}

/// Name of the setting for the most dollars that a statement may cost.
const MAX_COST: &str = "gust.max_cost";

/// Name of the setting for the meaning of names that engines use for different things.
const DIALECT: &str = "gust.dialect";

/// Names of all our own settings.
const NAMES: [&str; 2] = [DIALECT, MAX_COST];

/// Values of the settings, kept with DataFusion's own so that SHOW shows them.
#[derive(Debug, Clone)]
pub(super) struct Options {
    cap: Option<Money>,
    /// Cap by the configuration, the flags and the session's options.
    configured: Option<Money>,
    dialect: Dialect,
}

impl Options {
    pub(super) fn new(configured: Option<Money>) -> Self {
        Self { cap: configured, configured, dialect: Dialect::default() }
    }
}

impl ConfigExtension for Options {
    const PREFIX: &'static str = "gust";
}

impl ExtensionOptions for Options {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> EngineResult<()> {
        let changed = self.change(&format!("{}.{key}", Self::PREFIX), Some(value));
        Ok(changed?)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let value = self.cap.map(|money| money.to_string());
        let dialect = Some(self.dialect.name().to_owned());
        let about =
            "Meaning of names that engines use for different things: `gust`, or `trino` for Trino's and Athena's";
        vec![
            ConfigEntry { key: DIALECT.to_owned(), value: dialect, description: about },
            ConfigEntry { key: MAX_COST.to_owned(), value, description: "Dollars that a statement may cost" },
        ]
    }
}

impl Options {
    /// Changes a setting as [`Self::change`] does. A cap above the configured one is refused if `is_ceiling`. An error
    /// changes nothing.
    fn change_below(&mut self, name: &str, value: Option<&str>, is_ceiling: bool) -> Result<(), QueryError> {
        let mut changed = self.clone();
        changed.change(name, value)?;
        if let (true, Some(ceiling), Some(wanted)) = (is_ceiling, self.configured, changed.cap)
            && wanted > ceiling
        {
            return Err(QueryError::sql(format!("{name}: {wanted} is above this session's cap of {ceiling}")));
        }
        *self = changed;
        Ok(())
    }

    /// Changes a setting. None sets it back to the configured value. An error changes nothing.
    fn change(&mut self, name: &str, value: Option<&str>) -> Result<(), QueryError> {
        if name == DIALECT {
            let wanted = value.unwrap_or_default().to_lowercase();
            let named = Dialect::ALL.into_iter().find(|dialect| dialect.name() == wanted);
            self.dialect = match (named, value) {
                (Some(dialect), _) => dialect,
                (None, None) => Dialect::default(),
                (None, Some(value)) => {
                    let names: Vec<_> = Dialect::ALL.map(|dialect| format!("'{}'", dialect.name())).into();
                    return Err(QueryError::sql(format!("{name}: there is no dialect `{value}`"))
                        .with_hint(format!("there are {}", names.join(" and "))));
                }
            };
            return Ok(());
        }
        if name != MAX_COST {
            let hint = match nearest(name, NAMES) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there is {}", NAMES.join(", ")),
            };
            return Err(QueryError::sql(format!("there is no setting `{name}`")).with_hint(hint));
        }
        self.cap = match value {
            Some(value) => Some(value.parse().map_err(|error: MoneyError| {
                QueryError::sql(format!("{name}: {error}")).with_hint(error.hint()).with_source(error)
            })?),
            None => self.configured,
        };
        Ok(())
    }
}

impl Session {
    /// Returns the most money that a statement may cost now; None for no limit.
    pub(super) fn cap(&self) -> Option<Money> {
        let state = self.context.state_ref();
        let state = state.read();
        state.config().options().extensions.get::<Options>().and_then(|options| options.cap)
    }

    /// Returns the meaning that names have now.
    pub(super) fn dialect(&self) -> Dialect {
        let state = self.context.state_ref();
        let state = state.read();
        state.config().options().extensions.get::<Options>().map(|options| options.dialect).unwrap_or_default()
    }

    /// Carries out a SET or RESET of one of our own settings. Returns true if the statement was one.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Sql`] if the session may not change the setting, or not to that value.
    pub(super) fn change_option(&self, plan: &LogicalPlan) -> Result<bool, QueryError> {
        let (name, value) = match plan {
            LogicalPlan::Statement(Statement::SetVariable(set)) => (&set.variable, Some(set.value.as_str())),
            LogicalPlan::Statement(Statement::ResetVariable(reset)) => (&reset.variable, None),
            _ => return Ok(false),
        };
        if name.split('.').next() != Some(Options::PREFIX) {
            self.engine.settings.check(&name.to_ascii_lowercase(), value)?;
            return Ok(false);
        }
        let state = self.context.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut().extensions.get_mut::<Options>();
        // With a listed policy somebody other than the user has set the configured cap. It is then a ceiling.
        let is_ceiling = matches!(self.engine.settings, SettingsPolicy::Listed(_));
        options.map_or(Ok(()), |options| options.change_below(name, value, is_ceiling))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_lists_settings_and_bounds() {
        const LISTED: &[Allowed] = &[
            Allowed { name: "datafusion.execution.time_zone", bounds: None },
            Allowed { name: "datafusion.execution.batch_size", bounds: Some((128, 65_536)) },
        ];
        let (own, listed) = (SettingsPolicy::OwnSession, SettingsPolicy::Listed(LISTED));
        for (policy, name, value, refused) in [
            (&own, "datafusion.execution.batch_size", Some("1"), None),
            (&own, "datafusion.runtime.memory_limit", Some("1G"), Some("whole process")),
            (&own, "datafusion.runtime.temp_directory", None, Some("whole process")),
            (&listed, "datafusion.runtime.memory_limit", Some("1G"), Some("whole process")),
            (&listed, "datafusion.execution.time_zone", Some("Europe/Berlin"), None),
            (&listed, "datafusion.execution.batch_size", Some("128"), None),
            (&listed, "datafusion.execution.batch_size", Some("65537"), Some("no number from 128 to 65536")),
            (&listed, "datafusion.execution.batch_size", Some("-1"), Some("no number from 128")),
            (&listed, "datafusion.execution.batch_size", None, None),
            (
                &listed,
                "datafusion.execution.target_partitions",
                Some("1"),
                Some("it may change gust.dialect, gust.max_cost, datafusion."),
            ),
        ] {
            match (policy.check(name, value), refused) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) if error.to_string().contains(words) => {}
                (checked, _) => panic!("{name} = {value:?}: {checked:?}"),
            }
        }
    }

    #[test]
    fn a_cap_is_set_reset_and_never_half_set() {
        let cents = |cents: u64| Some(Money::from_nano_dollars(cents * 10_000_000));
        let mut options = Options::new(cents(7));
        options.change(MAX_COST, Some("0.05")).expect("an amount");
        assert_eq!(options.cap, cents(5));
        for bad in ["-1", "much", "", "1e3", "NaN"] {
            let error = options.change(MAX_COST, Some(bad)).expect_err("no amount").to_string();
            assert!(error.contains("gust.max_cost: ") && error.contains("no amount of dollars"), "{error}");
        }
        for (name, hint) in [
            ("gust.max_cots", "did you mean `gust.max_cost`?"),
            ("gust.nonsense", "there is gust.dialect, gust.max_cost"),
        ] {
            let error = options.change(name, Some("1")).expect_err("no setting").to_string();
            assert!(error.contains(name) && error.contains(hint), "{error}");
        }
        assert_eq!(options.cap, cents(5), "an error changes nothing");
        let shown = |options: &Options| options.entries().into_iter().map(|entry| entry.value.unwrap_or_default());
        assert_eq!(shown(&options).collect::<Vec<_>>(), ["gust", "$0.05000"]);
        for (value, expect) in [(Some("Trino"), "trino"), (None, "gust"), (Some("trino"), "trino")] {
            options.change(DIALECT, value).expect("a dialect");
            assert_eq!(shown(&options).next().as_deref(), Some(expect));
        }
        let error = options.change(DIALECT, Some("oracle")).expect_err("no dialect").to_string();
        assert!(error.contains("no dialect `oracle`") && error.contains("'gust' and 'trino'"), "{error}");
        assert_eq!(options.dialect, Dialect::Trino);
        options.change(MAX_COST, None).expect("there is such a setting");
        assert_eq!(options.cap, cents(7));
    }
}
