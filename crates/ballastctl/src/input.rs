//! Documents as they come in: files, folders, standard input; several become one.
//!
//! One text is sent as it is, so that history and export keep what its author wrote. Several
//! are put together line by line where their form allows it, comments kept, and it is checked that
//! the result means the same; otherwise the merged document is written out anew.
//!
//! Not here: what a document means (`ballast_core::config`).

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use ballast_core::config::{self, Mistakes};

use crate::{
    failure::{Exit, Failure},
    view::MistakeView,
};

mod merge;

/// Largest text that is read. Nodes refuse far smaller ones; this only keeps memory bounded.
const TEXT_BYTES_MAX: u64 = 32 << 20;
/// Largest text that is sent; core's own bound says so before a node would.
const SENT_BYTES_MAX: usize = 3 << 20;

/// A document and where its lines come from.
#[derive(Debug)]
pub struct Source {
    /// What is sent.
    pub text: String,
    names: Vec<String>,
    /// For each line of `text`: file, line in it, columns added. Empty for a single file; a line
    /// that is in no file is `None`.
    origin: Vec<Option<merge::Origin>>,
}

impl Source {
    /// Reads what `-f` names.
    ///
    /// # Errors
    /// When something cannot be read, or several texts cannot be one document.
    pub fn read(names: &[String], input: &mut dyn Read) -> Result<Self, Failure> {
        let mut texts = read_all(names, input)?;
        if texts.len() == 1 && texts[0].1.len() <= SENT_BYTES_MAX {
            let (name, text) = texts.remove(0);
            return Ok(Self { text, names: vec![name], origin: Vec::new() });
        }
        let pairs: Vec<_> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let document = config::parse_many(&pairs).map_err(|mistakes| refused(&mistakes))?;
        let names = texts.iter().map(|(name, _)| name.clone()).collect();
        if texts.len() == 1 {
            return Ok(Self { text: texts.remove(0).1, names, origin: Vec::new() });
        }
        if let Some(merged) = merge::by_lines(&texts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>())
            && config::parse(&merged.text).is_ok_and(|again| again == document)
        {
            return Ok(Self { text: merged.text, names, origin: merged.origin });
        }
        Ok(Self { text: config::to_yaml(&document), names: Vec::new(), origin: Vec::new() })
    }

    /// Checks it with what this program knows.
    ///
    /// # Errors
    /// All mistakes, each with its place.
    pub fn check(&self) -> Result<(), Failure> {
        config::parse(&self.text).map(drop).map_err(|mistakes| refused(&mistakes).locate(|mistake| self.place(mistake)))
    }

    /// Says in which file a mistake stands that was found in the sent text.
    pub fn place(&self, mistake: &mut MistakeView) {
        if self.origin.is_empty() {
            mistake.file = self.names.first().cloned().or(mistake.file.take());
            return;
        }
        let line = usize::try_from(mistake.line).unwrap_or(usize::MAX);
        let Some(Some(origin)) = line.checked_sub(1).and_then(|index| self.origin.get(index)) else { return };
        mistake.file = self.names.get(origin.file).cloned();
        mistake.line = origin.line;
        mistake.column = u32::try_from(i64::from(mistake.column) - origin.shift).unwrap_or(1).max(1);
    }
}

/// Mistakes that core found.
fn refused(mistakes: &Mistakes) -> Failure {
    let omitted = u32::try_from(mistakes.omitted()).unwrap_or(u32::MAX);
    Failure::mistakes(mistakes.iter().map(MistakeView::from).collect()).and_more(omitted)
}

fn read_all(names: &[String], input: &mut dyn Read) -> Result<Vec<(String, String)>, Failure> {
    let mut texts = Vec::new();
    for name in names {
        if name == "-" {
            texts.push(("<stdin>".to_owned(), read_text("standard input", input)?));
            continue;
        }
        let path = Path::new(name);
        if path.is_dir() {
            let before = texts.len();
            for file in files_of(path)? {
                texts.push((file.clone(), read_file(&file)?));
            }
            if texts.len() == before {
                return Err(Failure::new(Exit::Usage, format!("{name} has no file *.yaml, *.yml or *.json")));
            }
        } else {
            texts.push((name.clone(), read_file(name)?));
        }
    }
    Ok(texts)
}

