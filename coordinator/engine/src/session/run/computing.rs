//! Tasks that compute for a statement, until the last of them has really ended.
//!
//! A task that is dropped ends where its operators wait. One of them may compute for minutes before, when nobody wants its rows
//! any more. DataFusion starts such tasks itself, and lets each of them be wrapped ([`JoinSetTracer`]).

use std::any::Any;

use cpu_time::ThreadTime;
use datafusion::common::runtime::{JoinSetTracer, set_join_set_tracer};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::task::TaskTracker;

use super::turns::{Share, Turns};

tokio::task_local! {
    /// Statement for which this task computes.
    static COMPUTING: Computing;
}

/// Tasks of a statement, and its turns at the cores. Clones are of the same statement.
#[derive(Debug, Clone)]
pub(in crate::session) struct Computing {
    pub(in crate::session) tasks: TaskTracker,
    /// None where it computes by itself.
    share: Option<Share>,
}

impl Computing {
    pub(super) fn new(turns: Option<&Turns>) -> Self {
        Self { tasks: TaskTracker::new(), share: turns.map(Turns::share) }
    }

    /// Makes a task count, and take its turns.
    fn of<T: 'static>(&self, task: BoxFuture<'static, T>) -> BoxFuture<'static, T> {
        match &self.share {
            Some(share) => self.tasks.track_future(share.turns_of(task)).boxed(),
            None => self.tasks.track_future(task).boxed(),
        }
    }

    /// Makes planning count, which gives way to nobody.
    pub(super) fn planning<T: 'static>(&self, task: BoxFuture<'static, T>) -> BoxFuture<'static, T> {
        match &self.share {
            Some(share) => self.tasks.track_future(share.planning(task)).boxed(),
            None => self.tasks.track_future(task).boxed(),
        }
    }
}

type Erased = Box<dyn Any + Send>;

/// Tracer that counts each task for the statement of the task that starts it.
struct Counting;

impl JoinSetTracer for Counting {
    fn trace_future(&self, task: BoxFuture<'static, Erased>) -> BoxFuture<'static, Erased> {
        match COMPUTING.try_with(Computing::clone) {
            Ok(computing) => computing.of(COMPUTING.scope(computing.clone(), task).boxed()),
            Err(_) => task,
        }
    }

    fn trace_block(&self, work: Box<dyn FnOnce() -> Erased + Send>) -> Box<dyn FnOnce() -> Erased + Send> {
        match COMPUTING.try_with(Computing::clone) {
            Ok(computing) => {
                let token = computing.tasks.token();
                Box::new(move || {
                    let (_until_its_end, since, share) = (token, ThreadTime::now(), computing.share.clone());
                    let made = COMPUTING.sync_scope(computing, work);
                    if let Some(share) = share {
                        share.spend(since.elapsed());
                    }
                    made
                })
            }
            Err(_) => work,
        }
    }
}

/// Starts tasks, and counts them and those that they start.
pub(super) fn counted<T>(computing: &Computing, start: impl FnOnce() -> T) -> T {
    // The first call in the process sets it, and the others find it set.
    drop(set_join_set_tracer(&Counting));
    COMPUTING.sync_scope(computing.clone(), start)
}
