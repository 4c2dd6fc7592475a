//! The environment of processes.

use std::sync::Arc;

/// Environment variables in the order of their last assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Env(Arc<Vec<(Arc<str>, Arc<str>)>>);

impl Env {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| &**name == key)
            .map(|(_, value)| &**value)
    }

    /// Sets `key`; it becomes the last one.
    pub fn set(&mut self, key: &str, value: &str) {
        let Some(at) = self.0.iter().position(|(name, _)| &**name == key) else {
            return Arc::make_mut(&mut self.0).push((Arc::from(key), Arc::from(value)));
        };
        let same = &*self.0[at].1 == value;
        if same && at + 1 == self.0.len() {
            return;
        }
        let list = Arc::make_mut(&mut self.0);
        list[at..].rotate_left(1);
        if !same && let Some(last) = list.last_mut() {
            last.1 = Arc::from(value);
        }
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &str) {
        if self.get(key).is_some() {
            Arc::make_mut(&mut self.0).retain(|(name, _)| &**name != key);
        }
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// `KEY=value` in order.
    pub fn to_list(&self) -> Vec<String> {
        let line = |(name, value): (&str, &str)| {
            let mut line = String::with_capacity(name.len() + 1 + value.len());
            line.extend([name, "=", value]);
            line
        };
        self.iter().map(line).collect()
    }
}
