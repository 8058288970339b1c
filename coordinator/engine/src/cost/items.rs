//! Items of a bill, their units, and the basis on which a quantity is known.

use std::collections::BTreeMap;
use std::time::Duration;

use gust_protocol::{Requests, Usage};
use serde::Serialize;

use super::book::PriceBook;
use crate::attempt::Billing;
use crate::money::{Money, Price};

/// Basis on which a quantity is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Quantity that the platform said.
    Reported,
    /// Quantity that Gust counted or timed.
    Metered,
    /// Quantity that is not exceeded.
    Bounded,
    /// Quantity that is not known. It has no amount of money.
    Unknown,
}

/// Kind of spending. Quantities are whole numbers of the unit that is named here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "item")]
pub enum Item {
    /// MB × µs of running functions.
    Compute {
        memory_mb: u32,
    },
    /// MB × µs of environments that started.
    StartUp {
        memory_mb: u32,
    },
    Invocations,
    /// GET and HEAD by functions.
    TableReads,
    /// LIST by functions.
    TableLists,
    /// PUT by functions.
    ExchangeWrites,
    /// GET of results by the coordinator.
    ExchangeReads,
    /// GET and HEAD by the coordinator: catalog, footers, and data where it reads by itself.
    CoordinatorReads,
    /// PUT and LIST by the coordinator.
    CoordinatorWrites,
    /// Bytes × µs that results lie in the exchange.
    ExchangeStorage,
    /// Bytes from the region to the coordinator.
    DataTransfer,
    /// Invocations that wrote a log of unknown size.
    Logs,
    /// µs of the coordinator's machine.
    Coordinator,
    /// Attempts that never told their requests to storage.
    LostRequests,
    /// Attempts that have not ended.
    OpenAttempts,
    /// Ends of coordinators that may have begun attempts after their last note.
    LostCoordinators,
}

/// Processor of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    #[serde(rename = "x86_64")]
    X86,
    #[serde(rename = "arm64")]
    Arm,
}

impl Architecture {
    /// Finds the architecture of AWS's name or Rust's.
    pub fn of(name: &str) -> Self {
        if matches!(name, "arm64" | "aarch64") { Self::Arm } else { Self::X86 }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::X86 => "x86_64",
            Self::Arm => "arm64",
        }
    }
}

/// Prices and settings that turn quantities into money.
#[derive(Debug, Clone)]
pub struct Tariff {
    pub book: PriceBook,
    pub architecture: Architecture,
    /// Memory of one function, where the platform does not say it with each attempt.
    pub memory_mb: u32,
    /// True if no bill is sent: functions are processes here, priced as if they ran on Lambda.
    pub as_if: bool,
    /// Price of an hour of the coordinator's machine. None where it is not known.
    pub coordinator_hour: Option<Price>,
    /// True if bytes to the coordinator leave AWS. None where that is not known.
    pub coordinator_outside: Option<bool>,
    /// Words about prices that are too old.
    pub stale: Option<String>,
}

#[cfg(test)]
impl Tariff {
    /// Makes the tariff of us-east-1 and 2 GB, as if on Lambda, with the coordinator inside at no known price.
    pub(crate) fn of_tests() -> Self {
        Self {
            book: PriceBook::of_region("us-east-1").expect("a book"),
            architecture: Architecture::X86,
            memory_mb: 2048,
            as_if: true,
            coordinator_hour: None,
            coordinator_outside: Some(false),
            stale: None,
        }
    }
}

const US_PER_SECOND: u128 = 1_000_000;
const US_PER_HOUR: u128 = 3_600 * US_PER_SECOND;
const US_PER_MONTH: u128 = 30 * 24 * US_PER_HOUR;
const GB: u128 = 1 << 30;
const MB_PER_GB: u128 = 1 << 10;

impl Item {
    /// Returns the money for a quantity. None where there is no price for it.
    pub fn cost(self, quantity: u128, tariff: &Tariff) -> Option<Money> {
        let book = &tariff.book;
        let (price, units) = match self {
            Self::Compute { .. } | Self::StartUp { .. } => match tariff.architecture {
                Architecture::X86 => (book.lambda.gb_second_x86_64, MB_PER_GB * US_PER_SECOND),
                Architecture::Arm => (book.lambda.gb_second_arm64, MB_PER_GB * US_PER_SECOND),
            },
            Self::Invocations => (book.lambda.million_requests, 1_000_000),
            Self::TableReads | Self::ExchangeReads | Self::CoordinatorReads => (book.s3.thousand_get, 1_000),
            Self::TableLists | Self::ExchangeWrites | Self::CoordinatorWrites => (book.s3.thousand_put, 1_000),
            Self::ExchangeStorage => (book.s3.gb_month, GB * US_PER_MONTH),
            Self::DataTransfer => (book.transfer.gb_to_internet, GB),
            Self::Coordinator => (tariff.coordinator_hour?, US_PER_HOUR),
            Self::Logs | Self::LostRequests | Self::OpenAttempts | Self::LostCoordinators => return None,
        };
        Some(price.of(quantity, units))
    }

