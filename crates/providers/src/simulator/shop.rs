//! What every simulated upstream has behind its wire: plans, sales, eSIMs and their lives, a balance, and news for
//! whoever is told by callback. It is kept in a file of its own, so that what was sold outlives the simulator.

use crate::sandbox::profiles::Profiles;
use crate::sandbox::special;
use crate::sandbox::{CataloguePlan, large_catalogue};
use domain::fulfilment::Profile;
use domain::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SCHEMA: &str = "
    create table if not exists shop (seed integer not null, balance integer not null, callback_url text not null) strict;
    create table if not exists sales (
        number integer primary key,
        reference text not null,
        plan text not null,
        asked integer not null,
        delivered integer not null,
        first_profile integer not null,
        added_to integer,
        cents integer not null,
        notify_url text not null,
        sold_at integer not null,
        ready_at integer not null,
        batch integer not null,
        days integer
    ) strict;
    create index if not exists sales_by_reference on sales (reference);
    create index if not exists sales_by_batch on sales (batch);
    create index if not exists sales_by_time on sales (sold_at);
    create index if not exists sales_by_added_to on sales (added_to) where added_to is not null;
    create table if not exists lives (
        profile integer primary key,
        state text not null,
        used_mb integer not null,
        activated_at integer,
        changed_at integer not null
    ) strict;
    create table if not exists plan_changes (
        plan text primary key,
        cents integer,
        withdrawn integer not null,
        sells text
    ) strict;
    create table if not exists turned_away (reference text primary key, times integer not null) strict;
    create table if not exists keys (key text primary key, sale integer not null) strict;
    create table if not exists nonces (nonce text primary key, seen_at integer not null) strict;
    create table if not exists memory (name text primary key, value text not null) strict;
    create table if not exists reused (profile integer primary key, iccid text not null) strict;
    create index if not exists reused_by_iccid on reused (iccid);
    create table if not exists news (
        number integer primary key,
        sale integer not null,
        profile integer,
        word text not null,
        url text not null,
        due_at integer not null,
        attempts integer not null,
        told integer not null
    ) strict;
";

/// How a shop behaves.
#[derive(Debug, Clone)]
pub struct ShopOptions {
    /// What ICCIDs and the rest of the profiles are worked out of; counts when the file is made.
    pub seed: u64,
    /// Milliseconds from sale to delivery.
    pub delay_ms: i64,
    /// Our balance at the upstream when the file is made, US cents.
    pub balance_cents: i64,
    /// Where news goes when a sale names no address of its own; empty for nowhere.
    pub callback_url: String,
    /// How many plans it lists at least; those of the sandbox come first, and are all for 0.
    pub plans: usize,
}

/// A plan as the shop sells it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShopPlan {
    /// What is told of it; its `price_minor` is the price now, in US cents.
    pub plan: CataloguePlan,
    /// Whether it is off the list: it is not shown, and not sold.
    pub withdrawn: bool,
}

impl ShopPlan {
    /// What a day of a plan costs that is sold by the day, US cents.
    #[must_use]
    pub fn day_cents(&self) -> i64 {
        let days = self.plan.validity_days.max(1);
        self.plan.price_minor.saturating_add(days - 1) / days
    }
}

/// What was changed of a plan.
#[derive(Debug)]
struct PlanChange {
    cents: Option<i64>,
    withdrawn: bool,
    sells: Option<String>,
}

impl PlanChange {
    fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(Self { cents: row.get(first)?, withdrawn: row.get(first + 1)?, sells: row.get(first + 2)? })
    }
}

/// A sale of new eSIMs, or of data added to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// The shop's own number, counting from 1; each dialect writes it in its own way.
    pub number: i64,
    /// What the buyer called it; may be empty where a dialect has no place for that.
    pub reference: String,
    /// The plan sold.
    pub plan: String,
    /// How many eSIMs were asked for.
    pub asked: u32,
    /// How many were sold; fewer for some plans.
    pub delivered: u32,
    first_profile: i64,
    /// The profile that got data, where no new one was sold.
    pub added_to: Option<i64>,
    /// What was paid, US cents.
    pub cents: i64,
    /// Where news of it goes, where the buyer named an address.
    pub notify_url: String,
    /// When it was sold.
    pub sold_at: Timestamp,
    /// When its profiles are there.
    pub ready_at: Timestamp,
    /// The number of the first sale of those that were bought together.
    pub batch: i64,
    /// For how many days it was sold, where the buyer chose; otherwise it is the plan's own term.
    pub days: Option<i64>,
}

impl Sale {
    /// What stands in news that is about no sale.
    fn none() -> Self {
        let never = Timestamp::from_millis(0);
        Self {
            number: 0,
            reference: String::new(),
            plan: String::new(),
            asked: 0,
            delivered: 0,
            first_profile: 0,
            added_to: None,
            cents: 0,
            notify_url: String::new(),
            sold_at: never,
            ready_at: never,
            batch: 0,
            days: None,
        }
    }

