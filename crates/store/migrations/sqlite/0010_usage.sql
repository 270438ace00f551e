-- What an upstream said last of an eSIM's data. Asked for again from fresh_until on.
create table esim_usage (
    esim_id blob primary key,
    tenant_id blob not null,
    used_bytes integer,
    total_bytes integer,
    as_of integer,
    activated_at integer,
    expires_at integer,
    life text not null,
    fetched_at integer not null,
    fresh_until integer not null
) without rowid;

-- The eSIMs that are asked for by themselves until nothing more happens to them: those of connected upstreams. What
-- names one to its upstream stands beside it, so that its news finds it; since is when it came to be what it is.
create table esim_watches (
    esim_id blob primary key,
    tenant_id blob not null,
    upstream text not null,
    placement integer not null,
    upstream_order text,
    handle text,
    iccid text not null,
    next_ask_at integer not null,
    since integer not null
) without rowid;
create index esim_watches_due on esim_watches (upstream, next_ask_at);
create index esim_watches_by_iccid on esim_watches (upstream, iccid);
create index esim_watches_by_order on esim_watches (upstream, upstream_order) where upstream_order is not null;

-- Those that are there already. An eSIM's order has the largest id below its own.
insert into esim_watches
    select e.id, e.tenant_id, p.provider, p.k, p.upstream_order, e.upstream_handle, e.iccid, e.delivered_at,
        e.delivered_at
    from esims e
    join placements p
        on p.k = e.placement and p.order_id = (select max(o.order_id) from placements o where o.order_id < e.id)
    where e.state in ('delivered', 'cancelling') and e.iccid is not null and e.delivered_at is not null
        and p.provider in (select name from connections);
