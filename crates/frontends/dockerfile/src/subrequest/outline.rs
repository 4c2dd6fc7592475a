//! What a target can be told, and which targets there are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dockerfile_syntax::lint::Linter;
use serde_json::{Value, json};

use super::table::table;
use super::{Answer, location, new_answer, object};
use crate::error::{Error, Result};
use crate::files::{Files, Source};
use crate::lower::{Outline, Wish};
use crate::lower_and_warn;

const VERSION: &str = "1.0.0";

fn sources(source: &Source) -> Value {
    json!([STANDARD.encode(&source.map.data)])
}

pub(super) async fn outline(files: &Files, source: &Source) -> Result<Answer> {
    let wish = Wish {
        outline: true,
        ..Wish::default()
    };
    let outline = lower_and_warn(files, source, wish)
        .await?
        .outline
        .unwrap_or_default();
    let args = outline.args.iter().map(|arg| {
        object([
            ("name", arg.name.clone().into()),
            ("description", arg.description.clone().into()),
            ("value", arg.value.clone().into()),
            ("location", location(arg.span)),
        ])
    });
    let needs = |needs: &[crate::lower::Need]| -> Value {
        let needs = needs.iter().map(|need| {
            object([
                ("name", need.name.clone().into()),
                ("required", need.required.into()),
                ("location", location(need.span)),
            ])
        });
        needs.collect()
    };
    let json = object([
        ("name", outline.name.clone().into()),
        ("description", outline.description.clone().into()),
        ("args", args.collect()),
        ("secrets", needs(&outline.secrets)),
        ("ssh", needs(&outline.ssh)),
        ("sources", sources(source)),
    ]);
    Ok(new_answer(&json, Some(shown(&outline)), VERSION))
}

fn shown(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = match outline.name.as_str() {
            "" => "(default)",
            name => name,
        };
        let mut rows = vec![["TARGET:", name].map(str::to_owned)];
        if !outline.description.is_empty() {
            rows.push(["DESCRIPTION:", &outline.description].map(str::to_owned));
        }
        text.push_str(&table(&rows, 1));
        text.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned)];
        rows.extend(
            outline
                .args
                .iter()
                .map(|arg| [arg.name.clone(), arg.value.clone(), arg.description.clone()]),
        );
        text.push_str(&table(&rows, 3));
        text.push('\n');
    }
    for (title, needs) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if needs.is_empty() {
            continue;
        }
        let mut rows = vec![[title, "REQUIRED"].map(str::to_owned)];
        rows.extend(needs.iter().map(|need| {
            let required = if need.required { "true" } else { "" };
            [need.name.clone(), required.to_owned()]
        }));
        text.push_str(&table(&rows, 3));
        text.push('\n');
    }
    text
}

/// Nothing is looked up and nothing expanded for this.
pub(super) fn targets(source: &Source) -> Result<Answer> {
    if source.map.data.is_empty() {
        // Compat: an empty file is told from one without instructions only where it is built.
        return Err(Error::Says("file with no instructions").into());
    }
    let file = dockerfile_syntax::parse(&source.map.data, &mut Linter::off())?;
    let last = file.stages.len().saturating_sub(1);
    let mut list = Vec::with_capacity(file.stages.len());
    let mut rows = vec![["TARGET", "DESCRIPTION"].map(str::to_owned)];
    for (number, stage) in file.stages.iter().enumerate() {
        let name = stage.name.clone().unwrap_or_default();
        let description = stage.doc.clone().unwrap_or_default();
        let shown = match (name.as_str(), number == last) {
            (name, false) => name.to_owned(),
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
        };
        rows.push([shown, description.clone()]);
        list.push(object([
            ("name", name.into()),
            ("default", (number == last).into()),
            ("description", description.into()),
            ("base", stage.base.to_string().into()),
            ("platform", stage.platform.clone().into()),
            ("location", location(stage.span)),
        ]));
    }
    let json = json!({"targets": list, "sources": sources(source)});
    Ok(new_answer(&json, Some(table(&rows, 1)), VERSION))
}
