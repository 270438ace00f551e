//! The ledger's rows: entries are only ever inserted, and the balance row moves with them in the
//! same transaction.

use crate::index::{self, TailEntry};
use crate::port::{Event, Fault, Row, Snapshot, Tx, collect, row};
use domain::id::{EntryId, OrderId, TenantId, TopUpId};
use domain::ledger::{Account, Damage, Entry, EntryKind, Hash, Head, Movement, append, verify};
use domain::money::{Currency, LARGEST_CREDIT_MINOR, Money};
use domain::tenant::{Mode, TenantStatus};
use domain::time::Timestamp;
use std::collections::HashMap;
use std::sync::Arc;

/// What a tenant has in one mode: its balance and the head of its chain, and what decides whether it may buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// The head of the chain, with the balance.
    pub head: Head,
    /// How far below zero the balance may go.
    pub limit: Money,
    /// Orders made so far.
    pub order_count: i64,
    /// The number the tenant's orders begin with.
    pub tenant_number: i64,
    /// Where the tenant stands.
    pub status: TenantStatus,
    /// Entries when it was locked: the guard of its change.
    pub(crate) locked_at: i64,
}

impl Credit {
    /// Whether this credit may be added and still leaves room for refunds.
    pub(crate) fn leaves_room(&self, amount: Money) -> bool {
        let after = self.head.balance.plus(amount).map(Money::minor);
        after.is_ok_and(|after| after.unsigned_abs() <= LARGEST_CREDIT_MINOR.unsigned_abs())
    }

    /// The row, which may lag behind the ledger.
    pub(crate) fn read(snapshot: &mut dyn Snapshot, tenant: TenantId, mode: Mode) -> Result<Option<Self>, Fault> {
        row(snapshot, CREDIT, &[tenant.as_bytes().into(), mode.word().into()], |row| {
            let currency: Currency = row.text(2)?.parse()?;
            let money = |column| row.int(column).map(|minor| Money::new(minor, currency));
            let head = Head { tenant, mode, count: row.int(5)?, hash: hash(row.bytes(6)?)?, balance: money(3)? };
            Ok(Self {
                head,
                limit: money(4)?,
                order_count: row.int(7)?,
                tenant_number: row.int(0)?,
                status: row.text(1)?.parse()?,
                locked_at: head.count,
            })
        })
    }

    /// Writes the row.
    pub(crate) fn write(&self, tx: &mut dyn Tx) -> Result<(), Fault> {
        tx.change(
            "update balances set balance = $1, entry_count = $2, entry_hash = $3, order_count = $4
             where tenant_id = $5 and mode = $6 and entry_count <= $2",
            &[
                self.head.balance.minor().into(),
                self.head.count.into(),
                (&self.head.hash).into(),
                self.order_count.into(),
                self.head.tenant.as_bytes().into(),
                self.head.mode.word().into(),
            ],
        )
    }
}

fn hash(bytes: &[u8]) -> Result<Hash, Fault> {
    bytes.try_into().map_err(|_| Fault::Bug("malformed hash in the database".to_owned()))
}

const CREDIT: &str = "select t.number, t.status, t.currency, b.balance, b.credit_limit, b.entry_count, b.entry_hash, \
     b.order_count from balances b join tenants t on t.id = b.tenant_id where b.tenant_id = $1 and b.mode = $2";

/// Locks the credit of a tenant that is known to exist: the first thing a tenant's command does.
pub(crate) fn lock_existing(tx: &mut dyn Tx, tenant: TenantId, mode: Mode) -> Result<Credit, Fault> {
    tx.lock_credit(tenant, mode)?.ok_or_else(|| Fault::Bug(format!("tenant {tenant} has no {mode} balance")))
}

/// Whose chain: a tenant in one mode.
pub(crate) type World = (TenantId, Mode);

/// The end of the ledger behind which the rows in `balances` may lag: an id, or none while they never do.
fn tail_begins(snapshot: &mut dyn Snapshot) -> Result<Option<Vec<u8>>, Fault> {
    let after = row(snapshot, "select value from settings where name = 'balances_watermark'", &[], |row| {
        row.text(0).map(str::to_owned)
    })?;
    match after.as_deref() {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(id) => match id.parse::<EntryId>() {
            Ok(id) => Ok(Some(id.as_bytes().to_vec())),
            Err(_) => Err(Fault::Bug("malformed watermark of the balances".to_owned())),
        },
    }
}