fn files_of(folder: &Path) -> Result<Vec<String>, Failure> {
    let unreadable = |error: io::Error| cannot_read(&folder.display().to_string(), &error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let wanted = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if wanted && !hidden && path.is_file() {
            files.push(path.display().to_string());
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(name: &str) -> Result<String, Failure> {
    let mut file = fs::File::open(name).map_err(|error| cannot_read(name, &error))?;
    read_text(name, &mut file)
}

fn read_text(name: &str, reader: &mut dyn Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    reader.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(name, &error))?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(Failure::new(
            Exit::Invalid,
            format!("{name} is larger than the {} MiB that are read", TEXT_BYTES_MAX >> 20),
        )
        .remedy("is it the right file? A document with ten thousand backends has less than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::new(Exit::Invalid, format!("{name}:{line}: this is not UTF-8 text"))
            .remedy("configuration is plain UTF-8 text: save it in that encoding")
    })
}

fn cannot_read(name: &str, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied => Exit::Denied,
        _ => Exit::Error,
    };
    Failure::because(exit, format!("cannot read {name}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "# the shop\nversion: 1\nvips:\n- name: public\n  addresses: [127.0.100.1]\n";
    const SECOND: &str = "version: 1\nfarms:\n    - name: shop   # sells\n      listeners:\n      - { name: web, vip: public, port: 8080 }\n      \
         services: [{ name: site, backends: [{ name: web1, address: \"127.0.0.1:9001\" }] }]\n";

    fn read(texts: &[(&str, &str)]) -> Result<Source, Failure> {
        let folder = tempfile::tempdir().expect("folder");
        for (name, text) in texts {
            fs::write(folder.path().join(name), text).expect("written");
        }
        Source::read(&[folder.path().display().to_string()], &mut io::empty())
    }

    #[test]
    fn one_text_stays_as_it_is() {
        let source = Source::read(&["-".to_owned()], &mut "version: 1 # kept\n".as_bytes()).expect("read");
        assert_eq!(source.text, "version: 1 # kept\n");
    }

    #[test]
    fn several_files_become_one_text_with_their_comments() {
        let source =
            read(&[("a.yaml", FIRST), ("b.yml", SECOND), (".hidden.yaml", "bad"), ("notes.txt", "bad")]).expect("read");
        assert_eq!(
            source.text,
            "# the shop\nversion: 1\nvips:\n  - name: public\n    addresses: [127.0.100.1]\n\
             farms:\n  - name: shop   # sells\n    listeners:\n    - { name: web, vip: public, port: 8080 }\n    \
             services: [{ name: site, backends: [{ name: web1, address: \"127.0.0.1:9001\" }] }]\n"
        );
    }

    #[test]
    fn a_mistake_in_the_merged_text_is_found_in_its_file() {
        let source = read(&[("a.yaml", FIRST), ("b.yml", SECOND)]).expect("read");
        let mut mistake = MistakeView { line: 8, column: 5, ..MistakeView::default() };
        source.place(&mut mistake);
        assert!(mistake.file.as_deref().is_some_and(|file| file.ends_with("b.yml")), "{mistake:?}");
        assert_eq!((mistake.line, mistake.column), (4, 7));
    }

    #[test]
    fn files_in_another_form_are_merged_all_the_same() {
        let json = r#"{"version":1,"vips":[{"name":"public","addresses":["127.0.100.1"]}]}"#;
        let source = read(&[("a.json", json), ("b.yml", SECOND)]).expect("read");
        let document = config::parse(&source.text).expect("a document");
        assert_eq!((document.vips.len(), document.farms.len()), (1, 1));
    }

    #[test]
    fn mistakes_of_all_files_are_told_at_once() {
        let failure =
            read(&[("a.yaml", "version: 1\nvisp: []\n"), ("b.yml", "version: 1\nfarms: 5\n")]).expect_err("refused");
        let files: Vec<_> = failure.mistake_list().iter().filter_map(|mistake| mistake.file.clone()).collect();
        assert!(
            files.iter().any(|file| file.ends_with("a.yaml")) && files.iter().any(|file| file.ends_with("b.yml")),
            "{files:?}"
        );
        assert_eq!(failure.exit(), Exit::Invalid);
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let check = |name: &str, input: &[u8], exit: Exit| {
            let failure = Source::read(&[name.to_owned()], &mut &*input).expect_err(name);
            assert_eq!(failure.exit(), exit, "{}", failure.message());
        };
        check("/nonexistent/shop.yaml", b"", Exit::NotFound);
        check("-", b"version: 1\n\xff", Exit::Invalid);
        check("-", &vec![b' '; (TEXT_BYTES_MAX + 1) as usize], Exit::Invalid);
    }
}
