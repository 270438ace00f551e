-- The first schema on PostgreSQL. It says the same as the one on SQLite (a test compares them), with the same rules:
-- 64-bit integers (money in minor units, time in Unix milliseconds), text and bytes only; ids are version 7 UUIDs, so
-- every table appends. Text is compared byte by byte, as SQLite does.

create table settings (
    name text collate "C" primary key,
    value text collate "C" not null
);

create table tenants (
    id bytea primary key,
    number bigint not null unique,
    name text collate "C" not null,
    subdomain text collate "C" not null unique,
    contact_email text collate "C" not null,
    status text collate "C" not null,
    currency text collate "C" not null
);

-- One row per tenant and mode: the lock of a tenant's commands, the cached balance and the head of its chain. Ids made
-- under the lock are larger than last_entry, whatever the clocks of the nodes say.
create table balances (
    tenant_id bytea not null,
    mode text collate "C" not null,
    balance bigint not null,
    credit_limit bigint not null,
    entry_count bigint not null,
    entry_hash bytea not null,
    order_count bigint not null,
    last_entry bytea,
    primary key (tenant_id, mode)
) with (fillfactor = 50);

create table users (
    id bytea primary key,
    tenant_id bytea not null,
    email text collate "C" not null unique,
    password_hash text collate "C" not null
);
create index users_by_tenant on users (tenant_id, id);

create table operators (
    id bytea primary key,
    email text collate "C" not null unique,
    password_hash text collate "C" not null,
    role text collate "C" not null
);

-- Retention: until a day after expires_at.
create table sessions (
    id bytea primary key,
    tenant_id bytea,
    subject_id bytea not null,
    mode text collate "C" not null,
    expires_at bigint not null,
    ended_at bigint
);
create index sessions_by_subject on sessions (subject_id, id);

create table api_keys (
    id bytea primary key,
    tenant_id bytea not null,
    name text collate "C" not null,
    mode text collate "C" not null,
    permissions text collate "C" not null,
    secret_hash bytea not null unique,
    hint text collate "C" not null,
    revoked_at bigint
);
create index api_keys_by_tenant on api_keys (tenant_id, id);

-- Retention: the throttling window.
create table login_failures (
    subject text collate "C" not null,
    at bigint not null,
    n bigint not null,
    primary key (subject, at, n)
);

create table plans (
    id bytea primary key,
    provider text collate "C" not null,
    upstream_plan_id text collate "C" not null,
    name text collate "C" not null,
    plan_type text collate "C" not null,
    countries text collate "C" not null,
    region text collate "C",
    data_mb bigint,
    daily_data_mb bigint,
    unlimited bigint not null,
    validity_days bigint not null,
    price bigint not null,
    currency text collate "C" not null,
    speed text collate "C",
    networks text collate "C" not null,
    activation text collate "C" not null,
    top_up_supported bigint not null,
    description text collate "C",
    fair_use text collate "C",
    withdrawn_at bigint,
    unique (provider, upstream_plan_id)
);

-- For ever. order_number is counted per tenant and mode.
create table orders (
    id bytea primary key,
    tenant_id bytea not null,
    mode text collate "C" not null,
    checkout_id bytea not null,
    number text collate "C" not null,
    plan_id bytea not null,
    plan_name text collate "C" not null,
    quantity bigint not null,
    unit_price bigint not null,
    refunded bigint not null,
    currency text collate "C" not null,
    status text collate "C" not null,
    completed_at bigint,
    failure_reason text collate "C",
    timeline text collate "C" not null
) with (fillfactor = 75);

-- The one erasable row of an order: everything about the traveller, and the partner's free text collate "C".
create table travellers (
    order_id bytea primary key,
    tenant_id bytea not null,
    email text collate "C",
    customer_name text collate "C",
    phone text collate "C",
    reference text collate "C"
);

-- An eSIM has no row while it is pending. Its id is its order's id plus its position.
create table esims (
    id bytea primary key,
    tenant_id bytea not null,
    state text collate "C" not null,
    profile_status text collate "C" not null,
    plan_status text collate "C" not null,
    placement bigint not null,
    iccid text collate "C",
    smdp_address text collate "C",
    matching_id text collate "C",
    activation_code text collate "C",
    confirmation_code text collate "C",
    apn text collate "C",
    msisdn text collate "C",
    pin text collate "C",
    puk text collate "C",
    install_by bigint,
    delivered_at bigint,
    refunded bigint not null,
    cancel_failure text collate "C"
);

