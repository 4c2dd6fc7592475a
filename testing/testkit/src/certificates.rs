//! Certificates for tests, made by `openssl`.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// An authority `ca.pem`, and `server.pem` and `client.pem` with certificates of it for `names`, such as
/// `IP:127.0.0.1`. The keys are in `server-key.pem` and so on. Ask with `require!(openssl)` first.
pub fn certificates(names: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let extensions = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
    std::fs::write(dir.path().join("extensions"), extensions).expect("written");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let authority = format!("req -x509 {key} -days 2 -subj /CN=ca -keyout ca-key.pem -out ca.pem");
    openssl(dir.path(), &authority);
    for name in ["server", "client"] {
        let request = format!("req {key} -subj /CN={name} -keyout {name}-key.pem -out {name}.csr");
        openssl(dir.path(), &request);
        let sign = format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile extensions \
             -out {name}.pem"
        );
        openssl(dir.path(), &sign);
    }
    dir
}

fn openssl(dir: &Path, args: &str) {
    let done = Command::new("openssl")
        .current_dir(dir)
        .args(args.split(' '))
        .output()
        .expect("openssl runs");
    assert!(done.status.success(), "{done:?}");
}
