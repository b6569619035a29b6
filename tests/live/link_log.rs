//! Log lines about interfaces that come and go in the way of pods: a link is created on the host, and then moved to the
//! pod.

use serde_json::Value;

use super::binary::Program;
use super::control::Operated;
use super::eventually;
use super::net::host;
use crate::needs_root;
use crate::support::netns::Netns;

/// Adds pods with these numbers, each behind a veth of the bridge, in as short a time as the kernel needs for them.
fn plug(node: &Netns, pods: &Netns, numbers: std::ops::Range<u32>) {
    let (mut here, mut there) = (String::new(), String::new());
    for number in numbers {
        here += &format!(
            "link add veth{number} type veth peer name eth{number}
             link set veth{number} master br0 up
             link set eth{number} netns {}
            ",
            pods.name
        );
        there += &format!("link set eth{number} up\n");
    }
    let here = here.trim_end();
    node.sh(&format!("ip -batch - <<END\n{here}\nEND\nip -n {} -batch - <<END\n{there}END", pods.name));
}

fn node() -> Netns {
    let node = host("node");
    node.sh("ip link add br0 type bridge && ip link set br0 up");
    node
}

/// The lines about interfaces.
fn about_interfaces(log: &[String]) -> Vec<&String> {
    let speaks = |line: &&String| ["watching", "workload"].iter().any(|word| line.contains(word));
    log.iter().filter(speaks).collect()
}

#[test]
fn a_burst_of_pods_is_one_line_with_their_owner() {
    needs_root!();
    let (node, pods) = (node(), host("pods"));
    let mut program = Program::start(&node, &["--socket", "none"], false);
    program.wait_for("] ready");
    let before = program.log.len();
    plug(&node, &pods, 1..25);
    program.wait_for("watching 24 interfaces");
    for number in 1..13 {
        node.sh(&format!("ip link del veth{number}"));
    }
    program.wait_for("not watching any more");
    program.signal("TERM");
    let (_, _, log) = program.end();
    let said = about_interfaces(&log[before..]);
    assert_eq!(said.len(), 2, "{said:#?}");
    let (names, what) = said[0].split_once(" (veth, ").unwrap();
    // Their other ends were also on the host for a moment.
    let what = what.split(';').next().unwrap();
    assert!(what.ends_with("face a workload)"), "{said:#?}");
    assert!((1..25).all(|number| names.contains(&format!("veth{number}"))), "{names}");
}

#[test]
fn status_shows_each_interface() {
    needs_root!();
    let (node, pods) = (node(), host("pods"));
    node.sh("ip link add vb type veth peer name va && ip link set vb up");
    plug(&node, &pods, 1..4);
    let agent = Operated::start(&node, "faces", &["--interface", "veth*", "--interface", "br0"]);
    let faces = eventually("all are known", || {
        let status = agent.json(&["status"]);
        let interfaces = status["interfaces"].as_array().unwrap().clone();
        let faces = |interface: &Value| interface["faces_workload"] == true;
        let names = interfaces.iter().filter(|one| faces(one)).map(|one| one["name"].as_str().unwrap().to_owned());
        let names: Vec<String> = names.collect();
        (names.len() >= 3).then_some(names)
    });
    assert!(["veth1", "veth2", "veth3"].iter().all(|name| faces.contains(&(*name).to_owned())), "{faces:?}");
    assert!(!faces.contains(&"vb".to_owned()) && !faces.contains(&"lo".to_owned()), "{faces:?}");
    let text = agent.says(&["status"]);
    let of = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
    assert!(of("veth1").contains(" workload ") && !of("vb").contains("workload"), "{text}");
}
