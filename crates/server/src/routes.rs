//! The one table of routes: what a path does, who may call it, what it takes, answers and refuses. The
//! router, the OpenAPI document and the tests are all made from it.

use crate::api::{
    account, api_keys, balance, checkout, contact, esims, export, orders, plans, process, top_up, traveller,
    upstream_notice,
};
use crate::call::{Call, Handling, OperatorCall, TenantCall, Webhook};
use crate::fields::Field;
use crate::operator;
use crate::problem::{Code, Problem};
use domain::tenant::Permission;
use hyper::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

/// Who may call a route, and what answers.
#[derive(Clone, Copy)]
pub enum Handler {
    /// Anybody.
    Public(fn(Call) -> Handling),
    /// A tenant's user, or a key with this scope.
    Tenant {
        /// The scope a key needs.
        permission: Permission,
        /// Whether it changes something, which a pending or suspended tenant may not.
        changes: bool,
        /// What answers.
        handler: fn(TenantCall) -> Handling,
    },
    /// An operator.
    Operator(fn(OperatorCall) -> Handling),
    /// Another program that tells news, in its own form: the body comes as it was sent, because signatures cover it.
    Webhook(fn(Webhook) -> Handling),
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Public(_) => f.write_str("Public"),
            Self::Tenant { permission, changes, .. } => write!(f, "Tenant({permission}, changes: {changes})"),
            Self::Operator(_) => f.write_str("Operator"),
            Self::Webhook(_) => f.write_str("Webhook"),
        }
    }
}

/// What a route answers when all is well.
#[derive(Clone, Copy)]
pub enum Content {
    /// The envelope; the schema is that of `data`.
    Data(fn(&mut SchemaGenerator) -> Schema),
    /// Something else, of this media type.
    Media(&'static str),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Data(_) => f.write_str("Data"),
            Self::Media(media) => f.write_str(media),
        }
    }
}

/// How a stranger's calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Not at all.
    None,
    /// As a stranger's.
    Stranger,
    /// As a traveller's, who may share an address with many.
    Link,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// HTTP method.
    pub method: &'static str,
    /// The path, its parameters in braces.
    pub path: &'static str,
    /// The noun it belongs to.
    pub tag: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Who may call it, and what answers.
    pub handler: Handler,
    /// The query.
    pub query: &'static [Field],
    /// The body, where it takes one.
    pub body: Option<&'static [Field]>,
    /// The status of success.
    pub status: u16,
    /// What it answers.
    pub content: Content,
    /// Its own refusals, beside those every route has.
    pub refusals: &'static [Code],
    /// Whether it takes an `Idempotency-Key`.
    pub idempotent: bool,
}

impl Route {
    /// How a stranger's calls are counted.
    #[must_use]
    pub fn limit(&self) -> Limit {
        match self.method {
            // A service sends all its news from a few addresses.
            _ if matches!(self.handler, Handler::Webhook(_)) => Limit::Link,
            "POST" => Limit::Stranger,
            _ if self.path.starts_with("/e/") => Limit::Link,
            _ => Limit::None,
        }
    }

    /// Whether people follow links here: mail and shops add parameters of their own to links, which must
    /// not break them.
    #[must_use]
    pub fn is_for_people(&self) -> bool {
        matches!(self.handler, Handler::Public(_)) && self.method == "GET"
    }

    /// Whether it belongs to the operator's side, which may have a listener of its own.
    #[must_use]
    pub fn is_for_operator(&self) -> bool {
        matches!(self.handler, Handler::Operator(_))
            || self.path.starts_with("/api/operator/")
            || self.path == "/metrics"
    }
}

/// Nothing to say.
#[derive(Debug, serde::Serialize, JsonSchema)]
pub struct Nothing {}

const fn data<T: JsonSchema>() -> Content {
    Content::Data(|generator| generator.subschema_for::<T>())
}

const fn route(
    method: &'static str,
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    handler: Handler,
) -> Route {
    Route {
        method,
        path,
        tag,
        summary,
        handler,
        query: &[],
        body: None,
        status: 200,
        content: Content::Media("application/json"),
        refusals: &[],
        idempotent: false,
    }
}

