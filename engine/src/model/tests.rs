//! What is said of models that cannot be read.

use std::collections::BTreeMap;

use super::*;
