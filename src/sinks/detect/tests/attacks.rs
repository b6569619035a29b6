//! What is an attack.

use std::net::{IpAddr, Ipv4Addr};

use super::super::kind::Kind;
use super::super::samples::S;
use super::records::{Traffic, pod, v4, v6};

/// An attack and what has to be found.
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Who does it; if the sources are forged, the victim.
    pub(super) who: IpAddr,
    pub(super) traffic: Traffic,
}

/// Where an attack comes from, where it goes, and when it begins.
struct Scene {
    source: IpAddr,
    number: u8,
    start_ns: u64,
    traffic: Traffic,
}

impl Scene {
    /// A host of the network that is attacked.
    fn victim(&self, host: u16) -> IpAddr {
        match self.source {
            IpAddr::V6(_) => v6(100 + u16::from(self.number), host),
            IpAddr::V4(_) => v4(10, 100 + self.number, (host >> 8) as u8, host as u8),
        }
    }

    /// So many seconds after the start.
    fn at(&self, seconds: f64) -> u64 {
        self.start_ns + (seconds * 1e9) as u64
    }
}

type Act = (&'static str, Kind, fn(&mut Scene));

const ACTS: [Act; 14] = [
    ("1,000 closed ports of a host", Kind::PortScan, |scene| {
        for port in 1..=1000u16 {
            scene.traffic.refused(scene.source, scene.victim(1), port, scene.at(f64::from(port) / 100.0));
        }
    }),
    ("polite: a port each 0.4 s, filtered", Kind::PortScan, |scene| {
        for port in 1..=100u16 {
            let seconds = f64::from(port) * 0.4;
            scene.traffic.silent(scene.source, scene.victim(1), port, scene.at(seconds));
            scene.traffic.silent(scene.source, scene.victim(1), port, scene.at(seconds + 1.0));
        }
    }),
    ("port 6379 of 250 hosts", Kind::AddressScan, |scene| {
        for host in 1..=250u16 {
            let (source, victim, at_ns) = (scene.source, scene.victim(host), scene.at(f64::from(host) / 50.0));
            match host % 25 {
                3 => scene.traffic.talk(source, victim, 6379, at_ns, 0.1, 9000),
                _ if host % 3 == 0 => scene.traffic.refused(source, victim, 6379, at_ns),
                _ => scene.traffic.silent(source, victim, 6379, at_ns),
            }
        }
    }),
    ("port 22 of 30 hosts", Kind::AddressScan, |scene| {
        for host in 1..=30u16 {
            scene.traffic.silent(scene.source, scene.victim(host), 22, scene.at(f64::from(host)));
        }
    }),
    ("a host each three minutes", Kind::SlowScan, |scene| {
        for host in 1..=12u16 {
            scene.traffic.silent(scene.source, scene.victim(host), 1000 + host, scene.at(f64::from(host) * 180.0));
        }
    }),
    ("FIN", Kind::StealthScan, |scene| probes(scene, 1)),
    ("NULL", Kind::StealthScan, |scene| probes(scene, 0)),
    ("Xmas", Kind::StealthScan, |scene| probes(scene, 0x29)),
    ("SYN-FIN", Kind::StealthScan, |scene| probes(scene, 3)),
    ("UDP ports of a host, one a second", Kind::UdpScan, |scene| {
        for port in 1..=60u16 {
            scene.traffic.unreachable(scene.source, scene.victim(1), port, scene.at(f64::from(port)));
        }
    }),
    ("pings to 60 hosts", Kind::PingSweep, |scene| {
        for host in 1..=60u16 {
            scene.traffic.ping(scene.source, scene.victim(host), scene.at(f64::from(host) / 10.0), host % 20 == 5);
        }
    }),
    ("guesses of an SSH password", Kind::BruteForce, |scene| {
        for guess in 0..60u32 {
            let at_ns = scene.at(f64::from(guess) + f64::from(guess * guess % 7) / 3.0);
            scene.traffic.talk(scene.source, scene.victim(1), 22, at_ns, 1.0, 2600 + u64::from(guess * 37 % 400));
        }
    }),
    ("guesses of a database's password", Kind::BruteForce, |scene| {
        for guess in 0..200u32 {
            scene.traffic.talk(scene.source, scene.victim(1), 5432, scene.at(f64::from(guess) / 9.0), 0.1, 620);
        }
    }),
    ("1,000 half-open connections a second", Kind::SynFlood, |scene| {
        for step in 0..12_000u32 {
            let forged: IpAddr = match scene.source {
                IpAddr::V4(_) => Ipv4Addr::from_bits(0x0b00_0000 + step * 977).into(),
                IpAddr::V6(_) => v6(1000 + (step >> 8) as u16, step as u16),
            };
            scene.traffic.half_open(forged, scene.victim(1), 80, scene.at(f64::from(step) / 1000.0));
        }
    }),
];

/// Segments with these flags; one port in ten does not answer, because it is open.
fn probes(scene: &mut Scene, flags: u8) {
    for port in 1..=100u16 {
        let at_ns = scene.at(f64::from(port) / 50.0);
        scene.traffic.probe(scene.source, scene.victim(1), port, at_ns, flags, port % 10 != 0);
    }
}

/// Each attack from the outside, from a pod, and over IPv6, each by a source of its own.
pub(super) fn all() -> Vec<Attack> {
    let mut all = Vec::new();
    for (number, (name, kind, act)) in (1u8..).zip(ACTS) {
        let sources = [v4(203, 0, 200, number), pod(1, 100 + number), v6(9, number.into())];
        for (place, source) in (0u8..).zip(sources) {
            let number = number + place * 20;
            let start_ns = (900 + u64::from(number) * 5) * S;
            let mut scene = Scene { source, number, start_ns, traffic: Traffic::from_port(40_000) };
            act(&mut scene);
            let who = if kind == Kind::SynFlood { scene.victim(1) } else { source };
            all.push(Attack { name, kind, who, traffic: scene.traffic });
        }
    }
    all
}
