//! Where images are that name no place of their own: `--docker_registry`.

use std::path::PathBuf;

use agent_web::Address;

use crate::reference::{HUB_HOST, Reference};

/// Where images come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A registry: `http[s]://HOST[:PORT]`.
    Registry(String),
    /// A folder of this machine, with archives and layouts.
    Folder(PathBuf),
    /// A prefix of archives that a Hadoop client gets.
    Client(String),
    /// A prefix of archives of appc: `http[s]://...` or `/...`.
    Discovery(String),
}

impl Default for Source {
    fn default() -> Source {
        Source::Registry(format!("https://{HUB_HOST}"))
    }
}

impl Source {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<Source, String> {
        let wrong = |why: &str| {
            let shown = api::limits::quoted(text).escape_debug().to_string();
            format!("'{shown}' is neither a registry (https://HOST:PORT) nor a folder (/PATH) nor hdfs://PLACE: {why}")
        };
        if text.starts_with('/') {
            return Ok(Source::Folder(PathBuf::from(text)));
        }
        if text.starts_with("hdfs://") {
            return Ok(Source::Client(text.trim_end_matches('/').to_owned()));
        }
        let address = Address::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if address.path != "/" || address.authorization.is_some() {
            return Err(wrong("a registry is a host and a port alone; passwords are in --docker_config"));
        }
        let scheme = if address.is_secure { "https" } else { "http" };
        let usual = if address.is_secure { 443 } else { 80 };
        let place = address.place();
        let place = if address.port == usual { place.trim_end_matches(&format!(":{usual}")).to_owned() } else { place };
        Ok(Source::Registry(format!("{scheme}://{place}")))
    }

    /// Reads where images of appc are.
    ///
    /// # Errors
    /// A sentence.
    pub fn discovery(prefix: &str) -> Result<Source, String> {
        crate::appc::check_prefix(prefix).map(|()| Source::Discovery(prefix.to_owned()))
    }

    /// Whether its images are called as appc has it, and not as Docker does.
    pub(crate) fn is_appc(&self) -> bool {
        matches!(self, Source::Discovery(_))
    }

    /// The registry that a name without one is of; none in folders.
    pub(crate) fn default_registry(&self) -> &str {
        match self {
            Source::Registry(base) => base.split_once("://").map_or("", |(_, host)| host),
            Source::Folder(_) | Source::Client(_) | Source::Discovery(_) => "",
        }
    }

    /// Where the registry of an image is asked.
    pub(crate) fn base(&self, reference: &Reference) -> String {
        let host = reference.registry.as_deref().unwrap_or_default();
        match self {
            Source::Registry(base) if self.default_registry() == host => base.clone(),
            _ => format!("{}://{host}", scheme(host)),
        }
    }
}

/// As Mesos has it: 80 is http, and so is what runs on this machine.
fn scheme(host: &str) -> &'static str {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    match (name, port) {
        (_, Some("443")) | (_, None) => "https",
        (_, Some("80")) | ("localhost" | "127.0.0.1" | "[::1]", Some(_)) => "http",
        _ => "https",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_images() {
        let registry = |text: &str| Source::parse(text).unwrap();
        assert_eq!(registry("https://registry-1.docker.io"), Source::default());
        assert_eq!(registry("https://a:443/"), Source::Registry("https://a".into()));
        assert_eq!(registry("http://a:5000"), Source::Registry("http://a:5000".into()));
        assert_eq!(registry("/var/images"), Source::Folder("/var/images".into()));
        assert_eq!(registry("hdfs://a:8020/images/"), Source::Client("hdfs://a:8020/images".into()));
        for wrong in ["registry", "ftp://a", "https://a/v2", "https://me:secret@a"] {
            assert!(Source::parse(wrong).unwrap_err().contains("is neither a registry"), "{wrong}");
        }
    }

    #[test]
    fn how_registries_are_asked() {
        let base = |source: &str, name: &str| {
            let source = Source::parse(source).unwrap();
            let reference = Reference::parse(name).unwrap().canonical(source.default_registry());
            source.base(&reference)
        };
        assert_eq!(base("http://a:5000", "b"), "http://a:5000");
        assert_eq!(base("https://registry-1.docker.io", "b"), "https://registry-1.docker.io");
        assert_eq!(base("http://a:5000", "docker.io/b"), "https://registry-1.docker.io");
        assert_eq!(base("http://a", "localhost:5000/b"), "http://localhost:5000");
        assert_eq!(base("http://a", "h:80/b"), "http://h:80");
        assert_eq!(base("http://a", "h:5000/b"), "https://h:5000");
        assert_eq!(base("http://a", "h.i/b"), "https://h.i");
    }
}
