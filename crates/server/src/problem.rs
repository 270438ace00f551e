//! A refusal on the wire: status, stable code, one sentence, details. All codes are listed in
//! `docs/errors.md`, and a test keeps list and code equal.

use domain::tenant::NotAllowed;
use serde::Serialize;
use serde_json::{Value, json};
use store::port::{Failure, Fault};

/// Declares the codes with their status.
macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $status:literal $code:literal),+ $(,)?) => {
        /// The stable codes of refusals.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])* $variant),+ }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code as it is answered.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// The HTTP status it comes with.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }
        }
    };
}

codes! {
    /// The body is no JSON, or nested deeper than 32.
    MalformedJson = 400 "malformed_json",
    /// No token, or none that is valid here.
    Unauthorized = 401 "unauthorized",
    /// Address or password is wrong.
    InvalidCredentials = 401 "invalid_credentials",
    /// The balance does not suffice.
    InsufficientBalance = 402 "insufficient_balance",
    /// The key's scopes do not reach this far.
    Forbidden = 403 "forbidden",
    /// The tenant waits for approval.
    TenantPending = 403 "tenant_pending",
    /// The tenant is suspended.
    TenantSuspended = 403 "tenant_suspended",
    /// There is no such thing here.
    NotFound = 404 "not_found",
    /// The path knows other methods.
    MethodNotAllowed = 405 "method_not_allowed",
    /// The address has an account.
    EmailTaken = 409 "email_taken",
    /// The subdomain is somebody's.
    SubdomainTaken = 409 "subdomain_taken",
    /// Dearer than `maxTotal`.
    PriceChanged = 409 "price_changed",
    /// The name is another connection's.
    NameTaken = 409 "name_taken",
    /// The first request with this key is not committed yet.
    RequestInProgress = 409 "request_in_progress",
    /// The order or its eSIMs cannot be given back now.
    NotCancellable = 409 "not_cancellable",
    /// The way of paying is not set up.
    PaymentMethodUnavailable = 409 "payment_method_unavailable",
    /// Proofs belong to bank transfers.
    NotABankTransfer = 409 "not_a_bank_transfer",
    /// The plan does not live from offers.
    PlanHasNoOffers = 409 "plan_has_no_offers",
    /// Somebody decided this before.
    AlreadyDecided = 409 "already_decided",
    /// What one gets with the offer is not what the plan says.
    AnotherIdentity = 409 "another_identity",
    /// The connection's list is being read.
    SyncInProgress = 409 "sync_in_progress",
    /// The order has no unknown placement.
    NotUnknown = 409 "not_unknown",
    /// The order has no dead job to retry.
    NotRetryable = 409 "not_retryable",
    /// The job is not dead.
    NotDead = 409 "not_dead",
    /// The placement may have been sold: resolve it instead.
    OutcomeUnknown = 409 "outcome_unknown",
    /// The order is still being fulfilled.
    OrderProcessing = 409 "order_processing",
    /// All was given back before.
    AlreadyRefunded = 409 "already_refunded",
    /// More than is left to give back.
    RefundTooLarge = 409 "refund_too_large",
    /// The balance would leave the range of money.
    BalanceOutOfRange = 409 "balance_out_of_range",
    /// The tenant has as many keys as it may have.
    TooManyApiKeys = 409 "too_many_api_keys",
    /// The profile cannot move there.
    ImpossibleTransition = 409 "impossible_transition",
    /// The eSIM was cancelled, revoked or erased.
    Gone = 410 "gone",
    /// The body is larger than allowed.
    BodyTooLarge = 413 "body_too_large",
    /// The body is not JSON by its content type.
    UnsupportedMediaType = 415 "unsupported_media_type",
    /// Fields are wrong; all of them are listed.
    ValidationFailed = 422 "validation_failed",
    /// The idempotency key came with another body before.
    IdempotencyKeyReused = 422 "idempotency_key_reused",
    /// Too many requests, or too many failed logins.
    RateLimited = 429 "rate_limited",
    /// Something broke on our side.
    Internal = 500 "internal",
    /// The database does not answer, or the process is stopping.
    Unavailable = 503 "unavailable",
    /// The disk is full.
    StorageFull = 503 "storage_full",
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldFault {
    /// Where it is, as in `items[0].quantity`.
    pub path: String,
    /// A stable word for what is wrong.
    pub code: &'static str,
    /// One sentence.
    pub message: String,
}

/// What a refusal says.
#[derive(Debug, Clone)]
pub struct Details {
    /// Its code, which has its status.
    pub code: Code,
    /// One sentence that says what is wrong and how to mend it.
    pub message: String,
    /// Details, or null.
    pub data: Value,
    /// Seconds to wait before the next try.
    pub retry_after: Option<u64>,
    /// The methods a path knows.
    pub allow: Option<String>,
    /// What broke on our side: for the log, never for the caller.
    pub cause: Option<String>,
}

/// A refusal. Boxed, because most results are none.
#[derive(Debug, Clone)]
pub struct Problem(Box<Details>);

impl std::ops::Deref for Problem {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl Problem {
    /// A refusal without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self(Box::new(Details { code, message, data: Value::Null, retry_after: None, allow: None, cause: None }))
    }

    /// The same with the methods a path knows.
    #[must_use]
    pub fn allowing(mut self, methods: String) -> Self {
        self.0.allow = Some(methods);
        self
    }

    /// The same with what broke on our side; it is logged once, at the edge, with the request's id.
    #[must_use]
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// The same with details.
    #[must_use]
    pub fn with(mut self, data: Value) -> Self {
        self.0.data = data;
        self
    }

    /// The same with seconds to wait.
    #[must_use]
    pub fn after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// There is no such thing: one answer for what does not exist, is malformed, or is somebody else's.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "There is nothing here under this address. Check the path and the id.")
    }

    /// No valid token.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(Code::Unauthorized, "A valid token is needed: log in, and send it as Authorization: Bearer <token>.")
    }

    /// Wrong fields.
    #[must_use]
    pub fn fields(faults: &[FieldFault]) -> Self {
        let message = match faults {
            [only] => format!("{}: {}", only.path, only.message),
            _ => format!("{} fields are wrong; data.fields lists them all.", faults.len()),
        };
        Self::new(Code::ValidationFailed, message).with(json!({"fields": faults}))
    }

    /// One wrong field.
    #[must_use]
    pub fn field(path: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self::fields(&[FieldFault { path: path.to_owned(), code, message: message.into() }])
    }

    /// Decided before.
    #[must_use]
    pub fn already_decided() -> Self {
        Self::new(Code::AlreadyDecided, "This was decided before; read it again to see how.")
    }

    /// An idempotency key with another body.
    #[must_use]
    pub fn key_reused() -> Self {
        Self::new(
            Code::IdempotencyKeyReused,
            "This Idempotency-Key was used with another body. Use a new key for a new request.",
        )
    }

    /// Something broke on our side; the cause is in the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Code::Internal, "Something went wrong on our side. Try again; if it stays, tell us the X-Request-Id.")
    }
}

impl From<NotAllowed> for Problem {
    fn from(refusal: NotAllowed) -> Self {
        match refusal {
            NotAllowed::Pending => Self::new(
                Code::TenantPending,
                "Your account waits for approval: you can look around, but not change anything yet.",
            ),
            NotAllowed::Suspended => Self::new(
                Code::TenantSuspended,
                "Your account is suspended: you can look around, but not change anything. Please contact us.",
            ),
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let cause = fault.to_string();
        let problem = match fault {
            Fault::Retry | Fault::Unavailable(_) => {
                Self::new(Code::Unavailable, "The platform cannot answer right now. Try again in a moment.").after(1)
            }
            Fault::StorageFull => {
                Self::new(Code::StorageFull, "The platform cannot store anything right now. Try again later.").after(10)
            }
            Fault::Bug(_) => Self::internal(),
        };
        problem.because(cause)
    }
}

impl<R> From<Failure<R>> for Problem
where
    Problem: From<R>,
{
    fn from(failure: Failure<R>) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal.into(),
            Failure::Fault(fault) => fault.into(),
        }
    }
}

impl From<std::convert::Infallible> for Problem {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
