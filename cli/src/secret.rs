//! `meseta secret`: the secret by which the members of one cluster know each other, and where commands find it.
//!
//! A cluster of `meseta local` has one of its own. It is noted below the user's folder of states by the address of each
//! of its masters, so that commands on this machine find it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use api::flags::{Flag, Values};
use api_http::Secret;
use api_http::dial::Signer;

use crate::error::Error;
use crate::http;
use crate::say;

pub(crate) const FLAGS: &[Flag] = &[];

pub(crate) const ABOUT: &str = "\
The secret by which masters, agents and commands of one cluster know each other.

  meseta secret new FILE     writes a new one, for --cluster_secret=file:///PATH/OF/FILE everywhere

The file has one secret a line. The first is shown to others, each is taken from them: to change it without an
interruption, add the new one as the second line everywhere, then make it the first, then remove the old one, and
restart masters and agents one after the other each time.";

pub(crate) fn run(words: &[String]) -> Result<ExitCode, Error> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ["new", file] = words[..] else {
        return Err(Error::Usage(format!("secret {}: say new FILE", words.join(" "))));
    };
    let file = Path::new(file);
    mint(file)?;
    let path = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    say(&format!(
        "wrote {0}, which its owner alone can read\ncopy it to every machine of the cluster, and give masters, agents and commands \
         --cluster_secret=file://{0}, or MESETA_CLUSTER_SECRET=file://{0}\n",
        path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// A new secret in a new file.
pub(crate) fn mint(file: &Path) -> Result<(), Error> {
    let created = fs::File::options().write(true).create_new(true).mode(0o600).open(file);
    let written = created.and_then(|mut created| {
        created.write_all(format!("{}\n", Secret::mint()).as_bytes())?;
        created.sync_all()
    });
    written.map_err(|error| Error::Failed(format!("cannot make {}: {error}", file.display())))
}

/// Shows what `--cluster_secret` names from now on.
pub(crate) fn show(flags: &Values) -> Result<(), Error> {
    flags.text(http::SECRET.name).map_or(Ok(()), http::show_secret)
}

/// What is noted for a master; whoever has no secret there now is believed without.
pub(crate) fn noted(address: &str) -> Option<Arc<Signer>> {
    let path = fs::read_to_string(note(address)?).ok()?;
    Some(Arc::new(Signer::new(Secret::read(path.trim()).ok()?, true)))
}

/// Notes where the secret of the masters at `addresses` is. A machine without a place for it does without.
pub(crate) fn note_all(addresses: &[String], secret: &Path) {
    for path in addresses.iter().filter_map(|address| note(address)) {
        if let Some(folder) = path.parent() {
            let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        }
        let _ = fs::write(path, format!("{}\n", secret.display()));
    }
}

/// Takes the notes back.
pub(crate) fn forget_all(addresses: &[String]) {
    for path in addresses.iter().filter_map(|address| note(address)) {
        let _ = fs::remove_file(path);
    }
}

fn note(address: &str) -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let is_plain = address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte));
    (is_plain && folder.is_absolute())
        .then(|| folder.join("meseta/local").join(address.replace("localhost:", "127.0.0.1:")))
}
