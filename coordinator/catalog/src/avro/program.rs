//! A file's schema as a program: which values are handed on, and how the others are passed over.

use std::collections::HashMap;

use serde_json::Value as Json;

use crate::avro::cursor::Cursor;
use crate::avro::{AvroFault, Sink, Value};

/// Number of a value, by which its sink knows it.
pub(crate) type Slot = u32;

/// Slot around fields of a record that has none itself.
const UNKNOWN: Slot = Slot::MAX;
/// Most types inside each other.
const DEPTH_MAX: usize = 64;
/// Most types of one schema, with those that are mentioned by name written out.
const NODES_MAX: usize = 100_000;

/// Field of a schema, on the question of its slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldAt<'a> {
    /// Slot of the field around it; items without a slot have that of their array. `None` at the top.
    pub(crate) parent: Option<Slot>,
    /// `field-id` of a record's field, `element-id` of an array.
    pub(crate) id: Option<i64>,
    /// Empty for an array's items.
    pub(crate) name: &'a str,
    /// Position in its record.
    pub(crate) position: usize,
}

#[derive(Debug)]
enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Fixed(usize),
    Record(Vec<Child>),
    Array(Box<Child>),
    /// Map of texts to these. Nothing in it has a slot.
    Map(Box<Node>),
    Union(Vec<Node>),
}

#[derive(Debug)]
struct Child {
    slot: Option<Slot>,
    /// False where neither the value nor a part of it has a slot.
    wanted: bool,
    node: Node,
}

/// Program that reads one object.
#[derive(Debug)]
pub(crate) struct Program(Node);

impl Program {
    /// Compiles a schema. `slots` gives the slots of its fields.
    pub(crate) fn compile(schema: &Json, slots: &dyn Fn(FieldAt<'_>) -> Option<Slot>) -> Result<Self, AvroFault> {
        let mut compiler = Compiler { slots, named: HashMap::new(), namespace: String::new(), nodes: 0 };
        let root = compiler.node(schema, None, 0)?;
        match root.bytes_min() {
            0 => Err(AvroFault::Invalid("its objects have no bytes".to_owned())),
            _ => Ok(Program(root)),
        }
    }

    pub(super) fn read(&self, cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), AvroFault> {
        read(&self.0, None, cursor, sink)
    }
}

struct Compiler<'a> {
    slots: &'a dyn Fn(FieldAt<'_>) -> Option<Slot>,
    /// Types by full name, and by the last part of it for writers that leave out the rest.
    named: HashMap<String, Named<'a>>,
    /// Namespace of the types around the one that is compiled. Empty for none.
    namespace: String,
    nodes: usize,
}

#[derive(Clone)]
struct Named<'a> {
    schema: &'a Json,
    /// Namespace around the type.
    around: String,
}

