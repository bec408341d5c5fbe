//! Which addresses may be called, decided at the moment of resolving: the checked address is the connected one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use crate::api::Addresses;

/// Which addresses a client may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct AddressPolicy {
    pub(super) addresses: Addresses,
    /// Nothing but loopback: with test time only servers of the same machine may be called.
    pub(super) loopback_only: bool,
}

impl AddressPolicy {
    /// Whether the address may be called.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        let address = embedded(address);
        if self.loopback_only && !address.is_loopback() {
            return false;
        }
        if address.is_unspecified() || address.is_multicast() {
            return false;
        }
        match self.addresses {
            Addresses::AllowPrivate => true,
            Addresses::PublicOnly => match address {
                IpAddr::V4(address) => is_public_v4(address),
                IpAddr::V6(address) => is_public_v6(address),
            },
        }
    }

    /// Whether the URL may be called as far as can be told before resolving. Hosts that are addresses never reach a
    /// resolver.
    pub(super) fn allows_literal(self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.parse().map_or(true, |address| self.allows(address))
    }
}

/// The IPv4 address inside an IPv6 one where a translator or the kernel would use it: v4-mapped, v4-compatible, NAT64
/// (RFC 6052) and 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let octets = v6.octets();
    let v4_at = |at: usize| {
        let bytes: Option<[u8; 4]> = octets.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(address, |bytes| IpAddr::V4(Ipv4Addr::from(bytes)))
    };
    let compatible = v6.segments()[6] != 0;
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => v4_at(12),
        [0, 0, 0, 0, 0, 0, ..] if compatible => v4_at(12),
        [0x2002, ..] => v4_at(2),
        _ => address,
    }
}

/// Everything but the blocks that the IANA special-purpose registry keeps from the global Internet.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (18..20).contains(&b);
    let protocol = a == 192 && b == 0 && c == 0;
    !(a == 0
        || a >= 224
        || shared
        || benchmark
        || protocol
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation())
}

/// Only `2000::/3`, the one block of global unicast addresses, without its documentation and protocol parts.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let documentation = (a == 0x2001 && b == 0xdb8) || (a == 0x3fff && b < 0x1000);
    let protocol = a == 0x2001 && b < 0x200;
    a & 0xe000 == 0x2000 && !documentation && !protocol
}

/// A name resolved to nothing that may be called.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressRefused;

impl fmt::Display for AddressRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name resolves to no address that may be called")
    }
}

impl std::error::Error for AddressRefused {}

/// Resolves by the system's resolver and keeps what the policy allows.
pub(super) struct CheckedResolver(pub(super) AddressPolicy);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| policy.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(AddressRefused.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(addresses: Addresses, loopback_only: bool, address: &str) -> bool {
        AddressPolicy { addresses, loopback_only }.allows(address.parse().unwrap())
    }

    #[test]
    fn public_only_refuses_every_address_that_is_not_on_the_global_internet() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.8.9.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "100::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!allows(Addresses::PublicOnly, false, address), "{address}");
        }
        for address in [
            "1.1.1.1",
            "100.128.0.1",
            "172.32.0.1",
            "162.159.140.245",
            "2606:4700:4400::6812:2000",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert!(allows(Addresses::PublicOnly, false, address), "{address}");
        }
    }

    #[test]
    fn test_time_leaves_loopback_only() {
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(allows(Addresses::AllowPrivate, true, address), "{address}");
            assert!(!allows(Addresses::PublicOnly, true, address), "{address}");
        }
        for address in ["1.1.1.1", "10.0.0.1", "2606:4700::1", "0.0.0.0", "::"] {
            assert!(!allows(Addresses::AllowPrivate, true, address), "{address}");
        }
        assert!(allows(Addresses::AllowPrivate, false, "10.0.0.1"));
        assert!(!allows(Addresses::AllowPrivate, false, "0.0.0.0"));
    }

    #[test]
    fn hosts_that_are_addresses_are_checked_in_every_spelling() {
        let policy = AddressPolicy { addresses: Addresses::PublicOnly, loopback_only: false };
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://169.254.169.254:443/",
        ] {
            assert!(!policy.allows_literal(&Url::parse(url).unwrap()), "{url}");
        }
        for url in ["https://1.1.1.1/", "https://api.openai.com/", "https://[2606:4700::1]/"] {
            assert!(policy.allows_literal(&Url::parse(url).unwrap()), "{url}");
        }
    }
}
