//! What can be wrong with a model file.
//!
//! A model is refused by the name of what is not understood. Nothing is skipped and nothing is guessed: a scorer that ignores
//! a line of its model answers wrongly and looks well.

/// Why a model file is refused. The messages are for the person who chose the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The file is well formed, and asks for something that this scorer does not do.
    #[error("the model uses {name} = {found:?}, which tidemill cannot score; supported: {supported}")]
    Unsupported { name: String, found: String, supported: String },

    /// The file is not a LightGBM text model, or a damaged one.
    #[error("the model file is damaged at {place}: expected {expected}, found {found}")]
    Malformed { place: String, expected: String, found: String },

    /// The model can be scored, and its file does not hold what explanations are made from.
    #[error(
        "the model's scores cannot be explained: {place}: expected {expected}, found {found}; save the model with LightGBM's own save_model"
    )]
    Unexplained { place: String, expected: String, found: String },
}

impl ModelError {
    pub(crate) fn unsupported(name: impl Into<String>, found: impl Into<String>, supported: impl Into<String>) -> Self {
        Self::Unsupported { name: name.into(), found: shortened(&found.into()), supported: supported.into() }
    }

    pub(crate) fn malformed(place: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Malformed { place: place.into(), expected: expected.into(), found: shortened(&found.into()) }
    }
}

/// A damaged file can hold a line of megabytes; a message holds its beginning.
fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut characters = text.chars();
    let mut short: String = characters.by_ref().take(CHARACTERS_MAX).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}