impl Route {
    const fn query(self, query: &'static [Field]) -> Self {
        Self { query, ..self }
    }

    const fn body(self, body: &'static [Field]) -> Self {
        Self { body: Some(body), ..self }
    }

    const fn answers(self, status: u16, content: Content) -> Self {
        Self { status, content, ..self }
    }

    const fn refuses(self, refusals: &'static [Code]) -> Self {
        Self { refusals, ..self }
    }

    const fn once(self) -> Self {
        Self { idempotent: true, ..self }
    }
}

macro_rules! public {
    ($handler:path) => {
        Handler::Public(|call| Box::pin($handler(call)))
    };
}

macro_rules! reads {
    ($handler:path) => {
        Handler::Tenant { permission: Permission::Read, changes: false, handler: |call| Box::pin($handler(call)) }
    };
}

macro_rules! changes {
    ($permission:ident, $handler:path) => {
        Handler::Tenant { permission: Permission::$permission, changes: true, handler: |call| Box::pin($handler(call)) }
    };
}

macro_rules! administers {
    ($handler:path) => {
        Handler::Tenant { permission: Permission::Admin, changes: false, handler: |call| Box::pin($handler(call)) }
    };
}

macro_rules! hears {
    ($handler:path) => {
        Handler::Webhook(|webhook| Box::pin($handler(webhook)))
    };
}

macro_rules! operates {
    ($handler:path) => {
        Handler::Operator(|call| Box::pin($handler(call)))
    };
}

