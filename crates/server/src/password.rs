//! Passwords: argon2id, hashed on few threads, so that logins cannot stop checkouts.

use crate::problem::{Code, Problem};
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Requests that may wait for a hash before more are turned away.
const MOST_WAITING: usize = 64;

/// The commonest passwords of ten characters or more, in lower case and sorted.
const COMMON: &[&str] = &[
    "0123456789",
    "0987654321",
    "1029384756",
    "1111111111",
    "1122334455",
    "11223344556677",
    "123123123123",
    "1231231234",
    "1234512345",
    "12345678900",
    "1234567890",
    "12345678901",
    "123456789012",
    "1234567890123",
    "123456789a",
    "123456789q",
    "123456aa",
    "123456abcd",
    "1q2w3e4r5t",
    "1q2w3e4r5t6y",
    "1qaz2wsx3edc",
    "1qazxsw23edc",
    "987654321a",
    "9876543210",
    "a123456789",
    "aa12345678",
    "abc1234567",
    "abcd123456",
    "abcd1234567",
    "abcdefghij",
    "abcdefghijk",
    "administrator",
    "administrator1",
    "asdfasdfasdf",
    "asdfghjkl1",
    "asdfghjkl;",
    "baseball123",
    "basketball",
    "blink182blink",
    "butterfly1",
    "california",
    "changeme123",
    "changeme1234",
    "charlie123",
    "chocolate1",
    "computer123",
    "football123",
    "helloworld",
    "iloveyou12",
    "iloveyou123",
    "iloveyou1234",
    "internet123",
    "jennifer123",
    "letmein123",
    "letmein1234",
    "liverpool1",
    "manchester",
    "master1234",
    "michael123",
    "minecraft1",
    "minecraft123",
    "mypassword",
    "mypassword1",
    "onetwothree",
    "p@ssw0rd123",
    "p@ssword123",
    "pa$$word123",
    "passw0rd123",
    "password00",
    "password01",
    "password1!",
    "password10",
    "password11",
    "password12",
    "password123",
    "password1234",
    "password12345",
    "password2024",
    "password2025",
    "password2026",
    "passwordpassword",
    "poiuytrewq",
    "princess123",
    "q1w2e3r4t5",
    "q1w2e3r4t5y6",
    "qazwsxedcrfv",
    "qweasdzxc123",
    "qwerty1234",
    "qwerty12345",
    "qwerty123456",
    "qwertyuiop",
    "qwertyuiop1",
    "qwertyuiop123",
    "qwertyuiop[]",
    "secret1234",
    "spiderman1",
    "starwars123",
    "summer2025",
    "summer2026",
    "sunshine123",
    "superman123",
    "superstar1",
    "test123456",
    "testtest123",
    "thisisapassword",
    "tinkerbell",
    "trustno1trustno1",
    "welcome123",
    "welcome1234",
    "winter2025",
    "winter2026",
    "zaq12wsxcde3",
    "zxcvbnm123",
    "zxcvbnm1234",
    "zxcvbnm,./",
];

/// Whether a password is among the first an attacker tries.
#[must_use]
pub fn is_common(password: &str) -> bool {
    let lower = password.to_lowercase();
    let first = lower.chars().next();
    COMMON.contains(&lower.as_str()) || lower.chars().all(|letter| Some(letter) == first)
}

/// Hashes and compares passwords, a few at a time.
#[derive(Debug, Clone)]
pub struct Hasher {
    turns: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    /// What an unknown account is compared with, so that it takes as long as a known one.
    decoy: Arc<str>,
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &str) -> Result<String, Problem> {
    let mut salt = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| Problem::internal())?;
    let hash = argon2()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|error| Problem::internal().because(error))?;
    Ok(hash.to_string())
}

fn verify(password: &str, phc: &str) -> bool {
    PasswordHash::new(phc).is_ok_and(|hash| argon2().verify_password(password.as_bytes(), &hash).is_ok())
}

impl Hasher {
    /// At most `threads` hashes at once.
    ///
    /// # Errors
    /// [`Problem`] when the system has no randomness.
    pub fn new(threads: usize) -> Result<Self, Problem> {
        Ok(Self {
            turns: Arc::new(Semaphore::new(threads)),
            waiting: Arc::default(),
            decoy: hash("the password nobody has")?.into(),
        })
    }

    async fn on_a_thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let busy = || Problem::new(Code::Unavailable, "Too many logins at once. Try again in a moment.").after(1);
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= MOST_WAITING {
            return Err(busy());
        }
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| busy())?;
        let work = move || {
            // The turn goes with the work: a caller that leaves does not let another hash begin.
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Problem::internal())
    }

    /// The PHC string of a password.
    ///
    /// # Errors
    /// [`Problem`] 503 when too many wait already.
    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        self.on_a_thread(move || hash(&password)).await?
    }

    /// Whether the password is the account's. Without an account it is false, and takes as long.
    ///
    /// # Errors
    /// [`Problem`] 503 when too many wait already.
    pub async fn verify(&self, password: String, phc: Option<String>) -> Result<bool, Problem> {
        let decoy = Arc::clone(&self.decoy);
        self.on_a_thread(move || match phc {
            Some(phc) => verify(&password, &phc),
            None => {
                verify(&password, &decoy);
                false
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_verifies_and_another_does_not() {
        let hasher = Hasher::new(1).unwrap();
        let phc = hasher.hash("strong-password".to_owned()).await.unwrap();
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(hasher.verify("strong-password".to_owned(), Some(phc.clone())).await.unwrap());
        assert!(!hasher.verify("Strong-password".to_owned(), Some(phc)).await.unwrap());
        assert!(!hasher.verify("the password nobody has".to_owned(), None).await.unwrap());
    }

    #[test]
    fn common_passwords() {
        assert!(is_common("Password123") && is_common("aaaaaaaaaaaa") && is_common("1234567890"));
        assert!(!is_common("strong-password"));
    }
}
