//! What owners and readers of jobs do.
//!
//! Every change is one transaction: the rows, the audit record, and last the events. Repeating a call changes nothing and gives the
//! same answer; a call that collides with what is there is refused.

use std::collections::HashMap;

use futures::{FutureExt, future::BoxFuture};
use understudy_ids::{Problem, RunId};
use understudy_jobs::{JobState, next_job_state};
use understudy_jobs_api::{
    CancelRequest, Change, Job, JobFilter, JobUpdate, NewJob, NewNote, NewTask, Note, Page, Task,
};
use understudy_pg::PgConnection;
use understudy_rpc::Identity;

use super::{
    Error, Result, Runtime,
    group::{Answers, Together},
    token,
};
use crate::store::{self, audit};

const DONE: &str = "done";

impl Runtime {
    /// Makes a job that `caller` owns, with its first tasks.
    pub async fn create_job(
        &self,
        caller: &Identity,
        mut job: NewJob,
        digest: store::job::Digest,
    ) -> Result<Job> {
        if job.created_by.is_empty() {
            job.created_by = caller.to_string();
        }
        let owner = caller.to_string();
        self.pool()
            .write(move |db| {
                let (job, owner) = (job.clone(), owner.clone());
                async move { create(db, &job, &owner, &digest).await }.boxed()
            })
            .await
    }

    pub async fn get_job(&self, id: RunId) -> Result<Job> {
        store::job::find(self.pool().reader(), id).await?.ok_or(Error::NoJob(id))
    }

    pub async fn list_jobs(&self, filter: &JobFilter, size: u32, page: Option<&str>) -> Result<Page<Job>> {
        let before = page.map(|page| token::parse_jobs_page(filter, page)).transpose()?;
        // One more than asked for tells whether there is a next page.
        let mut items = store::job::page(self.pool().reader(), filter, before, size + 1).await?;
        let more = items.len() > size as usize;
        items.truncate(size as usize);
        let fits = prefix_within(&items, LIST_BYTES, job_bytes);
        let more = more || fits < items.len();
        items.truncate(fits);
        let next = items.last().filter(|_| more).map(|last| token::jobs_page(filter, last.created, last.id));
        Ok(Page { items, next })
    }

    pub async fn update_job(&self, caller: &Identity, update: JobUpdate) -> Result<Job> {
        self.0.updates.ask(Update { caller: caller.to_string(), update }).await
    }

    /// Tells the owner that `caller` wants the job to end, if the job allows that now. What comes of it is the owner's to decide: it alone
    /// knows what can be left off.
    ///
    /// # Errors
    /// `NoJob`, `JobOver`, `NotCancellable`.
    pub async fn request_cancel(&self, caller: &Identity, job: RunId) -> Result<()> {
        let caller = caller.to_string();
        self.pool()
            .write(move |db| {
                let caller = caller.clone();
                async move { request_cancel(db, job, caller).await }.boxed()
            })
            .await
    }

    pub async fn enqueue_tasks(
        &self,
        caller: &Identity,
        job: RunId,
        tasks: Vec<NewTask>,
    ) -> Result<Vec<Task>> {
        let caller = caller.to_string();
        self.pool()
            .write(move |db| {
                let (tasks, caller) = (tasks.clone(), caller.clone());
                async move { enqueue(db, job, &tasks, &caller).await }.boxed()
            })
            .await
    }

    pub async fn cancel_tasks(&self, caller: &Identity, job: RunId, keys: Vec<String>) -> Result<Vec<Task>> {
        let caller = caller.to_string();
        self.pool()
            .write(move |db| {
                let (keys, caller) = (keys.clone(), caller.clone());
                async move {
                    owned(db, job, &caller).await?;
                    let cancelled = store::task::cancel(db, &[job], &keys).await?;
                    record(db, &caller, "CancelTasks", job).await?;
                    append_tasks(db, &cancelled).await?;
                    Ok(cancelled)
                }
                .boxed()
            })
            .await
    }

    pub async fn list_tasks(&self, job: RunId, size: u32, page: Option<&str>) -> Result<Page<Task>> {
        let after = page.map_or(Ok(0), |page| token::parse_tasks_page(job, page))?;
        self.get_job(job).await?;
        let (items, last) = store::task::page(self.pool().reader(), job, after, size).await?;
        let more = !items.is_empty() && store::task::any_after(self.pool().reader(), job, last).await?;
        let next = more.then(|| token::tasks_page(job, last));
        Ok(Page { items, next })
    }

    /// `note.author` is who it is by; `caller` who asked.
    pub async fn add_note(&self, caller: &Identity, note: NewNote) -> Result<Note> {
        let caller = caller.to_string();
        self.pool()
            .write(move |db| {
                let (note, caller) = (note.clone(), caller.clone());
                async move { add_note(db, &note, &caller).await }.boxed()
            })
            .await
    }

    pub async fn list_notes(&self, job: RunId) -> Result<Vec<Note>> {
        self.get_job(job).await?;
        Ok(store::note::of_job(self.pool().reader(), job).await?)
    }

