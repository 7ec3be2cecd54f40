//! Table `item_alerts`: the alerts of items, as they were when they last changed.

use sqlx::{PgConnection, types::Json};
use understudy_ids::ItemName;
use understudy_replication::alert::Alerts;

use super::Failure;

/// None where nothing was ever found.
pub async fn get(conn: &mut PgConnection, item: &ItemName) -> Result<Alerts, Failure> {
    let row: Option<Json<Alerts>> = sqlx::query_scalar("SELECT alerts FROM item_alerts WHERE item = $1")
        .bind(item.as_str())
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|Json(alerts)| alerts).unwrap_or_default())
}

/// Nothing happens when the item is gone.
pub async fn set(tx: &mut PgConnection, item: &ItemName, alerts: &Alerts) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO item_alerts (item, alerts) SELECT name, $2 FROM items WHERE name = $1
         ON CONFLICT (item) DO UPDATE SET alerts = excluded.alerts",
    )
    .bind(item.as_str())
    .bind(Json(alerts))
    .execute(tx)
    .await?;
    Ok(())
}
