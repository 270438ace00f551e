//! The sandbox as the platform sees it: an upstream like any other, with every way a real one can
//! fail behind the name of a plan.

use super::Sandbox;
use super::book::Placed;
use super::error::SandboxError;
use super::profile_state::ProfileState;
use super::special::{Behaviour, UNKNOWN};
use super::world::{Change, Life as SandboxLife, StoredSale};
use super::{CataloguePlan, catalogue};
use crate::callback::{Callback, CallbackRefusal, Notice};
use crate::offer::{Balance, Life, Usage};
use crate::{AddOn, Answer, Heard, NotRead, Purchase, Reading, RefundEffect, Services, SoldEsim, Support, Upstream};
use domain::esim::ProfileStatus;
use domain::fulfilment::{Cancellation, Capabilities, LookUp, NotYet, Outcome, Profile};
use domain::offer::{Cost, Data, Offer};
use domain::plan::Network;
use domain::time::Timestamp;
use serde_json::json;

const QUANTITY_PER_CALL: u32 = 100;
const SLOW_MS: i64 = 30_000;
const LATE_MS: i64 = 5_000;
/// Longer than [`LATE_MS`]: only then "not found" can be believed.
const SETTLE_AFTER_MS: i64 = 7_000;
const BUSY_TIMES: u32 = 2;
const BUSY_RETRY_MS: i64 = 1_000;
const CONNECTION_LOST: &str = "connection closed";
const NOTHING_HEARD: &str = "connection closed without an answer";

const NOTHING_IS_ADDED: &str = "the sandbox adds no data to its eSIMs";
const NO_MONEY: &str = "the sandbox takes no money";
const NO_CALLBACKS: &str = "the sandbox tells nothing by itself";

fn unsupported<T>(why: &'static str) -> Heard<Reading<T>> {
    Heard::new(Err(NotRead::Unsupported(why)), "")
}

fn offer(plan: &CataloguePlan) -> Offer {
    let data = match (plan.unlimited, plan.daily_data_mb, plan.data_mb) {
        (false, Some(daily), _) => Data::Daily(daily),
        (false, None, Some(total)) => Data::Total(total),
        _ => Data::Unlimited,
    };
    let networks = plan.networks.iter().map(|network| Network {
        country: network.country.to_owned(),
        operator: network.operator.to_owned(),
        technology: network.technology.to_owned(),
    });
    let mut countries: Vec<String> = plan.countries.iter().map(|country| (*country).to_owned()).collect();
    countries.sort_unstable();
    Offer {
        upstream_plan_id: plan.upstream_plan_id.clone(),
        name: plan.name.clone(),
        cost: Cost { units: plan.price_minor, decimals: 2, currency: "USD".to_owned() },
        countries,
        data,
        validity_days: plan.validity_days,
        networks: networks.collect(),
        speed: Some(plan.speed.to_owned()),
        activation: plan.activation.parse().ok(),
        add_on_supported: plan.top_up_supported,
        apn: None,
        remark: plan.fair_use.clone(),
    }
}

