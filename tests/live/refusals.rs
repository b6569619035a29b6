//! If the program cannot do its work, it says so in one line that names the remedy, and exits with 1.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::binary::{NETMON, Program};
use super::net::quiet_pair;
use crate::needs_root;
use crate::support::copy_program;
use crate::support::netns::Netns;

/// The only line that is not a log line.
fn refusal(program: Program) -> String {
    let (status, _, lines) = program.end();
    assert_eq!(status.code(), Some(1), "{lines:#?}");
    // env_logger's lines start with a bracket.
    let said: Vec<_> = lines.iter().filter(|l| !l.starts_with('[')).collect();
    assert_eq!(said.len(), 1, "one line says it all: {lines:#?}");
    assert!(said[0].starts_with("netmon: "), "{said:?}");
    said[0].clone()
}

fn refused(ns: &Netns, arguments: &[&str], words: &[&str]) {
    let mut command = ns.command(NETMON);
    command.args(arguments);
    let said = refusal(Program::spawn(command));
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in {said:?}");
    }
}

#[test]
fn a_port_in_use() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let listener = b.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap().to_string();
    refused(&b, &["--metrics-addr", &address], &[&address, "in use", "--metrics-addr"]);
}

#[test]
fn missing_interfaces() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let on = |name| ["--metrics-addr", "127.0.0.1:0", "--interface", name];
    refused(&b, &on("nosuch0"), &["nosuch0", "vb", "--interface"]);
    refused(&b, &on("veth["), &["veth[", "glob"]);
    refused(&b, &on("!"), &["\"!\""]);
}

#[test]
fn a_second_agent() {
    needs_root!();
    let (a, b) = quiet_pair();
    let mut first = Program::start(&b, &["--interface", "vb"], false);
    first.wait_for("ready");
    refused(&b, &["--metrics-addr", "127.0.0.1:0"], &["another netmon agent", "namespace"]);
    // Another namespace counts as another host.
    let mut other = Program::start(&a, &["--interface", "va"], false);
    other.wait_for("ready");
    for program in [first, other] {
        program.signal("TERM");
        assert_eq!(program.end().0.code(), Some(0));
    }
}

/// A copy of the program that every user may run.
struct Public(PathBuf);

impl Public {
    fn copy() -> Public {
        let directory = std::env::temp_dir().join(format!("nmt-{}-public", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
        let public = Public(directory);
        copy_program(NETMON, &public.program());
        public
    }

    fn program(&self) -> PathBuf {
        self.0.join("netmon")
    }

    fn as_nobody(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(self.program());
        command
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_ordinary_user() {
    needs_root!();
    let public = Public::copy();
    let said = refusal(Program::spawn(public.as_nobody()));
    for word in ["permission", "sudo netmon", "CAP_BPF", "CAP_NET_ADMIN"] {
        assert!(said.contains(word), "{word:?} is missing in {said:?}");
    }
    for (flag, words) in [("--help", ["--interface", "Examples"]), ("--version", [env!("NETMON_VERSION"), "netmon"])] {
        let output = public.as_nobody().arg(flag).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && output.stderr.is_empty(), "{flag}: {output:?}");
        for word in words {
            assert!(text.contains(word), "{flag}: {word:?} is missing in {text}");
        }
    }
}

/// Root in name only, as in a container that drops capabilities.
#[test]
fn root_without_capabilities() {
    needs_root!();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", NETMON]);
    let said = refusal(Program::spawn(command));
    assert!(said.contains("CAP_NET_ADMIN") && !said.contains("CAP_BPF"), "{said}");
}
