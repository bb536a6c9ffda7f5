//! Pages of `docs/` whose blocks are commands, and the cluster that they are run against.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::binary;

/// A page by its name in `docs/`.
///
/// # Panics
/// If there is none.
pub fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(path).expect("the page")
}

/// What stands between "```sh" and "```", in its order.
pub fn blocks(page: &str) -> Vec<String> {
    let after = page.split("\n```sh\n").skip(1);
    after.map(|rest| rest.split("\n```").next().unwrap_or_default().to_owned()).collect()
}

/// A `meseta local`, ended with its agents when it is dropped.
#[derive(Debug)]
pub struct Local {
    child: Child,
    /// host:port of its master.
    pub master: String,
    /// host:port of its agent.
    pub agent: String,
}

impl Local {
    /// With one agent that has these resources.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(resources: &str) -> Local {
        let resources = format!("--resources={resources}");
        let mut meseta = Command::new(binary("meseta"));
        let started = meseta.args(["local", "--port=0", &resources]).stdout(Stdio::piped()).spawn();
        let mut child = started.expect("meseta starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let mut told = |what: &str| {
            let told = lines.find_map(|line| Some(line.strip_prefix(what)?.trim().to_owned()));
            told.unwrap_or_else(|| panic!("it tells its {what}"))
        };
        let (master, agent) = (told("masters"), told("agents"));
        Local { child, master, agent }
    }

    /// Runs a page's blocks as one script in `dir`, with its master as `$MASTER` and `$MESETA_MASTER`, its agent as `$AGENT`, and
    /// `meseta` at hand.
    ///
    /// # Panics
    /// If there is no bash.
    pub fn run(&self, blocks: &[String], dir: &Path) -> Output {
        let programs = binary("meseta").parent().map(|dir| dir.display().to_string()).unwrap_or_default();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
        Command::new("timeout")
            .args(["120", "bash", "-euo", "pipefail", "-c", &blocks.join("\n")])
            .current_dir(dir)
            .env("PATH", path)
            .env("MASTER", &self.master)
            .env("AGENT", &self.agent)
            .env("MESETA_MASTER", &self.master)
            .output()
            .expect("bash starts")
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
