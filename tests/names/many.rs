//! Many objects and many changes.

use std::time::{Duration, Instant};

use netmon::names::Kind;
use serde_json::json;

use super::clusters::{Template, with_small};
use super::{Universe, Watched, options};
use crate::live::eventually;
use crate::support::apiserver::ApiServer;

const PODS: usize = 5_000;

/// `make benchmark` measures ten times as many.
#[test]
fn thousands_are_read_and_their_churn_is_followed() {
    let server = ApiServer::start();
    let template = Template::default();
    server.set_all(template.large(PODS));
    let started = Instant::now();
    let watched = Watched::synced(&options(&server));
    eprintln!("{PODS} pods, {} services read in {:.2} s", PODS / 5, started.elapsed().as_secs_f64());
    let status = watched.status();
    let objects = |kind| status.kinds.iter().find(|status| status.kind == kind).unwrap().objects;
    assert_eq!((objects(Kind::Pods), objects(Kind::Services), objects(Kind::ReplicaSets)), (PODS, PODS / 5, PODS / 5));
    let size = watched.names.load().size();
    assert_eq!((size.addresses[0], size.ports[2]), (PODS, PODS));

    // Rollouts: a new ReplicaSet, five pods that replace five others, and the slice with all of them.
    let mut universe = Universe::default();
    let begun = Instant::now();
    let mut changes = 0;
    for service in 0..240 {
        let pods = service * 5..(service + 1) * 5;
        server.set(template.numbered_replica_set(service, 1));
        for number in pods {
            let old = template.numbered_pod(number, 0);
            server.delete("pods", "apps", old["metadata"]["name"].as_str().unwrap());
            server.set(template.numbered_pod(number, 1));
        }
        server.set(template.numbered_slice(service, 1));
        changes += 12;
        if service % 20 == 0 {
            universe.add(&template.numbered_pod(service * 5, 1));
            // Like a busy cluster, not as fast as possible.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    eprintln!("{changes} changes in {:.2} s", begun.elapsed().as_secs_f64());
    let last = template.numbered_pod(239 * 5 + 4, 1);
    let ip = last["status"]["podIP"].as_str().unwrap();
    let name = last["metadata"]["name"].as_str().unwrap();
    let awaited = Instant::now();
    watched.becomes(&format!("{ip}:1"), &format!("apps/{name} Deployment/app-239 @worker-11(eu-1b)"));
    eprintln!("the last one is known {:.3} s later", awaited.elapsed().as_secs_f64());
    universe.check(&server, &watched, "churn");
    assert_eq!(watched.errors(), 0);
}

#[test]
fn an_update_is_in_the_names_at_once() {
    let server = with_small();
    let watched = Watched::synced(&options(&server));
    let template = Template::default();
    let mut waits: Vec<Duration> = (0..20)
        .map(|number| {
            let generation = watched.names.generation();
            let mut pod = template.numbered_pod(number, 0);
            pod["metadata"]["ownerReferences"] = json!([]);
            let ip = pod["status"]["podIP"].as_str().unwrap().to_owned();
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            let since = Instant::now();
            server.set(pod);
            watched.becomes(&format!("{ip}:1"), &format!("apps/{name} Pod/{name} @worker-0()"));
            let known = since.elapsed();
            // This is notified after the names are in place.
            eventually("another generation", || (watched.names.generation() != generation).then_some(()));
            known
        })
        .collect();
    waits.sort_unstable();
    eprintln!("known after {:?} (median), {:?} (longest)", waits[10], waits[19]);
}
