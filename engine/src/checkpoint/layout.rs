//! Names of the objects under a checkpoint's path. Pure: text in, text out. Every name can be read back, whatever
//! characters a source or a topic has, and stays within what file systems and object stores take.
//!
//! ```text
//! pipeline.json                                              whose path this is
//! units/<source>/<topic>/<partition>/manifests/<number>.json one per checkpoint of a state unit
//! units/<source>/<topic>/<partition>/state/<offset>-g<generation>-<uuid>/<operator>.<table>.arrow
//!                                                            state at an offset; named by manifests
//! models/<sha256>.txt                                        the models that served, for replays
//! models/<name>.json                                         which of them served last, for a start without its registry
//! .probe/<uuid>                                              the self-test's; gone when it ends
//! ```

use crate::checkpoint::manifest::{ManifestNumber, StateTable};
use crate::types::{Generation, Offset, StateUnit};

/// Name of the object that says whose path it is.
pub const PIPELINE_FILE: &str = "pipeline.json";
/// Folder of the self-test.
pub const PROBE_FOLDER: &str = ".probe";
/// Folder of the state units.
pub const UNITS_FOLDER: &str = "units";

/// The folder in a sink's folder that readers do not look into.
pub const STAGING_FOLDER: &str = "_staging";

const MANIFESTS_FOLDER: &str = "manifests";
const STATE_FOLDER: &str = "state";
const MANIFEST_SUFFIX: &str = ".json";
/// File systems take 255 bytes; a store may add a suffix of its own while it writes.
const SEGMENT_BYTES_MAX: usize = 160;

/// The name of a model's text, below the checkpoint's path.
#[must_use]
pub fn model_path(sha256: &str) -> String {
    format!("models/{sha256}.txt")
}

/// The name of the note which model served last under a name, below the checkpoint's path.
#[must_use]
pub fn kept_model_path(name: &str) -> String {
    format!("models/{name}.json")
}

/// The folder of a unit's manifests, below the checkpoint's path.
#[must_use]
pub fn manifests_folder(unit: &StateUnit) -> String {
    format!("{UNITS_FOLDER}/{}/{MANIFESTS_FOLDER}", unit_folder(unit))
}

/// A manifest's name, below the checkpoint's path.
#[must_use]
pub fn manifest_path(unit: &StateUnit, number: ManifestNumber) -> String {
    format!("{}/{}", manifests_folder(unit), manifest_name(number))
}

/// The last part of a manifest's name. Twenty digits, so that names sort as numbers do.
#[must_use]
pub fn manifest_name(number: ManifestNumber) -> String {
    format!("{:020}{MANIFEST_SUFFIX}", number.get())
}

/// The number in a manifest's name; `None` when the name is not a manifest's.
#[must_use]
pub fn parse_manifest_name(name: &str) -> Option<ManifestNumber> {
    let number = ManifestNumber::new(name.strip_suffix(MANIFEST_SUFFIX)?.parse().ok()?)?;
    // `7.json` and `+7.json` would parse as well.
    (manifest_name(number) == name).then_some(number)
}

/// Unit and number of a manifest, from its name below the checkpoint's path.
#[must_use]
pub fn parse_manifest_path(path: &str) -> Option<(StateUnit, ManifestNumber)> {
    let (folder, name) = path.strip_prefix(UNITS_FOLDER)?.strip_prefix('/')?.rsplit_once('/')?;
    let unit = parse_unit_folder(folder.strip_suffix(MANIFESTS_FOLDER)?.strip_suffix('/')?)?;
    Some((unit, parse_manifest_name(name)?))
}

/// The folder of a unit's state, below the checkpoint's path.
#[must_use]
pub fn state_folder(unit: &StateUnit) -> String {
    format!("{UNITS_FOLDER}/{}/{STATE_FOLDER}", unit_folder(unit))
}

