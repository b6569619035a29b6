use super::*;

fn line() -> Line {
    Line {
        protocol: "tcp".to_owned(),
        status: "failed",
        reason: Some("refused"),
        client_ip: Some("10.1.2.3".parse().unwrap()),
        client_port: Some(40000),
        server_ip: Some("10.9.0.2".parse().unwrap()),
        server_port: Some(443),
        client_bytes: 60,
        server_bytes: 40,
        interface: Some("veth 1".to_owned()),
        ..Line::default()
    }
}

fn passes(filter: &str) -> bool {
    Filter::parse(filter).unwrap_or_else(|error| panic!("{error}")).matches(&line())
}

#[test]
fn what_passes() {
    for filter in [
        "",
        "  ",
        "protocol=tcp",
        "proto = tcp and dst_port=443 and status=failed",
        "proto=udp or (server_port=443 and not status=ok)",
        "not (proto=udp or proto=icmp)",
        "not not proto=tcp",
        "proto=udp and proto=icmp or proto=tcp",
        "proto=tcp or proto=udp and proto=icmp",
        "client_ip=10.0.0.0/8",
        "client_ip=10.1.2.3 and client_ip!=10.1.2.4",
        "ip=10.9.0.2 and port=443 and port!=80",
        "bytes=100 and bytes>=100 and bytes<=100 and bytes>99.5 and client_bytes<61",
        "reason~ref*",
        "server_port~44?",
        "server_ip~10.9.*",
        "interface=\"veth 1\"",
        "NOT app_protocol=http AND app!=dns",
        "status>=failed",
    ] {
        assert!(passes(filter), "{filter}");
    }
}

#[test]
fn what_does_not_pass() {
    for filter in [
        "protocol=udp",
        "not protocol=tcp",
        "client_ip!=10.0.0.0/8",
        "ip!=10.9.0.2",
        "port!=443",
        "ip=fd00::/8",
        "rtt_us<1000000",
        "app_protocol~*",
        "bytes!=100",
        "vlan=0",
    ] {
        assert!(!passes(filter), "{filter}");
    }
}

#[test]
fn faults_have_a_column() {
    for (filter, column, what) in [
        ("protcol=tcp", 0, "did you mean protocol?"),
        ("protocol=tcp and colour=red", 17, "there is no field colour"),
        ("protocol", 8, "comparison"),
        ("protocol tcp", 9, "comparison"),
        ("protocol=", 9, "value"),
        ("protocol=tcp status=ok", 13, "\"and\" or \"or\""),
        ("(protocol=tcp", 13, "\")\" is missing"),
        ("(protocol=tcp status=ok)", 14, "\")\" is missing"),
        ("protocol=tcp)", 12, "not opened"),
        ("protocol=tcp and", 16, "a field is missing"),
        ("and", 0, "there is no field and"),
        ("server_port=https", 12, "not a number"),
        ("client_ip=pod", 10, "neither an address"),
        ("client_ip<10.0.0.1", 10, "no order"),
        ("interface=\"veth", 10, "quote"),
        ("protocol==tcp", 9, "value"),
        ("interface~[", 10, ""),
        ("=tcp", 0, "field"),
        ("näme=1 and", 0, "no field"),
    ] {
        let error = Filter::parse(filter).unwrap_err();
        assert_eq!(error.column, column, "{filter}: {error}");
        assert!(error.message.contains(what), "{filter}: {error}");
        let shown = error.to_string();
        assert!(shown.lines().last().unwrap().chars().count() == column + 3, "{shown}");
    }
    let deep = format!("{}protocol=tcp", "not ".repeat(1000));
    assert_eq!(Filter::parse(&deep).unwrap_err().message, "nested too deeply");
    let deep = "(".repeat(1000);
    assert_eq!(Filter::parse(&deep).unwrap_err().message, "nested too deeply");
    let long = "(".repeat(100_000);
    let error = Filter::parse(&long).unwrap_err();
    assert!(error.message.contains("at most 4096") && error.to_string().len() < 1000, "{error}");
    for depth in [10, 250, 500] {
        let glob = format!("interface~{}a{}", "{".repeat(depth), "}".repeat(depth));
        let error = Filter::parse(&glob).unwrap_err();
        assert!(error.column == 10 && error.message.starts_with("a glob"), "{error}");
        assert!(PacketFilter::parse(&glob).is_err());
    }
}

#[test]
fn every_field_of_a_flow_is_known() {
    let serde_json::Value::Object(fields) = serde_json::to_value(Line::default()).unwrap() else { panic!("no object") };
    for name in fields.keys().filter(|name| !["client", "server", "nat"].contains(&name.as_str())) {
        assert!(Field::named(name).is_some(), "{name}");
    }
}

#[test]
fn packets_have_fewer_fields_than_flows() {
    for (filter, column, what) in [
        ("status=failed", 0, "status is a field of flows, not of packets"),
        ("proto=tcp and app=http", 14, "app is a field of flows"),
        ("client_port=80", 0, "compare src_port, dst_port or port"),
        ("server_tcp_flags=SYN", 0, "compare tcp_flags"),
        ("hok=ingress", 0, "did you mean hook?"),
        ("not (proto=tpc)", 11, "did you mean tcp?"),
        ("tcp_flags=ACK|SYN", 10, "no packet has"),
        ("verdict=dropped", 8, "no packet has"),
        ("ip~10.*", 3, "a network such as"),
        ("ip<10.0.0.1", 3, "no order"),
        ("port=https", 5, "not a number"),
        ("proto=tcp and", 13, "a field is missing"),
    ] {
        let error = PacketFilter::parse(filter).unwrap_err();
        assert_eq!(error.column, column, "{filter}: {error}");
        assert!(error.message.contains(what), "{filter}: {error}");
    }
    let many = vec!["src_port=1"; 65].join(" or ");
    assert!(PacketFilter::parse(&many).unwrap_err().message.contains("room for 64"));
}

/// The tests only lead forwards, and to an end.
#[test]
fn filters_over_packets_end() {
    use crate::bpf::Next;
    let interfaces = (1..=9).map(|index| (index, format!("veth{index}"))).collect();
    for (filter, tests) in [
        ("", 0),
        ("proto=tcp", 1),
        ("proto~*", 1),
        ("interface=eth0", 1),
        ("interface~veth* and not interface=veth3", 10),
        ("ip=10.0.0.0/8", 4),
        ("src_ip=fd00::/33 or src_ip=::/0", 4),
        ("dst_port>=1024 and dst_port<2048", 4),
        ("port=79.5", 1),
        ("not (proto=udp or icmp_type=8 and vlan!=5)", 4),
    ] {
        let compiled = PacketFilter::parse(filter).unwrap().compile(&interfaces).unwrap();
        assert_eq!(compiled.len(), tests, "{filter}: {compiled:#?}");
        for (at, test) in compiled.iter().enumerate() {
            for next in [test.then, test.otherwise] {
                assert!(!matches!(next, Next::Test(next) if usize::from(next) <= at), "{filter}: {compiled:#?}");
            }
        }
    }
}
