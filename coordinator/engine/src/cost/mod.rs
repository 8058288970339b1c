//! Prices as data (one book a region), quantities by item and basis, and the tariff that turns them into money.
//!
//! Nothing here does I/O but [`PriceBook::of_file`]. An unknown quantity is a line without an amount, never zero. Not counted are free tiers,
//! discounts, taxes, retries of a store's own client, and pages of long listings after the first.

mod book;
mod items;
mod tariff;

pub use book::{AGE_DAYS_MAX, DEFAULT_REGION, PriceBook, PriceError};
pub use items::{Architecture, Basis, Item, Quantities, Tariff};
pub(crate) use items::{line_cost, own_cost};
pub use tariff::Billed;
