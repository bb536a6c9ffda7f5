//! The whole of it over real sockets.

use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use api_http::{FileTable, Query, Response, Router, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Serves one directory, a stream and an echo.
async fn start(files: FileTable) -> (SocketAddr, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let handler = move |request: api_http::Request, _peer| {
        let files = files.clone();
        async move { handle(&files, request).await }
    };
    (address, stop, tokio::spawn(api_http::serve(listener, handler, stopped)))
}

async fn handle(files: &FileTable, request: api_http::Request) -> Response {
    let router = Router::new("master").at("/files", "files").at("/stream", "stream").at("/echo", "echo");
    let query = Query::of(&request);
    match router.find(request.uri().path()) {
        None => api_http::not_found(),
        Some((&"files", rest)) => {
            let endpoint = rest.first().map_or("", String::as_str);
            files.answer(endpoint, &query).unwrap_or_else(api_http::not_found)
        }
        Some((&"stream", _)) => {
            let (sender, body) = api_http::stream(2);
            tokio::spawn(async move {
                for record in ["3\nabc", "2\nde"] {
                    sender.send(Bytes::from_static(record.as_bytes())).await.unwrap();
                }
            });
            api_http::streaming("application/json", body)
        }
        Some((&"echo", _)) if request.method() != "POST" => api_http::method_not_allowed(&["POST"], request.method()),
        Some(_) => {
            let (parts, body) = request.into_parts();
            match api_http::read_body(&parts.headers, body, 5000).await {
                Ok(body) => api_http::json_bytes(body.to_vec()),
                Err(error) => error.response(),
            }
        }
    }
}

/// Head and body of an answer, as they are on the wire.
async fn ask(address: SocketAddr, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
}

async fn get(address: SocketAddr, path: &str) -> (String, String) {
    let (head, body) = ask(address, &format!("GET {path} HTTP/1.1"), b"").await;
    (head, String::from_utf8(body).unwrap())
}

/// Client demands 1 and 5: one record is one chunk, also when the request says that the connection is to be closed.
#[tokio::test]
async fn one_record_is_one_chunk() {
    let (address, _stop, _server) = start(FileTable::default()).await;
    let (head, body) = get(address, "/master/stream").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/json\r\n"), "{head}");
    assert!(
        head.contains("Transfer-Encoding: chunked\r\n") || head.contains("transfer-encoding: chunked\r\n"),
        "{head}"
    );
    assert_eq!(body, "5\r\n3\nabc\r\n4\r\n2\nde\r\n0\r\n\r\n");
}

#[tokio::test]
async fn errors_are_the_texts_that_clients_know() {
    let (address, _stop, _server) = start(FileTable::default()).await;
    let (head, body) = get(address, "/nosuch").await;
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"), "{head}");
    assert_eq!(body, "404 Not Found.");
    let (head, body) = get(address, "/echo").await;
    assert!(head.contains("Allow: POST\r\n") && head.contains("Content-Type: text/plain; charset=utf-8\r\n"), "{head}");
    assert_eq!(body, "405 Method Not Allowed. Expecting one of { 'POST' }, but received 'GET'.");
    let (head, _) = ask(address, "POST /echo HTTP/1.1", &[b'x'; 5001]).await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
}

#[tokio::test]
async fn whoever_sends_too_much_before_it_listens_hears_why() {
    let (address, _stop, _server) = start(FileTable::default()).await;
    // More than any buffer between the two takes.
    let (head, _) = ask(address, "POST /echo HTTP/1.1", &vec![b'x'; 32 << 20]).await;
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_ask() {
    let (address, _stop, _server) = start(FileTable::default()).await;
    let (head, body) = ask(address, "POST /echo HTTP/1.1\r\nAccept-Encoding: gzip", &[b'x'; 1024]).await;
    assert!(head.contains("Content-Encoding: gzip\r\n"), "{head}");
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, [b'x'; 1024]);
    for request in ["POST /echo HTTP/1.1\r\nAccept-Encoding: gzip;q=0", "POST /echo HTTP/1.1"] {
        let (head, body) = ask(address, request, &[b'x'; 1024]).await;
        assert!(!head.contains("Content-Encoding") && body.len() == 1024, "{head}");
    }
    let (head, _) = ask(address, "POST /echo HTTP/1.1\r\nAccept-Encoding: gzip", &[b'x'; 1023]).await;
    assert!(!head.contains("Content-Encoding"), "{head}");
}

#[tokio::test]
async fn http2_without_upgrade_is_served_on_the_same_port() {
    let (address, _stop, _server) = start(FileTable::default()).await;
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/echo")).body(Full::new(Bytes::from("hello"))).unwrap();
    let answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
}

/// Shapes as an agent of Mesos answers.
#[tokio::test]
async fn files_are_browsed_read_and_downloaded() {
    let directory = tempfile::tempdir().unwrap();
    let sandbox = directory.path().join("sandbox");
    std::fs::create_dir(&sandbox).unwrap();
    std::fs::write(sandbox.join("stderr"), "0123456789").unwrap();
    std::fs::write(directory.path().join("secret"), "secret").unwrap();
    symlink("../secret", sandbox.join("out")).unwrap();
    symlink("stderr", sandbox.join("in")).unwrap();
    let files = FileTable::default();
    files.attach("/frameworks/f/latest", sandbox.as_path());
    let (address, _stop, _server) = start(files.clone()).await;

    let (_, body) = get(address, "/files/browse?path=/frameworks/f/latest/").await;
    let list: serde_json::Value = serde_json::from_str(&body).unwrap();
    let stderr = list.as_array().unwrap().iter().find(|entry| entry["path"] == "/frameworks/f/latest/stderr").unwrap();
    assert_eq!((&stderr["size"], &stderr["nlink"]), (&10.into(), &1.into()));
    assert!(stderr["mode"].as_str().unwrap().starts_with("-rw"), "{stderr}");
    assert!(stderr["mtime"].is_f64() && stderr["uid"].is_string(), "{stderr}");

    for (path, expected) in [
        ("/files/read?path=/frameworks/f/latest/stderr&offset=2&length=3", r#"{"data":"234","offset":2}"#),
        ("/files/read.json?path=/frameworks/f/latest/in&offset=8", r#"{"data":"89","offset":8}"#),
        ("/files/read?path=/frameworks/f/latest/stderr&offset=-1", r#"{"data":"","offset":10}"#),
        ("/files/read?path=/frameworks/f/latest/stderr", r#"{"data":"","offset":10}"#),
        ("/files/read?path=/frameworks/f/latest/stderr&offset=99", r#"{"data":"","offset":99}"#),
        ("/files/read?path=/frameworks/f/latest/stderr&jsonp=cb", r#"cb({"data":"","offset":10})"#),
        ("/files/browse?path=/frameworks/f/latest/stderr", "[]"),
        ("/files/browse", "Expecting 'path=value' in query.\n"),
        ("/files/browse?path=/nosuch", ""),
        ("/files/read?path=/frameworks/f/latest", "Cannot read a directory.\n"),
        ("/files/read?path=/frameworks/f/latest/out&offset=0", ""),
        (
            "/files/read?path=/frameworks/f/latest/../secret",
            "'/frameworks/f/latest/../secret' leads out of its directory.\n",
        ),
        ("/files/download?path=/nosuch", "404 Not Found."),
        ("/files/download?path=/frameworks/f/latest/stderr", "0123456789"),
    ] {
        assert_eq!(get(address, path).await.1, expected, "{path}");
    }
    let (head, _) = get(address, "/files/download?path=/frameworks/f/latest/stderr").await;
    assert!(head.contains("Content-Disposition: attachment; filename=stderr\r\n"), "{head}");
    assert!(head.contains("Content-Length: 10\r\n") || head.contains("content-length: 10\r\n"), "{head}");
    let (_, body) = get(address, "/files/debug").await;
    assert_eq!(body, format!(r#"{{"/frameworks/f/latest":"{}"}}"#, sandbox.display()));
    files.detach("/frameworks/f/latest");
    assert!(get(address, "/files/browse?path=/frameworks/f/latest").await.0.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_stop_lets_requests_end() {
    let (address, stop, server) = start(FileTable::default()).await;
    assert_eq!(get(address, "/echo").await.0.lines().next(), Some("HTTP/1.1 405 Method Not Allowed"));
    stop.send(true).unwrap();
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    assert_eq!(api_http::empty(StatusCode::OK).status(), StatusCode::OK);
}
