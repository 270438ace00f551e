//! The adapters, each with its dialect and what is special about it.

use crate::stage::{Case, Keys};
use providers::airalo::{self, Airalo};
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
        tells_of_sales: true,
        lists_daily_allowances: true,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, .. } = keys.clone();
            Arc::new(Tsim::new(connection, Account { account, secret }))
        },
    }
}

/// Airalo.
pub fn airalo() -> Case {
    Case {
        dialect: "airalo",
        path: "",
        buying: "v2/orders",
        looking_up: "v2/orders",
        signs_callbacks: true,
        tells_of_sales: false,
        lists_daily_allowances: false,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, .. } = keys.clone();
            Arc::new(Airalo::new(connection, airalo::Account { client_id: account, client_secret: secret }))
        },
    }
}
