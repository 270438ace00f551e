//! The reading of upstreams' lists: one at a time for each connection, whichever node does it, and what came of the last
//! one. What was fetched is written down in portions; whoever is interrupted leaves what is so far, and the next one goes
//! on from there.

use crate::audit::{self, Act};
use crate::offer::{Applied, Source, apply_changes};
use crate::port::{Decision, Failure, Fault, Row, Snapshot, Tx, collect, refuse, row};
use domain::catalogue::{Change, LeftOutFor, SyncState};
use domain::id::ConnectionId;
use domain::job::retry_at;
use domain::time::Timestamp;
use std::convert::Infallible;

/// Doublings of the first pause after a failure: half a minute. A list is large, and nobody waits for it.
const FIRST_DOUBLINGS: u32 = 5;
/// The longest detail, in characters.
const LONGEST_DETAIL: usize = 500;

/// The reading of one connection's list, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// The connection's name.
    pub connection: String,
    /// What came of it.
    pub state: SyncState,
    /// How often it was begun.
    pub run: i64,
    /// Until when whoever reads it holds it.
    pub lease_until: Option<Timestamp>,
    /// When it is read next; `None` for when the operator asks.
    pub next_at: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// When it was last begun.
    pub started_at: Timestamp,
    /// When it last ended.
    pub finished_at: Option<Timestamp>,
    /// When all of a list was last taken in.
    pub read_at: Option<Timestamp>,
    /// Why it failed, or was not believed.
    pub detail: String,
    /// What was seen of the last list that came.
    pub seen: Seen,
    /// What changed with it so far.
    pub applied: Applied,
}

/// What was seen of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// How many offers it had.
    pub listed: u32,
    /// What of it could not be used.
    pub left_out: Vec<LeftOutFor>,
}

impl Sync {
    /// Whether somebody reads it at `now`.
    #[must_use]
    pub fn is_held(&self, now: Timestamp) -> bool {
        self.lease_until.is_some_and(|until| until > now)
    }

    /// When it is to be read, if it is read every `period_ms`; without a period, only when whoever reads it was
    /// interrupted.
    #[must_use]
    pub fn due_at(&self, period_ms: Option<i64>) -> Option<Timestamp> {
        if self.state == SyncState::Running {
            return Some(self.lease_until.unwrap_or(self.started_at));
        }
        let period_ms = period_ms?;
        let latest = self.finished_at.unwrap_or(self.started_at).plus_millis(period_ms);
        Some(self.next_at.map_or(latest, |next| match self.state {
            // An upstream may have said when to come again.
            SyncState::Failed => next,
            // The period may have become shorter.
            _ => next.min(latest),
        }))
    }
}

/// The right to read a connection's list, until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The connection's name.
    pub connection: String,
    /// Which reading this is.
    pub run: i64,
    /// Whether the list is believed whatever it says.
    pub forced: bool,
}

/// Somebody else reads the list, or did so just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InProgress;

/// Somebody else took over, because the lease had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseLost;

/// Begins to read a list that is due, if nobody has begun since it was found to be due, at its reading `after`; 0 where
/// there was none.
///
/// # Errors
/// [`InProgress`].
pub fn begin_due(tx: &mut dyn Tx, connection: &str, after: i64, lease_ms: i64) -> Decision<Held, InProgress> {
    let before = find(tx, connection)?;
    if before.as_ref().map_or(0, |before| before.run) != after {
        return refuse(InProgress);
    }
    begin(tx, connection, before, lease_ms, false)
}

/// Begins to read a list because the operator asks for it; `forced` believes it whatever it says.
///
/// # Errors
/// [`InProgress`].
pub fn begin_asked(
    tx: &mut dyn Tx,
    act: &Act,
    id: ConnectionId,
    connection: &str,
    forced: bool,
    lease_ms: i64,
) -> Decision<Held, InProgress> {
    let before = find(tx, connection)?;
    let held = begin(tx, connection, before, lease_ms, forced)?;
    let detail = if forced { format!("{connection}, forced") } else { connection.to_owned() };
    audit::write(tx, act, "connection.synced", &id.to_string(), &detail, None)?;
    Ok(held)
}

