//! The Content-Security-Policy of a page, computed from the very text that is printed into it, so that the policy and
//! the page cannot drift apart. Hashes rather than nonces: a page stays the same bytes for the same data.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

/// The policy for a page with this inline style and, if there is one, this inline script; all else is forbidden.
pub(super) fn policy(style: &str, script: Option<&str>) -> String {
    let script = script.map_or_else(|| "'none'".to_owned(), source_hash);
    format!(
        "default-src 'none'; img-src 'self' data:; style-src {}; script-src {script}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        source_hash(style)
    )
}

fn source_hash(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The text of the page's only `<tag>` element; what a browser hashes.
    pub(in crate::pages) fn inline<'a>(page: &'a str, tag: &str) -> Option<&'a str> {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let mut parts = page.split(&open);
        let rest = parts.nth(1)?;
        assert!(parts.next().is_none(), "more than one inline {tag}");
        rest.split(&close).next()
    }

    /// Fails unless the page stands alone under this policy: hashes as printed, nothing fetched from elsewhere, no
    /// inline attributes that the policy would block.
    pub(in crate::pages) fn assert_self_contained(page: &str, csp: &str) {
        let style = inline(page, "style").expect("a page has its style inside");
        assert!(csp.contains(&format!("style-src {}", source_hash(style))), "style hash differs: {csp}");
        match inline(page, "script") {
            Some(script) => {
                assert!(csp.contains(&format!("script-src {}", source_hash(script))), "script hash differs: {csp}")
            }
            None => assert!(!page.contains("<script"), "a script that the policy does not know"),
        }
        for forbidden in
            [" src=\"http", " src=\"//", "<link", "@import", "url(", " style=\"", " onclick", "<iframe", "<form"]
        {
            assert!(!page.contains(forbidden), "page has {forbidden}");
        }
        for needed in ["<!doctype html>", "lang=\"en\"", "name=\"viewport\"", "<main", "<h1", "<title>"] {
            assert!(page.contains(needed), "page lacks {needed}");
        }
    }

    #[test]
    fn a_known_text_has_its_known_hash() {
        // The hash of the empty text is published; anything else here would be our own code checking itself.
        assert_eq!(source_hash(""), "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='");
    }

    #[test]
    fn without_a_script_scripts_are_forbidden() {
        assert!(policy("a{}", None).contains("script-src 'none'"));
    }
}
