//! Reading a configuration: file, environment, flags, in rising order of strength.
//!
//! serde stops at the first mistake, and an operator wants to see them all. So a mistake is noted, an unknown key taken out, a missing
//! or unusable one replaced by any value that reads, and the whole read again until nothing is left to complain about. What was
//! read with such a stand-in is thrown away.

use std::{fmt, path::PathBuf};

use figment::{
    Figment, Profile, Provider,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
    value::{Dict, Value},
};

use crate::ServiceConfig;

const ENVIRONMENT: &str = "UNDERSTUDY_";
const SEPARATOR: &str = "__";
/// More mistakes than this in one configuration are not worth reading.
const MOST: usize = 50;

/// Where a configuration comes from besides the environment.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// `key.of.section` and value, as after `--set`.
    pub set: Vec<(String, String)>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration cannot be used:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Reads and checks a configuration.
pub fn load<C: ServiceConfig>(sources: &Sources) -> Result<C, ConfigError> {
    let missing = sources.file.as_ref().filter(|file| !file.is_file());
    if let Some(file) = missing {
        let problem = format!("{} is not a file: check the path after --config", file.display());
        return Err(ConfigError { problems: vec![problem] });
    }
    let config: C = extract(figment(sources))?;
    let problems = config.problems();
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

fn figment(sources: &Sources) -> Figment {
    let mut figment = Figment::new();
    if let Some(file) = &sources.file {
        figment = figment.merge(Toml::file_exact(file));
    }
    // Only names with a section are keys; the rest, such as UNDERSTUDY_CONFIG, have another meaning.
    figment = figment
        .merge(Env::prefixed(ENVIRONMENT).filter(|name| name.as_str().contains(SEPARATOR)).split(SEPARATOR));
    sources.set.iter().fold(figment, |figment, (key, value)| {
        // The text is read as in the environment: a number is a number, anything else a string.
        let value: Value = value.parse().unwrap_or_else(|never| match never {});
        figment.merge(Serialized::default(key, value))
    })
}

fn extract<C: ServiceConfig>(figment: Figment) -> Result<C, ConfigError> {
    let mut values = values(&figment)?;
    let mut problems = Vec::new();
    loop {
        let error = match read::<C>(&values) {
            Ok(config) if problems.is_empty() => return Ok(config),
            Ok(_) => break,
            Err(error) => error,
        };
        let path = bad_key(&error);
        problems.push(describe(&path, &error.kind, &figment));
        let mended = match &error.kind {
            Kind::UnknownField(..) => remove(&mut values, &path),
            _ => stand_in::<C>(&mut values, &path),
        };
        if !mended || problems.len() == MOST {
            break;
        }
    }
    Err(ConfigError { problems })
}

fn read<C: ServiceConfig>(values: &Dict) -> Result<C, Box<figment::Error>> {
    Figment::from(Serialized::defaults(values)).extract().map_err(Box::new)
}

/// Puts a value at `path` that serde does not complain about, so that it goes on to the next mistake; tells whether one was found.
fn stand_in<C: ServiceConfig>(values: &mut Dict, path: &[String]) -> bool {
    let mut candidates: Vec<Value> = vec![
        1.into(),
        "stand-in".into(),
        true.into(),
        Vec::<Value>::new().into(),
        Dict::new().into(),
        "127.0.0.1:1".into(),
    ];
    while let Some(candidate) = (!candidates.is_empty()).then(|| candidates.remove(0)) {
        if !set(values, path, candidate) {
            return false;
        }
        match read::<C>(values) {
            Err(error) if bad_key(&error) == path => {
                // An enumeration says itself what it would accept.
                if let Kind::UnknownVariant(_, [known, ..]) = error.kind {
                    candidates = vec![(*known).into()];
                }
            }
            Ok(_) | Err(_) => return true,
        }
    }
    false
}

fn values(figment: &Figment) -> Result<Dict, ConfigError> {
    let failed =
        |error: figment::Error| ConfigError { problems: error.into_iter().map(|e| e.to_string()).collect() };
    Ok(figment.data().map_err(failed)?.remove(&Profile::Default).unwrap_or_default())
}

/// The key that an error is about. serde names an unknown or missing key apart from the path to its section.
fn bad_key(error: &figment::Error) -> Vec<String> {
    let mut path = error.path.clone();
    let named = match &error.kind {
        Kind::UnknownField(name, _) => Some(name.as_str()),
        Kind::MissingField(name) => Some(name.as_ref()),
        _ => None,
    };
    if let Some(name) = named.filter(|name| path.last().is_none_or(|last| last != name)) {
        path.push(name.to_owned());
    }
    path
}

fn describe(path: &[String], kind: &Kind, figment: &Figment) -> String {
    let key = path.join(".");
    let place = figment
        .find_metadata(&key)
        .map(|metadata| match &metadata.source {
            Some(source) => format!(" (from {source})"),
            None => format!(" (from {})", metadata.name),
        })
        .unwrap_or_default();
    match kind {
        Kind::UnknownField(_, known) => {
            format!("{key}: is not a key here{place}; known are: {}", known.join(", "))
        }
        Kind::MissingField(_) => format!("{key}: is missing"),
        kind => format!("{key}: {kind}{place}"),
    }
}

/// Takes a key out; tells whether it was there.
fn remove(values: &mut Dict, path: &[String]) -> bool {
    match path {
        [] => false,
        [key] => values.remove(key).is_some(),
        [section, rest @ ..] => match values.get_mut(section) {
            Some(Value::Dict(_, inner)) => remove(inner, rest),
            _ => false,
        },
    }
}

/// Sets a key in a section that exists; tells whether it does.
fn set(values: &mut Dict, path: &[String], value: Value) -> bool {
    match path {
        [] => false,
        [key] => {
            values.insert(key.clone(), value);
            true
        }
        [section, rest @ ..] => match values.get_mut(section) {
            Some(Value::Dict(_, inner)) => set(inner, rest, value),
            _ => false,
        },
    }
}
