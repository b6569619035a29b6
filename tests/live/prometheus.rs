//! A real Prometheus scrapes a live agent: its queries return the real traffic, and the rules and the dashboard in
//! deploy/ use existing metrics. That the dashboard shows what happens in a cluster is tested in `e2e`.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use netmon::agent::metric_names;
use serde_json::Value;

use super::agent::{Agent, watching};
use super::metrics::Page;
use super::net::quiet_pair;
use super::traffic::transfer;
use super::{PATIENCE, eventually};
use crate::needs_root;
use crate::support::dashboard;
use crate::support::netns::Netns;

/// A Prometheus in a namespace, with its storage, which ends when this value is dropped.
pub struct Prometheus<'a> {
    ns: &'a Netns,
    child: Child,
    folder: PathBuf,
}

const LISTENS: &str = "127.0.0.1:9190";

impl<'a> Prometheus<'a> {
    /// Scrapes `target` several times a second.
    fn start(ns: &'a Netns, target: SocketAddr) -> Prometheus<'a> {
        Prometheus::with(ns, target, "scheme: http")
    }

    /// The same, with further settings of the job.
    pub(super) fn with(ns: &'a Netns, target: SocketAddr, job: &str) -> Prometheus<'a> {
        let rules = fs::read_to_string(at("deploy/prometheus/netmon.rules.yaml")).unwrap();
        Prometheus::scraping(ns, &[target], job, Duration::from_millis(200), &rules)
    }

    /// Scrapes all `targets` this often, and evaluates these rules every second; returns when each has been scraped.
    pub fn scraping(ns: &'a Netns, targets: &[SocketAddr], job: &str, every: Duration, rules: &str) -> Prometheus<'a> {
        let folder = std::env::temp_dir().join(format!("netmon-prometheus-{}", ns.name));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("rules.yaml"), rules).unwrap();
        let addresses: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let (every, addresses) = (every.as_millis(), addresses.join(", "));
        let text = format!(
            "global: {{scrape_interval: {every}ms, scrape_timeout: {every}ms, evaluation_interval: 1s}}
rule_files: [rules.yaml]
scrape_configs: [{{job_name: netmon, static_configs: [{{targets: [{addresses}]}}], {job}}}]
"
        );
        fs::write(folder.join("prometheus.yaml"), text).unwrap();
        let mut command = ns.command("prometheus");
        command
            .arg(format!("--config.file={}", folder.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={LISTENS}"))
            // Otherwise it waits five seconds before it scrapes for the first time.
            .arg("--scrape.discovery-reload-interval=100ms");
        let log = fs::File::create(folder.join("log")).unwrap();
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let prometheus = Prometheus { ns, child, folder };
        let all = targets.len() as f64;
        eventually("a scrape by Prometheus", || prometheus.single("sum(up)").filter(|up| *up == all));
        prometheus
    }

    /// The answer of its HTTP API.
    pub fn ask(&self, path: &str, query: &str) -> Option<Value> {
        let url = format!("http://{LISTENS}/api/v1/{path}");
        let output = self
            .ns
            .command("curl")
            .args(["-sG", &url, "--data-urlencode", &format!("query={query}")])
            .output()
            .unwrap();
        // It does not listen yet.
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}: {:?}", fs::read_to_string(self.folder.join("log")));
        Some(answer["data"].clone())
    }

    /// The result of a query: labels and values.
    pub fn query(&self, query: &str) -> Vec<(Value, f64)> {
        self.query_at(SystemTime::now(), query)
    }

    /// The result at a time: several queries at the same one see the same samples.
    pub fn query_at(&self, time: SystemTime, query: &str) -> Vec<(Value, f64)> {
        let time = time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let data = self.ask(&format!("query?time={time}"), query).unwrap_or_default();
        let result = data["result"].as_array().cloned().unwrap_or_default();
        let value = |one: &Value| one["value"][1].as_str().unwrap().parse().unwrap();
        result.iter().map(|one| (one["metric"].clone(), value(one))).collect()
    }

    /// The value of a query with a single result.
    pub fn single(&self, query: &str) -> Option<f64> {
        match self.query(query)[..] {
            [(_, value)] => Some(value),
            _ => None,
        }
    }

    /// Waits until the query has this value; no result is 0.
    pub fn reaches(&self, query: &str, wanted: u64) {
        let start = Instant::now();
        loop {
            let found = self.single(&format!("{query} or vector(0)"));
            if found == Some(wanted as f64) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{query}: {found:?}, not {wanted}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Makes connections that are refused.
fn refused(a: &Netns, count: usize) {
    a.run(|| {
        for _ in 0..count {
            assert!(TcpStream::connect("10.9.0.2:9").is_err());
        }
    });
}

/// The metrics that a text names, without the suffixes of histograms and summaries.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("netmon_") || word.starts_with("process_"));
    let known: BTreeSet<&str> = metric_names().collect();
    let bare = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        let stem = parts.iter().find_map(|suffix| name.strip_suffix(suffix)).filter(|stem| known.contains(stem));
        stem.filter(|_| !known.contains(name)).unwrap_or(name).to_owned()
    };
    names.map(bare).collect()
}

#[test]
fn dashboard_and_alerts_use_existing_metrics() {
    let known: BTreeSet<String> = metric_names().map(str::to_owned).collect();
    let rules = fs::read_to_string(at("deploy/prometheus/netmon.rules.yaml")).unwrap();
    let queries = dashboard::panels().into_iter().flat_map(|panel| panel.targets).map(|target| target.query);
    for text in queries.chain([rules]) {
        let unknown: Vec<String> = named(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {text}");
    }
}

#[test]
fn alerts_fire_when_they_should() {
    for arguments in [["check", "rules", "netmon.rules.yaml"], ["test", "rules", "netmon.tests.yaml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(at("deploy/prometheus")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
    let rules = fs::read_to_string(at("deploy/prometheus/netmon.rules.yaml")).unwrap();
    let tests = fs::read_to_string(at("deploy/prometheus/netmon.tests.yaml")).unwrap();
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(
            tests.matches(alert).count() >= 2 || alert == "NetmonAbsent",
            "{alert} is tested to fire and not to fire"
        );
    }
}

#[test]
fn queries_return_the_real_traffic() {
    needs_root!();
    const BYTES: usize = 1_000_000;
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["vb"]));
    let prometheus = Prometheus::start(&b, agent.handle.metrics_addr().unwrap());
    let server = "10.9.0.2".parse().unwrap();
    let exchange = |streams, refusals| {
        let sent = transfer(&a, &b, server, streams, BYTES);
        refused(&a, refusals);
        sent
    };
    let until = |query: &str, value: f64| {
        eventually(&format!("{query} = {value} in Prometheus"), || prometheus.single(query).filter(|is| *is == value))
    };
    // A rate covers only what comes after a first sample.
    exchange(2, 1);
    until("sum(netmon_flows_total)", 3.0);
    let moved = "netmon_bytes_total{src_ip=\"10.9.0.1\",dst_ip=\"10.9.0.2\"}";
    let before = prometheus.query(moved);
    exchange(30, 10);
    until("sum(netmon_flows_total)", 43.0);
    until("sum(netmon_flows_total{status=\"failed\",reason=\"refused\"})", 11.0);
    agent.settled();
    until("sum(netmon_packets_total)", Page::get(&b, &agent, "/metrics").sum("netmon_packets_total", &[]));

    // A rate over five minutes, of which Prometheus has only seen seconds: it extrapolates by up to a tenth at each
    // end.
    let about = |value: f64, wanted: f64| (0.85 * wanted..1.35 * wanted).contains(&value);
    let pairs = prometheus.query("topk(10, sum by (src_ip, dst_ip) (rate(netmon_bytes_total[5m])))");
    let find = |src: &str, dst: &str| {
        pairs
            .iter()
            .find(|(labels, _)| labels["src_ip"] == src && labels["dst_ip"] == dst)
            .map(|(_, rate)| 300.0 * rate)
    };
    let there = find("10.9.0.1", "10.9.0.2").expect("the pair is among the ten");
    let after = prometheus.query(moved);
    let sum = |series: &[(Value, f64)]| series.iter().map(|(_, value)| value).sum::<f64>();
    assert!(sum(&after) - sum(&before) >= (30 * BYTES) as f64, "{before:?}, {after:?}");
    // A series' first value is in no rate: it depends on timing whether the protocol of the first bytes was known.
    let grown = |(labels, value): &(Value, f64)| {
        before.iter().find(|(others, _)| others == labels).map_or(0.0, |(_, before)| value - before)
    };
    let grown: f64 = after.iter().map(grown).sum();
    assert!(about(there, grown), "{there} of {grown}: {pairs:?}");
    assert!(pairs.iter().all(|(_, rate)| 300.0 * rate <= there), "{pairs:?}");

    let failures = "sum(rate(netmon_flows_total{status=\"failed\"}[5m])) / sum(rate(netmon_flows_total[5m]))";
    let share = prometheus.single(failures).unwrap();
    assert!(about(share, 10.0 / 40.0), "{share}");

    // Without a cluster, there is one service without a name.
    let slowest = "histogram_quantile(0.95, sum by (dst_service, le) (rate(netmon_latency_seconds_bucket[5m])))";
    let latency = prometheus.query(slowest);
    let exact = Page::get(&b, &agent, "/metrics");
    let (sum, count) = (exact.sum("netmon_latency_seconds_sum", &[]), exact.sum("netmon_latency_seconds_count", &[]));
    assert!(count == 32.0 && latency.len() == 1 && latency[0].0 == serde_json::json!({}), "{count}: {latency:?}");
    assert!(latency[0].1 > 0.0 && latency[0].1 <= (sum * 20.0).max(0.0001), "{latency:?}, {sum} in all");

    let rules = prometheus.ask("rules", "").unwrap();
    let rules: Vec<&Value> =
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() > 10 && rules.iter().all(|rule| rule["lastError"].is_null()), "{rules:?}");
    drop(prometheus);
    agent.stop();
}

/// The only name that promtool complains about is older than its rule.
#[test]
fn promtool_finds_no_problem() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Agent::start(&b, watching(&["vb"]));
    transfer(&a, &b, "10.9.0.2".parse().unwrap(), 2, 100_000);
    refused(&a, 1);
    let page = eventually("the connections' end", || {
        let page = Page::get(&b, &agent, "/metrics");
        (page.sum("netmon_flows_total", &[]) == 3.0).then_some(page)
    });
    let file = std::env::temp_dir().join(format!("netmon-page-{}", b.name));
    fs::write(&file, &page.body).unwrap();
    let input = fs::File::open(&file).unwrap();
    let output = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().unwrap();
    fs::remove_file(file).unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let known = "netmon_threads_count non-histogram and non-summary metrics should not have \"_count\" suffix";
    assert_eq!(said.trim(), known);
    agent.stop();
}
