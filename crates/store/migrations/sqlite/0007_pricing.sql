-- What prices follow from, beside the costs of offers (docs/decisions/0016).

-- Changes with every change of rates and rules, and of what connections sell; who changes them holds this row.
insert into settings (name, value) values ('pricing_version', '0');

-- Whom rules for a tier are for.
alter table tenants add column tier text;

-- A rate whose time has come is never changed: a newer one takes its place.
create table rates (
    currency_from text not null,
    currency_to text not null,
    valid_from integer not null,
    units integer not null,
    decimals integer not null,
    primary key (currency_from, currency_to, valid_from)
) without rowid;
create index rates_by_time on rates (valid_from, currency_from, currency_to);

-- What is put on top of a cost. A rule is never changed: it ends, and another one begins; the audit log has both.
create table markup_rules (
    id blob primary key,
    connection text,
    region text,
    country text,
    plan_id blob,
    tier text,
    tenant_id blob,
    percent integer not null,
    fixed integer not null,
    floor integer,
    rounding text not null,
    currency text not null
) without rowid;
