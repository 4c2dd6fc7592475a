//! The log of a build: messages of the Status stream, each behind its length.
//!
//! What can be followed live is in memory when a build ends. What was too much for that went to disk as it came
//! ([`Spool`]), and is put in its place by time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::iter::Peekable;
use std::path::PathBuf;
use std::time::SystemTime;

use parking_lot::Mutex;
use progress::{Audience, Event, Sink};
use prost::Message as _;
use prost_types::Timestamp;
use proto::control::{Descriptor, StatusResponse, VertexLog};

use crate::Error;
use crate::blobs::{BlobReader, Blobs};
use crate::status;

/// What a log is on the wire.
const MEDIA_TYPE: &str = "application/vnd.buildkit.status.v0";
/// A message is cut when its log bytes pass this.
const MAX_LOG_BYTES: usize = 1 << 20;
/// No message is larger; what says it is, is damaged.
const MAX_MESSAGE: usize = 64 << 20;

/// Messages of a log, in order.
pub struct LogReader {
    name: String,
    reader: BufReader<BlobReader>,
}

impl LogReader {
    pub(crate) fn new(name: String, reader: BlobReader) -> Self {
        Self {
            name,
            reader: BufReader::new(reader),
        }
    }

    /// The next message; `None` at the end. Blocks.
    pub fn read(&mut self) -> Result<Option<StatusResponse>, Error> {
        let bytes = frame(&mut self.reader).map_err(Error::blob("read"))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let message = StatusResponse::decode(bytes.as_slice());
        message.map(Some).map_err(|source| Error::Damaged {
            name: self.name.clone(),
            source,
        })
    }
}

/// The bytes of a message; `None` at the end.
fn frame(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if reader.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut length[1..])?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

fn write_frame(writer: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(bytes)
}

/// Takes output that nobody keeps in memory. Whoever prints waits for it to be written, so it can never pile up.
#[derive(Default)]
pub(crate) struct Spool {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    /// Nothing came so far.
    #[default]
    Empty,
    Open(zstd::Encoder<'static, BufWriter<File>>),
    /// It could not be written, or was read.
    Closed,
}

impl Spool {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            state: Mutex::default(),
        }
    }

    fn write(&self, state: &mut State, log: &progress::Log) -> io::Result<()> {
        if let State::Empty = state {
            let file = BufWriter::new(File::create_new(&self.path)?);
            *state = State::Open(zstd::Encoder::new(file, 1)?);
        }
        if let State::Open(encoder) = state {
            write_frame(encoder, &status::log_message(log).encode_to_vec())?;
        }
        Ok(())
    }

    /// What came, in order. Nothing is taken any more.
    fn read(&self) -> io::Result<Option<zstd::Decoder<'static, BufReader<File>>>> {
        let state = std::mem::replace(&mut *self.state.lock(), State::Closed);
        let State::Open(encoder) = state else {
            return Ok(None);
        };
        encoder.finish()?.flush()?;
        Ok(Some(zstd::Decoder::new(File::open(&self.path)?)?))
    }
}

