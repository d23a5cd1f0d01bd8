//! The lines of LightGBM's text model: header, trees, trailer.
//!
//! Everything that LightGBM reads is either kept, checked, or refused by name. A line that this file does not know is an error:
//! it may change scores.

use std::collections::BTreeMap;

use super::error::ModelError;
use super::number;
use super::objective::Objective;
use super::tree::Tree;

/// A model as its file says it.
#[derive(Debug)]
pub(super) struct ModelText {
    pub(super) feature_names: Vec<String>,
    pub(super) objective: Objective,
    /// In the file's order: iteration by iteration, one tree per class in each.
    pub(super) trees: Vec<Tree>,
    pub(super) num_classes: usize,
}

const VERSIONS: [&str; 2] = ["v3", "v4"];

const HEADER_KEYS: [&str; 10] = [
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "monotone_constraints",
    "feature_infos",
    "tree_sizes",
];

const TREE_KEYS: [&str; 18] = [
    "num_leaves",
    "num_cat",
    "split_feature",
    "split_gain",
    "threshold",
    "decision_type",
    "left_child",
    "right_child",
    "leaf_value",
    "leaf_weight",
    "leaf_count",
    "internal_value",
    "internal_weight",
    "internal_count",
    "cat_boundaries",
    "cat_threshold",
    "is_linear",
    "shrinkage",
];

/// The lines `key=value` of the header or of one tree.
#[derive(Debug)]
pub(super) struct Section<'a> {
    name: String,
    values: BTreeMap<&'a str, &'a str>,
}

impl<'a> Section<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.values.get(key).copied()
    }

    pub(super) fn require(&self, key: &str) -> Result<&'a str, ModelError> {
        self.get(key).ok_or_else(|| ModelError::malformed(&self.name, format!("a line {key}=..."), "none"))
    }

    pub(super) fn place(&self, key: &str) -> String {
        format!("{}, {key}", self.name)
    }

    pub(super) fn number(&self, key: &str) -> Result<usize, ModelError> {
        number::one(|| self.place(key), self.require(key)?, "a whole number of at least 0")
    }

    fn insert(&mut self, key: &'a str, value: &'a str, known: &[&str]) -> Result<(), ModelError> {
        if !known.contains(&key) {
            let place = format!("the line {key:?} ({})", self.name);
            return Err(ModelError::unsupported(place, value, known.join(", ")));
        }
        if self.values.insert(key, value).is_some() {
            return Err(ModelError::malformed(self.place(key), "one line", "two"));
        }
        Ok(())
    }
}

/// The text's lines, each with the offset of its first byte.
struct Lines<'a> {
    text: &'a str,
    next: usize,
}

impl<'a> Lines<'a> {
    /// The next line that is not blank, without consuming it.
    fn peek(&mut self) -> Option<(usize, &'a str)> {
        loop {
            let rest = self.text.get(self.next..).filter(|rest| !rest.is_empty())?;
            let line = rest.split('\n').next().unwrap_or(rest);
            let trimmed = line.trim_end_matches('\r');
            if !trimmed.is_empty() {
                return Some((self.next, trimmed));
            }
            self.next += (line.len() + 1).min(rest.len());
        }
    }

    fn advance(&mut self) {
        let rest = &self.text[self.next..];
        self.next += rest.find('\n').map_or(rest.len(), |end| end + 1);
    }
}

impl ModelText {
    pub(super) fn parse(text: &str) -> Result<Self, ModelError> {
        let mut lines = Lines { text, next: 0 };
        let header = header(&mut lines)?;
        version(&header)?;
        let num_classes = header.number("num_class")?;
        let objective = Objective::parse(header.get("objective"), num_classes)?;
        if let Some(word) = header.get("num_tree_per_iteration")
            && word.parse() != Ok(num_classes)
        {
            return Err(ModelError::unsupported("num_tree_per_iteration", word, format!("num_class ({num_classes})")));
        }
        let feature_names = feature_names(&header)?;
        let trees = trees(&mut lines, &header, feature_names.len())?;
        if trees.is_empty() || !trees.len().is_multiple_of(num_classes) {
            return Err(ModelError::malformed(
                "the trees",
                format!("a multiple of num_class ({num_classes}), at least one"),
                format!("{} trees", trees.len()),
            ));
        }
        trailer(&mut lines)?;
        Ok(Self { feature_names, objective, trees, num_classes })
    }
}

fn header<'a>(lines: &mut Lines<'a>) -> Result<Section<'a>, ModelError> {
    let mut header = Section { name: "the header".to_owned(), values: BTreeMap::new() };
    match lines.peek() {
        Some((_, "tree")) => lines.advance(),
        Some((_, line)) => {
            return Err(ModelError::malformed("line 1", "tree (LightGBM's text model)", format!("{line:?}")));
        }
        None => {
            return Err(ModelError::malformed("line 1", "tree (LightGBM's text model)", "an empty file"));
        }
    }
    while let Some((_, line)) = lines.peek() {
        if line.starts_with("Tree=") {
            return Ok(header);
        }
        match line.split_once('=') {
            Some((key, value)) => header.insert(key, value, &HEADER_KEYS)?,
            None if line == "average_output" => {
                return Err(ModelError::unsupported(
                    "average_output",
                    "random forest",
                    "boosted trees (gbdt, dart, goss)",
                ));
            }
            None => {
                return Err(ModelError::malformed("the header", "key=value", format!("{line:?}")));
            }
        }
        lines.advance();
    }
    Err(ModelError::malformed("the header", "trees after it", "the end of the file"))
}

