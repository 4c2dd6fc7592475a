//! Results as files: into a directory of the client (`local`), or as one tar archive (`tar`).
//!
//! What is in the tree, and in which order it goes out, is the same for both; see [`listing`]. How it travels is the
//! business of `filesync`.

mod attest;
mod listing;
mod local;
mod options;
mod tarball;

use std::collections::BTreeMap;
use std::sync::Arc;

use diagnostics::Failure;
use export::{Error, Exporter, Instance};
use fault::Classify;

use local::Local;
use options::Options;
use tarball::Tarball;

/// The exporters `local` and `tar`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FilesExporter;

impl Exporter for FilesExporter {
    fn kinds(&self) -> &'static [&'static str] {
        &["local", "tar"]
    }

    fn resolve(
        &self,
        kind: &str,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Arc<dyn Instance>, Error> {
        let options = Options::parse(attrs)?;
        Ok(match kind {
            "tar" => Arc::new(Tarball { options }),
            _ => Arc::new(Local { options }),
        })
    }
}

/// Compat: the text of a failed transfer is what the client said, without a prefix of ours.
fn failed(err: filesync::Error) -> Error {
    let failure = Failure::from(err);
    Error {
        message: failure.text().to_owned(),
        class: failure.class(),
    }
}
