//! The addresses and names of this host: clients on it have places of their own, and some servers answer to these names only.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;

use crate::clients::Peer;

/// Addresses come and go, and to read them takes a while where there are many.
const READ_EVERY: Duration = Duration::from_secs(10);

const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The host's addresses, as they were read last.
#[derive(Debug, Default)]
pub(super) struct Own {
    read: Option<Instant>,
    addresses: HashSet<IpAddr>,
}

impl Own {
    /// The client at the other end of a connection to the address `here`.
    pub(super) fn peer(&mut self, there: SocketAddr, here: Option<SocketAddr>) -> Peer {
        let ip = there.ip().to_canonical();
        let same = here.is_some_and(|here| here.ip().to_canonical() == ip);
        if same || self.has(ip) { Peer::Own } else { Peer::other(ip) }
    }

    fn has(&mut self, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            return true;
        }
        if self.read.is_none_or(|read| read.elapsed() >= READ_EVERY) {
            self.read = Some(Instant::now());
            // If they cannot be read, the last ones stay.
            if let Ok(all) = getifaddrs() {
                let ip = |address: &nix::sys::socket::SockaddrStorage| {
                    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                    v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
                };
                self.addresses = all.filter_map(|interface| ip(interface.address.as_ref()?)).collect();
            }
        }
        self.addresses.contains(&ip)
    }

    /// Whether the authority of a request, a host with or without a port, is an address or a name of this host.
    pub(super) fn is_named(&mut self, authority: &str) -> bool {
        let host = match authority.rsplit_once(':') {
            // The colons of an address are in brackets.
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return self.has(ip.to_canonical());
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        // RFC 6761, 6.3: no name server is asked for these.
        host == "localhost" || host.ends_with(".localhost") || is_host_name(&host)
    }
}

fn is_host_name(name: &str) -> bool {
    std::fs::read_to_string(HOST_NAME).is_ok_and(|own| !own.trim().is_empty() && own.trim().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_host() {
        let mut own = Own::default();
        own.has([127, 0, 0, 1].into());
        own.read = Some(Instant::now());
        own.addresses = HashSet::from([[10, 0, 0, 1].into(), "2001:db8::1".parse().unwrap()]);
        let host = std::fs::read_to_string(HOST_NAME).unwrap().trim().to_owned();
        for name in [
            "localhost",
            "localhost:6060",
            "LocalHost.",
            "a.localhost",
            "127.0.0.1:6060",
            "127.1.2.3",
            "[::1]:6060",
            "10.0.0.1:6060",
            "[2001:db8::1]:6060",
            "[::ffff:10.0.0.1]",
            &host,
            &format!("{host}:6060"),
        ] {
            assert!(own.is_named(name), "{name}");
        }
        for name in [
            "",
            ":6060",
            "evil.example",
            "evil.example:6060",
            "localhost.evil.example",
            "notlocalhost",
            "10.0.0.2",
            "[2001:db8::2]:1",
            "127.0.0.1.evil.example",
            "[::1]evil",
        ] {
            assert!(!own.is_named(name), "{name}");
        }
    }

    #[test]
    fn who_is_on_this_host() {
        let mut own = Own { read: Some(Instant::now()), addresses: HashSet::from([[10, 0, 0, 1].into()]) };
        let mut peer = |there: &str, here: &str| own.peer(there.parse().unwrap(), Some(here.parse().unwrap()));
        for (there, here) in [
            ("127.0.0.9:1", "127.0.0.1:9090"),
            ("[::1]:1", "[::1]:9090"),
            ("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:9090"),
            ("10.0.0.1:1", "10.9.9.9:9090"),
            ("[fe80::1]:1", "[fe80::1]:9090"),
        ] {
            assert_eq!(peer(there, here), Peer::Own, "{there}");
        }
        assert_eq!(peer("[::ffff:10.0.0.2]:1", "[::ffff:10.0.0.1]:9090"), Peer::other([10, 0, 0, 2].into()));
    }
}
