//! A lane: one connection on which commands run, group by group. All commands of a tenant take the same lane of a
//! node, so they form groups instead of waiting for each other's locks.

use super::address::Address;
use super::batch::Joining;
use super::link::Link;
use super::transaction::{Memory, PostgresTx, Prepared};
use crate::port::{Event, Fault, Needs, Value};
use crate::queue::Queue;
use crate::waiting::{Now, Verdict, Waiting};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A command with what it needs.
pub(super) struct Command {
    pub(super) waiting: Box<dyn Waiting>,
    pub(super) needs: Needs,
}

/// Tells this process and the others what became durable.
pub(super) type Tell = Arc<dyn Fn(&[Event]) + Send + Sync>;

/// A connection that is made anew when it is lost, not too often.
pub(super) struct Connector {
    address: Address,
    /// Said on every new connection.
    greeting: &'static str,
    link: Option<Link>,
    pause: Duration,
    next_try: Instant,
    last_fault: Option<Fault>,
}

/// Between two tries to connect, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Connector {
    /// For commands. Their statements meet rows by their keys, over arrays whose length the planner does not know: it
    /// must never read a whole table for them, whatever it believes of a table that was empty a minute ago.
    pub(super) fn for_commands(address: Address) -> Self {
        let greeting = "set jit = off; set plan_cache_mode = force_generic_plan; set enable_seqscan = off;
             set enable_hashjoin = off; set enable_mergejoin = off";
        Self::greeting(address, greeting)
    }

    pub(super) fn for_reads(address: Address) -> Self {
        Self::greeting(address, "set jit = off")
    }

    fn greeting(address: Address, greeting: &'static str) -> Self {
        Self { address, greeting, link: None, pause: FIRST_PAUSE, next_try: Instant::now(), last_fault: None }
    }

    /// The connection.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when there is none, also while it is too early to try again.
    pub(super) fn link(&mut self) -> Result<&mut Link, Fault> {
        if self.link.as_ref().is_some_and(|link| link.lost) {
            self.link = None;
        }
        if self.link.is_none() {
            if let Some(fault) = self.last_fault.as_ref().filter(|_| Instant::now() < self.next_try) {
                return Err(fault.clone());
            }
            let greeted = |mut link: Link| link.simple(self.greeting).map(|()| link);
            match Link::connect(&self.address).and_then(greeted) {
                Ok(link) => {
                    self.link = Some(link);
                    self.pause = FIRST_PAUSE;
                    self.last_fault = None;
                }
                Err(fault) => {
                    tracing::warn!(%fault, "no connection to the database");
                    self.next_try = Instant::now() + self.pause;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    self.last_fault = Some(fault.clone());
                    return Err(fault);
                }
            }
        }
        self.link.as_mut().ok_or_else(|| Fault::Unavailable("there is no connection to the database".to_owned()))
    }

    /// The connection, made anew where the server has ended it while nobody looked.
    ///
    /// # Errors
    /// [`Fault::Unavailable`].
    pub(super) fn usable(&mut self) -> Result<&mut Link, Fault> {
        if self.link.as_mut().is_some_and(|link| !link.is_open()) {
            self.link = None;
        }
        self.link()
    }

    /// Lets go of the connection: nobody knows what was left on it.
    pub(super) fn forget(&mut self) {
        self.link = None;
    }

    fn is_lost(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.lost)
    }
}

/// What became of a transaction.
enum Ran {
    Committed(Vec<Event>),
    /// Its one command was refused.
    Refused,
    /// One of its commands does not go together with the others.
    MustRunAlone,
}

/// Runs groups of commands.
pub(super) struct Lane {
    pub(super) connector: Connector,
    pub(super) memory: Memory,
    pub(super) now: Now,
    pub(super) tell: Tell,
}

/// How often a command is run again that collided with another.
const MOST_COLLISIONS: u32 = 12;
/// How often a command is run again whose guard did not hold.
const MOST_BROKEN_GUARDS: u32 = 3;
/// The timeout of statements ends a commit that waits for its standby, and then calls it done.
const COMMIT: &str = "set local statement_timeout = 0; commit";

impl Lane {
    /// Runs groups until nobody can ask any more.
    pub(super) fn run_until_closed(mut self, mut waiting: Queue<Command>) {
        while let Some(group) = waiting.next_group(None) {
            self.run(group);
        }
    }

    /// Runs one group and answers each of its commands.
    pub(super) fn run(&mut self, mut group: Vec<Command>) {
        if group.len() > 1 {
            match self.again_if_lost(|lane| lane.transaction(&mut group, Joining::Together)) {
                Ok(Ran::Committed(events)) => {
                    (self.tell)(&events);
                    group.into_iter().for_each(|command| command.waiting.answer(Ok(())));
                    return;
                }
                Ok(Ran::MustRunAlone | Ran::Refused) | Err(Fault::Retry | Fault::Bug(_)) => {}
                Err(fault) => {
                    tracing::error!(%fault, commands = group.len(), "a group of commands was not run");
                    group.into_iter().for_each(|command| command.waiting.answer(Err(fault.clone())));
                    return;
                }
            }
        }
        group.into_iter().for_each(|command| self.run_alone(command));
    }

