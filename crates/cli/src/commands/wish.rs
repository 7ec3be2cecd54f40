//! What the options of a command ask for, where several commands have them.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
};

use anyhow::bail;
use understudy_ids::{ItemName, PointChoice};
use understudy_recovery_api::{DeadlineAction, request::RunDeadline};

use crate::args::{DeadlineWish, PointWish};

/// At most one of the two is given.
pub(super) fn deadline(wish: &DeadlineWish) -> Option<RunDeadline> {
    let commit = wish.commit_after.map(|after| RunDeadline { action: DeadlineAction::Commit, after });
    commit.or(wish.roll_back_after.map(|after| RunDeadline { action: DeadlineAction::RollBack, after }))
}

/// A wish for one item goes before one for all.
pub(super) fn points(items: &[ItemName], wishes: Vec<PointWish>) -> BTreeMap<ItemName, PointChoice> {
    let (of_one, of_all): (Vec<_>, Vec<_>) = wishes.into_iter().partition(|wish| wish.item.is_some());
    let of_all = of_all.iter().flat_map(|wish| items.iter().map(|item| (item.clone(), wish.choice)));
    let of_one = of_one.into_iter().filter_map(|wish| Some((wish.item?, wish.choice)));
    of_all.chain(of_one).collect()
}

pub(super) fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked here: give --yes to start, or --preview to only look");
    }
    print!("Start? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
