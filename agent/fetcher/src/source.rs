//! What kind of URI it is, and what the file is called.

use std::path::{Path, PathBuf};

/// Where a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// A page of the web.
    Web(String),
    /// Something that a Hadoop client can get: hdfs, s3 and others.
    Client(String),
}

/// Where `uri` leads. Relative paths begin at `frameworks_home`, if that is not empty.
///
/// # Errors
/// A sentence.
pub fn source(uri: &str, frameworks_home: &str) -> Result<Source, String> {
    let path = match uri.split_once("://") {
        None => uri,
        Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => return Ok(Source::Web(uri.to_owned())),
            "file" => rest.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(rest),
            scheme if scheme.starts_with(|first: char| first.is_ascii_alphabetic()) => {
                return Ok(Source::Client(uri.to_owned()));
            }
            _ => return Err("it has no scheme that could be one".to_owned()),
        },
    };
    if path.starts_with('/') {
        return Ok(Source::File(PathBuf::from(path)));
    }
    if frameworks_home.is_empty() {
        return Err(
            "A relative path was passed for the resource but the Mesos framework home was not specified. Please \
                    either provide this config option or avoid using a relative path"
                .to_owned(),
        );
    }
    Ok(Source::File(Path::new(frameworks_home).join(path)))
}

/// What the file is called in the sandbox, when nobody says otherwise.
///
/// # Errors
/// A sentence.
pub fn base_name(uri: &str) -> Result<String, String> {
    let shown = api::limits::quoted(uri).escape_debug().to_string();
    if uri.bytes().any(|byte| matches!(byte, b'\\' | b'\'' | 0)) {
        return Err(format!("Illegal characters in URI '{shown}'"));
    }
    let path = match uri.split_once("://") {
        Some((_, rest)) => rest.split_once('/').map(|(_, path)| path),
        None => Some(uri),
    };
    let name = path.map(|path| path.rsplit('/').next().unwrap_or_default()).unwrap_or_default();
    match name {
        "" | "." | ".." => Err(format!("Malformed URI '{shown}': it names no file")),
        name if name.len() > NAME_BYTES_MAX => Err(format!(
            "The name of the file in URI '{shown}' is longer than {NAME_BYTES_MAX} bytes: say another one with 'output_file'"
        )),
        name => Ok(name.to_owned()),
    }
}

/// Of a file, on the file systems that there are.
const NAME_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_uris_lead() {
        let file = |path: &str| Ok(Source::File(PathBuf::from(path)));
        assert_eq!(source("/a/b", ""), file("/a/b"));
        assert_eq!(source("file:///a/b", ""), file("/a/b"));
        assert_eq!(source("file://localhost/a", ""), file("/a"));
        assert_eq!(source("a/b", "/home"), file("/home/a/b"));
        assert!(source("a/b", "").unwrap_err().starts_with("A relative path was passed for the resource"));
        assert_eq!(source("HTTPS://a/b", ""), Ok(Source::Web("HTTPS://a/b".to_owned())));
        assert_eq!(source("s3a://a/b", ""), Ok(Source::Client("s3a://a/b".to_owned())));
        assert!(source("-x://a/b", "/home").is_err());
    }

    #[test]
    fn names_of_files() {
        assert_eq!(base_name("http://a/b.txt?x=1&y=2").unwrap(), "b.txt?x=1&y=2");
        assert_eq!(base_name("/a/b").unwrap(), "b");
        assert_eq!(base_name("http://a").unwrap_err(), "Malformed URI 'http://a': it names no file");
        assert!(base_name("http://a/b/").is_err());
        assert!(base_name("http://a/..").is_err());
        assert!(base_name("http://a/b'c").unwrap_err().starts_with("Illegal characters"));
    }
}
