//! Metrics pages: made once for all clients that wait, without delaying others.

use std::mem::MaybeUninit;

use netmon::agent::Inline;
use netmon::bpf::{Bpf, possible_cpus};
use netmon::config::Config;
use netmon::sinks::metrics::{FigureList, MetricsPage, Reading, Source};

use super::*;
use crate::needs_root;

/// Counts the pages that are made; they wait until it is `open`.
#[derive(Default)]
struct Slow {
    begun: AtomicUsize,
    open: AtomicBool,
}

impl Source for Slow {
    fn read(&self) -> Option<Reading> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        until("the page may be made", || self.open.load(Ordering::SeqCst));
        None
    }

    fn unhealthy(&self) -> Option<String> {
        None
    }

    fn unready(&self) -> Option<String> {
        None
    }
}

fn server() -> (Arc<Slow>, Running) {
    let source = Arc::new(Slow::default());
    let page = MetricsPage::new(Arc::clone(&source), FigureList::default());
    (source, Server::bind(SERVER, "127.0.0.1:0", limits()).unwrap().start(&threads(), Arc::new(page)).unwrap())
}

#[test]
fn waiting_clients_share_a_page() {
    let (source, server) = server();
    let address = server.local_addr();
    let mut clients: Vec<TcpStream> = (0..20).map(|_| connect(address)).collect();
    for (number, stream) in clients.iter_mut().enumerate() {
        let method = if number == 7 { "HEAD" } else { "GET" };
        write!(stream, "{method} /metrics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    }
    until("it is being made", || source.begun.load(Ordering::SeqCst) == 1);
    // Probes do not wait for it.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&server, path).status, 200);
    }
    source.open.store(true, Ordering::SeqCst);
    for (number, stream) in clients.iter_mut().enumerate() {
        assert_eq!(read_answer(stream, number != 7).unwrap().status, 200);
    }
    assert_eq!(source.begun.load(Ordering::SeqCst), 1);
}

#[test]
fn a_client_in_a_loop_causes_one_page_a_second() {
    let (source, server) = server();
    source.open.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let mut stream = connect(server.local_addr());
    let mut asked = 0;
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(ask(&mut stream, "GET", "/metrics", "").unwrap().status, 200);
        asked += 1;
    }
    let made = source.begun.load(Ordering::SeqCst);
    let most = 1 + begun.elapsed().as_secs() as usize;
    assert!((1..=most).contains(&made), "{made} pages for {asked} requests in {:?}", begun.elapsed());
    assert!(asked > 2 * most, "{asked}");
}

#[test]
fn probes_wait_for_no_worker() {
    needs_root!();
    let config = Config { workers: 2, ..Config::default() };
    let mut storage = MaybeUninit::uninit();
    let mut bpf = Bpf::load(&mut storage, &config.program_options(possible_cpus().unwrap())).unwrap();
    let inline = Inline::new(&config, &mut bpf).unwrap();
    let server =
        Server::bind(SERVER, "127.0.0.1:0", limits()).unwrap().start(&threads(), Arc::new(inline.page())).unwrap();
    let mut scrape = connect(server.local_addr());
    inline.stuck(|| {
        // The page waits, without blocking others.
        scrape.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        for _ in 0..3 {
            assert_eq!(get(&server, "/healthz").status, 200);
            assert_eq!(get(&server, "/readyz").status, 503, "no interface is watched");
        }
    });
    assert_eq!(read_answer(&mut scrape, true).unwrap().status, 200);
    server.stop().unwrap();
}
