//! What a buyer has at an upstream that is on no phone yet: units bought ahead, and units taken off an eSIM one by one.
//! Most upstreams have nothing of it; those that do have it beside what every [`Shop`] does.

use super::shop::{EsimLife, NoSale, NotTakenBack, SALE, Sale, Shop, ShopEsim, Wish};
use crate::sandbox::special;
use domain::time::Timestamp;
use rusqlite::{OptionalExtension, params};

pub(super) const SCHEMA: &str = "
    create table if not exists stock (
        number integer primary key,
        sale integer not null,
        plan text not null,
        total integer not null,
        left integer not null,
        cents integer not null,
        bought_at integer not null
    ) strict;
    create table if not exists revoked (
        profile integer not null,
        sale integer not null,
        fate text not null,
        revoked_at integer not null,
        primary key (profile, sale)
    ) strict;
    create table if not exists labels (profile integer primary key, label text not null) strict;
";

/// Units of one plan that were bought ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stock {
    /// The shop's own number of it.
    pub number: i64,
    /// The sale it was bought with.
    pub sale: i64,
    /// The plan.
    pub plan: String,
    /// How many there were.
    pub total: i64,
    /// How many are left.
    pub left: i64,
    /// When it was bought.
    pub bought_at: Timestamp,
}

/// What becomes of a unit that is taken off an eSIM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its price comes back.
    Refunded,
    /// It can be put on another eSIM.
    Kept,
    /// It is gone.
    Lost,
}

impl Fate {
    const ALL: [(Self, &'static str); 3] = [(Self::Refunded, "refunded"), (Self::Kept, "kept"), (Self::Lost, "lost")];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(fate, _)| *fate == self).map_or("", |(_, word)| word)
    }
}

impl Shop {
    /// Sells units that are not on any eSIM yet.
    ///
    /// # Errors
    /// [`NoSale`]; then nothing was sold.
    pub fn sell_ahead(&self, now: Timestamp, wish: &Wish) -> Result<Sale, NoSale> {
        let mut connection = self.lock();
        let plan = self.plan_now(&connection, &wish.plan).filter(|plan| !plan.withdrawn).ok_or(NoSale::UnknownPlan)?;
        if wish.quantity == 0 {
            return Err(NoSale::InvalidQuantity);
        }
        if wish.plan == special::REFUSES {
            return Err(NoSale::OutOfStock);
        }
        let (each, many) = (plan.plan.price_minor, i64::from(wish.quantity));
        let cents = each.saturating_mul(many);
        let tx = connection.transaction()?;
        let balance: i64 = tx.query_row("select balance from shop", [], |row| row.get(0))?;
        if balance < cents {
            return Err(NoSale::InsufficientFunds);
        }
        tx.execute("update shop set balance = balance - ?1", [cents])?;
        tx.execute(
            "insert into sales (reference, plan, asked, delivered, first_profile, added_to, cents, notify_url, sold_at,
                 ready_at, batch)
             select ?1, ?2, ?3, 0, coalesce(max(first_profile + max(delivered, 1)), 1), null, ?4, '', ?5, ?5,
                 coalesce(max(number), 0) + 1
             from sales",
            params![wish.reference, wish.plan, wish.quantity, cents, now.millis()],
        )?;
        let number = tx.last_insert_rowid();
        tx.execute(
            "insert into stock (sale, plan, total, left, cents, bought_at) values (?1, ?2, ?3, ?3, ?4, ?5)",
            params![number, wish.plan, many, each, now.millis()],
        )?;
        let sale = tx.query_row(&format!("select {SALE} where number = ?1"), [number], Sale::read)?;
        tx.commit()?;
        Ok(sale)
    }

    /// What was bought ahead, oldest first; what is used up included.
    #[must_use]
    pub fn stock(&self) -> Vec<Stock> {
        let connection = self.lock();
        let all = "select number, sale, plan, total, left, bought_at from stock order by number";
        let all = connection.prepare(all).and_then(|mut all| {
            let rows = all.query_map([], |row| {
                Ok(Stock {
                    number: row.get(0)?,
                    sale: row.get(1)?,
                    plan: row.get(2)?,
                    total: row.get(3)?,
                    left: row.get(4)?,
                    bought_at: Timestamp::from_millis(row.get(5)?),
                })
            })?;
            rows.collect()
        });
        all.unwrap_or_default()
    }