impl Upstream for Sandbox {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            quantity_per_call: QUANTITY_PER_CALL,
            idempotent_create: false,
            look_up_by_reference: true,
            cancel: true,
            settle_after_ms: SETTLE_AFTER_MS,
        }
    }

    fn place(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, Outcome> {
        Box::pin(self.sell(now, purchase))
    }

    fn look_up(&self, now: Timestamp, purchase: Purchase) -> Answer<'_, LookUp> {
        Box::pin(self.what_became_of(now, purchase))
    }

    fn cancel(&self, now: Timestamp, esim: SoldEsim) -> Answer<'_, Cancellation> {
        Box::pin(self.take_back(now, esim.reference, esim.iccid))
    }

    fn services(&self) -> Services {
        Services {
            cancel: Support::Yes,
            refund_effect: RefundEffect::AtOnce,
            usage: Support::Yes,
            add_on: Support::No(NOTHING_IS_ADDED),
            balance: Support::No(NO_MONEY),
            callbacks: Support::No(NO_CALLBACKS),
            calls_per_second: None,
        }
    }

    fn offers(&self, _now: Timestamp) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(async { Heard::new(Ok(catalogue().iter().map(offer).collect()), "") })
    }

    fn usage(&self, _now: Timestamp, esim: SoldEsim) -> Answer<'_, Reading<Usage>> {
        Box::pin(self.used(esim))
    }

    fn add_ons(&self, _now: Timestamp, _esim: SoldEsim) -> Answer<'_, Reading<Vec<Offer>>> {
        Box::pin(async { unsupported(NOTHING_IS_ADDED) })
    }

    fn add(&self, _now: Timestamp, _add_on: AddOn) -> Answer<'_, Outcome> {
        Box::pin(async { refused("unsupported", NOTHING_IS_ADDED) })
    }

    fn balance(&self, _now: Timestamp) -> Answer<'_, Reading<Balance>> {
        Box::pin(async { unsupported(NO_MONEY) })
    }

    fn read_callback(&self, _now: Timestamp, _callback: &Callback) -> Result<Notice, CallbackRefusal> {
        Err(CallbackRefusal::Unsupported(NO_CALLBACKS))
    }
}

impl Sandbox {
    async fn sell(&self, now: Timestamp, purchase: Purchase) -> Heard<Outcome> {
        if !(1..=QUANTITY_PER_CALL).contains(&purchase.quantity) {
            return refused("invalid_quantity", "a purchase asks for 1 to 100 eSIMs");
        }
        let behaviour = match Behaviour::of(&purchase.upstream_plan_id) {
            None => return refused("unknown_plan", "the sandbox has no such plan"),
            Some(Behaviour::Refuses) => {
                return refused("refused", "the sandbox refuses this plan for good");
            }
            Some(Behaviour::Unknown) => return connection_lost(),
            Some(behaviour) => behaviour,
        };
        let sale = self.sale_to_be(now, behaviour, purchase);
        let turn_away = (behaviour == Behaviour::Busy).then_some(BUSY_TIMES);
        match self.shared.book.place(sale.clone(), turn_away).await {
            Ok(Placed::Sold { .. }) if matches!(behaviour, Behaviour::AnswerLost | Behaviour::LateSale) => {
                connection_lost()
            }
            Ok(Placed::Sold { first_profile }) => self.sold(now, StoredSale { first_profile, ..sale }),
            Ok(Placed::Duplicate) => sold_before(),
            Ok(Placed::Busy) => try_later(Some(now.plus_millis(BUSY_RETRY_MS)), "busy".to_owned()),
            Err(SandboxError::Uncertain(cause)) => {
                Heard { order: None, raw: NOTHING_HEARD.to_owned(), meaning: Outcome::Unknown { reason: cause } }
            }
            Err(error) => try_later(None, error.to_string()),
        }
    }

    fn sale_to_be(&self, now: Timestamp, behaviour: Behaviour, purchase: Purchase) -> StoredSale {
        let sold_at = if behaviour == Behaviour::LateSale { now.plus_millis(LATE_MS) } else { now };
        let ready_at = match behaviour {
            Behaviour::LateSale => sold_at,
            Behaviour::Slow => now.plus_millis(SLOW_MS),
            _ => now.plus_millis(self.shared.delay_ms),
        };
        let missing = u32::from(behaviour == Behaviour::Partial);
        StoredSale {
            first_profile: 0,
            reference: purchase.reference,
            upstream_plan_id: purchase.upstream_plan_id,
            quantity: purchase.quantity.saturating_sub(missing),
            sold_at,
            ready_at,
        }
    }

    fn sold(&self, now: Timestamp, sale: StoredSale) -> Heard<Outcome> {
        match self.delivery(now, &sale) {
            Some(profiles) => Heard {
                order: None,
                raw: delivered_raw(&sale.reference, &profiles),
                meaning: Outcome::Done { profiles },
            },
            None => Heard {
                order: None,
                raw: provisioning_raw(&sale),
                meaning: Outcome::NotYet(NotYet::Provisioning { poll_at: sale.ready_at }),
            },
        }
    }

