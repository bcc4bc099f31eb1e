//! What KLAP needs of an account: hashes of its e-mail and password, and the list of accounts that a plug may hold.
//!
//! A plug proves that it knows these hashes, not the password. They are as good as the password on the LAN and useless for
//! the cloud: zeroized on drop, never printed. The handshake is `transport::lan::klap_crypto`'s.

use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::secret::Secret;

/// Bytes of an MD5.
const MD5_LEN: usize = 16;
/// Bytes of a SHA-256.
const SHA256_LEN: usize = 32;
/// Bytes of all three hashes.
const ALL_LEN: usize = MD5_LEN + SHA256_LEN + MD5_LEN;

/// The hashes of one spelling of one account. A plug compares the bytes, so each spelling of an e-mail has its own.
#[derive(Clone)]
pub struct KlapHashes {
    v1: [u8; MD5_LEN],
    v2: [u8; SHA256_LEN],
    owner: [u8; MD5_LEN],
}

impl KlapHashes {
    /// Hashes the text as it is: case, spaces and special characters count.
    pub fn of(username: &str, password: &Secret) -> Self {
        Self::of_text(username, password.expose())
    }

    fn of_text(username: &str, password: &str) -> Self {
        let (user, password) = (username.as_bytes(), password.as_bytes());
        Self {
            v1: Md5::new()
                .chain_update(Md5::digest(user))
                .chain_update(Md5::digest(password))
                .finalize()
                .into(),
            v2: Sha256::new()
                .chain_update(Sha1::digest(user))
                .chain_update(Sha1::digest(password))
                .finalize()
                .into(),
            owner: Md5::digest(user).into(),
        }
    }

    /// For version 1 of the protocol.
    pub fn v1(&self) -> &[u8; 16] {
        &self.v1
    }

    /// For version 2 of the protocol.
    pub fn v2(&self) -> &[u8; 32] {
        &self.v2
    }

    /// Whether a plug that says this holds this spelling of the account.
    pub fn is_owner(&self, owner: &OwnerHash) -> bool {
        owner.0 == self.owner
    }

    /// As 128 hexadecimal digits, for the store.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(2 * ALL_LEN));
        for byte in self.v1.iter().chain(&self.v2).chain(&self.owner) {
            // A String takes everything.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Reads [`KlapHashes::to_text`] back, and nothing else.
    pub fn from_text(text: &str) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; ALL_LEN]);
        if !read_hex(text, &mut *bytes) {
            return None;
        }
        let (v1, rest) = bytes.split_first_chunk()?;
        let (v2, rest) = rest.split_first_chunk()?;
        Some(Self { v1: *v1, v2: *v2, owner: *rest.first_chunk()? })
    }
}

/// Fills `bytes` from exactly as many lower-case hexadecimal digits as they need.
fn read_hex(text: &str, bytes: &mut [u8]) -> bool {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    pairs.len() == bytes.len()
        && rest.is_empty()
        && bytes.iter_mut().zip(pairs).all(|(byte, [high, low])| match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => {
                *byte = high << 4 | low;
                true
            }
            _ => false,
        })
}

/// Compares in constant time.
impl PartialEq for KlapHashes {
    fn eq(&self, other: &Self) -> bool {
        (self.v1.ct_eq(&other.v1) & self.v2.ct_eq(&other.v2) & self.owner.ct_eq(&other.owner)).into()
    }
}

impl Eq for KlapHashes {}

impl Drop for KlapHashes {
    fn drop(&mut self) {
        self.v1.zeroize();
        self.v2.zeroize();
        self.owner.zeroize();
    }
}

impl fmt::Debug for KlapHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// `owner` in a discovery reply: the MD5 of the e-mail of the account that the plug holds. Not printed, because an e-mail
/// can be guessed from it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OwnerHash([u8; MD5_LEN]);

impl OwnerHash {
    /// Reads 32 hexadecimal digits.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; MD5_LEN];
        read_hex(&text.to_ascii_lowercase(), &mut bytes).then_some(Self(bytes))
    }
}

impl fmt::Debug for OwnerHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Which account, and which spelling of its e-mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KlapSpelling {
    /// The user's account, as the user wrote it.
    AsWritten,
    /// The user's account with the e-mail in lower case.
    LowerCase,
    /// The user's account with the e-mail as TP-Link's cloud spells it.
    AsRegistered,
    /// The account with which the Kasa app sets plugs up. Some return to it for hours.
    KasaSetup,
    /// The account with which the Tapo app sets plugs up.
    TapoSetup,
    /// Of a plug that was never added to an account.
    Blank,
}

impl KlapSpelling {
    const OWN: [Self; 3] = [Self::AsWritten, Self::LowerCase, Self::AsRegistered];

