//! The API in the words of OpenAPI 3.1, at `/openapi.json`. It is made from the handlers, and has no secret: everybody may read it.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::schema::{ArrayBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OneOfBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::accept;
use super::{budgets, links, problem, query, request, statements, trace};

/// Path of the document.
pub(super) const PATH: &str = "/openapi.json";

/// The whole document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gust",
        description = "SQL over a data lake, by functions that live for one query. Each problem is `application/problem+json`. \
                       Dollars are exact decimals in texts.",
        license(name = "MIT OR Apache-2.0"),
    ),
    paths(
        super::health,
        super::metrics,
        document,
        budgets::list,
        query::query,
        statements::submit,
        statements::list,
        statements::status,
        statements::cancel,
        statements::events,
        statements::rows,
        links::all,
        links::part,
        trace::show,
    ),
    components(schemas(problem::Body, request::QueryRequest)),
    modifiers(&Finished),
    security(("token" = []), ("password" = [])),
)]
struct Api;

/// Parts of the document that the handlers cannot say.
struct Finished;

/// Properties of a submission that a one-shot request does not have.
const OF_SUBMISSIONS: [&str; 3] = ["wait_seconds", "on_wait", "links"];

impl Modify for Finished {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        env!("CARGO_PKG_VERSION").clone_into(&mut api.info.version);
        let components = api.components.get_or_insert_default();
        for (name, scheme, words) in [
            ("token", HttpAuthScheme::Bearer, "A token of `gust token new`. A server without users takes any."),
            ("password", HttpAuthScheme::Basic, "A token as the password, with any name."),
        ] {
            let scheme = HttpBuilder::new().scheme(scheme).description(Some(words)).build();
            components.add_security_scheme(name, SecurityScheme::Http(scheme));
        }
        let submission = components.schemas.get("QueryRequest").cloned();
        if let Some(RefOr::T(Schema::Object(mut object))) = submission {
            object.properties.retain(|name, _| !OF_SUBMISSIONS.contains(&name.as_str()));
            components.schemas.insert("OneShotRequest".to_owned(), Schema::Object(object).into());
        }
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let words = "A problem (RFC 9457). `kind` says what the caller can do.";
        let problem = ResponseBuilder::new().description(words).content("application/problem+json", problem).build();
        for item in api.paths.paths.values_mut() {
            for operation in operations(item) {
                operation.responses.responses.insert("default".to_owned(), problem.clone().into());
            }
        }
        for (name, media) in [("/v1/query", "rows"), ("/v1/statements/{id}/result", "rows or a page of them")] {
            let Some(item) = api.paths.paths.get_mut(name) else { continue };
            for operation in operations(item) {
                if let Some(RefOr::T(response)) = operation.responses.responses.get_mut("200") {
                    media.clone_into(&mut response.description);
                    response.content =
                        accept::media_types().map(|name| (name.to_owned(), rows_as(name).into())).collect();
                }
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [item.get.as_mut(), item.post.as_mut(), item.delete.as_mut()].into_iter().flatten()
}

/// Describes rows in a format. JSON is read by programs, and the others have descriptions of their own.
fn rows_as(media_type: &str) -> Content {
    let object = || ObjectBuilder::new().schema_type(Type::Object);
    let schema: Schema = match media_type {
        "application/json" => {
            let rows = ArrayBuilder::new().items(object()).build();
            let page = object().property("rows", Schema::Array(rows.clone())).required("rows").build();
            OneOfBuilder::new().item(Schema::Array(rows)).item(Schema::Object(page)).build().into()
        }
        _ if media_type.starts_with("text/") => ObjectBuilder::new().schema_type(Type::String).build().into(),
        _ => {
            let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
            ObjectBuilder::new().schema_type(Type::String).format(Some(binary)).build().into()
        }
    };
    Content::new(Some(schema))
}

/// Describes dollars, which may be a text or a number.
pub(super) fn dollars() -> Schema {
    let number = ObjectBuilder::new().schema_type(Type::Number).minimum(Some(0.0)).build();
    let text = ObjectBuilder::new().schema_type(Type::String).build();
    let null = ObjectBuilder::new().schema_type(SchemaType::Type(Type::Null)).build();
    OneOfBuilder::new()
        .item(Schema::Object(text))
        .item(Schema::Object(number))
        .item(Schema::Object(null))
        .build()
        .into()
}

/// Describes labels: at most 16.
pub(super) fn labels() -> Schema {
    let value = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(256)).build();
    let labels = ObjectBuilder::new().schema_type(Type::Object).max_properties(Some(16));
    Schema::Object(labels.additional_properties(Some(Schema::Object(value))).build())
}

/// Describes this API.
///
/// Everybody may read it, also without a token.
#[utoipa::path(
    get,
    path = "/openapi.json",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object)),
)]
pub(super) async fn document() -> Response {
    // Everybody may ask for it, again and again.
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| serde_json::to_vec(&Api::openapi()).unwrap_or_default().into());
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_describes_its_problems() {
        let api = serde_json::to_value(Api::openapi()).expect("JSON");
        assert_eq!(api["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = api["paths"].as_object().expect("paths");
        let routes = include_str!("mod.rs").matches(".route(").count();
        assert_eq!(paths.len(), routes, "each route is described: {:?}", paths.keys());
        for (path, item) in paths {
            for (method, operation) in item.as_object().expect("operations") {
                assert!(operation["summary"].is_string(), "{method} {path} has no words");
                let problem = &operation["responses"]["default"]["content"]["application/problem+json"]["schema"];
                assert_eq!(problem["$ref"], "#/components/schemas/Problem", "{method} {path}");
            }
        }
        let one_shot = &api["components"]["schemas"]["OneShotRequest"];
        assert!(
            one_shot["properties"]["sql"].is_object() && one_shot["properties"].get("on_wait").is_none(),
            "{one_shot}"
        );
        assert_eq!(one_shot["additionalProperties"], false);
        let formats = paths["/v1/query"]["post"]["responses"]["200"]["content"].as_object().expect("formats");
        assert_eq!(formats.len(), accept::media_types().count());
    }
}