impl Sink for Spool {
    fn emit(&self, event: Event) {
        let Event::Log(log) = event else { return };
        let mut state = self.state.lock();
        if let Err(err) = self.write(&mut state, &log) {
            *state = State::Closed;
            tracing::warn!(error = %err, "output of a build cannot be kept");
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if !matches!(self.state.get_mut(), State::Empty) {
            // The next start removes what is left.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes the log of a build.
pub(crate) fn write(blobs: &Blobs, events: &[Event], spool: &Spool) -> Result<Descriptor, Error> {
    let write = || {
        let mut blob = blobs.writer()?;
        match spool.read()? {
            None => {
                let events: Vec<_> = events.iter().filter(|it| is_kept(it)).cloned().collect();
                for message in status::responses(&events) {
                    write_frame(&mut blob, &message.encode_to_vec())?;
                }
            }
            Some(spooled) => write_merged(&mut blob, events, spooled)?,
        }
        blob.commit(MEDIA_TYPE)
    };
    write().map_err(Error::blob("write"))
}

fn is_kept(event: &Event) -> bool {
    !matches!(event, Event::Log(log) if log.audience == Audience::Followers)
}

/// The first message has the steps as they started, the last one how they ended, and the output is between: so it looks
/// to who replays the log as it looked then.
fn write_merged(out: &mut impl Write, events: &[Event], spooled: impl Read) -> io::Result<()> {
    let talkative: BTreeSet<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Log(log) => Some(log.vertex.as_str()),
            _ => None,
        })
        .collect();
    let mut first = Vec::new();
    let mut last = Vec::new();
    let mut memory = Vec::new();
    for event in events.iter().filter(|event| is_kept(event)) {
        match event {
            Event::Log(log) => memory.push(status::log_message(log)),
            Event::Vertex(vertex) if talkative.contains(vertex.digest.as_str()) => {
                first.push(Event::from(progress::Vertex {
                    completed: None,
                    error: String::new(),
                    ..progress::Vertex::clone(vertex)
                }));
                last.push(event.clone());
            }
            other => first.push(other.clone()),
        }
    }
    for message in status::responses(&first) {
        write_frame(out, &message.encode_to_vec())?;
    }
    memory.sort_by_key(time);
    let mut merged = Merged {
        memory: memory.into_iter().peekable(),
        spooled: Spooled(spooled).peekable(),
    };
    let mut logs: Vec<VertexLog> = Vec::new();
    let mut bytes = 0;
    while let Some(log) = merged.next() {
        let log = log?;
        if bytes > 0 && bytes + log.msg.len() > MAX_LOG_BYTES {
            let rest = unfinished_lines(&mut logs);
            write_logs(out, std::mem::replace(&mut logs, rest))?;
            bytes = logs.iter().map(|log| log.msg.len()).sum();
        }
        bytes += log.msg.len();
        logs.push(log);
    }
    write_logs(out, logs)?;
    for message in status::responses(&last) {
        write_frame(out, &message.encode_to_vec())?;
    }
    Ok(())
}

fn write_logs(out: &mut impl Write, logs: Vec<VertexLog>) -> io::Result<()> {
    if logs.is_empty() {
        return Ok(());
    }
    let message = StatusResponse {
        logs,
        ..StatusResponse::default()
    };
    write_frame(out, &message.encode_to_vec())
}

/// Takes off what comes after the last whole line of each step: displays end a line where a message ends.
fn unfinished_lines(logs: &mut Vec<VertexLog>) -> Vec<VertexLog> {
    let mut ended = BTreeSet::new();
    let mut rest = Vec::new();
    for log in logs.iter_mut().rev() {
        let output = (log.vertex.clone(), log.stream);
        if ended.contains(&output) {
            continue;
        }
        match log.msg.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => {
                let tail = log.msg.split_off(at + 1);
                if !tail.is_empty() {
                    rest.push(VertexLog {
                        msg: tail,
                        ..log.clone()
                    });
                }
                ended.insert(output);
            }
            // A line longer than this is cut after all.
            None if log.msg.len() > MAX_LOG_BYTES / 2 => {
                ended.insert(output);
            }
            None => {
                rest.push(log.clone());
                log.msg.clear();
            }
        }
    }
    logs.retain(|log| !log.msg.is_empty());
    rest.reverse();
    rest
}

fn time(log: &VertexLog) -> (i64, i32) {
    let time = log.timestamp.unwrap_or_default();
    (time.seconds, time.nanos)
}

/// Messages of a spool.
struct Spooled<R>(R);

impl<R: Read> Iterator for Spooled<R> {
    type Item = io::Result<VertexLog>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = match frame(&mut self.0) {
            Ok(bytes) => bytes?,
            Err(err) => return Some(Err(err)),
        };
        let log = VertexLog::decode(bytes.as_slice());
        Some(log.map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err)))
    }
}

/// Both by time.
struct Merged<A: Iterator<Item = VertexLog>, B: Iterator<Item = io::Result<VertexLog>>> {
    memory: Peekable<A>,
    spooled: Peekable<B>,
}

impl<A, B> Merged<A, B>
where
    A: Iterator<Item = VertexLog>,
    B: Iterator<Item = io::Result<VertexLog>>,
{
    fn next(&mut self) -> Option<io::Result<VertexLog>> {
        match (self.memory.peek(), self.spooled.peek()) {
            (Some(here), Some(Ok(there))) if time(there) < time(here) => self.spooled.next(),
            (Some(_), Some(Ok(_)) | None) => self.memory.next().map(Ok),
            (_, Some(_)) => self.spooled.next(),
            (None, None) => None,
        }
    }
}

/// What people ask first: how many steps there were, and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: i32,
    pub(crate) cached: i32,
    pub(crate) completed: i32,
    pub(crate) warnings: i32,
}

impl Counts {
    pub(crate) fn of(events: &[Event]) -> Self {
        let mut steps = std::collections::HashMap::<&str, (bool, bool)>::new();
        let mut warnings = 0;
        for event in events {
            match event {
                Event::Vertex(vertex) => {
                    let (cached, completed) = steps.entry(&vertex.digest).or_default();
                    *cached |= vertex.cached;
                    *completed |= vertex.completed.is_some();
                }
                Event::Warning(_) => warnings += 1,
                Event::Log(_) | Event::Status(_) => {}
            }
        }
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Self {
            total: count(steps.len()),
            cached: count(steps.values().filter(|(cached, _)| *cached).count()),
            completed: count(steps.values().filter(|(_, done)| *done).count()),
            warnings: count(warnings),
        }
    }
}

