//! Who this agent is to masters that ask: secrets of its own making, which it keeps before it shows them, and the token
//! that lets it join.
//!
//! ```text
//! WORK_DIR/identity   {"identities": ["...", ...]}   the newest first: the one that masters take, and such as they have yet to take
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::internal::{self, AgentProof};
use api_http::{identity_hash, random_secret, read_join_token};
use event_log::host;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The name of the file.
const FILE: &str = "identity";
/// So many are kept: one that is taken, one that is to be, and room for answers that were lost.
const HELD_MAX: usize = 4;
/// What masters and agents call an identity.
type Secret = [u8; 32];

/// Who this agent is.
#[derive(Debug, Default)]
pub(crate) struct Identity {
    /// None where nothing is kept, as in most simulations.
    at: Option<Place>,
    held: Arc<Mutex<Vec<Secret>>>,
}

#[derive(Clone, Debug)]
struct Place {
    folder: PathBuf,
    token: Option<PathBuf>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    identities: Vec<String>,
}

impl Identity {
    /// As it is kept in `work_dir`; `token` is the file of a token to join by.
    ///
    /// # Errors
    /// One sentence, which does not repeat what is in a file.
    pub(crate) fn open(work_dir: &Path, token: Option<PathBuf>) -> Result<Identity, String> {
        let held = read(&work_dir.join(FILE))?;
        let place = Place { folder: work_dir.to_owned(), token };
        if held.is_empty() {
            place.token()?;
        }
        Ok(Identity { at: Some(place), held: Arc::new(Mutex::new(held)) })
    }

    /// What it shows when it comes; None if it has nothing to show. The file of the token is read for each connection.
    ///
    /// # Errors
    /// One sentence.
    pub(crate) async fn proof(&self) -> Result<Option<AgentProof>, String> {
        let Some(place) = self.at.clone() else { return Ok(None) };
        let held = self.held.clone();
        let made = host::blocking(move || {
            let mut held = held.lock();
            let token = match place.token() {
                // It has joined: the token may be gone.
                Err(_) if !held.is_empty() => None,
                token => token?,
            };
            if token.is_some() && held.is_empty() {
                place.keep(&mut held, vec![random_secret(host::random)])?;
            }
            let identities: Vec<_> = held.iter().map(|secret| secret.to_vec().into()).collect();
            let has_something = token.is_some() || !identities.is_empty();
            Ok(has_something.then(|| AgentProof { join_token: token.map(Into::into), identities }))
        });
        made.await.map_err(|_| "this agent's identity could not be read".to_owned())?
    }

    /// The identity that masters know this agent by. What is older goes; what is newer is still to be told them.
    ///
    /// # Errors
    /// One sentence: it cannot be kept.
    pub(crate) async fn heard(&self, told: &internal::Identity) -> Result<Option<internal::NextIdentity>, String> {
        let hash = told.hash.clone();
        self.change(move |held| {
            let in_force = held.iter().position(|secret| identity_hash(secret)[..] == hash[..]);
            match in_force {
                Some(at) => held.truncate(at + 1),
                None => tracing::warn!("the masters know this agent by an identity that it does not have"),
            }
            in_force.filter(|at| *at > 0).and(held.first().copied())
        })
        .await
    }

    /// A new one, to be told the masters; if one is on its way, that.
    ///
    /// # Errors
    /// As [`Identity::heard`].
    pub(crate) async fn rotate(&self) -> Result<Option<internal::NextIdentity>, String> {
        self.change(|held| {
            if held.len() == 1 {
                held.insert(0, random_secret(host::random));
            }
            let next = held.first().copied().filter(|_| held.len() > 1);
            if event_log::planted(event_log::Bug::IdentityReplacedUnheard) {
                held.truncate(1);
            }
            next
        })
        .await
    }

    /// The masters take none of those that it has: another one is shown from now on.
    ///
    /// # Errors
    /// As [`Identity::heard`].
    pub(crate) async fn make_another(&self) -> Result<(), String> {
        let another = |held: &mut Vec<Secret>| {
            held.insert(0, random_secret(host::random));
            held.truncate(HELD_MAX);
            None
        };
        self.change(another).await.map(drop)
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut Vec<Secret>) -> Option<Secret> + Send + 'static,
    ) -> Result<Option<internal::NextIdentity>, String> {
        let Some(place) = self.at.clone() else { return Ok(None) };
        let held = self.held.clone();
        let changed = host::blocking(move || {
            let mut held = held.lock();
            let mut wanted = held.clone();
            let next = change(&mut wanted);
            if wanted != *held {
                place.keep(&mut held, wanted)?;
            }
            Ok(next.map(|secret| internal::NextIdentity { hash: identity_hash(&secret).to_vec().into() }))
        });
        changed.await.map_err(|_| "this agent's identity could not be kept".to_owned())?
    }
}

