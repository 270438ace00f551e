//! Rates: what the currencies of costs are worth in those of prices, from a moment on. What a rate was is never
//! changed, so that every price can be explained afterwards.

use crate::audit::{self, Act};
use crate::port::{Decision, Fault, Row, Snapshot, Tx, collect, refuse, row};
use crate::pricing::Change;
use domain::money::Currency;
use domain::pricing::Rate;
use domain::time::Timestamp;

/// Why a rate is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateRefusal {
    /// It would begin in the past, or take the place of one whose time has come.
    Past,
}

/// Sets a rate from a moment on, now where none is given. One that is to begin at the same moment is replaced as long as
/// that is to come; its own `valid_from` is not looked at.
///
/// # Errors
/// [`RateRefusal::Past`].
pub fn set(tx: &mut dyn Tx, act: &Act, rate: &Rate, from: Option<Timestamp>) -> Decision<Rate, RateRefusal> {
    let change = Change::begin(tx)?;
    let now = tx.now();
    let valid_from = match from {
        Some(from) => from,
        // Of two in one millisecond the second begins with the next one.
        None if exists(tx, rate, now)? => now.plus_millis(1),
        None => now,
    };
    if valid_from < now || (valid_from == now && exists(tx, rate, now)?) {
        return refuse(RateRefusal::Past);
    }
    let rate = Rate { valid_from, ..rate.clone() };
    tx.execute(
        "insert into rates (currency_from, currency_to, valid_from, units, decimals) values ($1, $2, $3, $4, $5)
         on conflict (currency_from, currency_to, valid_from)
             do update set units = excluded.units, decimals = excluded.decimals",
        &[(&rate.from).into(), rate.to.code().into(), rate.valid_from.into(), rate.units.into(), rate.decimals.into()],
    )?;
    change.end(tx)?;
    let (subject, detail) = (format!("{}/{}", rate.from, rate.to), format!("{} from {valid_from}", rate.decimal()));
    audit::write(tx, act, "rate.set", &subject, &detail, None)?;
    Ok(rate)
}

fn exists(tx: &mut dyn Tx, rate: &Rate, at: Timestamp) -> Result<bool, Fault> {
    let sql = "select 1 from rates where currency_from = $1 and currency_to = $2 and valid_from = $3";
    Ok(row(tx, sql, &[(&rate.from).into(), rate.to.code().into(), at.into()], |_| Ok(()))?.is_some())
}

fn rate(row: &dyn Row) -> Result<Rate, Fault> {
    let decimals = row.int(4)?;
    Ok(Rate {
        from: row.text(0)?.to_owned(),
        to: row.text(1)?.parse()?,
        valid_from: Timestamp::from_millis(row.int(2)?),
        units: row.int(3)?,
        decimals: u32::try_from(decimals).map_err(|_| Fault::Bug(format!("a rate of {decimals} decimals")))?,
    })
}

/// The rates that hold at `now`, and those to come.
///
/// # Errors
/// [`Fault`].
pub fn from_now_on(snapshot: &mut dyn Snapshot, now: Timestamp) -> Result<Vec<Rate>, Fault> {
    collect(
        snapshot,
        "select currency_from, currency_to, valid_from, units, decimals from rates r where not exists (
             select 1 from rates n where n.currency_from = r.currency_from and n.currency_to = r.currency_to
                 and n.valid_from > r.valid_from and n.valid_from <= $1)
         order by currency_from, currency_to, valid_from",
        &[now.into()],
        rate,
    )
}

/// Where a list of rates goes on: behind this one.
pub type Behind = (Timestamp, String, Currency);

/// Rates, those that begin last first.
///
/// # Errors
/// [`Fault`].
pub fn list(snapshot: &mut dyn Snapshot, behind: Option<&Behind>, limit: u32) -> Result<Vec<Rate>, Fault> {
    let (at, from, to) = match behind {
        Some((at, from, to)) => (*at, from.as_str(), to.code()),
        None => (Timestamp::from_millis(i64::MAX), "", ""),
    };
    collect(
        snapshot,
        "select currency_from, currency_to, valid_from, units, decimals from rates
         where (valid_from, currency_from, currency_to) < ($1, $2, $3)
         order by valid_from desc, currency_from desc, currency_to desc limit $4",
        &[at.into(), from.into(), to.into(), limit.into()],
        rate,
    )
}
