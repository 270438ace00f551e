-- When each connection's list was read, what came of it, and who reads it now. One row for each connection, made at the
-- first time; listed, left_out and what follows are of the last list that came.
create table catalogue_syncs (
    connection text collate "C" primary key,
    state text collate "C" not null,
    run bigint not null,
    lease_until bigint,
    next_at bigint,
    failures bigint not null,
    started_at bigint not null,
    finished_at bigint,
    read_at bigint,
    detail text collate "C" not null,
    listed bigint not null,
    left_out text collate "C" not null,
    changes text collate "C" not null,
    plans_made bigint not null,
    plans_withdrawn bigint not null,
    plans_back bigint not null
);

-- What an offer cost before and after a change, in the upstream's precision; nothing where it was not there, and where
-- an older program told the change.
alter table offer_changes add column cost_before text collate "C";
alter table offer_changes add column cost_after text collate "C";
