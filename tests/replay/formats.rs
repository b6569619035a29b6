//! One capture in every input format, and every output format.

use std::io::Read;

use serde_json::Value;

use super::{Scratch, captures, flows_of, replay, run, text};
use crate::needs_root;
use crate::support::sh;

fn capture(name: &str) -> std::path::PathBuf {
    captures().into_iter().find(|path| path.ends_with(name)).unwrap()
}

/// Flows with times in whole microseconds, as in the coarser formats.
fn rounded(mut flows: Vec<Value>) -> Vec<Value> {
    for flow in &mut flows {
        for field in ["start", "end"] {
            let time = flow[field].as_str().unwrap();
            flow[field] = format!("{}000Z", &time[..26]).into();
        }
        // Values that are computed from times may differ by up to a microsecond at either end.
        for field in ["duration_s", "handshake_client_us", "handshake_server_us", "rtt_us", "response_us"] {
            flow[field] = Value::Null;
        }
        flow["interface"] = Value::Null;
    }
    flows
}

/// editcap writes other formats that Wireshark reads, with other byte orders and compression.
#[test]
fn captures_converted_by_editcap_yield_the_same() {
    needs_root!();
    let original = capture("http.pcap");
    let expected = replay(&original);
    assert!(expected.len() >= 2);
    for format in ["pcap", "nsecpcap", "pcapng"] {
        let converted = Scratch::new(format);
        sh(&format!("editcap -F {format} {} {}", original.display(), converted.0.display()));
        let flows = replay(&converted.0);
        assert_eq!(rounded(flows.clone()), rounded(expected.clone()), "{format}");
        if format != "pcap" {
            let start = |flows: &[Value]| flows.iter().map(|f| f["start"].clone()).collect::<Vec<_>>();
            assert_eq!(start(&flows), start(&expected), "{format} keeps nanoseconds");
        }
        let zipped = Scratch::new("gz");
        sh(&format!("gzip -c {} > {}", converted.0.display(), zipped.0.display()));
        assert_eq!(replay(&zipped.0), flows, "{format}, compressed");
    }
}

/// Two interfaces with different link types in one pcapng file, each with all of its packets counted once.
#[test]
fn merged_captures_keep_their_link_types() {
    needs_root!();
    let parts = ["http.pcap", "raw.pcap", "ipv6.pcap"].map(capture);
    let merged = Scratch::new("merged.pcapng");
    let [a, b, c] = parts.each_ref().map(|path| path.display());
    sh(&format!("mergecap -F pcapng -w {} {a} {b} {c}", merged.0.display()));
    let counts = |flows: Vec<Value>| {
        let fields = ["client_ip", "server_ip", "client_packets", "client_bytes", "server_packets", "server_bytes"];
        let mut counts: Vec<String> =
            flows.iter().map(|flow| fields.map(|field| flow[field].to_string()).join(" ")).collect();
        counts.sort();
        counts
    };
    let apart = parts.iter().flat_map(|path| replay(path)).collect();
    assert_eq!(counts(replay(&merged.0)), counts(apart));
}

#[test]
fn a_pipe_works_like_a_file() {
    needs_root!();
    let file = capture("tls.pcapng.gz");
    let bytes = std::fs::read(&file).unwrap();
    let output = run(&["-o", "json", "-"], &bytes);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(flows_of(&output), replay(&file));
}

/// The same capture yields the same output, to the byte.
#[test]
fn a_replay_is_repeatable() {
    needs_root!();
    for file in ["failures.pcap", "ipv6.pcap", "loss-sender.pcap.gz"].map(capture) {
        let json = || run(&["-o", "json", file.to_str().unwrap()], &[]).stdout;
        assert_eq!(text(&json()), text(&json()), "{}", file.display());
    }
}

