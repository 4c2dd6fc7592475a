//! The cache service of GitHub's actions, in both of its protocols, with the list of its REST interface.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::azure::Blobs;
use super::{Troubles, content, query};
use crate::web::{Request, Response, Web};

struct Entry {
    key: String,
    version: String,
    chunks: BTreeMap<u64, Vec<u8>>,
    size: Option<u64>,
}

#[derive(Default)]
struct State {
    /// By their numbers; 0 is none.
    entries: Vec<Entry>,
    blobs: Blobs,
    /// Addresses of an earlier one are no longer good.
    generation: u32,
}

/// A running server.
pub struct Actions {
    web: Web,
    state: Arc<Mutex<State>>,
    /// What goes wrong.
    pub troubles: Troubles,
}

impl Actions {
    /// The branch that tokens are for.
    pub const SCOPE: &str = "refs/heads/main";

    /// Starts one without entries.
    pub fn start() -> Self {
        let (state, troubles) = (Arc::<Mutex<State>>::default(), Troubles::default());
        let shared = state.clone();
        let web = troubles.web(move |request| {
            let mut state = shared.lock().expect("no test panicked in there");
            state.answer(request)
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

    /// A token that may write, and is good for a long time.
    pub fn token() -> String {
        Self::token_until(99_999_999_999)
    }

    /// A token that is good until so many seconds after 1970.
    pub fn token_until(seconds: u64) -> String {
        let scopes = json!([{"Scope": Self::SCOPE, "Permission": 3}]);
        let claims = json!({"ac": scopes.to_string(), "nbf": 1, "exp": seconds});
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let head = json!({"alg": "HS256", "typ": "JWT"});
        format!(
            "{}.{}.c2ln",
            part(head.to_string()),
            part(claims.to_string())
        )
    }

    /// The keys of all entries that were committed.
    pub fn keys(&self) -> Vec<String> {
        let state = self.state.lock().expect("no test panicked in there");
        let done = state.entries.iter().filter(|entry| entry.size.is_some());
        done.map(|entry| entry.key.clone()).collect()
    }

    /// Takes a name and never fills the entry.
    pub fn reserve(&self, key: &str, version: &str) {
        let mut state = self.state.lock().expect("no test panicked in there");
        state.entries.push(Entry {
            key: key.to_owned(),
            version: version.to_owned(),
            chunks: BTreeMap::new(),
            size: None,
        });
    }

    /// Throws away all entries whose keys begin so.
    pub fn evict(&self, prefix: &str) {
        let mut state = self.state.lock().expect("no test panicked in there");
        for entry in &mut state.entries {
            if entry.key.starts_with(prefix) {
                entry.key.insert_str(0, "evicted ");
            }
        }
    }

    /// All addresses given out so far are no longer good.
    pub fn expire(&self) {
        let mut state = self.state.lock().expect("no test panicked in there");
        state.generation += 1;
    }
}

fn say(status: u16, value: &Value) -> Response {
    let mut response = Response::file(value.to_string()).with("Content-Type", "application/json");
    response.status = status;
    response
}

impl State {
    fn answer(&mut self, request: &Request) -> Response {
        let twirp = "/twirp/github.actions.results.api.v1.CacheService/";
        if request.path.starts_with("/blobs/") {
            // The address is all the right one needs, as long as it is good.
            let sig = query(request, "sig").and_then(|sig| sig.parse().ok());
            if sig != Some(self.generation) {
                return Response::status(403).with("x-ms-error-code", "AuthenticationFailed");
            }
            return self.blobs.answer(request);
        }
        if let Some(number) = request.path.strip_prefix("/archives/") {
            let entry = number
                .parse()
                .ok()
                .and_then(|at: usize| self.entries.get(at));
            return entry.map_or(Response::status(404), |entry| {
                let bytes: Vec<u8> = entry.chunks.values().flatten().copied().collect();
                content(request, &bytes)
            });
        }
        let token = format!("Bearer {}", Actions::token());
        if request.path.starts_with("/repos/") {
            return self.list(request);
        }
        if request.header("authorization") != token {
            return say(401, &json!({"code": "unauthenticated", "msg": "bad token"}));
        }
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        if let Some(name) = request.path.strip_prefix(twirp) {
            return self.twirp(name, request, &body);
        }
        match request.path.strip_prefix("/_apis/artifactcache/") {
            Some(path) => self.rest(path, request, &body),
            None => Response::status(404),
        }
    }

    fn find(&self, key: &str, version: &str) -> Option<usize> {
        let fits = |entry: &Entry| {
            entry.size.is_some() && entry.version == version && entry.key.starts_with(key)
        };
        let exact = |entry: &Entry| fits(entry) && entry.key == key;
        let exact = self.entries.iter().rposition(exact);
        exact.or_else(|| self.entries.iter().rposition(fits))
    }

    /// A new entry's number, unless the name is taken.
    fn reserve(&mut self, body: &Value) -> Option<usize> {
        let (key, version) = (text(body, "key"), text(body, "version"));
        let taken = self
            .entries
            .iter()
            .any(|entry| entry.key == key && entry.version == version);
        if taken {
            return None;
        }
        self.entries.push(Entry {
            key,
            version,
            chunks: BTreeMap::new(),
            size: None,
        });
        Some(self.entries.len() - 1)
    }

    fn twirp(&mut self, name: &str, request: &Request, body: &Value) -> Response {
        let address = |number: usize, generation: u32| {
            let host = request.header("host");
            format!("http://{host}/blobs/{number}?sig={generation}")
        };
        match name {
            "CreateCacheEntry" => match self.reserve(body) {
                Some(number) => say(
                    200,
                    &json!({"ok": true, "signed_upload_url": address(number, self.generation)}),
                ),
                None => {
                    let message = "cache entry with the same key already exists";
                    say(409, &json!({"code": "already_exists", "msg": message}))
                }
            },
            "FinalizeCacheEntryUpload" => {
                let (key, size) = (text(body, "key"), body["size_bytes"].as_u64());
                let at = self.entries.iter().position(|entry| entry.key == key);
                let path = at.map(|at| format!("/blobs/{at}")).unwrap_or_default();
                let sent = self.blobs.blobs.get(&path).map(|bytes| bytes.len() as u64);
                match (at, size) {
                    (Some(at), Some(size)) if sent == Some(size) => {
                        self.entries[at].size = Some(size);
                        say(200, &json!({"ok": true, "entry_id": at.to_string()}))
                    }
                    _ => say(
                        400,
                        &json!({"code": "invalid_argument", "msg": "wrong size"}),
                    ),
                }
            }
            "GetCacheEntryDownloadURL" => {
                let exact = self.find(&text(body, "key"), &text(body, "version"));
                match exact {
                    Some(at) => say(
                        200,
                        &json!({
                            "ok": true,
                            "signed_download_url": address(at, self.generation),
                            "matched_key": self.entries[at].key,
                        }),
                    ),
                    None => say(200, &json!({"ok": false})),
                }
            }
            _ => say(404, &json!({"code": "bad_route", "msg": name})),
        }
    }

    fn rest(&mut self, path: &str, request: &Request, body: &Value) -> Response {
        if path == "cache" {
            let (keys, version) = (query(request, "keys"), query(request, "version"));
            let found = self.find(&keys.unwrap_or_default(), &version.unwrap_or_default());
            return found.map_or(Response::status(204), |at| {
                let host = request.header("host");
                let location = format!("http://{host}/archives/{at}");
                let key = &self.entries[at].key;
                say(
                    200,
                    &json!({"cacheKey": key, "scope": Actions::SCOPE, "archiveLocation": location}),
                )
            });
        }
        if path == "caches" {
            return match self.reserve(body) {
                Some(at) => say(201, &json!({ "cacheId": at + 1 })),
                None => {
                    let kind = "ArtifactCacheItemAlreadyExistsException";
                    say(
                        409,
                        &json!({"typeKey": kind, "message": "Cache already exists."}),
                    )
                }
            };
        }
        let number = path.strip_prefix("caches/");
        let number = number.and_then(|text| text.parse::<usize>().ok());
        let entry = number.and_then(|number| self.entries.get_mut(number.checked_sub(1)?));
        let Some(entry) = entry else {
            return say(404, &json!({"message": "no such entry"}));
        };
        if request.method == "PATCH" {
            let range = request.header("content-range").strip_prefix("bytes ");
            let start = range.and_then(|range| range.split('-').next()?.parse().ok());
            entry
                .chunks
                .insert(start.unwrap_or(0), request.body.clone());
            return Response::status(204);
        }
        let sent: usize = entry.chunks.values().map(Vec::len).sum();
        if body["size"].as_u64() != Some(sent as u64) {
            return say(400, &json!({"message": "wrong size"}));
        }
        entry.size = body["size"].as_u64();
        Response::status(204)
    }

    fn list(&self, request: &Request) -> Response {
        if request.header("authorization") != "Bearer listing" {
            return say(401, &json!({"message": "Bad credentials"}));
        }
        let number = |name| query(request, name).and_then(|text| text.parse::<usize>().ok());
        let (page, size) = (
            number("page").unwrap_or(1),
            number("per_page").unwrap_or(30),
        );
        let prefix = query(request, "key").unwrap_or_default();
        let all: Vec<Value> = (self.entries.iter())
            .filter(|entry| entry.size.is_some() && entry.key.starts_with(&prefix))
            .map(|entry| json!({"key": entry.key, "version": entry.version}))
            .collect();
        let shown: Vec<_> = all.iter().skip((page - 1) * size).take(size).collect();
        say(
            200,
            &json!({"total_count": all.len(), "actions_caches": shown}),
        )
    }
}

fn text(body: &Value, key: &str) -> String {
    body[key].as_str().unwrap_or_default().to_owned()
}
