//! Pages of lists: the token is the key of the last entry, in a form that callers do not take for one.

use understudy_recovery_api::request::Page;
use understudy_rpc::{ApiError, Problem};
use understudy_types_api::cursor;

/// The key after which a list goes on; empty for the first page.
pub(super) fn after(page: &Page) -> Result<String, ApiError> {
    Ok(cursor::decode(&page.token).map_err(|e| bad_token(&e.to_string()))?.unwrap_or_default())
}

/// As [`after`], for keys that are not names.
pub(super) fn after_key<K: std::str::FromStr>(page: &Page) -> Result<Option<K>, ApiError> {
    let key = after(page)?;
    if key.is_empty() {
        return Ok(None);
    }
    key.parse().map(Some).map_err(|_| bad_token("is not a token that this list returned"))
}

pub(super) fn bad_token(why: &str) -> ApiError {
    ApiError::invalid(vec![Problem::new(
        "INVALID_FIELD",
        "page_token",
        why,
        "Leave it empty to begin with the first page.",
    )])
}

/// One more than the page: whether there is a next page is known without a second question.
pub(super) fn limit(page: &Page) -> usize {
    page.size as usize + 1
}

/// The limit as the database takes it.
pub(super) fn sql_limit(page: &Page) -> i64 {
    i64::from(page.size) + 1
}

/// Cuts the entries to the page and makes the token for what follows.
pub(super) fn cut<T>(page: &Page, mut entries: Vec<T>, key: impl Fn(&T) -> String) -> (Vec<T>, String) {
    let more = entries.len() > page.size as usize;
    entries.truncate(page.size as usize);
    let token = entries.last().filter(|_| more).map(|last| cursor::encode(Some(&key(last))));
    (entries, token.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_read_page_by_page_is_the_list() {
        let all: Vec<String> = (0..7).map(|n| format!("k{n}")).collect();
        let (mut read, mut token) = (Vec::new(), String::new());
        loop {
            let page = Page { size: 3, token };
            let from = after(&page).unwrap();
            let found = all.iter().filter(|k| **k > from).take(limit(&page)).cloned().collect();
            let (entries, next) = cut(&page, found, Clone::clone);
            read.extend(entries);
            token = next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(read, all);
    }

    #[test]
    fn tokens_that_no_list_gave_out_are_refused() {
        for token in ["x", "zz", "616"] {
            assert!(after(&Page { size: 1, token: token.into() }).is_err());
        }
        let text = Page { size: 1, token: cursor::encode(Some("no number")) };
        assert!(after_key::<u64>(&text).is_err());
    }
}
