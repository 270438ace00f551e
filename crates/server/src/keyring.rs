//! The platform's own keys: made once, kept in the database wrapped by the master key, so that every
//! node over one database accepts what another signed.

use crate::config::MasterKey;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use domain::id::{ConnectionId, EsimId};
use store::Store;
use store::connection::{self, Sealed};
use store::port::Failure;
use store::secret_key::{self, Purpose, SecretKey};

const KEY_BYTES: usize = 32;

/// A key that signs or verifies.
#[derive(Clone)]
pub struct Key {
    /// Its version, from 1.
    pub version: i64,
    /// Its 32 bytes.
    pub secret: [u8; KEY_BYTES],
    hmac: hmac::Key,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("version", &self.version).finish_non_exhaustive()
    }
}

/// The unwrapped keys of one purpose, oldest first; the last one signs.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// The key that signs.
    #[must_use]
    pub fn newest(&self) -> Option<&Key> {
        self.0.last()
    }

    /// The key of a version.
    #[must_use]
    pub fn version(&self, version: i64) -> Option<&Key> {
        self.0.iter().find(|key| key.version == version)
    }
}

/// All unwrapped keys.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    /// Keys of login tokens.
    pub tokens: Keys,
    /// Keys of the traveller's links, and of the addresses upstreams tell us news at.
    pub links: Keys,
    /// Keys that seal what lets one in at upstreams.
    pub connections: Keys,
}

/// Why the keys cannot be used: one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(pub String);

fn cipher(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, KeyError> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| KeyError("the master key must be 32 bytes".to_owned()))
}

fn label(purpose: Purpose, version: i64) -> String {
    format!("esimd {purpose} key {version}")
}

fn connection_label(connection: ConnectionId, version: i64) -> String {
    format!("esimd connection {connection} key {version}")
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| KeyError("the system gives no random numbers".to_owned()))?;
    Ok(bytes)
}

/// A fresh nonce, and behind it what is encrypted and bound to its label.
fn seal(cipher: &LessSafeKey, label: &str, plain: &[u8]) -> Result<Vec<u8>, KeyError> {
    let nonce: [u8; NONCE_LEN] = random()?;
    let mut sealed = plain.to_vec();
    cipher
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(label.as_bytes()), &mut sealed)
        .map_err(|_| KeyError("a key could not be wrapped".to_owned()))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn open(cipher: &LessSafeKey, label: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let mut sealed = sealed.to_vec();
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    cipher.open_in_place(nonce, Aad::from(label.as_bytes()), &mut sealed).ok().map(|plain| plain.to_vec())
}

fn wrap(master: &MasterKey, purpose: Purpose, version: i64) -> Result<SecretKey, KeyError> {
    let secret: [u8; KEY_BYTES] = random()?;
    let wrapped = seal(&cipher(master.expose())?, &label(purpose, version), &secret)?;
    Ok(SecretKey { purpose, version, wrapped })
}

fn unwrap(master: &MasterKey, key: &SecretKey) -> Result<Key, KeyError> {
    let wrong = || {
        KeyError(
            "the keys in the database were wrapped with another master key; start with the one they were made with"
                .to_owned(),
        )
    };
    let opened = open(&cipher(master.expose())?, &label(key.purpose, key.version), &key.wrapped).ok_or_else(wrong)?;
    let secret: [u8; KEY_BYTES] = opened.try_into().map_err(|_| wrong())?;
    Ok(Key { version: key.version, secret, hmac: hmac::Key::new(hmac::HMAC_SHA256, &secret) })
}

fn rewrapped(old: &MasterKey, new: &MasterKey, key: &SecretKey) -> Result<SecretKey, KeyError> {
    let secret = unwrap(old, key)?.secret;
    let wrapped = seal(&cipher(new.expose())?, &label(key.purpose, key.version), &secret)?;
    Ok(SecretKey { wrapped, ..key.clone() })
}

