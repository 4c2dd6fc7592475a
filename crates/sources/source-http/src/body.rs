//! From an answer to a tree with one file.

use std::io::{self, Write};
use std::path::Path;

use cache::RecordOptions;
use flate2::write::MultiGzDecoder;
use futures::StreamExt;
use oci::{Digest, Hasher};
use source::file::{Draft, Options};
use tasks::Cx;
use tokio::sync::mpsc;

use crate::attrs::Attrs;
use crate::client::Answer;
use crate::{Error, Http, Resolved, name};

/// Pieces that may wait for the disk.
const QUEUE: usize = 16;

impl Http {
    /// Keeps what the server sends.
    pub(crate) async fn save(
        &self,
        cx: &Cx,
        attrs: &Attrs,
        answer: Answer,
    ) -> Result<Resolved, Error> {
        let description = format!("http url {}", attrs.shown_url());
        let options = RecordOptions {
            description: description.clone(),
            ..RecordOptions::default()
        };
        let tree = self.0.cache.new_mutable(cx, None, options).await?;
        let dir = tree.layer_directory()?;
        let (filename, modified) = (name::of(attrs, answer.headers()), answer.modified());
        let (tag, gzip) = (answer.own_tag(), answer.is_gzip());
        let mut body = answer.into_body();
        let (sender, mut queue) = mpsc::channel::<bytes::Bytes>(QUEUE);
        let (name, file) = (filename.clone(), attrs.file.clone());
        let write = tasks::blocking(move || {
            let mut target = Target::new(&dir, &name, &file, gzip).map_err(Error::Open)?;
            let written = || {
                while let Some(piece) = queue.blocking_recv() {
                    target.write_all(&piece)?;
                }
                target.finish(modified.unwrap_or(0))
            };
            written().map_err(|source| Error::File {
                what: "write",
                source,
            })
        });
        let read = async move {
            while let Some(piece) = body.next().await {
                if sender.send(piece?).await.is_err() {
                    break;
                }
            }
            Ok::<_, Error>(())
        };
        // The tree outlives the writer: both are waited for, whatever happens.
        let (read, written) = futures::future::join(read, write).await;
        read?;
        let digest = written?;
        let resolved = Resolved {
            digest,
            filename,
            modified,
            tree: tree.commit(cx, &description).await?,
        };
        if let Some(tag) = tag {
            self.remember(&attrs.url_key(), &tag, &resolved);
        }
        Ok(resolved)
    }
}

/// A file, hashed while it is written.
struct Hashed {
    draft: Draft,
    hasher: Hasher,
}

impl Write for Hashed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.draft.write(buf)?;
        self.hasher.update(&buf[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Target {
    Plain(Hashed),
    Gzip(Box<MultiGzDecoder<Hashed>>),
}

impl Target {
    fn new(dir: &Path, name: &str, options: &Options, gzip: bool) -> io::Result<Self> {
        let file = Hashed {
            draft: Draft::new(dir, name, options)?,
            hasher: Hasher::new(),
        };
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(file)))
        } else {
            Self::Plain(file)
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(file) => file.write_all(bytes),
        }
    }

    fn finish(self, modified: i64) -> io::Result<Digest> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gzip(file) => file.finish()?,
        };
        file.draft.finish(modified)?;
        Ok(file.hasher.finish())
    }
}
