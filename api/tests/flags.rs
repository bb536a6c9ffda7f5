//! The forms in which flags are given.

use std::io;
use std::path::Path;
use std::time::Duration;

use api::flags::{Error, Flag, Kind, Values, help, parse};
use expect_test::expect;

const FLAGS: &[Flag] = &[
    Flag::new("port", Kind::Int, "Port to listen on.").default("5050"),
    Flag::new("quiet", Kind::Bool, "No logging to stderr.").default("false"),
    Flag::new("hostname_lookup", Kind::Bool, "Look the host's name up.").default("true"),
    Flag::new("work_dir", Kind::Path, "Where the log is kept.").required(),
    Flag::new("agent_ping_timeout", Kind::Duration, "How long an agent may take to answer.")
        .default("15secs")
        .aliases(&["slave_ping_timeout"]),
    Flag::new("credentials", Kind::Content, "Who may call, as JSON or as lines; a path or the text itself."),
    Flag::new("hostname", Kind::Text, "The name that others know this host by."),
    Flag::new("fetcher_cache_size", Kind::Bytes, "Room for what was fetched.").default("2GB"),
    Flag::new("gc_disk_headroom", Kind::Double, "Share of the disk to keep free.").default("0.1"),
];

fn run_with(words: &[&str], environment: &[(&str, &str)]) -> Result<Values, Error> {
    let environment =
        |wanted: &str| environment.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned());
    let read = |path: &Path| match path.to_str() {
        Some("/etc/secrets") => Ok("ops secret\n".to_owned()),
        Some("/etc/port") => Ok("7\n".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    parse(FLAGS, words.iter().map(|word| (*word).to_owned()), environment, read)
}

fn run(words: &[&str]) -> Result<Values, Error> {
    run_with(&[words, &["--work_dir=/w"]].concat(), &[])
}

fn fails(words: &[&str]) -> String {
    run(words).expect_err("an error").to_string()
}

#[test]
fn defaults() {
    let values = run(&[]).expect("values");
    assert_eq!(values.int("port"), Some(5050));
    assert!(!values.bool("quiet") && values.bool("hostname_lookup"));
    assert_eq!(values.duration("agent_ping_timeout"), Some(Duration::from_secs(15)));
    assert_eq!(values.bytes("fetcher_cache_size"), Some(2 << 30));
    assert_eq!(values.double("gc_disk_headroom"), Some(0.1));
    assert_eq!(values.path("work_dir").as_deref(), Some(Path::new("/w")));
    assert_eq!(values.text("hostname"), None);
    assert!(values.is_given("work_dir") && !values.is_given("port"));
    let shown: Vec<String> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
    expect!["agent_ping_timeout=15secs fetcher_cache_size=2GB gc_disk_headroom=0.1 hostname_lookup=true port=5050 quiet=false work_dir=/w"]
        .assert_eq(&shown.join(" "));
}

#[test]
fn forms() {
    let values =
        run(&["--port=1", "--quiet", "--no-hostname_lookup", "--hostname", "a=b", "--credentials=/etc/secrets"]);
    let values = values.expect("values");
    assert_eq!((values.int("port"), values.bool("quiet"), values.bool("hostname_lookup")), (Some(1), true, false));
    assert_eq!(values.text("hostname"), Some("a=b"));
    assert_eq!(values.text("credentials"), Some("ops secret\n"));
    let values = run(&["--quiet=false", "--hostname=", "--port=file:///etc/port"]).expect("values");
    assert_eq!((values.bool("quiet"), values.text("hostname"), values.int("port")), (false, Some(""), Some(7)));
    let values = run(&["--credentials={}", "--hostname=/etc/secrets"]).expect("values");
    assert_eq!((values.text("credentials"), values.text("hostname")), (Some("{}"), Some("/etc/secrets")));
    let values = run_with(&["--work_dir=file:///w"], &[]).expect("values");
    assert_eq!(values.text("work_dir"), Some("/w"));
}

#[test]
fn environment() {
    let both = [("MESETA_PORT", "2"), ("MESOS_PORT", "3"), ("MESOS_WORK_DIR", "/m"), ("MESOS_NO_SUCH", "x")];
    assert_eq!(run_with(&[], &both).expect("values").int("port"), Some(2));
    assert_eq!(run_with(&["--port=1"], &both).expect("values").int("port"), Some(1));
    assert_eq!(run_with(&[], &both[1..]).expect("values").int("port"), Some(3));
    assert!(run_with(&[], &both[1..]).expect("values").is_given("port"));
}

#[test]
fn older_names_warn() {
    let values = run(&["--slave_ping_timeout=1mins"]).expect("values");
    assert_eq!(values.duration("agent_ping_timeout"), Some(Duration::from_secs(60)));
    expect!["Flag '--slave_ping_timeout' is deprecated, use '--agent_ping_timeout'"]
        .assert_eq(&values.warnings.join("\n"));
    let values = run_with(&["--work_dir=/w"], &[("MESOS_SLAVE_PING_TIMEOUT", "1hrs")]).expect("values");
    expect!["Variable MESOS_SLAVE_PING_TIMEOUT is deprecated, use MESETA_AGENT_PING_TIMEOUT"]
        .assert_eq(&values.warnings.join("\n"));
    assert_eq!(
        fails(&["--slave_ping_timeout=1mins", "--agent_ping_timeout=1mins"]),
        "Flag '--agent_ping_timeout' is given twice"
    );
}

#[test]
fn mistakes() {
    expect!["Unknown flag '--prot', did you mean '--port'?"].assert_eq(&fails(&["--prot=1"]));
    expect!["Unknown flag '--work-dir', did you mean '--work_dir'?"].assert_eq(&fails(&["--work-dir=1"]));
    expect!["Unknown flag '--no-quite', did you mean '--quiet'?"].assert_eq(&fails(&["--no-quite"]));
    expect!["Unknown flag '--zookeeper_address'"].assert_eq(&fails(&["--zookeeper_address"]));
    expect!["Unexpected word 'start': flags look like --name=value"].assert_eq(&fails(&["start"]));
    expect!["Unexpected word '-p': flags look like --name=value"].assert_eq(&fails(&["-p"]));
    expect!["Unexpected word '--': flags look like --name=value"].assert_eq(&fails(&["--"]));
    expect!["Flag '--port' needs a value: --port=VALUE"].assert_eq(&fails(&["--port"]));
    expect!["Flag '--port' is not a boolean, so there is no '--no-port'"].assert_eq(&fails(&["--no-port"]));
    expect!["Failed to load flag '--port' from 'x': expecting a whole number"].assert_eq(&fails(&["--port=x"]));
    expect!["Failed to load flag '--quiet' from 'maybe': expecting a boolean (true or false)"]
        .assert_eq(&fails(&["--quiet=maybe"]));
    expect!["Failed to load flag '--agent_ping_timeout' from '15': Invalid duration '15'"]
        .assert_eq(&fails(&["--agent_ping_timeout=15"]));
    expect!["Failed to load flag '--credentials': error reading file '/nosuch': entity not found"]
        .assert_eq(&fails(&["--credentials=/nosuch"]));
    expect!["Flag '--work_dir' is required"].assert_eq(&run_with(&[], &[]).expect_err("required").to_string());
}

#[test]
fn help_needs_nothing_else() {
    assert!(run_with(&["--nonsense", "--help"], &[]).expect("values").help);
    expect![[r#"
        Usage: meseta-master [flags]

          --agent_ping_timeout=VALUE      How long an agent may take to answer. (default: 15secs)
          --credentials=VALUE             Who may call, as JSON or as lines; a path or the text itself.
          --fetcher_cache_size=VALUE      Room for what was fetched. (default: 2GB)
          --gc_disk_headroom=VALUE        Share of the disk to keep free. (default: 0.1)
          --hostname=VALUE                The name that others know this host by.
          --[no-]hostname_lookup          Look the host's name up. (default: true)
          --port=VALUE                    Port to listen on. (default: 5050)
          --[no-]quiet                    No logging to stderr. (default: false)
          --work_dir=VALUE                Where the log is kept. (required)
          --help                          Prints this help.
    "#]]
    .assert_eq(&help("meseta-master [flags]", FLAGS));
}
