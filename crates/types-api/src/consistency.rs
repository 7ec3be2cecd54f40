//! Consistency of recovery points on the wire.

use understudy_ids::Consistency;

use crate::v1;

/// A peer that says nothing, or something newer than we know, is taken for the least that any point is.
pub fn consistency_from_wire(number: i32) -> Consistency {
    match v1::Consistency::try_from(number) {
        Ok(v1::Consistency::Application) => Consistency::Application,
        Ok(v1::Consistency::Clean) => Consistency::Clean,
        Ok(v1::Consistency::Unspecified | v1::Consistency::Crash) | Err(_) => Consistency::Crash,
    }
}

pub fn consistency_to_wire(consistency: Consistency) -> i32 {
    match consistency {
        Consistency::Crash => v1::Consistency::Crash,
        Consistency::Application => v1::Consistency::Application,
        Consistency::Clean => v1::Consistency::Clean,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R-UF-3: nobody is offered a point as application-consistent that nobody called so.
    #[test]
    fn what_is_not_understood_is_crash_consistent() {
        for consistency in [Consistency::Crash, Consistency::Application, Consistency::Clean] {
            assert_eq!(consistency_from_wire(consistency_to_wire(consistency)), consistency);
        }
        for number in [0, -1, 99] {
            assert_eq!(consistency_from_wire(number), Consistency::Crash);
        }
    }
}