fn begin(
    tx: &mut dyn Tx,
    connection: &str,
    before: Option<Sync>,
    lease_ms: i64,
    forced: bool,
) -> Decision<Held, InProgress> {
    let now = tx.now();
    if before.as_ref().is_some_and(|before| before.is_held(now)) {
        return refuse(InProgress);
    }
    let run = before.as_ref().map_or(0, |before| before.run).saturating_add(1);
    let until = now.plus_millis(lease_ms);
    // Whoever comes second finds nothing to change.
    let begun = match before {
        None => tx.execute(
            "insert into catalogue_syncs (connection, state, run, lease_until, failures, started_at, detail, listed,
                 left_out, changes, plans_made, plans_withdrawn, plans_back)
             values ($1, $2, $3, $4, 0, $5, '', 0, '[]', '[]', 0, 0, 0) on conflict (connection) do nothing",
            &[connection.into(), SyncState::Running.word().into(), run.into(), until.into(), now.into()],
        )?,
        Some(before) => tx.execute(
            "update catalogue_syncs set state = $1, run = $2, lease_until = $3, started_at = $4
             where connection = $5 and run = $6",
            &[
                SyncState::Running.word().into(),
                run.into(),
                until.into(),
                now.into(),
                connection.into(),
                before.run.into(),
            ],
        )?,
    };
    if begun == 0 {
        return refuse(InProgress);
    }
    Ok(Held { connection: connection.to_owned(), run, forced })
}

/// Puts the end of a lease off.
///
/// # Errors
/// [`LeaseLost`].
pub fn renew(tx: &mut dyn Tx, held: &Held, lease_ms: i64) -> Decision<(), LeaseLost> {
    let until = tx.now().plus_millis(lease_ms);
    let renewed = tx.execute(
        "update catalogue_syncs set lease_until = $1 where connection = $2 and run = $3 and lease_until is not null",
        &[until.into(), (&held.connection).into(), held.run.into()],
    )?;
    if renewed == 1 { Ok(()) } else { refuse(LeaseLost) }
}

/// Keeps what was seen of the list; from here on it is told what changes with it.
///
/// # Errors
/// [`LeaseLost`].
pub fn note(tx: &mut dyn Tx, held: &Held, seen: &Seen) -> Decision<(), LeaseLost> {
    let left_out: Vec<_> =
        seen.left_out.iter().map(|left_out| (left_out.reason.word(), left_out.count, &left_out.examples)).collect();
    let left_out = serde_json::to_string(&left_out).map_err(|error| Fault::Bug(error.to_string()))?;
    let noted = tx.execute(
        "update catalogue_syncs set listed = $1, left_out = $2, changes = '[]', plans_made = 0, plans_withdrawn = 0,
             plans_back = 0 where connection = $3 and run = $4",
        &[seen.listed.into(), (&left_out).into(), (&held.connection).into(), held.run.into()],
    )?;
    if noted == 1 { Ok(()) } else { refuse(LeaseLost) }
}

/// Writes a portion of changes down ([`apply_changes`]), and puts the end of the lease off. Returns all that changed
/// so far, of which `before` was told before this portion.
///
/// # Errors
/// [`LeaseLost`]: then somebody else read a newer list, and this one counts no more.
pub fn apply(
    tx: &mut dyn Tx,
    held: &Held,
    source: &Source,
    changes: &[Change],
    before: &Applied,
    lease_ms: i64,
) -> Decision<Applied, LeaseLost> {
    let applied = apply_changes(tx, source, changes).map_err(|failure| match failure {
        Failure::Fault(fault) => Failure::Fault(fault),
        Failure::Refused(never) => match never {},
    })?;
    let mut all = before.clone();
    all.add(&applied);
    let counted: Vec<_> = all.changes.iter().map(|(kind, count)| (kind.word(), *count)).collect();
    let counted = serde_json::to_string(&counted).map_err(|error| Fault::Bug(error.to_string()))?;
    let until = tx.now().plus_millis(lease_ms);
    let written = tx.execute(
        "update catalogue_syncs set changes = $1, plans_made = $2, plans_withdrawn = $3, plans_back = $4,
             lease_until = $5 where connection = $6 and run = $7 and lease_until is not null",
        &[
            (&counted).into(),
            all.plans_made.into(),
            all.plans_withdrawn.into(),
            all.plans_back.into(),
            until.into(),
            (&held.connection).into(),
            held.run.into(),
        ],
    )?;
    if written == 1 { Ok(all) } else { refuse(LeaseLost) }
}

/// How the reading of a list ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// All of it was taken in.
    Done,
    /// It could not be read, or not be written down.
    Failed {
        /// Why.
        reason: String,
        /// When the upstream wants to be asked again, at the earliest.
        not_before: Option<Timestamp>,
    },
    /// It was not believed: why.
    Implausible(String),
    /// The process stops: somebody else may go on.
    Interrupted,
}

