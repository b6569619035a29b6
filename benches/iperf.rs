//! Throughput between two namespaces, with and without an agent that watches the veth between them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::load;
use crate::report::{Budget, Budget::AtLeast, Report, Spread};
use crate::support::netns::{Netns, pair};

pub fn run(report: &mut Report) -> Result<()> {
    let (a, b) = pair();
    let mut server = a.command("iperf3");
    let mut server = server
        .args(["-s", "-B", "10.9.0.1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start iperf3")?;
    std::thread::sleep(Duration::from_millis(300));
    let (seconds, pairs) = if report.quick { (1, 3) } else { (3, 7) };
    let result = measure(&a, &b, seconds, pairs);
    let _ = server.kill();
    let _ = server.wait();
    let samples = result?;

    report.table("TCP through a veth, iperf3", "Gbit/s");
    let by = |i: usize| Spread::of(samples.iter().map(|pair| pair[i]).collect());
    report.row("without netmon", by(0), Budget::None, "");
    report.row("with netmon", by(1), Budget::None, "");
    let ratios = samples.iter().map(|[without, with]| with / without).collect();
    report.table("Remaining throughput", "ratio");
    report.row(
        "with / without, run by run",
        Spread::of(ratios),
        AtLeast(0.97),
        &format!("{pairs} pairs of {seconds} s"),
    );
    Ok(())
}

/// Throughput in Gbit/s without and with an agent, in pairs whose order alternates.
fn measure(a: &Netns, b: &Netns, seconds: u32, pairs: usize) -> Result<Vec<[f64; 2]>> {
    throughput(b, 1)?;
    (0..pairs)
        .map(|i| {
            let mut pair = [0.0; 2];
            for with in if i % 2 == 0 { [false, true] } else { [true, false] } {
                let agent = with.then(|| load::start(a, "va")).transpose()?;
                pair[usize::from(with)] = throughput(b, seconds)?;
                if let Some(agent) = agent {
                    agent.stop()?;
                }
            }
            Ok(pair)
        })
        .collect()
}

fn throughput(client: &Netns, seconds: u32) -> Result<f64> {
    let mut command = client.command("iperf3");
    command.args(["-c", "10.9.0.1", "-J", "-t", &seconds.to_string()]);
    if std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) {
        command.args(["-A", "0,1"]); // migration between CPUs would be most of the noise
    }
    let output = command.output().context("run iperf3")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let received = text.split("\"sum_received\"").nth(1).and_then(|t| t.split("\"bits_per_second\":").nth(1));
    match received.and_then(|t| t.trim_start().split([',', '\n', '}']).next()?.trim().parse::<f64>().ok()) {
        Some(bits) => Ok(bits / 1e9),
        None => bail!("iperf3 failed: {text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}
