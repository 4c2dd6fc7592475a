//! Small servers that speak the protocols of object stores, written from their descriptions. They keep objects in memory,
//! check every signature, and make trouble when told to.

mod actions;
mod azure;
mod s3;

use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

use crate::web::{Request, Response, Web};

pub use actions::Actions;
pub use azure::Azure;
pub use s3::S3;

type Spoil = Box<dyn Fn(Response) -> Response + Send>;

enum Kind {
    /// The request has no effect.
    Refuse(Response),
    /// It has, but the answer is another.
    Spoil(Spoil),
}

struct Trouble {
    method: String,
    part: String,
    times: usize,
    kind: Kind,
}

/// What goes wrong in a server.
#[derive(Clone, Default)]
pub struct Troubles(Arc<Mutex<Vec<Trouble>>>);

impl Troubles {
    /// The next requests of this method whose address contains `part` are answered so.
    pub fn refuse(&self, method: &str, part: &str, times: usize, answer: Response) {
        self.add(method, part, times, Kind::Refuse(answer));
    }

    /// The answers to the next requests of this method whose address contains `part` are changed.
    pub fn spoil(
        &self,
        method: &str,
        part: &str,
        times: usize,
        change: impl Fn(Response) -> Response + Send + 'static,
    ) {
        self.add(method, part, times, Kind::Spoil(Box::new(change)));
    }

    fn add(&self, method: &str, part: &str, times: usize, kind: Kind) {
        self.0
            .lock()
            .expect("no test panicked in there")
            .push(Trouble {
                method: method.to_owned(),
                part: part.to_owned(),
                times,
                kind,
            });
    }

    /// A server that answers honestly unless there is trouble.
    fn web(&self, honest: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Web {
        let troubles = self.clone();
        Web::start(move |request| troubles.answer(request, &honest))
    }

    fn answer(&self, request: &Request, honest: impl FnOnce(&Request) -> Response) -> Response {
        let address = format!("{}?{}", request.path, request.query);
        let mut troubles = self.0.lock().expect("no test panicked in there");
        let found = troubles.iter_mut().find(|trouble| {
            let fits = trouble.method == request.method && address.contains(&trouble.part);
            fits && trouble.times > 0
        });
        let Some(trouble) = found else {
            drop(troubles);
            return honest(request);
        };
        trouble.times -= 1;
        match &trouble.kind {
            Kind::Refuse(answer) => answer.clone(),
            Kind::Spoil(change) => change(honest(request)),
        }
    }
}

/// A part of the query, decoded.
fn query(request: &Request, name: &str) -> Option<String> {
    let mut parts = request.query.split('&');
    parts.find_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (key == name).then(|| decode(value))
    })
}

/// Text in which `%` stands before coded bytes.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let coded = (*first == b'%').then(|| std::str::from_utf8(after.get(..2)?).ok());
        let coded = coded
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(coded.unwrap_or(*first));
        rest = if coded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// All of it, or the range that was asked for.
fn content(request: &Request, bytes: &[u8]) -> Response {
    let asked = [request.header("x-ms-range"), request.header("range")];
    let asked = asked.iter().find_map(|text| text.strip_prefix("bytes="));
    let Some((start, end)) = asked.and_then(|range| range.split_once('-')) else {
        return Response::file(bytes);
    };
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse().map_or(bytes.len(), |end: usize| end + 1);
    if start >= bytes.len() {
        return Response::status(416);
    }
    let end = end.min(bytes.len());
    let mut response = Response::file(&bytes[start..end]);
    response.status = 206;
    let range = format!("bytes {start}-{}/{}", end - 1, bytes.len());
    response.with("Content-Range", &range)
}

fn hash(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
