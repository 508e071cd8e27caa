//! The document's JSON Schema, for editors and validators.

use schemars::generate::SchemaSettings;

use super::Document;

/// The JSON Schema (draft 2020-12) of the document. It says what a document looks like; the
/// checks for sense (names that must exist, ports used twice) are only in [`super::parse`].
pub fn json_schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Document>();
    schema.insert("$id".to_owned(), "https://ballast.invalid/schema/configuration-v1.json".into());
    schema.insert("title".to_owned(), "Ballast configuration".into());
    schema.to_value()
}
