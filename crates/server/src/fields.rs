//! What a body or a query may hold, declared once: the same declaration checks requests, all faults
//! at once, and writes the schema in the OpenAPI document.

use crate::problem::FieldFault;
use domain::money::{Currency, Money, MoneyError};
use domain::tenant::{SubdomainFault, check_subdomain};
use domain::time::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use uuid::Uuid;

/// The form of a value.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text of so many characters.
    Text(usize, usize),
    /// An e-mail address.
    Email,
    /// A new password: 10 to 128 characters, none of the common ones.
    NewPassword,
    /// A password to be compared.
    Password,
    /// A storefront's name.
    Subdomain,
    /// A telephone number.
    Phone,
    /// A whole number in a range.
    Integer(i64, i64),
    /// An amount of zero or more.
    Money,
    /// An amount above zero.
    PositiveMoney,
    /// An amount of either sign, not zero.
    SignedMoney,
    /// A plain decimal number, zero or more, with at most so many decimals; read by its text.
    Decimal(usize),
    /// Yes or no.
    Flag,
    /// One word of a vocabulary.
    Word(fn() -> Vec<&'static str>),
    /// A UUID.
    Id,
    /// An absolute `https` address without user information; `http` for loopback hosts where allowed.
    Url {
        /// Whether `http` is fine for loopback hosts.
        loopback_http: bool,
    },
    /// An RFC 3339 time.
    Time,
    /// An ISO 3166-1 alpha-2 code.
    Country,
    /// A list of so many.
    List(&'static Kind, usize, usize),
    /// An object.
    Object(&'static [Field]),
}

/// One field of a body, or one parameter of a query.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name on the wire.
    pub name: &'static str,
    /// Its form.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// What it means, for the API documentation.
    pub description: &'static str,
}

/// A field that must be there.
#[must_use]
pub const fn required(name: &'static str, kind: Kind, description: &'static str) -> Field {
    Field { name, kind, required: true, description }
}

/// A field that may be left out; `null` and `""` mean that.
#[must_use]
pub const fn optional(name: &'static str, kind: Kind, description: &'static str) -> Field {
    Field { name, kind, required: false, description }
}

/// Checked fields. What was left out is not in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values(Map<String, Value>);

impl Values {
    /// A text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A text of its own.
    #[must_use]
    pub fn string(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// A required text; the check has seen it.
    #[must_use]
    pub fn required_text(&self, name: &str) -> String {
        self.string(name).unwrap_or_default()
    }

    /// A whole number.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    /// Yes or no.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(Value::as_bool)
    }

    /// An amount in the currency the check was made with.
    #[must_use]
    pub fn money(&self, name: &str, currency: Currency) -> Option<Money> {
        match self.0.get(name) {
            Some(Value::Number(number)) => Money::parse(&number.to_string(), currency).ok(),
            _ => None,
        }
    }

    /// The text of a decimal number.
    #[must_use]
    pub fn decimal(&self, name: &str) -> Option<String> {
        match self.0.get(name) {
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Anything that is read from its text: ids, words, times.
    #[must_use]
    pub fn parse<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).and_then(|text| text.parse().ok())
    }

    /// An object.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<Values> {
        self.0.get(name).and_then(Value::as_object).cloned().map(Values)
    }

    /// The objects of a list.
    pub fn objects(&self, name: &str) -> impl Iterator<Item = Values> {
        self.list(name).iter().filter_map(|value| value.as_object().cloned().map(Values))
    }

    /// The texts of a list.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.list(name).iter().filter_map(Value::as_str)
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Whether the field is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A text that is the same for the same content, in whatever order and spelling it was sent.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        write_canonical_object(&self.0, &mut text);
        text
    }
}

