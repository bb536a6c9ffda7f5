//! Big answers: written away from the threads that serve, a few at a time, and once for everybody who asks for the same
//! at the same time.

use crate::context::{Reading, Staleness};
use api::limits::ANSWERS_BYTES_MAX;
use api_http::{HeaderValue, Response, StatusCode, header};
use auth::Sight;
use bytes::Bytes;
use event_log::host;
use flate2::Compression;
use flate2::write::GzEncoder;
use master_core::State;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::{Semaphore, SetOnce};

/// Smaller answers are not worth compressing.
const GZIP_BYTES_MIN: usize = 1024;
/// Pages that wait for their turn; more are refused. Each holds a State of its own.
const WAITING_MAX: usize = 128;
/// Pages that nobody reads any more are forgotten when so many are known.
const PAGES_BEFORE_SWEEP: usize = 64;

/// What is rendered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `/state`
    State,
    /// `/state-summary`
    Summary,
    /// A list of version 0, with what was asked about it.
    List(super::legacy::Read, String),
    /// A big read of v1 in JSON.
    Json(super::operator::get::Read),
    /// The same in protobuf.
    Protobuf(super::operator::get::Read),
    /// GET_ROLES; true for JSON.
    Roles(bool),
    /// The first event of who watches; true for JSON.
    Subscribed(bool),
}

/// Which rendering is wanted.
#[derive(Clone, Debug)]
pub struct Rendering {
    /// Of what.
    pub kind: Kind,
    /// As gzip, if that is worth it.
    pub packed: bool,
    /// Of State at this index, or later.
    pub index: u64,
    /// For whoever sees that much of it; None: all.
    pub sight: Option<Arc<Sight>>,
}

/// What is shown of `state`.
pub fn shown(state: Arc<State>, sight: Option<&Sight>) -> Arc<State> {
    sight.map_or(state.clone(), |sight| Arc::new(master_core::seen::seen(&state, sight)))
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

/// Those who ask for the same and see the same share a page.
type Key = (Kind, bool, Option<Arc<Sight>>);

#[derive(Debug)]
struct Page {
    /// Set when `bytes` are gzip.
    packed: bool,
    bytes: Vec<u8>,
}

/// A page on its way, and then for as long as its bytes are being sent. It is made of one State, that of `index`:
/// whoever shares it gets what that State says.
#[derive(Debug)]
struct Cell {
    index: u64,
    page: SetOnce<Result<Page, NoPage>>,
    held: Arc<AtomicUsize>,
}

impl Cell {
    fn bytes(&self) -> &[u8] {
        self.page.get().and_then(|page| page.as_ref().ok()).map_or(&[], |page| &page.bytes)
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes().len(), Ordering::AcqRel);
    }
}

/// Renderings under way or being sent. They live as long as somebody reads them, so memory holds no answer that
/// nobody waits for.
#[derive(Debug)]
pub struct Renderings {
    pages: Mutex<HashMap<Key, Weak<Cell>>>,
    /// What all pages hold that are being sent, in bytes.
    held: Arc<AtomicUsize>,
    /// How many are made at once.
    turns: Arc<Semaphore>,
    /// How many are being made or wait for that.
    under_way: Arc<AtomicUsize>,
    shared: AtomicU64,
}

/// One page that is under way.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A page that was made, for as long as somebody reads it.
#[derive(Clone, Debug)]
pub struct Made(Arc<Cell>);

impl Made {
    /// Everything up to this index of the log is in it, and nothing more.
    pub fn index(&self) -> u64 {
        self.0.index
    }

    /// Its bytes, which are shared.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_owner(Kept(self.0.clone()))
    }

    fn packed(&self) -> bool {
        matches!(self.0.page.get(), Some(Ok(page)) if page.packed)
    }
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPage {
    /// Too many bytes wait for clients that do not read them.
    Full,
    /// Too many pages wait to be made.
    Busy,
    /// Rendering failed.
    Failed,
}

impl NoPage {
    /// What to answer.
    pub fn response(self) -> Response {
        match self {
            NoPage::Full => api_http::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many large answers wait for clients that do not read them: try again later",
            ),
            NoPage::Busy => api_http::text(
                StatusCode::SERVICE_UNAVAILABLE,
                "Too many large answers are being made: try again later",
            ),
            NoPage::Failed => api_http::text(StatusCode::INTERNAL_SERVER_ERROR, "The answer could not be made"),
        }
    }
}

