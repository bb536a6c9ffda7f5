//! Archives of tar, as a stream of entries that are described: whoever reads them says what becomes of each. What describes
//! the next entry is bounded, however large it says that it is.

use std::io::{self, BufReader, Read};
use std::time::{Duration, SystemTime};

pub use tar::EntryType;

use crate::unpack::Packing;

/// What a decoder may hold of what came before.
const XZ_MEMORY_KIB_MAX: u32 = 256 << 10;
const ZSTD_WINDOW_BYTES_MAX: u64 = 128 << 20;
/// What names and attributes of one entry may weigh.
pub(crate) const HEADER_BYTES_MAX: u64 = 1 << 20;

/// Why an archive is not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Its bytes are not those of such an archive.
    #[error("the archive is damaged, or packed in a way that is not known here: {0}")]
    Damaged(String),
    /// Too much comes out of it.
    #[error("more than {0} bytes come out of the archive")]
    Bytes(u64),
}

/// What comes out of a packed stream.
///
/// # Errors
/// It does not begin as it should.
pub fn unpacked<'a>(packing: Packing, packed: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Broken> {
    Ok(match packing {
        Packing::Plain => Box::new(packed),
        Packing::Gz => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(64 << 10, packed))),
        Packing::Bz2 => Box::new(bzip2::read::MultiBzDecoder::new(packed)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB_MAX)),
        Packing::Zst => Box::new(Frames::new(packed)?),
    })
}

/// One entry, as it is described.
pub struct Entry<'a> {
    /// What it is.
    pub kind: EntryType,
    /// Its path, as it was written.
    pub name: Vec<u8>,
    /// Where it leads, if it is a link.
    pub link: Vec<u8>,
    /// Permissions, with what makes others of users.
    pub mode: u32,
    /// Numbers of its user and its group.
    pub owner: (u64, u64),
    /// When it was changed.
    pub modified: Option<SystemTime>,
    /// Bytes of its content.
    pub size: u64,
    /// Where its content begins in the archive, in bytes.
    pub position: u64,
    /// Extended attributes: name and value.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its content.
    pub content: &'a mut dyn Read,
}

/// Reads an archive that is not packed, of at most so many bytes, and hands over entry after entry.
///
/// # Errors
/// The archive is [`Broken`], or `take` does not want to go on.
pub fn each<E: From<Broken>>(
    reader: impl Read,
    bytes_max: u64,
    mut take: impl FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut archive = tar::Archive::new(Bounded { reader, left: bytes_max, is_over: false });
    let done = entries(&mut archive, &mut take);
    // The bound shows as a failure of whoever was reading.
    if archive.into_inner().is_over { Err(Broken::Bytes(bytes_max).into()) } else { done }
}

fn entries<R: Read, E: From<Broken>>(
    archive: &mut tar::Archive<R>,
    take: &mut impl FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let damaged = |error: io::Error| Broken::Damaged(error.to_string());
    // Raw, because what describes the next entry would be read as a whole, however much it is.
    let mut described = Described::default();
    for entry in archive.entries().map_err(damaged)?.raw(true) {
        let mut entry = entry.map_err(damaged)?;
        let header = entry.header().clone();
        let kind = header.entry_type();
        let size = header.entry_size().map_err(damaged)?;
        if matches!(
            kind,
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
        ) {
            if size > HEADER_BYTES_MAX {
                return Err(Broken::Damaged(format!("the description of one entry has {size} bytes")).into());
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(damaged)?;
            described.read(kind, &text)?;
            continue;
        }
        let described = std::mem::take(&mut described);
        if described.is_sparse || kind == EntryType::GNUSparse {
            return Err(Broken::Damaged("it has sparse files, which are not unpacked".to_owned()).into());
        }
        let name = described.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
        if is_file && described.size.is_some_and(|described| described != size) {
            let shown = String::from_utf8_lossy(&name).into_owned();
            return Err(Broken::Damaged(format!("'{}' has two sizes", api::limits::quoted(&shown))).into());
        }
        let link = described.link.or_else(|| entry.link_name_bytes().map(|name| name.into_owned()));
        let since_1970 = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(1 << 40));
        let modified = described.modified.or_else(|| header.mtime().ok()).map(since_1970);
        let owner = (
            described.user.unwrap_or_else(|| header.uid().unwrap_or(0)),
            described.group.unwrap_or_else(|| header.gid().unwrap_or(0)),
        );
        take(Entry {
            // Archives of old end names of folders so.
            kind: if is_file && name.ends_with(b"/") { EntryType::Directory } else { kind },
            name,
            link: link.unwrap_or_default(),
            mode: header.mode().unwrap_or(0o644),
            owner,
            modified,
            size,
            position: entry.raw_file_position(),
            attributes: described.attributes,
            content: &mut entry,
        })?;
    }
    Ok(())
}

