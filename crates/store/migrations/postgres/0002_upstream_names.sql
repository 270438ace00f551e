-- What an upstream calls an order and an eSIM: some are asked by nothing else.
alter table placements add column upstream_order text collate "C";
alter table esims add column upstream_handle text collate "C";
