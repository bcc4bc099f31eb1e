//! The second version of the interface as the simulated cloud checks it: the paths, and the signature under the keys of an
//! app. Written apart from the daemon's own signing.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use md5::Md5;
use sha1::{Digest as _, Sha1};

use super::rule::Method;

/// The key pair that the simulated cloud accepts. Invented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimKeys {
    /// Names the app.
    pub access_key: String,
    /// Signs.
    pub secret_key: String,
}

/// The method of a path; `None`: there is no such path.
pub(super) fn method_of(path: &str) -> Option<Method> {
    match path.strip_prefix("/api/v2/account/")? {
        "getAccountStatusAndUrl" => Some(Method::AccountHost),
        "login" => Some(Method::Login),
        "refreshToken" => Some(Method::RefreshToken),
        "getPushVC4TerminalMFA" | "getEmailVC4TerminalMFA" => Some(Method::SendCode),
        "checkMFACodeAndLogin" => Some(Method::CheckCode),
        _ => None,
    }
}

/// Whether the headers sign this request.
pub(super) fn is_signed(keys: &SimKeys, path: &str, headers: &HeaderMap, body: &[u8]) -> bool {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let md5 = header("content-md5");
    let authorization = header("x-authorization");
    let part = |name: &str| {
        let parts = authorization.split(", ").filter_map(|part| part.split_once('='));
        parts.filter(|(key, _)| *key == name).map(|(_, value)| value).next().unwrap_or_default()
    };
    let message = [md5, part("Timestamp"), part("Nonce"), path].join("\n");
    md5 == BASE64_STANDARD.encode(Md5::digest(body))
        && part("AccessKey") == keys.access_key
        && part("Signature") == signature(&keys.secret_key, &message)
}

fn signature(secret_key: &str, message: &str) -> String {
    let mut key = secret_key.as_bytes().to_vec();
    if key.len() > 64 {
        key = Sha1::digest(&key).to_vec();
    }
    key.resize(64, 0);
    let hash = |pad: u8, text: &[u8]| {
        let padded: Vec<u8> = key.iter().map(|byte| byte ^ pad).chain(text.iter().copied()).collect();
        Sha1::digest(padded)
    };
    hash(0x5c, &hash(0x36, message.as_bytes())).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_that_is_signed_as_it_was_sent_is_accepted() {
        let keys = SimKeys {
            access_key: "not-a-real-access-key".to_owned(),
            secret_key: "not-a-real-secret-key".to_owned(),
        };
        let signed = "Timestamp=9999999999, Nonce=00000000-0000-4000-8000-000000000000, \
                      AccessKey=not-a-real-access-key, Signature=0d7c91c6b2b0bdeee4401c885f6f5dd926bdbeb1";
        let (body, md5) = (&br#"{"method": "getDeviceList"}"#[..], "9lQtG18VZLfhgK0wBKww2A==");
        let is_accepted = |path: &str, md5: &str, authorization: &str, body: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert("content-md5", md5.parse().unwrap());
            headers.insert("x-authorization", authorization.parse().unwrap());
            is_signed(&keys, path, &headers, body)
        };
        assert!(is_accepted("/", md5, signed, body));
        assert!(!is_accepted("/x", md5, signed, body));
        assert!(!is_accepted("/", "9lQtG18VZLfhgK0wBKww2B==", signed, body));
        assert!(!is_accepted("/", md5, signed, b"{}"));
        for (from, to) in [("9999999999", "9999999998"), ("access-key", "access-kex"), ("=0d7c", "=0d7d")] {
            assert!(!is_accepted("/", md5, &signed.replace(from, to), body), "{from}");
        }
        assert!(!is_signed(&keys, "/", &HeaderMap::new(), body));
    }
}
