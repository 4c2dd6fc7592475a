//! What is said of an op: `pb.OpMetadata`, by hand.
//!
//! A definition has thousands of them, and each has two maps of a few entries. Here those are short sorted lists that
//! clones share, names that are known when the program is built are not copied, and what most ops do not have takes the
//! room of a pointer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use smallvec::SmallVec;

use crate::pb::{ExportCache, LinuxResources, ProgressGroup};

/// A map with few entries, as a rule, in the order of their names.
#[derive(Clone, PartialEq, Eq)]
pub struct SmallMap<V>(Option<Arc<Entries<V>>>);

#[derive(Clone, PartialEq, Eq)]
enum Entries<V> {
    /// In order.
    Few(SmallVec<[(Cow<'static, str>, V); 2]>),
    /// So many that finding the place of the next would take long.
    Many(BTreeMap<Cow<'static, str>, V>),
}

/// As many as a list may have.
const FEW: usize = 64;

impl<V> SmallMap<V> {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&V> {
        match self.0.as_deref()? {
            Entries::Few(list) => list
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value),
            Entries::Many(map) => map.get(name),
        }
    }

    /// Names and values in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        let entries = self.entries();
        entries.map(|(name, value)| (&**name, value))
    }

    /// Names in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn entries(&self) -> impl Iterator<Item = (&Cow<'static, str>, &V)> {
        let (few, many) = match self.0.as_deref() {
            None => (None, None),
            Some(Entries::Few(list)) => (Some(list), None),
            Some(Entries::Many(map)) => (None, Some(map)),
        };
        let few = few.into_iter().flatten().map(|(name, value)| (name, value));
        few.chain(many.into_iter().flatten())
    }
}

impl<V> Default for Entries<V> {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl<V: Clone> SmallMap<V> {
    /// Sets `name`. Whoever shares the map does not see it.
    pub fn insert(&mut self, name: impl Into<Cow<'static, str>>, value: V) {
        let name = name.into();
        let entries = Arc::make_mut(self.0.get_or_insert_default());
        match entries {
            Entries::Few(list) => match list.binary_search_by(|(known, _)| known.cmp(&name)) {
                Ok(at) => list[at].1 = value,
                Err(at) if list.len() < FEW => list.insert(at, (name, value)),
                Err(_) => {
                    let all = std::mem::take(list).into_iter().chain([(name, value)]);
                    *entries = Entries::Many(all.collect());
                }
            },
            Entries::Many(map) => {
                map.insert(name, value);
            }
        }
    }

    /// Takes over what `other` says.
    pub fn update(&mut self, other: &Self) {
        if self.is_empty() {
            self.clone_from(other);
            return;
        }
        for (name, value) in other.entries() {
            self.insert(name.clone(), value.clone());
        }
    }
}

impl<V> Default for SmallMap<V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<V: fmt::Debug> fmt::Debug for SmallMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<N: Into<Cow<'static, str>>, V: Clone> FromIterator<(N, V)> for SmallMap<V> {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (name, value) in entries {
            map.insert(name, value);
        }
        map
    }
}

/// An entry of a map of texts, as it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// An entry of a map of flags, as it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Flag {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    value: bool,
}

const NAME: u32 = 1;
const VALUE: u32 = 2;

/// Writes a map whose values `write` writes, each behind its tag, and `length` measures.
fn write_map<V, B: BufMut>(
    tag: u32,
    map: &SmallMap<V>,
    length: impl Fn(u32, &V) -> usize,
    write: impl Fn(u32, &V, &mut B),
    buf: &mut B,
) {
    for (name, value) in map.iter() {
        encoding::encode_key(tag, WireType::LengthDelimited, buf);
        let entry = framed(NAME, name.len()) + length(VALUE, value);
        encoding::encode_varint(entry as u64, buf);
        // Compat: both are there even if they are empty.
        encoding::encode_key(NAME, WireType::LengthDelimited, buf);
        encoding::encode_varint(name.len() as u64, buf);
        buf.put_slice(name.as_bytes());
        write(VALUE, value, buf);
    }
}

fn map_length<V>(tag: u32, map: &SmallMap<V>, length: impl Fn(u32, &V) -> usize) -> usize {
    let entry = |(name, value): (&str, &V)| framed(NAME, name.len()) + length(VALUE, value);
    map.iter().map(|it| framed(tag, entry(it))).sum()
}

/// The length of a field that says how long it is.
pub(crate) fn framed(tag: u32, length: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(length as u64) + length
}

/// What is said of an op without being part of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OpMetadata {
    /// Always run.
    pub ignore_cache: bool,
    /// Free text; `llb.customname` is the name users see.
    pub description: SmallMap<String>,
    /// Whether the op may go into exported caches.
    pub export_cache: Option<ExportCache>,
    /// The capabilities it needs.
    pub caps: SmallMap<bool>,
    /// Shown as one line with others.
    pub progress_group: Option<Arc<ProgressGroup>>,
    /// Limits of a command.
    pub linux_resources: Option<Arc<LinuxResources>>,
}

impl OpMetadata {
    /// Takes over what `other` says. Whoever wants no cache prevails.
    pub fn update(&mut self, other: Self) {
        self.ignore_cache |= other.ignore_cache;
        self.description.update(&other.description);
        self.caps.update(&other.caps);
        self.export_cache = other.export_cache.or(self.export_cache.take());
        self.progress_group = other.progress_group.or(self.progress_group.take());
        self.linux_resources = other.linux_resources.or(self.linux_resources.take());
    }
}