impl Default for Renderings {
    fn default() -> Renderings {
        // Half of the processors stay for everything else, as far as there are several.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Renderings {
            pages: Mutex::default(),
            held: Arc::default(),
            turns: Arc::new(Semaphore::new((processors / 2).max(1))),
            under_way: Arc::default(),
            shared: AtomicU64::new(0),
        }
    }
}

impl Renderings {
    /// How many answers shared the rendering of another.
    pub fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    /// What waits to be sent, in bytes.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// 200 with what `render` writes, or with what it wrote for somebody else at the same index or a later one.
    pub async fn answer(
        &self,
        wanted: Rendering,
        content_type: &'static str,
        render: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Response {
        let made = match self.page(wanted, render).await {
            Ok(made) => made,
            Err(none) => return none.response(),
        };
        let mut response = api_http::bytes(StatusCode::OK, content_type, made.bytes());
        if made.packed() {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// 200 with what `render` writes for this client alone.
    pub async fn alone(
        &self,
        content_type: &'static str,
        render: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Response {
        let made = match self.start(0, false, render) {
            Ok(cell) => finished(cell).await,
            Err(none) => Err(none),
        };
        match made {
            Ok(made) => api_http::bytes(StatusCode::OK, content_type, made.bytes()),
            Err(none) => none.response(),
        }
    }

    /// A page of what `render` writes, or of what it wrote for somebody else at the same index or a later one.
    ///
    /// # Errors
    /// [`NoPage`], which knows what to answer.
    pub async fn page(
        &self,
        wanted: Rendering,
        render: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Made, NoPage> {
        finished(self.cell(wanted, render)?).await
    }

    /// The newest page of a kind that somebody is being sent, however old it is.
    pub fn known(&self, kind: Kind, sight: Option<Arc<Sight>>) -> Option<Made> {
        let cell = self.pages.lock().get(&(kind, false, sight))?.upgrade()?;
        matches!(cell.page.get(), Some(Ok(_))).then_some(Made(cell))
    }

    fn cell(&self, wanted: Rendering, render: impl FnOnce() -> Vec<u8> + Send + 'static) -> Result<Arc<Cell>, NoPage> {
        let mut pages = self.pages.lock();
        let key = (wanted.kind, wanted.packed, wanted.sight);
        if let Some(page) = pages.get(&key).and_then(Weak::upgrade)
            && page.index >= wanted.index
        {
            self.shared.fetch_add(1, Ordering::Relaxed);
            return Ok(page);
        }
        let cell = self.start(wanted.index, wanted.packed, render)?;
        if pages.len() >= PAGES_BEFORE_SWEEP {
            pages.retain(|_, page| page.strong_count() > 0);
        }
        pages.insert(key, Arc::downgrade(&cell));
        Ok(cell)
    }

    /// Begins to make a page, which goes on whoever waits for it.
    fn start(
        &self,
        index: u64,
        packed: bool,
        render: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Arc<Cell>, NoPage> {
        if self.held() >= ANSWERS_BYTES_MAX {
            return Err(NoPage::Full);
        }
        let before = self.under_way.fetch_add(1, Ordering::AcqRel);
        let under_way = UnderWay(self.under_way.clone());
        if before >= WAITING_MAX {
            return Err(NoPage::Busy);
        }
        let cell = Arc::new(Cell { index, page: SetOnce::new(), held: self.held.clone() });
        let (made, turns) = (Arc::downgrade(&cell), self.turns.clone());
        host::spawn(async move {
            let (_turn, _under_way) = (turns.acquire_owned().await, under_way);
            // Whoever wanted it may be gone.
            let Some(cell) = made.upgrade() else { return };
            let page = if cell.held.load(Ordering::Acquire) >= ANSWERS_BYTES_MAX {
                Err(NoPage::Full)
            } else {
                // A panic while rendering is this answer's failure, not the process's.
                host::blocking(move || pack(render(), packed)).await.map_err(|_| NoPage::Failed)
            };
            cell.held.fetch_add(page.as_ref().map_or(0, |page| page.bytes.len()), Ordering::AcqRel);
            let _ = cell.page.set(page);
        });
        Ok(cell)
    }
}

async fn finished(cell: Arc<Cell>) -> Result<Made, NoPage> {
    match cell.page.wait().await {
        Ok(_) => Ok(Made(cell)),
        Err(none) => Err(*none),
    }
}

/// The page for as long as its bytes are being sent.
struct Kept(Arc<Cell>);

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
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

    const WANTED: Rendering = Rendering { kind: Kind::State, packed: false, index: 7, sight: None };

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
        assert_eq!(renderings.held(), 5000);

        let later = Rendering { index: 8, ..WANTED };
        let third = renderings.answer(later.clone(), "application/json", rendered(&count)).await;
        assert_eq!(count.load(Ordering::SeqCst), 2, "an older rendering is not shown to a later reader");

        let gzip = renderings.answer(Rendering { packed: true, ..WANTED }, "application/json", rendered(&count)).await;
        assert_eq!(gzip.headers()[header::CONTENT_ENCODING], "gzip");

        drop((first, second, third, gzip));
        assert_eq!(renderings.held(), 0);
        let _again = renderings.answer(later, "application/json", rendered(&count)).await;
        assert_eq!(count.load(Ordering::SeqCst), 4, "nothing is kept that nobody reads");
    }

    /// Who shares a page gets what its State says, whoever of those that wait is first to ask for it.
    #[tokio::test]
    async fn a_page_is_of_the_state_that_it_was_begun_with() {
        let renderings = Arc::new(Renderings::default());
        let busy = renderings.turns.clone().acquire_many_owned(renderings.turns.available_permits() as u32).await;
        let ask = |index: u64| {
            let (renderings, wanted) = (renderings.clone(), Rendering { index, ..WANTED });
            tokio::spawn(async move {
                let made = renderings.page(wanted, move || index.to_string().into_bytes()).await.unwrap();
                (made.index(), made.bytes())
            })
        };
        let first = ask(10);
        tokio::task::yield_now().await;
        let (second, third) = (ask(8), ask(10));
        tokio::task::yield_now().await;
        first.abort();
        drop(busy);
        for reader in [second, third] {
            assert_eq!(reader.await.unwrap(), (10, Bytes::from_static(b"10")));
        }
    }

    #[tokio::test]
    async fn what_waits_for_readers_is_bounded() {
        let renderings = Renderings::default();
        let read = renderings.page(WANTED, || b"read".to_vec()).await.unwrap();
        renderings.held.fetch_add(ANSWERS_BYTES_MAX, Ordering::AcqRel);
        let later = Rendering { index: 9, ..WANTED };
        let refused = renderings.page(later.clone(), Vec::new).await.unwrap_err();
        assert_eq!((refused, refused.response().status()), (NoPage::Full, StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(renderings.known(Kind::State, None).unwrap().index(), 7, "what others read may still be shared");
        renderings.held.fetch_sub(ANSWERS_BYTES_MAX, Ordering::AcqRel);
        assert!(renderings.page(later, Vec::new).await.is_ok());
        drop(read);
    }

    #[tokio::test]
    async fn what_waits_to_be_made_is_bounded() {
        let renderings = Arc::new(Renderings::default());
        let busy = renderings.turns.clone().acquire_many_owned(renderings.turns.available_permits() as u32).await;
        let ask = |index: usize| {
            let renderings = renderings.clone();
            let wanted = Rendering { kind: Kind::List(crate::http::legacy::Read::Tasks, index.to_string()), ..WANTED };
            tokio::spawn(async move { renderings.page(wanted, Vec::new).await.map(drop) })
        };
        let waiting: Vec<_> = (0..WAITING_MAX).map(ask).collect();
        tokio::task::yield_now().await;
        assert_eq!(ask(WAITING_MAX).await.unwrap(), Err(NoPage::Busy));
        drop(busy);
        for answer in waiting {
            assert_eq!(answer.await.unwrap(), Ok(()));
        }
        assert_eq!(ask(0).await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_panic_is_one_answer_s_failure() {
        let renderings = Renderings::default();
        let answer = renderings.answer(WANTED, "application/json", || panic!("no")).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
