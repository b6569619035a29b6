//! `netmon-cli debug packet-trace`, with a running agent and real packets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use crossbeam_channel::Receiver;
use netmon::bpf::{Hook, ProgramTiming, list_hooked};
use nix::libc::SIGINT;
use serde_json::Value;

use super::control::{Killed, Operated};
use super::net::{Counters, index, quiet_pair};
use super::traffic::{Flood, transfer, udp_to};
use super::{PATIENCE, eventually};
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::sh;

/// A running trace.
struct Tracing {
    child: Killed,
    lines: Receiver<Value>,
}

impl Tracing {
    fn start(agent: &Operated, arguments: &[&str]) -> Tracing {
        let all = [&["-o", "json", "debug", "packet-trace", "on"], arguments].concat();
        let mut command = agent.command(&all);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (line, lines) = crossbeam_channel::unbounded();
        std::thread::spawn(move || {
            let texts = out.lines().map_while(Result::ok);
            texts.for_each(|text| drop(line.send(serde_json::from_str(&text).unwrap())));
        });
        let tracing = Tracing { child: Killed(child), lines };
        assert_eq!(tracing.next()["event"], "start");
        tracing
    }

    fn next(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("a line of the trace")
    }

    /// Waits for its end; returns all packets, the final counts, and its message.
    fn end(mut self) -> (Vec<Value>, Value, String) {
        let mut packets = Vec::new();
        loop {
            let line = self.next();
            match line["event"].as_str() {
                Some("packet") => packets.push(line),
                Some("end") => {
                    let mut said = String::new();
                    let mut err = self.child.0.stderr.take().unwrap();
                    std::io::Read::read_to_string(&mut err, &mut said).unwrap();
                    assert!(self.child.0.wait().unwrap().success(), "{said}");
                    return (packets, line, said);
                }
                _ => {}
            }
        }
    }
}

/// Ids of the agent's programs at `vb`, by side.
fn programs(ns: &Netns) -> BTreeMap<&'static str, Vec<(u32, String)>> {
    let link = index(ns, "vb");
    let hooked = ns.run(|| list_hooked(link).unwrap());
    let mut sides = BTreeMap::<_, Vec<_>>::new();
    for program in hooked.into_iter().filter(|program| program.ours) {
        let side = if program.hook == Hook::Ingress { "ingress" } else { "egress" };
        sides.entry(side).or_default().push((program.id.unwrap(), program.name));
    }
    sides
}

#[test]
fn sent_packets_are_traced_and_tshark_reads_them() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "traced", &[]);
    let own = programs(&b);
    assert_eq!(own.len(), 2, "{own:?}");
    let file = agent.folder.0.join("packets.pcapng");
    let filter = "proto=udp and dst_port=4242 and src_ip=10.9.0.0/24 or proto=tcp and tcp_flags~*SYN*";
    let arguments = ["--filter", filter, "--for", "5m", "--write", file.to_str().unwrap()];
    let tracing = Tracing::start(&agent, &arguments);
    assert!(programs(&b).values().all(|programs| programs[0].1.ends_with("_t")), "{:?}", programs(&b));

    let server = b.run(|| UdpSocket::bind("10.9.0.2:4242").unwrap());
    let client = a.run(|| udp_to(server.local_addr().unwrap()));
    for n in 0..50 {
        client.send(&vec![0xee; 10 + n]).unwrap();
    }
    // The trace must not show these.
    let other = a.run(|| udp_to("10.9.0.2:4243".parse().unwrap()));
    let _ = other.send(b"unseen");
    let tcp = transfer(&a, &b, "10.9.0.2".parse().unwrap(), 3, 10_000);

    agent.says(&["debug", "packet-trace", "off"]);
    let (packets, end, said) = tracing.end();
    let udp: Vec<&Value> = packets.iter().filter(|packet| packet["protocol"] == "udp").collect();
    assert_eq!(udp.len(), 50, "{packets:#?}");
    for (n, packet) in udp.iter().enumerate() {
        assert_eq!(packet["length"], 14 + 20 + 8 + 10 + n);
        assert_eq!(packet["verdict"], if n == 0 { "new" } else { "cached" });
        assert_eq!(packet["src_port"], client.local_addr().unwrap().port());
        assert_eq!((&packet["interface"], &packet["hook"]), (&"vb".into(), &"ingress".into()));
        let header = packet["header"].as_str().unwrap();
        assert_eq!((header.len(), header.contains("eeee")), (2 * 42, false), "headers alone: {header}");
    }
    let syns: Vec<&Value> = packets.iter().filter(|packet| packet["protocol"] == "tcp").collect();
    assert_eq!(syns.len(), 6, "SYN and SYN|ACK of three connections: {syns:#?}");
    for connection in &tcp {
        let of = |side: &str| syns.iter().filter(|p| p[side] == connection.client.port()).count();
        assert_eq!((of("src_port"), of("dst_port")), (1, 1));
    }
    assert_eq!((&end["matched"], &end["held_back"], &end["lost"]), (&56.into(), &0.into(), &0.into()));
    assert_eq!(said, "56 packets matched: 56 shown, 0 left out because they came too fast, 0 lost\n");
    assert_eq!(programs(&b), own, "its own programs are back");

    let fields = "-e frame.time_epoch -e frame.interface_name -e frame.packet_flags_direction -e frame.comment \
                  -e frame.len -e frame.cap_len -e udp.dstport -e tcp.flags.syn";
    let read = sh(&format!("tshark -n -r {} -T fields {fields} 2>/dev/null", file.display()));
    let rows: Vec<Vec<&str>> = read.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), 56, "{read}");
    for (row, packet) in rows.iter().zip(&packets) {
        let at = humantime_ns(packet["time"].as_str().unwrap());
        assert_eq!(row[0].replace('.', ""), at.to_string(), "to the nanosecond");
        let inbound = packet["hook"] == "ingress";
        assert_eq!((row[1], row[2]), ("vb", if inbound { "0x00000001" } else { "0x00000002" }));
        assert_eq!(row[3], packet["verdict"].as_str().unwrap());
        assert_eq!(row[4], packet["length"].to_string());
        assert_eq!(row[5], (packet["header"].as_str().unwrap().len() / 2).to_string());
        let is_syn = row[7] == "1" || row[7] == "True";
        assert!(row[6] == "4242" || is_syn, "{row:?}");
    }
}

