//! ICMP errors about translated connections. The kernel translates such an error back as it forwards it (RFC 5508,
//! 4.2): it comes in under the addresses of one side and leaves under those of the other. Connection tracking reports
//! no connection for an error; its addresses are those of the connection that it is about.

use foldhash::{HashMap, HashSet};

use super::{Identity, Nat, News, ROOM, Tracked, Translated};
use crate::bpf::{Endpoint, Hook, Record};
use crate::flow::FlowKey;
use crate::flow::outcome::{ICMP, ICMPV6};

type Address = [u8; 16];

/// Whether it is IPv6, the address an error goes to, and the one it comes from: `None` stands for anybody, such as a
/// router on the way.
type Leaving = (bool, Address, Option<Address>);

/// The addresses that errors about translated connections have when they leave.
#[derive(Debug, Default)]
pub struct Errors {
    /// The latest connection with these addresses, and how many have them.
    of: HashMap<Leaving, (Entering, u32)>,
    /// Addresses of this host: an error that leaves from one of them may originate here.
    own: HashSet<Address>,
}

/// Addresses of an error when it came in: its destination, and its source if that was translated.
type Entering = (Address, Option<Address>);

/// Errors to the client and to the server, each from the other end or from anybody.
fn names(translated: &Translated) -> impl Iterator<Item = (Leaving, Entering)> {
    let Translated { dialled, answered, v6, .. } = translated;
    let [dialled, answered] = [dialled, answered].map(|ends| ends.map(|end| end.address));
    let ways = [
        ([dialled[0], dialled[1]], [answered[0], answered[1]]),
        ([answered[1], answered[0]], [dialled[1], dialled[0]]),
    ];
    let v6 = *v6;
    ways.into_iter().flat_map(move |([to, from], [was_to, was_from])| {
        let ends = (to != was_to || from != was_from).then_some(((v6, to, Some(from)), (was_to, Some(was_from))));
        let anybody = (to != was_to).then_some(((v6, to, None), (was_to, None)));
        ends.into_iter().chain(anybody)
    })
}

/// True for an ICMP or ICMPv6 error.
pub(in crate::flow) fn is_error(record: &Record) -> bool {
    match record.protocol {
        ICMP => matches!(record.icmp_type, 3 | 4 | 5 | 11 | 12),
        ICMPV6 => record.icmp_type < 128,
        _ => false,
    }
}

impl Errors {
    /// Applies a change to the translations.
    pub fn learn(&mut self, news: &News) {
        match news {
            News::Begun(translated) => self.add(translated),
            News::Over(translated) => self.remove(translated),
        }
        if self.of.capacity() > 4 * self.of.len() + ROOM {
            self.of.shrink_to(2 * self.of.len());
        }
    }

    fn add(&mut self, translated: &Translated) {
        for (leaving, entering) in names(translated) {
            let known = self.of.entry(leaving).or_insert((entering, 0));
            *known = (entering, known.1 + 1);
        }
    }

    fn remove(&mut self, translated: &Translated) {
        for (leaving, _) in names(translated) {
            if let Some(known) = self.of.get_mut(&leaving) {
                known.1 -= 1;
                if known.1 == 0 {
                    self.of.remove(&leaving);
                }
            }
        }
    }

    /// Sets the addresses of this host.
    pub fn own(&mut self, addresses: HashSet<[u8; 16]>) {
        self.own = addresses;
    }

    /// True if the record is worth looking up, which few are.
    pub fn concern(record: &Record) -> bool {
        record.hook == Hook::Egress && !record.inner && is_error(record)
    }

    /// The flow that a leaving error belongs to, by the addresses that the error came in with.
    pub fn identify(&self, record: &Record) -> Option<Identity> {
        if self.of.is_empty() || !Errors::concern(record) {
            return None;
        }
        let [from, to] = [record.source.address, record.destination.address];
        let found = self.of.get(&(record.v6, to, Some(from))).or_else(|| self.of.get(&(record.v6, to, None)));
        let &((was_to, was_from), _) = found?;
        let was_from = was_from.unwrap_or(from);
        let [source, destination] = [was_from, was_to].map(|address| Endpoint { address, port: 0 });
        let (key, sender) = FlowKey::of(&Record { source, destination, ..record.clone() });
        let nat = Nat { client: None, server: None };
        let tracked = Some(Tracked { client: sender, nat, translated: true });
        Some(Identity { key, sender, tracked, only_if_known: self.own.contains(&from) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tracking;
    use super::super::tests::{Known, both, end, record};
    use super::*;

    fn error(from: u8, to: u8) -> Record {
        let host = |host| Endpoint { port: 0, ..end(host, 0) };
        Record { protocol: ICMP, icmp_type: 3, icmp_code: 3, ..record(host(from), host(to), 1, Hook::Egress) }
    }

    /// Pod 1 dials service 2, backend 3 answers and knows the pod as node 4.
    fn translations() -> Known {
        let mut translations = Known::new(10);
        translations.apply(&Tracking::Begun(both()), 0);
        translations
    }

    fn entered(translations: &Known, record: &Record) -> Option<(u8, u8)> {
        let identity = translations.identify(record)?;
        let host = |at: usize| identity.key.ends[at].address[3];
        Some((host(identity.sender), host(1 - identity.sender)))
    }

    #[test]
    fn an_error_that_leaves_translated_is_the_one_that_came_in() {
        let translations = translations();
        assert_eq!(
            entered(&translations, &error(2, 1)),
            Some((3, 4)),
            "from the backend; for the pod, from the service"
        );
        assert_eq!(entered(&translations, &error(9, 1)), Some((9, 4)), "from a router");
        assert_eq!(entered(&translations, &error(4, 3)), Some((1, 2)), "from the pod; for the backend, from the node");
        assert_eq!(entered(&translations, &error(9, 8)), None, "about other connections");
        assert_eq!(entered(&translations, &Record { hook: Hook::Ingress, ..error(2, 1) }), None, "as it came in");
        assert_eq!(entered(&translations, &Record { icmp_type: 8, ..error(2, 1) }), None, "no error");
    }

    #[test]
    fn an_error_that_the_host_may_have_sent_needs_a_known_flow() {
        let mut translations = translations();
        translations.errors.own([end(9, 0).address].into_iter().collect());
        assert!(translations.identify(&error(9, 1)).unwrap().only_if_known);
        assert!(!translations.identify(&error(2, 1)).unwrap().only_if_known);
    }

    #[test]
    fn connections_that_are_over_are_forgotten() {
        let mut translations = translations();
        translations.apply(&Tracking::Ended(both()), 0);
        translations.expire(100_000_000_000);
        assert!(translations.errors.of.is_empty());
        assert_eq!(entered(&translations, &error(2, 1)), None);
    }
}