/// A header and a row for each object, with the same values in the same order; absent values are empty.
#[test]
fn csv_has_what_json_has() {
    needs_root!();
    for file in captures() {
        let output = run(&["-o", "csv", file.to_str().unwrap()], &[]);
        let mut reader = csv::Reader::from_reader(&output.stdout[..]);
        let header = reader.headers().unwrap().clone();
        let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
        let flows = replay(&file);
        assert_eq!(rows.len(), flows.len());
        for (row, flow) in rows.iter().zip(&flows) {
            for (name, cell) in header.iter().zip(row) {
                let value = &flow[name];
                let value = if !value.is_null() || flow.get(name).is_some() {
                    value.clone()
                } else {
                    // `rtt_us_min` is a field of the object `rtt_us`.
                    let object =
                        flow.as_object().unwrap().iter().find(|(outer, _)| name.starts_with(&format!("{outer}_")));
                    let (outer, object) = object.unwrap_or_else(|| panic!("no field for column {name}"));
                    object.get(&name[outer.len() + 1..]).cloned().unwrap_or_default()
                };
                let expected = match value {
                    Value::Null => String::new(),
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                assert_eq!(cell, expected, "{name}");
            }
            // No field of the object is left out.
            for (name, value) in flow.as_object().unwrap() {
                let there = header.iter().any(|column| column == name || column.starts_with(&format!("{name}_")));
                assert!(there, "no column for {name}: {value}");
            }
        }
    }
}

/// The fields that programs rely on, with their types.
#[test]
fn json_has_the_documented_fields() {
    needs_root!();
    let promised = "id start end duration_s protocol direction client_ip client_port server_ip server_port client_packets \
        client_bytes server_packets server_bytes client_tcp_flags server_tcp_flags state status reason reset_by app_protocol app_protocol_next tls_version \
        handshake_client_us handshake_server_us rtt_us response_us client_retransmits server_retransmits interface hook \
        icmp_type icmp_code vlan client server nat";
    for file in captures() {
        for flow in replay(&file) {
            let names: Vec<&str> = flow.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(names, promised.split_whitespace().collect::<Vec<_>>());
            for number in ["client_packets", "client_bytes", "server_packets", "server_bytes"] {
                assert!(flow[number].is_u64(), "{number}: {flow}");
            }
            let tcp = flow["protocol"] == "tcp";
            assert_eq!(flow["client_port"].is_u64(), tcp || flow["protocol"] == "udp", "{flow}");
            assert_eq!(flow["client_tcp_flags"].is_string(), tcp && flow["client_packets"] != 0, "{flow}");
            assert_eq!(flow["icmp_type"].is_u64(), flow["protocol"].as_str().unwrap().starts_with("icmp"), "{flow}");
            // Cooked captures say who sent a packet, the others do not.
            let cooked = ["redis.pcap", "ipv6.pcap"].iter().any(|name| file.ends_with(name));
            assert_eq!(flow["direction"].is_string(), cooked, "{flow}");
        }
    }
}

/// The capture is from the server's host, so connections to it were opened from outside.
#[test]
fn cooked_captures_have_directions() {
    needs_root!();
    let direction = |name: &str| {
        let flows = replay(&capture(name));
        flows.iter().find(|flow| flow["protocol"] == "tcp").unwrap()["direction"].as_str().unwrap().to_owned()
    };
    assert_eq!(direction("redis.pcap"), "ingress");
    assert_eq!(direction("ipv6.pcap"), "egress");
}

/// dumpcap writes the name of the interface.
#[test]
fn interfaces_have_names_if_the_capture_has_them() {
    needs_root!();
    let interface = |name: &str| replay(&capture(name))[0]["interface"].clone();
    assert_eq!(interface("mysql.pcapng"), "eth0");
    assert_eq!(interface("http.pcap"), Value::Null);
}

#[test]
fn the_table_has_a_row_for_each_flow() {
    needs_root!();
    let file = capture("failures.pcap");
    let table = text(&run(&[file.to_str().unwrap()], &[]).stdout);
    let flows = replay(&file);
    assert_eq!(table.lines().count(), flows.len() + 1);
    let row = |text: &str| table.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {table}"));
    assert!(row(":7001 ").ends_with(" failed: refused"));
    // The capture ends before it is certain that there will be no answer.
    assert!(row(":7002 ").ends_with(" active"));
    assert!(row("SERVER").starts_with(" START"));
}

/// The same packets with every link type that BSD and Linux have for IP.
#[test]
fn link_types_make_no_difference() {
    needs_root!();
    let ethernet = replay(&capture("http.pcap"));
    let tcp = |flows: &[Value]| -> Vec<(Value, Value, u64)> {
        let tcp = flows.iter().filter(|flow| flow["protocol"] == "tcp");
        tcp.map(|f| (f["start"].clone(), f["client_port"].clone(), f["client_bytes"].as_u64().unwrap())).collect()
    };
    let mut bytes = Vec::new();
    std::fs::File::open(capture("http.pcap")).unwrap().read_to_end(&mut bytes).unwrap();
    for (link, header) in [(101u32, &[][..]), (0, &[2, 0, 0, 0]), (108, &[0, 0, 0, 2]), (228, &[])] {
        let file = Scratch::holding("link.pcap", &relinked(&bytes, link, header));
        let flows = replay(&file.0);
        let shift = 14 - header.len() as u64;
        let packets =
            |port: &Value| ethernet.iter().find(|f| f["client_port"] == *port).unwrap()["client_packets"].as_u64();
        let expected: Vec<_> = tcp(&ethernet)
            .into_iter()
            .map(|(start, port, bytes)| (start, port.clone(), bytes - shift * packets(&port).unwrap()))
            .collect();
        assert_eq!(tcp(&flows), expected, "link type {link}");
    }
    let unknown = Scratch::holding("unknown.pcap", &relinked(&bytes, 127, &[]));
    let output = run(&[unknown.0.to_str().unwrap()], &[]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("link type 127 (IEEE 802.11 with radiotap header)"));
}

/// A capture of "any" on a host that forwards: each packet as it comes in, and as it goes out.
#[test]
fn a_packet_captured_twice_counts_once() {
    needs_root!();
    let bytes = std::fs::read(capture("http.pcap")).unwrap();
    let cooked = |kind: u8| relinked(&bytes, 113, &[0, kind, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0]);
    let (came, left) = (cooked(0), cooked(4));
    let mut both = came[..24].to_vec();
    let mut at = 24;
    while at < came.len() {
        let end = at + 16 + u32::from_le_bytes(came[at + 8..at + 12].try_into().unwrap()) as usize;
        both.extend([&came[at..end], &left[at..end]].concat());
        at = end;
    }
    let counts = |file: &[u8]| -> Vec<_> {
        let file = Scratch::holding("cooked.pcap", file);
        let flows = replay(&file.0);
        flows.iter().map(|f| ["client_bytes", "server_packets", "client_port"].map(|field| f[field].clone())).collect()
    };
    assert_eq!(counts(&both), counts(&came));
    let file = Scratch::holding("both.pcap", &both);
    let log = text(&run(&[file.0.to_str().unwrap()], &[]).stderr);
    assert!(log.contains(" 22 duplicate"), "{log}");
}

/// Converts a little-endian pcap file of Ethernet packets to another link type; only IPv4 is kept.
fn relinked(file: &[u8], link: u32, header: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let mut new = [&file[..20], &link.to_le_bytes()].concat();
    let mut at = 24;
    while at < file.len() {
        let (captured, wire) = (word(at + 8), word(at + 12));
        let packet = &file[at + 16..][..captured as usize];
        if packet[12..14] == [8, 0] {
            let change = |length: u32| (length - 14 + header.len() as u32).to_le_bytes();
            new.extend([&file[at..at + 8], &change(captured), &change(wire), header, &packet[14..]].concat());
        }
        at += 16 + captured as usize;
    }
    new
}

/// The protocols of the captures' servers, whatever their ports, even from packets cut to 96 bytes.
#[test]
fn real_servers_are_recognised() {
    needs_root!();
    for (name, app) in [
        ("http.pcap", "http"),
        ("tls.pcapng.gz", "tls"),
        ("dns.pcap", "dns"),
        ("mysql.pcapng", "mysql"),
        ("postgres.pcap", "postgres"),
        ("redis.pcap", "redis"),
        ("grpc.pcapng.gz", "grpc"),
    ] {
        let flows = replay(&capture(name));
        let spoken = flows.iter().filter(|flow| flow["server_port"].is_u64());
        let apps: Vec<_> = spoken.map(|flow| flow["app_protocol"].as_str().unwrap_or("unknown")).collect();
        assert!(!apps.is_empty() && apps.iter().all(|found| *found == app), "{name}: {apps:?}");
    }
    let flows = replay(&capture("tls.pcapng.gz"));
    let tls = flows.iter().filter(|flow| flow["app_protocol"] == "tls");
    let versions: Vec<_> = tls.map(|flow| flow["tls_version"].clone()).collect();
    assert_eq!(versions, ["1.3", "1.2"]);
}
