//! Purse of one statement: money that it takes from all of its user's budgets at once, or from none.

use std::sync::{Mutex, MutexGuard};

use super::{Budget, OverBudget, SharedBudgets};
use crate::cap::EXCESS_DIVISOR;
use crate::money::Money;

/// Money that one statement takes from its user's budgets. Dropped without a bill it pays all that it holds.
#[derive(Debug)]
pub struct Purse {
    shared: SharedBudgets,
    mine: Mutex<Mine>,
}

#[derive(Debug, Default)]
struct Mine {
    spending: Money,
    held: Money,
    /// Money that it holds in any case.
    least: Money,
    /// Bound on the requests of attempts that have begun and have not told them. No bill has their price.
    untold: Money,
    is_closed: bool,
}

impl Purse {
    pub(super) fn new(shared: SharedBudgets) -> Self {
        Self { shared, mine: Mutex::default() }
    }

    fn mine(&self) -> MutexGuard<'_, Mine> {
        self.mine.lock().expect("no holder panics")
    }

    /// Refuses a statement whose budgets are spent. Money that others hold may come back.
    ///
    /// # Errors
    /// [`OverBudget`] of the first of them.
    pub fn check(&self) -> Result<(), OverBudget> {
        let budgets = self.shared.budgets.lock();
        let mut of_user = self.shared.of.iter().map(|at| &budgets[*at]);
        let empty = of_user.find(|budget| budget.state().spent >= budget.config.limit);
        empty.map_or(Ok(()), |budget| Err(budget.refusal(None)))
    }

    /// Adds to the requests of attempts that have not told them.
    pub(crate) fn add_untold(&self, requests: Money) {
        let mut mine = self.mine();
        mine.untold += requests;
    }

    /// Takes the requests of an attempt out that has told them, or never began.
    pub(crate) fn tell(&self, requests: Money) {
        let mut mine = self.mine();
        mine.untold = mine.untold.saturating_sub(requests);
    }

    /// Returns the most that the statement may hold now, with what it holds already.
    pub(crate) fn room(&self) -> Money {
        let mine = self.mine();
        let budgets = self.shared.budgets.lock();
        let room = |budget: &Budget| {
            let of_others = budget.held.saturating_sub(mine.held);
            budget.config.limit.saturating_sub(budget.paid + of_others)
        };
        self.shared.of.iter().map(|at| room(&budgets[*at])).min().unwrap_or_default()
    }

    /// Holds so much in any case, until the statement has ended.
    ///
    /// # Errors
    /// [`OverBudget`] of a budget that has less left. Then nothing is held.
    pub(crate) fn hold_at_least(&self, least: Money) -> Result<(), OverBudget> {
        let mut mine = self.mine();
        let mut budgets = self.shared.budgets.lock();
        let held = least.max(mine.least);
        if let Some(short) = self.short(&mine, &budgets, held) {
            return Err(short);
        }
        let spending = mine.spending;
        self.change(&mut mine, &mut budgets, spending, held);
        mine.least = least;
        Ok(())
    }

    /// Holds so much from now on, of which `spending` is spent.
    ///
    /// # Errors
    /// [`OverBudget`] of a budget that has less left. Then nothing changes.
    pub(crate) fn hold(&self, spending: Money, held: Money) -> Result<(), OverBudget> {
        let mut mine = self.mine();
        let mut budgets = self.shared.budgets.lock();
        let held = held.max(mine.least);
        if let Some(short) = self.short(&mine, &budgets, held) {
            return Err(short);
        }
        self.change(&mut mine, &mut budgets, spending, held);
        Ok(())
    }

    /// Returns the refusal of a budget that has less than so much for the statement, if it wants more than it holds.
    pub(crate) fn refusal(&self, held: Money) -> Option<OverBudget> {
        self.short(&self.mine(), &self.shared.budgets.lock(), held)
    }

    /// A statement that has paid gets no more.
    fn short(&self, mine: &Mine, budgets: &[Budget], held: Money) -> Option<OverBudget> {
        if mine.is_closed {
            return self.shared.of.first().map(|at| budgets[*at].refusal(Some(held)));
        }
        let needs = |budget: &Budget| budget.paid + budget.held.saturating_sub(mine.held) + held;
        let is_short = |budget: &&Budget| held > mine.held && needs(budget) > budget.config.limit;
        let is_held =
            |budget: &Budget| budget.paid + budget.spending.saturating_sub(mine.spending) + held <= budget.config.limit;
        let mut short: Vec<&Budget> = self.shared.of.iter().map(|at| &budgets[*at]).filter(is_short).collect();
        // One that is spent decides: waiting for others would be in vain.
        short.sort_by_key(|budget| is_held(budget));
        let first = short.first()?;
        Some(OverBudget { is_held: is_held(first), ..first.refusal(Some(held.saturating_sub(mine.held))) })
    }

    /// Tells what is spent and held, wanted or not. Returns the refusal of a budget that is over.
    pub(crate) fn note(&self, spending: Money, held: Money) -> Option<OverBudget> {
        let mut mine = self.mine();
        let mut budgets = self.shared.budgets.lock();
        let held = held.max(mine.least);
        self.change(&mut mine, &mut budgets, spending, held);
        let mut of_user = self.shared.of.iter().map(|at| &budgets[*at]);
        of_user.find(|budget| budget.is_over()).map(|budget| budget.refusal(None))
    }

    /// Tells what the start of a statement has spent at least, beside what it holds. Returns the refusal of a budget that it takes too
    /// much of, before others under the same budget hear of it.
    pub(crate) fn note_at_least(&self, spending: Money) -> Option<OverBudget> {
        let mut mine = self.mine();
        let mut budgets = self.shared.budgets.lock();
        let (before, spending) = (mine.held, spending.max(mine.spending));
        let held = spending.max(before);
        let is_passed = |budget: &Budget| {
            let limit = budget.config.limit + budget.config.limit.part_of(2 * EXCESS_DIVISOR);
            held > before && budget.paid + budget.held.saturating_sub(before) + held > limit
        };
        let passed = self.shared.of.iter().any(|at| is_passed(&budgets[*at]));
        let short = if passed { self.short(&mine, &budgets, held) } else { None };
        self.change(&mut mine, &mut budgets, spending, if short.is_some() { before } else { held });
        let is_spent = |budget: &&Budget| budget.paid + budget.spending > budget.config.limit;
        let mut of_user = self.shared.of.iter().map(|at| &budgets[*at]);
        short.or_else(|| of_user.find(is_spent).map(|budget| budget.refusal(None)))
    }

    fn change(&self, mine: &mut Mine, budgets: &mut [Budget], spending: Money, held: Money) {
        if mine.is_closed || (mine.spending, mine.held) == (spending, held) {
            return;
        }
        for at in &*self.shared.of {
            let budget = &mut budgets[*at];
            budget.spending = budget.spending.saturating_sub(mine.spending) + spending;
            budget.held = budget.held.saturating_sub(mine.held) + held;
        }
        (mine.spending, mine.held) = (spending, held);
        self.shared.budgets.changed.notify_one();
    }

    /// Pays the bill of a statement that has ended, and the requests that no bill has, and gives the rest back. Later calls change
    /// nothing. A bill that is not known is all that is held.
    pub fn pay(&self, bill: Option<Money>) {
        let mut mine = self.mine();
        if mine.is_closed {
            return;
        }
        let bill = bill.map_or(mine.held, |bill| bill + mine.untold);
        let mut budgets = self.shared.budgets.lock();
        self.change(&mut mine, &mut budgets, Money::ZERO, Money::ZERO);
        mine.is_closed = true;
        if bill > Money::ZERO {
            for at in &*self.shared.of {
                budgets[*at].paid += bill;
            }
            self.shared.budgets.changed.notify_one();
        }
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        self.pay(None);
    }
}
