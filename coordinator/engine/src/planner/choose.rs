//! The choice among candidates: by money, by time, or because there is nothing to weigh. Pure.
//!
//! The fastest distributed query is the one that runs on a single node. Functions have to earn their overhead in pipes.

use std::cmp::Ordering;
use std::time::Duration;

use crate::config::Prefer;
use crate::model::{Choice, Forecast, Place, Reason, Way, Workload};

/// Figures of a query before there is any plan for functions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyFigures {
    pub workload: Workload,
    /// Seconds that it takes here.
    pub local_seconds: f64,
    /// Seconds that it takes on functions at least, however they are packed.
    pub least_seconds: f64,
}

/// Returns the reason to stay here without a plan for functions, where seconds decide. None where functions may be faster.
pub fn reason_to_stay(outlook: &EarlyFigures) -> Option<Reason> {
    let EarlyFigures { workload, local_seconds, least_seconds } = *outlook;
    match () {
        () if workload.scans == 0 => Some(Reason::NoScan),
        () if local_seconds < least_seconds => Some(Reason::TooSmall),
        () if workload.units < 2 => Some(Reason::FewerUnits),
        () => None,
    }
}

/// Picks by expected amounts. With a deadline it picks among the candidates whose upper seconds keep it; where none does, the fastest.
///
/// Without a preference it picks the fastest, or with a deadline the cheapest. None where there is no candidate.
pub fn choose(forecasts: &[Forecast], prefer: Option<Prefer>, deadline: Option<Duration>) -> Option<Choice> {
    let wanted = prefer.unwrap_or(if deadline.is_some() { Prefer::Cost } else { Prefer::Latency });
    let keeps = |forecast: &&Forecast| deadline.is_none_or(|deadline| forecast.upper.seconds <= deadline.as_secs_f64());
    let mut order: Vec<&Forecast> = forecasts.iter().filter(keeps).collect();
    let (by, reason) = match (order.is_empty(), deadline) {
        (true, _) => (Prefer::Latency, Reason::MissesDeadline),
        (false, None) => (wanted, Reason::Preferred(wanted)),
        (false, Some(_)) => (wanted, Reason::KeepsDeadline(wanted)),
    };
    if order.is_empty() {
        order = forecasts.iter().collect();
    }
    // The sort is stable: of equals the first stays, which has fewer functions.
    order.sort_by(|a, b| compare(a, b, by));
    // The only candidate that keeps the deadline has a runner-up that does not.
    let mut others: Vec<&Forecast> = forecasts.iter().filter(|forecast| !order.contains(forecast)).collect();
    others.sort_by(|a, b| compare(a, b, Prefer::Latency));
    order.append(&mut others);
    let (picked, runner_up) = (order.first()?, order.get(1).copied());
    let best_of = |way: Way| order.iter().find(|forecast| forecast.way() == way).copied().cloned();
    let is_of_places = forecasts.iter().any(|forecast| forecast.place != picked.place);
    let reason = match (reason, picked.place) {
        (Reason::Preferred(Prefer::Latency), Place::Local) if is_of_places => Reason::LocalFaster,
        (Reason::Preferred(Prefer::Latency), Place::Functions) if is_of_places => Reason::FunctionsFaster,
        (reason, _) => reason,
    };
    Some(Choice {
        picked: Forecast::clone(picked),
        runner_up: runner_up.cloned(),
        ways: Way::ALL.into_iter().filter_map(best_of).collect(),
        reason,
    })
}

/// Orders the better of two first. The other quantity breaks ties.
pub fn compare(a: &Forecast, b: &Forecast, prefer: Prefer) -> Ordering {
    let dollars = |forecast: &Forecast| forecast.expected.dollars.nano_dollars() as f64;
    let seconds = |forecast: &Forecast| forecast.expected.seconds;
    let key = |forecast: &Forecast| match prefer {
        Prefer::Cost => (dollars(forecast), seconds(forecast)),
        Prefer::Latency => (seconds(forecast), dollars(forecast)),
        Prefer::Balanced => (dollars(forecast) * seconds(forecast), seconds(forecast)),
    };
    let ((a, a_next), (b, b_next)) = (key(a), key(b));
    a.total_cmp(&b).then(a_next.total_cmp(&b_next))
}

