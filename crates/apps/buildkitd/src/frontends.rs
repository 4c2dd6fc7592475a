//! Which frontends there are.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use control::{Door, WorkerRecord};
use frontend::Frontend;
use serde::Deserialize;

/// `[frontend."…"]` of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Frontends {
    #[serde(rename = "dockerfile.v0")]
    pub dockerfile: Dockerfile,
    #[serde(rename = "gateway.v0")]
    pub gateway: Gateway,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Dockerfile {
    pub enabled: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Gateway {
    pub enabled: Option<bool>,
    /// Where frontends may come from; nothing: anywhere.
    #[serde(rename = "allowedRepositories")]
    pub allowed_repositories: Vec<String>,
}

/// Those that are not switched off.
pub(crate) fn wire(config: &Frontends, worker: &WorkerRecord) -> Result<Vec<Arc<dyn Frontend>>> {
    let mut list: Vec<Arc<dyn Frontend>> = Vec::new();
    if config.dockerfile.enabled.unwrap_or(true) {
        list.push(Arc::new(dockerfile::Dockerfile::default()));
    }
    if config.gateway.enabled.unwrap_or(true) {
        let door = Arc::new(Door::new(worker.clone()));
        let gateway = gateway::Gateway::new(door, &config.gateway.allowed_repositories);
        list.push(Arc::new(gateway.context("allowedRepositories")?));
    }
    Ok(list)
}
