//! The `/files` endpoints: browse, read and download below a table of virtual paths.
//!
//! What is served are sandboxes, which are written by strangers, also while they are read: `..` is refused, a symbolic
//! link may not lead out of the directory that was attached, and only regular files are ever opened.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path};
use std::sync::{Arc, RwLock};

use api::limits::FILES_LISTED_MAX;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::beneath::{self, Found};
use crate::{Query, Response, StreamSender, empty, json, jsonp, stream, streaming, text};

/// Most bytes that one read answers: 16 pages.
pub const READ_BYTES_MAX: usize = 16 * 4096;
const DOWNLOAD_CHUNK_BYTES: usize = 64 << 10;

/// Virtual paths and the real files or directories behind them. Clones share the table.
#[derive(Clone, Debug, Default)]
pub struct FileTable(Arc<RwLock<BTreeMap<Box<str>, Arc<Path>>>>);

/// Why a path is not served.
#[derive(Debug)]
pub enum FilesError {
    /// Nothing is attached there, or it does not exist.
    NotFound,
    /// The path or what it names is not fit for the request.
    Invalid(String),
    /// The system refused.
    Io(io::Error),
}

/// One file or directory of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Virtual path.
    pub path: String,
    /// Links to it.
    pub nlink: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change, in seconds since 1970.
    pub mtime_secs: i64,
    /// Type and permission bits.
    pub mode: u32,
    /// Name of the owner, or number where it has none.
    pub user: String,
    /// Name of the group, or number where it has none.
    pub group: String,
}

impl FileTable {
    /// Serves `real` as `path`. Under several paths the same `Arc` is one in memory.
    pub fn attach(&self, path: &str, real: impl Into<Arc<Path>>) {
        self.0.write().expect("no panic while holding the lock").insert(clean(path).into(), real.into());
    }

    /// Serves `path` no longer.
    pub fn detach(&self, path: &str) {
        self.0.write().expect("no panic while holding the lock").remove(clean(path).as_str());
    }

    /// Serves `path` no longer, if it is `real` that is served there.
    pub fn detach_from(&self, path: &str, real: &Path) {
        let path = clean(path);
        let mut table = self.0.write().expect("no panic while holding the lock");
        if table.get(path.as_str()).is_some_and(|served| **served == *real) {
            table.remove(path.as_str());
        }
    }

    /// Serves no longer what is below `path`.
    pub fn detach_below(&self, path: &str) {
        let below = clean(path) + "/";
        self.0.write().expect("no panic while holding the lock").retain(|path, _| !path.starts_with(&below));
    }

    /// Answers `/files/<endpoint>`; `None` if there is no such endpoint. Blocks on the disk: call it where that is
    /// allowed, inside of a runtime (a download is sent by a task of its own).
    pub fn answer(&self, endpoint: &str, query: &Query) -> Option<Response> {
        let endpoint = endpoint.strip_suffix(".json").unwrap_or(endpoint);
        let response = match endpoint {
            "debug" => self.debug(),
            "browse" | "read" | "download" => match query.get("path").filter(|path| !path.is_empty()) {
                None => text(StatusCode::BAD_REQUEST, "Expecting 'path=value' in query.\n"),
                Some(path) if endpoint == "browse" => answer(self.browse(path)),
                Some(path) if endpoint == "read" => answer(self.read_query(path, query)),
                Some(path) => self.download(path),
            },
            _ => return None,
        };
        Some(jsonp(response, query.get("jsonp")))
    }

