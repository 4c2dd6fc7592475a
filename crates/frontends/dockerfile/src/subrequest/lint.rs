//! What is wrong with a Dockerfile.

use dockerfile_syntax::Span;
use dockerfile_syntax::lint::{Finding, Linter};
use proto::{gojson, pb};
use serde_json::{Map, Value, json};

use super::{Answer, location, new_answer, object, parsed};
use crate::check_config;
use crate::error::{Result, Trouble, ranges};
use crate::files::{Files, Source};
use crate::lower::{Wish, lower};

/// A build error is part of the answer.
pub(super) async fn lint(files: &Files, source: &Source) -> Result<Answer> {
    let mut linter = Linter::off();
    let outcome = match check_config(files, source) {
        Err(trouble) => Err(trouble),
        Ok(config) => {
            linter = Linter::new(config);
            let all_stages = files.options.target.is_empty();
            let wish = Wish {
                all_stages,
                ..Wish::default()
            };
            lower(files, source, wish, &mut linter).await.map(drop)
        }
    };
    let mut findings: Vec<&Finding> = linter.findings().iter().collect();
    let warnings: Vec<Value> = findings.iter().map(|finding| warning(finding)).collect();
    let failed = outcome.is_err();
    let mut json = Map::new();
    let warnings = if warnings.is_empty() {
        Value::Null
    } else {
        warnings.into()
    };
    json.insert("warnings".to_owned(), warnings);
    json.insert(
        "sources".to_owned(),
        json!([parsed(&gojson::to_string(&source.map.info()))]),
    );
    if let Err(trouble) = outcome {
        json.insert("buildError".to_owned(), build_error(trouble));
    }
    findings.sort_by_key(|finding| finding.span.first);
    let shown = findings
        .iter()
        .map(|finding| shown(finding, source))
        .collect();
    let mut answer = new_answer(&Value::Object(json), Some(shown), "1.0.0");
    let status = if failed || !findings.is_empty() {
        "1"
    } else {
        "0"
    };
    answer.insert("result.statuscode", status.to_owned());
    Ok(answer)
}

fn warning(finding: &Finding) -> Value {
    object([
        ("ruleName", finding.rule.name.into()),
        ("description", finding.rule.description.into()),
        ("url", finding.rule.url.into()),
        ("detail", finding.message.clone().into()),
        ("location", location(finding.span)),
    ])
}

fn shown(finding: &Finding, source: &Source) -> String {
    let mut text = format!("\nWARNING: {}", finding.rule.name);
    if !finding.rule.url.is_empty() {
        text.push_str(&format!(" - {}", finding.rule.url));
    }
    text.push_str(&format!("\n{}\n", finding.message));
    let info = source.map.info();
    text.push_str(
        &diagnostics::excerpt(&info, &ranges::<Vec<_>>(finding.span)).unwrap_or_default(),
    );
    text
}

/// The message, and all its lines in order, each once.
fn build_error(trouble: Trouble) -> Value {
    let mut lines: Vec<u32> = trouble.spans.iter().flat_map(|span| span.lines()).collect();
    lines.sort_unstable();
    lines.dedup();
    let places = lines
        .into_iter()
        .flat_map(|line| ranges::<Vec<_>>(Span::line(line)));
    let location = pb::Location {
        source_index: 0,
        ranges: places.collect(),
    };
    json!({
        "message": trouble.error.to_string(),
        "location": parsed(&gojson::to_string(&location)),
    })
}
