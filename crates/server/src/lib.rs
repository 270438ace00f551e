//! Floor 4: the process.
pub mod config;
pub mod pages;
pub mod trusted_proxies;
