//! Group commit: what many callers ask for at the same time becomes one transaction, and each is answered after its commit.
//!
//! ```text
//!   caller ─ ask ─┐                  ┌─ transaction: lock all · decide each · change all · audit · events ─ commit ─▶ answers
//!   caller ─ ask ─┼─▶ all that wait ─┤
//!   caller ─ ask ─┘                  └─ a second one of these, whose first statements run while the first commits
//! ```
//!
//! Events are numbered under one lock that is held until the commit (see the migration), so transactions commit one after the other; what
//! they commit together costs one wait for the disk. Who is alone waits for nobody.
//!
//! A refusal concerns its caller only: all is decided before anything is written. Where the database refuses the whole, each is tried alone.

use std::{collections::HashSet, hash::Hash, ops::Range, panic::AssertUnwindSafe, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{Mutex, mpsc, oneshot};
use understudy_pg::{PgConnection, Pool};

use super::{Error, Result};

/// Most requests and bytes of one transaction. A request that is larger goes alone.
const MAX_REQUESTS: usize = 256;
const MAX_BYTES: usize = 4 << 20;
/// Requests that wait; more callers than this wait for a place.
const WAITING: usize = 1024;
const TRANSACTIONS: usize = 2;

/// What can be done together with others like it.
pub trait Together: Send + Sync + Sized + 'static {
    type Key: Eq + Hash;
    type Answer: Send + 'static;

    /// Requests about the same thing are done one after the other.
    fn key(&self) -> Self::Key;
    /// Bytes that it takes, roughly.
    fn size(&self) -> usize;
    /// Does all of them, whose keys differ; one answer each, in their order.
    fn all<'t>(requests: &'t [Self], db: &'t mut PgConnection) -> BoxFuture<'t, Result<Answers<Self>>>;
}

pub type Answers<R> = Vec<Result<<R as Together>::Answer>>;

struct Ask<R: Together> {
    request: R,
    answer: oneshot::Sender<Result<R::Answer>>,
}

/// The way in. Its transactions end when it is dropped.
pub struct Group<R: Together>(mpsc::Sender<Ask<R>>);

/// Who asks, shared by the transactions; what one has left for the next comes first.
struct Queue<R: Together> {
    asks: mpsc::Receiver<Ask<R>>,
    left: Vec<Ask<R>>,
}

impl<R: Together> Group<R> {
    pub fn start(pool: &Pool) -> Self {
        let (sender, asks) = mpsc::channel(WAITING);
        let queue = Arc::new(Mutex::new(Queue { asks, left: Vec::new() }));
        for _ in 0..TRANSACTIONS {
            tokio::spawn(work(pool.clone(), queue.clone()));
        }
        Self(sender)
    }

    /// Does it, together with what others ask for at this time. What was asked for is done even if the caller goes away.
    pub async fn ask(&self, request: R) -> Result<R::Answer> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask { request, answer }).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

async fn work<R: Together>(pool: Pool, queue: Arc<Mutex<Queue<R>>>) {
    loop {
        let asks = queue.lock().await.next().await;
        if asks.is_empty() {
            return;
        }
        let (requests, answers): (Vec<R>, Vec<_>) =
            asks.into_iter().map(|ask| (ask.request, ask.answer)).unzip();
        let done = AssertUnwindSafe(together(&pool, Arc::new(requests))).catch_unwind().await;
        // After a panic nobody is answered, which is an answer too: what became of it is not known.
        for (to, answer) in answers.into_iter().zip(done.unwrap_or_default()) {
            // The caller may have gone.
            let _ = to.send(answer);
        }
    }
}

impl<R: Together> Queue<R> {
    /// Waits for the first request and takes those that wait behind it. None when nobody will ask any more.
    async fn next(&mut self) -> Vec<Ask<R>> {
        let mut candidates = std::mem::take(&mut self.left);
        if candidates.is_empty() {
            candidates.extend(self.asks.recv().await);
        }
        while candidates.len() < MAX_REQUESTS
            && let Ok(ask) = self.asks.try_recv()
        {
            candidates.push(ask);
        }
        let (mut taken, mut keys, mut bytes) = (Vec::with_capacity(candidates.len()), HashSet::new(), 0);
        for ask in candidates {
            let size = ask.request.size();
            let fits = taken.is_empty() || bytes + size <= MAX_BYTES;
            // What is about the same thing keeps its order: once one is left, those behind it are left as well.
            if keys.insert(ask.request.key()) && fits {
                bytes += size;
                taken.push(ask);
            } else {
                self.left.push(ask);
            }
        }
        taken
    }
}

