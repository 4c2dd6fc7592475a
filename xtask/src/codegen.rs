//! Makes `crates/model/proto/src/gen` from the `.proto` files beside it. Nothing is generated while building.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use prost::Message;

/// Generates the code, or with `check` only compares it with what is checked in.
pub fn run(root: &Path, check: bool) -> Result<()> {
    let proto_dir = root.join("crates/model/proto/proto");
    let gen_dir = root.join("crates/model/proto/src/gen");
    let fresh = generate(&proto_dir)?;
    let old = read_all(&gen_dir)?;
    if check {
        let stale: Vec<_> = fresh
            .keys()
            .chain(old.keys())
            .filter(|name| fresh.get(*name) != old.get(*name))
            .collect();
        if !stale.is_empty() {
            bail!("generated code is stale, run `cargo xtask codegen`: {stale:?}");
        }
        return Ok(());
    }
    fs::create_dir_all(&gen_dir)?;
    for name in old.keys().filter(|name| !fresh.contains_key(*name)) {
        fs::remove_file(gen_dir.join(name))?;
    }
    for (name, text) in &fresh {
        if old.get(name) != Some(text) {
            fs::write(gen_dir.join(name), text)?;
        }
    }
    Ok(())
}

fn generate(proto_dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files: Vec<PathBuf> = fs::read_dir(proto_dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|ext| ext == "proto"));
    files.sort();
    let mut set = protox::compile(&files, [proto_dir]).context("compiling the .proto files")?;

    let out = std::env::temp_dir().join(format!("codegen-{}", std::process::id()));
    fs::create_dir_all(&out)?;
    let mut config = tonic_prost_build::Config::new();
    config
        .bytes(["."])
        .btree_map(["."])
        .enable_type_names()
        .extern_path(".pb.OpMetadata", "crate::metadata::OpMetadata")
        .extern_path(".pb.Definition", "crate::definition::Definition")
        .extern_path(".pb.Source", "crate::definition::Source")
        .extern_path(".pb.Locations", "crate::definition::Locations")
        .extern_path(".pb.Location", "crate::definition::Location")
        .include_file("tree.rs");
    tonic_prost_build::configure()
        .out_dir(&out)
        .build_transport(true)
        .emit_rerun_if_changed(false)
        .compile_fds_with_config(set.clone(), config)?;
    let mut made = read_all(&out)?;
    fs::remove_dir_all(&out)?;
    for text in made.values_mut() {
        // prost splits `inputIDs` before the last two capitals.
        *text = String::from_utf8(std::mem::take(text))?
            .replace("_i_ds", "_ids")
            .into_bytes();
    }

    // Only names, numbers and types are needed at run time.
    for file in &mut set.file {
        file.source_code_info = None;
    }
    made.insert("descriptors.bin".to_owned(), set.encode_to_vec());
    Ok(made)
}

fn read_all(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if !dir.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, fs::read(entry.path())?);
    }
    Ok(files)
}