/// All routes.
static TABLE: &[Route] = &[
    // Account
    route("POST", "/api/tenant/register", "Account", "Register", public!(account::register))
        .body(account::REGISTER_BODY)
        .answers(201, data::<account::OneTenant>())
        .refuses(&[Code::EmailTaken, Code::SubdomainTaken]),
    route("POST", "/api/tenant/login", "Account", "Log in", public!(account::login))
        .body(account::LOGIN_BODY)
        .answers(200, data::<account::LoggedIn>())
        .refuses(&[Code::InvalidCredentials]),
    route("GET", "/api/tenant/profile", "Account", "Your profile", reads!(account::profile))
        .answers(200, data::<account::OneTenant>()),
    route("PATCH", "/api/tenant/profile", "Account", "Change your profile", changes!(Admin, account::change_profile))
        .body(account::PROFILE_BODY)
        .answers(200, data::<account::OneTenant>()),
    route("POST", "/api/tenant/password", "Account", "Change your password", administers!(account::change_password))
        .body(account::PASSWORD_BODY)
        .answers(200, data::<Nothing>())
        .refuses(&[Code::InvalidCredentials]),
    route("POST", "/api/tenant/logout", "Account", "End this session", reads!(account::logout))
        .body(&[])
        .answers(200, data::<Nothing>()),
    route("GET", "/api/tenant/api-keys", "Account", "Your API keys", administers!(api_keys::list))
        .query(operator::plans::QUERY)
        .answers(200, data::<api_keys::ApiKeyList>()),
    route("POST", "/api/tenant/api-keys", "Account", "Make an API key", changes!(Admin, api_keys::create))
        .body(api_keys::BODY)
        .answers(201, data::<api_keys::OneApiKey>())
        .refuses(&[Code::TooManyApiKeys]),
    route("DELETE", "/api/tenant/api-keys/{keyId}", "Account", "Revoke an API key", administers!(api_keys::revoke))
        .answers(200, data::<Nothing>()),
    // Plans
    route("GET", "/api/tenant/available-plans", "Plans", "The price list", reads!(plans::list))
        .query(plans::QUERY)
        .answers(200, data::<plans::AvailablePlans<'static>>()),
    // Orders
    route(
        "POST",
        "/api/tenant/orders/checkout",
        "Orders",
        "Buy eSIMs against the balance",
        changes!(Order, checkout::post),
    )
    .query(checkout::QUERY)
    .body(checkout::BODY)
    .answers(201, data::<checkout::CheckedOut<'static>>())
    .refuses(&[Code::InsufficientBalance, Code::PriceChanged, Code::IdempotencyKeyReused, Code::RequestInProgress])
    .once(),
    route("GET", "/api/tenant/orders", "Orders", "Your orders, newest first", reads!(orders::list))
        .query(orders::LIST_QUERY)
        .answers(200, data::<orders::OrderList<'static>>()),
    route("GET", "/api/tenant/orders/export", "Orders", "Your orders as CSV, one row per eSIM", reads!(export::get))
        .query(orders::EXPORT_QUERY)
        .answers(200, Content::Media("text/csv")),
    route("GET", "/api/tenant/orders/{orderId}", "Orders", "One order with its QR details", reads!(orders::get))
        .query(orders::ONE_QUERY)
        .answers(200, data::<orders::OneOrder<'static>>()),
    route("POST", "/api/tenant/orders/{orderId}/cancel", "Orders", "Give eSIMs back", changes!(Order, orders::cancel))
        .query(orders::ONE_QUERY)
        .body(orders::CANCEL_BODY)
        .answers(202, data::<orders::OneOrder<'static>>())
        .refuses(&[Code::NotCancellable]),
    // eSIMs
    route("GET", "/api/tenant/esims", "eSIMs", "Your eSIMs, newest first", reads!(esims::list))
        .query(esims::LIST_QUERY)
        .answers(200, data::<esims::EsimList<'static>>()),
    route("GET", "/api/tenant/esims/{esimId}", "eSIMs", "One eSIM with the data used", reads!(esims::get))
        .answers(200, data::<esims::OneEsim<'static>>()),
    // Balance and top-up
    route("GET", "/api/tenant/balance", "Balance", "Your credit", reads!(balance::get))
        .answers(200, data::<balance::BalanceView>()),
    route(
        "GET",
        "/api/tenant/transactions",
        "Balance",
        "What moved your credit, newest first",
        reads!(balance::transactions),
    )
    .query(balance::QUERY)
    .answers(200, data::<balance::TransactionList>()),
    route("POST", "/api/tenant/top-up", "Top-up", "Begin a top-up", changes!(TopUp, top_up::begin))
        .body(top_up::BODY)
        .answers(201, data::<top_up::BegunTopUp<'static>>())
        .refuses(&[Code::PaymentMethodUnavailable, Code::IdempotencyKeyReused, Code::RequestInProgress])
        .once(),
    route("GET", "/api/tenant/top-up", "Top-up", "Your top-ups, newest first", reads!(top_up::list))
        .query(top_up::LIST_QUERY)
        .answers(200, data::<top_up::TopUpList<'static>>()),
    route("GET", "/api/tenant/top-up/{orderId}", "Top-up", "One top-up", reads!(top_up::get))
        .answers(200, data::<top_up::OneTopUp<'static>>()),
    route(
        "POST",
        "/api/tenant/top-up/{orderId}/proof",
        "Top-up",
        "Send the proof of a bank transfer",
        changes!(TopUp, top_up::prove),
    )
    .body(top_up::PROOF_BODY)
    .answers(200, data::<top_up::OneTopUp<'static>>())
    .refuses(&[Code::NotABankTransfer, Code::AlreadyDecided]),
    // Contact
    route("POST", "/api/tenant/contact", "Contact", "Write to us", public!(contact::post))
        .body(contact::BODY)
        .answers(201, data::<contact::Inquired>()),
    // Traveller
    route("GET", "/e/{token}", "Traveller", "The page for the traveller's phone", public!(traveller::install))
        .answers(200, Content::Media("text/html"))
        .refuses(&[Code::NotFound, Code::Gone]),
    route("GET", "/e/{token}/qr", "Traveller", "The QR code as a picture", public!(traveller::qr_code))
        .query(traveller::QR_QUERY)
        .answers(200, Content::Media("image/png"))
        .refuses(&[Code::NotFound, Code::Gone]),
    // Upstreams
    route(
        "POST",
        "/api/webhooks/upstream/{connectionToken}",
        "Webhooks",
        "News of an upstream",
        hears!(upstream_notice::post),
    )
    .refuses(&[Code::NotFound, Code::BodyTooLarge]),
    route(
        "HEAD",
        "/api/webhooks/upstream/{connectionToken}",
        "Webhooks",
        "An upstream tries the address",
        hears!(upstream_notice::post),
    )
    .refuses(&[Code::NotFound]),
    // Operator
    route("POST", "/api/operator/login", "Operator: account", "Log in", public!(operator::account::login))
        .body(operator::account::LOGIN_BODY)
        .answers(200, data::<operator::account::LoggedIn>())
        .refuses(&[Code::InvalidCredentials]),
    route(
        "GET",
        "/api/operator/tenants",
        "Operator: tenants",
        "Tenants, newest first",
        operates!(operator::tenants::list),
    )
    .query(operator::tenants::QUERY)
    .answers(200, data::<operator::tenants::TenantList>()),
    route(
        "GET",
        "/api/operator/tenants/{tenantId}",
        "Operator: tenants",
        "One tenant",
        operates!(operator::tenants::get),
    )
    .answers(200, data::<operator::tenants::OneTenant>()),
    route(
        "POST",
        "/api/operator/tenants/{tenantId}/suspend",
        "Operator: tenants",
        "Suspend",
        operates!(operator::tenants::suspend),
    )
    .body(operator::tenants::REASON_BODY)
    .answers(200, data::<operator::tenants::OneTenant>())
    .refuses(&[Code::AlreadyDecided]),
    route(
        "POST",
        "/api/operator/tenants/{tenantId}/reinstate",
        "Operator: tenants",
        "Reinstate, or approve",
        operates!(operator::tenants::reinstate),
    )
    .body(operator::tenants::REASON_BODY)
    .answers(200, data::<operator::tenants::OneTenant>())
    .refuses(&[Code::AlreadyDecided]),
    route(
        "POST",
        "/api/operator/tenants/{tenantId}/adjustments",
        "Operator: tenants",
        "Correct the balance",
        operates!(operator::tenants::adjust),
    )
    .body(operator::tenants::ADJUST_BODY)
    .answers(201, data::<operator::tenants::OneTransaction>())
    .refuses(&[Code::IdempotencyKeyReused, Code::BalanceOutOfRange])
    .once(),
    route(
        "PUT",
        "/api/operator/tenants/{tenantId}/credit-limit",
        "Operator: tenants",
        "Lend",
        operates!(operator::tenants::set_credit_limit),
    )
    .body(operator::tenants::CREDIT_LIMIT_BODY)
    .answers(200, data::<operator::tenants::OneTenant>()),
    route(
        "PUT",
        "/api/operator/tenants/{tenantId}/tier",
        "Operator: tenants",
        "Set the tier, whose prices it buys at",
        operates!(operator::tenants::set_tier),
    )
    .body(operator::tenants::TIER_BODY)
    .answers(200, data::<operator::tenants::OneTenant>()),
    route("GET", "/api/operator/plans", "Operator: plans", "Plans, oldest first", operates!(operator::plans::list))
        .query(operator::plans::QUERY)
        .answers(200, data::<operator::plans::PlanList<'static>>()),
    route("POST", "/api/operator/plans/import", "Operator: plans", "Take plans in", operates!(operator::plans::import))
        .body(operator::plans::IMPORT_BODY)
        .answers(200, data::<operator::plans::ImportedView>()),
    route(
        "PUT",
        "/api/operator/plans/{planId}/price",
        "Operator: plans",
        "Set the price",
        operates!(operator::plans::set_price),
    )
    .body(operator::plans::PRICE_BODY)
    .answers(200, data::<operator::plans::OnePlan<'static>>()),
    route(
        "DELETE",
        "/api/operator/plans/{planId}/price",
        "Operator: plans",
        "Give the price back to the rules",
        operates!(operator::plans::give_price_back),
    )
    .answers(200, data::<operator::plans::OnePlan<'static>>())
    .refuses(&[Code::AlreadyDecided, Code::PlanHasNoOffers]),
    route(
        "GET",
        "/api/operator/plans/{planId}/explain",
        "Operator: plans",
        "How its price comes about, for a tenant",
        operates!(operator::explain::get),
    )
    .query(operator::explain::QUERY)
    .answers(200, data::<operator::explain::Explained>()),
    route(
        "POST",
        "/api/operator/plans/{planId}/withdraw",
        "Operator: plans",
        "Take off sale",
        operates!(operator::plans::withdraw),
    )
    .body(&[])
    .answers(200, data::<operator::plans::OnePlan<'static>>())
    .refuses(&[Code::AlreadyDecided]),
    route("GET", "/api/operator/rates", "Operator: pricing", "Rates, latest first", operates!(operator::rates::list))
        .query(operator::rates::QUERY)
        .answers(200, data::<operator::rates::RateList>()),
    route("POST", "/api/operator/rates", "Operator: pricing", "Set a rate", operates!(operator::rates::set))
        .body(operator::rates::BODY)
        .answers(201, data::<operator::rates::OneRate>()),
    route(
        "GET",
        "/api/operator/markup-rules",
        "Operator: pricing",
        "Markup rules, newest first",
        operates!(operator::markup_rules::list),
    )
    .query(operator::markup_rules::QUERY)
    .answers(200, data::<operator::markup_rules::RuleList>()),
    route(
        "POST",
        "/api/operator/markup-rules",
        "Operator: pricing",
        "Make a markup rule",
        operates!(operator::markup_rules::create),
    )
    .body(operator::markup_rules::BODY)
    .answers(201, data::<operator::markup_rules::OneRule>()),
    route(
        "DELETE",
        "/api/operator/markup-rules/{ruleId}",
        "Operator: pricing",
        "End a markup rule",
        operates!(operator::markup_rules::end),
    )
    .answers(200, data::<operator::markup_rules::OneRule>()),
    route(
        "POST",
        "/api/operator/plans/{planId}/restore",
        "Operator: plans",
        "Put on sale again what you withdrew",
        operates!(operator::plans::restore),
    )
    .body(&[])
    .answers(200, data::<operator::plans::OnePlan<'static>>())
    .refuses(&[Code::AlreadyDecided]),
    route("GET", "/api/operator/offers", "Operator: offers", "What upstreams sell", operates!(operator::offers::list))
        .query(operator::offers::QUERY)
        .answers(200, data::<operator::offers::OfferList>()),
    route(
        "POST",
        "/api/operator/offers/hold",
        "Operator: offers",
        "Buy nothing by it",
        operates!(operator::offers::hold),
    )
    .body(operator::offers::HOLD_BODY)
    .answers(200, data::<operator::offers::OneOffer>())
    .refuses(&[Code::NotFound, Code::AlreadyDecided]),
    route(
        "POST",
        "/api/operator/offers/release",
        "Operator: offers",
        "Let it be bought again",
        operates!(operator::offers::release),
    )
    .body(operator::offers::HOLD_BODY)
    .answers(200, data::<operator::offers::OneOffer>())
    .refuses(&[Code::NotFound, Code::AlreadyDecided]),
    route(
        "POST",
        "/api/operator/offers/move",
        "Operator: offers",
        "Attach it to another plan",
        operates!(operator::offers::move_to),
    )
    .body(operator::offers::MOVE_BODY)
    .answers(200, data::<operator::offers::OneOffer>())
    .refuses(&[Code::NotFound, Code::AlreadyDecided, Code::PlanHasNoOffers, Code::AnotherIdentity]),
    route(
        "GET",
        "/api/operator/offer-changes",
        "Operator: offers",
        "What changed, newest first",
        operates!(operator::offers::changes),
    )
    .query(operator::offers::CHANGES_QUERY)
    .answers(200, data::<operator::offers::ChangeList>()),
    route(
        "GET",
        "/api/operator/connections",
        "Operator: connections",
        "Accounts at upstreams, oldest first",
        operates!(operator::connections::list),
    )
    .answers(200, data::<operator::connections::ConnectionList>()),
    route(
        "POST",
        "/api/operator/connections",
        "Operator: connections",
        "Connect an account at an upstream",
        operates!(operator::connections::create),
    )
    .body(operator::connections::CREATE_BODY)
    .answers(201, data::<operator::connections::OneConnection>())
    .refuses(&[Code::NameTaken]),
    route(
        "GET",
        "/api/operator/connections/{connectionId}",
        "Operator: connections",
        "One connection",
        operates!(operator::connections::get),
    )
    .answers(200, data::<operator::connections::OneConnection>()),
    route(
        "PATCH",
        "/api/operator/connections/{connectionId}",
        "Operator: connections",
        "Change settings or credentials",
        operates!(operator::connections::change),
    )
    .body(operator::connections::CHANGE_BODY)
    .answers(200, data::<operator::connections::OneConnection>()),
    route(
        "POST",
        "/api/operator/connections/{connectionId}/verify",
        "Operator: connections",
        "Try the credentials, and ask for the balance",
        operates!(operator::connections::verify),
    )
    .body(&[])
    .answers(200, data::<operator::connections::OneConnection>()),
    route(
        "POST",
        "/api/operator/connections/{connectionId}/enable",
        "Operator: connections",
        "Let it sell",
        operates!(operator::connections::enable),
    )
    .body(&[])
    .answers(200, data::<operator::connections::OneConnection>())
    .refuses(&[Code::AlreadyDecided]),
    route(
        "POST",
        "/api/operator/connections/{connectionId}/disable",
        "Operator: connections",
        "Let it sell no more",
        operates!(operator::connections::disable),
    )
    .body(&[])
    .answers(200, data::<operator::connections::OneConnection>())
    .refuses(&[Code::AlreadyDecided]),
    route(
        "GET",
        "/api/operator/differences",
        "Operator: connections",
        "Where our books and those of upstreams differ",
        operates!(operator::differences::list),
    )
    .query(operator::differences::QUERY)
    .answers(200, data::<operator::differences::DifferenceList>()),
    route(
        "POST",
        "/api/operator/differences/{differenceId}/settle",
        "Operator: connections",
        "Say that a difference is settled",
        operates!(operator::differences::settle),
    )
    .body(operator::differences::SETTLE_BODY)
    .answers(200, data::<operator::differences::OneDifference>())
    .refuses(&[Code::AlreadyDecided]),
    route(
        "GET",
        "/api/operator/connections/{connectionId}/sync",
        "Operator: connections",
        "When its list was read, and what came of it",
        operates!(operator::catalogue::get),
    )
    .answers(200, data::<operator::catalogue::OneSync>()),
    route(
        "POST",
        "/api/operator/connections/{connectionId}/sync",
        "Operator: connections",
        "Read its list now",
        operates!(operator::catalogue::post),
    )
    .body(operator::catalogue::BODY)
    .answers(202, data::<operator::catalogue::OneSync>())
    .refuses(&[Code::SyncInProgress]),
    route(
        "GET",
        "/api/operator/notices",
        "Operator: connections",
        "What upstreams told, newest first",
        operates!(operator::notices::list),
    )
    .query(operator::plans::QUERY)
    .answers(200, data::<operator::notices::NoticeList>()),
    route(
        "GET",
        "/api/operator/orders",
        "Operator: orders",
        "Orders of all tenants, newest first",
        operates!(operator::orders::list),
    )
    .query(orders::OPERATOR_QUERY)
    .answers(200, data::<operator::orders::OrderList<'static>>()),
    route(
        "GET",
        "/api/operator/orders/{orderId}",
        "Operator: orders",
        "One order with what the upstreams said",
        operates!(operator::orders::get),
    )
    .answers(200, data::<operator::orders::OneOrder<'static>>()),
    route(
        "POST",
        "/api/operator/orders/{orderId}/retry",
        "Operator: orders",
        "Try again",
        operates!(operator::orders::retry),
    )
    .body(&[])
    .answers(200, data::<operator::orders::OneOrder<'static>>())
    .refuses(&[Code::NotRetryable]),
    route(
        "POST",
        "/api/operator/orders/{orderId}/refund",
        "Operator: orders",
        "Give money back",
        operates!(operator::orders::refund),
    )
    .body(operator::orders::REFUND_BODY)
    .answers(200, data::<operator::orders::OneOrder<'static>>())
    .refuses(&[Code::OrderProcessing, Code::AlreadyRefunded, Code::RefundTooLarge, Code::IdempotencyKeyReused])
    .once(),
    route(
        "POST",
        "/api/operator/orders/{orderId}/resolve",
        "Operator: orders",
        "Say what became of an unknown order",
        operates!(operator::orders::resolve),
    )
    .body(operator::orders::RESOLVE_BODY)
    .answers(200, data::<operator::orders::OneOrder<'static>>())
    .refuses(&[Code::NotUnknown]),
    route(
        "GET",
        "/api/operator/top-ups",
        "Operator: top-ups",
        "Top-ups of all tenants, newest first",
        operates!(operator::top_ups::list),
    )
    .query(operator::top_ups::QUERY)
    .answers(200, data::<operator::top_ups::TopUpList<'static>>()),
    route(
        "GET",
        "/api/operator/top-ups/{orderId}",
        "Operator: top-ups",
        "One top-up",
        operates!(operator::top_ups::get),
    )
    .answers(200, data::<operator::top_ups::OneTopUp<'static>>()),
    route(
        "POST",
        "/api/operator/top-ups/{orderId}/approve",
        "Operator: top-ups",
        "The money came",
        operates!(operator::top_ups::approve),
    )
    .body(operator::top_ups::APPROVE_BODY)
    .answers(200, data::<operator::top_ups::OneTopUp<'static>>())
    .refuses(&[Code::AlreadyDecided, Code::BalanceOutOfRange, Code::IdempotencyKeyReused])
    .once(),
    route(
        "POST",
        "/api/operator/top-ups/{orderId}/reject",
        "Operator: top-ups",
        "Refuse",
        operates!(operator::top_ups::reject),
    )
    .body(operator::top_ups::REJECT_BODY)
    .answers(200, data::<operator::top_ups::OneTopUp<'static>>())
    .refuses(&[Code::AlreadyDecided]),
    route("GET", "/api/operator/jobs", "Operator: jobs", "Jobs, newest first", operates!(operator::jobs::list))
        .query(operator::jobs::QUERY)
        .answers(200, data::<operator::jobs::JobList>()),
    route(
        "POST",
        "/api/operator/jobs/{jobId}/retry",
        "Operator: jobs",
        "Try a dead job again",
        operates!(operator::jobs::retry),
    )
    .body(&[])
    .answers(200, data::<operator::jobs::OneJob>())
    .refuses(&[Code::NotDead]),
    route(
        "POST",
        "/api/operator/jobs/{jobId}/abandon",
        "Operator: jobs",
        "Give a dead job up",
        operates!(operator::jobs::abandon),
    )
    .body(&[])
    .answers(200, data::<operator::jobs::OneJob>())
    .refuses(&[Code::NotDead, Code::OutcomeUnknown]),
    route(
        "GET",
        "/api/operator/inquiries",
        "Operator: inquiries",
        "Messages, newest first",
        operates!(operator::inquiries::list),
    )
    .query(operator::inquiries::QUERY)
    .answers(200, data::<operator::inquiries::InquiryList>()),
    route(
        "POST",
        "/api/operator/inquiries/{inquiryId}/handled",
        "Operator: inquiries",
        "Mark as handled",
        operates!(operator::inquiries::handled),
    )
    .body(&[])
    .answers(200, data::<operator::inquiries::OneInquiry>())
    .refuses(&[Code::AlreadyDecided]),
    route(
        "GET",
        "/api/operator/ledger/check",
        "Operator: ledger",
        "Walk the whole ledger",
        operates!(operator::ledger::get),
    )
    .answers(200, data::<operator::ledger::Checked>()),
    route(
        "GET",
        "/api/operator/audit-log",
        "Operator: audit log",
        "Who changed what, newest first",
        operates!(operator::audit_log::list),
    )
    .query(operator::audit_log::QUERY)
    .answers(200, data::<operator::audit_log::AuditLog>()),
    route(
        "GET",
        "/api/operator/sandbox/sales",
        "Operator: sandbox",
        "What the sandbox sold",
        operates!(operator::sandbox::sales),
    )
    .query(operator::sandbox::QUERY)
    .answers(200, data::<operator::sandbox::Sales>()),
    route(
        "POST",
        "/api/operator/sandbox/esims/{iccid}/install",
        "Operator: sandbox",
        "Install a profile",
        operates!(operator::sandbox::install),
    )
    .body(&[])
    .answers(200, data::<operator::sandbox::Moved>())
    .refuses(&[Code::ImpossibleTransition]),
    route(
        "POST",
        "/api/operator/sandbox/esims/{iccid}/use",
        "Operator: sandbox",
        "Use a profile",
        operates!(operator::sandbox::use_data),
    )
    .body(&[])
    .answers(200, data::<operator::sandbox::Moved>())
    .refuses(&[Code::ImpossibleTransition]),
    route(
        "POST",
        "/api/operator/sandbox/esims/{iccid}/expire",
        "Operator: sandbox",
        "Expire a profile",
        operates!(operator::sandbox::expire),
    )
    .body(&[])
    .answers(200, data::<operator::sandbox::Moved>())
    .refuses(&[Code::ImpossibleTransition]),
    // Process
    route("GET", "/healthz", "Process", "The process runs", public!(process::healthz))
        .answers(200, data::<process::Health>()),
    route("GET", "/readyz", "Process", "The process can serve", public!(process::readyz))
        .answers(200, data::<process::Health>()),
    route("GET", "/metrics", "Process", "Metrics for Prometheus", public!(process::metrics))
        .answers(200, Content::Media("application/openmetrics-text")),
    route("GET", "/openapi.json", "Process", "This API as OpenAPI 3.1", public!(process::openapi_json))
        .answers(200, Content::Media("application/json")),
    route("GET", "/api-docs", "Process", "This API for people", public!(process::api_docs_page))
        .answers(200, Content::Media("text/html")),
];

/// All routes of the platform.
pub fn table() -> impl Iterator<Item = &'static Route> {
    TABLE.iter()
}

/// Which side of the platform a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Both: there is one listener.
    Both,
    /// Partners and travellers.
    Public,
    /// The operator and monitoring.
    Operator,
}

/// Parameters of a path, by name.
pub type Parameters = Vec<(String, String)>;

/// A route with the parameters of the path.
pub type Found = (&'static Route, Parameters);

/// Finds the route of a request.
#[derive(Debug)]
pub struct Router {
    paths: matchit::Router<Vec<&'static Route>>,
}

impl Router {
    /// A router over the table and some more routes (the bench measures an empty one).
    ///
    /// # Errors
    /// A line about two routes that collide.
    pub fn new(side: Side, more: &'static [Route]) -> Result<Self, String> {
        let mut by_path: std::collections::BTreeMap<&'static str, Vec<&'static Route>> = Default::default();
        for route in TABLE.iter().chain(more) {
            let served = match side {
                Side::Both => true,
                Side::Public => !route.is_for_operator(),
                Side::Operator => route.is_for_operator() || route.tag == "Process",
            };
            if served {
                by_path.entry(route.path).or_default().push(route);
            }
        }
        let mut paths = matchit::Router::new();
        for (path, routes) in by_path {
            paths.insert(path, routes).map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(Self { paths })
    }

    /// The route of a method and path, with the path's parameters.
    ///
    /// # Errors
    /// 404, or 405 with the methods the path knows.
    pub fn find(&'static self, method: &Method, path: &str) -> Result<Found, Problem> {
        let found = self.paths.at(path).map_err(|_| Problem::not_found())?;
        let of = |wanted: &str| found.value.iter().find(|route| route.method == wanted);
        let route = match of(method.as_str()) {
            None if *method == Method::HEAD => of("GET"),
            route => route,
        };
        match route {
            Some(route) => {
                let parameters = found.params.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
                Ok((route, parameters.collect()))
            }
            None => {
                let mut methods: Vec<&str> = found.value.iter().map(|route| route.method).collect();
                if methods.contains(&"GET") {
                    methods.push("HEAD");
                }
                let allow = methods.join(", ");
                let message = format!("This path does not know {method}. It knows {allow}.");
                Err(Problem::new(Code::MethodNotAllowed, message).allowing(allow))
            }
        }
    }
}
