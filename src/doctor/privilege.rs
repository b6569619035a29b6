//! Capabilities, one by one.

use caps::{CapSet, Capability};

use super::{Check, Help};
use crate::config::Config;

/// What a capability is for.
struct Use {
    capability: Capability,
    /// CAP_SYS_ADMIN stands for it: it was split off that in Linux 5.8.
    split: bool,
    required: bool,
    what: &'static str,
}

fn uses(config: &Config) -> [Use; 5] {
    [
        Use { capability: Capability::CAP_BPF, split: true, required: true, what: "to load BPF programs" },
        Use {
            capability: Capability::CAP_PERFMON,
            split: true,
            required: true,
            what: "to load programs that read the kernel's memory",
        },
        Use { capability: Capability::CAP_NET_ADMIN, split: false, required: true, what: "to attach to interfaces" },
        Use {
            capability: Capability::CAP_SYS_ADMIN,
            split: false,
            required: config.pod_namespaces,
            what: "to look into other network namespaces, and for names of programs",
        },
        Use {
            capability: Capability::CAP_SYS_PTRACE,
            split: false,
            required: false,
            what: "to tell whose programs are on the interfaces",
        },
    ]
}

/// A line each.
pub(super) fn capabilities(config: &Config, help: Help) -> Vec<Check> {
    uses(config)
        .iter()
        .map(|wanted| check(wanted, help, |capability| caps::has_cap(None, CapSet::Effective, capability)))
        .collect()
}

fn check(wanted: &Use, help: Help, has: impl Fn(Capability) -> Result<bool, caps::errors::CapsError>) -> Check {
    let name = wanted.capability.to_string();
    let held = has(wanted.capability).and_then(|held| {
        Ok(match held {
            true => Some(wanted.what.to_owned()),
            false if wanted.split && has(Capability::CAP_SYS_ADMIN)? => Some("CAP_SYS_ADMIN stands for it".to_owned()),
            false => None,
        })
    });
    let remedy = || help.capability(name.strip_prefix("CAP_").unwrap_or(&name));
    match held {
        Err(error) => Check::unknown(&name, &error.to_string()),
        Ok(Some(detail)) => Check::ok(name, detail),
        Ok(None) if wanted.required => {
            Check::fail(name.clone(), format!("missing: it is needed {}", wanted.what), remedy())
        }
        Ok(None) => {
            Check::warn(name.clone(), format!("missing: netmon runs without; it is used {}", wanted.what), remedy())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn status(config: &Config, held: &[Capability]) -> Vec<Status> {
        uses(config)
            .iter()
            .map(|wanted| check(wanted, Help::Host, |capability| Ok(held.contains(&capability))).status)
            .collect()
    }

    #[test]
    fn what_is_missing_shows_in_its_own_line() {
        use Status::{Fail, Ok, Warn};
        let config = Config::default();
        assert_eq!(status(&config, &[]), [Fail, Fail, Fail, Warn, Warn]);
        assert_eq!(status(&config, &[Capability::CAP_SYS_ADMIN]), [Ok, Ok, Fail, Ok, Warn], "it stands for two");
        assert_eq!(status(&config, &[Capability::CAP_BPF, Capability::CAP_NET_ADMIN]), [Ok, Fail, Ok, Warn, Warn]);
        let pods = Config { pod_namespaces: true, ..config };
        assert_eq!(status(&pods, &[Capability::CAP_BPF])[3], Fail, "namespaces cannot be entered without");
    }
}
