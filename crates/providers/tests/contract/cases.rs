//! The adapters, each with its dialect and what is special about it.

use crate::stage::{Case, Keys};
use providers::connection::Connection;
use providers::microesim::{self, MicroEsim};
use providers::tgt::{self, Tgt};
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

/// microesim.
pub fn microesim() -> Case {
    Case {
        dialect: "microesim",
        path: "",
        buying: "esimSubscribe",
        looking_up: "",
        signs_callbacks: false,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, salt, callback_url } = keys.clone();
            let account = microesim::Account { account, secret, salt, notify_url: Some(callback_url) };
            Arc::new(MicroEsim::new(connection, account).unwrap())
        },
    }
}

/// TGT.
pub fn tgt() -> Case {
    Case {
        dialect: "tgt",
        path: "/openapi",
        buying: "order/create",
        looking_up: "order/orders",
        signs_callbacks: true,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, .. } = keys.clone();
            Arc::new(Tgt::new(connection, tgt::Account { account, secret, currency: "USD".to_owned() }))
        },
    }
}
