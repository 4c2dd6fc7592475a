//! A small web server on a loopback port: fixed files, anything a test answers itself, and git repositories through
//! git's own program for that.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What a client asked.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`
    pub method: String,
    /// Path without query.
    pub path: String,
    /// What stood behind `?`.
    pub query: String,
    /// Header fields; names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body, unpacked from its chunks.
    pub body: Vec<u8>,
}

impl Request {
    /// A header field, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What it gets.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
}

impl Response {
    /// An answer with nothing but a status.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
        }
    }

    /// A file.
    pub fn file(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::status(200)
        }
    }

    /// The connection ends after so many bytes of the body.
    #[must_use]
    pub fn cut(self, after: usize) -> Self {
        Self {
            cut: Some(after),
            ..self
        }
    }

    /// With one more header field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Answer = dyn Fn(&Request) -> Response + Send + Sync;

/// A running server. Its threads end with the test.
pub struct Web {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Web {
    /// Starts a server that answers like this.
    pub fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let port = listener.local_addr().expect("it has an address").port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (seen, answer): (_, Arc<Answer>) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Self { port, requests }
    }

    /// Serves the repositories below `root`, for reading.
    pub fn git(root: &Path) -> Self {
        let root = root.to_owned();
        Self::start(move |request| git_backend(&root, request))
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// All requests so far: `GET /path`.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.requests.lock().expect("no test panicked in there");
        let line = |it: &Request| format!("{} {}", it.method, it.path);
        requests.iter().map(line).collect()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, answer: &Answer) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        if let Ok(mut seen) = seen.lock() {
            seen.push(request.clone());
        }
        let response = answer(&request);
        if write(reader.get_mut(), &request, &response).is_err() {
            break;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut request = read_head(reader)?;
    if request.header("transfer-encoding") == "chunked" {
        loop {
            let size = usize::from_str_radix(&read_line(reader)?, 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            if size == 0 {
                break;
            }
            request.body.extend_from_slice(&chunk[..size]);
        }
    } else {
        let size = request.header("content-length").parse().unwrap_or(0);
        request.body = vec![0; size];
        reader.read_exact(&mut request.body).ok()?;
    }
    Some(request)
}

/// A request without its body.
pub(crate) fn read_head(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let line = read_line(reader)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        ..Request::default()
    };
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let name = name.to_ascii_lowercase();
        request.headers.insert(name, value.trim().to_owned());
    }
    Some(request)
}

fn read_line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    let read = reader.read_line(&mut line).ok()?;
    (read > 0).then(|| line.trim_end().to_owned())
}

fn write(stream: &mut TcpStream, request: &Request, response: &Response) -> std::io::Result<()> {
    stream.write_all(head(response).as_bytes())?;
    if let Some(after) = response.cut {
        stream.write_all(&response.body[..after.min(response.body.len())])?;
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    if request.method != "HEAD" {
        stream.write_all(&response.body)?;
    }
    stream.flush()
}

/// What stands before the body.
pub(crate) fn head(response: &Response) -> String {
    let mut head = format!("HTTP/1.1 {} X\r\n", response.status);
    let mut told = false;
    for (name, value) in &response.headers {
        told |= name.eq_ignore_ascii_case("content-length");
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !told {
        head.push_str(&format!("Content-Length: {}\r\n", response.body.len()));
    }
    head + "\r\n"
}

/// One request through `git http-backend`.
pub fn git_backend(root: &Path, request: &Request) -> Response {
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", request.header("content-type"))
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding"))
        .env("GIT_PROTOCOL", request.header("git-protocol"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git is there; see require!(git)");
    let mut stdin = child.stdin.take().expect("it was asked for");
    let body = request.body.clone();
    let feeder = std::thread::spawn(move || {
        // A child that has read enough has ended.
        let _ = stdin.write_all(&body);
    });
    let output = child.wait_with_output().expect("it can be waited for");
    feeder.join().expect("it does not panic");
    let text = output.stdout;
    let end = text.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else {
        return Response::status(500);
    };
    let mut response = Response::file(&text[end + 4..]);
    for line in String::from_utf8_lossy(&text[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => {
                let code = status.split(' ').next().unwrap_or_default();
                response.status = code.parse().unwrap_or(500);
            }
            Some((name, value)) => response = response.with(name, value),
            None => {}
        }
    }
    response
}

/// A repository with a work tree, for tests to commit into.
pub struct Repository(PathBuf);

impl Repository {
    /// A new one at `dir`, whose branch is `main`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        std::fs::create_dir_all(&dir).expect("a folder");
        let repository = Self(dir);
        repository.git(&["init", "-q", "-b", "main"]);
        repository
    }

    /// Runs git in it.
    pub fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(args)
            .current_dir(&self.0)
            .env_remove("GIT_DIR")
            .env("HOME", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "protocol.file.allow")
            .env("GIT_CONFIG_VALUE_0", "always")
            .envs(["AUTHOR", "COMMITTER"].iter().flat_map(|who| {
                [
                    (format!("GIT_{who}_NAME"), "test".to_owned()),
                    (format!("GIT_{who}_EMAIL"), "test@example.com".to_owned()),
                    (format!("GIT_{who}_DATE"), "1700000000 +0000".to_owned()),
                ]
            }))
            .output()
            .expect("git runs");
        assert!(
            output.status.success(),
            "git {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Commits these files (see [`crate::fixture`]); returns the commit.
    pub fn commit(&self, files: &str) -> String {
        crate::fixture::write(&self.0, files).expect("the fixture can be written");
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "message"]);
        self.git(&["rev-parse", "HEAD"])
    }
}
