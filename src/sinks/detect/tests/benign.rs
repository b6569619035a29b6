//! What looks like an attack to the impatient, and is none.

use super::super::samples::S;
use super::HOUR;
use super::records::{NODE, Traffic, api_server, lost_pods, pod, v4};

/// Each sort of benign traffic, for an hour.
pub(super) fn all() -> Vec<(&'static str, Traffic)> {
    vec![
        ("rolling restart of 50 pods", rolling_restart()),
        ("probes of the kubelet", probes()),
        ("500 targets of Prometheus, 10 % down", scrapes()),
        ("headless service with dead endpoints", headless()),
        ("health checks to closed ports", health_checks()),
        ("traceroute", traceroutes()),
        ("browsers", browsers()),
        ("failover of a database", failover()),
        ("NAT gateway with 200 clients", gateway()),
        ("calls of the API server", api_calls()),
        ("logins of people and machines", logins()),
        ("names, pings and mail", names()),
        ("a server that is down", outage()),
    ]
    .into_iter()
    .map(|(name, traffic)| (name, traffic.sorted()))
    .collect()
}

/// 20 clients go on to call pods that are gone, until they hear of it.
fn rolling_restart() -> Traffic {
    let mut traffic = Traffic::from_port(10_000);
    for (old, gone_ns) in lost_pods() {
        for client in 1..=20 {
            for second in 0..10 {
                traffic.silent(pod(1, client), old, 8080, gone_ns + second * S);
                traffic.refused(pod(1, client + 20), old, 8080, gone_ns + second * S);
            }
        }
    }
    for second in 0..HOUR {
        for client in 1..=5 {
            traffic.talk(pod(1, client), pod(5, (second % 50) as u8 + 51), 8080, second * S, 0.1, 2000);
        }
    }
    traffic
}

/// The kubelet asks 100 pods each 10 s; every fifth is not ready.
fn probes() -> Traffic {
    let mut traffic = Traffic::from_port(12_000);
    for round in 0..HOUR / 10 {
        for number in 1..=100 {
            let at_ns = round * 10 * S + u64::from(number) * S / 20;
            if number % 5 == 0 {
                traffic.refused(NODE, pod(2, number), 8081, at_ns);
            } else {
                traffic.talk(NODE, pod(2, number), 8081, at_ns, 0.1, 500);
            }
        }
    }
    traffic
}

/// Each 60 s, spread over the minute, as Prometheus does.
fn scrapes() -> Traffic {
    let mut traffic = Traffic::from_port(14_000);
    for round in 0..HOUR / 60 {
        for target in 0..500u64 {
            let (server, at_ns) =
                (v4(10, 20, (target / 250) as u8, (target % 250) as u8 + 1), round * 60 * S + target * S / 10);
            match target % 20 {
                7 => traffic.refused(pod(3, 1), server, 9100, at_ns),
                13 => traffic.silent(pod(3, 1), server, 9100, at_ns),
                _ => traffic.talk(pod(3, 1), server, 9100, at_ns, 1.0, 50_000),
            }
        }
    }
    traffic
}

/// Clients that get 40 addresses, of which 30 do not answer.
fn headless() -> Traffic {
    let mut traffic = Traffic::from_port(16_000);
    for second in (0..HOUR).step_by(5) {
        for endpoint in 1..=40 {
            let (client, at_ns) = (pod(1, (second % 10) as u8 + 1), second * S + u64::from(endpoint) * S / 50);
            if endpoint <= 30 {
                traffic.refused(client, pod(9, endpoint), 5432, at_ns);
            } else {
                traffic.talk(client, pod(9, endpoint), 5432, at_ns, 0.5, 90_000);
            }
        }
    }
    traffic
}

/// Balancers ask 20, 30 and 49 backends that are closed, every 5, 10 and 30 s.
fn health_checks() -> Traffic {
    let mut traffic = Traffic::from_port(18_000);
    for (balancer, backends, interval) in [(1, 20, 5), (2, 30, 10), (3, 49, 30)] {
        for round in 0..HOUR / interval {
            for backend in 1..=backends {
                let (server, at_ns) = (v4(10, 30, balancer, backend), round * interval * S + u64::from(backend));
                if balancer == 2 {
                    traffic.silent(v4(10, 0, 1, balancer), server, 8080, at_ns);
                } else {
                    traffic.refused(v4(10, 0, 1, balancer), server, 8080, at_ns);
                }
            }
        }
    }
    traffic
}

fn traceroutes() -> Traffic {
    let mut traffic = Traffic::from_port(20_000);
    for run in 0..60u64 {
        let target = v4(10, 40, 0, run as u8);
        for probe in 0..60 {
            // The last hops say that the port is unreachable.
            let at_ns = run * 60 * S + u64::from(probe) * S / 20;
            if probe > 30 {
                traffic.unreachable(v4(10, 0, 2, 1), target, 33_434 + probe, at_ns);
            } else {
                traffic.datagram(v4(10, 0, 2, 1), target, 33_434 + probe, at_ns, false);
            }
        }
    }
    traffic
}