/// Takes the entries of the tail, oldest first, into the heads they belong to.
fn follow_tail(snapshot: &mut dyn Snapshot, mut head: impl FnMut(&Entry) -> Result<(), Fault>) -> Result<(), Fault> {
    let Some(mut last) = tail_begins(snapshot)? else { return Ok(()) };
    loop {
        let page = after(snapshot, &last, CHECK_PAGE)?;
        let Some(newest) = page.last() else { return Ok(()) };
        last = newest.id.as_bytes().to_vec();
        page.iter().try_for_each(&mut head)?;
    }
}

/// The credits the rows in `balances` are behind of: what the tail of the ledger made of them.
///
pub(crate) fn unwritten(snapshot: &mut dyn Snapshot) -> Result<HashMap<World, Credit>, Fault> {
    let mut entries = Vec::new();
    follow_tail(snapshot, |entry| {
        entries.push(*entry);
        Ok(())
    })?;
    let mut credits: HashMap<World, Credit> = HashMap::new();
    for entry in entries {
        let world = (entry.tenant, entry.mode);
        let mut credit = match credits.get(&world) {
            Some(credit) => *credit,
            None => Credit::read(snapshot, entry.tenant, entry.mode)?
                .ok_or_else(|| Fault::Bug(format!("entry {} has no balance", entry.id)))?,
        };
        if entry.position > credit.head.count {
            credit.head = entry.head();
            credit.order_count += i64::from(entry.movement.kind == EntryKind::Purchase);
        }
        credits.insert(world, credit);
    }
    Ok(credits)
}

/// Notes that the rows in `balances` hold all entries up to the newest one, or, at the end of the process,
/// that they lag behind nothing.
pub(crate) fn set_tail(tx: &mut dyn Tx, begins: Option<&[u8]>) -> Result<(), Fault> {
    let Some(begins) = begins else {
        tx.execute("delete from settings where name = 'balances_watermark'", &[])?;
        return Ok(());
    };
    let id = if begins.is_empty() { String::new() } else { EntryId::from_slice(begins)?.to_string() };
    tx.execute(
        "insert into settings (name, value) values ('balances_watermark', $1)
         on conflict (name) do update set value = excluded.value",
        &[(&id).into()],
    )?;
    Ok(())
}

/// Appends one movement to the locked chain.
pub(crate) fn write(tx: &mut dyn Tx, locked: &mut Credit, id: EntryId, movement: Movement) -> Result<Entry, Fault> {
    write_listed(tx, locked, id, movement, None)
}

/// The same, where it is known what the movement's order is found under from here on.
pub(crate) fn write_listed(
    tx: &mut dyn Tx,
    locked: &mut Credit,
    id: EntryId,
    movement: Movement,
    order_keys: Option<Vec<index::Key>>,
) -> Result<Entry, Fault> {
    let (entry, head) = append(&locked.head, id, movement)?;
    tx.change(
        "insert into ledger_entries (id, tenant_id, mode, position, kind, source, target, amount, currency,
             balance_after, order_id, top_up_id, hash)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        &[
            entry.id.as_bytes().into(),
            entry.tenant.as_bytes().into(),
            entry.mode.word().into(),
            entry.position.into(),
            movement.kind.word().into(),
            movement.source.word().into(),
            movement.target.word().into(),
            movement.amount.minor().into(),
            movement.amount.currency().code().into(),
            entry.balance_after.minor().into(),
            movement.order.as_ref().map(OrderId::as_bytes).into(),
            movement.top_up.as_ref().map(TopUpId::as_bytes).into(),
            (&entry.hash).into(),
        ],
    )?;
    locked.head = head;
    tx.after_commit(Event::Appended(Arc::new(TailEntry::new(&entry, order_keys))));
    Ok(entry)
}

const ENTRY: &str = "id, tenant_id, mode, position, kind, source, target, amount, currency, balance_after, \
     order_id, top_up_id, hash";

fn entry(row: &dyn Row) -> Result<Entry, Fault> {
    let currency: Currency = row.text(8)?.parse()?;
    Ok(Entry {
        id: EntryId::from_slice(row.bytes(0)?)?,
        tenant: TenantId::from_slice(row.bytes(1)?)?,
        mode: row.text(2)?.parse()?,
        position: row.int(3)?,
        movement: Movement {
            kind: row.text(4)?.parse()?,
            source: row.text(5)?.parse()?,
            target: row.text(6)?.parse()?,
            amount: Money::new(row.int(7)?, currency),
            order: row.opt_bytes(10)?.map(OrderId::from_slice).transpose()?,
            top_up: row.opt_bytes(11)?.map(TopUpId::from_slice).transpose()?,
        },
        balance_after: Money::new(row.int(9)?, currency),
        hash: hash(row.bytes(12)?)?,
    })
}

