//! The metrics server, from the side of its clients: raw sockets, because an HTTP client library
//! would hide how connections end.

mod answers;
mod guarded;
mod later;
mod life;
mod limits;
mod pages;
mod process;
mod streams;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use netmon::clients::{ConnectionLimits, Reason};
use netmon::http::{METRICS, Page, Pages, Reply, Running, Server, ServerLimits, TEXT, Waiting};
use netmon::sinks::metrics::SERVER;
use netmon::threads::Threads;

const LONG: Duration = Duration::from_secs(20);
const BIG: usize = 50 << 20;

struct Book;

/// Number of pages of "/later" that are being made.
static MAKING: AtomicUsize = AtomicUsize::new(0);
/// True once they may finish.
static DONE: AtomicBool = AtomicBool::new(false);

/// Takes until it may finish, or no client waits for it any more.
fn later(waiting: &Waiting) -> Reply {
    MAKING.fetch_add(1, Ordering::SeqCst);
    while !DONE.load(Ordering::SeqCst) && !waiting.is_over() {
        std::thread::sleep(Duration::from_millis(2));
    }
    MAKING.fetch_sub(1, Ordering::SeqCst);
    Reply { status: 200, content_type: TEXT, body: b"at last\n".to_vec().into() }
}

fn metrics() -> Vec<u8> {
    (0..500).flat_map(|i| format!("netmon_bytes_total{{flow=\"{i}\"}} {}\n", i * 977).into_bytes()).collect()
}

impl Pages for Book {
    fn is_open(&self, path: &str) -> bool {
        path == "/"
    }

    fn get(&self, path: &str, query: &str) -> Option<Page> {
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
            "/later" => return Some(Page::Later(Box::new(later))),
            "/query" => (200, TEXT, query.into()),
            _ => return None,
        };
        Some(Reply { status, content_type, body: body.into() }.into())
    }
}

/// Time limits that the tests never reach, unless they shorten one.
fn limits() -> ServerLimits {
    let never = LONG * 10;
    // All clients in these tests are on this host.
    let places = ConnectionLimits { own: 64, ..ServerLimits::default().places };
    ServerLimits { places, header_time: never, idle: never, connection_time: never, ..ServerLimits::default() }
}

/// A list of threads whose deaths are ignored.
fn threads() -> Threads {
    Threads::new().0
}

fn start(limits: ServerLimits) -> Running {
    // An address of its own: once the server has stopped, another test's may get its port.
    static NUMBER: AtomicU8 = AtomicU8::new(1);
    let address = format!("127.1.1.{}:0", NUMBER.fetch_add(1, Ordering::Relaxed));
    Server::bind(SERVER, &address, limits).unwrap().start(&threads(), Arc::new(Book)).unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    // With a timeout, a test fails instead of hanging.
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

/// Reads one answer, and no byte beyond it.
fn read_answer(stream: &mut impl Read, has_body: bool) -> std::io::Result<Answer> {
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

fn ask(stream: &mut (impl Read + Write), method: &str, path: &str, headers: &str) -> std::io::Result<Answer> {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")?;
    read_answer(stream, method != "HEAD")
}

fn get(server: &Running, path: &str) -> Answer {
    ask(&mut connect(server.local_addr()), "GET", path, "").unwrap()
}

/// True if the server closes the connection, and does not just stay silent.
fn ends(stream: &mut impl Read) -> bool {
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
