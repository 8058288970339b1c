//! Admission: a bounded number of queries runs, and others wait for their turn.
//!
//! Users take turns, and each user's queries run in the order in which they came. A user with fifty waiting queries has
//! therefore one turn in two beside a user with one. A user leaves one place to run for others.
//!
//! What is bounded may also be bytes of memory: a query then takes as many as it is expected to need, and no smaller one overtakes it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Weight of the last query in the mean of their times.
const LAST_WEIGHT: f64 = 0.2;

/// Bounds, and the queries that run or wait. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Places, or bytes.
    running_max: usize,
    /// Most of them of a user by name.
    of_user_max: usize,
    waiting_max: usize,
    /// Places, or bytes, that are taken.
    running: usize,
    /// Those of each user who has some.
    running_of: HashMap<String, usize>,
    /// Queries that have taken them.
    queries: usize,
    waiting: usize,
    /// Number of the next ticket.
    next_ticket: u64,
    /// Users with waiting queries, the next one first.
    turns: VecDeque<Turn>,
    /// Mean seconds for which queries had their permits, the last ones first of all; None before the first has ended.
    seconds_mean: Option<f64>,
}

#[derive(Debug)]
struct Turn {
    user: String,
    /// The user's waiting queries, in the order in which they came.
    queries: VecDeque<Queued>,
}

#[derive(Debug)]
struct Queued {
    ticket: Ticket,
    /// Places, or bytes, that it takes.
    weight: usize,
    sender: oneshot::Sender<Permit>,
}

/// Name of a query in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// A query that has its permit, or waits for it. Dropping it gives the place in the queue up.
#[derive(Debug)]
pub(crate) struct Waiting {
    ticket: Ticket,
    turn: Turned,
}

#[derive(Debug)]
enum Turned {
    Now(Permit),
    /// The receiver is dropped before the line is told.
    Later(oneshot::Receiver<Permit>, Leaving),
}

/// Tells the others of a query that waits no more: those behind it may have room.
#[derive(Debug)]
struct Leaving(Arc<Mutex<State>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.forget_the_gone();
        hand_out(&self.0, &mut state);
    }
}

impl Waiting {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Waits for the right to run.
    pub(crate) async fn turn(self) -> Permit {
        match self.turn {
            Turned::Now(permit) => permit,
            Turned::Later(receiver, _leaving) => {
                receiver.await.expect("a query that waits is in the queue until it runs")
            }
        }
    }
}

/// Right to run one query. It ends when it is dropped, and then the next query runs.
#[derive(Debug)]
pub(crate) struct Permit {
    /// None once it was given back.
    shared: Option<Arc<Mutex<State>>>,
    user: String,
    weight: usize,
    /// Time at which the query had its turn; None for one that never waited for it.
    began: Option<Instant>,
}

/// Place of a query in the queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    /// Number of queries that run before it, if no more come.
    pub(crate) position: usize,
    /// Time until its turn, if queries take as long as the last ones did; None if none has ended yet.
    pub(crate) expected_wait: Option<Duration>,
}

/// Refusal of a query, because too many wait already.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} queries wait for their turn; no more are taken")]
pub(crate) struct Full {
    pub(crate) waiting: usize,
}

