//! A run as files: JSON for programs, Markdown with a picture for people.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use indicatif::BinaryBytes;

use super::{Run, plot, print};

/// Writes `NAME-TIME.json`, `.md` and `.svg`; returns their paths.
///
/// # Errors
///
/// A file cannot be written.
pub fn write(run: &Run, folder: &Path, name: &str) -> Result<[PathBuf; 3]> {
    // 2026-01-31T12:00:00Z, without what file names should not have.
    let stem = format!("{name}-{}", run.started.trim_end_matches('Z').replace(':', "").replace('T', "-"));
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    give(folder)?;
    let picture = format!("{stem}.svg");
    let files = [
        ("json", serde_json::to_string_pretty(run)? + "\n"),
        ("md", markdown(run, name, &picture)),
        ("svg", plot::svg(&run.samples)?),
    ];
    let paths = files.map(|(kind, text)| -> Result<PathBuf> {
        let path = folder.join(format!("{stem}.{kind}"));
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        give(&path)?;
        Ok(path)
    });
    let [json, markdown, svg] = paths;
    Ok([json?, markdown?, svg?])
}

/// Gives a file to the user who called sudo.
fn give(path: &Path) -> Result<()> {
    let id = |name: &str| std::env::var(name).ok()?.parse().ok();
    let (user, group) = (id("SUDO_UID"), id("SUDO_GID"));
    chown(path, user, group).with_context(|| format!("give {} to its user", path.display()))
}

fn markdown(run: &Run, name: &str, picture: &str) -> String {
    let machine = &run.machine;
    let title = format!("netmon: {name} of {}", run.started);
    format!(
        "# {title}\n\n\
         {} on {} x {}, {} memory, Linux {}; load average before: {}.\n\n\
         {} connections planned over {:.0} s; they took {:.1} s.\n\n\
         ## What was sent and what the agent saw\n\n{}\n\n{}\n\n{}\n\n\
         ## What the agent took\n\n{}\n\n![CPU time, memory, rates and losses over time]({picture})\n\n\
         ## The parts\n\n{}",
        run.netmon,
        machine.cpus,
        machine.model,
        BinaryBytes(machine.memory_bytes),
        machine.kernel,
        machine.load_average,
        run.connections,
        run.duration_s,
        run.took_s,
        print::parts(run, ASCII_MARKDOWN),
        print::verdict(run),
        print::losses(run),
        print::agent(run, ASCII_MARKDOWN),
        run.parts.iter().map(|part| format!("- {}: {}\n", part.name, part.about)).collect::<String>()
    )
}
