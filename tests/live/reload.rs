//! The configuration changes while the program runs.

use std::path::{Path, PathBuf};

use super::binary::Program;
use super::net::{Counters, quiet_pair};
use super::traffic::Flood;
use super::{PATIENCE, eventually};
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::{repeat, sh};

const TAKEN: &str = "configuration read again";
const REFUSED: &str = "the configuration stays as it was";

/// A folder with a configuration file, which is deleted with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("netmon-reload-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("netmon.yaml")
    }

    /// Writes a new file and renames it into place, so that it is never seen half written.
    fn put(&self, text: &str) {
        let new = self.0.join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, self.file()).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(ns: &Netns, file: &Path) -> Program {
    let mut program = Program::start(ns, &["--interface", "vb", "--config", file.to_str().unwrap()], false);
    program.wait_for("ready");
    program
}

/// Number of open descriptors, and resident memory in kB.
fn held(program: &Program) -> (usize, u64) {
    let process = PathBuf::from(format!("/proc/{}", program.pid()));
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident = resident.split_whitespace().next().unwrap().parse().unwrap();
    (std::fs::read_dir(process.join("fd")).unwrap().count(), resident)
}

/// Changes of each kind; every tenth needs other programs.
fn variant(i: usize) -> String {
    let apps = if (i / 10).is_multiple_of(2) { "[http, tls]" } else { "[dns]" };
    format!(
        "capture: {{sampling_rate: {}}}
flow: {{max_flows: {}, flow_timeout: {}s, max_age: {}s}}
features:
  protocol_detection: {{protocols: {apps}}}
  latency_tracking: {{histogram_buckets: [1, {}], enabled: {}}}
log: {{level: {}}}
",
        ["1.0", "0.5", "0.01"][i % 3],
        100 + i % 7 * 1000,
        5 + i % 11,
        i % 5,
        2 + i % 4,
        (i / 20).is_multiple_of(2),
        ["info", "debug"][i % 2],
    )
}

#[test]
fn a_hundred_reloads_under_traffic_lose_nothing() {
    needs_root!();
    let (a, b) = quiet_pair();
    let folder = Folder::new("hundred");
    folder.put(&variant(0));
    let (mut program, before) = eventually("a start during which no packet came by", || {
        let before = Counters::read(&b, "vb");
        let program = start(&b, &folder.file());
        (Counters::read(&b, "vb") == before).then_some((program, before))
    });
    let flood = Flood::start(&a, "10.9.0.2".parse().unwrap());
    let mut early = None;
    for i in 1..=repeat(30, 100) {
        folder.put(&variant(i));
        program.wait_for(TAKEN);
        if i == 20 {
            early = Some(held(&program));
        }
    }
    let early = early.unwrap();
    // The replaced programs are unloaded a moment later.
    let late = eventually("no more descriptors than before", || Some(held(&program)).filter(|late| late.0 <= early.0));
    assert!(late.1 < early.1 + 16 * 1024, "memory grew from {} kB to {} kB", early.1, late.1);
    flood.stop();
    eventually("silence", || {
        let counters = Counters::read(&b, "vb");
        std::thread::sleep(std::time::Duration::from_millis(100));
        (Counters::read(&b, "vb") == counters).then_some(())
    });
    let counted = Counters::read(&b, "vb").since(before);
    program.signal("TERM");
    let (status, _, log) = program.end();
    assert!(status.success(), "{log:#?}");
    let last = log.last().unwrap();
    assert!(last.contains("(exact)"), "{last}");
    let seen = format!("packets: {} seen", counted.rx.packets + counted.tx.packets);
    assert!(last.contains(&seen), "{seen} by the interface: {last}");
    assert!(!log.iter().any(|line| line.contains("ERROR")), "{log:#?}");
}

#[test]
fn the_file_may_change_in_any_way() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let folder = Folder::new("ways");
    let file = folder.file();
    // The way in which the kubelet mounts a ConfigMap.
    let data = |name: &str, age: u32| {
        std::fs::create_dir(folder.0.join(name)).unwrap();
        std::fs::write(folder.0.join(name).join("netmon.yaml"), format!("flow: {{max_age: {age}s}}\n")).unwrap();
        std::os::unix::fs::symlink(name, folder.0.join("..data_tmp")).unwrap();
        std::fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
    };
    data("..first", 61);
    std::os::unix::fs::symlink("..data/netmon.yaml", &file).unwrap();
    let mut program = start(&b, &file);
    data("..second", 62);
    assert!(program.wait_for(TAKEN).ends_with("flow.max_age=62s"));
    // A change in place, behind the link.
    std::fs::write(folder.0.join("..second/netmon.yaml"), "flow: {max_age: 63s}\n").unwrap();
    assert!(program.wait_for(TAKEN).ends_with("flow.max_age=63s"));
    // A file in place of the link.
    folder.put("flow: {max_age: 64s}\n");
    assert!(program.wait_for(TAKEN).ends_with("flow.max_age=64s"));
    std::fs::write(&file, "flow: {max_age: 65s}\n").unwrap();
    assert!(program.wait_for(TAKEN).ends_with("flow.max_age=65s"));
    // The file is removed, and comes back.
    std::fs::remove_file(&file).unwrap();
    folder.put("flow: {max_age: 66s}\n");
    assert!(program.wait_for(TAKEN).ends_with("flow.max_age=66s"));
    program.signal("HUP");
    assert!(program.wait_for(TAKEN).ends_with("nothing new to take"));
    program.signal("TERM");
    assert!(program.end().0.success());
}

