//! Settings of replication on the wire.

use std::time::Duration;

use understudy_replication::{
    AppConsistency, Bandwidth, Compression, ReplicationSettings, RetentionPolicy, Tier,
    bandwidth::{Rate, Weekday, Window},
    settings::BadSetting,
};

use understudy_sealing::Recipient;

use crate::{duration_from_wire, duration_to_wire, v1};

/// # Errors
/// With every setting that is malformed or out of its range for points that are made every `interval`.
pub fn settings_from_wire(
    wire: Option<v1::ReplicationSettings>,
    interval: Duration,
) -> Result<ReplicationSettings, Vec<BadSetting>> {
    let v1::ReplicationSettings { compression, app_consistency, bandwidth, encrypt_for } =
        wire.unwrap_or_default();
    let mut bad = Vec::new();
    let settings = ReplicationSettings {
        compression: keep(&mut bad, compression_from_wire(compression)).unwrap_or_default(),
        app_consistency: app_consistency.and_then(|wire| app_consistency_from_wire(&mut bad, wire)),
        bandwidth: bandwidth_from_wire(&mut bad, bandwidth.unwrap_or_default()),
        encrypt_for,
    };
    for (n, certificate) in settings.encrypt_for.iter().enumerate() {
        // Whether it has ended is for who has a clock to say.
        let bad_one = Recipient::from_pem(certificate).err();
        bad.extend(bad_one.map(|why| BadSetting::new(format!("encrypt_for[{n}]"), why.to_string())));
    }
    bad.extend(settings.problems(interval));
    if bad.is_empty() { Ok(settings) } else { Err(bad) }
}

pub fn settings_to_wire(settings: &ReplicationSettings) -> v1::ReplicationSettings {
    let ReplicationSettings { compression, app_consistency, bandwidth, encrypt_for } = settings;
    let app_consistency = app_consistency.map(|AppConsistency { every, freeze_limit }| v1::AppConsistency {
        every: Some(duration_to_wire(every)),
        freeze_limit: Some(duration_to_wire(freeze_limit)),
    });
    let compression = match compression {
        Compression::Auto => v1::Compression::Auto,
        Compression::Off => v1::Compression::Off,
    };
    let bandwidth = Some(bandwidth_to_wire(bandwidth));
    v1::ReplicationSettings {
        compression: compression.into(),
        app_consistency,
        bandwidth,
        encrypt_for: encrypt_for.clone(),
    }
}

fn bandwidth_to_wire(Bandwidth { otherwise, windows, utc_offset_minutes }: &Bandwidth) -> v1::Bandwidth {
    let window = |Window { days, from_minute, to_minute, rate }: &Window| v1::BandwidthWindow {
        days: days.iter().map(|day| *day as i32 + 1).collect(),
        from_minute: *from_minute,
        to_minute: *to_minute,
        bytes_per_s: rate.0.unwrap_or(0),
    };
    v1::Bandwidth {
        bytes_per_s: otherwise.0.unwrap_or(0),
        windows: windows.iter().map(window).collect(),
        utc_offset_minutes: *utc_offset_minutes,
    }
}

/// The bounds are checked with those of all settings; lists are cut where they are too long for them.
fn bandwidth_from_wire(bad: &mut Vec<BadSetting>, wire: v1::Bandwidth) -> Bandwidth {
    let v1::Bandwidth { bytes_per_s, windows, utc_offset_minutes } = wire;
    let rate = |bytes_per_s: u64| Rate((bytes_per_s != 0).then_some(bytes_per_s));
    let mut read = Vec::new();
    for (n, window) in windows.into_iter().take(Bandwidth::MAX_WINDOWS + 1).enumerate() {
        let v1::BandwidthWindow { days, from_minute, to_minute, bytes_per_s } = window;
        let day = |day: &i32| usize::try_from(*day - 1).ok().and_then(|n| Weekday::ALL.get(n).copied());
        let known: Option<Vec<Weekday>> = days.iter().take(8).map(day).collect();
        if known.is_none() {
            bad.push(BadSetting::new(format!("bandwidth.windows[{n}].days"), "name a day that is none"));
        }
        let days = known.unwrap_or_else(|| Weekday::ALL.to_vec());
        read.push(Window { days, from_minute, to_minute, rate: rate(bytes_per_s) });
    }
    Bandwidth { otherwise: rate(bytes_per_s), windows: read, utc_offset_minutes }
}

