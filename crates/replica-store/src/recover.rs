//! What `open` does to an item after a crash, or after nothing.
//!
//! Half-made things are removed, half-done merges are completed, points and partials stay. An item that cannot be brought in
//! order is logged and left as it is: one item's damage does not keep the others from their replicas.

use std::path::Path;

use understudy_ids::{ItemName, PointSeq};

use crate::{
    adopt,
    error::Result,
    layout::{MANIFEST, MERGING},
    merge, overlays, partial,
    store::{Number, Store, names},
};

type Step = fn(&Store, &ItemName) -> Result<()>;

impl Store {
    /// Brings one item in order. Only an error that the whole store shares, such as a file system that cannot be written, is
    /// returned.
    pub(crate) fn recover(&self, item: &ItemName) -> Result<()> {
        let steps: [(&str, Step); 5] = [
            ("remove half-made overlays", overlays::clean),
            ("remove a half-made base", adopt::clean),
            ("remove points without a manifest", remove_half_points),
            ("complete merges", merge::complete_all),
            ("remove what cannot be resumed", partial::clean),
        ];
        for (what, step) in steps {
            if let Err(error) = step(self, item) {
                tracing::error!(%item, %error, "cannot {what}; the item is left as it is");
            }
        }
        Ok(())
    }
}

/// A numbered directory gets its manifest before it gets its number, so one without was never a point. One whose manifest is
/// there and cannot be read may hold data that people want back, and stays.
fn remove_half_points(store: &Store, item: &ItemName) -> Result<()> {
    let points = store.dir(item).points();
    for number in names::<Number>(&points)? {
        let seq = PointSeq::new(number.0);
        let dir = store.dir(item).point(seq);
        let has = |name: &str| Path::new(&dir).join(name).exists();
        if dir.is_dir() && !has(MANIFEST) && !has(MERGING) {
            store.remove_point(item, seq)?;
        }
    }
    Ok(())
}
