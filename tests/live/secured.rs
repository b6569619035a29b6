//! A live agent whose metrics are protected by a web configuration file: a real Prometheus with certificate and password scrapes it,
//! and others do not.

use std::net::SocketAddr;

use super::binary::{NETMON, Program};
use super::eventually;
use super::net::quiet_pair;
use super::prometheus::Prometheus;
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::web::{MUTUAL, TLS, Web, text, user};

/// The agent in `ns`, and where its metrics are.
fn start(ns: &Netns, web: &Web) -> (Program, SocketAddr) {
    let path = web.path("web.yaml");
    let mut program = Program::start(ns, &["--interface", "vb", "--web-config", text(&path)], false);
    let line = program.wait_for("metrics on https://").to_owned();
    let address = line.split("https://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    program.wait_for("ready");
    (program, address)
}

/// The HTTP status that curl gets, 000 if none.
fn status(ns: &Netns, address: SocketAddr, path: &str, args: &[&str]) -> String {
    let url = format!("https://{address}{path}");
    let output = ns.command("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url]).args(args).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn prometheus_scrapes_with_certificate_and_password() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let web = Web::new(&b.name);
    web.configure(&format!("{MUTUAL}{}", user("prometheus", "secret", 10)));
    let (mut program, address) = start(&b, &web);
    let (ca, certificate, key) = (web.path("ca.crt"), web.path("client.crt"), web.path("client.key"));
    let (ca, certificate, key) = (text(&ca), text(&certificate), text(&key));
    let job = format!(
        "scheme: https, basic_auth: {{username: prometheus, password: secret}}, \
         tls_config: {{ca_file: {ca}, cert_file: {certificate}, key_file: {key}}}"
    );
    let prometheus = Prometheus::with(&b, address, &job);
    eventually("netmon's own metrics in Prometheus", || prometheus.single("netmon_web_config_reloads_total == 0"));

    let trust = ["--cacert", ca];
    let own = [&trust[..], &["--cert", certificate, "--key", key]].concat();
    assert_eq!(status(&b, address, "/metrics", &own), "401");
    assert_eq!(status(&b, address, "/metrics", &[&own[..], &["-u", "prometheus:wrong"]].concat()), "401");
    assert_eq!(status(&b, address, "/metrics", &[&trust[..], &["-u", "prometheus:secret"]].concat()), "403");
    // As the kubelet asks: without verifying the certificate, and without one of its own.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(&b, address, path, &["-k"]), "200", "{path}");
    }
    let url = format!("http://{address}/metrics");
    let plain = b.command("curl").args(["-s", &url]).output().unwrap();
    assert_eq!(String::from_utf8(plain.stdout).unwrap(), "this port speaks TLS: ask with https://\n");

    web.issue("server");
    program.wait_for("read again: TLS, client certificates are required, 1 user");
    eventually("a scrape after the renewal", || prometheus.single("netmon_web_config_reloads_total > 0"));
    web.configure("tls_server_config: [\n");
    let said = program.wait_for("the web configuration stays as it was").to_owned();
    assert!(said.contains("web.yaml:2:"), "{said}");
    eventually("the refusal in Prometheus", || {
        prometheus.single("netmon_web_config_reload_failures_total == 1 and up == 1")
    });
    let refused = "netmon_clients_turned_away_total{server=\"metrics\",reason=\"credentials\"} == 3";
    eventually("those without credentials are counted", || prometheus.single(refused));
    program.signal("TERM");
    assert!(program.end().0.success());
}

#[test]
fn a_broken_file_prevents_the_start() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let web = Web::new(&b.name);
    for (config, why) in [
        (TLS.replace("cert_file", "cert_fil"), "web.yaml:1:21: unknown key cert_fil: did you mean cert_file?"),
        (TLS.replace("server.crt", "none.crt"), "web.yaml:1:32: tls_server_config.cert_file: "),
        ("basic_auth_users:\n  me: secret\n".to_owned(), "web.yaml:2:7: basic_auth_users.me: not a bcrypt hash"),
    ] {
        let path = web.configure(&config);
        let mut command = b.command(NETMON);
        command.args(["--interface", "vb", "--socket", "none", "--metrics-addr", "127.0.0.1:0"]);
        command.args(["--web-config", text(&path)]);
        let (status, _, log) = Program::spawn(command).end();
        let error = log.iter().find(|line| line.contains("protect the metrics: "));
        assert!(!status.success() && error.is_some_and(|error| error.contains(why)), "{log:#?}");
    }
}
