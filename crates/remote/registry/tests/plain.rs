//! The client against servers in this process that do what a test tells them to.

#[path = "plain/auth.rs"]
mod auth;
#[path = "plain/fetch.rs"]
mod fetch;
#[path = "plain/push.rs"]
mod push;
#[path = "plain/referrers.rs"]
mod referrers;
#[path = "plain/resolve.rs"]
mod resolve;
#[path = "support/server.rs"]
mod server;
#[path = "support/world.rs"]
mod world;
