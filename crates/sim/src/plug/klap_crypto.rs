//! The formulas of KLAP on the side of the plug: the hash of an account, the two proofs, the cipher of a session. Pure.
//!
//! Written from the published formulas. It shares no line with the daemon's client, so that a mistake in one of them
//! shows.

use aes::Aes128;
use aes::cipher::{Block, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::model::SimKlapVersion;

/// Bytes of each of the two seeds.
pub(crate) const SEED: usize = 16;
/// Bytes of a proof, and of the signature before each ciphertext.
pub(crate) const HASH: usize = 32;
/// Bytes of a block of AES.
const BLOCK: usize = 16;

/// A seed of the handshake.
pub(crate) type SimSeed = [u8; SEED];

/// The hash of an account under one version: 16 bytes in version 1, 32 in version 2.
pub(crate) fn auth_hash(version: SimKlapVersion, username: &str, password: &str) -> Vec<u8> {
    let (user, password) = (username.as_bytes(), password.as_bytes());
    match version {
        SimKlapVersion::V1 => {
            let inner = [Md5::digest(user), Md5::digest(password)].concat();
            Md5::digest(inner).to_vec()
        }
        SimKlapVersion::V2 => {
            let inner = [Sha1::digest(user), Sha1::digest(password)].concat();
            Sha256::digest(inner).to_vec()
        }
        SimKlapVersion::Unknown => sha256(&[b"a scheme that nobody knows", user, password]).to_vec(),
    }
}

/// The `owner` in the discovery: MD5 of the e-mail address.
pub(crate) fn owner_hash(username: &str) -> String {
    Md5::digest(username).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A proof. The plug proves itself in handshake1, the client in handshake2; `asks` is the seed of the side that checks.
pub(crate) fn proof(version: SimKlapVersion, asks: &SimSeed, proves: &SimSeed, auth: &[u8]) -> [u8; HASH] {
    match version {
        SimKlapVersion::V1 => sha256(&[asks, auth]),
        SimKlapVersion::V2 | SimKlapVersion::Unknown => sha256(&[asks, proves, auth]),
    }
}

#[derive(Clone)]
pub(crate) struct SessionKeys {
    key: [u8; 16],
    iv: [u8; 12],
    signature: [u8; 28],
    /// The first request has the next number.
    pub(crate) first_seq: i32,
}

impl SessionKeys {
    /// Derives the keys from the seeds and the hash of the account.
    pub(crate) fn derive(client: &SimSeed, plug: &SimSeed, auth: &[u8]) -> Self {
        let derive = |label: &[u8]| sha256(&[label, client, plug, auth]);
        let (key, iv, signature) = (derive(b"lsk"), derive(b"iv"), derive(b"ldk"));
        Self {
            key: first(&key),
            iv: first(&iv),
            signature: first(&signature),
            first_seq: i32::from_be_bytes([iv[28], iv[29], iv[30], iv[31]]),
        }
    }

    /// Signature and ciphertext of one message, in either direction.
    pub(crate) fn seal(&self, seq: i32, message: &[u8]) -> Vec<u8> {
        let padding = BLOCK - message.len() % BLOCK;
        let padded = [message, &vec![padding as u8; padding]].concat();
        let mut cipher = cbc::Encryptor::<Aes128>::new(&self.key.into(), &self.iv_of(seq).into());
        let mut sealed = vec![0; HASH];
        for block in padded.chunks(BLOCK) {
            let mut block: Block<Aes128> = first::<BLOCK>(block).into();
            cipher.encrypt_block(&mut block);
            sealed.extend_from_slice(&block);
        }
        let signature = self.sign(seq, &sealed[HASH..]);
        sealed[..HASH].copy_from_slice(&signature);
        sealed
    }

    /// The message in a body, or why the body cannot be decrypted.
    pub(crate) fn open(&self, seq: i32, body: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let (signature, ciphertext) = body.split_at_checked(HASH).ok_or(Unreadable::Length)?;
        if ciphertext.is_empty() || ciphertext.len() % BLOCK != 0 {
            return Err(Unreadable::Length);
        }
        if *signature != self.sign(seq, ciphertext) {
            return Err(Unreadable::Signature);
        }
        let mut cipher = cbc::Decryptor::<Aes128>::new(&self.key.into(), &self.iv_of(seq).into());
        let mut message = Vec::with_capacity(ciphertext.len());
        for block in ciphertext.chunks(BLOCK) {
            let mut block: Block<Aes128> = first::<BLOCK>(block).into();
            cipher.decrypt_block(&mut block);
            message.extend_from_slice(&block);
        }
        let padding = usize::from(message[message.len() - 1]);
        let end = message.len().checked_sub(padding).filter(|_| (1..=BLOCK).contains(&padding));
        let end = end.ok_or(Unreadable::Padding)?;
        if message[end..].iter().any(|&byte| usize::from(byte) != padding) {
            return Err(Unreadable::Padding);
        }
        message.truncate(end);
        Ok(message)
    }

    fn sign(&self, seq: i32, ciphertext: &[u8]) -> [u8; HASH] {
        sha256(&[&self.signature, &seq.to_be_bytes(), ciphertext])
    }

    fn iv_of(&self, seq: i32) -> [u8; BLOCK] {
        let mut iv = [0; BLOCK];
        iv[..12].copy_from_slice(&self.iv);
        iv[12..].copy_from_slice(&seq.to_be_bytes());
        iv
    }
}

/// Why the body of a request cannot be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not a signature followed by whole blocks.
    Length,
    /// The signature is of another key, number or ciphertext.
    Signature,
    /// The last block does not end as PKCS#7 requires.
    Padding,
}

fn sha256(parts: &[&[u8]]) -> [u8; HASH] {
    let hash = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part));
    hash.finalize().into()
}