/// Returns true if a candidate is expected to be cheaper and faster than another.
pub fn beats(one: &Forecast, other: &Forecast) -> bool {
    one.expected.dollars < other.expected.dollars && one.expected.seconds < other.expected.seconds
}

/// Way in which a candidate was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickedBy {
    /// The target alone, which uses all its functions.
    Request,
    /// The query's work, before functions were compared.
    Work,
    /// A preference or a deadline.
    Comparison,
}

/// A candidate that is expected to be cheaper and faster than the picked one, and the preference that picks it.
#[derive(Debug, Clone, PartialEq)]
pub struct Dominance {
    by: PickedBy,
    better: Forecast,
    /// None if no preference picks a candidate that is cheaper and faster.
    prefer: Option<Prefer>,
}

impl Dominance {
    /// Looks for one among the candidates that the target allows. None if the picked one is the cheapest or the fastest.
    pub fn of(picked: &Forecast, by: PickedBy, allowed: &[Forecast]) -> Option<Self> {
        let fastest = allowed.iter().filter(|other| beats(other, picked)).min_by(|a, b| compare(a, b, Prefer::Latency));
        let better = fastest?.clone();
        let prefers = match by {
            PickedBy::Request => [Prefer::Latency, Prefer::Balanced, Prefer::Cost].as_slice(),
            // `latency` takes the same short way.
            PickedBy::Work => &[Prefer::Balanced, Prefer::Cost],
            PickedBy::Comparison => &[],
        };
        let preferred = prefers.iter().find_map(|prefer| {
            let preferred = choose(allowed, Some(*prefer), None)?.picked;
            beats(&preferred, picked).then_some((*prefer, preferred))
        });
        Some(match preferred {
            Some((prefer, better)) => Self { by, better, prefer: Some(prefer) },
            None => Self { by, better, prefer: None },
        })
    }
}

impl std::fmt::Display for Dominance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { by, better, prefer } = self;
        f.write_str(match by {
            PickedBy::Request => "--on without --prefer picks all functions that it may use; ",
            PickedBy::Work => "it stays local before functions are compared; ",
            PickedBy::Comparison => "",
        })?;
        match (by, prefer) {
            (_, Some(prefer)) => write!(f, "--prefer {} picks one", prefer.name())?,
            (PickedBy::Comparison, None) => f.write_str("one that is not sure to keep the deadline")?,
            (_, None) => f.write_str("no --prefer picks one")?,
        }
        write!(f, " that is expected to be cheaper and faster: {better}")
    }
}

