//! Who may stay connected, and for how long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_http::{Bounds, Connections, Request, Response, Serving, StatusCode};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// `/stream` never ends, `/echo` reads its body, `/meseta/refused` is refused, everything else is empty.
async fn answer(request: Request) -> Response {
    match request.uri().path() {
        "/stream" => {
            let (sender, body) = api_http::stream(2);
            tokio::spawn(async move {
                let _ = sender.send(Bytes::from_static(b"1\nx")).await;
                sender.closed().await;
            });
            api_http::streaming("application/json", body)
        }
        "/echo" => {
            let (parts, body) = request.into_parts();
            match api_http::read_body(&parts.headers, body, 50_000).await {
                Ok(body) => api_http::json_bytes(body.to_vec()),
                Err(error) => error.response(),
            }
        }
        "/meseta/refused" => api_http::empty(StatusCode::FORBIDDEN),
        _ => api_http::empty(StatusCode::OK),
    }
}

struct Served {
    address: SocketAddr,
    connections: Arc<Connections>,
    _stop: watch::Sender<bool>,
}

async fn serve(bounds: Bounds) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let serving = Serving { connections: Connections::new(bounds), ..Serving::new() };
    let connections = serving.connections.clone();
    tokio::spawn(api_http::serve_with(listener, |request, _| answer(request), stopped, serving));
    Served { address, connections, _stop: stop }
}

async fn usual() -> Served {
    serve(Bounds::of_files(4096)).await
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits until the server knows of so many connections.
    async fn holds(&self, count: usize) {
        for _ in 0..2000 {
            if self.connections.count() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} connections instead of {count}", self.connections.count());
    }
}

/// Lets time pass for everything that waits for it.
async fn pass(duration: Duration) {
    // What the network still carries arrives first.
    tokio::time::sleep(Duration::from_millis(100)).await;
    tokio::time::pause();
    tokio::time::advance(duration).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}

/// The first piece of what comes; empty at the end.
async fn read(socket: &mut TcpStream) -> String {
    let mut buffer = vec![0; 65_536];
    match tokio::time::timeout(Duration::from_secs(20), socket.read(&mut buffer)).await {
        Ok(Ok(length)) => String::from_utf8_lossy(&buffer[..length]).into_owned(),
        Ok(Err(_)) => String::new(),
        Err(_) => panic!("neither an answer nor the end"),
    }
}

async fn is_open(socket: &mut TcpStream) -> bool {
    let mut byte = [0];
    tokio::time::timeout(Duration::from_millis(200), socket.read(&mut byte)).await.is_err()
}

async fn ask(socket: &mut TcpStream, head: &str) -> String {
    socket.write_all(format!("{head} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    read(socket).await
}

#[tokio::test]
async fn a_connection_that_has_spoken_may_be_silent_for_as_long_as_it_likes() {
    let served = usual().await;
    let mut socket = served.connect().await;
    for pause in [31, 3600, 24 * 3600] {
        assert!(ask(&mut socket, "GET /").await.starts_with("HTTP/1.1 200"));
        pass(Duration::from_secs(pause)).await;
    }
    assert!(ask(&mut socket, "GET /").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_says_nothing_or_does_not_finish_is_cut() {
    let served = usual().await;
    let (mut silent, mut slow) = (served.connect().await, served.connect().await);
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
    let mut preface = served.connect().await;
    preface.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    pass(Duration::from_secs(10)).await;
    assert!(is_open(&mut silent).await && is_open(&mut slow).await);
    pass(Duration::from_secs(15)).await;
    assert_eq!((read(&mut silent).await, read(&mut slow).await), (String::new(), String::new()));
    served.holds(0).await;
    assert_eq!(served.connections.turned.silent.load(std::sync::atomic::Ordering::Relaxed), 3);
}

#[tokio::test]
async fn the_second_connection_of_a_client_with_a_stream_is_not_cut() {
    let served = usual().await;
    let (mut stream, mut second) = (served.connect().await, served.connect().await);
    assert!(ask(&mut stream, "GET /stream").await.starts_with("HTTP/1.1 200"));
    pass(Duration::from_secs(20)).await;
    assert!(is_open(&mut second).await);
    pass(Duration::from_secs(3600)).await;
    assert!(ask(&mut second, "GET /").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_body_has_a_pace_to_keep() {
    let served = usual().await;
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n";
    let (mut slow, mut steady) = (served.connect().await, served.connect().await);
    for socket in [&mut slow, &mut steady] {
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&[b'x'; 1000]).await.unwrap();
    }
    steady.write_all(&[b'x'; 15_000]).await.unwrap();
    pass(Duration::from_millis(10_100)).await;
    let told = read(&mut slow).await;
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("fewer than 10240 bytes came"), "{told}");
    steady.write_all(&[b'x'; 24_000]).await.unwrap();
    assert!(read(&mut steady).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn silent_sockets_keep_nobody_out() {
    let bounds = Bounds::of_files(1024);
    let (all, new) = (bounds.connections_max, bounds.new_max);
    let served = serve(bounds).await;
    let mut silent = Vec::new();
    for _ in 0..all + 100 {
        silent.push(served.connect().await);
    }
    let mut known = served.connect().await;
    assert!(ask(&mut known, "GET /").await.starts_with("HTTP/1.1 200"));
    served.holds(new).await;
    assert!(is_open(&mut known).await);
    drop(silent);
    served.holds(1).await;
}

#[tokio::test]
async fn strangers_who_speak_leave_room_for_masters_and_agents() {
    let bounds = Bounds { connections_max: 30, reserve: 16, new_max: 8, ..Bounds::of_files(1024) };
    let served = serve(bounds).await;
    let mut strangers = Vec::new();
    for _ in 0..14 {
        let mut socket = served.connect().await;
        assert!(ask(&mut socket, "GET /stream").await.starts_with("HTTP/1.1 200"));
        strangers.push(socket);
    }
    for path in ["GET /", "GET /meseta/refused"] {
        let mut late = served.connect().await;
        let told = ask(&mut late, path).await;
        assert!(told.starts_with("HTTP/1.1 503") && told.contains("Too many clients are connected"), "{told}");
        assert_eq!(read(&mut late).await, "", "and it is hung up on");
    }
    let mut inner = served.connect().await;
    assert!(ask(&mut inner, "POST /meseta/hello").await.starts_with("HTTP/1.1 200"));
    assert!(is_open(&mut strangers[0]).await, "who was there first stays");
}

#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let bounds = Bounds { connections_max: 30, reserve: 16, new_max: 8, ..Bounds::of_files(1024) };
    let served = serve(bounds).await;
    let mut idle = Vec::new();
    for _ in 0..14 {
        let mut socket = served.connect().await;
        assert!(ask(&mut socket, "GET /").await.starts_with("HTTP/1.1 200"));
        idle.push(socket);
    }
    assert!(ask(&mut idle[0], "GET /").await.starts_with("HTTP/1.1 200"), "there is room for all of them");
    for longest in 1..4 {
        let mut late = served.connect().await;
        assert!(ask(&mut late, "GET /").await.starts_with("HTTP/1.1 200"));
        assert_eq!(read(&mut idle[longest]).await, "", "it makes room");
        assert!(is_open(&mut idle[0]).await && is_open(&mut idle[longest + 1]).await, "and nobody else");
        served.holds(14).await;
        drop(late);
        served.holds(13).await;
        idle.push(served.connect().await);
        assert!(ask(idle.last_mut().unwrap(), "GET /").await.starts_with("HTTP/1.1 200"));
    }
}
