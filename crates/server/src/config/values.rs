//! What a single text may mean: addresses, amounts, bank numbers. Each refusal names the form that is expected.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hyper::Uri;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tracing_subscriber::EnvFilter;

fn parse_socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` must be an address and a port, such as 127.0.0.1:8080 or [::1]:8080"))
}

pub(super) fn socket<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse_socket(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

pub(super) fn optional_socket<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { parse_socket(&text).map(Some).map_err(D::Error::custom) }
}

pub(super) fn folder<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.as_os_str().is_empty() { Err(D::Error::custom("is empty; name a folder")) } else { Ok(path) }
}

pub(super) fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match EnvFilter::try_new(&text) {
        Ok(_) if !text.trim().is_empty() => Ok(text),
        _ => Err(D::Error::custom(format!(
            "`{text}` must be a level such as info, or a filter such as info,server=debug"
        ))),
    }
}

pub(super) fn currency_code<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(text)
    } else {
        Err(D::Error::custom(format!("`{text}` must be three capitals of ISO 4217, such as USD")))
    }
}

pub(super) fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match decimal_units(&text) {
        Some(units) if units > 0 => Ok(text),
        _ => Err(D::Error::custom(format!(
            "`{text}` must be an amount above 0, such as \"10\" or \"12.50\", with at most 4 decimals"
        ))),
    }
}

/// Exact ten-thousandths (no currency has more decimals), to compare amounts before their currency is known.
pub(super) fn decimal_units(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole, 12) || !digits(decimals, 4) {
        return None;
    }
    format!("{whole}{decimals:0<4}").parse().ok()
}

/// Scheme, host and port of an absolute address, and nothing else, or the reason why not.
pub(super) fn optional_origin<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.strip_suffix('/').unwrap_or(&text);
    let uri: Option<Uri> = bare.parse().ok().filter(|_| !bare.contains(['#', '?', '@']));
    let well_formed = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.path() == "/"
            && bare.matches('/').count() == 2
    });
    if well_formed {
        Ok(Some(bare.to_owned()))
    } else {
        // Not repeated: an address with user info would put a password in the logs.
        Err(D::Error::custom("must be scheme, host and port only, such as https://esim.example.com"))
    }
}

pub(super) fn is_loopback_origin(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    uri.as_ref().and_then(Uri::host).is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.ends_with(".localhost")
            || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    })
}

/// ISO 13616: country and check digits moved to the end, letters as 10 to 35, the whole leaves 1 modulo 97.
pub(super) fn iban_is_valid(text: &str) -> bool {
    let compact: String = text.chars().filter(|char| *char != ' ').collect();
    if !(15..=34).contains(&compact.len()) || !compact.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
        return false;
    }
    let (head, body) = compact.split_at(4);
    let (country, check) = head.split_at(2);
    let shape = country.bytes().all(|b| b.is_ascii_uppercase()) && check.bytes().all(|b| b.is_ascii_digit());
    let remainder = body.chars().chain(head.chars()).filter_map(|char| char.to_digit(36)).fold(0, |rest, value| {
        let shift = if value < 10 { 10 } else { 100 };
        (rest * shift + value) % 97
    });
    // 00, 01 and 99 leave 1 for some numbers too, but the standard never gives them out.
    shape && remainder == 1 && matches!(check.parse::<u8>(), Ok(2..=98))
}

pub(super) fn bic_is_valid(text: &str) -> bool {
    matches!(text.len(), 8 | 11) && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}
