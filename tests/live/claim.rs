//! Only one agent runs in a network namespace, and no other process can pass for one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::libc;

use super::binary::{NETMON, Program};
use super::net::quiet_pair;
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::sh;

/// A socket with this name that an ordinary user created.
fn taken_by_a_user(ns: &Netns, name: &str) -> UnixDatagram {
    ns.run(|| {
        // SAFETY: it changes the user id of this thread, which ends here.
        unsafe { libc::setfsuid(65534) };
        UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
    })
}

/// Asserts that a second agent, even in another mount namespace, ends with the reason.
fn assert_claimed(ns: &Netns) {
    for program in [&["--"][..], &["unshare", "-m"]] {
        let mut command = ns.command("env");
        command.args(program.iter().filter(|word| **word != "--")).arg(NETMON);
        let output = command.args(["--metrics-addr", "127.0.0.1:0", "--socket", "none"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("another netmon agent runs in this network namespace"), "{said}");
    }
}

fn start(ns: &Netns) -> Program {
    let mut program = Program::start(ns, &["--socket", "none"], false);
    program.wait_for("ready");
    program
}

#[test]
fn a_users_socket_does_not_keep_an_agent_from_starting() {
    needs_root!();
    if sh("modprobe unix_diag 2>/dev/null; ss -xa 2>/dev/null | wc -l").trim() == "0" {
        crate::support::not_run(crate::function_name!(), "the kernel does not report who created a socket");
        return;
    }
    let (_other, ns) = quiet_pair();
    let hostile = [taken_by_a_user(&ns, "netmon-agent"), taken_by_a_user(&ns, "netmon-agent.1")];
    let one = start(&ns);
    let warned = one.log.iter().filter(|line| line.contains("user 65534 holds the socket @netmon-agent")).count();
    assert_eq!(warned, 2, "{:#?}", one.log);
    assert_claimed(&ns);
    // The first name is free again, and has no meaning by itself.
    drop(hostile);
    assert_claimed(&ns);
    one.kill();
    // The kernel has released the socket of a killed agent.
    let next = start(&ns);
    assert_claimed(&ns);
    next.signal("TERM");
    assert!(next.end().0.success());
    let again = start(&ns);
    again.signal("TERM");
    assert!(again.end().0.success());
}