impl<'a> Compiler<'a> {
    fn node(&mut self, schema: &'a Json, parent: Option<Slot>, depth: usize) -> Result<Node, AvroFault> {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return Err(AvroFault::Invalid("its schema has too many types".to_owned()));
        }
        match schema {
            Json::String(name) => self.by_name(name, parent, depth),
            Json::Array(branches) => {
                let branches = branches.iter().map(|branch| self.node(branch, parent, depth + 1));
                Ok(Node::Union(branches.collect::<Result<_, _>>()?))
            }
            Json::Object(object) => {
                let kind = object.get("type").unwrap_or(&Json::Null);
                let inside = match kind.as_str() {
                    Some("record" | "error" | "fixed" | "enum") => self.name(schema),
                    _ => None,
                };
                match kind.as_str() {
                    Some("record" | "error") => {
                        let inside = inside.unwrap_or_else(|| self.namespace.clone());
                        let around = std::mem::replace(&mut self.namespace, inside);
                        let record = self.record(schema, parent, depth);
                        self.namespace = around;
                        record
                    }
                    Some("array") => self.array(schema, parent, depth),
                    Some("map") => {
                        let values = schema.get("values").unwrap_or(&Json::Null);
                        let slots = std::mem::replace(&mut self.slots, &|_| None);
                        let node = self.node(values, None, depth + 1);
                        self.slots = slots;
                        Ok(Node::Map(Box::new(node?)))
                    }
                    Some("fixed") => {
                        let size = object.get("size").and_then(Json::as_u64).and_then(|size| size.try_into().ok());
                        size.map(Node::Fixed).ok_or_else(|| unknown(schema))
                    }
                    Some("enum") => Ok(Node::Int),
                    // A type in braces: `{"type": "long"}`, or with a logical type.
                    _ => self.node(kind, parent, depth + 1),
                }
            }
            _ => Err(unknown(schema)),
        }
    }

    fn by_name(&mut self, name: &str, parent: Option<Slot>, depth: usize) -> Result<Node, AvroFault> {
        Ok(match name {
            "null" => Node::Null,
            "boolean" => Node::Boolean,
            "int" => Node::Int,
            "long" => Node::Long,
            "float" => Node::Float,
            "double" => Node::Double,
            "bytes" | "string" => Node::Bytes,
            name => {
                let known = self.named.get(&full_name(&self.namespace, name));
                let known = known.or_else(|| self.named.get(last_part(name))).cloned();
                let known = known.ok_or_else(|| AvroFault::Invalid(format!("its schema has no type {name}")))?;
                let here = std::mem::replace(&mut self.namespace, known.around);
                let node = self.node(known.schema, parent, depth + 1);
                self.namespace = here;
                return node;
            }
        })
    }

    /// Notes a type that has a name, and returns the namespace of what is in it.
    fn name(&mut self, schema: &'a Json) -> Option<String> {
        let name = schema.get("name").and_then(Json::as_str)?;
        let namespace = schema.get("namespace").and_then(Json::as_str).unwrap_or(&self.namespace);
        let full = full_name(namespace, name);
        let inside = full.strip_suffix(last_part(name)).unwrap_or_default().trim_end_matches('.').to_owned();
        let named = Named { schema, around: self.namespace.clone() };
        self.named.insert(last_part(name).to_owned(), named.clone());
        self.named.insert(full, named);
        Some(inside)
    }

    fn record(&mut self, schema: &'a Json, parent: Option<Slot>, depth: usize) -> Result<Node, AvroFault> {
        let fields = schema.get("fields").and_then(Json::as_array).ok_or_else(|| unknown(schema))?;
        let mut children = Vec::with_capacity(fields.len());
        for (position, field) in fields.iter().enumerate() {
            let name = field.get("name").and_then(Json::as_str).unwrap_or_default();
            let id = field.get("field-id").and_then(Json::as_i64);
            let ty = field.get("type").unwrap_or(&Json::Null);
            children.push(self.child(ty, FieldAt { parent, id, name, position }, depth)?);
        }
        Ok(Node::Record(children))
    }

    fn array(&mut self, schema: &'a Json, parent: Option<Slot>, depth: usize) -> Result<Node, AvroFault> {
        let items = schema.get("items").unwrap_or(&Json::Null);
        let id = schema.get("element-id").and_then(Json::as_i64);
        let slot = (self.slots)(FieldAt { parent, id, name: "", position: 0 });
        let node = self.node(items, slot.or(parent), depth + 1)?;
        let child = Child { slot, wanted: slot.is_some() || node.is_wanted(), node };
        match child.node.bytes_min() {
            0 => Err(AvroFault::Invalid("its schema has an array of nothing".to_owned())),
            _ => Ok(Node::Array(Box::new(child))),
        }
    }

    fn child(&mut self, ty: &'a Json, field: FieldAt<'_>, depth: usize) -> Result<Child, AvroFault> {
        let slot = (self.slots)(field);
        let node = self.node(ty, Some(slot.unwrap_or(UNKNOWN)), depth + 1)?;
        Ok(Child { slot, wanted: slot.is_some() || node.is_wanted(), node })
    }
}

