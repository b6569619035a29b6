//! The control socket and `netmon-cli`, with a running agent.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::binary::Program;
use super::eventually;
use super::net::quiet_pair;
use super::traffic::{Flood, transfer, udp_to};
use crate::needs_root;
use crate::support::copy_program;
use crate::support::netns::Netns;

pub const CLI: &str = env!("CARGO_BIN_EXE_netmon-cli");

/// An agent with a control socket of its own, which ends when this value is dropped.
pub struct Operated {
    pub program: Program,
    pub folder: Folder,
}

/// A folder that is deleted with this value.
pub struct Folder(pub PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Operated {
    pub fn start(ns: &Netns, name: &str, arguments: &[&str]) -> Operated {
        let folder = std::env::temp_dir().join(format!("netmon-control-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let socket = folder.join("sock");
        let arguments = [&["--interface", "vb", "--socket", socket.to_str().unwrap()], arguments].concat();
        let mut program = Program::start(ns, &arguments, false);
        program.wait_for("ready");
        Operated { program, folder: Folder(folder) }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.0.join("sock")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CLI);
        command.arg("--socket").arg(self.socket()).args(arguments).env_remove("NETMON_SOCKET");
        command
    }

    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.says(&[&["-o", "json"], arguments].concat())).unwrap()
    }

    /// The lines of a command as they arrive.
    pub fn follow(&self, arguments: &[&str]) -> (Killed, crossbeam_channel::Receiver<String>) {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let (line, lines) = crossbeam_channel::unbounded();
        std::thread::spawn(move || {
            use std::io::BufRead;
            std::io::BufReader::new(out).lines().map_while(Result::ok).for_each(|text| drop(line.send(text)));
        });
        (Killed(child), lines)
    }

    /// Runs a command that must fail; returns its exit code and its message.
    pub fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.cli(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// The socket's answer to these bytes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
        // It may be refused before everything is written.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_agents_answers() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "says", &[]);
    let dump = |filter: &str| lines(&agent.says(&["flows", "dump", "-o", "json", "--filter", filter]));
    let ended = || dump("not status=active");
    let refused = "proto=udp and dst_port=9 and status=failed and client_ip=10.9.0.0/24";
    // Flows leave some seconds after their end: a busy machine may be too late for the last answer.
    let (sent, flows, [failed, odd, sorted], [stats, table]) = eventually("answers before the flows leave", || {
        eventually("the last flows have left", || ended().is_empty().then_some(()));
        let sent = transfer(&a, &b, "10.9.0.2".parse().unwrap(), 3, 10_000);
        let closed = a.run(|| udp_to("10.9.0.2:9".parse().unwrap()));
        closed.send(b"anybody?").unwrap();
        let mut most = 0;
        let flows = eventually("all flows have ended as expected", || {
            let flows = ended();
            most = most.max(flows.len());
            (flows.len() == 4 || flows.len() < most).then_some(flows)
        });
        let most = lines(&agent.says(&["flows", "dump", "-o", "json", "--sort", "bytes", "--limit", "2"]));
        let dumps = [dump(refused), dump("status=ok and not protocol=tcp"), most];
        let texts = [agent.says(&["-o", "json", "stats", "flows"]), agent.says(&["flows", "dump"])];
        (ended().len() == 4).then_some((sent, flows, dumps, texts))
    });
    for connection in &sent {
        let port = connection.client.port();
        let flow = flows.iter().find(|flow| flow["client_port"] == port).unwrap();
        let wire = connection.client_on_wire(14);
        assert_eq!((&flow["client_bytes"], &flow["client_packets"]), (&wire.bytes.into(), &wire.packets.into()));
        assert_eq!(
            (&flow["status"], &flow["interface"], &flow["protocol"]),
            (&"ok".into(), &"vb".into(), &"tcp".into())
        );
    }
    assert_eq!((failed.len(), &failed[0]["reason"], odd.len()), (1, &"refused".into(), 0));
    let bytes = |flow: &Value| flow["client_bytes"].as_u64().unwrap() + flow["server_bytes"].as_u64().unwrap();
    let mut all: Vec<u64> = flows.iter().map(bytes).collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(sorted.iter().map(bytes).collect::<Vec<_>>(), all[..2]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["by_protocol"]["tcp"], 3);
    assert!(stats["ended"]["failed: refused"].as_u64() >= Some(1), "{stats}");
    assert!(table.contains("failed: refused") && !table.contains('\x1b'), "{table}");

    let status = agent.json(&["status"]);
    assert_eq!(status["interfaces"].as_array().unwrap().iter().filter(|i| i["status"] == "watched").count(), 1);
    assert_eq!((&status["pid"], &status["unready"]), (&agent.program.pid().into(), &Value::Null));
    let packets = |name: &str| status["packets"][name].as_u64().unwrap();
    assert_eq!(packets("seen"), packets("accounted") + packets("ignored") + packets("duplicate") + packets("lost"));
    let text = agent.says(&["status"]);
    assert!(text.contains("100.0% / 100.0%") && text.contains("vb"), "{text}");

    assert!(agent.says(&["stats", "flows"]).contains("failed: refused"));
    let series = agent.json(&["stats", "series"]);
    let bytes = series.as_array().unwrap().iter().find(|metric| metric["metric"] == "netmon_bytes_total").unwrap();
    assert!(bytes["series"].as_u64().unwrap() >= 4, "{bytes}");
    assert!(agent.says(&["stats", "series"]).contains("netmon_bytes_total"));
    let socket = std::fs::symlink_metadata(agent.socket()).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}

/// A program that is killed when this value is dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn flows_are_reported_as_they_happen() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "watch", &[]);
    let (_one, all) = agent.follow(&["flows", "watch", "-o", "json"]);
    let (_other, failed) = agent.follow(&["flows", "watch", "--filter", "status=failed"]);
    let server = b.run(|| UdpSocket::bind("10.9.0.2:53").unwrap());
    let mut events = Vec::new();
    eventually("a flow that started and one that failed", || {
        // Repeat until both watchers are connected.
        for to in [server.local_addr().unwrap(), "10.9.0.2:9".parse().unwrap()] {
            let _ = a.run(|| udp_to(to)).send(b"hello");
        }
        events.extend(all.try_iter().map(|text| serde_json::from_str::<Value>(&text).unwrap()));
        let reported = |event: &str, port: u16| events.iter().any(|e| e["event"] == event && e["server_port"] == port);
        (reported("start", 53) && reported("fail", 9)).then_some(())
    });
    let line = failed.recv_timeout(super::PATIENCE).unwrap();
    assert!(line.contains(" fail ") && line.contains("10.9.0.2:9") && line.contains("refused"), "{line}");
}

