//! A command on its way to a database, and the place its decision goes to.

use crate::port::{Decision, Event, Failure, Fault, Tx};
use domain::time::Timestamp;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a command came to, before the commit.
pub(crate) enum Verdict {
    Done,
    Refused,
    Failed(Fault),
}

/// A command waiting for the writer.
pub(crate) trait Waiting: Send {
    fn run(&mut self, tx: &mut dyn Tx) -> Verdict;
    /// Hands the decision out; `commit` is what became of the group.
    fn answer(self: Box<Self>, commit: Result<(), Fault>);
}

/// A command with the place its decision goes to.
pub(crate) struct Submitted<T, R, C> {
    command: C,
    decision: Option<Decision<T, R>>,
    reply: oneshot::Sender<Decision<T, R>>,
}

impl<T, R, C> Submitted<T, R, C>
where
    C: FnMut(&mut dyn Tx) -> Decision<T, R>,
{
    pub(crate) fn new(command: C) -> (Self, oneshot::Receiver<Decision<T, R>>) {
        let (reply, answer) = oneshot::channel();
        (Self { command, decision: None, reply }, answer)
    }
}

impl<T, R, C> Waiting for Submitted<T, R, C>
where
    T: Send,
    R: Send,
    C: FnMut(&mut dyn Tx) -> Decision<T, R> + Send,
{
    fn run(&mut self, tx: &mut dyn Tx) -> Verdict {
        let decision = catch_unwind(AssertUnwindSafe(|| (self.command)(tx)))
            .unwrap_or_else(|_| Err(Failure::Fault(Fault::Bug("a command panicked".to_owned()))));
        let verdict = match &decision {
            Ok(_) => Verdict::Done,
            Err(Failure::Refused(_)) => Verdict::Refused,
            Err(Failure::Fault(fault)) => Verdict::Failed(fault.clone()),
        };
        self.decision = Some(decision);
        verdict
    }

    fn answer(self: Box<Self>, commit: Result<(), Fault>) {
        let decision = match (commit, self.decision) {
            (Ok(()), Some(decision)) => decision,
            (Ok(()), None) => Err(Failure::Fault(Fault::Bug("a command was not run".to_owned()))),
            // A refusal, too, was decided on what the lost group had changed.
            (Err(fault), _) => Err(Failure::Fault(fault)),
        };
        let _ = self.reply.send(decision);
    }
}

/// Tells the rest of the process what became durable.
pub type Listener = Arc<dyn Fn(&[Event]) + Send + Sync>;

/// The clock of the writer, injected.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A failed start of the database: one line that says what to do.
#[derive(Debug)]
pub struct OpenError(pub String);

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

/// How long a read may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Some rows.
    Short,
    /// A page of a list, or more.
    Long,
    /// What the search index takes next; no list holds it up.
    Index,
}