    /// For messages: `the account as written in the config`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::AsWritten => "the account as written in the config",
            Self::LowerCase => "the account in lower case",
            Self::AsRegistered => "the account as TP-Link spells it",
            Self::KasaSetup => "Kasa's setup account",
            Self::TapoSetup => "Tapo's setup account",
            Self::Blank => "the blank account",
        }
    }

    /// The word for it in the store.
    pub const fn word(self) -> &'static str {
        match self {
            Self::AsWritten => "as-written",
            Self::LowerCase => "lower-case",
            Self::AsRegistered => "as-registered",
            Self::KasaSetup => "kasa-setup",
            Self::TapoSetup => "tapo-setup",
            Self::Blank => "blank",
        }
    }

    /// Whether it is of the user's account.
    pub fn is_own(self) -> bool {
        Self::OWN.contains(&self)
    }

    /// Reads the [`KlapSpelling::word`] of one of the user's account back.
    pub fn own(word: &str) -> Option<Self> {
        Self::OWN.into_iter().find(|spelling| spelling.word() == word)
    }
}

/// One account that a plug may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KlapAccount {
    /// Which one.
    pub spelling: KlapSpelling,
    /// Its hashes.
    pub hashes: KlapHashes,
}

/// The accounts that a plug may hold, in the order in which they are tried. No two are the same. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KlapAccounts(Arc<[KlapAccount]>);

/// The setup accounts and the blank one.
impl Default for KlapAccounts {
    fn default() -> Self {
        Self::with_own([])
    }
}

impl KlapAccounts {
    /// Those of a user: the e-mail as written, in lower case, and as TP-Link's cloud spells it (`registered`), then the
    /// setup accounts and the blank one.
    pub fn of(username: &str, password: &Secret, registered: Option<&str>) -> Self {
        let lower_case = username.to_lowercase();
        let spellings = [
            (KlapSpelling::AsWritten, Some(username)),
            (KlapSpelling::LowerCase, Some(&*lower_case)),
            (KlapSpelling::AsRegistered, registered),
        ];
        Self::with_own(spellings.into_iter().filter_map(|(spelling, username)| {
            Some(KlapAccount { spelling, hashes: KlapHashes::of(username?, password) })
        }))
    }

    /// With these of the user's account, as the store has them.
    pub fn with_own(own: impl IntoIterator<Item = KlapAccount>) -> Self {
        let built_in = [
            (KlapSpelling::KasaSetup, "kasa@tp-link.net", "kasaSetup"),
            (KlapSpelling::TapoSetup, "test@tp-link.net", "test"),
            (KlapSpelling::Blank, "", ""),
        ]
        .map(|(spelling, username, password)| KlapAccount {
            spelling,
            hashes: KlapHashes::of_text(username, password),
        });
        let mut accounts: Vec<KlapAccount> = Vec::new();
        for account in own.into_iter().chain(built_in) {
            if accounts.iter().all(|known| known.hashes != account.hashes) {
                accounts.push(account);
            }
        }
        Self(accounts.into())
    }