/// When something happened, as messages have it.
pub(crate) fn stamp(time: SystemTime) -> Option<Timestamp> {
    Some(Timestamp::from(time))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    fn log(audience: Audience, second: u64, text: &str) -> Event {
        Event::Log(progress::Log {
            vertex: "v".to_owned(),
            stream: progress::Stream::Stdout,
            data: Bytes::from(text.to_owned()),
            timestamp: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            audience,
        })
    }

    fn texts(blobs: &Blobs, descriptor: &Descriptor) -> Vec<String> {
        let reader = blobs.open_text(&descriptor.digest).expect("open");
        let mut reader = LogReader::new("b".to_owned(), reader);
        let mut texts = Vec::new();
        while let Some(message) = reader.read().expect("read") {
            let logs = message.logs.iter();
            texts.extend(logs.map(|log| String::from_utf8_lossy(&log.msg).into_owned()));
        }
        texts
    }

    #[test]
    fn a_log_holds_what_followers_did_not_see_in_its_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path()).expect("open");
        let spool = Spool::new(blobs.scratch());
        spool.emit(log(Audience::Record, 2, "b"));
        spool.emit(log(Audience::Record, 3, "c"));
        let events = [
            log(Audience::All, 1, "a"),
            log(Audience::Followers, 2, "clipped"),
            log(Audience::All, 4, "d"),
        ];
        let descriptor = write(&blobs, &events, &spool).expect("write");
        assert_eq!(texts(&blobs, &descriptor), ["a", "b", "c", "d"]);
        drop(spool);
        let left = std::fs::read_dir(dir.path().join("ingest")).expect("there");
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn a_log_that_could_be_followed_needs_no_spool() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path()).expect("open");
        let spool = Spool::new(blobs.scratch());
        let events = [log(Audience::All, 1, "a"), log(Audience::Curious, 1, "why")];
        let descriptor = write(&blobs, &events, &spool).expect("write");
        assert_eq!(texts(&blobs, &descriptor), ["a", "why"]);
    }

    #[test]
    fn messages_end_with_whole_lines_and_with_what_became_of_the_steps() {
        let dir = tempfile::tempdir().expect("a directory");
        let blobs = Blobs::open(dir.path()).expect("open");
        let spool = Spool::new(blobs.scratch());
        let line = "x".repeat(300_000) + "\n";
        for second in 2..9 {
            let text = if second == 8 { "end\n" } else { &line };
            // Chunks do not end where lines do.
            let text = format!("{text}{second}");
            spool.emit(log(Audience::Record, second, &text));
        }
        let at = SystemTime::UNIX_EPOCH;
        let vertex = Event::from(progress::Vertex {
            digest: "v".to_owned(),
            started: Some(at),
            completed: Some(at),
            ..progress::Vertex::default()
        });
        let events = [vertex, log(Audience::All, 1, "begin\n")];
        let descriptor = write(&blobs, &events, &spool).expect("write");
        let reader = blobs.open_text(&descriptor.digest).expect("open");
        let mut reader = LogReader::new("b".to_owned(), reader);
        let mut messages = Vec::new();
        while let Some(message) = reader.read().expect("read") {
            messages.push(message);
        }
        assert!(messages.len() > 3);
        assert!(messages[0].vertexes[0].completed.is_none());
        let (last, others) = messages.split_last().expect("messages");
        assert!(last.vertexes[0].completed.is_some());
        let (_, between) = others.split_last().expect("messages");
        for message in &between[1..] {
            let end = message.logs.last().expect("a log");
            assert!(end.msg.ends_with(b"\n"));
        }
        let all: usize = messages
            .iter()
            .flat_map(|it| &it.logs)
            .map(|it| it.msg.len())
            .sum();
        assert_eq!(all, 6 + 6 * 300_002 + 5);
    }

    #[test]
    fn steps_are_counted_once() {
        let vertex = |cached, completed: bool| {
            Event::from(progress::Vertex {
                digest: "v".to_owned(),
                cached,
                completed: completed.then_some(SystemTime::UNIX_EPOCH),
                ..progress::Vertex::default()
            })
        };
        let counts = Counts::of(&[vertex(false, false), vertex(true, true)]);
        let expected = Counts {
            total: 1,
            cached: 1,
            completed: 1,
            warnings: 0,
        };
        assert_eq!(counts, expected);
    }
}
