//! What other nodes want to know soon: a job is ready, an order changed, somebody's access or the price list changed.
//! A hint and never truth: whoever misses one finds out by looking, a second later. It is sent after the commit and on
//! a connection of its own, because a transaction that notifies holds up all others that do.

use super::address::Address;
use super::lane::Tell;
use super::link::{Found, Link};
use crate::port::{Event, Fault, Row, Value};
use crate::waiting::Now;
use domain::id::{OrderId, first_at};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

/// The channel all nodes of a database listen to.
const CHANNEL: &str = "esimd";
/// What is told is gathered for so long.
const GATHERING: Duration = Duration::from_millis(8);
/// The longest payload; the server's own limit is 8,000 bytes.
const LONGEST: usize = 7_800;
/// Between two looks for what is over.
const SWEEP: Duration = Duration::from_secs(600);
/// How long it is known what became of a commit.
const COMMITS_KEPT_MS: i64 = 86_400_000;
/// How far a node's clock may be from the database's, milliseconds.
const MOST_APART_MS: i64 = 1_000;
/// Before a new connection is tried.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct News {
    lanes: BTreeSet<String>,
    watched: BTreeSet<String>,
    access: bool,
    plans: bool,
    connections: bool,
    orders: BTreeSet<OrderId>,
}

impl News {
    fn add(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::JobReady(lane) => {
                    self.lanes.insert(lane.clone());
                }
                Event::EsimsDue(upstream) => {
                    self.watched.insert(upstream.clone());
                }
                Event::AccessChanged => self.access = true,
                Event::PlansChanged => self.plans = true,
                Event::ConnectionsChanged => self.connections = true,
                Event::OrderChanged(order) => {
                    self.orders.insert(*order);
                }
                Event::Appended(_) => {}
            }
        }
    }

    /// As payloads: the node, then one word for each thing.
    fn payloads(&self, node: &str) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        words.extend(self.lanes.iter().map(|lane| format!("j{lane}")));
        words.extend(self.watched.iter().map(|upstream| format!("u{upstream}")));
        for (is_new, word) in [(self.access, "a"), (self.plans, "p"), (self.connections, "c")] {
            words.extend(is_new.then(|| word.to_owned()));
        }
        words.extend(self.orders.iter().map(|order| format!("o{}", order.uuid().simple())));
        let mut payloads: Vec<String> = Vec::new();
        for word in words {
            match payloads.last_mut() {
                Some(last) if last.len() + word.len() < LONGEST => {
                    let _ = write!(last, " {word}");
                }
                _ => payloads.push(format!("{node} {word}")),
            }
        }
        payloads
    }
}

/// What another node told; nothing where it was this one, or nobody we know.
fn events(payload: &str, node: &str) -> Vec<Event> {
    let mut words = payload.split(' ');
    if words.next() == Some(node) {
        return Vec::new();
    }
    let event = |word: &str| match word {
        "a" => Some(Event::AccessChanged),
        "p" => Some(Event::PlansChanged),
        "c" => Some(Event::ConnectionsChanged),
        _ if word.starts_with('j') => Some(Event::JobReady(word[1..].to_owned())),
        _ if word.starts_with('u') => Some(Event::EsimsDue(word[1..].to_owned())),
        _ => {
            let order = Uuid::try_parse(word.strip_prefix('o')?).ok()?;
            Some(Event::OrderChanged(OrderId::new(order)))
        }
    };
    words.filter_map(event).collect()
}

/// Tells and listens.
pub(super) struct Neighbours {
    pub(super) address: Address,
    /// Names this process to the others.
    pub(super) node: String,
    /// What this process has to tell.
    pub(super) news: UnboundedReceiver<Vec<Event>>,
    /// Whom to tell here.
    pub(super) tell: Tell,
    pub(super) now: Now,
}

