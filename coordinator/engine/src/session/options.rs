//! Settings that SQL changes for the statements after it: `SET gust.max_cost = '0.05'`, `RESET gust.max_cost`.

use std::any::Any;

use datafusion::common::config::{ConfigEntry, ConfigExtension, ExtensionOptions};
use datafusion::common::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{LogicalPlan, Statement};

use super::Session;
use crate::error::{ErrorKind, QueryError};
use crate::money::Money;
use crate::nearest::nearest;

/// What a statement may cost.
const MAX_COST: &str = "gust.max_cost";

/// All settings of this kind.
const NAMES: [&str; 1] = [MAX_COST];

/// Their values, kept where DataFusion keeps its own: SHOW shows them.
#[derive(Debug, Clone)]
pub(super) struct Options {
    max_cost: Option<Money>,
    /// What the configuration and the flags say.
    configured: Option<Money>,
}

impl Options {
    pub(super) fn new(configured: Option<Money>) -> Self {
        Self { max_cost: configured, configured }
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
        changed.map_err(DataFusionError::Configuration)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let value = self.max_cost.map(|money| money.to_string());
        vec![ConfigEntry { key: MAX_COST.to_owned(), value, description: "Dollars that a statement may cost" }]
    }
}

impl Options {
    /// Without a value it is again what the configuration says. An error changes nothing.
    fn change(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        if name != MAX_COST {
            let hint = match nearest(name, NAMES) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there is {}", NAMES.join(", ")),
            };
            return Err(format!("there is no setting `{name}`\nhint: {hint}"));
        }
        self.max_cost = match value {
            Some(value) => Some(value.parse().map_err(|error| format!("{name}: {error}"))?),
            None => self.configured,
        };
        Ok(())
    }
}

impl Session {
    /// What a statement may cost now; None is no limit.
    pub(super) fn cost_max(&self) -> Option<Money> {
        let state = self.context.state_ref();
        let state = state.read();
        state.config().options().extensions.get::<Options>().and_then(|options| options.max_cost)
    }

    /// Carries out a SET or RESET of one of our own settings. Returns whether it was one.
    pub(super) fn change_option(&self, plan: &LogicalPlan) -> Result<bool, QueryError> {
        let (name, value) = match plan {
            LogicalPlan::Statement(Statement::SetVariable(set)) => (&set.variable, Some(set.value.as_str())),
            LogicalPlan::Statement(Statement::ResetVariable(reset)) => (&reset.variable, None),
            _ => return Ok(false),
        };
        if name.split('.').next() != Some(Options::PREFIX) {
            return Ok(false);
        }
        let state = self.context.state_ref();
        let mut state = state.write();
        let options = state.config_mut().options_mut().extensions.get_mut::<Options>();
        options
            .map_or(Ok(()), |options| options.change(name, value))
            .map_err(|words| QueryError::in_words(ErrorKind::Sql, words))?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_set_reset_and_never_half_set() {
        let cents = |cents: u64| Some(Money::from_nano_dollars(cents * 10_000_000));
        let mut options = Options::new(cents(7));
        options.change(MAX_COST, Some("0.05")).expect("an amount");
        assert_eq!(options.max_cost, cents(5));
        for bad in ["-1", "much", "", "1e3", "NaN"] {
            let error = options.change(MAX_COST, Some(bad)).expect_err("no amount");
            assert!(error.contains("gust.max_cost: ") && error.contains("no amount of dollars"), "{error}");
        }
        for (name, hint) in
            [("gust.max_cots", "did you mean `gust.max_cost`?"), ("gust.nonsense", "there is gust.max_cost")]
        {
            let error = options.change(name, Some("1")).expect_err("no setting");
            assert!(error.contains(name) && error.contains(hint), "{error}");
        }
        assert_eq!(options.max_cost, cents(5), "an error changes nothing");
        assert_eq!(options.entries()[0].value.as_deref(), Some("$0.05000"));
        options.change(MAX_COST, None).expect("there is such a setting");
        assert_eq!(options.max_cost, cents(7));
    }
}
