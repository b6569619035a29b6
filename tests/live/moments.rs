//! Start and end of TCP connections, compared with another observer of the same interface.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::control::Operated;
use super::eventually;
use super::net::quiet_pair;
use crate::needs_root;
use crate::replay::{Scratch, nanoseconds, text};

/// The times of one connection in tshark: the SYN, and the last FIN or RST, in nanoseconds since 1970.
fn witnessed(capture: &Path, client_port: u16) -> (i128, i128) {
    let fields = "-T fields -e frame.time_epoch -e tcp.flags";
    let tshark = format!("tshark -r {} -Y tcp.port=={client_port} {fields}", capture.display());
    let output = Command::new("sh").args(["-c", &tshark]).output().unwrap();
    let packets = text(&output.stdout);
    let of = |wanted: u32| {
        packets.lines().filter_map(move |line| {
            let (time, flags) = line.split_once('\t').unwrap();
            let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap();
            let (seconds, fraction) = time.split_once('.').unwrap();
            let ns = seconds.parse::<i128>().unwrap() * 1_000_000_000 + fraction.parse::<i128>().unwrap();
            (flags & wanted != 0).then_some(ns)
        })
    };
    (of(2).next().unwrap(), of(5).next_back().unwrap())
}

/// TCP connections start and end at the times of SYN and FIN or RST, not of a tick; and no digit is printed that is not
/// known.
#[test]
fn starts_and_ends_are_precise_where_they_are_known() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "moments", &[]);
    let (_watch, lines) = agent.follow(&["flows", "watch", "-o", "json"]);
    let capture = Scratch::new("moments.pcap");
    let mut tcpdump = b.command("tcpdump");
    let file = capture.0.to_str().unwrap();
    tcpdump.args(["-Z", "root", "-U", "--time-stamp-precision=nano", "-i", "vb", "-w", file]);
    let mut tcpdump = tcpdump.stderr(Stdio::piped()).spawn().unwrap();
    let messages = BufReader::new(tcpdump.stderr.take().unwrap());
    assert!(messages.lines().any(|line| line.unwrap().contains("listening on")), "tcpdump does not capture");

    let listener = b.run(|| TcpListener::bind("10.9.0.2:8080").unwrap());
    let converse = |_| {
        let mut client = a.run(|| TcpStream::connect("10.9.0.2:8080").unwrap());
        let (mut served, from) = listener.accept().unwrap();
        client.write_all(&[1; 100]).unwrap();
        served.read_exact(&mut [0; 100]).unwrap();
        // Connections at different times within a tick.
        std::thread::sleep(Duration::from_micros(u64::from(from.port()) % 7 * 700));
        drop(client);
        served.read_to_end(&mut Vec::new()).unwrap();
        from.port()
    };
    let mut ports: Vec<u16> = (0..20).map(converse).collect();
    let refused = a.run(|| {
        (0..10)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                socket.bind(&"10.9.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
                socket.connect(&"10.9.0.2:8081".parse::<SocketAddr>().unwrap().into()).unwrap_err();
                socket.local_addr().unwrap().as_socket().unwrap().port()
            })
            .collect::<Vec<_>>()
    });
    ports.extend(refused);
    a.run(|| UdpSocket::bind("10.9.0.1:0").unwrap()).send_to(&[1], "10.9.0.2:8080").unwrap();

    let mut ended: Vec<Value> = Vec::new();
    let mut datagrams = None;
    eventually("every end is reported", || {
        for line in lines.try_iter() {
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["protocol"] == "udp" {
                datagrams = Some(event);
            } else if event["event"] == "end" || event["event"] == "fail" {
                ended.push(event);
            }
        }
        (ended.len() == ports.len() && datagrams.is_some()).then_some(())
    });
    kill(Pid::from_raw(tcpdump.id() as i32), Signal::SIGINT).unwrap();
    tcpdump.wait().unwrap();

    let digits = |time: &Value| time.as_str().unwrap().split_once('.').unwrap().1.trim_end_matches('Z').len();
    let datagrams = datagrams.unwrap();
    assert_eq!((digits(&datagrams["start"]), digits(&datagrams["end"])), (3, 3), "times in ticks have milliseconds");
    let mut near = 0;
    for flow in &ended {
        let port = flow["client_port"].as_u64().unwrap() as u16;
        assert!(ports.contains(&port), "{flow}");
        let (opened, closed) = witnessed(&capture.0, port);
        let times = [&flow["start"], &flow["end"]].map(|time| {
            assert_eq!(digits(time), 6, "{flow}");
            nanoseconds(time) as i128
        });
        let seconds = (times[1] - times[0]) as f64 / 1e9;
        assert!((flow["duration_s"].as_f64().unwrap() - seconds).abs() < 1.5e-6, "{flow}");
        let off = [times[0] - opened, times[1] - closed].map(i128::abs);
        near += usize::from(off.iter().all(|&ns| ns < 400_000));
    }
    // With ticks of 4 ms, one in a hundred would agree; a busy machine may pause between the two observers now and
    // then.
    assert!(near * 4 >= ended.len() * 3, "{near} of {} are where tcpdump saw them: {ended:#?}", ended.len());
}