/// The folder of one attempt at a snapshot. Nobody else ever writes there: `unique` is of this attempt alone.
#[must_use]
pub fn snapshot_folder(unit: &StateUnit, offset: Offset, generation: Generation, unique: &str) -> String {
    format!("{}/{:020}-g{}-{unique}", state_folder(unit), offset.get(), generation.get())
}

/// The generation that wrote a file of a unit's state, from the file's name below the checkpoint's path.
#[must_use]
pub fn parse_state_generation(unit: &StateUnit, path: &str) -> Option<u64> {
    let (snapshot, _) = path.strip_prefix(&state_folder(unit))?.strip_prefix('/')?.split_once('/')?;
    snapshot.split('-').nth(1)?.strip_prefix('g')?.parse().ok()
}

/// A file's name in the folder of its snapshot.
#[must_use]
pub fn state_file_name(operator: &str, table: StateTable) -> String {
    format!("{}.{}.arrow", file_name_part(operator), table.as_str())
}

/// A unit as a relative folder: `<source>/<topic>/<partition>`, escaped. Also used for staged files.
#[must_use]
pub fn unit_folder(unit: &StateUnit) -> String {
    format!("{}/{}/{}", escape(&unit.source), escape(&unit.topic), unit.partition)
}

/// Where `owner` (unique among all that write to a sink's folder) stages a unit's files, below the sink's folder.
#[must_use]
pub fn staging_folder(owner: &str, unit: &StateUnit) -> String {
    format!("{STAGING_FOLDER}/{}/{}", file_name_part(owner), unit_folder(unit))
}

fn parse_unit_folder(folder: &str) -> Option<StateUnit> {
    let mut segments = folder.split('/');
    let source = unescape(&mut segments)?;
    let topic = unescape(&mut segments)?;
    let partition: i32 = segments.next()?.parse().ok()?;
    let unit = StateUnit { source: source.into(), topic: topic.into(), partition };
    // One unit, one name: a folder that nobody of ours would have written is not taken for one of ours.
    (segments.next().is_none() && unit_folder(&unit) == folder).then_some(unit)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// A file name's part: a readable, unambiguous text without `/`, without `--`, and not beginning with a sign that makes
/// readers skip it. A long one keeps its beginning and ends in a hash: file names are not read back.
#[must_use]
pub fn file_name_part(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        let is_edge = index == 0 || index + 1 == text.len();
        let is_plain = match byte {
            b'-' => !is_edge && !part.ends_with('-'),
            b'.' | b'_' => index != 0,
            _ => is_plain(byte),
        };
        push_byte(&mut part, byte, is_plain);
    }
    if part.len() > 60 {
        part.truncate(40);
        part.push('=');
        part.push_str(&crate::checkpoint::sha256_hex(text.as_bytes())[..16]);
    }
    part
}

fn push_byte(text: &mut String, byte: u8, is_plain: bool) {
    if is_plain {
        text.push(char::from(byte));
    } else {
        text.push_str(&format!("={byte:02X}"));
    }
}

/// Escapes one name as one or more segments. `=` and two digits stand for a byte; a segment that ends with `=` goes on in
/// the next one, so that long topics fit; `=` alone with a dot is the empty name.
fn escape(name: &str) -> String {
    if name.is_empty() {
        return "=.".into();
    }
    let mut escaped = String::with_capacity(name.len());
    let mut segment_bytes = 0;
    for (index, byte) in name.bytes().enumerate() {
        if segment_bytes >= SEGMENT_BYTES_MAX {
            escaped.push_str("=/");
            segment_bytes = 0;
        }
        let before = escaped.len();
        // A leading dot would hide the folder, or be `.` or `..`.
        push_byte(&mut escaped, byte, is_plain(byte) && !(byte == b'.' && (index == 0 || segment_bytes == 0)));
        segment_bytes += escaped.len() - before;
    }
    escaped
}