fn humantime_ns(time: &str) -> u128 {
    let seconds = sh(&format!("date -u -d {time} +%s%N"));
    seconds.trim().parse().unwrap()
}

#[test]
fn invalid_traces_are_refused() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "refused", &[]);
    let own = programs(&b);
    let deep = vec!["port~*1*"; 40].join(" or ");
    for (arguments, code, parts) in [
        (
            &["on", "--filter", "status=failed"][..],
            1,
            &["status is a field of flows, not of packets", "status=failed\n  ^"][..],
        ),
        (&["on", "--filter", "proto=tcp and bytes>5"], 1, &["a field of flows, not of packets", "\n                ^"]),
        (&["on", "--filter", "client_ip=10.0.0.1"], 1, &["which end is the client: compare src_ip, dst_ip or ip"]),
        (&["on", "--filter", "proto=tpc"], 1, &["did you mean tcp?", "\n        ^"]),
        (&["on", "--filter", "src_ip~10.*"], 1, &["a network such as", "\n         ^"]),
        (&["on", "--filter", "prot=tcp"], 1, &["did you mean proto"]),
        (&["on", "--filter", &deep], 1, &["tests, and the programs have room for 64"]),
        (&["on", "--for", "1h"], 1, &["from 1s to 10m"]),
        (&["on", "--for", "soon"], 2, &["soon"]),
        (&["on", "--write", "/nonexistent/file"], 1, &["/nonexistent/file"]),
        (&["off"], 1, &["no packet trace runs"]),
        (&["off", "--for", "1s"], 2, &["--for"]),
    ] {
        let (got, said) = agent.refused(&[&["debug", "packet-trace"], arguments].concat());
        assert_eq!(got, code, "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {part:?} is missing in {said}");
        }
    }
    eventually("nothing of that changed the programs", || (programs(&b) == own).then_some(()));
    let first = Tracing::start(&agent, &[]);
    let (code, said) = agent.refused(&["debug", "packet-trace", "on"]);
    assert!(code == 1 && said.contains("runs already"), "{said}");
    // The client vanishes.
    drop(first);
    eventually("its own programs are back", || (programs(&b) == own).then_some(()));
    // The time is over.
    let (_, _, said) = Tracing::start(&agent, &["--for", "1s"]).end();
    assert!(said.starts_with("0 packets matched"), "{said}");
    assert_eq!(programs(&b), own);
    // As text, and interrupted.
    let mut child = Killed(agent.command(&["debug", "packet-trace", "on"]).stderr(Stdio::piped()).spawn().unwrap());
    eventually("it traces", || (programs(&b) != own).then_some(()));
    eventually("the interrupted trace ends", || {
        sh(&format!("kill -INT {}", child.0.id()));
        // A second interrupt, on a busy machine, ends it at once.
        let by_itself = |status: ExitStatus| matches!(status.code(), Some(0 | 130)) || status.signal() == Some(SIGINT);
        child.0.try_wait().unwrap().map(|status| assert!(by_itself(status), "{status}"))
    });
    eventually("its own programs are back", || (programs(&b) == own).then_some(()));
}

