//! The page that a traveller opens on the phone: one tap, a QR code, or the values to type, whatever this phone can do.
//! It works without script; the only script reveals the copy buttons.

use std::sync::LazyLock;

use askama::Template;
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{country, policy::policy, qr};

/// What the page is about. Texts are printed as they are (escaped), so they come ready for the traveller's eyes.
#[derive(Clone, Debug)]
pub struct InstallPage<'a> {
    /// Who sold the eSIM; the traveller knows the partner, not the platform.
    pub seller: Option<&'a str>,
    /// The plan as it was sold.
    pub plan_name: &'a str,
    /// Where the eSIM stands.
    pub status: Status,
    /// ISO codes or names of the countries where the plan works.
    pub countries: &'a [String],
    /// The data volume in words, such as `5 GB` or `Unlimited`.
    pub data: &'a str,
    /// Days from the start of the plan to its end.
    pub validity_days: u32,
    /// When the plan starts, in words; may be empty.
    pub activation: &'a str,
    /// The text inside the QR code, `LPA:1$...`; empty while there is none.
    pub activation_code: &'a str,
    /// The server that holds the profile.
    pub smdp_address: &'a str,
    /// The matching id, which iPhones call "activation code"; may be empty.
    pub matching_id: &'a str,
    /// The code that the phone asks for, where the upstream set one.
    pub confirmation_code: Option<&'a str>,
    /// The access point, where it has to be typed.
    pub apn: Option<&'a str>,
    /// The last day to install, in words.
    pub install_by: Option<&'a str>,
    /// The one-tap address for iPhones.
    pub apple_install_url: &'a str,
    /// The one-tap address for Android phones.
    pub android_install_url: &'a str,
    /// The QR code as a picture of its own.
    pub qr_png_url: &'a str,
}

/// An eSIM's status as the contract names it; it decides what the page says and shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not there yet; the page reloads itself.
    Pending,
    /// Ready to be installed.
    Delivered,
    /// On a phone, plan not started.
    Installed,
    /// In use.
    Active,
    /// All data used.
    Depleted,
    /// The plan's time is over.
    Expired,
    /// Being taken back.
    Cancelling,
    /// Taken back.
    Cancelled,
    /// Never came.
    Failed,
}

impl Status {
    /// The status that the API calls by this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "pending" => Self::Pending,
            "delivered" => Self::Delivered,
            "installed" => Self::Installed,
            "active" => Self::Active,
            "depleted" => Self::Depleted,
            "expired" => Self::Expired,
            "cancelling" => Self::Cancelling,
            "cancelled" => Self::Cancelled,
            "failed" => Self::Failed,
            _ => return None,
        })
    }

    /// Whether the page may show how to install: not before delivery, and not for a code that must not be used.
    fn shows_code(self) -> bool {
        matches!(self, Self::Delivered | Self::Installed | Self::Active)
    }

    fn wording(self) -> Wording {
        let (mood, state, headline, lead) = match self {
            Self::Pending => (
                "waiting",
                "Being prepared",
                "Your eSIM is on its way",
                "This usually takes less than a minute. Leave the page open: it shows your eSIM as soon as it is ready.",
            ),
            Self::Delivered => (
                "ready",
                "Ready to install",
                "Install your eSIM",
                "It takes about two minutes. Choose whichever way suits your phone.",
            ),
            Self::Installed => (
                "using",
                "Installed",
                "Your eSIM is installed",
                "It is on a phone already and cannot be installed on another one. When you arrive, switch it on with data roaming.",
            ),
            Self::Active => (
                "using",
                "In use",
                "Your eSIM is active",
                "The plan is running. If you have no connection, check that data roaming is switched on for this eSIM.",
            ),
            Self::Depleted => (
                "over",
                "Data used up",
                "Your data is used up",
                "All data of this plan has been used. For more, contact the seller from whom you bought it.",
            ),
            Self::Expired => (
                "over",
                "Ended",
                "This plan has ended",
                "You can delete the eSIM from your phone. For your next trip you need a new one.",
            ),
            Self::Cancelling => {
                ("over", "Being cancelled", "This eSIM is being cancelled", "Please do not install it any more.")
            }
            Self::Cancelled => (
                "over",
                "Cancelled",
                "This eSIM was cancelled",
                "It cannot be installed any more. If you did not expect this, contact the seller from whom you bought it.",
            ),
            Self::Failed => (
                "over",
                "Not delivered",
                "This eSIM could not be delivered",
                "We are sorry. Please contact the seller from whom you bought it; there is nothing you need to do on your phone.",
            ),
        };
        Wording { mood, state, headline, lead }
    }
}