    /// Records a refusal. Best effort: the refusal stands whether or not it could be recorded.
    pub async fn record_refusal(&self, entry: audit::Entry, reason: String) {
        let recorded = self
            .pool()
            .write(move |db| {
                let (entry, reason) = (entry.clone(), reason.clone());
                async move { audit::insert(db, &[(entry, reason)]).await }.boxed()
            })
            .await;
        if let Err(error) = recorded {
            tracing::warn!(%error, "a refusal could not be recorded");
        }
    }
}

async fn create(
    db: &mut PgConnection,
    job: &NewJob,
    owner: &str,
    digest: &store::job::Digest,
) -> Result<Job> {
    let Some(made) = store::job::insert(db, job, owner, digest).await? else {
        return if store::job::made_from(db, job.id, owner, digest).await? {
            store::job::find(db, job.id).await?.ok_or(Error::NoJob(job.id))
        } else {
            Err(Error::JobExists(job.id))
        };
    };
    let tasks = insert_tasks(db, job.id, &job.tasks).await?;
    record(db, owner, "CreateJob", job.id).await?;
    let mut changes = vec![Change::Job(Box::new(made.clone()))];
    changes.extend(tasks.into_iter().map(|task| Change::Task(Box::new(task))));
    store::event::append(db, changes).await?;
    Ok(made)
}

async fn enqueue(db: &mut PgConnection, job: RunId, tasks: &[NewTask], caller: &str) -> Result<Vec<Task>> {
    let locked = owned(db, job, caller).await?;
    let keys: Vec<String> = tasks.iter().map(|t| t.key.clone()).collect();
    if locked.state.is_final() {
        // The same call may come again after the job has ended; then its tasks are there.
        let there = store::task::with_keys(db, job, &keys).await?;
        return if there.len() == keys.len() {
            Ok(there)
        } else {
            Err(Error::JobEnded { job, state: locked.state })
        };
    }
    let added = insert_tasks(db, job, tasks).await?;
    let all = store::task::with_keys(db, job, &keys).await?;
    if !added.is_empty() {
        record(db, caller, "EnqueueTasks", job).await?;
        append_tasks(db, &added).await?;
    }
    Ok(all)
}

async fn insert_tasks(db: &mut PgConnection, job: RunId, tasks: &[NewTask]) -> Result<Vec<Task>> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    store::task::insert(db, job, tasks).await.map_err(|error| {
        if error.unique_violation("tasks_pkey") {
            Error::TaskIdTaken(tasks.iter().map(|t| t.id).take(10).collect())
        } else {
            error.into()
        }
    })
}

/// An update by `caller`.
pub struct Update {
    caller: String,
    update: JobUpdate,
}

impl Together for Update {
    type Key = RunId;
    type Answer = Job;

    fn key(&self) -> RunId {
        self.update.job
    }

    fn size(&self) -> usize {
        update_bytes(&self.update)
    }

    fn all<'t>(updates: &'t [Self], db: &'t mut PgConnection) -> BoxFuture<'t, Result<Answers<Self>>> {
        update_all(db, updates).boxed()
    }
}

async fn update_all(db: &mut PgConnection, updates: &[Update]) -> Result<Answers<Update>> {
    let ids: Vec<RunId> = updates.iter().map(Together::key).collect();
    let mut before: HashMap<RunId, (Job, u64)> =
        store::job::lock_all(db, &ids).await?.into_iter().map(|found| (found.0.id, found)).collect();
    let mut ends = Vec::new();
    let mut decided = Vec::with_capacity(updates.len());
    for update in updates {
        decided.push(match before.remove(&update.key()) {
            None => Some(Err(Error::NoJob(update.key()))),
            Some((job, last)) => {
                if update.update.state.is_final() && !job.state.is_final() {
                    ends.push(job.id);
                }
                decide(update, job, last)
            }
        });
    }
    let done: Vec<&Update> =
        updates.iter().zip(&decided).filter(|(_, answer)| answer.is_none()).map(|(u, _)| u).collect();
    let mut updated = write_updates(db, &done, &ends).await?;
    let answers = updates.iter().zip(decided).map(|(update, answer)| {
        answer.unwrap_or_else(|| updated.remove(&update.key()).ok_or(Error::NoJob(update.key())))
    });
    Ok(answers.collect())
}

/// The answer to an update that changes nothing. `last` is the number of the owner's last update.
fn decide(Update { caller, update }: &Update, job: Job, last: u64) -> Option<Result<Job>> {
    if job.owner != *caller {
        return Some(Err(Error::NotOwner { job: job.id, owner: job.owner }));
    }
    if update.owner_sequence.is_some_and(|number| number <= last) {
        return Some(Ok(job));
    }
    let refused = next_job_state(job.state, update.state).err();
    refused.map(|cause| Err(Error::JobTransition { job: job.id, cause }))
}