    /// Returns the quantity as people read it, and its unit.
    pub fn shown(self, quantity: u128) -> (f64, &'static str) {
        let per = |units: u128| quantity as f64 / units as f64;
        match self {
            Self::Compute { .. } | Self::StartUp { .. } => (per(MB_PER_GB * US_PER_SECOND), "GB-s"),
            Self::Invocations | Self::Logs => (per(1), "invocations"),
            Self::TableReads
            | Self::TableLists
            | Self::ExchangeWrites
            | Self::ExchangeReads
            | Self::CoordinatorReads
            | Self::CoordinatorWrites => (per(1), "requests"),
            Self::ExchangeStorage => (per(GB * US_PER_SECOND), "GB-s"),
            Self::DataTransfer => (per(1), "bytes"),
            Self::Coordinator => (per(US_PER_SECOND), "s"),
            Self::LostRequests | Self::OpenAttempts => (per(1), "attempts"),
            Self::LostCoordinators => (per(1), "coordinators"),
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute { .. } => "compute",
            Self::StartUp { .. } => "start-up",
            Self::Invocations => "invocations",
            Self::TableReads => "table reads",
            Self::TableLists => "table lists",
            Self::ExchangeWrites => "exchange writes",
            Self::ExchangeReads => "exchange reads",
            Self::CoordinatorReads => "the coordinator's reads",
            Self::CoordinatorWrites => "the coordinator's writes",
            Self::ExchangeStorage => "exchange storage",
            Self::DataTransfer => "data transfer",
            Self::Logs => "logs",
            Self::Coordinator => "the coordinator's machine",
            Self::LostRequests => "requests of attempts that never answered",
            Self::OpenAttempts => "attempts that still run",
            Self::LostCoordinators => "last moments of coordinators that are gone",
        }
    }
}

/// Quantities by item and basis. Sums are exact: money is made of the sums, not of the parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quantities {
    by_item: BTreeMap<(Item, Basis), u128>,
}

impl Quantities {
    /// Adds to an item's line. Zero leaves no line.
    pub fn add(&mut self, item: Item, basis: Basis, quantity: impl Into<u128>) {
        let quantity = quantity.into();
        if quantity > 0 {
            *self.by_item.entry((item, basis)).or_default() += quantity;
        }
    }

    pub fn add_all(&mut self, other: &Self) {
        for (&(item, basis), &quantity) in &other.by_item {
            self.add(item, basis, quantity);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Item, Basis, u128)> + '_ {
        self.by_item.iter().map(|(&(item, basis), &quantity)| (item, basis, quantity))
    }

    /// Returns the money of all lines with an amount. A bounded quantity counts in full.
    pub fn cost(&self, tariff: &Tariff) -> Money {
        self.iter().filter_map(|(item, basis, quantity)| line_cost(item, basis, quantity, tariff)).sum()
    }

    /// Adds the coordinator's own share: its requests, the bytes that come to it, and its time.
    pub(crate) fn add_own(&mut self, requests: &Requests, bytes: u64, time: Duration, tariff: &Tariff) {
        let Requests { get, head, list, put, .. } = *requests;
        self.add(Item::CoordinatorReads, Basis::Metered, get + head);
        self.add(Item::CoordinatorWrites, Basis::Metered, list + put);
        let known = |is_known: bool| if is_known { Basis::Metered } else { Basis::Unknown };
        let outside = tariff.coordinator_outside;
        if outside != Some(false) {
            self.add(Item::DataTransfer, known(outside.is_some()), bytes);
        }
        self.add(Item::Coordinator, known(tariff.coordinator_hour.is_some()), time.as_micros());
    }

    /// Adds an attempt's requests, and its result in the exchange until the query's end.
    pub(crate) fn add_usage(&mut self, usage: &Usage, stored: Duration) {
        let Requests { get, head, list, put, .. } = usage.requests;
        self.add(Item::TableReads, Basis::Metered, get + head);
        self.add(Item::TableLists, Basis::Metered, list);
        self.add(Item::ExchangeWrites, Basis::Metered, put);
        self.add(Item::ExchangeStorage, Basis::Metered, u128::from(usage.bytes_written) * stored.as_micros());
    }

    /// Adds the billed time of one attempt; nothing where none was started.
    pub fn add_billing(&mut self, billing: Billing, tariff: &Tariff) {
        let (basis, total, init, memory_mb) = match billing {
            Billing::Reported { duration, init, memory_mb } => (Basis::Reported, duration, init, memory_mb),
            Billing::Metered { duration, init } => (Basis::Metered, duration + init, init, tariff.memory_mb),
            Billing::Bounded { at_most } => (Basis::Bounded, at_most, Duration::ZERO, tariff.memory_mb),
        };
        if total.is_zero() {
            return;
        }
        // Every begun millisecond is billed.
        let billed_us = total.as_micros().div_ceil(1_000) * 1_000;
        let init_us = init.as_micros().min(billed_us);
        let memory = u128::from(memory_mb);
        self.add(Item::Compute { memory_mb }, basis, memory * (billed_us - init_us));
        self.add(Item::StartUp { memory_mb }, basis, memory * init_us);
        self.add(Item::Invocations, basis, 1_u128);
    }
}

/// Returns the cost of the coordinator's own share, as far as it has a price.
pub(crate) fn own_cost(requests: &Requests, bytes: u64, time: Duration, tariff: &Tariff) -> Money {
    let mut spent = Quantities::default();
    spent.add_own(requests, bytes, time, tariff);
    spent.cost(tariff)
}

/// Returns the money of one line. An unknown quantity never is an amount.
pub(crate) fn line_cost(item: Item, basis: Basis, quantity: u128, tariff: &Tariff) -> Option<Money> {
    if basis == Basis::Unknown { None } else { item.cost(quantity, tariff) }
}
