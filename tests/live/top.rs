//! `netmon-cli top` on a terminal, which is tmux.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::control::{CLI, Operated};
use super::eventually;
use super::net::quiet_pair;
use super::traffic::udp_to;
use crate::needs_root;
use crate::support::netns::Netns;
use crate::support::sh;

/// A terminal with a shell, which ends when this value is dropped.
struct Terminal {
    server: String,
}

impl Terminal {
    fn open(name: &str, width: u16, height: u16) -> Terminal {
        let terminal = Terminal { server: format!("netmon-{}-{name}", std::process::id()) };
        let size = [width, height].map(|cells| cells.to_string());
        // -f: no user's settings.
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "-u",
            "new-session",
            "-d",
            "-x",
            &size[0],
            "-y",
            &size[1],
            "env PS1='$ ' sh",
        ]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.server]).args(arguments).env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn types(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
    }

    /// The contents of the screen, with the escapes for colours.
    fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows all of these; returns its contents.
    fn shows(&self, parts: &[&str]) -> String {
        let mut last = String::new();
        let shown = || {
            last = self.screen();
            parts.iter().all(|part| last.contains(part)).then(|| last.clone())
        };
        let awaited = format!("{parts:?} on the screen of {}", self.server);
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eventually(&awaited, shown)));
        seen.unwrap_or_else(|_| panic!("{awaited}:\n{last}"))
    }

    /// Starts top; the shell prints its exit code at the end.
    fn top(&self, agent: &Operated, environment: &str, arguments: &str) {
        let socket = agent.socket();
        self.types(&format!(
            "clear; {environment} {CLI} --socket {} top --interval 250ms {arguments}; echo \"exit=$?.\"",
            socket.display()
        ));
        self.keys(&["Enter"]);
    }

    /// Waits for the end of top: the terminal must be as it was before.
    fn ended(&self, code: i32) {
        self.shows(&[&format!("exit={code}.")]);
        assert_eq!(self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "0 1");
        self.types("stty -a");
        self.keys(&["Enter"]);
        eventually("a terminal as shells like it", || {
            let screen = self.screen();
            ["icanon", "echo", "isig", "icrnl"]
                .iter()
                .all(|set| screen.split_whitespace().any(|word| word == *set))
                .then_some(())
        });
    }

    /// The process that the shell waits for.
    fn running(&self) -> u32 {
        let shell = self.tmux(&["list-panes", "-F", "#{pane_pid}"]);
        let children = format!("/proc/{0}/task/{0}/children", shell.trim());
        eventually("a child of the shell", || std::fs::read_to_string(&children).unwrap().trim().parse().ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.server, "kill-server"]).output();
    }
}

/// A continuous connection to port 7000 of the server, and datagrams to its port 9, where nothing listens.
struct Traffic {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    fn start(client: &Netns, server: &Netns) -> Traffic {
        let listener = server.run(|| TcpListener::bind("10.9.0.2:7000").unwrap());
        let closed: SocketAddr = "10.9.0.2:9".parse().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let send = move || {
            let mut stream = TcpStream::connect("10.9.0.2:7000").unwrap();
            let mut round = 0;
            while !stopped.load(Ordering::Relaxed) {
                stream.write_all(&[7; 4000]).unwrap();
                if round % 25 == 0 {
                    // A new flow each time.
                    let _ = udp_to(closed).send(b"anybody?");
                }
                round += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let sender = client.run(|| std::thread::spawn(send));
        let mut accepted = listener.accept().unwrap().0;
        let receiver = std::thread::spawn(move || drop(std::io::copy(&mut accepted, &mut std::io::sink())));
        Traffic { stop, threads: vec![sender, receiver] }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// The escape for red.
const RED: &str = "\x1b[38;5;1m";

#[test]
fn on_a_terminal() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "top", &[]);
    let _traffic = Traffic::start(&a, &b);
    let terminal = Terminal::open("top", 140, 24);
    terminal.top(&agent, "", "");
    terminal.shows(&["1 Flows", "RATE/S▼", "10.9.0.2:7000", "established", "failed: refused", "█"]);
    eventually("failures are red", || {
        let failed = |line: &str| line.contains("10.9.0.2:9 ") && line.contains("failed: refused");
        let screen = terminal.coloured();
        let at = screen.lines().position(failed)?;
        // tmux has an escape only where a colour begins.
        screen.lines().take(at + 1).any(|line| line.contains(RED)).then_some(())
    });

    terminal.keys(&["2"]);
    terminal.shows(&["FLOWS", "10.9.0.1", "pairs", " refused"]);
    eventually("the pair with most of the traffic is first", || {
        let screen = terminal.screen();
        let first = screen.lines().skip_while(|line| !line.contains("FLOWS")).nth(1)?;
        first.trim_start().starts_with("10.9.0.1").then_some(())
    });
    terminal.keys(&["Enter"]);
    terminal.shows(&["filter: client_ip=10.9.0.1 and server_ip=10.9.0.2", "10.9.0.2:7000"]);
    terminal.keys(&["BSpace"]);
    terminal.shows(&["RATE/S▼", "FLOWS"]);
    terminal.keys(&["3"]);
    terminal.shows(&["SERVICE", "10.9.0.2:7000", "10.9.0.2:9", "services"]);

    terminal.keys(&["1", "/"]);
    terminal.types("protocol=tcp and servr_port=7000");
    terminal
        .shows(&["filter: protocol=tcp and servr_port=7000", "column 18: there is no field servr_port: did you mean"]);
    terminal.keys(&["Enter", "C-u"]);
    terminal.types("server_port=9");
    terminal.keys(&["Enter"]);
    eventually("the filter is in force", || {
        let screen = terminal.screen();
        (screen.contains("filter: server_port=9") && screen.contains("10.9.0.2:9") && !screen.contains(":7000"))
            .then_some(())
    });
    terminal.keys(&["x", "s"]);
    terminal.shows(&["PKT/S▼", ":7000"]);
    terminal.keys(&["r"]);
    terminal.shows(&["PKT/S▲"]);

    terminal.keys(&["?"]);
    terminal.shows(&["only failures, or all again"]);
    terminal.keys(&["Escape"]);
    // Read together, Escape and a letter are another key.
    eventually("the help is gone", || (!terminal.screen().contains("only failures, or all again")).then_some(()));
    terminal.keys(&["p"]);
    terminal.shows(&["PAUSED"]);
    terminal.keys(&["p"]);
    terminal.shows(&["every 250ms"]);

    terminal.tmux(&["resize-window", "-x", "70", "-y", "12"]);
    eventually("the narrow screen", || {
        let screen = terminal.screen();
        let lines: Vec<&str> = screen.lines().collect();
        let fits = lines.len() <= 12 && lines.iter().all(|line| line.chars().count() <= 70);
        (fits && screen.contains("CLIENT") && !screen.contains("RTT MS") && screen.contains("? help")).then_some(())
    });
    terminal.tmux(&["resize-window", "-x", "140", "-y", "24"]);
    terminal.shows(&["RTT MS"]);
    terminal.keys(&["q"]);
    terminal.ended(0);

    // Without colours, and ended by a signal.
    terminal.top(&agent, "NO_COLOR=1", "--sort failures");
    terminal.shows(&["failed: refused", "STATE▼"]);
    let screen = terminal.coloured();
    assert!(!screen.contains("\x1b[38;") && !screen.contains("\x1b[48;"), "{screen:?}");
    sh(&format!("kill -TERM {}", terminal.running()));
    terminal.ended(143);
}

#[test]
fn an_agent_that_goes_and_comes_back() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "gone", &[]);
    let terminal = Terminal::open("gone", 100, 16);
    terminal.top(&agent, "", "");
    terminal.shows(&["no flows"]);
    agent.program.signal("TERM");
    terminal.shows(&["no agent answers on"]);
    let socket = agent.socket();
    let mut next =
        super::binary::Program::start(&b, &["--interface", "vb", "--socket", socket.to_str().unwrap()], false);
    next.wait_for("ready");
    terminal.shows(&["no flows", "? help"]);
    terminal.keys(&["C-c"]);
    terminal.ended(0);
}