impl prost::Message for OpMetadata {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        use encoding::{bool, string};
        if self.ignore_cache {
            encoding::bool::encode(1, &self.ignore_cache, buf);
        }
        write_map(
            2,
            &self.description,
            string::encoded_len,
            string::encode,
            buf,
        );
        if let Some(export) = &self.export_cache {
            encoding::message::encode(4, export, buf);
        }
        write_map(5, &self.caps, bool::encoded_len, bool::encode, buf);
        if let Some(group) = self.progress_group.as_deref() {
            encoding::message::encode(6, group, buf);
        }
        if let Some(resources) = self.linux_resources.as_deref() {
            encoding::message::encode(7, resources, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        use encoding::message::merge;
        match tag {
            1 => encoding::bool::merge(wire, &mut self.ignore_cache, buf, context),
            2 => {
                let mut entry = Text::default();
                merge(wire, &mut entry, buf, context)?;
                self.description.insert(entry.name, entry.value);
                Ok(())
            }
            4 => {
                let export = self.export_cache.get_or_insert_default();
                merge(wire, export, buf, context)
            }
            5 => {
                let mut entry = Flag::default();
                merge(wire, &mut entry, buf, context)?;
                self.caps.insert(entry.name, entry.value);
                Ok(())
            }
            6 => {
                let group = self.progress_group.get_or_insert_default();
                merge(wire, Arc::make_mut(group), buf, context)
            }
            7 => {
                let resources = self.linux_resources.get_or_insert_default();
                merge(wire, Arc::make_mut(resources), buf, context)
            }
            _ => encoding::skip_field(wire, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        use encoding::{bool, string};
        let ignore_cache = match self.ignore_cache {
            true => encoding::bool::encoded_len(1, &true),
            false => 0,
        };
        let export = self.export_cache.as_ref();
        let group = self.progress_group.as_deref();
        let resources = self.linux_resources.as_deref();
        ignore_cache
            + map_length(2, &self.description, string::encoded_len)
            + export.map_or(0, |it| encoding::message::encoded_len(4, it))
            + map_length(5, &self.caps, bool::encoded_len)
            + group.map_or(0, |it| encoding::message::encoded_len(6, it))
            + resources.map_or(0, |it| encoding::message::encoded_len(7, it))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl prost::Name for OpMetadata {
    const NAME: &'static str = "OpMetadata";
    const PACKAGE: &'static str = "pb";
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn texts(entries: &[(&'static str, &str)]) -> SmallMap<String> {
        let owned = entries
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        owned.collect()
    }

    #[test]
    fn entries_are_in_order_and_later_ones_win() {
        let map = texts(&[("b", "1"), ("a", "2"), ("c", "3"), ("b", "4")]);
        let list: Vec<(&str, &str)> = map.iter().map(|(name, value)| (name, &**value)).collect();
        assert_eq!(list, [("a", "2"), ("b", "4"), ("c", "3")]);
        assert_eq!(map.get("b").map(String::as_str), Some("4"));
        assert_eq!(map.get("d"), None);
    }

    #[test]
    fn who_shares_a_map_does_not_see_changes() {
        let first = texts(&[("a", "1")]);
        let mut second = first.clone();
        second.update(&texts(&[("a", "2"), ("b", "3")]));
        assert_eq!(first, texts(&[("a", "1")]));
        assert_eq!(second, texts(&[("a", "2"), ("b", "3")]));
    }

    #[test]
    fn very_many_entries_are_no_trouble() {
        // Inserting into a list of them would move terabytes.
        let mut map = SmallMap::default();
        for number in (0..300_000).rev() {
            map.insert(format!("{number:06}"), true);
        }
        map.insert("000007", false);
        assert!(map.keys().is_sorted());
        assert_eq!(map.iter().count(), 300_000);
        assert_eq!(map.get("000007"), Some(&false));
        assert_eq!(map.get("300000"), None);
        let caps = map;
        let metadata = OpMetadata {
            caps,
            ..OpMetadata::default()
        };
        let bytes = metadata.encode_to_vec();
        assert_eq!(
            OpMetadata::decode(bytes.as_slice()).expect("decoded"),
            metadata
        );
    }

    #[test]
    fn all_of_it_survives_a_round_trip() {
        let metadata = OpMetadata {
            ignore_cache: true,
            description: texts(&[
                ("llb.customname", "a name"),
                ("", ""),
                ("long", &"x".repeat(300)),
            ]),
            export_cache: Some(ExportCache { value: false }),
            caps: [("exec.meta.base", true), ("other", false)]
                .into_iter()
                .collect(),
            progress_group: Some(Arc::new(ProgressGroup {
                id: "1".to_owned(),
                ..ProgressGroup::default()
            })),
            linux_resources: Some(Arc::default()),
        };
        let bytes = metadata.encode_to_vec();
        assert_eq!(bytes.len(), metadata.encoded_len());
        assert_eq!(
            OpMetadata::decode(bytes.as_slice()).expect("decoded"),
            metadata
        );
    }

    #[test]
    fn what_is_no_metadata_is_refused_and_what_is_unknown_skipped() {
        let text = |bytes: &[u8]| OpMetadata::decode(bytes).map_err(|err| err.to_string());
        assert_eq!(text(b"\x18\x01"), Ok(OpMetadata::default()));
        assert!(text(b"\x10\x01").is_err(), "a number is no entry");
        assert!(text(b"\x12\x05\x0a\x01").is_err(), "cut short");
        assert!(text(b"\x12\x03\x0a\x01\xff").is_err(), "no text");
    }
}
