//! The metrics server, from the side of its clients: raw sockets, because an HTTP client library
//! would hide how connections end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use netmon::metrics::http::{Limits, METRICS, Pages, Reply, Running, Server, TEXT};

const LONG: Duration = Duration::from_secs(20);
const BIG: usize = 50 << 20;

struct Book;

fn metrics() -> Vec<u8> {
    (0..500).flat_map(|i| format!("netmon_bytes_total{{flow=\"{i}\"}} {}\n", i * 977).into_bytes()).collect()
}

impl Pages for Book {
    fn get(&self, path: &str) -> Option<Reply> {
        let (status, content_type, body) = match path {
            "/" => (200, TEXT, b"hello\n".to_vec()),
            "/metrics" => (200, METRICS, metrics()),
            "/big" => (200, TEXT, vec![b'x'; BIG]),
            "/large" => (200, TEXT, vec![b'x'; 8 << 20]),
            "/sick" => (503, TEXT, b"no\n".to_vec()),
            "/invalid" => (1, TEXT, Vec::new()),
            "/panic" => panic!("a page that panics, for the test"),
            "/slow" => {
                std::thread::sleep(Duration::from_millis(300));
                (200, TEXT, b"slow\n".to_vec())
            }
            _ => return None,
        };
        Some(Reply { status, content_type, body })
    }
}

/// Time limits that the tests do not live to see, unless they shorten one.
fn limits() -> Limits {
    let never = LONG * 10;
    Limits { header_time: never, idle: never, connection_time: never, ..Limits::default() }
}

fn start(limits: Limits) -> Running {
    Server::bind("127.0.0.1:0", limits).unwrap().start(Arc::new(Book)).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    // A test that would hang fails instead.
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// Reads one answer, and no byte after it.
fn read_answer(stream: &mut TcpStream, has_body: bool) -> std::io::Result<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, head, body: Vec::new() };
    if has_body {
        let length = answer.header("content-length").expect("a content-length").parse().unwrap();
        answer.body.resize(length, 0);
        stream.read_exact(&mut answer.body)?;
    }
    Ok(answer)
}

fn ask(stream: &mut TcpStream, method: &str, path: &str, headers: &str) -> std::io::Result<Answer> {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")?;
    read_answer(stream, method != "HEAD")
}

fn get(server: &Running, path: &str) -> Answer {
    ask(&mut connect(server.local_addr()), "GET", path, "").unwrap()
}

/// Whether the server ends the connection (and does not merely stay silent).
fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(e) => e.kind() == ErrorKind::ConnectionReset,
    }
}

fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !happened() {
        assert!(Instant::now() < end, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn pages_have_status_type_and_length() {
    let server = start(limits());
    let answer = get(&server, "/metrics?format=text");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(METRICS)));
    assert_eq!(answer.body, metrics());
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
    assert_eq!(get(&server, "/").header("content-type"), Some(TEXT));
    assert_eq!(get(&server, "/sick").status, 503);
    assert_eq!(get(&server, "/nothing").status, 404);
    assert_eq!(get(&server, "/metrics/").status, 404);
    assert_eq!(get(&server, "/invalid").status, 500);
}

#[test]
fn gzip_only_for_clients_that_want_it() {
    let server = start(limits());
    let mut stream = connect(server.local_addr());
    for (accept, compressed) in [
        ("gzip", true),
        ("deflate, GZIP;q=0.5", true),
        ("*", true),
        ("gzip;q=0", false),
        ("gzip; q=0.000, *", false),
        ("gzip;q=0.2, identity;q=0.8", false),
        ("identity", false),
        ("br", false),
        ("gzip;q=x", false),
        ("", false),
    ] {
        let header = format!("Accept-Encoding: {accept}\r\n");
        let answer = ask(&mut stream, "GET", "/metrics", &header).unwrap();
        let encoding = answer.header("content-encoding");
        assert_eq!(encoding, compressed.then_some("gzip"), "for {accept:?}");
        let plain = if compressed {
            assert!(answer.body.len() < metrics().len() / 2);
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut plain).unwrap();
            plain
        } else {
            answer.body
        };
        assert_eq!(plain, metrics(), "for {accept:?}");
    }
    let small = ask(&mut stream, "GET", "/", "Accept-Encoding: gzip\r\n").unwrap();
    assert_eq!((small.header("content-encoding"), &small.body[..]), (None, &b"hello\n"[..]));
}

