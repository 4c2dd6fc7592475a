//! TLS settings of a host. The one place that chooses a provider of cryptography.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::{Error, HostConfig, KeyPair};

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::ring::default_provider()))
        .clone()
}

/// The certificates this machine trusts, read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    ROOTS
        .get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for err in &found.errors {
                tracing::warn!(error = %err, "system certificate not usable");
            }
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            Arc::new(roots)
        })
        .clone()
}

/// Settings for connections that are never encrypted.
pub(crate) fn plain() -> ClientConfig {
    finish(builder().with_root_certificates(RootCertStore::empty()))
}

/// Settings as `host` has them. Reads files.
pub(crate) fn settings(host: &HostConfig) -> Result<ClientConfig, Error> {
    let mut ca = host.ca.clone();
    let mut pairs = host.keypairs.clone();
    for dir in &host.tls_config_dirs {
        scan(dir, &mut ca, &mut pairs);
    }
    let builder = if host.insecure == Some(true) {
        builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
    } else {
        let mut roots = system_roots();
        for path in &ca {
            add(Arc::make_mut(&mut roots), path)?;
        }
        builder().with_root_certificates(roots)
    };
    match pairs.first() {
        None => Ok(finish(builder)),
        Some(pair) => {
            let (chain, key) = load(pair)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| Error::KeyPair {
                    path: pair.cert.clone(),
                    source,
                })
        }
    }
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for the default versions")
}

fn finish(
    builder: rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>,
) -> ClientConfig {
    builder.with_no_client_auth()
}

/// Finds certificates as docker lays them out: `*.crt` to trust, `NAME.cert` with `NAME.key` to show.
fn scan(dir: &Path, ca: &mut Vec<PathBuf>, pairs: &mut Vec<KeyPair>) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) => {
            tracing::debug!(dir = %dir.display(), error = %err, "no certificates");
            return;
        }
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => ca.push(path),
            Some("cert") => pairs.push(KeyPair {
                key: path.with_extension("key"),
                cert: path,
            }),
            _ => {}
        }
    }
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), Error> {
    let certificates = certificates(path)?;
    roots.add_parsable_certificates(certificates);
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |source: pem::Error| Error::Certificate {
        path: path.to_owned(),
        source,
    };
    CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<_, _>>()
        .map_err(failed)
}

fn load(pair: &KeyPair) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|source| Error::Certificate {
        path: pair.key.clone(),
        source,
    })?;
    Ok((certificates(&pair.cert)?, key))
}

/// Accepts whatever certificate a server shows. For `insecure` hosts only.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_certificate_directories_are_understood() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["b.crt", "a.crt", "client.cert", "client.key", "notes.txt"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        let (mut ca, mut pairs) = (Vec::new(), Vec::new());
        scan(dir.path(), &mut ca, &mut pairs);
        scan(&dir.path().join("missing"), &mut ca, &mut pairs);
        assert_eq!(ca, [dir.path().join("a.crt"), dir.path().join("b.crt")]);
        let pair = KeyPair {
            key: dir.path().join("client.key"),
            cert: dir.path().join("client.cert"),
        };
        assert_eq!(pairs, [pair]);
    }

    #[test]
    fn a_missing_certificate_is_named() {
        let host = HostConfig {
            ca: vec![PathBuf::from("/nowhere/ca.pem")],
            ..HostConfig::default()
        };
        let err = settings(&host).expect_err("no such file");
        assert_eq!(err.to_string(), "failed to read /nowhere/ca.pem");
    }

    #[test]
    fn an_insecure_host_needs_no_certificates() {
        let host = HostConfig {
            insecure: Some(true),
            ..HostConfig::default()
        };
        assert!(settings(&host).is_ok());
    }
}
