//! eSIMs: what installs them, and what they are called.

use super::{paging, refusal};
use crate::lenient::text;
use crate::simulator::shop::{EsimLife, Shop, ShopEsim};
use crate::simulator::wire::{Reply, Request};
use domain::time::Timestamp;
use serde_json::{Map, Value, json};

/// An eSIM without bundles that is on no phone leaves the account; how soon is not published.
const LEAVES_AFTER_MS: i64 = 60_000;

/// What installs an eSIM.
pub(super) fn installs(esim: &ShopEsim) -> Map<String, Value> {
    let profile = &esim.profile;
    let mut installs = Map::new();
    installs.insert("iccid".to_owned(), profile.iccid.clone().into());
    installs.insert("matchingId".to_owned(), profile.matching_id.clone().into());
    installs.insert("smdpAddress".to_owned(), profile.smdp_address.clone().into());
    installs
}

/// The same with all that is known of it.
pub(super) fn details(esim: &ShopEsim, request: &Request, since: impl Fn(Timestamp) -> Value) -> Map<String, Value> {
    let mut details = installs(esim);
    let is_installed = !matches!(esim.life, EsimLife::Released);
    let installed_at = esim.activated_at.unwrap_or(esim.changed_at);
    let code = &esim.profile.activation_code;
    let text = |text: &Option<String>| Value::from(text.clone().unwrap_or_default());
    details.insert("profileStatus".to_owned(), if is_installed { "Installed" } else { "Released" }.into());
    details.insert("pin".to_owned(), text(&esim.profile.pin));
    details.insert("puk".to_owned(), text(&esim.profile.puk));
    let installed_at = if is_installed { since(installed_at) } else { Value::Null };
    details.insert("firstInstalledDateTime".to_owned(), installed_at);
    if request.parameter("additionalFields").contains("appleInstallUrl") {
        let code: String = form_urlencoded::byte_serialize(code.as_bytes()).collect();
        let url = format!("https://esimsetup.apple.com/esim_qrcode_provisioning?carddata={code}");
        details.insert("appleInstallUrl".to_owned(), url.into());
    }
    details
}

/// The eSIM with this ICCID, if the account may know of it.
pub(super) fn ours(shop: &Shop, now: Timestamp, iccid: &str) -> Result<ShopEsim, Reply> {
    let esim = shop.esim_by_iccid(iccid).filter(|esim| esim.sale.is_ready(now));
    let has_left = |esim: &ShopEsim| {
        let is_bare = esim.life == EsimLife::Cancelled && esim.activated_at.is_none();
        is_bare && now.since(esim.changed_at) >= LEAVES_AFTER_MS
    };
    esim.filter(|esim| !has_left(esim)).ok_or_else(|| refusal(403, "eSIM is not accessible by the user"))
}

/// What installs the eSIMs of orders, of uses of the inventory, or of single assignments.
pub(super) fn install_details(
    shop: &Shop,
    now: Timestamp,
    request: &Request,
    references: &[String],
) -> Result<Reply, Reply> {
    let mut esims = Vec::new();
    for reference in references {
        let whole = shop.sales_of(reference);
        let (of_order, index) = reference.rsplit_once('-').unwrap_or_default();
        let (sales, index) = match whole.is_empty() {
            true => (shop.sales_of(of_order), index.parse::<usize>().ok()),
            false => (whole, None),
        };
        if sales.is_empty() {
            return Err(refusal(400, "reference not found"));
        }
        if sales.iter().any(|sale| sale.added_to.is_none() && !sale.is_ready(now)) {
            return Err(refusal(503, "Order is being processed").with("retry-after", "5"));
        }
        let all = sales.iter().flat_map(|sale| match sale.added_to {
            Some(number) => shop.esim(number).into_iter().collect(),
            None => shop.esims(sale),
        });
        esims.extend(all.enumerate().filter(|(at, _)| index.is_none_or(|index| index == *at)).map(|(_, esim)| esim));
    }
    let each: Vec<Value> =
        esims.iter().map(|esim| details(esim, request, |time| time.to_string().into()).into()).collect();
    let accept = request.header("accept");
    if accept.contains("application/zip") {
        return Err(refusal(400, "this simulator draws no QR codes"));
    }
    if accept.contains("application/json") {
        let body = if each.len() == 1 { each.first().cloned().unwrap_or_default() } else { each.into() };
        return Ok(Reply::json(200, &body));
    }
    // The names of the columns are not published: these are those of the fields.
    let names = ["iccid", "matchingId", "smdpAddress", "profileStatus", "pin", "puk", "firstInstalledDateTime"];
    let mut table = format!("{}\r\n", names.join(","));
    for esim in &each {
        let cells = names.map(|name| text(esim, name).unwrap_or_default());
        table = format!("{table}{}\r\n", cells.join(","));
    }
    Ok(Reply::text(200, "text/csv", &table))
}

pub(super) fn esims(shop: &Shop, now: Timestamp, request: &Request) -> Reply {
    let (page, size) = paging(request, "perPage", 10);
    let (by, wanted) = (request.parameter("filterBy"), request.parameter("filter"));
    let sales = shop.sales();
    let all = sales.iter().filter(|sale| sale.is_ready(now)).flat_map(|sale| shop.esims(sale));
    let mut all: Vec<Value> = all
        .filter(|esim| ours(shop, now, &esim.profile.iccid).is_ok())
        .map(|esim| {
            let action = if esim.life == EsimLife::Cancelled { "Bundle Revoked" } else { "Bundle Applied" };
            json!({"iccid": esim.profile.iccid, "customerRef": shop.label(&esim), "lastAction": action,
                   "actionDate": esim.changed_at.to_string(), "physical": false,
                   "assignedDate": esim.sale.sold_at.to_string()})
        })
        .filter(|esim| by.is_empty() || wanted.is_empty() || text(esim, by).is_some_and(|it| it.contains(wanted)))
        .collect();
    if request.parameter("orderBy") == "iccid" {
        all.sort_by_key(|esim| text(esim, "iccid"));
    }
    if request.parameter("direction").eq_ignore_ascii_case("desc") {
        all.reverse();
    }
    let rows = all.len();
    let some: Vec<Value> = all.into_iter().skip((page - 1).saturating_mul(size)).take(size).collect();
    Reply::json(200, &json!({"esims": some, "pageCount": rows.div_ceil(size), "rows": rows}))
}

pub(super) fn location(shop: &Shop, esim: &ShopEsim) -> Reply {
    let plan = shop.plan(&esim.sale.plan).map(|listed| listed.plan);
    let network = plan.as_ref().and_then(|plan| plan.networks.first()).filter(|_| esim.activated_at.is_some());
    let Some(network) = network else { return refusal(400, "eSIM has no location") };
    Reply::json(
        200,
        &json!({"mobileNetworkCode": "", "networkName": network.operator, "networkBrandName": network.operator,
                "country": network.country, "lastSeen": esim.changed_at.to_string()}),
    )
}