fn version(header: &Section<'_>) -> Result<(), ModelError> {
    let version = header.require("version")?;
    if VERSIONS.contains(&version) {
        Ok(())
    } else {
        Err(ModelError::unsupported("version", version, VERSIONS.join(", ")))
    }
}

fn feature_names(header: &Section<'_>) -> Result<Vec<String>, ModelError> {
    let names: Vec<String> =
        header.require("feature_names")?.split(' ').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let expected = header.number("max_feature_idx")?.checked_add(1);
    let infos = header.require("feature_infos")?.split(' ').filter(|info| !info.is_empty()).count();
    for (key, found) in [("feature_names", names.len()), ("feature_infos", infos)] {
        if Some(found) != expected {
            return Err(ModelError::malformed(
                header.place(key),
                format!("max_feature_idx + 1 = {} of them", expected.unwrap_or(usize::MAX)),
                format!("{found}"),
            ));
        }
    }
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ModelError::malformed(
            header.place("feature_names"),
            "each name once",
            format!("{:?} twice", pair[0]),
        ));
    }
    Ok(names)
}

fn trees(lines: &mut Lines<'_>, header: &Section<'_>, num_features: usize) -> Result<Vec<Tree>, ModelError> {
    let sizes = match header.get("tree_sizes") {
        None => None,
        Some(text) => Some(number_list(text, &header.place("tree_sizes"))?),
    };
    let mut trees = Vec::new();
    // LightGBM finds the trees by these sizes, we find them by their first lines. Both must mean the same trees.
    let mut expected_at = lines.peek().map(|(at, _)| at);
    loop {
        match lines.peek() {
            Some((at, "end of trees")) => {
                if sizes.as_ref().is_some_and(|sizes| sizes.len() != trees.len() || expected_at != Some(at)) {
                    return Err(ModelError::malformed("end of trees", "the place that tree_sizes gives", "another"));
                }
                lines.advance();
                return Ok(trees);
            }
            Some((at, line)) if line.starts_with("Tree=") => {
                let name = format!("tree {}", trees.len());
                if line["Tree=".len()..].trim().parse() != Ok(trees.len()) {
                    return Err(ModelError::malformed(name, format!("Tree={}", trees.len()), format!("{line:?}")));
                }
                if let Some(sizes) = &sizes {
                    let size = sizes.get(trees.len()).copied();
                    if expected_at != Some(at) || size.is_none() {
                        return Err(ModelError::malformed(
                            name,
                            "the place that tree_sizes gives",
                            format!("byte {at}"),
                        ));
                    }
                    expected_at = size.and_then(|size| at.checked_add(size));
                }
                lines.advance();
                let section = tree_section(lines, name)?;
                trees.push(Tree::parse(&section, num_features)?);
            }
            Some((_, line)) => {
                let place = format!("after tree {}", trees.len().saturating_sub(1));
                return Err(ModelError::malformed(place, "Tree=... or end of trees", format!("{line:?}")));
            }
            None => {
                return Err(ModelError::malformed("the trees", "a line \"end of trees\"", "the end of the file"));
            }
        }
    }
}

fn number_list(text: &str, place: &str) -> Result<Vec<usize>, ModelError> {
    text.split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| number::one(|| place.to_owned(), word, "a whole number of at least 0"))
        .collect()
}

fn tree_section<'a>(lines: &mut Lines<'a>, name: String) -> Result<Section<'a>, ModelError> {
    let mut section = Section { name, values: BTreeMap::new() };
    while let Some((_, line)) = lines.peek() {
        if line.starts_with("Tree=") || line == "end of trees" {
            break;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(ModelError::malformed(&section.name, "key=value", format!("{line:?}")));
        };
        if key == "is_linear" && value.trim() != "0" {
            return Err(ModelError::unsupported("is_linear (linear trees)", value, "0"));
        }
        section.insert(key, value, &TREE_KEYS)?;
        lines.advance();
    }
    Ok(section)
}

/// Feature importances and training parameters do not change scores and are left aside. Two things after the trees do.
fn trailer(lines: &mut Lines<'_>) -> Result<(), ModelError> {
    while let Some((_, line)) = lines.peek() {
        if line == "parser:" {
            return Err(ModelError::unsupported("parser", "a custom parser of the training data", "none"));
        }
        if let Some(categories) = line.strip_prefix("pandas_categorical:") {
            pandas_categories(categories.trim())?;
        }
        lines.advance();
    }
    Ok(())
}

/// Python's LightGBM replaces the values of a pandas category column by their positions in these lists. We score numbers as they
/// come, so only lists that change nothing (0, 1, 2, ...) can be accepted.
fn pandas_categories(lists: &str) -> Result<(), ModelError> {
    if lists == "null" {
        return Ok(());
    }
    let inner = lists.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let identity = inner.is_some_and(|inner| {
        inner.split(']').all(|list| {
            let list = list.trim_start_matches([',', ' ']).trim_start_matches('[');
            list.is_empty() || list.split(',').enumerate().all(|(at, word)| word.trim().parse() == Ok(at))
        })
    });
    if identity {
        return Ok(());
    }
    Err(ModelError::unsupported(
        "pandas_categorical",
        lists,
        "integer codes 0, 1, 2, ...; encode the categories in SQL and train on the codes",
    ))
}
