//! Keys the platform makes for itself, wrapped by the master key; shared by all nodes of a database.

use crate::port::{Decision, Fault, Row, Snapshot, Tx, collect, refuse};
use domain::time::Timestamp;
use domain::words;
use std::convert::Infallible;

words! {
    /// What a key is for.
    pub enum Purpose {
        /// Signs login tokens.
        Token = "token",
        /// Signs the traveller's links.
        Link = "link",
        /// Seals what lets one in at upstreams.
        Connection = "connection",
    }
}

/// A wrapped key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// What it is for.
    pub purpose: Purpose,
    /// Its version, from 1; the highest one signs, all that are not retired verify.
    pub version: i64,
    /// The key, encrypted with the master key.
    pub wrapped: Vec<u8>,
}

fn secret_key(row: &dyn Row) -> Result<SecretKey, Fault> {
    Ok(SecretKey { purpose: row.text(0)?.parse()?, version: row.int(1)?, wrapped: row.bytes(2)?.to_vec() })
}

/// All keys that still verify, oldest first.
///
/// # Errors
/// [`Fault`].
pub fn all(snapshot: &mut dyn Snapshot) -> Result<Vec<SecretKey>, Fault> {
    collect(
        snapshot,
        "select purpose, version, wrapped from secret_keys where retired_at is null order by purpose, version",
        &[],
        secret_key,
    )
}

/// All keys, retired ones too.
///
/// # Errors
/// [`Fault`].
pub fn every(snapshot: &mut dyn Snapshot) -> Result<Vec<SecretKey>, Fault> {
    collect(snapshot, "select purpose, version, wrapped from secret_keys order by purpose, version", &[], secret_key)
}

/// There are other keys than those that were to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysChanged;

/// Replaces all keys by themselves, wrapped otherwise: all of them or none.
///
/// # Errors
/// [`KeysChanged`].
pub fn replace(tx: &mut dyn Tx, keys: &[(SecretKey, SecretKey)]) -> Decision<(), KeysChanged> {
    let there = every(tx)?;
    if there.len() != keys.len() {
        return refuse(KeysChanged);
    }
    for (old, new) in keys {
        let replaced = tx.execute(
            "update secret_keys set wrapped = $1 where purpose = $2 and version = $3 and wrapped = $4",
            &[
                new.wrapped.as_slice().into(),
                new.purpose.word().into(),
                new.version.into(),
                old.wrapped.as_slice().into(),
            ],
        )?;
        if replaced != 1 {
            return refuse(KeysChanged);
        }
    }
    Ok(())
}

/// Adds a key, unless there is one of this version already: then another node was faster.
///
/// # Errors
/// [`Fault`].
pub fn add(tx: &mut dyn Tx, key: &SecretKey) -> Decision<(), Infallible> {
    let now = tx.now();
    tx.execute(
        "insert into secret_keys (purpose, version, wrapped, made_at) values ($1, $2, $3, $4) on conflict do nothing",
        &[key.purpose.word().into(), key.version.into(), key.wrapped.as_slice().into(), now.into()],
    )?;
    Ok(())
}

/// Retires the keys of a purpose that were superseded before `before`: what they signed has expired.
///
/// # Errors
/// [`Fault`].
pub fn retire_superseded(tx: &mut dyn Tx, purpose: Purpose, before: Timestamp) -> Decision<usize, Infallible> {
    let now = tx.now();
    Ok(tx.execute(
        "update secret_keys set retired_at = $1 where purpose = $2 and retired_at is null and exists (
             select 1 from secret_keys newer where newer.purpose = secret_keys.purpose
             and newer.version > secret_keys.version and newer.made_at < $3)",
        &[now.into(), purpose.word().into(), before.into()],
    )?)
}
