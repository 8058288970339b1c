//! Reserved money of one attempt, from the grant to the bill.

use std::sync::Arc;
use std::time::Duration;

use super::{AttemptWork, Cap, OverBudget, State, Terms};
use crate::attempt::Invocation;
use crate::cost::Quantities;
use crate::money::Money;

impl Cap {
    /// Reserves the money of an attempt. The cap has it.
    ///
    /// # Errors
    /// [`OverBudget`] of a budget that has it no more.
    pub(super) fn reserve_now(self: &Arc<Self>, state: &mut State, terms: Terms) -> Result<Reservation, OverBudget> {
        let Terms { time, worst_case, work } = terms;
        let amount = worst_case.cost(&self.tariff);
        if let Some(purse) = &self.purse {
            purse.hold(self.spent(state), self.bound(state) + amount)?;
        }
        state.reserved += amount;
        state.open += 1;
        let booked = Quantities::default();
        Ok(Reservation { cap: Arc::clone(self), amount, time, work, worst_case, booked, untold: Money::ZERO })
    }
}

/// Money for one attempt. Dropped before the attempt has begun it costs nothing, afterwards its full amount.
#[derive(Debug)]
pub(crate) struct Reservation {
    cap: Arc<Cap>,
    amount: Money,
    time: Duration,
    work: AttemptWork,
    worst_case: Quantities,
    /// Spending that is booked when the reservation is dropped.
    booked: Quantities,
    /// Bound on its requests, while they are not told.
    untold: Money,
}

impl Reservation {
    /// Returns the attempt's time until its deadline.
    pub(crate) fn time(&self) -> Duration {
        self.time
    }

    /// Marks the attempt as begun. From here on it may cost money, even if nothing is heard of it.
    pub(crate) fn begun(mut self) -> Self {
        self.booked = std::mem::take(&mut self.worst_case);
        if let Some(purse) = &self.cap.purse {
            self.untold = self.cap.requests(&self.work).cost(&self.cap.tariff);
            purse.add_untold(self.untold);
        }
        self
    }

    /// Books the real cost of an attempt that has ended. Requests that it could not report are booked as they were
    /// reserved.
    pub(crate) fn settle(mut self, invocation: &Invocation) {
        let Cap { tariff, .. } = &*self.cap;
        let mut spent = Quantities::default();
        spent.add_billing(invocation.billing, tariff);
        let was_started = spent != Quantities::default();
        match &invocation.outcome {
            Ok(response) => {
                spent.add_usage(&response.usage, Duration::ZERO);
                if let Ok(result) = &response.outcome
                    && result.inline_bytes().is_some()
                {
                    self.cap.add_transfer(&mut spent, result.part().bytes);
                }
            }
            Err(_) if was_started => spent.add_all(&self.cap.requests(&self.work)),
            Err(_) => {}
        }
        let is_told = invocation.outcome.is_ok() || !was_started;
        if let Some(purse) = self.cap.purse.as_ref().filter(|_| is_told) {
            purse.tell(self.untold);
        }
        self.booked = spent;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        {
            let mut state = self.cap.lock();
            state.reserved = state.reserved.saturating_sub(self.amount);
            state.open -= 1;
            state.spent.add_all(&self.booked);
            // A budget that is over is seen by the query's own look.
            drop(self.cap.note(&state));
        }
        self.cap.grant_waiting();
    }
}
