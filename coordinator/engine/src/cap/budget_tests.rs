use std::time::Duration;

use futures::FutureExt;

use super::super::{AttemptRequest, AttemptWork, Cap, Limits, OverCap};
use super::*;
use crate::cost::Tariff;

const fn nano(nano_dollars: u64) -> Money {
    Money::from_nano_dollars(nano_dollars)
}

fn budget(holder: BudgetHolder, period: BudgetPeriod, limit: u64) -> BudgetConfig {
    BudgetConfig { holder, period, limit: nano(limit) }
}

fn of_ada(limit: u64) -> BudgetConfig {
    budget(BudgetHolder::User("ada".to_owned()), BudgetPeriod::Day, limit)
}

fn of_analysts(limit: u64) -> BudgetConfig {
    budget(BudgetHolder::Group("analysts".to_owned()), BudgetPeriod::Month, limit)
}

fn moment(text: &str) -> DateTime<Utc> {
    text.parse().expect("a moment")
}

/// Clocks that a test sets: UTC's, and a steady one.
type Clocks = Arc<Mutex<(DateTime<Utc>, Instant)>>;

fn clock(at: &str) -> (Clocks, impl Fn() -> (DateTime<Utc>, Instant) + Send + Sync + use<>) {
    let now = Arc::new(Mutex::new((moment(at), Instant::now())));
    let shown = Arc::clone(&now);
    (now, move || *shown.lock().expect("no holder panics"))
}

