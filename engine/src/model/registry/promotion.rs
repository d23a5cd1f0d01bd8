//! Which version serves: promotion moves an alias and notes on the version what it took the place of, so that rolling back
//! knows the way. A version whose gate did not pass is not promoted, unless somebody says so.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{ModelVersion, Registry};
use crate::error::{Error, Result};
use crate::model::reference::ModelReference;

/// The tag in which the gate leaves its verdict: [`GATE_PASSED`], or anything else and why.
pub const GATE_TAG: &str = "gate";
/// The verdict with which a version may be promoted.
pub const GATE_PASSED: &str = "passed";
/// The version that an alias meant before; empty where it meant none.
pub const PROMOTED_FROM_TAG: &str = "promoted_from";
/// When, in UTC.
pub const PROMOTED_AT_TAG: &str = "promoted_at";
/// Set on a version that was rolled back: when, and by what the alias was given to.
const ROLLED_BACK_TAG: &str = "rolled_back_at";

/// What a promotion or a roll-back changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// The model.
    pub name: String,
    /// The alias.
    pub alias: String,
    /// What it means now.
    pub version: String,
    /// What it meant before; `None` when nothing.
    pub before: Option<String>,
}

/// The tags carry the alias: a version may be promoted under several.
fn tag(name: &str, alias: &str) -> String {
    if alias == crate::model::reference::CHAMPION { name.to_owned() } else { format!("{name}.{alias}") }
}

impl Registry {
    /// Makes `alias` mean `version`. Tags first: an alias that moved without them could not be rolled back.
    pub async fn promote(
        &self,
        name: &str,
        alias: &str,
        version: &str,
        now: DateTime<Utc>,
        is_forced: bool,
    ) -> Result<Promotion> {
        let wanted = self.resolve(&ModelReference::version(name, version)?).await?;
        if !is_forced {
            check_gate(&wanted)?;
        }
        let before = self.current(name, alias).await?.map(|current| current.version);
        let promotion = Promotion {
            name: name.to_owned(),
            alias: alias.to_owned(),
            version: version.to_owned(),
            before: before.clone(),
        };
        // Promoted again, it would remember itself, and the way back would be lost.
        if before.as_deref() == Some(version) {
            return Ok(promotion);
        }
        let tags = BTreeMap::from([
            (tag(PROMOTED_FROM_TAG, alias), before.unwrap_or_default()),
            (tag(PROMOTED_AT_TAG, alias), now.to_rfc3339_opts(SecondsFormat::Secs, true)),
        ]);
        self.set_tags(name, version, &tags).await?;
        self.set_alias(name, alias, version).await?;
        Ok(promotion)
    }

    /// Makes `alias` mean again what it meant before its version was promoted.
    pub async fn rollback(&self, name: &str, alias: &str, now: DateTime<Utc>) -> Result<Promotion> {
        let reference = ModelReference::alias(name, alias)?;
        let current = self.resolve(&reference).await?;
        let before = current.tags.get(&tag(PROMOTED_FROM_TAG, alias)).filter(|version| !version.is_empty());
        let Some(before) = before else {
            return Err(Error::invalid(format!(
                "{reference} is version {}, and no version is noted that it took the place of; name one: `tidemill model promote {name} --alias {alias} --version N --force`",
                current.version
            )));
        };
        // It must still be there before anything moves.
        let before = self.resolve(&ModelReference::version(name, before)?).await?.version;
        self.set_alias(name, alias, &before).await?;
        let tags = BTreeMap::from([(tag(ROLLED_BACK_TAG, alias), now.to_rfc3339_opts(SecondsFormat::Secs, true))]);
        self.set_tags(name, &current.version, &tags).await?;
        Ok(Promotion { name: name.to_owned(), alias: alias.to_owned(), version: before, before: Some(current.version) })
    }

    /// The version that an alias means; `None` when it means none.
    pub async fn current(&self, name: &str, alias: &str) -> Result<Option<ModelVersion>> {
        self.find(&ModelReference::alias(name, alias)?).await
    }
}

fn check_gate(version: &ModelVersion) -> Result<()> {
    let verdict = version.tags.get(GATE_TAG).map(String::as_str);
    let found = match verdict {
        Some(GATE_PASSED) => return Ok(()),
        Some(other) => format!("the gate said `{other}`"),
        None => "it has not been through the gate".to_owned(),
    };
    Err(Error::invalid(format!(
        "{} version {} is not promoted: {found}; run `tidemill model gate {} --version {}`, or promote it with --force",
        version.name, version.version, version.name, version.version
    )))
}
