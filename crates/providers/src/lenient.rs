//! Reads what upstreams answer: a number may come as a text and a truth as 0 or 1; what is missing is `None`.

use domain::fulfilment::Profile;
use domain::offer::Cost;
use domain::time::Timestamp;
use serde_json::Value;

/// A field as text; numbers as they are written. `None` when it is missing, null or empty.
pub(crate) fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(as_text)
}

/// A value as text; numbers as they are written. `None` for null, lists, objects and empty texts.
pub(crate) fn as_text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(yes) => yes.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    (!text.is_empty()).then_some(text)
}

/// A field as a whole number. It is read exactly, however it is written (`1000`, `1000.0`, `1e3`), or not at all.
pub(crate) fn integer(value: &Value, name: &str) -> Option<i64> {
    whole(&text(value, name)?)
}

/// A decimal number that is whole.
fn whole(text: &str) -> Option<i64> {
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().ok().filter(|it| it.unsigned_abs() <= 18)?),
        None => (text, 0),
    };
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, digits.strip_prefix('+').unwrap_or(digits)),
    };
    let Cost { units, decimals, .. } = Cost::parse(digits, "").filter(|it| is_whole_of(digits, it.decimals))?;
    let scale = exponent.checked_sub(i32::try_from(decimals).ok()?)?;
    let power = 10_i64.checked_pow(scale.unsigned_abs())?;
    let units = if scale < 0 {
        if units.checked_rem(power)? != 0 {
            return None;
        }
        units.checked_div(power)?
    } else {
        units.checked_mul(power)?
    };
    units.checked_mul(sign)
}

/// Whether a cost of so many decimals has all those a text was written with.
fn is_whole_of(text: &str, decimals: u32) -> bool {
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction).trim_end_matches('0');
    u32::try_from(fraction.len()).is_ok_and(|written| written <= decimals)
}

/// A field as a truth: `true` in any case, or 1.
pub(crate) fn truth(value: &Value, name: &str) -> bool {
    text(value, name).is_some_and(|text| text.eq_ignore_ascii_case("true") || whole(&text) == Some(1))
}

/// The entries of a list; none when it is missing or no list. Where that would mean something, ask [`is_list`] first.
pub(crate) fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a list is there.
pub(crate) fn is_list(value: &Value, name: &str) -> bool {
    value.get(name).is_some_and(Value::is_array)
}

/// A list of texts, with an empty text for what is none, so that parallel lists stay parallel.
pub(crate) fn texts(value: &Value, name: &str) -> Vec<String> {
    list(value, name).iter().map(|text| as_text(text).unwrap_or_default()).collect()
}

/// Megabytes (1,048,576 bytes) of a decimal number of some unit; `None` for nothing, and for units nobody knows.
pub(crate) fn megabytes(amount: &str, unit: &str) -> Option<i64> {
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "mb" => 1,
        "gb" => 1_024,
        "tb" => 1_048_576,
        _ => return None,
    };
    let Cost { units, decimals, .. } = Cost::parse(amount, "")?;
    let megabytes = units.checked_mul(factor)?.checked_div(10_i64.checked_pow(decimals)?)?;
    (megabytes > 0).then_some(megabytes)
}

/// Whether a refusal of a purchase says in words that nothing was sold, where codes are not published. What it does not
/// say for sure is looked up.
pub(crate) fn says_nothing_was_sold(message: &str) -> bool {
    let message = message.to_lowercase();
    let is_unsure = ["processing", "assigned", "deducted"].iter().any(|word| message.contains(word));
    let phrases = [
        "insufficient balance",
        "insufficient fund",
        "insufficient inventory",
        "insufficient stock",
        "balance is not enough",
        "out of stock",
        "sold out",
        "plan does not exist",
        "plan not found",
        "no such plan",
        "not on sale",
        "sign error",
        "signature",
        "nonce has been used",
        "number is invalid",
        "cannot be topped up",
    ];
    !is_unsure && phrases.iter().any(|phrase| message.contains(phrase))
}

/// Bytes of a decimal number of megabytes.
pub(crate) fn bytes_of_megabytes(text: &str) -> Option<i64> {
    const MEGABYTE: i128 = 1_048_576;
    let cost = Cost::parse(text, "")?;
    let scale = 10_i128.checked_pow(cost.decimals)?;
    i64::try_from(i128::from(cost.units).checked_mul(MEGABYTE)?.checked_div(scale)?).ok()
}

