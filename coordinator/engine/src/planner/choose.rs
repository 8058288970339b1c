//! Where a query runs: by money, by time, or because there is nothing to weigh. Pure.
//!
//! The fastest distributed query is the one that runs on a single node; functions have to earn their overhead in pipes.

use std::cmp::Ordering;
use std::time::Duration;

use crate::config::Prefer;
use crate::model::{Choice, Estimate, Place, Reason, Workload};

/// Figures of a query before there is any plan for functions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    pub workload: Workload,
    /// Seconds that it takes here.
    pub local_seconds: f64,
    /// Seconds that it takes on functions at least, however they are packed.
    pub least_seconds: f64,
}

/// Gives the reason to stay here without a plan for functions, where seconds decide; None where functions may be faster.
pub fn reason_to_stay(outlook: &Outlook) -> Option<Reason> {
    let Outlook { workload, local_seconds, least_seconds } = *outlook;
    match () {
        () if workload.scans == 0 => Some(Reason::NoScan),
        () if local_seconds < least_seconds => Some(Reason::TooSmall),
        () if workload.units < 2 => Some(Reason::FewerUnits),
        () => None,
    }
}

/// Picks by what is expected. With a deadline, among the ways that keep it even at most; where none does, the fastest.
///
/// Without a preference it is the fastest, or with a deadline the cheapest. None where there is no way.
pub fn choose(ways: &[Estimate], prefer: Option<Prefer>, deadline: Option<Duration>) -> Option<Choice> {
    let wanted = prefer.unwrap_or(if deadline.is_some() { Prefer::Cost } else { Prefer::Latency });
    let keeps = |way: &&Estimate| deadline.is_none_or(|deadline| way.upper.seconds <= deadline.as_secs_f64());
    let mut order: Vec<&Estimate> = ways.iter().filter(keeps).collect();
    let (by, reason) = match (order.is_empty(), deadline) {
        (true, _) => (Prefer::Latency, Reason::MissesDeadline),
        (false, None) => (wanted, Reason::Preferred(wanted)),
        (false, Some(_)) => (wanted, Reason::KeepsDeadline(wanted)),
    };
    if order.is_empty() {
        order = ways.iter().collect();
    }
    // Stable: of equals the first stays, which has fewer functions.
    order.sort_by(|a, b| compare(a, b, by));
    // Who is alone in keeping the deadline has a runner-up that does not.
    let others = ways.iter().filter(|way| !order.contains(way)).min_by(|a, b| compare(a, b, Prefer::Latency));
    let (picked, runner_up) = (order.first()?, order.get(1).copied().or(others));
    let is_of_places = ways.iter().any(|way| way.place != picked.place);
    let reason = match (reason, picked.place) {
        (Reason::Preferred(Prefer::Latency), Place::Local) if is_of_places => Reason::LocalFaster,
        (Reason::Preferred(Prefer::Latency), Place::Functions) if is_of_places => Reason::FunctionsFaster,
        (reason, _) => reason,
    };
    Some(Choice { picked: Estimate::clone(picked), runner_up: runner_up.cloned(), reason })
}

/// The better of two first; what is not asked for breaks ties.
pub fn compare(a: &Estimate, b: &Estimate, prefer: Prefer) -> Ordering {
    let dollars = |way: &Estimate| way.expected.dollars.nano_dollars() as f64;
    let seconds = |way: &Estimate| way.expected.seconds;
    let key = |way: &Estimate| match prefer {
        Prefer::Cost => (dollars(way), seconds(way)),
        Prefer::Latency => (seconds(way), dollars(way)),
        Prefer::Balanced => (dollars(way) * seconds(way), seconds(way)),
    };
    let ((a, a_next), (b, b_next)) = (key(a), key(b));
    a.total_cmp(&b).then(a_next.total_cmp(&b_next))
}

