-- The first schema. Rules it keeps: 64-bit integers (money in minor units, time in Unix
-- milliseconds), text and blobs only; ids are version 7 UUIDs, so every table appends; nothing
-- written by a checkout or a delivery has an index in random order. Searching is done by
-- index_entries, which is filled behind the commits (see docs/decisions/0003).

create table settings (
    name text primary key,
    value text not null
) without rowid;

create table tenants (
    id blob primary key,
    number integer not null unique,
    name text not null,
    subdomain text not null unique,
    contact_email text not null,
    status text not null,
    currency text not null
) without rowid;

-- One row per tenant and mode: the lock of a tenant's commands, the cached balance and the head of its chain.
create table balances (
    tenant_id blob not null,
    mode text not null,
    balance integer not null,
    credit_limit integer not null,
    entry_count integer not null,
    entry_hash blob not null,
    order_count integer not null,
    primary key (tenant_id, mode)
) without rowid;

create table users (
    id blob primary key,
    tenant_id blob not null,
    email text not null unique,
    password_hash text not null
) without rowid;
create index users_by_tenant on users (tenant_id, id);

create table operators (
    id blob primary key,
    email text not null unique,
    password_hash text not null,
    role text not null
) without rowid;

-- Retention: until a day after expires_at.
create table sessions (
    id blob primary key,
    tenant_id blob,
    subject_id blob not null,
    mode text not null,
    expires_at integer not null,
    ended_at integer
) without rowid;
create index sessions_by_subject on sessions (subject_id, id);

create table api_keys (
    id blob primary key,
    tenant_id blob not null,
    name text not null,
    mode text not null,
    permissions text not null,
    secret_hash blob not null unique,
    hint text not null,
    revoked_at integer
) without rowid;
create index api_keys_by_tenant on api_keys (tenant_id, id);

-- Retention: the throttling window.
create table login_failures (
    subject text not null,
    at integer not null,
    n integer not null,
    primary key (subject, at, n)
) without rowid;

create table plans (
    id blob primary key,
    provider text not null,
    upstream_plan_id text not null,
    name text not null,
    plan_type text not null,
    countries text not null,
    region text,
    data_mb integer,
    daily_data_mb integer,
    unlimited integer not null,
    validity_days integer not null,
    price integer not null,
    currency text not null,
    speed text,
    networks text not null,
    activation text not null,
    top_up_supported integer not null,
    description text,
    fair_use text,
    withdrawn_at integer,
    unique (provider, upstream_plan_id)
) without rowid;

-- For ever. order_number is counted per tenant and mode.
create table orders (
    id blob primary key,
    tenant_id blob not null,
    mode text not null,
    checkout_id blob not null,
    number text not null,
    plan_id blob not null,
    plan_name text not null,
    quantity integer not null,
    unit_price integer not null,
    refunded integer not null,
    currency text not null,
    status text not null,
    completed_at integer,
    failure_reason text,
    timeline text not null
) without rowid;

-- The one erasable row of an order: everything about the traveller, and the partner's free text.
create table travellers (
    order_id blob primary key,
    tenant_id blob not null,
    email text,
    customer_name text,
    phone text,
    reference text
) without rowid;

-- An eSIM has no row while it is pending. Its id is its order's id plus its position.
create table esims (
    id blob primary key,
    tenant_id blob not null,
    state text not null,
    profile_status text not null,
    plan_status text not null,
    placement integer not null,
    iccid text,
    smdp_address text,
    matching_id text,
    activation_code text,
    confirmation_code text,
    apn text,
    msisdn text,
    pin text,
    puk text,
    install_by integer,
    delivered_at integer,
    refunded integer not null,
    cancel_failure text
) without rowid;

create table placements (
    order_id blob not null,
    k integer not null,
    tenant_id blob not null,
    provider text not null,
    upstream_plan_id text not null,
    quantity integer not null,
    state text not null,
    unknown_since integer,
    not_found integer not null,
    cannot_tell integer not null,
    failures integer not null,
    answers text not null,
    primary key (order_id, k)
) without rowid;

-- A finished job has no row.
create table jobs (
    id blob primary key,
    kind text not null,
    order_id blob not null,
    tenant_id blob not null,
    state text not null,
    attempts integer not null,
    run_at integer not null,
    reason text
) without rowid;
create index jobs_due on jobs (run_at) where state <> 'dead';
create index jobs_dead on jobs (id) where state = 'dead';

-- For ever, append-only. A purchase has the id of its order.
create table ledger_entries (
    id blob primary key,
    tenant_id blob not null,
    mode text not null,
    position integer not null,
    kind text not null,
    source text not null,
    target text not null,
    amount integer not null,
    currency text not null,
    balance_after integer not null,
    order_id blob,
    top_up_id blob,
    hash blob not null
) without rowid;

-- The operator's words for an adjustment or a refund; kept out of the chain, so that they can be erased.
create table entry_notes (
    entry_id blob primary key,
    tenant_id blob not null,
    note text not null
) without rowid;

create table top_ups (
    id blob primary key,
    tenant_id blob not null,
    mode text not null,
    amount integer not null,
    currency text not null,
    payment_method text not null,
    status text not null,
    reference text unique,
    transfer_proof_url text,
    rejection_reason text,
    credited integer,
    expires_at integer not null,
    paid_at integer
) without rowid;
create index top_ups_by_tenant on top_ups (tenant_id, mode, id);
create index top_ups_pending on top_ups (expires_at) where status = 'pending';

create table inquiries (
    id blob primary key,
    full_name text not null,
    email text not null,
    company_name text,
    phone text,
    inquiry_type text not null,
    message text not null,
    handled_at integer
) without rowid;

-- For ever, append-only. Ids, amounts and codes only.
create table audit_log (
    id blob primary key,
    operator_id blob not null,
    action text not null,
    subject text not null,
    detail text not null,
    address text not null,
    hash blob not null
) without rowid;

-- The operator's words for a change; kept out of the chain, so that they can be erased.
create table audit_reasons (
    audit_id blob primary key,
    reason text not null
) without rowid;

-- Retention: idempotency.keep_hours.
create table idempotency_keys (
    result_id blob primary key,
    key_hash blob not null,
    body_hash blob not null,
    made integer not null
) without rowid;

-- The older keys, moved here in sorted batches once memory holds enough.
create table idempotency_index (
    key_hash blob primary key,
    result_id blob not null
) without rowid;

-- Filled from the ledger behind the commits up to settings.index_watermark.
create table index_entries (
    tenant_id blob not null,
    mode text not null,
    kind text not null,
    key text not null,
    id blob not null,
    primary key (tenant_id, mode, kind, key, id)
) without rowid;

-- Signing and link keys, wrapped by the master key.
create table secret_keys (
    purpose text not null,
    version integer not null,
    wrapped blob not null,
    made_at integer not null,
    retired_at integer,
    primary key (purpose, version)
) without rowid;
