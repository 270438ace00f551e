//! Text from the API document as HTML: escaped, then the few marks that its authors use (paragraphs, headings, bullet
//! lists, fenced blocks, `code`, **strong**, links). Whatever else looks like markup stays text.

use std::fmt::Write;

/// The text with the five signs replaced that mean something in HTML.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// Blocks of text as HTML.
pub(super) fn blocks(text: &str) -> String {
    let mut out = String::new();
    let mut open = Open::Nothing;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Open::Fence = open {
            if trimmed.starts_with("```") {
                open.close(&mut out);
            } else {
                out.push_str(&escape(line));
                out.push('\n');
            }
        } else if trimmed.starts_with("```") {
            open.become_(Open::Fence, &mut out);
        } else if trimmed.is_empty() {
            open.close(&mut out);
        } else if let Some(heading) = heading(trimmed) {
            open.close(&mut out);
            // One size for all: the page's own headings are above them.
            let _ = write!(out, "<h4>{}</h4>", inline(heading));
        } else if let Some(item) = trimmed.strip_prefix("- ").or_else(|| trimmed.strip_prefix("* ")) {
            match open {
                Open::List => out.push_str("</li><li>"),
                _ => open.become_(Open::List, &mut out),
            }
            out.push_str(&inline(item));
        } else {
            match open {
                Open::Nothing => open.become_(Open::Paragraph, &mut out),
                _ => out.push('\n'),
            }
            out.push_str(&inline(trimmed));
        }
    }
    open.close(&mut out);
    out
}

/// One line's marks as HTML.
pub(super) fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        let (before, marked) = rest.split_at(at);
        out.push_str(&escape(before));
        match span(marked) {
            Some((html, after)) => {
                out.push_str(&html);
                rest = after;
            }
            None => {
                out.push_str(&marked[..1]);
                rest = &marked[1..];
            }
        }
    }
    out.push_str(&escape(rest));
    out
}

/// The marked span at the beginning of the text, and what follows it.
fn span(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix('`') {
        let (code, after) = rest.split_once('`')?;
        return Some((format!("<code>{}</code>", escape(code)), after));
    }
    if let Some(rest) = text.strip_prefix("**") {
        let (strong, after) = rest.split_once("**")?;
        return Some((format!("<strong>{}</strong>", inline(strong)), after));
    }
    let (label, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (target, after) = rest.split_once(')')?;
    // A link must not be able to run anything.
    let safe = ["https://", "http://", "/", "#", "mailto:"].iter().any(|start| target.starts_with(start));
    (safe && !label.contains('[')).then(|| (format!("<a href=\"{}\">{}</a>", escape(target), inline(label)), after))
}

fn heading(line: &str) -> Option<&str> {
    let text = line.trim_start_matches('#');
    (text.len() < line.len()).then(|| text.strip_prefix(' ')).flatten()
}

/// The block that is being written.
enum Open {
    Nothing,
    Paragraph,
    List,
    Fence,
}

impl Open {
    fn become_(&mut self, next: Self, out: &mut String) {
        self.close(out);
        out.push_str(match next {
            Self::Nothing => "",
            Self::Paragraph => "<p>",
            Self::List => "<ul><li>",
            Self::Fence => "<pre tabindex=\"0\"><code>",
        });
        *self = next;
    }

    fn close(&mut self, out: &mut String) {
        out.push_str(match self {
            Self::Nothing => "",
            Self::Paragraph => "</p>",
            Self::List => "</li></ul>",
            Self::Fence => "</code></pre>",
        });
        *self = Self::Nothing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_recognised() {
        let text = "First\nline.\n\n## Head\n- one `x`\n- two\n  more\n\n```\na < b\n```\nLast";
        assert_eq!(
            blocks(text),
            "<p>First\nline.</p><h4>Head</h4><ul><li>one <code>x</code></li><li>two\nmore</li></ul><pre tabindex=\"0\"><code>a &lt; b\n</code></pre><p>Last</p>"
        );
    }

    #[test]
    fn marks_within_a_line() {
        assert_eq!(inline("**a `b`** & [c](/d)"), "<strong>a <code>b</code></strong> &amp; <a href=\"/d\">c</a>");
        assert_eq!(inline("esims[] 2 * 3 ` and data.orders[0]"), "esims[] 2 * 3 ` and data.orders[0]");
    }

    #[test]
    fn nothing_gets_through_as_markup() {
        assert_eq!(inline("<script>`<b>`"), "&lt;script&gt;<code>&lt;b&gt;</code>");
        assert_eq!(inline("[x](javascript:alert)"), "[x](javascript:alert)");
        assert!(!inline("[x](/\"onclick=\"y)").contains("/\"on"));
    }
}