/// Numbers of fragments that are worth comparing: powers of two up to `most`, and `most` itself.
pub fn fan_outs(most: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1_usize), |fan_out| fan_out.checked_mul(2));
    powers.take_while(|fan_out| *fan_out < most).chain([most.max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Amounts;
    use crate::money::Money;

    /// Functions, nano-dollars and seconds, and seconds at most.
    fn way((functions, nano_dollars, seconds, at_most): (usize, u64, f64, f64)) -> Estimate {
        let amounts =
            |seconds| Amounts { dollars: Money::from_nano_dollars(nano_dollars), seconds, ..Amounts::default() };
        Estimate {
            place: if functions == 0 { Place::Local } else { Place::Functions },
            functions,
            memory_mb: (functions > 0).then_some(2048),
            fragments: functions,
            expected: amounts(seconds),
            upper: amounts(at_most),
            not_included: Vec::new(),
        }
    }

    const WAYS: [(usize, u64, f64, f64); 4] =
        [(0, 10, 60.0, 90.0), (1, 400, 30.0, 50.0), (8, 500, 4.0, 8.0), (64, 2000, 1.5, 9.0)];

    #[track_caller]
    fn check(
        ways: &[(usize, u64, f64, f64)],
        prefer: Option<Prefer>,
        deadline: Option<f64>,
        expect: Option<(usize, Option<usize>, Reason)>,
    ) {
        let ways: Vec<Estimate> = ways.iter().map(|numbers| way(*numbers)).collect();
        let choice = choose(&ways, prefer, deadline.map(Duration::from_secs_f64));
        let seen = choice.map(|c| (c.picked.functions, c.runner_up.map(|way| way.functions), c.reason));
        assert_eq!(seen, expect, "{prefer:?} {deadline:?}");
    }

    #[test]
    fn each_preference_has_its_own() {
        use Prefer::{Balanced, Cost, Latency};
        let by = Reason::Preferred;
        check(&WAYS, Some(Cost), None, Some((0, Some(1), by(Cost))));
        check(&WAYS, Some(Latency), None, Some((64, Some(8), Reason::FunctionsFaster)));
        check(&WAYS[1..], None, None, Some((64, Some(8), by(Latency))));
        // 600, 12,000, 2,000 and 3,000.
        check(&WAYS, Some(Balanced), None, Some((0, Some(8), by(Balanced))));
        check(&WAYS[1..], Some(Balanced), None, Some((8, Some(64), by(Balanced))));
        check(&WAYS[..1], None, None, Some((0, None, by(Latency))));
        check(&[], Some(Cost), None, None);
        let equal = [(0, 5, 2.0, 2.0), (4, 5, 1.0, 1.0), (8, 5, 1.0, 1.0)];
        check(&equal, Some(Cost), None, Some((4, Some(8), by(Cost))));
    }

    #[test]
    fn a_deadline_must_hold_at_most() {
        use Prefer::{Cost, Latency};
        let keeps = Reason::KeepsDeadline;
        check(&WAYS, None, Some(100.0), Some((0, Some(1), keeps(Cost))));
        check(&WAYS, None, Some(10.0), Some((8, Some(64), keeps(Cost))));
        check(&WAYS, Some(Latency), Some(10.0), Some((64, Some(8), keeps(Latency))));
        // 64 functions are expected to be faster, but are less sure.
        check(&WAYS, None, Some(8.5), Some((8, Some(64), keeps(Cost))));
        check(&WAYS, Some(Latency), Some(8.5), Some((8, Some(64), keeps(Latency))));
        check(&WAYS, Some(Cost), Some(1.0), Some((64, Some(8), Reason::MissesDeadline)));
    }

    #[test]
    fn a_query_has_a_reason_to_stay_without_a_plan() {
        let much = Workload { scans: 1, units: 400, bytes: 20_000_000_000 };
        let outlook = Outlook { workload: much, local_seconds: 80.0, least_seconds: 0.1 };
        assert_eq!(reason_to_stay(&outlook), None);
        let of = |scans, units| Workload { scans, units, ..much };
        for (outlook, expect) in [
            (Outlook { workload: of(0, 0), local_seconds: 0.0, ..outlook }, Reason::NoScan),
            (Outlook { workload: of(1, 1), local_seconds: 0.01, ..outlook }, Reason::TooSmall),
            (Outlook { workload: of(1, 1), ..outlook }, Reason::FewerUnits),
        ] {
            assert_eq!(reason_to_stay(&outlook), Some(expect), "{outlook:?}");
        }
    }

    #[test]
    fn of_two_equally_fast_places_a_query_stays_here() {
        use Prefer::Latency;
        let local = (0, 10, 2.0, 3.0);
        for (functions_seconds, expect) in
            [(1.9, (4, Some(0), Reason::FunctionsFaster)), (2.0, (0, Some(4), Reason::LocalFaster))]
        {
            check(&[local, (4, 400, functions_seconds, 3.0)], Some(Latency), None, Some(expect));
        }
    }

    #[test]
    fn fan_outs_double() {
        #[track_caller]
        fn check(most: usize, expect: &[usize]) {
            assert_eq!(fan_outs(most), expect);
        }
        check(0, &[1]);
        check(1, &[1]);
        check(2, &[1, 2]);
        check(6, &[1, 2, 4, 6]);
        check(8, &[1, 2, 4, 8]);
    }
}