impl Admission {
    /// Makes an admission with so many places, or bytes.
    pub(crate) fn new(running_max: usize, waiting_max: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            running_max,
            of_user_max: running_max.saturating_sub(1).max(1),
            waiting_max,
            running: 0,
            running_of: HashMap::new(),
            queries: 0,
            waiting: 0,
            next_ticket: 0,
            turns: VecDeque::new(),
            seconds_mean: None,
        })))
    }

    /// Gives each user by name so many places to run. Else it is all but one.
    pub(crate) fn with_user_max(self, of_user_max: usize) -> Self {
        lock(&self.0).of_user_max = of_user_max;
        self
    }

    fn permit(&self, user: &str, weight: usize) -> Permit {
        Permit { shared: Some(Arc::clone(&self.0)), user: user.to_owned(), weight, began: Some(Instant::now()) }
    }

    /// Counts a query that computes on without having waited for a place, until the permit is dropped.
    pub(crate) fn overrun(&self, user: &str) -> Permit {
        lock(&self.0).begin(user, 1);
        Permit { shared: Some(Arc::clone(&self.0)), user: user.to_owned(), weight: 1, began: None }
    }

    /// Takes a place of a user, if there is one now.
    pub(crate) fn take(&self, user: &str) -> Option<Permit> {
        let mut state = lock(&self.0);
        (state.has_room(1) && state.has_share(user, 1)).then(|| state.begin(user, 1))?;
        Some(self.permit(user, 1))
    }

    /// Queues a query of a user, which takes one place.
    ///
    /// # Errors
    /// [`Full`] if too many wait already.
    pub(crate) fn queue(&self, user: &str) -> Result<Waiting, Full> {
        self.queue_of(user, 1)
    }

    /// Queues a query of a user, which takes so many places, or bytes. One that wants more than there are takes all.
    ///
    /// # Errors
    /// [`Full`] if too many wait already.
    pub(crate) fn queue_of(&self, user: &str, weight: usize) -> Result<Waiting, Full> {
        let mut state = lock(&self.0);
        state.forget_the_gone();
        let (ticket, weight) = (Ticket(state.next_ticket), weight.min(state.running_max));
        // A user who waits although there is a place has his share of them already. Others may wait for more than there is.
        let waits_before = |turn: &Turn| turn.user == user || state.waits_for_room(turn);
        if state.has_room(weight) && state.has_share(user, weight) && !state.turns.iter().any(waits_before) {
            state.begin(user, weight);
            state.next_ticket += 1;
            return Ok(Waiting { ticket, turn: Turned::Now(self.permit(user, weight)) });
        }
        if state.waiting >= state.waiting_max {
            return Err(Full { waiting: state.waiting });
        }
        // Others have a place to wait, too.
        let of_user = state.turns.iter().find(|turn| turn.user == user).map_or(0, |turn| turn.queries.len());
        if !user.is_empty() && of_user >= state.waiting_max.div_ceil(2) {
            return Err(Full { waiting: of_user });
        }
        let (sender, receiver) = oneshot::channel();
        state.next_ticket += 1;
        state.waiting += 1;
        let queued = Queued { ticket, weight, sender };
        match state.turns.iter_mut().find(|turn| turn.user == user) {
            Some(turn) => turn.queries.push_back(queued),
            None => state.turns.push_back(Turn { user: user.to_owned(), queries: VecDeque::from([queued]) }),
        }
        Ok(Waiting { ticket, turn: Turned::Later(receiver, Leaving(Arc::clone(&self.0))) })
    }

    /// Returns the numbers of queries that run and wait.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let mut state = lock(&self.0);
        state.forget_the_gone();
        (state.queries, state.waiting)
    }

    /// Returns the place of a query in the queue; None if it does not wait.
    pub(crate) fn place(&self, ticket: Ticket) -> Option<Place> {
        let state = lock(&self.0);
        let position = state.position(ticket)?;
        // Queries that take many places have few beside them.
        let at_once = state.running_max.min(state.queries).max(1);
        let turns = (position + 1) as f64 / at_once as f64;
        let expected_wait = state.seconds_mean.map(|seconds| Duration::from_secs_f64(turns * seconds));
        Some(Place { position, expected_wait })
    }
}

impl State {
    fn position(&self, ticket: Ticket) -> Option<usize> {
        let state = self;
        let place = |turn: &Turn| turn.queries.iter().position(|queued| queued.ticket == ticket);
        let (user, round) = state.turns.iter().enumerate().find_map(|(user, turn)| Some((user, place(turn)?)))?;
        // Each earlier round has one query of each user who has so many, and this round those of the users before.
        let earlier = state.turns.iter().map(|turn| turn.queries.len().min(round)).sum::<usize>();
        Some(earlier + state.turns.iter().take(user).filter(|turn| turn.queries.len() > round).count())
    }

