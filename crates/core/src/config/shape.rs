//! What a document may look like: the types' JSON Schema, compiled for walking.
//!
//! The types are the only source. `schemars` derives a schema from them, with descriptions,
//! defaults and bounds; this module turns that into plain Rust values once, so that the walker and
//! the reference page need no knowledge of JSON Schema.
//!
//! A schema that this module does not understand is a mistake in our types and panics; since the
//! types are fixed when Ballast is built, any test that parses a document would notice.

use std::sync::LazyLock;

use serde_json::Value as Json;

use super::{ByteSize, Network, Span, StatusRange, VipAddress, order, schema};

/// The shape of the whole document.
pub(super) static DOCUMENT: LazyLock<Shape> = LazyLock::new(|| {
    let root = schema::json_schema();
    Compiler { definitions: root.get("$defs").cloned().unwrap_or_default() }.named("Document", &root)
});

/// What a value may look like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// The type's name, for those that have one.
    pub name: Option<String>,
    /// The type's own documentation.
    pub description: String,
    /// Whether `null` stands for absence.
    pub nullable: bool,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Text(Format),
    Integer {
        min: u64,
        max: u64,
    },
    Flag,
    List {
        item: Box<Shape>,
        items_min: u64,
    },
    Record(Vec<Field>),
    /// One of some words.
    Words(Vec<Word>),
    /// A map with exactly one of some keys.
    Variants(Vec<Variant>),
    /// Any keys.
    Dictionary(Box<Shape>),
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    pub description: String,
    pub required: bool,
    pub default: Option<Json>,
    pub shape: Shape,
}

#[derive(Clone, Debug)]
pub(super) struct Word {
    pub text: String,
    pub description: String,
}

#[derive(Clone, Debug)]
pub(super) struct Variant {
    pub name: String,
    pub description: String,
    pub shape: Shape,
}

/// How a text must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Free,
    Ip,
    VipAddress,
    SocketAddress,
    Span,
    ByteSize,
    Network,
    StatusRange,
}

impl Format {
    /// What it is, with an example.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Free => "text",
            Self::Ip => "an IP address like 10.0.0.7 or 2001:db8::7",
            Self::VipAddress => "an IP address like 10.0.0.7 or 2001:db8::7, or with a prefix length like 10.0.0.7/24",
            Self::SocketAddress => "an IP address and a port like 10.0.0.7:8080 or \"[2001:db8::7]:8080\"",
            Self::Span => "a length of time: a whole number and a unit, like 500ms, 5s, 30m, 8h or 7d",
            Self::ByteSize => "a size: a whole number and a unit, like 512B, 64KiB, 16MiB or 1GiB",
            Self::Network => "a network like 10.0.0.0/8 or 2001:db8::/32, or a single address",
            Self::StatusRange => "a status or a range of statuses in quotes, like \"200\" or \"200-299\"",
        }
    }

    /// What it is called in the reference.
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "text",
            Self::Ip => "IP address",
            Self::VipAddress => "IP address or address/prefix",
            Self::SocketAddress => "address:port",
            Self::Span => "length of time",
            Self::ByteSize => "size",
            Self::Network => "network",
            Self::StatusRange => "status range",
        }
    }

    /// Whether `text` is written so.
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Self::Free => true,
            Self::Ip => text.parse::<std::net::IpAddr>().is_ok(),
            Self::VipAddress => text.parse::<VipAddress>().is_ok(),
            Self::SocketAddress => text.parse::<std::net::SocketAddr>().is_ok(),
            Self::Span => text.parse::<Span>().is_ok(),
            Self::ByteSize => text.parse::<ByteSize>().is_ok(),
            Self::Network => Network::try_from(text.to_owned()).is_ok(),
            Self::StatusRange => StatusRange::try_from(text.to_owned()).is_ok(),
        }
    }

    /// A value that is right by itself, to go on checking with. Different numbers give different
    /// values where values must be unique.
    fn placeholder(self, number: usize) -> String {
        match self {
            Self::Free => format!("\u{fffd}{number}"),
            Self::Ip | Self::VipAddress => format!("2001:db8::{:x}", number % 0xffff + 1),
            Self::SocketAddress => format!("192.0.2.1:{}", number % 65_535 + 1),
            Self::Span => "1s".to_owned(),
            Self::ByteSize => "1KiB".to_owned(),
            Self::Network => "192.0.2.0/24".to_owned(),
            Self::StatusRange => "200".to_owned(),
        }
    }
}

impl Shape {
    /// A value of this shape, to stand for one that was refused.
    pub fn placeholder(&self, number: usize) -> Json {
        if self.nullable {
            return Json::Null;
        }
        match &self.kind {
            Kind::Text(format) => format.placeholder(number).into(),
            Kind::Integer { min, .. } => (*min).into(),
            Kind::Flag => false.into(),
            Kind::List { item, items_min } => (0..*items_min).map(|_| item.placeholder(number)).collect(),
            Kind::Record(fields) => fields
                .iter()
                .filter(|field| field.required)
                .map(|field| (field.name.clone(), field.shape.placeholder(number)))
                .collect(),
            Kind::Words(words) => words.first().map_or(Json::Null, |word| word.text.clone().into()),
            Kind::Variants(variants) => {
                variants.first().map(|v| (v.name.clone(), v.shape.placeholder(number))).into_iter().collect()
            }
            Kind::Dictionary(_) => Json::Object(serde_json::Map::new()),
        }
    }
}

