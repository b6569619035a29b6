//! Streams: answers that are written while they are read.

use std::os::unix::net::{UnixListener, UnixStream};

use crossbeam_channel::{Receiver, Sender, unbounded};
use netmon::http::{NoStream, Opening};

use super::*;

/// The state of the streams of a server.
#[derive(Default)]
struct Tap {
    running: AtomicUsize,
    written: AtomicUsize,
}

struct Taps {
    tap: Arc<Tap>,
    lines: Receiver<&'static str>,
}

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A stream that runs.
struct Runs<'a>(&'a Tap);

impl Pages for Taps {
    fn get(&self, path: &str, _: &str) -> Option<Page> {
        let (tap, lines) = (Arc::clone(&self.tap), self.lines.clone());
        let act: fn(&Tap, &Receiver<&'static str>, &mut Opening) -> Result<(), NoStream> = match path {
            "/" => return Some(whole("hello\n").into()),
            "/soon" => return Some(Page::Soon(Box::new(|| whole("soon\n")))),
            // Sends the lines of the test, until it drops its end of the channel.
            "/lines" => |_, lines, opening| {
                let mut chunks = opening.begin(TEXT)?;
                chunks.flush()?;
                while !chunks.is_over() {
                    match lines.recv_timeout(Duration::from_millis(20)) {
                        Ok(line) => chunks.write_all(line.as_bytes()).and_then(|()| chunks.flush())?,
                        Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                        Err(_) => return Ok(chunks.end()?),
                    }
                }
                Ok(())
            },
            "/endless" => |tap, _, opening| {
                let mut chunks = opening.begin(TEXT)?;
                loop {
                    chunks.write_all(&[b'x'; 1024])?;
                    tap.written.fetch_add(1024, Ordering::SeqCst);
                }
            },
            "/long" => |_, _, opening| {
                let mut chunks = opening.begin(TEXT)?;
                (0..8 << 10).try_for_each(|_| chunks.write_all(&[b'x'; 1024]))?;
                Ok(chunks.end()?)
            },
            "/broken" => |_, _, opening| {
                opening.begin(TEXT)?.write_all(b"begun\n")?;
                Err(NoStream::Broken(ErrorKind::Other.into()))
            },
            "/panics" => |_, _, opening| {
                let mut chunks = opening.begin(TEXT)?;
                chunks.write_all(b"begun\n").and_then(|()| chunks.flush())?;
                panic!("a stream that panics, for the test")
            },
            "/panics-first" => |_, _, _| panic!("a stream that panics, for the test"),
            "/refused" => |_, _, _| Err(NoStream::Instead(Reply { status: 409, ..whole("not now\n") })),
            "/slow" => |_, _, _| {
                std::thread::sleep(Duration::from_secs(6));
                Err(NoStream::Instead(whole("at last\n")))
            },
            _ => return None,
        };
        Some(Page::Stream(Box::new(move |opening| {
            tap.running.fetch_add(1, Ordering::SeqCst);
            let running = Runs(&tap);
            act(running.0, &lines, opening)
        })))
    }
}

fn whole(text: &str) -> Reply {
    Reply { status: 200, content_type: TEXT, body: text.as_bytes().to_vec().into() }
}

fn taps() -> (Arc<Tap>, Sender<&'static str>, Arc<Taps>) {
    let (line, lines) = unbounded();
    let tap = Arc::<Tap>::default();
    (Arc::clone(&tap), line, Arc::new(Taps { tap, lines }))
}

fn serve(limits: ServerLimits) -> (Running, Arc<Tap>, Sender<&'static str>) {
    let (tap, line, pages) = taps();
    (Server::bind(SERVER, "127.0.0.1:0", limits).unwrap().start(&threads(), pages).unwrap(), tap, line)
}

/// A server whose connections carry one request.
fn serve_unix(limits: ServerLimits) -> (Running<()>, UnixListener, Arc<Tap>, Sender<&'static str>, std::path::PathBuf) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("netmon-http-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::SeqCst));
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let (tap, line, pages) = taps();
    let server = Server::unix(SERVER, listener.try_clone().unwrap(), (), limits).unwrap();
    (server.start(&threads(), pages).unwrap(), listener, tap, line, path)
}

/// Requests a stream, and reads the head of the answer.
fn open(server: &Running, path: &str) -> TcpStream {
    let mut stream = connect(server.local_addr());
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let head = read_answer(&mut stream, false).unwrap();
    assert_eq!(
        (head.status, head.header("transfer-encoding"), head.header("content-length")),
        (200, Some("chunked"), None)
    );
    stream
}