    /// The entries of a directory, by name; none for a file.
    ///
    /// # Errors
    /// A [`FilesError`].
    pub fn list(&self, path: &str) -> Result<Vec<FileEntry>, FilesError> {
        let found = self.find(path)?;
        if !found.metadata.is_dir() {
            return Ok(Vec::new());
        }
        let (mut users, mut groups) = (Names::of("/etc/passwd"), Names::of("/etc/group"));
        let mut entries = Vec::new();
        for entry in found.entries()? {
            let entry = entry?;
            if entries.len() == FILES_LISTED_MAX {
                return Err(FilesError::Invalid(format!("'{path}' has more than {FILES_LISTED_MAX} entries.\n")));
            }
            // Of the entry itself: where a link leads is none of the reader's business. What was removed meanwhile is
            // not worth failing the others.
            let Ok(metadata) = entry.metadata() else { continue };
            let path = format!("{}/{}", clean(path), entry.file_name().to_string_lossy());
            entries.push(FileEntry::new(path, &metadata, &mut users, &mut groups));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    /// Whether it is a directory.
    ///
    /// # Errors
    /// A [`FilesError`].
    pub fn is_folder(&self, path: &str) -> Result<bool, FilesError> {
        Ok(self.find(path)?.metadata.is_dir())
    }

    /// At most `length` (and [`READ_BYTES_MAX`]) bytes from `offset`, and the size of the file in bytes.
    ///
    /// # Errors
    /// A [`FilesError`].
    pub fn read(&self, path: &str, offset: u64, length: Option<usize>) -> Result<(Vec<u8>, u64), FilesError> {
        let (file, metadata) = open(&self.find(path)?)?;
        let size = metadata.len();
        let length = length.unwrap_or(READ_BYTES_MAX).min(READ_BYTES_MAX).min(size.saturating_sub(offset) as usize);
        let mut data = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        data.truncate(filled);
        Ok((data, size))
    }

    /// What is behind a virtual path.
    fn find(&self, path: &str) -> Result<Found, FilesError> {
        let path = clean(path);
        if Path::new(&path).components().any(|part| part == Component::ParentDir) {
            return Err(FilesError::Invalid(format!("'{path}' leads out of its directory.\n")));
        }
        if path.contains('\0') {
            return Err(FilesError::Invalid("No file's name contains a NUL.\n".into()));
        }
        let table = self.0.read().expect("no panic while holding the lock");
        let mut attached = path.as_str();
        let (root, rest) = loop {
            if let Some(root) = table.get(attached) {
                break (root.clone(), path[attached.len()..].trim_start_matches('/'));
            }
            let (parent, _) = attached.rsplit_once('/').ok_or(FilesError::NotFound)?;
            attached = parent;
        };
        drop(table);
        Ok(beneath::find(&root, rest)?)
    }

    fn debug(&self) -> Response {
        let table = self.0.read().expect("no panic while holding the lock");
        json(&table.iter().map(|(path, real)| (path.to_string(), json!(real.to_string_lossy()))).collect())
    }

    fn browse(&self, path: &str) -> Result<Response, FilesError> {
        let entries = self.list(path)?.into_iter().map(|entry| {
            json!({
                "gid": entry.group, "mode": mode_text(entry.mode), "mtime": entry.mtime_secs as f64,
                "nlink": entry.nlink, "path": entry.path, "size": entry.size, "uid": entry.user,
            })
        });
        Ok(json(&entries.collect()))
    }

    fn read_query(&self, path: &str, query: &Query) -> Result<Response, FilesError> {
        let number = |name: &str| match query.get(name) {
            None | Some("") => Ok(None),
            Some(value) => match value.parse::<i64>() {
                Ok(number) if number >= -1 => Ok(Some(number)),
                Ok(number) => Err(FilesError::Invalid(format!("Negative {name} provided: {number}.\n"))),
                Err(error) => Err(FilesError::Invalid(format!("Failed to parse {name}: {error}.\n"))),
            },
        };
        let (offset, length) = (number("offset")?.unwrap_or(-1), number("length")?);
        let length = length.and_then(|length| usize::try_from(length).ok());
        // Without an offset: where the end is, for clients that then follow the file.
        let Ok(offset) = u64::try_from(offset) else {
            let (_, size) = self.read(path, 0, Some(0))?;
            return Ok(json(&json!({ "data": "", "offset": size })));
        };
        let (data, _) = self.read(path, offset, length)?;
        Ok(json(&json!({ "data": String::from_utf8_lossy(&data), "offset": offset })))
    }

    fn download(&self, path: &str) -> Response {
        let opened = self.find(path).and_then(|found| open(&found));
        let (file, metadata) = match opened {
            Err(FilesError::NotFound) => return crate::not_found(),
            Err(error) => return error.response(),
            Ok(opened) => opened,
        };
        let name = clean(path);
        attachment(file, metadata.len(), name.rsplit('/').next().unwrap_or_default())
    }
}

/// The first `size` bytes of a file, to be saved under `name`. Sent by a task of its own, a piece after the other.
pub fn attachment(file: File, size: u64, name: &str) -> Response {
    let (sender, response) = attachment_of(size, name);
    tokio::spawn(async move {
        let file = Arc::new(file);
        let mut offset = 0;
        while offset < size {
            let (file, length) = (file.clone(), DOWNLOAD_CHUNK_BYTES.min((size - offset) as usize));
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; length];
                file.read_exact_at(&mut chunk, offset).map(|()| chunk)
            });
            // A file that shrank meanwhile ends the connection: its Content-Length was already said.
            let Ok(Ok(chunk)) = read.await else { return };
            offset += chunk.len() as u64;
            if sender.send(Bytes::from(chunk)).await.is_err() {
                return;
            }
        }
    });
    response
}