/// Lists the numbers of fragments that are worth comparing: powers of two up to `most`, and `most` itself.
pub fn fan_outs(most: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1_usize), |fan_out| fan_out.checked_mul(2));
    powers.take_while(|fan_out| *fan_out < most).chain([most.max(1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Amounts;
    use crate::money::Money;

    /// Makes a candidate of functions, nano-dollars and expected and upper seconds.
    fn candidate(functions: usize, nano_dollars: u64, seconds: f64, at_most: f64) -> Forecast {
        let amounts =
            |seconds| Amounts { dollars: Money::from_nano_dollars(nano_dollars), seconds, ..Amounts::default() };
        Forecast {
            place: if functions == 0 { Place::Local } else { Place::Functions },
            functions,
            memory_mb: (functions > 0).then_some(2048),
            fragments: functions,
            staged: false,
            expected: amounts(seconds),
            upper: amounts(at_most),
            not_included: Vec::new(),
        }
    }

    fn candidates() -> [Forecast; 4] {
        [
            candidate(0, 10, 60.0, 90.0),
            candidate(1, 400, 30.0, 50.0),
            candidate(8, 500, 4.0, 8.0),
            candidate(64, 2000, 1.5, 9.0),
        ]
    }

    /// Functions of the picked candidate and of the runner-up, and the reason.
    #[derive(Debug, PartialEq)]
    struct Chosen {
        picked: usize,
        runner_up: Option<usize>,
        reason: Reason,
    }

    #[track_caller]
    fn check(
        candidates: &[Forecast],
        prefer: Option<Prefer>,
        deadline: Option<f64>,
        picked: usize,
        runner_up: Option<usize>,
        reason: Reason,
    ) {
        let choice = choose(candidates, prefer, deadline.map(Duration::from_secs_f64)).expect("a candidate");
        let seen = Chosen {
            picked: choice.picked.functions,
            runner_up: choice.runner_up.map(|runner_up| runner_up.functions),
            reason: choice.reason,
        };
        assert_eq!(seen, Chosen { picked, runner_up, reason }, "{prefer:?} {deadline:?}");
    }

    #[test]
    fn each_preference_has_its_own() {
        use Prefer::{Balanced, Cost, Latency};
        let all = candidates();
        let by = Reason::Preferred;
        check(&all, Some(Cost), None, 0, Some(1), by(Cost));
        check(&all, Some(Latency), None, 64, Some(8), Reason::FunctionsFaster);
        check(&all[1..], None, None, 64, Some(8), by(Latency));
        // 600, 12,000, 2,000 and 3,000.
        check(&all, Some(Balanced), None, 0, Some(8), by(Balanced));
        check(&all[1..], Some(Balanced), None, 8, Some(64), by(Balanced));
        check(&all[..1], None, None, 0, None, by(Latency));
        assert_eq!(choose(&[], Some(Cost), None), None);
        let equal = [candidate(0, 5, 2.0, 2.0), candidate(4, 5, 1.0, 1.0), candidate(8, 5, 1.0, 1.0)];
        check(&equal, Some(Cost), None, 4, Some(8), by(Cost));
    }

    #[test]
    fn a_deadline_must_hold_at_most() {
        use Prefer::{Cost, Latency};
        let all = candidates();
        let keeps = Reason::KeepsDeadline;
        check(&all, None, Some(100.0), 0, Some(1), keeps(Cost));
        check(&all, None, Some(10.0), 8, Some(64), keeps(Cost));
        check(&all, Some(Latency), Some(10.0), 64, Some(8), keeps(Latency));
        // 64 functions are expected to be faster, but are less sure.
        check(&all, None, Some(8.5), 8, Some(64), keeps(Cost));
        check(&all, Some(Latency), Some(8.5), 8, Some(64), keeps(Latency));
        check(&all, Some(Cost), Some(1.0), 64, Some(8), Reason::MissesDeadline);
    }

    /// Dollars are nano-dollars. A query that groups a lot costs most where functions group it, and takes longest where nobody helps.
    #[test]
    fn one_of_three_ways_is_picked() {
        use Prefer::{Balanced, Cost, Latency};
        let three = |local, scans, stages: Forecast| [local, scans, Forecast { staged: true, ..stages }];
        let small = three(candidate(0, 10, 0.1, 0.2), candidate(4, 400, 0.3, 0.6), candidate(4, 600, 0.5, 1.0));
        let large = three(candidate(0, 10, 60.0, 90.0), candidate(8, 500, 20.0, 40.0), candidate(8, 900, 6.0, 12.0));
        // Sides of a join that the coordinator takes in sooner than functions write and read them.
        let sent = three(candidate(0, 10, 60.0, 90.0), candidate(8, 500, 4.0, 8.0), candidate(8, 900, 6.0, 12.0));
        for (candidates, prefer, deadline, expect, reason) in [
            (&small, None, None, Way::Local, Reason::LocalFaster),
            (&large, None, None, Way::Stages, Reason::FunctionsFaster),
            (&sent, None, None, Way::Scans, Reason::FunctionsFaster),
            (&large, Some(Latency), None, Way::Stages, Reason::FunctionsFaster),
            (&large, Some(Cost), None, Way::Local, Reason::Preferred(Cost)),
            // 600, 10,000 and 5,400.
            (&large, Some(Balanced), None, Way::Local, Reason::Preferred(Balanced)),
            (&large, None, Some(50.0), Way::Scans, Reason::KeepsDeadline(Cost)),
            (&large, None, Some(15.0), Way::Stages, Reason::KeepsDeadline(Cost)),
            (&large, None, Some(1.0), Way::Stages, Reason::MissesDeadline),
            (&sent, Some(Latency), Some(15.0), Way::Scans, Reason::KeepsDeadline(Latency)),
        ] {
            let choice = choose(candidates, prefer, deadline.map(Duration::from_secs_f64)).expect("a candidate");
            assert_eq!((choice.picked.way(), choice.reason), (expect, reason), "{prefer:?} {deadline:?}");
            assert_eq!(choice.ways, *candidates, "the best of each way");
        }
        // The better candidate of one way is told.
        let choice = choose(&[small.as_slice(), &large].concat(), None, None).expect("a candidate");
        assert_eq!(choice.ways, small);
    }

    #[test]
    fn a_query_has_a_reason_to_stay_without_a_plan() {
        let much = Workload { scans: 1, units: 400, bytes: 20_000_000_000 };
        let outlook = EarlyFigures { workload: much, local_seconds: 80.0, least_seconds: 0.1 };
        assert_eq!(reason_to_stay(&outlook), None);
        let of = |scans, units| Workload { scans, units, ..much };
        for (outlook, expect) in [
            (EarlyFigures { workload: of(0, 0), local_seconds: 0.0, ..outlook }, Reason::NoScan),
            (EarlyFigures { workload: of(1, 1), local_seconds: 0.01, ..outlook }, Reason::TooSmall),
            (EarlyFigures { workload: of(1, 1), ..outlook }, Reason::FewerUnits),
        ] {
            assert_eq!(reason_to_stay(&outlook), Some(expect), "{outlook:?}");
        }
    }

    #[test]
    fn of_two_equally_fast_places_a_query_stays_here() {
        let with = |functions_seconds| [candidate(0, 10, 2.0, 3.0), candidate(4, 400, functions_seconds, 3.0)];
        check(&with(1.9), Some(Prefer::Latency), None, 4, Some(0), Reason::FunctionsFaster);
        check(&with(2.0), Some(Prefer::Latency), None, 0, Some(4), Reason::LocalFaster);
    }

    /// The words name a preference only if it picks a candidate that is cheaper and faster.
    #[test]
    fn a_better_candidate_is_told_with_the_way_to_it() {
        use PickedBy::{Comparison, Request, Work};
        let told = |all: &[Forecast], picked: usize, by| {
            Dominance::of(&all[picked], by, all).map(|dominance| {
                let told = dominance.to_string();
                let Dominance { better, prefer, .. } = dominance;
                assert!(beats(&better, &all[picked]) && told.ends_with(&better.to_string()), "{told}");
                if let Some(prefer) = prefer {
                    assert_eq!(choose(all, Some(prefer), None).expect("a choice").picked, better);
                    assert!(told.contains(&format!("--prefer {} picks", prefer.name())), "{told}");
                }
                (better.functions, prefer)
            })
        };
        let all = [candidate(1, 400, 30.0, 50.0), candidate(2, 500, 4.0, 8.0), candidate(4, 600, 5.0, 9.0)];
        assert_eq!(told(&all, 2, Request), Some((2, Some(Prefer::Latency))));
        assert_eq!((told(&all, 0, Request), told(&all, 1, Request)), (None, None));
        // The fastest is dearer than the picked one.
        let dear = [all.as_slice(), &[candidate(8, 9000, 1.0, 2.0)]].concat();
        assert_eq!(told(&dear, 2, Request), Some((2, Some(Prefer::Balanced))));
        assert_eq!(told(&dear, 2, Work), Some((2, Some(Prefer::Balanced))));
        // The cheapest is slower, and its product is the least.
        let cheap = [dear.as_slice(), &[candidate(16, 1, 100.0, 200.0)]].concat();
        assert_eq!(told(&cheap, 2, Request), Some((2, None)));
        let words = |by| Dominance::of(&cheap[2], by, &cheap).expect("one").to_string();
        let ending = " that is expected to be cheaper and faster: 2 functions";
        assert!(words(Request).contains(&format!("all functions that it may use; no --prefer picks one{ending}")));
        assert!(words(Comparison).starts_with(&format!("one that is not sure to keep the deadline{ending}")));
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
