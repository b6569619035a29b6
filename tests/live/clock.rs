//! Times in a time namespace, where the agent's own clock differs from the kernel's.

use std::time::{Duration, SystemTime};

use super::binary::{NETMON, Program};
use super::control::{CLI, Folder};
use super::eventually;
use super::net::quiet_pair;
use super::traffic::udp_to;
use crate::support::{not_run, sh};
use crate::{function_name, needs_root};

#[test]
fn flows_have_the_correct_start() {
    needs_root!();
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        return not_run(function_name!(), "this kernel has no time namespaces");
    }
    let (a, b) = quiet_pair();
    let folder = Folder(std::env::temp_dir().join(format!("netmon-clock-{}", std::process::id())));
    std::fs::create_dir(&folder.0).unwrap();
    let socket = folder.0.join("sock");
    // The clocks differ by 160 days, and by as much as they can be set back with room to spare: they count from the boot.
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let seconds: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    for ahead in ["14000000".to_owned(), format!("-{}", seconds / 2)] {
        let mut command = b.command("unshare");
        // As the first process of its namespace, it ends with `unshare`.
        command.args(["--time", "--monotonic", &ahead, "--boottime", &ahead, "--fork", "--kill-child", NETMON]);
        command.args(["--metrics-addr", "127.0.0.1:0", "--interface", "vb", "--socket"]).arg(&socket);
        let mut program = Program::spawn(command);
        program.wait_for("ready");
        let sender = a.run(|| udp_to("10.9.0.2:9".parse().unwrap()));
        let before = SystemTime::now();
        sender.send(b"now").unwrap();
        let port = sender.local_addr().unwrap().port();
        let filter = format!("src_port={port}");
        let start = eventually("the flow", || {
            let output = std::process::Command::new(CLI)
                .arg("--socket")
                .arg(&socket)
                .args(["-o", "json", "flows", "dump", "--filter", &filter])
                .output()
                .unwrap();
            let flow: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            Some(humantime::parse_rfc3339(flow["start"].as_str()?).unwrap())
        });
        // Time has the resolution of a jiffy.
        let tick = Duration::from_millis(20);
        assert!(start + tick > before && start < SystemTime::now() + tick, "{start:?}, {before:?}");
        let child = sh(&format!("pgrep -P {} -x netmon", program.pid()));
        sh(&format!("kill -TERM {}", child.trim()));
        let (_, took, log) = program.end();
        assert!(took < super::PATIENCE && log.last().unwrap().contains("(exact)"), "{log:#?}");
    }
}