struct Compiler {
    definitions: Json,
}

impl Compiler {
    fn shape(&self, schema: &Json) -> Shape {
        if let Some(reference) = schema.get("$ref").and_then(Json::as_str) {
            let name = reference.rsplit('/').next().unwrap_or(reference);
            let target = self.definitions.get(name).unwrap_or_else(|| panic!("schema: {reference} leads nowhere"));
            return self.named(name, target);
        }
        if let Some(options) = schema.get("anyOf").and_then(Json::as_array) {
            let is_null = |option: &&Json| option.get("type").and_then(Json::as_str) == Some("null");
            let one = options.iter().find(|o| !is_null(o)).expect("an anyOf of Option has a part that is not null");
            return Shape { nullable: options.iter().any(|o| is_null(&o)), ..self.shape(one) };
        }
        let (kind, nullable) = self.kind(schema);
        Shape { name: None, description: text(schema, "description"), nullable, kind }
    }

    /// The shape of a type, its fields in the order of their declaration.
    fn named(&self, name: &str, schema: &Json) -> Shape {
        let mut shape = Shape { name: Some(name.to_owned()), ..self.shape(schema) };
        if let Kind::Record(fields) = &mut shape.kind {
            let order = order::declared(name);
            let rank = |field: &Field| order.iter().position(|declared| *declared == field.name);
            fields.sort_by_key(|field| {
                rank(field).unwrap_or_else(|| panic!("order: {name}.{} is not known", field.name))
            });
        }
        shape
    }

    fn kind(&self, schema: &Json) -> (Kind, bool) {
        if let Some(options) = schema.get("oneOf").and_then(Json::as_array) {
            return (self.choice(options), false);
        }
        let number = |key: &str| schema.get(key).and_then(Json::as_u64);
        let (kind, nullable) = match schema.get("type") {
            Some(Json::String(kind)) => (kind.as_str(), false),
            Some(Json::Array(kinds)) => {
                let kind = kinds.iter().filter_map(Json::as_str).find(|kind| *kind != "null");
                (kind.expect("a list of types has one that is not null"), true)
            }
            _ => panic!("schema: no type in {schema}"),
        };
        let kind = match kind {
            "boolean" => Kind::Flag,
            "integer" => {
                let widest = match schema.get("format").and_then(Json::as_str) {
                    Some("uint8") => u8::MAX.into(),
                    Some("uint16") => u16::MAX.into(),
                    Some("uint32") => u32::MAX.into(),
                    _ => u64::MAX,
                };
                Kind::Integer { min: number("minimum").unwrap_or(0), max: number("maximum").unwrap_or(widest) }
            }
            "string" => match schema.get("enum").and_then(Json::as_array) {
                Some(words) => Kind::Words(words.iter().map(|w| word(w, String::new())).collect()),
                None => Kind::Text(match schema.get("format").and_then(Json::as_str) {
                    None => Format::Free,
                    Some("ip") => Format::Ip,
                    Some("vip-address") => Format::VipAddress,
                    Some("socket-address") => Format::SocketAddress,
                    Some("span") => Format::Span,
                    Some("byte-size") => Format::ByteSize,
                    Some("network") => Format::Network,
                    Some("status-range") => Format::StatusRange,
                    Some(other) => panic!("schema: unknown format {other}"),
                }),
            },
            "array" => Kind::List {
                item: Box::new(self.shape(schema.get("items").expect("a list says what its items are"))),
                items_min: number("minItems").unwrap_or(0),
            },
            "object" => match schema.get("additionalProperties") {
                Some(item @ Json::Object(_)) => Kind::Dictionary(Box::new(self.shape(item))),
                Some(Json::Bool(false)) => Kind::Record(self.fields(schema)),
                _ => panic!("schema: a type of the document takes unknown keys: {schema}"),
            },
            other => panic!("schema: unknown type {other}"),
        };
        (kind, nullable)
    }

    fn choice(&self, options: &[Json]) -> Kind {
        if options.iter().all(|option| option.get("const").is_some()) {
            return Kind::Words(options.iter().map(|o| word(&o["const"], text(o, "description"))).collect());
        }
        Kind::Variants(
            options
                .iter()
                .map(|option| {
                    let mut fields = self.fields(option);
                    assert_eq!(fields.len(), 1, "schema: a variant has one key: {option}");
                    let field = fields.remove(0);
                    Variant { name: field.name, description: text(option, "description"), shape: field.shape }
                })
                .collect(),
        )
    }

    fn fields(&self, schema: &Json) -> Vec<Field> {
        let required = schema.get("required").and_then(Json::as_array).cloned().unwrap_or_default();
        let properties = schema.get("properties").and_then(Json::as_object);
        properties
            .into_iter()
            .flatten()
            .map(|(name, property)| Field {
                name: name.clone(),
                description: text(property, "description"),
                required: required.iter().any(|r| r.as_str() == Some(name)),
                default: property.get("default").cloned(),
                shape: self.shape(property),
            })
            .collect()
    }
}

fn word(value: &Json, description: String) -> Word {
    Word { text: value.as_str().expect("a word is text").to_owned(), description }
}

fn text(schema: &Json, key: &str) -> String {
    schema.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
}
