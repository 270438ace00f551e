//! The port over a connection to PostgreSQL.

use super::batch::{Batches, Joined, Joining};
use super::link::{Ask, Found, Link};
use crate::index::{self, TailEntry};
use crate::ledger::{Credit, World};
use crate::port::{Event, Fault, KeyHash, Lock, Needs, Owned, Query, Remembered, Row as PortRow, Snapshot, Tx, Value};
use crate::random::Random;
use domain::id::{IdSequence, TenantId};
use domain::ledger::Head;
use domain::money::Money;
use domain::tenant::Mode;
use domain::time::Timestamp;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

fn each_row(rows: &[Row], each: &mut dyn FnMut(&dyn PortRow) -> Result<(), Fault>) -> Result<(), Fault> {
    rows.iter().try_for_each(|row| each(&Found(row)))
}

/// A read on one snapshot of the primary.
pub(super) struct PostgresSnapshot<'l> {
    pub(super) link: &'l mut Link,
}

impl Snapshot for PostgresSnapshot<'_> {
    fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&dyn PortRow) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        each_row(&self.link.query(sql, values)?, each)
    }

    fn credit(&mut self, tenant: TenantId, mode: Mode) -> Result<Option<Credit>, Fault> {
        Credit::read(self, tenant, mode)
    }

    fn tail(&mut self, _: Option<World>, _: usize) -> Result<Vec<Arc<TailEntry>>, Fault> {
        // Nothing lags behind: a transaction keeps the index itself.
        Ok(Vec::new())
    }
}

/// What one thread keeps between transactions.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) ids: IdSequence,
    pub(super) random: Random,
    pub(super) joined: Joined,
}

/// A credit that is locked.
#[derive(Debug, Clone, Copy)]
struct Locked {
    credit: Credit,
    /// Entries as the row has them: the guard of its change.
    stored: i64,
    /// The largest id of the chain.
    last_entry: Uuid,
    changed: bool,
}

/// What was done and is not in the database yet: by the whole group, or by the command under way.
#[derive(Debug, Default)]
struct Layer {
    writes: Batches,
    credits: HashMap<World, Locked>,
    keys: HashMap<KeyHash, Remembered>,
    appended: Vec<Arc<TailEntry>>,
    events: Vec<Event>,
}

/// A transaction of one or several commands.
pub(super) struct PostgresTx<'l> {
    link: &'l mut Link,
    memory: &'l mut Memory,
    joining: Joining,
    now: Timestamp,
    /// Rows that were read for the whole group.
    ahead: HashMap<&'static str, HashMap<Vec<Owned>, Vec<Row>>>,
    /// The keys that were looked up for the whole group.
    looked_up: HashSet<KeyHash>,
    group: Layer,
    command: Layer,
    /// Whether the command under way changed something in the database itself.
    touched: bool,
    /// Whether anything was written so far.
    wrote: bool,
}

const CREDITS: &str = "select t.number, t.status, t.currency, b.balance, b.credit_limit, b.entry_count, b.entry_hash, \
     b.order_count, b.last_entry, b.tenant_id, b.mode from balances b join tenants t on t.id = b.tenant_id \
     join unnest($1::bytea[], $2::text[]) as wanted(tenant_id, mode) \
     on b.tenant_id = wanted.tenant_id and b.mode = wanted.mode order by b.tenant_id, b.mode for update of b";

const KEYS: &str = "select key_hash, result_id, body_hash, made from idempotency_keys where key_hash = any($1)";

const INDEX: &str = "insert into index_entries (entry) select unnest($1::bytea[]) on conflict do nothing";
const UNINDEX: &str = "delete from index_entries where entry = any($1::bytea[])";

/// What every node looks at that keeps price lists in memory.
const PLANS_CHANGED: &str = "insert into settings (name, value) values ('plans_version', $1)
     on conflict (name) do update set value = excluded.value";

/// What becomes of a transaction whose statements are all sent: the events to tell, once it is committed.
pub(super) struct Prepared {
    pub(super) events: Vec<Event>,
    /// The row that tells that it was committed; none where it wrote nothing.
    pub(super) marker: Option<Uuid>,
}

impl<'l> PostgresTx<'l> {
    pub(super) fn begin(link: &'l mut Link, memory: &'l mut Memory, joining: Joining, now: Timestamp) -> Self {
        link.before("begin");
        Self {
            link,
            memory,
            joining,
            now,
            ahead: HashMap::new(),
            looked_up: HashSet::new(),
            group: Layer::default(),
            command: Layer::default(),
            touched: false,
            wrote: false,
        }
    }