    /// Takes queries out whose clients have gone.
    fn forget_the_gone(&mut self) {
        for turn in &mut self.turns {
            turn.queries.retain(|queued| !queued.sender.is_closed());
        }
        self.turns.retain(|turn| !turn.queries.is_empty());
        self.waiting = self.turns.iter().map(|turn| turn.queries.len()).sum();
    }

    /// Returns true if a query finds what it takes.
    fn has_room(&self, weight: usize) -> bool {
        self.running + weight <= self.running_max
    }

    /// Returns true if a query of the user may run where there is room. A user by name leaves places for others.
    fn has_share(&self, user: &str, weight: usize) -> bool {
        let of_user_max = if user.is_empty() { self.running_max } else { self.of_user_max };
        self.running_of.get(user).copied().unwrap_or_default() + weight <= of_user_max
    }

    /// Tells if a user's next query runs as soon as there is room for it.
    fn waits_for_room(&self, turn: &Turn) -> bool {
        turn.queries.front().is_some_and(|next| self.has_share(&turn.user, next.weight))
    }

    fn begin(&mut self, user: &str, weight: usize) {
        self.queries += 1;
        self.running += weight;
        *self.running_of.entry(user.to_owned()).or_default() += weight;
    }

    fn end(&mut self, user: &str, weight: usize) {
        self.queries -= 1;
        self.running -= weight;
        if let Some(running) = self.running_of.get_mut(user) {
            *running -= weight;
            if *running == 0 {
                self.running_of.remove(user);
            }
        }
    }

    /// Takes the next query out that may run, and puts its user at the end. Where there is no room for it, nobody else is the next: smaller
    /// ones would keep it waiting for ever.
    fn next(&mut self) -> Option<(String, Queued)> {
        let at = self.turns.iter().position(|turn| self.waits_for_room(turn))?;
        self.turns[at].queries.front().filter(|next| self.has_room(next.weight))?;
        let mut turn = self.turns.remove(at)?;
        let user = turn.user.clone();
        let query = turn.queries.pop_front();
        if !turn.queries.is_empty() {
            self.turns.push_back(turn);
        }
        self.waiting -= usize::from(query.is_some());
        Some((user, query?))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let mut state = lock(&shared);
        state.end(&self.user, self.weight);
        if let Some(began) = self.began {
            let seconds = began.elapsed().as_secs_f64();
            let mean = state.seconds_mean.unwrap_or(seconds);
            state.seconds_mean = Some(mean + LAST_WEIGHT * (seconds - mean));
        }
        hand_out(&shared, &mut state);
    }
}

