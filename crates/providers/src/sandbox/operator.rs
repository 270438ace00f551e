//! The operator's view of the sandbox: what was really sold, and a hand to move profiles on as a
//! traveller and time would.

use super::Sandbox;
use super::error::SandboxError;
use super::profile_state::ProfileState;
use super::world::Change;
use domain::time::Timestamp;

/// One sale, as the sandbox remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// The purchase's reference; no two sales have the same.
    pub reference: String,
    /// The plan sold.
    pub upstream_plan_id: String,
    /// How many profiles were sold, which may be fewer than were asked for.
    pub quantity: u32,
    /// When it was sold.
    pub sold_at: Timestamp,
    /// When the last profile was taken back, once all of them are.
    pub cancelled_at: Option<Timestamp>,
    /// The profiles' ICCIDs, in the order of delivery, whether delivered yet or not.
    pub iccids: Vec<String>,
}

impl Sandbox {
    /// Up to `limit` sales whose reference begins with `reference_prefix` (all for an empty one),
    /// highest reference first: references begin with time-ordered ids, so that is newest first.
    ///
    /// # Errors
    /// [`SandboxError::Storage`], [`SandboxError::Uncertain`] or [`SandboxError::Closed`]: could not
    /// be read.
    pub async fn sales(&self, reference_prefix: &str, now: Timestamp, limit: u32) -> Result<Vec<Sale>, SandboxError> {
        let prefix = reference_prefix.to_owned();
        let rows = self.shared.book.list(prefix, now, limit).await?;
        let profiles = self.shared.profiles;
        let sales = rows.into_iter().map(|(sale, cancelled_at)| Sale {
            iccids: sale.numbers().map(|number| profiles.iccid(number)).collect(),
            reference: sale.reference,
            upstream_plan_id: sale.upstream_plan_id,
            quantity: sale.quantity,
            sold_at: sale.sold_at,
            cancelled_at,
        });
        Ok(sales.collect())
    }

    /// The state of the profile with this ICCID.
    ///
    /// # Errors
    /// [`SandboxError::NotFound`] when it was never sold; else the storage's errors.
    pub async fn profile(&self, iccid: &str) -> Result<ProfileState, SandboxError> {
        let number = self.shared.profiles.number(iccid).ok_or(SandboxError::NotFound)?;
        let state = self.shared.book.state(number).await?;
        state.ok_or(SandboxError::NotFound)
    }

    /// The reference under which the profile with this ICCID was sold.
    ///
    /// # Errors
    /// The storage's errors.
    pub async fn reference_of(&self, iccid: &str) -> Result<Option<String>, SandboxError> {
        let Some(number) = self.shared.profiles.number(iccid) else { return Ok(None) };
        let sale = self.shared.book.sale_of(number).await?;
        Ok(sale.map(|sale| sale.reference))
    }

    /// A traveller installs the profile. Harmless when it is installed.
    ///
    /// # Errors
    /// [`SandboxError::NotFound`], [`SandboxError::Impossible`] from `used`, `expired` or `cancelled`;
    /// else the storage's errors.
    pub async fn install(&self, iccid: &str, now: Timestamp) -> Result<ProfileState, SandboxError> {
        self.move_on(iccid, ProfileState::Installed, now).await
    }

    /// A traveller uses data, which installs the profile if it was not. Harmless when it is in use.
    ///
    /// # Errors
    /// [`SandboxError::NotFound`], [`SandboxError::Impossible`] from `expired` or `cancelled`; else the
    /// storage's errors.
    pub async fn use_data(&self, iccid: &str, now: Timestamp) -> Result<ProfileState, SandboxError> {
        self.move_on(iccid, ProfileState::Used, now).await
    }

    /// The profile's time ends. Harmless when it is over.
    ///
    /// # Errors
    /// [`SandboxError::NotFound`], [`SandboxError::Impossible`] from `cancelled`; else the storage's
    /// errors.
    pub async fn expire(&self, iccid: &str, now: Timestamp) -> Result<ProfileState, SandboxError> {
        self.move_on(iccid, ProfileState::Expired, now).await
    }

    async fn move_on(&self, iccid: &str, to: ProfileState, now: Timestamp) -> Result<ProfileState, SandboxError> {
        let number = self.shared.profiles.number(iccid).ok_or(SandboxError::NotFound)?;
        let change = self.shared.book.change(number, to, now).await?;
        match change {
            Change::Done => Ok(to),
            Change::Impossible { from } => Err(SandboxError::Impossible { from, to }),
            Change::Kept | Change::NotFound => Err(SandboxError::NotFound),
        }
    }
}
