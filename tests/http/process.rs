//! The server's use of threads and file descriptors.

use super::*;
use crate::function_name;

/// Runs one test of this file in a process of its own, under a shell's limits. True in that process, where the caller
/// then runs the test.
fn alone(test: &str, shell: &str) -> bool {
    let test = test.split_once("::").unwrap().1; // the crate
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
    if !alone(function_name!(), "") {
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
    if !alone(function_name!(), "ulimit -n 64;") {
        return;
    }
    log::set_logger(&CountAcceptErrors).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let server = start(limits());
    let mut files: Vec<std::fs::File> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(files.len() > 10 && files.len() < 64);
    // The client takes the only free descriptor, so that the server has none to accept the connection.
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
