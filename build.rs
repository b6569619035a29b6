//! Compiles the BPF programs into skeletons in OUT_DIR.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use libbpf_cargo::SkeletonBuilder;
use semver::Version;

/// The oldest clang whose output the verifiers of all supported kernels accept.
const CLANG_MIN: u32 = 14;

/// Sources to compile, and the names of their skeletons.
const OBJECTS: [(&str, &str); 7] = [
    ("bpf/netmon.bpf.c", "netmon.skel.rs"),
    ("bpf/preempt.bpf.c", "preempt.skel.rs"),
    // Varies packets in the kernel, for tests and benchmarks.
    ("tests/bpf/vary.bpf.c", "vary.skel.rs"),
    // Only the detection of application protocols, for tests.
    ("tests/bpf/detect.bpf.c", "detect.skel.rs"),
    ("tests/bpf/detect_all.bpf.c", "detect_all.skel.rs"),
    // Another party's programs next to the agent's, for tests.
    ("tests/bpf/foreign.bpf.c", "foreign.skel.rs"),
    // Loads only if the kernel supports its program types, for tests.
    ("tests/bpf/traced.bpf.c", "traced.skel.rs"),
];

fn main() -> Result<()> {
    let version = version()?;
    let (clang, clang_version) = find_clang()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    for (source, skeleton) in OBJECTS {
        SkeletonBuilder::new()
            .source(source)
            .clang(&clang)
            .clang_args(["-Ivmlinux", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"].map(OsStr::new))
            .build_and_generate(out.join(skeleton))
            .with_context(|| format!("compile {source}"))?;
    }
    for path in ["bpf", "vmlinux", "tests/bpf", "build.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=NETMON_VERSION");
    // The verifier's work depends on the compiler's version.
    println!("cargo::rustc-env=NETMON_CLANG={clang_version}");
    println!("cargo::rustc-env=NETMON_ARCH={}", env::var("CARGO_CFG_TARGET_ARCH").context("no target")?);
    println!("cargo::rustc-env=NETMON_VERSION={version}");
    println!("cargo::rustc-env=NETMON_COMMIT={}", commit()?);
    Ok(())
}

/// Finds a compiler and its version: `$CLANG` if set, otherwise `clang`, otherwise the newest `clang-NN`. The error says what to
/// install.
fn find_clang() -> Result<(PathBuf, u32)> {
    let named = env::var_os("CLANG").map(PathBuf::from);
    let candidates = match &named {
        Some(path) => vec![path.clone()],
        None => {
            std::iter::once("clang".into()).chain((CLANG_MIN..40).rev().map(|v| format!("clang-{v}").into())).collect()
        }
    };
    let mut too_old = None;
    for clang in candidates {
        match clang_version(&clang) {
            Some(version) if version >= CLANG_MIN => return Ok((clang, version)),
            Some(version) => too_old = Some((clang, version)),
            None => {}
        }
    }
    match (named, too_old) {
        (_, Some((clang, version))) => {
            bail!(
                "{} is version {version}: install clang {CLANG_MIN} or newer (Debian: apt-get install clang)",
                clang.display()
            )
        }
        (Some(clang), None) => {
            bail!("CLANG={} does not run: set it to a clang of version {CLANG_MIN} or newer", clang.display())
        }
        (None, None) => bail!("no clang found: install clang {CLANG_MIN} or newer (Debian: apt-get install clang)"),
    }
}

fn clang_version(clang: &PathBuf) -> Option<u32> {
    let output = Command::new(clang).arg("-dumpversion").output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().split('.').next()?.parse().ok()
}

/// The version that the programs report: `$NETMON_VERSION` if set, otherwise that of the crate.
fn version() -> Result<String> {
    let given = env::var("NETMON_VERSION").unwrap_or_default();
    if given.is_empty() {
        return env::var("CARGO_PKG_VERSION").context("no version");
    }
    Version::parse(&given).with_context(|| {
        format!("NETMON_VERSION={given} is no version: valid are those of SemVer, such as 1.2.3 or 1.2.3-rc.1")
    })?;
    Ok(given)
}

/// The commit that a release is built from; "dev" for debug builds, which would have to be built again after each commit.
fn commit() -> Result<String> {
    if env::var("PROFILE").context("no profile")? == "debug" {
        return Ok("dev".to_owned());
    }
    // The log changes with each commit and checkout. If a watched file did not exist, cargo would run this script every time.
    if let Some(log) = git(&["--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    Ok(git(&["--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned()))
}

/// Output of `git rev-parse`; `None` outside a checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("rev-parse").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
