//! What things cost: prices as data (one book a region), quantities by item and basis, and the tariff that turns them into money.
//!
//! Nothing here does I/O but [`PriceBook::of_file`]. What is not known is a line without an amount, never zero. Not counted: free tiers,
//! discounts, taxes, what a store's own client tries again, pages of long listings after the first.

mod book;
mod items;
mod tariff;

pub use book::{AGE_DAYS_MAX, DEFAULT_REGION, PriceBook, PriceError};
pub use items::{Architecture, Basis, Item, Quantities, Tariff};
pub(crate) use items::{line_cost, own_cost};
pub use tariff::Billed;
