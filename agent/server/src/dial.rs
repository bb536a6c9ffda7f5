//! The way to a master: one HTTP/2 stream, both ways.

use std::time::Duration;

use api_http::Body;
use event_log::host;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::incoming::Chunks;

/// Opens connections to masters. A simulation has a way of its own.
pub trait Dial: Send + Sync {
    /// Sends `upward` to the master at `address` (host:port), and answers with what it says. Both end when what is answered
    /// is dropped. The error is a sentence.
    fn dial(&self, address: &str, upward: Body) -> BoxFuture<'static, Result<Chunks, String>>;
}

/// Time for each step.
const PATIENCE: Duration = Duration::from_secs(10);

/// Over TCP.
#[derive(Debug, Default)]
pub(crate) struct Tcp;

impl Dial for Tcp {
    fn dial(&self, address: &str, upward: Body) -> BoxFuture<'static, Result<Chunks, String>> {
        let address = address.to_owned();
        Box::pin(async move {
            let socket = step("cannot connect", TcpStream::connect(&address)).await?;
            api_http::look_after(&socket);
            let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(4 << 20)
                .initial_connection_window_size(8 << 20)
                .keep_alive_interval(api_http::PING)
                .keep_alive_timeout(api_http::PONG)
                .handshake(TokioIo::new(socket));
            let (mut client, connection) = step("no HTTP/2", handshake).await?;
            let connection = Task(host::spawn(async move { connection.await.map_err(|error| error.to_string()) }));
            let request = http::Request::post(format!("http://{address}/meseta/agent"))
                .header(http::header::CONTENT_TYPE, api::media::PROTOBUF)
                .body(upward)
                .map_err(|error| format!("no request for {address}: {error}"))?;
            let response = step("no answer", client.send_request(request)).await?;
            if !response.status().is_success() {
                return Err(format!("the master answered {}", response.status()));
            }
            // What is read keeps the connection.
            let reading = (response.into_body(), client, connection);
            Ok(stream::unfold(reading, |(mut body, client, connection)| async move {
                loop {
                    match body.frame().await? {
                        Ok(frame) => {
                            let Ok(data) = frame.into_data() else { continue };
                            return Some((Ok(data), (body, client, connection)));
                        }
                        Err(error) => return Some((Err(error.to_string()), (body, client, connection))),
                    }
                }
            })
            .boxed())
        })
    }
}

async fn step<T, E: std::fmt::Display>(what: &str, doing: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(PATIENCE, doing).await {
        Ok(done) => done.map_err(|error| format!("{what}: {error}")),
        Err(_) => Err(format!("{what} in {} s", PATIENCE.as_secs())),
    }
}

/// A task that does not outlive its connection.
pub(crate) struct Task<T>(pub(crate) tokio::task::JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
