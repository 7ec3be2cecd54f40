//! Table `requests`: mutations that were done, so that doing them again has no second effect.

use sqlx::PgConnection;
use understudy_recovery_api::RequestId;
use understudy_rpc::ApiError;

use super::Failure;

/// A mutation as its caller identifies it.
#[derive(Debug, Clone)]
pub struct RequestKey {
    pub who: String,
    pub request_id: RequestId,
    pub method: &'static str,
    /// SHA-256 of the request's content.
    pub body_hash: [u8; 32],
}

/// What the same request made when it came before. Nothing when it is new.
///
/// # Errors
/// `REQUEST_ID_REUSED` when the id belongs to another request.
pub async fn find(conn: &mut PgConnection, key: &RequestKey) -> Result<Option<String>, Failure> {
    let row: Option<(String, Vec<u8>, String)> =
        sqlx::query_as("SELECT method, body_hash, subject FROM requests WHERE who = $1 AND request_id = $2")
            .bind(&key.who)
            .bind(key.request_id.as_str())
            .fetch_optional(conn)
            .await?;
    match row {
        None => Ok(None),
        Some((method, hash, subject)) if method == key.method && hash == key.body_hash => Ok(Some(subject)),
        Some((method, ..)) => Err(reused(key, &method).into()),
    }
}

fn reused(key: &RequestKey, method: &str) -> ApiError {
    ApiError::already_exists(
        "REQUEST_ID_REUSED",
        format!("request id {} was used before, for {method} with other content", key.request_id),
        "Use a fresh request id for every new request.",
    )
}

/// As [`find`], and lets no other transaction work on the same request before this one has ended.
pub async fn find_alone(tx: &mut PgConnection, key: &RequestKey) -> Result<Option<String>, Failure> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("{} {}", key.who, key.request_id))
        .execute(&mut *tx)
        .await?;
    find(tx, key).await
}

/// The request was done in this transaction.
pub async fn insert(tx: &mut PgConnection, key: &RequestKey, subject: &str) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO requests (who, request_id, method, body_hash, subject) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&key.who)
    .bind(key.request_id.as_str())
    .bind(key.method)
    .bind(key.body_hash.as_slice())
    .bind(subject)
    .execute(tx)
    .await?;
    Ok(())
}
