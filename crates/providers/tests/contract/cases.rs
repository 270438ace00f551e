//! The adapters, each with its dialect and what is special about it.

use crate::stage::{Case, Keys};
use providers::airalo::{self, Airalo};
use providers::connection::Connection;
use providers::esim_access::{self, EsimAccess};
use providers::esim_go::{self, EsimGo};
use providers::microesim::{self, MicroEsim};
use providers::sandbox::CataloguePlan;
use providers::tgt::{self, Tgt};
use providers::tsim::{Account, Tsim};
use std::sync::Arc;

/// Plans with so much data each day are listed as so much over the whole term.
fn without_days(plan: CataloguePlan) -> CataloguePlan {
    CataloguePlan { daily_data_mb: None, ..plan }
}

/// TSIM.
pub fn tsim() -> Case {
    Case {
        dialect: "tsim",
        path: "",
        buying: "esimSubscribe",
        looking_up: "getOrderInfoByCustomOrderNo",
        signs_callbacks: true,
        tells_of_sales: true,
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
        tells_of_sales: true,
        // What has an allowance for each day, or none at all, is listed for a single day.
        listed: |plan| match (plan.unlimited, plan.daily_data_mb) {
            (false, None) => plan,
            _ => CataloguePlan {
                upstream_plan_id: format!("{}*1", plan.upstream_plan_id),
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

/// Airalo.
pub fn airalo() -> Case {
    Case {
        dialect: "airalo",
        path: "",
        buying: "v2/orders",
        looking_up: "v2/orders",
        signs_callbacks: true,
        tells_of_sales: false,
        listed: without_days,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, .. } = keys.clone();
            Arc::new(Airalo::new(connection, airalo::Account { client_id: account, client_secret: secret }))
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
        tells_of_sales: false,
        listed: without_days,
        adapter: |connection: Connection, keys: &Keys| {
            let account = esim_go::Account { api_key: keys.secret.clone(), refunds: true };
            Arc::new(EsimGo::new(connection, account))
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
        tells_of_sales: true,
        listed: |plan| plan,
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
        tells_of_sales: true,
        listed: |plan| plan,
        adapter: |connection: Connection, keys: &Keys| {
            let Keys { account, secret, .. } = keys.clone();
            Arc::new(Tgt::new(connection, tgt::Account { account, secret, currency: "USD".to_owned() }))
        },
    }
}
