//! Chores of this repository: `cargo xtask <chore>`.

mod ci;
mod codegen;
mod licences;
mod metadata;
mod rings;
mod status;
mod tidy;

use std::path::Path;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies one level below the root");
    match args.as_slice() {
        ["codegen"] => codegen::run(root, false),
        ["codegen", "--check"] => codegen::run(root, true),
        ["tidy"] => tidy::run(root),
        ["test"] => ci::test(root),
        ["ci"] => ci::run(root),
        _ => bail!("usage: cargo xtask codegen [--check] | tidy | test | ci"),
    }
}
