//! The cost in a few lines for people. They leave out everything that did not happen.

use std::fmt::{Display, Formatter};

use humansize::{BINARY, format_size};

use super::bill::{CostReport, Waste};
use crate::cost::{Basis, Item};
use crate::money::Money;

/// Smallest amount of a group that is shown.
const SHOWN_MIN: Money = Money::from_nano_dollars(1);

/// A group of items.
struct CostGroup {
    name: &'static str,
    has: fn(Item) -> bool,
}

const fn group(name: &'static str, has: fn(Item) -> bool) -> CostGroup {
    CostGroup { name, has }
}

/// Writes `DiskFull` as `disk full`.
pub(super) fn in_words(kind: &str) -> String {
    let mut words = String::new();
    for sign in kind.chars() {
        if sign.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(sign.to_lowercase());
    }
    words
}

impl CostReport {
    /// Sums the lines of some items that are reported or metered. Bounded lines are not in it.
    fn spent(&self, has: impl Fn(Item) -> bool) -> Money {
        let lines = self.lines.iter().filter(|line| line.basis != Basis::Bounded && has(line.item));
        lines.filter_map(|line| line.cost).sum()
    }
}

impl Display for CostReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { region, prices_date, architecture, known, at_most, waste, athena, .. } = self;
        let as_if = if self.as_if { "as if on Lambda, " } else { "" };
        write!(f, "cost       {known} ({as_if}{region} on {prices_date}, {})", architecture.name())?;
        let groups: [CostGroup; 8] = [
            group("compute", |item| matches!(item, Item::Compute { .. })),
            group("start-ups", |item| matches!(item, Item::StartUp { .. })),
            group("invocations", |item| item == Item::Invocations),
            group("table reads", |item| matches!(item, Item::TableReads | Item::TableLists)),
            group("exchange", |item| {
                matches!(item, Item::ExchangeWrites | Item::ExchangeReads | Item::ExchangeStorage)
            }),
            group("own requests", |item| matches!(item, Item::CoordinatorReads | Item::CoordinatorWrites)),
            group("data transfer", |item| item == Item::DataTransfer),
            group("own machine", |item| item == Item::Coordinator),
        ];
        let mut separator = ": ";
        for CostGroup { name, has } in groups {
            let spent = self.spent(has);
            if spent >= SHOWN_MIN {
                write!(f, "{separator}{name} {spent}")?;
                separator = ", ";
            }
        }
        if at_most > known {
            let bounded = at_most.saturating_sub(*known);
            write!(f, "\n           and at most {bounded} for attempts whose end is not known")?;
        }
        let Waste { failed, retried, speculative, cancelled, hedged, total } = *waste;
        if total > Money::ZERO {
            write!(f, "\n           wasted {total} of this")?;
            let kinds = [
                ("failed", failed),
                ("retried", retried),
                ("speculative", speculative),
                ("cancelled", cancelled),
                ("hedged", hedged),
            ];
            let mut separator = ": ";
            for (name, amount) in kinds.into_iter().filter(|(_, amount)| *amount > Money::ZERO) {
                write!(f, "{separator}{name} {amount}")?;
                separator = ", ";
            }
        }
        let unknown: Vec<&str> =
            self.lines.iter().filter(|line| line.cost.is_none()).map(|line| line.item.name()).collect();
        if !unknown.is_empty() {
            write!(f, "\n           not known: {}", unknown.join(", "))?;
        }
        if athena.bytes > 0 {
            write!(f, "\n           Athena would take {} for {}", athena.cost, format_size(athena.bytes, BINARY))?;
        }
        self.prices_stale.as_ref().map_or(Ok(()), |stale| write!(f, "\n           {stale}"))
    }
}