impl Keyring {
    /// Loads the keys, and makes the first of each purpose where there is none.
    ///
    /// # Errors
    /// [`KeyError`], above all when the master key is another one.
    pub async fn load(store: &Store, master: &MasterKey) -> Result<Self, KeyError> {
        let mut wrapped = read_all(store).await?;
        for purpose in Purpose::ALL {
            if !wrapped.iter().any(|key| key.purpose == *purpose) {
                add(store, wrap(master, *purpose, 1)?).await?;
                wrapped = read_all(store).await?;
            }
        }
        let keys = |purpose| -> Result<Keys, KeyError> {
            let of_purpose = wrapped.iter().filter(|key| key.purpose == purpose);
            of_purpose.map(|key| unwrap(master, key)).collect::<Result<Vec<_>, _>>().map(Keys)
        };
        Ok(Self { tokens: keys(Purpose::Token)?, links: keys(Purpose::Link)?, connections: keys(Purpose::Connection)? })
    }

    /// Makes a new key of each purpose; the older ones go on verifying.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn rotate(store: &Store, master: &MasterKey) -> Result<Self, KeyError> {
        let keyring = Self::load(store, master).await?;
        for purpose in Purpose::ALL {
            let newest = keyring.of(*purpose).newest().map_or(0, |key| key.version);
            add(store, wrap(master, *purpose, newest + 1)?).await?;
        }
        let keyring = Self::load(store, master).await?;
        keyring.reseal_connections(store).await?;
        Ok(keyring)
    }

    /// Wraps all keys with another master key, in one transaction: from then on only the new one opens them.
    ///
    /// # Errors
    /// [`KeyError`]; then the old one still opens them all.
    pub async fn rewrap(store: &Store, old: &MasterKey, new: &MasterKey) -> Result<usize, KeyError> {
        let rewrapped = read_every(store)
            .await?
            .iter()
            .map(|key| Ok((key.clone(), rewrapped(old, new, key)?)))
            .collect::<Result<Vec<_>, KeyError>>()?;
        let count = rewrapped.len();
        let replaced = store.write(move |tx| secret_key::replace(tx, &rewrapped)).await;
        replaced.map_err(|failure| match failure {
            Failure::Refused(secret_key::KeysChanged) => {
                KeyError("a key was added meanwhile; nothing changed, try again".to_owned())
            }
            Failure::Fault(fault) => KeyError(fault.to_string()),
        })?;
        Ok(count)
    }

    fn of(&self, purpose: Purpose) -> &Keys {
        match purpose {
            Purpose::Token => &self.tokens,
            Purpose::Link => &self.links,
            Purpose::Connection => &self.connections,
        }
    }

    /// Seals what lets one in at an upstream. It can only be opened as that connection's.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn seal(&self, connection: ConnectionId, plain: &[u8]) -> Result<Sealed, KeyError> {
        let key = self.connections.newest().ok_or_else(|| KeyError("there is no key to seal with".to_owned()))?;
        let bytes = seal(&cipher(&key.secret)?, &connection_label(connection, key.version), plain)?;
        Ok(Sealed { key_version: key.version, bytes })
    }

    /// Opens what [`Keyring::seal`] sealed.
    ///
    /// # Errors
    /// [`KeyError`], when it was changed, or its key is not here.
    pub fn open(&self, connection: ConnectionId, sealed: &Sealed) -> Result<Vec<u8>, KeyError> {
        let wrong = || KeyError("the credentials cannot be opened; set them again".to_owned());
        let key = self.connections.version(sealed.key_version).ok_or_else(wrong)?;
        open(&cipher(&key.secret)?, &connection_label(connection, key.version), &sealed.bytes).ok_or_else(wrong)
    }

    /// Seals what is sealed under an older key again, under the newest.
    async fn reseal_connections(&self, store: &Store) -> Result<(), KeyError> {
        let connections = store.read(connection::all).await.map_err(|fault| KeyError(fault.to_string()))?;
        for connection in connections {
            let plain = self.open(connection.id, &connection.sealed)?;
            let (id, from, to) = (connection.id, connection.sealed, self.seal(connection.id, &plain)?);
            let resealed = store.write(move |tx| connection::reseal(tx, id, &from, &to)).await;
            resealed.map_err(|failure| KeyError(format!("{failure:?}")))?;
        }
        Ok(())
    }

    /// Whether these stored keys are the ones it holds.
    #[must_use]
    pub fn has_all(&self, stored: &[SecretKey]) -> bool {
        stored.len() == Purpose::ALL.iter().map(|purpose| self.of(*purpose).0.len()).sum::<usize>()
            && stored.iter().all(|key| self.of(key.purpose).version(key.version).is_some())
    }

    /// The unguessable part of a traveller's link: the eSIM's id, the key's version, and a 128-bit MAC.
    #[must_use]
    pub fn link_token(&self, esim: EsimId) -> String {
        self.token_of(Link::Esim, *esim.as_bytes())
    }

    /// The eSIM a link names, if the link is one of ours.
    #[must_use]
    pub fn esim_of_link(&self, token: &str) -> Option<EsimId> {
        EsimId::from_slice(&self.named_by(Link::Esim, token)?).ok()
    }

    /// The unguessable part of the address at which a connection's upstream tells us news.
    #[must_use]
    pub fn notice_token(&self, connection: ConnectionId) -> String {
        self.token_of(Link::Notices, *connection.as_bytes())
    }

    /// The connection whose upstream has this address, if it is one of ours.
    #[must_use]
    pub fn connection_of_notice(&self, token: &str) -> Option<ConnectionId> {
        ConnectionId::from_slice(&self.named_by(Link::Notices, token)?).ok()
    }

    fn token_of(&self, link: Link, id: [u8; 16]) -> String {
        let Some(key) = self.links.newest() else { return String::new() };
        let version = u8::try_from(key.version % 256).unwrap_or(0);
        let mut token = [0_u8; 33];
        token[..16].copy_from_slice(&id);
        token[16] = version;
        token[17..].copy_from_slice(&mac(key, link, id));
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token)
    }

    fn named_by(&self, link: Link, token: &str) -> Option<[u8; 16]> {
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token).ok()?;
        let bytes: [u8; 33] = bytes.try_into().ok()?;
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        let mut keys = self.links.0.iter().filter(|key| u8::try_from(key.version % 256) == Ok(bytes[16]));
        keys.any(|key| subtle::ConstantTimeEq::ct_eq(mac(key, link, id).as_slice(), &bytes[17..]).into()).then_some(id)
    }
}

/// What a token is for: one that opens this does not open that.
#[derive(Debug, Clone, Copy)]
enum Link {
    Esim,
    Notices,
}

fn mac(key: &Key, link: Link, id: [u8; 16]) -> [u8; 16] {
    let label: &[u8] = match link {
        Link::Esim => b"esim link:",
        Link::Notices => b"notices of:",
    };
    let tag = hmac::sign(&key.hmac, &[label, &id].concat());
    let mut cut = [0; 16];
    cut.copy_from_slice(&tag.as_ref()[..16]);
    cut
}

/// Retired keys, too: whoever has the old master key must not open them for ever.
async fn read_every(store: &Store) -> Result<Vec<SecretKey>, KeyError> {
    store.read(secret_key::every).await.map_err(|fault| KeyError(fault.to_string()))
}

async fn read_all(store: &Store) -> Result<Vec<SecretKey>, KeyError> {
    store.read(secret_key::all).await.map_err(|fault| KeyError(fault.to_string()))
}

async fn add(store: &Store, key: SecretKey) -> Result<(), KeyError> {
    let added = store.write(move |tx| secret_key::add(tx, &key)).await;
    added.map_err(|failure| KeyError(format!("{failure:?}")))
}
