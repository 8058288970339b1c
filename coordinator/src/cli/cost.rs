//! `gust cost`: the cost of the recorded queries, rolled up by SQL over the history.

use std::io::stdout;

use chrono::{DateTime, NaiveTime, Utc};
use gust_engine::config::{Overrides, Target};
use gust_engine::history::{NO_PLACE, NO_PLACE_HINT};
use gust_engine::session::Session;
use gust_output::{OutputError, RowOutput, StreamError, write_statement};

use super::args::{CostArgs, GroupBy, StartedSince};
use super::{CommandError, check_terminal, configuration, remote};
use crate::cli::say::say;

/// Writes one row a group. Remarks that explain the rows go to stderr.
pub(super) async fn cost(args: CostArgs) -> Result<(), CommandError> {
    check_terminal(args.format)?;
    let by = args.group_by();
    let sql = sql(&by, args.since.map(|since| beginning(since, Utc::now())));
    if let Some(url) = &args.server.url {
        told(remote::query::rows(url, &args.server, sql, args.format).await?, &by, url);
        return Ok(());
    }
    let overrides = Overrides { on: Some(Target::Local), ..Overrides::default() };
    let config = configuration(args.config.as_deref(), &overrides)?;
    let Some(path) = config.history.path.clone() else {
        return Err(CommandError::usage(NO_PLACE).with_hint(Some(NO_PLACE_HINT)));
    };
    let session = Session::new(config)?;
    let mut running = session.run(session.parse(&sql)?.remove(0)).await?;
    let written = write_statement(&mut running, &RowOutput::new(stdout(), args.format)).await;
    running.finish().await;
    session.close().await;
    match written {
        Ok(rows) => told(rows, &by, &path.display().to_string()),
        Err(StreamError::Output(OutputError::ReaderGone)) => {}
        Err(StreamError::Output(error)) => return Err(error.into()),
        Err(StreamError::Query(error)) => return Err(error.into()),
    }
    Ok(())
}

/// Says what the rows do not say by themselves.
fn told(rows: u64, by: &GroupBy, place: &str) {
    match rows {
        0 => say!("no query is recorded for that in {place}"),
        _ if *by == GroupBy::Label => say!("a query with several labels counts for each of them"),
        _ => {}
    }
}

/// Returns the moment from which queries count. A day begins at midnight UTC, as the days of a roll-up do.
fn beginning(since: StartedSince, now: DateTime<Utc>) -> DateTime<Utc> {
    match since {
        StartedSince::Day(day) => day.and_time(NaiveTime::MIN).and_utc(),
        StartedSince::Ago(time) => {
            let time = chrono::Duration::from_std(time).ok();
            time.and_then(|time| now.checked_sub_signed(time)).unwrap_or(DateTime::<Utc>::MIN_UTC)
        }
    }
}

/// Makes the statement. Amounts that are priced as if on Lambda are never added to billed amounts.
fn sql(by: &GroupBy, since: Option<DateTime<Utc>>) -> String {
    let key = match by {
        GroupBy::Day => "CAST(q.started AS DATE) AS day",
        GroupBy::User => "q.user_name AS \"user\"",
        GroupBy::Table => "nullif(array_to_string(q.tables, ', '), '') AS tables",
        GroupBy::Outcome => "q.outcome AS outcome",
        GroupBy::Label => "l.key || '=' || l.value AS label",
        // The key of a label needs no escaping.
        GroupBy::LabelKey(key) => &format!("q.labels['{key}'] AS \"{key}\""),
    };
    let from = match by {
        GroupBy::Label => {
            "gust.queries q LEFT JOIN (SELECT id, unnest(map_keys(labels)) AS key, unnest(map_values(labels)) AS value \
             FROM gust.queries) l ON l.id = q.id"
        }
        _ => "gust.queries q",
    };
    let filter =
        since.map_or("true".to_owned(), |since| format!("CAST(q.started AS BIGINT) >= {}", since.timestamp_micros()));
    let order = if *by == GroupBy::Day { "1, 2" } else { "dollars_at_most DESC NULLS LAST, 1, 2" };
    format!(
        "SELECT {key}, q.as_if, count(*) AS queries, \
         count(*) FILTER (WHERE q.outcome <> 'done') AS not_done, count(*) - count(q.dollars) AS not_priced, \
         round(sum(q.seconds), 3) AS seconds, round(sum(q.gb_seconds), 3) AS gb_seconds, \
         sum(q.dollars) AS dollars, sum(q.dollars_at_most) AS dollars_at_most, \
         sum(q.dollars_wasted) AS dollars_wasted, sum(q.dollars_athena) AS dollars_athena \
         FROM {from} WHERE {filter} GROUP BY 1, 2 ORDER BY {order}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_day_or_a_time_ago() {
        let now: DateTime<Utc> = "2026-11-21T13:00:00Z".parse().expect("a moment");
        let check = |since, expect: &str| assert_eq!(beginning(since, now).to_rfc3339(), expect);
        check(StartedSince::Ago(std::time::Duration::from_secs(7 * 86_400)), "2026-11-14T13:00:00+00:00");
        check(StartedSince::Day("2026-11-01".parse().expect("a day")), "2026-11-01T00:00:00+00:00");
        assert_eq!(beginning(StartedSince::Ago(std::time::Duration::MAX), now), DateTime::<Utc>::MIN_UTC);
    }
}