fn write_canonical_object(map: &Map<String, Value>, text: &mut String) {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    text.push('{');
    for (name, value) in entries {
        // Names are declared ones: nothing in them needs escaping.
        text.push('"');
        text.push_str(name);
        text.push('"');
        write_canonical(value, text);
    }
    text.push('}');
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => write_canonical_object(map, text),
        Value::Array(values) => {
            text.push('[');
            for value in values {
                write_canonical(value, text);
                text.push(',');
            }
            text.push(']');
        }
        // 4.5, 4.50 and 45e-1 are one number.
        Value::Number(number) => match Money::parse(&number.to_string(), Currency::USD) {
            Ok(money) => text.push_str(&money.to_string()),
            Err(_) => text.push_str(&number.to_string()),
        },
        other => text.push_str(&other.to_string()),
    }
}

struct Check {
    currency: Currency,
    faults: Vec<FieldFault>,
}

/// Checks a body against its declaration. Amounts may have the decimals of `currency`.
///
/// # Errors
/// All faults.
pub fn check(fields: &[Field], body: Value, currency: Currency) -> Result<Values, Vec<FieldFault>> {
    let mut check = Check { currency, faults: Vec::new() };
    let Value::Object(map) = body else {
        let fault = fault("body", "wrong_type", "must be a JSON object");
        return Err(vec![fault]);
    };
    let values = check.object("", fields, map);
    if check.faults.is_empty() { Ok(Values(values)) } else { Err(check.faults) }
}

/// Checks a query string against its declaration. Unknown parameters are faults, unless they are ignored.
///
/// # Errors
/// All faults.
pub fn check_query(
    fields: &[Field],
    query: &str,
    currency: Currency,
    ignore_unknown: bool,
) -> Result<Values, Vec<FieldFault>> {
    let mut check = Check { currency, faults: Vec::new() };
    let mut map = Map::new();
    for (name, text) in form_urlencoded::parse(query.as_bytes()) {
        if ignore_unknown && !fields.iter().any(|field| field.name == name) {
            continue;
        }
        let value = match fields.iter().find(|field| field.name == name).map(|field| field.kind) {
            // A number in a query is a text that must read as one.
            Some(Kind::Integer(..) | Kind::Decimal(_) | Kind::Money | Kind::PositiveMoney | Kind::SignedMoney)
                if !text.is_empty() =>
            {
                match text.parse::<serde_json::Number>() {
                    Ok(number) => Value::Number(number),
                    Err(_) => Value::String(text.into_owned()),
                }
            }
            Some(Kind::Flag) if text == "true" || text == "false" => Value::Bool(text == "true"),
            _ => Value::String(text.into_owned()),
        };
        if map.insert(name.clone().into_owned(), value).is_some() {
            check.faults.push(fault(&name, "not_allowed", "is given more than once"));
        }
    }
    let values = check.object("", fields, map);
    if check.faults.is_empty() { Ok(Values(values)) } else { Err(check.faults) }
}

/// The most digits before the point of a decimal number.
const MOST_DIGITS: usize = 15;
/// The most faults of one answer.
const MOST_FAULTS: usize = 100;
/// The most characters of a fault's path: an unknown field may have a name of any length.
const LONGEST_PATH: usize = 200;

fn fault(path: &str, code: &'static str, message: impl Into<String>) -> FieldFault {
    FieldFault { path: path.chars().take(LONGEST_PATH).collect(), code, message: message.into() }
}

impl Check {
    fn fault(&mut self, path: &str, code: &'static str, message: impl Into<String>) {
        // More would help nobody, and an answer must not be larger than its request.
        if self.faults.len() < MOST_FAULTS {
            self.faults.push(fault(path, code, message));
        }
    }

    fn object(&mut self, path: &str, fields: &[Field], mut map: Map<String, Value>) -> Map<String, Value> {
        let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let mut values = Map::new();
        for field in fields {
            let path = inner(field.name);
            match map.shift_remove(field.name) {
                None | Some(Value::Null) if field.required => self.fault(&path, "required", "is missing"),
                Some(Value::String(text)) if text.is_empty() && field.required => {
                    self.fault(&path, "required", "is empty");
                }
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if text.is_empty() => {}
                Some(value) => {
                    if let Some(value) = self.value(&path, field.kind, value) {
                        values.insert(field.name.to_owned(), value);
                    }
                }
            }
        }
        for name in map.keys() {
            self.fault(&inner(name), "unknown_field", "is not known here; check its spelling");
        }
        values
    }