/// Five browsers that talk to 200 hosts; one in 30 does not answer, and HTTP/3 is blocked.
fn browsers() -> Traffic {
    let mut traffic = Traffic::from_port(22_000);
    for step in 0..HOUR * 2 {
        let (browser, host) = (v4(10, 0, 3, (step % 5) as u8 + 1), v4(198, 51, 100, (step * 7 % 200) as u8 + 1));
        let at_ns = step * S / 2;
        if step % 30 == 11 {
            traffic.silent(browser, v4(198, 51, 101, (step / 30 % 100) as u8 + 1), 443, at_ns);
        } else {
            traffic.talk(browser, host, 443, at_ns, 2.0, 100_000);
        }
        traffic.datagram(browser, host, 443, at_ns, false);
    }
    traffic
}

/// 50 clients of a database that refuses for a minute, and of its replica that takes over.
fn failover() -> Traffic {
    let mut traffic = Traffic::from_port(24_000);
    let (old, new) = (v4(10, 50, 0, 1), v4(10, 50, 0, 2));
    for second in 0..HOUR {
        for client in 1..=50 {
            let at_ns = second * S + u64::from(client) * S / 60;
            let (client, busy) = (pod(4, client), (second + u64::from(client)) % 10 == 0);
            match second {
                1800..1860 => {
                    (0..4).for_each(|again| traffic.refused(client, old, 3306, at_ns + again * S / 5));
                    traffic.refused(client, new, 3306, at_ns + S / 10);
                }
                0..1800 if busy => traffic.talk(client, old, 3306, at_ns, 5.0, 40_000 + second * 100),
                _ if busy => traffic.talk(client, new, 3306, at_ns, 5.0, 40_000 + second * 100),
                _ => {}
            }
        }
    }
    traffic
}

/// 200 clients behind one address: each talks to a host a minute, one in ten is dead.
fn gateway() -> Traffic {
    let mut traffic = Traffic::from_port(26_000);
    for minute in 0..HOUR / 60 {
        for client in 0..200u64 {
            let (number, at_ns) = (minute * 200 + client, minute * 60 * S + client * S / 4);
            let host = v4(203, 0, 113 + (number * 13 % 40) as u8, (number * 31 % 250) as u8 + 1);
            if number % 10 == 3 {
                traffic.silent(v4(10, 0, 4, 1), v4(203, 1, (number % 50) as u8, (number * 3 % 250) as u8), 443, at_ns);
            } else {
                traffic.talk(v4(10, 0, 4, 1), host, 443, at_ns, 1.0, 20_000);
            }
        }
    }
    traffic
}

/// The API server calls webhooks, of which many are gone.
fn api_calls() -> Traffic {
    let mut traffic = Traffic::from_port(28_000);
    for second in 0..HOUR {
        traffic.talk(pod(1, 1), api_server(), 443, second * S, 0.1, 3000);
        let webhook = v4(10, 60, 0, (second % 60) as u8 + 1);
        if second > 5 {
            traffic.refused(api_server(), webhook, 9443, second * S + S / 2);
        }
    }
    traffic
}

/// People who log in a few times, machines that log in all day, exporters that ask each 5 s, an application without a pool.
fn logins() -> Traffic {
    let mut traffic = Traffic::from_port(30_000);
    for second in 0..HOUR {
        if second % 120 < 3 {
            traffic.talk(v4(10, 0, 5, 1), v4(10, 50, 0, 9), 22, second * S, 2.0, 3000);
        }
        if second % 3 == 0 {
            let bytes = 20_000 + second * 7919 % 90_000;
            traffic.talk(v4(10, 0, 5, 2), v4(10, 50, 0, 8), 22, second * S, 4.0, bytes);
        }
        if second % 5 == 0 {
            traffic.talk(pod(1, 9), v4(10, 50, 0, 7), 6379, second * S, 0.1, 900);
        }
        let answer = [700, 1500, 5000, 40_000, 1100][(second % 5) as usize];
        traffic.talk(pod(1, 8), v4(10, 50, 0, 2), 3306, second * S + S / 3, 0.1, answer);
    }
    traffic
}

/// A resolver that loses one answer in 20, pings of which some are lost, a mail server that tries old hosts.
fn names() -> Traffic {
    let mut traffic = Traffic::from_port(32_000);
    for step in 0..HOUR * 5 {
        traffic.datagram(pod(1, (step % 40) as u8 + 1), v4(10, 50, 0, 53), 53, step * S / 5, step % 20 != 3);
    }
    for second in 0..HOUR {
        let host = second % 40;
        traffic.ping(v4(10, 0, 6, 1), v4(10, 70, 0, host as u8 + 1), second * S, host % 10 != 7);
        if second % 20 == 0 {
            let host = v4(192, 0, 2, (second / 20 % 100) as u8 + 1);
            if second / 20 % 5 == 2 {
                traffic.silent(v4(10, 0, 6, 2), host, 25, second * S);
            } else {
                traffic.talk(v4(10, 0, 6, 2), host, 25, second * S, 3.0, 2000 + second * 37 % 9000);
            }
        }
    }
    traffic
}

/// A server that is down for a minute, while 1,000 connections a second are tried.
fn outage() -> Traffic {
    let mut traffic = Traffic::from_port(34_000);
    let server = v4(10, 50, 0, 20);
    for step in 0..10_000u64 {
        let (client, at_ns) = (v4(10, 80, (step % 4) as u8, (step % 200) as u8 + 1), 2000 * S + step * S / 1000);
        traffic.silent(client, server, 80, at_ns);
    }
    traffic
}
