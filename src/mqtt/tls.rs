//! The TLS side of a connection: which authorities are trusted and who the client is.

use super::config::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// Reads the files and builds the configuration. An error names the file.
pub fn client_config(tls: &Tls) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_root_certificates(roots(tls.ca.as_deref())?);
    let config = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|e| format!("client certificate {} with key {}: {e}", cert.display(), key.display()))?,
        (None, None) => builder.with_no_client_auth(),
        _ => return Err("a client certificate needs both `cert` and `key`".into()),
    };
    Ok(Arc::new(config))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        return if added > 0 {
            Ok(roots)
        } else {
            Err("the system has no trusted certificates: install ca-certificates or give `ca`".into())
        };
    };
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| format!("CA file {}: {e}", path.display()))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |e: String| format!("certificate file {}: {e}", path.display());
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|e| wrong(e.to_string()))?;
    if found.is_empty() { Err(wrong("expected a PEM CERTIFICATE, found none".into())) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let wrong = |e: String| format!("key file {}: {e}", path.display());
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| wrong(format!("expected a PEM private key: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files {
        _dir: tempfile::TempDir,
        cert: std::path::PathBuf,
        key: std::path::PathBuf,
        junk: std::path::PathBuf,
    }

    fn files() -> Files {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let cert = write("cert.pem", &made.cert.pem());
        let key = write("key.pem", &made.signing_key.serialize_pem());
        let junk = write("junk.pem", "not a certificate");
        Files { _dir: dir, cert, key, junk }
    }

    #[test]
    fn good_files_make_a_configuration() {
        let f = files();
        let tls = Tls { ca: Some(f.cert.clone()), cert: Some(f.cert.clone()), key: Some(f.key.clone()) };
        assert!(client_config(&tls).is_ok());
        assert!(client_config(&Tls { ca: Some(f.cert.clone()), ..Tls::default() }).is_ok());
    }

    #[test]
    fn errors_name_the_file() {
        let f = files();
        let missing = f.junk.with_file_name("missing.pem");
        let cases = [
            (Tls { ca: Some(missing.clone()), ..Tls::default() }, "missing.pem"),
            (Tls { ca: Some(f.junk.clone()), ..Tls::default() }, "junk.pem"),
            (Tls { ca: Some(f.cert.clone()), cert: Some(f.cert.clone()), key: Some(f.junk.clone()) }, "junk.pem"),
            (Tls { ca: Some(f.cert.clone()), cert: Some(f.junk.clone()), key: Some(f.key.clone()) }, "junk.pem"),
            (Tls { ca: Some(f.cert.clone()), cert: Some(f.cert.clone()), key: None }, "`key`"),
        ];
        for (tls, name) in cases {
            let error = client_config(&tls).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