    /// Locks, looks up and reads what a group of commands needs, in one round trip.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn fetch<'n>(&mut self, needs: impl Iterator<Item = &'n Needs>) -> Result<(), Fault> {
        let (mut worlds, mut keys, mut reads) = (BTreeSet::new(), BTreeSet::new(), HashSet::new());
        for need in needs {
            worlds.extend(need.credits.iter().copied());
            keys.extend(need.keys.iter().copied());
            reads.extend(need.reads.iter());
        }
        let reads: Vec<&Query> = reads.into_iter().collect();
        let tenants: Vec<Owned> = worlds.iter().map(|(tenant, _)| Owned::Bytes(tenant.as_bytes().to_vec())).collect();
        let modes: Vec<Owned> = worlds.iter().map(|(_, mode)| Owned::Text(mode.word().to_owned())).collect();
        let hashes: Vec<Owned> = keys.iter().map(|key| Owned::Bytes(key.to_vec())).collect();
        // The lock comes first: what is read after it is read under it.
        let mut asks =
            vec![Ask { sql: CREDITS, values: vec![&tenants, &modes] }, Ask { sql: KEYS, values: vec![&hashes] }];
        for read in &reads {
            asks.push(Ask {
                sql: read.sql,
                values: read.values.iter().map(|value| value as &(dyn ToSql + Sync)).collect(),
            });
        }
        let mut answers = self.link.query_all(&asks)?.into_iter();
        for row in answers.next().unwrap_or_default() {
            let locked = self.locked(&row)?;
            self.group.credits.insert((locked.credit.head.tenant, locked.credit.head.mode), locked);
        }
        for row in answers.next().unwrap_or_default() {
            let (key, remembered) = remembered(&row)?;
            self.group.keys.insert(key, remembered);
        }
        self.looked_up = keys.into_iter().collect();
        for (read, rows) in reads.into_iter().zip(answers) {
            self.ahead.entry(read.sql).or_default().insert(read.values.clone(), rows);
        }
        Ok(())
    }

    fn locked(&mut self, row: &Row) -> Result<Locked, Fault> {
        let row = Found(row);
        let (tenant, mode) = (TenantId::from_slice(row.bytes(9)?)?, row.text(10)?.parse()?);
        let currency = row.text(2)?.parse()?;
        let count = row.int(5)?;
        let hash = row.bytes(6)?.try_into().map_err(|_| Fault::Bug("malformed hash in the database".to_owned()))?;
        let last_entry = row.opt_bytes(8)?.map(Uuid::from_slice).transpose();
        let last_entry = last_entry.map_err(|_| Fault::Bug("malformed id in the database".to_owned()))?;
        self.memory.ids.go_above(last_entry.unwrap_or_default());
        let credit = Credit {
            head: Head { tenant, mode, count, hash, balance: Money::new(row.int(3)?, currency) },
            limit: Money::new(row.int(4)?, currency),
            order_count: row.int(7)?,
            tenant_number: row.int(0)?,
            status: row.text(1)?.parse()?,
            locked_at: count,
        };
        Ok(Locked { credit, stored: count, last_entry: last_entry.unwrap_or_default(), changed: false })
    }

    fn held(&self, world: &World) -> Option<Locked> {
        self.command.credits.get(world).or_else(|| self.group.credits.get(world)).copied()
    }

    /// The command under way succeeded: the next one builds on what it did.
    pub(super) fn keep_command(&mut self) {
        let Layer { mut writes, credits, keys, appended, events } = std::mem::take(&mut self.command);
        self.wrote |= !writes.is_empty() || credits.values().any(|locked| locked.changed);
        self.group.writes.append(self.joining, &mut writes);
        self.group.credits.extend(credits);
        self.group.keys.extend(keys);
        self.group.appended.extend(appended);
        self.group.events.extend(events);
        self.touched = false;
    }

    /// The command under way was refused: nothing of it ever was. Returns whether it could be taken back: what went to
    /// the database itself cannot.
    pub(super) fn drop_command(&mut self) -> bool {
        let held = self.command.credits.iter().filter(|(_, locked)| !locked.changed);
        // What was only locked stays locked, and is what it was.
        let held: Vec<_> = held.map(|(world, locked)| (*world, *locked)).collect();
        for (world, locked) in held {
            self.group.credits.entry(world).or_insert(locked);
        }
        self.command = Layer::default();
        !std::mem::take(&mut self.touched)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        if self.group.writes.is_empty() && self.command.writes.is_empty() {
            return Ok(());
        }
        self.touched |= !self.command.writes.is_empty();
        self.wrote = true;
        self.group.writes.append(self.joining, &mut self.command.writes);
        self.group.writes.run(self.link, &mut self.memory.joined)
    }

    /// Sends all that was put off; what is left is to commit.
    ///
    /// # Errors
    /// [`Fault`].
    pub(super) fn prepare(mut self) -> Result<Prepared, Fault> {
        if !self.wrote {
            return Ok(Prepared { events: self.group.events, marker: None });
        }
        let appended = std::mem::take(&mut self.group.appended);
        if appended.iter().any(|entry| entry.must_be_read()) {
            // Its order is read as it has become.
            self.flush()?;
        }
        let index = index::changes_of(&mut self, &appended)?;
        let credits: Vec<Locked> = self.group.credits.values().filter(|locked| locked.changed).copied().collect();
        for Locked { credit, stored, last_entry, .. } in credits {
            self.group.writes.put_off(
                Joining::Together,
                "update balances set balance = $1, entry_count = $2, entry_hash = $3, order_count = $4, last_entry = $5
                 where tenant_id = $6 and mode = $7 and entry_count = $8",
                &[
                    credit.head.balance.minor().into(),
                    credit.head.count.into(),
                    (&credit.head.hash).into(),
                    credit.order_count.into(),
                    last_entry.as_bytes().into(),
                    credit.head.tenant.as_bytes().into(),
                    credit.head.mode.word().into(),
                    stored.into(),
                ],
            );
        }
        if self.group.events.contains(&Event::PlansChanged) {
            let random = self.memory.random.next();
            self.group.writes.put_off(Joining::Together, PLANS_CHANGED, &[(&format!("{random:016x}")).into()]);
        }
        let (at, random) = (self.now(), self.memory.random.next());
        let marker = self.memory.ids.next(at, random);
        self.group.writes.put_off(
            Joining::Together,
            "insert into commits (id) values ($1)",
            &[marker.as_bytes().into()],
        );
        self.group.writes.run(self.link, &mut self.memory.joined)?;
        let bytes = |entries: Vec<Vec<u8>>| entries.into_iter().map(Owned::Bytes).collect::<Vec<_>>();
        let (comes, goes) = (bytes(index.come), bytes(index.go));
        let mut asks = Vec::with_capacity(2);
        if !comes.is_empty() {
            asks.push(Ask { sql: INDEX, values: vec![&comes] });
        }
        if !goes.is_empty() {
            asks.push(Ask { sql: UNINDEX, values: vec![&goes] });
        }
        self.link.execute_all(&asks)?;
        Ok(Prepared { events: self.group.events, marker: Some(marker) })
    }
}

