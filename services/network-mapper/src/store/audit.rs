//! Table `audit`: one record per state-changing call (invariant 12).

use sqlx::PgConnection;

use super::StoreError;

pub async fn allowed(tx: &mut PgConnection, who: &str, method: &str, target: &str) -> Result<(), StoreError> {
    insert(tx, who, method, target, "allowed", "OK").await
}

/// `reason` is the stable reason of the refusal.
pub async fn refused(
    tx: &mut PgConnection,
    who: &str,
    method: &str,
    target: &str,
    reason: &str,
) -> Result<(), StoreError> {
    insert(tx, who, method, target, "refused", reason).await
}

async fn insert(
    tx: &mut PgConnection,
    who: &str,
    method: &str,
    target: &str,
    decision: &str,
    result: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO audit (who, method, target, decision, result) VALUES ($1, $2, $3, $4, $5)")
        .bind(who)
        .bind(method)
        .bind(target)
        .bind(decision)
        .bind(result)
        .execute(tx)
        .await?;
    Ok(())
}
