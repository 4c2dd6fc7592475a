//! Buckets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Troubles, content, decode, digest, hash, hex, query};
use crate::web::{Request, Response, Web};

/// When every object was written, as a header says it.
const OLD: &str = "Wed, 21 Oct 2015 07:28:00 GMT";
const NEW: &str = "Thu, 21 Oct 2100 07:28:00 GMT";

#[derive(Default)]
struct State {
    /// By path, decoded; with the time they were written.
    objects: BTreeMap<String, (Vec<u8>, &'static str)>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    count: u32,
}

/// A running server.
pub struct S3 {
    web: Web,
    state: Arc<Mutex<State>>,
    /// What goes wrong.
    pub troubles: Troubles,
}

impl S3 {
    /// Who may ask.
    pub const ID: &str = "test-id";
    /// Their secret.
    pub const SECRET: &str = "test-secret";
    /// Where the server says it is.
    pub const REGION: &str = "eu-test-1";

    /// Starts one. All buckets are there.
    pub fn start() -> Self {
        let (state, troubles) = (Arc::<Mutex<State>>::default(), Troubles::default());
        let shared = state.clone();
        let web = troubles.web(move |request| match check(request) {
            Ok(()) => answer(
                &mut shared.lock().expect("no test panicked in there"),
                request,
            ),
            Err(text) => error(403, "SignatureDoesNotMatch", &text),
        });
        Self {
            web,
            state,
            troubles,
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        self.web.url()
    }

    /// All requests so far: `GET /path`.
    pub fn requests(&self) -> Vec<String> {
        self.web.requests()
    }

    /// An object; its path begins with the bucket.
    pub fn object(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().expect("no test panicked in there");
        state.objects.get(path).map(|(bytes, _)| bytes.clone())
    }

    /// Whether an object was written or touched since [`S3::age`].
    pub fn is_new(&self, path: &str) -> bool {
        let state = self.state.lock().expect("no test panicked in there");
        state
            .objects
            .get(path)
            .is_some_and(|(_, time)| *time == NEW)
    }

    /// Makes all objects old.
    pub fn age(&self) {
        let mut state = self.state.lock().expect("no test panicked in there");
        for (_, time) in state.objects.values_mut() {
            *time = OLD;
        }
    }

    /// The names of all objects.
    pub fn paths(&self) -> Vec<String> {
        let state = self.state.lock().expect("no test panicked in there");
        state.objects.keys().cloned().collect()
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let xml = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let mut response = Response::file(xml).with("Content-Type", "application/xml");
    response.status = status;
    response
}

/// Checks the signature of a request, version 4.
fn check(request: &Request) -> Result<(), String> {
    let header = request.header("authorization");
    let part = |name: &str| {
        let rest = header.split_once(&format!("{name}="))?.1;
        Some(rest.split(',').next().unwrap_or(rest).trim())
    };
    let signed = (part("Credential"), part("SignedHeaders"), part("Signature"));
    let (Some(who), Some(names), Some(signature)) = signed else {
        return Err(format!("no signature in {header:?}"));
    };
    let (id, scope) = who.split_once('/').unwrap_or_default();
    let date = scope.split('/').next().unwrap_or_default();
    if id != S3::ID || scope != format!("{date}/{}/s3/aws4_request", S3::REGION) {
        return Err(format!("unknown {who}"));
    }
    let payload = request.header("x-amz-content-sha256");
    if payload != "UNSIGNED-PAYLOAD" && payload != digest(&request.body) {
        return Err("the body is another".to_owned());
    }
    for needed in ["host", "x-amz-date", "x-amz-content-sha256"] {
        if !names.split(';').any(|name| name == needed) {
            return Err(format!("{needed} is not signed"));
        }
    }
    let lines: String = names
        .split(';')
        .map(|name| format!("{name}:{}\n", request.header(name)))
        .collect();
    let mut parts: Vec<String> = (request.query.split('&'))
        .filter(|part| !part.is_empty())
        .map(|part| match part.contains('=') {
            true => part.to_owned(),
            false => format!("{part}="),
        })
        .collect();
    parts.sort();
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{names}\n{payload}",
        request.method,
        request.path,
        parts.join("&")
    );
    let time = request.header("x-amz-date");
    let canonical = digest(canonical.as_bytes());
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{canonical}");
    let key = format!("AWS4{}", S3::SECRET).into_bytes();
    let key = scope.split('/').fold(key, |key, part| hash(&key, part));
    if hex(&hash(&key, &text)) != signature {
        return Err("the signature is another".to_owned());
    }
    Ok(())
}

fn answer(state: &mut State, request: &Request) -> Response {
    let path = decode(&request.path);
    let upload = query(request, "uploadId");
    match (request.method.as_str(), upload) {
        ("POST", None) => {
            state.count += 1;
            let id = format!("upload/{}", state.count);
            state.uploads.insert(id.clone(), BTreeMap::new());
            Response::file(format!("<R><UploadId>{id}</UploadId></R>"))
        }
        ("PUT", Some(id)) => put_part(state, request, &id),
        ("POST", Some(id)) => match state.uploads.remove(&id) {
            Some(parts) => {
                let bytes = parts.into_values().flatten().collect();
                state.objects.insert(path, (bytes, NEW));
                Response::file("<R><ETag>&quot;whole&quot;</ETag></R>")
            }
            None => error(404, "NoSuchUpload", "there is no such upload"),
        },
        ("DELETE", Some(id)) => {
            state.uploads.remove(&id);
            Response::status(204)
        }
        ("PUT", None) => match source(state, request) {
            Some(Some(bytes)) => {
                state.objects.insert(path, (bytes, NEW));
                Response::file("<R><ETag>&quot;copy&quot;</ETag></R>")
            }
            Some(None) => error(404, "NoSuchKey", "there is nothing to copy"),
            None => {
                state.objects.insert(path, (request.body.clone(), NEW));
                Response::status(200).with("ETag", "\"object\"")
            }
        },
        ("GET" | "HEAD", _) => match state.objects.get(&path) {
            Some((bytes, time)) => content(request, bytes).with("Last-Modified", time),
            None => error(404, "NoSuchKey", "The specified key does not exist."),
        },
        _ => error(405, "MethodNotAllowed", "unknown"),
    }
}

/// What is to be copied, if something is.
fn source(state: &State, request: &Request) -> Option<Option<Vec<u8>>> {
    let source = request.header("x-amz-copy-source");
    if source.is_empty() {
        return None;
    }
    let path = format!("/{}", decode(source.trim_start_matches('/')));
    Some(state.objects.get(&path).map(|(bytes, _)| bytes.clone()))
}

fn put_part(state: &mut State, request: &Request, id: &str) -> Response {
    let copied = source(state, request);
    let bytes = match &copied {
        None => request.body.clone(),
        Some(Some(bytes)) => {
            let range = request.header("x-amz-copy-source-range");
            let range = range
                .strip_prefix("bytes=")
                .and_then(|it| it.split_once('-'));
            let range = range.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let part: Option<(usize, usize)> = range;
            match part.and_then(|(start, end)| bytes.get(start..=end)) {
                Some(bytes) => bytes.to_vec(),
                None => return error(416, "InvalidRange", "there is less"),
            }
        }
        Some(None) => return error(404, "NoSuchKey", "there is nothing to copy"),
    };
    let number = query(request, "partNumber").and_then(|text| text.parse().ok());
    let parts = state.uploads.get_mut(id);
    let (Some(number), Some(parts)) = (number, parts) else {
        return error(404, "NoSuchUpload", "there is no such upload");
    };
    parts.insert(number, bytes);
    let tag = format!("part-{number}");
    match copied {
        None => Response::status(200).with("ETag", &format!("\"{tag}\"")),
        Some(_) => Response::file(format!("<R><ETag>&quot;{tag}&quot;</ETag></R>")),
    }
}
