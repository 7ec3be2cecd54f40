//! Table `api_request`: answers to mutations, by request id.

use serde_json::Value;
use sqlx::PgConnection;
use understudy_ids::Uuid;
use understudy_rpc::ApiError;

use super::StoreError;

/// What makes two requests the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: Uuid,
    pub who: String,
    pub method: &'static str,
    pub body: Value,
}

/// The answer that this request got before.
///
/// # Errors
/// `REQUEST_ID_REUSED` when the id was used for another request.
pub async fn find(tx: &mut PgConnection, request: &Request) -> Result<Option<Value>, StoreError> {
    // Two deliveries of one request at the same time: the second waits here and then finds the first one's answer.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1::text, 1))")
        .bind(request.id.to_string())
        .execute(&mut *tx)
        .await?;
    let found: Option<(String, String, Value, Value)> =
        sqlx::query_as("SELECT who, method, body, answer FROM api_request WHERE id = $1")
            .bind(request.id)
            .fetch_optional(tx)
            .await?;
    match found {
        None => Ok(None),
        Some((who, method, body, answer))
            if who == request.who && method == request.method && body == request.body =>
        {
            Ok(Some(answer))
        }
        Some(_) => Err(ApiError::already_exists(
            "REQUEST_ID_REUSED",
            format!("request id {} was used for another request", request.id),
            "use a new request id for every new request",
        )
        .into()),
    }
}

pub async fn insert(tx: &mut PgConnection, request: &Request, answer: &Value) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO api_request (id, who, method, body, answer) VALUES ($1, $2, $3, $4, $5)")
        .bind(request.id)
        .bind(&request.who)
        .bind(request.method)
        .bind(&request.body)
        .bind(answer)
        .execute(tx)
        .await?;
    Ok(())
}
