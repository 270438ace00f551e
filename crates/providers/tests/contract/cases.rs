//! The adapters, each with its dialect and what is special about it.

use crate::stage::{Case, Keys};
use providers::connection::Connection;
use providers::esim_access::{self, EsimAccess};
use providers::sandbox::CataloguePlan;
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
        listed: |plan| plan,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, .. } = keys.clone();
            Arc::new(Tsim::new(connection, Account { account, secret }))
        },
    }
}

/// eSIM Access.
pub fn esim_access() -> Case {
    Case {
        dialect: "esim-access",
        path: "",
        buying: "esim/order",
        looking_up: "esim/query",
        signs_callbacks: false,
        // What has an allowance for each day, or none at all, is listed for a single day.
        listed: |plan| match (plan.unlimited, plan.daily_data_mb) {
            (false, None) => plan,
            _ => CataloguePlan {
                price_minor: (plan.price_minor + plan.validity_days - 1) / plan.validity_days,
                validity_days: 1,
                ..plan
            },
        },
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account: access_code, secret, .. } = keys.clone();
            let account = esim_access::Account { access_code, secret_key: Some(secret) };
            Arc::new(EsimAccess::new(connection, account))
        },
    }
}
