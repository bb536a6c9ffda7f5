//! TLS, as libprocess has it: what we serve, what we dial, and what of both is verified.
//!
//! ```text
//! flags, variables ─► Settings ─► Tls ─► accept: first byte 0x16 ─► handshake ─► Link::Served
//!                                  │              another, and downgrade ─► Link::Plain, else 400
//!                                  └──► dial: handshake ─► Link::Dialed, or, with downgrade, Link::Plain
//! ```
//!
//! Files are read again when they change ([`Tls::follow`]): connections that are there stay, new ones have the new keys.

mod keys;
mod link;
mod named;
mod settings;
mod verify;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) use link::Link;
pub(crate) use named::{ClientName, Member};
pub use settings::{FLAGS, Settings, idle, is_told, old_names};

use keys::{Keys, Stamp};
use named::Names;

/// Between two looks whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The first byte of everybody who speaks TLS: the record type of a handshake.
const HANDSHAKE: u8 = 0x16;

/// The keys of this process, as they are now.
#[derive(Debug)]
pub struct Tls {
    settings: Settings,
    keys: RwLock<Arc<Keys>>,
}

/// Why a connection could not be secured.
#[derive(Debug)]
pub(crate) enum Insecure {
    /// The other side speaks something else, or nothing.
    NoTls(String),
    /// It speaks TLS, and is not who it should be, or does not want us.
    Refused(String),
}

impl Tls {
    /// Reads the files. None if TLS is not asked for.
    ///
    /// # Errors
    /// One sentence that names the flag.
    pub fn load(settings: Settings) -> Result<Option<Arc<Tls>>, String> {
        if !settings.enabled {
            return Ok(None);
        }
        let keys = RwLock::new(Arc::new(Keys::read(&settings)?));
        Ok(Some(Arc::new(Tls { settings, keys })))
    }

    /// Looks after the files until it is dropped: when they change they are read again. Files that make no sense change
    /// nothing, and are warned of.
    pub async fn follow(self: Arc<Self>) {
        let mut seen = Stamp::of(&self.settings);
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Stamp::of(&self.settings);
            if now == seen {
                continue;
            }
            seen = now;
            match Keys::read(&self.settings) {
                Ok(keys) => {
                    *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                    tracing::info!("certificates were read again: new connections have them");
                }
                Err(why) => tracing::warn!("certificates have changed and cannot be used, those before stay: {why}"),
            }
        }
    }

    /// What the clear text of a port that speaks TLS is answered, unless it is taken.
    pub(crate) fn takes_plain(&self) -> bool {
        self.settings.support_downgrade
    }

    /// Sentences for the operator about what is set and protects nobody.
    pub fn warnings(&self) -> Vec<String> {
        self.settings.warnings()
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether these first bytes begin a handshake.
    pub(crate) fn is_handshake(first: &[u8]) -> bool {
        first.first() == Some(&HANDSHAKE)
    }

    /// The server's part of a handshake.
    pub(crate) async fn accept(&self, socket: TcpStream) -> Result<Link, String> {
        let Some(server) = self.keys().server.clone() else { return Err("no certificate to show".into()) };
        let link = TlsAcceptor::from(server).accept(socket).await.map_err(|error| error.to_string())?;
        Ok(Link::Served(Box::new(link)))
    }

    /// Who a client that was let in is, if that is to be told by its certificate, and of what it is a member by that.
    pub(crate) fn client(&self, link: &Link) -> (Option<ClientName>, Member) {
        let Link::Served(link) = link else { return (None, Member::default()) };
        let shown = link.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let Some(shown) = shown else { return (None, Member::default()) };
        (ClientName::of(shown).filter(|_| self.settings.client_principals), self.member(shown))
    }

    /// Of what whoever showed this is a member.
    fn member(&self, shown: &CertificateDer<'_>) -> Member {
        let have = |names: &Option<Names>| names.as_ref().is_some_and(|names| names.have(shown));
        Member { master: have(&self.settings.masters), agent: have(&self.settings.agents) }
    }

    /// Whether masters are known by their certificates.
    pub fn names_masters(&self) -> bool {
        self.settings.masters.is_some()
    }

    /// Whether masters or agents are.
    pub fn names_members(&self) -> bool {
        self.names_masters() || self.settings.agents.is_some()
    }

    /// The client's part, with the server at `address` (host:port).
    pub(crate) async fn connect(&self, address: &str, socket: TcpStream) -> Result<Link, Insecure> {
        let name = server_name(address).map_err(Insecure::Refused)?;
        let connected = TlsConnector::from(self.keys().client.clone()).connect(name, socket).await;
        match connected {
            Ok(link) => {
                let shown = link.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let member = shown.map(|shown| self.member(shown)).unwrap_or_default();
                Ok(Link::Dialed(Box::new(link), member))
            }
            Err(error) => Err(match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidMessage(_)) | None => Insecure::NoTls(error.to_string()),
                Some(why) => Insecure::Refused(why.to_string()),
            }),
        }
    }
}

/// The host of host:port, as certificates name it.
fn server_name(address: &str) -> Result<ServerName<'static>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(ServerName::IpAddress(ip.into())),
        Err(_) => ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is no name of a host")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        assert!(matches!(server_name("127.0.0.1:5050").unwrap(), ServerName::IpAddress(_)));
        assert!(matches!(server_name("[::1]:5050").unwrap(), ServerName::IpAddress(_)));
        assert_eq!(server_name("m1.example:5050").unwrap(), ServerName::try_from("m1.example").unwrap());
        assert!(server_name("no name:1").is_err());
    }
}
