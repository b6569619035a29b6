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
fn what_does_not() {
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
        ("server_port=https", 12, "no number"),
        ("client_ip=pod", 10, "no address"),
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
    let deep = format!("{}protocol=tcp", "not ".repeat(10_000));
    assert_eq!(Filter::parse(&deep).unwrap_err().message, "too deep");
    let deep = "(".repeat(100_000);
    assert!(Filter::parse(&deep).is_err());
}

#[test]
fn every_field_of_a_flow_is_known() {
    let serde_json::Value::Object(fields) = serde_json::to_value(Line::default()).unwrap() else { panic!("no object") };
    for name in fields.keys().filter(|name| !["client", "server", "nat"].contains(&name.as_str())) {
        assert!(Field::named(name).is_some(), "{name}");
    }
}
