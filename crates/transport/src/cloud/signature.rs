//! The signature of a request to the second version of the API: HMAC-SHA1 under the keys of an app. Pure.
//!
//! ```text
//! Content-MD5:     base64(MD5(body))
//! X-Authorization: Timestamp=9999999999, Nonce=<uuid>, AccessKey=<access key>, Signature=<hex>
//! Signature:       HMAC-SHA1(secret key, Content-MD5 "\n" Timestamp "\n" Nonce "\n" path)
//! ```
//!
//! The path has no query. hs100d has no keys of its own.

use std::fmt;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use md5::Md5;
use sha1::{Digest as _, Sha1};
use uuid::Uuid;
use zeroize::Zeroizing;

use hs100d_core::secret::Secret;

/// What other clients send in place of the time. The cloud does not compare it with its own, so a wrong clock costs nothing.
const TIMESTAMP: &str = "9999999999";
/// The block of SHA-1, in bytes.
const BLOCK: usize = 64;

/// The key pair of an app.
#[derive(Clone, PartialEq, Eq)]
pub struct AppKeys {
    /// Names the app in each request.
    pub access_key: Secret,
    /// Signs; is sent nowhere.
    pub secret_key: Secret,
}

/// The headers that sign a request.
pub(super) struct SignatureHeaders {
    /// `Content-MD5`
    pub(super) content_md5: String,
    /// `X-Authorization`; holds the access key.
    pub(super) authorization: Zeroizing<String>,
}

impl AppKeys {
    /// Whether a header may hold this key.
    pub fn is_key(key: &Secret) -> bool {
        key.expose().bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
    }

    /// Signs a request. The nonce must be another one each time.
    pub(super) fn sign(&self, path: &str, body: &[u8], nonce: Uuid) -> SignatureHeaders {
        let content_md5 = BASE64_STANDARD.encode(Md5::digest(body));
        let message = format!("{content_md5}\n{TIMESTAMP}\n{nonce}\n{path}");
        let signature = hmac_sha1(self.secret_key.expose().as_bytes(), message.as_bytes());
        let mut authorization = Zeroizing::new(String::with_capacity(256));
        authorization.push_str("Timestamp=");
        authorization.push_str(TIMESTAMP);
        // A string accepts all that is written to it.
        let _ = write!(authorization, ", Nonce={nonce}, AccessKey={}, Signature=", self.access_key.expose());
        for byte in signature {
            let _ = write!(authorization, "{byte:02x}");
        }
        SignatureHeaders { content_md5, authorization }
    }
}

impl fmt::Debug for AppKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppKeys").finish_non_exhaustive()
    }
}

/// RFC 2104 with SHA-1.
fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    let mut block = Zeroizing::new([0; BLOCK]);
    if key.len() > BLOCK {
        block[..20].copy_from_slice(&Sha1::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| Zeroizing::new(block.map(|byte| byte ^ pad));
    let inner = Sha1::new().chain_update(*padded(0x36)).chain_update(message).finalize();
    Sha1::new().chain_update(*padded(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn hex(bytes: [u8; 20]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_request_is_signed_as_other_clients_sign_it() {
        let keys = AppKeys {
            access_key: secret("not-a-real-access-key"),
            secret_key: secret("not-a-real-secret-key"),
        };
        let nonce = Uuid::parse_str("00000000-0000-4000-8000-000000000000").unwrap();
        let headers = keys.sign("/", br#"{"method": "getDeviceList"}"#, nonce);
        assert_eq!(headers.content_md5, "9lQtG18VZLfhgK0wBKww2A==");
        assert_eq!(
            *headers.authorization,
            "Timestamp=9999999999, Nonce=00000000-0000-4000-8000-000000000000, AccessKey=not-a-real-access-key, \
             Signature=0d7c91c6b2b0bdeee4401c885f6f5dd926bdbeb1"
        );
        let elsewhere = keys.sign("/api/v2/account/login", br#"{"method": "getDeviceList"}"#, nonce);
        assert_ne!(*elsewhere.authorization, *headers.authorization, "the path is signed");
    }

    /// From RFC 2202.
    #[test]
    fn the_hmac_is_that_of_the_standard_for_short_and_for_long_keys() {
        let key = [0xaa; 80];
        for (key, message, digest) in [
            (&[0x0b; 20][..], "Hi There", "b617318655057264e28bc0b6fb378c8ef146be00"),
            (b"Jefe", "what do ya want for nothing?", "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (
                &key[..],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "aa4ae5e15272d00e95705637ce8a3b55ed402112",
            ),
        ] {
            assert_eq!(hex(hmac_sha1(key, message.as_bytes())), digest);
        }
    }

    #[test]
    fn a_key_is_one_word_that_fits_into_a_header_and_prints_nowhere() {
        for (key, is_good) in [("4d1f", true), ("A-b_c=", true), ("a b", false), ("a,b", false), ("ä", false)]
        {
            assert_eq!(AppKeys::is_key(&secret(key)), is_good, "{key}");
        }
        let keys = AppKeys { access_key: secret("hunter2"), secret_key: secret("hunter2") };
        assert!(!format!("{keys:?}").contains("hunter2"));
    }
}