#[test]
fn head_is_get_without_the_body() {
    let server = start(limits());
    let mut stream = connect(server.local_addr());
    for headers in ["", "Accept-Encoding: gzip\r\n"] {
        let get = ask(&mut stream, "GET", "/metrics", headers).unwrap();
        let head = ask(&mut stream, "HEAD", "/metrics", headers).unwrap();
        for name in ["content-length", "content-type", "content-encoding", "vary"] {
            assert_eq!(get.header(name), head.header(name), "{name}");
        }
        assert_eq!(head.status, 200);
    }
    // Had HEAD sent a body, it would be read as the start of this answer.
    assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().body, b"hello\n");
    assert_eq!(ask(&mut stream, "HEAD", "/nothing", "").unwrap().status, 404);
}

#[test]
fn other_methods_are_refused() {
    let server = start(limits());
    for (method, headers) in [("DELETE", ""), ("POST", "Content-Length: 5\r\n\r\nbody!"), ("FOO", "")] {
        let mut stream = connect(server.local_addr());
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: test\r\n{headers}");
        let end = if headers.is_empty() { "\r\n" } else { "" };
        stream.write_all(format!("{request}{end}").as_bytes()).unwrap();
        let answer = read_answer(&mut stream, true).unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method}");
        // The body was not taken for a request.
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(ends(&mut stream));
    }
    // A body that is announced and never sent does not hold up the answer.
    let mut stream = connect(server.local_addr());
    let answer = ask(&mut stream, "POST", "/metrics", "Content-Length: 1000000\r\n").unwrap();
    assert_eq!(answer.status, 405);
    assert!(ends(&mut stream));
}

#[test]
fn large_headers_are_refused() {
    let server = start(Limits { header_bytes: 4096, ..limits() });
    let mut stream = connect(server.local_addr());
    let fits = format!("X: {}\r\n", "a".repeat(3000));
    assert_eq!(ask(&mut stream, "GET", "/", &fits).unwrap().status, 200);

    // Endless: the client sends until the server closes.
    let mut stream = connect(server.local_addr());
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let mut sent = 0;
    while stream.write_all(&[b'a'; 1024]).is_ok() {
        sent += 1024;
        assert!(sent < 64 << 20, "the server takes an endless header");
    }

    // Just over: the 431 can be read, if the close does not overtake it.
    let mut stream = connect(server.local_addr());
    stream.write_all(format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(4096 - 19)).as_bytes()).unwrap();
    match read_answer(&mut stream, false) {
        Ok(answer) => assert_eq!(answer.status, 431),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
    let many: String = (0..100).map(|i| format!("X{i}: y\r\n")).collect();
    let mut stream = connect(server.local_addr());
    write!(stream, "GET / HTTP/1.1\r\n{many}\r\n").unwrap();
    assert_eq!(read_answer(&mut stream, false).unwrap().status, 431);
    assert_eq!(get(&server, "/").status, 200);
}

#[test]
fn an_unfinished_header_ends_the_connection() {
    let header_time = Duration::from_millis(300);
    let server = start(Limits { header_time, ..limits() });
    let begun = Instant::now();
    let mut silent = connect(server.local_addr());
    let mut half = connect(server.local_addr());
    half.write_all(b"GET /metr").unwrap();
    // One that had an answer and then begins a request: not `idle`, which is long here.
    let mut later = connect(server.local_addr());
    assert_eq!(ask(&mut later, "GET", "/", "").unwrap().status, 200);
    later.write_all(b"G").unwrap();
    // One that sends a byte now and then.
    let mut drip = connect(server.local_addr());
    until("the dripping client is cut off", || {
        std::thread::sleep(Duration::from_millis(20));
        drip.write_all(b"G").is_err()
    });
    assert!(ends(&mut silent) && ends(&mut half) && ends(&mut later));
    let took = begun.elapsed();
    assert!(took >= header_time && took < LONG / 4, "{took:?}");
}

#[test]
fn keep_alive_outlives_the_header_time_but_not_the_idle_time() {
    let server =
        start(Limits { header_time: Duration::from_millis(100), idle: Duration::from_millis(600), ..limits() });
    let mut stream = connect(server.local_addr());
    for _ in 0..3 {
        assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().status, 200);
        // Not waiting for an event: that nothing happens in this time is the point.
        std::thread::sleep(Duration::from_millis(250));
    }
    let begun = Instant::now();
    assert_eq!(ask(&mut stream, "GET", "/slow", "").unwrap().status, 200);
    assert!(ends(&mut stream));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(600) && took < LONG / 4, "{took:?}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = start(limits());
    let mut stream = connect(server.local_addr());
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    let all = ["/", "/metrics", "/nothing", "/slow"].map(request).concat();
    stream.write_all(all.as_bytes()).unwrap();
    let status: Vec<u16> = (0..4).map(|_| read_answer(&mut stream, true).unwrap().status).collect();
    assert_eq!(status, [200, 200, 404, 200]);
}

