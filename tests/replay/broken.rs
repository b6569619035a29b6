//! Files that are cut off or damaged: complete packets are replayed, the error has the offset, and the exit status
//! shows the failure.

use std::process::Command;

use super::{NETMON, Scratch, captures, flows_of, replay, run, text};
use crate::needs_root;
use crate::support::copy_program;

fn http() -> (std::path::PathBuf, Vec<u8>) {
    let file = captures().into_iter().find(|path| path.ends_with("http.pcap")).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    (file, bytes)
}

/// The offset of each packet in a little-endian pcap file, and the end of the last one.
fn starts(file: &[u8]) -> Vec<usize> {
    let mut starts = vec![24];
    while let Some(&at) = starts.last().filter(|&&at| at < file.len()) {
        starts.push(at + 16 + u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize);
    }
    starts
}

#[test]
fn a_file_that_is_cut_off_yields_its_flows_so_far() {
    needs_root!();
    let (_, bytes) = http();
    let starts = starts(&bytes);
    let total = |flows: &[serde_json::Value]| -> u64 {
        let sides = ["client_packets", "server_packets"];
        flows.iter().map(|f| sides.iter().map(|side| f[side].as_u64().unwrap()).sum::<u64>()).sum()
    };
    for (whole, within) in [(0, 7), (5, 3), (5, 16), (10, 40)] {
        let cut = starts[whole] + within;
        let file = Scratch::holding("cut.pcap", &bytes[..cut]);
        let output = run(&["-o", "json", file.0.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(total(&flows_of(&output)), whole as u64);
        let error = text(&output.stderr);
        let place = format!("packet {} at offset {} needs", whole + 1, starts[whole]);
        assert!(error.contains("netmon: replay ") && error.contains("the file is cut off"), "{error}");
        assert!(error.contains(&place) && error.contains(&format!("has {within}; {whole} packets")), "{error}");
    }
    let file = Scratch::holding("damaged.pcap", &{
        let mut bytes = bytes.clone();
        bytes[starts[4] + 11] = 0x7f;
        bytes
    });
    let output = run(&["-o", "json", file.0.to_str().unwrap()], &[]);
    assert_eq!((output.status.code(), total(&flows_of(&output))), (Some(1), 4));
    assert!(text(&output.stderr).contains(&format!("packet 5 at offset {} is damaged", starts[4])));
}

#[test]
fn other_files_are_refused() {
    needs_root!();
    for (bytes, message) in [
        (&b""[..], "the file is empty"),
        (b"#!/bin/sh\necho this is a script, not a capture\n", "not a capture file (it starts with 23 21 2f 62)"),
    ] {
        let file = Scratch::holding("other", bytes);
        let output = run(&[file.0.to_str().unwrap()], &[]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(text(&output.stdout), "");
        let error = text(&output.stderr);
        assert!(error.contains(message) && error.contains(file.0.to_str().unwrap()), "{error}");
    }
    let output = run(&["/nonexistent.pcap"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "netmon: read /nonexistent.pcap: No such file or directory (os error 2)\n");
}

/// Only the headers, like a capture without traffic.
#[test]
fn a_capture_without_packets_has_no_flows() {
    needs_root!();
    let (_, bytes) = http();
    let file = Scratch::holding("none.pcap", &bytes[..24]);
    let path = file.0.to_str().unwrap();
    assert!(replay(&file.0).is_empty());
    let table = text(&run(&[path], &[]).stdout);
    assert!(table.contains("CLIENT") && table.lines().count() == 1, "{table}");
    assert!(text(&run(&["-o", "csv", path], &[]).stdout).starts_with("id,start,"));
}

#[test]
fn without_privilege_it_says_what_is_needed() {
    needs_root!();
    let (file, _) = http();
    // A user who may not read the program cannot run this test.
    let copy = Scratch::holding("http.pcap", &std::fs::read(file).unwrap());
    let program = Scratch::new("netmon");
    copy_program(NETMON, &program.0);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args([program.0.to_str().unwrap(), "replay", copy.0.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = text(&output.stderr);
    assert!(
        error.contains("no permission to load BPF programs: run as root (sudo netmon), or grant CAP_BPF"),
        "{error}"
    );
}

/// `netmon replay … | head` is no failure.
#[test]
fn a_reader_may_end_early() {
    needs_root!();
    let (file, _) = http();
    let command = format!("{{ {NETMON} replay -o json {}; echo $? >&2; }} | true", file.display());
    let output = Command::new("bash").args(["-c", &command]).output().unwrap();
    assert_eq!(text(&output.stderr), "0\n");
}

/// A replay that waits for input that does not come must end, once it has read what was available.
#[test]
fn a_replay_that_waits_ends_at_the_first_signal() {
    needs_root!();
    let (file, bytes) = http();
    let pipe = Scratch::new("pipe");
    let path = pipe.0.to_str().unwrap();
    crate::support::sh(&format!("mkfifo {path}"));
    let waits = |child: &std::process::Child| {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten();
        let links: Vec<_> = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).collect();
        links.contains(&pipe.0)
    };
    // The other end is not opened; is open but silent; has sent a part.
    for part in [None, Some(0), Some(24), Some(bytes.len() / 2), Some(bytes.len())] {
        for from_stdin in [false, true] {
            if from_stdin && part.is_none() {
                continue;
            }
            let mut command = Command::new(NETMON);
            command.args(["replay", "-o", "json", if from_stdin { "-" } else { path }]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            if from_stdin {
                command.stdin(std::fs::OpenOptions::new().read(true).write(true).open(&pipe.0).unwrap());
            }
            let mut child = crate::live::control::Killed(command.spawn().unwrap());
            crate::live::eventually("the pipe is open", || waits(&child.0).then_some(()));
            let writer = part.map(|part| {
                let mut writer = std::fs::OpenOptions::new().write(true).open(&pipe.0).unwrap();
                std::io::Write::write_all(&mut writer, &bytes[..part]).unwrap();
                writer
            });
            crate::live::eventually("all of it is read", || {
                let mut left: nix::libc::c_int = 0;
                if let Some(writer) = &writer {
                    // SAFETY: the integer outlives the call.
                    unsafe {
                        nix::libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(writer), nix::libc::FIONREAD, &mut left)
                    };
                }
                (left == 0).then_some(())
            });
            crate::live::eventually("it sleeps, with nothing left to be read", || {
                let state = std::fs::read_to_string(format!("/proc/{}/wchan", child.0.id())).unwrap_or_default();
                state.contains("poll").then_some(())
            });
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.0.id() as i32), nix::sys::signal::Signal::SIGTERM)
                .unwrap();
            let status = crate::live::eventually("its end", || child.0.try_wait().unwrap());
            let mut output = std::process::Output { status, stdout: Vec::new(), stderr: Vec::new() };
            std::io::Read::read_to_end(&mut child.0.stdout.take().unwrap(), &mut output.stdout).unwrap();
            std::io::Read::read_to_end(&mut child.0.stderr.take().unwrap(), &mut output.stderr).unwrap();
            let said = text(&output.stderr);
            assert_eq!(status.code(), Some(1), "{part:?} {from_stdin}: {said}");
            assert!(said.contains("interrupted"), "{part:?} {from_stdin}: {said}");
            if part == Some(bytes.len()) {
                let whole = run(&["-o", "json", file.to_str().unwrap()], &[]);
                assert_eq!(flows_of(&output).len(), flows_of(&whole).len(), "the flows so far are printed");
            }
        }
    }
}
