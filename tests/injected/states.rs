//! Connections of crafted packets: their final state, outcome and reason. Each is recorded in several ways: with sweeps
//! at any point, and with swept records in any order.

use std::time::Duration;

use netmon::bpf::{Cause, Sweep};
use netmon::flow::Reason::{Refused, ResetByClient, ResetByServer, Timeout, Unreachable};
use netmon::flow::{Directory, ErrorKind, Flow, FlowEvent, Outcome, Sink, State, Table, TableLimits};
use rand::prelude::*;
use rand::rngs::SmallRng;

use super::pin;
use crate::needs_root;
use crate::support::packet::{ACK, FIN, ICMP, ICMPV6, PSH, RST, SYN};
use crate::support::talk::End::{self, Client, Server};
use crate::support::talk::{EPOCH, Talk};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// Number of ways to record each connection.
const WAYS: u64 = 8;

/// A step of the script.
#[derive(Clone, Debug)]
enum Step {
    Tcp(End, u8, u32, u32, &'static [u8]),
    Udp(End, &'static [u8]),
    Echo(End, u16),
    /// An ICMP error from the server's side about the client's latest packet: type and code of ICMP and of ICMPv6.
    Error((u8, u8), (u8, u8)),
    /// A pause of this many milliseconds.
    Wait(u64),
}
use Step::{Echo, Error, Tcp, Udp, Wait};

/// The result of a flow: state, outcome, who reset it (0 for the client).
type Fate = (State, Outcome, Option<u8>);

#[derive(Default)]
struct Log {
    gone: Vec<(u64, Fate)>,
    ended: u64,
    errors: Vec<ErrorKind>,
}

impl Directory for Log {}

impl Sink for Log {
    type Mark = ();

    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, (): &mut ()) {
        match event {
            FlowEvent::Duplicate(record) => panic!("there is one hook only: {record:?}"),
            FlowEvent::Evicted => panic!("there is room"),
            FlowEvent::IcmpError(kind) => self.errors.push(kind),
            FlowEvent::Ended(_) => self.ended += 1,
            // Errors are flows of their own, whose end does not matter.
            FlowEvent::Removed if [1, 58].contains(&flow.protocol) && flow.endpoint(0).port == 0 => self.ended -= 1,
            FlowEvent::Removed => {
                self.gone.push((flow.first_ns, (flow.state(), flow.outcome.unwrap(), flow.reset_by())));
            }
            _ => {}
        }
    }
}

/// Loads the programs once for many scripts: each has a client port of its own, and begins an hour after the last one.
struct Stage {
    talks: [Talk; 2],
    plays: u64,
}

impl Stage {
    fn new() -> Stage {
        pin(0);
        Stage { talks: [false, true].map(Talk::new), plays: 0 }
    }
}

impl Stage {
    /// Plays the script, one step each millisecond, and feeds the records to a flow table.
    fn play(&mut self, v6: bool, script: &[Step], way: u64) -> Log {
        let mut random = SmallRng::seed_from_u64(way);
        let talk = &mut self.talks[usize::from(v6)];
        talk.next_port();
        self.plays += 1;
        let start = self.plays * 3600 * SECOND;
        let limits = TableLimits {
            max_flows: 100,
            flow_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(10),
            max_age: None,
        };
        let (mut table, mut log) = (Table::new(limits, EPOCH + start), Log::default());
        let mut now = start;
        let mut last = Vec::new();
        for step in script {
            now += MS;
            match step {
                Tcp(from, flags, seq, ack, payload) => talk.tcp(now, *from, *flags, *seq, *ack, payload),
                Udp(from, payload) => talk.udp(now, *from, payload),
                Echo(from, number) => talk.echo(now, *from, *number),
                Wait(ms) => now += ms * MS,
                Error(v4, of_v6) => {
                    let (protocol, (kind, code)) = if v6 { (ICMPV6, *of_v6) } else { (ICMP, *v4) };
                    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
                    message.extend(&last);
                    talk.ip(now, Server, protocol, &message);
                }
            }
            if !matches!(step, Wait(_) | Error(..)) {
                last = talk.latest()[14..].to_vec();
            }
            // Way 0 writes one record of everything at the end.
            if way > 0 && random.random_ratio(1, 3) {
                talk.kernel.sweeper().sweep(Sweep::All).unwrap();
                merge(talk, &mut table, &mut log, &mut random);
            }
        }
        talk.kernel.sweeper().sweep(Sweep::All).unwrap();
        merge(talk, &mut table, &mut log, &mut random);
        // Long afterwards, each flow ends and leaves.
        for second in 0..700 {
            table.expire(EPOCH + now + second * SECOND, &mut log);
        }
        assert!(table.is_empty());
        log
    }
}

/// Swept records come in any order; other records come at the time of their event.
fn merge(talk: &mut Talk, table: &mut Table, log: &mut Log, random: &mut SmallRng) {
    let (mut swept, immediate): (Vec<_>, Vec<_>) =
        talk.kernel.drain().into_iter().partition(|r| r.cause == Cause::Swept);
    swept.shuffle(random);
    for record in immediate.iter().chain(&swept) {
        table.merge(record, log);
    }
}

impl Stage {
    /// Asserts that each way of recording yields these flows, in the order of their start.
    fn check(&mut self, name: &str, script: &[Step], expected: &[Fate]) {
        for v6 in [false, true] {
            for way in 0..WAYS {
                let mut log = self.play(v6, script, way);
                log.gone.sort_by_key(|flow| flow.0);
                let flows: Vec<_> = log.gone.iter().map(|flow| flow.1).collect();
                assert_eq!(flows, expected, "{name}, IPv{}, way {way}", if v6 { 6 } else { 4 });
                assert_eq!(log.ended, expected.len() as u64, "{name}: each outcome is reported once");
            }
        }
    }
}

const OK: Outcome = Outcome::Ok;

/// SYN, SYN-ACK, ACK: the client continues at 101, the server at 501.
fn open() -> Vec<Step> {
    vec![Tcp(Client, SYN, 100, 0, b""), Tcp(Server, SYN | ACK, 500, 101, b""), Tcp(Client, ACK, 101, 501, b"")]
}

fn then(steps: &[Step]) -> Vec<Step> {
    [&open(), steps].concat()
}

/// A request, its answer, and both FINs; it ends at 106 and 508.
fn whole() -> Vec<Step> {
    then(&[
        Tcp(Client, ACK | PSH, 101, 501, b"what"),
        Tcp(Server, ACK | PSH, 501, 105, b"answer"),
        Tcp(Client, FIN | ACK, 105, 507, b""),
        Tcp(Server, FIN | ACK, 507, 106, b""),
        Tcp(Client, ACK, 106, 508, b""),
    ])
}

#[test]
fn connections_that_went_well() {
    needs_root!();
    let mut stage = Stage::new();
    stage.check("open to close", &whole(), &[(State::Closed, OK, None)]);
    stage.check("still open", &open(), &[(State::Established, OK, None)]);
    let half = then(&[Tcp(Client, FIN | ACK, 101, 501, b""), Tcp(Server, ACK | PSH, 501, 102, b"more")]);
    stage.check("half closed", &half, &[(State::HalfClosed, OK, None)]);
    let both = then(&[
        Tcp(Client, FIN | ACK, 101, 501, b""),
        Tcp(Server, FIN | ACK, 501, 101, b""),
        Tcp(Client, ACK, 102, 502, b""),
        Tcp(Server, ACK, 502, 102, b""),
    ]);
    stage.check("simultaneous close", &both, &[(State::Closed, OK, None)]);
    let crossed = [
        Tcp(Client, SYN, 100, 0, b""),
        Tcp(Server, SYN, 500, 0, b""),
        Tcp(Client, SYN | ACK, 100, 501, b""),
        Tcp(Server, SYN | ACK, 500, 101, b""),
        Tcp(Client, ACK | PSH, 101, 501, b"hello"),
        Tcp(Server, ACK, 501, 106, b""),
        Tcp(Client, FIN | ACK, 106, 501, b""),
        Tcp(Server, FIN | ACK, 501, 107, b""),
        Tcp(Client, ACK, 107, 502, b""),
    ];
    stage.check("simultaneous open", &crossed, &[(State::Closed, OK, None)]);
    let retried = [&[Tcp(Client, SYN, 100, 0, b""), Wait(1000)], &whole()[..]].concat();
    stage.check("SYN sent again", &retried, &[(State::Closed, OK, None)]);
    let early = [
        Tcp(Client, SYN, 100, 0, b"what"), // TCP Fast Open
        Tcp(Server, SYN | ACK, 500, 105, b""),
        Tcp(Server, ACK | PSH, 501, 105, b"answer"),
        Tcp(Client, FIN | ACK, 105, 507, b""),
        Tcp(Server, FIN | ACK, 507, 106, b""),
        Tcp(Client, ACK, 106, 508, b""),
    ];
    stage.check("data on SYN", &early, &[(State::Closed, OK, None)]);
}

#[test]
fn connections_that_were_cut_off() {
    needs_root!();
    let mut stage = Stage::new();
    let refused = [Tcp(Client, SYN, 100, 0, b""), Tcp(Server, RST | ACK, 0, 101, b"")];
    stage.check("refused", &refused, &[(State::Reset, Outcome::Failed(Refused), Some(1))]);
    let by_server = then(&[Tcp(Client, ACK | PSH, 101, 501, b"what"), Tcp(Server, RST, 501, 0, b"")]);
    stage.check("reset by the server", &by_server, &[(State::Reset, Outcome::Failed(ResetByServer), Some(1))]);
    let by_client = then(&[Tcp(Client, RST | ACK, 101, 501, b"")]);
    stage.check("closed by a RST of the client", &by_client, &[(State::Reset, OK, Some(0))]);
    let gave_up = then(&[
        Tcp(Client, ACK | PSH, 101, 501, b"what"),
        Tcp(Server, ACK, 501, 105, b""),
        Wait(1000),
        Tcp(Client, RST | ACK, 105, 501, b""),
    ]);
    stage.check("reset by the client", &gave_up, &[(State::Reset, Outcome::Failed(ResetByClient), Some(0))]);
    let answered = then(&[
        Tcp(Client, ACK | PSH, 101, 501, b"what"),
        Tcp(Server, ACK | PSH, 501, 105, b"answer"),
        Tcp(Client, RST | ACK, 105, 507, b""),
    ]);
    stage.check("closed by a RST after the answer", &answered, &[(State::Reset, OK, Some(0))]);
    let cut_short = then(&[
        Tcp(Client, ACK | PSH, 101, 501, b"what"),
        Tcp(Server, ACK | PSH, 501, 105, b"answer"),
        Tcp(Client, RST, 105, 0, b""),
    ]);
    stage.check("reset before the answer came", &cut_short, &[(State::Reset, Outcome::Failed(ResetByClient), Some(0))]);
    let half_open = [
        Tcp(Client, SYN, 100, 0, b""),
        Tcp(Server, SYN | ACK, 500, 101, b""),
        Tcp(Client, RST, 101, 0, b""), // as a port scan does
    ];
    stage.check(
        "reset instead of the third segment",
        &half_open,
        &[(State::Reset, Outcome::Failed(ResetByClient), Some(0))],
    );
    let late = then(&[
        Tcp(Client, FIN | ACK, 101, 501, b""),
        Tcp(Server, FIN | ACK, 501, 102, b""),
        Tcp(Client, RST, 102, 0, b""),
    ]);
    stage.check("reset after the close", &late, &[(State::Closed, OK, Some(0))]);
    let impatient = then(&[Tcp(Server, FIN | ACK, 501, 101, b""), Tcp(Client, RST | ACK, 101, 502, b"")]);
    stage.check("reset after one FIN", &impatient, &[(State::Closed, OK, Some(0))]);
}

#[test]
fn connections_that_got_no_answer() {
    needs_root!();
    let mut stage = Stage::new();
    let syns = [Tcp(Client, SYN, 100, 0, b""), Wait(1000), Tcp(Client, SYN, 100, 0, b"")];
    stage.check("no answer", &syns, &[(State::SynSent, Outcome::Failed(Timeout), None)]);
    let one_way = [
        Tcp(Client, SYN, 100, 0, b""),
        Tcp(Client, ACK, 101, 501, b""),
        Tcp(Client, ACK | PSH, 101, 501, b"what"),
        Tcp(Client, ACK, 105, 507, b""),
    ];
    stage.check("one direction unseen", &one_way, &[(State::Established, OK, None)]);
    let answers = [Tcp(Server, SYN | ACK, 500, 101, b""), Tcp(Server, ACK | PSH, 501, 105, b"answer")];
    stage.check("the other direction unseen", &answers, &[(State::Established, OK, None)]);
    let midway = [Tcp(Server, ACK | PSH, 501, 105, b"answer"), Tcp(Client, ACK, 105, 507, b"")];
    stage.check("met in the middle", &midway, &[(State::Established, OK, None)]);
}

#[test]
fn ports_used_again_are_connections_of_their_own() {
    needs_root!();
    let mut stage = Stage::new();
    let again = [
        Wait(1000),
        Tcp(Client, SYN, 90_100, 0, b""),
        Tcp(Server, SYN | ACK, 90_500, 90_101, b""),
        Tcp(Client, ACK, 90_101, 90_501, b""),
        Tcp(Client, RST | ACK, 90_101, 90_501, b""),
    ];
    let twice = [&whole(), &again[..]].concat();
    stage.check("closed, then reset", &twice, &[(State::Closed, OK, None), (State::Reset, OK, Some(0))]);
    let refused = [Tcp(Client, SYN, 70_100, 0, b""), Tcp(Server, RST | ACK, 0, 70_101, b""), Wait(1000)];
    let then_ok = [&refused, &whole()[..]].concat();
    let expected = [(State::Reset, Outcome::Failed(Refused), Some(1)), (State::Closed, OK, None)];
    stage.check("refused, then accepted", &then_ok, &expected);
}

#[test]
fn icmp_errors_belong_to_the_flow_they_quote() {
    needs_root!();
    let mut stage = Stage::new();
    let syn = Tcp(Client, SYN, 100, 0, b"");
    for (error, reason, kind) in [
        (Error((3, 0), (1, 0)), Unreachable, ErrorKind::NetUnreachable),
        (Error((3, 1), (1, 3)), Unreachable, ErrorKind::HostUnreachable),
        (Error((3, 13), (1, 1)), Unreachable, ErrorKind::AdminProhibited),
        (Error((11, 0), (3, 0)), Unreachable, ErrorKind::TimeExceeded),
        (Error((3, 3), (1, 4)), Refused, ErrorKind::PortUnreachable),
    ] {
        let failed = |state| [(state, Outcome::Failed(reason), None)];
        stage.check("SYN", &[syn.clone(), error.clone()], &failed(State::SynSent));
        stage.check("datagram", &[Udp(Client, b"x"), error.clone()], &failed(State::Unanswered));
        let twice = [syn.clone(), error.clone(), Wait(1000), syn.clone(), error.clone()];
        stage.check("twice", &twice, &failed(State::SynSent));
        assert_eq!(stage.play(false, &twice, 3).errors, [kind], "counted once a flow");
        // For established connections, errors are soft (RFC 5461).
        let soft = [&open(), std::slice::from_ref(&error), &whole()[3..]].concat();
        stage.check("in the middle", &soft, &[(State::Closed, OK, None)]);
        let overruled = [&[syn.clone(), error], &whole()[1..]].concat();
        stage.check("answered all the same", &overruled, &[(State::Closed, OK, None)]);
    }
    let too_big = Error((3, 4), (2, 0));
    let flow = then(&[Tcp(Client, ACK | PSH, 101, 501, b"much"), too_big.clone(), Tcp(Server, ACK, 501, 105, b"")]);
    stage.check("too big", &flow, &[(State::Established, OK, None)]);
    assert_eq!(stage.play(false, &flow, 0).errors, [ErrorKind::TooBig]);
    let datagram = [Udp(Client, b"much"), too_big];
    stage.check("too big, UDP", &datagram, &[(State::Unanswered, OK, None)]);
}

#[test]
fn datagrams_and_echoes_are_answered_or_not() {
    needs_root!();
    let mut stage = Stage::new();
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";
    stage.check("datagram", &[Udp(Client, b"x"), Udp(Server, b"y")], &[(State::Answered, OK, None)]);
    stage.check("datagram to nobody", &[Udp(Client, b"x")], &[(State::Unanswered, OK, None)]);
    stage.check("query to nobody", &[Udp(Client, query)], &[(State::Unanswered, Outcome::Failed(Timeout), None)]);
    stage.check("echo", &[Echo(Client, 1), Echo(Server, 1)], &[(State::Answered, OK, None)]);
    stage.check("echo to nobody", &[Echo(Client, 1)], &[(State::Unanswered, Outcome::Failed(Timeout), None)]);
    let unreachable = [Echo(Client, 1), Error((3, 1), (1, 3))];
    stage.check("echo, unreachable", &unreachable, &[(State::Unanswered, Outcome::Failed(Unreachable), None)]);
}
