//! Proofs, against vectors computed elsewhere.

use super::*;

const VM: &str = "0123456789abcdef0123456789abcdef";

fn secret() -> Secret {
    Secret::from_bytes(std::array::from_fn(|at| u8::try_from(at).unwrap()))
}

fn nonce(pair: &str) -> Nonce {
    Nonce::try_from(pair.repeat(32)).unwrap()
}

fn runner() -> Transcript {
    Transcript {
        client_nonce: nonce("11"),
        server_nonce: nonce("ab"),
        version: 1,
        role: SocketRole::Runner(VM.parse().unwrap()),
        client_inode: 42,
        server_inode: 43,
    }
}

fn control() -> Transcript {
    Transcript {
        role: SocketRole::Control,
        client_inode: 0,
        server_inode: 0,
        ..runner()
    }
}

/// The expected values come from Python's `hmac` module, fed by the recipe in `docs/architecture/wire.md`.
#[test]
fn proofs_equal_those_of_another_implementation() {
    let proofs = [
        runner().proof(Side::Server, &secret()),
        control().proof(Side::Server, &secret()),
        runner().proof(Side::Client, &secret()),
        control().proof(Side::Client, &secret()),
    ];
    assert_eq!(
        proofs,
        [
            "e21c0ad580c83daf0058d97b26436dfce1ef16c60295f9952502229ef56a46fb",
            "bc6d2336c5b03f53d93e2bddf806e4382b9e7a9fcfa5664fb23fdcab893dff64",
            "ab866e0efc4b9ce3c75afeee5e9a7521c91f1b0fd4e8982b136bca7636448b46",
            "a16d56afad85f7397688395b719ccc05679d80d1fc635c39593150ef2cfb0d55",
        ]
    );
}

#[test]
fn a_proof_is_verified_for_its_own_side_and_secret_only() {
    let proof = runner().proof(Side::Client, &secret());
    assert!(runner().verify(Side::Client, &secret(), &proof));
    assert!(!runner().verify(Side::Server, &secret(), &proof));
    assert!(!runner().verify(Side::Client, &Secret::from_bytes([0; 32]), &proof));
    assert!(!runner().verify(Side::Client, &secret(), &proof.to_uppercase()));
    assert!(!runner().verify(Side::Client, &secret(), &proof[..62]));
    assert!(!runner().verify(Side::Client, &secret(), ""));
}

#[test]
fn every_field_changes_the_proof() {
    let base = runner();
    let others = [
        Transcript {
            client_nonce: nonce("12"),
            ..base.clone()
        },
        Transcript {
            server_nonce: nonce("ac"),
            ..base.clone()
        },
        Transcript {
            client_nonce: nonce("ab"),
            server_nonce: nonce("11"),
            ..base.clone()
        },
        Transcript {
            version: 2,
            ..base.clone()
        },
        Transcript {
            role: SocketRole::Control,
            ..base.clone()
        },
        Transcript {
            role: SocketRole::Runner(VM.replace('0', "1").parse().unwrap()),
            ..base.clone()
        },
        Transcript {
            client_inode: 43,
            ..base.clone()
        },
        Transcript {
            server_inode: 42,
            ..base.clone()
        },
        Transcript {
            client_inode: 4,
            server_inode: 243,
            ..base.clone()
        },
    ];
    let proof = base.proof(Side::Client, &secret());
    for other in others {
        assert!(!other.verify(Side::Client, &secret(), &proof), "{other:?}");
    }
}

#[test]
fn nonces_are_different_and_have_one_spelling() {
    assert_ne!(Nonce::random().unwrap(), Nonce::random().unwrap());
    for bad in ["", "11", &"AB".repeat(32), &"g0".repeat(32), &"11".repeat(33)] {
        assert_eq!(Nonce::try_from(bad.to_owned()), Err(InvalidNonce), "{bad}");
    }
}
