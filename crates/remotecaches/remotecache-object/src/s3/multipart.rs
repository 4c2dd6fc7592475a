//! Objects that are too large for one request.

use futures::{StreamExt as _, TryStreamExt as _};
use oci::Digest;
use remotecache::Error;
use reqwest::{Method, Response};
use std::io::{Read as _, Seek as _, SeekFrom};
use tasks::Cx;

use super::{Ask, Bucket};
use crate::http::{self, Body, accepted, tagged};

/// Parts under way at a time.
const AT_ONCE: usize = 4;
/// An object has no more parts than that.
const MOST: u64 = 10_000;

/// What a part is made of.
enum Part {
    Sent(Body),
    Copied { source: String, range: String },
}

impl Bucket {
    /// Sends an object in parts.
    pub(super) async fn send_in_parts(
        &self,
        cx: &Cx,
        key: &str,
        body: &Body,
        what: &str,
    ) -> Result<(), Error> {
        let size = self.part.max(body.size().div_ceil(MOST));
        let pieces = body.pieces(size).into_iter();
        let parts = pieces.map(|(_, piece)| Part::Sent(piece)).collect();
        self.in_parts(cx, key, parts, what).await
    }

    /// Copies an object onto itself in parts.
    pub(super) async fn copy_in_parts(
        &self,
        cx: &Cx,
        key: &str,
        source: &str,
        size: u64,
        what: &str,
    ) -> Result<(), Error> {
        let starts = (0..size.div_ceil(self.copy_limit)).map(|index| index * self.copy_limit);
        let parts = starts.map(|start| {
            let end = (start + self.copy_limit).min(size) - 1;
            Part::Copied {
                source: source.to_owned(),
                range: format!("bytes={start}-{end}"),
            }
        });
        self.in_parts(cx, key, parts.collect(), what).await
    }

    async fn in_parts(
        &self,
        cx: &Cx,
        key: &str,
        parts: Vec<Part>,
        what: &str,
    ) -> Result<(), Error> {
        let mut ask = Ask::new(Method::POST, key);
        ask.query = "uploads=".to_owned();
        let begun = self.ask(cx, &ask).await?;
        let upload = field(accepted(what, begun).await?, "UploadId", what).await?;
        let upload = http::encode(&upload, "%2F");
        let done = self.fill(cx, key, &upload, parts, what).await;
        if done.is_err() {
            // Parts that are never made an object would be paid for.
            let mut ask = Ask::new(Method::DELETE, key);
            ask.query = format!("uploadId={upload}");
            if let Err(err) = self.once(cx, &ask).await {
                tracing::debug!(error = %fault::chain(&err), "upload not given up");
            }
        }
        done
    }

    async fn fill(
        &self,
        cx: &Cx,
        key: &str,
        upload: &str,
        parts: Vec<Part>,
        what: &str,
    ) -> Result<(), Error> {
        let tags: Vec<String> = futures::stream::iter(parts.into_iter().enumerate())
            .map(|(index, part)| self.part(cx, key, upload, index + 1, part, what))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let list: String = (tags.iter().enumerate())
            .map(|(index, tag)| {
                let number = index + 1;
                let tag = tag.replace('"', "&quot;");
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>")
            })
            .collect();
        let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        let mut ask = Ask::new(Method::POST, key);
        ask.query = format!("uploadId={upload}");
        ask.digest = Digest::of(&list);
        ask.body = Body::Bytes(list.into());
        let answer = self.ask(cx, &ask).await?;
        // The status was sent before it was known how this ends.
        field(accepted(what, answer).await?, "ETag", what)
            .await
            .map(drop)
    }

    /// One part; what it is called afterwards.
    async fn part(
        &self,
        cx: &Cx,
        key: &str,
        upload: &str,
        number: usize,
        part: Part,
        what: &str,
    ) -> Result<String, Error> {
        let mut ask = Ask::new(Method::PUT, key);
        ask.query = format!("partNumber={number}&uploadId={upload}");
        let copied = matches!(part, Part::Copied { .. });
        match part {
            Part::Copied { source, range } => {
                ask.headers = vec![
                    ("x-amz-copy-source", source),
                    ("x-amz-copy-source-range", range),
                ];
            }
            Part::Sent(body) => {
                ask.digest = digest(&body).await?;
                ask.body = body;
            }
        }
        let answer = accepted(what, self.ask(cx, &ask).await?).await?;
        if copied {
            return field(answer, "ETag", what).await;
        }
        let tag = answer.headers().get("etag");
        let tag = tag.and_then(|tag| Some(tag.to_str().ok()?.to_owned()));
        tag.ok_or_else(|| nonsense(what, "a part without ETag"))
    }
}

/// What an answer has in an element.
async fn field(answer: Response, name: &str, what: &str) -> Result<String, Error> {
    let bytes = http::read(what, answer).await?;
    let text = String::from_utf8_lossy(&bytes);
    tagged(&text, name).ok_or_else(|| {
        let said = tagged(&text, "Message").unwrap_or_else(|| format!("no {name} in the answer"));
        nonsense(what, &said)
    })
}

fn nonsense(what: &str, said: &str) -> Error {
    Error::Place {
        text: format!("{what}: {said}"),
        class: fault::Class::Unavailable,
    }
}

/// The digest of a piece of a blob.
async fn digest(body: &Body) -> Result<Digest, Error> {
    let Body::Blob {
        store,
        digest,
        offset,
        size,
    } = body.clone()
    else {
        return Ok(match body {
            Body::Bytes(bytes) => Digest::of(bytes),
            _ => Digest::of(""),
        });
    };
    let read = move || {
        let mut file = store.open_blob(&digest)?;
        let mut hasher = oci::Hasher::default();
        let mut buffer = vec![0; 256 << 10];
        let mut hash = || {
            file.seek(SeekFrom::Start(offset))?;
            let mut file = (&mut file).take(size);
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => hasher.update(&buffer[..count]),
                }
            }
        };
        hash().map_err(|source| content::Error::Read { digest, source })?;
        Ok::<_, Error>(hasher.finish())
    };
    tasks::blocking(read).await
}
