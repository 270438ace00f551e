//! One eSIM of an order: its own life (paid, delivered, taken back), and the two axes that the
//! outside moves: the profile on the SM-DP+ and the data plan. The three are never mixed.

use crate::id::OrderId;
use crate::words;

words! {
    /// What became of the eSIM as a thing bought. It has no row while it is pending.
    pub enum EsimState {
        /// Paid, not there yet.
        Pending = "pending",
        /// Delivered.
        Delivered = "delivered",
        /// Will not come; refunded.
        Failed = "failed",
        /// The upstream is being asked to take it back.
        Cancelling = "cancelling",
        /// Taken back and refunded.
        Cancelled = "cancelled",
    }
}

words! {
    /// What can happen to an eSIM.
    pub enum EsimEvent {
        /// The upstream delivered it.
        Deliver = "deliver",
        /// It will not come.
        Fail = "fail",
        /// The partner wants to give it back.
        AskCancel = "ask_cancel",
        /// The upstream took it back.
        Cancel = "cancel",
        /// The upstream did not take it back.
        Keep = "keep",
    }
}

impl EsimState {
    /// The state after `event`, or `None` where the event cannot happen.
    #[must_use]
    pub const fn after(self, event: EsimEvent) -> Option<Self> {
        match (self, event) {
            (Self::Pending, EsimEvent::Deliver) | (Self::Cancelling, EsimEvent::Keep) => Some(Self::Delivered),
            (Self::Pending, EsimEvent::Fail) => Some(Self::Failed),
            (Self::Delivered, EsimEvent::AskCancel) => Some(Self::Cancelling),
            (Self::Cancelling, EsimEvent::Cancel) => Some(Self::Cancelled),
            (
                Self::Pending | Self::Delivered | Self::Failed | Self::Cancelling | Self::Cancelled,
                EsimEvent::Deliver | EsimEvent::Fail | EsimEvent::AskCancel | EsimEvent::Cancel | EsimEvent::Keep,
            ) => None,
        }
    }
}

words! {
    /// Where the profile is, as the SM-DP+ sees it (SGP.22).
    pub enum ProfileStatus {
        /// Ready to be downloaded.
        Released = "released",
        /// Downloaded to a device.
        Downloaded = "downloaded",
        /// Installed on a device.
        Installed = "installed",
        /// Switched on.
        Enabled = "enabled",
        /// Switched off.
        Disabled = "disabled",
        /// Removed from the device.
        Deleted = "deleted",
    }
}

words! {
    /// What the outside can do with a profile.
    pub enum ProfileEvent {
        /// A device took it.
        Download = "download",
        /// A device installed it.
        Install = "install",
        /// It was switched on.
        Enable = "enable",
        /// It was switched off.
        Disable = "disable",
        /// It was removed.
        Delete = "delete",
    }
}

impl ProfileStatus {
    /// The status after `event`, or `None` where the event changes nothing. Only switching goes both ways.
    #[must_use]
    pub const fn after(self, event: ProfileEvent) -> Option<Self> {
        match (self, event) {
            (Self::Released, ProfileEvent::Download) => Some(Self::Downloaded),
            (Self::Released | Self::Downloaded, ProfileEvent::Install) => Some(Self::Installed),
            (Self::Released | Self::Downloaded | Self::Installed | Self::Disabled, ProfileEvent::Enable) => {
                Some(Self::Enabled)
            }
            (Self::Released | Self::Downloaded | Self::Installed | Self::Enabled, ProfileEvent::Disable) => {
                Some(Self::Disabled)
            }
            (
                Self::Released | Self::Downloaded | Self::Installed | Self::Enabled | Self::Disabled,
                ProfileEvent::Delete,
            ) => Some(Self::Deleted),
            (
                Self::Downloaded | Self::Installed | Self::Enabled | Self::Disabled | Self::Deleted,
                ProfileEvent::Download,
            )
            | (Self::Installed | Self::Enabled | Self::Disabled | Self::Deleted, ProfileEvent::Install)
            | (Self::Enabled | Self::Deleted, ProfileEvent::Enable)
            | (Self::Disabled | Self::Deleted, ProfileEvent::Disable)
            | (Self::Deleted, ProfileEvent::Delete) => None,
        }
    }
}

