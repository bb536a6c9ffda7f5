//! Big answers: written away from the threads that serve, and once for everybody who asks for the same at the same
//! time.

use crate::context::{Reading, Staleness};
use api_http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::OnceCell;

/// Smaller answers are not worth compressing.
const GZIP_BYTES_MIN: usize = 1024;

/// What is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `/state`
    State,
    /// `/state-summary`
    Summary,
    /// A big read of v1 in JSON.
    Json(super::operator::get::Read),
    /// The same in protobuf.
    Protobuf(super::operator::get::Read),
}

/// Which rendering is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Rendering {
    /// Of what.
    pub kind: Kind,
    /// As gzip, if that is worth it.
    pub packed: bool,
    /// Of State at this index, or later.
    pub index: u64,
}

/// Says in the headers of an answer how old it may be:
///
/// - `Meseta-Index`: everything up to this index of the log is in it.
/// - `Meseta-Committed-Index` (stale reads): what this master knows to be committed.
/// - `Meseta-Leader-Contact-Ms` (stale reads): how long ago this master heard from a leader, or as a leader from a quorum.
///   What was committed since then may be missing. Left out if it never did.
pub fn as_of(reading: &Reading, mut response: Response) -> Response {
    let mut put = |name: &'static str, value: u64| {
        response.headers_mut().insert(header::HeaderName::from_static(name), HeaderValue::from(value));
    };
    put("meseta-index", reading.index);
    if let Some(Staleness { committed, contact }) = reading.staleness {
        put("meseta-committed-index", committed);
        if let Some(contact) = contact {
            put("meseta-leader-contact-ms", u64::try_from(contact.as_millis()).unwrap_or(u64::MAX));
        }
    }
    response
}

#[derive(Debug)]
struct Page {
    /// Set when `bytes` are gzip.
    packed: bool,
    bytes: Vec<u8>,
}

type Cell = OnceCell<Option<Page>>;
/// Of State at an index, for as long as somebody holds it.
type Known = (u64, Weak<Cell>);

/// Renderings under way or being sent. They live as long as somebody reads them, so memory holds no answer that
/// nobody waits for.
#[derive(Debug, Default)]
pub struct Renderings {
    pages: Mutex<HashMap<(Kind, bool), Known>>,
    shared: AtomicU64,
}

impl Renderings {
    /// How many answers shared the rendering of another.
    pub fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    /// 200 with what `render` writes, or with what it wrote for somebody else at the same index or a later one.
    pub async fn answer(
        &self,
        wanted: Rendering,
        content_type: &'static str,
        render: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Response {
        let cell = self.cell(wanted);
        let page = cell.get_or_init(|| async {
            // A panic while rendering is this answer's failure, not the process's.
            event_log::host::blocking(move || pack(render(), wanted.packed)).await.ok()
        });
        let Some(packed) = page.await.as_ref().map(|page| page.packed) else {
            return api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The answer could not be made");
        };
        let mut response = api_http::bytes(StatusCode::OK, content_type, Bytes::from_owner(Kept(cell)));
        if packed {
            let gzip = api_http::HeaderValue::from_static("gzip");
            response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
        }
        response
    }

    fn cell(&self, wanted: Rendering) -> Arc<Cell> {
        let mut pages = self.pages.lock();
        let key = (wanted.kind, wanted.packed);
        if let Some((index, page)) = pages.get(&key)
            && *index >= wanted.index
            && let Some(page) = page.upgrade()
        {
            self.shared.fetch_add(1, Ordering::Relaxed);
            return page;
        }
        let cell = Arc::new(Cell::new());
        pages.insert(key, (wanted.index, Arc::downgrade(&cell)));
        cell
    }
}

/// The page for as long as its bytes are being sent.
struct Kept(Arc<Cell>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.0.get().and_then(Option::as_ref).map_or(&[], |page| &page.bytes)
    }
}

fn pack(bytes: Vec<u8>, packed: bool) -> Page {
    if !packed || bytes.len() < GZIP_BYTES_MIN {
        return Page { packed: false, bytes };
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::fast());
    match encoder.write_all(&bytes).and_then(|()| encoder.finish()) {
        Ok(bytes) => Page { packed: true, bytes },
        Err(_) => Page { packed: false, bytes },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const WANTED: Rendering = Rendering { kind: Kind::State, packed: false, index: 7 };

    fn rendered(count: &Arc<AtomicUsize>) -> impl FnOnce() -> Vec<u8> + Send + 'static {
        let count = count.clone();
        move || {
            count.fetch_add(1, Ordering::SeqCst);
            vec![b'x'; 5000]
        }
    }

    #[tokio::test]
    async fn equal_reads_share_while_somebody_reads() {
        let (renderings, count) = (Renderings::default(), Arc::new(AtomicUsize::new(0)));
        let first = renderings.answer(WANTED, "application/json", rendered(&count)).await;
        let second = renderings.answer(WANTED, "application/json", rendered(&count)).await;
        assert_eq!((count.load(Ordering::SeqCst), renderings.shared()), (1, 1));

        let later = Rendering { index: 8, ..WANTED };
        let third = renderings.answer(later, "application/json", rendered(&count)).await;
        assert_eq!(count.load(Ordering::SeqCst), 2, "an older rendering is not shown to a later reader");

        let gzip = renderings.answer(Rendering { packed: true, ..WANTED }, "application/json", rendered(&count)).await;
        assert_eq!(gzip.headers()[header::CONTENT_ENCODING], "gzip");

        drop((first, second, third));
        let _again = renderings.answer(later, "application/json", rendered(&count)).await;
        assert_eq!(count.load(Ordering::SeqCst), 4, "nothing is kept that nobody reads");
    }

    #[tokio::test]
    async fn a_panic_is_one_answer_s_failure() {
        let renderings = Renderings::default();
        let answer = renderings.answer(WANTED, "application/json", || panic!("no")).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
