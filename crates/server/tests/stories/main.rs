//! The stories: a real server, real HTTP, and callers who do what partners, operators, travellers and
//! strangers do. One file per noun; a story is named after its route and the rule it tells. All of them are told twice:
//! `tests/stories_on_postgres` is a link to this folder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a story fails by panicking")]
#![allow(clippy::print_stdout, reason = "a random story tells its seed")]

mod acts;
mod promise;
mod stage;
mod telling;

mod account;
mod balance;
mod catalogue;
mod checkout;
mod connections;
mod contact;
mod conventions;
mod esims;
mod export;
mod install;
mod invariants;
mod operator;
mod orders;
mod plans;
mod pricing;
mod process;
mod sandbox;
mod strangers;
mod top_up;