/// Writes updates, whose jobs are locked, with their records and events. Of those that end, nobody waits for the tasks any more.
async fn write_updates(
    db: &mut PgConnection,
    done: &[&Update],
    ends: &[RunId],
) -> Result<HashMap<RunId, Job>> {
    if done.is_empty() {
        return Ok(HashMap::new());
    }
    let updates: Vec<&JobUpdate> = done.iter().map(|update| &update.update).collect();
    let jobs = store::job::update(db, &updates).await?;
    let mut changes: Vec<Change> = jobs.iter().map(|job| Change::Job(Box::new(job.clone()))).collect();
    let ended: Vec<RunId> = jobs.iter().map(|job| job.id).filter(|id| ends.contains(id)).collect();
    if !ended.is_empty() {
        let cancelled = store::task::cancel(db, &ended, &[]).await?;
        changes.extend(cancelled.into_iter().map(|task| Change::Task(Box::new(task))));
    }
    let entry = |update: &&Update| {
        let (caller, subject) = (update.caller.clone(), format!("jobs/{}", update.key()));
        (audit::Entry { caller, method: "UpdateJob", subject }, DONE.to_owned())
    };
    audit::insert(db, &done.iter().map(entry).collect::<Vec<_>>()).await?;
    store::event::append(db, changes).await?;
    Ok(jobs.into_iter().map(|job| (job.id, job)).collect())
}

async fn request_cancel(db: &mut PgConnection, id: RunId, caller: String) -> Result<()> {
    let job = store::job::lock(db, id).await?.ok_or(Error::NoJob(id))?;
    if job.state.is_final() {
        return Err(Error::JobOver { job: id, state: job.state });
    }
    // Asked for and under way.
    if job.state == JobState::Cancelling {
        return Ok(());
    }
    if !job.allowed_actions.iter().any(|action| action == Job::CANCEL) {
        return Err(Error::NotCancellable { job: id, allowed: job.allowed_actions });
    }
    record(db, &caller, "CancelOperation", id).await?;
    let change = Change::CancelRequested(CancelRequest { job: id, by: caller });
    Ok(store::event::append(db, vec![change]).await?)
}

async fn add_note(db: &mut PgConnection, note: &NewNote, caller: &str) -> Result<Note> {
    if let Some(there) = store::note::find(&mut *db, note.id).await? {
        return same_note(there, note);
    }
    store::job::lock(db, note.job).await?.ok_or(Error::NoJob(note.job))?;
    if store::note::count(&mut *db, note.job).await? >= store::note::MAX_NOTES {
        return Err(Error::TooManyNotes(note.job));
    }
    let Some(added) = store::note::insert(db, note).await? else {
        // Someone else was faster.
        let there = store::note::find(db, note.id).await?.ok_or(Error::NoteExists(note.id))?;
        return same_note(there, note);
    };
    record(db, caller, "AddNote", note.job).await?;
    store::event::append(db, vec![Change::Note(added.clone())]).await?;
    Ok(added)
}

fn same_note(there: Note, note: &NewNote) -> Result<Note> {
    let same = there.job == note.job && there.text == note.text && there.author == note.author;
    if same { Ok(there) } else { Err(Error::NoteExists(note.id)) }
}

/// Locks a job that `caller` owns.
async fn owned(db: &mut PgConnection, id: RunId, caller: &str) -> Result<Job> {
    let job = store::job::lock(db, id).await?.ok_or(Error::NoJob(id))?;
    if job.owner == caller { Ok(job) } else { Err(Error::NotOwner { job: id, owner: job.owner }) }
}

async fn record(db: &mut PgConnection, caller: &str, method: &'static str, job: RunId) -> Result<()> {
    let entry = audit::Entry { caller: caller.to_owned(), method, subject: format!("jobs/{job}") };
    Ok(audit::insert(db, &[(entry, DONE.to_owned())]).await?)
}

async fn append_tasks(db: &mut PgConnection, tasks: &[Task]) -> Result<()> {
    let changes = tasks.iter().cloned().map(|task| Change::Task(Box::new(task))).collect();
    Ok(store::event::append(db, changes).await?)
}

/// Most bytes of a listing, so that it fits into one message.
const LIST_BYTES: usize = 3_000_000;

fn problem_bytes(problems: &[Problem]) -> usize {
    problems.iter().map(|p| p.reason.len() + p.subject.len() + p.message.len() + p.remedy.len()).sum()
}

fn update_bytes(update: &JobUpdate) -> usize {
    let actions: usize = update.allowed_actions.iter().map(String::len).sum();
    let report = update.report_json.as_ref().map_or(0, String::len);
    1000 + actions + problem_bytes(&update.problems) + report + update.phase.len() + update.waiting_for.len()
}

fn job_bytes(job: &Job) -> usize {
    let texts = job.targets.iter().chain(&job.allowed_actions).map(String::len).sum::<usize>();
    let problems = problem_bytes(&job.problems);
    let labels: usize = job.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
    1000 + texts + problems + labels + job.phase.len() + job.waiting_for.len()
}

/// How many of the items, but at least one, fit into so many bytes.
fn prefix_within<T>(items: &[T], bytes: usize, size: impl Fn(&T) -> usize) -> usize {
    let mut used = 0;
    let fits = items.iter().take_while(|item| {
        used += size(item);
        used <= bytes
    });
    fits.count().max(1).min(items.len())
}
