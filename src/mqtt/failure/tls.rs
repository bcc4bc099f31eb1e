//! The only place that turns an error of rustls into a reason.

use std::error::Error;

use rustls::{AlertDescription, CertificateError};

use super::reason::{Explanation, FailureReason};

/// Why TLS failed.
pub(super) fn explain(error: &std::io::Error) -> Explanation {
    use AlertDescription as Alert;
    use rustls::Error as Tls;
    match error_in(error) {
        Some(Tls::InvalidCertificate(error)) => match certificate_reason(error) {
            FailureReason::CertificateBad => {
                (FailureReason::CertificateBad, format!("its certificate is invalid: {error}")).into()
            }
            reason => reason.into(),
        },
        Some(Tls::AlertReceived(Alert::CertificateRequired)) => {
            FailureReason::ClientCertificateMissing.into()
        }
        Some(Tls::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError),
        )) => (FailureReason::ClientCertificateRefused, format!("it refuses our TLS handshake ({alert:?})"))
            .into(),
        // Before TLS 1.3 this alert may also mean that a client certificate is required.
        Some(Tls::AlertReceived(Alert::HandshakeFailure)) => {
            let why = "it ends the TLS handshake (HandshakeFailure): there is no common cipher, or it requires a client \
                       certificate";
            (FailureReason::Tls, why).into()
        }
        Some(Tls::AlertReceived(alert)) => {
            (FailureReason::Tls, format!("it refuses our TLS handshake ({alert:?})")).into()
        }
        Some(Tls::InvalidMessage(_)) => (FailureReason::NoTls, "it does not speak TLS on this port").into(),
        Some(other) => (FailureReason::Tls, format!("TLS failed: {other}")).into(),
        None => Explanation::from((FailureReason::NoTls, "closed the connection during the TLS handshake"))
            .passing(),
    }
}

/// Why a certificate is not accepted.
fn certificate_reason(error: &CertificateError) -> FailureReason {
    use CertificateError as Bad;
    match error {
        // A bad signature is that of another authority with the same name, for example one that was created again.
        Bad::UnknownIssuer | Bad::BadSignature => FailureReason::CertificateUntrusted,
        Bad::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            FailureReason::CertificateWithoutName
        }
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => FailureReason::CertificateName,
        Bad::Expired | Bad::ExpiredContext { .. } => FailureReason::CertificateExpired,
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => FailureReason::CertificateNotYet,
        Bad::UnsupportedSignatureAlgorithmContext { .. }
        | Bad::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => FailureReason::CertificateWeak,
        bad => match webpki_error(bad) {
            Some(webpki::Error::UnsupportedCertVersion) => FailureReason::CertificateVersion,
            Some(webpki::Error::CaUsedAsEndEntity) => FailureReason::CertificateAuthority,
            _ => FailureReason::CertificateBad,
        },
    }
}

/// Whether a certificate is refused only for its issuer, or for being an authority's own.
pub(crate) fn is_about_issuer(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(error) = error else { return false };
    *error == CertificateError::UnknownIssuer
        || certificate_reason(error) == FailureReason::CertificateAuthority
}

/// The error of webpki, if rustls has no error for the case.
fn webpki_error(error: &CertificateError) -> Option<&webpki::Error> {
    match error {
        CertificateError::Other(other) => other.0.downcast_ref(),
        _ => None,
    }
}

/// The error of rustls inside this error.
pub(super) fn error_in(error: &std::io::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = next {
        if let Some(tls) = inner.downcast_ref() {
            return Some(tls);
        }
        next = inner.source();
    }
    None
}
