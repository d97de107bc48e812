//! Whose address a request comes from. Pure.
//!
//! Proxies append to X-Forwarded-For and Forwarded (RFC 7239) on the right, so both are read from
//! the right, and only as far as every address to the right is a trusted proxy's. X-Real-IP,
//! CF-Connecting-IP and their like are never read: a proxy that does not set them lets a client's
//! through.

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Longest chain of proxies that is followed; addresses further left are nobody's.
const HOPS_MAX: usize = 32;

/// The client's address: the peer's, or the rightmost untrusted one that trusted proxies name.
///
/// Where both fields are there and tell different stories, one was sent by the client past a proxy
/// that writes only the other: then neither is believed.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, trusted) {
        return peer;
    }
    let listed = (headers.contains_key(X_FORWARDED_FOR)).then(|| {
        let entries =
            lines(headers, &X_FORWARDED_FOR).flat_map(|line| line.rsplit(|byte| *byte == b','));
        walk(peer, entries.map(|entry| (entry, address(entry))), trusted)
    });
    let forwarded = (headers.contains_key(FORWARDED)).then(|| {
        let elements = lines(headers, &FORWARDED).flat_map(elements);
        walk(
            peer,
            elements.map(|element| (element, forwarded_for(element))),
            trusted,
        )
    });
    match (listed, forwarded) {
        (Some(one), Some(other)) if one != other => peer,
        (one, other) => one.or(other).unwrap_or(peer),
    }
}

/// Whether an address belongs to a trusted proxy.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// What counts as one client: IPv4 whole, IPv6 cut to its prefix (`2001:db8::/64`).
pub(super) fn network(address: IpAddr, ipv6_prefix: u8) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let prefix = ipv6_prefix.min(128);
            let host_bits = 128 - u32::from(prefix);
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            format!("{}/{prefix}", Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// Follows a chain from its right end; junk ends it at the last address that can be believed.
/// Empty members of a list mean nothing (RFC 9110 §5.6.1).
fn walk<'a>(
    peer: IpAddr,
    entries: impl Iterator<Item = (&'a [u8], Option<IpAddr>)>,
    trusted: &[IpNet],
) -> IpAddr {
    let mut believed = peer;
    let named = entries.filter(|(entry, _)| !entry.trim_ascii().is_empty());
    for (_, address) in named.take(HOPS_MAX) {
        let Some(address) = address else { break };
        believed = address;
        if !is_trusted(address, trusted) {
            break;
        }
    }
    believed
}

/// The lines of a field, the last one first. As bytes: what a client writes further left, text or
/// not, must not hide what a proxy has added.
fn lines<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers
        .get_all(name)
        .iter()
        .rev()
        .map(HeaderValue::as_bytes)
}

/// The elements of one Forwarded line, the last one first. Read from the right, since what stands
/// there was written by a proxy, while an unbalanced quote further left is the client's.
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let mut quoted = false;
        for (at, byte) in line.iter().enumerate().rev() {
            match byte {
                b'"' if !is_escaped(line, at) => quoted = !quoted,
                b',' if !quoted => {
                    rest = line.get(..at);
                    return line.get(at + 1..);
                }
                _ => {}
            }
        }
        rest = None;
        Some(line)
    })
}

fn is_escaped(line: &[u8], at: usize) -> bool {
    let before = line.get(..at).unwrap_or_default();
    before
        .iter()
        .rev()
        .take_while(|byte| **byte == b'\\')
        .count()
        % 2
        == 1
}

/// The address of the one `for` parameter of an element (RFC 7239 §4). `unknown`, obfuscated
/// identifiers and a repeated `for` are none.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let element = std::str::from_utf8(element).ok()?;
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") {
            if found.is_some() {
                return None;
            }
            let value = value.trim();
            let quoted = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'));
            found = Some(parse(quoted.unwrap_or(value))?);
        }
    }
    found
}

/// One member of X-Forwarded-For.
fn address(entry: &[u8]) -> Option<IpAddr> {
    parse(std::str::from_utf8(entry).ok()?.trim())
}

