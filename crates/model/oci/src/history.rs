//! How an image was made, step by step, and how that is brought into line with its layers.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// One step. Field order is the order in which upstream writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// When it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The command.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who did it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// It made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// What is known of a layer besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOrigin {
    /// When it was made.
    pub created: Option<Timestamp>,
    /// How; may be empty.
    pub description: String,
}

/// Makes the steps that are not empty correspond to the layers one by one and gives every step a time. Also says
/// whether there were steps too many, which is worth a warning.
pub fn align_history(mut history: Vec<History>, layers: &[LayerOrigin]) -> (Vec<History>, bool) {
    let mut used = 0;
    let mut unaccounted = false;
    for step in history.iter_mut().filter(|step| !step.empty_layer) {
        match layers.get(used) {
            Some(layer) => {
                step.created = step.created.or(layer.created);
                used += 1;
            }
            None => {
                step.empty_layer = true;
                unaccounted = true;
            }
        }
    }
    for layer in &layers[used..] {
        let described = !layer.description.is_empty();
        history.push(History {
            created: layer.created,
            created_by: if described {
                layer.description.clone()
            } else {
                "created by buildkit".to_owned()
            },
            comment: "buildkit.exporter.image.v0".to_owned(),
            ..History::default()
        });
    }
    fill_times(&mut history);
    (history, unaccounted)
}

/// The first gap takes the next known time, or else the last one; later gaps take the time last seen.
fn fill_times(history: &mut [History]) {
    let gap = history.iter().position(|step| step.created.is_none());
    let Some(gap) = gap else {
        return;
    };
    let (before, after) = history.split_at(gap);
    let next = after.iter().find_map(|step| step.created);
    let last = before.iter().rev().find_map(|step| step.created);
    let mut time = next.or(last);
    for step in &mut history[gap..] {
        match step.created {
            Some(created) => time = Some(created),
            None => step.created = time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp::from_seconds(seconds))
    }

    fn step(created: Option<Timestamp>, empty_layer: bool) -> History {
        History {
            created,
            empty_layer,
            ..History::default()
        }
    }

    fn layer(seconds: i64) -> LayerOrigin {
        LayerOrigin {
            created: at(seconds),
            description: String::new(),
        }
    }

    fn times(history: &[History]) -> Vec<Option<i64>> {
        let seconds = |step: &History| step.created.map(Timestamp::seconds);
        history.iter().map(seconds).collect()
    }

    #[test]
    fn steps_too_many_become_empty() {
        let steps = vec![step(at(1), false), step(None, true), step(at(3), false)];
        let (history, unaccounted) = align_history(steps, &[layer(9)]);
        assert!(unaccounted);
        assert_eq!(
            history
                .iter()
                .map(|step| step.empty_layer)
                .collect::<Vec<_>>(),
            [false, true, true]
        );
    }

    #[test]
    fn layers_without_a_step_get_one() {
        let mut extra = layer(6);
        extra.description = "merge".to_owned();
        let (history, unaccounted) =
            align_history(vec![step(None, false)], &[layer(5), extra, layer(7)]);
        assert!(!unaccounted);
        assert_eq!(times(&history), [Some(5), Some(6), Some(7)]);
        assert_eq!(history[1].created_by, "merge");
        assert_eq!(history[2].created_by, "created by buildkit");
        assert_eq!(history[2].comment, "buildkit.exporter.image.v0");
    }

    #[test]
    fn gaps_take_the_next_time_first_and_the_last_one_later() {
        let gap = || step(None, true);
        let known = |seconds| step(at(seconds), true);
        let (history, _) = align_history(vec![known(1), gap(), known(5), gap(), known(7)], &[]);
        assert_eq!(
            times(&history),
            [Some(1), Some(5), Some(5), Some(5), Some(7)]
        );
        let (history, _) = align_history(vec![known(1), known(2), gap(), gap()], &[]);
        assert_eq!(times(&history), [Some(1), Some(2), Some(2), Some(2)]);
        let (history, _) = align_history(vec![gap()], &[]);
        assert_eq!(times(&history), [None]);
    }
}
