//! The adapters, each with its dialect and what is special about it.

use crate::stage::{Case, Keys};
use providers::connection::Connection;
use providers::esim_go::{self, EsimGo};
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
        tells_deliveries: true,
        sells_daily: true,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, .. } = keys.clone();
            Arc::new(Tsim::new(connection, Account { account, secret }))
        },
    }
}

/// eSIM Go: an organisation whose account manager enabled refunds.
pub fn esim_go() -> Case {
    Case {
        dialect: "esim-go",
        path: "/v2.4",
        buying: "orders",
        looking_up: "",
        signs_callbacks: true,
        tells_deliveries: false,
        sells_daily: false,
        adapter: |connection: Connection, keys: &Keys| {
            let account = esim_go::Account { api_key: keys.secret.clone(), refunds: true };
            Arc::new(EsimGo::new(connection, account))
        },
    }
}
