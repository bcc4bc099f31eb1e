//! KLAP's cryptography: the proofs of the handshake, and the encryption of a session. Pure: bytes in, bytes out.
//!
//! Both sides draw a seed. Each proves that it knows the hashes of an account, and both derive the keys of the session from
//! the seeds and these hashes. Which account the plug holds and which version it speaks is found by comparing its proof
//! with that of every account in both versions.

use aes::Aes128;
use cbc::cipher::array::Array;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use cbc::{Decryptor, Encryptor};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use hs100d_core::klap_hashes::{KlapAccounts, KlapHashes, KlapSpelling};

/// Bytes of a seed.
pub const SEED_LEN: usize = 16;
/// Bytes of the plug's answer to the first handshake: its seed and its proof.
pub const HANDSHAKE1_LEN: usize = SEED_LEN + PROOF_LEN;
/// Bytes in front of the cipher text of a request and of a reply.
pub const SIGNATURE_LEN: usize = 32;
const PROOF_LEN: usize = 32;
/// Bytes of a block of AES, and of its key here.
const BLOCK_LEN: usize = 16;
/// Bytes of the initialization vector before the sequence number.
const IV_LEN: usize = 12;
/// Bytes of the key of the signature.
const SIGNATURE_KEY_LEN: usize = 28;

/// What one side draws for one handshake.
pub type Seed = [u8; SEED_LEN];

/// Which formulas a plug uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KlapVersion {
    /// Of 2020, with MD5.
    V1,
    /// Of 2025, with SHA-1 and SHA-256.
    V2,
}

impl KlapVersion {
    const ALL: [Self; 2] = [Self::V1, Self::V2];

    fn hash(self, hashes: &KlapHashes) -> &[u8] {
        match self {
            Self::V1 => hashes.v1(),
            Self::V2 => hashes.v2(),
        }
    }

    /// What one side proves itself by; each begins with the seed of the side that asks for the proof.
    fn proof(self, asking: &Seed, proving: &Seed, hash: &[u8]) -> Zeroizing<[u8; PROOF_LEN]> {
        match self {
            Self::V1 => sha256(&[asking, hash]),
            Self::V2 => sha256(&[asking, proving, hash]),
        }
    }
}

/// Why the answer to the first handshake makes no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHandshake {
    /// Not [`HANDSHAKE1_LEN`] bytes.
    #[error("{0} bytes in the handshake")]
    Length(usize),
    /// The plug holds none of the accounts.
    #[error("the plug holds another account")]
    NoMatch,
}

/// A plug that has proved which account it holds.
pub struct Handshake {
    /// The account.
    pub spelling: KlapSpelling,
    /// The version.
    pub version: KlapVersion,
    /// The body of the second handshake.
    pub proof: Zeroizing<[u8; PROOF_LEN]>,
    /// What follows.
    pub session: KlapSession,
}

impl Handshake {
    /// Compares the plug's proof with that of each account in both versions. Takes as long wherever one matches.
    ///
    /// # Errors
    /// If none matches, or `answer` has another length.
    pub fn accept(ours: &Seed, answer: &[u8], accounts: &KlapAccounts) -> Result<Self, BadHandshake> {
        let bad_length = BadHandshake::Length(answer.len());
        let (theirs, proof) = answer.split_first_chunk::<SEED_LEN>().ok_or(bad_length)?;
        let proof: &[u8; PROOF_LEN] = proof.try_into().map_err(|_| bad_length)?;
        let mut found = None;
        for account in accounts.iter() {
            for version in KlapVersion::ALL {
                let hash = version.hash(&account.hashes);
                let is_match = version.proof(ours, theirs, hash).ct_eq(proof);
                if found.is_none() && bool::from(is_match) {
                    found = Some((account, version));
                }
            }
        }
        let (account, version) = found.ok_or(BadHandshake::NoMatch)?;
        let hash = version.hash(&account.hashes);
        Ok(Self {
            spelling: account.spelling,
            version,
            proof: version.proof(theirs, ours, hash),
            session: KlapSession::new(ours, theirs, hash),
        })
    }
}

/// Why a body is not the reply to the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// Not a signature and whole blocks.
    #[error("{0} bytes are not an encrypted answer")]
    Length(usize),
    /// It was encrypted with another key, or not at all.
    #[error("the answer cannot be decrypted")]
    Padding,
}

/// The keys of a session, and the number of its last request. Zeroized on drop. Kept small: there is one for each plug.
pub struct KlapSession {
    key: [u8; BLOCK_LEN],
    iv: [u8; IV_LEN],
    signature_key: [u8; SIGNATURE_KEY_LEN],
    sequence: i32,
}