fn budgets(configs: Vec<BudgetConfig>) -> Arc<Budgets> {
    Budgets::new(configs, &[], clock("2026-11-29T12:00:00Z").1)
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Spent, held and left nano-dollars of each budget.
fn figures(budgets: &Budgets) -> Vec<[u64; 3]> {
    budgets.states().iter().map(|it| [it.spent, it.held, it.left()].map(Money::nano_dollars)).collect()
}

#[test]
fn a_statement_holds_pays_and_gives_back() {
    let budgets = budgets(vec![of_ada(100), of_analysts(150)]);
    assert!(budgets.of("eve", &groups(&["others"])).is_none());
    let ada = budgets.of("ada", &groups(&["analysts"])).expect("two budgets").purse();
    let bob = budgets.of("bob", &groups(&["analysts"])).expect("the group's").purse();
    ada.hold(nano(10), nano(80)).expect("it is there");
    assert_eq!(figures(&budgets), [[10, 70, 20], [10, 70, 70]]);
    let refused = ada.hold(nano(10), nano(101)).expect_err("more than hers");
    assert_eq!(refused.state.config, of_ada(100));
    let refused = bob.hold(nano(0), nano(71)).expect_err("more than the group has left");
    assert_eq!((refused.state.config.clone(), refused.wants), (of_analysts(150), Some(nano(71))));
    let words = "the budget of group `analysts` does not suffice: $0.000000070 of $0.000000150 a month is left, \
                 and statements under way hold $0.000000070; this one would need $0.000000071";
    assert_eq!((refused.to_string().as_str(), refused.is_held), (words, true));
    let refused = bob.hold(nano(0), nano(141)).expect_err("more than is not spent");
    assert!(!refused.is_held && refused.to_string().ends_with("it begins anew at 2026-12-01T00:00:00Z"), "{refused}");
    assert_eq!(figures(&budgets), [[10, 70, 20], [10, 70, 70]], "a refusal takes from neither");
    bob.hold(nano(0), nano(70)).expect("it is there");
    assert_eq!((ada.room(), bob.room()), (nano(80), nano(70)));
    ada.pay(Some(nano(30)));
    assert_eq!(figures(&budgets), [[30, 0, 70], [30, 70, 50]]);
    ada.hold(nano(5), nano(5)).expect_err("it is closed");
    assert_eq!(figures(&budgets)[0], [30, 0, 70], "attempts that end later are in the bill");
    // A statement that is never billed pays what it holds.
    drop(bob);
    assert_eq!(figures(&budgets), [[30, 0, 70], [100, 0, 50]]);
    // Requests of attempts that have not told them are in no bill.
    let lost = budgets.of("ada", &[]).expect("hers").purse();
    lost.add_untold(nano(9));
    lost.tell(nano(4));
    lost.pay(Some(nano(1)));
    assert_eq!(figures(&budgets)[0], [36, 0, 64]);
}

#[test]
fn spending_that_nobody_asked_for_ends_statements() {
    let budgets = budgets(vec![of_ada(100)]);
    let shared = budgets.of("ada", &[]).expect("hers");
    let (one, two) = (shared.purse(), shared.purse());
    one.check().expect("there is money");
    assert_eq!(one.note(nano(60), nano(60)), None);
    // What is held may be a 25th above.
    assert_eq!(two.note(nano(40), nano(44)), None);
    assert!(two.note(nano(40), nano(45)).is_some());
    assert_eq!(two.note(nano(40), nano(40)), None);
    assert!(two.note(nano(41), nano(41)).is_some() && one.note(nano(60), nano(60)).is_some());
    one.check().expect_err("nothing is left");
    // The start of a statement lowers nothing that is held.
    assert!(two.note_at_least(nano(3)).is_some());
    assert_eq!(figures(&budgets), [[101, 0, 0]]);
    two.pay(Some(nano(39)));
    one.check().expect("a nano-dollar is left");
    // Least money is held until the end, whatever is spent.
    one.pay(Some(nano(0)));
    let three = shared.purse();
    three.hold_at_least(nano(50)).expect("it is there");
    three.hold(nano(1), nano(2)).expect("it is less");
    assert_eq!(figures(&budgets), [[40, 49, 11]]);
    shared.purse().hold_at_least(nano(12)).expect_err("it is not there");
}

#[test]
fn a_later_window_gives_money_anew_and_an_earlier_one_does_not() {
    let (now, shows) = clock("2026-11-29T23:59:59Z");
    let budgets = Budgets::new(vec![of_ada(100), of_analysts(100)], &[], shows);
    let shared = budgets.of("ada", &groups(&["analysts"])).expect("two budgets");
    // The clock stays there for long enough to be believed.
    let at = |text: &str| {
        now.lock().expect("no holder panics").0 = moment(text);
        assert_eq!(budgets.states().len(), 2);
        now.lock().expect("no holder panics").1 += Duration::from_secs(600);
    };
    shared.purse().pay(Some(nano(100)));
    let under_way = shared.purse();
    assert_eq!(figures(&budgets), [[100, 0, 0], [100, 0, 0]]);
    at("2026-11-30T00:00:00Z");
    assert_eq!(figures(&budgets), [[0, 0, 100], [100, 0, 0]]);
    let begins = |budgets: &Budgets| budgets.states()[0].begins.to_rfc3339();
    assert_eq!(begins(&budgets), "2026-11-30T00:00:00+00:00");
    under_way.note(nano(20), nano(30));
    for back in ["2026-11-29T12:00:00Z", "2020-01-01T00:00:00Z", "2026-11-30T12:00:00Z"] {
        at(back);
        assert_eq!(figures(&budgets), [[20, 10, 70], [120, 10, 0]], "{back}");
    }
    // A bill is of the window in which it ends, and what is held stays held.
    at("2026-12-01T00:00:00Z");
    assert_eq!(figures(&budgets), [[20, 10, 70], [20, 10, 70]]);
    under_way.pay(Some(nano(25)));
    assert_eq!(figures(&budgets), [[25, 0, 75], [25, 0, 75]]);
    assert_eq!(budgets.states()[1].ends, moment("2027-01-01T00:00:00Z"));
}

#[test]
fn a_restart_keeps_what_was_spent_and_held() {
    let (_, shows) = clock("2026-11-29T12:00:00Z");
    let before = Budgets::new(vec![of_ada(100), of_analysts(100)], &[], shows);
    let shared = before.of("ada", &groups(&["analysts"])).expect("two budgets");
    shared.purse().pay(Some(nano(40)));
    let killed = shared.purse();
    killed.hold(nano(5), nano(20)).expect("it is there");
    let saved = before.saved();
    let again = |at: &str| figures(&Budgets::new(vec![of_ada(100), of_analysts(50)], &saved, clock(at).1));
    assert_eq!(again("2026-11-29T13:00:00Z"), [[60, 0, 40], [60, 0, 0]]);
    assert_eq!(again("2026-11-28T13:00:00Z"), [[60, 0, 40], [60, 0, 0]], "the clock went back");
    assert_eq!(again("2026-11-30T13:00:00Z"), [[0, 0, 100], [60, 0, 0]]);
    assert_eq!(again("2026-12-01T13:00:00Z"), [[0, 0, 100], [0, 0, 50]]);
}

fn cap(shared: &SharedBudgets, own: Money, fragments: u64) -> Arc<Cap> {
    let purse = Some(Arc::new(shared.purse()));
    let tariff = Tariff { as_if: false, ..Tariff::of_tests() };
    Cap::new(Limits { own, purse }, tariff, fragments, |_| Money::ZERO)
}

/// Waiting for one budget is in vain where another one is spent.
#[test]
fn a_budget_that_is_spent_decides() {
    for spent_first in [true, false] {
        let configs =
            if spent_first { vec![of_analysts(100), of_ada(100)] } else { vec![of_ada(100), of_analysts(100)] };
        let budgets = budgets(configs);
        let (ada, others) = (budgets.of("ada", &groups(&["analysts"])), budgets.of("bob", &groups(&["analysts"])));
        others.expect("the group's").purse().pay(Some(nano(95)));
        let ada = ada.expect("two budgets");
        let neighbour = budgets.of("ada", &[]).expect("hers").purse();
        neighbour.hold(nano(0), nano(99)).expect("it is there");
        let refused = ada.purse().hold(nano(0), nano(10)).expect_err("there is not so much");
        assert!(!refused.is_held && refused.state.config == of_analysts(100), "{refused}");
        // A start that takes too much ends itself, and nobody else.
        let starts = ada.purse();
        assert!(starts.note_at_least(nano(3)).is_none());
        assert!(starts.note_at_least(nano(8)).is_some_and(|over| over.state.config == of_analysts(100)));
        assert_eq!(neighbour.note(nano(0), nano(99)), None);
    }
}

/// Attempts of two queries together never hold more than the budget, and what one gives back the other may have.
#[tokio::test(start_paused = true)]
async fn two_caps_share_one_budget() {
    const SECOND: Duration = Duration::from_secs(1);
    let request = AttemptRequest { work: AttemptWork::default(), expected: SECOND, time_max: 3 * SECOND, timed_out: 0 };
    // 4 s of 2 GB at $0.0000166667, and an invocation: 133,534 nano-dollars. It suffices for three.
    let budgets = budgets(vec![of_ada(3 * 133_600 + 40_000)]);
    let shared = budgets.of("ada", &[]).expect("hers");
    let (one, two) = (cap(&shared, Money::MAX, 2), cap(&shared, Money::MAX, 2));
    one.allow(Money::ZERO).expect("it may begin");
    let mut open = vec![one.reserve(request).await.expect("money"), two.reserve(request).await.expect("money")];
    open.push(one.reserve(request).await.expect("money"));
    let [[spent, held, left]] = figures(&budgets)[..] else { panic!("one budget") };
    assert_eq!((spent, held + left), (0, 440_800));
    assert!(held >= 3 * 133_534 && left < 133_534, "{held} held, {left} left");
    let mut waits = Box::pin(two.reserve(request));
    assert!(waits.as_mut().now_or_never().is_none(), "its own first attempt may make room");
    // One that has nothing under way waits for the others, and one that asks for more than is not spent ends.
    let third = cap(&shared, Money::MAX, 2);
    let mut third_waits = Box::pin(third.reserve(request));
    assert!(third_waits.as_mut().now_or_never().is_none(), "others may give it back");
    shared.purse().check().expect("nothing is spent");
    let large = AttemptRequest { expected: 20 * SECOND, time_max: 60 * SECOND, ..request };
    let refused = cap(&shared, Money::MAX, 2).reserve(large).await.map(drop).expect_err("no money");
    let OverCap::Budget(over) = refused else { panic!("{refused}") };
    assert!(over.state.config == of_ada(440_800) && !over.is_held, "{over}");
    // An own cap that does not suffice is told as such.
    let small = cap(&shared, nano(1_000), 0);
    assert!(matches!(small.reserve(request).await.map(drop), Err(OverCap::WhileRunning(_))));
    // Others may wait for this one. So nobody waits for ever.
    let fourth = cap(&shared, Money::MAX, 2);
    let over = tokio::select! {
        granted = fourth.reserve(request) => granted.map(drop).expect_err("nobody gives it back"),
        over = fourth.passed() => over,
    };
    assert!(matches!(over, OverCap::Budget(over) if over.is_held));
    drop(open.remove(1));
    open.push(waits.await.expect("there is room again"));
    drop(open);
    // Its own look finds that the money is back.
    assert!(third_waits.as_mut().now_or_never().is_none(), "nobody has looked");
    let granted = tokio::select! {
        granted = third_waits => granted.expect("there is room again"),
        over = third.passed() => panic!("{over}"),
    };
    drop(granted);
    assert_eq!(figures(&budgets)[0][0], 0, "attempts that never began cost nothing");
}