/// What entries of their own say of the one that follows.
#[derive(Default)]
struct Described {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<u64>,
    user: Option<u64>,
    group: Option<u64>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    is_sparse: bool,
}

impl Described {
    fn read(&mut self, kind: EntryType, text: &[u8]) -> Result<(), Broken> {
        let name = || text.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => self.path = Some(name()),
            EntryType::GNULongLink => self.link = Some(name()),
            EntryType::XHeader => {
                for extension in tar::PaxExtensions::new(text) {
                    let extension = extension.map_err(|error| Broken::Damaged(error.to_string()))?;
                    let number = || extension.value().ok().and_then(|number| number.split('.').next()?.parse().ok());
                    match extension.key_bytes() {
                        b"path" => self.path = Some(extension.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                        b"size" => self.size = number(),
                        b"mtime" => self.modified = number(),
                        b"uid" => self.user = number(),
                        b"gid" => self.group = number(),
                        key if key.starts_with(b"GNU.sparse.") => self.is_sparse = true,
                        key => {
                            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                                self.attributes.push((name.to_vec(), extension.value_bytes().to_vec()));
                            }
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// A reader that ends with an error where too much has come.
struct Bounded<R> {
    reader: R,
    left: u64,
    is_over: bool,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => {
                self.left = left;
                Ok(count)
            }
            None => {
                self.is_over = true;
                Err(io::Error::other("more bytes come out of the archive than may"))
            }
        }
    }
}

/// One Zstandard frame after the other.
struct Frames<R: Read> {
    decoder: Option<ruzstd::decoding::StreamingDecoder<Ahead<R>, ruzstd::decoding::FrameDecoder>>,
}

/// A reader that knows whether there is more.
struct Ahead<R> {
    reader: R,
    next: Option<u8>,
}

impl<R: Read> Ahead<R> {
    fn has_more(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        while self.next.is_none() {
            match self.reader.read(&mut byte) {
                Ok(0) => return Ok(false),
                Ok(_) => self.next = Some(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl<R: Read> Read for Ahead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (self.next.take(), buffer.first_mut()) {
            (Some(byte), Some(first)) => {
                *first = byte;
                Ok(1)
            }
            (next, _) => {
                self.next = next;
                self.reader.read(buffer)
            }
        }
    }
}

impl<R: Read> Frames<R> {
    fn new(reader: R) -> Result<Frames<R>, Broken> {
        let decoder = frame(Ahead { reader, next: None }).map_err(|error| Broken::Damaged(error.to_string()))?;
        Ok(Frames { decoder: Some(decoder) })
    }
}

fn frame<R: Read>(
    reader: Ahead<R>,
) -> io::Result<ruzstd::decoding::StreamingDecoder<Ahead<R>, ruzstd::decoding::FrameDecoder>> {
    ruzstd::decoding::StreamingDecoder::new_with_max_window_size(reader, ZSTD_WINDOW_BYTES_MAX)
        .map_err(|error| io::Error::other(error.to_string()))
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = &mut self.decoder {
            let count = decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let Some(decoder) = self.decoder.take() else { break };
            let mut reader = decoder.into_inner();
            if reader.has_more()? {
                self.decoder = Some(frame(reader)?);
            }
        }
        Ok(0)
    }
}
