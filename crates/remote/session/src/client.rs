//! The client's end of a session: opens it and serves what the daemon calls.
