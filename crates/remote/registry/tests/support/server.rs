//! A small HTTP server whose answers a test makes up, faults included.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `GET /v2/…`
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// First and last byte of a range.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (start, end) = self
            .header("range")
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((start.parse().ok()?, end.parse().ok()))
    }
}

/// What the server answers.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub cut: Option<usize>,
    /// Without a length, in one chunk.
    pub chunked: bool,
    /// Wait between pieces of 256 KiB.
    pub slow: Option<Duration>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// A running server; stopped when dropped.
pub struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    accept: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(handler, None)
    }

    /// With TLS.
    pub fn start_tls(
        config: Arc<rustls::ServerConfig>,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::listen(handler, Some(config))
    }

    fn listen(
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let accept = {
            let (seen, stop) = (seen.clone(), stop.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let (seen, handler, tls) = (seen.clone(), handler.clone(), tls.clone());
                    if let Ok(stream) = stream {
                        std::thread::spawn(move || match tls {
                            None => serve(stream, &*handler, &seen),
                            Some(config) => {
                                let tls = rustls::ServerConnection::new(config).expect("a config");
                                serve(rustls::StreamOwned::new(tls, stream), &*handler, &seen);
                            }
                        });
                    }
                }
            })
        };
        Self {
            port,
            seen,
            stop,
            accept: Some(accept),
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().expect("no panic").clone()
    }

    /// Their first lines.
    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener up.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

fn serve(stream: impl Read + Write, handler: &Handler, seen: &Mutex<Vec<Request>>) {
    let mut stream = BufReader::new(stream);
    if stream.fill_buf().is_ok_and(|seen| seen.starts_with(&[22])) {
        // TLS where it is not known. What a server answers there is not encrypted.
        let refusal = b"HTTP/1.0 400 Bad Request\r\n\r\n";
        let _ = stream.get_mut().write_all(refusal);
        return;
    }
    while let Some(request) = read(&mut stream) {
        seen.lock().expect("no panic").push(request.clone());
        let answer = handler(&request);
        if write(stream.get_mut(), &request, &answer).is_none() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length");
    let length = length.and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        headers,
        body,
    })
}

/// `None`: the connection is over.
fn write(stream: &mut impl Write, request: &Request, answer: &Answer) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
    let mut has_length = false;
    for (name, value) in &answer.headers {
        has_length |= name.eq_ignore_ascii_case("content-length");
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    } else if !has_length {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    if request.method == "HEAD" {
        return stream.flush().ok();
    }
    let end = answer.cut.unwrap_or(answer.body.len());
    if answer.chunked {
        stream.write_all(format!("{end:x}\r\n").as_bytes()).ok()?;
    }
    for piece in answer.body[..end].chunks(256 << 10) {
        stream.write_all(piece).ok()?;
        if let Some(wait) = answer.slow {
            std::thread::sleep(wait);
        }
    }
    if answer.cut.is_some() {
        return None;
    }
    if answer.chunked {
        stream.write_all(b"\r\n0\r\n\r\n").ok()?;
    }
    stream.flush().ok()?;
    Some(())
}
