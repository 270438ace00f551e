//! Messages from the public contact form.

use crate::words;

words! {
    /// What an inquiry is about.
    pub enum InquiryType {
        /// Becoming a partner.
        Partnership = "partnership",
        /// Prices.
        Pricing = "pricing",
        /// Devices.
        Hardware = "hardware",
        /// Help.
        Support = "support",
        /// The API.
        Api = "api",
        /// Anything else.
        Other = "other",
    }
}
