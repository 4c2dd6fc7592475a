//! Azure's store of blobs, as far as caches need it: who may ask, and blobs sent whole or in blocks.

mod shared_key;
mod tokens;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt as _, TryStreamExt as _};
use remotecache::Error;
use reqwest::{Method, Response};
use std::time::SystemTime;
use tasks::Cx;
use url::Url;

use crate::http::{self, Body, Patience, accepted, patiently};

pub(crate) use shared_key::SharedKey;
pub(crate) use tokens::Tokens;

/// The protocol spoken.
const VERSION: &str = "2021-12-02";
/// Larger blobs are sent in blocks.
const BLOCK: u64 = 32 << 20;
/// A blob has no more blocks than that.
const MOST: u64 = 50_000;
/// Blocks under way at a time.
const AT_ONCE: usize = 4;

/// Why a request may be made.
pub(crate) enum Access {
    /// Its address says so.
    Address,
    /// It is signed with the key of the account.
    SharedKey(SharedKey),
    /// Somebody who may has logged in.
    Tokens(Tokens),
}

/// A request.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a Url,
    /// Their names in lower case.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, url: &'a Url) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            body: Body::Nothing,
        }
    }
}

/// How blobs are asked for and sent.
pub(crate) struct Azure {
    pub(crate) http: reqwest::Client,
    pub(crate) access: Access,
    pub(crate) patience: Patience,
    /// Larger blobs are sent in blocks of that size.
    pub(crate) block: u64,
}

impl Azure {
    pub(crate) fn new(http: reqwest::Client, access: Access, patience: Patience) -> Self {
        Self {
            http,
            access,
            patience,
            block: BLOCK,
        }
    }

    /// Asks, and asks again where that may help.
    pub(crate) async fn ask(&self, cx: &Cx, ask: &Ask<'_>) -> Result<Response, Error> {
        patiently(cx, self.patience, || self.once(cx, ask)).await
    }

    async fn once(&self, cx: &Cx, ask: &Ask<'_>) -> Result<Response, Error> {
        let mut headers = ask.headers.clone();
        headers.push(("x-ms-date", date()));
        headers.push(("x-ms-version", VERSION.to_owned()));
        if ask.method == Method::PUT {
            headers.push(("content-length", ask.body.size().to_string()));
        }
        match &self.access {
            Access::Address => {}
            Access::SharedKey(key) => {
                let signature = key.sign(ask.method.as_str(), ask.url, &headers);
                headers.push(("authorization", signature));
            }
            Access::Tokens(tokens) => {
                let token = tokens.token(cx, &self.http).await?;
                headers.push(("authorization", format!("Bearer {token}")));
            }
        }
        let mut request = self.http.request(ask.method.clone(), ask.url.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if ask.method == Method::PUT {
            request = request.body(ask.body.open().await?);
        }
        let what = format!("{} {}", ask.method, place(ask.url));
        http::send(request, &ask.body, &what).await
    }

    /// Sends a blob. One that is there already is left alone with `only_new`.
    pub(crate) async fn upload(
        &self,
        cx: &Cx,
        url: &Url,
        body: &Body,
        only_new: bool,
        what: &str,
    ) -> Result<(), Error> {
        let size = self.block.max(body.size().div_ceil(MOST));
        let (url, kind, body) = if body.size() <= size {
            let kind = Some(("x-ms-blob-type", "BlockBlob".to_owned()));
            (url.clone(), kind, body.clone())
        } else {
            let names = self.blocks(cx, url, body.pieces(size), size, what).await?;
            let list: String = names
                .iter()
                .map(|name| format!("<Latest>{name}</Latest>"))
                .collect();
            let xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?>";
            let list = format!("{xml}<BlockList>{list}</BlockList>");
            let url = with_query(url, &[("comp", "blocklist")]);
            (url, None, Body::Bytes(list.into()))
        };
        let mut ask = Ask::new(Method::PUT, &url);
        ask.body = body;
        ask.headers.extend(kind);
        if only_new {
            ask.headers.push(("if-none-match", "*".to_owned()));
        }
        let answer = self.ask(cx, &ask).await?;
        if only_new && matches!(answer.status().as_u16(), 409 | 412) {
            return Ok(());
        }
        accepted(what, answer).await.map(drop)
    }

    /// Sends the blocks of a blob; their names.
    async fn blocks(
        &self,
        cx: &Cx,
        url: &Url,
        pieces: Vec<(u64, Body)>,
        size: u64,
        what: &str,
    ) -> Result<Vec<String>, Error> {
        let send = async |(start, body): (u64, Body)| {
            // Whoever sends the same blob at the same time sends the same bytes under this name.
            let name = STANDARD.encode(format!("{size:016x}{start:016x}"));
            let url = with_query(url, &[("blockid", &name), ("comp", "block")]);
            let mut ask = Ask::new(Method::PUT, &url);
            ask.body = body;
            accepted(what, self.ask(cx, &ask).await?).await?;
            Ok(name)
        };
        futures::stream::iter(pieces)
            .map(send)
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }
}

/// The address with further parts in its query.
pub(crate) fn with_query(url: &Url, parts: &[(&str, &str)]) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().extend_pairs(parts);
    url
}

/// An address without what gives rights.
fn place(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}
