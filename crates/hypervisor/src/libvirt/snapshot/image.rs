//! Bitmaps in the qcow2 file of a disk that nobody has open.

use std::{ffi::OsString, path::Path};

use serde::Deserialize;

use super::super::command;
use crate::Error;

/// Bytes that one bit stands for, the same that libvirt's checkpoints have.
const GRANULARITY: &str = "65536";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    pub name: String,
    /// Its file was closed as it should be, so that it holds every write.
    pub is_consistent: bool,
}

pub async fn bitmaps(file: &Path) -> Result<Vec<Bitmap>, Error> {
    let text = command::run("qemu-img", &arguments(&["info", "--output=json", "-f", "qcow2", "--"], &[file]))
        .await?;
    parse(&text)
        .map_err(|why| Error::Failed { what: format!("reading the bitmaps of {}", file.display()), why })
}

pub async fn add(file: &Path, bitmap: &str) -> Result<(), Error> {
    change(file, &["--add", "-g", GRANULARITY], bitmap).await
}

pub async fn remove(file: &Path, bitmap: &str) -> Result<(), Error> {
    change(file, &["--remove"], bitmap).await
}

/// Adds what `from` holds to what `into` holds.
pub async fn merge(file: &Path, from: &str, into: &str) -> Result<(), Error> {
    change(file, &["--merge", from], into).await
}

async fn change(file: &Path, action: &[&str], bitmap: &str) -> Result<(), Error> {
    let mut arguments = arguments(&["bitmap", "-f", "qcow2"], &[]);
    arguments.extend(action.iter().map(OsString::from));
    arguments.extend([OsString::from("--"), file.into(), bitmap.into()]);
    command::run("qemu-img", &arguments).await.map(drop)
}

fn arguments(words: &[&str], files: &[&Path]) -> Vec<OsString> {
    words.iter().map(OsString::from).chain(files.iter().map(OsString::from)).collect()
}

fn parse(text: &str) -> Result<Vec<Bitmap>, String> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "format-specific")]
        specific: Specific,
    }
    #[derive(Deserialize)]
    struct Specific {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(default)]
        bitmaps: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        name: String,
        flags: Vec<String>,
    }
    let info: Info = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let entries = info.specific.data.bitmaps.into_iter();
    Ok(entries
        .map(|entry| Bitmap {
            is_consistent: !entry.flags.iter().any(|flag| flag == "in-use"),
            name: entry.name,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_in_use_while_nobody_uses_it_is_inconsistent() {
        let text = r#"{"format":"qcow2","format-specific":{"type":"qcow2","data":{"bitmaps":[
            {"flags":["auto"],"name":"a","granularity":65536},
            {"flags":["in-use","auto"],"name":"b","granularity":65536}]}}}"#;
        let bitmaps = parse(text).unwrap();
        let found: Vec<_> =
            bitmaps.iter().map(|bitmap| (bitmap.name.as_str(), bitmap.is_consistent)).collect();
        assert_eq!(found, [("a", true), ("b", false)]);
        assert_eq!(parse(r#"{"format-specific":{"data":{}}}"#).unwrap(), []);
    }
}