/// Reads the next chunk; the last one is empty.
fn chunk(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
    let mut chunk = vec![0; length + 2];
    stream.read_exact(&mut chunk)?;
    chunk.truncate(length);
    Ok(chunk)
}

#[test]
fn a_stream_is_read_as_it_is_written() {
    let (server, tap, line) = serve(limits());
    let mut stream = open(&server, "/lines");
    for text in ["one\n", "two\n"] {
        line.send(text).unwrap();
        assert_eq!(chunk(&mut stream).unwrap(), text.as_bytes());
    }
    drop(line);
    assert_eq!(chunk(&mut stream).unwrap(), b"");
    until("its thread has ended", || tap.running.load(Ordering::SeqCst) == 0);
    // The connection can be used again, as after any other answer.
    assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().body, b"hello\n");
    let head = ask(&mut stream, "HEAD", "/lines", "").unwrap();
    assert_eq!((head.status, head.header("allow")), (405, Some("GET")));
    let refused = ask(&mut stream, "GET", "/refused", "").unwrap();
    assert_eq!((refused.status, &refused.body[..]), (409, &b"not now\n"[..]));
    assert_eq!(ask(&mut stream, "GET", "/panics-first", "").unwrap().status, 500);
    assert_eq!(ask(&mut stream, "GET", "/", "").unwrap().body, b"hello\n");
}

