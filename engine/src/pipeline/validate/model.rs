//! Models: a name that SQL can say, a place that can be read, and how often it is looked at again.

use std::time::Duration;

use super::super::file::{ModelFile, Reload};
use super::super::forms::Named;
use super::super::location;
use super::super::problem::quoted;
use super::super::settings::Model;
use super::super::text::{NameKind, check_name};
use super::Validator;
use crate::model::reference::{At, ModelReference};

/// How often an alias of a registry is looked up, where the file says nothing else.
const REGISTRY_RELOAD: Duration = Duration::from_secs(30);
const RELOAD_MIN: Duration = Duration::from_millis(100);
const RELOAD_MAX: Duration = Duration::from_secs(86_400);

impl Validator<'_> {
    pub(super) fn models(&mut self, models: &Named<ModelFile>) -> Vec<Model> {
        let mut settings = Vec::new();
        for (name, model) in &models.0 {
            if let Err(help) = check_name(name, NameKind::Own) {
                self.refuse_key(&["models", name], format!("{} cannot name a model", quoted(name)), help);
            }
            let (uri, is_alias) = self.model_place(&["models", name, "uri"], &model.uri);
            let challenger =
                model.challenger.as_ref().map(|uri| self.model_place(&["models", name, "challenger"], uri));
            let is_followed = is_alias || challenger.as_ref().is_some_and(|(_, is_alias)| *is_alias);
            let reload = match &model.reload {
                None => is_followed.then_some(REGISTRY_RELOAD),
                Some(reload) => match reload.0 {
                    Reload::Never => None,
                    Reload::Every(every) => Some(self.reload(&["models", name, "reload"], every)),
                },
            };
            let challenger = challenger.map(|(uri, _)| uri);
            settings.push(Model { name: name.clone(), uri, threshold: model.threshold, reload, challenger });
        }
        settings
    }

    fn reload(&mut self, path: &[&str], every: Duration) -> Duration {
        self.duration(path, super::super::forms::Text(every), RELOAD_MIN, RELOAD_MAX)
    }

    /// A place made whole, and whether it is an alias.
    fn model_place(&mut self, path: &[&str], text: &str) -> (String, bool) {
        if !text.starts_with("models:") {
            return (self.location(path, text), false);
        }
        match text.parse::<ModelReference>() {
            Ok(reference) => (reference.to_string(), matches!(reference.at, At::Alias(_))),
            Err(error) => {
                self.refuse(path, error.to_string(), "see `tidemill model list` for what the registry has");
                (String::new(), false)
            }
        }
    }

    pub(super) fn registry(&mut self, text: Option<&str>) -> Option<String> {
        let text = text?;
        match location::server(text) {
            Some(Ok(uri)) => Some(uri),
            Some(Err((message, help))) => {
                self.refuse(&["registry"], message, help);
                None
            }
            None => Some(self.location(&["registry"], text)),
        }
    }
}