/// Ends the reading of a list. With a period it is read again after that, a little sooner or later than others', and
/// after a failure with growing pauses; without one only when the operator asks.
///
/// # Errors
/// [`LeaseLost`].
pub fn finish(tx: &mut dyn Tx, held: &Held, end: &End, period_ms: Option<i64>) -> Decision<(), LeaseLost> {
    let Some(before) = find(tx, &held.connection)?.filter(|sync| sync.run == held.run) else {
        return refuse(LeaseLost);
    };
    let (now, random) = (tx.now(), tx.random());
    let (state, reason, failures) = match end {
        End::Interrupted => (SyncState::Running, "", before.failures),
        End::Done => (SyncState::Done, "", 0),
        End::Implausible(reason) => (SyncState::Implausible, reason.as_str(), 0),
        End::Failed { reason, .. } => (SyncState::Failed, reason.as_str(), before.failures.saturating_add(1)),
    };
    let next = period_ms.map(|period_ms| match end {
        End::Failed { not_before, .. } => {
            let next = retry_at(now, failures.saturating_add(FIRST_DOUBLINGS), random);
            not_before.map_or(next, |not_before| next.max(not_before))
        }
        _ => {
            // Those that began together do not stay together.
            let tenth = u64::try_from(period_ms).unwrap_or(0).div_euclid(10).max(1);
            let sooner = i64::try_from(random.rem_euclid(tenth)).unwrap_or(0);
            now.plus_millis(period_ms.saturating_sub(sooner))
        }
    });
    let ended = *end != End::Interrupted;
    let detail: String = reason.chars().take(LONGEST_DETAIL).collect();
    let written = tx.execute(
        "update catalogue_syncs set state = $1, lease_until = null, next_at = $2, failures = $3, finished_at = $4,
             read_at = $5, detail = $6 where connection = $7 and run = $8",
        &[
            state.word().into(),
            next.into(),
            failures.into(),
            if ended { Some(now) } else { before.finished_at }.into(),
            if *end == End::Done { Some(now) } else { before.read_at }.into(),
            (&detail).into(),
            (&held.connection).into(),
            held.run.into(),
        ],
    )?;
    if written == 1 { Ok(()) } else { refuse(LeaseLost) }
}

/// Voids all leases: whoever held them is gone. Only for a database of one process, at its start.
///
/// # Errors
/// [`Fault`].
pub fn void_leases(tx: &mut dyn Tx) -> Decision<usize, Infallible> {
    Ok(tx.execute("update catalogue_syncs set lease_until = null where lease_until is not null", &[])?)
}

const SYNC: &str = "connection, state, run, lease_until, next_at, failures, started_at, finished_at, read_at, detail, \
     listed, left_out, changes, plans_made, plans_withdrawn, plans_back from catalogue_syncs";

fn sync(row: &dyn Row) -> Result<Sync, Fault> {
    let time = |column| Ok::<_, Fault>(row.opt_int(column)?.map(Timestamp::from_millis));
    let count = |column| {
        let count = row.int(column)?;
        u32::try_from(count).map_err(|_| Fault::Bug(format!("a count of {count}")))
    };
    let malformed = |error: serde_json::Error| Fault::Bug(format!("malformed counts: {error}"));
    let left_out: Vec<(String, u32, Vec<String>)> = serde_json::from_str(row.text(11)?).map_err(malformed)?;
    let changes: Vec<(String, u32)> = serde_json::from_str(row.text(12)?).map_err(malformed)?;
    let left_out = left_out
        .into_iter()
        .map(|(reason, count, examples)| Ok::<_, Fault>(LeftOutFor { reason: reason.parse()?, count, examples }));
    let changes = changes.into_iter().map(|(kind, count)| Ok::<_, Fault>((kind.parse()?, count)));
    Ok(Sync {
        connection: row.text(0)?.to_owned(),
        state: row.text(1)?.parse()?,
        run: row.int(2)?,
        lease_until: time(3)?,
        next_at: time(4)?,
        failures: count(5)?,
        started_at: Timestamp::from_millis(row.int(6)?),
        finished_at: time(7)?,
        read_at: time(8)?,
        detail: row.text(9)?.to_owned(),
        seen: Seen { listed: count(10)?, left_out: left_out.collect::<Result<_, _>>()? },
        applied: Applied {
            changes: changes.collect::<Result<_, _>>()?,
            plans_made: count(13)?,
            plans_withdrawn: count(14)?,
            plans_back: count(15)?,
        },
    })
}

/// How the reading of a connection's list stands; `None` where it was never begun.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, connection: &str) -> Result<Option<Sync>, Fault> {
    row(snapshot, &format!("select {SYNC} where connection = $1"), &[connection.into()], sync)
}

/// The same of all connections whose list was ever read: there are few.
///
/// # Errors
/// [`Fault`].
pub fn all(snapshot: &mut dyn Snapshot) -> Result<Vec<Sync>, Fault> {
    collect(snapshot, &format!("select {SYNC} order by connection"), &[], sync)
}
