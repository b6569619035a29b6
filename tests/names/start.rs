//! The cost of starting agents for the API server, and the cost of its answers for them.

use std::collections::HashSet;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use netmon::names::{Cluster, Enabled, Kind, NamesOptions, Watcher};
use netmon::threads::Threads;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::clusters::{Template, pod, sample, with_small};
use super::{Universe, Watched, options};
use crate::live::eventually;
use crate::support::apiserver::{ApiServer, Asked, Request, Streaming};
use crate::support::sh;

/// Starts this many agents at once and waits until all have read everything; returns their requests.
fn roll_out(server: &ApiServer, agents: usize, start_within: Duration) -> Vec<Asked> {
    // Each has six connections, with two ends.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let options = NamesOptions { start_within, ..options(server) };
    let started = Instant::now();
    let watched: Vec<Watched> = (0..agents).map(|_| Watched::start(&options)).collect();
    for watched in &watched {
        let is_whole = || watched.names.load().cluster() == Cluster::Whole;
        while !is_whole() {
            assert!(started.elapsed() < Duration::from_secs(120), "{agents} agents have not read everything");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let asked = server.asked();
    eprintln!(
        "{agents} agents have read everything after {:.2} s, by {} requests",
        started.elapsed().as_secs_f64(),
        asked.len()
    );
    let errors: u64 = watched.iter().map(Watched::errors).sum();
    assert_eq!(errors, 0, "{agents} agents");
    // They stop one after the other; in the meantime, none may start a new request.
    watched
        .into_iter()
        .for_each(|watched| drop(watched.watcher.map(|watcher: Watcher| std::thread::spawn(|| drop(watcher)))));
    asked
}

/// Number of requests that the server's cache cannot answer.
fn of_etcd(asked: &[Asked]) -> usize {
    let is_old = |asked: &&Asked| asked.query.get("resourceVersion").is_some_and(|version| !version.is_empty());
    asked.iter().filter(|asked| asked.request == Request::List && !is_old(asked)).count()
}

fn count(asked: &[Asked], request: Request) -> usize {
    asked.iter().filter(|asked| asked.request == request).count()
}

fn costs(agents: usize) {
    let streaming = with_small();
    let asked = roll_out(&streaming, agents, Duration::ZERO);
    assert_eq!((count(&asked, Request::Stream), asked.len()), (6 * agents, 6 * agents), "one a kind");
    drop(streaming);

    let cached = with_small();
    cached.set_streaming(Streaming::Refused);
    cached.set_whole_from_cache();
    let template = Template::default();
    cached.set_all((0..600).map(|number| template.numbered_pod(number, 0)));
    let asked = roll_out(&cached, agents, Duration::ZERO);
    assert_eq!((count(&asked, Request::List), of_etcd(&asked)), (6 * agents, 0), "more than a page out of the cache");
    // All six kinds may have been requested before the first refusal.
    assert!(count(&asked, Request::Stream) <= 6 * agents && count(&asked, Request::Watch) <= 6 * agents);
}

#[test]
fn a_roll_out_reads_from_the_servers_cache() {
    costs(1);
    costs(50);
}

/// Takes half a minute.
#[test]
#[ignore = "long: a_roll_out_reads_from_the_servers_cache is its short form"]
fn a_roll_out_of_five_hundred() {
    costs(500);
}

#[test]
fn agents_that_start_at_once_spread_their_requests() {
    let server = with_small();
    let within = Duration::from_secs(2);
    let asked = roll_out(&server, 20, within);
    let mut times: Vec<Instant> = asked.iter().map(|asked| asked.at).collect();
    times.sort_unstable();
    let spread = times[times.len() - 1] - times[0];
    // All twenty of them are in the same half only once in a million times.
    assert!(spread > within / 4, "{spread:?}");
}

/// As before Kubernetes 1.27: a watch that should begin with all objects does so, but without the end marker.
#[test]
fn a_server_without_streaming_lists_is_read_by_pages() {
    let server = with_small();
    server.set_streaming(Streaming::Ignored);
    let watched = Watched::synced(&options(&server));
    let asked = server.asked();
    assert!(count(&asked, Request::List) >= 6 && of_etcd(&asked) == 0, "{asked:#?}");
    Universe::default().check(&server, &watched, "a server without streams");
    assert_eq!(watched.errors(), 0);
}

fn large_pod(number: usize, bytes: usize) -> Value {
    let mut pod = pod(&format!("large-{number}"), "node-a", &format!("10.244.7.{number}"));
    pod["metadata"]["annotations"] = json!({ "note": "x".repeat(bytes) });
    pod
}

/// A page takes at most 32 MiB, because a small container has no room for more.
#[test]
fn large_objects_come_in_small_pages() {
    let server = with_small();
    server.set_streaming(Streaming::Refused);
    server.set_whole_from_cache();
    // Larger than an API server accepts, so that only 15 fit a page.
    server.set_all((1..=200).map(|number| large_pod(number, 2 << 20)));
    let watched = Watched::synced(&options(&server));
    assert_eq!(watched.client("10.244.7.200:1"), "shop/large-200 Deployment/web @node-a(eu-1a)");
    let status = watched.status();
    assert_eq!(status.kinds.iter().find(|kind| kind.kind == Kind::Pods).unwrap().objects, 210);
    assert_eq!(watched.errors(), 0);
    let pages: Vec<Asked> = server.asked().into_iter().filter(|asked| asked.resource == "pods").collect();
    let pages: Vec<&Asked> = pages.iter().filter(|asked| asked.request == Request::List).collect();
    let limits: Vec<&str> = pages.iter().map(|page| page.query["limit"].as_str()).collect();
    assert_eq!(limits[..6], ["500", "250", "125", "62", "31", "15"], "{limits:?}");
    assert!(limits[6..].iter().all(|limit| *limit == "15"), "what was found out holds: {limits:?}");
    let asked: HashSet<bool> = pages[1..].iter().map(|page| page.query.contains_key("resourceVersion")).collect();
    assert_eq!(asked, HashSet::from([false]), "the cache ignores a limit");
}

/// A kubeconfig and everything that it names must be regular files: the agent does not block on others, not even when
/// it stops.
#[test]
fn credentials_are_regular_files() {
    let server = with_small();
    let kubeconfig = server.kubeconfig();
    let folder = kubeconfig.parent().unwrap();
    let fifo = folder.join("fifo");
    sh(&format!("mkfifo {}", fifo.display()));
    symlink("/dev/zero", folder.join("zero")).unwrap();
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    let with = |name: &str, from: &str, to: &str| {
        let path = folder.join(name);
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        std::fs::write(&path, changed).unwrap();
        path
    };
    let token = folder.join("token").display().to_string();
    for (path, expected) in [
        (fifo.clone(), "a FIFO, and only regular files are read"),
        (folder.join("zero"), "a device, and only regular files are read"),
        (folder.to_owned(), "a directory, and only regular files are read"),
        (folder.join("absent"), "No such file"),
        (with("by-token", &token, "fifo"), "a FIFO, and only regular files are read"),
        (with("by-authority", "cluster: {server", "cluster: {certificate-authority: zero, server"), "a device"),
        (with("by-key", "tokenFile:", "client-key: fifo, tokenFile:"), "a FIFO"),
        (with("by-certificate", "tokenFile:", "client-certificate: absent, tokenFile:"), "No such file"),
    ] {
        let options = NamesOptions { kubeconfig: Some(path.clone()), enabled: Enabled::On, ..NamesOptions::default() };
        let error = format!("{:#}", netmon::names::start(&options, &Threads::new().0).err().unwrap());
        assert!(error.contains(&path.display().to_string()) && error.contains(expected), "{error}");
    }
    // Paths relative to the kubeconfig, through links as Kubernetes creates them.
    std::fs::create_dir(folder.join("..first")).unwrap();
    std::fs::write(folder.join("..first/linked"), "first\n").unwrap();
    symlink("..first", folder.join("..data")).unwrap();
    symlink("..data/linked", folder.join("linked")).unwrap();
    let linked = with("by-link", &token, "linked");
    let watched = Watched::synced(&NamesOptions { kubeconfig: Some(linked), ..options(&server) });
    server.set(sample("Node", "node-b"));
    eventually("it goes on", || (watched.errors() == 0 && watched.status().synced).then_some(()));
}
