//! Whose certificate it is that a client showed.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// A client by the first name in its certificate, which was verified: a URI if there is one, else a name of the DNS. It
/// goes with each request of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientName(pub(crate) Arc<str>);

impl ClientName {
    /// None if it has no such name.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<ClientName> {
        let certificate = EndEntityCert::try_from(certificate).ok()?;
        let name = certificate.valid_uri_names().next().or_else(|| certificate.valid_dns_names().next())?;
        Some(ClientName(name.into()))
    }
}
