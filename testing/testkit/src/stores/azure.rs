//! Containers of Azure's store of blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Troubles, content, decode, hash, query};
use crate::web::{Request, Response, Web};

/// Blobs without regard to who asks.
#[derive(Default)]
pub(super) struct Blobs {
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    /// By path and name.
    blocks: BTreeMap<(String, String), Vec<u8>>,
}

impl Blobs {
    /// Writes or reads the blob of that path.
    pub(super) fn answer(&mut self, request: &Request) -> Response {
        let path = decode(&request.path);
        let answer = match (request.method.as_str(), query(request, "comp").as_deref()) {
            ("PUT", Some("block")) => {
                let name = query(request, "blockid").unwrap_or_default();
                self.blocks.insert((path, name), request.body.clone());
                Response::status(201)
            }
            ("PUT", comp) => {
                if request.header("if-none-match") == "*" && self.blobs.contains_key(&path) {
                    return error(409, "BlobAlreadyExists");
                }
                let bytes = match comp {
                    Some(_) => self.listed(&path, &String::from_utf8_lossy(&request.body)),
                    None if request.header("x-ms-blob-type") == "BlockBlob" => {
                        Some(request.body.clone())
                    }
                    None => None,
                };
                let Some(bytes) = bytes else {
                    return error(400, "InvalidBlockList");
                };
                self.blobs.insert(path, bytes);
                Response::status(201)
            }
            ("GET" | "HEAD", _) => match self.blobs.get(&path) {
                Some(bytes) => content(request, bytes),
                None => error(404, "BlobNotFound"),
            },
            _ => error(405, "UnsupportedHttpVerb"),
        };
        answer.with("x-ms-request-id", "1").with("ETag", "\"1\"")
    }

    fn listed(&self, path: &str, list: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for part in list.split("<Latest>").skip(1) {
            let name = part.split("</Latest>").next()?.to_owned();
            bytes.extend(self.blocks.get(&(path.to_owned(), name))?);
        }
        Some(bytes)
    }
}

fn error(status: u16, code: &str) -> Response {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>told so</Message></Error>"
    );
    let mut response = Response::file(xml).with("Content-Type", "application/xml");
    response.status = status;
    response.with("x-ms-error-code", code)
}

#[derive(Default)]
struct State {
    containers: BTreeSet<String>,
    blobs: Blobs,
}

/// A running server.
pub struct Azure {
    web: Web,
    state: Arc<Mutex<State>>,
    /// What goes wrong.
    pub troubles: Troubles,
}

impl Azure {
    /// The only account.
    pub const ACCOUNT: &str = "testaccount";
    /// Its key.
    pub const KEY: &str = "dGhlIGtleSBvZiB0aGUgYWNjb3VudA==";

    /// Starts one that has no container.
    pub fn start() -> Self {
        let (state, troubles) = (Arc::<Mutex<State>>::default(), Troubles::default());
        let shared = state.clone();
        let web = troubles.web(move |request| {
            if request.header("authorization") != expected(request) {
                return error(403, "AuthenticationFailed");
            }
            answer(
                &mut shared.lock().expect("no test panicked in there"),
                request,
            )
        });
        Self {
            web,
            state,
            troubles,
        }
    }

    /// The address of the account.
    pub fn url(&self) -> String {
        format!("{}/{}", self.web.url(), Self::ACCOUNT)
    }

    /// All requests so far: `GET /path`.
    pub fn requests(&self) -> Vec<String> {
        self.web.requests()
    }

    /// A blob: `container/name`.
    pub fn blob(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().expect("no test panicked in there");
        let path = format!("/{}/{name}", Self::ACCOUNT);
        state.blobs.blobs.get(&path).cloned()
    }

    /// The names of all blobs.
    pub fn names(&self) -> Vec<String> {
        let state = self.state.lock().expect("no test panicked in there");
        let account = format!("/{}/", Self::ACCOUNT);
        let names = state.blobs.blobs.keys();
        names.map(|path| path.replacen(&account, "", 1)).collect()
    }
}

fn answer(state: &mut State, request: &Request) -> Response {
    let path = decode(&request.path);
    let container = path.split('/').nth(2).unwrap_or_default().to_owned();
    if query(request, "restype").as_deref() == Some("container") {
        return match request.method.as_str() {
            "PUT" if state.containers.insert(container.clone()) => Response::status(201),
            "PUT" => error(409, "ContainerAlreadyExists"),
            _ if state.containers.contains(&container) => Response::status(200),
            _ => error(404, "ContainerNotFound"),
        };
    }
    if !state.containers.contains(&container) {
        return error(404, "ContainerNotFound");
    }
    state.blobs.answer(request)
}

/// The signature that the request should have.
fn expected(request: &Request) -> String {
    let header = |name: &str| match (name, request.header(name)) {
        ("content-length", "0") => String::new(),
        (_, value) => value.to_owned(),
    };
    let plain = [
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ];
    let mut lines = vec![request.method.clone()];
    lines.extend(plain.map(header));
    let own = request.headers.iter();
    let own = own.filter(|(name, _)| name.starts_with("x-ms-"));
    lines.extend(own.map(|(name, value)| format!("{name}:{value}")));
    lines.push(format!("/{}{}", Azure::ACCOUNT, request.path));
    let mut parts: Vec<String> = (request.query.split('&'))
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| format!("{}:{}", name.to_lowercase(), decode(value)))
        .collect();
    parts.sort();
    lines.extend(parts);
    let key = STANDARD.decode(Azure::KEY).expect("the key is base64");
    let signature = STANDARD.encode(hash(&key, &lines.join("\n")));
    format!("SharedKey {}:{signature}", Azure::ACCOUNT)
}
