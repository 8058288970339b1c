//! What a query costs: prices as data, money as integers, and a pure fold of the query's events.
//!
//! ```text
//!  events ─► quantities by item and basis ─┐
//!                                          ├─► lines, total, waste, Athena's price ─► report
//!  price book of the region ───────────────┘
//! ```
//!
//! The same quantities and prices, while a query runs, keep it within a cap: [`Budget`].
//!
//! Nothing here does I/O but [`PriceBook::of_file`]. What is not known is a line without an amount, never zero. Not counted: free tiers,
//! discounts, taxes, what a store's own client tries again, pages of long listings after the first.

mod book;
mod budget;
pub mod estimate;
mod items;
mod price;
mod quote;
mod tariff;
mod text;

pub use book::{AGE_DAYS_MAX, DEFAULT_REGION, PriceBook, PriceError};
pub(crate) use budget::{Ask, Reservation};
pub use budget::{Budget, OverBudget, Stopped, Work, lower_bound};
pub use estimate::{Amounts, Estimate};
pub use items::{Architecture, Basis, Item, Quantities, Tariff};
pub(crate) use price::own_cost;
pub use price::{Athena, CostReport, Line, Waste, attempt_spent, price};
pub use quote::Quote;
