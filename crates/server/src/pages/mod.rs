//! What people see instead of JSON: the traveller's install page, the partner's API page, and the two plain pages for
//! links that lead nowhere. Every page is one self-contained document: nothing is loaded from anywhere else, and all of
//! it can be read without script.

pub mod api_docs;
pub mod country;
pub mod install;
mod policy;
pub mod problem;
pub mod qr;
