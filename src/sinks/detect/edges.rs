//! Who talks to whom that never did, in the clear to the outside, or otherwise than the port says.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::contact::Contact;
use crate::bpf::App;
use crate::flow::Party;

/// Most edges that are known.
const EDGES_MOST: usize = 1 << 16;

/// Pairs of workloads and the port of the second.
pub(super) struct Edges {
    known: HashSet<u64, RandomState>,
    hasher: RandomState,
    /// When learning began.
    since_ns: u64,
    /// Edges that found no room: they are never new.
    pub(super) refused: u64,
}

impl Edges {
    pub(super) fn new(now_ns: u64) -> Edges {
        let (known, hasher) = (HashSet::with_hasher(RandomState::default()), RandomState::default());
        Edges { known, hasher, since_ns: now_ns, refused: 0 }
    }

    /// True if the edge is new, and what is usual has been learned for long enough.
    pub(super) fn is_new(&mut self, contact: &Contact, now_ns: u64, learning_ns: u64) -> bool {
        let (Some(source), Some(target)) = (contact.source_party(), contact.target_party()) else { return false };
        let (Some(from), Some(to)) = (workload(source), workload(target)) else { return false };
        let hash = self.hasher.hash_one((from, to, contact.protocol, contact.port));
        if self.known.len() >= EDGES_MOST {
            self.refused += u64::from(!self.known.contains(&hash));
            return false;
        }
        self.known.insert(hash) && now_ns.saturating_sub(self.since_ns) >= learning_ns
    }
}

/// Namespace and name of a workload of the cluster.
fn workload(party: &Party) -> Option<(Option<&str>, &str)> {
    let name = party.workload.as_ref().or(party.service.as_ref())?;
    Some((party.namespace.as_deref(), name))
}

/// True if the address is outside of the cluster, of named networks and of private ones (RFC 1918, 3927, 4193, 6598).
pub(super) fn is_external(ip: IpAddr, party: Option<&Arc<Party>>) -> bool {
    let is_ours = party.is_some_and(|party| {
        let named = party.name.as_ref().is_some_and(|name| &**name != "external");
        named || party.workload.is_some() || party.pod.is_some() || party.service.is_some() || party.node.is_some()
    });
    let is_local = match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            let nobody = ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast();
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared || nobody
        }
        IpAddr::V6(ip) => {
            let nobody = ip.is_unspecified() || ip.is_multicast();
            ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local() || nobody
        }
    };
    !is_local && !is_ours
}

/// The name of what is spoken in the clear, if it is one of the protocols that should not leave.
pub(super) fn cleartext(app: App, next: Option<App>, port: u16) -> Option<&'static str> {
    if next == Some(App::Tls) {
        return None;
    }
    match (app, port) {
        (_, 21) if app != App::Tls => Some("ftp"),
        (App::Http | App::Http2 | App::Grpc | App::Redis | App::Mysql | App::Smtp, _) => Some(app.name()),
        _ => None,
    }
}

