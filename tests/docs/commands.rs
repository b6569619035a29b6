//! What pages have people type: commands of netmon, and targets of make.

use std::collections::BTreeSet;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use netmon::cli::CliArgs;
use netmon::config::{Args, Given, Key, Settings, Sources, Whom};
use netmon::filter::{Field, Filter, PacketFilter};
use netmon::sinks::detect::{Kind, Severity};

use super::{Block, manual, pages, read, shell};

/// Languages of blocks: what is typed, what is typed and what it prints, and what is only shown.
const LANGUAGES: [&str; 9] = ["sh", "console", "text", "yaml", "json", "promql", "rust", "toml", "dot"];

/// The commands of a block: all of it, or what follows the prompts.
fn typed(block: &Block) -> Vec<Vec<String>> {
    match block.language.as_str() {
        "sh" => shell::commands(&block.text),
        "console" => {
            let mut text = String::new();
            let mut continued = false;
            for line in block.text.lines() {
                let typed = if continued { Some(line) } else { line.trim_start().strip_prefix("$ ") };
                if let Some(line) = typed {
                    text += line;
                    text.push('\n');
                    continued = line.ends_with('\\');
                }
            }
            shell::commands(&text)
        }
        _ => Vec::new(),
    }
}

/// The program's own definition, without what the environment of this test would change.
fn program(name: &str) -> Option<Command> {
    let command = match name.rsplit('/').next()? {
        "netmon" => Args::command(),
        "netmon-cli" => CliArgs::command(),
        _ => return None,
    };
    Some(command.mut_args(|arg| arg.env(None::<&str>)))
}

/// Parses a command of netmon as the program does, and what its arguments say.
fn parse(words: &[String]) -> Result<(), clap::Error> {
    let Some(command) = program(&words[0]) else { return Ok(()) };
    let mut usage = command.clone();
    let matches = match command.try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut refuse = |message: String| usage.error(ErrorKind::ValueValidation, message);
    if words[0].ends_with("netmon") {
        let args = Args::from_arg_matches(&matches)?;
        args.check()?;
        let settings = Settings::read(&Sources { file: None, ..args.into_sources(std::iter::empty()) });
        return settings.map(drop).map_err(|error| refuse(format!("{error:#}")));
    }
    meaning(&matches).map_err(refuse)
}

/// What `netmon-cli` leaves to the agent to judge: filters, fields, keys and values.
fn meaning(matches: &ArgMatches) -> Result<(), String> {
    let (mut path, mut leaf) = (Vec::new(), matches);
    while let Some((name, inner)) = leaf.subcommand() {
        path.push(name);
        leaf = inner;
    }
    let text = |name: &str| leaf.try_get_one::<String>(name).ok().flatten();
    if let Some(filter) = text("filter") {
        let parsed = match path.as_slice() {
            ["debug", ..] => PacketFilter::parse(filter).map(drop),
            _ => Filter::parse(filter).map(drop),
        };
        parsed.map_err(|error| error.to_string())?;
    }
    if path == ["flows", "dump"]
        && let Some(field) = text("sort")
    {
        Field::named(field).ok_or(format!("there is no field {field}"))?;
    }
    if path.first() == Some(&"events") {
        return events(leaf);
    }
    if path.first() != Some(&"config") {
        return Ok(());
    }
    if let Some((key, value)) = leaf.try_get_one::<(String, String)>("assignment").ok().flatten() {
        let known = Key::named(key).ok_or_else(|| Key::unknown(key))?;
        if !known.live {
            return Err(format!("{key} takes a restart"));
        }
        let flags = vec![(known.path, key.clone(), Given::Text(value.clone()))];
        Settings::read(&Sources { flags, ..Sources::default() }).map_err(|error| format!("{error:#}"))?;
    }
    match text("key") {
        Some(key) if Key::named(key).is_none() => Err(Key::unknown(key)),
        _ => Ok(()),
    }
}

/// What an event is asked to be.
fn events(matches: &ArgMatches) -> Result<(), String> {
    let mut kinds = matches.get_many::<String>("kind").into_iter().flatten();
    if let Some(kind) = kinds.find(|name| !Kind::ALL.iter().any(|kind| kind.name() == name.as_str())) {
        return Err(format!("there is no kind {kind}"));
    }
    let severity = matches.get_one::<String>("severity");
    if let Some(severity) = severity.filter(|name| !Severity::ALL.iter().any(|one| one.name() == name.as_str())) {
        return Err(format!("there is no severity {severity}"));
    }
    for end in ["source", "target"] {
        if let Some(whom) = matches.get_one::<String>(end) {
            Whom::parse(whom).map_err(|error| format!("{end}: {error}"))?;
        }
    }
    Ok(())
}