impl InstallPage<'_> {
    /// The whole document. The code and its values are left out unless the status allows installing or helps with an
    /// eSIM that is already on a phone.
    ///
    /// # Errors
    /// When the template cannot be rendered.
    pub fn render(&self) -> Result<String, askama::Error> {
        let installed = matches!(self.status, Status::Installed | Status::Active);
        let shows_code = self.status.shows_code() && !self.activation_code.is_empty();
        // Without a picture (a code longer than the standard allows) the values to type still do.
        let qr = shows_code
            .then(|| qr::png(self.activation_code).map(|picture| STANDARD.encode(picture)).unwrap_or_default());
        let Wording { mood, state, headline, lead } = self.status.wording();
        View {
            page: self,
            mood,
            state,
            headline,
            lead,
            countries: country_names(self.countries),
            waiting: self.status == Status::Pending,
            installed,
            done: !matches!(self.status, Status::Pending | Status::Delivered),
            steps: shows_code,
            has_apn: self.apn.is_some_and(|apn| !apn.is_empty()),
            values: if shows_code { self.values() } else { Vec::new() },
            qr,
            style: STYLE,
            script: SCRIPT,
        }
        .render()
    }

    /// The `Content-Security-Policy` for this page.
    pub fn csp() -> &'static str {
        static CSP: LazyLock<String> = LazyLock::new(|| policy(STYLE, Some(SCRIPT)));
        &CSP
    }

    fn values(&self) -> Vec<Value<'_>> {
        let value = |id, label, text, hint| Value { id, label, text, hint };
        [
            value("smdp", "SM-DP+ address", self.smdp_address, ""),
            value("matching", "Activation code", self.matching_id, ""),
            value(
                "confirmation",
                "Confirmation code",
                self.confirmation_code.unwrap_or_default(),
                "The phone asks for it while installing.",
            ),
            value(
                "full",
                "Full code",
                self.activation_code,
                "For Android phones that ask for everything in one field.",
            ),
            value("apn", "APN", self.apn.unwrap_or_default(), "Only if there is no connection after installing."),
        ]
        .into_iter()
        .filter(|value| !value.text.is_empty())
        .collect()
    }
}

