//! The contract of key stores, and the words it uses.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::Link;

macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// From its text.
            pub fn new(text: &str) -> Self {
                Self(Arc::from(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.to_string()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text! {
    /// Names a node within a store. Roots are named by their key digest everywhere, others by random texts.
    NodeId
}

text! {
    /// Names a result, as its result store does.
    ResultId
}

impl NodeId {
    /// A name nobody has used.
    pub fn random() -> Self {
        Self(identity::new_id().into())
    }

    /// Whether the node must not outlive the daemon.
    pub fn is_random(&self) -> bool {
        self.0.starts_with("random:")
    }
}

/// Which of several stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreId(pub u32);

impl StoreId {
    /// The daemon's own store, the only one that learns.
    pub const MAIN: Self = Self(0);
}

/// A record as its store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The result.
    pub result: ResultId,
    /// When the result was saved first.
    pub created: SystemTime,
}

/// A record and the store it is from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The store.
    pub store: StoreId,
    /// The result.
    pub result: ResultId,
    /// When the result was saved first.
    pub created: SystemTime,
}

/// A graph of nodes, links between them, and records on them.
///
/// 1. All calls are quick: none waits for a disk to take something.
/// 2. What was written is seen by every later call, from whatever thread.
/// 3. Answers are ordered by the order of their types.
/// 4. A node is there while it has a link out of it, a link into it, or a record.
/// 5. A store that cannot be written ignores writes. A store that cannot be read has nothing.
/// 6. What concerns `random:` nodes is forgotten when the daemon ends.
pub trait KeyStore: Send + Sync + 'static {
    /// Whether the node is there.
    fn contains(&self, node: &NodeId) -> bool;

    /// Where `link` leads to from `source`.
    fn targets(&self, source: &NodeId, link: &Link) -> Vec<NodeId>;

    /// All links out of `source`.
    fn links(&self, source: &NodeId) -> Vec<(Link, NodeId)>;

    /// All links into `target`.
    fn sources(&self, target: &NodeId) -> Vec<(NodeId, Link)>;

    /// The records on a node.
    fn records(&self, node: &NodeId) -> Vec<Stored>;

    /// The nodes that have records of this result.
    fn nodes(&self, result: &ResultId) -> Vec<NodeId>;

    /// All results there are records of.
    fn results(&self) -> Vec<ResultId>;

    /// The store as what it is, for whoever knows more about some of them.
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }

    /// Adds a link and both its nodes.
    fn add_link(&self, source: &NodeId, link: &Link, target: &NodeId) {
        let _ = (source, link, target);
    }

    /// Adds a record and its node. An older time wins over a newer one of the same result.
    fn add_record(&self, node: &NodeId, record: &Stored) {
        let _ = (node, record);
    }

    /// Removes a record.
    fn remove_record(&self, node: &NodeId, result: &ResultId) {
        let _ = (node, result);
    }

    /// Removes a node, its records, and the links to and from it.
    fn remove_node(&self, node: &NodeId) {
        let _ = node;
    }
}