/// One entry by its id.
///
/// # Errors
/// [`Fault`].
pub fn find(snapshot: &mut dyn Snapshot, id: EntryId) -> Result<Option<Entry>, Fault> {
    row(snapshot, &format!("select {ENTRY} from ledger_entries where id = $1"), &[id.as_bytes().into()], entry)
}

/// The entries with ids above `after`, oldest first.
///
/// # Errors
/// [`Fault`].
pub fn after(snapshot: &mut dyn Snapshot, after: &[u8], limit: u32) -> Result<Vec<Entry>, Fault> {
    let sql = format!("select {ENTRY} from ledger_entries where id > $1 order by id limit $2");
    collect(snapshot, &sql, &[after.into(), limit.into()], entry)
}

/// What a list of transactions is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransactionFilter {
    /// Only this kind.
    pub kind: Option<EntryKind>,
    /// Made at or after.
    pub from: Option<Timestamp>,
    /// Made before.
    pub to: Option<Timestamp>,
}

/// An entry with the operator's words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The entry.
    pub entry: Entry,
    /// The note, where there is one.
    pub note: Option<String>,
}

/// A tenant's transactions below `cursor`, newest first, and the cursor of the next page.
///
/// # Errors
/// [`Fault`].
pub fn transactions(
    snapshot: &mut dyn Snapshot,
    tenant: TenantId,
    mode: Mode,
    filter: &TransactionFilter,
    cursor: Option<EntryId>,
    limit: usize,
) -> Result<(Vec<Transaction>, Option<EntryId>), Fault> {
    let world = (tenant, mode);
    let rare = filter.kind.filter(|kind| *kind != EntryKind::Purchase);
    let (kind, key) = match rare {
        Some(kind) => (index::Kind::EntryKind, kind.word()),
        None => (index::Kind::Entry, ""),
    };
    let fits = |entry: &Entry| {
        entry.tenant == tenant
            && entry.mode == mode
            && entry.movement.kind != EntryKind::Sale
            && filter.kind.is_none_or(|kind| entry.movement.kind == kind)
            && filter.from.is_none_or(|from| entry.id.created_at() >= from)
            && filter.to.is_none_or(|to| entry.id.created_at() < to)
    };
    let mut range = index::Range::new(index::List::new(world, kind, key), filter.from, filter.to);
    range.below(cursor.map(EntryId::uuid));
    let mut found = Vec::new();
    let tail = snapshot.tail(Some(world), usize::MAX)?;
    let of_tail = tail.iter().filter_map(|entry| entry.listed_in(kind, |word| word == key));
    let mut candidates = index::Candidates::new(range, of_tail);
    while let Some(id) = candidates.next(snapshot)? {
        let id = EntryId::new(id);
        let Some(entry) = find(snapshot, id)?.filter(|entry| fits(entry)) else { continue };
        if found.len() == limit {
            let last = found.last().map(|last: &Transaction| last.entry.id);
            return Ok((found, last));
        }
        let note = match entry.movement.kind {
            EntryKind::Adjustment | EntryKind::Refund => note(snapshot, id)?,
            _ => None,
        };
        found.push(Transaction { entry, note });
    }
    Ok((found, None))
}

fn note(snapshot: &mut dyn Snapshot, id: EntryId) -> Result<Option<String>, Fault> {
    row(snapshot, "select note from entry_notes where entry_id = $1", &[id.as_bytes().into()], |row| {
        row.text(0).map(str::to_owned)
    })
}

/// Keeps the operator's words for an entry.
pub(crate) fn write_note(tx: &mut dyn Tx, entry: &Entry, note: &str) -> Result<(), Fault> {
    tx.change(
        "insert into entry_notes (entry_id, tenant_id, note) values ($1, $2, $3)",
        &[entry.id.as_bytes().into(), entry.tenant.as_bytes().into(), note.into()],
    )?;
    Ok(())
}

/// What the check found first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub damage: Damage,
    /// The entry, where there is one.
    pub entry: Option<String>,
    /// Whose chain, or which order.
    pub subject: String,
}

