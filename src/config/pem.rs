//! Certificates and keys in PEM: whether they are what they should be. Nothing is trusted here, and no
//! text of a key ever leaves.

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The certificates of a file, at least one, each readable as X.509.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| format!("it is not PEM: {error}"))?;
    if found.is_empty() {
        return Err("it holds no certificate in PEM".into());
    }
    for certificate in &found {
        rustls::server::ParsedCertificate::try_from(certificate)
            .map_err(|error| format!("a certificate in it is broken: {error}"))?;
    }
    Ok(found)
}

/// The first private key of a file.
pub(super) fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err("it holds no private key in PEM".into()),
        Err(error) => Err(format!("it is not PEM: {error}")),
    }
}

/// Whether the key is of a kind that we speak, and the first certificate was made for it.
pub(super) fn belong_together(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider)
        .map(drop)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_taken_and_junk_or_a_mix_is_not() {
        let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, other) = (pair(), pair());
        let chain = certificates(one.cert.pem().as_bytes()).unwrap();
        let key = |pem: String| private_key(pem.as_bytes()).unwrap();
        let (own, foreign) = (
            key(one.signing_key.serialize_pem()),
            key(other.signing_key.serialize_pem()),
        );
        assert_eq!(belong_together(chain.clone(), own), Ok(()));
        assert!(belong_together(chain, foreign).is_err());
        for junk in [
            "junk\n",
            "",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n",
        ] {
            assert!(certificates(junk.as_bytes()).is_err(), "{junk}");
            assert!(private_key(junk.as_bytes()).is_err(), "{junk}");
        }
        assert!(
            private_key(one.cert.pem().as_bytes()).is_err(),
            "the wrong file"
        );
    }
}
