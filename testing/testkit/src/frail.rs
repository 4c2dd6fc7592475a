//! A registry in this process, with the habits and the failures of registries that one meets.
//!
//! It keeps what it gets in memory and verifies it. A test chooses [`Habits`], and may answer any request with a
//! [`Fault`] instead of what the registry would do.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::web::{Request, Response, head, read_head};

/// What a registry does in its own way.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Blobs of other repositories can be mounted.
    pub mounts: bool,
    /// Uploads may come in pieces.
    pub pieces: bool,
    /// What came of a broken upload stays.
    pub keeps: bool,
    /// The types of OCI are known.
    pub oci: bool,
    /// Parts of blobs can be asked for.
    pub ranges: bool,
    /// Locations have no host.
    pub relative: bool,
    /// Blobs are read from there.
    pub storage: Option<String>,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            mounts: true,
            pieces: true,
            keeps: true,
            oci: true,
            ranges: true,
            relative: true,
            storage: None,
        }
    }
}

/// What happens to a request instead.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This is the answer.
    Answer(Response),
    /// The connection ends after so many bytes of the answer's body.
    CutAnswer(usize),
    /// The connection ends after so many bytes of the request's body.
    CutBody(usize),
    /// After so many bytes of the answer's body nothing more comes.
    StallAnswer(usize),
    /// After so many bytes of the request's body nothing more is read.
    StallBody(usize),
    /// The answer's body is another.
    Replace(Vec<u8>),
}

#[derive(Default)]
struct Data {
    /// By repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// By repository and tag or digest, with their types.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    uploads: BTreeMap<String, Vec<u8>>,
    opened: usize,
    requests: Vec<Request>,
    received: u64,
    sent: u64,
}

type Faults = dyn Fn(&Request) -> Option<Fault> + Send + Sync;

struct State {
    habits: Habits,
    faults: Box<Faults>,
    data: Mutex<Data>,
    busy: AtomicUsize,
    busiest: AtomicUsize,
}

/// A transfer that is under way.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(state: &'a State) -> Self {
        let busy = state.busy.fetch_add(1, Ordering::SeqCst) + 1;
        state.busiest.fetch_max(busy, Ordering::SeqCst);
        Self(&state.busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A running registry. Its threads end with the test.
pub struct Frail {
    port: u16,
    state: Arc<State>,
}

/// What a request is about.
enum Subject {
    Blob(String, String),
    NewUpload(String),
    Upload(String, String),
    Manifest(String, String),
    Other,
}

impl Frail {
    /// One with these habits, and with faults.
    pub fn start(
        habits: Habits,
        faults: impl Fn(&Request) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("it has an address").port();
        let state = Arc::new(State {
            habits,
            faults: Box::new(faults),
            data: Mutex::default(),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || state.serve(stream));
            }
        });
        Self { port, state }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts a blob into a repository; its digest.
    pub fn add_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        let key = (repository.to_owned(), digest.clone());
        self.state.data().blobs.insert(key, bytes.to_owned());
        digest
    }

    /// A blob of a repository.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let key = (repository.to_owned(), digest.to_owned());
        self.state.data().blobs.get(&key).cloned()
    }

    /// A manifest under its tag or digest.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        let key = (repository.to_owned(), name.to_owned());
        let data = self.state.data();
        data.manifests.get(&key).map(|(_, bytes)| bytes.clone())
    }

    /// All requests so far, without their bodies.
    pub fn requests(&self) -> Vec<Request> {
        self.state.data().requests.clone()
    }

    /// How many requests of this method had this in their path.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let requests = self.requests();
        let fits = |it: &&Request| it.method == method && it.path.contains(part);
        requests.iter().filter(fits).count()
    }

    /// Bytes of uploads that were read.
    pub fn received(&self) -> u64 {
        self.state.data().received
    }

    /// Bytes of blobs that were sent.
    pub fn sent(&self) -> u64 {
        self.state.data().sent
    }

    /// The most requests for blobs and uploads that were under way at a time.
    pub fn busiest(&self) -> usize {
        self.state.busiest.load(Ordering::SeqCst)
    }
}

