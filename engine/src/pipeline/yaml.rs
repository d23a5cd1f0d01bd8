//! The pipeline file as a tree in which every scalar, key and node knows its place. Variables are put in here, inside
//! scalars and after parsing, so that no value of the environment can change the file's shape. Refused, each with its
//! place: duplicate keys, anchors, aliases, tags, several documents, keys that are not text. Types are not decided here:
//! what `no` or `08` means depends on what is expected there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use super::problem::{Problem, quoted};
use super::secret::{has_credentials, is_secret_key, may_hold_secret};
use super::settings::Place;
use super::substitute::substitute;

/// Deeper files are not pipelines, and would cost stack.
const DEPTH_MAX: usize = 16;

/// Where something stands: line and column from 1, in characters, and how wide it is on that line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) width: usize,
}

impl Spot {
    /// The beginning of a file.
    pub(super) const START: Spot = Spot { line: 1, column: 1, width: 1 };
}

/// A value and its place.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) spot: Spot,
    pub(super) content: Content,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
    /// Refused already: nothing more is said about it.
    Unusable,
}

/// A key of a mapping and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_spot: Spot,
    pub(super) value: Node,
}

/// A scalar, after substitution, still without a type.
#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) style: Style,
    /// Whether some of it came from a variable: then quotes do not say that it is text.
    pub(super) is_substituted: bool,
    /// Whether it is never shown.
    pub(super) is_secret: bool,
    /// Whether some of it stands in the file itself.
    pub(super) has_own_text: bool,
}

/// How a scalar was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Quoted,
    Block,
}

impl Scalar {
    /// Whether it says "not set".
    pub(super) fn is_null(&self) -> bool {
        self.is_empty() || (self.style == Style::Plain && (self.text == "null" || self.text == "~"))
    }

    /// Whether nothing was written, or a variable left nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty() && (self.style == Style::Plain || self.is_substituted)
    }

    /// The text for a message.
    pub(super) fn shown(&self) -> String {
        if self.is_secret { "a value that is not shown".to_string() } else { quoted(&self.text) }
    }
}

impl Node {
    /// The entry of a mapping.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            Content::Scalar(_) | Content::List(_) | Content::Unusable => None,
        }
    }

    /// The node below, by keys and (for lists) indices.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Node> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        let below = match &self.content {
            Content::List(items) => first.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => self.entry(first).map(|entry| &entry.value),
        };
        below?.at(rest)
    }
}

/// A problem before its place has a file and a line of text.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) spot: Spot,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Finding {
    pub(super) fn new(spot: Spot, message: impl Into<String>, help: impl Into<Option<String>>) -> Finding {
        Finding { spot, message: message.into(), help: help.into() }
    }
}

/// The lines of a file and which of them are never shown.
#[derive(Debug)]
pub(super) struct SourceText {
    file: PathBuf,
    lines: Vec<String>,
    hidden: BTreeSet<usize>,
}

impl SourceText {
    fn new(file: &Path, text: &str) -> SourceText {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
        SourceText {
            file: file.to_path_buf(),
            lines: text.split('\n').map(String::from).collect(),
            hidden: BTreeSet::new(),
        }
    }

    /// A place in this file.
    pub(super) fn place(&self, spot: Spot) -> Place {
        Place { file: self.file.clone(), line: spot.line, column: spot.column }
    }

    /// A line, counted from 1; empty when there is none.
    pub(super) fn line(&self, number: usize) -> &str {
        self.lines.get(number.wrapping_sub(1)).map_or("", String::as_str)
    }

    /// The problem with place and excerpt.
    pub(super) fn problem(&self, finding: Finding) -> Problem {
        let problem = Problem::new(self.place(finding.spot), finding.message);
        let problem = match finding.help {
            Some(help) => problem.with_help(help),
            None => problem,
        };
        let line = self.line(finding.spot.line);
        if self.hidden.contains(&finding.spot.line) || line.trim().is_empty() {
            return problem;
        }
        problem.with_excerpt(line, finding.spot.width)
    }
}

/// A file that could be parsed.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) source: SourceText,
    pub(super) root: Node,
}

