//! What `/quota` and `/weights` change: POST and DELETE of a quota, PUT of weights. Each becomes the call of v1 that
//! says the same.

use crate::http::operator::Operators;
use api::json::Fault;
use api::limits::{SMALL_BODY_BYTES_MAX, quoted};
use api::v1::master::Call;
use api::v1::master::call::{RemoveQuota, SetQuota, Type, UpdateWeights};
use api::v1::quota::QuotaRequest;
use api_http::{Method, Received, Request, Response, StatusCode, Visitor};

/// A request for `/quota` that changes something; `rest` is what follows the endpoint's path.
#[allow(deprecated)]
pub async fn quota(operators: &Operators, request: Request, rest: &[String], visitor: &Visitor) -> Response {
    if request.method() == Method::DELETE {
        return remove_quota(operators, request.uri().path(), rest, visitor).await;
    }
    let body = match body(request).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let quota_request = match api::json::from_slice::<QuotaRequest>(&body) {
        Ok(request) => request,
        Err(error) => {
            let text = String::from_utf8_lossy(&body);
            return bad(&match error.fault {
                Fault::Syntax(why) => format!("Failed to parse set quota request JSON '{}': {why}", quoted(&text)),
                Fault::Conversion(_) if !is_a(&text, '{') => {
                    format!("Failed to parse set quota request JSON '{}': Unexpected JSON type parsed", quoted(&text))
                }
                fault => format!("Failed to validate set quota request JSON '{}': {}", quoted(&text), why(&fault, "")),
            });
        }
    };
    let set_quota = Some(SetQuota { quota_request });
    operators.decide(Call { r#type: Some(Type::SetQuota as i32), set_quota, ..Call::default() }, visitor).await
}

/// DELETE of a path that ends with the role.
#[allow(deprecated)]
async fn remove_quota(operators: &Operators, path: &str, rest: &[String], visitor: &Visitor) -> Response {
    // As clients know it, whichever way they came.
    let path = if path.starts_with("/master/") { path.to_owned() } else { format!("/master{path}") };
    if rest.is_empty() {
        let why = format!("Failed to parse remove quota request for path '{path}': expected 3 tokens, found 2 tokens");
        return bad(&why);
    }
    let role = rest.join("/");
    let (path, named) = (quoted(&path), quoted(&role));
    if !operators.context.roles.lists(&role) {
        return bad(&format!("Failed to validate remove quota request for path '{path}': Unknown role '{named}'"));
    }
    let without = format!("Failed to remove quota: Role '{named}' has no quota set");
    let remove_quota = Some(RemoveQuota { role: role.clone() });
    let call = Call { r#type: Some(Type::RemoveQuota as i32), remove_quota, ..Call::default() };
    let known = format!("Failed to remove quota for path '{path}': Role '{named}' has no quota set");
    operators.decide_saying(call, visitor, |message| if message == without { known } else { message }).await
}

/// PUT of `/weights`.
pub async fn weights(operators: &Operators, request: Request, visitor: &Visitor) -> Response {
    let body = match body(request).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let text = String::from_utf8_lossy(&body);
    let parse = |why: &str| bad(&format!("Failed to parse update weights request JSON '{}': {why}", quoted(&text)));
    // A list is no message: it is looked at as JSON first, and then as a field of one.
    if let Err(error) = api::json::from_slice::<UpdateWeights>(&body)
        && let Fault::Syntax(why) = &error.fault
    {
        return parse(why);
    }
    if !is_a(&text, '[') {
        return parse("Unexpected JSON type parsed");
    }
    let message = [b"{\"weight_infos\":", &*body, b"}"].concat();
    let update = match api::json::from_slice::<UpdateWeights>(&message) {
        Ok(update) => update,
        Err(error) => {
            let why = why(&error.fault, "weight_infos");
            return bad(&format!("Failed to convert weights JSON array to protobuf '{}': {why}", quoted(&text)));
        }
    };
    let call = Call { r#type: Some(Type::UpdateWeights as i32), update_weights: Some(update), ..Call::default() };
    operators.decide(call, visitor).await
}

async fn body(request: Request) -> Result<Received, Response> {
    let (parts, body) = request.into_parts();
    api_http::read_body(&parts.headers, body, SMALL_BODY_BYTES_MAX).await.map_err(|error| error.response())
}

fn is_a(text: &str, first: char) -> bool {
    text.trim_start().starts_with(first)
}

/// What is wrong with a message; fields without the item of `list` that they are in.
fn why(fault: &Fault, list: &str) -> String {
    match fault {
        Fault::Syntax(why) | Fault::Conversion(why) => why.clone(),
        Fault::OverBudget(why) => why.to_string(),
        Fault::Missing(paths) => {
            let field = |path: &String| match path.strip_prefix(list).and_then(|rest| rest.split_once("].")) {
                Some((_, field)) if !list.is_empty() => field.to_owned(),
                _ => path.clone(),
            };
            let mut fields: Vec<String> = paths.iter().map(field).collect();
            fields.dedup();
            format!("Missing required fields: {}", fields.join(", "))
        }
    }
}

fn bad(sentence: &str) -> Response {
    api_http::text(StatusCode::BAD_REQUEST, sentence)
}
