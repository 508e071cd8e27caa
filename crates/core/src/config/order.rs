//! The order in which the types declare their fields.
//!
//! JSON Schema keeps fields by the alphabet, but people read `version, cluster, vips, farms`.
//! serde's derive hands the declared order to any deserializer that is asked for a struct; the one
//! here keeps it and refuses to go on.

use serde::{
    Deserialize, Deserializer,
    de::{Visitor, value::Error},
    forward_to_deserialize_any,
};

use super::{
    Backend, Cluster, CookiePersistence, Document, Fallback, Farm, Health, HttpCheck, Keyspace, Limits, Listener,
    RequestMatch, Service, SessionLimits, SessionUser, SessionVip, Sessions, SourcePrefix, TablePersistence, Timeouts,
    Vip, Webhook,
};

/// The fields of the type with this name, as declared. Empty for a type that is not a record.
pub(super) fn declared(type_name: &str) -> &'static [&'static str] {
    match type_name {
        "Document" => of::<Document>(),
        "Cluster" => of::<Cluster>(),
        "Webhook" => of::<Webhook>(),
        "Vip" => of::<Vip>(),
        "Farm" => of::<Farm>(),
        "Listener" => of::<Listener>(),
        "Service" => of::<Service>(),
        "RequestMatch" => of::<RequestMatch>(),
        "CookiePersistence" => of::<CookiePersistence>(),
        "TablePersistence" => of::<TablePersistence>(),
        "SourcePrefix" => of::<SourcePrefix>(),
        "Health" => of::<Health>(),
        "HttpCheck" => of::<HttpCheck>(),
        "Backend" => of::<Backend>(),
        "Fallback" => of::<Fallback>(),
        "Limits" => of::<Limits>(),
        "Timeouts" => of::<Timeouts>(),
        "Sessions" => of::<Sessions>(),
        "SessionVip" => of::<SessionVip>(),
        "Keyspace" => of::<Keyspace>(),
        "SessionUser" => of::<SessionUser>(),
        "SessionLimits" => of::<SessionLimits>(),
        _ => &[],
    }
}

fn of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The probe always refuses; what it saw on the way is the answer.
    let _refusal = T::deserialize(Probe { fields: &mut fields });
    fields
}

struct Probe<'f> {
    fields: &'f mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.fields = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("only the names of fields are wanted"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