impl KlapSession {
    fn new(ours: &Seed, theirs: &Seed, hash: &[u8]) -> Self {
        let derived = |label: &[u8]| sha256(&[label, ours, theirs, hash]);
        let iv = derived(b"iv");
        let [.., a, b, c, d] = *iv;
        Self {
            key: first(&derived(b"lsk")),
            iv: first(&iv),
            signature_key: first(&derived(b"ldk")),
            sequence: i32::from_be_bytes([a, b, c, d]),
        }
    }

    /// Whether the next number would wrap. No firmware was seen to do so: a new session starts elsewhere.
    pub fn is_used_up(&self) -> bool {
        self.sequence == i32::MAX
    }

    /// Replaces the contents of `buffer` by the body of the next request, which holds what `write_message` appends.
    /// Returns the number of the request.
    pub fn seal(&mut self, buffer: &mut Vec<u8>, write_message: impl FnOnce(&mut Vec<u8>)) -> i32 {
        self.sequence = self.sequence.wrapping_add(1);
        buffer.clear();
        buffer.resize(SIGNATURE_LEN, 0);
        write_message(buffer);
        let padding = BLOCK_LEN - (buffer.len() - SIGNATURE_LEN) % BLOCK_LEN;
        // At most the length of a block.
        buffer.resize(buffer.len() + padding, padding as u8);
        let (signature, text) = buffer.split_at_mut(SIGNATURE_LEN);
        let (blocks, _) = Array::slice_as_chunks_mut(text);
        Encryptor::<Aes128>::new(&self.key.into(), &self.full_iv().into()).encrypt_blocks(blocks);
        let sequence = self.sequence.to_be_bytes();
        signature.copy_from_slice(&*sha256(&[&self.signature_key, &sequence, text]));
        self.sequence
    }

    /// Decrypts the reply to the last request in place and returns its message. It says nothing that it is one: a wrong
    /// key passes once in 256 times. How a plug computes the bytes in front is not known, so they are not checked.
    ///
    /// # Errors
    /// If the body is no cipher text of this session.
    pub fn open<'a>(&self, body: &'a mut [u8]) -> Result<&'a [u8], BadBody> {
        let bad_length = BadBody::Length(body.len());
        let (_, text) = body.split_at_mut_checked(SIGNATURE_LEN).ok_or(bad_length)?;
        let (blocks, rest) = Array::slice_as_chunks_mut(text);
        if blocks.is_empty() || !rest.is_empty() {
            return Err(bad_length);
        }
        Decryptor::<Aes128>::new(&self.key.into(), &self.full_iv().into()).decrypt_blocks(blocks);
        without_padding(text).ok_or(BadBody::Padding)
    }

    /// That of the last request, and of its reply.
    fn full_iv(&self) -> [u8; BLOCK_LEN] {
        let mut full = [0; BLOCK_LEN];
        full[..IV_LEN].copy_from_slice(&self.iv);
        full[IV_LEN..].copy_from_slice(&self.sequence.to_be_bytes());
        full
    }
}

impl Drop for KlapSession {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
        self.signature_key.zeroize();
        self.sequence.zeroize();
    }
}

impl std::fmt::Debug for KlapSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// PKCS#7: the last byte says how many bytes like it end the text, 1 to 16.
fn without_padding(text: &[u8]) -> Option<&[u8]> {
    let &last = text.last()?;
    let length = text.len().checked_sub(last.into())?;
    let (message, padding) = text.split_at(length);
    let is_sound = (1..=BLOCK_LEN).contains(&padding.len()) && padding.iter().all(|byte| *byte == last);
    is_sound.then_some(message)
}

fn sha256(parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    Zeroizing::new(hasher.finalize().into())
}

