//! What the start of agents costs the API server, and what its answers may cost them.

use std::collections::HashSet;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use netmon::names::{Cluster, Enabled, Kind, Options, Watcher};
use netmon::threads::Threads;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::clusters::{Template, pod, sample, with_small};
use super::{Universe, Watched, options};
use crate::live::eventually;
use crate::support::apiserver::{ApiServer, Asked, Request, Streaming};
use crate::support::sh;

/// Starts so many agents at once, until all have read everything; what they asked for.
fn roll_out(server: &ApiServer, agents: usize, start_within: Duration) -> Vec<Asked> {
    // Both ends of six connections each.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let options = Options { start_within, ..options(server) };
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
    // They stop each after the other; meanwhile nobody is to start anew.
    watched
        .into_iter()
        .for_each(|watched| drop(watched.watcher.map(|watcher: Watcher| std::thread::spawn(|| drop(watcher)))));
    asked
}

/// Those that no cache can answer.
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
    // All six may have asked before the first was refused.
    assert!(count(&asked, Request::Stream) <= 6 * agents && count(&asked, Request::Watch) <= 6 * agents);
}

#[test]
fn a_roll_out_asks_the_cache_of_the_server() {
    costs(1);
    costs(50);
}

/// Half a minute.
#[test]
#[ignore = "long: a_roll_out_asks_the_cache_of_the_server is its short form"]
fn a_roll_out_of_five_hundred() {
    costs(500);
}

#[test]
fn agents_that_start_at_once_do_not_ask_at_once() {
    let server = with_small();
    let within = Duration::from_secs(2);
    let asked = roll_out(&server, 20, within);
    let mut times: Vec<Instant> = asked.iter().map(|asked| asked.at).collect();
    times.sort_unstable();
    let spread = times[times.len() - 1] - times[0];
    // Twenty of them are all in the same half once in a million times.
    assert!(spread > within / 4, "{spread:?}");
}

/// Of before Kubernetes 1.27: a watch that is to begin with all there is does, but tells no end of it.
#[test]
fn a_server_that_knows_no_streams_is_read_by_lists() {
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

/// A page takes at most 32 MiB: there is no room for more in a small container.
#[test]
fn large_objects_come_in_small_pages() {
    let server = with_small();
    server.set_streaming(Streaming::Refused);
    server.set_whole_from_cache();
    // More than an API server takes: of them only 15 fit into a page.
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

/// What a kubeconfig is, and what it names, must be files: nobody is waited for, also not at the end.
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
    for (path, told) in [
        (fifo.clone(), "a FIFO, and only regular files are read"),
        (folder.join("zero"), "a device, and only regular files are read"),
        (folder.to_owned(), "a directory, and only regular files are read"),
        (folder.join("absent"), "No such file"),
        (with("by-token", &token, "fifo"), "a FIFO, and only regular files are read"),
        (with("by-authority", "cluster: {server", "cluster: {certificate-authority: zero, server"), "a device"),
        (with("by-key", "tokenFile:", "client-key: fifo, tokenFile:"), "a FIFO"),
        (with("by-certificate", "tokenFile:", "client-certificate: absent, tokenFile:"), "No such file"),
    ] {
        let options = Options { kubeconfig: Some(path.clone()), enabled: Enabled::On, ..Options::default() };
        let error = format!("{:#}", netmon::names::start(&options, &Threads::new().0).err().unwrap());
        assert!(error.contains(&path.display().to_string()) && error.contains(told), "{error}");
    }
    // Relative to it, and behind links as Kubernetes has them.
    std::fs::create_dir(folder.join("..first")).unwrap();
    std::fs::write(folder.join("..first/linked"), "first\n").unwrap();
    symlink("..first", folder.join("..data")).unwrap();
    symlink("..data/linked", folder.join("linked")).unwrap();
    let linked = with("by-link", &token, "linked");
    let watched = Watched::synced(&Options { kubeconfig: Some(linked), ..options(&server) });
    server.set(sample("Node", "node-b"));
    eventually("it goes on", || (watched.errors() == 0 && watched.status().synced).then_some(()));
}
