//! Rates: what the currencies of costs are worth in those of prices.

use super::{CURSOR, LIMIT};
use crate::answer::Answer;
use crate::call::{OperatorCall, cursor_text};
use crate::fields::{Field, Kind, optional, required};
use crate::json::{Decimal, Time};
use crate::problem::Problem;
use domain::money::Currency;
use domain::offer::Cost;
use domain::pricing::{Rate, RateFault};
use domain::time::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use store::rate::{self, Behind, RateRefusal};
use uuid::Uuid;

/// A rate.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Rate")]
pub struct RateView {
    /// The currency of costs.
    from: String,
    /// The currency of prices.
    to: &'static str,
    /// What one of the one costs in the other.
    rate: Decimal,
    /// It holds from then on, until a newer one does.
    valid_from: Time,
}

impl RateView {
    /// The view of a rate.
    #[must_use]
    pub fn new(rate: &Rate) -> Self {
        Self {
            from: rate.from.clone(),
            to: rate.to.code(),
            rate: Decimal(Cost { units: rate.units, decimals: rate.decimals, currency: rate.to.code().to_owned() }),
            valid_from: Time(rate.valid_from),
        }
    }
}

/// `data` with a rate.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneRate {
    rate: RateView,
}

/// `data` of the list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateList {
    rates: Vec<RateView>,
    next_cursor: Option<String>,
}

/// The query of the list.
pub const QUERY: &[Field] = &[LIMIT, CURSOR];

/// Where a list goes on, in the form of all cursors: the moment and the two codes.
fn cursor(rate: &Rate) -> Uuid {
    let mut bytes = [0; 16];
    let codes = rate.from.bytes().take(3).chain(rate.to.code().bytes().take(3));
    let all = rate.valid_from.millis().to_be_bytes().into_iter().chain(codes);
    bytes.iter_mut().zip(all).for_each(|(place, byte)| *place = byte);
    Uuid::from_bytes(bytes)
}

fn behind(cursor: Uuid) -> Option<Behind> {
    let (at, codes) = cursor.as_bytes().split_first_chunk::<8>()?;
    let code = |from: usize| std::str::from_utf8(codes.get(from..from.checked_add(3)?)?).ok();
    Some((Timestamp::from_millis(i64::from_be_bytes(*at)), code(0)?.to_owned(), code(3)?.parse().ok()?))
}

/// `GET rates`, those that begin last first.
///
/// # Errors
/// A [`Problem`].
pub async fn list(call: OperatorCall) -> Result<Answer, Problem> {
    let malformed = || Problem::field("cursor", "malformed", "must be a nextCursor the API gave");
    let behind = call.cursor()?.map(|cursor| behind(cursor).ok_or_else(malformed)).transpose()?;
    let limit = call.limit();
    let mut found = call.platform.store.read(move |snapshot| rate::list(snapshot, behind.as_ref(), limit + 1)).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > most;
    found.truncate(most);
    let next_cursor = found.last().filter(|_| more).map(|last| cursor_text(cursor(last)));
    let data = RateList { rates: found.iter().map(RateView::new).collect(), next_cursor };
    Ok(Answer::json(200, "Rates", &data))
}

/// The body of a rate.
pub const BODY: &[Field] = &[
    required("from", Kind::Text(3, 3), "ISO 4217, the currency of costs."),
    required("to", Kind::Text(3, 3), "ISO 4217, the currency of prices."),
    required("rate", Kind::Decimal(8), "What one of the one costs in the other, with at most 8 decimals."),
    optional("validFrom", Kind::Time, "When it begins to hold; now by default. What has begun is never changed."),
];

/// `POST rates`: another rate holds from then on.
///
/// # Errors
/// A [`Problem`].
pub async fn set(call: OperatorCall) -> Result<Answer, Problem> {
    let body = &call.body;
    let to: Currency =
        body.parse("to").ok_or_else(|| Problem::field("to", "not_in_list", "is no ISO 4217 currency"))?;
    let text = body.decimal("rate").unwrap_or_default();
    let from = body.required_text("from").to_ascii_uppercase();
    let rate = Rate::parse(&text, &from, to, Timestamp::default())?;
    let valid_from = body.parse("validFrom");
    let act = call.act.clone();
    let set = call.platform.store.write(move |tx| rate::set(tx, &act, &rate, valid_from)).await?;
    Ok(Answer::json(201, "Rate set", &OneRate { rate: RateView::new(&set) }))
}

impl From<RateFault> for Problem {
    fn from(fault: RateFault) -> Self {
        match fault {
            RateFault::UnknownCurrency => Self::field("from", "not_in_list", "is no ISO 4217 currency"),
            RateFault::SameCurrency => Self::field("from", "not_allowed", "is the same currency, which needs no rate"),
            RateFault::NotANumber => Self::field("rate", "malformed", "must be a plain decimal number"),
            RateFault::TooManyDecimals => Self::field("rate", "too_many_decimals", "has more than 8 decimals"),
            RateFault::NotPositive => Self::field("rate", "out_of_range", "must be more than zero"),
            RateFault::TooLarge => Self::field("rate", "out_of_range", "is absurdly large"),
        }
    }
}

impl From<RateRefusal> for Problem {
    fn from(refusal: RateRefusal) -> Self {
        match refusal {
            RateRefusal::Past => Self::field("validFrom", "out_of_range", "is over: what a rate was is never changed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_where_the_list_goes_on() {
        let rate = Rate::parse("1.1", "EUR", Currency::USD, Timestamp::from_millis(1_795_000_000_000)).unwrap();
        assert_eq!(behind(cursor(&rate)), Some((rate.valid_from, rate.from.clone(), rate.to)));
        assert_eq!(behind(Uuid::max()), None);
    }
}
