//! The addresses that the server listens on, and its end.

use super::*;
use crate::support::late::Lateness;

#[test]
fn addresses() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = |address: &str| format!("{:#}", Server::bind(SERVER, address, limits()).err().unwrap());
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
    // All addresses: IPv4 always, and IPv6 if the host has it.
    let server = Server::bind(SERVER, ":0", limits()).unwrap().start(&threads(), Arc::new(Book)).unwrap();
    let port = server.local_addr().port();
    let v4 = ask(&mut connect(([127, 0, 0, 1], port).into()), "GET", "/", "");
    assert_eq!(v4.unwrap().status, 200);
    if TcpListener::bind("[::1]:0").is_ok() {
        let v6 = ask(&mut connect(format!("[::1]:{port}").parse().unwrap()), "GET", "/", "");
        assert_eq!(v6.unwrap().status, 200);
    }
}

#[test]
fn the_thread_of_a_server_is_in_the_list() {
    let (threads, deaths) = Threads::new();
    let server = Server::bind(SERVER, "127.0.0.1:0", limits()).unwrap().start(&threads, Arc::new(Book)).unwrap();
    assert_eq!(threads.running(), ["nm-metrics"]);
    server.stop().unwrap();
    assert!(threads.running().is_empty() && deaths.try_recv().is_err());
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
    // The answer is half written when the stop comes, but this client reads, so it gets the rest.
    let mut reading = connect(address);
    reading.write_all(b"GET /large HTTP/1.1\r\n\r\n").unwrap();
    reading.read_exact(&mut [0; 12]).unwrap();

    let (begun, lateness) = (Instant::now(), Lateness::start());
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
    let late = lateness.most();
    assert!(took < Duration::from_millis(1500) + 5 * late, "{took:?}; the machine was late by {late:?}");
    assert!(rest.as_ref().is_ok_and(|rest| *rest > 8 << 20), "{rest:?}");
    assert!(ends(&mut silent) && ends(&mut half) && ends(&mut idle) && ends(&mut stuck));
    assert!(TcpStream::connect(address).is_err());

    // The stop is immediate if there is nothing to wait for, and a restart gets the same port.
    let again =
        Server::bind(SERVER, &address.to_string(), limits()).unwrap().start(&threads(), Arc::new(Book)).unwrap();
    let mut idle = connect(address);
    ask(&mut idle, "GET", "/", "").unwrap();
    let (begun, lateness) = (Instant::now(), Lateness::start());
    again.stop().unwrap();
    let (took, late) = (begun.elapsed(), lateness.most());
    assert!(took < Duration::from_millis(400) + 5 * late, "{took:?}; the machine was late by {late:?}");

    // The server is dropped without a stop.
    let server = start(limits());
    let address = server.local_addr();
    drop(server);
    until("a dropped server gives up its port", || TcpStream::connect(address).is_err());
}
