//! Runs the image in a container with exactly what the DaemonSet requests: the user, the capabilities, the read-only
//! root, the limits, and the seccomp profile that runtimes use by default. runc runs it, with the process as containerd
//! would describe it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::manifests::with;
use super::{config, needs_tools, pod};
use crate::live::binary::Program;
use crate::live::metrics::get;
use crate::live::net::{host, quiet_pair};
use crate::live::traffic::transfer;
use crate::support::netns::Netns;
use crate::support::{not_run, sh};
use crate::{function_name, needs_root};

/// The profile of Podman, Buildah and CRI-O. Those of containerd and Docker are the same where it matters here, and
/// also grant bpf() and perf_event_open() to CAP_BPF and CAP_PERFMON.
const SECCOMP: &str = "/usr/share/containers/seccomp.json";

/// The unpacked image, which is deleted with this value.
struct Image {
    folder: PathBuf,
    config: Value,
}

impl Image {
    /// Unpacks the image that `scripts/test-image` has built.
    fn unpack(test: &str) -> Option<Image> {
        let Some(archive) = std::env::var_os("NETMON_IMAGE") else {
            not_run(test, "NETMON_IMAGE names no image: make test-image");
            return None;
        };
        let name = test.rsplit(':').next().unwrap();
        let folder = std::env::temp_dir().join(format!("netmon-image-{}-{name}", std::process::id()));
        let (at, archive) = (folder.display(), Path::new(&archive).display());
        sh(&format!("mkdir -p {at}/archive {at}/root && tar -xf {archive} -C {at}/archive"));
        let read = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join("archive").join(name)).unwrap()).unwrap()
        };
        let manifest = read("manifest.json");
        for layer in manifest[0]["Layers"].as_array().unwrap() {
            let layer = layer.as_str().unwrap();
            sh(&format!("tar --xattrs --xattrs-include=security.capability -xf {at}/archive/{layer} -C {at}/root"));
        }
        let config = read(manifest[0]["Config"].as_str().unwrap())["config"].take();
        Some(Image { folder, config })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Differences between container runtimes.
#[derive(Clone, Copy, PartialEq)]
enum Runtime {
    /// Every user has the requested capabilities.
    Containerd,
    /// A user other than root may have them, but starts without.
    Docker,
}

/// A container, which is removed with this value.
struct Container<'a> {
    bundle: PathBuf,
    id: String,
    ns: &'a Netns,
}

impl<'a> Container<'a> {
    /// The agent's container in a set of manifests, with `ns` as the node's network namespace.
    fn new(image: &Image, objects: &[Value], runtime: Runtime, ns: &'a Netns) -> Container<'a> {
        let (pod, container) = pod(objects);
        let id = format!("netmon-test-{}", ns.name);
        let bundle = image.folder.join(&id);
        for folder in ["", "run", "config"] {
            std::fs::create_dir_all(bundle.join(folder)).unwrap();
        }
        // Everybody may write to an emptyDir; a ConfigMap is read-only.
        sh(&format!("chmod 777 {}", bundle.join("run").display()));
        std::fs::write(bundle.join("config/config.yaml"), config(objects)).unwrap();
        let text = specification(image, pod, container, &bundle, runtime, ns);
        std::fs::write(bundle.join("config.json"), text.to_string()).unwrap();
        Container { bundle, id, ns }
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.bundle.join("state"));
        command
    }

    fn start(&self) -> Program {
        let mut command = self.runc();
        command.arg("run").arg("--bundle").arg(&self.bundle).arg(&self.id);
        Program::spawn(command)
    }

