//! R-REP-10: who can unwrap an item's secret, and who cannot, with certificates and keys made by OpenSSL.

use std::{path::Path, process::Command};

use tempfile::TempDir;
use understudy_ids::UnixMicros;
use understudy_sealing::{
    InvalidRecipient, ItemSecret, PrivateKey, PrivateKeyError, Recipient, UnwrapError, WrappedKey,
};

const SECOND: i64 = 1_000_000;

struct Holder {
    dir: TempDir,
    certificate: String,
    key: String,
}

fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).output().unwrap();
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn holder(name: &str, key: &[&str], days: &str) -> Holder {
    let dir = TempDir::new().unwrap();
    let path = |file: &str| dir.path().join(file).to_str().unwrap().to_owned();
    let (cert, pem) = (path("cert.pem"), path("key.pem"));
    let subject = format!("/CN={name}");
    let mut arguments =
        vec!["req", "-x509", "-nodes", "-subj", &subject, "-days", days, "-keyout", &pem, "-out", &cert];
    arguments.extend(key);
    openssl(&arguments);
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap();
    Holder { certificate: read(&cert), key: read(&pem), dir }
}

fn rsa(name: &str) -> Holder {
    holder(name, &["-newkey", "rsa:2048"], "36500")
}

fn ec(name: &str) -> Holder {
    holder(name, &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "36500")
}

fn now() -> UnixMicros {
    std::time::SystemTime::now().into()
}

fn recipients(of: &[&Holder]) -> Vec<Recipient> {
    of.iter().map(|h| Recipient::from_pem(&h.certificate).unwrap()).collect()
}

#[test]
fn each_recipient_can_unwrap_and_nobody_else() {
    let (first, second, stranger) = (rsa("first"), ec("second"), ec("stranger"));
    let secret = ItemSecret::generate().unwrap();
    let wrapped = WrappedKey::wrap(&secret, &recipients(&[&first, &second])).unwrap();
    let written = serde_json::to_string(&wrapped).unwrap();
    assert!(!written.contains(secret.passphrase().expose()));
    let read: WrappedKey = serde_json::from_str(&written).unwrap();
    assert!(read.is_sound());
    for holder in [&first, &second] {
        let key = PrivateKey::from_pem(&holder.key).unwrap();
        let found = read.unwrap(&key, now()).unwrap();
        assert_eq!(found.passphrase().expose(), secret.passphrase().expose());
    }
    let key = PrivateKey::from_pem(&stranger.key).unwrap();
    let refused = read.unwrap(&key, now()).unwrap_err();
    assert!(matches!(&refused, UnwrapError::NoRecipient(known) if known.contains("CN=first")), "{refused}");
}

/// "Expired" is judged by the clock that is handed in.
#[test]
fn a_certificate_that_has_ended_opens_nothing() {
    let holder = holder("short", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "1");
    let recipients = recipients(&[&holder]);
    let wrapped = WrappedKey::wrap(&ItemSecret::generate().unwrap(), &recipients).unwrap();
    let key = PrivateKey::from_pem(&holder.key).unwrap();
    let ends = recipients[0].not_after;
    assert!(wrapped.unwrap(&key, ends).is_ok());
    let refused = wrapped.unwrap(&key, UnixMicros::new(ends.get() + SECOND)).unwrap_err();
    assert!(matches!(refused, UnwrapError::Expired { .. }), "{refused}");
}

/// What RSA wraps can be had without us, in an emergency: the secret in hexadecimal is the passphrase.
#[test]
fn openssl_unwraps_what_was_wrapped_for_rsa() {
    let holder = rsa("alone");
    let secret = ItemSecret::generate().unwrap();
    let wrapped = WrappedKey::wrap(&secret, &recipients(&[&holder])).unwrap();
    let value = serde_json::to_value(&wrapped).unwrap();
    let blob = hex::decode(value["recipients"][0]["wrapped"].as_str().unwrap()).unwrap();
    let path = |file: &str| holder.dir.path().join(file).to_str().unwrap().to_owned();
    std::fs::write(path("blob"), blob).unwrap();
    let (blob, key, out) = (path("blob"), path("key.pem"), path("out"));
    let mut arguments = vec!["pkeyutl", "-decrypt", "-inkey", &key, "-in", &blob, "-out", &out];
    arguments.extend(["-pkeyopt", "rsa_padding_mode:oaep", "-pkeyopt", "rsa_oaep_md:sha256"]);
    openssl(&arguments);
    assert_eq!(hex::encode(std::fs::read(out).unwrap()), secret.passphrase().expose());
}

#[test]
fn what_cannot_be_a_recipient_is_refused_with_the_reason() {
    let small = holder("small", &["-newkey", "rsa:1024"], "10");
    assert_eq!(
        Recipient::from_pem(&small.certificate).unwrap_err(),
        InvalidRecipient::Key("RSA of 1024 bits".into())
    );
    let curve = holder("curve", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"], "10");
    assert!(matches!(Recipient::from_pem(&curve.certificate).unwrap_err(), InvalidRecipient::Key(_)));
    for text in ["", "hello", &small.key, &format!("{0}{0}", small.certificate)] {
        assert_eq!(Recipient::from_pem(text).unwrap_err(), InvalidRecipient::NotACertificate);
    }
    assert_eq!(PrivateKey::from_pem(&small.certificate).unwrap_err(), PrivateKeyError::NotAKey);
}

/// What was tampered with gives nothing, and nothing is printed of what is secret.
#[test]
fn damage_is_seen_and_nothing_secret_is_printed() {
    let holder = ec("holder");
    let secret = ItemSecret::generate().unwrap();
    let wrapped = WrappedKey::wrap(&secret, &recipients(&[&holder])).unwrap();
    let mut value = serde_json::to_value(&wrapped).unwrap();
    let text = value["recipients"][0]["wrapped"].as_str().unwrap().to_owned();
    let other = if text.starts_with('0') { "1" } else { "0" };
    value["recipients"][0]["wrapped"] = format!("{other}{}", &text[1..]).into();
    let damaged: WrappedKey = serde_json::from_value(value).unwrap();
    let key = PrivateKey::from_pem(&holder.key).unwrap();
    assert!(matches!(damaged.unwrap(&key, now()).unwrap_err(), UnwrapError::Damaged(_)));
    let disk = secret.disk_key(&"vda".parse().unwrap()).unwrap();
    let printed = format!("{secret:?} {:?} {disk:?} {key:?}", secret.passphrase());
    assert_eq!(printed, "ItemSecret(…) Passphrase(…) DiskKey(…) PrivateKey(…)");
}