create table placements (
    order_id bytea not null,
    k bigint not null,
    tenant_id bytea not null,
    provider text collate "C" not null,
    upstream_plan_id text collate "C" not null,
    quantity bigint not null,
    state text collate "C" not null,
    unknown_since bigint,
    not_found bigint not null,
    cannot_tell bigint not null,
    failures bigint not null,
    answers text collate "C" not null,
    primary key (order_id, k)
) with (fillfactor = 60);

-- A finished job has no row.
create table jobs (
    id bytea primary key,
    kind text collate "C" not null,
    order_id bytea not null,
    tenant_id bytea not null,
    state text collate "C" not null,
    attempts bigint not null,
    run_at bigint not null,
    reason text collate "C",
    lease bigint
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index jobs_due on jobs (run_at) where state <> 'dead';
create index jobs_dead on jobs (id) where state = 'dead';

-- For ever, append-only. A purchase has the id of its order.
create table ledger_entries (
    id bytea primary key,
    tenant_id bytea not null,
    mode text collate "C" not null,
    position bigint not null,
    kind text collate "C" not null,
    source text collate "C" not null,
    target text collate "C" not null,
    amount bigint not null,
    currency text collate "C" not null,
    balance_after bigint not null,
    order_id bytea,
    top_up_id bytea,
    hash bytea not null
);

-- The operator's words for an adjustment or a refund; kept out of the chain, so that they can be erased.
create table entry_notes (
    entry_id bytea primary key,
    tenant_id bytea not null,
    note text collate "C" not null
);

create table top_ups (
    id bytea primary key,
    tenant_id bytea not null,
    mode text collate "C" not null,
    amount bigint not null,
    currency text collate "C" not null,
    payment_method text collate "C" not null,
    status text collate "C" not null,
    reference text collate "C" unique,
    transfer_proof_url text collate "C",
    rejection_reason text collate "C",
    credited bigint,
    expires_at bigint not null,
    paid_at bigint
);
create index top_ups_by_tenant on top_ups (tenant_id, mode, id);
create index top_ups_pending on top_ups (expires_at) where status = 'pending';

create table inquiries (
    id bytea primary key,
    full_name text collate "C" not null,
    email text collate "C" not null,
    company_name text collate "C",
    phone text collate "C",
    inquiry_type text collate "C" not null,
    message text collate "C" not null,
    handled_at bigint
);

-- For ever, append-only. Ids, amounts and codes only.
create table audit_log (
    id bytea primary key,
    operator_id bytea not null,
    action text collate "C" not null,
    subject text collate "C" not null,
    detail text collate "C" not null,
    address text collate "C" not null,
    hash bytea not null
);

-- The operator's words for a change; kept out of the chain, so that they can be erased.
create table audit_reasons (
    audit_id bytea primary key,
    reason text collate "C" not null
);

-- Retention: idempotency.keep_hours.
create table idempotency_keys (
    result_id bytea primary key,
    key_hash bytea not null,
    body_hash bytea not null,
    made bigint not null
);
create unique index idempotency_keys_by_key on idempotency_keys (key_hash);

-- Empty: where many nodes share the keys, none of them is in memory only.
create table idempotency_index (
    key_hash bytea primary key,
    result_id bytea not null
);

-- The search index, kept by the transactions themselves: tenant, mode, kind and key, a zero, and the id of what is
-- listed, as one value (store/src/index.rs).
create table index_entries (
    entry bytea primary key
);

-- Signing and link keys, wrapped by the master key.
create table secret_keys (
    purpose text collate "C" not null,
    version bigint not null,
    wrapped bytea not null,
    made_at bigint not null,
    retired_at bigint,
    primary key (purpose, version)
);

-- The ICCIDs an order has before its last eSIM is there, while nothing in the ledger tells the index of them.
create table early_iccids (
    tenant_id bytea not null,
    mode text collate "C" not null,
    iccid text collate "C" not null,
    order_id bytea not null,
    primary key (tenant_id, mode, iccid, order_id)
);

-- One row per transaction that wrote: whoever lost the connection during a commit asks here what became of it.
-- Retention: a day.
create table commits (
    id bytea primary key
);

-- What only one transaction does at a time is done holding one of these rows.
insert into settings (name, value) values ('lock:audit', ''), ('lock:registration', '');
