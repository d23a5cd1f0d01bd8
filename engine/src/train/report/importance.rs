//! What each feature does for a model: the gain of all splits on it, read from the model's text, so that it can be told of any model.

use std::collections::BTreeMap;

/// Features with the sum of the gains of their splits, by name. Empty for a text that is no LightGBM model.
pub(in crate::train) fn gain_of_features(model_text: &str) -> Vec<(String, f64)> {
    let mut names: Vec<&str> = Vec::new();
    let mut gains: BTreeMap<usize, f64> = BTreeMap::new();
    let mut features: Vec<usize> = Vec::new();
    for line in model_text.lines() {
        // What follows the trees repeats names.
        if line == "end of trees" {
            break;
        } else if let Some(list) = line.strip_prefix("feature_names=") {
            names = list.split_ascii_whitespace().collect();
        } else if let Some(list) = line.strip_prefix("split_feature=") {
            features = list.split_ascii_whitespace().filter_map(|feature| feature.parse().ok()).collect();
        } else if let Some(list) = line.strip_prefix("split_gain=") {
            let of_tree = list.split_ascii_whitespace().filter_map(|gain| gain.parse::<f64>().ok());
            for (feature, gain) in features.iter().zip(of_tree) {
                *gains.entry(*feature).or_default() += gain;
            }
        }
    }
    gains.into_iter().filter_map(|(feature, gain)| Some(((*names.get(feature)?).to_owned(), gain))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_are_added_up_by_feature() {
        let text = "tree\nfeature_names=a b c\n\nTree=0\nsplit_feature=2 0\nsplit_gain=10 2.5\n\nTree=1\nsplit_feature=2\nsplit_gain=1\n\n\
                    Tree=2\nsplit_feature=\nsplit_gain=\n\nend of trees\n\nsplit_feature=1\nsplit_gain=99\n";
        assert_eq!(gain_of_features(text), [("a".to_owned(), 2.5), ("c".to_owned(), 11.0)]);
        assert_eq!(gain_of_features("hello"), []);
    }
}
