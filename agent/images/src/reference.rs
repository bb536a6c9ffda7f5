//! Names of images, as Docker reads them: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`.

use std::fmt;

use crate::digest::Digest;

/// Longest name of a repository, and longest tag, in bytes: what registries take.
const REPOSITORY_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;
/// Where names without a registry are, in a registry of Docker's own.
const LIBRARY: &str = "library";
/// What Docker's own registry is called in names, and where it is.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
pub(crate) const HUB_HOST: &str = "registry-1.docker.io";

/// Which image is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host, with a port perhaps, if the name has one.
    pub registry: Option<String>,
    /// Its path in the registry.
    pub repository: String,
    /// Which of its versions; the latest if neither this nor a digest is given.
    pub tag: Option<String>,
    /// Which content exactly.
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads a name.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(name: &str) -> Result<Reference, String> {
        let shown = || api::limits::quoted(name).escape_debug().to_string();
        let wrong = |why: &str| format!("'{}' is no name of an image: {why}", shown());
        let (rest, digest) = match name.split_once('@') {
            None => (name, None),
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|why| wrong(&why))?)),
        };
        // What is behind a colon with no slash after it is no port.
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag)),
            _ => (rest, None),
        };
        let is_registry = |part: &str| part.contains(['.', ':']) || part == "localhost";
        let (registry, repository) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (Some(first), rest),
            _ => (None, rest),
        };
        if let Some(tag) = tag {
            let is_tag = tag.bytes().enumerate().all(|(n, byte)| {
                byte.is_ascii_alphanumeric() || byte == b'_' || (n > 0 && matches!(byte, b'.' | b'-'))
            });
            if tag.is_empty() || tag.len() > TAG_BYTES_MAX || !is_tag {
                return Err(wrong("a tag has letters, digits and _.-, at most 128 of them"));
            }
        }
        if repository.len() > REPOSITORY_BYTES_MAX {
            return Err(wrong("its path has more than 255 bytes"));
        }
        if !repository.split('/').all(is_component) {
            return Err(wrong(
                "parts of its path have small letters and digits, with one of . _ __ or dashes between them",
            ));
        }
        if registry.is_some_and(|registry| !is_host(registry)) {
            return Err(wrong("its registry is no host, or no port"));
        }
        Ok(Reference {
            registry: registry.map(str::to_owned),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// What a registry is asked for: the digest, or a tag.
    pub(crate) fn version(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag().to_owned(),
        }
    }

    /// Its tag.
    pub(crate) fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }

    /// The same image by the name under which it is kept: every way to write it is this one.
    pub(crate) fn canonical(mut self, default_registry: &str) -> Reference {
        let registry = self.registry.take().unwrap_or_else(|| default_registry.to_owned());
        let is_hub = HUB.contains(&registry.as_str());
        if is_hub && !self.repository.contains('/') {
            self.repository = format!("{LIBRARY}/{}", self.repository);
        }
        self.registry = Some(if is_hub { HUB_HOST.to_owned() } else { registry });
        match self.digest {
            // A tag beside it says nothing more.
            Some(_) => self.tag = None,
            None => self.tag = Some(self.tag().to_owned()),
        }
        self
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = self.registry.as_deref().filter(|registry| !registry.is_empty()) {
            write!(f, "{registry}/")?;
        }
        write!(f, "{}", self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

/// Letters and digits, between them one dot, one or two underscores, or dashes.
fn is_component(part: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(first), Some(last)) = (part.bytes().next(), part.bytes().last()) else { return false };
    let mut separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    is_plain(first)
        && is_plain(last)
        && separators
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let name = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_name = match name {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .split('.')
            .all(|label| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')),
    };
    is_name && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = Digest::of(b"x");
        let canonical = |name: &str| Reference::parse(name).unwrap().canonical(HUB_HOST).to_string();
        for (name, expected) in [
            ("busybox", "registry-1.docker.io/library/busybox:latest"),
            ("docker.io/busybox", "registry-1.docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox:latest", "registry-1.docker.io/library/busybox:latest"),
            ("eng/dev:1.2", "registry-1.docker.io/eng/dev:1.2"),
            ("localhost/busybox", "localhost/busybox:latest"),
            ("a:5000/b/c", "a:5000/b/c:latest"),
            ("a.b/c_d/e__f/g-h--i:T.1-2", "a.b/c_d/e__f/g-h--i:T.1-2"),
            ("[::1]:5000/b:c", "[::1]:5000/b:c"),
        ] {
            assert_eq!(canonical(name), expected);
        }
        assert_eq!(canonical(&format!("a.b/c:tag@{digest}")), format!("a.b/c@{digest}"));
        let parsed = Reference::parse("busybox").unwrap();
        assert_eq!((parsed.to_string().as_str(), parsed.version().as_str()), ("busybox", "latest"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        for (name, why) in [
            ("", "parts of its path"),
            ("A", "parts of its path"),
            ("a//b", "parts of its path"),
            ("a/../b", "parts of its path"),
            ("../a", "no host, or no port"),
            ("./a", "no host, or no port"),
            ("a./b", "no host, or no port"),
            ("/a", "parts of its path"),
            ("a..b", "parts of its path"),
            ("a___b", "parts of its path"),
            ("a b", "parts of its path"),
            ("a\0b", "parts of its path"),
            ("a:", "a tag has"),
            ("a:-b", "a tag has"),
            ("a:b c", "a tag has"),
            ("a@sha256:1", "64 digits"),
            ("a@sha512:1", "not of sha256"),
            ("a.b:x/c", "no host, or no port"),
            ("a.b:0/c", "no host, or no port"),
            ("[::x]:1/c", "no host, or no port"),
            (&long, "more than 255 bytes"),
        ] {
            let error = Reference::parse(name).unwrap_err();
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
