//! The load tools of examples/load: what they report is what there was.

#[path = "../../examples/load/monitor.rs"]
mod monitor;
#[path = "../../examples/load/runs/mod.rs"]
mod runs;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::Value;

use self::monitor::Options;
use self::runs::compare::{Amount, WaySeen};
use self::runs::part::{EVEN, Plan, REALISTIC};
use self::runs::{Run, Setup, print, report, run};
use crate::live::binary::{NETMON, Program};
use crate::live::net::quiet_pair;
use crate::live::traffic::udp_to;
use crate::needs_root;

fn loaded(plan: &Plan, arguments: &[&str]) -> Run {
    let program = PathBuf::from(NETMON);
    let setup = Setup {
        cli: program.with_file_name("netmon-cli"),
        program,
        arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        stop: Arc::default(),
        bar: ProgressBar::hidden(),
    };
    run(plan, &setup).unwrap_or_else(|error| panic!("{error:#}"))
}

fn plan(parts: &'static [runs::part::Part], connections: u64) -> Plan {
    Plan::new(parts, connections, Duration::from_secs(2)).unwrap()
}

/// Reads a file and removes it.
fn take(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    fs::remove_file(path).unwrap();
    text
}

#[test]
fn an_agent_agrees_with_sockets_and_interface() {
    needs_root!();
    let plan = plan(REALISTIC, 500);
    let run = loaded(&plan, &[]);
    assert_eq!(run.differences, [""; 0], "{}", print::text(&run));
    let made: Vec<u64> = run.parts.iter().map(|part| part.connections).collect();
    assert_eq!(made, plan.counts());
    assert!(run.parts.iter().all(|part| part.totals()[0].packets >= part.connections), "{}", print::text(&run));
    assert!(run.link.counted.packets > 0 && !run.samples.is_empty());

    let folder = std::env::temp_dir().join(format!("netmon-load-{}", std::process::id()));
    let [json, markdown, svg] = report::write(&run, &folder, "benchmark").unwrap().map(|path| take(&path));
    fs::remove_dir(folder).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["format"], &json["agrees"]), (&Value::from(1), &Value::from(true)));
    let silent = json["parts"].as_array().unwrap().iter().find(|part| part["name"] == "silent").unwrap();
    assert_eq!(silent["seen"]["timeout"], silent["connections"]);
    for part in &run.parts {
        assert!(markdown.contains(&format!("| {} ", part.name)), "{markdown}");
    }
    assert!(svg.starts_with("<svg") && svg.contains("Resident memory, MiB") && svg.trim_end().ends_with("</svg>"));
}

#[test]
fn an_agent_that_leaves_flows_out_does_not() {
    needs_root!();
    let run = loaded(&plan(EVEN, 400), &["--set", "capture.sampling_rate=0.5"]);
    assert!(!run.agrees);
    for part in EVEN {
        let of_part =
            |about: &str| run.differences.iter().any(|text| text.starts_with(part.name) && text.contains(about));
        assert!(of_part("100 connections ended ok"), "{:#?}", run.differences);
        assert!(of_part("to the server: sent"), "{:#?}", run.differences);
    }
    assert!(run.link.agrees(), "what is left out is still seen");
}

/// What comes after the end of a connection may be answered by a packet that no socket counts; nothing else may be more than was
/// sent, or less than arrived.
#[test]
fn sockets_explain_late_segments() {
    let amount = |packets, bytes| Amount { packets, bytes };
    let way = |seen| WaySeen { sent: amount(10, 1000), arrived: amount(9, 900), seen };
    for (seen, answers, agrees) in [
        (amount(10, 1000), 0, true),
        (amount(9, 900), 0, true),
        (amount(8, 900), 0, false),
        (amount(9, 899), 0, false),
        (amount(11, 1000), 0, false),
        (amount(11, 1066), 1, true),
        (amount(12, 1066), 1, false),
        (amount(11, 1075), 1, false),
    ] {
        assert_eq!(way(seen).agrees(answers), agrees, "{seen:?}, {answers} answers");
    }
}

#[test]
fn plans_that_cannot_be_carried_out_are_refused() {
    let refused = |connections, seconds| Plan::new(REALISTIC, connections, Duration::from_millis(seconds)).unwrap_err();
    assert_eq!(refused(111, 9000).to_string(), "111 connections: this load takes at least 112");
    assert_eq!(refused(112, 999).to_string(), "a duration of 999ms: a load takes at least 1s");
    let plan = Plan::new(REALISTIC, 1234, Duration::from_secs(1)).unwrap();
    assert_eq!(plan.counts().iter().sum::<u64>(), 1234);
}

fn options(socket: &Path) -> Options {
    Options {
        socket: socket.to_owned(),
        metrics: "127.0.0.1:9090".to_owned(),
        interval: Duration::from_millis(1100),
        duration: Some(Duration::from_secs(3)),
    }
}

#[test]
fn a_running_agent_is_monitored() {
    needs_root!();
    let (a, b) = quiet_pair();
    let socket = std::env::temp_dir().join(format!("netmon-monitor-{}.sock", std::process::id()));
    let arguments = ["--interface", "vb", "--socket", socket.to_str().unwrap(), "--metrics-addr", "127.0.0.1:9090"];
    let mut program = Program::start(&b, &arguments, false);
    program.wait_for("ready");
    let stop = AtomicBool::new(false);
    let watched = |socket: &Path| {
        let sender = a.run(|| udp_to("10.9.0.2:9".parse().unwrap()));
        std::thread::scope(|scope| {
            let shown = scope.spawn(|| {
                let mut out = Vec::new();
                b.run(|| monitor::run(&options(socket), &stop, Some(&mut out))).unwrap();
                String::from_utf8(out).unwrap()
            });
            while !shown.is_finished() {
                // The other end refuses it, which the next call reports.
                let _ = sender.send(b"?");
                std::thread::sleep(Duration::from_millis(10));
            }
            shown.join().unwrap()
        })
    };
    let by_socket = watched(&socket);
    assert!(by_socket.starts_with(&format!("netmon, process {}, at ", program.pid())), "{by_socket}");
    let by_metrics = watched(Path::new("/nonexistent"));
    assert!(by_metrics.starts_with("netmon at http://127.0.0.1:9090/metrics\n"), "{by_metrics}");
    for shown in [by_socket, by_metrics] {
        let row: Vec<&str> = shown.lines().nth(2).unwrap().split_whitespace().collect();
        let number = |column: usize| row[column].replace(',', "").parse::<f64>().unwrap();
        let (memory, packets, flows) = (number(3), number(4), number(6));
        assert!(memory > 1.0 && packets > 0.0 && flows > 0.0, "{shown}");
        assert!(shown.lines().last().unwrap().ends_with("lost: 0 packets, 0 records"), "{shown}");
    }
    program.signal("TERM");
    assert!(program.end().0.success());
    let error = b.run(|| monitor::run(&options(&socket), &stop, Some(&mut Vec::new()))).unwrap_err().to_string();
    assert!(error.starts_with("no agent answers: ") && error.contains("127.0.0.1:9090"), "{error}");
}
