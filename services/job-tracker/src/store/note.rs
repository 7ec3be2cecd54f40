//! Notes stay with their job (R-JOB-2).

use sqlx::{PgConnection, PgExecutor, types::time::OffsetDateTime};
use understudy_ids::{RunId, Uuid};
use understudy_jobs_api::{NewNote, Note};

use super::{Result, micros};

/// Most notes of a job that are listed.
pub const MAX_NOTES: i64 = 200;

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    job_id: RunId,
    author: String,
    text: String,
    created_at: OffsetDateTime,
}

impl From<Row> for Note {
    fn from(row: Row) -> Self {
        let Row { id, job_id, author, text, created_at } = row;
        Self { job: job_id, id, author, text, created: micros(created_at) }
    }
}

/// Adds a note; nothing when its id is taken.
pub async fn insert(db: &mut PgConnection, note: &NewNote) -> Result<Option<Note>> {
    let row: Option<Row> = sqlx::query_as(
        "INSERT INTO notes (id, job_id, author, text) VALUES ($1, $2, $3, $4)
         ON CONFLICT (id) DO NOTHING RETURNING id, job_id, author, text, created_at",
    )
    .bind(note.id)
    .bind(note.job)
    .bind(&note.author)
    .bind(&note.text)
    .fetch_optional(db)
    .await?;
    Ok(row.map(Note::from))
}

pub async fn find(db: impl PgExecutor<'_>, id: Uuid) -> Result<Option<Note>> {
    let row: Option<Row> =
        sqlx::query_as("SELECT id, job_id, author, text, created_at FROM notes WHERE id = $1")
            .bind(id)
            .fetch_optional(db)
            .await?;
    Ok(row.map(Note::from))
}

pub async fn count(db: impl PgExecutor<'_>, job: RunId) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM notes WHERE job_id = $1").bind(job).fetch_one(db).await?)
}

/// All notes of a job, oldest first.
pub async fn of_job(db: impl PgExecutor<'_>, job: RunId) -> Result<Vec<Note>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, job_id, author, text, created_at FROM notes WHERE job_id = $1 ORDER BY created_at, id LIMIT $2",
    )
    .bind(job)
    .bind(MAX_NOTES)
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Note::from).collect())
}