/// What a well-known port is for, if the ends speak something else there.
pub(super) fn mismatch(app: App, port: u16) -> Option<&'static str> {
    const TLS_TOO: bool = true;
    let (name, apps, tls): (_, &[App], bool) = match port {
        22 => ("ssh", &[App::Ssh], false),
        25 | 587 => ("smtp", &[App::Smtp], TLS_TOO),
        53 => ("dns", &[App::Dns], false),
        80 => ("http", &[App::Http, App::Http2, App::Grpc], false),
        443 => ("https", &[App::Quic, App::Http, App::Http2, App::Grpc], TLS_TOO),
        1883 => ("mqtt", &[App::Mqtt], TLS_TOO),
        3306 => ("mysql", &[App::Mysql], TLS_TOO),
        4222 => ("nats", &[App::Nats], TLS_TOO),
        5432 => ("postgres", &[App::Postgres], TLS_TOO),
        5672 => ("amqp", &[App::Amqp], TLS_TOO),
        6379 => ("redis", &[App::Redis], TLS_TOO),
        9042 => ("cassandra", &[App::Cassandra], TLS_TOO),
        9092 => ("kafka", &[App::Kafka], TLS_TOO),
        11211 => ("memcached", &[App::Memcached], TLS_TOO),
        27017 => ("mongodb", &[App::Mongodb], TLS_TOO),
        _ => return None,
    };
    let usual = apps.contains(&app) || tls && app == App::Tls;
    (!usual).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{S, answered, ip};
    use super::*;

    fn between(from: &str, to: &str, port: u16) -> Contact {
        let party = |name: &str| {
            let workload = (!name.is_empty()).then(|| name.into());
            Some(Arc::new(Party { namespace: Some("shop".into()), workload, ..Party::default() }))
        };
        Contact { parties: Some(Arc::new([party(from), party(to)])), ..answered(ip(1), ip(2), port, S) }
    }

    #[test]
    fn an_edge_is_new_once_and_only_after_learning() {
        let (mut edges, day) = (Edges::new(S), 86_400 * S);
        let mut is_new = |from, to, port, at| edges.is_new(&between(from, to, port), at, day);
        assert!(!is_new("web", "db", 5432, S));
        assert!(!is_new("web", "cart", 80, day), "a second too early");
        assert!(!is_new("web", "db", 5432, 2 * day), "known");
        assert!(is_new("web", "db", 22, 2 * day));
        assert!(!is_new("web", "db", 22, 2 * day), "once");
        assert!(is_new("db", "web", 5432, 2 * day), "the other way");
        assert!(!is_new("web", "", 80, 2 * day), "no workload");
    }

    #[test]
    fn edges_are_bounded() {
        let mut edges = Edges::new(S);
        for number in 0..EDGES_MOST + 10 {
            edges.is_new(&between(&number.to_string(), "db", 1), S, S);
        }
        assert_eq!((edges.known.len(), edges.refused), (EDGES_MOST, 10));
    }

    #[test]
    fn what_is_external_is_in_no_private_network_and_no_cluster() {
        let external = |text: &str| is_external(text.parse().unwrap(), None);
        for inside in ["10.1.2.3", "192.168.1.1", "127.0.0.1", "169.254.1.1", "100.64.0.9", "fd00::1", "fe80::1", "::1"]
        {
            assert!(!external(inside), "{inside}");
        }
        for outside in ["8.8.8.8", "100.128.0.1", "2001:4860::8888", "::ffff:8.8.8.8"] {
            assert!(external(outside), "{outside}");
        }
        assert!(!external("::ffff:10.0.0.1"));
        let node = Party { node: Some("n1".into()), ..Party::default() };
        let named = |name: &str| Party { name: Some(name.into()), ..Party::default() };
        let is = [node, named("corp"), named("external")]
            .map(|party| is_external("8.8.8.8".parse().unwrap(), Some(&Arc::new(party))));
        assert_eq!(is, [false, false, true]);
    }

    #[test]
    fn clear_text_is_what_no_tls_follows() {
        assert_eq!(cleartext(App::Http, None, 80), Some("http"));
        assert_eq!(cleartext(App::Smtp, Some(App::Tls), 25), None);
        assert_eq!(cleartext(App::Smtp, None, 25), Some("smtp"));
        assert_eq!(cleartext(App::Smtp, None, 21), Some("ftp"));
        assert_eq!([App::Tls, App::Ssh, App::Dns, App::Quic].map(|app| cleartext(app, None, 9)), [None; 4]);
    }

    #[test]
    fn ports_have_their_protocols() {
        for (app, port, expected) in [
            (App::Ssh, 443, Some("https")),
            (App::Http, 22, Some("ssh")),
            (App::Tls, 53, Some("dns")),
            (App::Ssh, 80, Some("http")),
            (App::Ssh, 22, None),
            (App::Tls, 443, None),
            (App::Quic, 443, None),
            (App::Tls, 6379, None),
            (App::Redis, 6379, None),
            (App::Grpc, 80, None),
            (App::Ssh, 2222, None),
        ] {
            assert_eq!(mismatch(app, port), expected, "{app:?} at {port}");
        }
    }
}
