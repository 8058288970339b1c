//! Budgets: dollars that the statements of a user, or of all users of a group, share in a day or a month.
//!
//! ```text
//!  bills of statements that have ended in the window            ┐
//!  + what each one under way has spent, and what its open       ├─ at most the budget whenever an attempt may begin
//!    attempts may cost at their worst                           ┘
//! ```
//!
//! A statement holds money for its attempts before they begin, pays its bill at its end, and gives the rest back. Its bill counts in
//! the window in which it ends. All budgets have one lock, so that a statement takes from several of them at once or from none.
//!
//! A window is a day or a month of UTC. Only a later window gives money anew: a clock that goes back gives none twice. One that jumps
//! ahead of the steady clock is believed once it has stayed there for a while ([`Time`]).
//!
//! Non-goals: it writes no file. Its owner saves [`Budgets::saved`], and makes the budgets with it when the process starts anew.

use std::fmt::{Debug, Display, Formatter};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::EXCESS_DIVISOR;
use crate::config::{BudgetConfig, BudgetHolder, BudgetPeriod};
use crate::money::Money;

use time::Time;

mod purse;
mod time;

pub use purse::Purse;

/// Source of the time: UTC's, and a steady one's.
type Clock = Box<dyn Fn() -> (DateTime<Utc>, Instant) + Send + Sync>;

/// All budgets of a server.
pub struct Budgets {
    state: Mutex<State>,
    clock: Clock,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    budgets: Vec<Budget>,
    time: Time,
}

#[derive(Debug)]
struct Budget {
    config: BudgetConfig,
    /// First day of its window.
    begins: NaiveDate,
    /// Bills of statements that ended in the window.
    paid: Money,
    /// Spending of statements under way.
    spending: Money,
    /// Money that they hold, their spending included.
    held: Money,
}

/// State of a budget at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    pub config: BudgetConfig,
    pub begins: DateTime<Utc>,
    /// End of the window: the budget begins anew.
    pub ends: DateTime<Utc>,
    /// Bills of ended statements, and spending of those under way.
    pub spent: Money,
    /// Money that statements under way hold beside.
    pub held: Money,
}

impl BudgetState {
    /// Returns the money that is neither spent nor held.
    pub fn left(&self) -> Money {
        self.config.limit.saturating_sub(self.spent + self.held)
    }
}

/// Part of a budget that outlives the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBudget {
    /// `user` or `group`.
    pub of: String,
    pub name: String,
    pub period: String,
    /// First day of its window.
    pub begins: NaiveDate,
    /// Money that is spent or held. What was held when a process died counts as spent.
    pub nano_dollars: u64,
}

impl SavedBudget {
    fn is_of(&self, config: &BudgetConfig) -> bool {
        let BudgetConfig { holder, period, .. } = config;
        (self.of.as_str(), self.name.as_str(), self.period.as_str()) == (holder.kind(), holder.name(), period.name())
    }
}

/// Refusal to let a statement spend more of a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverBudget {
    pub state: BudgetState,
    /// Money that the statement would need next, if that is known.
    pub wants: Option<Money>,
    /// True if other statements hold the money: it may come back.
    pub is_held: bool,
}

impl Display for OverBudget {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { state, wants, is_held } = self;
        let BudgetConfig { holder, period, limit } = &state.config;
        let (kind, name, period, left) = (holder.kind(), holder.name(), period.name(), state.left());
        write!(f, "the budget of {kind} `{name}` does not suffice: {left} of {limit} a {period} is left")?;
        if state.held > Money::ZERO {
            write!(f, ", and statements under way hold {}", state.held)?;
        }
        if let Some(wants) = wants {
            write!(f, "; this one would need {wants}")?;
        }
        match is_held {
            true => Ok(()),
            false => write!(f, "; it begins anew at {}", state.ends.to_rfc3339_opts(SecondsFormat::Secs, true)),
        }
    }
}

impl std::error::Error for OverBudget {}

/// Lock on all budgets.
struct Opened<'a>(MutexGuard<'a, State>);

impl Deref for Opened<'_> {
    type Target = Vec<Budget>;

    fn deref(&self) -> &Vec<Budget> {
        &self.0.budgets
    }
}

impl DerefMut for Opened<'_> {
    fn deref_mut(&mut self) -> &mut Vec<Budget> {
        &mut self.0.budgets
    }
}