fn unescape<'a>(segments: &mut impl Iterator<Item = &'a str>) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let segment = segments.next()?;
        if segment == "=." && bytes.is_empty() {
            return Some(String::new());
        }
        let (text, goes_on) = match segment.strip_suffix('=') {
            Some(text) => (text, true),
            None => (segment, false),
        };
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            if byte != b'=' {
                bytes.push(byte);
                rest = after;
                continue;
            }
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        }
        if !goes_on {
            return String::from_utf8(bytes).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unit(source: &str, topic: &str, partition: i32) -> StateUnit {
        StateUnit { source: source.into(), topic: topic.into(), partition }
    }

    fn number(number: u64) -> ManifestNumber {
        ManifestNumber::new(number).unwrap()
    }

    #[test]
    fn a_common_unit_has_a_readable_name() {
        assert_eq!(
            manifest_path(&unit("transactions", "card.events-v1", 12), number(7)),
            "units/transactions/card.events-v1/12/manifests/00000000000000000007.json"
        );
    }

    #[test]
    fn names_that_would_leave_the_folder_are_escaped() {
        assert_eq!(unit_folder(&unit("..", ".hidden/x", 0)), "=2E./=2Ehidden=2Fx/0");
        assert_eq!(unit_folder(&unit("", "a=b", 0)), "=./a=3Db/0");
    }

    #[test]
    fn only_a_manifests_own_name_is_read_as_one() {
        assert_eq!(parse_manifest_name("00000000000000000007.json"), Some(number(7)));
        for other in
            ["7.json", "00000000000000000000.json", "00000000000000000007.json#1", "+0000000000000000007.json", "x"]
        {
            assert_eq!(parse_manifest_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_of_state_tells_the_generation_that_wrote_it() {
        let unit = unit("transactions", "cards", 3);
        let folder = snapshot_folder(&unit, Offset::new(70).unwrap(), Generation::FIRST.next(), "5f");
        assert_eq!(folder, "units/transactions/cards/3/state/00000000000000000070-g2-5f");
        let path = format!("{folder}/{}", state_file_name("features.1", StateTable::Rows));
        assert!(path.ends_with("/features.1.rows.arrow"));
        assert_eq!(parse_state_generation(&unit, &path), Some(2));
        assert_eq!(parse_state_generation(&unit, "units/transactions/cards/3/state/x"), None);
        assert_eq!(parse_state_generation(&unit, "units/transactions/cards/3/state/x/y"), None);
    }

    #[test]
    fn file_name_parts_join_without_doubt() {
        let join = |source: &str, topic: &str| format!("{}--{}", file_name_part(source), file_name_part(topic));
        assert_eq!(join("a-b", "c"), "a-b--c");
        assert_ne!(join("a-", "b"), join("a", "-b"));
        assert_ne!(join("a--b", "c"), join("a", "b--c"));
        assert_eq!(file_name_part("_x"), "=5Fx");
        assert!(file_name_part(&"/long".repeat(90)).len() <= 60);
    }

    proptest! {
        #[test]
        fn every_units_name_reads_back(source in "\\PC{0,40}", topic in "\\PC{0,400}", partition in 0..i32::MAX, n in 1..u64::MAX) {
            let unit = unit(&source, &topic, partition);
            let path = manifest_path(&unit, number(n));
            prop_assert!(path.split('/').all(|segment| segment.len() <= 200 && !segment.is_empty() && !segment.starts_with('.')));
            prop_assert_eq!(parse_manifest_path(&path), Some((unit, number(n))));
        }

        #[test]
        fn two_units_never_share_a_file_name(a in "[-=_./a]{1,6}", b in "[-=_./a]{1,6}", c in "[-=_./a]{1,6}", d in "[-=_./a]{1,6}") {
            let join = |source: &str, topic: &str| format!("{}--{}--0", file_name_part(source), file_name_part(topic));
            prop_assert_eq!(join(&a, &b) == join(&c, &d), (a, b) == (c, d));
        }
    }
}
