//! What every simulated upstream has behind its wire: plans, sales, eSIMs and their lives, a balance, and news for
//! whoever is told by callback. It is kept in a file of its own, so that what was sold outlives the simulator.

use crate::sandbox::profiles::Profiles;
use crate::sandbox::special;
use crate::sandbox::{CataloguePlan, catalogue};
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
        ready_at integer not null
    ) strict;
    create index if not exists sales_by_reference on sales (reference);
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
}

/// A plan as the shop sells it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShopPlan {
    /// What is told of it; its `price_minor` is the price now, in US cents.
    pub plan: CataloguePlan,
    /// Whether it is off the list: it is not shown, and not sold.
    pub withdrawn: bool,
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
        })
    }
}

pub(super) const SALE: &str = "number, reference, plan, asked, delivered, first_profile, added_to, cents, notify_url, sold_at, \
     ready_at from sales";

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
}

impl EsimLife {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Released, "released"),
        (Self::Installed, "installed"),
        (Self::InUse, "in_use"),
        (Self::UsedUp, "used_up"),
        (Self::Expired, "expired"),
        (Self::Cancelled, "cancelled"),
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

/// What is special about a sale.
#[derive(Default)]
struct Booking<'a> {
    /// The eSIM that gets data.
    added_to: Option<i64>,
    /// What a second wish is known by, and gets the same sale.
    key: Option<&'a str>,
    /// Whether each eSIM is news of its own.
    tells_each: bool,
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
    /// `ready`, the word of an [`EsimLife`], or one of [`MILESTONES`]; for news that is about no sale, what a dialect
    /// made of it.
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
        let plans = catalogue();
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
                Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, bool>(1)?, row.get::<_, Option<String>>(2)?))
            })
            .optional()
            .ok()?;
        let (cents, withdrawn, sells) = changed.unwrap_or((None, false, None));
        let mut plan = self.plans.get(sells.as_deref().unwrap_or(id))?.clone();
        plan.upstream_plan_id = id.to_owned();
        plan.price_minor = cents.unwrap_or(plan.price_minor);
        Some(ShopPlan { plan, withdrawn })
    }

    /// All plans on the list, in a fixed order.
    #[must_use]
    pub fn plans(&self) -> Vec<ShopPlan> {
        let connection = self.lock();
        let all = self.order.iter().filter_map(|id| self.plan_now(&connection, id));
        all.filter(|plan| !plan.withdrawn).collect()
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
        self.book(now, wish, &Booking::default())
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
        self.book(now, wish, &Booking { key, tells_each: true, ..Booking::default() })
    }

    /// Sells data to be added to an eSIM.
    ///
    /// # Errors
    /// [`NoSale`]; then nothing was sold.
    pub fn add(&self, now: Timestamp, wish: &Wish, esim: &ShopEsim) -> Result<Sale, NoSale> {
        let plan = self.plan(&wish.plan).filter(|plan| !plan.withdrawn).ok_or(NoSale::UnknownPlan)?;
        let over = matches!(esim.life, EsimLife::Expired | EsimLife::Cancelled);
        if over || !plan.plan.top_up_supported {
            return Err(NoSale::NotAddable);
        }
        self.book(now, wish, &Booking { added_to: Some(esim.number), ..Booking::default() })
    }

    fn book(&self, now: Timestamp, wish: &Wish, booking: &Booking<'_>) -> Result<Sale, NoSale> {
        let mut connection = self.lock();
        if let Some(key) = booking.key {
            let sql = format!("select {SALE} where number = (select sale from keys where key = ?1)");
            if let Some(sale) = connection.query_row(&sql, [key], Sale::read).optional()? {
                return Ok(sale);
            }
        }
        let added_to = booking.added_to;
        let delivered = match (added_to, wish.plan.as_str()) {
            (Some(_), _) => 0,
            (None, special::PARTIAL) => wish.quantity.saturating_sub(1),
            (None, _) => wish.quantity,
        };
        let plan = self.plan_now(&connection, &wish.plan).filter(|plan| !plan.withdrawn).ok_or(NoSale::UnknownPlan)?;
        if wish.plan == special::REFUSES {
            return Err(NoSale::OutOfStock);
        }
        let tx = connection.transaction()?;
        if wish.plan == special::BUSY {
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
        let sold = if added_to.is_some() { 1 } else { delivered };
        let cents = plan.plan.price_minor.saturating_mul(i64::from(sold));
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
                 ready_at)
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
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
                ready_at.millis()
            ],
        )?;
        let number = tx.last_insert_rowid();
        let sale = tx.query_row(&format!("select {SALE} where number = ?1"), [number], Sale::read)?;
        if let Some(key) = booking.key {
            tx.execute("insert into keys (key, sale) values (?1, ?2)", params![key, number])?;
        }
        if booking.tells_each {
            for profile in sale.profiles() {
                write_news(&tx, &sale, Some(profile), "ready", ready_at)?;
            }
        } else if added_to.is_none() {
            write_news(&tx, &sale, None, "ready", ready_at)?;
        }
        tx.commit()?;
        Ok(sale)
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
        self.sales_where("?1 = ?1", &0)
    }

    /// All sales the buyer called by this name, oldest first.
    #[must_use]
    pub fn sales_of(&self, reference: &str) -> Vec<Sale> {
        self.sales_where("reference = ?1", &reference)
    }

    /// All sales of data added to an eSIM, oldest first.
    #[must_use]
    pub fn sales_added_to(&self, esim: &ShopEsim) -> Vec<Sale> {
        self.sales_where("added_to = ?1", &esim.number)
    }

    fn sales_where(&self, condition: &str, value: &dyn rusqlite::ToSql) -> Vec<Sale> {
        let connection = self.lock();
        let sales = format!("select {SALE} where {condition} order by number");
        let sales = connection.prepare(&sales).and_then(|mut sales| {
            let rows = sales.query_map([value], Sale::read)?;
            rows.collect()
        });
        sales.unwrap_or_default()
    }

    /// The number the next sale will have.
    #[must_use]
    pub fn next_number(&self) -> i64 {
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
        let plan = self.plan_now(&connection, &sale.plan)?.plan;
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
        let added: Vec<String> = connection
            .prepare(
                "select plan from sales
                 where added_to = ?1 and number not in (select sale from revoked where profile = ?1)",
            )
            .and_then(|mut plans| plans.query_map([number], |row| row.get(0))?.collect())
            .ok()?;
        let mut total_mb = total_mb(&plan);
        let mut days = plan.validity_days;
        for added in added.iter().filter_map(|id| self.plans.get(id)) {
            total_mb = total_mb.zip(self::total_mb(added)).map(|(total, more)| total.saturating_add(more));
            days = days.saturating_add(added.validity_days);
        }
        Some(ShopEsim {
            number,
            sale: sale.clone(),
            profile: self.profiles.profile(number, sale.sold_at),
            life: EsimLife::of(&life)?,
            used_mb,
            total_mb,
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

    /// The eSIM with this ICCID.
    #[must_use]
    pub fn esim_by_iccid(&self, iccid: &str) -> Option<ShopEsim> {
        self.profiles.number(iccid).and_then(|number| self.esim(number))
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