    fn value(&mut self, path: &str, kind: Kind, value: Value) -> Option<Value> {
        match (kind, value) {
            (Kind::Integer(least, most), Value::Number(number)) => self.integer(path, least, most, &number),
            (Kind::Money | Kind::PositiveMoney | Kind::SignedMoney, Value::Number(number)) => {
                self.money(path, kind, number)
            }
            (Kind::Decimal(most), Value::Number(number)) => self.decimal(path, most, number),
            (Kind::Flag, Value::Bool(flag)) => Some(Value::Bool(flag)),
            (Kind::Flag, Value::String(_)) => {
                self.fault(path, "malformed", "must be true or false");
                None
            }
            (Kind::Integer(..) | Kind::Decimal(_) | Kind::Money | Kind::PositiveMoney | Kind::SignedMoney, _) => {
                self.fault(path, "wrong_type", "must be a number");
                None
            }
            (Kind::List(kind, least, most), Value::Array(values)) => self.list(path, *kind, least, most, values),
            (Kind::Object(fields), Value::Object(map)) => Some(Value::Object(self.object(path, fields, map))),
            (Kind::List(..), _) => {
                self.fault(path, "wrong_type", "must be a list");
                None
            }
            (Kind::Object(_), _) => {
                self.fault(path, "wrong_type", "must be an object");
                None
            }
            (Kind::Flag, _) => {
                self.fault(path, "wrong_type", "must be true or false");
                None
            }
            (_, Value::String(text)) => self.text(path, kind, text),
            _ => {
                self.fault(path, "wrong_type", "must be a text");
                None
            }
        }
    }

    fn decimal(&mut self, path: &str, most: usize, number: serde_json::Number) -> Option<Value> {
        let text = number.to_string();
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if text.starts_with('-') {
            self.fault(path, "out_of_range", "must not be negative");
        } else if !digits(whole) || !digits(fraction) {
            self.fault(path, "malformed", "must be a plain decimal number such as 1.0842");
        } else if fraction.trim_end_matches('0').len() > most {
            self.fault(path, "too_many_decimals", format!("has more than {most} decimals"));
        } else if whole.len() > MOST_DIGITS {
            self.fault(path, "out_of_range", "is absurdly large");
        } else {
            return Some(Value::Number(number));
        }
        None
    }

    fn integer(&mut self, path: &str, least: i64, most: i64, number: &serde_json::Number) -> Option<Value> {
        match number.as_i64() {
            Some(value) if (least..=most).contains(&value) => Some(json!(value)),
            None if !number.to_string().trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit()) => {
                self.fault(path, "wrong_type", "must be a whole number");
                None
            }
            _ => {
                self.fault(path, "out_of_range", format!("must be {least} to {most}"));
                None
            }
        }
    }

    fn money(&mut self, path: &str, kind: Kind, number: serde_json::Number) -> Option<Value> {
        let decimals = self.currency.decimals();
        match Money::parse(&number.to_string(), self.currency) {
            Err(MoneyError::TooManyDecimals) => {
                self.fault(path, "too_many_decimals", format!("{} has {decimals} decimals at most", self.currency));
                None
            }
            Err(_) => {
                self.fault(path, "out_of_range", "is no amount the platform handles");
                None
            }
            Ok(money) => {
                let fits = match kind {
                    Kind::PositiveMoney => money.minor() > 0,
                    Kind::SignedMoney => money.minor() != 0,
                    _ => money.minor() >= 0,
                };
                if fits {
                    return Some(Value::Number(number));
                }
                let message = match kind {
                    Kind::PositiveMoney => "must be more than zero",
                    Kind::SignedMoney => "must not be zero",
                    _ => "must not be negative",
                };
                self.fault(path, "out_of_range", message);
                None
            }
        }
    }

    fn list(&mut self, path: &str, kind: Kind, least: usize, most: usize, values: Vec<Value>) -> Option<Value> {
        if values.len() < least {
            self.fault(path, "too_few", format!("must have {least} entries or more"));
            return None;
        }
        if values.len() > most {
            self.fault(path, "too_many", format!("must have {most} entries or fewer"));
            return None;
        }
        let checked: Vec<Option<Value>> = values
            .into_iter()
            .enumerate()
            .map(|(index, value)| self.value(&format!("{path}[{index}]"), kind, value))
            .collect();
        checked.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
    }

    fn text(&mut self, path: &str, kind: Kind, text: String) -> Option<Value> {
        match text_fault(kind, &text) {
            None => Some(Value::String(text)),
            Some((code, message)) => {
                self.fault(path, code, message);
                None
            }
        }
    }
}