/// Returns the first day of the window that a moment is in.
fn window(period: BudgetPeriod, now: DateTime<Utc>) -> NaiveDate {
    let day = now.date_naive();
    match period {
        BudgetPeriod::Day => day,
        BudgetPeriod::Month => day.with_day(1).unwrap_or(day),
    }
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

impl Budget {
    fn new(config: BudgetConfig, saved: &[SavedBudget], now: DateTime<Utc>) -> Self {
        let today = window(config.period, now);
        // One that was saved for a later window holds until the clock is there again.
        let saved = saved.iter().find(|saved| saved.is_of(&config) && saved.begins >= today);
        if let Some(later) = saved.filter(|saved| saved.begins > today) {
            let (name, begins) = (config.holder.name(), later.begins);
            tracing::error!(name, %begins, "the clock is before the window of a budget, which begins anew after it; is the clock right?");
        }
        let (begins, paid) = saved.map_or((today, 0), |saved| (saved.begins, saved.nano_dollars));
        let paid = Money::from_nano_dollars(paid);
        Self { config, begins, paid, spending: Money::ZERO, held: Money::ZERO }
    }

    fn turn(&mut self, now: DateTime<Utc>) {
        let today = window(self.config.period, now);
        if today > self.begins {
            (self.begins, self.paid) = (today, Money::ZERO);
        }
    }

    fn state(&self) -> BudgetState {
        let ends = match self.config.period {
            BudgetPeriod::Day => self.begins.checked_add_signed(TimeDelta::days(1)),
            BudgetPeriod::Month => self.begins.checked_add_months(Months::new(1)),
        };
        BudgetState {
            config: self.config.clone(),
            begins: midnight(self.begins),
            ends: midnight(ends.unwrap_or(NaiveDate::MAX)),
            spent: self.paid + self.spending,
            held: self.held.saturating_sub(self.spending),
        }
    }

    /// Returns true if statements under way have to end. What is held may pass the budget a little, as a query's may pass its cap.
    fn is_over(&self) -> bool {
        let limit = self.config.limit;
        self.paid + self.spending > limit || self.paid + self.held > limit + limit.part_of(EXCESS_DIVISOR)
    }

    fn refusal(&self, wants: Option<Money>) -> OverBudget {
        OverBudget { state: self.state(), wants, is_held: false }
    }
}

impl Debug for Budgets {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budgets").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Budgets {
    /// Makes budgets with what was saved of them.
    pub fn new(
        configs: Vec<BudgetConfig>,
        saved: &[SavedBudget],
        clock: impl Fn() -> (DateTime<Utc>, Instant) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (now, steady) = clock();
        let budgets = configs.into_iter().map(|config| Budget::new(config, saved, now)).collect();
        let state = State { budgets, time: Time::new(now, steady) };
        Arc::new(Self { state: Mutex::new(state), clock: Box::new(clock), changed: Notify::new() })
    }

    /// Returns the budgets, each in its window of now.
    fn lock(&self) -> Opened<'_> {
        let mut state = self.state.lock().expect("no holder panics");
        let (wall, steady) = (self.clock)();
        let now = state.time.look(wall, steady);
        state.budgets.iter_mut().for_each(|budget| budget.turn(now));
        Opened(state)
    }

    /// Returns the budgets that a user shares; None if there are none.
    pub fn of(self: &Arc<Self>, user: &str, groups: &[String]) -> Option<SharedBudgets> {
        let is_his = |holder: &BudgetHolder| match holder {
            BudgetHolder::User(name) => name == user,
            BudgetHolder::Group(name) => groups.contains(name),
        };
        let budgets = self.lock();
        let of: Arc<[usize]> =
            (0..).zip(&*budgets).filter(|(_, b)| is_his(&b.config.holder)).map(|(at, _)| at).collect();
        (!of.is_empty()).then(|| SharedBudgets { budgets: Arc::clone(self), of })
    }

    /// Returns the states of all budgets.
    pub fn states(&self) -> Vec<BudgetState> {
        self.lock().iter().map(Budget::state).collect()
    }

    /// Returns the part that outlives the process.
    pub fn saved(&self) -> Vec<SavedBudget> {
        let saved = |Budget { config, begins, paid, held, .. }: &Budget| SavedBudget {
            of: config.holder.kind().to_owned(),
            name: config.holder.name().to_owned(),
            period: config.period.name().to_owned(),
            begins: *begins,
            nano_dollars: (*paid + *held).nano_dollars(),
        };
        self.lock().iter().map(saved).collect()
    }

    /// Waits for a change since the last one that was waited for.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Budgets that a user shares with others. Clones are the same.
#[derive(Debug, Clone)]
pub struct SharedBudgets {
    budgets: Arc<Budgets>,
    /// Positions of the user's own.
    of: Arc<[usize]>,
}

impl SharedBudgets {
    /// Returns their states.
    pub fn states(&self) -> Vec<BudgetState> {
        let budgets = self.budgets.lock();
        self.of.iter().map(|at| budgets[*at].state()).collect()
    }

    /// Opens the purse of one statement.
    pub fn purse(&self) -> Purse {
        Purse::new(self.clone())
    }
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
