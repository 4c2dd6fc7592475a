//! The definition key and the content queries of a file op, bit for bit upstream's.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contenthash::Query;
use oci::Digest;
use proto::pb::file_action::Action;
use proto::pb::user_opt::User;
use proto::{gojson, pb};
use solver::{CacheMap, InputMap};

use crate::json::{Object, strings};
use crate::meta::{clean, combined};

/// One place the op reads.
#[derive(Clone, Default)]
struct Place {
    /// As written.
    path: String,
    wildcard: bool,
    follow: bool,
    include: Vec<String>,
    exclude: Vec<String>,
    required: Vec<String>,
}

impl Place {
    fn is_filtered(&self) -> bool {
        self.wildcard
            || !self.include.is_empty()
            || !self.exclude.is_empty()
            || !self.required.is_empty()
    }

    fn query(&self) -> Query {
        Query {
            path: clean(&self.path),
            follow: self.follow,
            wildcard: self.wildcard,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            required: self.required.clone(),
        }
    }
}

/// What the keys of a file op depend on.
#[derive(Clone, Copy)]
pub(crate) struct FileKey<'a> {
    pub(crate) op: &'a pb::FileOp,
    /// How many inputs there are.
    pub(crate) inputs: usize,
}

impl FileKey<'_> {
    /// D and what is known of the inputs.
    pub(crate) fn cache_map(self) -> CacheMap {
        let inputs = (0..self.inputs)
            .map(|input| {
                let places = self.places(input);
                InputMap {
                    selector: places.as_deref().and_then(selector),
                    content: places.is_some_and(|places| !places.is_empty()),
                    prepare: true,
                }
            })
            .collect();
        CacheMap {
            digest: self.digest(),
            inputs,
            done: true,
        }
    }

    fn digest(self) -> Digest {
        let bodies: Vec<String> = self
            .op
            .actions
            .iter()
            .map(|action| STANDARD.encode(self.body(action)))
            .collect();
        let mut json = Object::new();
        json.string("Type", "buildkit.file.v0");
        json.raw("Actions", &strings(&bodies));
        if let Some(indexes) = self.indexes() {
            json.raw("indexes", &indexes);
        }
        Digest::of(json.finish())
    }

    fn body(self, action: &pb::FileAction) -> String {
        match &action.action {
            Some(Action::Copy(copy)) => {
                let mut copy = copy.clone();
                if self.real_input(action.secondary_input).is_some() {
                    copy.src = last_element(&copy.src);
                }
                gojson::to_string(&copy)
            }
            Some(Action::Mkfile(mkfile)) => gojson::to_string(mkfile),
            Some(Action::Mkdir(mkdir)) => gojson::to_string(mkdir),
            Some(Action::Rm(rm)) => gojson::to_string(rm),
            Some(Action::Symlink(symlink)) => gojson::to_string(symlink),
            None => String::new(),
        }
    }

    /// Left out for the plain chain. Compat: the arithmetic is upstream's to the letter.
    fn indexes(self) -> Option<String> {
        let count = i64::try_from(self.op.actions.len()).unwrap_or(i64::MAX);
        let mut plain = true;
        let mut rows = Vec::new();
        for (index, action) in (0..count).zip(&self.op.actions) {
            let input = if index == 0 { 0 } else { count + index - 1 };
            let output = if index == count - 1 { 0 } else { -1 };
            plain &= action.input == input
                && matches!(action.secondary_input, -1 | 1)
                && action.output == output;
            rows.push(format!(
                "[{},{},{}]",
                action.input, action.secondary_input, action.output
            ));
        }
        (!plain).then(|| format!("[{}]", rows.join(",")))
    }

    fn real_input(self, index: i64) -> Option<usize> {
        usize::try_from(index)
            .ok()
            .filter(|index| *index < self.inputs)
    }

    /// Where this op looks in input `input`; `None` when the input is written to and must not be looked at.
    fn places(self, input: usize) -> Option<Vec<Place>> {
        let mut places = Vec::new();
        for action in &self.op.actions {
            if self.real_input(action.input) == Some(input) {
                return None;
            }
            if let Some(Action::Copy(copy)) = &action.action
                && self.real_input(action.secondary_input) == Some(input)
            {
                places.push(Place {
                    path: copy.src.clone(),
                    wildcard: copy.allow_wildcard && has_wildcard(&copy.src),
                    follow: copy.follow_symlink,
                    include: copy.include_patterns.clone(),
                    exclude: copy.exclude_patterns.clone(),
                    required: copy.required_paths.clone(),
                });
            }
            for path in self.owner_files(action, input) {
                places.push(Place {
                    path: path.to_owned(),
                    follow: true,
                    ..Place::default()
                });
            }
        }
        Some(places)
    }

    fn owner_files(self, action: &pb::FileAction, input: usize) -> Vec<&'static str> {
        let owner = match &action.action {
            Some(Action::Copy(copy)) => copy.owner.as_ref(),
            Some(Action::Mkfile(mkfile)) => mkfile.owner.as_ref(),
            Some(Action::Mkdir(mkdir)) => mkdir.owner.as_ref(),
            // Compat: names in the owner of a symlink are not looked up for the key.
            Some(Action::Symlink(_) | Action::Rm(_)) | None => None,
        };
        let Some(owner) = owner else {
            return Vec::new();
        };
        let named =
            |option: &Option<pb::UserOpt>| match option.as_ref().and_then(|it| it.user.as_ref()) {
                Some(User::ByName(name)) => self.real_input(name.input) == Some(input),
                Some(User::ById(_)) | None => false,
            };
        let mut files = Vec::new();
        if named(&owner.user) {
            files.push("/etc/passwd");
        }
        if named(&owner.group) {
            files.push("/etc/group");
        }
        files
    }

    /// What of input `input` is read.
    pub(crate) fn selector(self, input: usize) -> Option<Digest> {
        self.places(input).as_deref().and_then(selector)
    }

    /// The places in input `input` that count for its content key.
    pub(crate) fn content_queries(self, input: usize) -> Vec<Query> {
        let places = self.places(input).unwrap_or_default();
        let mut plain = Vec::new();
        for follow in [false, true] {
            let paths: BTreeSet<String> = places
                .iter()
                .filter(|place| !place.is_filtered() && place.follow == follow)
                .map(|place| place.path.clone())
                .collect();
            let paths = crate::meta::outermost(paths.into_iter().collect());
            plain.extend(paths.into_iter().map(|path| Place {
                path,
                follow,
                ..Place::default()
            }));
        }
        plain.extend(places.into_iter().filter(Place::is_filtered));
        plain.sort_by(|a, b| a.path.cmp(&b.path));
        plain.iter().map(Place::query).collect()
    }
}

fn selector(places: &[Place]) -> Option<Digest> {
    if places.is_empty() {
        return None;
    }
    let mut paths: Vec<&str> = places.iter().map(|place| place.path.as_str()).collect();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    Some(combined(&paths))
}

/// `sub` of `/dir/sub/`, `/` of `/`.
fn last_element(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/".to_owned();
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned()
}

fn has_wildcard(path: &str) -> bool {
    let mut escaped = false;
    for byte in path.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_element_of_a_source_counts() {
        assert_eq!(last_element("/dir/sub/"), "sub");
        assert_eq!(last_element("/"), "/");
        assert_eq!(last_element("a"), "a");
    }

    #[test]
    fn an_escaped_star_is_no_wildcard() {
        assert!(!has_wildcard("/a\\*b"));
        assert!(has_wildcard("/a\\\\*"));
    }
}
