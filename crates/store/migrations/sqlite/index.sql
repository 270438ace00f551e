-- The search index: derived from the ledger up to the watermark, made anew when it is missing.

create table index_watermark (
    entry_id blob not null
);

-- Tenant, mode, kind and key, a zero, and the id of what is listed, as one value (store/src/index.rs). New rows come to
-- level 0; a level that is full is moved to the next one in the order of keys (store/src/sqlite/levels.rs).
create table index_level_0 (
    entry blob primary key
) without rowid;
create table index_level_1 (
    entry blob primary key
) without rowid;
create table index_level_2 (
    entry blob primary key
) without rowid;

-- About how many rows a level has that is moved on when it is full, and up to which row it was moved, while it is.
create table index_levels (
    level integer primary key,
    entries integer not null,
    moved blob
) without rowid;
insert into index_levels (level, entries) values (0, 0), (1, 0);

-- A row may be in two levels for a while.
create view index_entries as
    select entry from index_level_0 union all
    select entry from index_level_1 union all
    select entry from index_level_2;
