//! The time that the program takes for a packet, in nanoseconds beyond that of an empty program.

use anyhow::{Context, Result};
use netmon::bpf::{Frame, Hook, Injector};

use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::{CHUNK, TIMESTAMPS, cpu_ns, data_packet, load_kernel, pin, request_packet, small_packet};
use crate::support::kernel::Kernel;
use crate::support::packet::*;
use crate::support::vary::{Order, Vary};

const HOT: Budget = AtMost(20.0);

/// Order and number of the flows; `None`: the same packet over and over.
type Flows = Option<(Order, u32)>;

struct Case {
    name: &'static str,
    budget: Budget,
    packet: Vec<u8>,
    packets: u32,
    kernel: Kernel,
    ours: Injector,
    empty: Injector,
    /// Run in front of the two programs. Kept because the kernel clears a tail-call map once nothing holds it.
    _vary: [Vary; 2],
    samples: Vec<[f64; 2]>,
    records: usize,
}

pub fn run(report: &mut Report) -> Result<()> {
    pin()?;
    let tcp4 = ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &tcp(ACK, &TIMESTAMPS, &[0; 1448])));
    let tcp6 = ethernet(&[], IPV6, &ipv6(TCP, &tcp(ACK, &TIMESTAMPS, &[0; 1428])));
    let small6 = ethernet(&[], IPV6, &ipv6(TCP, &tcp(ACK, &TIMESTAMPS, &[])));
    let udp4 = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(&[0; 512])));
    let small = small_packet();
    let carry = |frame: &[u8]| ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &vxlan(4789, frame)));
    let (small_carried, udp_carried) = (carry(&small), carry(&udp4));
    let request = request_packet();
    let ping = ethernet(&[], IPV4, &ipv4(1, &[], 7, 0, &[8, 0, 0, 0, 0, 1, 0, 1, 0, 0]));
    let data = data_packet();
    let many = |order, flows| Some((order, flows));
    let mut cases = [
        ("hot flow, TCP, IPv4, 1514 bytes", HOT, &tcp4, many(Order::Stream, 1)),
        ("hot flow, TCP, IPv6, 1514 bytes", HOT, &tcp6, many(Order::Stream, 1)),
        ("hot flow, TCP, IPv4, its ACKs", HOT, &small, many(Order::Stream, 1)),
        ("hot flow, UDP, IPv4, 554 bytes", HOT, &udp4, many(Order::Stream, 1)),
        ("one ACK over and over", Budget::None, &small, None),
        ("one ACK over and over, in VXLAN", Budget::None, &small_carried, None),
        ("one datagram over and over", Budget::None, &udp4, None),
        ("one datagram over and over, in VXLAN", Budget::None, &udp_carried, None),
        ("1 k flows in turn", Budget::None, &small, many(Order::InTurn, 1000)),
        ("10 k flows in turn", Budget::None, &small, many(Order::InTurn, 10_000)),
        ("100 k flows in turn", AtMost(120.0), &small, many(Order::InTurn, 100_000)),
        ("every packet a new flow", AtMost(120.0), &small, many(Order::InTurn, u32::MAX)),
        ("100 k flows at random", AtMost(90.0), &small, many(Order::Random, 100_000)),
        ("131 k flows, skewed (1/n)", AtMost(70.0), &small, many(Order::Skewed, 131_072)),
        ("100 k flows at random, IPv6", Budget::None, &small6, many(Order::Random, 100_000)),
        ("10 k flows at random, 1514 bytes", AtMost(35.0), &data, many(Order::Data, 10_000)),
        ("100 k flows at random, 1514 bytes", AtMost(95.0), &data, many(Order::Data, 100_000)),
        ("every packet a new flow, 1514 bytes", AtMost(95.0), &data, many(Order::InTurn, u32::MAX)),
        ("connections of 8 packets, 1 k at once", AtMost(65.0), &request, many(Order::Connections, 1000)),
        ("ping (parsed by the slow path)", Budget::None, &ping, None),
    ]
    .into_iter()
    .map(|(name, budget, packet, flows)| Case::new(name, budget, packet.clone(), flows, report.quick))
    .collect::<Result<Vec<_>>>()?;

    for round in 0..report.rounds(21) {
        for case in &mut cases {
            case.round(round > 0)?;
        }
    }
    report.table("A packet, in the kernel, beyond an empty program", "ns");
    for case in cases {
        let packets = f64::from(case.packets) * case.samples.len() as f64;
        let note = match case.records as f64 / packets {
            none if none < 0.005 => String::new(),
            records => format!("{records:.2} records a packet"),
        };
        let costs = case.samples.iter().map(|[ours, empty]| ours - empty).collect();
        report.row(case.name, Spread::of(costs), case.budget, &note);
    }
    Ok(())
}

impl Case {
    fn new(name: &'static str, budget: Budget, packet: Vec<u8>, flows: Flows, quick: bool) -> Result<Case> {
        let kernel = load_kernel().context(name)?;
        let vary = [Vary::load(&kernel.bpf.program(Hook::Ingress, true)?), Vary::over_empty()];
        let (ours, empty, packets) = match flows {
            None => (kernel.injector(Hook::Ingress, true), vary[1].empty(), 128 * CHUNK),
            Some((order, flows)) => {
                vary.iter().for_each(|vary| vary.aim(1, order, flows));
                let hot = matches!(order, Order::Stream);
                (vary[0].injector(), vary[1].injector(), if hot { 128 } else { 64 } * CHUNK)
            }
        };
        let packets = if quick { packets / 4 } else { packets };
        Ok(Case { name, budget, packet, packets, kernel, ours, empty, _vary: vary, samples: Vec::new(), records: 0 })
    }

    /// The first round fills the cache and is discarded.
    fn round(&mut self, counts: bool) -> Result<()> {
        let mut ns = [0.0; 2];
        for _ in 0..self.packets / CHUNK {
            for (injector, ns) in [&self.ours, &self.empty].into_iter().zip(&mut ns) {
                let start = cpu_ns();
                injector.inject(&self.packet, Frame::default(), CHUNK)?;
                *ns += cpu_ns() - start;
            }
            let records = self.kernel.discard();
            self.records += if counts { records } else { 0 };
        }
        if counts {
            self.samples.push(ns.map(|ns| ns / f64::from(self.packets)));
        }
        Ok(())
    }
}
