//! The places that models of a pipeline come from: one of each model, and one of its challenger. Pure.

use std::time::Duration;

use tidemill_udfs::functions::challenger_name;

use crate::error::{Error, Result};
use crate::model::reference::{At, ModelReference};
use crate::pipeline::settings;

/// Where the model of a slot comes from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// Its name in SQL.
    pub(crate) slot: String,
    /// Of a challenger: its champion's name in SQL.
    pub(crate) champion: Option<String>,
    /// As the pipeline file says it.
    pub(crate) uri: String,
    /// What the pipeline file says instead of the model.
    pub(crate) threshold: Option<f64>,
    /// How often a run looks again.
    pub(crate) reload: Option<Duration>,
}

/// The places of a pipeline's models, each challenger behind its champion.
pub(crate) fn places(models: &[settings::Model]) -> Vec<Place> {
    let mut places = Vec::new();
    for model in models {
        let champion = Place {
            slot: model.name.clone(),
            champion: None,
            uri: model.uri.clone(),
            threshold: model.threshold,
            reload: model.reload,
        };
        let challenger = model.challenger.as_ref().map(|uri| Place {
            slot: challenger_name(&model.name),
            champion: Some(model.name.clone()),
            uri: uri.clone(),
            ..champion.clone()
        });
        places.push(champion);
        places.extend(challenger);
    }
    places
}

impl Place {
    /// The reference into the registry that it is; `None` when it is a path.
    pub(crate) fn reference(&self) -> Option<Result<ModelReference>> {
        ModelReference::is_reference(&self.uri).then(|| self.uri.parse())
    }

    /// The alias that it follows.
    pub(crate) fn alias(&self) -> Option<String> {
        match self.reference()?.ok()?.at {
            At::Alias(alias) => Some(alias),
            At::Version(_) => None,
        }
    }

    /// Says of an error which model it is about.
    pub(crate) fn context(&self, error: Error) -> Error {
        error.context(format!("model {} ({})", self.slot, self.uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenger_has_a_place_of_its_own_and_the_threshold_that_the_file_fixes() {
        let model = settings::Model {
            name: "fraud".into(),
            uri: "models:/fraud@champion".into(),
            threshold: Some(0.5),
            reload: Some(Duration::from_secs(30)),
            challenger: Some("/models/next.txt".into()),
        };
        let places = places(&[model]);
        assert_eq!(places.len(), 2);
        assert_eq!((places[0].slot.as_str(), places[0].alias().as_deref()), ("fraud", Some("champion")));
        assert_eq!((places[1].slot.as_str(), places[1].alias()), ("fraud@challenger", None));
        assert_eq!((places[1].champion.as_deref(), places[1].threshold), (Some("fraud"), Some(0.5)));
        assert!(places[1].reference().is_none());
    }
}
