//! A graph on the wire: `pb.Definition` and the places of its ops, by hand.
//!
//! A definition names each op twice, by a digest of 71 bytes, and most ops have one place of one range. Here names are
//! slices of text that others share, and short lists lie where they belong.

use std::collections::BTreeMap;

use bytes::Bytes;
use bytestring::ByteString;
use prost::DecodeError;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType};
use smallvec::SmallVec;

use crate::metadata::{OpMetadata, framed};
use crate::pb::{Range, SourceInfo};

const NAME: u32 = 1;
const VALUE: u32 = 2;

/// A graph.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Definition {
    /// Marshalled ops, inputs before users; the last one has exactly one input and no kind.
    pub def: Vec<Bytes>,
    /// What is said of ops, by their digests.
    pub metadata: BTreeMap<ByteString, OpMetadata>,
    /// Where they were written.
    pub source: Option<Source>,
}

/// Files that a graph was made from, and the places of its ops in them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Source {
    /// Places by digests of ops.
    pub locations: BTreeMap<ByteString, Locations>,
    /// The files.
    pub infos: Vec<SourceInfo>,
}

/// Places of an op.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Locations {
    /// As a rule, one.
    pub locations: SmallVec<[Location; 1]>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Location {
    /// Which one of [`Source::infos`].
    pub source_index: i32,
    /// As a rule, one.
    pub ranges: SmallVec<[Range; 1]>,
}

/// An entry of [`Definition::metadata`] as it is read.
#[derive(Clone, PartialEq, Message)]
struct About {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(message, optional, tag = "2")]
    value: Option<OpMetadata>,
}

/// An entry of [`Source::locations`] as it is read.
#[derive(Clone, PartialEq, Message)]
struct Placed {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(message, optional, tag = "2")]
    value: Option<Locations>,
}

fn text(name: Bytes) -> Result<ByteString, DecodeError> {
    ByteString::try_from(name).map_err(|_| {
        // The constructor of this error is not public: a text that is none makes one.
        let mut nothing = String::new();
        let mut invalid = &b"\x01\xff"[..];
        let read = encoding::string::merge(
            WireType::LengthDelimited,
            &mut nothing,
            &mut invalid,
            DecodeContext::default(),
        );
        read.err()
            .unwrap_or_else(|| unreachable!("0xff is in no text"))
    })
}

fn entry_length(name: &str, value: &impl Message) -> usize {
    framed(NAME, name.len()) + framed(VALUE, value.encoded_len())
}

fn write_map<V: Message>(tag: u32, map: &BTreeMap<ByteString, V>, buf: &mut impl BufMut) {
    for (name, value) in map {
        encoding::encode_key(tag, WireType::LengthDelimited, buf);
        encoding::encode_varint(entry_length(name, value) as u64, buf);
        // Compat: both are there even if they are empty.
        encoding::encode_key(NAME, WireType::LengthDelimited, buf);
        encoding::encode_varint(name.len() as u64, buf);
        buf.put_slice(name.as_bytes());
        encoding::message::encode(VALUE, value, buf);
    }
}

fn map_length<V: Message>(tag: u32, map: &BTreeMap<ByteString, V>) -> usize {
    let entries = map.iter();
    entries
        .map(|(name, value)| framed(tag, entry_length(name, value)))
        .sum()
}

fn write_list<M: Message>(tag: u32, list: &[M], buf: &mut impl BufMut) {
    for message in list {
        encoding::message::encode(tag, message, buf);
    }
}

fn list_length<M: Message>(tag: u32, list: &[M]) -> usize {
    let lengths = list.iter().map(Message::encoded_len);
    lengths.map(|length| framed(tag, length)).sum()
}

/// Reads one message of a list.
fn read<M: Message + Default>(
    wire: WireType,
    buf: &mut impl Buf,
    context: DecodeContext,
) -> Result<M, DecodeError> {
    let mut message = M::default();
    encoding::message::merge(wire, &mut message, buf, context)?;
    Ok(message)
}

