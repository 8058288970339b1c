//! The estimates of a query side by side: what EXPLAIN COST and `--dry-run` answer.

use serde::Serialize;

use crate::cost::Tariff;
use crate::model::Estimate;

/// Ways to run one query, and which of them it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quote {
    /// Locally first, then functions from few to many; the one that is picked and the runner-up are among them.
    pub ways: Vec<Estimate>,
    /// Positions in `ways`.
    pub picked: usize,
    pub runner_up: Option<usize>,
    /// Why there is no way with functions, or none without.
    pub missing: Vec<String>,
    pub region: String,
    pub prices_date: String,
    /// What to say of prices that are too old.
    pub prices_stale: Option<String>,
    pub architecture: &'static str,
    /// Nobody sends this bill: the functions are processes on this machine.
    pub as_if: bool,
    /// Files whose columns' sizes nobody knows; they are taken to be equally large.
    pub guessed_files: u64,
}

impl Quote {
    /// Ways in a row's order: without functions, then by functions and memory.
    pub fn new(mut ways: Vec<Estimate>, picked: &Estimate, runner_up: Option<&Estimate>, tariff: &Tariff) -> Self {
        ways.sort_by_key(Estimate::kind);
        ways.dedup_by(|a, b| a.is_like(b));
        let position = |wanted: &Estimate| ways.iter().position(|way| way.is_like(wanted));
        Self {
            picked: position(picked).unwrap_or_default(),
            runner_up: runner_up.and_then(position),
            ways,
            missing: Vec::new(),
            region: tariff.book.region.clone(),
            prices_date: tariff.book.date.to_string(),
            prices_stale: tariff.stale.clone(),
            architecture: tariff.architecture.name(),
            as_if: tariff.as_if,
            guessed_files: 0,
        }
    }
}

impl std::fmt::Display for Quote {
    /// What a table of numbers does not say.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { region, prices_date, architecture, .. } = self;
        let as_if = if self.as_if { "as if on Lambda, " } else { "" };
        write!(f, "estimate   nothing was run ({as_if}{region} on {prices_date}, {architecture})")?;
        if let Some(picked) = self.ways.get(self.picked) {
            write!(f, "\n           picked {picked}")?;
            if !picked.not_included.is_empty() {
                write!(f, "\n           not included: {}", picked.not_included.join(", "))?;
            }
        }
        for missing in &self.missing {
            write!(f, "\n           {missing}")?;
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
