//! Everything that helps whoever is asked for help, in one file. Nothing secret is in it: no payload is ever seen, the
//! configuration has no secrets, and of the environment only what is meant for netmon goes along.

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

/// Of all files together, before they are compressed.
const MOST_BYTES: usize = 20 << 20;
/// Flows that go along, those with most bytes.
const FLOWS: &str = "1000";
/// Files of the host that say what it is.
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

/// Files of the agent's process.
const PROCESS: [&str; 4] = ["status", "limits", "cgroup", "mountinfo"];

/// A file of the bundle, or why there is none.
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
    /// Why the agent did not tell something.
    lost: Option<String>,
}

/// The file, and what it lacks.
pub(super) struct Made {
    pub(super) content: Vec<u8>,
    /// Items that could not be had.
    pub(super) missing: Vec<String>,
    /// Why the agent did not tell of some, if it did not.
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

    /// The same of what the agent tells, without which the bundle is of little use.
    fn add_told(&mut self, name: &str, content: Result<Vec<u8>>) -> Result<()> {
        if let Err(error) = &content {
            self.lost.get_or_insert_with(|| format!("{error:#}"));
        }
        self.add(name, content)
    }

    /// What cannot be had is noted, and the rest goes on.
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

/// Makes the bundle. It is not large, and written once it is whole.
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
    let told = status.as_ref().cloned().map_err(|error| anyhow::anyhow!("{error:#}"));
    bundle.add_told("status.json", told)?;
    bundle.add_told("config.json", ask("/v1/config", &[]))?;
    bundle.add_told("flow-stats.json", ask("/v1/stats/flows", &[]))?;
    bundle.add_told("series.json", ask("/v1/stats/series", &[]))?;
    bundle.add_told("metrics.txt", ask("/v1/metrics", &[]))?;
    bundle.add_told("flows.json", ask("/v1/flows", &[("sort", "bytes"), ("limit", FLOWS)]))?;
    bundle.add_told("bpf.json", ask("/v1/bpf", &[]))?;
    bundle.add_told("log.txt", ask("/v1/log", &[]))?;
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
    let manifest = Manifest { made, version: env!("CARGO_PKG_VERSION"), items: &bundle.items };
    let manifest = serde_json::to_vec_pretty(&manifest)?;
    bundle.write("manifest.json", &manifest)
}

/// What the keys of the configuration are called there, and nothing else.
fn environment() -> String {
    let names = Key::all().flat_map(|key| [Some(key.variable()), key.short.map(str::to_owned)]).flatten();
    let given = names.filter_map(|name| std::env::var(&name).ok().map(|value| format!("{name}={value}\n")));
    given.collect()
}
