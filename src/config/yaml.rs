//! A YAML text as a tree that knows its lines.
//!
//! Anchors, aliases and merge keys (`<<`) are resolved, as the Go supernode's reader did. A key that is repeated in one
//! mapping counts where it stands last, as it did there.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Deeper than any configuration, and shallow enough to be walked and dropped.
const DEPTH_MAX: usize = 64;
const MERGE: &str = "<<";

/// What stands somewhere in a document.
#[derive(Debug)]
pub struct Node {
    /// From 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Debug)]
pub enum Value {
    Scalar {
        text: String,
        /// Without quotes, so that digits are a number and `~` is nothing.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    /// In the order of the document, each key once.
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub line: usize,
    pub key: String,
    pub value: Rc<Node>,
}

/// The first document of a text.
#[derive(Debug, Default)]
pub struct Document {
    /// `None` where there are only comments, or nothing.
    pub root: Option<Rc<Node>>,
    pub repeated: Vec<Repeated>,
    /// Where a second document begins, which is not read.
    pub second: Option<usize>,
}

/// A key that stands in one mapping again.
#[derive(Debug, PartialEq, Eq)]
pub struct Repeated {
    pub key: String,
    pub first_line: usize,
    pub line: usize,
}

/// Why a text is not YAML. Lines and columns are from 1.
#[derive(Debug, PartialEq, Eq)]
pub struct NotYaml {
    pub line: usize,
    pub column: usize,
    pub why: String,
}

impl From<ScanError> for NotYaml {
    fn from(error: ScanError) -> Self {
        Self { line: error.marker().line(), column: error.marker().col() + 1, why: error.info().to_owned() }
    }
}

/// Reads a text.
pub fn parse(text: &str) -> Result<Document, NotYaml> {
    let mut builder = Builder::default();
    // A byte order mark is no content.
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        let (event, span) = event?;
        if let (Event::DocumentStart(_), true) = (&event, builder.ended) {
            builder.document.second = Some(span.start.line());
            break;
        }
        builder.take(event, span)?;
    }
    Ok(builder.document)
}

/// A list or mapping that is open.
enum Open {
    List { line: usize, anchor: usize, items: Vec<Rc<Node>> },
    Mapping { line: usize, anchor: usize, entries: Vec<Entry>, merged: Vec<Rc<Node>>, key: Option<(String, usize)> },
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    document: Document,
    ended: bool,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), NotYaml> {
        let line = span.start.line();
        let wrong = |why: &str| NotYaml { line, column: span.start.col() + 1, why: why.to_owned() };
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.close(Node { line, value }, anchor);
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or_else(|| wrong("an alias stands within what it names"))?;
                self.place(node, line);
            }
            Event::SequenceStart(anchor, _) => self.open.push(Open::List { line, anchor, items: Vec::new() }),
            Event::MappingStart(anchor, _) => {
                self.open.push(Open::Mapping { line, anchor, entries: Vec::new(), merged: Vec::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close_open(),
            Event::DocumentEnd => self.ended = true,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {}
        }
        if self.open.len() > DEPTH_MAX {
            return Err(wrong("lists and mappings are nested too deep"));
        }
        Ok(())
    }

    fn close_open(&mut self) {
        match self.open.pop() {
            Some(Open::List { line, anchor, items }) => self.close(Node { line, value: Value::List(items) }, anchor),
            Some(Open::Mapping { line, anchor, entries, merged, .. }) => {
                let mut entries = self.last_of_each(entries);
                merged.iter().for_each(|node| merge(&mut entries, node));
                self.close(Node { line, value: Value::Mapping(entries) }, anchor);
            }
            None => {}
        }
    }

    fn close(&mut self, node: Node, anchor: usize) {
        let (line, node) = (node.line, Rc::new(node));
        // 0 is no anchor.
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.place(node, line);
    }

    /// Puts a node where the document has it, at this line.
    fn place(&mut self, node: Rc<Node>, line: usize) {
        match self.open.last_mut() {
            None => self.document.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, merged, key, .. }) => match key.take() {
                None => *key = Some((key_text(&node), line)),
                Some((key, _)) if key == MERGE => merged.push(node),
                Some((key, line)) => entries.push(Entry { line, key, value: node }),
            },
        }
    }

    fn last_of_each(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
        let mut places: HashMap<String, usize> = HashMap::new();
        for entry in entries {
            // The Go supernode's reader did not tell capitals from small letters in keys.
            match places.get(&entry.key.to_lowercase()) {
                Some(&place) => {
                    let (key, first_line, line) = (entry.key.clone(), kept[place].line, entry.line);
                    self.document.repeated.push(Repeated { key, first_line, line });
                    kept[place] = entry;
                }
                None => {
                    places.insert(entry.key.to_lowercase(), kept.len());
                    kept.push(entry);
                }
            }
        }
        kept
    }
}

/// A key that is no scalar names nothing that anybody knows.
fn key_text(node: &Node) -> String {
    match &node.value {
        Value::Scalar { text, .. } => text.clone(),
        Value::List(_) => "[…]".to_owned(),
        Value::Mapping(_) => "{…}".to_owned(),
    }
}

/// Adds the entries of a merged mapping, or of each in a list, whose keys are not there yet.
fn merge(entries: &mut Vec<Entry>, node: &Node) {
    // A list in a list is not followed: aliases could double it at every level.
    let mappings: &[Rc<Node>] = if let Value::List(nodes) = &node.value { nodes } else { &[] };
    for node in mappings.iter().map(Rc::as_ref).chain([node]) {
        let Value::Mapping(others) = &node.value else { continue };
        for other in others {
            if !entries.iter().any(|entry| entry.key.eq_ignore_ascii_case(&other.key)) {
                entries.push(other.clone());
            }
        }
    }
}
