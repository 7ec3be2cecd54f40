//! Bitmaps in the qcow2 file of a disk that nobody has open.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use understudy_sealing::Passphrase;

use super::super::{command, disk_key};
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

/// A file whose bitmaps are to be changed, with its key if it is encrypted.
pub struct Image {
    file: PathBuf,
    key: Option<Passphrase>,
}

impl Image {
    pub fn new(file: &Path, key: Option<Passphrase>) -> Self {
        Self { file: file.to_owned(), key }
    }

    pub async fn add(&self, bitmap: &str) -> Result<(), Error> {
        self.change(&["--add", "-g", GRANULARITY], bitmap).await
    }

    pub async fn remove(&self, bitmap: &str) -> Result<(), Error> {
        self.change(&["--remove"], bitmap).await
    }

    /// Adds what `from` holds to what `into` holds.
    pub async fn merge(&self, from: &str, into: &str) -> Result<(), Error> {
        self.change(&["--merge", from], into).await
    }

    async fn change(&self, action: &[&str], bitmap: &str) -> Result<(), Error> {
        let action = action.iter().map(OsString::from);
        let Some(key) = &self.key else {
            let mut arguments = arguments(&["bitmap", "-f", "qcow2"], &[]);
            arguments.extend(action.chain([OsString::from("--"), self.file.as_path().into(), bitmap.into()]));
            return command::run("qemu-img", &arguments).await.map(drop);
        };
        let mut arguments = arguments(&["bitmap"], &[]);
        arguments.extend(disk_key::from_stdin().map(OsString::from));
        let image = format!("json:{}", disk_key::alone(&self.file));
        arguments.extend(action.chain([OsString::from("--"), image.into(), bitmap.into()]));
        command::run_with_input("qemu-img", &arguments, key.expose()).await.map(drop)
    }
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
