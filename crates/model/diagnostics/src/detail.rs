//! Typed details and their form on the wire: JSON in an `Any`.

use bytes::Bytes;
use prost::{Message, Name};
use proto::{errdefs, gateway, gojson, pb, policysession, protojson, rpc, stack};

/// One fact about a failure that tools read.
#[derive(Debug, Clone, PartialEq)]
pub enum Detail {
    /// The op that failed, by the digest the definition gives it.
    Vertex {
        /// Digest of the op.
        digest: String,
    },
    /// The place in a source file.
    Source {
        /// The file.
        info: pb::SourceInfo,
        /// Places in it.
        ranges: Vec<pb::Range>,
    },
    /// The frontend that failed.
    Frontend {
        /// `dockerfile.v0` or `gateway.v0`.
        name: String,
        /// Image of a gateway frontend, else empty.
        source: String,
    },
    /// A capability a frontend does not have.
    FrontendCap {
        /// Its name.
        name: String,
    },
    /// A request a frontend does not answer.
    Subrequest {
        /// Its name.
        name: String,
    },
    /// What was solved, and the states one can look into afterwards.
    Solve(Box<errdefs::Solve>),
    /// A process ended with this code.
    Exit {
        /// Exit code.
        code: u32,
    },
    /// A feature that the compatibility version of the build refuses.
    CompatibilityFeature {
        /// The version asked for.
        version: i64,
        /// The feature.
        feature: String,
    },
    /// Requests of a captured step that provenance cannot record.
    IncompleteMaterials(errdefs::ProvenanceMaterialsIncomplete),
    /// A source policy of the client said no.
    Policy(Box<policysession::DecisionResponse>),
    /// Where in a program the error was made.
    Stack(Box<stack::Stack>),
    /// A detail we do not know; passed on as it is.
    Unknown {
        /// Type of the value.
        type_url: String,
        /// The value as it came.
        value: Bytes,
    },
}

const PREFIX: &str = "github.com/moby/buildkit/";
const SUFFIX: &str = "+json";

const STACK: &str = "stack.Stack";
const VERTEX: &str = "errdefs.Vertex";
const SOURCE: &str = "errdefs.Source";
const FRONTEND: &str = "errdefs.Frontend";
const FRONTEND_CAP: &str = "errdefs.FrontendCap";
const SUBREQUEST: &str = "errdefs.Subrequest";
const SOLVE: &str = "errdefs.Solve";
const COMPATIBILITY: &str = "errdefs.CompatibilityFeature";
const MATERIALS: &str = "errdefs.ProvenanceMaterialsIncomplete";
const EXIT: &str = "gatewayapi.ExitMessage";
const POLICY: &str = "policysession.DecisionResponse";

impl Detail {
    /// The detail as it goes on the wire.
    pub fn to_any(&self) -> prost_types::Any {
        match self {
            Self::Vertex { digest } => go(
                VERTEX,
                &errdefs::Vertex {
                    digest: digest.clone(),
                },
            ),
            Self::Source { info, ranges } => go(
                SOURCE,
                &errdefs::Source {
                    info: Some(info.clone()),
                    ranges: ranges.clone(),
                },
            ),
            Self::Frontend { name, source } => go(
                FRONTEND,
                &errdefs::Frontend {
                    name: name.clone(),
                    source: source.clone(),
                },
            ),
            Self::FrontendCap { name } => {
                go(FRONTEND_CAP, &errdefs::FrontendCap { name: name.clone() })
            }
            Self::Subrequest { name } => {
                go(SUBREQUEST, &errdefs::Subrequest { name: name.clone() })
            }
            Self::Solve(solve) => any(SOLVE, protojson::to_string(&**solve)),
            Self::Exit { code } => go(
                EXIT,
                &gateway::ExitMessage {
                    code: *code,
                    error: None,
                },
            ),
            Self::CompatibilityFeature { version, feature } => go(
                COMPATIBILITY,
                &errdefs::CompatibilityFeature {
                    version: *version,
                    feature: feature.clone(),
                },
            ),
            Self::IncompleteMaterials(materials) => go(MATERIALS, materials),
            Self::Policy(decision) => go(POLICY, &**decision),
            Self::Stack(stack) => go(STACK, &**stack),
            Self::Unknown { type_url, value } => prost_types::Any {
                type_url: type_url.clone(),
                value: value.to_vec(),
            },
        }
    }

    /// The detail from the wire. What cannot be read is kept unread.
    pub fn from_any(any: &prost_types::Any) -> Self {
        let name = any
            .type_url
            .strip_prefix(PREFIX)
            .and_then(|name| name.strip_suffix(SUFFIX));
        name.and_then(|name| read(name, &any.value))
            .unwrap_or_else(|| Self::Unknown {
                type_url: any.type_url.clone(),
                value: Bytes::copy_from_slice(&any.value),
            })
    }

    /// Call stacks go before everything else on the wire.
    pub(crate) fn is_stack(&self) -> bool {
        matches!(self, Self::Stack(_))
    }
}

fn any(name: &str, json: String) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("{PREFIX}{name}{SUFFIX}"),
        value: json.into_bytes(),
    }
}

fn go<M: Message + Name>(name: &str, message: &M) -> prost_types::Any {
    any(name, gojson::to_string(message))
}

fn read(name: &str, json: &[u8]) -> Option<Detail> {
    fn parse<M: Message + Name + Default>(json: &[u8]) -> Option<M> {
        gojson::from_slice(json).ok()
    }
    Some(match name {
        VERTEX => Detail::Vertex {
            digest: parse::<errdefs::Vertex>(json)?.digest,
        },
        SOURCE => {
            let source: errdefs::Source = parse(json)?;
            Detail::Source {
                info: source.info.unwrap_or_default(),
                ranges: source.ranges,
            }
        }
        FRONTEND => {
            let frontend: errdefs::Frontend = parse(json)?;
            Detail::Frontend {
                name: frontend.name,
                source: frontend.source,
            }
        }
        FRONTEND_CAP => Detail::FrontendCap {
            name: parse::<errdefs::FrontendCap>(json)?.name,
        },
        SUBREQUEST => Detail::Subrequest {
            name: parse::<errdefs::Subrequest>(json)?.name,
        },
        SOLVE => Detail::Solve(Box::new(protojson::from_slice(json).ok()?)),
        EXIT => Detail::Exit {
            code: parse::<gateway::ExitMessage>(json)?.code,
        },
        COMPATIBILITY => {
            let feature: errdefs::CompatibilityFeature = parse(json)?;
            Detail::CompatibilityFeature {
                version: feature.version,
                feature: feature.feature,
            }
        }
        MATERIALS => Detail::IncompleteMaterials(parse(json)?),
        POLICY => Detail::Policy(Box::new(parse(json)?)),
        STACK => Detail::Stack(Box::new(parse(json)?)),
        _ => return None,
    })
}

/// The details of a whole status, the outermost first.
///
/// Compat: who reads a status wraps what it says in each detail in turn, so the last one becomes the outermost. The order
/// in which clients print excerpts comes from that.
pub(crate) fn from_rpc(status: &rpc::Status) -> Vec<Detail> {
    status.details.iter().rev().map(Detail::from_any).collect()
}