/// # Errors
/// With every tier that is malformed. Its bounds are those of the whole [`RetentionPolicy`].
pub fn tiers_from_wire(wire: &[v1::RetentionTier]) -> Result<Vec<Tier>, Vec<BadSetting>> {
    let mut bad = Vec::new();
    let mut tiers = Vec::new();
    // One more than allowed is enough to be refused.
    for (n, v1::RetentionTier { every, age }) in wire.iter().take(RetentionPolicy::MAX_TIERS + 1).enumerate()
    {
        let every = keep(&mut bad, span(&format!("keep_tiers[{n}].every"), *every));
        let age = keep(&mut bad, span(&format!("keep_tiers[{n}].age"), *age));
        tiers.extend(every.zip(age).map(|(every, age)| Tier { every, age }));
    }
    if bad.is_empty() { Ok(tiers) } else { Err(bad) }
}

pub fn tiers_to_wire(tiers: &[Tier]) -> Vec<v1::RetentionTier> {
    let to_wire = |Tier { every, age }: &Tier| v1::RetentionTier {
        every: Some(duration_to_wire(*every)),
        age: Some(duration_to_wire(*age)),
    };
    tiers.iter().map(to_wire).collect()
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
    const CERTIFICATE: &str = include_str!("../tests/recipient.pem");

    fn settings() -> ReplicationSettings {
        ReplicationSettings {
            compression: Compression::Off,
            app_consistency: Some(AppConsistency {
                every: Duration::from_secs(3600),
                freeze_limit: Duration::from_millis(2500),
            }),
            bandwidth: Bandwidth {
                otherwise: "5MiB".parse().unwrap(),
                windows: vec!["sat,sun 22:00-06:00 unlimited".parse().unwrap()],
                utc_offset_minutes: 120,
            },
            encrypt_for: vec![CERTIFICATE.to_owned()],
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

    #[test]
    fn tiers_go_out_and_come_in_alike_and_endless_lists_are_cut() {
        let tier = Tier { every: MINUTE, age: Duration::from_secs(86_400) };
        let wire = tiers_to_wire(&[tier; 3]);
        assert_eq!(tiers_from_wire(&wire), Ok(vec![tier; 3]));
        let many = vec![wire[0]; 100_000];
        assert_eq!(tiers_from_wire(&many).unwrap().len(), RetentionPolicy::MAX_TIERS + 1);
        let bad = tiers_from_wire(&[wire[0], v1::RetentionTier::default()]).unwrap_err();
        let fields: Vec<_> = bad.into_iter().map(|b| b.field).collect();
        assert_eq!(fields, ["keep_tiers[1].every", "keep_tiers[1].age"]);
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
            bandwidth: Some(v1::Bandwidth {
                bytes_per_s: 1,
                windows: vec![v1::BandwidthWindow { days: vec![0], ..Default::default() }; 3],
                utc_offset_minutes: 0,
            }),
            encrypt_for: vec![CERTIFICATE.to_owned(), "no certificate".to_owned()],
        };
        let bad = settings_from_wire(Some(wire), MINUTE).unwrap_err();
        let fields: Vec<_> = bad.into_iter().map(|b| b.field).collect();
        assert_eq!(fields[..3], ["compression", "app_consistency.every", "app_consistency.freeze_limit"]);
        assert_eq!(fields[3..6], [0, 1, 2].map(|n| format!("bandwidth.windows[{n}].days")));
        assert_eq!(fields[6..], ["encrypt_for[1]", "bandwidth.otherwise"]);
    }
}
