//! One connection, secured or not.

use std::io;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use super::named::Member;

/// A connection to or from somebody.
#[derive(Debug)]
pub(crate) enum Link {
    Plain(TcpStream),
    Served(Box<server::TlsStream<TcpStream>>),
    /// And of what whoever was dialed is a member by its certificate.
    Dialed(Box<client::TlsStream<TcpStream>>, Member),
}

impl Link {
    /// From now on a served connection is woken by the runtime that this is called in: each wake-up would cross threads else.
    /// Without a descriptor to spare it stays where it was accepted.
    pub(crate) fn settle(&mut self) {
        let Link::Served(link) = self else { return };
        let (socket, _) = link.get_mut();
        let again = socket.as_fd().try_clone_to_owned().map(std::net::TcpStream::from);
        if let Ok(settled) = again.and_then(TcpStream::from_std) {
            *socket = settled;
        }
    }

    /// Of what whoever was dialed is a member by its certificate. It goes with each answer on the connection.
    pub(crate) fn served_by(&self) -> Member {
        match self {
            Link::Dialed(_, member) => *member,
            Link::Plain(_) | Link::Served(_) => Member::default(),
        }
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
        Connected::new().extra(self.served_by())
    }
}
