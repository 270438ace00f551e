//! What upstreams send by themselves, before and after an adapter read it.

/// A request that came in at a connection's callback address, as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Callback {
    /// `POST`, or `HEAD` where an upstream tries the address first.
    pub method: String,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, byte by byte: signatures cover it as it is.
    pub body: Vec<u8>,
}

// Some bring what installs an eSIM, and all what they are signed with: neither is shown.
impl std::fmt::Debug for Callback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        let mut shown = f.debug_struct("Callback");
        shown.field("method", &self.method).field("headers", &names).field("bytes", &self.body.len());
        shown.finish_non_exhaustive()
    }
}

impl Callback {
    /// A header by its name in lower case; empty when it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// What a callback is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// An order, by the upstream's own number, our reference, or both.
    Order {
        /// The upstream's number.
        order: Option<String>,
        /// Our reference.
        reference: Option<String>,
    },
    /// An eSIM, by what the upstream calls it.
    Esim {
        /// The upstream's number of the order, where it says.
        order: Option<String>,
        /// The upstream's own name of the eSIM.
        handle: Option<String>,
        /// ICCID.
        iccid: Option<String>,
    },
    /// Our account there, or nothing at all: a trial of the address.
    Account,
}

/// What an adapter read out of a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What two deliveries of the same notice have in common.
    pub id: String,
    /// What has to be asked for again.
    pub about: About,
    /// The upstream's word for what happened, for the log.
    pub event: String,
    /// How this upstream wants to be answered.
    pub acknowledgement: Acknowledgement,
}

/// An answer to a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// HTTP status.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: &'static str,
}

impl Acknowledgement {
    /// Status 200 with an empty JSON object, for upstreams that ask for nothing more.
    pub const OK: Self = Self { status: 200, content_type: "application/json", body: "{}" };
}

/// Why a callback is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackRefusal {
    /// It is not signed as this upstream signs.
    Forged,
    /// It is signed, and older or younger than is tolerated.
    Stale,
    /// It cannot be understood: why.
    Malformed(String),
    /// This upstream sends none.
    Unsupported(&'static str),
}

impl Callback {
    /// The body's fields, from JSON or a form; null when it is neither.
    #[must_use]
    pub(crate) fn fields(&self) -> serde_json::Value {
        if self.header("content-type").starts_with("application/x-www-form-urlencoded") {
            let fields = form_urlencoded::parse(&self.body);
            return fields
                .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }

    /// What is kept of the body: its fields, without what installs an eSIM.
    #[must_use]
    pub fn kept(&self) -> String {
        let fields = self.fields();
        if fields.is_null() {
            return format!("{} bytes that are neither JSON nor a form", self.body.len());
        }
        let answered = crate::connection::Answered::new(200, fields.to_string());
        answered.raw().trim_start_matches("200 ").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_callback_installs_nothing() {
        let headers = vec![("x-sign".to_owned(), "demo_sign".to_owned())];
        let callback = Callback { method: "POST".to_owned(), headers, body: b"LPA:1$rsp.test$CODE-7".to_vec() };
        let shown = format!("{callback:?}");
        assert!(shown.contains("x-sign") && !shown.contains("demo_sign") && !shown.contains("CODE-7"), "{shown}");
    }
}
