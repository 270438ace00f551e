-- The operator's accounts at upstreams. What lets one in is sealed under a key of secret_keys, of version key_version.
create table connections (
    id bytea primary key,
    name text collate "C" not null unique,
    provider text collate "C" not null,
    base_url text collate "C" not null,
    sealed bytea not null,
    key_version bigint not null,
    enabled bigint not null,
    priority bigint not null,
    calls_per_second bigint,
    calls_in_flight bigint not null,
    time_limit_ms bigint not null,
    verified_at bigint,
    verified bigint,
    verification text collate "C",
    balance_units bigint,
    balance_decimals bigint,
    balance_currency text collate "C"
);

-- What upstreams told by themselves. Retention: 30 days.
create table notices (
    id bytea primary key,
    connection text collate "C" not null,
    notice_key text collate "C" not null,
    event text collate "C" not null,
    upstream_order text collate "C",
    reference text collate "C",
    handle text collate "C",
    iccid text collate "C",
    body text collate "C" not null,
    unique (connection, notice_key)
);