    /// Runs a command as `kubectl exec` does.
    fn exec(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.runc().arg("exec").arg(&self.id).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Like [`Container::exec`], with the standard output piped to a shell command, as in `kubectl exec … | …`; returns
    /// its output.
    fn exec_to(&self, reader: &str, arguments: &[&str]) -> String {
        let mut writer = self.runc();
        let mut writer = writer.arg("exec").arg(&self.id).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let out = writer.stdout.take().unwrap();
        let output = Command::new("sh").args(["-c", reader]).stdin(out).output().unwrap();
        assert!(writer.wait().unwrap().success() && output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn pid(&self) -> String {
        let output = self.runc().args(["state", &self.id]).output().unwrap();
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        state["pid"].to_string()
    }

    fn page(&self, path: &str) -> crate::live::metrics::Page {
        get(self.ns, "127.0.0.1:9090".parse().unwrap(), path)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.runc().args(["delete", "--force", &self.id]).output();
    }
}

/// The container's specification for runc.
fn specification(image: &Image, pod: &Value, container: &Value, bundle: &Path, runtime: Runtime, ns: &Netns) -> Value {
    let security = &container["securityContext"];
    let capabilities: Vec<String> = security["capabilities"]["add"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| format!("CAP_{}", name.as_str().unwrap()))
        .collect();
    let uid = &pod["securityContext"]["runAsUser"];
    let held = match runtime {
        Runtime::Docker if uid != 0 => Vec::new(),
        _ => capabilities.clone(),
    };
    let mut args = image.config["Entrypoint"].as_array().unwrap().clone();
    args.extend(container["args"].as_array().unwrap().iter().cloned());
    let mut env: Vec<String> =
        image.config["Env"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    for variable in container["env"].as_array().unwrap() {
        let value = variable["value"].as_str().unwrap_or("node-1");
        env.push(format!("{}={value}", variable["name"].as_str().unwrap()));
    }
    let limits = &container["resources"]["limits"];
    assert_eq!((&limits["memory"], &limits["cpu"]), (&json!("512Mi"), &json!("1")));

    let system = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        system("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        system("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        system("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ];
    for mount in container["volumeMounts"].as_array().unwrap() {
        let source = match mount["name"].as_str().unwrap() {
            "netns" => PathBuf::from("/run/netns"),
            name => bundle.join(name),
        };
        let mut options = vec!["rbind"];
        options.extend((mount["readOnly"] == true).then_some("ro"));
        options.push(if mount["mountPropagation"] == "HostToContainer" { "rslave" } else { "rprivate" });
        mounts.push(json!({"destination": mount["mountPath"], "type": "bind", "source": source, "options": options}));
    }
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": image.folder.join("root"), "readonly": security["readOnlyRootFilesystem"]},
        "process": {
            "user": {"uid": uid, "gid": pod["securityContext"]["runAsGroup"]},
            "args": args,
            "env": env,
            "cwd": image.config["WorkingDir"],
            "capabilities": {"bounding": capabilities, "permitted": held, "effective": held},
            "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"},
                {"type": "network", "path": format!("/run/netns/{}", ns.name)},
            ],
            "resources": {"memory": {"limit": 512 << 20}, "cpu": {"quota": 100_000, "period": 100_000}},
            "seccomp": seccomp(&capabilities),
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"],
            "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// The default profile, for a container with these capabilities.
fn seccomp(capabilities: &[String]) -> Value {
    let text = std::fs::read_to_string(SECCOMP).unwrap_or_else(|error| panic!("{SECCOMP}: {error}"));
    let profile: Value = serde_json::from_str(&text).unwrap();
    let has = |capability: &str| capabilities.iter().any(|held| held == capability);
    let any = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(|one| has(one.as_str().unwrap())));
    let architecture = match std::env::consts::ARCH {
        "aarch64" => ("SCMP_ARCH_AARCH64", "arm64"),
        _ => ("SCMP_ARCH_X86_64", "amd64"),
    };
    let granted = [("bpf", "CAP_BPF"), ("perf_event_open", "CAP_PERFMON")];
    let mut rules = Vec::new();
    for rule in profile["syscalls"].as_array().unwrap() {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let elsewhere = includes["arches"].as_array().is_some_and(|names| !names.contains(&json!(architecture.1)));
        let depends = !includes["minKernel"].is_null();
        if elsewhere || depends || (!includes["caps"].is_null() && !any(&includes["caps"])) || any(&excludes["caps"]) {
            continue;
        }
        let mut names = rule["names"].as_array().unwrap().clone();
        names.retain(|name| !granted.iter().any(|(call, capability)| name == call && has(capability)));
        let mut rule =
            json!({"names": names, "action": rule["action"], "args": rule["args"], "errnoRet": rule["errnoRet"]});
        rule.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        rules.push(rule);
    }
    for (call, capability) in granted {
        if has(capability) {
            rules.push(json!({"names": [call], "action": "SCMP_ACT_ALLOW"}));
        }
    }
    json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": [architecture.0], "syscalls": rules})
}

/// A line of a process's /proc/PID/status.
fn status(pid: &str, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().next().unwrap().to_owned()
}

const BPF_NET_ADMIN_PERFMON: &str = "000000c000001000";

#[test]
fn it_works() {
    needs_root!();
    needs_tools!();
    let Some(image) = Image::unpack(function_name!()) else { return };
    for components in [&[][..], &["root"]] {
        let (a, b) = quiet_pair();
        let container = Container::new(&image, &with(components), Runtime::Containerd, &b);
        let mut program = container.start();
        program.wait_for("] ready");
        let pid = container.pid();
        assert_eq!(status(&pid, "CapEff"), BPF_NET_ADMIN_PERFMON, "{components:?}");
        assert_eq!(
            (status(&pid, "CapBnd"), status(&pid, "CapInh")),
            (BPF_NET_ADMIN_PERFMON.to_owned(), "0".repeat(16))
        );
        assert_eq!((status(&pid, "NoNewPrivs"), status(&pid, "Seccomp")), ("1".to_owned(), "2".to_owned()));
        assert_eq!(status(&pid, "Uid"), if components.is_empty() { "65532" } else { "0" });

        transfer(&a, &b, "10.9.0.2".parse().unwrap(), 2, 1_000_000);
        super::super::live::eventually("two connections", || {
            let page = container.page("/metrics");
            (page.sum("netmon_flows_total", &["protocol=\"tcp\"", "status=\"ok\""]) == 2.0).then_some(())
        });
        let page = container.page("/metrics");
        assert!(page.sum("process_open_fds", &[]) > 0.0, "the agent reads its own status");
        for path in ["/healthz", "/readyz"] {
            assert_eq!(container.page(path).body, "ok\n");
        }
        let (passed, text) = container.exec(&["netmon-cli", "doctor"]);
        assert!(passed, "{components:?}: {text}");
        let (passed, text) = container.exec(&["netmon-cli", "status"]);
        assert!(passed && text.contains("node-1"), "{text}");
        for name in ["netmon-support.tar.gz", "netmon-support-1.tar.gz"] {
            let (passed, text) = container.exec(&["netmon-cli", "support-bundle"]);
            assert!(passed && text.starts_with(name), "{text}");
        }
        // The image has no tar, nor another way to copy a file out.
        for to in ["-", "/dev/stdout"] {
            let list = container.exec_to("tar tzf -", &["netmon-cli", "support-bundle", "--output", to]);
            assert!(list.contains("netmon-support/manifest.json"), "{to}: {list}");
        }
        let trace = ["netmon-cli", "debug", "packet-trace", "on", "--for", "1s", "--write", "-"];
        let read = container.exec_to("od -An -tx1 -N4; cat >/dev/null", &trace);
        assert_eq!(read.trim(), "0a 0d 0d 0a", "pcapng");
        let (passed, _) = container.exec(&["netmon-cli", "support-bundle", "--output", "/bundle.tar.gz"]);
        assert!(!passed, "the root file system is read-only");

        program.signal("TERM");
        let (status, took, log) = program.end();
        assert!(status.success() && took.as_secs() < 5, "{status} after {took:?}: {log:#?}");
        assert!(!log.iter().any(|line| line.contains("WARN") || line.contains("ERROR")), "{log:#?}");
    }
}

/// Entering other namespaces takes CAP_SYS_ADMIN and their names, but not root.
#[test]
fn it_watches_pods_in_their_namespaces() {
    needs_root!();
    needs_tools!();
    let Some(image) = Image::unpack(function_name!()) else { return };
    let (node, inside) = (host("node"), host("pod"));
    node.sh("ip link add nic type veth peer name other && ip link set nic up");
    sh(&format!(
        "ip -n {} link add mv link nic type macvlan && ip -n {0} link set mv netns {} up",
        node.name, inside.name
    ));
    let container = Container::new(&image, &with(&["pod-namespaces"]), Runtime::Containerd, &node);
    let mut program = container.start();
    program.wait_for(&format!("watching mv@{}", inside.name));
    let uid = status(&container.pid(), "Uid");
    program.signal("TERM");
    let (ended, _, log) = program.end();
    assert!(ended.success() && uid == "65532", "{log:#?}");
}

/// If a runtime withholds capabilities, the agent reports which.
#[test]
fn it_reports_what_it_lacks() {
    needs_root!();
    needs_tools!();
    let Some(image) = Image::unpack(function_name!()) else { return };
    let ns = host("node");
    let container = Container::new(&image, &with(&[]), Runtime::Docker, &ns);
    let (status, _, log) = container.start().end();
    assert!(!status.success() && log.join("\n").contains("grant CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"), "{log:#?}");
    let container = Container::new(&image, &with(&["root"]), Runtime::Docker, &ns);
    let mut program = container.start();
    program.wait_for("] ready");
    program.signal("TERM");
    assert!(program.end().0.success());
}
