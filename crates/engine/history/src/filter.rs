//! Which builds somebody wants to see.
//!
//! A filter is a list of terms with commas between, all of which must hold. Terms about times (`startedAt>=24h`,
//! `completedAt<2026-01-01T00:00:00Z`, `duration>5m`) are of this list only; the others are of the language of all
//! lists, over `ref`, `status` and `repository`.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use proto::control::BuildHistoryRecord;

use crate::Error;

/// One filter has to match; none at all match everything.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<Filter>);

#[derive(Debug)]
struct Filter {
    times: Vec<Term>,
    fields: filters::Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Started,
    Completed,
    Took,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    subject: Subject,
    relation: Relation,
    /// Seconds since 1970; nanoseconds for how long it took.
    value: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    AtLeast,
    AtMost,
    More,
    Less,
}

/// In the order in which they are looked for.
const RELATIONS: [(&str, Relation); 4] = [
    (">=", Relation::AtLeast),
    ("<=", Relation::AtMost),
    (">", Relation::More),
    ("<", Relation::Less),
];

impl Filters {
    pub(crate) fn parse(texts: &[String], now: SystemTime) -> Result<Self, Error> {
        let parse = |text: &String| {
            let mut times = Vec::new();
            let mut fields = Vec::new();
            for field in split(text)? {
                match term(&field, now)? {
                    Some(term) => times.push(term),
                    None => fields.push(field),
                }
            }
            let fields = filters::Filter::parse(&[fields.join(",")]).map_err(|err| {
                Error::Filter(format!("failed to parse history filters {text}: {err}"))
            })?;
            Ok(Filter { times, fields })
        };
        texts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn match_record(&self, record: &BuildHistoryRecord) -> bool {
        self.0.is_empty() || self.0.iter().any(|filter| filter.matches(record))
    }
}

impl Filter {
    fn matches(&self, record: &BuildHistoryRecord) -> bool {
        self.times.iter().all(|term| term.holds(record))
            && self.fields.matches(|path| field(record, path))
    }
}

fn field<'r>(record: &'r BuildHistoryRecord, path: &[String]) -> Option<Cow<'r, str>> {
    match path.first()?.as_str() {
        "ref" => (!record.r#ref.is_empty()).then(|| record.r#ref.as_str().into()),
        "status" => Some(status(record).into()),
        "repository" => repository(record).map(Cow::Borrowed),
        _ => None,
    }
}

fn status(record: &BuildHistoryRecord) -> &'static str {
    match &record.error {
        _ if record.completed_at.is_none() => "running",
        None => "completed",
        Some(error) if error.message.contains("context canceled") => "canceled",
        Some(_) => "error",
    }
}

/// Where the sources of a build are from, if that is a repository.
fn repository(record: &BuildHistoryRecord) -> Option<&str> {
    if let Some(source) = record.frontend_attrs.get("vcs:source") {
        return Some(source);
    }
    let context = record.frontend_attrs.get("context")?;
    let remote = ["https://", "http://", "ssh://", "git://", "git@"]
        .iter()
        .any(|scheme| context.starts_with(scheme));
    let end = context.find(['#', '?']).unwrap_or(context.len());
    remote.then(|| &context[..end])
}

impl Term {
    fn holds(self, record: &BuildHistoryRecord) -> bool {
        let seconds = |time: Option<prost_types::Timestamp>| time.map_or(0, |time| time.seconds);
        let value = match self.subject {
            Subject::Started => seconds(record.created_at),
            Subject::Completed => seconds(record.completed_at),
            Subject::Took => match (record.created_at, record.completed_at) {
                (Some(start), Some(end)) => {
                    (end.seconds - start.seconds) * 1_000_000_000 + i64::from(end.nanos)
                        - i64::from(start.nanos)
                }
                _ => 0,
            },
        };
        match self.relation {
            Relation::AtLeast => value >= self.value,
            Relation::AtMost => value <= self.value,
            Relation::More => value > self.value,
            Relation::Less => value < self.value,
        }
    }
}

fn term(text: &str, now: SystemTime) -> Result<Option<Term>, Error> {
    let found = RELATIONS
        .iter()
        .find_map(|(sign, relation)| Some((text.split_once(sign)?, *relation)));
    let Some(((name, value), relation)) = found else {
        return Ok(None);
    };
    let subject = match name {
        "startedAt" => Subject::Started,
        "completedAt" => Subject::Completed,
        "duration" => Subject::Took,
        _ => return Ok(None),
    };
    let value = if subject == Subject::Took {
        nanoseconds(value).ok_or_else(|| Error::Filter(format!("invalid duration {value}")))?
    } else if let Some(ago) = nanoseconds(value) {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        now.saturating_sub(ago).div_euclid(1_000_000_000)
    } else {
        let time: oci::Timestamp = value
            .parse()
            .map_err(|_| Error::Filter(format!("invalid time {value}")))?;
        time.seconds()
    };
    Ok(Some(Term {
        subject,
        relation,
        value,
    }))
}