    /// All, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &KlapAccount> {
        self.0.iter()
    }

    /// The spellings of the user's account, for the store.
    pub fn own(&self) -> impl Iterator<Item = &KlapAccount> {
        self.iter().filter(|account| account.spelling.is_own())
    }

    /// Whether all of the others are among them.
    pub fn include(&self, others: &Self) -> bool {
        others.iter().all(|other| self.iter().any(|account| account.hashes == other.hashes))
    }

    /// Which of them a plug holds that says this.
    pub fn owner(&self, owner: &OwnerHash) -> Option<KlapSpelling> {
        self.iter().find(|account| account.hashes.is_owner(owner)).map(|account| account.spelling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn hashes(username: &str, password: &str) -> KlapHashes {
        KlapHashes::of(username, &secret(password))
    }

    fn owner(text: &str) -> OwnerHash {
        OwnerHash::new(text).unwrap()
    }

    #[test]
    fn the_hashes_are_those_that_plugs_compute() {
        for (username, password, v1, v2) in [
            (
                "",
                "",
                "5873dd45edd01f09c1ef2e7819369e8e",
                "b8628ab91c74f531603f6d5b45e730e54c123a7247b8978272c03f1e13560cea",
            ),
            (
                "kasa@tp-link.net",
                "kasaSetup",
                "74b751bdd208bc155ae2a6d4167cc44d",
                "49fc4839a2733ffbf464337648f65dc411778d4c03ec82c5e4cccc682163fa64",
            ),
            (
                "test@tp-link.net",
                "test",
                "a7317ea07dd83e3393fb702d9bf309a7",
                "7d5ae9ac18f5bb37843a4577867dd4348d8dff26c4b261ebff1b74d88adc063b",
            ),
            (
                "user@example.com",
                "great_password",
                "474728be8bb983216b5b73ae1f646147",
                "98affa12cd82d89b4ca3e89d6513ac1e914461bb28683d9a6dcd8dac214e22c4",
            ),
            (
                "User@example.com",
                "great_password",
                "c2176aff0b1e9f579c100c152b9022e0",
                "733de072738ee1bbf901c886b480f41b52270a20a5b666808b0056dde69b18ce",
            ),
        ] {
            let hashes = hashes(username, password);
            assert_eq!((hex(hashes.v1()), hex(hashes.v2())), (v1.to_owned(), v2.to_owned()), "{username}");
        }
    }

    #[test]
    fn every_character_of_a_password_counts() {
        // Computed with Python's hashlib.
        for (password, v1) in [
            ("100%25", "f7c715d269ca6305497cdae5a4922dd8"),
            ("say \"hi\"", "777d1debd6e76fa23f9d9b194c7c6c31"),
            ("back\\slash", "a8b12528a6111e78d73a151d7a573e31"),
            ("Üßö", "e19d861a5a203e3119512121f7724790"),
            ("blank at the end ", "62d6d2839c264270268486f7915c99e2"),
            (" ", "cb4312324737aae538da38aef6f8e419"),
        ] {
            assert_eq!(hex(hashes("user@example.com", password).v1()), v1, "{password:?}");
        }
    }

    #[test]
    fn the_owner_in_a_discovery_reply_names_a_spelling() {
        let account = hashes("user@example.com", "great_password");
        assert!(account.is_owner(&owner("B58996C504C5638798EB6B511E6F49AF")));
        assert!(account.is_owner(&owner("b58996c504c5638798eb6b511e6f49af")));
        assert!(hashes("", "").is_owner(&owner("D41D8CD98F00B204E9800998ECF8427E")));
        let other = hashes("User@example.com", "great_password");
        assert!(!other.is_owner(&owner("B58996C504C5638798EB6B511E6F49AF")));
        assert_eq!(format!("{:?}", owner("B58996C504C5638798EB6B511E6F49AF")), "[redacted]");
        for bad in ["", "B58996C504C5638798EB6B511E6F49", "B58996C504C5638798EB6B511E6F49AF00", "ü"] {
            assert_eq!(OwnerHash::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_text_form_is_read_back_and_nothing_else_is() {
        let account = hashes("user@example.com", "great_password");
        let text = account.to_text();
        assert_eq!(
            *text,
            "474728be8bb983216b5b73ae1f64614798affa12cd82d89b4ca3e89d6513ac1e914461bb28683d9a6dcd8dac214e22c4\
             b58996c504c5638798eb6b511e6f49af"
        );
        assert_eq!(KlapHashes::from_text(&text).as_ref(), Some(&account));
        for bad in [
            "",
            &text[1..],
            &text[2..],
            &format!("{}0", *text),
            &format!("{}00", *text),
            &format!(" {}", &text[1..]),
            &format!("+{}", &text[1..]),
            &text.to_uppercase(),
            &text.replace("47", "ü"),
        ] {
            assert_eq!(KlapHashes::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn hashes_print_as_redacted() {
        let accounts = KlapAccounts::of("user@example.com", &secret("great_password"), None);
        let first = accounts.iter().next().unwrap();
        assert_eq!(format!("{first:?}"), "KlapAccount { spelling: AsWritten, hashes: [redacted] }");
    }

    #[test]
    fn the_accounts_stand_in_the_order_in_which_they_are_tried_each_once() {
        let spellings = |accounts: &KlapAccounts| {
            accounts.iter().map(|account| account.spelling.word()).collect::<Vec<_>>().join(" ")
        };
        let built_in = "kasa-setup tapo-setup blank";
        assert_eq!(spellings(&KlapAccounts::default()), built_in);
        for (username, registered, own) in [
            ("user@example.com", None, "as-written"),
            ("user@example.com", Some("user@example.com"), "as-written"),
            ("user@example.com", Some("User@example.com"), "as-written as-registered"),
            ("User@Example.com", Some("User@example.com"), "as-written lower-case as-registered"),
            ("User@Example.com", Some("user@example.com"), "as-written lower-case"),
        ] {
            let accounts = KlapAccounts::of(username, &secret("great_password"), registered);
            assert_eq!(spellings(&accounts), format!("{own} {built_in}"), "{username} {registered:?}");
        }
        let setup = KlapAccounts::of("kasa@tp-link.net", &secret("kasaSetup"), None);
        assert_eq!(spellings(&setup), "as-written tapo-setup blank");
    }

    #[test]
    fn what_the_store_keeps_of_the_accounts_makes_the_same_accounts() {
        let accounts =
            KlapAccounts::of("User@Example.com", &secret("great_password"), Some("User@example.com"));
        let stored: Vec<_> = accounts.own().map(|it| (it.spelling.word(), it.hashes.to_text())).collect();
        assert_eq!(stored.len(), 3);
        let read = stored.iter().map(|(word, text)| KlapAccount {
            spelling: KlapSpelling::own(word).unwrap(),
            hashes: KlapHashes::from_text(text).unwrap(),
        });
        assert_eq!(KlapAccounts::with_own(read), accounts);
        assert_eq!(KlapSpelling::own("blank"), None, "the built-in ones are not stored");
    }

    #[test]
    fn the_owner_is_found_among_the_accounts() {
        let accounts = KlapAccounts::of("User@Example.com", &secret("great_password"), None);
        for (text, spelling) in [
            ("B58996C504C5638798EB6B511E6F49AF", Some(KlapSpelling::LowerCase)),
            ("D41D8CD98F00B204E9800998ECF8427E", Some(KlapSpelling::Blank)),
            ("00000000000000000000000000000000", None),
        ] {
            assert_eq!(accounts.owner(&owner(text)), spelling, "{text}");
        }
    }
}