#[test]
fn a_stream_that_is_not_completed_does_not_look_as_if_it_were() {
    let (server, _tap, _line) = serve(limits());
    for path in ["/broken", "/panics"] {
        let mut stream = connect(server.local_addr());
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.ends_with(b"0\r\n\r\n"), "{path}: {:?}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(get(&server, "/").status, 200);
}

#[test]
fn streams_do_not_delay_pages() {
    let (server, tap, line) = serve(ServerLimits { streams: 12, ..limits() });
    let mut streams: Vec<TcpStream> = (0..12).map(|_| open(&server, "/lines")).collect();
    assert_eq!(tap.running.load(Ordering::SeqCst), 12);
    assert_eq!(get(&server, "/soon").body, b"soon\n");
    // Streams have a bound of their own.
    assert_eq!(get(&server, "/lines").status, 503);
    drop(line);
    assert_eq!(chunk(&mut streams[0]).unwrap(), b"");
    until("all have ended", || tap.running.load(Ordering::SeqCst) == 0);
    assert_eq!(get(&server, "/refused").status, 409);
}

#[test]
fn a_client_that_reads_slowly_holds_its_stream_up_and_is_not_cut_off() {
    let short = Duration::from_millis(150);
    let stall_time = 8 * short;
    let times = ServerLimits { connection_time: short, idle: short, header_time: short, stall_time, ..limits() };
    let (server, tap, _line) = serve(times.clone());
    let mut slow = open(&server, "/endless");
    let begun = Instant::now();
    while begun.elapsed() < 16 * short {
        slow.read_exact(&mut [0; 64 << 10]).unwrap();
        std::thread::sleep(short / 5);
    }
    // The maker is ahead by what the kernel holds, and little more.
    let written = tap.written.load(Ordering::SeqCst);
    std::thread::sleep(short);
    let ahead = tap.written.load(Ordering::SeqCst) - written;
    assert!(written < 32 << 20 && ahead < 8 << 20, "{written} bytes written, {ahead} more");
    // From now on it reads nothing.
    until("the client that reads nothing is closed", || tap.running.load(Ordering::SeqCst) == 0);
    assert!(slow.take_error().unwrap().is_some() || ends(&mut slow));

    // A client to which nothing is sent is not cut off either.
    let (server, tap, line) = serve(times);
    let mut quiet = open(&server, "/lines");
    std::thread::sleep(8 * short);
    line.send("still here\n").unwrap();
    assert_eq!(chunk(&mut quiet).unwrap(), b"still here\n");
    assert_eq!(tap.running.load(Ordering::SeqCst), 1);
}

#[test]
fn the_maker_of_a_stream_notices_the_end() {
    let (server, tap, _line) = serve(limits());
    for path in ["/lines", "/endless"] {
        let gone = open(&server, path);
        until("it runs", || tap.running.load(Ordering::SeqCst) == 1);
        drop(gone);
        until("the maker notices that the client has gone", || tap.running.load(Ordering::SeqCst) == 0);
    }
    let _streams = ["/lines", "/endless"].map(|path| open(&server, path));
    until("they run", || tap.running.load(Ordering::SeqCst) == 2);
    server.stop().unwrap();
    assert_eq!(tap.running.load(Ordering::SeqCst), 0, "its threads have ended with the server");
}

#[test]
fn a_quiet_stream_keeps_its_place_as_long_as_a_page_in_the_making() {
    let (server, _tap, line) =
        serve(ServerLimits { places: ConnectionLimits { own: 2, ..limits().places }, ..limits() });
    let mut quiet = open(&server, "/lines");
    // Longer than a client may read nothing although there is something to read.
    std::thread::sleep(Duration::from_millis(600));
    for _ in 0..3 {
        let mut silent = connect(server.local_addr());
        // The silent client can be closed only once the server has waited for its request for a moment.
        until("somebody else is answered", || {
            let mut stream = connect(server.local_addr());
            ask(&mut stream, "GET", "/", "Connection: close\r\n").is_ok_and(|answer| answer.status == 200)
        });
        assert!(ends(&mut silent));
    }
    line.send("still here\n").unwrap();
    assert_eq!(chunk(&mut quiet).unwrap(), b"still here\n");
    // But not for ever: when all places are taken, the oldest stream is closed.
    let _second = {
        let mut second = None;
        until("the last one's place is free", || {
            let mut stream = connect(server.local_addr());
            write!(stream, "GET /lines HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
            second = read_answer(&mut stream, false).ok().filter(|head| head.status == 200).map(|_| stream);
            second.is_some()
        });
        second
    };
    until("somebody else is answered", || {
        let mut stream = connect(server.local_addr());
        ask(&mut stream, "GET", "/", "Connection: close\r\n").is_ok_and(|answer| answer.status == 200)
    });
    assert!(ends(&mut quiet));
}

/// Sends a request on a connection that carries only one, and reads the whole answer.
fn ask_unix(path: &std::path::Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    // A client that is turned away may not be able to send everything.
    let _ = stream.write_all(request.as_bytes());
    read_unix(stream).0
}

/// Reads the whole answer; true if the connection then ends without a reset.
fn read_unix(mut stream: UnixStream) -> (String, bool) {
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer).is_ok();
    (String::from_utf8(answer).unwrap(), ended)
}

#[test]
fn a_client_that_makes_way_gets_the_reason() {
    let places = ConnectionLimits { others: 0, per_address: 0, own: 1 };
    let times = ServerLimits { one_request: true, patience: Duration::from_millis(2), places, ..limits() };
    let (_server, _listener, tap, _line, path) = serve_unix(times.clone());
    let connect = || {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    let hello = || ask_unix(&path, "GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut half = connect();
    half.write_all(b"GET /").unwrap();
    until("it is read", || hello().starts_with("HTTP/1.1 200 "));
    let (answer, _) = read_unix(half);
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("others wait"), "{answer}");
    let mut slow = connect();
    slow.write_all(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    until("it is in the making", || tap.running.load(Ordering::SeqCst) == 1);
    // While it is young, other clients are turned away.
    assert!(hello().starts_with("HTTP/1.1 503 "));
    until("it makes way", || hello().starts_with("HTTP/1.1 200 "));
    let (answer, _) = read_unix(slow);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("took too long to make"), "{answer}");
    std::fs::remove_file(&path).unwrap();

    let header_time = Duration::from_millis(100);
    let (_server, _listener, _, _, path) = serve_unix(ServerLimits { header_time, making_time: header_time, ..times });
    let late = ask_unix(&path, "GET /");
    assert!(late.starts_with("HTTP/1.1 408 ") && late.contains("within 100ms"), "{late}");
    let late = ask_unix(&path, "GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(late.starts_with("HTTP/1.1 503 ") && late.contains("not made within 100ms"), "{late}");
    // A request body that is not read does not destroy the answer.
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    write!(stream, "POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(100_000)).unwrap();
    let (answer, ended) = read_unix(stream);
    assert!(answer.starts_with("HTTP/1.1 405 ") && ended, "{answer}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_body_that_is_not_read_does_not_destroy_the_answer() {
    let server = super::start(limits());
    for _ in 0..50 {
        let mut stream = connect(server.local_addr());
        write!(stream, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n").unwrap();
        // The answer, and the end of the connection, may come before this.
        let _ = stream.write_all(&[b'x'; 200_000]);
        assert_eq!(read_answer(&mut stream, true).unwrap().status, 405);
        assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0, "and a proper end, not a reset");
    }
}
