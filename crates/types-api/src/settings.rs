//! Settings of replication on the wire.

use std::time::Duration;

use understudy_replication::{AppConsistency, Compression, ReplicationSettings, settings::BadSetting};

use crate::{duration_from_wire, duration_to_wire, v1};

/// # Errors
/// With every setting that is malformed or out of its range for points that are made every `interval`.
pub fn settings_from_wire(
    wire: Option<v1::ReplicationSettings>,
    interval: Duration,
) -> Result<ReplicationSettings, Vec<BadSetting>> {
    let v1::ReplicationSettings { compression, app_consistency } = wire.unwrap_or_default();
    let mut bad = Vec::new();
    let settings = ReplicationSettings {
        compression: keep(&mut bad, compression_from_wire(compression)).unwrap_or_default(),
        app_consistency: app_consistency.and_then(|wire| app_consistency_from_wire(&mut bad, wire)),
    };
    bad.extend(settings.problems(interval));
    if bad.is_empty() { Ok(settings) } else { Err(bad) }
}

pub fn settings_to_wire(settings: &ReplicationSettings) -> v1::ReplicationSettings {
    let ReplicationSettings { compression, app_consistency } = settings;
    let app_consistency = app_consistency.map(|AppConsistency { every, freeze_limit }| v1::AppConsistency {
        every: Some(duration_to_wire(every)),
        freeze_limit: Some(duration_to_wire(freeze_limit)),
    });
    let compression = match compression {
        Compression::Auto => v1::Compression::Auto,
        Compression::Off => v1::Compression::Off,
    };
    v1::ReplicationSettings { compression: compression.into(), app_consistency }
}

fn keep<T>(bad: &mut Vec<BadSetting>, value: Result<T, BadSetting>) -> Option<T> {
    value.map_err(|problem| bad.push(problem)).ok()
}

fn compression_from_wire(wire: i32) -> Result<Compression, BadSetting> {
    match v1::Compression::try_from(wire) {
        Ok(v1::Compression::Unspecified | v1::Compression::Auto) => Ok(Compression::Auto),
        Ok(v1::Compression::Off) => Ok(Compression::Off),
        Err(_) => Err(BadSetting::new("compression", "has a value that this version does not know")),
    }
}

fn app_consistency_from_wire(bad: &mut Vec<BadSetting>, wire: v1::AppConsistency) -> Option<AppConsistency> {
    let v1::AppConsistency { every, freeze_limit } = wire;
    let every = keep(bad, span("app_consistency.every", every));
    let freeze_limit = match freeze_limit {
        None => Some(AppConsistency::FREEZE_LIMIT),
        limit => keep(bad, span("app_consistency.freeze_limit", limit)),
    };
    Some(AppConsistency { every: every?, freeze_limit: freeze_limit? })
}

/// A span in whole milliseconds, as it is stored everywhere.
fn span(field: &str, wire: Option<prost_types::Duration>) -> Result<Duration, BadSetting> {
    let wire = wire.ok_or_else(|| BadSetting::new(field, "is not set"))?;
    let span = duration_from_wire(wire).map_err(|e| BadSetting::new(field, format!("is unusable: {e}")))?;
    Ok(Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn settings() -> ReplicationSettings {
        ReplicationSettings {
            compression: Compression::Off,
            app_consistency: Some(AppConsistency {
                every: Duration::from_secs(3600),
                freeze_limit: Duration::from_millis(2500),
            }),
        }
    }

    #[test]
    fn settings_go_out_and_come_in_alike_and_defaults_are_filled_in() {
        assert_eq!(settings_from_wire(Some(settings_to_wire(&settings())), MINUTE), Ok(settings()));
        assert_eq!(settings_from_wire(None, MINUTE), Ok(ReplicationSettings::default()));
        let mut wire = settings_to_wire(&settings());
        wire.app_consistency.as_mut().unwrap().freeze_limit = None;
        let read = settings_from_wire(Some(wire), MINUTE).unwrap();
        assert_eq!(read.app_consistency.unwrap().freeze_limit, AppConsistency::FREEZE_LIMIT);
    }

    /// R-REP-1: all problems at once.
    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let wire = v1::ReplicationSettings {
            compression: 99,
            app_consistency: Some(v1::AppConsistency {
                every: None,
                freeze_limit: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            }),
        };
        let bad = settings_from_wire(Some(wire), MINUTE).unwrap_err();
        let fields: Vec<_> = bad.into_iter().map(|b| b.field).collect();
        assert_eq!(fields, ["compression", "app_consistency.every", "app_consistency.freeze_limit"]);
    }
}
