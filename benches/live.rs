//! What packets of many flows cost a running agent: its own program in the kernel, and the CPU time of the process. Both are measured
//! with the same packets.

use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libbpf_rs::query::ProgInfoIter;
use netmon::bpf::{Frame, Injector};

use crate::agent::Agent;
use crate::load;
use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::{cpu_ns, data_packet, pin, request_packet, small_packet};
use crate::support::netns::pair;
use crate::support::scrape::sum;
use crate::support::vary::{Order, Vary};

/// Packets per system call.
const CHUNK: u32 = 4096;
/// A chunk starts no sooner than this after the last one: the agent keeps up.
const PACE: Duration = Duration::from_millis(10);
/// By then, the cache has been swept and the records are in the table.
const SETTLED: Duration = Duration::from_millis(2500);

struct Mix {
    name: &'static str,
    packet: Vec<u8>,
    order: Order,
    flows: u32,
    /// Budgets in nanoseconds: of the program, and with the agent's CPU time.
    budgets: [Budget; 2],
}

fn mixes() -> [Mix; 7] {
    let (small, data) = (small_packet(), data_packet());
    let mix = |name, packet: &Vec<u8>, order, flows, program, all| Mix {
        name,
        packet: packet.clone(),
        order,
        flows,
        budgets: [AtMost(program), AtMost(all)],
    };
    [
        mix("hot TCP, 1514 bytes", &data, Order::Stream, 1, 10.0, 10.0),
        mix("10 k flows at random, 1514 bytes", &data, Order::Data, 10_000, 35.0, 70.0),
        mix("100 k flows at random, ACKs", &small, Order::Random, 100_000, 70.0, 300.0),
        mix("100 k flows at random, 1514 bytes", &data, Order::Data, 100_000, 95.0, 330.0),
        mix("every packet a new flow, ACKs", &small, Order::InTurn, u32::MAX, 80.0, 450.0),
        mix("every packet a new flow, 1514 bytes", &data, Order::InTurn, u32::MAX, 95.0, 500.0),
        mix("connections of 8 packets, 1 k at once", &request_packet(), Order::Connections, 1000, 65.0, 270.0),
    ]
}

/// The program of the packet path that was loaded last.
fn program() -> Result<OwnedFd> {
    let ours = |name: &str| ["nm_both", "nm_ingress"].contains(&name);
    let last = ProgInfoIter::default()
        .filter(|info| info.name.to_str().is_some_and(ours))
        .last()
        .context("no agent's program")?;
    // SAFETY: a system call on an integer.
    let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(last.id) };
    ensure!(fd >= 0, "the agent's program cannot be opened");
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub fn run(report: &mut Report) -> Result<()> {
    let (a, _b) = pair();
    let agent = load::start(&a, "va")?;
    pin()?;
    let vary = [Vary::load(&program()?), Vary::over_empty()];
    let mixes = mixes();
    let mut costs = vec![(Vec::new(), Vec::new()); mixes.len()];
    let (rounds, chunks) = (report.rounds(4), if report.quick { 64 } else { 192 });
    for (mix, (program, all)) in mixes.iter().zip(&mut costs) {
        // The flows of the mixes before are still in the table.
        let idle = idle(&agent)?;
        for round in 0..=rounds {
            let [kernel, user] = cost(&agent, &vary, mix, round as u32, chunks, idle)?;
            // The first round fills the cache and the tables.
            if round > 0 {
                program.push(kernel);
                all.push(kernel + user);
            }
        }
    }
    let lost = sum(&agent.get("/metrics")?, "netmon_packets_lost_total", &[]);
    agent.stop()?;
    report.table("A packet at a running agent: its program, beyond an empty one", "ns");
    for (mix, (program, _)) in mixes.iter().zip(&costs) {
        report.row(mix.name, Spread::of(program.clone()), mix.budgets[0], "");
    }
    report.table("A packet at a running agent: its program and its CPU time", "ns");
    for (mix, (_, all)) in mixes.iter().zip(costs) {
        report.row(mix.name, Spread::of(all), mix.budgets[1], "");
    }
    if lost > 0.0 {
        println!("  the agent did not keep up with {lost} packets: their records cost it nothing");
    }
    Ok(())
}

/// CPU time that the agent takes for each second without packets, in nanoseconds.
fn idle(agent: &Agent) -> Result<f64> {
    std::thread::sleep(SETTLED);
    let (cpu, start) = (agent.cpu_ns()?, Instant::now());
    std::thread::sleep(SETTLED);
    Ok((agent.cpu_ns()? - cpu) / start.elapsed().as_secs_f64())
}

/// What a packet of the mix costs, in nanoseconds: in the kernel, and in the agent.
fn cost(agent: &Agent, vary: &[Vary; 2], mix: &Mix, round: u32, chunks: u32, idle: f64) -> Result<[f64; 2]> {
    // Packets that are each a new flow are those of other flows in each round.
    let first = if mix.flows == u32::MAX { 1 + round * chunks * CHUNK } else { 1 };
    vary.iter().for_each(|vary| vary.aim(first, mix.order, mix.flows));
    let injectors: [Injector; 2] = [vary[0].injector(), vary[1].injector()];
    let (cpu, start) = (agent.cpu_ns()?, Instant::now());
    let mut ns = [0.0; 2];
    for chunk in 0..chunks {
        std::thread::sleep((PACE * chunk).saturating_sub(start.elapsed()));
        for (injector, ns) in injectors.iter().zip(&mut ns) {
            let start = cpu_ns();
            injector.inject(&mix.packet, Frame::default(), CHUNK)?;
            *ns += cpu_ns() - start;
        }
    }
    std::thread::sleep(SETTLED);
    let user = agent.cpu_ns()? - cpu - idle * start.elapsed().as_secs_f64();
    let packets = f64::from(chunks * CHUNK);
    Ok([(ns[0] - ns[1]) / packets, user.max(0.0) / packets])
}
