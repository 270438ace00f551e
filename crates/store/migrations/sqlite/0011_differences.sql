-- Where our books and an upstream's view differ. For ever: they are few, and about money.
create table differences (
    id blob primary key,
    connection text not null,
    kind text not null,
    reference text not null,
    upstream_order text,
    detail text not null,
    settled_at integer,
    unique (connection, kind, reference)
) without rowid;

-- When a connection's books were last compared, and below which balance there the operator is warned.
alter table connections add column reconciled_at integer;
alter table connections add column low_balance text;