type TextFault = (&'static str, String);

fn text_fault(kind: Kind, text: &str) -> Option<TextFault> {
    let malformed = |message: &str| Some(("malformed", message.to_owned()));
    if text.contains('\0') {
        return malformed("holds a NUL character");
    }
    match kind {
        Kind::Text(least, most) => length_fault(text, least, most),
        Kind::Password => length_fault(text, 1, 1_000),
        Kind::NewPassword => length_fault(text, 10, 128).or_else(|| {
            crate::password::is_common(text)
                .then(|| ("common_password", "is one of the commonest passwords; choose another".to_owned()))
        }),
        Kind::Email => length_fault(text, 1, 254).or_else(|| {
            let options =
                email_address::Options::default().without_display_text().without_domain_literal().with_required_tld();
            let valid = email_address::EmailAddress::parse_with_options(text, options).is_ok();
            let plain = text.chars().all(|letter| !letter.is_control() && !letter.is_whitespace() && letter != '"');
            (!valid || !plain).then(|| ("malformed", "is no e-mail address".to_owned()))
        }),
        Kind::Subdomain => match check_subdomain(text) {
            Ok(()) => None,
            Err(SubdomainFault::Reserved) => Some(("reserved", "is kept for the platform; choose another".to_owned())),
            Err(SubdomainFault::Malformed) => malformed("must be 3 to 40 lower-case letters, digits and inner hyphens"),
        },
        Kind::Phone => {
            let allowed = |letter: char| letter.is_ascii_digit() || " +-().".contains(letter);
            let digits = text.chars().filter(char::is_ascii_digit).count();
            let fits = text.chars().all(allowed) && (5..=20).contains(&digits) && text.len() <= 40;
            if fits { None } else { malformed("must be 5 to 20 digits, with spaces and + - ( ) . between them") }
        }
        Kind::Word(words) => {
            let words = words();
            (!words.contains(&text)).then(|| ("not_in_list", format!("must be one of {}", words.join(", "))))
        }
        Kind::Id => (text.len() != 36 || Uuid::try_parse(text).is_err())
            .then(|| ("malformed", "must be an id as the API gives it".to_owned())),
        Kind::Url { loopback_http } => url_fault(text, loopback_http),
        Kind::Time => text
            .parse::<Timestamp>()
            .is_err()
            .then(|| ("malformed", "must be a time such as 2026-11-23T12:00:00Z".to_owned())),
        Kind::Country => (crate::pages::country::name(text).is_none()
            || text.chars().any(|letter| letter.is_lowercase()))
        .then(|| ("not_in_list", "must be an ISO 3166-1 alpha-2 country code in capitals".to_owned())),
        Kind::Integer(..)
        | Kind::Decimal(_)
        | Kind::Money
        | Kind::PositiveMoney
        | Kind::SignedMoney
        | Kind::Flag
        | Kind::List(..)
        | Kind::Object(_) => malformed("has the wrong type"),
    }
}

fn length_fault(text: &str, least: usize, most: usize) -> Option<TextFault> {
    let length = text.chars().count();
    if length < least || (least > 0 && text.trim().is_empty()) {
        return Some(("too_short", format!("must have {least} characters or more")));
    }
    (length > most).then(|| ("too_long", format!("must have {most} characters or fewer")))
}

fn url_fault(text: &str, loopback_http: bool) -> Option<TextFault> {
    let malformed = |message: &str| Some(("malformed", message.to_owned()));
    if text.len() > 2_048 {
        return Some(("too_long", "must have 2048 characters or fewer".to_owned()));
    }
    if text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        return malformed("must be an absolute https address");
    }
    let Ok(url) = url::Url::parse(text) else { return malformed("must be an absolute https address") };
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    if !(url.scheme() == "https" || (url.scheme() == "http" && loopback && loopback_http)) {
        return malformed("must begin with https://");
    }
    if url.host().is_none() || !url.username().is_empty() || url.password().is_some() {
        return malformed("must name a host and no user");
    }
    None
}