/// A check of the whole ledger, fed with pages of entries, so that no read lasts long. It compares
/// with the balances as they were when it began, so it may run while the platform works.
#[derive(Debug)]
pub struct Check {
    expected: HashMap<(TenantId, Mode), Head>,
    /// Whose balance row cannot be read.
    unreadable: Option<String>,
    heads: HashMap<(TenantId, Mode), Head>,
    /// The newest entries that were written since it began, and their places.
    later: HashMap<(TenantId, Mode), (i64, EntryId)>,
    /// Minor units still held for an order.
    held: HashMap<OrderId, i64>,
    /// Minor units given back for an order.
    refunded: HashMap<OrderId, i64>,
    last: Vec<u8>,
    end: Vec<u8>,
    /// Entries walked so far.
    pub entries: u64,
}

/// Entries of one read of the check.
const CHECK_PAGE: u32 = 2_000;

const NEWEST: &str = "select id from ledger_entries order by id desc limit 1";

/// The id of the newest entry; empty before the first.
pub(crate) fn newest(snapshot: &mut dyn Snapshot) -> Result<Vec<u8>, Fault> {
    Ok(row(snapshot, NEWEST, &[], |row| row.bytes(0).map(<[u8]>::to_vec))?.unwrap_or_default())
}

fn found(damage: Damage, entry: Option<String>, subject: String) -> Finding {
    Finding { damage, entry, subject }
}

fn head(row: &dyn Row, tenant: TenantId, mode: Mode) -> Result<Head, Fault> {
    let balance = Money::new(row.int(3)?, row.text(2)?.parse()?);
    Ok(Head { tenant, mode, count: row.int(4)?, hash: hash(row.bytes(5)?)?, balance })
}

/// Compares a credited top-up with its row: one that is open again could be credited twice.
fn compare_top_up(snapshot: &mut dyn Snapshot, credit: &Entry) -> Result<Result<(), Finding>, Fault> {
    let Some(id) = credit.movement.top_up else { return Ok(Ok(())) };
    let known = row(
        snapshot,
        "select credited, status, tenant_id from top_ups where id = $1",
        &[id.as_bytes().into()],
        |row| {
            let open = matches!(row.text(1)?, "pending" | "under_review" | "expired" | "rejected");
            Ok((row.opt_int(0)?, open, row.bytes(2)? == credit.tenant.as_bytes()))
        },
    );
    match known {
        Ok(Some((Some(credited), false, true))) if credited == credit.movement.amount.minor() => Ok(Ok(())),
        Ok(_) | Err(Fault::Bug(_)) => {
            Ok(Err(found(Damage::TopUpMismatch, Some(credit.id.to_string()), format!("top-up {id}"))))
        }
        Err(fault) => Err(fault),
    }
}

/// Where every chain stands.
#[derive(PartialEq, Eq)]
struct Heads {
    expected: HashMap<(TenantId, Mode), Head>,
    /// Whose balance row cannot be read.
    unreadable: Option<String>,
}

impl Heads {
    fn read(snapshot: &mut dyn Snapshot) -> Result<Self, Fault> {
        let mut expected = HashMap::new();
        let mut unreadable = None;
        snapshot.rows(
            "select b.tenant_id, b.mode, t.currency, b.balance, b.entry_count, b.entry_hash
             from balances b join tenants t on t.id = b.tenant_id",
            &[],
            &mut |row| {
                let tenant = TenantId::from_slice(row.bytes(0)?)?;
                let mode: Mode = row.text(1)?.parse()?;
                // A malformed balance, count or hash is damage, not a fault.
                match head(row, tenant, mode) {
                    Ok(head) => {
                        expected.insert((tenant, mode), head);
                    }
                    Err(_) => unreadable = Some(format!("tenant {tenant} ({mode})")),
                }
                Ok(())
            },
        )?;
        let followed = follow_tail(snapshot, |entry| {
            if let Some(head) = expected.get_mut(&(entry.tenant, entry.mode))
                && entry.position > head.count
            {
                *head = entry.head();
            }
            Ok(())
        });
        match followed {
            // The walk comes to the broken entry and names it.
            Ok(()) | Err(Fault::Bug(_)) => {}
            Err(fault) => return Err(fault),
        }
        Ok(Self { expected, unreadable })
    }
}

