//! Whether the broker's certificate is accepted: an authority in `mqtt.ca_file` has signed it, or it is in that file itself.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::failure::tls::is_about_issuer;

/// Verifies as rustls does. A certificate that rustls refuses only for its issuer is accepted if it is byte for byte one of
/// `accepted`: the user trusts it without an authority.
#[derive(Debug)]
pub(super) struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    accepted: Vec<CertificateDer<'static>>,
}

impl Verifier {
    pub(super) fn new(
        roots: RootCertStore,
        accepted: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let webpki = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build()?;
        Ok(Self { webpki, accepted })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if is_about_issuer(&error) && self.accepted.contains(end_entity) => {
                // The dates are valid, since they are checked before the issuer. The name is not checked yet.
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
    use rustls::CertificateError;

    use super::*;

    /// A self-signed certificate, an authority's or not.
    fn self_signed(name: &str, is_ca: IsCa) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = is_ca;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2030, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    /// A certificate that an authority has signed, which is not part of the chain.
    fn signed(name: &str) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap().der().clone()
    }

    fn verify(
        file: &CertificateDer<'static>,
        shown: &CertificateDer<'static>,
        host: &str,
        year: u64,
    ) -> Result<ServerCertVerified, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(file.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(roots, vec![file.clone()], provider).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600));
        verifier.verify_server_cert(shown, &[], &ServerName::try_from(host.to_owned()).unwrap(), &[], now)
    }

    #[test]
    fn a_certificate_in_the_file_is_accepted_whatever_authority_signed_it() {
        let authority = self_signed("localhost", IsCa::Ca(BasicConstraints::Unconstrained));
        for accepted in [self_signed("localhost", IsCa::NoCa), authority, signed("localhost")] {
            verify(&accepted, &accepted, "localhost", 2026).unwrap();
        }
    }

    #[test]
    fn the_name_and_the_dates_of_a_certificate_in_the_file_are_checked() {
        use CertificateError as Bad;
        let accepted = self_signed("localhost", IsCa::Ca(BasicConstraints::Unconstrained));
        let refused = |host, year| match verify(&accepted, &accepted, host, year) {
            Err(Error::InvalidCertificate(bad)) => bad,
            other => panic!("{other:?}"),
        };
        assert!(matches!(refused("example.org", 2026), Bad::NotValidForNameContext { .. }));
        assert!(matches!(refused("localhost", 2035), Bad::ExpiredContext { .. }));
        assert!(matches!(refused("localhost", 2015), Bad::NotValidYetContext { .. }));
    }

    #[test]
    fn a_certificate_that_is_not_in_the_file_is_refused() {
        let ca = || self_signed("localhost", IsCa::Ca(BasicConstraints::Unconstrained));
        assert!(verify(&ca(), &ca(), "localhost", 2026).is_err());
        assert!(
            verify(&self_signed("localhost", IsCa::NoCa), &signed("localhost"), "localhost", 2026).is_err()
        );
    }
}