impl Place {
    fn token(&self) -> Result<Option<String>, String> {
        let Some(path) = &self.token else { return Ok(None) };
        let (text, _) = api_http::read_secret_file("join_token", path)?;
        let token = read_join_token(&text).map_err(|why| format!("--join_token={}: {why}", path.display()))?;
        Ok(Some(token.to_owned()))
    }

    /// On the disk first.
    fn keep(&self, held: &mut Vec<Secret>, wanted: Vec<Secret>) -> Result<(), String> {
        if !event_log::planted(event_log::Bug::IdentityShownUnkept) {
            write(&self.folder, &wanted)
                .map_err(|error| format!("cannot keep this agent's identity in {}: {error}", self.folder.display()))?;
        }
        *held = wanted;
        Ok(())
    }
}

fn hex(secret: &Secret) -> String {
    secret.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Secret> {
    let mut secret = Secret::default();
    let is_hex = text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    for (at, byte) in secret.iter_mut().enumerate().filter(|_| is_hex) {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    is_hex.then_some(secret)
}

fn read(file: &Path) -> Result<Vec<Secret>, String> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|error| format!("Cannot read this agent's identity in {}: {error}", file.display()))?,
    };
    let kept = serde_json::from_str::<Kept>(&text).ok();
    let secrets = kept.and_then(|kept| kept.identities.iter().map(|one| unhex(one)).collect::<Option<Vec<_>>>());
    secrets.ok_or_else(|| {
        format!(
            "{} is damaged: remove it, and have this agent join again by a token that is for it alone",
            file.display()
        )
    })
}

fn write(folder: &Path, wanted: &[Secret]) -> io::Result<()> {
    let kept = Kept { identities: wanted.iter().map(hex).collect() };
    let beside = folder.join(format!("{FILE}.new"));
    // For nobody else, whatever was left there.
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(serde_json::to_string(&kept)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, folder.join(FILE))?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn told(secret: &[u8]) -> internal::Identity {
        internal::Identity { hash: identity_hash(secret).to_vec().into(), rotate_in_ms: 0 }
    }

    #[tokio::test]
    async fn an_identity_is_kept_before_it_is_shown_and_changed_when_the_masters_have_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let none = Identity::open(dir.path(), None).unwrap();
        assert_eq!(none.proof().await, Ok(None));
        assert!(Identity::open(dir.path(), Some(path.clone())).unwrap_err().contains("--join_token="));
        let token = api_http::new_join_token(host::random);
        fs::write(&path, &token).unwrap();
        let open = || Identity::open(dir.path(), Some(path.clone())).unwrap();
        let proof = open().proof().await.unwrap().unwrap();
        assert_eq!(proof.join_token.as_deref(), Some(token.as_bytes()));
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // After a restart, and without the token's file.
        let identity = open();
        fs::remove_file(&path).unwrap();
        let again = identity.proof().await.unwrap().unwrap();
        assert_eq!((again.identities.clone(), again.join_token), (proof.identities.clone(), None));
        let first = &proof.identities[0];
        assert_eq!(identity.heard(&told(first)).await, Ok(None));
        let next = identity.rotate().await.unwrap().unwrap();
        assert_eq!(identity.rotate().await.unwrap().unwrap(), next, "one at a time");
        // It does not know whether the masters have it: it shows both, and says it again.
        let both = open().proof().await.unwrap().unwrap().identities;
        assert_eq!((both.len(), &both[1]), (2, first));
        assert_eq!(open().heard(&told(first)).await.unwrap().unwrap(), next);
        let identity = open();
        assert_eq!(identity.heard(&told(&both[0])).await, Ok(None));
        assert_eq!(open().proof().await.unwrap().unwrap().identities, both[..1]);
        identity.make_another().await.unwrap();
        assert_eq!(open().proof().await.unwrap().unwrap().identities.len(), 2);
        fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(Identity::open(dir.path(), None).unwrap_err().contains("is damaged"));
    }
}
