//! Logs without payloads.

use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::Filter;
use tracing_subscriber::registry::LookupSpan;

/// Adds to a filter that the traces of AWS's libraries are left out, whatever it asks for: they print whole requests and
/// answers, with the credentials in them.
pub fn without_payloads<S>(filter: EnvFilter) -> impl Filter<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    FilterExt::<S>::and(filter, filter_fn(shows_no_payload).with_max_level_hint(LevelFilter::TRACE))
}

fn shows_no_payload(metadata: &Metadata<'_>) -> bool {
    *metadata.level() < tracing::Level::TRACE || !metadata.target().starts_with("aws_")
}
