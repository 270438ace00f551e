//! The documents say what the code says: every code of a refusal, every setting.

use server::problem::Code;
use std::collections::BTreeMap;

/// The rows of the tables whose first cell is a word in backticks, with their second cell.
fn rows(document: &str) -> impl Iterator<Item = (&str, &str)> {
    document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let word = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((word, cells.next()?))
    })
}

#[test]
fn errors_md_lists_every_code_with_its_status_and_no_other() {
    let document = include_str!("../../../docs/errors.md");
    let mut documented: BTreeMap<&str, u16> = BTreeMap::new();
    for (code, status) in rows(document) {
        if let Ok(status) = status.parse() {
            assert_eq!(documented.insert(code, status), None, "{code} is listed twice");
        }
    }
    let coded: BTreeMap<&str, u16> = Code::ALL.iter().map(|code| (code.code(), code.status())).collect();
    assert_eq!(documented, coded);
}

#[test]
fn the_codes_of_refusals_differ() {
    let mut codes: Vec<_> = Code::ALL.iter().map(|code| code.code()).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), Code::ALL.len());
}
