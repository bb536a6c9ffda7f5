//! `linux/seccomp`: what tasks may not call, whoever they are and whatever they execute.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;

use api::v1;
use api::v1::TaskState;
use common::groups::Place;
use common::{Master, RealAgent, task, until};

/// Denied are calls by which a process gets away from where it is; one of them ends it.
const DEFAULT: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
    "syscalls": [
        {"names": ["uname", "unshare", "setns", "mount", "ptrace", "keyctl", "add_key", "bpf"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 268435456, "valueTwo": 268435456, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"}
    ]
}"#;
const LOOK: &str = "grep -E '^(Seccomp|NoNewPrivs|CapEff|CapPrm|Uid):' /proc/self/status > looked; \
    try() { if \"$@\" </dev/null >/dev/null 2>&1; then echo \"yes $*\"; else echo \"no $*\"; fi >> looked; }; \
    try uname; try env uname; try unshare -U true; try unshare -Ur true; try unshare -m true; \
    try setsid env -i /bin/sh -c 'uname'; try mkdir mine; echo done >> looked; exec sleep 1000";

fn confined(mut task: v1::TaskInfo, seccomp: Option<v1::SeccompInfo>, user: &str) -> v1::TaskInfo {
    let kind = v1::container_info::Type::Mesos as i32;
    let linux_info = Some(v1::LinuxInfo { seccomp, ..Default::default() });
    task.container = Some(v1::ContainerInfo { r#type: kind, linux_info, ..Default::default() }.into());
    task.command.as_mut().unwrap().user = Some(user.to_owned());
    task
}

async fn looked(agent: &RealAgent, master: &Master, task: v1::TaskInfo) -> String {
    let id = task.task_id.value.clone();
    master.launch(task);
    master.update(&id, TaskState::TaskRunning).await;
    let path = agent.sandbox(&id).join("looked");
    let read = || fs::read_to_string(&path).unwrap_or_default();
    until("it has looked", || read().ends_with("done\n")).await;
    read().replace('\t', " ")
}

fn folder(dir: &Path) -> String {
    let folder = dir.join("profiles");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("default.json"), DEFAULT).unwrap();
    fs::write(folder.join("all.json"), r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    fs::write(folder.join("wrong.json"), r#"{"defaultAction": "SCMP_ACT_ALWAYS"}"#).unwrap();
    folder.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_profile_denies_nobody_in_a_container_calls() {
    if !nix::unistd::geteuid().is_root() {
        let _ = writeln!(std::io::stderr(), "NOT TESTED (seccomp): this is not root");
        return;
    }
    for place in Place::all("seccomp").into_iter().take(1) {
        for (flags, nnp, effective) in [
            (&["--isolation=linux/seccomp"][..], 0, None),
            (&["--isolation=linux/seccomp,linux/nnp,namespaces/pid"], 1, None),
            (
                &[
                    "--isolation=linux/seccomp,linux/capabilities",
                    r#"--effective_capabilities={"capabilities": ["CHOWN"]}"#,
                ],
                0,
                Some("0000000000000001"),
            ),
        ] {
            let (master, dir) = (Master::start().await, tempfile::tempdir().unwrap());
            let folder = format!("--seccomp_config_dir={}", folder(dir.path()));
            let flags: Vec<&str> = [flags, &[&folder, "--seccomp_profile_name=default.json"]].concat();
            let agent = place.start(&master, &dir.path().join("work"), &flags);
            for user in ["root", "nobody"] {
                let found = looked(&agent, &master, confined(task(user, LOOK), None, user)).await;
                assert!(found.contains("Seccomp: 2\n") && found.contains(&format!("NoNewPrivs: {nnp}\n")), "{found}");
                let has = effective.or((user == "nobody").then_some("0000000000000000"));
                if let Some(has) = has {
                    let (effective, permitted) = (format!("CapEff: {has}\n"), format!("CapPrm: {has}\n"));
                    assert!(found.contains(&effective) && found.contains(&permitted), "{found}");
                }
                let tries: Vec<&str> =
                    found.lines().filter(|line| line.starts_with("yes") || line.starts_with("no ")).collect();
                let (last, denied) = tries.split_last().unwrap();
                assert_eq!((*last, denied.len()), ("yes mkdir mine", 6));
                assert!(denied.iter().all(|line| line.starts_with("no ")), "{found}");
            }
            let unconfined = v1::SeccompInfo { unconfined: Some(true), ..Default::default() };
            let found = looked(&agent, &master, confined(task("free", LOOK), Some(unconfined), "root")).await;
            assert!(found.contains("Seccomp: 0\n") && found.contains("yes uname"), "{found}");
            let named =
                |name: &str| Some(v1::SeccompInfo { profile_name: Some(name.to_owned()), ..Default::default() });
            let found = looked(&agent, &master, confined(task("named", LOOK), named("all.json"), "nobody")).await;
            assert!(found.contains("Seccomp: 2\n") && found.contains("yes uname"), "{found}");
            for (id, name, why) in [
                ("a", "none.json", "No such file"),
                ("b", "../default.json", "no path below"),
                ("c", "wrong.json", "'SCMP_ACT_ALWAYS' is no action"),
            ] {
                master.launch(confined(task(id, LOOK), named(name), "root"));
                let failed = master.update(id, TaskState::TaskFailed).await;
                assert!(failed.message().contains(why) && failed.message().contains(name), "{}", failed.message());
            }
            master.launch(confined(task("killed", "exec sync"), None, "root"));
            let failed = master.update("killed", TaskState::TaskFailed).await;
            assert!(failed.message().contains("signal"), "{}", failed.message());
        }
    }
}
