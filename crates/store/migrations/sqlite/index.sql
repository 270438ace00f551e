-- The search index: derived from the ledger up to the watermark, made anew when it is missing.

create table index_watermark (
    entry_id blob not null
);

-- Tenant, mode, kind and key, a zero, and the id of what is listed, as one value (store/src/index.rs).
create table index_entries (
    entry blob primary key
) without rowid;