#[test]
fn nothing_is_lost_while_traces_come_and_go() {
    needs_root!();
    let (a, b) = quiet_pair();
    let (mut agent, before) = eventually("a start during which no packet came by", || {
        let before = Counters::read(&b, "vb");
        let agent = Operated::start(&b, "kept", &[]);
        (Counters::read(&b, "vb") == before).then_some((agent, before))
    });
    let flood = Flood::start(&a, "10.9.0.2".parse().unwrap());
    let plain = |programs: &BTreeMap<_, Vec<(u32, String)>>| programs.values().all(|p| !p[0].1.ends_with("_t"));
    let own_again = || eventually("its own programs are back", || plain(&programs(&b)).then_some(()));
    for round in 0..3 {
        own_again();
        let tracing = Tracing::start(&agent, &["--filter", "proto=udp and hook=ingress", "--for", "5m"]);
        if round == 1 {
            // With other options, the tracing programs are loaded again, too.
            agent.says(&["config", "set", "features.protocol_detection.enabled=false"]);
            assert!(programs(&b).values().all(|programs| programs[0].1.ends_with("_t")));
        }
        let many = loop {
            let line = tracing.next();
            if line["event"] == "counts" {
                break line;
            }
        };
        assert!(many["held_back"].as_u64().unwrap() > 0, "{many}");
        if round == 1 {
            continue; // its client is killed, and the agent notices
        }
        agent.says(&["debug", "packet-trace", "off"]);
        let (_, end, said) = tracing.end();
        let number = |name: &str| end[name].as_u64().unwrap();
        let shown: u64 = said.split("matched: ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(number("matched"), shown + number("held_back") + number("lost"), "{said}");
        assert!(number("held_back") > 0, "a flood exceeds the limit of shown packets: {said}");
    }
    own_again();
    flood.stop();
    eventually("silence", || {
        let counters = Counters::read(&b, "vb");
        std::thread::sleep(std::time::Duration::from_millis(100));
        (Counters::read(&b, "vb") == counters).then_some(())
    });
    let counted = Counters::read(&b, "vb").since(before);
    agent.program.signal("TERM");
    let last = agent.program.wait_for("stopped after").to_owned();
    let log = &agent.program.log;
    let seen = format!("packets: {} seen", counted.rx.packets + counted.tx.packets);
    assert!(last.contains("(exact)") && last.contains(&seen), "{seen} by the interface: {last}");
    assert!(!log.iter().any(|line| line.contains("ERROR")), "{log:#?}");
}

/// The run time of the programs counts once, even if tracing programs replaced them in between.
#[test]
fn statistics_of_programs_go_on() {
    needs_root!();
    let (a, b) = quiet_pair();
    b.enter_for(|| {
        let agent = Operated::start(&b, "statistics", &[]);
        let _timing = ProgramTiming::start().unwrap();
        let address = agent.program.log.iter().find_map(|line| line.split("metrics on http://").nth(1)).unwrap();
        let address: std::net::SocketAddr = address.trim_end_matches("/metrics").parse().unwrap();
        let page = || super::metrics::get(&b, address, "/metrics");
        let runs = |program: &str| page().sum("netmon_ebpf_program_runs_total", &[&format!("program=\"{program}\"")]);
        let send = |count: usize| {
            let socket = a.run(|| UdpSocket::bind("10.9.0.1:0").unwrap());
            (0..count).for_each(|_| drop(socket.send_to(b"hello", "10.9.0.2:9")));
        };
        send(1000);
        let mut least = 1000.0;
        for round in 0..3 {
            let tracing = Tracing::start(&agent, &["--filter", "port=1", "--for", "5m"]);
            send(1000);
            agent.says(&["debug", "packet-trace", "off"]);
            tracing.end();
            if round == 1 {
                agent.says(&["config", "set", "features.protocol_detection.enabled=false"]);
            }
            send(1000);
            least += 2000.0;
            let seen = page().sum("netmon_packets_seen_total", &[]);
            let counted = page().sum("netmon_ebpf_program_runs_total", &[]) - runs("nm_sweep");
            assert!((least..=seen + 100.0).contains(&counted), "round {round}: {counted} runs of {seen} packets");
        }
        // The report has the sweep program that runs.
        let before = runs("nm_sweep");
        eventually("the sweep counts on", || {
            send(10);
            (runs("nm_sweep") > before).then_some(())
        });
        let mut stream = std::os::unix::net::UnixStream::connect(agent.socket()).unwrap();
        std::io::Write::write_all(&mut stream, b"GET /v1/bpf HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        let objects: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let reported: Vec<&Value> = objects["programs"].as_array().unwrap().iter().collect();
        let attached: Vec<u32> = programs(&b).into_values().flatten().map(|(id, _)| id).collect();
        let ids: Vec<u64> = reported.iter().map(|program| program["id"].as_u64().unwrap()).collect();
        assert!(attached.iter().all(|id| ids.contains(&u64::from(*id))), "{attached:?} {reported:#?}");
        let sweep = reported.iter().find(|program| program["name"] == "nm_sweep").unwrap();
        assert!(sweep["runs"].as_u64().unwrap() > 0, "{sweep}");
    });
}
