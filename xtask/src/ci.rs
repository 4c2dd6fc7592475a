//! All checks in one go, and the three test rings.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

fn cargo(root: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    println!("==> cargo {}", args.join(" "));
    let start = Instant::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(args)
        .envs(env.iter().copied())
        .current_dir(root)
        .status()
        .context("failed to run cargo")?;
    if !status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    println!("==> {} s", start.elapsed().as_secs());
    Ok(())
}

/// Runs the tests of all rings: plain and system beside the code, end to end against the binaries.
pub(crate) fn test(root: &Path) -> Result<()> {
    cargo(
        root,
        &[
            "build",
            "--locked",
            "--release",
            "--bin",
            "buildkitd",
            "--bin",
            "buildctl",
            "--bin",
            "toolbox",
        ],
        &[],
    )?;
    let bin = root.join("target/release");
    let bin = bin.to_string_lossy();
    crate::rings::run(
        root,
        &[
            ("KILN_BIN", &bin),
            ("INSTA_UPDATE", "no"),
            ("FUZZ_SECONDS", "60"),
        ],
    )
}

/// Everything CI checks.
pub(crate) fn run(root: &Path) -> Result<()> {
    cargo(root, &["fmt", "--all", "--check"], &[])?;
    crate::codegen::run(root, true)?;
    crate::tidy::run(root)?;
    cargo(
        root,
        &[
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    )?;
    cargo(
        root,
        &["doc", "--locked", "--workspace", "--no-deps", "--quiet"],
        &[(
            "RUSTDOCFLAGS",
            "-D warnings -A rustdoc::private_intra_doc_links",
        )],
    )?;
    test(root)
}
