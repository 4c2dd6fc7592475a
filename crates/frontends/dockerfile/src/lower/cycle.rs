//! Finds stages that need themselves.

use dockerfile_syntax::Span;

use super::Lower;
use crate::error::{Result, Trouble, text};

/// A record, the next link to look at, and the instruction that led here.
type Visit = (usize, usize, Option<Span>);

impl Lower<'_> {
    /// Refuses cycles over all records, needed or not. The walk keeps its own stack: a file may have many stages.
    pub(super) fn refuse_cycles(&self) -> Result<()> {
        let mut seen = vec![false; self.records.len()];
        let mut on_path = seen.clone();
        let mut path = Vec::new();
        for start in 0..self.records.len() {
            if let Some(spans) = self.cycle_from(start, &mut path, &mut seen, &mut on_path) {
                let name = &self.records[start].display;
                let error = Box::new(text(format!(
                    "circular dependency detected on stage: {name}"
                )));
                return Err(Trouble { error, spans });
            }
        }
        Ok(())
    }

    /// The instructions on the way from `start` into a cycle. Without one nothing is left on the path.
    fn cycle_from(
        &self,
        start: usize,
        path: &mut Vec<Visit>,
        seen: &mut [bool],
        on_path: &mut [bool],
    ) -> Option<Vec<Span>> {
        if std::mem::replace(&mut seen[start], true) {
            return None;
        }
        on_path[start] = true;
        path.clear();
        path.push((start, 0, None));
        while let Some((at, next, _)) = path.last_mut() {
            let at = *at;
            let Some(&(to, span)) = self.records[at].links.get(*next) else {
                on_path[at] = false;
                path.pop();
                continue;
            };
            *next += 1;
            if on_path[to] {
                let walked = path.iter().filter_map(|(_, _, span)| *span);
                return Some(walked.chain([span]).collect());
            }
            if !std::mem::replace(&mut seen[to], true) {
                on_path[to] = true;
                path.push((to, 0, Some(span)));
            }
        }
        None
    }
}
