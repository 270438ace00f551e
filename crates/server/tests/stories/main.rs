//! The stories: a real server, real HTTP, and callers who do what partners, operators, travellers and
//! strangers do. One file per noun; a story is named after its route and the rule it tells.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a story fails by panicking")]

mod stage;
mod telling;

mod account;
mod checkout;
mod export;
mod install;
mod orders;
mod plans;
mod sandbox;
