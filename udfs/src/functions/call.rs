//! Does a call of `score` give a model what it was trained on?
//!
//! Columns are matched to features by name and position. A call that has the right columns in the wrong order scores nonsense
//! without any error, so nothing is reordered and nothing is let pass.

use std::fmt;

use crate::near::nearest;
use crate::scorer::Model;

/// What is wrong with the arguments of a call of `score`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// As many arguments as features are needed.
    Count { expected: usize, found: usize, missing: Vec<String>, unknown: Vec<String> },
    /// The number is right; these arguments are not.
    Names(Vec<WrongArgument>),
}

/// An argument that is not the feature that the model takes at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongArgument {
    /// From 1, the model's name not counted.
    pub position: usize,
    pub expected: String,
    pub found: String,
    pub hint: Option<String>,
}

impl std::error::Error for CallError {}

impl fmt::Display for CallError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { expected, found, missing, unknown } => {
                write!(to, "the model takes {expected} features, the call gives {found}")?;
                if !missing.is_empty() {
                    write!(to, "; missing: {}", missing.join(", "))?;
                }
                if !unknown.is_empty() {
                    write!(to, "; not features of the model: {}", unknown.join(", "))?;
                }
                Ok(())
            }
            Self::Names(wrong) => {
                for (at, argument) in wrong.iter().enumerate() {
                    let WrongArgument { position, expected, found, hint } = argument;
                    let separator = if at == 0 { "" } else { "; " };
                    write!(to, "{separator}feature {position}: expected {expected}, found {found}")?;
                    if let Some(hint) = hint {
                        write!(to, " ({hint})")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Checks the arguments of a call of `score`, given by the names of their columns, against the model's features: their number,
/// their names, their order. All that is wrong is reported at once.
pub fn check_call(model: &Model, arguments: &[&str]) -> Result<(), CallError> {
    let features: Vec<&str> = model.feature_names().iter().map(String::as_str).collect();
    if arguments.len() != features.len() {
        let without = |names: &[&str], others: &[&str]| {
            names.iter().filter(|name| !others.contains(name)).map(|name| (*name).to_owned()).collect()
        };
        return Err(CallError::Count {
            expected: features.len(),
            found: arguments.len(),
            missing: without(&features, arguments),
            unknown: without(arguments, &features),
        });
    }
    let wrong: Vec<WrongArgument> = features
        .iter()
        .zip(arguments)
        .enumerate()
        .filter(|(_, (feature, argument))| feature != argument)
        .map(|(at, (feature, argument))| WrongArgument {
            position: at + 1,
            expected: (*feature).to_owned(),
            found: (*argument).to_owned(),
            hint: hint(&features, arguments, feature, argument),
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(CallError::Names(wrong)) }
}

fn hint(features: &[&str], arguments: &[&str], feature: &str, argument: &str) -> Option<String> {
    if features.iter().enumerate().all(|(at, name)| *name == format!("Column_{at}")) {
        return Some("the model was trained without feature names; train it with them".to_owned());
    }
    let place = |names: &[&str], name: &str| names.iter().position(|other| *other == name).map(|at| at + 1);
    if let Some(position) = place(features, argument) {
        return Some(format!("{argument} is feature {position}"));
    }
    if let Some(position) = place(arguments, feature) {
        return Some(format!("{feature} is given at {position}"));
    }
    nearest(argument, features.iter().copied()).map(|near| format!("did you mean {near}?"))
}
