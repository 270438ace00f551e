-- A job stands in the lane of the upstream it will ask, so that one that is slow holds up nobody else's. Without a name
-- it still has to be routed.
alter table jobs add column upstream text not null default '';
drop index jobs_due;
create index jobs_due on jobs (upstream, run_at) where state <> 'dead';

-- What the upstream asks for, in its own currency and precision, and in the order's.
alter table placements add column cost_units integer;
alter table placements add column cost_decimals integer;
alter table placements add column cost_currency text;
alter table placements add column cost integer;
