//! Options of a node or a device: one word of the command line, or the arguments of a QMP command. The same ones make both, so
//! that what comes while QEMU runs is what the next start will have.

use serde_json::{Map, Value};

use super::comma;

/// What an option is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    Switch(bool),
    Number(usize),
    Text(String),
}

impl From<bool> for Setting {
    fn from(on: bool) -> Self {
        Self::Switch(on)
    }
}

impl From<usize> for Setting {
    fn from(number: usize) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Setting {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Setting {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Options in the order in which they were set. A dot in a name leads into a group of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options(Vec<(&'static str, Setting)>);

impl Options {
    /// Options of a driver.
    pub(super) fn of(driver: impl Into<Setting>) -> Self {
        Self(vec![("driver", driver.into())])
    }

    /// With one more.
    pub(super) fn with(mut self, name: &'static str, setting: impl Into<Setting>) -> Self {
        self.0.push((name, setting.into()));
        self
    }

    /// With one more where there is one.
    pub(super) fn maybe(self, name: &'static str, setting: Option<impl Into<Setting>>) -> Self {
        match setting {
            Some(setting) => self.with(name, setting),
            None => self,
        }
    }

    /// With one more that is on, if it is.
    pub(super) fn when(self, on: bool, name: &'static str) -> Self {
        self.maybe(name, on.then_some(true))
    }

    /// One word: `driver=raw,node-name=root`.
    pub(super) fn word(&self) -> String {
        let words = self.0.iter().map(|(name, setting)| {
            let setting = match setting {
                Setting::Switch(true) => "on".to_owned(),
                Setting::Switch(false) => "off".to_owned(),
                Setting::Number(number) => number.to_string(),
                Setting::Text(text) => comma(text),
            };
            format!("{name}={setting}")
        });
        words.collect::<Vec<_>>().join(",")
    }

    /// One word that begins with the driver's name: `virtio-blk-pci,drive=root`.
    pub(super) fn device(&self) -> String {
        let word = self.word();
        word.strip_prefix("driver=")
            .map(ToOwned::to_owned)
            .unwrap_or(word)
    }

    /// An object: `{"driver": "raw", "node-name": "root"}`.
    pub(super) fn json(&self) -> Value {
        let mut object = Map::new();
        for (name, setting) in &self.0 {
            let setting = match setting {
                Setting::Switch(on) => Value::from(*on),
                Setting::Number(number) => Value::from(*number),
                Setting::Text(text) => Value::from(text.as_str()),
            };
            let (group, name) = name.split_once('.').unwrap_or(("", name));
            let group = if group.is_empty() {
                Some(&mut object)
            } else {
                let group = object.entry(group).or_insert_with(|| Map::new().into());
                group.as_object_mut()
            };
            group.map(|group| group.insert(name.to_owned(), setting));
        }
        object.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_options_are_a_word_and_an_object() {
        let options = Options::of("file")
            .with("filename", "a,b")
            .when(true, "cache.direct")
            .when(false, "read-only")
            .maybe("aio", Some("native"))
            .maybe("discard", None::<&str>)
            .with("cache.no-flush", false)
            .with("bootindex", 3);
        assert_eq!(
            options.word(),
            "driver=file,filename=a,,b,cache.direct=on,aio=native,cache.no-flush=off,bootindex=3"
        );
        assert_eq!(options.device().split(',').next(), Some("file"));
        assert_eq!(
            options.json(),
            json!({"driver": "file", "filename": "a,b", "cache": {"direct": true, "no-flush": false}, "aio": "native",
                   "bootindex": 3})
        );
    }
}
