//! The client that asked for a build, as the daemon reaches it; and the other end of that, for clients of ours.
//!
//! A session is an HTTP/2 connection inside a gRPC stream, in which the client is the server. [`Manager`] keeps the
//! sessions of a daemon, [`Group`] is what a build sees of them, and the modules beside them are the calls a build
//! makes: [`auth`], [`secrets`], [`ssh`], [`upload`], [`stores`], [`exporters`]. Files are the business of `filesync`, which uses
//! [`Session::channel`]. [`client`] opens a session and serves it.
//!
//! Invariant: every call ends when its own context ends and when its session ends.

pub mod auth;
pub mod client;
mod error;
pub mod exporters;
mod health;
mod manager;
pub mod metadata;
mod secret;
pub mod secrets;
pub mod ssh;
pub mod stores;
mod tunnel;
mod turns;
pub mod upload;

pub use error::Error;
pub use manager::{Group, Manager, Outgoing, Session};
pub use secret::Secret;
pub use tunnel::Tunnel;

/// The largest message either side accepts on the control socket, and the daemon inside a session.
pub const MAX_MESSAGE: usize = 16 << 20;
/// The largest chunk a stock client's session server accepts comfortably.
pub const MAX_CHUNK: usize = 3 << 20;
/// Flow-control window of one stream, on the control socket and inside a session. The default of 64 KiB would throttle a
/// transfer to a crawl; what arrives and is not looked at yet is held in memory.
pub const STREAM_WINDOW: u32 = 2 << 20;
/// Flow-control window of a connection.
pub const CONNECTION_WINDOW: u32 = 4 << 20;
/// Largest frame we accept, on the control socket and inside a session; fewer, larger frames cost less.
pub const FRAME_SIZE: u32 = 64 << 10;
/// Bytes of a file in one message. With all that is wrapped around it, such a message is one frame; and no buffer on its
/// way is so large that the allocator has it mapped, and every page of it zeroed, each time.
pub const PART: usize = 60 << 10;
/// Error details travel in a trailer, and a trailer is a header list.
pub const HEADER_LIST: u32 = 16 << 20;