/// The first bytes of a hash.
fn first<const N: usize>(hash: &[u8; 32]) -> [u8; N] {
    let mut first = [0; N];
    first.copy_from_slice(&hash[..N]);
    first
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use hs100d_core::secret::Secret;

    const SYSINFO: &[u8] = br#"{"system":{"get_sysinfo":{}}}"#;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        hex.as_bytes().chunks(2).map(byte).collect()
    }

    fn accounts() -> KlapAccounts {
        KlapAccounts::of("user@example.com", &Secret::new("great_password".to_owned()), None)
    }

    /// The plug's half of the first handshake, with this account in its memory.
    fn answer(ours: &Seed, theirs: &Seed, version: KlapVersion, hashes: &KlapHashes) -> Vec<u8> {
        [&theirs[..], &*version.proof(ours, theirs, version.hash(hashes))].concat()
    }

    fn accepted(theirs: Seed, version: KlapVersion) -> Handshake {
        let hashes = &accounts().iter().next().unwrap().hashes.clone();
        let ours = bytes("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        Handshake::accept(&ours, &answer(&ours, &theirs, version, hashes), &accounts()).unwrap()
    }

    fn sealed(session: &mut KlapSession, message: &[u8]) -> (i32, String) {
        let mut buffer = b"left over".to_vec();
        let sequence = session.seal(&mut buffer, |out| out.extend_from_slice(message));
        (sequence, hex(&buffer))
    }

    #[test]
    fn a_recorded_handshake_and_its_requests_are_made_again() {
        let ours: Seed = bytes("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let theirs = "101112131415161718191a1b1c1d1e1f";
        for (version, plugs_proof, our_proof, key, iv, sequence, signature_key, first, second) in [
            (
                KlapVersion::V1,
                "7c10489c80f0713f4bc0275f2612e432b210f2b7c28b3b03bf95f48987ab0ce9",
                "d753dabd7e5e9029b7423eab85f5a5babd3d5b6ad285ff673e63c537866e571f",
                "b1c5933d0859867e55173421f834dba3",
                "37e636d51a250a3618a5e9cd",
                594641584,
                "469764c622d147811141cf744b4c12c14f31e2665e3a8938de2abe33",
                "5b18c6348e8d250ee7b9a53a20f10d231da56b1c9765bb349f484bdd4cd74a11\
                 40a9274cb7dbb8204975e6ce2cf2ad5039e322932dbbf26bc17cce28dffa65fe",
                "a37cb22a4be4b77d4efedc31748d44a730fe186d42c56e386d3c34cf0e2e49b8\
                 fbed004fa22a527ed0f86deaf9d497adcd97478b4d0bbbf4102ab79085b58fd6",
            ),
            (
                KlapVersion::V2,
                "2a4200a6ffdfdca1d144314ed38d74be7e22e00e1f002b8a1e04adf9fbf5960c",
                "33629671c324a51eecf382a15735ec8005bb3fc7e6146833ad67baf346ee97d9",
                "0eb3e52fa1b446d10af0b754a8e7ed36",
                "0a528f770130884bbb9f20c5",
                1654156118,
                "6b46fbf64c1801b5008c9d922d1fd8f768cdaa5bce72d605792ad139",
                "8942e69673c3ec87c398505e1c0f2543d2179eaf651a3f528223772480153d5e\
                 3db7c290ea168b88c3439cd523fc7729e446bcc26f0d53de8197be06bbb9ac11",
                "17f104075b04b3709af3a1e0dc1d42b278fedfae4a02822515630711e0dcca7e\
                 634eb80c33b671bd758c629fdb93e36e7d99c97ca648f11e8e4d55615f2aa3c3",
            ),
        ] {
            let answer = bytes(&format!("{theirs}{plugs_proof}"));
            let mut handshake = Handshake::accept(&ours, &answer, &accounts()).unwrap();
            assert_eq!((handshake.version, handshake.spelling), (version, KlapSpelling::AsWritten));
            assert_eq!(hex(&*handshake.proof), our_proof);
            let session = &mut handshake.session;
            assert_eq!((hex(&session.key), hex(&session.iv)), (key.to_owned(), iv.to_owned()));
            assert_eq!((session.sequence, hex(&session.signature_key)), (sequence, signature_key.to_owned()));
            assert_eq!(sealed(session, SYSINFO), (sequence + 1, first.to_owned()));
            assert_eq!(sealed(session, SYSINFO), (sequence + 2, second.to_owned()));
            let mut reply = bytes(second);
            assert_eq!(session.open(&mut reply), Ok(SYSINFO));
        }
    }

    #[test]
    fn a_negative_sequence_number_is_in_the_vector_and_in_the_signature() {
        let theirs = bytes("00000000000000000000000000000002").try_into().unwrap();
        let mut session = accepted(theirs, KlapVersion::V2).session;
        assert_eq!(session.sequence, -799_259_108);
        assert_eq!(
            sealed(&mut session, b"{}"),
            (
                -799_259_107,
                "4954e8c43a8c572ca7eb146e7f13d8afb4eab383e0e15ce77fce2f8d51044698\
                 d6ca5b84d8597d093ae5f56bf6d8a9ad"
                    .to_owned()
            )
        );
    }

    #[test]
    fn the_sequence_number_wraps_and_says_so_before() {
        let mut session = accepted([7; SEED_LEN], KlapVersion::V2).session;
        session.sequence = i32::MAX - 1;
        assert!(!session.is_used_up());
        assert_eq!(sealed(&mut session, b"{}").0, i32::MAX);
        assert!(session.is_used_up());
        let mut body = Vec::new();
        assert_eq!(session.seal(&mut body, |out| out.extend_from_slice(SYSINFO)), i32::MIN);
        assert_eq!(session.open(&mut body), Ok(SYSINFO));
    }

    #[test]
    fn each_account_in_each_version_is_recognised_by_its_proof() {
        let password = Secret::new("great_password".to_owned());
        let accounts = KlapAccounts::of("User@Example.com", &password, Some("User@example.com"));
        let (ours, theirs) = ([1; SEED_LEN], [2; SEED_LEN]);
        for account in accounts.iter() {
            for version in KlapVersion::ALL {
                let answer = answer(&ours, &theirs, version, &account.hashes);
                let handshake = Handshake::accept(&ours, &answer, &accounts).unwrap();
                assert_eq!((handshake.spelling, handshake.version), (account.spelling, version));
                let mut changed = answer.clone();
                changed[SEED_LEN] ^= 1;
                let result = Handshake::accept(&ours, &changed, &accounts);
                assert_eq!(result.err(), Some(BadHandshake::NoMatch));
            }
        }
    }

    #[test]
    fn a_plug_with_another_account_is_refused() {
        let other = KlapHashes::of("somebody@example.com", &Secret::new("great_password".to_owned()));
        for version in KlapVersion::ALL {
            let answer = answer(&[1; SEED_LEN], &[2; SEED_LEN], version, &other);
            let result = Handshake::accept(&[1; SEED_LEN], &answer, &accounts());
            assert_eq!(result.err(), Some(BadHandshake::NoMatch));
        }
        for length in [0, 15, 16, 47, 49, 64] {
            let result = Handshake::accept(&[1; SEED_LEN], &vec![0; length], &accounts());
            assert_eq!(result.err(), Some(BadHandshake::Length(length)));
        }
    }

    #[test]
    fn a_body_that_is_no_reply_says_why() {
        let mut session = accepted([7; SEED_LEN], KlapVersion::V1).session;
        for length in [0, 1, 31, 32, 33, 47, 49, 63, 65] {
            assert_eq!(session.open(&mut vec![0; length]), Err(BadBody::Length(length)));
        }
        let mut body = Vec::new();
        session.seal(&mut body, |out| out.extend_from_slice(&[0; BLOCK_LEN]));
        assert_eq!(body.len(), SIGNATURE_LEN + 2 * BLOCK_LEN, "a whole block is followed by one of padding");
        // Without that block the text ends with a byte that is no padding.
        body.truncate(SIGNATURE_LEN + BLOCK_LEN);
        assert_eq!(session.open(&mut body), Err(BadBody::Padding));
    }

    #[test]
    fn padding_is_one_to_sixteen_bytes_that_all_say_how_many_they_are() {
        for (text, message) in [
            (&[16; 16][..], Some(&[][..])),
            (b"fifteen bytes 15\x01", Some(b"fifteen bytes 15")),
            (b"\x02\x02", Some(b"")),
            (b"ab\x01\x02", None),
            (b"ab\x00", None),
            (&[17; 17], None),
            (&[0; 16], None),
            (b"\x03\x03", None),
            (b"", None),
        ] {
            assert_eq!(without_padding(text), message, "{text:?}");
        }
    }

    #[test]
    fn neither_keys_nor_numbers_of_a_session_are_printed() {
        assert_eq!(format!("{:?}", accepted([7; SEED_LEN], KlapVersion::V2).session), "[redacted]");
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_opened(
            theirs in any::<Seed>(),
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..4),
        ) {
            let mut session = accepted(theirs, KlapVersion::V2).session;
            for message in messages {
                let mut body = Vec::new();
                session.seal(&mut body, |out| out.extend_from_slice(&message));
                prop_assert_eq!(session.open(&mut body), Ok(&message[..]));
            }
        }

        #[test]
        fn a_body_of_any_bytes_is_opened_or_refused(mut body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let session = accepted([7; SEED_LEN], KlapVersion::V1).session;
            let length = body.len();
            match session.open(&mut body) {
                Ok(message) => prop_assert!(message.len() + SIGNATURE_LEN < length),
                Err(BadBody::Length(found)) => prop_assert_eq!(found, length),
                Err(BadBody::Padding) => {}
            }
        }
    }
}
