-- What prices follow from, beside the costs of offers (docs/decisions/0016).

-- Changes with every change of rates and rules, and of what connections sell; who changes them holds this row.
insert into settings (name, value) values ('pricing_version', '0');

-- Whom rules for a tier are for.
alter table tenants add column tier text collate "C";

-- A rate whose time has come is never changed: a newer one takes its place.
create table rates (
    currency_from text collate "C" not null,
    currency_to text collate "C" not null,
    valid_from bigint not null,
    units bigint not null,
    decimals bigint not null,
    primary key (currency_from, currency_to, valid_from)
);
create index rates_by_time on rates (valid_from, currency_from, currency_to);

-- What is put on top of a cost. A rule is never changed: it ends, and another one begins; the audit log has both.
create table markup_rules (
    id bytea primary key,
    connection text collate "C",
    region text collate "C",
    country text collate "C",
    plan_id bytea,
    tier text collate "C",
    tenant_id bytea,
    percent bigint not null,
    fixed bigint not null,
    floor bigint,
    rounding text collate "C" not null,
    currency text collate "C" not null
);