words! {
    /// Where the data plan is.
    pub enum PlanStatus {
        /// Its term has not begun.
        NotActive = "not_active",
        /// Waits behind another plan.
        Queued = "queued",
        /// Running.
        Active = "active",
        /// Used up.
        Depleted = "depleted",
        /// Its term is over.
        Expired = "expired",
    }
}

words! {
    /// What can happen to a data plan.
    pub enum PlanEvent {
        /// Its term begins.
        Activate = "activate",
        /// All its data is used.
        Deplete = "deplete",
        /// Its term ends.
        Expire = "expire",
    }
}

impl PlanStatus {
    /// The status after `event`, or `None` where the event changes nothing: a plan never goes back, whatever an
    /// upstream says later.
    #[must_use]
    pub const fn after(self, event: PlanEvent) -> Option<Self> {
        match (self, event) {
            (Self::NotActive | Self::Queued, PlanEvent::Activate) => Some(Self::Active),
            (Self::NotActive | Self::Queued | Self::Active, PlanEvent::Deplete) => Some(Self::Depleted),
            (Self::NotActive | Self::Queued | Self::Active | Self::Depleted, PlanEvent::Expire) => Some(Self::Expired),
            (Self::Active | Self::Depleted | Self::Expired, PlanEvent::Activate)
            | (Self::Depleted | Self::Expired, PlanEvent::Deplete)
            | (Self::Expired, PlanEvent::Expire) => None,
        }
    }
}

words! {
    /// The summary partners see: one word out of the three axes.
    pub enum EsimStatus {
        /// Paid, not there yet.
        Pending = "pending",
        /// Delivered, not installed.
        Delivered = "delivered",
        /// On a device.
        Installed = "installed",
        /// In use.
        Active = "active",
        /// Used up.
        Depleted = "depleted",
        /// Over.
        Expired = "expired",
        /// Being taken back.
        Cancelling = "cancelling",
        /// Taken back.
        Cancelled = "cancelled",
        /// Never came.
        Failed = "failed",
    }
}

/// The summary of the three axes.
#[must_use]
pub const fn summary(state: EsimState, profile: ProfileStatus, plan: PlanStatus) -> EsimStatus {
    match state {
        EsimState::Pending => EsimStatus::Pending,
        EsimState::Failed => EsimStatus::Failed,
        EsimState::Cancelling => EsimStatus::Cancelling,
        EsimState::Cancelled => EsimStatus::Cancelled,
        EsimState::Delivered => match (plan, profile) {
            (PlanStatus::Expired, _) => EsimStatus::Expired,
            (PlanStatus::Depleted, _) => EsimStatus::Depleted,
            (PlanStatus::Active, _) => EsimStatus::Active,
            (PlanStatus::NotActive | PlanStatus::Queued, ProfileStatus::Released | ProfileStatus::Downloaded) => {
                EsimStatus::Delivered
            }
            (
                PlanStatus::NotActive | PlanStatus::Queued,
                ProfileStatus::Installed | ProfileStatus::Enabled | ProfileStatus::Disabled | ProfileStatus::Deleted,
            ) => EsimStatus::Installed,
        },
    }
}

/// What a list of eSIMs is asked for. Empty fields do not filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EsimFilter {
    /// Exactly this ICCID.
    pub iccid: Option<String>,
    /// Of this order.
    pub order: Option<OrderId>,
    /// Exactly this status.
    pub status: Option<EsimStatus>,
}