/// Gives the next queries their turn.
fn hand_out(shared: &Arc<Mutex<State>>, state: &mut State) {
    while let Some((user, query)) = state.next() {
        let began = Some(Instant::now());
        let weight = query.weight;
        match query.sender.send(Permit { shared: Some(Arc::clone(shared)), user: user.clone(), weight, began }) {
            Ok(()) => state.begin(&user, weight),
            // Its client has gone. The permit never counted, and the lock is held.
            Err(mut unused) => unused.shared = None,
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no holder panics")
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_behind_one_that_goes_runs_where_there_is_room() {
        let admission = Admission::new(10, 10);
        let _running = admission.queue_of("ada", 6).expect("room").turn().await;
        let large = admission.queue_of("bob", 8).expect("room to wait");
        let mut small = Box::pin(admission.queue_of("eve", 1).expect("room to wait").turn());
        assert!((&mut small).now_or_never().is_none(), "it has overtaken the large one");
        drop(large);
        assert!((&mut small).now_or_never().is_some(), "there is room");
    }

    #[tokio::test]
    async fn users_take_turns_and_queries_keep_their_order() {
        let admission = Admission::new(1, 10);
        let running = admission.queue("ada").expect("a free place").turn().await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let queries = ["ada 1", "ada 2", "ada 3", "bob 1", "eve 1", "bob 2"].map(|name| {
            let waiting = admission.queue(&name[..3]).expect("room to wait");
            let (ticket, order) = (waiting.ticket(), Arc::clone(&order));
            let mut query = Box::pin(async move {
                let permit = waiting.turn().await;
                order.lock().expect("no holder panics").push(name);
                drop(permit);
            });
            assert!(query.as_mut().now_or_never().is_none(), "{name} waits");
            (ticket, query)
        });
        let positions = queries.each_ref().map(|(ticket, _)| admission.place(*ticket).expect("it waits").position);
        assert_eq!(positions, [0, 3, 5, 1, 2, 4]);
        let queries = queries.map(|(_, query)| query);
        drop(running);
        futures::future::join_all(queries).await;
        assert_eq!(*order.lock().expect("no holder panics"), ["ada 1", "bob 1", "eve 1", "ada 2", "bob 2", "ada 3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_expected_by_the_last_queries() {
        let admission = Admission::new(2, 10);
        let now = || admission.queue("").expect("room").turn().now_or_never().expect("a place");
        let wait = |waiting: &Waiting| admission.place(waiting.ticket()).expect("it waits").expected_wait;
        let (one, two) = (now(), now());
        let [first, second] = [(); 2].map(|()| admission.queue("").expect("room"));
        assert_eq!(wait(&first), None, "nobody knows");
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(one);
        let third = admission.queue("").expect("room");
        // The first has its turn. Two places run queries of ten seconds each.
        assert_eq!(admission.place(first.ticket()), None);
        assert_eq!([wait(&second), wait(&third)], [Some(Duration::from_secs(5)), Some(Duration::from_secs(10))]);
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(two);
        // Twenty seconds count for a fifth.
        assert_eq!(wait(&third), Some(Duration::from_secs(6)));
        drop((first, second));
    }

    #[tokio::test]
    async fn one_user_leaves_a_place_to_run_for_others() {
        let admission = Admission::new(3, 10);
        let now = |user: &str| admission.queue(user).expect("room").turn().now_or_never();
        let (one, two) = (now("ada").expect("a place"), now("ada").expect("a place"));
        let mut third = Box::pin(admission.queue("ada").expect("room").turn());
        assert!(third.as_mut().now_or_never().is_none(), "the last place is for others");
        let bob = now("bob").expect("a place");
        let mut of_bob = Box::pin(admission.queue("bob").expect("room").turn());
        assert!(of_bob.as_mut().now_or_never().is_none());
        // Ada is first, and has no place; bob has.
        drop(bob);
        let bob = of_bob.await;
        assert!(third.as_mut().now_or_never().is_none());
        drop(one);
        let one = third.await;
        // A query that computes on holds a place, and more than there are.
        drop(bob);
        let (overrun, more) = (admission.overrun("bob"), admission.overrun("bob"));
        assert_eq!(admission.counts(), (4, 0));
        let mut waits = Box::pin(admission.queue("eve").expect("room").turn());
        drop(overrun);
        assert!(waits.as_mut().now_or_never().is_none());
        drop(more);
        drop((waits.await, one, two));
        assert_eq!(admission.counts(), (0, 0));
        // A server without users has no shares.
        let all: Vec<_> = (0..3).map(|_| now("").expect("a place")).collect();
        drop(all);
    }

    /// Ten bytes. Each step is a query with its bytes, which begins at once or waits, or the end of one, after which others begin.
    #[tokio::test]
    async fn queries_take_bytes_and_the_small_do_not_overtake_the_large() {
        enum Step {
            Begins(&'static str, usize),
            Waits(&'static str, usize, usize),
            Ends(&'static str, &'static [&'static str]),
        }
        use Step::{Begins, Ends, Waits};
        for (name, steps) in [
            ("side by side", vec![Begins("ada 1", 4), Begins("bob 1", 6), Ends("ada 1", &[]), Begins("eve 1", 4)]),
            (
                "nothing is free",
                vec![Begins("ada 1", 8), Begins("ada 2", 0), Waits("ada 3", 3, 0), Ends("ada 1", &["ada 3"])],
            ),
            (
                "a large one is not overtaken",
                vec![
                    Begins("ada 1", 6),
                    Waits("bob 1", 8, 0),
                    Waits("eve 1", 1, 1),
                    Waits("ada 2", 1, 2),
                    Ends("ada 1", &["bob 1", "eve 1", "ada 2"]),
                ],
            ),
            (
                "users take turns",
                vec![
                    Begins("ada 1", 10),
                    Waits("ada 2", 10, 0),
                    Waits("ada 3", 10, 1),
                    Waits("bob 1", 10, 1),
                    Ends("ada 1", &["ada 2"]),
                    Ends("ada 2", &["bob 1"]),
                    Ends("bob 1", &["ada 3"]),
                ],
            ),
            (
                "more than there is",
                vec![Begins("ada 1", 1), Waits("bob 1", 99, 0), Ends("ada 1", &["bob 1"]), Waits("eve 1", 1, 0)],
            ),
        ] {
            let admission = Admission::new(10, 10).with_user_max(10);
            let (mut running, mut waiting) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Begins(query, bytes) => {
                        let turn = admission.queue_of(&query[..3], bytes).expect("room to wait").turn();
                        running.push((query, turn.now_or_never().unwrap_or_else(|| panic!("{name}: {query} waits"))));
                    }
                    Waits(query, bytes, position) => {
                        let queued = admission.queue_of(&query[..3], bytes).expect("room to wait");
                        let place = admission.place(queued.ticket());
                        assert_eq!(place.map(|place| place.position), Some(position), "{name}: {query}");
                        waiting.push((query, Box::pin(queued.turn())));
                    }
                    Ends(query, next) => {
                        running.retain(|(other, _)| *other != query);
                        let mut begun = Vec::new();
                        waiting.retain_mut(|(other, turn)| match turn.now_or_never() {
                            Some(permit) => {
                                running.push((*other, permit));
                                begun.push(*other);
                                false
                            }
                            None => true,
                        });
                        assert_eq!(begun, next, "{name}: after {query}");
                    }
                }
            }
            drop((running, waiting));
            assert_eq!(admission.counts(), (0, 0), "{name}");
        }
    }

    #[test]
    fn one_user_leaves_places_to_wait_for_others() {
        let admission = Admission::new(1, 4);
        let queue = |user: &str| admission.queue(user);
        let held: Vec<_> = (0..3).map(|_| queue("ada").expect("one runs, and two wait")).collect();
        assert_eq!(queue("ada").err(), Some(Full { waiting: 2 }));
        let bobs: Vec<_> = (0..2).map(|_| queue("bob").expect("room for others")).collect();
        assert_eq!(queue("eve").err(), Some(Full { waiting: 4 }));
        drop((held, bobs));
    }

    #[tokio::test]
    async fn waiting_is_bounded_and_who_goes_makes_room() {
        let admission = Admission::new(2, 1);
        let now = |waiting: Waiting| waiting.turn().now_or_never().expect("a free place");
        let queue = |user: &str| admission.queue(user).expect("room");
        let (one, two) = (now(queue("ada")), now(queue("bob")));
        let waits = queue("ada");
        assert_eq!(admission.queue("bob").err(), Some(Full { waiting: 1 }));
        drop(waits);
        let mut waits = Box::pin(queue("eve").turn());
        assert!(waits.as_mut().now_or_never().is_none(), "there is room, and no permit");
        drop(one);
        let three = waits.await;
        // A permit that was sent to a query that has gone comes back.
        let gone = queue("bob");
        drop(two);
        drop(gone);
        let four = now(queue("ada"));
        assert_eq!(lock(&admission.0).running, 2);
        drop((three, four));
        assert_eq!(lock(&admission.0).running, 0);
    }
}