#[test]
fn commands_in_blocks_parse() {
    let (mut count, mut wrong) = (0, Vec::new());
    for block in manual().iter().flat_map(|page| page.blocks()) {
        // An error that is shown has its command above it.
        let is_refused = block.text.contains("\nnetmon-cli: ") || block.text.contains("\nnetmon: ");
        for words in typed(&block).into_iter().filter(|words| program(&words[0]).is_some()) {
            count += 1;
            match parse(&words) {
                Err(error) if !is_refused => wrong.push(format!("{}: {}\n{error}", block.place, words.join(" "))),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 40, "found {count} commands alone");
}

/// The examples in what `--help` says: two blanks in front, and what they do behind three or more.
fn examples(command: &Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines = help.lines().skip_while(|line| *line != "Examples:").skip(1);
    let lines = lines.map_while(|line| line.strip_prefix("  "));
    let mut found: Vec<String> = lines.map(|line| line.split("   ").next().unwrap().to_owned()).collect();
    found.extend(command.get_subcommands().flat_map(examples));
    found
}

#[test]
fn examples_in_the_help_parse() {
    let found: Vec<String> = [Args::command(), CliArgs::command()].iter().flat_map(examples).collect();
    for words in found.iter().flat_map(|line| shell::commands(line)) {
        parse(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    }
    assert!(found.len() > 15, "{found:?}");
}

/// In running text a command may lack its arguments, but what is there has to exist.
#[test]
fn commands_in_sentences_exist() {
    let mut wrong = Vec::new();
    for (place, span) in pages().iter().flat_map(|page| page.spans()) {
        if !["netmon ", "netmon-cli ", "sudo netmon"].iter().any(|start| span.starts_with(start)) || span.contains('…')
        {
            continue;
        }
        for words in shell::commands(&span).into_iter().filter(|words| program(&words[0]).is_some()) {
            let Err(error) = parse(&words) else { continue };
            if matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand) {
                wrong.push(format!("{place}: {span}\n{error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Without one, nothing says whether a block is to be checked.
#[test]
fn every_block_has_a_language() {
    let blocks = manual().into_iter().flat_map(|page| page.blocks());
    let unknown = blocks.filter(|block| !LANGUAGES.contains(&block.language.as_str()));
    let unknown: Vec<String> = unknown.map(|block| format!("{}: {:?}", block.place, block.language)).collect();
    assert!(unknown.is_empty(), "valid are {LANGUAGES:?}:\n{}", unknown.join("\n"));
}

#[test]
fn targets_of_make_exist() {
    let makefile = read("Makefile");
    let target = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        (is_name && !rest.starts_with('=')).then(|| name.to_owned())
    };
    let there: BTreeSet<String> = makefile.lines().filter_map(target).collect();
    assert!(there.contains("test-kernels-all") && there.contains("help"), "{there:?}");
    let (mut count, mut missing) = (0, Vec::new());
    for page in pages() {
        let blocks = page.blocks().into_iter().flat_map(|block| {
            let commands = typed(&block).into_iter();
            commands.map(move |words| (block.place.clone(), words)).collect::<Vec<_>>()
        });
        let is_make = |span: &str| span.starts_with("make ") || span.contains(" make ");
        let spans = page.spans().into_iter().filter(|(_, span)| is_make(span));
        let spans =
            spans.flat_map(|(place, span)| shell::commands(&span).into_iter().map(move |words| (place.clone(), words)));
        for (place, words) in blocks.chain(spans).filter(|(_, words)| words[0] == "make") {
            let named = words[1..].iter().filter(|word| !word.contains('=') && !word.starts_with('-'));
            for name in named {
                count += 1;
                if !there.contains(name) {
                    missing.push(format!("{place}: make {name}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "targets that are not there:\n{}", missing.join("\n"));
    assert!(count > 20, "found {count} targets alone");
}

#[test]
fn what_is_wrong_is_found() {
    let wrong = |text: &str| shell::commands(text).iter().any(|words| parse(words).is_err());
    for text in [
        "netmon-cli flow dump",
        "sudo netmon --interfaces eth0",
        "netmon-cli flows dump --filter 'sttus=failed' | jq .",
        "netmon-cli events --kind portscan",
        "netmon-cli events watch --severity high",
        "netmon-cli events --source Web",
        "netmon-cli debug packet-trace on --filter 'status=failed'",
        "netmon-cli config set flow.max_agee=5m",
        "netmon-cli config set performance.workers=2",
        "kubectl exec -n netmon-system daemonset/netmon-agent -- netmon-cli statu",
        "netmon --socket /tmp/x replay a.pcap",
        "netmon --set flow.max_age=soon",
    ] {
        assert!(wrong(text), "{text}");
    }
    for text in ["netmon-cli -o json flows dump --sort bytes", "sudo netmon --help", "helm install netmon", "netmon"] {
        assert!(!wrong(text), "{text}");
    }
}
