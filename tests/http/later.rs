//! Pages that take a while.

use super::*;

/// The two share what tells how far their pages are.
#[test]
fn a_page_that_takes_a_while_holds_up_nobody() {
    let server = start(Limits { header_time: Duration::from_millis(100), ..limits() });
    let mut slow = connect(server.local_addr());
    slow.write_all(b"GET /later HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    until("it is in the making", || MAKING.load(Ordering::SeqCst) == 1);
    assert_eq!(get(&server, "/").body, b"hello\n");
    let head = ask(&mut connect(server.local_addr()), "HEAD", "/later", "").unwrap();
    assert_eq!((head.status, head.header("allow")), (405, Some("GET")));

    // Who goes away is not waited for.
    let mut gone = connect(server.local_addr());
    gone.write_all(b"GET /later HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    until("a second one is in the making", || MAKING.load(Ordering::SeqCst) == 2);
    drop(gone);
    until("it is given up", || MAKING.load(Ordering::SeqCst) == 1);

    // The time for the request's header is over long since, which says nothing about the page.
    std::thread::sleep(Duration::from_millis(300));
    DONE.store(true, Ordering::SeqCst);
    assert_eq!(read_answer(&mut slow, true).unwrap().body, b"at last\n");
    DONE.store(false, Ordering::SeqCst);

    // One that takes too long.
    let hasty = start(Limits { making_time: Duration::from_millis(50), ..limits() });
    let mut late = connect(hasty.local_addr());
    late.write_all(b"GET /later HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(ends(&mut late));
    until("it is given up", || MAKING.load(Ordering::SeqCst) == 0);

    // The server's end.
    let mut last = connect(server.local_addr());
    last.write_all(b"GET /later HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    until("it is in the making", || MAKING.load(Ordering::SeqCst) == 1);
    server.stop().unwrap();
    assert_eq!(MAKING.load(Ordering::SeqCst), 0);
}

#[test]
fn a_query_is_handed_on() {
    let server = start(limits());
    assert_eq!(get(&server, "/query?a=b&c=%20").body, b"a=b&c=%20");
    assert_eq!(get(&server, "/query").body, b"");
}
