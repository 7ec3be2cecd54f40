//! Table `policies`.

use std::time::Duration;

use sqlx::{FromRow, PgConnection, types::Json};
use time::OffsetDateTime;
use understudy_ids::PolicyName;
use understudy_recovery_api::{request::PolicySettings, view::Policy};
use understudy_replication::{ReplicationSettings, Tier};

use super::{Failure, micros, read};

#[derive(FromRow)]
struct Row {
    name: String,
    interval_ms: i64,
    rpo_objective_ms: i64,
    keep_count: i32,
    keep_age_ms: i64,
    keep_tiers: Json<Vec<Tier>>,
    shutdown_grace_ms: i64,
    power_off_after_grace: bool,
    activation_lease_ms: Option<i64>,
    replication: Json<ReplicationSettings>,
    created: OffsetDateTime,
}

fn from_ms(ms: i64) -> Result<Duration, Failure> {
    read("policies", u64::try_from(ms)).map(Duration::from_millis)
}

/// Spans of policies are bounded by years.
fn to_ms(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

impl TryFrom<Row> for Policy {
    type Error = Failure;
    fn try_from(row: Row) -> Result<Self, Failure> {
        Ok(Self {
            name: read("policies", row.name.parse())?,
            settings: PolicySettings {
                interval: from_ms(row.interval_ms)?,
                rpo_objective: from_ms(row.rpo_objective_ms)?,
                keep_count: read("policies", u32::try_from(row.keep_count))?,
                keep_age: from_ms(row.keep_age_ms)?,
                keep_tiers: row.keep_tiers.0,
                shutdown_grace: from_ms(row.shutdown_grace_ms)?,
                power_off_after_grace: row.power_off_after_grace,
                activation_lease: row.activation_lease_ms.map(from_ms).transpose()?,
                replication: row.replication.0,
            },
            create_time: micros(row.created),
        })
    }
}

/// Whether it was made; false when there is a policy of that name.
pub async fn insert(
    tx: &mut PgConnection,
    name: &PolicyName,
    settings: &PolicySettings,
) -> Result<bool, Failure> {
    const SQL: &str = "INSERT INTO policies (name, interval_ms, rpo_objective_ms, keep_count, keep_age_ms, shutdown_grace_ms,
                               power_off_after_grace, replication, keep_tiers, activation_lease_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";
    write(tx, SQL, name, settings).await
}

/// Whether it was changed; false when there is no policy of that name.
pub async fn update(
    tx: &mut PgConnection,
    name: &PolicyName,
    settings: &PolicySettings,
) -> Result<bool, Failure> {
    const SQL: &str = "UPDATE policies SET interval_ms = $2, rpo_objective_ms = $3, keep_count = $4, keep_age_ms = $5,
                             shutdown_grace_ms = $6, power_off_after_grace = $7, replication = $8, keep_tiers = $9,
                             activation_lease_ms = $10
         WHERE name = $1";
    write(tx, SQL, name, settings).await
}

/// Both statements number their parameters alike. Whether a row was written.
async fn write(
    tx: &mut PgConnection,
    sql: &'static str,
    name: &PolicyName,
    settings: &PolicySettings,
) -> Result<bool, Failure> {
    let done = sqlx::query(sql)
        .bind(name.as_str())
        .bind(to_ms(settings.interval))
        .bind(to_ms(settings.rpo_objective))
        .bind(i32::try_from(settings.keep_count).unwrap_or(i32::MAX))
        .bind(to_ms(settings.keep_age))
        .bind(to_ms(settings.shutdown_grace))
        .bind(settings.power_off_after_grace)
        .bind(Json(&settings.replication))
        .bind(Json(&settings.keep_tiers))
        .bind(settings.activation_lease.map(to_ms))
        .execute(tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

const COLUMNS_BY_NAME: &str =
    "SELECT name, interval_ms, rpo_objective_ms, keep_count, keep_age_ms, shutdown_grace_ms,
    power_off_after_grace, replication, keep_tiers, activation_lease_ms, created FROM policies WHERE name = $1";

pub async fn get(conn: &mut PgConnection, name: &PolicyName) -> Result<Option<Policy>, Failure> {
    let row: Option<Row> = sqlx::query_as(COLUMNS_BY_NAME).bind(name.as_str()).fetch_optional(conn).await?;
    row.map(Policy::try_from).transpose()
}

/// Keeps other transactions from changing the policy until this one has ended. Whether there is one.
pub async fn lock(tx: &mut PgConnection, name: &PolicyName) -> Result<bool, Failure> {
    let found = sqlx::query("SELECT name FROM policies WHERE name = $1 FOR UPDATE")
        .bind(name.as_str())
        .fetch_optional(tx)
        .await?;
    Ok(found.is_some())
}

/// Policies in the order of their names, after `after`.
pub async fn list(conn: &mut PgConnection, after: &str, limit: i64) -> Result<Vec<Policy>, Failure> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT name, interval_ms, rpo_objective_ms, keep_count, keep_age_ms, shutdown_grace_ms,
                power_off_after_grace, replication, keep_tiers, activation_lease_ms, created
         FROM policies WHERE name > $1 ORDER BY name LIMIT $2",
    )
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Policy::try_from).collect()
}
