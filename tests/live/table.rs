//! The flow table of a running agent: silent flows leave, and it never exceeds its bound.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use netmon::config::Config;

use super::agent::{Agent, watching};
use super::eventually;
use super::metrics::Page;
use super::net::quiet_pair;
use super::traffic::udp_to;
use crate::needs_root;

#[test]
fn silent_flows_leave() {
    needs_root!();
    let (a, b) = quiet_pair();
    // Longer than the three seconds or so within which a busy flow is reported.
    const TIMEOUT: Duration = Duration::from_secs(5);
    let agent = Agent::start(&b, Config { flow_timeout: TIMEOUT, ..watching(&["vb"]) });
    let server = b.run(|| UdpSocket::bind("10.9.0.2:53").unwrap());
    let to = server.local_addr().unwrap();
    let [silent, busy] = [(); 2].map(|()| a.run(|| udp_to(to)));
    let ports = [&silent, &busy].map(|s| s.local_addr().unwrap().port());
    silent.send(b"once").unwrap();
    let there = |port| {
        agent.handle.flows().iter().any(|f| f.from_client().packets > 0 && f.key().ends.iter().any(|e| e.port == port))
    };
    let start = Instant::now();
    eventually("both flows", || {
        busy.send(b"again").unwrap();
        (there(ports[0]) && there(ports[1])).then_some(())
    });
    eventually("the silent flow's end", || {
        busy.send(b"again").unwrap();
        (!there(ports[0])).then_some(())
    });
    assert!(start.elapsed() >= TIMEOUT, "not before its time");
    assert!(there(ports[1]), "the busy one stays");
    let page = Page::get(&b, &agent, "/metrics");
    assert_eq!(page.sum("netmon_flows_total", &["protocol=\"udp\"", "status=\"ok\""]), 1.0);
    assert_eq!(page.sum("netmon_flows_active", &["protocol=\"udp\""]), 1.0);
    assert_eq!(page.sum("netmon_flows_evicted_total", &[]), 0.0);
    agent.stop();
}

#[test]
fn the_bound_holds() {
    needs_root!();
    const FLOWS: u16 = 3000;
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, Config { max_flows: 200, workers: 2, ..watching(&["vb"]) });
    let to: IpAddr = "10.9.0.2".parse().unwrap();
    // Receivers for all would be 3000 sockets; without them, b reports a closed port now and then.
    let sender = a.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for port in 1..=FLOWS {
        while sender.send_to(b"x", (to, port)).is_err() {}
    }
    eventually("all flows were seen", || {
        let flows = agent.handle.flows().len();
        assert!(flows <= 200, "{flows} flows in a table for 200");
        let sum = agent.handle.report().conservation();
        (sum.holds() && sum.seen.packets >= u64::from(FLOWS)).then_some(())
    });
    let page = Page::get(&b, &agent, "/metrics");
    let evicted = page.sum("netmon_flows_evicted_total", &[]);
    let active = page.sum("netmon_flows_active", &[]);
    assert!(active <= 200.0 && evicted + active >= f64::from(FLOWS), "{evicted} evicted, {active} active");
    assert!(page.sum("netmon_flows_total", &[]) >= evicted, "evicted flows are counted as well");
    assert!(agent.stop().0.conservation().holds());
}