#[test]
fn a_client_that_never_reads_is_dropped() {
    let server = start(Limits { connection_time: Duration::from_millis(1500), ..limits() });
    let never_reads = || {
        let mut stream = connect(server.local_addr());
        // The second request is read by the server before the first answer is gone.
        let request = b"GET /big HTTP/1.1\r\nHost: test\r\n\r\n";
        stream.write_all(&[&request[..], &request[..]].concat()).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        (stream, first)
    };
    let begun = Instant::now();
    let (mut stuck, first) = never_reads();
    assert_eq!(&first, b"HTTP/1.1 200");
    // What clients do not read is bounded over all of them; small answers are always given.
    assert_eq!(get(&server, "/big").status, 503);
    assert_eq!(get(&server, "/metrics").status, 200);
    assert_eq!(get(&server, "/").status, 200);
    assert!(stuck.take_error().unwrap().is_none(), "dropped before the others were served");

    // The error is there without reading: the server has reset the connection.
    until("the client that does not read is reset", || stuck.take_error().unwrap().is_some());
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(1400) && took < LONG / 4, "{took:?}");
    let mut got = Vec::new();
    let _ = stuck.read_to_end(&mut got);
    assert!(got.len() < BIG, "all of the answer had come: {}", got.len());
    let whole = get(&server, "/big");
    assert_eq!((whole.status, whole.body.len()), (200, BIG), "what was held was not given back");
}

#[test]
fn idle_connections_hold_the_slots_only_for_the_header_time() {
    let server = start(Limits { header_time: Duration::from_millis(1500), ..limits() });
    let mut hostile: Vec<TcpStream> = (0..500).map(|_| connect(server.local_addr())).collect();
    until("436 connections are turned away", || server.refused() == 436);

    let mut refused = connect(server.local_addr());
    match ask(&mut refused, "GET", "/", "") {
        Ok(answer) => assert_eq!(answer.status, 503),
        Err(e) => assert!(
            matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof),
            "{e}"
        ),
    }
    assert_eq!(server.refused(), 437);
    // The 501st without a request of its own reads its 503.
    assert_eq!(read_answer(&mut hostile[499], true).unwrap().status, 503);

    // The last that has a slot; after it, all slots are free.
    assert!(ends(&mut hostile[63]));
    let mut normal = connect(server.local_addr());
    assert_eq!(ask(&mut normal, "GET", "/metrics", "").unwrap().status, 200);
    assert_eq!(server.refused(), 437);
}

#[test]
fn idle_connections_after_an_answer_leave_half_of_the_slots() {
    let server = start(Limits { connections: 8, ..limits() });
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(server.local_addr());
        assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().status, 200);
        // The fifth and later are closed; wait for it, so that the slot is free again.
        if kept.len() >= 4 {
            assert!(ends(&mut stream));
        }
        kept.push(stream);
    }
    assert_eq!(server.refused(), 0);
    for stream in &mut kept[..4] {
        assert_eq!(ask(stream, "GET", "/", "").unwrap().status, 200);
    }
}

#[test]
fn a_panic_in_a_page_is_a_500() {
    let server = start(limits());
    let mut stream = connect(server.local_addr());
    assert_eq!(ask(&mut stream, "GET", "/panic", "").unwrap().status, 500);
    assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().status, 200);
}

#[test]
fn addresses() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = |address: &str| format!("{:#}", Server::bind(address, limits()).err().unwrap());
    let why = "address already in use; another program has the port: choose one with --metrics-addr";
    assert_eq!(error(&address), format!("listen on {address}: {why}"));
    let port = format!(":{}", taken.local_addr().unwrap().port());
    assert_eq!(error(&port), format!("listen on {port}: {why}"));
    assert_eq!(
        error("192.0.2.1:9090"),
        "listen on 192.0.2.1:9090: no interface of this host has the address: choose one with \
         --metrics-addr"
    );
    for wrong in ["", "9090", "127.0.0.1", ":", ":x", ":65536", "example.com:9090"] {
        assert_eq!(
            error(wrong),
            format!(
                "listen on {wrong:?}: not an address with a port: give --metrics-addr as :9090 \
                 (all addresses of this host), 127.0.0.1:9090 or [::1]:9090"
            )
        );
    }
    // All addresses: IPv4 in any case, and IPv6 where the host has it.
    let server = Server::bind(":0", limits()).unwrap().start(Arc::new(Book)).unwrap();
    let port = server.local_addr().port();
    let v4 = ask(&mut connect(([127, 0, 0, 1], port).into()), "GET", "/", "");
    assert_eq!(v4.unwrap().status, 200);
    if TcpListener::bind("[::1]:0").is_ok() {
        let v6 = ask(&mut connect(format!("[::1]:{port}").parse().unwrap()), "GET", "/", "");
        assert_eq!(v6.unwrap().status, 200);
    }
}