impl State {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().expect("no test panicked in there")
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_head(&mut reader) {
            self.data().requests.push(request.clone());
            let transfer = request.path.contains("/blobs/") && request.method != "HEAD";
            let busy = transfer.then(|| Busy::new(self));
            let fault = (self.faults)(&request);
            let goes_on = self.handle(&mut reader, &request, fault, busy).is_some();
            if !goes_on {
                // Clones of the stream may live on; the connection must not.
                let _ = reader.get_ref().shutdown(Shutdown::Both);
                return;
            }
        }
    }

    /// `None`: the connection is over.
    fn handle(
        &self,
        reader: &mut BufReader<TcpStream>,
        request: &Request,
        fault: Option<Fault>,
        busy: Option<Busy<'_>>,
    ) -> Option<()> {
        let length: usize = request.header("content-length").parse().unwrap_or(0);
        let wanted = match fault {
            Some(Fault::CutBody(after) | Fault::StallBody(after)) => after.min(length),
            _ => length,
        };
        let mut body = Vec::new();
        let read = reader.by_ref().take(wanted as u64).read_to_end(&mut body);
        let whole = read.is_ok() && body.len() == length;
        let subject = subject(&request.path);
        if matches!(subject, Subject::Upload(..)) {
            self.data().received += body.len() as u64;
        }
        if !whole {
            self.keep(&subject, request, body);
            if matches!(fault, Some(Fault::StallBody(_))) {
                wait_for_end(reader.get_ref());
            }
            return None;
        }
        let (answer, cut, stall) = match fault {
            Some(Fault::Answer(answer)) => {
                let cut = answer.cut;
                (answer, cut, false)
            }
            Some(Fault::Replace(bytes)) => {
                let mut answer = self.answer(&subject, request, body);
                answer.body = bytes;
                (answer, None, false)
            }
            Some(Fault::CutAnswer(after)) => {
                (self.answer(&subject, request, body), Some(after), false)
            }
            Some(Fault::StallAnswer(after)) => {
                (self.answer(&subject, request, body), Some(after), true)
            }
            _ => (self.answer(&subject, request, body), None, false),
        };
        let end = cut.unwrap_or(usize::MAX).min(answer.body.len());
        // Who has the answer may ask the next.
        drop(busy);
        let stream = reader.get_mut();
        stream.write_all(head(&answer).as_bytes()).ok()?;
        if request.method != "HEAD" {
            stream.write_all(&answer.body[..end]).ok()?;
            if matches!(subject, Subject::Blob(..)) {
                self.data().sent += end as u64;
            }
        }
        stream.flush().ok()?;
        if stall {
            wait_for_end(stream);
        }
        cut.is_none().then_some(())
    }

    /// What stays of a body that did not come to its end.
    fn keep(&self, subject: &Subject, request: &Request, body: Vec<u8>) {
        if let Subject::Upload(_, id) = subject
            && self.habits.keeps
            && let Some(upload) = self.data().uploads.get_mut(id)
            && (request.method == "PUT" || starts_at(request, upload.len()))
        {
            upload.extend(body);
        }
    }

    fn answer(&self, subject: &Subject, request: &Request, body: Vec<u8>) -> Response {
        match (request.method.as_str(), subject) {
            ("GET" | "HEAD", Subject::Blob(repository, digest)) => {
                self.send_blob(request, repository, digest)
            }
            ("GET" | "HEAD", Subject::Manifest(repository, name)) => {
                let data = self.data();
                match data.manifests.get(&(repository.clone(), name.clone())) {
                    Some((kind, bytes)) => Response::file(bytes.clone())
                        .with("Content-Type", kind)
                        .with("Docker-Content-Digest", &digest(bytes)),
                    None => refused(404, "MANIFEST_UNKNOWN"),
                }
            }
            ("PUT", Subject::Manifest(repository, name)) => {
                let kind = request.header("content-type").to_owned();
                if !self.habits.oci && kind.starts_with("application/vnd.oci.") {
                    return refused(415, "MANIFEST_INVALID");
                }
                let mut data = self.data();
                let (by_digest, document) = (digest(&body), (kind, body));
                let key = (repository.clone(), by_digest.clone());
                data.manifests.insert(key, document.clone());
                let key = (repository.clone(), name.clone());
                data.manifests.insert(key, document);
                Response::status(201).with("Docker-Content-Digest", &by_digest)
            }
            ("POST", Subject::NewUpload(repository)) => self.open(request, repository),
            (_, Subject::Upload(repository, id)) => self.upload(request, repository, id, body),
            ("GET", Subject::Other) if request.path == "/v2/" => Response::file("{}"),
            _ => refused(404, "NOT_FOUND"),
        }
    }

    fn send_blob(&self, request: &Request, repository: &str, digest: &str) -> Response {
        let key = (repository.to_owned(), digest.to_owned());
        let Some(bytes) = self.data().blobs.get(&key).cloned() else {
            return refused(404, "BLOB_UNKNOWN");
        };
        if let Some(storage) = &self.habits.storage
            && request.method == "GET"
        {
            let place = format!("http://{storage}{}", request.path);
            return Response::status(307).with("Location", &place);
        }
        let range = request.header("range").strip_prefix("bytes=");
        match range.and_then(|range| range.split_once('-')) {
            Some((first, last)) if self.habits.ranges => {
                let first: usize = first.parse().unwrap_or(0);
                let last = last.parse().unwrap_or(bytes.len() - 1);
                let told = format!("bytes {first}-{last}/{}", bytes.len());
                let part = bytes.get(first..=last).unwrap_or_default().to_vec();
                Response {
                    status: 206,
                    ..Response::file(part).with("Content-Range", &told)
                }
            }
            _ => Response::file(bytes),
        }
    }

    fn open(&self, request: &Request, repository: &str) -> Response {
        let mut data = self.data();
        let query: BTreeMap<_, _> = pairs(&request.query).collect();
        if let (Some(mount), Some(from)) = (query.get("mount"), query.get("from")) {
            if !self.habits.mounts {
                return refused(405, "UNSUPPORTED");
            }
            let blob = data.blobs.get(&(from.clone(), mount.clone())).cloned();
            if let Some(blob) = blob {
                data.blobs
                    .insert((repository.to_owned(), mount.clone()), blob);
                return Response::status(201);
            }
        }
        data.opened += 1;
        let id = format!("u{}", data.opened);
        data.uploads.insert(id.clone(), Vec::new());
        self.place(202, request, repository, &id)
    }

    fn upload(&self, request: &Request, repository: &str, id: &str, body: Vec<u8>) -> Response {
        let mut data = self.data();
        let Some(upload) = data.uploads.get_mut(id) else {
            return refused(404, "BLOB_UPLOAD_UNKNOWN");
        };
        match request.method.as_str() {
            "GET" => {
                let end = upload.len().saturating_sub(1);
                let place = self.place(204, request, repository, id);
                place.with("Range", &format!("0-{end}"))
            }
            "PATCH" if !self.habits.pieces => refused(405, "UNSUPPORTED"),
            "PATCH" if !starts_at(request, upload.len()) => refused(416, "RANGE_INVALID"),
            "PATCH" => {
                upload.extend(body);
                let end = upload.len().saturating_sub(1);
                let place = self.place(202, request, repository, id);
                place.with("Range", &format!("0-{end}"))
            }
            "PUT" => {
                // A body that begins anew replaces what a broken one left.
                let mut bytes = data.uploads.remove(id).unwrap_or_default();
                bytes.extend(body);
                let wanted = pairs(&request.query).find(|(name, _)| name == "digest");
                let wanted = wanted.map(|(_, value)| value).unwrap_or_default();
                if digest(&bytes) != wanted {
                    return refused(400, "DIGEST_INVALID");
                }
                data.blobs.insert((repository.to_owned(), wanted), bytes);
                Response::status(201)
            }
            _ => refused(405, "UNSUPPORTED"),
        }
    }

    fn place(&self, status: u16, request: &Request, repository: &str, id: &str) -> Response {
        let mut place = format!("/v2/{repository}/blobs/uploads/{id}");
        if !self.habits.relative {
            place = format!("http://{}{place}", request.header("host"));
        }
        Response::status(status).with("Location", &place)
    }
}

