//! Tokens that let calls in for a while. One caller fetches, and whoever comes meanwhile gets what comes of it: a token,
//! or the failure. A failure is held for a moment, so that many who wait do not ask one after the other: upstreams
//! count how often they are asked for tokens.

use domain::time::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// How long a failure is held, milliseconds: one that comes and goes costs a purchase no more than this.
const FAILURE_MS: i64 = 5_000;
/// The longest a failure is held because the upstream wants to be left alone, milliseconds.
const MOST_FAILURE_MS: i64 = 60_000;

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// What is sent.
    pub text: String,
    /// When it is not used any more.
    pub ends_at: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("ends_at", &self.ends_at).finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Clone)]
pub(crate) struct NoToken<F> {
    /// The failure, in the words of whoever fetches.
    pub failure: F,
    /// When the upstream wants to be asked again, where it said so.
    pub retry_at: Option<Timestamp>,
}

/// What the last fetch came to.
enum Held<F> {
    Nothing,
    Token(Token),
    Failure { failure: F, until: Timestamp },
}

/// The token of an account; clones share it.
pub(crate) struct Tokens<F> {
    /// Locked while a token is fetched.
    held: Arc<Mutex<Held<F>>>,
    /// How many fetches are over.
    fetches: Arc<AtomicU64>,
}

impl<F> Clone for Tokens<F> {
    fn clone(&self) -> Self {
        Self { held: Arc::clone(&self.held), fetches: Arc::clone(&self.fetches) }
    }
}

impl<F> Default for Tokens<F> {
    fn default() -> Self {
        Self { held: Arc::new(Mutex::new(Held::Nothing)), fetches: Arc::default() }
    }
}

impl<F> std::fmt::Debug for Tokens<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl<F: Clone> Tokens<F> {
    /// A token that is good now, another one than `refused`; fetched if there is none.
    ///
    /// # Errors
    /// What the fetch failed with, this one or the one before.
    pub async fn get(
        &self,
        now: Timestamp,
        refused: Option<&Token>,
        fetch: impl Future<Output = Result<Token, NoToken<F>>>,
    ) -> Result<Token, F> {
        let before = self.fetches.load(Ordering::SeqCst);
        let mut held = self.held.lock().await;
        // By nobody's clock: a fetch that was over while this caller waited is the one it waited for.
        let waited = self.fetches.load(Ordering::SeqCst) != before;
        match &*held {
            Held::Token(token) if Some(token) != refused && now < token.ends_at => return Ok(token.clone()),
            Held::Failure { failure, until } if waited || now < *until => return Err(failure.clone()),
            Held::Nothing | Held::Token(_) | Held::Failure { .. } => {}
        }
        *held = Held::Nothing;
        let fetched = fetch.await;
        self.fetches.fetch_add(1, Ordering::SeqCst);
        match fetched {
            Ok(token) => {
                *held = Held::Token(token.clone());
                Ok(token)
            }
            Err(NoToken { failure, retry_at }) => {
                let least = now.plus_millis(FAILURE_MS);
                let until = retry_at.map_or(least, |at| at.max(least).min(now.plus_millis(MOST_FAILURE_MS)));
                *held = Held::Failure { failure: failure.clone(), until };
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn token(text: &str) -> Token {
        Token { text: text.to_owned(), ends_at: NOW.plus_millis(60_000) }
    }

    async fn failing(retry_at: Option<Timestamp>) -> Result<Token, NoToken<&'static str>> {
        tokio::task::yield_now().await;
        Err(NoToken { failure: "away", retry_at })
    }

    async fn told(tokens: &Tokens<&'static str>, after_ms: i64) -> Result<String, &'static str> {
        let found = tokens.get(NOW.plus_millis(after_ms), None, async { Ok(token("new")) }).await;
        found.map(|token| token.text)
    }

    #[tokio::test]
    async fn a_failure_is_held_for_a_moment() {
        let tokens = Tokens::default();
        assert_eq!(tokens.get(NOW, None, failing(None)).await, Err("away"));
        assert_eq!(told(&tokens, FAILURE_MS - 1).await, Err("away"));
        assert_eq!(told(&tokens, FAILURE_MS).await, Ok("new".to_owned()));
        let tokens = Tokens::default();
        let wish = Some(NOW.plus_millis(3_600_000));
        assert_eq!(tokens.get(NOW, None, failing(wish)).await, Err("away"));
        assert_eq!(told(&tokens, MOST_FAILURE_MS - 1).await, Err("away"));
        assert_eq!(told(&tokens, MOST_FAILURE_MS).await, Ok("new".to_owned()));
    }

    #[tokio::test]
    async fn who_waited_for_a_fetch_gets_what_came_of_it() {
        let tokens = Tokens::default();
        // Those who wait came later, by a clock that went on meanwhile.
        let (first, second, third) =
            tokio::join!(tokens.get(NOW, None, failing(None)), told(&tokens, 30_000), told(&tokens, 40_000));
        assert_eq!((first, second, third), (Err("away"), Err("away"), Err("away")));
    }

    #[tokio::test]
    async fn a_refused_token_is_replaced() {
        let tokens = Tokens::<&str>::default();
        let first = tokens.get(NOW, None, async { Ok(token("first")) }).await.unwrap();
        assert_eq!(tokens.get(NOW, None, failing(None)).await, Ok(first.clone()));
        let second = tokens.get(NOW, Some(&first), async { Ok(token("second")) }).await.unwrap();
        assert_eq!(second.text, "second");
        assert_eq!(tokens.get(second.ends_at, None, failing(None)).await, Err("away"));
        assert!(!format!("{second:?}").contains("second"));
    }
}