fn remembered(row: &Row) -> Result<(KeyHash, Remembered), Fault> {
    let broken = || Fault::Bug("a malformed idempotency key in the database".to_owned());
    let row = Found(row);
    let key = row.bytes(0)?.try_into().map_err(|_| broken())?;
    let remembered = Remembered {
        result: Uuid::from_slice(row.bytes(1)?).map_err(|_| broken())?,
        body_hash: row.bytes(2)?.try_into().map_err(|_| broken())?,
        count: u32::try_from(row.int(3)?).map_err(|_| broken())?,
    };
    Ok((key, remembered))
}

impl Snapshot for PostgresTx<'_> {
    fn rows(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&dyn PortRow) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if let Some(known) = self.ahead.get(sql) {
            let values: Vec<_> = values.iter().map(Owned::from).collect();
            if let Some(rows) = known.get(&values) {
                return each_row(rows, each);
            }
        }
        self.flush()?;
        each_row(&self.link.query(sql, values)?, each)
    }

    fn credit(&mut self, tenant: TenantId, mode: Mode) -> Result<Option<Credit>, Fault> {
        match self.held(&(tenant, mode)) {
            Some(locked) => Ok(Some(locked.credit)),
            None => Credit::read(self, tenant, mode),
        }
    }

    fn tail(&mut self, _: Option<World>, _: usize) -> Result<Vec<Arc<TailEntry>>, Fault> {
        Ok(Vec::new())
    }
}

