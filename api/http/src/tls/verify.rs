//! Who is believed.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use super::settings::Settings;

/// Whoever the authorities vouch for, over not more than so many others.
#[derive(Debug)]
pub(super) struct OfDepth<V: ?Sized> {
    depth: usize,
    /// Addresses in certificates count.
    by_ip: bool,
    inner: Arc<V>,
}

impl OfDepth<WebPkiServerVerifier> {
    pub(super) fn server(
        roots: Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
        settings: &Settings,
    ) -> Result<Arc<OfDepth<WebPkiServerVerifier>>, String> {
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        let inner = inner.map_err(|error| format!("--ssl_ca_file: {error}"))?;
        Ok(Arc::new(OfDepth { depth: settings.depth, by_ip: settings.verify_ip, inner }))
    }
}

impl OfDepth<dyn ClientCertVerifier> {
    pub(super) fn client(inner: Arc<dyn ClientCertVerifier>, settings: &Settings) -> Arc<Self> {
        Arc::new(OfDepth { depth: settings.depth, by_ip: false, inner })
    }
}

impl<V: ?Sized> OfDepth<V> {
    fn look(&self, between: &[CertificateDer<'_>]) -> Result<(), Error> {
        if between.len() > self.depth {
            let why = format!("{} certificates in between, and --ssl_verification_depth is less", between.len());
            return Err(Error::General(why));
        }
        Ok(())
    }
}

impl ServerCertVerifier for OfDepth<WebPkiServerVerifier> {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.look(between)?;
        if !self.by_ip && matches!(name, ServerName::IpAddress(_)) {
            return Err(Error::General(
                "it was dialed by its address: dial it by name, or have addresses verified (--ssl_verify_ipadd)".into(),
            ));
        }
        self.inner.verify_server_cert(certificate, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ClientCertVerifier for OfDepth<dyn ClientCertVerifier> {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.look(between)?;
        let verified = self.inner.verify_client_cert(certificate, between, now);
        // What serves a master on its port is shown by it as a client, too.
        match verified {
            Err(Error::InvalidCertificate(CertificateError::InvalidPurpose)) => Err(Error::General(
                "the certificate is not for clients: its extended key usage lacks clientAuth".into(),
            )),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