/// The names for codes, what is no code as it is, in alphabetical order, each once.
fn country_names(countries: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = countries.iter().map(|code| country::name(code).unwrap_or(code)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

const STYLE: &str = concat!(include_str!("../../templates/look.css"), include_str!("../../templates/install.css"));
const SCRIPT: &str = include_str!("../../templates/install.js");

struct Wording {
    mood: &'static str,
    state: &'static str,
    headline: &'static str,
    lead: &'static str,
}

/// A value to type, with its copy button.
struct Value<'a> {
    id: &'static str,
    label: &'static str,
    text: &'a str,
    hint: &'static str,
}

#[derive(Template)]
#[template(path = "install.html")]
struct View<'a> {
    page: &'a InstallPage<'a>,
    mood: &'static str,
    state: &'static str,
    headline: &'static str,
    lead: &'static str,
    countries: Vec<&'a str>,
    waiting: bool,
    installed: bool,
    done: bool,
    steps: bool,
    has_apn: bool,
    values: Vec<Value<'a>>,
    qr: Option<String>,
    style: &'static str,
    script: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::policy::tests::{assert_self_contained, inline};

    const CODE: &str = "LPA:1$smdp.example.com$04386-AGYFT-A74Y8-3F815";

    fn countries(codes: &str) -> Vec<String> {
        codes.split(' ').map(str::to_owned).collect()
    }

    fn sample(countries: &[String], status: Status) -> InstallPage<'_> {
        InstallPage {
            seller: Some("Northwind Travel"),
            plan_name: "Europe 5 GB, 30 days",
            status,
            countries,
            data: "5 GB",
            validity_days: 30,
            activation: "With the first use of data",
            activation_code: CODE,
            smdp_address: "smdp.example.com",
            matching_id: "04386-AGYFT-A74Y8-3F815",
            confirmation_code: Some("4711"),
            apn: Some("internet.example"),
            install_by: Some("30 November 2026"),
            apple_install_url: "https://esimsetup.apple.com/esim_qrcode_provisioning?carddata=LPA%3A1%24smdp.example.com%2404386-AGYFT-A74Y8-3F815",
            android_install_url: "https://esimsetup.android.com/esim_qrcode_provisioning?carddata=LPA%3A1%24smdp.example.com%2404386-AGYFT-A74Y8-3F815",
            qr_png_url: "https://esimdistribute.com/q/0192.png",
        }
    }

    const ALL: [Status; 9] = [
        Status::Pending,
        Status::Delivered,
        Status::Installed,
        Status::Active,
        Status::Depleted,
        Status::Expired,
        Status::Cancelling,
        Status::Cancelled,
        Status::Failed,
    ];

    #[test]
    fn every_status_stands_alone_under_the_policy() {
        let countries = countries("DE FR");
        for status in ALL {
            let page = sample(&countries, status).render().unwrap();
            assert_self_contained(&page, InstallPage::csp());
            assert!(
                page.contains("content=\"noindex, nofollow\"")
                    && page.contains("name=\"referrer\" content=\"no-referrer\"")
            );
            assert!(page.contains("Europe 5 GB, 30 days"), "{status:?}");
        }
    }

    #[test]
    fn delivered_offers_every_way_to_install() {
        let page = sample(&countries("XK DE ZZ"), Status::Delivered).render().unwrap();
        for needed in [
            "Germany, Kosovo, ZZ",
            CODE,
            ">smdp.example.com<",
            ">04386-AGYFT-A74Y8-3F815<",
            ">4711<",
            ">internet.example<",
            "30 November 2026",
            "esimsetup.apple.com",
            "esimsetup.android.com",
            "30 days",
            "data:image/png;base64,",
        ] {
            assert!(page.contains(needed), "page lacks {needed}");
        }
        assert!(!page.contains("http-equiv=\"refresh\""));
    }

    #[test]
    fn the_picture_on_the_page_is_the_code() {
        let page = sample(&[], Status::Delivered).render().unwrap();
        let picture = page.split("base64,").nth(1).unwrap().split('"').next().unwrap();
        // The template escapes what it prints; base64's own signs must come through readable.
        let picture = picture.replace("&#43;", "+").replace("&#47;", "/").replace("&#61;", "=");
        assert_eq!(STANDARD.decode(picture).unwrap(), qr::png(CODE).unwrap());
    }

    #[test]
    fn pending_waits_and_reloads() {
        let page = sample(&[], Status::Pending).render().unwrap();
        assert!(page.contains("<meta http-equiv=\"refresh\" content=\"5\">"));
        assert!(!page.contains(CODE) && !page.contains("<img") && inline(&page, "script").is_none());
    }

    #[test]
    fn a_code_that_must_not_be_used_is_not_shown() {
        for status in [Status::Depleted, Status::Expired, Status::Cancelling, Status::Cancelled, Status::Failed] {
            let page = sample(&[], status).render().unwrap();
            assert!(!page.contains("04386") && !page.contains("esimsetup") && !page.contains("<img"), "{status:?}");
        }
    }

    #[test]
    fn what_is_absent_leaves_no_empty_row() {
        let mut page = sample(&[], Status::Delivered);
        (page.confirmation_code, page.apn, page.matching_id, page.seller, page.install_by) =
            (None, Some(""), "", None, None);
        let page = page.render().unwrap();
        assert!(
            !page.contains("Confirmation code")
                && !page.contains(">APN<")
                && !page.contains("Install by")
                && !page.contains("id=\"matching\"")
        );
    }

    #[test]
    fn everything_is_escaped() {
        let evil = "\"><script>alert('x')</script>";
        let countries = vec![evil.to_owned()];
        let mut page = sample(&countries, Status::Delivered);
        (page.plan_name, page.data, page.activation, page.seller) = (evil, evil, evil, Some(evil));
        (page.activation_code, page.smdp_address, page.matching_id, page.confirmation_code) =
            (evil, evil, evil, Some(evil));
        (page.apn, page.install_by, page.qr_png_url, page.apple_install_url, page.android_install_url) =
            (Some(evil), Some(evil), evil, evil, evil);
        let page = page.render().unwrap();
        assert!(!page.contains("alert('x')") && !page.contains("\"><script>"));
        assert_self_contained(&page, InstallPage::csp());
    }

    #[test]
    fn the_statuses_have_the_contracts_names() {
        for (name, status) in
            ["pending", "delivered", "installed", "active", "depleted", "expired", "cancelling", "cancelled", "failed"]
                .into_iter()
                .zip(ALL)
        {
            assert_eq!(Status::from_name(name), Some(status));
        }
        assert_eq!(Status::from_name("nonsense"), None);
    }
}
