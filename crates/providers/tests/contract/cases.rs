//! The adapters, each with its dialect and what is special about it.

use crate::stage::{Case, Keys};
use providers::connection::Connection;
use providers::tsim::{Account, Tsim};
use std::sync::Arc;

/// TSIM.
pub fn tsim() -> Case {
    Case {
        dialect: "tsim",
        path: "",
        buying: "esimSubscribe",
        looking_up: "getOrderInfoByCustomOrderNo",
        signs_callbacks: true,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, .. } = keys.clone();
            Arc::new(Tsim::new(connection, Account { account, secret }))
        },
    }
}
