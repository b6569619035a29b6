//! `netmon-cli debug packet-trace`: packets as the agent's BPF programs see them.

use std::io::{self, BufRead, BufReader, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::args::PacketTrace;
use super::client::Client;
use super::pcapng::PacketFile;
use super::show::{Style, size, text};
use super::target::{Target, is_stdout};

/// Starts a trace and shows it, or ends the running one.
pub(super) fn run(client: &Client, what: &PacketTrace, json: bool, style: Style, out: &mut impl Write) -> Result<()> {
    match what {
        PacketTrace::On { filter, time, write, force } => {
            let file = write.as_deref().map(|path| Target::open(path, *force)).transpose()?;
            // If the file goes to standard output, nothing else may.
            let out: &mut dyn Write = if write.as_deref().is_some_and(is_stdout) { &mut io::sink() } else { out };
            on(client, filter.as_deref(), *time, file, json, style, out)
        }
        PacketTrace::Off => client.value("DELETE", "/v1/trace", &[]).map(drop),
    }
}

fn on(
    client: &Client,
    filter: Option<&str>,
    time: Duration,
    file: Option<Target>,
    json: bool,
    style: Style,
    out: &mut dyn Write,
) -> Result<()> {
    let time = humantime::format_duration(time).to_string();
    let mut parameters = vec![("for", time.as_str())];
    parameters.extend(filter.map(|filter| ("filter", filter)));
    let body = match client.ask("POST", "/v1/trace", &parameters) {
        Ok(body) => body,
        Err(error) => {
            file.into_iter().for_each(Target::give_up);
            return Err(error);
        }
    };
    let mut file = file.map(begin).transpose()?;
    let interrupted = end_at_signals(client)?;
    let mut shown = 0;
    for line in BufReader::new(body).lines() {
        let line = line?;
        let value: Value = match line.as_str() {
            // An empty line shows that the agent is alive; the output is flushed below.
            "" => Value::Null,
            line => serde_json::from_str(line).context("the agent's answer is not JSON")?,
        };
        if json && !line.is_empty() {
            writeln!(out, "{line}")?;
        }
        match value["event"].as_str() {
            Some("packet") => {
                shown += 1;
                if let Some(file) = &mut file {
                    file.write(&value).context("write the packets")?;
                }
                if !json {
                    packet(&value, style, out)?;
                }
            }
            Some("counts") if !json => {
                let note = format!("{} of {} packets were left out so far", left_out(&value), text(&value["matched"]));
                writeln!(out, "{}", style.bad(&note))?;
            }
            Some("end") => {
                out.flush()?;
                super::eprint_line(format_args!("{}", summary(&value, shown)));
            }
            _ => {}
        }
        out.flush()?;
        if let Some(file) = &mut file {
            file.flush().context("write the packets")?;
        }
    }
    drop(interrupted);
    Ok(())
}

fn begin(mut file: Target) -> Result<PacketFile<Target>> {
    file.begin()?;
    let name = file.name();
    PacketFile::begin(file).with_context(|| format!("write {name}"))
}

/// Ends the handling of signals when it is dropped.
struct Handling(signal_hook::iterator::Handle);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// An interrupted trace ends like one whose time is over, with all packets so far; a second signal ends the program.
fn end_at_signals(client: &Client) -> Result<Handling> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("handle signals")?;
    let handle = signals.handle();
    let client = client.clone();
    let waiting = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut ended = false;
        for signal in signals.forever() {
            if ended || client.value("DELETE", "/v1/trace", &[]).is_err() {
                std::process::exit(128 + signal);
            }
            ended = true;
        }
    });
    waiting.context("start a thread")?;
    Ok(Handling(handle))
}

fn left_out(counts: &Value) -> u64 {
    counts["held_back"].as_u64().unwrap_or_default() + counts["lost"].as_u64().unwrap_or_default()
}

fn summary(counts: &Value, shown: u64) -> String {
    let number = |name: &str| counts[name].as_u64().unwrap_or_default();
    format!(
        "{} packets matched: {shown} shown, {} left out because they came too fast, {} lost",
        number("matched"),
        number("held_back"),
        number("lost")
    )
}

/// Prints a packet on one line.
fn packet(packet: &Value, style: Style, out: &mut dyn Write) -> io::Result<()> {
    let get = |name: &str| text(&packet[name]);
    let time = get("time").get(11..29).unwrap_or_default().to_owned();
    let way = if packet["hook"] == "ingress" { "in" } else { "out" };
    let mut line = format!("{time} {} {way:<3} {}", get("interface"), described(packet));
    if !packet["seq"].is_null() {
        line += &format!(" seq {} ack {} win {}", get("seq"), get("ack"), get("window"));
    }
    if !packet["fragment"].is_null() {
        line += &format!(" {} fragment", get("fragment"));
    }
    line += &format!(", {}", size(&packet["bytes"]));
    if packet["packets"].as_u64() > Some(1) {
        line += &format!(" in {} segments", get("packets"));
    }
    if !packet["inner"].is_null() {
        line += &format!(" [{} {}]", get("tunnel"), described(&packet["inner"]));
    }
    let lost = ["lost", "ousted", "past_cache_lost", "malformed"].iter().any(|verdict| packet["verdict"] == **verdict);
    writeln!(out, "{}", if lost { style.bad(&line) } else { line })
}

/// The verdict and the parsed headers of a packet.
fn described(packet: &Value) -> String {
    let get = |name: &str| text(&packet[name]);
    let end = |side: &str| match (get(&format!("{side}_ip")), get(&format!("{side}_port"))) {
        (ip, port) if port.is_empty() => ip,
        (ip, port) if ip.contains(':') => format!("[{ip}]:{port}"),
        (ip, port) => format!("{ip}:{port}"),
    };
    let mut line = format!("{:<11}", get("verdict"));
    if !packet["protocol"].is_null() {
        line += &format!(" {} {} -> {}", get("protocol"), end("src"), end("dst"));
    }
    if !packet["tcp_flags"].is_null() {
        line += &format!(" {}", get("tcp_flags"));
    }
    if !packet["icmp_type"].is_null() {
        line += &format!(" type {} code {}", get("icmp_type"), get("icmp_code"));
    }
    if !packet["vlan"].is_null() {
        line += &format!(" vlan {}", get("vlan"));
    }
    line
}
