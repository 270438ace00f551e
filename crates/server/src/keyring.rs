//! The platform's own keys: made once, kept in the database wrapped by the master key, so that every
//! node over one database accepts what another signed.

use crate::config::MasterKey;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use domain::id::EsimId;
use store::Store;
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
    /// Keys of the traveller's links.
    pub links: Keys,
}

/// Why the keys cannot be used: one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError(pub String);

fn cipher(master: &MasterKey) -> Result<LessSafeKey, KeyError> {
    UnboundKey::new(&AES_256_GCM, master.expose())
        .map(LessSafeKey::new)
        .map_err(|_| KeyError("the master key must be 32 bytes".to_owned()))
}

fn label(purpose: Purpose, version: i64) -> String {
    format!("esimd {purpose} key {version}")
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| KeyError("the system gives no random numbers".to_owned()))?;
    Ok(bytes)
}

fn wrap(master: &MasterKey, purpose: Purpose, version: i64) -> Result<SecretKey, KeyError> {
    let nonce: [u8; NONCE_LEN] = random()?;
    let secret: [u8; KEY_BYTES] = random()?;
    let mut sealed = secret.to_vec();
    cipher(master)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(label(purpose, version).as_bytes()),
            &mut sealed,
        )
        .map_err(|_| KeyError("a key could not be wrapped".to_owned()))?;
    Ok(SecretKey { purpose, version, wrapped: [nonce.as_slice(), &sealed].concat() })
}

fn unwrap(master: &MasterKey, key: &SecretKey) -> Result<Key, KeyError> {
    let wrong = || {
        KeyError(
            "the keys in the database were wrapped with another master key; start with the one they were made with"
                .to_owned(),
        )
    };
    let (nonce, sealed) = key.wrapped.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
    let mut sealed = sealed.to_vec();
    let opened = cipher(master)?
        .open_in_place(
            Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?,
            Aad::from(label(key.purpose, key.version).as_bytes()),
            &mut sealed,
        )
        .map_err(|_| wrong())?;
    let secret: [u8; KEY_BYTES] = (&*opened).try_into().map_err(|_| wrong())?;
    Ok(Key { version: key.version, secret, hmac: hmac::Key::new(hmac::HMAC_SHA256, &secret) })
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
        Ok(Self { tokens: keys(Purpose::Token)?, links: keys(Purpose::Link)? })
    }

    /// Makes a new key of each purpose; the older ones go on verifying.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn rotate(store: &Store, master: &MasterKey) -> Result<Self, KeyError> {
        let keyring = Self::load(store, master).await?;
        for (purpose, keys) in [(Purpose::Token, &keyring.tokens), (Purpose::Link, &keyring.links)] {
            let newest = keys.newest().map_or(0, |key| key.version);
            add(store, wrap(master, purpose, newest + 1)?).await?;
        }
        Self::load(store, master).await
    }

    /// Whether these stored keys are the ones it holds.
    #[must_use]
    pub fn has_all(&self, stored: &[SecretKey]) -> bool {
        stored.len() == self.tokens.0.len() + self.links.0.len()
            && stored.iter().all(|key| {
                let held = match key.purpose {
                    Purpose::Token => &self.tokens,
                    Purpose::Link => &self.links,
                };
                held.version(key.version).is_some()
            })
    }

    /// The unguessable part of a traveller's link: the eSIM's id, the key's version, and a 128-bit MAC.
    #[must_use]
    pub fn link_token(&self, esim: EsimId) -> String {
        let Some(key) = self.links.newest() else { return String::new() };
        let version = u8::try_from(key.version % 256).unwrap_or(0);
        let mut token = [0_u8; 33];
        token[..16].copy_from_slice(esim.as_bytes());
        token[16] = version;
        token[17..].copy_from_slice(&mac(key, esim));
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token)
    }

    /// The eSIM a link names, if the link is one of ours.
    #[must_use]
    pub fn esim_of_link(&self, token: &str) -> Option<EsimId> {
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token).ok()?;
        let bytes: [u8; 33] = bytes.try_into().ok()?;
        let esim = EsimId::from_slice(&bytes[..16]).ok()?;
        let mut keys = self.links.0.iter().filter(|key| u8::try_from(key.version % 256) == Ok(bytes[16]));
        keys.any(|key| subtle::ConstantTimeEq::ct_eq(mac(key, esim).as_slice(), &bytes[17..]).into()).then_some(esim)
    }
}

fn mac(key: &Key, esim: EsimId) -> [u8; 16] {
    let mut message = *b"esim link:0123456789abcdef";
    message[10..].copy_from_slice(esim.as_bytes());
    let tag = hmac::sign(&key.hmac, &message);
    let mut cut = [0; 16];
    cut.copy_from_slice(&tag.as_ref()[..16]);
    cut
}

async fn read_all(store: &Store) -> Result<Vec<SecretKey>, KeyError> {
    store.read(secret_key::all).await.map_err(|fault| KeyError(fault.to_string()))
}

async fn add(store: &Store, key: SecretKey) -> Result<(), KeyError> {
    let added = store.write(move |tx| secret_key::add(tx, &key)).await;
    added.map_err(|failure| KeyError(format!("{failure:?}")))
}