    /// Whether its profiles are there.
    #[must_use]
    pub fn is_ready(&self, now: Timestamp) -> bool {
        now >= self.ready_at
    }

    /// Whether the answer to this sale is to be lost on its way.
    #[must_use]
    pub fn answer_is_lost(&self) -> bool {
        matches!(self.plan.as_str(), special::ANSWER_LOST)
    }

    /// Which of its eSIMs this is, counting from 0.
    #[must_use]
    pub fn index_of(&self, esim: &ShopEsim) -> i64 {
        esim.number.saturating_sub(self.first_profile)
    }

    fn profiles(&self) -> std::ops::Range<i64> {
        self.first_profile..self.first_profile.saturating_add(i64::from(self.delivered))
    }

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            reference: row.get(1)?,
            plan: row.get(2)?,
            asked: row.get(3)?,
            delivered: row.get(4)?,
            first_profile: row.get(5)?,
            added_to: row.get(6)?,
            cents: row.get(7)?,
            notify_url: row.get(8)?,
            sold_at: Timestamp::from_millis(row.get(9)?),
            ready_at: Timestamp::from_millis(row.get(10)?),
            batch: row.get(11)?,
            days: row.get(12)?,
        })
    }
}

pub(super) const SALE: &str = "number, reference, plan, asked, delivered, first_profile, added_to, cents, notify_url, sold_at, \
     ready_at, batch, days from sales";

/// Where an eSIM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EsimLife {
    /// Sold, on no phone.
    Released,
    /// On a phone.
    Installed,
    /// Its term has begun.
    InUse,
    /// All its data is used.
    UsedUp,
    /// Its term is over.
    Expired,
    /// Taken back.
    Cancelled,
    /// Paused by the buyer.
    Suspended,
    /// Ended by the buyer, who gets nothing back.
    Revoked,
}

impl EsimLife {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Released, "released"),
        (Self::Installed, "installed"),
        (Self::InUse, "in_use"),
        (Self::UsedUp, "used_up"),
        (Self::Expired, "expired"),
        (Self::Cancelled, "cancelled"),
        (Self::Suspended, "suspended"),
        (Self::Revoked, "revoked"),
    ];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(life, _)| *life == self).map_or("", |(_, word)| word)
    }

    /// The life of a word.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(life, _)| *life)
    }
}

/// An eSIM the shop sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShopEsim {
    /// The shop's own number of it; each dialect writes it in its own way.
    pub number: i64,
    /// The sale it came with.
    pub sale: Sale,
    /// What goes into the phone.
    pub profile: Profile,
    /// Where it is.
    pub life: EsimLife,
    /// Megabytes used.
    pub used_mb: i64,
    /// Megabytes there are in all, added ones included; `None` for no limit.
    pub total_mb: Option<i64>,
    /// Its term in days, added ones included.
    pub days: i64,
    /// When its term began.
    pub activated_at: Option<Timestamp>,
    /// When its term ends, once it began.
    pub expires_at: Option<Timestamp>,
    /// When anything of this changed last.
    pub changed_at: Timestamp,
}

/// Why nothing is sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoSale {
    /// No such plan, or it is off the list.
    UnknownPlan,
    /// None are left of it.
    OutOfStock,
    /// The balance does not suffice.
    InsufficientFunds,
    /// Not now.
    Busy,
    /// Too many or too few.
    InvalidQuantity,
    /// This plan cannot be added to this eSIM, or not any more.
    NotAddable,
    /// The file cannot be written.
    Broken(String),
}

impl From<rusqlite::Error> for NoSale {
    fn from(error: rusqlite::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Why an eSIM is not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTakenBack {
    /// There is no such eSIM.
    NotFound,
    /// It was installed or used, or is not taken back at all.
    TooLate,
    /// It was taken back before.
    Already,
}

/// A wish to buy.
#[derive(Debug, Clone)]
pub struct Wish {
    /// What the buyer calls it.
    pub reference: String,
    /// The plan.
    pub plan: String,
    /// How many.
    pub quantity: u32,
    /// Where news of it is to go, where the buyer named an address.
    pub notify_url: String,
}

/// Something a buyer is told by callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The same for each try to tell it.
    pub number: i64,
    /// The sale it is about.
    pub sale: Sale,
    /// The eSIM it is about; `None` for the sale as a whole.
    pub esim: Option<ShopEsim>,
    /// `ready`, the word of an [`EsimLife`], one of [`MILESTONES`], `left_50`, `left_25` or `left_10` when so many
    /// hundredths of the data are left or fewer, or `last_day`; for news that is about no sale, what a dialect made of it.
    pub word: String,
    /// Where it goes.
    pub url: String,
    /// When it happened.
    pub due_at: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
}

/// Percentages of an eSIM's data, with the words for having used so much. That is told where the account's news goes,
/// whatever address the sale had.
pub const MILESTONES: [(i64, &str); 2] = [(75, "used_75"), (90, "used_90")];

/// A wish as it is booked.
struct Booking<'a> {
    wish: &'a Wish,
    delivered: u32,
    days: Option<i64>,
    /// Under which it is sold once.
    key: Option<&'a str>,
    /// Whether each eSIM is news of its own.
    tells_each: bool,
}

