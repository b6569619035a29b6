//! Checks the cluster that names come from, if there is one.

use super::Check;
use crate::config::Config;
use crate::names::{self, Denied, Enabled, NamesOptions, Reached};

const NAME: &str = "cluster";

pub(super) fn check(config: &Config) -> Vec<Check> {
    let options = NamesOptions {
        enabled: config.kubernetes,
        kubeconfig: config.kubeconfig.clone(),
        scope: config.scope,
        labels: config.chosen.keys(),
        ..NamesOptions::default()
    };
    match names::reach(&options) {
        Ok(None) if config.kubernetes == Enabled::Off => {
            vec![Check::ok(NAME, "not configured (kubernetes.enabled is off)")]
        }
        Ok(None) => {
            vec![Check::ok(NAME, "none: this is not a pod with a service account, and no kubeconfig is configured")]
        }
        Ok(Some(reached)) => vec![rights(&reached)],
        Err(error) => {
            let remedy =
                "check the API server's address, its certificate and the token; kubernetes.kubeconfig can name another";
            vec![Check::warn(NAME, format!("{error:#}: addresses stay without names"), remedy)]
        }
    }
}

fn rights(reached: &Reached) -> Check {
    let Reached { server, credentials, missing } = reached;
    if missing.is_empty() {
        return Check::ok(
            NAME,
            format!("{server} answers, and {credentials} may read all objects that names come from"),
        );
    }
    let is_serious = missing.iter().any(|(kind, _)| !kind.is_optional());
    let missing: Vec<String> = missing.iter().map(|(kind, verb)| format!("{verb} {}", kind.name())).collect();
    let detail = format!("{server} answers, but {credentials} may not {}: names are incomplete", missing.join(", "));
    let check = if is_serious { Check::fail } else { Check::warn };
    check(NAME.to_owned(), detail, Denied::REMEDY.to_owned())
}
