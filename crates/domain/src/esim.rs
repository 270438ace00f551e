//! One eSIM of an order: its own life (paid, delivered, taken back), and the two axes that the
//! outside moves: the profile on the SM-DP+ and the data plan. The three are never mixed.

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
