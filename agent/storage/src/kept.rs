//! What a provider knows and has done, in one file. It is written, and synced, before anything is said of it, and before a plugin is
//! asked for what it could not be asked for twice.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use api::v1;
use serde::{Deserialize, Serialize};

use crate::profiles::Profile;

const FILE: &str = "state.json";

/// It.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The id that its agent gave it.
    pub(crate) id: Option<String>,
    /// Names what it has, for those who decide on it.
    pub(crate) version: Vec<u8>,
    /// What it has, as operations left it.
    #[serde(with = "as_list")]
    pub(crate) resources: Vec<v1::Resource>,
    /// Profiles that were known last.
    pub(crate) profiles: BTreeMap<String, Profile>,
    /// Volumes that it made or took over, by id.
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// Those that are not acknowledged, as they came.
    pub(crate) operations: Vec<Begun>,
    /// The containers of its plugin, as they were launched.
    #[serde(with = "as_list")]
    pub(crate) containers: Vec<v1::agent::call::LaunchContainer>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// How it is to be had.
    pub(crate) profile: Profile,
    /// What its plugin wants to be told.
    pub(crate) context: BTreeMap<String, String>,
}

/// An operation that was begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// With its status.
    #[serde(with = "as_json")]
    pub(crate) operation: v1::Operation,
    /// What the name of the profile meant then.
    pub(crate) profile: Option<Profile>,
}

impl Begun {
    pub(crate) fn name(&self) -> &[u8] {
        &self.operation.uuid.value
    }

    /// It is over.
    pub(crate) fn is_over(&self) -> bool {
        self.operation.latest_status.state() != v1::OperationState::OperationPending
    }
}

/// 16 bytes that were never there before.
pub(crate) fn random() -> Vec<u8> {
    uuid::Uuid::new_v4().as_bytes().to_vec()
}

impl Kept {
    /// As it was written in a folder last. Blocks.
    ///
    /// # Errors
    /// A sentence.
    pub(crate) fn load(folder: &Path) -> Result<Kept, String> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|error| format!("cannot read {}: {error}", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kept { version: random(), ..Kept::default() }),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    /// Written down when this returns. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let draft: PathBuf = folder.join("state.draft");
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&draft, folder.join(FILE))?;
        File::open(folder)?.sync_all()
    }

    /// It is as if there had been none. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn remove(folder: &Path) -> io::Result<()> {
        match fs::remove_file(folder.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A message as the JSON that it has everywhere.
pub(crate) mod as_json {
    use api::wire::Wire;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de};

    pub(crate) fn serialize<T: Wire, S: Serializer>(message: &T, serializer: S) -> Result<S::Ok, S::Error> {
        api::json::to_value(message).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Wire, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        api::json::from_value(&value).map_err(de::Error::custom)
    }
}

/// The same of many.
mod as_list {
    use api::wire::Wire;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<T: Wire, S: Serializer>(messages: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(messages.iter().map(api::json::to_value))
    }

    pub(super) fn deserialize<'de, T: Wire, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        let values = Vec::<serde_json::Value>::deserialize(deserializer)?;
        values.iter().map(|value| api::json::from_value(value).map_err(de::Error::custom)).collect()
    }
}
