//! Names for addresses that belong to no object of the cluster.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use crate::flow::Party;

/// A network named in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedNetwork {
    /// Its addresses.
    pub network: IpNet,
    /// Its name.
    pub name: String,
}

fn named(name: &str) -> Arc<Party> {
    Arc::new(Party { name: Some(name.into()), ..Party::default() })
}

/// The named networks, and the names for special kinds of addresses.
#[derive(Debug)]
pub(super) struct Networks {
    by_prefix: JointPrefixMap<IpNet, Arc<Party>>,
    external: Arc<Party>,
    multicast: Arc<Party>,
    link_local: Arc<Party>,
}

impl Networks {
    pub(super) fn new(networks: &[NamedNetwork]) -> Networks {
        let by_prefix = networks.iter().map(|network| (network.network.trunc(), named(&network.name))).collect();
        Networks {
            by_prefix,
            external: named("external"),
            multicast: named("multicast"),
            link_local: named("link-local"),
        }
    }

    /// Finds the most specific network that contains the address.
    pub(super) fn of(&self, ip: IpAddr) -> Option<(IpNet, &Arc<Party>)> {
        self.by_prefix.get_lpm(&IpNet::from(ip))
    }

    /// Names the special addresses that a pod never has.
    pub(super) fn special(&self, ip: IpAddr) -> Option<&Arc<Party>> {
        let (multicast, link_local) = match ip {
            IpAddr::V4(ip) => (ip.is_multicast() || ip.is_broadcast(), ip.is_link_local() || ip.is_unspecified()),
            IpAddr::V6(ip) => (ip.is_multicast(), ip.is_unicast_link_local() || ip.is_unspecified()),
        };
        multicast.then_some(&self.multicast).or_else(|| link_local.then_some(&self.link_local))
    }

    pub(super) fn external(&self) -> &Arc<Party> {
        &self.external
    }
}

/// True for addresses that clusters use for pods and services, including 100.64.0.0/10, which some providers use.
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// The network that probably holds this address's neighbours: a node allocates at least that many addresses at once.
pub(in crate::names) fn neighbourhood(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & 0xffff_ff00).into()),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
    }
}
