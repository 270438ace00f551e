-- What connected upstreams offer. A plan is what we sell, an offer is what an upstream sells (docs/decisions/0015).

-- Who says what a plan costs, who took it off sale, and a number that grows with each change of it or of its offers.
alter table plans add column priced_by text collate "C" not null default 'operator';
alter table plans add column withdrawn_by text collate "C";
alter table plans add column revision bigint not null default 0;
update plans set withdrawn_by = 'operator' where withdrawn_at is not null;
update plans set revision = numbered.place
    from (select id, row_number() over (order by id) as place from plans) as numbered where plans.id = numbered.id;
create index plans_by_revision on plans (revision);

-- The last revision that was given out; who changes plans holds this row.
insert into settings (name, value) select 'plans_revision', cast(count(*) as text) from plans;

-- For ever: an offer that comes back belongs to the plan it had. What it says beside name and cost lies in content;
-- details is its fingerprint.
create table offers (
    connection text collate "C" not null,
    upstream_plan_id text collate "C" not null,
    plan_id bytea not null,
    identity text collate "C" not null,
    details text collate "C" not null,
    name text collate "C" not null,
    cost_units bigint not null,
    cost_decimals bigint not null,
    cost_currency text collate "C" not null,
    held bigint not null,
    withdrawn_at bigint,
    changed_at bigint not null,
    content text collate "C" not null,
    primary key (connection, upstream_plan_id)
);
create index offers_by_plan on offers (plan_id);

-- Retention: 90 days.
create table offer_changes (
    id bytea primary key,
    connection text collate "C" not null,
    upstream_plan_id text collate "C" not null,
    plan_id bytea not null,
    change text collate "C" not null,
    detail text collate "C" not null
);
create index offer_changes_by_connection on offer_changes (connection, id);
create index offer_changes_by_offer on offer_changes (connection, upstream_plan_id, id);