    async fn what_became_of(&self, now: Timestamp, purchase: Purchase) -> Heard<LookUp> {
        if purchase.upstream_plan_id == UNKNOWN {
            return cannot_tell("can neither confirm nor deny");
        }
        let found = self.shared.book.find(purchase.reference).await;
        let sale = match found {
            Ok(sale) => sale.filter(|sale| sale.is_sold(now)),
            Err(error) => {
                let reason = error.to_string();
                return Heard {
                    order: None,
                    raw: json!({"error": reason}).to_string(),
                    meaning: LookUp::NoAnswer { reason },
                };
            }
        };
        let Some(sale) = sale else {
            return Heard { order: None, raw: json!({"status": "not_found"}).to_string(), meaning: LookUp::NotFound };
        };
        match self.delivery(now, &sale) {
            Some(profiles) => Heard {
                order: None,
                raw: delivered_raw(&sale.reference, &profiles),
                meaning: LookUp::Delivered { profiles },
            },
            None => Heard {
                order: None,
                raw: provisioning_raw(&sale),
                meaning: LookUp::Provisioning { poll_at: sale.ready_at },
            },
        }
    }

    /// The profiles of a sale, once they are ready.
    fn delivery(&self, now: Timestamp, sale: &StoredSale) -> Option<Vec<Profile>> {
        let profiles = self.shared.profiles;
        (now >= sale.ready_at).then(|| sale.numbers().map(|number| profiles.profile(number, sale.sold_at)).collect())
    }

    /// What an operator's hand did to a profile, as if a traveller had done it.
    async fn used(&self, esim: SoldEsim) -> Heard<Reading<Usage>> {
        let life = match self.shared.profiles.number(&esim.iccid) {
            None => Ok(None),
            Some(number) => self.shared.book.life(number).await,
        };
        let life = match life {
            Ok(life) => life.filter(|life| life.sale.reference == esim.reference),
            Err(error) => {
                let reason = error.to_string();
                let raw = json!({"error": reason}).to_string();
                return Heard::new(Err(NotRead::TryLater { retry_at: None, reason }), raw);
            }
        };
        let Some(life) = life else {
            let message = "the reference has no eSIM with this ICCID".to_owned();
            let raw = json!({"error": "not_found", "message": message}).to_string();
            return Heard::new(Err(NotRead::Refused { code: "not_found".to_owned(), message }), raw);
        };
        let raw = json!({"state": life.state.as_str(), "iccid": esim.iccid}).to_string();
        Heard::new(Ok(usage(&life)), raw)
    }

    async fn take_back(&self, now: Timestamp, reference: String, iccid: String) -> Heard<Cancellation> {
        let Some(number) = self.shared.profiles.number(&iccid) else {
            return not_taken_back("the reference has no eSIM with this ICCID");
        };
        let change = self.shared.book.cancel(reference, number, now).await;
        match change {
            Ok(Change::Done) => {
                let raw = json!({"status": "cancelled", "iccid": iccid}).to_string();
                Heard { order: None, raw, meaning: Cancellation::Cancelled }
            }
            Ok(Change::NotFound) => not_taken_back("the reference has no eSIM with this ICCID"),
            Ok(Change::Kept) => not_taken_back("eSIMs of this plan are not taken back"),
            Ok(Change::Impossible { from: ProfileState::Expired }) => not_taken_back("the eSIM has expired"),
            Ok(Change::Impossible { from: ProfileState::Used }) => not_taken_back("the eSIM has been used"),
            Ok(Change::Impossible { .. }) => not_taken_back("the eSIM is installed"),
            Err(error) => {
                let reason = error.to_string();
                Heard {
                    order: None,
                    raw: json!({"error": reason}).to_string(),
                    meaning: Cancellation::TryLater { reason },
                }
            }
        }
    }
}

