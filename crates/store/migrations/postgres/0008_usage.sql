-- What an upstream said last of an eSIM's data. Asked for again from fresh_until on.
create table esim_usage (
    esim_id bytea primary key,
    tenant_id bytea not null,
    used_bytes bigint,
    total_bytes bigint,
    as_of bigint,
    activated_at bigint,
    expires_at bigint,
    life text collate "C" not null,
    fetched_at bigint not null,
    fresh_until bigint not null
);

-- The eSIMs that are asked for by themselves until nothing more happens to them: those of connected upstreams. What
-- names one to its upstream stands beside it, so that its news finds it; since is when it came to be what it is.
create table esim_watches (
    esim_id bytea primary key,
    tenant_id bytea not null,
    upstream text collate "C" not null,
    placement bigint not null,
    upstream_order text collate "C",
    handle text collate "C",
    iccid text collate "C" not null,
    next_ask_at bigint not null,
    since bigint not null
);
create index esim_watches_due on esim_watches (upstream, next_ask_at);
create index esim_watches_by_iccid on esim_watches (upstream, iccid);
create index esim_watches_by_order on esim_watches (upstream, upstream_order) where upstream_order is not null;

-- Those that are there already. An eSIM's order has the largest id below its own.
insert into esim_watches
    select e.id, e.tenant_id, p.provider, p.k, p.upstream_order, e.upstream_handle, e.iccid, e.delivered_at,
        e.delivered_at
    from esims e
    cross join lateral (select o.order_id from placements o where o.order_id < e.id order by o.order_id desc limit 1) bought
    join placements p on p.k = e.placement and p.order_id = bought.order_id
    where e.state in ('delivered', 'cancelling') and e.iccid is not null and e.delivered_at is not null
        and p.provider in (select name from connections);