/// The JSON schema of a declared object.
#[must_use]
pub fn schema(fields: &[Field]) -> Value {
    let properties: Map<String, Value> = fields.iter().map(|field| (field.name.to_owned(), property(field))).collect();
    let names: Vec<_> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !names.is_empty() {
        schema["required"] = json!(names);
    }
    schema
}

/// The JSON schema of one declared field.
#[must_use]
pub fn property(field: &Field) -> Value {
    let mut schema = kind_schema(field.kind);
    schema["description"] = json!(field.description);
    if !field.required {
        schema["type"] = json!([schema["type"].clone(), "null"]);
        if let Some(Value::Array(words)) = schema.get_mut("enum") {
            words.push(Value::Null);
            words.push(json!(""));
        }
    }
    schema
}

fn kind_schema(kind: Kind) -> Value {
    match kind {
        Kind::Text(least, most) => json!({"type": "string", "minLength": least, "maxLength": most}),
        Kind::Email => json!({"type": "string", "format": "email", "maxLength": 254}),
        Kind::NewPassword => json!({"type": "string", "minLength": 10, "maxLength": 128}),
        Kind::Password => json!({"type": "string"}),
        Kind::Subdomain => json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$"}),
        Kind::Phone => json!({"type": "string", "pattern": "^[0-9 +().-]{5,40}$"}),
        Kind::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Decimal(_) | Kind::Money => json!({"type": "number", "minimum": 0}),
        Kind::PositiveMoney => json!({"type": "number", "exclusiveMinimum": 0}),
        Kind::SignedMoney => json!({"type": "number"}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Word(words) => json!({"type": "string", "enum": words()}),
        Kind::Id => json!({"type": "string", "format": "uuid"}),
        Kind::Url { .. } => json!({"type": "string", "format": "uri", "maxLength": 2048}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::Country => json!({"type": "string", "pattern": "^[A-Z]{2}$"}),
        Kind::List(kind, least, most) => {
            json!({"type": "array", "items": kind_schema(*kind), "minItems": least, "maxItems": most})
        }
        Kind::Object(fields) => schema(fields),
    }
}

/// Reads JSON. Nesting deeper than 32 and names given twice are refused: what cannot be read in one
/// way only is not read at all.
///
/// # Errors
/// One sentence.
pub fn read_json(bytes: &[u8]) -> Result<Value, String> {
    if nesting(bytes) > 32 {
        return Err("The body is nested deeper than 32 levels.".to_owned());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde::de::DeserializeSeed::deserialize(Strict, &mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| format!("The body is no valid JSON: {error}."))?;
    Ok(value)
}

fn nesting(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_text, mut escaped) = (false, false);
    for byte in bytes {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'{' | b'[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Deserialises a value, refusing an object that names a field twice.
struct Strict;

impl<'de> serde::de::DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> serde::de::Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(json!(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            // With arbitrary precision serde_json hands a number over as a map of this one name.
            if name == NUMBER {
                let text: String = map.next_value()?;
                return text.parse().map(Value::Number).map_err(serde::de::Error::custom);
            }
            if !names.insert(name.clone()) {
                return Err(serde::de::Error::custom(format!("the name {name:?} is given twice")));
            }
            values.insert(name, map.next_value_seed(Strict)?);
        }
        Ok(Value::Object(values))
    }
}

const NUMBER: &str = "$serde_json::private::Number";

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: Kind =
        Kind::Object(&[required("planId", Kind::Id, ""), required("quantity", Kind::Integer(1, 100), "")]);
    const BODY: &[Field] = &[
        required("items", Kind::List(&ITEM, 1, 2), ""),
        optional("email", Kind::Email, ""),
        optional("amount", Kind::PositiveMoney, ""),
        optional("url", Kind::Url { loopback_http: true }, ""),
    ];

    fn faults(body: Value) -> Vec<String> {
        match check(BODY, body, Currency::USD) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.into_iter().map(|fault| format!("{} {}", fault.path, fault.code)).collect(),
        }
    }

    #[test]
    fn all_faults_come_at_once() {
        let body = json!({
            "items": [{"planId": "x", "quantity": 0}, {"quantity": 1.5, "qty": 1}],
            "email": "nobody", "amount": 1.234, "emial": "a@b.example", "url": "ftp://example.com"
        });
        assert_eq!(
            faults(body),
            [
                "items[0].planId malformed",
                "items[0].quantity out_of_range",
                "items[1].planId required",
                "items[1].quantity wrong_type",
                "items[1].qty unknown_field",
                "email malformed",
                "amount too_many_decimals",
                "url malformed",
                "emial unknown_field",
            ]
        );
    }

    #[test]
    fn decimal_numbers_are_read_by_their_text() {
        const RATE: &[Field] = &[required("rate", Kind::Decimal(4), "")];
        let read = |text: &str| {
            let body = read_json(format!(r#"{{"rate": {text}}}"#).as_bytes()).unwrap();
            check(RATE, body, Currency::USD)
                .map(|values| values.decimal("rate").unwrap())
                .map_err(|faults| faults[0].code)
        };
        for text in ["1.0842", "0", "1.50000", "150"] {
            assert_eq!(read(text), Ok(text.to_owned()));
        }
        for (text, code) in [
            ("1.00001", "too_many_decimals"),
            ("-1", "out_of_range"),
            ("1e2", "malformed"),
            ("1234567890123456", "out_of_range"),
            (r#""1.5""#, "wrong_type"),
        ] {
            assert_eq!(read(text), Err(code), "{text}");
        }
    }

    #[test]
    fn null_and_empty_mean_left_out() {
        let item = json!([{"planId": "0192f0c1-0000-7000-8000-000000000000", "quantity": 1}]);
        let sparse = check(BODY, json!({"items": item, "email": null, "url": ""}), Currency::USD).unwrap();
        let bare = check(BODY, json!({"items": item}), Currency::USD).unwrap();
        assert_eq!(sparse.canonical(), bare.canonical());
    }

    #[test]
    fn one_content_has_one_canonical_text() {
        let read = |text: &str| check(BODY, read_json(text.as_bytes()).unwrap(), Currency::USD).unwrap().canonical();
        let id = "0192f0c1-0000-7000-8000-000000000000";
        let one = read(&format!(r#"{{"amount":4.50,"items":[{{"quantity":1,"planId":"{id}"}}]}}"#));
        let two = read(&format!(r#"{{ "items": [{{"planId":"{id}", "quantity":1}}], "amount": 45e-1 }}"#));
        assert_eq!(one, two);
    }

    #[test]
    fn ambiguous_or_deep_json_is_not_read() {
        assert!(read_json(br#"{"a":1,"a":2}"#).is_err());
        assert!(read_json(b"{\"a\":1} x").is_err());
        assert!(read_json(b"").is_err());
        assert!(read_json(format!("{}{}", "[".repeat(32), "]".repeat(32)).as_bytes()).is_ok());
        assert!(read_json(format!("{}{}", "[".repeat(33), "]".repeat(33)).as_bytes()).is_err());
        assert_eq!(read_json(br#"{"a":0.10000000000000000001}"#).unwrap()["a"].to_string(), "0.10000000000000000001");
    }

    #[test]
    fn urls() {
        for url in ["https://example.com/a?b=c", "http://localhost:3000/x", "http://127.0.0.1/x"] {
            assert_eq!(url_fault(url, true), None, "{url}");
        }
        for url in [
            "http://example.com",
            "https://user@example.com",
            "https://",
            "/relative",
            "javascript:alert(1)",
            "https://exa mple.com",
        ] {
            assert!(url_fault(url, true).is_some(), "{url}");
        }
        assert!(url_fault("http://localhost/x", false).is_some());
    }
}
