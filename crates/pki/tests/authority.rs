//! The authority on a real directory (R-OPS-1: mutual TLS between all services).

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use time::OffsetDateTime;
use understudy_pki::{Authority, AuthorityError, Credential, CredentialError, Identity, Validity};

fn validity(span: std::time::Duration) -> Validity {
    Validity::starting(OffsetDateTime::now_utc(), span)
}

fn create(directory: &Path) -> Authority {
    Authority::create(directory, validity(Validity::AUTHORITY)).unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

#[test]
fn an_issued_certificate_speaks_for_exactly_one_identity_in_both_roles() {
    let directory = tempfile::tempdir().unwrap();
    let authority = create(directory.path());
    let identity: Identity = "spiffe://understudy/agent/alpha/alpha-h1".parse().unwrap();
    let validity = validity(Validity::DEFAULT);
    let der = der(&authority.issue(&identity, validity).unwrap().certificate);

    let read = Credential::read(&der).unwrap();
    assert_eq!(read.identity, identity);
    assert_eq!(read.not_after.unix_timestamp(), validity.not_after.unix_timestamp());

    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    assert!(!parsed.is_ca());
}

#[test]
fn the_authoritys_own_certificate_speaks_for_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let error = Credential::read(&der(create(directory.path()).certificate())).unwrap_err();
    assert!(matches!(error, CredentialError::NotOneUri { found: 0 }), "{error}");
    assert!(matches!(Credential::read(b"no certificate"), Err(CredentialError::Malformed(_))));
}

#[test]
fn an_authority_is_never_overwritten_and_loads_again() {
    let directory = tempfile::tempdir().unwrap();
    let first = create(directory.path()).certificate().to_owned();
    let second = Authority::create(directory.path(), validity(Validity::AUTHORITY));
    assert!(matches!(second, Err(AuthorityError::AlreadyExists(_))));
    assert_eq!(Authority::load(directory.path()).unwrap().certificate(), first);

    // Half an authority is one too: its key may have signed what is in use.
    fs::remove_file(directory.path().join("ca.pem")).unwrap();
    let third = Authority::create(directory.path(), validity(Validity::AUTHORITY));
    assert!(matches!(third, Err(AuthorityError::AlreadyExists(_))));
}

#[test]
fn keys_are_readable_by_their_owner_only_and_no_temporary_file_stays() {
    let directory = tempfile::tempdir().unwrap();
    let authority = create(directory.path());
    let user = Identity::from_path("user/ops").unwrap();
    let target = directory.path().join("ops");
    for _ in 0..2 {
        authority.issue_to(&user, validity(Validity::DEFAULT), &target, "ops").unwrap();
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory.path().join("ca.key")), 0o600);
    assert_eq!(mode(&target.join("ops.key")), 0o600);
    assert_eq!(mode(&target.join("ops.pem")), 0o644);
    let mut names: Vec<_> =
        fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["ca.pem", "ops.key", "ops.pem"]);
}

#[test]
fn a_damaged_authority_is_reported_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    create(directory.path());
    fs::write(directory.path().join("ca.key"), "nonsense").unwrap();
    let error = Authority::load(directory.path()).err().unwrap().to_string();
    assert!(error.contains(directory.path().to_str().unwrap()), "{error}");
}