impl Check {
    /// Notes where every chain stands now; entries written later are not part of this check.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn begin(snapshot: &mut dyn Snapshot) -> Result<Self, Fault> {
        let Heads { expected, unreadable } = Heads::read(snapshot)?;
        Ok(Self {
            expected,
            unreadable,
            heads: HashMap::new(),
            later: HashMap::new(),
            held: HashMap::new(),
            refunded: HashMap::new(),
            last: Vec::new(),
            end: newest(snapshot)?,
            entries: 0,
        })
    }

    /// Walks the next page. `Ok(Ok(true))` while there is more, `Ok(Ok(false))` when all is well.
    ///
    /// # Errors
    /// [`Fault`]; what is wrong with the ledger is the inner [`Finding`].
    pub fn page(&mut self, snapshot: &mut dyn Snapshot) -> Result<Result<bool, Finding>, Fault> {
        let sql = format!("select {ENTRY} from ledger_entries where id > $1 and id <= $2 order by id limit $3");
        let (after, end) = (std::mem::take(&mut self.last), self.end.clone());
        let mut last = after.clone();
        let mut walked = Ok(());
        let (mut purchases, mut top_ups) = (Vec::new(), Vec::new());
        let mut rows = 0_u32;
        snapshot.rows(&sql, &[after.as_slice().into(), end.as_slice().into(), CHECK_PAGE.into()], &mut |row| {
            last = row.bytes(0)?.to_vec();
            rows += 1;
            if walked.is_ok() {
                walked = match entry(row) {
                    Ok(entry) if self.is_later(&entry) => Ok(()),
                    Ok(entry) => {
                        match entry.movement.kind {
                            EntryKind::Purchase => purchases.push(entry),
                            EntryKind::TopUp => top_ups.push(entry),
                            _ => {}
                        }
                        self.entry(&entry)
                    }
                    Err(_) => {
                        let id = last.iter().map(|byte| format!("{byte:02x}")).collect();
                        Err(found(Damage::Unreadable, Some(id), "ledger".to_owned()))
                    }
                };
            }
            Ok(())
        })?;
        self.last = last;
        if let Err(finding) = walked {
            return Ok(Err(finding));
        }
        for purchase in purchases {
            if let Err(finding) = self.compare_purchase(snapshot, &purchase)? {
                return Ok(Err(finding));
            }
        }
        for top_up in top_ups {
            if let Err(finding) = compare_top_up(snapshot, &top_up)? {
                return Ok(Err(finding));
            }
        }
        if rows == CHECK_PAGE {
            return Ok(Ok(true));
        }
        if let Err(finding) = self.compare_later(snapshot)? {
            return Ok(Err(finding));
        }
        if let Err(finding) = self.compare_balances() {
            return Ok(Err(finding));
        }
        Ok(self.compare_orders(snapshot)?.map(|()| false))
    }

    /// Compares a purchase with its order: what was sold at which price never changes.
    fn compare_purchase(
        &mut self,
        snapshot: &mut dyn Snapshot,
        purchase: &Entry,
    ) -> Result<Result<(), Finding>, Fault> {
        let order = OrderId::new(purchase.id.uuid());
        let known = row(
            snapshot,
            "select quantity * unit_price, refunded, tenant_id, mode from orders where id = $1",
            &[order.as_bytes().into()],
            |row| {
                let owner = row.bytes(2)? == purchase.tenant.as_bytes() && row.text(3)? == purchase.mode.word();
                Ok((row.int(0)?, row.int(1)?, owner))
            },
        );
        match known {
            Ok(Some((total, refunded, true)))
                if total == purchase.movement.amount.minor() && (0..=total).contains(&refunded) =>
            {
                if refunded != 0 {
                    self.refunded.entry(order).or_default();
                }
                Ok(Ok(()))
            }
            Ok(_) | Err(Fault::Bug(_)) => {
                let entry = Some(purchase.id.to_string());
                Ok(Err(found(Damage::OrderMismatch, entry, format!("order {order}"))))
            }
            Err(fault) => Err(fault),
        }
    }

    /// Whether an entry was written since the check began: where several nodes write, its id may still be among the
    /// others'. It is not looked at, but its chain must be as long.
    fn is_later(&mut self, entry: &Entry) -> bool {
        let world = (entry.tenant, entry.mode);
        let is_later = self.expected.get(&world).is_none_or(|head| entry.position > head.count);
        if is_later {
            let newest = self.later.entry(world).or_insert((entry.position, entry.id));
            *newest = (*newest).max((entry.position, entry.id));
        }
        is_later
    }

    /// Looks whether chains are as long as their newest entries say; one whose head was put back is not.
    fn compare_later(&self, snapshot: &mut dyn Snapshot) -> Result<Result<(), Finding>, Fault> {
        for ((tenant, mode), (newest, entry)) in &self.later {
            let damaged = |damage| Ok(Err(found(damage, Some(entry.to_string()), format!("tenant {tenant} ({mode})"))));
            match snapshot.credit(*tenant, *mode) {
                Ok(credit) if credit.map_or(0, |credit| credit.head.count) >= *newest => {}
                Ok(_) => return damaged(Damage::WrongCount),
                Err(Fault::Bug(_)) => return damaged(Damage::Unreadable),
                Err(fault) => return Err(fault),
            }
        }
        Ok(Ok(()))
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), Finding> {
        self.entries += 1;
        let damaged =
            |damage| found(damage, Some(entry.id.to_string()), format!("tenant {} ({})", entry.tenant, entry.mode));
        let key = (entry.tenant, entry.mode);
        let empty = || Head::empty(entry.tenant, entry.mode, entry.balance_after.currency());
        let head = self.heads.entry(key).or_insert_with(empty);
        *head = verify(head, entry).map_err(damaged)?;
        let Some(order) = entry.movement.order else { return Ok(()) };
        let amount = entry.movement.amount.minor();
        if entry.movement.kind == EntryKind::Purchase {
            if entry.id.uuid() != order.uuid() {
                return Err(damaged(Damage::OrderMismatch));
            }
            self.held.insert(order, amount);
        } else if entry.movement.source == Account::SalesHeld {
            let left = self.held.get(&order).copied().unwrap_or(0) - amount;
            match left {
                1.. => self.held.insert(order, left),
                0 => self.held.remove(&order),
                _ => return Err(damaged(Damage::OrderMismatch)),
            };
        }
        if entry.movement.kind == EntryKind::Refund {
            *self.refunded.entry(order).or_default() += amount;
        }
        Ok(())
    }

    fn compare_balances(&self) -> Result<(), Finding> {
        if let Some(subject) = &self.unreadable {
            return Err(found(Damage::Unreadable, None, subject.clone()));
        }
        let mut chains: Vec<_> = self.expected.keys().chain(self.heads.keys()).copied().collect();
        chains.sort_unstable();
        chains.dedup();
        for (tenant, mode) in chains {
            let damaged = |damage| Err(found(damage, None, format!("tenant {tenant} ({mode})")));
            let Some(expected) = self.expected.get(&(tenant, mode)) else { return damaged(Damage::Unreadable) };
            let empty = Head::empty(tenant, mode, expected.balance.currency());
            let folded = self.heads.get(&(tenant, mode)).copied().unwrap_or(empty);
            if folded.count != expected.count {
                return damaged(Damage::WrongCount);
            }
            if folded.hash != expected.hash {
                return damaged(Damage::WrongHead);
            }
            if folded.balance != expected.balance {
                return damaged(Damage::WrongCachedBalance);
            }
        }
        Ok(())
    }

    /// Compares orders with their entries: what is held belongs to an order still being fulfilled, and
    /// an order's refunds are the ledger's. Orders change on, so equality is asked only when nothing
    /// was written meanwhile.
    fn compare_orders(&self, snapshot: &mut dyn Snapshot) -> Result<Result<(), Finding>, Fault> {
        let quiet =
            self.later.is_empty() && newest(snapshot)? == self.end && Heads::read(snapshot)?.expected == self.expected;
        let mut orders: Vec<_> = self.held.keys().chain(self.refunded.keys()).copied().collect();
        orders.sort_unstable();
        orders.dedup();
        for order in orders {
            let held = self.held.get(&order).copied().unwrap_or(0);
            let refunded = self.refunded.get(&order).copied().unwrap_or(0);
            let known = row(
                snapshot,
                "select refunded, status from orders where id = $1",
                &[order.as_bytes().into()],
                |row| Ok((row.int(0)?, row.text(1)? == "processing")),
            )?;
            let consistent = known.is_some_and(|(row_refunded, processing)| {
                refunded <= row_refunded && (!quiet || (refunded == row_refunded && (held == 0 || processing)))
            });
            if !consistent {
                return Ok(Err(found(Damage::OrderMismatch, None, format!("order {order}"))));
            }
        }
        Ok(Ok(()))
    }
}
