//! The partner API: one noun, one file.

pub mod account;
pub mod api_keys;
pub mod balance;
pub mod checkout;
pub mod contact;
pub mod esims;
pub mod export;
pub mod orders;
pub mod plans;
pub mod process;
pub mod top_up;
pub mod traveller;
pub mod upstream_notice;
