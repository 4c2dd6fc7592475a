//! What the client gets: results, and the metadata that goes with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use frontend::{Outcome, Reference};
use oci::Platform;
use serde::Serialize;

use crate::error::{Locate, Result};
use crate::files::Files;
use crate::image::Image;
use crate::lower::Lowered;
use crate::sbom::Scanner;

/// One platform, solved.
pub(crate) struct Built {
    pub(crate) platform: Option<Platform>,
    pub(crate) reference: Option<Arc<dyn Reference>>,
    pub(crate) lowered: Lowered,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Platforms {
    platforms: Vec<Exported>,
}

#[derive(Serialize)]
struct Exported {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

pub(crate) async fn answer(
    files: &Files,
    scanner: Option<&Scanner>,
    built: Vec<Built>,
) -> Result<Outcome> {
    let by_platform = files.options.platform_map;
    let mut outcome = Outcome::default();
    let mut platforms = Vec::with_capacity(built.len());
    for one in &built {
        let exported = exported(one.platform.as_ref(), &one.lowered.image);
        let suffix = if by_platform {
            format!("/{}", exported.id)
        } else {
            String::new()
        };
        one.lowered
            .image
            .check_times()
            .context("failed to marshal image config")?;
        add_metadata(&mut outcome.metadata, &suffix, &one.lowered);
        if by_platform {
            outcome
                .platforms
                .insert(exported.id.clone(), one.reference.clone());
        } else {
            outcome.single = Some(one.reference.clone());
        }
        platforms.push(exported);
    }
    if let Some(scanner) = scanner {
        for (one, exported) in built.iter().zip(&platforms) {
            let attestation = scanner.scan(files, &exported.id, &one.lowered).await?;
            outcome
                .attestations
                .entry(exported.id.clone())
                .or_default()
                .push(attestation);
        }
    }
    let list = oci::json::compact(&Platforms { platforms }).unwrap_or_default();
    outcome
        .metadata
        .insert("refs.platforms".to_owned(), list.into());
    Ok(outcome)
}

fn add_metadata(metadata: &mut BTreeMap<String, Bytes>, suffix: &str, lowered: &Lowered) {
    let mut add = |key: &str, value: Vec<u8>| {
        metadata.insert(format!("{key}{suffix}"), value.into());
    };
    add("containerimage.config", lowered.image.to_json());
    if let Some(base) = &lowered.base_image {
        add("containerimage.base.config", base.to_json());
    }
    if let Some(epoch) = lowered.epoch {
        add("source.date.epoch", epoch.to_string().into_bytes());
    }
}

/// The platform as exporters see it. Windows versions come from the image if nobody asked for one.
fn exported(platform: Option<&Platform>, image: &Image) -> Exported {
    let mut platform = platform
        .cloned()
        .unwrap_or_else(Platform::host)
        .normalized();
    let id = platform.to_string();
    if platform.os == "windows" && image.os == platform.os {
        if platform.os_version.is_empty() {
            platform.os_version.clone_from(&image.os_version);
        }
        if platform.os_features.is_empty() {
            platform.os_features.clone_from(&image.os_features);
        }
        platform = platform.normalized();
    }
    Exported { id, platform }
}
