-- What connected upstreams offer. A plan is what we sell, an offer is what an upstream sells (docs/decisions/0015).

-- Who says what a plan costs, who took it off sale, and a number that grows with each change of it or of its offers.
alter table plans add column priced_by text not null default 'operator';
alter table plans add column withdrawn_by text;
alter table plans add column revision integer not null default 0;
update plans set withdrawn_by = 'operator' where withdrawn_at is not null;
update plans set revision = numbered.place
    from (select id, row_number() over (order by id) as place from plans) as numbered where plans.id = numbered.id;
create index plans_by_revision on plans (revision);

-- The last revision that was given out; who changes plans holds this row.
insert into settings (name, value) select 'plans_revision', cast(count(*) as text) from plans;

-- For ever: an offer that comes back belongs to the plan it had. What it says beside name and cost lies in content;
-- details is its fingerprint.
create table offers (
    connection text not null,
    upstream_plan_id text not null,
    plan_id blob not null,
    identity text not null,
    details text not null,
    name text not null,
    cost_units integer not null,
    cost_decimals integer not null,
    cost_currency text not null,
    held integer not null,
    withdrawn_at integer,
    changed_at integer not null,
    content text not null,
    primary key (connection, upstream_plan_id)
) without rowid;
create index offers_by_plan on offers (plan_id);

-- Retention: 90 days.
create table offer_changes (
    id blob primary key,
    connection text not null,
    upstream_plan_id text not null,
    plan_id blob not null,
    change text not null,
    detail text not null
) without rowid;
create index offer_changes_by_connection on offer_changes (connection, id);
create index offer_changes_by_offer on offer_changes (connection, upstream_plan_id, id);
