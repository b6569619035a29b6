//! Measures the work of the kernel's verifier on the programs. It gives up at a million instructions, and older kernels examine more
//! than newer ones: the measurement shows how far away the limit is.

use std::ffi::{CStr, c_char};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libbpf_rs::{AsRawLibbpf, OpenObject};

/// BPF_LOG_STATS of the kernel's include/linux/bpf_verifier.h: a few lines at the end, nothing for each instruction.
const LOG_STATS: u32 = 4;
/// Room for these lines, and for the reason if a program is refused.
const LOG_BYTES: usize = 64 << 10;

/// Number of instructions that the verifier examines before it refuses a program (BPF_COMPLEXITY_LIMIT_INSNS).
pub const MOST_INSTRUCTIONS: u32 = 1_000_000;

/// The verifier's work on a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Name of the program.
    pub program: String,
    /// Number of instructions examined, each counted as often as it was.
    pub instructions: u32,
    /// Time it took.
    pub took: Duration,
}

/// The logs of programs that are about to be loaded. They must outlive the load.
#[derive(Debug, Default)]
pub(super) struct VerifierLogs(Vec<(String, Vec<u8>)>);

impl VerifierLogs {
    /// Requests the logs of all programs of the object.
    pub(super) fn of(object: &mut OpenObject) -> VerifierLogs {
        let mut logs = VerifierLogs::default();
        for mut program in object.progs_mut() {
            let mut log = vec![0; LOG_BYTES];
            program.set_log_level(LOG_STATS);
            // SAFETY: the program is not loaded yet; the buffer has the given size, and does not move while it is kept.
            unsafe {
                libbpf_sys::bpf_program__set_log_buf(
                    program.as_libbpf_object().as_ptr(),
                    log.as_mut_ptr().cast::<c_char>(),
                    log.len() as _,
                )
            };
            logs.0.push((program.name().to_string_lossy().into_owned(), log));
        }
        logs
    }

    /// Evaluates the logs once the programs are loaded; programs that were not loaded are left out.
    pub(super) fn read(&self) -> Result<Vec<Verified>> {
        let said = |(program, log): &(String, Vec<u8>)| -> Result<Option<Verified>> {
            let log = CStr::from_bytes_until_nul(log).context("the verifier's log has no end")?.to_string_lossy();
            if log.is_empty() {
                return Ok(None);
            }
            let (instructions, took) = parse(&log).with_context(|| format!("{program}: {log}"))?;
            Ok(Some(Verified { program: program.clone(), instructions, took }))
        };
        let all: Vec<Verified> = self.0.iter().filter_map(|log| said(log).transpose()).collect::<Result<_>>()?;
        ensure!(!all.is_empty(), "the verifier does not report its work");
        Ok(all)
    }
}

/// "verification time 512 usec" and "processed 1234 insns (limit 1000000) …" (Linux 5.2 on).
fn parse(log: &str) -> Result<(u32, Duration)> {
    let after = |start: &str| -> Result<u32> {
        let rest = log.lines().find_map(|line| line.trim().strip_prefix(start));
        let number = rest.and_then(|rest| rest.split_whitespace().next()).context("no such line");
        Ok(number.with_context(|| start.to_owned())?.parse()?)
    };
    Ok((after("processed ")?, Duration::from_micros(after("verification time ")?.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_verifier_says() {
        let log = "func#0 @0\nverification time 83415 usec\nstack depth 136+0+64\nprocessed 120345 insns (limit 1000000) \
                   max_states_per_insn 35 total_states 6789 peak_states 1234 mark_read 56\n";
        assert_eq!(parse(log).unwrap(), (120_345, Duration::from_micros(83_415)));
        assert!(format!("{:#}", parse("processed 7 insns\n").unwrap_err()).contains("verification time"));
    }
}