/// Percent-encodes what a query value must not hold raw.
fn query_value(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// Apple's one-tap link (iOS 17.4 and later) of an activation code.
#[must_use]
pub fn apple_install_url(activation_code: &str) -> String {
    format!("https://esimsetup.apple.com/esim_qrcode_provisioning?carddata={}", query_value(activation_code))
}

/// Android's one-tap link of an activation code; works on some devices.
#[must_use]
pub fn android_install_url(activation_code: &str) -> String {
    format!("https://esimsetup.android.com/esim_qrcode_provisioning?carddata={}", query_value(activation_code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_table() {
        let allowed: Vec<_> = EsimState::ALL
            .iter()
            .flat_map(|state| EsimEvent::ALL.iter().map(move |event| (*state, *event)))
            .filter_map(|(state, event)| state.after(event).map(|next| (state, event, next)))
            .collect();
        assert_eq!(
            allowed,
            [
                (EsimState::Pending, EsimEvent::Deliver, EsimState::Delivered),
                (EsimState::Pending, EsimEvent::Fail, EsimState::Failed),
                (EsimState::Delivered, EsimEvent::AskCancel, EsimState::Cancelling),
                (EsimState::Cancelling, EsimEvent::Cancel, EsimState::Cancelled),
                (EsimState::Cancelling, EsimEvent::Keep, EsimState::Delivered),
            ]
        );
    }

    #[test]
    fn the_table_of_plans_never_goes_back() {
        let allowed: Vec<_> = PlanStatus::ALL
            .iter()
            .flat_map(|status| PlanEvent::ALL.iter().map(move |event| (*status, *event)))
            .filter_map(|(status, event)| status.after(event).map(|next| (status, event, next)))
            .collect();
        assert_eq!(
            allowed,
            [
                (PlanStatus::NotActive, PlanEvent::Activate, PlanStatus::Active),
                (PlanStatus::NotActive, PlanEvent::Deplete, PlanStatus::Depleted),
                (PlanStatus::NotActive, PlanEvent::Expire, PlanStatus::Expired),
                (PlanStatus::Queued, PlanEvent::Activate, PlanStatus::Active),
                (PlanStatus::Queued, PlanEvent::Deplete, PlanStatus::Depleted),
                (PlanStatus::Queued, PlanEvent::Expire, PlanStatus::Expired),
                (PlanStatus::Active, PlanEvent::Deplete, PlanStatus::Depleted),
                (PlanStatus::Active, PlanEvent::Expire, PlanStatus::Expired),
                (PlanStatus::Depleted, PlanEvent::Expire, PlanStatus::Expired),
            ]
        );
        // The statuses are declared in the order of a plan's life.
        assert!(allowed.iter().all(|(before, _, after)| before < after));
    }

    #[test]
    fn the_table_of_profiles_goes_back_only_by_switching() {
        let allowed: Vec<_> = ProfileStatus::ALL
            .iter()
            .flat_map(|status| ProfileEvent::ALL.iter().map(move |event| (*status, *event)))
            .filter_map(|(status, event)| status.after(event).map(|next| (status, event, next)))
            .collect();
        assert_eq!(allowed.len(), 16);
        let back: Vec<_> = allowed.iter().filter(|(before, _, after)| after < before).collect();
        assert_eq!(back, [&(ProfileStatus::Disabled, ProfileEvent::Enable, ProfileStatus::Enabled)]);
        assert!(allowed.iter().all(|(before, _, _)| *before != ProfileStatus::Deleted));
    }

    #[test]
    fn the_summary_follows_the_plan_before_the_profile() {
        let of = |profile, plan| summary(EsimState::Delivered, profile, plan);
        assert_eq!(of(ProfileStatus::Released, PlanStatus::NotActive), EsimStatus::Delivered);
        assert_eq!(of(ProfileStatus::Installed, PlanStatus::NotActive), EsimStatus::Installed);
        assert_eq!(of(ProfileStatus::Enabled, PlanStatus::Active), EsimStatus::Active);
        assert_eq!(of(ProfileStatus::Deleted, PlanStatus::Expired), EsimStatus::Expired);
        assert_eq!(summary(EsimState::Cancelled, ProfileStatus::Enabled, PlanStatus::Active), EsimStatus::Cancelled);
    }

    #[test]
    fn one_tap_links_encode_the_code_and_keep_its_case() {
        assert_eq!(
            apple_install_url("LPA:1$SMDP.example$Ab-1"),
            "https://esimsetup.apple.com/esim_qrcode_provisioning?carddata=LPA%3A1%24SMDP.example%24Ab-1"
        );
    }
}
