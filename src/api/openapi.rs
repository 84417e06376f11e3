//! The API about itself: an OpenAPI 3.1 document made from the same calls as the router.

use std::collections::BTreeMap;

use axum::extract;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use utoipa::openapi::content::Content;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Paths, Ref};
use utoipa::{PartialSchema, ToSchema};

use crate::api::State;
use crate::api::auth::Access;
use crate::api::call::Call;
use crate::api::problem::{Kind, Written};

const PROBLEM_TYPE: &str = "application/problem+json";

/// The name of the only security scheme.
const KEY: &str = "key";

pub fn calls() -> Vec<Call> {
    let document = ObjectBuilder::new().schema_type(Type::Object);
    vec![Call::get("/openapi.json", Access::Key, openapi, "openapi", "This document").answers_with(
        200,
        "OpenAPI 3.1.",
        "application/json",
        Content::new(Some(document)),
    )]
}

async fn openapi(extract::State(state): extract::State<State>) -> Response {
    let mut response = state.document.clone().into_response();
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// What a call with this access may be refused with before it is made.
pub fn access_problems(access: Access) -> &'static [Kind] {
    use Kind::{ForbiddenHost, ForbiddenOrigin, ForbiddenScope, Unauthorized, Unavailable};
    match access {
        Access::Probe => &[],
        Access::Page => &[ForbiddenHost, ForbiddenOrigin, Unavailable],
        Access::Key => &[Unauthorized, ForbiddenHost, ForbiddenOrigin, Unavailable],
        Access::Scopes(_) => {
            &[Unauthorized, ForbiddenScope, ForbiddenHost, ForbiddenOrigin, Unavailable]
        }
    }
}

/// The document of these calls.
pub fn document(calls: Vec<Call>) -> OpenApi {
    let mut paths = Paths::new();
    let mut schemas = BTreeMap::new();
    schemas.insert(Written::name().into_owned(), Written::schema());
    for call in calls {
        let mut operation = call.operation;
        for (status, response) in call.responses {
            operation = operation.response(status.to_string(), response);
        }
        let mut refused = BTreeMap::<u16, Vec<Kind>>::new();
        for &kind in access_problems(call.access).iter().chain(&call.problems) {
            let kinds = refused.entry(kind.status().as_u16()).or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        for (status, kinds) in refused {
            operation = operation.response(status.to_string(), problem_response(&kinds));
        }
        if let Some(scopes) = scopes(call.access) {
            operation = operation.security(SecurityRequirement::new(KEY, scopes));
            // Where no key is configured, none is needed.
            operation = operation.security(SecurityRequirement::default());
        }
        paths.add_path_operation(path(call.route), vec![call.method], operation.build());
        schemas.extend(call.schemas);
    }
    schemas.insert("ProblemType".to_owned(), problem_types());
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "The token of an [[api.key]]. The scopes of an operation are alternatives: a key needs one \
         of them; `admin` is all of them. Without any configured key the API answers this \
         machine only, and needs none.",
    ));
    let components = ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme(KEY, SecurityScheme::Http(key.build()));
    let license = LicenseBuilder::new().name("MIT OR Apache-2.0").build();
    let info = InfoBuilder::new()
        .title("pathcast")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Publish to the clients of a path, or to one of them; hear what they say. Errors are \
             problems (RFC 9457); their types are listed in ProblemType. Besides those of its own, \
             any call answers `unknown-route` (404) and `method-not-allowed` (405) to what it is \
             not.",
        ))
        .license(Some(license))
        .build();
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build()
}

/// axum's `{*path}` is the document's `{path}`.
pub fn path(route: &str) -> String {
    route.replace("{*", "{")
}

fn scopes(access: Access) -> Option<Vec<&'static str>> {
    match access {
        Access::Probe | Access::Page => None,
        Access::Key => Some(Vec::new()),
        Access::Scopes(scopes) => Some(scopes.iter().map(|scope| scope.as_str()).collect()),
    }
}

fn problem_response(kinds: &[Kind]) -> utoipa::openapi::Response {
    let described: Vec<_> =
        kinds.iter().map(|kind| format!("`{}`: {}", kind.slug(), kind.title())).collect();
    let content = Content::new(Some(Ref::from_schema_name(Written::name())));
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let mut response =
        ResponseBuilder::new().description(described.join("; ")).content(PROBLEM_TYPE, content);
    for header in kinds.iter().flat_map(|kind| kind.headers()) {
        response = response.header(*header, HeaderBuilder::new().schema(Some(text())).build());
    }
    response.build()
}

/// Every `type` that a problem may have.
fn problem_types() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
    let types = Kind::ALL.iter().map(|kind| format!("/problems/{}", kind.slug()));
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("Stable: a type keeps its meaning, new ones may come."))
        .enum_values(Some(types))
        .build()
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::api::router::calls;

    fn told() -> Value {
        serde_json::to_value(document(calls())).expect("a document")
    }

    /// Calls `see` with every object of the document.
    fn walk(value: &Value, see: &mut impl FnMut(&serde_json::Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                see(object);
                object.values().for_each(|member| walk(member, see));
            }
            Value::Array(members) => members.iter().for_each(|member| walk(member, see)),
            _ => {}
        }
    }

    #[test]
    fn every_call_and_every_problem_is_told() {
        let told = told();
        assert_eq!(told["openapi"], "3.1.0");
        for call in calls() {
            let method = serde_json::to_value(call.method).expect("a name");
            let method = method.as_str().expect("a name").to_owned();
            let operation = &told["paths"][path(call.route)][&method];
            assert!(operation.is_object(), "{method} {}", call.route);
            for &kind in access_problems(call.access).iter().chain(&call.problems) {
                let response = &operation["responses"][kind.status().as_str()];
                let described = response["description"].as_str().unwrap_or_default();
                assert!(described.contains(kind.slug()), "{method} {} {kind:?}", call.route);
            }
        }
        let types = told["components"]["schemas"]["ProblemType"]["enum"].as_array().map(Vec::len);
        assert_eq!(types, Some(Kind::ALL.len()));
    }

    #[test]
    fn the_document_holds_together() {
        let told = told();
        let mut ids = std::collections::BTreeSet::new();
        walk(&told, &mut |object| {
            if let Some(id) = object.get("operationId") {
                assert!(ids.insert(id.to_string()), "{id} twice");
            }
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').expect("it stays inside");
                assert!(told.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
        });
        assert_eq!(ids.len(), calls().len());
        for (path, item) in told["paths"].as_object().expect("an object") {
            for (method, operation) in item.as_object().expect("an object") {
                let parts: Vec<_> = path.split('{').skip(1).collect();
                let declared = operation["parameters"].as_array().cloned().unwrap_or_default();
                let declared = declared.iter().filter(|one| one["in"] == "path").count();
                assert_eq!(declared, parts.len(), "{method} {path}");
                for (status, response) in operation["responses"].as_object().expect("responses") {
                    assert!(status.parse::<u16>().is_ok_and(|code| (200..600).contains(&code)));
                    assert!(response["description"].is_string(), "{method} {path} {status}");
                }
            }
        }
    }
}
