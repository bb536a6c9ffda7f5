//! One connection, secured or not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// A connection to or from somebody.
#[derive(Debug)]
pub(crate) enum Link {
    Plain(TcpStream),
    Served(Box<server::TlsStream<TcpStream>>),
    /// And whether whoever was dialed is a master by its certificate.
    Dialed(Box<client::TlsStream<TcpStream>>, bool),
}

/// Goes with each answer on a connection to a master that showed its certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfMaster;

impl Link {
    /// Whether whoever was dialed is a master by its certificate.
    pub(crate) fn is_to_master(&self) -> bool {
        matches!(self, Link::Dialed(_, true))
    }
}

/// Asks one of the three.
macro_rules! each {
    ($self:ident, $link:ident => $done:expr) => {
        match $self.get_mut() {
            Link::Plain($link) => $done,
            Link::Served($link) => $done,
            Link::Dialed($link, _) => $done,
        }
    };
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, link => Pin::new(link).poll_read(context, buffer))
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, link => Pin::new(link).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, link => Pin::new(link).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, link => Pin::new(link).poll_shutdown(context))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, link => Pin::new(link).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Link::Plain(link) => link.is_write_vectored(),
            Link::Served(link) => link.is_write_vectored(),
            Link::Dialed(link, _) => link.is_write_vectored(),
        }
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        if self.is_to_master() { Connected::new().extra(OfMaster) } else { Connected::new() }
    }
}
