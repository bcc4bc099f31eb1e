//! The XOR autokey cipher of TCP and UDP 9999, in place.
//!
//! Each byte is combined with the *encrypted* byte before it, starting from [`KEY`], anew for every message and
//! each direction. It hides nothing and proves nothing: whoever is on the LAN can speak it.

/// The key for the first byte of each message.
pub const KEY: u8 = 171;

/// Turns plain text into cipher text.
pub fn encrypt(bytes: &mut [u8]) {
    let mut key = KEY;
    for byte in bytes {
        *byte ^= key;
        key = *byte;
    }
}

/// Turns cipher text into plain text.
pub fn decrypt(bytes: &mut [u8]) {
    let mut key = KEY;
    for byte in bytes {
        let encrypted = *byte;
        *byte ^= key;
        key = encrypted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encrypted_is_decrypted(plain in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let mut bytes = plain.clone();
            encrypt(&mut bytes);
            decrypt(&mut bytes);
            prop_assert_eq!(bytes, plain);
        }
    }

    #[test]
    fn the_first_byte_is_combined_with_the_key() {
        let mut bytes = *b"{}";
        encrypt(&mut bytes);
        assert_eq!(bytes, [0xd0, 0xad]);
    }
}