/// Parses a file. The tree is there unless the file is not YAML at all; problems may be there in both cases.
pub(super) fn parse(file: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> (Option<Document>, Vec<Problem>) {
    let mut source = SourceText::new(file, text);
    let mut builder =
        Builder { env, source: &source, findings: Vec::new(), hidden: BTreeSet::new(), stack: Vec::new(), root: None };
    let mut parser = Parser::new_from_str(text);
    let mut is_broken = false;
    while let Some(next) = parser.next_event() {
        match next {
            Ok((event, span)) => {
                let spot = Spot { line: span.start.line(), column: span.start.col() + 1, width: 1 };
                if !builder.event(event, spot, span.end.line()) {
                    is_broken = true;
                    break;
                }
            }
            Err(error) => {
                builder.syntax_error(&error);
                is_broken = true;
                break;
            }
        }
    }
    let Builder { mut findings, hidden, root, .. } = builder;
    if root.is_none() && !is_broken {
        findings.push(Finding::new(
            Spot::START,
            "the file is empty",
            "a pipeline needs `pipeline`, `sources` and `sinks`".to_string(),
        ));
    }
    source.hidden = hidden;
    let problems = findings.into_iter().map(|finding| source.problem(finding)).collect();
    (root.filter(|_| !is_broken).map(|root| Document { source, root }), problems)
}

enum Frame {
    List { spot: Spot, items: Vec<Node>, is_secret: bool },
    Mapping { spot: Spot, entries: Vec<Entry>, key: Option<(String, Spot)>, is_secret: bool },
}

struct Builder<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    source: &'a SourceText,
    findings: Vec<Finding>,
    hidden: BTreeSet<usize>,
    stack: Vec<Frame>,
    root: Option<Node>,
}

