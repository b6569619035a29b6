//! Names of a large cluster: how long reading it takes, how much memory it needs, and what following its changes costs.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use netmon::names::{Answer, Cluster, Enabled, End, Names, NamesOptions};

use nix::time::{ClockId, clock_gettime};

use crate::clusters::{REPLICAS, Template};
use crate::memory::resident;
use crate::report::{Budget, Budget::AtMost, Report, Spread};
use crate::subject::cpu_ns;
use crate::support::apiserver::ApiServer;

/// The argument that starts the benchmark as an API server, a separate process so that its objects do not count.
pub const CHILD: &str = "api-server-of-a-large-cluster";
const PODS: usize = 50_000;
const CHANGES_PER_SECOND: usize = 500;
const CHURN: Duration = Duration::from_secs(10);
const MIB: f64 = 1048576.0;

struct Server {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn start(pods: usize) -> Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        let command = command.arg(CHILD).arg(pods.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the API server")?;
        let orders = child.stdin.take().context("no stdin")?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Server { child, orders, answers })
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the API server ended");
        Ok(line.trim().to_owned())
    }

    fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").context("send to the API server")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until the other end closes its pipe.
pub fn child(pods: &str) -> Result<()> {
    let template = Template::default();
    let server = ApiServer::start();
    server.set_all(template.large(pods.parse()?));
    println!("{}", server.kubeconfig().display());
    let mut generation = 0;
    for order in std::io::stdin().lines() {
        let order = order?;
        let mut words = order.split_whitespace();
        let number = words.next().context("no number")?.parse::<usize>()?;
        let rate = words.next().context("no rate")?.parse::<usize>()?;
        // A rollout of a service: a new ReplicaSet, the pods one after the other, the slice.
        generation += 1;
        let began = Instant::now();
        let mut changes = 0;
        for service in 0..number / (2 * REPLICAS) {
            server.set(template.numbered_replica_set(service, generation));
            for pod in service * REPLICAS..(service + 1) * REPLICAS {
                let old = template.numbered_pod(pod, generation - 1);
                server.delete("pods", "apps", old["metadata"]["name"].as_str().context("no name")?);
                server.set(template.numbered_pod(pod, generation));
                changes += 2;
                let due = began + Duration::from_secs_f64(changes as f64 / rate as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            server.set(template.numbered_slice(service, generation));
        }
        let last = template.numbered_pod(number / 2 - 1, generation);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        println!("{} {}", text(&last["status"]["podIP"]), text(&last["metadata"]["name"]));
    }
    Ok(())
}

/// CPU time of this process.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn wait_until(mut done: impl FnMut() -> bool) -> Result<Duration> {
    let began = Instant::now();
    while !done() {
        ensure!(began.elapsed() < Duration::from_secs(120), "timed out");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(began.elapsed())
}

/// Nanoseconds per lookup, of randomly chosen pods.
fn lookups(names: &Names, ask: impl Fn(&netmon::names::Index, End) -> Answer) -> Result<Spread> {
    const MANY: usize = 200_000;
    let ends: Vec<End> = (0..PODS)
        .map(|number| {
            let pod = Template::address((number * 7919) % PODS);
            let address: SocketAddr = format!("{pod}:8080").parse()?;
            Ok(End { ip: address.ip(), port: address.port() })
        })
        .collect::<Result<_>>()?;
    let mut times = Vec::new();
    for _ in 0..11 {
        let began = cpu_ns();
        let mut known = 0;
        for i in 0..MANY {
            let index = names.load();
            known += usize::from(matches!(ask(&index, ends[i % PODS]), Answer::Known(_)));
        }
        times.push((cpu_ns() - began) / MANY as f64);
        ensure!(known == MANY, "{} pods are not known", MANY - known);
    }
    Ok(Spread::of(times))
}

pub fn run(report: &mut Report) -> Result<()> {
    let mut server = Server::start(PODS)?;
    let kubeconfig = server.answer()?;
    let before = resident()?;
    let (began, cpu) = (Instant::now(), cpu_time()?);
    let options = NamesOptions { enabled: Enabled::On, kubeconfig: Some(kubeconfig.into()), ..NamesOptions::default() };
    let (names, watcher) = netmon::names::start(&options, &netmon::threads::Threads::new().0)?;
    wait_until(|| names.load().cluster() == Cluster::Whole)?;
    let (took, cpu) = (began.elapsed(), cpu_time()? - cpu);
    let watcher = watcher.context("there is no watcher")?;
    let after = resident()?;

    let title = format!("Names of {PODS} pods in {} services", PODS / REPLICAS);
    report.table(&title, "s");
    report.row("reading them", Spread::one(took.as_secs_f64()), AtMost(15.0), "");
    report.row("CPU time of that", Spread::one(cpu.as_secs_f64()), Budget::None, "");
    report.table(&title, "MiB");
    report.row("growth of resident memory", Spread::one((after - before) as f64 / MIB), Budget::None, "");
    report.table(&title, "bytes");
    let each = (after - before) as f64 / PODS as f64;
    report.row("a pod, with its share of a service, slice and ReplicaSet", Spread::one(each), Budget::None, "");

    report.table("A lookup", "ns");
    report.row(
        "a client",
        lookups(&names, |index, end| index.client(end, 6, now()))?,
        Budget::None,
        "includes reading the clock",
    );
    let dialled = lookups(&names, |index, end| index.server(end, None, 6, now()))?;
    report.row("a pod that is dialled, with its service", dialled, Budget::None, "includes reading the clock");

    let (cpu, generation) = (cpu_time()?, names.generation());
    server.order(&format!("{} {CHANGES_PER_SECOND}", CHANGES_PER_SECOND * CHURN.as_secs() as usize))?;
    let began = Instant::now();
    let last = server.answer()?;
    let during = began.elapsed();
    let (ip, name) = last.split_once(' ').context("no address and name")?;
    let end = End { ip: ip.parse()?, port: 1 };
    let late = wait_until(|| {
        names.load().client(end, 6, now()).party().is_some_and(|party| party.pod.as_deref() == Some(name))
    })?;
    let used = (cpu_time()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let indexes = names.generation() - generation;
    report.table(&format!("Rollouts with {CHANGES_PER_SECOND} pod changes a second"), "");
    let note = format!("{indexes} indexes in {:.1} s", during.as_secs_f64());
    report.row("percent of a core", Spread::one(100.0 * used), Budget::None, &note);
    report.row("time until the last one is known, s", Spread::one(late.as_secs_f64()), AtMost(1.0), "");
    report.row(
        "growth of resident memory afterwards, MiB",
        Spread::one((resident()? - before) as f64 / MIB),
        Budget::None,
        "",
    );
    let errors: u64 = watcher.progress().read().kinds.iter().map(|kind| kind.errors).sum();
    ensure!(errors == 0, "{errors} requests failed");
    Ok(())
}