impl Message for Definition {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::bytes::encode_repeated(1, &self.def, buf);
        write_map(2, &self.metadata, buf);
        if let Some(source) = &self.source {
            encoding::message::encode(3, source, buf);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::bytes::merge_repeated(wire, &mut self.def, buf, context),
            2 => {
                let entry: About = read(wire, buf, context)?;
                let value = entry.value.unwrap_or_default();
                self.metadata.insert(text(entry.name)?, value);
                Ok(())
            }
            3 => {
                let source = self.source.get_or_insert_default();
                encoding::message::merge(wire, source, buf, context)
            }
            _ => encoding::skip_field(wire, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let source = self.source.as_ref();
        encoding::bytes::encoded_len_repeated(1, &self.def)
            + map_length(2, &self.metadata)
            + source.map_or(0, |it| encoding::message::encoded_len(3, it))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for Source {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        write_map(1, &self.locations, buf);
        write_list(2, &self.infos, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => {
                let entry: Placed = read(wire, buf, context)?;
                let value = entry.value.unwrap_or_default();
                self.locations.insert(text(entry.name)?, value);
                Ok(())
            }
            2 => {
                self.infos.push(read(wire, buf, context)?);
                Ok(())
            }
            _ => encoding::skip_field(wire, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        map_length(1, &self.locations) + list_length(2, &self.infos)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for Locations {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        write_list(1, &self.locations, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != 1 {
            return encoding::skip_field(wire, tag, buf, context);
        }
        self.locations.push(read(wire, buf, context)?);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        list_length(1, &self.locations)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Message for Location {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if self.source_index != 0 {
            encoding::int32::encode(1, &self.source_index, buf);
        }
        write_list(2, &self.ranges, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::int32::merge(wire, &mut self.source_index, buf, context),
            2 => {
                self.ranges.push(read(wire, buf, context)?);
                Ok(())
            }
            _ => encoding::skip_field(wire, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let index = match self.source_index {
            0 => 0,
            index => encoding::int32::encoded_len(1, &index),
        };
        index + list_length(2, &self.ranges)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

macro_rules! named {
    ($($name:ident)*) => {$(
        impl prost::Name for $name {
            const NAME: &'static str = stringify!($name);
            const PACKAGE: &'static str = "pb";
        }
    )*};
}
named!(Definition Source Locations Location);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::Position;

    /// The same messages as prost makes them.
    mod derived {
        use std::collections::BTreeMap;

        use crate::metadata::OpMetadata;
        use crate::pb::Range;

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Definition {
            #[prost(bytes = "vec", repeated, tag = "1")]
            pub(super) def: Vec<Vec<u8>>,
            #[prost(btree_map = "string, message", tag = "2")]
            pub(super) metadata: BTreeMap<String, OpMetadata>,
            #[prost(message, optional, tag = "3")]
            pub(super) source: Option<Source>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Source {
            #[prost(btree_map = "string, message", tag = "1")]
            pub(super) locations: BTreeMap<String, Locations>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Locations {
            #[prost(message, repeated, tag = "1")]
            pub(super) locations: Vec<Location>,
        }

        #[derive(Clone, PartialEq, prost::Message)]
        pub(super) struct Location {
            #[prost(int32, tag = "1")]
            pub(super) source_index: i32,
            #[prost(message, repeated, tag = "2")]
            pub(super) ranges: Vec<Range>,
        }
    }

    fn range(line: i32) -> Range {
        let at = |character| Some(Position { line, character });
        Range {
            start: at(0),
            end: at(9),
        }
    }

    fn location(source_index: i32, lines: &[i32]) -> Location {
        Location {
            source_index,
            ranges: lines.iter().map(|line| range(*line)).collect(),
        }
    }

    fn definition() -> Definition {
        let metadata = OpMetadata {
            ignore_cache: true,
            ..OpMetadata::default()
        };
        let places = |list: &[Location]| Locations {
            locations: list.into(),
        };
        let locations = [
            ("a".into(), places(&[location(0, &[1])])),
            (
                "b".into(),
                places(&[location(1, &[2, 3]), location(-1, &[])]),
            ),
        ];
        Definition {
            def: vec![Bytes::from_static(b"first"), Bytes::new()],
            metadata: [("a".into(), metadata)].into(),
            source: Some(Source {
                locations: locations.into(),
                infos: Vec::new(),
            }),
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let mut graph = definition();
        let inner = SourceInfo {
            filename: "Dockerfile".to_owned(),
            data: Bytes::from_static(b"FROM scratch"),
            definition: Some(definition()),
            language: "Dockerfile".to_owned(),
        };
        graph.source.as_mut().expect("set").infos.push(inner);
        let bytes = graph.encode_to_vec();
        assert_eq!(bytes.len(), graph.encoded_len());
        assert_eq!(Definition::decode(bytes.as_slice()).expect("read"), graph);
    }

    #[test]
    fn the_bytes_are_those_of_derived_messages() {
        let bytes = definition().encode_to_vec();
        let same = derived::Definition::decode(bytes.as_slice()).expect("read");
        assert_eq!(same.encode_to_vec(), bytes);
        let source = same.source.expect("a source");
        assert_eq!(source.locations["b"].locations[1].source_index, -1);
        assert_eq!(source.locations["b"].locations[0].ranges[1], range(3));
        assert!(same.metadata["a"].ignore_cache);
    }

    #[test]
    fn names_are_slices_of_what_was_read() {
        let bytes = Bytes::from(definition().encode_to_vec());
        let graph = Definition::decode(bytes.clone()).expect("read");
        let (name, _) = graph.metadata.first_key_value().expect("an entry");
        assert!(bytes.as_ptr_range().contains(&name.as_ptr()));
    }

    #[test]
    fn what_is_no_definition_is_refused_and_what_is_unknown_skipped() {
        let read = |bytes: &'static [u8]| Definition::decode(bytes);
        assert_eq!(read(b"\x20\x01").expect("skipped"), Definition::default());
        let empty = read(b"\x12\x00").expect("an entry of nothing");
        assert_eq!(empty.metadata[""], OpMetadata::default());
        let name = read(b"\x12\x03\x0a\x01\xff").expect_err("no text");
        assert!(name.to_string().contains("UTF-8"), "{name}");
        assert!(read(b"\x10\x01").is_err(), "a number is no entry");
        assert!(read(b"\x1a\x05\x0a\x01").is_err(), "cut short");
    }
}
