//! The audit log: who changed what, when and from where. Append-only and chained like the ledger;
//! the head of the chain lies in the settings.

use crate::port::{Fault, Lock, Row, Snapshot, Tx, collect, row};
use domain::id::{AuditId, OperatorId};
use sha2::{Digest, Sha256};

/// Who acts, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// The operator.
    pub operator: OperatorId,
    /// The address the request came from.
    pub address: String,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id; its time, too.
    pub id: AuditId,
    /// Who.
    pub operator: OperatorId,
    /// What, as `noun.verb`.
    pub action: String,
    /// The id of what was changed.
    pub subject: String,
    /// Amounts and codes.
    pub detail: String,
    /// The operator's reason: kept outside of the chain, so that it can be erased.
    pub reason: Option<String>,
    /// From where.
    pub address: String,
}

fn link(previous: &[u8], record: &Record) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let (id, operator) = (*record.id.as_bytes(), *record.operator.as_bytes());
    let fields: [&[u8]; 7] = [
        previous,
        &id,
        &operator,
        record.action.as_bytes(),
        record.subject.as_bytes(),
        record.detail.as_bytes(),
        record.address.as_bytes(),
    ];
    for field in fields {
        hasher.update(u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(field);
    }
    hasher.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of the last record; kept apart from the records, so that a cut-off tail is missed.
fn head(snapshot: &mut dyn Snapshot) -> Result<Vec<u8>, Fault> {
    let stored = row(snapshot, "select value from settings where name = 'audit_head'", &[], |row| {
        row.text(0).map(str::to_owned)
    })?
    .unwrap_or_default();
    let byte = |at: usize| stored.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    Ok((0..stored.len()).step_by(2).map_while(byte).collect())
}

/// Appends a record, in the transaction of the change it is about.
pub(crate) fn write(
    tx: &mut dyn Tx,
    act: &Act,
    action: &str,
    subject: &str,
    detail: &str,
    reason: Option<&str>,
) -> Result<(), Fault> {
    tx.lock(Lock::Audit)?;
    let newest = row(tx, "select id from audit_log order by id desc limit 1", &[], |row| {
        Ok(AuditId::from_slice(row.bytes(0)?)?)
    })?;
    newest.into_iter().for_each(|newest| tx.go_above(newest.uuid()));
    let previous = head(tx)?;
    let record = Record {
        id: AuditId::new(tx.fresh_id()),
        operator: act.operator,
        action: action.to_owned(),
        subject: subject.to_owned(),
        detail: detail.to_owned(),
        reason: None,
        address: act.address.clone(),
    };
    let hash = link(&previous, &record);
    tx.change(
        "insert into audit_log (id, operator_id, action, subject, detail, address, hash)
         values ($1, $2, $3, $4, $5, $6, $7)",
        &[
            record.id.as_bytes().into(),
            record.operator.as_bytes().into(),
            action.into(),
            subject.into(),
            detail.into(),
            (&record.address).into(),
            (&hash).into(),
        ],
    )?;
    if let Some(reason) = reason {
        tx.change(
            "insert into audit_reasons (audit_id, reason) values ($1, $2)",
            &[record.id.as_bytes().into(), reason.into()],
        )?;
    }
    tx.execute(
        "insert into settings (name, value) values ('audit_head', $1)
         on conflict (name) do update set value = excluded.value",
        &[(&hex(&hash)).into()],
    )?;
    Ok(())
}

fn record(row: &dyn Row) -> Result<Record, Fault> {
    Ok(Record {
        id: AuditId::from_slice(row.bytes(0)?)?,
        operator: OperatorId::from_slice(row.bytes(1)?)?,
        action: row.text(2)?.to_owned(),
        subject: row.text(3)?.to_owned(),
        detail: row.text(4)?.to_owned(),
        address: row.text(5)?.to_owned(),
        reason: row.opt_text(6)?.map(str::to_owned),
    })
}

/// Records below `cursor`, newest first.
///
/// # Errors
/// [`Fault`].
pub fn list(
    snapshot: &mut dyn Snapshot,
    action: Option<&str>,
    subject: Option<&str>,
    cursor: Option<AuditId>,
    limit: u32,
) -> Result<Vec<Record>, Fault> {
    let below = cursor.map_or_else(uuid::Uuid::max, AuditId::uuid);
    collect(
        snapshot,
        "select id, operator_id, action, subject, detail, address, reason
         from audit_log left join audit_reasons on audit_id = id
         where id < $1 and (action = $2 or $2 is null) and (subject = $3 or $3 is null) order by id desc limit $4",
        &[below.as_bytes().into(), action.into(), subject.into(), limit.into()],
        record,
    )
}

/// Walks the whole chain and returns the id of the first record that does not fit, or `head` where the
/// chain does not end as it was left.
///
/// # Errors
/// [`Fault`].
pub fn check(snapshot: &mut dyn Snapshot) -> Result<Option<String>, Fault> {
    let mut previous: Vec<u8> = Vec::new();
    let mut broken = None;
    snapshot.rows(
        "select id, operator_id, action, subject, detail, address, null, hash from audit_log order by id",
        &[],
        &mut |row| {
            // What cannot be read was changed, too.
            let (found, hash) = (record(row), row.bytes(7).unwrap_or_default());
            let fits = found.as_ref().is_ok_and(|found| link(&previous, found) == hash);
            if broken.is_none() && !fits {
                let id = row.bytes(0).unwrap_or_default();
                broken = Some(found.map_or_else(|_| hex(id), |found| found.id.to_string()));
            }
            previous = hash.to_vec();
            Ok(())
        },
    )?;
    if broken.is_none() && head(snapshot)? != previous {
        broken = Some("head".to_owned());
    }
    Ok(broken)
}
