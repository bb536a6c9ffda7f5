//! https: who answers is looked at, or not.

use std::io;
use std::sync::{Arc, OnceLock};

use api_tls::Anybody;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Error, Trust};

/// Both kinds of failure: there is nothing to look with, and what was seen.
pub(crate) async fn connect(
    trust: Trust,
    host: &str,
    stream: TcpStream,
) -> Result<io::Result<TlsStream<TcpStream>>, Error> {
    let connector = TlsConnector::from(config(trust)?);
    let name = match ServerName::try_from(host.to_owned()) {
        Ok(name) => name,
        Err(error) => return Ok(Err(io::Error::new(io::ErrorKind::InvalidInput, error))),
    };
    Ok(connector.connect(name, stream).await)
}

fn config(trust: Trust) -> Result<Arc<ClientConfig>, Error> {
    static MACHINE: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    static EVERYBODY: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let place = match trust {
        Trust::Machine => &MACHINE,
        Trust::Everybody => &EVERYBODY,
    };
    if let Some(config) = place.get() {
        return Ok(config.clone());
    }
    let provider = Arc::new(ring::default_provider());
    let unusable = |error: rustls::Error| Error::Authorities(error.to_string());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let config = match trust {
        Trust::Machine => builder.with_root_certificates(authorities()?).with_no_client_auth(),
        Trust::Everybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth()
        }
    };
    Ok(place.get_or_init(|| Arc::new(config)).clone())
}

fn authorities() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (taken, _) = store.add_parsable_certificates(found.certs);
    if taken == 0 {
        let why = found.errors.first().map_or_else(|| "none was found".to_owned(), ToString::to_string);
        return Err(Error::Authorities(why));
    }
    Ok(store)
}