#[test]
fn stop_ends_open_connections_and_frees_the_port() {
    let server = start(limits());
    let address = server.local_addr();
    let mut silent = connect(address);
    let mut half = connect(address);
    half.write_all(b"GET /").unwrap();
    let mut idle = connect(address);
    ask(&mut idle, "GET", "/", "").unwrap();
    let mut stuck = connect(address);
    stuck.write_all(b"GET /big HTTP/1.1\r\n\r\n").unwrap();
    stuck.read_exact(&mut [0; 12]).unwrap();
    // Half written when the stop comes, but this client reads: it gets the rest.
    let mut reading = connect(address);
    reading.write_all(b"GET /large HTTP/1.1\r\n\r\n").unwrap();
    reading.read_exact(&mut [0; 12]).unwrap();

    let begun = Instant::now();
    let (took, rest) = std::thread::scope(|scope| {
        let stop = scope.spawn(move || {
            server.stop().unwrap();
            begun.elapsed()
        });
        until("the port is closed", || TcpStream::connect(address).is_err());
        let mut rest = Vec::new();
        let read = reading.read_to_end(&mut rest).map(|_| rest.len());
        (stop.join().unwrap(), read)
    });
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(rest.as_ref().is_ok_and(|rest| *rest > 8 << 20), "{rest:?}");
    assert!(ends(&mut silent) && ends(&mut half) && ends(&mut idle) && ends(&mut stuck));
    assert!(TcpStream::connect(address).is_err());

    // At once if there is nothing to wait for; and a restart gets the same port.
    let again = Server::bind(&address.to_string(), limits()).unwrap().start(Arc::new(Book)).unwrap();
    let mut idle = connect(address);
    ask(&mut idle, "GET", "/", "").unwrap();
    let begun = Instant::now();
    again.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());

    // Dropped without a stop.
    let server = start(limits());
    let address = server.local_addr();
    drop(server);
    until("a dropped server gives up its port", || TcpStream::connect(address).is_err());
}

/// Runs one test of this file in a process of its own, under a shell's limits. True in that
/// process: the caller then does the test.
fn alone(test: &str, shell: &str) -> bool {
    if std::env::var_os("NETMON_TEST_ALONE").is_some() {
        return true;
    }
    let run = Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" --exact \"$1\" --test-threads=1")])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env("NETMON_TEST_ALONE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
    false
}

fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.map(|t| std::fs::read_to_string(t.unwrap().path().join("comm")).unwrap()).collect()
}

#[test]
fn one_thread_serves_all_connections() {
    if !alone("one_thread_serves_all_connections", "") {
        return;
    }
    let before = threads().len();
    let server = start(limits());
    let mut open: Vec<TcpStream> = (0..60).map(|_| connect(server.local_addr())).collect();
    for stream in &mut open {
        assert_eq!(ask(stream, "GET", "/metrics", "").unwrap().status, 200);
    }
    let now = threads();
    assert_eq!(now.len(), before + 1, "{now:?}");
    assert!(now.contains(&"nm-metrics\n".to_string()), "{now:?}");
}

static ACCEPT_ERRORS: AtomicUsize = AtomicUsize::new(0);

struct CountAcceptErrors;

impl log::Log for CountAcceptErrors {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        if record.args().to_string().contains("accept a connection") {
            ACCEPT_ERRORS.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn flush(&self) {}
}

#[test]
fn the_server_survives_having_no_file_descriptors() {
    if !alone("the_server_survives_having_no_file_descriptors", "ulimit -n 64;") {
        return;
    }
    log::set_logger(&CountAcceptErrors).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let server = start(limits());
    let mut files: Vec<std::fs::File> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(files.len() > 10 && files.len() < 64);
    // The client takes the one descriptor that is free, so that the server has none to accept it.
    files.pop();
    let mut client = connect(server.local_addr());
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let begun = Instant::now();
    until("accept fails three times", || ACCEPT_ERRORS.load(Ordering::Relaxed) >= 3);
    assert!(begun.elapsed() > Duration::from_millis(80), "accept is retried without a pause");
    drop(files);
    assert_eq!(read_answer(&mut client, true).unwrap().status, 200);
    server.stop().unwrap();
}
