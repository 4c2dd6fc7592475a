//! The client's services: directories it offers, and places where results go.

mod dirs;
mod make;
mod targets;

pub use dirs::{Dirs, METHODS as DIR_METHODS};
pub use make::make_all;
pub use targets::{FileTarget, METHODS as TARGET_METHODS, Target, Targets};