async fn together<R: Together>(pool: &Pool, requests: Arc<Vec<R>>) -> Answers<R> {
    let failed = match all(pool, requests.clone(), 0..requests.len()).await {
        Ok(answers) => return answers,
        Err(error) => error,
    };
    if requests.len() == 1 {
        return vec![Err(failed)];
    }
    // Trying each alone would make all of them wait for what is away.
    if let Error::Database(error) = &failed
        && let Some(same) = (0..requests.len()).map(|_| error.for_another().map(|e| Err(e.into()))).collect()
    {
        return same;
    }
    tracing::warn!(error = %failed, requests = requests.len(), "a common transaction failed; trying each request alone");
    let mut answers = Vec::with_capacity(requests.len());
    for alone in 0..requests.len() {
        answers.push(match all(pool, requests.clone(), alone..alone + 1).await {
            Ok(answer) => answer.into_iter().next().unwrap_or_else(|| Err(gone())),
            Err(error) => Err(error),
        });
    }
    answers
}

async fn all<R: Together>(pool: &Pool, requests: Arc<Vec<R>>, part: Range<usize>) -> Result<Answers<R>> {
    pool.write(move |db| {
        let (requests, part) = (requests.clone(), part.clone());
        async move { R::all(&requests[part], db).await }.boxed()
    })
    .await
}

/// What became of a request that nobody answers.
fn gone() -> Error {
    understudy_pg::Error::CommitUnknown("the transaction was given up".to_owned()).into()
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use sqlx::Executor;
    use understudy_pg::TestDatabase;

    use super::*;

    /// Adds its value to a sum that must not be negative, and tells the transaction in which it did.
    struct Add {
        key: i32,
        value: i32,
    }

    impl Together for Add {
        type Key = i32;
        type Answer = i64;

        fn key(&self) -> i32 {
            self.key
        }

        fn size(&self) -> usize {
            1
        }

        fn all<'t>(adds: &'t [Self], db: &'t mut PgConnection) -> BoxFuture<'t, Result<Answers<Self>>> {
            assert!(adds.iter().all(|add| add.value != PANIC), "asked to panic");
            let keys: HashSet<i32> = adds.iter().map(Together::key).collect();
            assert_eq!(keys.len(), adds.len(), "two about the same thing at once");
            let statement =
                "UPDATE sums SET value = value + new.v FROM unnest($1::int[], $2::int[]) AS new (k, v)
                             WHERE key = new.k RETURNING txid_current()";
            async move {
                let (keys, values): (Vec<i32>, Vec<i32>) =
                    adds.iter().map(|add| (add.key, add.value)).unzip();
                let query = sqlx::query_scalar(statement).bind(keys).bind(values);
                let ids: Vec<i64> = query.fetch_all(db).await.map_err(understudy_pg::Error::from)?;
                Ok(ids.into_iter().map(Ok).collect())
            }
            .boxed()
        }
    }

    const PANIC: i32 = 4711;

    /// What is asked for at once shares transactions; one that the database refuses, and one that panics, spoils nothing for the others.
    #[tokio::test]
    async fn requests_share_transactions_and_not_their_failures() {
        let database = TestDatabase::empty().await;
        let tables = "CREATE TABLE sums (key int PRIMARY KEY, value int NOT NULL CHECK (value >= 0));
                      INSERT INTO sums SELECT n, 0 FROM generate_series(0, 99) n";
        database.pool().reader().execute(tables).await.unwrap();
        let group = Group::start(database.pool());
        let add = |key, value| group.ask(Add { key, value });

        let ids = join_all((0..100).map(|key| add(key, 1))).await;
        let ids: HashSet<i64> = ids.into_iter().map(Result::unwrap).collect();
        assert!(ids.len() < 50, "{} transactions", ids.len());

        // Two about each thing, and one refused: its value would be negative.
        let answers = join_all((0..100).map(|n| add(n / 2, if n == 41 { -5 } else { 1 }))).await;
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.is_ok(), n != 41, "{n}: {answer:?}");
        }
        let sum: i64 = sqlx::query_scalar("SELECT sum(value) FROM sums")
            .fetch_one(database.pool().reader())
            .await
            .unwrap();
        assert_eq!(sum, 199);

        assert!(add(7, PANIC).await.is_err());
        assert!(add(7, 1).await.is_ok(), "the next transaction is not affected");
    }
}