    fn run_alone(&mut self, command: Command) {
        let mut only = [command];
        let (mut collisions, mut bugs) = (0, 0);
        let outcome = loop {
            match self.again_if_lost(|lane| lane.transaction(&mut only, Joining::OneByOne)) {
                Ok(Ran::Committed(events)) => {
                    (self.tell)(&events);
                    break Ok(());
                }
                Ok(Ran::Refused | Ran::MustRunAlone) => break Ok(()),
                Err(Fault::Retry) if collisions < MOST_COLLISIONS => {
                    collisions += 1;
                    // The other one needs a moment, and not the same as everybody's.
                    std::thread::sleep(Duration::from_micros(self.memory.random.next() % (1 << (collisions + 8))));
                }
                // A guard that does not hold may be another node's doing: what it did is seen now.
                Err(Fault::Bug(_)) if bugs < MOST_BROKEN_GUARDS => bugs += 1,
                Err(fault) => break Err(fault),
            }
        };
        let [command] = only;
        if let Err(fault) = &outcome {
            tracing::error!(%fault, "a command was not run");
        }
        command.waiting.answer(outcome);
    }

    /// A connection that was lost while nothing was sent, or rolled back with it, leaves nothing behind: once more.
    fn again_if_lost(&mut self, mut run: impl FnMut(&mut Self) -> Result<Ran, Fault>) -> Result<Ran, Fault> {
        match run(self) {
            Err(Fault::Unavailable(_)) if self.connector.link.is_some() && self.connector.is_lost() => run(self),
            other => other,
        }
    }

    fn transaction(&mut self, group: &mut [Command], joining: Joining) -> Result<Ran, Fault> {
        let now = (self.now)();
        let link = self.connector.link()?;
        let tx = PostgresTx::begin(link, &mut self.memory, joining, now);
        let prepared = match run_commands(tx, group, joining) {
            Ok(Some(prepared)) => prepared,
            Ok(None) => {
                self.roll_back();
                return Ok(if joining == Joining::Together { Ran::MustRunAlone } else { Ran::Refused });
            }
            Err(fault) => {
                self.roll_back();
                return Err(fault);
            }
        };
        let Prepared { events, marker: Some(marker) } = prepared else {
            self.roll_back();
            return Ok(Ran::Committed(prepared.events));
        };
        match self.connector.link()?.simple(COMMIT) {
            Ok(()) => Ok(Ran::Committed(events)),
            Err(_) if self.connector.is_lost() => {
                if self.was_committed(marker)? {
                    Ok(Ran::Committed(events))
                } else {
                    Err(Fault::Retry)
                }
            }
            Err(fault) => {
                self.roll_back();
                Err(fault)
            }
        }
    }

    /// Nothing of the transaction ever was. A connection on which even that fails is not used again.
    fn roll_back(&mut self) {
        let Some(link) = self.connector.link.as_mut().filter(|link| !link.lost) else { return };
        if link.is_untouched() {
            link.nothing_before();
        } else if link.simple("rollback").is_err() {
            link.lost = true;
        }
    }

    /// Whether the transaction with this marker was committed, although its connection was lost before it said so.
    /// The marker is written again: that waits for the transaction if it is still under way, and meets it if it was
    /// committed. A row of the look itself makes this a commit of its own, so that a standby has what it saw; and it
    /// tells a look whose own answer was lost from the transaction.
    fn was_committed(&mut self, marker: Uuid) -> Result<bool, Fault> {
        let (at, random) = ((self.now)(), self.memory.random.next());
        let look = self.memory.ids.next(at, random);
        let deadline = Instant::now() + MOST_WAITED;
        let mut seen = None;
        loop {
            match self.look_for(marker, look, &mut seen) {
                Ok(committed) => return Ok(committed),
                Err(fault) if Instant::now() >= deadline => {
                    tracing::error!(%fault, "nobody knows whether a transaction was committed");
                    // It must not be taken for one that was lost before its commit, and run again.
                    self.connector.forget();
                    return Err(Fault::Unavailable("the connection was lost during a commit".to_owned()));
                }
                Err(_) => std::thread::sleep(FIRST_PAUSE),
            }
        }
    }

    /// One look. `seen` is what the last one saw that may have been committed itself.
    fn look_for(&mut self, marker: Uuid, look: Uuid, seen: &mut Option<bool>) -> Result<bool, Fault> {
        let link = self.connector.link()?;
        link.before("begin");
        let mut insert = |id: Uuid| {
            let made = link
                .execute("insert into commits (id) values ($1) on conflict do nothing", &[Value::from(id.as_bytes())]);
            made.map(|made| made == 1)
        };
        let rows = insert(marker).and_then(|marked| insert(look).map(|looked| (marked, looked)));
        let committed = match rows {
            // An earlier look was committed, and it is its own marker that this one met.
            Ok((_, false)) => seen.unwrap_or(false),
            Ok((marked, true)) => {
                *seen = Some(!marked);
                !marked
            }
            Err(fault) => {
                self.roll_back();
                return Err(fault);
            }
        };
        match link.simple(COMMIT) {
            Ok(()) => Ok(committed),
            Err(fault) => {
                self.roll_back();
                Err(fault)
            }
        }
    }
}

/// How long a lost connection's commit is looked for, before its callers hear that nobody knows.
const MOST_WAITED: Duration = Duration::from_secs(10);

/// Runs all commands of a transaction. `None` when one of them must be undone by undoing all.
fn run_commands(mut tx: PostgresTx<'_>, group: &mut [Command], joining: Joining) -> Result<Option<Prepared>, Fault> {
    if group.iter().any(|command| !command.needs.is_empty()) {
        tx.fetch(group.iter().map(|command| &command.needs))?;
    }
    for command in group {
        match command.waiting.run(&mut tx) {
            Verdict::Done => tx.keep_command(),
            Verdict::Refused => {
                if !tx.drop_command() || joining == Joining::OneByOne {
                    return Ok(None);
                }
            }
            Verdict::Failed(Fault::Bug(_)) if joining == Joining::Together => return Ok(None),
            Verdict::Failed(fault) => return Err(fault),
        }
    }
    tx.prepare().map(Some)
}