impl Tx for PostgresTx<'_> {
    fn now(&self) -> Timestamp {
        // Ids go on above those of a node whose clock is ahead; nothing else follows that clock.
        self.now
    }

    fn fresh_id(&mut self) -> Uuid {
        let random = self.memory.random.next();
        self.memory.ids.next(self.now, random)
    }

    fn random(&mut self) -> u64 {
        self.memory.random.next()
    }

    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<usize, Fault> {
        self.flush()?;
        let changed = self.link.execute(sql, values)?;
        self.touched |= changed > 0;
        self.wrote |= changed > 0;
        Ok(changed)
    }

    fn change(&mut self, sql: &str, values: &[Value<'_>]) -> Result<(), Fault> {
        self.command.writes.put_off(self.joining, sql, values);
        Ok(())
    }

    fn change_if_found(&mut self, look: &str, sql: &str, values: &[Value<'_>]) -> Result<bool, Fault> {
        let mut found = false;
        self.rows(look, values, &mut |_| {
            found = true;
            Ok(())
        })?;
        if found {
            self.change(sql, values)?;
        }
        Ok(found)
    }

    fn lock(&mut self, lock: Lock) -> Result<(), Fault> {
        let name = match lock {
            Lock::Audit => "lock:audit",
            Lock::Registration => "lock:registration",
            Lock::Plans => "plans_revision",
            Lock::Pricing => "pricing_version",
        };
        self.flush()?;
        self.link.query("select 1 from settings where name = $1 for update", &[name.into()]).map(|_| ())
    }

    fn locking_free_rows_of(&self, table: &str) -> String {
        format!(" for update of {table} skip locked")
    }

    fn go_above(&mut self, id: Uuid) {
        self.memory.ids.go_above(id);
    }

    fn lock_credit(&mut self, tenant: TenantId, mode: Mode) -> Result<Option<Credit>, Fault> {
        let world = (tenant, mode);
        let locked = match self.held(&world) {
            Some(locked) => locked,
            None => {
                self.flush()?;
                let (tenants, modes) =
                    (vec![Owned::Bytes(tenant.as_bytes().to_vec())], vec![Owned::Text(mode.word().to_owned())]);
                let rows = self.link.query_all(&[Ask { sql: CREDITS, values: vec![&tenants, &modes] }])?;
                let Some(row) = rows.first().and_then(|rows| rows.first()) else { return Ok(None) };
                let locked = self.locked(row)?;
                self.command.credits.insert(world, locked);
                locked
            }
        };
        Ok(Some(Credit { locked_at: locked.credit.head.count, ..locked.credit }))
    }

    fn store_credit(&mut self, credit: &Credit) -> Result<(), Fault> {
        let world = (credit.head.tenant, credit.head.mode);
        match self.held(&world) {
            Some(locked) if locked.credit.head.count == credit.locked_at => {
                // Of the command under way are the newest entries of this chain.
                let mine = self.command.appended.iter().filter(|entry| (entry.tenant, entry.mode) == world);
                let last_entry = mine.map(|entry| entry.id.uuid()).max().unwrap_or_default().max(locked.last_entry);
                let credit = Credit { locked_at: 0, ..*credit };
                self.command.credits.insert(world, Locked { credit, last_entry, changed: true, ..locked });
                Ok(())
            }
            _ => {
                Err(Fault::Bug(format!("the {} credit of tenant {} was not the one that was locked", world.1, world.0)))
            }
        }
    }

    fn recall(&mut self, key: &KeyHash) -> Result<Option<Remembered>, Fault> {
        if let Some(known) = self.command.keys.get(key).or_else(|| self.group.keys.get(key)) {
            // What is told again must be as durable as what was told first: with a row of its own, this waits for the
            // standby, too.
            self.wrote = true;
            return Ok(Some(*known));
        }
        if self.looked_up.contains(key) {
            return Ok(None);
        }
        self.flush()?;
        let keys = vec![Owned::Bytes(key.to_vec())];
        let rows = self.link.query_all(&[Ask { sql: KEYS, values: vec![&keys] }])?;
        let found = rows.first().and_then(|rows| rows.first()).map(remembered).transpose()?;
        self.wrote |= found.is_some();
        Ok(found.map(|(_, remembered)| remembered))
    }

    fn remember(&mut self, key: KeyHash, remembered: Remembered) -> Result<(), Fault> {
        self.change(
            "insert into idempotency_keys (result_id, key_hash, body_hash, made) values ($1, $2, $3, $4)",
            &[
                remembered.result.as_bytes().into(),
                (&key).into(),
                (&remembered.body_hash).into(),
                remembered.count.into(),
            ],
        )?;
        self.command.keys.insert(key, remembered);
        Ok(())
    }

    fn after_commit(&mut self, event: Event) {
        if let Event::Appended(entry) = &event {
            self.command.appended.push(Arc::clone(entry));
        }
        self.command.events.push(event);
    }
}
