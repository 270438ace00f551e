-- A job stands in the lane of the upstream it will ask, so that one that is slow holds up nobody else's. Without a name
-- it still has to be routed: so do those that an older program writes.
alter table jobs add column upstream text collate "C" not null default '';
drop index jobs_due;
create index jobs_due on jobs (upstream, run_at) where state <> 'dead';

-- What the upstream asks for, in its own currency and precision, and in the order's.
alter table placements add column cost_units bigint;
alter table placements add column cost_decimals bigint;
alter table placements add column cost_currency text collate "C";
alter table placements add column cost bigint;
