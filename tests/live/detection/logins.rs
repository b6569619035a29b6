//! Passwords that are tried one after the other.

use std::fs;

use super::{ATTACKER, BOTH, Expected, Scene, VICTIM, flows, run};
use crate::live::apps::Servers;
use crate::needs_root;
use crate::support::sh;

/// hydra, and a sshd that allows as many tries a connection as it does by default.
#[test]
fn at_ssh() {
    needs_root!();
    let scene = Scene::new("ssh");
    let folder = &scene.agent.folder.0;
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let passwords: String = (0..2000).map(|number| format!("secret{number}\n")).collect();
    fs::write(file("passwords"), passwords).unwrap();
    sh(&format!("ssh-keygen -q -t ed25519 -N \"\" -f {} && mkdir -p /run/sshd", file("key")));
    let settings = format!(
        "ListenAddress 0.0.0.0\nListenAddress ::\nHostKey {}\nPidFile none\nUsePAM no\nPasswordAuthentication yes\n",
        file("key")
    );
    fs::write(file("sshd"), settings).unwrap();
    let _server = run(scene.victim.command("/usr/sbin/sshd").args(["-D", "-f", &file("sshd")]));
    scene.victim.sh("until ss -Hltn sport = :22 | grep -q .; do sleep 0.1; done");
    let _tools = BOTH.map(|v6| {
        let (option, server) = if v6 { ("-6", format!("[{}]", VICTIM.v6)) } else { ("-4", VICTIM.v4.to_owned()) };
        // It leaves a file where it is when it is interrupted.
        let mut tool = scene.attacker.command("hydra");
        tool.current_dir(folder).args([option, "-I", "-t", "4", "-w", "1", "-l", "nobody", "-P", &file("passwords")]);
        run(tool.arg(format!("ssh://{server}")))
    });
    let events = scene.expect(&BOTH.map(|v6| Expected {
        port: Some(22),
        ..Expected::of("brute_force", ATTACKER.at(v6), Some(VICTIM.at(v6)), "dialogue")
    }));
    assert!(events.iter().flat_map(flows).all(|flow| flow["protocol"] == "tcp"), "{events:#?}");
}

/// A dialogue for each password.
#[test]
fn at_mysql() {
    needs_root!();
    let scene = Scene::new("mysql");
    let passwords = scene.agent.folder.0.join("passwords");
    fs::write(&passwords, (0..60).map(|number| format!("guess{number}\n")).collect::<String>()).unwrap();
    let _server = Servers::start(&scene.victim, VICTIM.v4, &["mysql"]);
    let mut tool = scene.attacker.command("hydra");
    tool.current_dir(&scene.agent.folder.0).args(["-I", "-t", "4", "-l", "netmon", "-P"]).arg(passwords);
    let _tool = run(tool.arg(format!("mysql://{}", VICTIM.v4)));
    scene.expect(&[Expected {
        port: Some(3306),
        ..Expected::of("brute_force", ATTACKER.v4, Some(VICTIM.v4), "dialogue")
    }]);
}

/// Clients without a pool: each request logs in, asks something short, and leaves.
#[test]
fn of_clients_that_get_in() {
    needs_root!();
    let scene = Scene::new("pool");
    let victim = VICTIM.v4;
    let _servers = Servers::start(&scene.victim, victim, &["mysql", "postgres", "redis"]);
    let [mysql, postgres, redis] = [
        format!("mariadb -h {victim} -u netmon -psecret -e"),
        format!("psql -X -q -h {victim} -U postgres -c"),
        format!("redis-cli -h {victim}"),
    ];
    scene
        .attacker
        .sh(&format!("{mysql} \"CREATE DATABASE d; CREATE TABLE d.t (a INT)\"; {postgres} \"CREATE TABLE t (a INT)\""));
    let commands = [
        format!("{mysql} \"INSERT INTO d.t VALUES (1)\""),
        format!("{mysql} \"DO 1\""),
        format!("{postgres} \"INSERT INTO t VALUES (1)\""),
        format!("PGSSLMODE=disable {postgres} \"SELECT 1\""),
        format!("{redis} GET key"),
    ];
    for command in commands {
        // Not as regularly as a timer.
        scene.attacker.sh(&format!("for pause in $(seq 0 34); do {command} >/dev/null; sleep 0.0$((pause % 7)); done"));
    }
    let _tool = scene.attack("nmap", &format!("-n -Pn -sS -p 1-100 {victim}"));
    scene.expect(&[Expected::of("port_scan", ATTACKER.v4, Some(victim), "refused")]);
}
