//! Table `sites`.

use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;
use understudy_ids::SiteName;
use understudy_recovery_api::{SiteKind, view::Site};

use super::{Failure, micros, read};

#[derive(FromRow)]
struct Row {
    name: String,
    kind: String,
    description: String,
    created: OffsetDateTime,
}

impl TryFrom<Row> for Site {
    type Error = Failure;
    fn try_from(row: Row) -> Result<Self, Failure> {
        let Row { name, kind, description, created } = row;
        Ok(Self {
            name: read("sites", name.parse())?,
            kind: read("sites", kind.parse())?,
            description,
            create_time: micros(created),
        })
    }
}

/// Whether it was made; false when there is a site of that name.
pub async fn insert(
    tx: &mut PgConnection,
    name: &SiteName,
    kind: SiteKind,
    description: &str,
) -> Result<bool, Failure> {
    let done =
        sqlx::query("INSERT INTO sites (name, kind, description) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(name.as_str())
            .bind(kind.as_str())
            .bind(description)
            .execute(tx)
            .await?;
    Ok(done.rows_affected() == 1)
}

pub async fn get(conn: &mut PgConnection, name: &SiteName) -> Result<Option<Site>, Failure> {
    let row: Option<Row> =
        sqlx::query_as("SELECT name, kind, description, created FROM sites WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(conn)
            .await?;
    row.map(Site::try_from).transpose()
}

/// Sites in the order of their names, after `after`.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<Site>, Failure> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, kind, description, created FROM sites WHERE name > $1 ORDER BY name LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Site::try_from).collect()
}
