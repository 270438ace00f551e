-- The operator's accounts at upstreams. What lets one in is sealed under a key of secret_keys, of version key_version.
create table connections (
    id blob primary key,
    name text not null unique,
    provider text not null,
    base_url text not null,
    sealed blob not null,
    key_version integer not null,
    enabled integer not null,
    priority integer not null,
    calls_per_second integer,
    calls_in_flight integer not null,
    time_limit_ms integer not null,
    verified_at integer,
    verified integer,
    verification text,
    balance_units integer,
    balance_decimals integer,
    balance_currency text
) without rowid;

-- What upstreams told by themselves. Retention: 30 days.
create table notices (
    id blob primary key,
    connection text not null,
    notice_key text not null,
    event text not null,
    upstream_order text,
    reference text,
    handle text,
    iccid text,
    body text not null,
    unique (connection, notice_key)
) without rowid;
