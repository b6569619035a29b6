//! The sweep races with the packet path: nothing is lost, and nothing is counted twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use netmon::bpf::{Frame, Hook, ProgramOptions, Sweep, Tally, possible_cpus};

use super::pin;
use crate::support::kernel::{Kernel, assert_conserved, difference, small, total};
use crate::support::not_run;
use crate::support::packet::*;
use crate::support::probe::{meets_a_packet, sweep_program_of};
use crate::support::vary::{Order, Vary};
use crate::{function_name, needs_root};

/// Packets per system call.
const RUN: u32 = 8000;
const RUNS: u32 = 150;
const TIME: Duration = Duration::from_millis(700);

const AT_ONCE: Duration = Duration::ZERO;
const NEVER: Duration = Duration::from_secs(3600);

/// Number of probes after each sweep.
const PROBES: u64 = 8;

struct Outcome {
    /// How often the sweep program met a packet that was being processed.
    met: u64,
    sweeps: u64,
}

/// Sends packets of `flows` flows in turn on CPU 0, for [`TIME`] and at least [`RUNS`] times [`RUN`], while sweeps run
/// continuously on `sweep_cpu`. An entry is due within a jiffy or two, and idle after `idle`. The counters must add up,
/// and each flow must get its share.
fn race(sweep_cpu: usize, v6: bool, flows: u32, idle: Duration) -> Outcome {
    let options = ProgramOptions { cache_slots: 256, ring_records: 1 << 20, idle, report: Duration::ZERO, ..small() };
    let mut kernel = Kernel::load(options).unwrap();
    let program = kernel.bpf.program(Hook::Ingress, true).unwrap();
    let vary = Vary::load(&program);
    vary.aim(0, Order::InTurn, flows);
    assert_eq!(RUN % flows, 0, "each flow has as many packets");
    let (injector, sweeper, probe) = (vary.injector(), kernel.bpf.sweeper().unwrap(), sweep_program_of(&program));
    let before = kernel.books();
    let done = AtomicBool::new(false);
    let segment = tcp(ACK, &[], b"hello world");
    let packet = if v6 {
        ethernet(&[], IPV6, &ipv6(TCP, &segment))
    } else {
        ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &segment))
    };
    let mut sums = BTreeMap::<_, Tally>::new();
    let mut recorded = Tally::default();
    let (sent, outcome) = std::thread::scope(|scope| {
        let packets = scope.spawn(|| {
            pin(0);
            let (begun, mut n) = (Instant::now(), 0);
            while n < RUNS || begun.elapsed() < TIME {
                injector.inject(&packet, Frame::default(), RUN).unwrap();
                n += 1;
            }
            done.store(true, Relaxed);
            n
        });
        let sweeps = scope.spawn(|| {
            pin(sweep_cpu);
            let mut outcome = Outcome { met: 0, sweeps: 0 };
            while !done.load(Relaxed) {
                sweeper.sweep(Sweep::Due).unwrap();
                outcome.sweeps += 1;
                // Real sweeps yield silently; these have nothing to sweep, and report it.
                outcome.met += (0..PROBES).filter(|_| meets_a_packet(&probe, 0)).count() as u64;
            }
            outcome
        });
        let mut last = false;
        while !last {
            // Read once more after the end, with everything that is still cached.
            last = packets.is_finished() && sweeps.is_finished();
            let records = if last { kernel.flush() } else { kernel.drain() };
            for r in &records {
                *sums.entry(r.source).or_default() += Tally { packets: r.packets, bytes: r.bytes };
            }
            recorded += total(&records);
            if records.is_empty() {
                std::thread::yield_now();
            }
        }
        (packets.join().unwrap(), sweeps.join().unwrap())
    });
    let books = difference(kernel.books(), before);
    assert_eq!(books.seen().packets, u64::from(sent) * u64::from(RUN));
    assert_eq!(books.seen().bytes, books.seen().packets * packet.len() as u64);
    assert_conserved(&books, recorded);
    if books.ring_full == Tally::default() {
        let share = u64::from(sent) * u64::from(RUN / flows);
        assert_eq!(sums.len(), flows as usize);
        for (source, sum) in sums {
            assert_eq!((sum.packets, sum.bytes), (share, share * packet.len() as u64), "{source:?}");
        }
    }
    eprintln!(
        "{} packets of {flows} flows, {} sweeps from CPU {sweep_cpu}, {} of {} probes met a packet, lost {}",
        books.seen().packets,
        outcome.sweeps,
        outcome.met,
        outcome.sweeps * PROBES,
        books.ring_full.packets
    );
    outcome
}

#[test]
fn a_sweep_from_another_cpu_loses_nothing() {
    needs_root!();
    if possible_cpus().unwrap() < 2 {
        return not_run(function_name!(), "the machine has one CPU");
    }
    let mut met = 0;
    for (v6, flows, idle) in [(false, 100, NEVER), (true, 50, AT_ONCE), (false, 4000, AT_ONCE)] {
        met += race(1, v6, flows, idle).met;
    }
    // Otherwise there was no race.
    assert!(met > 20, "the sweep met a packet {met} times");
}

/// The packet path lets the sweep run between two packets.
#[test]
fn a_sweep_from_the_same_cpu_loses_nothing() {
    needs_root!();
    // Between two sweeps, all flows become idle, if the options allow it.
    for (v6, flows, idle) in [(false, 100, NEVER), (true, 100, AT_ONCE), (true, 4000, NEVER)] {
        let outcome = race(0, v6, flows, idle);
        assert!(outcome.sweeps > 10, "{} sweeps", outcome.sweeps);
    }
}

/// Whatever the cause, the other CPUs are swept, and the agent can end.
#[test]
fn a_cache_that_is_always_in_use_does_not_block() {
    needs_root!();
    let mut kernel = Kernel::load(small()).unwrap();
    pin(0);
    let packet = ethernet(&[], IPV4, &ipv4(UDP, &[], 7, 0, &udp(b"hello world")));
    kernel.injector(Hook::Ingress, true).inject(&packet, Frame::default(), 1).unwrap();
    kernel.keep_busy();
    for what in [Sweep::Due, Sweep::All] {
        kernel.sweeper().sweep(what).unwrap();
    }
    assert!(!kernel.sweeper().is_empty(), "what it holds is still there");
    assert_eq!(kernel.drain().len(), 0);
}
