//! Table `consistency_groups`. Which items a group has stands with the items.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use understudy_ids::{GroupName, ItemName, UnixMicros};

use super::{Failure, micros, read};

/// A consistency group (R-REP-12).
#[derive(Debug, Clone)]
pub struct GroupRecord {
    pub name: GroupName,
    pub created: UnixMicros,
}

#[derive(FromRow)]
struct Row {
    name: String,
    created: OffsetDateTime,
}

impl TryFrom<Row> for GroupRecord {
    type Error = Failure;
    fn try_from(row: Row) -> Result<Self, Failure> {
        Ok(Self { name: read("consistency_groups", row.name.parse())?, created: micros(row.created) })
    }
}

/// Whether it was made; false when there is a group of that name.
pub async fn insert(tx: &mut PgConnection, name: &GroupName) -> Result<bool, Failure> {
    let done = sqlx::query("INSERT INTO consistency_groups (name) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(name.as_str())
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps other transactions from deciding about the group until this one has ended. Whether there is one.
pub async fn lock(tx: &mut PgConnection, name: &GroupName) -> Result<bool, Failure> {
    let found = sqlx::query("SELECT name FROM consistency_groups WHERE name = $1 FOR UPDATE")
        .bind(name.as_str())
        .fetch_optional(tx)
        .await?;
    Ok(found.is_some())
}

/// Its items belong to none afterwards. False when there is no such group.
pub async fn delete(tx: &mut PgConnection, name: &GroupName) -> Result<bool, Failure> {
    sqlx::query("UPDATE items SET consistency_group = NULL WHERE consistency_group = $1")
        .bind(name.as_str())
        .execute(&mut *tx)
        .await?;
    let done =
        sqlx::query("DELETE FROM consistency_groups WHERE name = $1").bind(name.as_str()).execute(tx).await?;
    Ok(done.rows_affected() == 1)
}

pub async fn get(conn: &mut PgConnection, name: &GroupName) -> Result<Option<GroupRecord>, Failure> {
    let row: Option<Row> = sqlx::query_as("SELECT name, created FROM consistency_groups WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(conn)
        .await?;
    row.map(GroupRecord::try_from).transpose()
}

/// Groups in the order of their names, after `after`.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<GroupRecord>, Failure> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT name, created FROM consistency_groups WHERE name > $1 ORDER BY name LIMIT $2")
            .bind(after)
            .bind(limit)
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(GroupRecord::try_from).collect()
}

/// The group's items, in the order of their names.
pub async fn items(conn: &mut PgConnection, name: &GroupName) -> Result<Vec<ItemName>, Failure> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name FROM items WHERE consistency_group = $1 ORDER BY name")
            .bind(name.as_str())
            .fetch_all(conn)
            .await?;
    names.iter().map(|name| read("items", name.parse())).collect()
}

/// The item belongs to this group, or to none.
pub async fn assign(
    tx: &mut PgConnection,
    item: &ItemName,
    group: Option<&GroupName>,
) -> Result<(), Failure> {
    sqlx::query("UPDATE items SET consistency_group = $2 WHERE name = $1")
        .bind(item.as_str())
        .bind(group.map(GroupName::as_str))
        .execute(tx)
        .await?;
    Ok(())
}
