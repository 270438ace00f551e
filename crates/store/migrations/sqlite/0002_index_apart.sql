-- The search index lies in a file of its own, filled by a writer of its own (see docs/decisions/0003). It is made anew
-- from the ledger.

drop table index_entries;
delete from settings where name = 'index_watermark';

-- The ICCIDs an order has before its last eSIM is there, while nothing in the ledger tells the index of them.
create table early_iccids (
    tenant_id blob not null,
    mode text not null,
    iccid text not null,
    order_id blob not null,
    primary key (tenant_id, mode, iccid, order_id)
) without rowid;
