//! The forecasts of a query side by side: the answer of EXPLAIN COST and `--dry-run`.

use gust_protocol::with_hint_line;
use serde::Serialize;

use crate::cost::Tariff;
use crate::model::Forecast;
use crate::money::Money;

/// Candidates of one query, and the one that it runs as.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quote {
    /// Forecasts: the local one first, then functions from few to many. The picked one and the runner-up are among them.
    // The JSON keeps the key that its readers know.
    #[serde(rename = "ways")]
    pub forecasts: Vec<Forecast>,
    /// Position of the picked one in `forecasts`.
    pub picked: usize,
    /// Position of the runner-up.
    pub runner_up: Option<usize>,
    /// Reasons why candidates are missing.
    pub missing: Vec<String>,
    /// Next step where functions are missing, unless the decision has it.
    pub hint: Option<String>,
    pub region: String,
    pub prices_date: String,
    /// Words about prices that are too old.
    pub prices_stale: Option<String>,
    pub architecture: &'static str,
    /// True if no bill is sent: the functions are processes on this machine.
    pub as_if: bool,
    /// Files whose columns have unknown sizes: they count as equally large.
    pub guessed_files: u64,
    /// Cap of the statement, and what becomes of it; None without a cap.
    pub cap: Option<CapQuote>,
    /// Words about a candidate that is expected to be cheaper and faster than the picked one, with the reason why it is not picked.
    pub better: Option<String>,
}

/// A cap beside the amounts of the picked candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CapQuote {
    #[serde(rename = "nano_dollars")]
    pub limit: Money,
    pub outlook: CapOutlook,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CapOutlook {
    /// The upper amount is within the cap.
    Keeps,
    /// The expected amount is within the cap, and the upper one is not.
    MayStop,
    /// The expected amount is above the cap.
    Stops,
}

impl Quote {
    /// Orders forecasts as rows: without functions, then by functions and memory. Each kind stays once.
    pub fn new(mut forecasts: Vec<Forecast>, picked: &Forecast, runner_up: Option<&Forecast>, tariff: &Tariff) -> Self {
        forecasts.sort_by_key(Forecast::kind);
        forecasts.dedup_by(|a, b| a.is_like(b));
        let position = |wanted: &Forecast| forecasts.iter().position(|forecast| forecast.is_like(wanted));
        Self {
            picked: position(picked).unwrap_or_default(),
            runner_up: runner_up.and_then(position),
            forecasts,
            missing: Vec::new(),
            hint: None,
            region: tariff.book.region.clone(),
            prices_date: tariff.book.date.to_string(),
            prices_stale: tariff.stale.clone(),
            architecture: tariff.architecture.name(),
            as_if: tariff.as_if,
            guessed_files: 0,
            cap: None,
            better: None,
        }
    }

    /// Adds the statement's cap.
    #[must_use]
    pub fn under(self, limit: Option<Money>) -> Self {
        let outlook = |limit: Money, picked: &Forecast| match () {
            () if picked.expected.dollars > limit => CapOutlook::Stops,
            () if picked.upper.dollars > limit => CapOutlook::MayStop,
            () => CapOutlook::Keeps,
        };
        let picked = self.forecasts.get(self.picked);
        let cap = limit.zip(picked).map(|(limit, picked)| CapQuote { limit, outlook: outlook(limit, picked) });
        Self { cap, ..self }
    }
}

impl std::fmt::Display for Quote {
    /// Writes the facts that a table of numbers lacks.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { region, prices_date, architecture, .. } = self;
        let as_if = if self.as_if { "as if on Lambda, " } else { "" };
        write!(f, "estimate   nothing was run ({as_if}{region} on {prices_date}, {architecture})")?;
        if let Some(picked) = self.forecasts.get(self.picked) {
            write!(f, "\n           picked {picked}")?;
            if !picked.not_included.is_empty() {
                write!(f, "\n           not included: {}", picked.not_included.join(", "))?;
            }
        }
        if let Some(CapQuote { limit, outlook }) = self.cap {
            let words = match outlook {
                CapOutlook::Keeps => "it keeps its cap of",
                CapOutlook::MayStop => "at its upper amounts it would be stopped at its cap of",
                CapOutlook::Stops => "it would be stopped at its cap of",
            };
            write!(f, "\n           {words} {limit}")?;
        }
        if let Some(better) = &self.better {
            write!(f, "\n           {better}")?;
        }
        for line in with_hint_line(self.missing.join("\n"), self.hint.as_ref()).lines() {
            write!(f, "\n           {line}")?;
        }
        if self.guessed_files > 0 {
            let files = self.guessed_files;
            write!(
                f,
                "\n           the sizes of the columns of {files} files are not known: they count as equally large"
            )?;
        }
        self.prices_stale.as_ref().map_or(Ok(()), |stale| write!(f, "\n           {stale}"))
    }
}
