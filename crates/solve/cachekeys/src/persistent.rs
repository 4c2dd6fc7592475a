//! A key store that survives the daemon.
/// Keeps keys in the daemon's database.
#[derive(Debug)]
pub struct Persistent {}
