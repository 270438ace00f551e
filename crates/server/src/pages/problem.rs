//! The pages behind a traveller's link that leads nowhere: never issued, or no longer valid. They tell nothing about
//! the eSIM, because whoever guesses addresses reads them too.

use std::sync::LazyLock;

use askama::Template;

use super::policy::policy;

/// Status 404: the link was never issued, or was mistyped.
///
/// # Errors
/// When the template cannot be rendered.
pub fn unknown_link() -> Result<String, askama::Error> {
    Page {
        status: 404,
        title: "This link is not known",
        what: "Please check that the whole address was copied, without a letter missing at the end.",
        next: "If it still does not open, ask for the link again where you bought the eSIM.",
        style: STYLE,
    }
    .render()
}

/// Status 410: the link was valid once; the eSIM behind it was cancelled, erased or revoked.
///
/// # Errors
/// When the template cannot be rendered.
pub fn gone() -> Result<String, askama::Error> {
    Page {
        status: 410,
        title: "This eSIM is no longer available",
        what: "It was cancelled or withdrawn, so it cannot be installed any more.",
        next: "If you did not expect this, contact the seller from whom you bought it.",
        style: STYLE,
    }
    .render()
}

/// The `Content-Security-Policy` for these pages.
pub fn csp() -> &'static str {
    static CSP: LazyLock<String> = LazyLock::new(|| policy(STYLE, None));
    &CSP
}

const STYLE: &str = concat!(include_str!("../../templates/look.css"), include_str!("../../templates/problem.css"));

#[derive(Template)]
#[template(path = "problem.html")]
struct Page {
    status: u16,
    title: &'static str,
    what: &'static str,
    next: &'static str,
    style: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::policy::tests::assert_self_contained;

    #[test]
    fn both_pages_stand_alone_and_say_what_to_do() {
        for (page, says) in
            [(unknown_link().unwrap(), "This link is not known"), (gone().unwrap(), "no longer available")]
        {
            assert_self_contained(&page, csp());
            assert!(page.contains(says) && page.contains("noindex"));
        }
    }
}
