//! How values of the domain look in JSON.

use domain::money::Money;
use domain::offer::Cost;
use domain::time::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::Error;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use uuid::Uuid;

/// An amount as a JSON number of major units, written exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount(pub Money);

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // With arbitrary precision a Number keeps its text: no floating point on the way out.
        let number: serde_json::Number = self.0.to_string().parse().map_err(S::Error::custom)?;
        number.serialize(serializer)
    }
}

/// What an upstream asks for, as a JSON number with all its decimals; written exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decimal(pub Cost);

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number: serde_json::Number = self.0.decimal().parse().map_err(S::Error::custom)?;
        number.serialize(serializer)
    }
}

/// An id as a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(pub Uuid);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

/// A time as RFC 3339 UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

macro_rules! schema {
    ($type:ty, $name:literal, $schema:expr) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

schema!(Amount, "Amount", json_schema!({"type": "number", "description": "Major units of the currency."}));
schema!(Decimal, "Decimal", json_schema!({"type": "number", "description": "In the upstream's own precision."}));
schema!(Id, "Id", json_schema!({"type": "string", "format": "uuid"}));
schema!(Time, "Time", json_schema!({"type": "string", "format": "date-time"}));

#[cfg(test)]
mod tests {
    use super::*;
    use domain::money::Currency;

    #[test]
    fn amounts_are_numbers_with_exact_text() {
        for (minor, text) in
            [(30_000, "300"), (450, "4.5"), (29, "0.29"), (-7, "-0.07"), (100_000_000_000_001, "1000000000000.01")]
        {
            assert_eq!(serde_json::to_string(&Amount(Money::new(minor, Currency::USD))).unwrap(), text);
        }
    }
}
