//! Floor 1: the pure rules of the platform. No IO, no clock, no randomness, no async: every time,
//! id and random number is an argument, so that every rule can be tested by itself.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod breaker;
pub mod catalogue;
pub mod checkout;
pub mod connection;
pub mod contact;
pub mod esim;
pub mod fulfilment;
pub mod id;
pub mod job;
pub mod ledger;
pub mod money;
pub mod offer;
pub mod oracle;
pub mod order;
pub mod plan;
pub mod pricing;
pub mod reconciliation;
pub mod routing;
pub mod tenant;
pub mod time;
pub mod top_up;
pub mod usage;
pub mod words;
