//! The program, its flags and its variables: what is not built is refused by name, the rest has the effect that it says.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

struct Master {
    child: Child,
    address: String,
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(work_dir: &Path, words: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meseta-master"));
    command.args([format!("--work_dir={}", work_dir.display()), "--ip=127.0.0.1".into()]).args(words);
    command
}

fn start(work_dir: &Path, words: &[String]) -> Master {
    let mut child = program(work_dir, words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("meseta-master listening on ").expect(&line).to_owned();
    Master { child, address }
}

fn ask(address: &str, method: &str, path: &str, body: &str) -> (String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// What `look` finds, once it finds something.
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn location(address: &str) -> Option<String> {
    let (head, _) = ask(address, "GET", "/redirect", "");
    let mut lines = head.lines().map(str::to_ascii_lowercase);
    lines.find_map(|line| line.strip_prefix("location: ").map(str::to_owned))
}

#[test]
fn what_is_not_built_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let check = |command: &mut Command, names: &[&str]| {
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{names:?}: {stderr}");
        assert!(names.iter().all(|name| stderr.contains(name)), "{names:?}: {stderr}");
    };
    for (name, why) in [
        ("acls", "cannot be read"),
        ("credentials", "cannot be read"),
        ("firewall_rules", "not built yet"),
        ("modules", "not built yet"),
        ("hooks", "not built yet"),
    ] {
        check(&mut program(dir.path(), &["--port=0".into(), format!("--{name}=x")]), &[name, why]);
        for prefix in ["MESOS_", "MESETA_"] {
            let variable = format!("{prefix}{}", name.to_uppercase());
            check(program(dir.path(), &["--port=0".into()]).env(&variable, "x"), &[name, why]);
        }
    }
    for (variable, why) in [
        ("LIBPROCESS_SSL_ENABLED", "--ssl_enabled needs --ssl_cert_file"),
        ("SSL_ENABLED", "--ssl_enabled needs --ssl_"),
        ("LIBPROCESS_SSL_VERIFY_SERVER_CERT", "protects nobody without --ssl_enabled"),
    ] {
        check(program(dir.path(), &["--port=0".into()]).env(variable, "true"), &[why]);
    }
    check(program(dir.path(), &["--port=0".into()]).env("LIBPROCESS_ADVERTISE_IP", "0.0.0.0"), &["--advertise_ip"]);
    check(&mut program(dir.path(), &["--port=0".into(), "--advertise_ip=::".into()]), &["--advertise_ip=::"]);
}

#[test]
fn a_log_is_written_where_it_should_be_and_nobody_else_reads_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (work_dir, logs) = (dir.path().join("m"), dir.path().join("logs"));
    // As an older release would have left it.
    fs::create_dir(&work_dir).unwrap();
    let words = ["--port=0".into(), "--quiet".into(), format!("--log_dir={}", logs.display()), "--logbufsecs=3".into()];
    let mut master = start(&work_dir, &words);
    let log = logs.join("meseta-master.log");
    until("this master leads", || fs::read_to_string(&log).unwrap().contains("leads").then_some(()));
    assert!(fs::read_to_string(&log).unwrap().contains("'--logbufsecs' has no effect"));
    let (_, body) = ask(&master.address, "GET", "/files/read?path=/master/log&offset=0", "");
    assert!(body.contains("has no effect"), "{body}");
    let open_to_others = |path: &Path| {
        let mut found = Vec::new();
        let mut pending = vec![path.to_owned()];
        while let Some(path) = pending.pop() {
            for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
                let metadata = entry.metadata().unwrap();
                if metadata.mode() & 0o77 != 0 {
                    found.push(entry.path());
                }
                pending.extend(metadata.is_dir().then(|| entry.path()));
            }
        }
        found
    };
    assert_eq!(
        open_to_others(dir.path()),
        std::slice::from_ref(&work_dir),
        "the folder itself is as its maker made it"
    );
    master.child.kill().unwrap();
    master.child.wait().unwrap();
    let mut said = String::new();
    master.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
    for entry in fs::read_dir(&work_dir).unwrap().map(Result::unwrap) {
        let mode = if entry.metadata().unwrap().is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
    }
    let _master = start(&work_dir, &["--port=0".into()]);
    assert_eq!(open_to_others(&work_dir), [] as [std::path::PathBuf; 0]);
}

#[test]
fn clients_are_told_the_name_that_an_operator_chose() {
    let dir = tempfile::tempdir().unwrap();
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let list = format!("--masters=127.0.0.1:{},127.0.0.1:{}", ports[0], ports[1]);
    let masters = [0, 1].map(|n| {
        let words = [format!("--port={}", ports[n]), list.clone(), format!("--hostname=m{n}.example")];
        start(&dir.path().join(format!("m{n}")), &words)
    });
    // Both send to the leader, by its name.
    let leader = until("a leader", || location(&masters[0].address).filter(|to| to.contains("example")));
    let n = usize::from(leader.contains("m1."));
    assert_eq!(leader, format!("//m{n}.example:{}", ports[n]));
    until("the other master says so too", || location(&masters[1].address).filter(|to| *to == leader));
    let name = format!("m{n}.example");
    let state: Value = serde_json::from_str(&ask(&masters[n].address, "GET", "/state", "").1).unwrap();
    assert_eq!(state["hostname"], *name);
    assert_eq!(state["leader_info"]["hostname"], *name);
    assert_eq!(state["leader"], format!("master@127.0.0.1:{}", ports[n]));
    let (_, body) = ask(&masters[1 - n].address, "POST", "/api/v1", r#"{"type":"GET_MASTER"}"#);
    let answer: Value = serde_json::from_str(&body).unwrap();
    let info = &answer["get_master"]["master_info"];
    assert_eq!(info["hostname"], *name);
    assert_eq!(info["address"]["hostname"], *name);
    assert_eq!(info["address"]["ip"], "127.0.0.1");
    let (head, _) = ask(&masters[1 - n].address, "GET", "/slaves?x=1", "");
    assert!(head.contains(&format!("//{name}:{}/slaves?x=1", ports[n])), "{head}");
}