#[test]
fn the_configuration_is_shown_and_changed() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "config", &["--set", "flow.max_age=7m"]);
    let get = |key: &str| {
        let value = agent.json(&["config", "get", key])[0].clone();
        (value["value"].as_str().unwrap().to_owned(), value["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(get("flow.max_age"), ("7m".to_owned(), "flag --set flow.max_age".to_owned()));
    agent.says(&["config", "set", "flow.max_age=8m"]);
    assert_eq!(get("flow.max_age"), ("8m".to_owned(), "netmon-cli config set".to_owned()));
    agent.says(&["config", "unset", "flow.max_age"]);
    assert_eq!(get("flow.max_age").0, "7m");
    agent.says(&["debug", "trace", "on"]);
    assert_eq!(get("log.level").0, "trace");
    agent.says(&["debug", "trace", "off"]);
    assert_eq!(get("log.level"), ("info".to_owned(), "default".to_owned()));
    agent.says(&["config", "reload"]);
    assert_eq!(agent.json(&["status"])["config_reloads"], 1);
    assert!(agent.says(&["config", "get"]).contains("performance.workers"));
    for (arguments, code, part) in [
        (&["config", "set", "performance.workers=3"][..], 1, "takes a restart"),
        (&["config", "set", "flow.max_age=soon"], 1, "valid: 0s, or a duration"),
        (&["config", "set", "flow.max_agee=5s"], 1, "did you mean flow.max_age?"),
        (&["config", "set", "flow.max_age"], 2, "KEY=VALUE"),
        (&["config", "get", "colour"], 1, "unknown key colour"),
        (&["flows", "dump", "--filter", "protocol=tcp and"], 1, "a field is missing here"),
        (&["flows", "dump", "--sort", "beauty"], 1, "no such field"),
        (&["flows", "dump", "--limit", "many"], 2, "many"),
        (&["fly"], 2, "fly"),
        (&["status", "-o", "xml"], 2, "xml"),
    ] {
        let (got, said) = agent.refused(arguments);
        assert!(got == code && said.contains(part), "{arguments:?}: {got}: {said}");
    }
    assert_eq!(get("flow.max_age").0, "7m", "nothing of that changed anything");
}

#[test]
fn without_an_agent() {
    let output = Command::new(CLI).args(["--socket", "/nonexistent/sock", "status"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.starts_with("netmon-cli: no agent answers on /nonexistent/sock"), "{said}");
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(CLI).args(["completions", shell]).output().unwrap();
        assert!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains("support-bundle"),
            "{shell}"
        );
    }
    let folder = std::env::temp_dir().join(format!("netmon-man-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let output = Command::new(CLI).arg("man").arg(&folder).output().unwrap();
    let page = std::fs::read_to_string(folder.join("netmon.1")).unwrap();
    let pages = std::fs::read_dir(&folder).unwrap().count();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(output.status.success() && page.contains("NETMON_FLOW_MAX_AGE") && pages > 10, "{pages} pages");
}

#[test]
fn each_agent_has_one_socket_and_leaves_nothing_behind() {
    needs_root!();
    let (a, b) = quiet_pair();
    let one = Operated::start(&b, "one", &[]);
    let socket = one.socket();
    let mut command = a.command(super::binary::NETMON);
    command.args(["--metrics-addr", "127.0.0.1:0", "--socket", socket.to_str().unwrap()]);
    let other = command.output().unwrap();
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(1) && said.contains("another agent answers"), "{said}");
    // A killed agent leaves its socket behind, and the next agent replaces it.
    one.program.signal("KILL");
    eventually("it is dead", || UnixStream::connect(&socket).is_err().then_some(()));
    assert!(socket.exists());
    let arguments = ["--interface", "vb", "--socket", socket.to_str().unwrap()];
    let mut next = Program::start(&b, &arguments, false);
    next.wait_for("ready");
    assert!(one.says(&["status"]).contains("vb"));
    next.signal("TERM");
    assert!(next.end().0.success());
    assert!(!socket.exists());
}

#[test]
fn only_root_and_the_agents_user_have_access() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "user", &[]);
    // Even if the file's mode allows everybody.
    for (path, mode) in [(agent.folder.0.clone(), 0o755), (agent.socket(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // Other users may not enter the build folder.
    let client = agent.folder.0.join("netmon-cli");
    copy_program(CLI, &client);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(client)
        .arg("--socket")
        .arg(agent.socket())
        .arg("status")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("only root and the agent's own user"), "{said}");
    assert!(agent.says(&["status"]).contains("vb"));
}

#[test]
fn hostile_clients_do_not_stop_it() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "hostile", &[]);
    let long = [b"GET /v1/status HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 1 << 20]].concat();
    for (bytes, status) in [
        (long.as_slice(), "431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", "400"),
        (b"GET /v1/nothing HTTP/1.1\r\n\r\n", "404"),
        (b"PUT /v1/status HTTP/1.1\r\n\r\n", "405"),
        (b"GET /v1/status?a=b HTTP/1.1\r\n\r\n", "400"),
        (b"GET /v1/flows?filter=%ff HTTP/1.1\r\n\r\n", "400"),
        (b"POST /v1/config HTTP/1.1\r\n\r\n", "400"),
        // The client sends nothing more, until its time is over.
        (b"GET /v1/sta", "408"),
    ] {
        let answer = agent.raw(bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    let (code, said) = agent.refused(&["flows", "dump", "--filter", &"x".repeat(20_000)]);
    assert!(code == 1 && said.contains("the agent refused the request: 431 Request Header Fields Too Large"), "{said}");
    // A thousand silent clients. Those above the bound are refused.
    let idle: Vec<UnixStream> = (0..1000).filter_map(|_| UnixStream::connect(agent.socket()).ok()).collect();
    assert!(idle.len() > 100, "{}", idle.len());
    let threads = std::fs::read_dir(format!("/proc/{}/task", agent.program.pid())).unwrap().count();
    assert!(threads < 64, "{threads} threads");
    // Silent clients make way for a client with a request.
    for _ in 0..3 {
        agent.says(&["config", "get", "log.level"]);
    }
    drop(idle);
    eventually("it answers again", || agent.cli(&["status"]).status.success().then_some(()));
    let flood = Flood::start(&a, "10.9.0.2".parse().unwrap());
    for _ in 0..5 {
        eventually("many flows", || {
            (agent.says(&["flows", "dump", "--limit", "100000"]).lines().count() > 10_000).then_some(())
        });
    }
    flood.stop();
    agent.program.signal("TERM");
    eventually("its end", || std::fs::metadata(agent.socket()).is_err().then_some(()));
}
