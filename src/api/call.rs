//! One call of the API: its route, who may make it, what it does and what it says about itself.
//!
//! The router and the OpenAPI document are made from the same [`Call`]s, so neither can tell
//! something that the other does not know.

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter, on};
use utoipa::ToSchema;
use utoipa::openapi::content::Content;
use utoipa::openapi::path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{HttpMethod, Ref, RefOr, Required};

use crate::api::State;
use crate::api::auth::Access;
use crate::api::problem::Kind;

/// A named schema for the document's components.
pub type Named = (String, RefOr<Schema>);

pub struct Call {
    pub method: HttpMethod,
    /// As axum writes it: `/v1/publish/{*path}`.
    pub route: &'static str,
    pub access: Access,
    pub handler: MethodRouter<State>,
    pub operation: OperationBuilder,
    pub responses: Vec<(u16, Response)>,
    /// What it may refuse with, besides what its `access` refuses.
    pub problems: Vec<Kind>,
    pub schemas: Vec<Named>,
}

impl Call {
    /// `id` is the operation's name for generated clients, `summary` one line for people.
    pub fn new<H, T>(
        method: HttpMethod,
        route: &'static str,
        access: Access,
        handler: H,
        id: &str,
        summary: &str,
    ) -> Call
    where
        H: Handler<T, State>,
        T: 'static,
    {
        let filter = match method {
            HttpMethod::Post => MethodFilter::POST,
            HttpMethod::Delete => MethodFilter::DELETE,
            // Answers HEAD too (RFC 9110, 9.1).
            _ => MethodFilter::GET,
        };
        Call {
            method,
            route,
            access,
            handler: on(filter, handler),
            operation: OperationBuilder::new().operation_id(Some(id)).summary(Some(summary)),
            responses: Vec::new(),
            problems: Vec::new(),
            schemas: Vec::new(),
        }
    }

    pub fn get<H, T>(
        route: &'static str,
        access: Access,
        handler: H,
        id: &str,
        summary: &str,
    ) -> Call
    where
        H: Handler<T, State>,
        T: 'static,
    {
        Call::new(HttpMethod::Get, route, access, handler, id, summary)
    }

    pub fn describe(mut self, description: &str) -> Call {
        self.operation = self.operation.description(Some(description));
        self
    }

    /// A part of the path.
    pub fn part(mut self, name: &str, description: &str) -> Call {
        let part = parameter(name, ParameterIn::Path, Required::True, Type::String, description);
        self.operation = self.operation.parameter(part);
        self
    }

    /// An optional query parameter.
    pub fn query(mut self, name: &str, kind: Type, description: &str) -> Call {
        let query = parameter(name, ParameterIn::Query, Required::False, kind, description);
        self.operation = self.operation.parameter(query);
        self
    }

    /// An optional header.
    pub fn header(mut self, name: &str, description: &str) -> Call {
        let header =
            parameter(name, ParameterIn::Header, Required::False, Type::String, description);
        self.operation = self.operation.parameter(header);
        self
    }

    /// Content types of the body, each with what it means.
    pub fn takes(mut self, types: &[(&str, Schema)]) -> Call {
        let mut body = RequestBodyBuilder::new().required(Some(Required::True));
        for (content_type, schema) in types {
            body = body.content(*content_type, Content::new(Some(schema.clone())));
        }
        self.operation = self.operation.request_body(Some(body.build()));
        self
    }

    /// A body of this type as the answer with this status.
    pub fn answers<T: ToSchema>(self, status: u16, description: &str) -> Call {
        let content = Content::new(Some(Ref::from_schema_name(T::name())));
        self.answers_with(status, description, "application/json", content).names::<T>()
    }

    /// Adds a type, and those that it is made of, to the document's components.
    pub fn names<T: ToSchema>(mut self) -> Call {
        T::schemas(&mut self.schemas);
        self.schemas.push((T::name().into(), T::schema()));
        self
    }

    /// Any other answer. Several content types of one status are several calls of this.
    pub fn answers_with(
        mut self,
        status: u16,
        description: &str,
        content_type: &str,
        content: Content,
    ) -> Call {
        let earlier = self.responses.iter_mut().find(|(known, _)| *known == status);
        match earlier {
            Some((_, response)) => {
                response.content.insert(content_type.into(), content.into());
            }
            None => {
                let response = ResponseBuilder::new().description(description);
                let response = response.content(content_type, content).build();
                self.responses.push((status, response));
            }
        }
        self
    }

    pub fn refuses(mut self, problems: &[Kind]) -> Call {
        self.problems.extend(problems);
        self
    }
}

fn parameter(
    name: &str,
    place: ParameterIn,
    required: Required,
    kind: Type,
    description: &str,
) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .schema(Some(ObjectBuilder::new().schema_type(kind)))
        .description(Some(description))
        .build()
}