/// Whether a piece goes on where the upload is.
fn starts_at(request: &Request, length: usize) -> bool {
    match request.header("content-range").split_once('-') {
        Some((first, _)) => first.parse() == Ok(length),
        None => true,
    }
}

/// Until the client goes, or a test has surely failed. What it still sends is not read: that is what stalls it.
fn wait_for_end(stream: &TcpStream) {
    for _ in 0..6000 {
        let ended = stream.set_nonblocking(true).is_err()
            || matches!(stream.peek(&mut [0; 1]), Ok(0))
            || stream.take_error().is_ok_and(|err| err.is_some());
        if ended {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn subject(path: &str) -> Subject {
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Subject::Other;
    };
    let own = |text: &str| text.to_owned();
    if let Some((repository, id)) = rest.split_once("/blobs/uploads/") {
        return match id {
            "" => Subject::NewUpload(own(repository)),
            id => Subject::Upload(own(repository), own(id)),
        };
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        return Subject::Blob(own(repository), own(digest));
    }
    match rest.split_once("/manifests/") {
        Some((repository, name)) => Subject::Manifest(own(repository), own(name)),
        None => Subject::Other,
    }
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.replace("%3A", ":")))
}

fn refused(status: u16, code: &str) -> Response {
    let message = code.to_lowercase().replace('_', " ");
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
    Response {
        status,
        ..Response::file(body)
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