#[test]
fn it_ends_with_its_terminal() {
    needs_root!();
    let (_a, b) = quiet_pair();
    let agent = Operated::start(&b, "hangup", &[]);
    let terminal = Terminal::open("hangup", 100, 16);
    terminal.top(&agent, "", "");
    terminal.shows(&["no flows"]);
    let top = terminal.running();
    drop(terminal);
    // A process that is gone, or waits to be reaped, does not spin.
    let state = || std::fs::read_to_string(format!("/proc/{top}/stat")).ok();
    eventually("the end of top", || state().is_none_or(|stat| stat.contains(") Z ")).then_some(()));
}

#[test]
fn without_a_terminal() {
    needs_root!();
    let (a, b) = quiet_pair();
    let agent = Operated::start(&b, "lines", &[]);
    let _traffic = Traffic::start(&a, &b);
    let (code, said) = agent.refused(&["top"]);
    assert!(code == 1 && said.contains("top needs a terminal"), "{code}: {said}");
    let top = eventually("a flow with a rate", || {
        let text =
            agent.says(&["-o", "json", "top", "--by", "services", "--count", "1", "--filter", "server_port=7000"]);
        let top: Value = serde_json::from_str(&text).unwrap();
        // 50 times 4000 bytes a second plus headers; less if the machine is busy.
        (top["bytes_per_s"].as_f64().unwrap() > 20_000.0).then_some(top)
    });
    let row = &top["rows"][0];
    assert_eq!((&row["server"], &row["flows"], &row["client"]), (&"10.9.0.2:7000".into(), &1.into(), &Value::Null));
    assert_eq!(row["bytes_per_s"], top["bytes_per_s"]);
    let lines = agent.says(&["-o", "json", "top", "--count", "3", "--interval", "250ms", "--sort", "failures"]);
    assert_eq!(lines.lines().count(), 3);
    for (arguments, code, part) in [
        (&["top", "--filter", "servr_port=1"][..], 1, "did you mean server_port?"),
        (&["top", "--sort", "beauty"], 2, "failures"),
        (&["top", "--by", "colour"], 2, "pairs"),
        (&["top", "--interval", "1ms"], 2, "from 250ms to 1h"),
        (&["top", "--count", "1"], 1, "--count needs -o json"),
    ] {
        let (got, said) = agent.refused(arguments);
        assert!(got == code && said.contains(part), "{arguments:?}: {got}: {said}");
    }
    let answer = |query: &str| {
        let url = format!("http://netmon/v1/top?{query}");
        sh(&format!("curl -s --unix-socket {} '{url}'", agent.socket().display()))
    };
    assert!(answer("sort=beauty").contains("valid: rate, packets, bytes, rtt, failures, retransmits, flows, start"));
    assert!(answer("limit=1001").contains("at most 1000"));
    assert!(answer("by=pairs&limit=1&filter=server_port%3D7000").contains("\"rows_total\":1"));
}
