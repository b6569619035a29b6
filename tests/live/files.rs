//! Files that `netmon-cli` writes to standard output: the only way out of a container that has no `tar`, through
//! `kubectl exec`.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::control::{Killed, Operated};
use super::eventually;
use super::net::quiet_pair;
use super::traffic::udp_to;
use crate::needs_root;
use crate::support::sh;

/// Runs a shell pipeline with the client in `$cli`; returns its output, its messages, and whether it succeeded.
fn piped(agent: &Operated, line: &str) -> (Vec<u8>, String, bool) {
    let cli = format!("{} --socket {}", super::control::CLI, agent.socket().display());
    let mut command = Command::new("bash");
    command.args(["-c", &format!("set -o pipefail; {line}")]).env("cli", cli).current_dir(&agent.folder.0);
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.stdout, String::from_utf8(output.stderr).unwrap(), output.status.success())
}

#[test]
fn a_bundle_comes_through_a_pipe() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "piped", &[]);
    for name in ["-", "/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"] {
        for layout in ["", "-o json"] {
            let (out, said, good) = piped(&agent, &format!("$cli {layout} support-bundle --output {name} | cat"));
            assert!(good, "{name}: {said}");
            let file = agent.folder.0.join("piped.tar.gz");
            std::fs::write(&file, out).unwrap();
            // If there were anything else in it, gzip would complain of trailing data.
            let list = sh(&format!("gzip -t {0} 2>&1 && tar tzf {0} 2>&1", file.display()));
            assert!(list.contains("netmon-support/manifest.json\n") && !list.contains("garbage"), "{name}: {list}");
            assert!(said.contains("standard output"), "what it says goes elsewhere: {said:?}");
        }
    }
    let names: Vec<_> = std::fs::read_dir(&agent.folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "-"), "{names:?}");
    // To a file, as in the documentation.
    let (_, said, good) = piped(&agent, "$cli support-bundle --output - > netmon.tar.gz && tar tzf netmon.tar.gz");
    assert!(good, "{said}");
    // A named pipe does not count as an existing file.
    let (out, said, good) = piped(&agent, "mkfifo p && { $cli support-bundle --output p >&2 & tar tz <p; wait $!; }");
    assert!(good && String::from_utf8_lossy(&out).contains("manifest.json"), "{said}");
    // A reader that ends early is no error, and a terminal is refused.
    let (_, said, good) = piped(&agent, "$cli support-bundle --output - | head -c 10 >/dev/null");
    assert!(good, "{said}");
    // On a full disk nothing new is kept, and the earlier file stays.
    let full = "unshare -m sh -c 'mkdir -p full && mount -t tmpfs -o size=8k none full && echo kept >full/old && \\
                $cli support-bundle --output full/new; echo $?; $cli support-bundle --force --output full/old; echo $?; \\
                ls -A full; cat full/old'";
    let (out, said, _) = piped(&agent, full);
    assert_eq!(String::from_utf8_lossy(&out), "1\n1\nold\nkept\n", "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    let (out, _, good) = piped(&agent, "script -qec \"$cli support-bundle --output -\" /dev/null");
    let out = String::from_utf8_lossy(&out);
    assert!(!good && out.contains("standard output is a terminal") && out.contains("without -t"), "{out}");
}

#[test]
fn traced_packets_come_through_a_pipe() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "tracepipe", &[]);
    for layout in ["table", "json"] {
        let mut command = agent.command(&["-o", layout, "debug", "packet-trace", "on", "--filter", "dst_port=4242"]);
        command.args(["--for", "5m", "--write", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Killed(command.spawn().unwrap());
        let mut out = child.0.stdout.take().unwrap();
        let came = Arc::new(AtomicUsize::new(0));
        let coming = Arc::clone(&came);
        let reading = std::thread::spawn(move || {
            let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = out.read(&mut part) {
                bytes.extend_from_slice(&part[..length]);
                coming.store(bytes.len(), Relaxed);
            }
            bytes
        });
        let client = a.run(|| udp_to("10.9.0.2:4242".parse().unwrap()));
        // Packets are written as they are seen, not at the end, because somebody may be watching.
        eventually("some packets", || {
            // The connections are refused because nothing listens, which does not matter here.
            let _ = client.send(b"traced");
            (came.load(Relaxed) > 1000).then_some(())
        });
        agent.says(&["debug", "packet-trace", "off"]);
        let mut said = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(child.0.wait().unwrap().success(), "{said}");
        let file = agent.folder.0.join("piped.pcapng");
        std::fs::write(&file, reading.join().unwrap()).unwrap();
        let ports = sh(&format!("tshark -n -r {} -T fields -e udp.dstport", file.display()));
        let count = ports.lines().filter(|port| *port == "4242").count();
        assert!(count >= 5 && said.contains(&format!("{count} shown")), "{layout}: {ports:?} {said}");
    }
    let (out, _, good) = piped(&agent, "script -qec \"$cli debug packet-trace on --write -\" /dev/null");
    let out = String::from_utf8_lossy(&out);
    assert!(!good && out.contains("standard output is a terminal"), "{out}");
}

#[test]
fn a_traces_file_is_overwritten_only_by_force() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "traceforce", &[]);
    let file = agent.folder.0.join("packets.pcapng");
    let kept = "kept ".repeat(1000);
    std::fs::write(&file, &kept).unwrap();
    let path = file.to_str().unwrap();
    fn with<'a>(path: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["debug", "packet-trace", "on", "--for", "1s", "--write", path], more].concat()
    }
    let on = |more| with(path, more);
    let (_, said) = agent.refused(&on(&[]));
    assert!(said.contains("exists: use --force"), "{said}");
    // A trace that does not start overwrites nothing.
    agent.refused(&on(&["--force", "--filter", "colour=red"]));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), kept);
    agent.says(&on(&["--force"]));
    assert!(std::fs::read(&file).unwrap().starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]), "pcapng");
    assert!(std::fs::metadata(&file).unwrap().len() < kept.len() as u64);
    let _ = std::fs::remove_file(&file);
    agent.refused(&on(&["--filter", "colour=red"]));
    assert!(!file.exists(), "nothing came of it");
}