/// An address with or without a port, an IPv6 one with or without brackets.
fn parse(node: &str) -> Option<IpAddr> {
    let bare = node.parse().ok();
    let bracketed = || {
        let inner = node.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    };
    let with_port = || node.parse::<SocketAddr>().ok().map(|node| node.ip());
    let address = bare.or_else(bracketed).or_else(with_port)?;
    let address = address.to_canonical();
    // Nobody calls from 0.0.0.0 or ::.
    (address != IpAddr::V4(Ipv4Addr::UNSPECIFIED) && address != IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        .then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, fields: &[(&str, &str)]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        client(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn nobody_is_believed_who_is_not_a_trusted_peer() {
        let forged = [
            ("x-forwarded-for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("cf-connecting-ip", "1.2.3.4"),
        ];
        assert_eq!(seen("203.0.113.9", &forged), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &forged[2..]), "10.0.0.1");
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client_whatever_stands_left_of_it() {
        for listed in [
            "198.51.100.7",
            "1.1.1.1, 198.51.100.7",
            "1.1.1.1, 198.51.100.7, 10.2.3.4",
            "junk, 198.51.100.7:4711, 10.2.3.4:80",
            "\"unbalanced, 198.51.100.7 ,, 10.2.3.4,",
            "1.1.1.1, ::ffff:198.51.100.7, ::ffff:10.2.3.4",
        ] {
            let fields = [("x-forwarded-for", listed)];
            assert_eq!(seen("10.0.0.1", &fields), "198.51.100.7", "{listed}");
            assert_eq!(seen("::ffff:10.0.0.1", &fields), "198.51.100.7", "{listed}");
        }
    }

    #[test]
    fn several_lines_are_one_list_in_their_order() {
        let fields = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-for", "10.9.9.9"),
        ];
        assert_eq!(seen("10.0.0.1", &fields), "198.51.100.7");
    }

    #[test]
    fn what_is_no_text_hides_nothing_that_stands_right_of_it() {
        for (name, value) in [
            ("x-forwarded-for", &b"\xe9, 198.51.100.7, 10.2.3.4"[..]),
            ("x-forwarded-for", b"\xe91.1.1.1,198.51.100.7"),
            ("forwarded", b"for=\xe9, for=198.51.100.7;by=\"x\""),
        ] {
            let value = HeaderValue::from_bytes(value).unwrap();
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
            let trusted = ["10.0.0.0/8".parse().unwrap()];
            let seen = client("10.0.0.1".parse().unwrap(), &headers, &trusted);
            assert_eq!(seen.to_string(), "198.51.100.7", "{headers:?}");
        }
    }

    #[test]
    fn junk_ends_the_walk_at_the_last_believable_address() {
        for (listed, client) in [
            ("1.1.1.1, unknown, 10.2.3.4", "10.2.3.4"),
            ("1.1.1.1, 300.1.1.1", "10.0.0.1"),
            ("1.1.1.1, 0.0.0.0", "10.0.0.1"),
            ("1.1.1.1, 010.1.1.1", "10.0.0.1"),
            ("1.1.1.1, [::1", "10.0.0.1"),
            ("", "10.0.0.1"),
            ("10.5.5.5, 10.6.6.6", "10.5.5.5"),
        ] {
            let fields = [("x-forwarded-for", listed)];
            assert_eq!(seen("10.0.0.1", &fields), client, "{listed}");
        }
        let mut headers = HeaderMap::new();
        let bytes = http::HeaderValue::from_bytes(b"1.1.1.1, \xff").unwrap();
        headers.append(X_FORWARDED_FOR, bytes);
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let peer = "10.0.0.1".parse().unwrap();
        assert_eq!(client(peer, &headers, &trusted), peer);
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it() {
        for (forwarded, client) in [
            ("for=198.51.100.7", "198.51.100.7"),
            (
                "For=\"198.51.100.7:47011\";proto=https;by=10.0.0.1",
                "198.51.100.7",
            ),
            (
                "for=1.1.1.1, by=x;for=198.51.100.7, for=10.2.3.4",
                "198.51.100.7",
            ),
            ("for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=\"[2001:db8::1]\", for=\"[fd00::1]\"", "2001:db8::1"),
            ("for=\"x, for=198.51.100.7", "198.51.100.7"),
            ("for=\"a\\\"b,c\", for=198.51.100.7", "198.51.100.7"),
            ("for=1.1.1.1, for=_hidden, for=10.2.3.4", "10.2.3.4"),
            ("for=1.1.1.1, for=unknown", "10.0.0.1"),
            ("for=1.1.1.1, proto=https", "10.0.0.1"),
            ("for=1.1.1.1;for=2.2.2.2", "10.0.0.1"),
            ("nonsense", "10.0.0.1"),
        ] {
            let fields = [("forwarded", forwarded)];
            assert_eq!(seen("10.0.0.1", &fields), client, "{forwarded}");
        }
    }

    #[test]
    fn two_fields_that_tell_different_stories_are_both_ignored() {
        let real = ("x-forwarded-for", "198.51.100.7");
        assert_eq!(
            seen("10.0.0.1", &[real, ("forwarded", "for=1.1.1.1")]),
            "10.0.0.1"
        );
        assert_eq!(
            seen("10.0.0.1", &[real, ("forwarded", "for=198.51.100.7")]),
            "198.51.100.7"
        );
    }

    #[test]
    fn a_thousand_forged_chains_of_one_client_are_one_client() {
        for n in 0..1_000_u32 {
            let forged = format!("{}, [::{n:x}]:{n}, {n}", Ipv4Addr::from_bits(n * 7_919));
            let listed = format!("{forged}, 198.51.100.7");
            let fields = [("x-forwarded-for", forged.as_str())];
            assert_eq!(seen("203.0.113.9", &fields), "203.0.113.9");
            let fields = [("x-forwarded-for", listed.as_str())];
            assert_eq!(seen("10.0.0.1", &fields), "198.51.100.7");
        }
    }

    #[test]
    fn every_address_of_a_prefix_is_one_network() {
        let a = network("2001:db8:0:1::1".parse().unwrap(), 64);
        let b = network("2001:db8:0:1:ffff:ffff:ffff:ffff".parse().unwrap(), 64);
        assert_eq!((a.as_str(), a == b), ("2001:db8:0:1::/64", true));
        assert_ne!(a, network("2001:db8:0:2::1".parse().unwrap(), 64));
        assert_eq!(
            network("::ffff:192.0.2.1".parse().unwrap(), 64),
            "192.0.2.1"
        );
        assert_eq!(
            network("2001:db8::1".parse().unwrap(), 128),
            "2001:db8::1/128"
        );
        assert_eq!(network("2001:db8::1".parse().unwrap(), 0), "::/0");
        assert_eq!(
            network("2001:db8::1".parse().unwrap(), 255),
            "2001:db8::1/128"
        );
    }
}