/// The first `N` bytes. The caller passes at least that many.
fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[..N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SimSeed = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const PLUG: SimSeed = [16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31];
    const SYSINFO: &[u8] = br#"{"system":{"get_sysinfo":{}}}"#;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn of_the_example(version: SimKlapVersion) -> Vec<u8> {
        auth_hash(version, "user@example.com", "great_password")
    }

    /// Computed by python-kasa 0.12.
    const AUTH_HASHES: [(&str, &str, &str, &str); 5] = [
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
    ];

    #[test]
    fn an_account_is_hashed_as_the_vectors_say() {
        for (username, password, v1, v2) in AUTH_HASHES {
            assert_eq!(hex(&auth_hash(SimKlapVersion::V1, username, password)), v1, "{username}");
            assert_eq!(hex(&auth_hash(SimKlapVersion::V2, username, password)), v2, "{username}");
        }
        assert_eq!(owner_hash("user@example.com"), "B58996C504C5638798EB6B511E6F49AF");
        assert_eq!(owner_hash(""), "D41D8CD98F00B204E9800998ECF8427E");
    }

    /// What one version makes of [`CLIENT`], [`PLUG`], the example account and [`SYSINFO`], sent twice.
    struct Vectors {
        version: SimKlapVersion,
        plug_proof: &'static str,
        client_proof: &'static str,
        key: &'static str,
        iv: &'static str,
        first_seq: i32,
        signature: &'static str,
        bodies: [&'static str; 2],
    }

    /// Computed by python-kasa 0.12.
    const VECTORS: [Vectors; 2] = [
        Vectors {
            version: SimKlapVersion::V1,
            plug_proof: "7c10489c80f0713f4bc0275f2612e432b210f2b7c28b3b03bf95f48987ab0ce9",
            client_proof: "d753dabd7e5e9029b7423eab85f5a5babd3d5b6ad285ff673e63c537866e571f",
            key: "b1c5933d0859867e55173421f834dba3",
            iv: "37e636d51a250a3618a5e9cd",
            first_seq: 594_641_584,
            signature: "469764c622d147811141cf744b4c12c14f31e2665e3a8938de2abe33",
            bodies: [
                "5b18c6348e8d250ee7b9a53a20f10d231da56b1c9765bb349f484bdd4cd74a1140a9274cb7dbb8204975e6ce2cf2ad5039\
                 e322932dbbf26bc17cce28dffa65fe",
                "a37cb22a4be4b77d4efedc31748d44a730fe186d42c56e386d3c34cf0e2e49b8fbed004fa22a527ed0f86deaf9d497adcd\
                 97478b4d0bbbf4102ab79085b58fd6",
            ],
        },
        Vectors {
            version: SimKlapVersion::V2,
            plug_proof: "2a4200a6ffdfdca1d144314ed38d74be7e22e00e1f002b8a1e04adf9fbf5960c",
            client_proof: "33629671c324a51eecf382a15735ec8005bb3fc7e6146833ad67baf346ee97d9",
            key: "0eb3e52fa1b446d10af0b754a8e7ed36",
            iv: "0a528f770130884bbb9f20c5",
            first_seq: 1_654_156_118,
            signature: "6b46fbf64c1801b5008c9d922d1fd8f768cdaa5bce72d605792ad139",
            bodies: [
                "8942e69673c3ec87c398505e1c0f2543d2179eaf651a3f528223772480153d5e3db7c290ea168b88c3439cd523fc7729e4\
                 46bcc26f0d53de8197be06bbb9ac11",
                "17f104075b04b3709af3a1e0dc1d42b278fedfae4a02822515630711e0dcca7e634eb80c33b671bd758c629fdb93e36e7d\
                 99c97ca648f11e8e4d55615f2aa3c3",
            ],
        },
    ];

    #[test]
    fn a_session_is_what_the_vectors_say() {
        for vectors in VECTORS {
            let auth = of_the_example(vectors.version);
            assert_eq!(hex(&proof(vectors.version, &CLIENT, &PLUG, &auth)), vectors.plug_proof);
            assert_eq!(hex(&proof(vectors.version, &PLUG, &CLIENT, &auth)), vectors.client_proof);
            let keys = SessionKeys::derive(&CLIENT, &PLUG, &auth);
            let derived = (hex(&keys.key), hex(&keys.iv), keys.first_seq, hex(&keys.signature));
            let (key, iv, signature) = (vectors.key.into(), vectors.iv.into(), vectors.signature.into());
            assert_eq!(derived, (key, iv, vectors.first_seq, signature));
            for (seq, expected) in (vectors.first_seq + 1..).zip(vectors.bodies) {
                let body = keys.seal(seq, SYSINFO);
                assert_eq!(hex(&body), expected, "{:?}", vectors.version);
                assert_eq!(keys.open(seq, &body).unwrap(), SYSINFO);
            }
        }
    }

    #[test]
    fn a_negative_number_counts_up_and_is_part_of_the_cipher_as_twos_complement() {
        let mut plug = [0; SEED];
        plug[SEED - 1] = 2;
        let keys = SessionKeys::derive(&CLIENT, &plug, &of_the_example(SimKlapVersion::V2));
        assert_eq!(keys.first_seq, -799_259_108);
        let body = keys.seal(keys.first_seq + 1, b"{}");
        assert_eq!(
            hex(&body),
            "4954e8c43a8c572ca7eb146e7f13d8afb4eab383e0e15ce77fce2f8d51044698d6ca5b84d8597d093ae5f56bf6d8a9ad"
        );
    }

    #[test]
    fn what_cannot_be_a_request_is_refused_with_the_reason() {
        let keys = SessionKeys::derive(&CLIENT, &PLUG, &of_the_example(SimKlapVersion::V2));
        let body = keys.seal(7, SYSINFO);
        for length in [0, HASH - 1, HASH, HASH + 1, body.len() - 1] {
            assert_eq!(keys.open(7, &body[..length]), Err(Unreadable::Length), "{length}");
        }
        assert_eq!(keys.open(8, &body), Err(Unreadable::Signature));
        for at in [0, HASH, body.len() - 1] {
            let mut wrong = body.clone();
            wrong[at] ^= 1;
            assert_eq!(keys.open(7, &wrong), Err(Unreadable::Signature), "byte {at}");
        }
        // Signed correctly, but without padding: one block less for a message that fills its last block.
        let mut unpadded = keys.seal(7, &[b' '; BLOCK]);
        unpadded.truncate(HASH + BLOCK);
        let signature = keys.sign(7, &unpadded[HASH..]);
        unpadded[..HASH].copy_from_slice(&signature);
        assert_eq!(keys.open(7, &unpadded), Err(Unreadable::Padding));
    }
}
