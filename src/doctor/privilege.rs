//! Checks the capabilities one by one.

use caps::{CapSet, Capability};

use super::{Check, Help};
use crate::config::Config;

/// A capability and what it is needed for.
struct Need {
    capability: Capability,
    /// True if CAP_SYS_ADMIN includes it, because it was split off from that in Linux 5.8.
    split: bool,
    required: bool,
    what: &'static str,
}

fn needs(config: &Config) -> [Need; 5] {
    [
        Need { capability: Capability::CAP_BPF, split: true, required: true, what: "to load BPF programs" },
        Need {
            capability: Capability::CAP_PERFMON,
            split: true,
            required: true,
            what: "to load programs that read the kernel's memory",
        },
        Need { capability: Capability::CAP_NET_ADMIN, split: false, required: true, what: "to attach to interfaces" },
        Need {
            capability: Capability::CAP_SYS_ADMIN,
            split: false,
            required: config.pod_namespaces,
            what: "to enter other network namespaces, and to read the names of programs",
        },
        Need {
            capability: Capability::CAP_SYS_PTRACE,
            split: false,
            required: false,
            what: "to find the owners of programs on the interfaces",
        },
    ]
}

/// One check for each capability.
pub(super) fn capabilities(config: &Config, help: Help) -> Vec<Check> {
    needs(config)
        .iter()
        .map(|wanted| check(wanted, help, |capability| caps::has_cap(None, CapSet::Effective, capability)))
        .collect()
}

fn check(wanted: &Need, help: Help, has: impl Fn(Capability) -> Result<bool, caps::errors::CapsError>) -> Check {
    let name = wanted.capability.to_string();
    let held = has(wanted.capability).and_then(|held| {
        Ok(match held {
            true => Some(wanted.what.to_owned()),
            false if wanted.split && has(Capability::CAP_SYS_ADMIN)? => Some("included in CAP_SYS_ADMIN".to_owned()),
            false => None,
        })
    });
    let remedy = || help.capability(name.strip_prefix("CAP_").unwrap_or(&name));
    match held {
        Err(error) => Check::unknown(&name, &error.to_string()),
        Ok(Some(detail)) => Check::ok(name, detail),
        Ok(None) if wanted.required => Check::fail(name.clone(), format!("missing: needed {}", wanted.what), remedy()),
        Ok(None) => {
            Check::warn(name.clone(), format!("missing: netmon runs without it; used {}", wanted.what), remedy())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn status(config: &Config, held: &[Capability]) -> Vec<Status> {
        needs(config)
            .iter()
            .map(|wanted| check(wanted, Help::Host, |capability| Ok(held.contains(&capability))).status)
            .collect()
    }

    #[test]
    fn each_missing_capability_has_its_own_line() {
        use Status::{Fail, Ok, Warn};
        let config = Config::default();
        assert_eq!(status(&config, &[]), [Fail, Fail, Fail, Warn, Warn]);
        assert_eq!(status(&config, &[Capability::CAP_SYS_ADMIN]), [Ok, Ok, Fail, Ok, Warn], "it includes two");
        assert_eq!(status(&config, &[Capability::CAP_BPF, Capability::CAP_NET_ADMIN]), [Ok, Fail, Ok, Warn, Warn]);
        let pods = Config { pod_namespaces: true, ..config };
        assert_eq!(status(&pods, &[Capability::CAP_BPF])[3], Fail, "namespaces cannot be entered without it");
    }
}