/// A used profile has used a tenth of its data, or this much where there is no limit.
const USED_OF_UNLIMITED: i64 = 300 * MEGABYTE;
const MEGABYTE: i64 = 1_048_576;
const DAY_MS: i64 = 86_400_000;

fn usage(life: &SandboxLife) -> Usage {
    let plan = catalogue().into_iter().find(|plan| plan.upstream_plan_id == life.sale.upstream_plan_id);
    let total = plan.as_ref().and_then(|plan| plan.data_mb).map(|data_mb| data_mb.saturating_mul(MEGABYTE));
    let days = plan.map_or(0, |plan| plan.validity_days);
    let (used_bytes, state, profile) = match life.state {
        ProfileState::Released => (Some(0), Life::NotActive, Some(ProfileStatus::Released)),
        ProfileState::Installed => (Some(0), Life::NotActive, Some(ProfileStatus::Installed)),
        ProfileState::Used => {
            let used = total.map_or(USED_OF_UNLIMITED, |total| total.div_euclid(10));
            (Some(used), Life::Active, Some(ProfileStatus::Enabled))
        }
        // What it was before, and what was used then, the book does not keep.
        ProfileState::Expired => (None, Life::Expired, None),
        ProfileState::Cancelled => (None, Life::Ended, None),
    };
    let in_use_since = life.since.filter(|_| life.state == ProfileState::Used);
    let expired_at = life.since.filter(|_| life.state == ProfileState::Expired);
    let end = in_use_since.map(|since| since.plus_millis(days.saturating_mul(DAY_MS)));
    Usage {
        used_bytes,
        total_bytes: total,
        as_of: None,
        activated_at: in_use_since,
        expires_at: expired_at.or(end),
        life: state,
        profile,
        fresh_for_ms: 0,
    }
}

fn refused(code: &str, message: &str) -> Heard<Outcome> {
    Heard {
        order: None,
        raw: json!({"error": code, "message": message}).to_string(),
        meaning: Outcome::Refused { code: code.to_owned(), message: message.to_owned() },
    }
}

/// It was sold, and whoever asks does not know it, say after a restored backup: what came of it is to be looked up, for
/// a refusal would give the money back and leave the sale.
fn sold_before() -> Heard<Outcome> {
    let Heard { raw, .. } = refused("duplicate_reference", "this reference was sold before");
    Heard {
        order: None,
        raw,
        meaning: Outcome::Unknown { reason: "duplicate_reference: this reference was sold before".to_owned() },
    }
}

fn connection_lost() -> Heard<Outcome> {
    Heard {
        order: None,
        raw: NOTHING_HEARD.to_owned(),
        meaning: Outcome::Unknown { reason: CONNECTION_LOST.to_owned() },
    }
}

fn try_later(retry_at: Option<Timestamp>, reason: String) -> Heard<Outcome> {
    Heard {
        order: None,
        raw: json!({"error": "try_later", "message": reason}).to_string(),
        meaning: Outcome::NotYet(NotYet::TryLater { retry_at, reason }),
    }
}

fn cannot_tell(reason: &str) -> Heard<LookUp> {
    Heard {
        order: None,
        raw: json!({"error": "cannot_tell", "message": reason}).to_string(),
        meaning: LookUp::CannotTell { reason: reason.to_owned() },
    }
}

fn not_taken_back(reason: &str) -> Heard<Cancellation> {
    Heard {
        order: None,
        raw: json!({"error": "not_cancelled", "message": reason}).to_string(),
        meaning: Cancellation::Refused { reason: reason.to_owned() },
    }
}

/// Without activation codes and PINs: whoever reads a raw answer must not be able to install.
fn delivered_raw(reference: &str, profiles: &[Profile]) -> String {
    let iccids: Vec<&str> = profiles.iter().map(|profile| profile.iccid.as_str()).collect();
    json!({"status": "delivered", "reference": reference, "iccids": iccids}).to_string()
}

fn provisioning_raw(sale: &StoredSale) -> String {
    json!({"status": "provisioning", "reference": sale.reference, "readyAt": sale.ready_at.to_string()}).to_string()
}
