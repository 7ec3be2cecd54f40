//! XML as a tree: enough of it to read libvirt's descriptions and to write ours. All text is escaped on the way out.

use quick_xml::{
    Reader, Writer,
    escape::unescape,
    events::{BytesEnd, BytesStart, BytesText, Event},
};

/// Deeper nesting than libvirt ever produces.
const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// With its prefix, as written.
    pub name: String,
    attributes: Vec<(String, String)>,
    pub children: Vec<Element>,
    pub text: String,
}

impl Element {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub fn with(mut self, attribute: &str, value: impl Into<String>) -> Self {
        self.attributes.push((attribute.to_owned(), value.into()));
        self
    }

    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    pub fn child(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    pub fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children);
        self
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first element at `path`, names separated by `/`.
    pub fn find(&self, path: &str) -> Option<&Element> {
        path.split('/')
            .try_fold(self, |element, name| element.children.iter().find(|child| child.name == name))
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub fn text_at(&self, path: &str) -> Option<&str> {
        self.find(path).map(|element| element.text.trim())
    }

    pub fn attribute_at(&self, path: &str, name: &str) -> Option<&str> {
        self.find(path).and_then(|element| element.attribute(name))
    }

    pub fn parse(source: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(source);
        let mut open: Vec<Element> = vec![Element::default()];
        loop {
            let event = reader.read_event().map_err(|error| error.to_string())?;
            match event {
                Event::Start(tag) => open.push(begin(&tag)?),
                Event::Empty(tag) => append(&mut open, begin(&tag)?)?,
                Event::End(_) => {
                    let done = open.pop().ok_or("an end without a beginning")?;
                    append(&mut open, done)?;
                }
                Event::Text(text) => push_text(&mut open, &text.xml10_content()),
                Event::CData(text) => push_text(&mut open, &text.xml10_content()),
                Event::GeneralRef(reference) => {
                    let entity = format!("&{};", reference.xml10_content());
                    push_text(&mut open, &unescape(&entity).map_err(|error| error.to_string())?);
                }
                Event::Eof => break,
                _ => {}
            }
            if open.len() > MAX_DEPTH {
                return Err(format!("elements are nested deeper than {MAX_DEPTH}"));
            }
        }
        let root = open.pop().filter(|_| open.is_empty()).ok_or("an element is not closed")?;
        root.children.into_iter().next().ok_or_else(|| "there is no element".to_owned())
    }

    pub fn write(&self) -> String {
        let mut writer = Writer::new(Vec::new());
        // Writing to memory cannot fail.
        let _ = self.write_to(&mut writer);
        String::from_utf8_lossy(&writer.into_inner()).into_owned()
    }

    fn write_to(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let attributes = self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let start = BytesStart::new(self.name.as_str()).with_attributes(attributes);
        if self.children.is_empty() && self.text.is_empty() {
            return writer.write_event(Event::Empty(start));
        }
        writer.write_event(Event::Start(start))?;
        if !self.text.trim().is_empty() {
            writer.write_event(Event::Text(BytesText::new(&self.text)))?;
        }
        for child in &self.children {
            child.write_to(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name.as_str())))
    }
}

fn begin(tag: &BytesStart<'_>) -> Result<Element, String> {
    let mut element = Element::new(tag.name().as_ref());
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let name = attribute.key.as_ref().to_owned();
        let value = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0);
        element.attributes.push((name, value.map_err(|error| error.to_string())?.into_owned()));
    }
    Ok(element)
}

fn append(open: &mut [Element], done: Element) -> Result<(), String> {
    open.last_mut().ok_or("an end without a beginning")?.children.push(done);
    Ok(())
}

fn push_text(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_whatever_is_in_it() {
        let nasty = "a<b>&\"'\u{e9}]]>";
        let tree = Element::new("domain")
            .with("type", nasty)
            .child(Element::new("name").text(nasty))
            .child(Element::new("u:tag").with("xmlns:u", "x").with("y", "<&>"));
        let xml = tree.write();
        assert_eq!(Element::parse(&xml).unwrap(), tree, "{xml}");
    }

    #[test]
    fn broken_text_is_an_error() {
        for bad in ["", "<a>", "</a>", "<a><b></a>", "<a>&nope;</a>", &"<a>".repeat(100)] {
            assert!(Element::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
