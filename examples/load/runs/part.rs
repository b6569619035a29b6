//! What a load consists of: parts, each with a server address of its own, so that what the agent counted can be told apart.

use std::time::Duration;

use anyhow::{Result, ensure};

/// How a connection of a part goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// A request and an answer over TCP.
    Echo,
    /// HTTP/1.1, with up to this many requests over one connection.
    Http { requests: u64 },
    /// Redis commands, one after the other, until the load ends.
    Redis,
    /// A server that sends at a constant rate until the load ends.
    Stream,
    /// A TCP connection that carries nothing.
    Empty,
    /// Nobody listens: RST over TCP, "port unreachable" over UDP.
    Refused,
    /// The host does not exist.
    Silent,
    /// One end resets the connection while the client waits for an answer.
    Reset { by_client: bool },
    /// A datagram and an answer.
    Datagram,
    /// A query and its answer.
    Dns,
    /// A query that the server does not answer.
    Unanswered,
    /// Datagrams at a constant rate, each with a report, until the load ends.
    Media,
}

/// A part of a load.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its name in reports.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The port of its server.
    pub port: u16,
    /// What the agent is to recognise, if anything.
    pub app: Option<&'static str>,
    /// How each of its connections is meant to end: `ok`, or the reason of the failure.
    pub outcome: &'static str,
    /// How its connections go.
    pub talk: Talk,
    /// Connections: a share of all short ones, or a number.
    pub quota: Quota,
}

/// How many connections of a part there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// This many of a hundred short connections, evenly over the time.
    Percent(u64),
    /// This many, from the beginning to the end.
    Lasting(u64),
}

use Quota::{Lasting, Percent};

const fn tcp(name: &'static str, about: &'static str, port: u16, talk: Talk, quota: Quota) -> Part {
    Part { name, about, protocol: "tcp", port, app: None, outcome: "ok", talk, quota }
}

const fn udp(name: &'static str, about: &'static str, port: u16, talk: Talk, quota: Quota) -> Part {
    Part { name, about, protocol: "udp", port, app: None, outcome: "ok", talk, quota }
}

const fn of(part: Part, app: &'static str) -> Part {
    Part { app: Some(app), ..part }
}

const fn failing(part: Part, reason: &'static str) -> Part {
    Part { outcome: reason, ..part }
}

/// Four protocols in equal shares.
pub const EVEN: &[Part] = &[
    tcp("tcp", "a request and an answer", 7, Talk::Echo, Percent(25)),
    udp("udp", "a datagram and an answer", 7, Talk::Datagram, Percent(25)),
    of(tcp("http", "a GET", 80, Talk::Http { requests: 1 }, Percent(25)), "http"),
    of(udp("dns", "a query", 53, Talk::Dns, Percent(25)), "dns"),
];

/// What a node of a cluster sees, failures among it.
pub const REALISTIC: &[Part] = &[
    of(
        tcp("web", "HTTP, 1 to 8 requests, pages of 200 B to 100 kB", 80, Talk::Http { requests: 8 }, Percent(30)),
        "http",
    ),
    of(tcp("database", "Redis commands without end", 6379, Talk::Redis, Lasting(8)), "redis"),
    of(udp("dns", "A and AAAA queries, some for names that do not exist", 53, Talk::Dns, Percent(30)), "dns"),
    tcp("streaming", "13 Mbit/s from the server", 554, Talk::Stream, Lasting(2)),
    udp("media", "a datagram of 1,200 bytes every 10 ms, with reports", 5004, Talk::Media, Lasting(2)),
    tcp("churn", "opened and closed at once", 9000, Talk::Empty, Percent(20)),
    failing(tcp("refused", "nobody listens", 9001, Talk::Refused, Percent(4)), "refused"),
    failing(udp("closed-port", "nobody listens", 9002, Talk::Refused, Percent(4)), "refused"),
    failing(tcp("silent", "the host does not exist", 9003, Talk::Silent, Percent(4)), "timeout"),
    failing(
        tcp("reset-by-client", "while it waits", 9004, Talk::Reset { by_client: true }, Percent(3)),
        "reset_client",
    ),
    failing(
        tcp("reset-by-server", "instead of an answer", 9005, Talk::Reset { by_client: false }, Percent(3)),
        "reset_server",
    ),
    failing(of(udp("unanswered", "queries without an answer", 53, Talk::Unanswered, Percent(2)), "dns"), "timeout"),
];

/// A load to make.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What it consists of.
    pub parts: &'static [Part],
    /// Connections in all.
    pub connections: u64,
    /// Time over which they are spread.
    pub duration: Duration,
}

impl Plan {
    /// A plan that can be carried out.
    ///
    /// # Errors
    ///
    /// There are too few connections for the shares, or the time is too short.
    pub fn new(parts: &'static [Part], connections: u64, duration: Duration) -> Result<Plan> {
        let plan = Plan { parts, connections, duration };
        let least = 100 + plan.lasting();
        ensure!(connections >= least, "{connections} connections: this load takes at least {least}");
        ensure!(duration >= Duration::from_secs(1), "a duration of {duration:?}: a load takes at least 1s");
        Ok(plan)
    }

    fn lasting(&self) -> u64 {
        self.parts.iter().map(|part| if let Lasting(count) = part.quota { count } else { 0 }).sum()
    }

    /// Connections of each part; the first one has what the shares leave over.
    pub fn counts(&self) -> Vec<u64> {
        let short = self.connections - self.lasting();
        let count = |part: &Part| match part.quota {
            Percent(percent) => short * percent / 100,
            Lasting(count) => count,
        };
        let mut counts: Vec<u64> = self.parts.iter().map(count).collect();
        counts[0] += self.connections - counts.iter().sum::<u64>();
        counts
    }
}
