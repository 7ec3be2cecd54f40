//! Which of an item's recovery points is meant (R-UF-3).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::PointSeq;

/// A choice other than the latest point, which needs none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PointChoice {
    /// The latest from which applications start without recovering anything.
    LatestAppConsistent,
    #[serde(untagged)]
    Seq(PointSeq),
}

/// A text that chooses no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no recovery point: write its number, or {LATEST_APP_CONSISTENT}")]
pub struct InvalidChoice(String);

const LATEST_APP_CONSISTENT: &str = "latest-app-consistent";

impl FromStr for PointChoice {
    type Err = InvalidChoice;
    fn from_str(text: &str) -> Result<Self, InvalidChoice> {
        if text == LATEST_APP_CONSISTENT {
            return Ok(Self::LatestAppConsistent);
        }
        let seq = text.parse().ok().filter(|seq| *seq > 0).map(|seq| Self::Seq(PointSeq::new(seq)));
        seq.ok_or_else(|| InvalidChoice(text.chars().take(80).collect()))
    }
}

impl fmt::Display for PointChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LatestAppConsistent => f.pad(LATEST_APP_CONSISTENT),
            Self::Seq(seq) => seq.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for choice in [PointChoice::LatestAppConsistent, PointChoice::Seq(PointSeq::new(7))] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        for bad in ["", "0", "-1", "latest", "7x"] {
            assert!(bad.parse::<PointChoice>().is_err(), "{bad}");
        }
    }
}