impl<'a> Booking<'a> {
    fn of(wish: &'a Wish) -> Self {
        let delivered = if wish.plan == special::PARTIAL { wish.quantity.saturating_sub(1) } else { wish.quantity };
        Self { wish, delivered, days: None, key: None, tells_each: false }
    }
}

/// The news of data that runs out: hundredths left, and its word.
const LEFT: [(i64, &str); 3] = [(50, "left_50"), (25, "left_25"), (10, "left_10")];
const LAST_DAY: &str = "last_day";
const MOST_PER_SALE: u32 = 100;
const SLOW_MS: i64 = 30_000;
const BUSY_TIMES: u32 = 2;
const DAY_MS: i64 = 86_400_000;

/// A shop over its file.
#[derive(Debug)]
pub struct Shop {
    connection: Mutex<Connection>,
    profiles: Profiles,
    options: ShopOptions,
    plans: HashMap<String, CataloguePlan>,
    order: Vec<String>,
}

impl Shop {
    /// Opens the shop's file, making it if there is none; in memory for an empty path.
    ///
    /// # Errors
    /// The storage's.
    pub fn open(path: &Path, options: ShopOptions) -> Result<Self, rusqlite::Error> {
        let connection =
            if path.as_os_str().is_empty() { Connection::open_in_memory()? } else { Connection::open(path)? };
        connection.busy_timeout(std::time::Duration::from_secs(5))?;
        connection.execute_batch("pragma journal_mode = wal; pragma synchronous = full;")?;
        connection.execute_batch(SCHEMA)?;
        connection.execute_batch(super::stock::SCHEMA)?;
        let known: Option<i64> = connection.query_row("select seed from shop", [], |row| row.get(0)).optional()?;
        let seed = match known {
            Some(seed) => seed,
            None => {
                let seed = i64::try_from(options.seed >> 1).unwrap_or(0);
                connection.execute(
                    "insert into shop (seed, balance, callback_url) values (?1, ?2, ?3)",
                    params![seed, options.balance_cents, options.callback_url],
                )?;
                seed
            }
        };
        let plans = large_catalogue(options.plans);
        let order = plans.iter().map(|plan| plan.upstream_plan_id.clone()).collect();
        let plans = plans.into_iter().map(|plan| (plan.upstream_plan_id.clone(), plan)).collect();
        let profiles = Profiles::new(seed.unsigned_abs());
        Ok(Self { connection: connection.into(), profiles, options, plans, order })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A plan as it is sold now.
    #[must_use]
    pub fn plan(&self, id: &str) -> Option<ShopPlan> {
        self.plan_now(&self.lock(), id)
    }

    pub(super) fn plan_now(&self, connection: &Connection, id: &str) -> Option<ShopPlan> {
        let changed = connection
            .query_row("select cents, withdrawn, sells from plan_changes where plan = ?1", [id], |row| {
                PlanChange::read(row, 0)
            })
            .optional()
            .ok()?;
        self.changed_plan(id, changed.as_ref())
    }

    fn changed_plan(&self, id: &str, changed: Option<&PlanChange>) -> Option<ShopPlan> {
        let sells = changed.and_then(|changed| changed.sells.as_deref());
        let mut plan = self.plans.get(sells.unwrap_or(id))?.clone();
        plan.upstream_plan_id = id.to_owned();
        plan.price_minor = changed.and_then(|changed| changed.cents).unwrap_or(plan.price_minor);
        Some(ShopPlan { plan, withdrawn: changed.is_some_and(|changed| changed.withdrawn) })
    }

    /// All plans on the list, in a fixed order.
    #[must_use]
    pub fn plans(&self) -> Vec<ShopPlan> {
        self.plans_from(0, usize::MAX).0
    }

    /// Some plans on the list, after so many, in the same order; and how many there are in all.
    #[must_use]
    pub fn plans_from(&self, skipped: usize, most: usize) -> (Vec<ShopPlan>, usize) {
        let changes = self.plan_changes();
        let listed = || self.order.iter().filter(|id| !changes.get(*id).is_some_and(|changed| changed.withdrawn));
        let some = listed().skip(skipped).take(most).filter_map(|id| self.changed_plan(id, changes.get(id)));
        (some.collect(), listed().count())
    }

    /// What was changed of which plan.
    fn plan_changes(&self) -> HashMap<String, PlanChange> {
        let connection = self.lock();
        let changes =
            connection.prepare("select plan, cents, withdrawn, sells from plan_changes").and_then(|mut all| {
                let rows = all.query_map([], |row| Ok((row.get(0)?, PlanChange::read(row, 1)?)))?;
                rows.collect()
            });
        changes.unwrap_or_default()
    }

    /// Changes a plan: its price, whether it is on the list, and what is sold under its id.
    ///
    /// # Errors
    /// The storage's.
    pub fn change_plan(
        &self,
        id: &str,
        cents: Option<i64>,
        withdrawn: bool,
        sells: Option<&str>,
    ) -> Result<(), rusqlite::Error> {
        let sql = "insert into plan_changes (plan, cents, withdrawn, sells) values (?1, ?2, ?3, ?4)
             on conflict (plan) do update set cents = ?2, withdrawn = ?3, sells = ?4";
        self.lock().execute(sql, params![id, cents, withdrawn, sells]).map(drop)
    }

    /// Whether a nonce was not seen within `window_ms`; remembers it.
    #[must_use]
    pub fn is_fresh(&self, nonce: &str, now: Timestamp, window_ms: i64) -> bool {
        let connection = self.lock();
        let old = now.plus_millis(-window_ms).millis();
        let _ = connection.execute("delete from nonces where seen_at < ?1", [old]);
        let inserted = "insert into nonces (nonce, seen_at) values (?1, ?2) on conflict (nonce) do nothing";
        connection.execute(inserted, params![nonce, now.millis()]).is_ok_and(|rows| rows == 1)
    }

    /// What a dialect remembers under a name; `None` for nothing.
    #[must_use]
    pub fn remembered(&self, name: &str) -> Option<String> {
        self.lock().query_row("select value from memory where name = ?1", [name], |row| row.get(0)).optional().ok()?
    }

    /// All that is remembered under names that begin so, by name.
    #[must_use]
    pub fn all_remembered(&self, beginning: &str) -> Vec<(String, String)> {
        let connection = self.lock();
        let sql = "select name, value from memory where substr(name, 1, length(?1)) = ?1 order by name";
        let all = connection.prepare(sql).and_then(|mut all| {
            let rows = all.query_map([beginning], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        });
        all.unwrap_or_default()
    }

    /// Remembers something of a dialect's own under a name; `None` forgets it.
    ///
    /// # Errors
    /// The storage's.
    pub fn remember(&self, name: &str, value: Option<&str>) -> Result<(), rusqlite::Error> {
        let connection = self.lock();
        let changed = match value {
            None => connection.execute("delete from memory where name = ?1", [name]),
            Some(value) => connection.execute(
                "insert into memory (name, value) values (?1, ?2) on conflict (name) do update set value = ?2",
                [name, value],
            ),
        };
        changed.map(drop)
    }

    /// The next number of what a dialect counts under a name, from 1; nobody gets the same.
    ///
    /// # Errors
    /// The storage's.
    pub fn next_number(&self, name: &str) -> Result<i64, rusqlite::Error> {
        let sql = "insert into memory (name, value) values (?1, '1')
             on conflict (name) do update set value = cast(cast(value as integer) + 1 as text)
             returning cast(value as integer)";
        self.lock().query_row(sql, [name], |row| row.get(0))
    }

    /// Tells something that is about no sale.
    ///
    /// # Errors
    /// The storage's.
    pub fn tell(&self, due_at: Timestamp, url: &str, word: &str) -> Result<(), rusqlite::Error> {
        let sale = Sale { notify_url: url.to_owned(), ..Sale::none() };
        write_news(&self.lock(), &sale, None, word, due_at)
    }

    /// Our balance, US cents.
    #[must_use]
    pub fn balance_cents(&self) -> i64 {
        self.lock().query_row("select balance from shop", [], |row| row.get(0)).unwrap_or(0)
    }

    /// The balance a new file begins with, US cents.
    #[must_use]
    pub fn first_balance_cents(&self) -> i64 {
        self.options.balance_cents
    }

    /// Sets our balance, US cents.
    ///
    /// # Errors
    /// The storage's.
    pub fn set_balance(&self, cents: i64) -> Result<(), rusqlite::Error> {
        self.lock().execute("update shop set balance = ?1", [cents]).map(drop)
    }

    /// Where news goes when a sale names no address.
    #[must_use]
    pub fn callback_url(&self) -> String {
        self.lock().query_row("select callback_url from shop", [], |row| row.get(0)).unwrap_or_default()
    }

    /// Sets where news goes.
    ///
    /// # Errors
    /// The storage's.
    pub fn set_callback_url(&self, url: &str) -> Result<(), rusqlite::Error> {
        self.lock().execute("update shop set callback_url = ?1", [url]).map(drop)
    }

    /// Sells new eSIMs.
    ///
    /// # Errors
    /// [`NoSale`]; then nothing was sold.
    pub fn sell(&self, now: Timestamp, wish: &Wish) -> Result<Sale, NoSale> {
        if !(1..=MOST_PER_SALE).contains(&wish.quantity) {
            return Err(NoSale::InvalidQuantity);
        }
        self.book(now, &[Booking::of(wish)], None).map(|mut sales| sales.remove(0))
    }

    /// The same, with news of each eSIM instead of the sale as a whole. A second wish under the same key gets the sale
    /// of the first.
    ///
    /// # Errors
    /// [`NoSale`]; then nothing was sold, and the key is as good as new.
    pub fn sell_telling_each(&self, now: Timestamp, wish: &Wish, key: Option<&str>) -> Result<Sale, NoSale> {
        if !(1..=MOST_PER_SALE).contains(&wish.quantity) {
            return Err(NoSale::InvalidQuantity);
        }
        let booking = Booking { key, tells_each: true, ..Booking::of(wish) };
        self.book(now, &[booking], None).map(|mut sales| sales.remove(0))
    }

    /// Sells new eSIMs of several plans at once, for the days the buyer chose where a wish has some.
    ///
    /// # Errors
    /// [`NoSale`]; then nothing was sold.
    pub fn sell_together(&self, now: Timestamp, wishes: &[(Wish, Option<i64>)]) -> Result<Vec<Sale>, NoSale> {
        let quantities = wishes.iter().all(|(wish, _)| (1..=MOST_PER_SALE).contains(&wish.quantity));
        if wishes.is_empty() || !quantities {
            return Err(NoSale::InvalidQuantity);
        }
        let bookings: Vec<Booking<'_>> =
            wishes.iter().map(|(wish, days)| Booking { days: *days, ..Booking::of(wish) }).collect();
        self.book(now, &bookings, None)
    }

    /// Sells data to be added to an eSIM.
    ///
    /// # Errors
    /// [`NoSale`]; then nothing was sold.
    pub fn add(&self, now: Timestamp, wish: &Wish, esim: &ShopEsim) -> Result<Sale, NoSale> {
        let plan = self.plan(&wish.plan).filter(|plan| !plan.withdrawn).ok_or(NoSale::UnknownPlan)?;
        let over = matches!(esim.life, EsimLife::Expired | EsimLife::Cancelled | EsimLife::Revoked);
        if over || !plan.plan.top_up_supported {
            return Err(NoSale::NotAddable);
        }
        let booking = Booking { delivered: 0, ..Booking::of(wish) };
        let sale = self.book(now, &[booking], Some(esim.number)).map(|mut sales| sales.remove(0))?;
        if let Some(end) = self.esim(esim.number).and_then(|esim| esim.expires_at) {
            write_news(&self.lock(), &esim.sale, Some(esim.number), LAST_DAY, end.plus_millis(-DAY_MS))?;
        }
        Ok(sale)
    }

    /// Books all or nothing.
    fn book(&self, now: Timestamp, bookings: &[Booking<'_>], added_to: Option<i64>) -> Result<Vec<Sale>, NoSale> {
        let mut connection = self.lock();
        if let Some(key) = bookings.first().and_then(|booking| booking.key) {
            let sql = format!("select {SALE} where number = (select sale from keys where key = ?1)");
            if let Some(sale) = connection.query_row(&sql, [key], Sale::read).optional()? {
                return Ok(vec![sale]);
            }
        }
        let mut plans = Vec::with_capacity(bookings.len());
        for Booking { wish, .. } in bookings {
            let plan = self.plan_now(&connection, &wish.plan).filter(|plan| !plan.withdrawn);
            plans.push(plan.ok_or(NoSale::UnknownPlan)?);
            if wish.plan == special::REFUSES {
                return Err(NoSale::OutOfStock);
            }
        }
        let tx = connection.transaction()?;
        for Booking { wish, .. } in bookings.iter().filter(|booking| booking.wish.plan == special::BUSY) {
            let times: Option<u32> = tx
                .query_row("select times from turned_away where reference = ?1", [&wish.reference], |row| row.get(0))
                .optional()?;
            if times.unwrap_or(0) < BUSY_TIMES {
                tx.execute(
                    "insert into turned_away (reference, times) values (?1, 1)
                     on conflict (reference) do update set times = times + 1",
                    [&wish.reference],
                )?;
                tx.commit()?;
                return Err(NoSale::Busy);
            }
        }
        let mut sales: Vec<Sale> = Vec::with_capacity(bookings.len());
        for (booking, plan) in bookings.iter().zip(&plans) {
            let batch = sales.first().map(|sale| sale.number);
            sales.push(self.book_one(&tx, now, booking, plan, added_to, batch)?);
        }
        if let Some((first, key)) = sales.first().zip(bookings.first().and_then(|booking| booking.key)) {
            tx.execute("insert into keys (key, sale) values (?1, ?2)", params![key, first.number])?;
        }
        if bookings.iter().any(|booking| booking.tells_each) {
            for sale in &sales {
                for profile in sale.profiles() {
                    write_news(&tx, sale, Some(profile), "ready", sale.ready_at)?;
                }
            }
        } else if let Some(last) = sales.iter().max_by_key(|sale| sale.ready_at.millis()).filter(|_| added_to.is_none())
        {
            write_news(&tx, &sales[0], None, "ready", last.ready_at)?;
        }
        tx.commit()?;
        Ok(sales)
    }

    fn book_one(
        &self,
        tx: &Connection,
        now: Timestamp,
        Booking { wish, delivered, days, .. }: &Booking<'_>,
        plan: &ShopPlan,
        added_to: Option<i64>,
        batch: Option<i64>,
    ) -> Result<Sale, NoSale> {
        let sold = if added_to.is_some() { 1 } else { *delivered };
        let each = days.map_or(plan.plan.price_minor, |days| plan.day_cents().saturating_mul(days));
        let cents = each.saturating_mul(i64::from(sold));
        let balance: i64 = tx.query_row("select balance from shop", [], |row| row.get(0))?;
        if balance < cents {
            return Err(NoSale::InsufficientFunds);
        }
        let delay = if wish.plan == special::SLOW { SLOW_MS } else { self.options.delay_ms };
        let ready_at = now.plus_millis(delay);
        let first: i64 =
            tx.query_row("select coalesce(max(first_profile + max(delivered, 1)), 1) from sales", [], |row| {
                row.get(0)
            })?;
        tx.execute("update shop set balance = balance - ?1", [cents])?;
        tx.execute(
            "insert into sales (reference, plan, asked, delivered, first_profile, added_to, cents, notify_url, sold_at,
                 ready_at, batch, days)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, coalesce(?11, 0), ?12)",
            params![
                wish.reference,
                wish.plan,
                wish.quantity,
                delivered,
                first,
                added_to,
                cents,
                wish.notify_url,
                now.millis(),
                ready_at.millis(),
                batch,
                days
            ],
        )?;
        let number = tx.last_insert_rowid();
        tx.execute("update sales set batch = number where number = ?1 and batch = 0", [number])?;
        Ok(tx.query_row(&format!("select {SALE} where number = ?1"), [number], Sale::read)?)
    }

    fn sale_where(&self, condition: &str, value: &dyn rusqlite::ToSql) -> Option<Sale> {
        let sql = format!("select {SALE} where {condition} order by number limit 1");
        self.lock().query_row(&sql, [value], Sale::read).optional().ok().flatten()
    }

    /// The sale with this number.
    #[must_use]
    pub fn sale(&self, number: i64) -> Option<Sale> {
        self.sale_where("number = ?1", &number)
    }

    /// The first sale the buyer called by this name.
    #[must_use]
    pub fn sale_of(&self, reference: &str) -> Option<Sale> {
        self.sale_where("reference = ?1", &reference).filter(|_| !reference.is_empty())
    }

    /// All sales, oldest first.
    #[must_use]
    pub fn sales(&self) -> Vec<Sale> {
        self.sales_where("1 = 1", params![])
    }

    /// The sales the buyer called by this name, oldest first.
    #[must_use]
    pub fn sales_of(&self, reference: &str) -> Vec<Sale> {
        self.sales_where("reference = ?1 and reference <> ''", params![reference])
    }

    /// What was bought together with the first sale of a batch, and that one.
    #[must_use]
    pub fn batch(&self, number: i64) -> Vec<Sale> {
        self.sales_where("batch = ?1", params![number])
    }

    /// What was sold from a time up to another, oldest first.
    #[must_use]
    pub fn sales_between(&self, from: Timestamp, to: Timestamp) -> Vec<Sale> {
        self.sales_where("sold_at between ?1 and ?2", params![from.millis(), to.millis()])
    }

    /// The sales that added data to an eSIM, oldest first.
    #[must_use]
    pub fn sales_added_to(&self, esim: &ShopEsim) -> Vec<Sale> {
        self.sales_where("added_to = ?1", params![esim.number])
    }

    fn sales_where(&self, condition: &str, values: &[&dyn rusqlite::ToSql]) -> Vec<Sale> {
        let connection = self.lock();
        let sql = format!("select {SALE} where {condition} order by number");
        let sales = connection.prepare(&sql).and_then(|mut sales| sales.query_map(values, Sale::read)?.collect());
        sales.unwrap_or_default()
    }

    /// The number the next sale will have.
    #[must_use]
    pub fn next_sale_number(&self) -> i64 {
        let next = "select coalesce(max(number), 0) + 1 from sales";
        self.lock().query_row(next, [], |row| row.get(0)).unwrap_or(1)
    }

    /// The eSIMs of a sale, in the order of delivery, whether they are there yet or not.
    #[must_use]
    pub fn esims(&self, sale: &Sale) -> Vec<ShopEsim> {
        sale.profiles().filter_map(|number| self.esim_of(sale, number)).collect()
    }

    fn esim_of(&self, sale: &Sale, number: i64) -> Option<ShopEsim> {
        let connection = self.lock();
        let plan = of_days(self.plan_now(&connection, &sale.plan)?.plan, sale.days);
        let (life, used_mb, activated_at, changed_at) = connection
            .query_row(
                "select state, used_mb, activated_at, changed_at from lives where profile = ?1",
                [number],
                |row| {
                    Ok((
                        row.get::<_, String>(0)?,
                        row.get(1)?,
                        row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis),
                        Timestamp::from_millis(row.get(3)?),
                    ))
                },
            )
            .optional()
            .ok()?
            .unwrap_or(("released".to_owned(), 0, None, sale.sold_at));
        let added: Vec<(String, Option<i64>)> = connection
            .prepare(
                "select plan, days from sales
                 where added_to = ?1 and number not in (select sale from revoked where profile = ?1)",
            )
            .and_then(|mut plans| plans.query_map([number], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
            .ok()?;
        let mut total_mb = total_mb(&plan);
        let mut days = plan.validity_days;
        for (id, added_days) in added {
            let Some(added) = self.plans.get(&id).map(|added| of_days(added.clone(), added_days)) else { continue };
            total_mb = total_mb.zip(self::total_mb(&added)).map(|(total, more)| total.saturating_add(more));
            days = days.saturating_add(added.validity_days);
        }
        let mut profile = self.profiles.profile(number, sale.sold_at);
        let reused = "select iccid from reused where profile = ?1";
        if let Some(iccid) = connection.query_row(reused, [number], |row| row.get(0)).optional().ok()? {
            profile.iccid = iccid;
        }
        Some(ShopEsim {
            number,
            sale: sale.clone(),
            profile,
            life: EsimLife::of(&life)?,
            used_mb,
            total_mb,
            days,
            activated_at,
            expires_at: activated_at.map(|begin| begin.plus_millis(days.saturating_mul(DAY_MS))),
            changed_at,
        })
    }

    /// The eSIM with this number.
    #[must_use]
    pub fn esim(&self, number: i64) -> Option<ShopEsim> {
        let sale =
            self.sale_where("delivered > 0 and first_profile <= ?1 and ?1 < first_profile + delivered", &number)?;
        self.esim_of(&sale, number)
    }

    /// The eSIM with this ICCID; the last one, where it was used again.
    #[must_use]
    pub fn esim_by_iccid(&self, iccid: &str) -> Option<ShopEsim> {
        self.esims_by_iccid(iccid).pop()
    }

    /// All eSIMs with this ICCID, oldest first.
    #[must_use]
    pub fn esims_by_iccid(&self, iccid: &str) -> Vec<ShopEsim> {
        let reused = "select profile from reused where iccid = ?1";
        let mut numbers: Vec<i64> = self
            .lock()
            .prepare(reused)
            .and_then(|mut reused| reused.query_map([iccid], |row| row.get(0))?.collect())
            .unwrap_or_default();
        numbers.extend(self.profiles.number(iccid));
        numbers.sort_unstable();
        let esims = numbers.into_iter().filter_map(|number| self.esim(number));
        esims.filter(|esim| esim.profile.iccid == iccid).collect()
    }

    /// Gives an eSIM the ICCID of another one, as upstreams do that use them again.
    ///
    /// # Errors
    /// The storage's.
    pub fn reuse_iccid(&self, esim: &ShopEsim, iccid: &str) -> Result<(), rusqlite::Error> {
        let sql = "insert into reused (profile, iccid) values (?1, ?2) on conflict (profile) do update set iccid = ?2";
        self.lock().execute(sql, params![esim.number, iccid]).map(drop)
    }

    /// Moves an eSIM on in its life, as a traveller and time would, and tells whoever wants to know.
    ///
    /// # Errors
    /// The storage's.
    pub fn live(&self, now: Timestamp, esim: &ShopEsim, life: EsimLife, used_mb: i64) -> Result<(), rusqlite::Error> {
        let begun = matches!(life, EsimLife::InUse | EsimLife::UsedUp | EsimLife::Expired);
        let activated_at = esim.activated_at.or(begun.then_some(now)).map(Timestamp::millis);
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        tx.execute(
            "insert into lives (profile, state, used_mb, activated_at, changed_at) values (?1, ?2, ?3, ?4, ?5)
             on conflict (profile) do update set state = ?2, used_mb = ?3, activated_at = ?4, changed_at = ?5",
            params![esim.number, life.word(), used_mb, activated_at, now.millis()],
        )?;
        if life != esim.life {
            write_news(&tx, &esim.sale, Some(esim.number), life.word(), now)?;
        }
        let of_account = Sale { notify_url: String::new(), ..esim.sale.clone() };
        let has_used = |used_mb: i64, percentage| {
            esim.total_mb.is_some_and(|total| used_mb.saturating_mul(100) >= total.saturating_mul(percentage))
        };
        for (percentage, word) in MILESTONES {
            if has_used(used_mb, percentage) && !has_used(esim.used_mb, percentage) {
                write_news(&tx, &of_account, Some(esim.number), word, now)?;
            }
        }
        if let Some(total) = esim.total_mb.filter(|total| *total > 0) {
            let left = |used: i64| total.saturating_sub(used).saturating_mul(100);
            for (percent, word) in LEFT {
                let mark = total.saturating_mul(percent);
                if left(esim.used_mb) > mark && left(used_mb) <= mark {
                    write_news(&tx, &esim.sale, Some(esim.number), word, now)?;
                }
            }
        }
        if esim.activated_at.is_none()
            && let Some(begin) = activated_at
        {
            let last_day = esim.days.saturating_sub(1).saturating_mul(DAY_MS);
            write_news(
                &tx,
                &esim.sale,
                Some(esim.number),
                LAST_DAY,
                Timestamp::from_millis(begin).plus_millis(last_day),
            )?;
        }
        tx.commit()
    }

    /// Takes an eSIM back that nobody installed, and gives its price back.
    ///
    /// # Errors
    /// [`NotTakenBack`].
    pub fn take_back(&self, now: Timestamp, esim: &ShopEsim) -> Result<(), NotTakenBack> {
        match esim.life {
            EsimLife::Cancelled => return Err(NotTakenBack::Already),
            EsimLife::Released if esim.sale.plan != special::KEEPS => {}
            _ => return Err(NotTakenBack::TooLate),
        }
        self.live(now, esim, EsimLife::Cancelled, esim.used_mb).map_err(|_| NotTakenBack::NotFound)?;
        let price = esim.sale.cents.checked_div(i64::from(esim.sale.delivered)).unwrap_or(0);
        let paid = self.lock().execute("update shop set balance = balance + ?1", [price]);
        paid.map(drop).map_err(|_| NotTakenBack::NotFound)
    }

    /// What is due to be told at `now`, oldest first.
    #[must_use]
    pub fn due_news(&self, now: Timestamp) -> Vec<News> {
        struct Due {
            news: i64,
            sale: i64,
            profile: Option<i64>,
            word: String,
            url: String,
            due_at: Timestamp,
            attempts: u32,
        }
        let read = |row: &Row<'_>| {
            Ok(Due {
                news: row.get(0)?,
                sale: row.get(1)?,
                profile: row.get(2)?,
                word: row.get(3)?,
                url: row.get(4)?,
                due_at: Timestamp::from_millis(row.get(5)?),
                attempts: row.get(6)?,
            })
        };
        let due = "select number, sale, profile, word, url, due_at, attempts from news
                   where told = 0 and due_at <= ?1 order by number limit 100";
        let rows = self.lock().prepare(due).and_then(|mut due| due.query_map([now.millis()], read)?.collect());
        let rows: Vec<Due> = rows.unwrap_or_default();
        let news = rows.into_iter().filter_map(|due| {
            let sale = if due.sale == 0 { Sale::none() } else { self.sale(due.sale)? };
            let esim = due.profile.and_then(|number| self.esim_of(&sale, number));
            let Due { news, word, url, due_at, attempts, .. } = due;
            Some(News { number: news, sale, esim, word, url, due_at, attempts })
        });
        news.collect()
    }

    /// Notes that news was told, or is to be told again at `again`, or is given up.
    ///
    /// # Errors
    /// The storage's.
    pub fn told(&self, news: &News, again: Option<Timestamp>) -> Result<(), rusqlite::Error> {
        let sql = "update news set attempts = attempts + 1, told = ?2, due_at = coalesce(?3, due_at) where number = ?1";
        let again = again.map(Timestamp::millis);
        self.lock().execute(sql, params![news.number, again.is_none(), again]).map(drop)
    }
}

/// A plan as it was sold for the days a buyer chose.
fn of_days(plan: CataloguePlan, days: Option<i64>) -> CataloguePlan {
    let Some(days) = days else { return plan };
    let data_mb = plan.daily_data_mb.map(|daily| daily.saturating_mul(days)).or(plan.data_mb);
    CataloguePlan { data_mb, validity_days: days, ..plan }
}

/// Megabytes over the whole term.
fn total_mb(plan: &CataloguePlan) -> Option<i64> {
    plan.data_mb.or(plan.daily_data_mb.map(|daily| daily.saturating_mul(plan.validity_days)))
}

fn write_news(
    connection: &Connection,
    sale: &Sale,
    profile: Option<i64>,
    word: &str,
    due_at: Timestamp,
) -> Result<(), rusqlite::Error> {
    let url = "coalesce(nullif(?4, ''), (select callback_url from shop))";
    let sql = format!(
        "insert into news (sale, profile, word, url, due_at, attempts, told)
         select ?1, ?2, ?3, {url}, ?5, 0, 0 where {url} <> ''"
    );
    connection.execute(&sql, params![sale.number, profile, word, sale.notify_url, due_at.millis()]).map(drop)
}
