//! Floods of SYNs.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{BOTH, Expected, Scene, VICTIM, flows};
use crate::needs_root;

const PORT: u16 = 8000;

fn listening(scene: &Scene) -> TcpListener {
    scene.victim.run(|| TcpListener::bind(("::", PORT)).unwrap())
}

fn floods(v6: bool) -> Expected {
    Expected { source: None, port: Some(PORT), ..Expected::of("syn_flood", "", Some(VICTIM.at(v6)), "half_open") }
}

/// Opens connections over IPv6, which hping3 does not speak, until this value is dropped. What the attacker's kernel would send
/// besides the SYNs is dropped.
struct Knocking(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Knocking {
    fn start(scene: &Scene) -> Knocking {
        scene.attacker.sh("nft \"add table inet f; add chain inet f o { type filter hook output priority 0 ; }
                           add rule inet f o meta nfproto ipv6 tcp flags & syn == 0 drop\"");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let victim = SockAddr::from(SocketAddr::new(VICTIM.v6.parse().unwrap(), PORT));
        let knock = move || {
            while !stopped.load(Relaxed) {
                for _ in 0..10 {
                    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    socket.set_linger(Some(Duration::ZERO)).unwrap();
                    // It begins; nobody waits for its end.
                    let _ = socket.connect(&victim);
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        };
        Knocking(stop, Some(scene.attacker.run(|| std::thread::spawn(knock))))
    }
}

impl Drop for Knocking {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
        let _ = self.1.take().map(JoinHandle::join);
    }
}

/// The attacker's kernel resets what is answered to hping3, because it did not open it.
#[test]
fn of_one_source() {
    needs_root!();
    let scene = Scene::new("flood");
    let _port = listening(&scene);
    let _four = scene.attack("hping3", &format!("-q -S -i u300 -p {PORT} {}", VICTIM.v4));
    let _six = Knocking::start(&scene);
    let events = scene.expect(&BOTH.map(floods));
    assert!(events.iter().all(|event| event["severity"] == "critical"), "{events:#?}");
}

/// As fast as hping3 can, with forged sources: none of them is a suspect.
#[test]
fn of_forged_sources() {
    needs_root!();
    let scene = Scene::with("forged", &["flow.max_flows=100000"]);
    let _port = listening(&scene);
    let _tool = scene.attack("hping3", &format!("-q -S --flood --rand-source -p {PORT} {}", VICTIM.v4));
    let events = scene.expect(&[floods(false)]);
    let mut sources: Vec<IpAddr> =
        flows(&events[0]).iter().map(|flow| flow["client_ip"].as_str().unwrap().parse().unwrap()).collect();
    sources.sort_unstable();
    sources.dedup();
    assert!(sources.len() > 1, "{events:#?}");
}