/// Reads `LPA:1$host$matching-id` (SGP.22), with or without a scheme before the host, into a profile that has nothing
/// else yet.
pub(crate) fn profile(activation_code: &str) -> Option<Profile> {
    let code = activation_code.trim();
    let bare = code.split_at_checked(4).filter(|(prefix, _)| prefix.eq_ignore_ascii_case("LPA:"));
    let parts: Vec<&str> = bare.map_or(code, |(_, bare)| bare).split('$').collect();
    let ["1", smdp, matching, rest @ ..] = parts.as_slice() else { return None };
    let smdp = smdp.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    if smdp.is_empty() {
        return None;
    }
    let mut code = format!("LPA:1${smdp}${matching}");
    for part in rest {
        code = format!("{code}${part}");
    }
    Some(Profile {
        smdp_address: smdp.to_owned(),
        matching_id: (*matching).to_owned(),
        activation_code: code,
        ..Profile::default()
    })
}

/// Reads `YYYY-MM-DD HH:MM[:SS]` at so many hours east of Greenwich.
pub(crate) fn local_time(text: &str, hours_east: i8) -> Option<Timestamp> {
    let text = if text.len() == "YYYY-MM-DD HH:MM".len() { format!("{text}:00") } else { text.to_owned() };
    let time = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", &text).ok()?;
    let time = jiff::tz::Offset::constant(hours_east).to_timestamp(time).ok()?;
    Some(Timestamp::from_millis(time.as_millisecond()))
}

/// Writes the same with seconds.
pub(crate) fn local_text(time: Timestamp, hours_east: i8) -> String {
    let time = jiff::Timestamp::from_millisecond(time.millis()).unwrap_or_default();
    jiff::tz::Offset::constant(hours_east).to_datetime(time).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_read_exactly_or_not_at_all() {
        for (text, expected) in [
            (r#""12""#, Some(12)),
            ("12", Some(12)),
            ("-12", Some(-12)),
            ("1.0", Some(1)),
            (r#""1.000000000000000""#, Some(1)),
            ("1e3", Some(1_000)),
            ("1E3", Some(1_000)),
            (r#""1e3""#, Some(1_000)),
            ("1.5e3", Some(1_500)),
            ("1.5E+3", Some(1_500)),
            ("25e-1", None),
            ("250e-1", Some(25)),
            ("0.0", Some(0)),
            ("1.9", None),
            ("1.0000000000001", None),
            (r#""1.5""#, None),
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("1e19", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            (r#""0x10""#, None),
            (r#""1e""#, None),
            (r#""--1""#, None),
            (r#""1,5""#, None),
            ("null", None),
        ] {
            let value: Value = serde_json::from_str(&format!(r#"{{"n":{text}}}"#)).unwrap();
            assert_eq!(integer(&value, "n"), expected, "{text}");
        }
        for (text, expected) in [("true", true), (r#""True""#, true), ("1.0", true), ("0", false), ("2", false)] {
            let value: Value = serde_json::from_str(&format!(r#"{{"n":{text}}}"#)).unwrap();
            assert_eq!(truth(&value, "n"), expected, "{text}");
        }
        // Amounts with an exponent are not read at all.
        assert_eq!((megabytes("1e3", "MB"), bytes_of_megabytes("1e3")), (None, None));
    }

    #[test]
    fn only_a_reason_to_sell_nothing_says_so() {
        for message in ["Insufficient balance", "The data plan does not exist", "Out of stock"] {
            assert!(says_nothing_was_sold(message), "{message}");
        }
        for message in ["System error", "processing", "balance deducted", "not yet assigned", "Not Found", ""] {
            assert!(!says_nothing_was_sold(message), "{message}");
        }
    }

    #[test]
    fn an_activation_code_is_read_in_every_spelling() {
        let read =
            |code| profile(code).map(|profile| (profile.smdp_address, profile.matching_id, profile.activation_code));
        let expected = Some(("rsp.test".to_owned(), "A-1".to_owned(), "LPA:1$rsp.test$A-1".to_owned()));
        for code in ["LPA:1$rsp.test$A-1", "1$rsp.test$A-1", " LPA:1$https://rsp.test/$A-1"] {
            assert_eq!(read(code), expected, "{code}");
        }
        assert_eq!(read("LPA:1$rsp.test$A-1$$1").unwrap().2, "LPA:1$rsp.test$A-1$$1");
        for code in ["", "LPA:2$a$b", "LPA:1$$b", "https://rsp.test"] {
            assert_eq!(read(code), None, "{code}");
        }
    }

    #[test]
    fn a_time_in_shanghai_is_eight_hours_ahead() {
        let time = local_time("2026-01-02 03:04:05", 8).unwrap();
        assert_eq!(time.to_string(), "2026-01-01T19:04:05.000Z");
        assert_eq!(local_time("2026-01-02 03:04", 8), Some(time.plus_millis(-5_000)));
        assert_eq!(local_text(time, 8), "2026-01-02 03:04:05");
        assert_eq!(local_time("soon", 8), None);
    }
}
