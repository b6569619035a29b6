//! A support bundle: diagnostics in one file. It holds nothing secret: netmon never sees payload, the configuration has
//! no secrets, and only those environment variables are included that configure netmon.

use std::io::Read;
use std::time::SystemTime;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::Value;

use super::client::Client;
use super::doctor;
use crate::config::Key;

/// Maximum size of all files together in bytes, before compression.
const MOST_BYTES: usize = 20 << 20;
/// Number of flows that are included: those with the most bytes.
const FLOWS: &str = "1000";
/// Files that describe the host.
const HOST: [&str; 8] = [
    "/proc/version",
    "/proc/cmdline",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/net/dev",
    "/proc/net/softnet_stat",
    "/proc/sys/net/core/bpf_jit_enable",
    "/etc/os-release",
];

/// Files in `/proc` of the agent's process.
const PROCESS: [&str; 4] = ["status", "limits", "cgroup", "mountinfo"];

/// A file of the bundle, or the reason why it is missing.
#[derive(Serialize)]
struct Item {
    name: String,
    bytes: usize,
    error: Option<String>,
}

#[derive(Serialize)]
struct Manifest<'a> {
    made: String,
    version: &'static str,
    items: &'a [Item],
}

struct Bundle {
    tar: tar::Builder<GzEncoder<Vec<u8>>>,
    items: Vec<Item>,
    bytes: usize,
    /// The first error of the agent's answers.
    lost: Option<String>,
}

/// The finished bundle and what it lacks.
pub(super) struct Made {
    pub(super) content: Vec<u8>,
    /// Items that could not be collected.
    pub(super) missing: Vec<String>,
    /// Why answers of the agent are missing, if any are.
    pub(super) lost: Option<String>,
}

impl Bundle {
    fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        header.set_mtime(now.as_secs());
        self.tar.append_data(&mut header, format!("netmon-support/{name}"), content).context("write the bundle")
    }

    /// Adds an answer of the agent. Without these, the bundle is of little use, so an error is kept.
    fn add_answer(&mut self, name: &str, content: Result<Vec<u8>>) -> Result<()> {
        if let Err(error) = &content {
            self.lost.get_or_insert_with(|| format!("{error:#}"));
        }
        self.add(name, content)
    }

    /// Adds a file. If its content is an error, that is recorded and the rest goes on.
    fn add(&mut self, name: &str, content: Result<Vec<u8>>) -> Result<()> {
        let content = content.and_then(|content| {
            anyhow::ensure!(
                self.bytes + content.len() <= MOST_BYTES,
                "left out: the bundle would exceed {MOST_BYTES} bytes"
            );
            Ok(content)
        });
        let item = match &content {
            Ok(content) => Item { name: name.to_owned(), bytes: content.len(), error: None },
            Err(error) => Item { name: name.to_owned(), bytes: 0, error: Some(format!("{error:#}")) },
        };
        self.items.push(item);
        if let Ok(content) = content {
            self.bytes += content.len();
            self.write(name, &content)?;
        }
        Ok(())
    }
}

/// Makes the bundle in memory: it is not large, and is written only when it is complete.
pub(super) fn make(client: &Client) -> Result<Made> {
    let tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let mut bundle = Bundle { tar, items: Vec::new(), bytes: 0, lost: None };
    fill(&mut bundle, client)?;
    let Bundle { tar, items, lost, .. } = bundle;
    let content = tar.into_inner().and_then(GzEncoder::finish).context("make the bundle")?;
    let missing = items.into_iter().filter(|item| item.error.is_some()).map(|item| item.name).collect();
    Ok(Made { content, missing, lost })
}

fn fill(bundle: &mut Bundle, client: &Client) -> Result<()> {
    let ask = |route: &str, parameters: &[(&str, &str)]| -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut body = client.ask("GET", route, parameters)?.take(MOST_BYTES as u64 + 1);
        body.read_to_end(&mut content)?;
        Ok(content)
    };
    let report = doctor::report(client);
    bundle.add("doctor.json", serde_json::to_vec_pretty(&report).map_err(Into::into))?;
    let status = ask("/v1/status", &[]);
    let copy = status.as_ref().cloned().map_err(|error| anyhow::anyhow!("{error:#}"));
    bundle.add_answer("status.json", copy)?;
    bundle.add_answer("config.json", ask("/v1/config", &[]))?;
    bundle.add_answer("flow-stats.json", ask("/v1/stats/flows", &[]))?;
    bundle.add_answer("series.json", ask("/v1/stats/series", &[]))?;
    bundle.add_answer("metrics.txt", ask("/v1/metrics", &[]))?;
    bundle.add_answer("flows.json", ask("/v1/flows", &[("sort", "bytes"), ("limit", FLOWS)]))?;
    // There are none while nothing is looked for, which is nothing to report.
    if let Ok(events) = ask("/v1/events", &[]) {
        bundle.add_answer("events.json", Ok(events))?;
    }
    bundle.add_answer("bpf.json", ask("/v1/bpf", &[]))?;
    bundle.add_answer("log.txt", ask("/v1/log", &[]))?;
    let status = status.ok().and_then(|status| serde_json::from_slice::<Value>(&status).ok());
    if let Some(pid) = status.and_then(|status| status["pid"].as_u64()) {
        for name in PROCESS {
            let path = format!("/proc/{pid}/{name}");
            bundle.add(&format!("process/{name}"), std::fs::read(&path).with_context(|| path))?;
        }
    }
    bundle.add("environment.txt", Ok(environment().into_bytes()))?;
    for path in HOST {
        let name = format!("host{}", path.replace("/proc/", "/").replace("/etc/", "/"));
        bundle.add(&name, std::fs::read(path).with_context(|| path.to_owned()))?;
    }
    let made = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let manifest = Manifest { made, version: env!("NETMON_VERSION"), items: &bundle.items };
    let manifest = serde_json::to_vec_pretty(&manifest)?;
    bundle.write("manifest.json", &manifest)
}

/// The environment variables of configuration keys, and no others.
fn environment() -> String {
    let names = Key::all().flat_map(|key| [Some(key.variable()), key.short.map(str::to_owned)]).flatten();
    let given = names.filter_map(|name| std::env::var(&name).ok().map(|value| format!("{name}={value}\n")));
    given.collect()
}
