//! What this process knows about itself, beside State.

use crate::identity::Identity;
use api_http::Build;
use std::sync::Arc;

/// What a read tells about this master. The same for the whole life of the process.
#[derive(Clone, Debug)]
pub struct About {
    /// This master, and what others said of themselves.
    pub identity: Arc<Identity>,
    /// The name under which clients reach it.
    pub hostname: String,
    /// ip:port on which it listens.
    pub address: String,
    /// The flags in force by name, as text.
    pub flags: Vec<(String, String)>,
    /// When the process started, in milliseconds since the epoch.
    pub start_ms: u64,
    /// What was built, and when.
    pub build: Build,
}

impl About {
    /// The value of a flag.
    pub fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().find(|(flag, _)| flag == name).map(|(_, value)| value.as_str())
    }

    /// As libprocess would name it: some clients take the address out of it.
    pub fn pid(&self) -> String {
        format!("master@{}", self.address)
    }
}