    /// Puts units bought ahead on a new eSIM each, or one on an eSIM there is. Nobody else may buy meanwhile.
    ///
    /// # Errors
    /// [`NoSale`]; then nothing changed.
    pub fn sell_from_stock(&self, now: Timestamp, wish: &Wish, esim: Option<&ShopEsim>) -> Result<Sale, NoSale> {
        let many = i64::from(wish.quantity);
        let taken = "update stock set left = left - ?2 where number =
            (select number from stock where plan = ?1 and left >= ?2 order by number limit 1)";
        if self.lock().execute(taken, params![wish.plan, many])? == 0 {
            return Err(NoSale::OutOfStock);
        }
        // It was paid for: what the sale takes is given before.
        let each = self.plan(&wish.plan).map_or(0, |plan| plan.plan.price_minor);
        let price = each.saturating_mul(many);
        self.lock().execute("update shop set balance = balance + ?1", [price])?;
        let sold = match esim {
            Some(esim) => self.add(now, wish, esim),
            None => self.sell(now, wish),
        };
        if sold.is_err() {
            let back = "update stock set left = left + ?2 where number =
                (select number from stock where plan = ?1 and left + ?2 <= total order by number limit 1)";
            let connection = self.lock();
            connection.execute(back, params![wish.plan, many])?;
            connection.execute("update shop set balance = balance - ?1", [price])?;
        }
        sold
    }

    /// Gives the price of units bought ahead back.
    ///
    /// # Errors
    /// [`NotTakenBack`].
    pub fn refund_stock(&self, number: i64, many: i64) -> Result<(), NotTakenBack> {
        let mut connection = self.lock();
        let mut refund = || -> rusqlite::Result<Option<()>> {
            let tx = connection.transaction()?;
            let taken = "update stock set left = left - ?2 where number = ?1 and ?2 > 0 and left >= ?2";
            if tx.execute(taken, params![number, many])? == 0 {
                return Ok(None);
            }
            tx.execute(
                "update shop set balance = balance + ?2 * (select cents from stock where number = ?1)",
                params![number, many],
            )?;
            tx.commit().map(Some)
        };
        refund().ok().flatten().ok_or(NotTakenBack::NotFound)
    }

    /// Takes what one sale put on an eSIM off it. With the last one gone, the eSIM is [`EsimLife::Cancelled`].
    ///
    /// # Errors
    /// [`NotTakenBack`].
    pub fn revoke(&self, now: Timestamp, esim: &ShopEsim, sale: &Sale, fate: Fate) -> Result<(), NotTakenBack> {
        let failed = |_| NotTakenBack::NotFound;
        let units = i64::from(sale.delivered.max(1));
        let cents = sale.cents.checked_div(units).unwrap_or(0);
        {
            let connection = self.lock();
            let revoked = "insert into revoked (profile, sale, fate, revoked_at) values (?1, ?2, ?3, ?4)
                           on conflict (profile, sale) do nothing";
            let values = params![esim.number, sale.number, fate.word(), now.millis()];
            if connection.execute(revoked, values).map_err(failed)? == 0 {
                return Err(NotTakenBack::Already);
            }
            match fate {
                Fate::Refunded => {
                    connection.execute("update shop set balance = balance + ?1", [cents]).map_err(failed)?;
                }
                Fate::Kept => {
                    let kept = "insert into stock (sale, plan, total, left, cents, bought_at)
                                values (?1, ?2, 1, 1, ?3, ?4)";
                    let values = params![sale.number, sale.plan, cents, sale.sold_at.millis()];
                    connection.execute(kept, values).map_err(failed)?;
                }
                Fate::Lost => {}
            }
        }
        let all = self.sales_added_to(esim);
        if self.fate(esim, &esim.sale).is_some() && all.iter().all(|sale| self.fate(esim, sale).is_some()) {
            self.live(now, esim, EsimLife::Cancelled, esim.used_mb).map_err(failed)?;
        }
        Ok(())
    }

    /// What became of what a sale put on an eSIM, and when, if it was taken off it.
    #[must_use]
    pub fn fate(&self, esim: &ShopEsim, sale: &Sale) -> Option<(Fate, Timestamp)> {
        let fate = "select fate, revoked_at from revoked where profile = ?1 and sale = ?2";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get(1)?));
        let values = params![esim.number, sale.number];
        let (word, at) = self.lock().query_row(fate, values, read).optional().ok().flatten()?;
        let (fate, _) = Fate::ALL.iter().find(|(_, known)| *known == word)?;
        Some((*fate, Timestamp::from_millis(at)))
    }

    /// What the buyer calls an eSIM; empty where nothing was noted.
    #[must_use]
    pub fn label(&self, esim: &ShopEsim) -> String {
        let label = "select label from labels where profile = ?1";
        self.lock().query_row(label, [esim.number], |row| row.get(0)).unwrap_or_default()
    }

    /// Notes what the buyer calls an eSIM.
    ///
    /// # Errors
    /// The storage's.
    pub fn set_label(&self, esim: &ShopEsim, label: &str) -> Result<(), rusqlite::Error> {
        let sql = "insert into labels (profile, label) values (?1, ?2) on conflict (profile) do update set label = ?2";
        self.lock().execute(sql, params![esim.number, label]).map(drop)
    }
}
