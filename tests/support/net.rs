//! Networks that are silent unless a test sends, and the counters of their interfaces.

use std::path::Path;

use netmon::bpf::Tally;

use super::netns::Netns;
use super::{eventually, sh};

/// False if the kernel was booted without IPv6 (ipv6.disable=1).
fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// A namespace whose interfaces send nothing by themselves: no link-local address, so no router solicitation and no
/// duplicate address detection; multicast reports at once instead of within seconds.
pub fn host(role: &str) -> Netns {
    let ns = Netns::new(role);
    if has_ipv6() {
        ns.sh("cd /proc/sys/net/ipv6/conf/default
               echo 1 >addr_gen_mode
               echo 0 >accept_ra
               echo 0 >accept_dad
               echo 1 >mldv2_unsolicited_report_interval");
    }
    ns
}

/// One end of a veth pair: its namespace, its name, and the host part of its addresses in `net`.
pub struct End<'a> {
    pub ns: &'a Netns,
    pub link: &'a str,
    pub host: u8,
}

fn mac(net: u8, host: u8) -> String {
    format!("02:00:00:00:{net:02x}:{host:02x}")
}

/// Connects two namespaces with addresses 10.NET.0.HOST and fdNET::HOST and static neighbour entries.
pub fn connect(net: u8, one: &End, two: &End) {
    sh(&format!(
        "ip -n {} link add {} address {} type veth peer name {} address {} netns {}",
        one.ns.name,
        one.link,
        mac(net, one.host),
        two.link,
        mac(net, two.host),
        two.ns.name
    ));
    for (end, other) in [(one, two), (two, one)] {
        let End { ns, link, host } = end;
        let mut addresses = vec![(format!("10.{net}.0."), "/24")];
        if has_ipv6() {
            addresses.push((format!("fd{net:02}::"), "/64 nodad"));
        }
        for (network, rest) in &addresses {
            ns.sh(&format!("ip addr add {network}{host}{rest} dev {link}"));
        }
        ns.sh(&format!("ip link set dev {link} up"));
        for (network, _) in &addresses {
            let mac = mac(net, other.host);
            ns.sh(&format!("ip neigh replace {network}{} lladdr {mac} dev {link} nud permanent", other.host));
        }
    }
    // The kernel notifies IPv6 of the carrier up to a second later, and then IPv6 sends its multicast reports.
    for End { ns, link, .. } in [one, two] {
        eventually("the link is up", || {
            ns.sh(&format!("cat /sys/class/net/{link}/operstate")).starts_with("up").then_some(())
        });
    }
}

/// Hosts `a` with 10.9.0.1 and fd09::1 on `va`, `b` with .2 and ::2 on `vb`.
pub fn quiet_pair() -> (Netns, Netns) {
    let (a, b) = (host("a"), host("b"));
    connect(9, &End { ns: &a, link: "va", host: 1 }, &End { ns: &b, link: "vb", host: 2 });
    (a, b)
}

/// Switches offloads off, so that a socket's packets are those on the wire: no segmentation or checksums by the device.
pub fn offloads_off(ns: &Netns, link: &str) {
    ns.sh(&format!("ethtool -K {link} tso off gso off gro off tx off rx off >/dev/null"));
    let features = ns.sh(&format!("ethtool -k {link}"));
    for name in ["tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload"] {
        assert!(features.contains(&format!("{name}: off")), "{name} cannot be turned off on {link}");
    }
}

/// The counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub rx: Tally,
    pub tx: Tally,
    pub dropped: u64,
}

impl Counters {
    pub fn read(ns: &Netns, link: &str) -> Counters {
        let text = ns.sh(&format!(
            "cd /sys/class/net/{link}/statistics && cat rx_packets rx_bytes tx_packets tx_bytes tx_dropped rx_dropped"
        ));
        let n: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        let tally = |packets, bytes| Tally { packets, bytes };
        Counters { rx: tally(n[0], n[1]), tx: tally(n[2], n[3]), dropped: n[4] + n[5] }
    }

    pub fn since(self, before: Counters) -> Counters {
        let minus = |a: Tally, b: Tally| Tally { packets: a.packets - b.packets, bytes: a.bytes - b.bytes };
        Counters {
            rx: minus(self.rx, before.rx),
            tx: minus(self.tx, before.tx),
            dropped: self.dropped - before.dropped,
        }
    }
}

/// Index of an interface.
pub fn index(ns: &Netns, link: &str) -> u32 {
    ns.sh(&format!("cat /sys/class/net/{link}/ifindex")).trim().parse().unwrap()
}
