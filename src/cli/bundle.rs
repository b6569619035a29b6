//! Everything that helps whoever is asked for help, in one file. Nothing secret is in it: no payload is ever seen, the
//! configuration has no secrets, and of the environment only what is meant for netmon goes along.

use std::io::{Read, Write};
use std::time::SystemTime;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::Value;

use super::client::Client;
use super::doctor;
use super::target::Target;
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

struct Bundle<W: Write> {
    tar: tar::Builder<W>,
    items: Vec<Item>,
    bytes: usize,
}

impl<W: Write> Bundle<W> {
    fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        header.set_mtime(now.as_secs());
        self.tar.append_data(&mut header, format!("netmon-support/{name}"), content).context("write the bundle")
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

/// Writes the bundle; the names of the items that could not be had.
pub(super) fn make(client: &Client, mut target: Target) -> Result<Vec<String>> {
    target.begin()?;
    let mut bundle =
        Bundle { tar: tar::Builder::new(GzEncoder::new(target, Compression::default())), items: Vec::new(), bytes: 0 };
    match fill(&mut bundle, client) {
        Ok(()) => {
            let target = bundle.tar.into_inner().and_then(GzEncoder::finish);
            target.and_then(Target::finish).context("write the bundle")?;
            Ok(bundle.items.into_iter().filter(|item| item.error.is_some()).map(|item| item.name).collect())
        }
        Err(error) => {
            if let Ok(target) = bundle.tar.into_inner().and_then(GzEncoder::finish) {
                target.give_up();
            }
            Err(error)
        }
    }
}

fn fill(bundle: &mut Bundle<impl Write>, client: &Client) -> Result<()> {
    let ask = |route: &str, parameters: &[(&str, &str)]| -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut body = client.ask("GET", route, parameters)?.take(MOST_BYTES as u64 + 1);
        body.read_to_end(&mut content)?;
        Ok(content)
    };
    let report = doctor::report(client);
    bundle.add("doctor.json", serde_json::to_vec_pretty(&report).map_err(Into::into))?;
    let status = ask("/v1/status", &[]);
    bundle.add("status.json", status.as_ref().cloned().map_err(|error| anyhow::anyhow!("{error:#}")))?;
    bundle.add("config.json", ask("/v1/config", &[]))?;
    bundle.add("flow-stats.json", ask("/v1/stats/flows", &[]))?;
    bundle.add("series.json", ask("/v1/stats/series", &[]))?;
    bundle.add("metrics.txt", ask("/v1/metrics", &[]))?;
    bundle.add("flows.json", ask("/v1/flows", &[("sort", "bytes"), ("limit", FLOWS)]))?;
    bundle.add("bpf.json", ask("/v1/bpf", &[]))?;
    bundle.add("log.txt", ask("/v1/log", &[]))?;
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