impl Builder<'_> {
    /// Takes one event; `false` when the rest of the file is not worth reading.
    fn event(&mut self, event: Event<'_>, spot: Spot, end_line: usize) -> bool {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                if self.root.is_some() {
                    self.refuse(
                        spot,
                        "a second document begins here",
                        "a pipeline file holds one pipeline: put this into a file of its own",
                    );
                    return false;
                }
            }
            Event::Alias(_) => {
                self.refuse(
                    spot,
                    "an alias `*...` stands here",
                    "anchors and aliases are not supported: write the value out",
                );
                self.accept(Node { spot, content: Content::Unusable });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_decoration(spot, anchor, tag.is_some());
                self.scalar(&text, style, spot, end_line);
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_decoration(spot, anchor, tag.is_some());
                let is_secret = self.is_below_secret();
                self.stack.push(Frame::List { spot, items: Vec::new(), is_secret });
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_decoration(spot, anchor, tag.is_some());
                let is_secret = self.is_below_secret();
                self.stack.push(Frame::Mapping { spot, entries: Vec::new(), key: None, is_secret });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { spot, items, .. }) => self.accept(Node { spot, content: Content::List(items) }),
                Some(Frame::Mapping { spot, entries, .. }) => {
                    self.accept(Node { spot, content: Content::Mapping(entries) })
                }
                None => {}
            },
        }
        if self.stack.len() > DEPTH_MAX {
            self.refuse(spot, format!("nested deeper than {DEPTH_MAX} levels"), "no key of a pipeline stands so deep");
            return false;
        }
        true
    }

    fn refuse(&mut self, spot: Spot, message: impl Into<String>, help: &str) {
        self.findings.push(Finding::new(spot, message, help.to_string()));
    }

    fn refuse_decoration(&mut self, spot: Spot, anchor: usize, has_tag: bool) {
        if anchor != 0 {
            self.refuse(
                spot,
                "an anchor `&...` stands here",
                "anchors and aliases are not supported: write the value out",
            );
        }
        if has_tag {
            self.refuse(
                spot,
                "a tag `!...` stands here",
                "tags are not supported: the pipeline file knows the type of each key",
            );
        }
    }

    /// Whether what comes next is the value of a secret key.
    fn is_below_secret(&self) -> bool {
        match self.stack.last() {
            Some(Frame::List { is_secret, .. }) => *is_secret,
            Some(Frame::Mapping { key, is_secret, .. }) => {
                *is_secret || key.as_ref().is_some_and(|(key, _)| is_secret_key(key))
            }
            None => false,
        }
    }

    fn is_key_next(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::Mapping { key: None, .. }))
    }

    fn scalar(&mut self, raw: &str, style: ScalarStyle, spot: Spot, end_line: usize) {
        let (style, quotes) = match style {
            ScalarStyle::Plain => (Style::Plain, 0),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => (Style::Quoted, 2),
            ScalarStyle::Literal | ScalarStyle::Folded => (Style::Block, 0),
        };
        let spot = Spot { width: (raw.lines().next().unwrap_or_default().chars().count() + quotes).max(1), ..spot };
        if self.is_key_next() {
            let text = raw.to_string();
            let scalar = Scalar { text, style, is_substituted: false, is_secret: false, has_own_text: true };
            return self.accept(Node { spot, content: Content::Scalar(scalar) });
        }
        let is_secret = self.is_below_secret();
        let content = match substitute(raw, self.env) {
            Ok(done) => {
                let is_secret = is_secret || done.is_secret || has_credentials(&done.text);
                if is_secret && done.has_own_text {
                    self.hidden.extend(spot.line..=end_line.max(spot.line));
                }
                Content::Scalar(Scalar {
                    text: done.text,
                    style,
                    is_substituted: done.is_substituted,
                    is_secret,
                    has_own_text: done.has_own_text,
                })
            }
            Err(bad) => {
                for bad in bad {
                    let spot = self.spot_of(spot, &bad.written);
                    self.refuse(spot, bad.message, bad.help);
                }
                if is_secret && !(raw.starts_with("${") && raw.ends_with('}')) {
                    self.hidden.extend(spot.line..=end_line.max(spot.line));
                }
                Content::Unusable
            }
        };
        self.accept(Node { spot, content });
    }

    /// The place of a part of a scalar, when it is found on the scalar's first line.
    fn spot_of(&self, spot: Spot, part: &str) -> Spot {
        let from: String = self.source.line(spot.line).chars().skip(spot.column - 1).collect();
        match from.find(part) {
            Some(bytes) => {
                let before = from[..bytes].chars().count();
                Spot { line: spot.line, column: spot.column + before, width: part.chars().count() }
            }
            None => spot,
        }
    }

    /// Puts a finished node where it belongs.
    fn accept(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Mapping { entries, key, .. }) => match key.take() {
                Some((name, key_spot)) => {
                    // A key that was refused has no name; its value goes with it.
                    if !name.is_empty() {
                        entries.push(Entry { key: name, key_spot, value: node });
                    }
                }
                None => {
                    let name = match node.content {
                        Content::Scalar(scalar) => scalar.text,
                        Content::List(_) | Content::Mapping(_) | Content::Unusable => String::new(),
                    };
                    let first = entries.iter().find(|entry| entry.key == name).map(|entry| entry.key_spot);
                    *key = Some((name, node.spot));
                    self.check_key(first);
                }
            },
        }
    }

    /// Refuses the key that was just read when it cannot be one; then it is left without a name.
    fn check_key(&mut self, first: Option<Spot>) {
        let Some(Frame::Mapping { key: Some((name, spot)), .. }) = self.stack.last_mut() else { return };
        let spot = *spot;
        let (message, help) = if name.is_empty() {
            ("expected a key, found something that is not text".to_string(), "write `key: value`".to_string())
        } else if let Some(first) = first {
            (
                format!("the key {} stands twice", quoted(name)),
                format!("it stands at line {} already: remove one", first.line),
            )
        } else if name.contains("${") {
            (
                format!("a variable in the key {}", quoted(name)),
                "variables are put into values, never into keys".to_string(),
            )
        } else {
            return;
        };
        // The value of a refused key is still hidden when the key says so; only its name is gone from the tree.
        if first.is_some() && is_secret_key(name) {
            self.hidden.insert(spot.line);
        }
        name.clear();
        self.findings.push(Finding::new(spot, message, help));
    }

    fn syntax_error(&mut self, error: &ScanError) {
        let spot = Spot { line: error.marker().line(), column: error.marker().col() + 1, width: 1 };
        let line = self.source.line(spot.line);
        let help = if line.contains("${") && line.contains(['{', '[']) {
            "inside `{ }` and `[ ]` a `${...}` must stand in quotes: \"${VAR}\""
        } else if line.contains('\t') {
            "indent with spaces, never with tabs"
        } else {
            "look at the indentation, the quotes and the brackets here and just before"
        };
        if may_hold_secret(line) {
            self.hidden.insert(spot.line);
        }
        self.refuse(spot, format!("this is not YAML: {}", error.info()), help);
    }
}
