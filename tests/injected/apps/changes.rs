//! Connections that change their protocol are named after the first one, and the second is recorded, whichever end's
//! record comes first and whichever CPU saw it.

use std::time::Duration;

use netmon::bpf::{App, Frame, Hook, Record};
use netmon::flow::{Quiet, Table, TableLimits};

use super::wire::*;
use crate::needs_root;
use crate::support::kernel::{Kernel, small};
use crate::support::packet::*;

/// Data from the client or from the server.
type Said = (bool, Vec<u8>);

struct Talk {
    name: &'static str,
    port: u16,
    said: Vec<Said>,
    app: App,
    next: Option<App>,
    tls: Option<&'static str>,
}

fn client(bytes: &[u8]) -> Said {
    (true, bytes.to_vec())
}

fn server(bytes: &[u8]) -> Said {
    (false, bytes.to_vec())
}

/// The ClientHello and the ServerHello.
fn tls() -> Vec<Said> {
    vec![client(&captured("tls13-client")), server(&captured("tls13-server"))]
}

fn talks() -> Vec<Talk> {
    let talk = |name, port, app, before: Vec<Said>| {
        let said = [before, tls()].concat();
        Talk { name, port, said, app, next: Some(App::Tls), tls: Some("1.3") }
    };
    let info = b"INFO {\"server_id\":\"NA\",\"version\":\"2.10.1\",\"tls_required\":true} \r\n";
    let ssl = postgres(&80877103u32.to_be_bytes());
    let gss = postgres(&80877104u32.to_be_bytes());
    let startup = postgres(b"\0\x03\0\0user\0bob\0\0");
    let ok = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    let ehlo = [server(b"220 mail.example.org ESMTP\r\n"), client(b"EHLO a.example.org\r\n")];
    let starttls = [
        server(b"250-mail.example.org\r\n250 STARTTLS\r\n"),
        client(b"STARTTLS\r\n"),
        server(b"220 2.0.0 Ready to start TLS\r\n"),
    ];
    let header = b"AMQP\x02\x01\0\0";
    let connect = client(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n");
    let upgrade = client(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n");
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let same = |name, port, app, said| Talk { name, port, said, app, next: None, tls: None };
    let hello = [mysql_ssl(), captured("tls13-client")].concat();
    let mut along = talk("MySQL, the ClientHello with the request", 3307, App::Mysql, vec![]);
    along.said = vec![server(&mysql("8.0.35")), client(&hello), server(&captured("tls13-server"))];
    let mut all = vec![
        talk("NATS", 4333, App::Nats, vec![server(info)]),
        talk("SMTP", 2525, App::Smtp, [&ehlo[..], &starttls].concat()),
        talk("LMTP", 2424, App::Smtp, [&[server(b"220 host LMTP\r\n"), client(b"lhlo a\r\n")], &starttls[..]].concat()),
        talk("PostgreSQL", 5433, App::Postgres, vec![client(&ssl), server(b"S")]),
        talk(
            "PostgreSQL, GSS first",
            5433,
            App::Postgres,
            vec![client(&gss), server(b"N"), client(&ssl), server(b"S")],
        ),
        talk("MySQL", 3307, App::Mysql, vec![server(&mysql("8.0.35")), client(&mysql_ssl())]),
        along,
        talk("AMQP 1.0", 5673, App::Amqp, vec![client(header), server(header)]),
        talk("CONNECT", 3128, App::Http, vec![connect, server(b"HTTP/1.1 200 Connection established\r\n\r\n")]),
        same("NATS without TLS", 4333, App::Nats, vec![server(info), client(b"CONNECT {\"verbose\":false}\r\n")]),
        same(
            "PostgreSQL without TLS",
            5433,
            App::Postgres,
            vec![client(&ssl), server(b"N"), client(&startup), server(ok)],
        ),
        same(
            "MySQL without TLS",
            3307,
            App::Mysql,
            vec![server(&mysql("8.0.35")), client(&mysql_login(0x00be_a685, 0))],
        ),
        same("SMTP without TLS", 2525, App::Smtp, vec![ehlo[0].clone(), ehlo[1].clone(), server(b"250 hello\r\n")]),
    ];
    all.push(Talk {
        name: "h2c",
        port: 8080,
        said: vec![upgrade, server(switching), client(PREFACE), server(&settings)],
        app: App::Http,
        next: Some(App::Http2),
        tls: None,
    });
    let chat = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let accept = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
    all.push(Talk {
        name: "WebSocket",
        port: 8080,
        said: vec![client(chat), server(accept), client(&[0x81, 0x80, 1, 2, 3, 4])],
        app: App::Http,
        next: Some(App::Websocket),
        tls: None,
    });
    let mut direct = talk("TLS from the start", 5433, App::Tls, vec![]);
    direct.next = None;
    all.push(direct);
    all
}

/// The CPUs that see the client's and the server's packets.
const CPUS: [[usize; 2]; 3] = [[0, 0], [0, 1], [1, 0]];

fn hold(kernel: &Kernel, talk: &Talk, port: u16, cpus: [usize; 2], pieces: usize) {
    let injector = kernel.injector(Hook::Ingress, true);
    let mut next = [1001u32, 5001];
    let mut send = |client: bool, flags: u8, payload: &[u8]| {
        super::super::pin(cpus[usize::from(!client)]);
        let mut segment = tcp(flags, &[], payload);
        let (ports, seq) = if client { ([port, talk.port], 0) } else { ([talk.port, port], 1) };
        segment[..2].copy_from_slice(&ports[0].to_be_bytes());
        segment[2..4].copy_from_slice(&ports[1].to_be_bytes());
        let number = if flags & SYN != 0 { next[seq] - 1 } else { next[seq] };
        segment[4..8].copy_from_slice(&number.to_be_bytes());
        next[seq] += payload.len() as u32;
        let mut packet = ethernet(&[], IPV4, &ipv4(TCP, &[], 7, 0, &segment));
        if !client {
            packet[26..34].rotate_left(4);
        }
        injector.inject(&packet, Frame::default(), 1).unwrap();
    };
    send(true, SYN, b"");
    send(false, SYN | ACK, b"");
    send(true, ACK, b"");
    for (client, bytes) in &talk.said {
        for piece in bytes.chunks(bytes.len().div_ceil(pieces)) {
            send(*client, PSH | ACK, piece);
        }
    }
}

fn judge(records: &[&Record]) -> (Option<App>, Option<App>, Option<&'static str>) {
    let limits = TableLimits {
        max_flows: 100,
        flow_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(5),
        max_age: None,
    };
    let mut table = Table::new(limits, 0);
    records.iter().for_each(|record| table.merge(record, &mut Quiet));
    assert_eq!(table.len(), 1);
    let flow = table.iter().next().unwrap();
    (flow.app, flow.app_next(), flow.tls_version())
}

fn assert_recognised(pieces: usize) {
    for cpus in CPUS {
        let mut kernel = Kernel::load(small()).unwrap();
        let talks = talks();
        for (n, talk) in talks.iter().enumerate() {
            hold(&kernel, talk, 20001 + n as u16, cpus, pieces);
        }
        let records = kernel.flush();
        for (n, talk) in talks.iter().enumerate() {
            let port = 20001 + n as u16;
            let mut own: Vec<_> =
                records.iter().filter(|r| [r.source.port, r.destination.port].contains(&port)).collect();
            assert!(own.len() >= 2, "{}", talk.name);
            for _ in 0..2 {
                let expected = (Some(talk.app), talk.next, talk.tls);
                assert_eq!(judge(&own), expected, "{} on CPUs {cpus:?} in {pieces}: {own:#?}", talk.name);
                own.reverse();
            }
        }
    }
}

#[test]
fn the_first_protocol_names_the_connection() {
    needs_root!();
    assert_recognised(1);
}

#[test]
fn hellos_in_two_segments_are_recognised() {
    needs_root!();
    assert_recognised(2);
}
