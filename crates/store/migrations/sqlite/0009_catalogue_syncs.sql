-- When each connection's list was read, what came of it, and who reads it now. One row for each connection, made at the
-- first time; listed, left_out and what follows are of the last list that came.
create table catalogue_syncs (
    connection text primary key,
    state text not null,
    run integer not null,
    lease_until integer,
    next_at integer,
    failures integer not null,
    started_at integer not null,
    finished_at integer,
    read_at integer,
    detail text not null,
    listed integer not null,
    left_out text not null,
    changes text not null,
    plans_made integer not null,
    plans_withdrawn integer not null,
    plans_back integer not null
) without rowid;

-- What an offer cost before and after a change, in the upstream's precision; nothing where it was not there, and where
-- an older program told the change.
alter table offer_changes add column cost_before text;
alter table offer_changes add column cost_after text;
