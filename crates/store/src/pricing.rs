//! What the prices of plans that live from offers follow from, beside the offers: rates, rules, and which connections
//! sell. Prices are derived from it and never stored, so its version says whether a price is still the right one.

use crate::port::{Event, Fault, Lock, Snapshot, Tx, collect, row};
use crate::{markup, rate};
use domain::pricing::{MarkupRule, Rate};
use domain::time::Timestamp;
use std::collections::BTreeSet;

/// Changes the version. One transaction after the other changes what prices follow from.
pub(crate) struct Change {
    before: i64,
}

impl Change {
    /// Waits until nobody else changes anything of it. It comes before the lock of the audit log.
    pub(crate) fn begin(tx: &mut dyn Tx) -> Result<Self, Fault> {
        tx.lock(Lock::Pricing)?;
        Ok(Self { before: version(tx)? })
    }

    /// Makes all prices that were worked out before outdated.
    pub(crate) fn end(self, tx: &mut dyn Tx) -> Result<(), Fault> {
        let (before, now) = (self.before.to_string(), self.before.saturating_add(1).to_string());
        tx.change(
            "update settings set value = $1 where name = 'pricing_version' and value = $2",
            &[(&now).into(), (&before).into()],
        )?;
        tx.after_commit(Event::PlansChanged);
        Ok(())
    }
}

pub(crate) fn read_version(text: &str) -> Result<i64, Fault> {
    text.parse().map_err(|_| Fault::Bug("malformed version in the database".to_owned()))
}

/// Another one with every change of what prices follow from.
///
/// # Errors
/// [`Fault`].
pub fn version(snapshot: &mut dyn Snapshot) -> Result<i64, Fault> {
    let found = row(snapshot, "select value from settings where name = 'pricing_version'", &[], |row| {
        read_version(row.text(0)?)
    })?;
    found.ok_or_else(|| Fault::Bug("the database has no version of the prices".to_owned()))
}

/// What prices follow from.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Its version.
    pub version: i64,
    /// The rates that hold, and those to come.
    pub rates: Vec<Rate>,
    /// The rules, oldest first.
    pub rules: Vec<MarkupRule>,
    /// The connections that sell.
    pub selling: BTreeSet<String>,
}

/// What prices follow from at `now` and later.
///
/// # Errors
/// [`Fault`].
pub fn terms(snapshot: &mut dyn Snapshot, now: Timestamp) -> Result<Terms, Fault> {
    Ok(Terms {
        version: version(snapshot)?,
        rates: rate::from_now_on(snapshot, now)?,
        rules: markup::all(snapshot)?,
        selling: selling(snapshot)?,
    })
}

/// The connections that sell.
pub(crate) fn selling(snapshot: &mut dyn Snapshot) -> Result<BTreeSet<String>, Fault> {
    let enabled = "select name from connections where enabled = 1";
    Ok(collect(snapshot, enabled, &[], |row| row.text(0).map(str::to_owned))?.into_iter().collect())
}
