//! What a run of the programs costs when little else passes: between two packets, the sender and the receiver have driven them out
//! of the processor's caches. The kernel's statistics of the programs alone, without an agent, on a veth; and of an empty program
//! on its twin, which carries the same traffic in turn.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netmon::bpf::{Attachments, ProgramTiming, list_links, possible_cpus};
use netmon::config::Config;

use crate::load;
use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::support::kernel::Kernel;
use crate::support::netns::{Netns, pair};
use crate::support::vary::Vary;

const FLOWS: u16 = 10_000;
const FIRST_PORT: u16 = 20_000;

/// Runs, and their time in nanoseconds.
type Ran = [u64; 2];

/// A veth with programs on both hooks of one end, and traffic from the other.
struct Place {
    client: Netns,
    listener: TcpListener,
    sender: UdpSocket,
    server: Netns,
}

impl Place {
    fn new() -> Result<Place> {
        let (server, client) = pair();
        // Datagrams end there: no host answers them.
        server.sh("ip route add blackhole 10.10.0.1");
        client.sh("ip route add 10.10.0.1 via 10.9.0.1");
        let listener = server.run(|| TcpListener::bind("10.9.0.1:0"))?;
        let sender = client.run(|| UdpSocket::bind("10.9.0.2:0"))?;
        Ok(Place { client, listener, sender, server })
    }

    /// One packet a second for each of [`FLOWS`] flows.
    fn trickle(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        for i in 0..u64::from(FLOWS) * time.as_secs() {
            let due = start + Duration::from_nanos(i * (1_000_000_000 / u64::from(FLOWS)));
            if let Some(early) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(early);
            }
            let port = FIRST_PORT + (i % u64::from(FLOWS)) as u16;
            self.sender.send_to(&[b'.'; 100], ("10.10.0.1", port)).context("send a datagram")?;
        }
        Ok(())
    }

    fn connect(&self, time: Duration) -> Result<()> {
        load::connect(&self.listener, &self.client, load::RATE * time.as_secs() as u32)
    }
}

pub fn run(report: &mut Report) -> Result<()> {
    let (ours, twin) = (Place::new()?, Place::new()?);
    let _timing = ProgramTiming::start()?;
    let mut kernel = Kernel::load(Config::default().program_options(possible_cpus()?))?;
    let mut attachments = kernel.bpf.attachments();
    ours.server.enter_for(|| attach(&mut attachments))?;
    let empty = Vary::try_open()?;
    twin.server.enter_for(|| empty.attach_empty("va"));

    let time = Duration::from_secs(if report.quick { 2 } else { 4 });
    let rounds = report.rounds(5);
    type Traffic = fn(&Place, Duration) -> Result<()>;
    let mixes: [(&str, Traffic); 2] =
        [("1,000 connections a second", Place::connect), ("10 k flows of 1 packet a second", Place::trickle)];
    report.table("A run with cold caches, programs without an agent, all in", "ns");
    for (name, traffic) in mixes {
        let (mut full, mut none) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let before = [ran(&kernel), empty.empty_ran()];
            traffic(&ours, time)?;
            traffic(&twin, time)?;
            let after = [ran(&kernel), empty.empty_ran()];
            kernel.flush();
            // The first round fills the caches.
            if round > 0 {
                full.push(each(before[0], after[0]));
                none.push(each(before[1], after[1]));
            }
        }
        report.row(name, Spread::of(full), AtMost(300.0), "");
        report.row(&format!("{name}, an empty program"), Spread::of(none), Budget::None, "");
    }
    Ok(())
}

fn each(before: Ran, after: Ran) -> f64 {
    (after[1] - before[1]) as f64 / (after[0] - before[0]) as f64
}

fn attach(attachments: &mut Attachments) -> Result<()> {
    let links = list_links()?;
    let link = links.iter().find(|link| link.name == "va").context("there is no va")?;
    attachments.attach(link, false)?.context("va has gone")?;
    Ok(())
}

fn ran(kernel: &Kernel) -> Ran {
    let infos = kernel.bpf.programs().infos();
    [infos.iter().map(|info| info.runs).sum(), infos.iter().map(|info| info.run_ns).sum()]
}