/// Something of `size` bytes to be saved under `name`, and where to send them.
pub fn attachment_of(size: u64, name: &str) -> (StreamSender, Response) {
    let (sender, body) = stream(4);
    let mut response = streaming("application/octet-stream", body.sized(size));
    let name = name.replace(|c: char| c.is_control() || c == ';', "_");
    let disposition = HeaderValue::try_from(format!("attachment; filename={name}"));
    let disposition = disposition.unwrap_or(HeaderValue::from_static("attachment"));
    response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    (sender, response)
}

impl FilesError {
    /// What to answer.
    pub fn response(&self) -> Response {
        match self {
            FilesError::NotFound => {
                let mut response = empty(StatusCode::NOT_FOUND);
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(crate::TEXT_PLAIN));
                response
            }
            FilesError::Invalid(sentence) => text(StatusCode::BAD_REQUEST, sentence),
            FilesError::Io(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}.\n")),
        }
    }
}

impl From<io::Error> for FilesError {
    fn from(error: io::Error) -> FilesError {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
                FilesError::NotFound
            }
            _ => FilesError::Io(error),
        }
    }
}

impl FileEntry {
    fn new(path: String, metadata: &Metadata, users: &mut Names, groups: &mut Names) -> FileEntry {
        FileEntry {
            path,
            nlink: metadata.nlink(),
            size: metadata.len(),
            mtime_secs: metadata.mtime(),
            mode: metadata.mode(),
            user: users.name(metadata.uid()),
            group: groups.name(metadata.gid()),
        }
    }
}

fn answer(result: Result<Response, FilesError>) -> Response {
    result.unwrap_or_else(|error| error.response())
}

/// Without double, trailing and missing first slashes.
fn clean(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").fold(String::new(), |path, part| path + "/" + part)
}

fn open(found: &Found) -> Result<(File, Metadata), FilesError> {
    // Looked at before it is opened: a named pipe in a sandbox would wake its writer, a device could do anything.
    match &found.metadata {
        metadata if metadata.is_dir() => Err(FilesError::Invalid("Cannot read a directory.\n".into())),
        metadata if !metadata.is_file() => Err(FilesError::Invalid("Cannot read what is not a regular file.\n".into())),
        // As large as it is now.
        _ => {
            let file = found.open()?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        }
    }
}

/// Type and permissions as `ls -l` writes them.
pub fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o020_000 => 'c',
        0o060_000 => 'b',
        _ => '-',
    };
    let bit = |shift: u32, letter| if mode >> shift & 1 == 1 { letter } else { '-' };
    std::iter::once(kind).chain((0..9).rev().map(|shift| bit(shift, ['x', 'w', 'r'][shift as usize % 3]))).collect()
}

/// Names of users or groups, read once for a whole listing, when the first is asked for.
struct Names {
    table: &'static str,
    names: Option<BTreeMap<u32, String>>,
}

impl Names {
    /// Those in a file of colon-separated lines.
    fn of(table: &'static str) -> Names {
        Names { table, names: None }
    }

    /// The name of a number, or the number.
    fn name(&mut self, id: u32) -> String {
        let names = self.names.get_or_insert_with(|| {
            let text = fs::read_to_string(self.table).unwrap_or_default();
            let mut names = BTreeMap::new();
            for line in text.lines() {
                let mut fields = line.split(':');
                if let (Some(name), Some(Ok(id))) = (fields.next(), fields.nth(1).map(str::parse)) {
                    names.entry(id).or_insert_with(|| name.to_owned());
                }
            }
            names
        });
        names.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}
