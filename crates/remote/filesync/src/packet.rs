//! Packets, made and taken apart.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use proto::fsutil::packet::PacketType;
use proto::fsutil::{Packet, Stat};
use tokio::sync::mpsc;
use tonic::Status;

/// What the other side sends.
pub type Incoming = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

/// Takes what a receiver sends. Unbounded, because requests are tiny and a receiver that waits for room to ask could
/// wait for a sender that waits for room to answer.
pub type Replies = mpsc::UnboundedSender<Result<Packet, Status>>;

/// Takes what a sender sends, several packets at a time.
pub(crate) type Batches = mpsc::Sender<Result<Vec<Packet>, Status>>;

fn packet(kind: PacketType) -> Packet {
    Packet {
        r#type: kind.into(),
        ..Packet::default()
    }
}

/// An entry of the listing.
pub(crate) fn stat(stat: Stat) -> Packet {
    Packet {
        stat: Some(stat),
        ..packet(PacketType::PacketStat)
    }
}

/// The end of the listing.
pub(crate) fn end_of_list() -> Packet {
    packet(PacketType::PacketStat)
}

/// Asks for the content of a file.
pub(crate) fn request(id: u32) -> Packet {
    Packet {
        id,
        ..packet(PacketType::PacketReq)
    }
}

/// A part of a file; an empty one ends it.
pub(crate) fn data(id: u32, data: Bytes) -> Packet {
    Packet {
        id,
        data,
        ..packet(PacketType::PacketData)
    }
}

/// Nothing more is wanted, or will come.
pub(crate) fn fin() -> Packet {
    packet(PacketType::PacketFin)
}

/// Gives up.
pub(crate) fn error(text: &str) -> Packet {
    Packet {
        data: Bytes::copy_from_slice(text.as_bytes()),
        ..packet(PacketType::PacketErr)
    }
}

/// The text of a packet that gives up.
pub(crate) fn error_text(packet: &Packet) -> String {
    String::from_utf8_lossy(&packet.data).into_owned()
}
