//! `oci` and `docker`: an archive for the client, or its directory.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use async_trait::async_trait;
use content::Store;
use diagnostics::Failure;
use export::{Error, Exported, Input, Instance, Work};
use fault::Classify;
use filesync::push;
use oci::{Reference, Timestamp};
use session::Session;

use crate::Kind;
use crate::archive::{self, Archive, Reachable};
use crate::commit::Committer;
use crate::directory;
use crate::image::{name, with_metadata};
use crate::options::{ArchiveOptions, CommitOptions};

const CREATED: &str = "org.opencontainers.image.created";

pub(crate) struct Layout {
    pub content: Store,
    pub options: ArchiveOptions,
    pub commit: CommitOptions,
    pub kind: Kind,
}

#[async_trait]
impl Instance for Layout {
    fn name(&self) -> String {
        match self.kind {
            Kind::Docker => "exporting to docker image format".to_owned(),
            Kind::Oci | Kind::Image => "exporting to oci image format".to_owned(),
        }
    }

    fn layers(&self, input: &Input) -> Option<layer::Options> {
        self.commit.shared_layers(self.commit.uses_oci_types(input))
    }

    async fn export(&self, work: &Work, input: &Input) -> Result<Exported, Error> {
        if self.kind == Kind::Docker && input.is_map() {
            return Err(Error::user(
                "docker exporter does not currently support exporting manifest lists",
            ));
        }
        let (input, options) = with_metadata(input, &self.commit, &self.options.metadata)?;
        let mut committed = Committer {
            work,
            store: &self.content,
            options: &options,
        }
        .commit(&input)
        .await?;
        let created = committed
            .epoch
            .unwrap_or_else(|| Timestamp::from(SystemTime::now()))
            .truncated();
        let annotations = &mut committed.root.annotations;
        annotations
            .entry(CREATED.to_owned())
            .or_insert_with(|| created.to_string());
        let mut response = committed.response()?;
        let names = names(&name(&options, &input))?;
        if !names.is_empty() {
            let all: Vec<String> = names.iter().map(Reference::to_string).collect();
            response.insert("image.name".to_owned(), all.join(","));
        }
        let session = work.client().await?;
        committed.fetch(work, &self.content).await?;
        if self.options.tar {
            let archive = Archive {
                root: committed.root.clone(),
                names,
                docker: self.kind == Kind::Docker,
            };
            self.send_archive(work, &session, archive, &response)
                .await?;
        } else {
            let (root, store) = (committed.root.clone(), self.content.clone());
            let reachable = tasks::blocking(move || Reachable::from(&root, &store)).await;
            let blobs = reachable.map_err(|err| Error::new(&err))?;
            directory::send(work, &self.content, blobs).await?;
        }
        Ok(Exported {
            response,
            descriptor: Some(committed.root),
            finalize: None,
        })
    }
}

impl Layout {
    async fn send_archive(
        &self,
        work: &Work,
        session: &Session,
        archive: Archive,
        facts: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let upload = push::file(&work.cx, session, work.index, facts).map_err(failed)?;
        let _status = work.progress.status("sending tarball", "");
        let (cx, store, mut out) = (work.cx.clone(), self.content.clone(), upload.writer());
        let written = tasks::blocking(move || {
            let members = archive.members(&store)?;
            archive::write(&cx, &members, &store, &mut out)?;
            out.flush().map_err(archive::Error::Send)
        })
        .await;
        match written {
            // When the client wants no more, the call knows why. It may have the image already, which is fine.
            Ok(()) | Err(archive::Error::Send(_)) => {
                upload.finish().await.map(drop).map_err(failed)
            }
            Err(err) => Err(Error::new(&err)),
        }
    }
}

fn failed(err: filesync::Error) -> Error {
    let failure = Failure::from(err);
    Error {
        message: failure.text().to_owned(),
        class: failure.class(),
    }
}

/// The names in full.
fn names(list: &str) -> Result<Vec<Reference>, Error> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    list.split(',')
        .map(|name| match Reference::parse(name) {
            Ok(reference) => Ok(reference.with_default_tag()),
            Err(err) => Err(Error::user(format!("failed to parse {name}: {err}"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_in_full() {
        let full = names("foo,ex.com/m:1").expect("names");
        let full: Vec<String> = full.iter().map(Reference::to_string).collect();
        assert_eq!(full, ["docker.io/library/foo:latest", "ex.com/m:1"]);
        assert!(names("").expect("none").is_empty());
        assert_eq!(
            names("Foo").expect_err("refused").message,
            "failed to parse Foo: invalid reference format: repository name (library/Foo) must be lowercase"
        );
    }
}
