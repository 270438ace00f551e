-- Where our books and an upstream's view differ. For ever: they are few, and about money.
create table differences (
    id bytea primary key,
    connection text collate "C" not null,
    kind text collate "C" not null,
    reference text collate "C" not null,
    upstream_order text collate "C",
    detail text collate "C" not null,
    settled_at bigint,
    unique (connection, kind, reference)
);

-- When a connection's books were last compared, and below which balance there the operator is warned.
alter table connections add column reconciled_at bigint;
alter table connections add column low_balance text collate "C";