/// Returns a name with its namespace. A name with a dot has it already.
fn full_name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() || name.contains('.') { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

fn unknown(schema: &Json) -> AvroFault {
    let text: String = schema.to_string().chars().take(100).collect();
    AvroFault::Invalid(format!("its schema has a type that is none: {text}"))
}

impl Node {
    /// Returns the fewest bytes of a value.
    fn bytes_min(&self) -> usize {
        match self {
            Node::Null => 0,
            Node::Fixed(bytes) => *bytes,
            Node::Record(children) => children.iter().fold(0, |sum, c| sum.saturating_add(c.node.bytes_min())),
            Node::Float => 4,
            Node::Double => 8,
            _ => 1,
        }
    }

    fn is_wanted(&self) -> bool {
        match self {
            Node::Record(children) => children.iter().any(|child| child.wanted),
            Node::Array(item) => item.wanted,
            Node::Union(branches) => branches.iter().any(Node::is_wanted),
            _ => false,
        }
    }
}

fn read(node: &Node, slot: Option<Slot>, cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), AvroFault> {
    let value = match node {
        Node::Null => return Ok(()),
        Node::Boolean => Value::Boolean(cursor.boolean()?),
        Node::Int => Value::Int(cursor.int()?),
        Node::Long => Value::Long(cursor.long()?),
        Node::Float => Value::Float(cursor.float()?),
        Node::Double => Value::Double(cursor.double()?),
        Node::Bytes => Value::Bytes(cursor.bytes()?),
        Node::Fixed(bytes) => Value::Bytes(cursor.take(*bytes)?),
        Node::Record(children) => {
            for child in children {
                match child.wanted {
                    true => read(&child.node, child.slot, cursor, sink)?,
                    false => skip(&child.node, cursor)?,
                }
            }
            return Ok(());
        }
        Node::Array(item) if item.wanted => return read_items(item, cursor, sink),
        Node::Array(_) | Node::Map(_) => return skip(node, cursor),
        Node::Union(branches) => return read(branch(branches, cursor)?, slot, cursor, sink),
    };
    match slot {
        Some(slot) => sink.value(slot, value),
        None => Ok(()),
    }
}

fn read_items(item: &Child, cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), AvroFault> {
    loop {
        let block = cursor.block()?;
        if block.count == 0 {
            return Ok(());
        }
        for _ in 0..block.count {
            if let (Some(slot), Node::Record(_)) = (item.slot, &item.node) {
                sink.item(slot)?;
            }
            read(&item.node, item.slot, cursor, sink)?;
        }
    }
}

fn branch<'a>(branches: &'a [Node], cursor: &mut Cursor<'_>) -> Result<&'a Node, AvroFault> {
    let index = cursor.long()?;
    let branch = usize::try_from(index).ok().and_then(|index| branches.get(index));
    branch.ok_or_else(|| AvroFault::Invalid(format!("branch {index} of {}", branches.len())))
}

fn skip(node: &Node, cursor: &mut Cursor<'_>) -> Result<(), AvroFault> {
    match node {
        Node::Null => {}
        Node::Boolean => drop(cursor.take(1)?),
        Node::Int | Node::Long => drop(cursor.long()?),
        Node::Float => drop(cursor.take(4)?),
        Node::Double => drop(cursor.take(8)?),
        Node::Bytes => drop(cursor.bytes()?),
        Node::Fixed(bytes) => drop(cursor.take(*bytes)?),
        Node::Record(children) => children.iter().try_for_each(|child| skip(&child.node, cursor))?,
        Node::Union(branches) => skip(branch(branches, cursor)?, cursor)?,
        Node::Array(item) => skip_items(cursor, |cursor| skip(&item.node, cursor))?,
        Node::Map(values) => skip_items(cursor, |cursor| {
            cursor.bytes()?;
            skip(values, cursor)
        })?,
    }
    Ok(())
}

fn skip_items<'a>(
    cursor: &mut Cursor<'a>,
    skip_one: impl Fn(&mut Cursor<'a>) -> Result<(), AvroFault>,
) -> Result<(), AvroFault> {
    loop {
        let block = cursor.block()?;
        match block.bytes {
            _ if block.count == 0 => return Ok(()),
            Some(bytes) => drop(cursor.take(bytes)?),
            None => (0..block.count).try_for_each(|_| skip_one(cursor))?,
        }
    }
}