/// A span of time as filters and configurations have it: `48h`, `1h30m`.
pub fn span(text: &str) -> Option<Duration> {
    u64::try_from(nanoseconds(text)?)
        .ok()
        .map(Duration::from_nanos)
}

/// A span of time as Go writes it: `1h30m`, `-2.5s`.
fn nanoseconds(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let number = |it: char| it.is_ascii_digit() || it == '.';
        let end = rest.find(|it| !number(it))?;
        let (digits, tail) = rest.split_at(end);
        let end = tail.find(number).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += digits.parse::<f64>().ok()? * factor;
        rest = tail;
    }
    let span = Duration::try_from_secs_f64(seconds).ok()?;
    let nanos = i64::try_from(span.as_nanos()).ok()?;
    Some(if sign < 0.0 { -nanos } else { nanos })
}

/// The fields of a line of comma-separated values. Quotes may stand around a field and are taken off.
fn split(text: &str) -> Result<Vec<String>, Error> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut characters = quoted.char_indices().peekable();
            let end = loop {
                match characters.next() {
                    None => return Err(Error::Filter(format!("invalid filter {text:?}"))),
                    Some((_, '"')) if characters.next_if(|(_, it)| *it == '"').is_some() => {
                        field.push('"');
                    }
                    Some((at, '"')) => break at + 1,
                    Some((_, other)) => field.push(other),
                }
            };
            fields.push(field);
            match quoted[end..].strip_prefix(',') {
                Some(tail) => rest = tail,
                None if quoted.len() == end => return Ok(fields),
                None => return Err(Error::Filter(format!("invalid filter {text:?}"))),
            }
        } else {
            match rest.split_once(',') {
                Some((field, tail)) => {
                    fields.push(field.to_owned());
                    rest = tail;
                }
                None => {
                    fields.push(rest.to_owned());
                    return Ok(fields);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    /// A build from 1000 to 1090 of a repository.
    fn record() -> BuildHistoryRecord {
        let context = "https://example.com/a.git#main:sub".to_owned();
        BuildHistoryRecord {
            r#ref: "abc".into(),
            created_at: at(1000),
            completed_at: at(1090),
            frontend_attrs: [("context".to_owned(), context)].into(),
            ..BuildHistoryRecord::default()
        }
    }

    fn shows_of(record: &BuildHistoryRecord, texts: &[&str]) -> bool {
        let texts: Vec<_> = texts.iter().map(|&text| text.to_owned()).collect();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2000);
        Filters::parse(&texts, now)
            .expect("filters")
            .match_record(record)
    }

    fn shows(texts: &[&str]) -> bool {
        shows_of(&record(), texts)
    }

    #[test]
    fn without_filters_everything_is_shown() {
        assert!(shows(&[]));
        assert!(shows(&[""]));
    }

    #[test]
    fn all_terms_of_one_filter_must_hold_and_one_filter_of_several() {
        assert!(shows(&["ref==abc,status==completed"]));
        assert!(!shows(&["ref==abc,status==error"]));
        assert!(shows(&["ref==x", "status!=error"]));
        assert!(shows(&["repository~=example.com"]));
    }

    #[test]
    fn times_are_points_or_how_long_ago() {
        assert!(shows(&["startedAt>=1970-01-01T00:16:40Z"]));
        assert!(!shows(&["startedAt>1970-01-01T00:16:40Z"]));
        assert!(shows(&["startedAt>=20m"]));
        assert!(!shows(&["startedAt>=10m"]));
        assert!(shows(&["completedAt<=910s,duration>1m"]));
        assert!(!shows(&["duration<=1m29.5s"]));
    }

    #[test]
    fn how_a_build_ended_is_its_status() {
        let ended = |message: Option<&str>| BuildHistoryRecord {
            error: message.map(|message| proto::rpc::Status {
                message: message.to_owned(),
                ..proto::rpc::Status::default()
            }),
            ..record()
        };
        assert!(shows_of(&ended(Some("no such file")), &["status==error"]));
        let cancelled = ended(Some("x: context canceled"));
        assert!(shows_of(&cancelled, &["status==canceled"]));
        let running = BuildHistoryRecord {
            completed_at: None,
            ..record()
        };
        assert!(shows_of(&running, &["status==running"]));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (text, message) in [
            ("startedAt>x", "invalid time x"),
            ("duration<x", "invalid duration x"),
            ("\"a", "invalid filter \"\\\"a\""),
        ] {
            let err = Filters::parse(&[text.to_owned()], SystemTime::now()).expect_err(text);
            assert_eq!(err.to_string(), message);
        }
        assert!(Filters::parse(&["a=b".to_owned()], SystemTime::now()).is_err());
    }

    #[test]
    fn fields_may_be_quoted() {
        assert_eq!(split("a,\"b,\"\"c\",").expect("fields"), ["a", "b,\"c", ""]);
    }

    #[test]
    fn spans_of_time_are_read() {
        assert_eq!(nanoseconds("1h30m"), Some(5_400_000_000_000));
        assert_eq!(nanoseconds("-1.5s"), Some(-1_500_000_000));
        assert_eq!(nanoseconds("5"), None);
        assert_eq!(nanoseconds(""), None);
    }
}
