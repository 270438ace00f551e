//! Who the client is when proxies stand in front. Rate limits, login throttling and the audit log key on an address, so
//! a header that anybody can write must count only as far as hops we trust have vouched for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;

/// The addresses and ranges whose `X-Forwarded-For` is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct TrustedProxies {
    ranges: Vec<Range>,
}

/// One range; an IPv4 range never matches IPv6 and the other way round, so `::/0` does not trust the IPv4 internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    V4 { base: u32, mask: u32 },
    V6 { base: u128, mask: u128 },
}

impl TrustedProxies {
    /// The client's address: `peer` unless it is a trusted proxy, else the rightmost hop of `x_forwarded_for` that is
    /// not one. Several header lines are given joined by commas, in their order.
    ///
    /// A hop that is no address ends the walk at the hop before it: what lies further left was vouched for by nobody.
    pub fn client_address(&self, peer: IpAddr, x_forwarded_for: Option<&str>) -> IpAddr {
        let mut client = peer.to_canonical();
        for hop in x_forwarded_for.unwrap_or_default().rsplit(',') {
            if !self.trusts(client) {
                break;
            }
            match hop_address(hop) {
                Some(address) => client = address,
                None => break,
            }
        }
        client
    }

    /// Whether `address` is one of the proxies. IPv4 inside IPv6 (`::ffff:10.0.0.1`) counts as the IPv4 it is.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address.to_canonical()))
    }
}

impl TryFrom<Vec<String>> for TrustedProxies {
    type Error = String;

    fn try_from(entries: Vec<String>) -> Result<Self, String> {
        let ranges = entries.iter().map(|entry| Range::parse(entry.trim())).collect::<Result<_, _>>()?;
        Ok(Self { ranges })
    }
}

impl Range {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither an address such as 10.0.0.7 nor a range such as 10.0.0.0/8");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => {
                (address, Some(length.parse::<u8>().ok().filter(|_| !length.starts_with('+')).ok_or_else(wrong)?))
            }
            None => (text, None),
        };
        match (address.parse::<IpAddr>().map_err(|_| wrong())?, length) {
            (IpAddr::V4(v4), length) => Self::v4(v4, length.unwrap_or(32)).ok_or_else(wrong),
            (IpAddr::V6(v6), length) => {
                let length = length.unwrap_or(128);
                match (v6.to_ipv4_mapped(), length.checked_sub(96)) {
                    // Peers are compared in canonical form, so a mapped range must become the IPv4 range it stands for.
                    (Some(v4), Some(v4_length)) => Self::v4(v4, v4_length).ok_or_else(wrong),
                    _ => Self::v6(v6, length).ok_or_else(wrong),
                }
            }
        }
    }

    fn v4(address: Ipv4Addr, length: u8) -> Option<Self> {
        let host_bits = 32u32.checked_sub(u32::from(length))?;
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self::V4 { base: address.to_bits() & mask, mask })
    }

    fn v6(address: Ipv6Addr, length: u8) -> Option<Self> {
        let host_bits = 128u32.checked_sub(u32::from(length))?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self::V6 { base: address.to_bits() & mask, mask })
    }

    fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4 { base, mask }, IpAddr::V4(v4)) => v4.to_bits() & mask == base,
            (Self::V6 { base, mask }, IpAddr::V6(v6)) => v6.to_bits() & mask == base,
            _ => false,
        }
    }
}

/// One hop of the header; some proxies add the port, and brackets around IPv6.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse::<IpAddr>()
        .or_else(|_| hop.parse::<SocketAddr>().map(|with_port| with_port.ip()))
        .ok()
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(entries: &[&str]) -> TrustedProxies {
        TrustedProxies::try_from(entries.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    fn client(trusted: &[&str], peer: &str, header: Option<&str>) -> String {
        proxies(trusted).client_address(peer.parse().unwrap(), header).to_string()
    }

    #[test]
    fn a_stranger_cannot_choose_an_address() {
        assert_eq!(client(&[], "203.0.113.9", Some("1.2.3.4")), "203.0.113.9");
        assert_eq!(client(&["10.0.0.0/8"], "203.0.113.9", Some("1.2.3.4")), "203.0.113.9");
    }

    #[test]
    fn the_rightmost_hop_that_is_no_proxy_is_the_client() {
        let trusted = ["10.0.0.0/8", "192.0.2.1"];
        assert_eq!(client(&trusted, "10.1.1.1", Some("203.0.113.9")), "203.0.113.9");
        assert_eq!(client(&trusted, "10.1.1.1", Some("6.6.6.6, 203.0.113.9, 192.0.2.1,10.2.2.2")), "203.0.113.9");
    }

    #[test]
    fn without_a_header_the_proxy_is_the_client() {
        assert_eq!(client(&["10.0.0.0/8"], "10.1.1.1", None), "10.1.1.1");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.1.1", Some("")), "10.1.1.1");
    }

    #[test]
    fn when_every_hop_is_a_proxy_the_farthest_is_the_client() {
        assert_eq!(client(&["10.0.0.0/8"], "10.1.1.1", Some("10.3.3.3, 10.2.2.2")), "10.3.3.3");
    }

    #[test]
    fn a_hop_that_is_no_address_ends_the_walk() {
        assert_eq!(client(&["10.0.0.0/8"], "10.1.1.1", Some("1.2.3.4, unknown, 10.2.2.2")), "10.2.2.2");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.1.1", Some("1.2.3.4,")), "10.1.1.1");
    }

    #[test]
    fn ports_brackets_and_mapped_addresses_are_read() {
        let trusted = ["10.0.0.0/8"];
        assert_eq!(client(&trusted, "::ffff:10.1.1.1", Some("203.0.113.9:4711")), "203.0.113.9");
        assert_eq!(client(&trusted, "10.1.1.1", Some("[2001:db8::1]:443")), "2001:db8::1");
        assert_eq!(client(&trusted, "10.1.1.1", Some("[2001:db8::1]")), "2001:db8::1");
        assert_eq!(client(&trusted, "10.1.1.1", Some("::ffff:203.0.113.9")), "203.0.113.9");
        assert_eq!(client(&["::ffff:10.0.0.0/104"], "10.1.1.1", Some("203.0.113.9")), "203.0.113.9");
    }

    #[test]
    fn ranges_end_where_they_say() {
        let trusted = proxies(&["10.0.0.0/9", "fd00::/8", "192.0.2.128/25"]);
        for inside in ["10.127.255.255", "fdff::1", "192.0.2.128"] {
            assert!(trusted.trusts(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.128.0.0", "fe00::1", "192.0.2.127", "::1"] {
            assert!(!trusted.trusts(outside.parse().unwrap()), "{outside}");
        }
        assert!(proxies(&["0.0.0.0/0"]).trusts("8.8.8.8".parse().unwrap()));
        assert!(!proxies(&["::/0"]).trusts("8.8.8.8".parse().unwrap()));
    }

    #[test]
    fn entries_that_are_no_address_are_refused() {
        for wrong in ["", "localhost", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "/8"] {
            assert!(TrustedProxies::try_from(vec![wrong.to_owned()]).is_err(), "{wrong:?}");
        }
    }
}