#[test]
fn a_bad_file_changes_nothing() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let folder = Folder::new("bad");
    folder.put("flow: {max_age: 61s}\n");
    let mut program = start(&b, &folder.file());
    let address = program.log.iter().find_map(|line| line.split("metrics on http://").nth(1)).unwrap();
    let address = address.trim_end_matches("/metrics").to_owned();
    let mut refused = 0;
    for (text, expected) in [
        ("flow: {max_age: 62s, max_flows: none}\n", ":1:33: flow.max_flows: \"none\": not a whole number"),
        ("flow:\n  max_agee: 62s\n", ":2:3: unknown key flow.max_agee: did you mean flow.max_age?"),
        ("flow: [\n", "netmon.yaml:2:1: "),
    ] {
        folder.put(text);
        let line = program.wait_for(REFUSED);
        assert!(line.contains(expected), "{expected}: {line}");
        refused += 1;
        let page = super::metrics::get(&b, address.parse().unwrap(), "/metrics");
        assert_eq!(page.sum("netmon_config_reload_failures_total", &[]), f64::from(refused));
        assert_eq!(page.sum("netmon_config_reloads_total", &[]), 0.0);
    }
    folder.put("performance: {workers: 7}\nflow: {max_age: 61s}\n");
    assert!(program.wait_for(TAKEN).ends_with("nothing new to take"), "the bad ones left no trace");
    assert!(program.wait_for("WARN").contains("performance.workers=7"));
    program.signal("TERM");
    assert!(program.end().0.success());
}

#[test]
fn a_start_with_a_bad_configuration_reports_all_faults() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let folder = Folder::new("start");
    folder.put("capture:\n  sampling_rate: 1.5\n  interface: eth0\n");
    let mut command = b.command(super::binary::NETMON);
    command.args(["--config", folder.file().to_str().unwrap(), "--metrics-addr", "9090"]);
    command.env("NETMON_FLOW_MAX_FLOWS", "0");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    for part in [
        "netmon.yaml:2:18: capture.sampling_rate: \"1.5\": out of range; valid: a number above 0 and at most 1",
        "netmon.yaml:3:3: unknown key capture.interface: did you mean capture.interfaces?",
        "NETMON_FLOW_MAX_FLOWS: \"0\": out of range; valid: a whole number from 1 to 100000000",
        "--metrics-addr: \"9090\": without a port; valid: an address and a port",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// Creates something in place of the file, by a shell command with `$file`.
fn replace(file: &Path, command: &str) {
    let file = file.display();
    sh(&format!("rm -rf {file}; file={file}; {command}"));
}

/// Whatever takes the place of the file: the agent does not block, the failure is reported and counted, and the next
/// good file is read.
#[test]
fn an_unreadable_file_is_a_refused_reload() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let folder = Folder::new("unreadable");
    let file = folder.file();
    folder.put("flow: {max_age: 61s}\n");
    let mut program = start(&b, &file);
    let address = program.log.iter().find_map(|line| line.split("metrics on http://").nth(1)).unwrap();
    let address = address.trim_end_matches("/metrics").parse().unwrap();
    let mut refused = 0.0;
    let cases = [
        ("mkfifo $file", "a FIFO, and only regular files are read"),
        ("mkdir $file", "a directory, and only regular files are read"),
        ("ln -s /dev/zero $file", "a device, and only regular files are read"),
        ("ln -s nowhere $file", "No such file"),
        ("ln -s $file $file", "symbolic links"),
        ("true", "No such file"),
        ("truncate -s 2M $file", "larger than 1024 KiB"),
        ("printf 'flow: \\377' > $file", "not UTF-8"),
    ];
    for (age, (command, expected)) in (62..).zip(cases) {
        replace(&file, command);
        for _ in 0..2 {
            let line = program.wait_for(REFUSED);
            assert!(line.contains("netmon.yaml") && line.contains(expected), "{command}: {line}");
            refused += 1.0;
            let page = super::metrics::get(&b, address, "/metrics");
            assert_eq!(page.sum("netmon_config_reload_failures_total", &[]), refused, "{command}");
            if refused as u32 % 2 == 1 {
                program.signal("HUP");
            }
        }
        let _ = std::fs::remove_dir(&file);
        folder.put(&format!("flow: {{max_age: {age}s}}\n"));
        assert!(program.wait_for(TAKEN).ends_with(&format!("flow.max_age={age}s")), "after {command}");
    }
    // The folder, too, may be removed and come back.
    sh(&format!("rm -rf {}", folder.0.display()));
    assert!(program.wait_for(REFUSED).contains("No such file"));
    std::fs::create_dir(&folder.0).unwrap();
    folder.put("flow: {max_age: 99s}\n");
    assert!(program.wait_for(TAKEN).ends_with("flow.max_age=99s"));
    // The file may have another name.
    replace(&file, "echo 'flow: {max_age: 100s}' > $file.other; ln $file.other $file");
    assert!(program.wait_for(TAKEN).ends_with("flow.max_age=100s"));
    replace(&file, "mkfifo $file");
    program.wait_for(REFUSED);
    program.signal("TERM");
    let (status, took, log) = program.end();
    assert!(status.success() && took < PATIENCE, "{took:?}: {log:#?}");
}

#[test]
fn a_start_does_not_block() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let folder = Folder::new("endless");
    for (command, expected) in
        [("mkfifo $file", "a FIFO"), ("ln -s /dev/zero $file", "a device"), ("mkdir $file", "a dir")]
    {
        replace(&folder.file(), command);
        let mut program = Program::start(&b, &["--socket", "none", "--config", folder.file().to_str().unwrap()], false);
        let line = program.wait_for("netmon.yaml: ");
        assert!(line.contains(expected), "{line}");
        assert_eq!(program.end().0.code(), Some(1), "{command}");
    }
}
