//! The client's services: directories it offers, and places where results go.

mod dirs;
mod targets;

pub use dirs::{Dirs, METHODS as DIR_METHODS};
pub use targets::{FileTarget, METHODS as TARGET_METHODS, Target, Targets};