impl Neighbours {
    /// Runs until nobody has anything to tell any more.
    pub(super) fn run_until_closed(mut self) {
        loop {
            match Link::listening(&self.address, CHANNEL) {
                Ok((mut link, heard)) => {
                    self.compare_clocks(&mut link);
                    // Whatever was told meanwhile was missed.
                    (self.tell)(&[
                        Event::JobReady(String::new()),
                        Event::AccessChanged,
                        Event::PlansChanged,
                        Event::ConnectionsChanged,
                    ]);
                    if let Ok(()) = self.talk(&mut link, heard) {
                        return;
                    }
                }
                Err(fault) => tracing::debug!(%fault, "the other nodes cannot be heard"),
            }
            // The rest of the process may have ended meanwhile; what it tells is news of a lost connection.
            loop {
                match self.news.try_recv() {
                    Ok(_) => {}
                    Err(tokio::sync::mpsc::error::TryRecvError::Empty) => break,
                    Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => return,
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Forgets what became of old commits, in small portions; what another node forgets is left to it.
    fn sweep(&self, link: &mut Link) -> Result<(), Fault> {
        let before = first_at((self.now)().plus_millis(-COMMITS_KEPT_MS));
        loop {
            let swept = link.execute(
                "delete from commits where id in (
                     select id from commits where id < $1 order by id limit 2000 for update skip locked)",
                &[Value::from(before.as_bytes())],
            );
            match swept {
                Ok(2_000) => {}
                Ok(_) => return Ok(()),
                Err(fault) if link.lost => return Err(fault),
                Err(fault) => {
                    tracing::warn!(%fault, "old commits could not be forgotten");
                    return Ok(());
                }
            }
        }
    }

    /// Tells the operator of a clock that goes wrong: ids and due times carry its time.
    fn compare_clocks(&self, link: &mut Link) {
        let rows = link.query("select (extract(epoch from clock_timestamp()) * 1000)::bigint", &[]);
        let theirs = rows.ok().and_then(|rows| rows.first().and_then(|row| Found(row).int(0).ok()));
        let apart = theirs.map_or(0, |theirs| (self.now)().millis().saturating_sub(theirs));
        if apart.abs() > MOST_APART_MS {
            tracing::warn!(apart_ms = apart, "this machine's clock and the database's are apart; set them right (NTP)");
        }
    }

    /// `Ok` when there is nothing to tell any more.
    fn talk(&mut self, link: &mut Link, mut heard: UnboundedReceiver<String>) -> Result<(), Fault> {
        enum Next {
            Told(Vec<Event>),
            Heard(String),
            Sweep,
            Ended,
            Lost,
        }
        let mut sweep_at = tokio::time::Instant::now();
        loop {
            let news = &mut self.news;
            let next = link.block_on(async {
                tokio::select! {
                    told = news.recv() => told.map_or(Next::Ended, Next::Told),
                    payload = heard.recv() => payload.map_or(Next::Lost, Next::Heard),
                    () = tokio::time::sleep_until(sweep_at) => Next::Sweep,
                }
            })?;
            match next {
                Next::Ended => return Ok(()),
                Next::Lost => return Err(Fault::Unavailable("the connection is lost".to_owned())),
                Next::Heard(payload) => (self.tell)(&events(&payload, &self.node)),
                Next::Sweep => {
                    sweep_at = tokio::time::Instant::now() + SWEEP;
                    self.sweep(link)?;
                }
                Next::Told(events) => {
                    let mut gathered = News::default();
                    gathered.add(&events);
                    link.block_on(async { tokio::time::sleep(GATHERING).await })?;
                    while let Ok(events) = self.news.try_recv() {
                        gathered.add(&events);
                    }
                    for payload in gathered.payloads(&self.node) {
                        link.query("select pg_notify($1, $2)::text", &[CHANNEL.into(), (&payload).into()])?;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(number: u128) -> Event {
        Event::OrderChanged(OrderId::from_fresh(Uuid::from_u128(number << 32)))
    }

    #[test]
    fn what_one_node_tells_another_hears_and_it_does_not_itself() {
        let told: Vec<Event> =
            [Event::JobReady("tsim".to_owned()), Event::EsimsDue("tsim".to_owned()), Event::AccessChanged]
                .into_iter()
                .chain([Event::PlansChanged, Event::ConnectionsChanged])
                .chain((1..1_000).map(order))
                .collect();
        let mut news = News::default();
        news.add(&told);
        news.add(&[order(7)]);
        let payloads = news.payloads("one");
        assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() < 8_000));
        let heard: Vec<Event> = payloads.iter().flat_map(|payload| events(payload, "other")).collect();
        assert_eq!(heard, told);
        assert!(payloads.iter().all(|payload| events(payload, "one").is_empty()));
        assert_eq!(events("other x oyz ", "one"), [], "what a newer node may tell");
    }
}
