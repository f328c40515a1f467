//! The rules of the repository that a compiler does not check.
//!
//! Each rule is a function from a file to its complaints, tried on a bad sample as
//! well as on the tree.

mod source;

use source::{code, without_tests, words};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, iter};

/// Lines of code, tests and comments not counted, that a file may have.
const CODE_LINES_MAX: usize = 500;

/// The files of llm-core that may hold unsafe code.
const CORE_UNSAFE: [&str; 5] = [
    "llm-core/src/log/packed/ends.rs",
    "llm-core/src/page/apply/avx512.rs",
    "llm-core/src/page/scan/avx2.rs",
    "llm-core/src/page/scan/avx512.rs",
    "llm-core/src/ring/mapped.rs",
];

/// A text file of the repository, by its path from the root.
struct File {
    path: String,
    text: String,
    /// Whether it is built for tests alone.
    test: bool,
}

impl File {
    fn is(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|e| e == extension)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

/// What git tracks or would track; without git, all but build folders.
fn paths() -> Vec<PathBuf> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    if let Ok(listed) = git.output()
        && listed.status.success()
    {
        let names = String::from_utf8(listed.stdout).expect("paths are UTF-8");
        return names.split_terminator('\0').map(PathBuf::from).collect();
    }
    let mut folders = vec![PathBuf::new()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a readable folder") {
            let entry = entry.expect("a readable folder");
            let name = entry.file_name();
            let path = folder.join(&name);
            if !entry.file_type().expect("a known type").is_dir() {
                found.push(path);
            } else if name != "target" && name != ".git" {
                folders.push(path);
            }
        }
    }
    found
}

fn files() -> Vec<File> {
    let read = |path: PathBuf| {
        // Binary test data has no style; and a file may vanish meanwhile.
        let text = fs::read_to_string(root().join(&path)).ok()?;
        Some(File { path: path.to_str()?.to_owned(), text, test: false })
    };
    let mut files: Vec<File> = paths().into_iter().filter_map(read).collect();
    let modules: Vec<String> = files.iter().flat_map(|f| test_modules(&f.path, &f.text)).collect();
    for file in &mut files {
        let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
        let in_module =
            |module: &String| stem.strip_prefix(module).is_some_and(|s| s.is_empty() || s.starts_with('/'));
        file.test = file.path.starts_with("tests/tests/") || modules.iter().any(in_module);
    }
    assert!(files.iter().any(|f| f.path == "llm-core/src/lib.rs"), "the repository was not found");
    files
}

/// The modules that the Rust file at `path` has in files of their own for tests, as
/// paths without an extension.
fn test_modules(path: &str, text: &str) -> Vec<String> {
    let Some(stem) = path.strip_suffix(".rs") else { return Vec::new() };
    let folder = match stem.rsplit_once('/') {
        Some((folder, "mod" | "lib" | "main")) => folder,
        _ => stem,
    };
    let code = code(text);
    let items = code.split("#[cfg(test)]").skip(1).filter_map(|rest| rest.split([';', '{']).next());
    let name = |item: &str| Some(item.rsplit_once("mod ")?.1.trim().to_owned());
    let inline = |name: &String| code.contains(&format!("mod {name} {{"));
    items.filter_map(name).filter(|name| !inline(name)).map(|name| format!("{folder}/{name}")).collect()
}

fn check(rule: impl Fn(&File) -> Vec<String>) {
    let complaints: Vec<String> = files().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Complaints about a sample, for the tests of the rules themselves.
fn sample(rule: impl Fn(&File) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&File { path: path.to_owned(), text: text.to_owned(), test: false }).len()
}

/// The first column of the table in docs/unsafe.md: files that may hold unsafe code.
fn unsafe_table(markdown: &str) -> Vec<&str> {
    markdown.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |")).map(|row| row.0).collect()
}

fn read_unsafe_table() -> String {
    fs::read_to_string(root().join("docs/unsafe.md")).expect("docs/unsafe.md")
}

fn has_unsafe(file: &File) -> bool {
    file.is("rs") && code(&file.text).lines().any(|line| words(line, "unsafe").next().is_some())
}

/// Unsafe blocks and impls without a `SAFETY:` comment, unsafe functions without a `# Safety` section.
fn unexplained_unsafe(file: &File) -> Vec<String> {
    if !file.is("rs") {
        return Vec::new();
    }
    let code = code(&file.text);
    let code: Vec<&str> = code.lines().collect();
    let text: Vec<&str> = file.text.lines().collect();
    // From the line itself upwards, to the end of the statement or item before it.
    let explained = |line: usize, mark: &str| {
        let above = (0..line).rev().take(30).take_while(|i| {
            let ends = code[*i].trim_end();
            !(ends.ends_with(';') || ends.ends_with('}') || text[*i].trim().is_empty())
        });
        iter::once(line).chain(above).any(|i| text[i].contains(mark))
    };
    let mut complaints = Vec::new();
    for (number, line) in code.iter().enumerate() {
        for at in words(line, "unsafe") {
            let next = code[number + 1..].iter().map(|l| l.trim()).find(|l| !l.is_empty());
            let rest = Some(line[at + "unsafe".len()..].trim()).filter(|l| !l.is_empty()).or(next);
            let mark = match rest {
                Some(rest) if rest.starts_with('{') || rest.starts_with("impl") => "SAFETY:",
                // The trait says what its methods ask of their callers.
                Some(rest) if rest.contains("fn ") && in_trait_impl(&code[..=number]) => continue,
                // A type `unsafe fn(..)` promises nothing by itself.
                Some(rest) if rest.contains("fn ") && !rest.contains("fn(") => "# Safety",
                _ => continue,
            };
            if !explained(number, mark) {
                complaints.push(format!("{}:{}: unsafe without `{mark}` above it", file.path, number + 1));
            }
        }
    }
    complaints
}

/// Whether the last of `lines` lies in the body of an `impl TRAIT for TYPE`.
fn in_trait_impl(lines: &[&str]) -> bool {
    let outermost = |line: &&&str| line.starts_with(|c: char| c.is_alphabetic());
    let head = lines.iter().rfind(outermost).copied().unwrap_or_default();
    words(head, "impl").next().is_some() && words(head, "for").next().is_some()
}

fn too_long(file: &File) -> Vec<String> {
    if !file.is("rs") || file.test {
        return Vec::new();
    }
    let lines = without_tests(&code(&file.text)).lines().filter(|line| !line.trim().is_empty()).count();
    if lines > CODE_LINES_MAX {
        return vec![format!(
            "{}: {lines} lines of code; split it, {CODE_LINES_MAX} is the limit",
            file.path
        )];
    }
    Vec::new()
}

/// Folders of one machine, and hosts of package registries. The home of root, named
/// without anything in it, is on every machine.
fn machine_names(file: &File) -> Vec<String> {
    const FOLDERS: [&str; 3] = [concat!("/wo", "rk"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    const HOSTS: [&str; 4] = [
        concat!("crates", ".io"),
        concat!("deb.", "debian.org"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
    ];
    // Cargo itself writes the registry's name there.
    if file.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let path = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '}' | ')');
    let named = |line: &str| {
        let folder = FOLDERS.into_iter().find(|name| {
            line.match_indices(name).any(|(at, _)| {
                let after = &line[at + name.len()..];
                !line[..at].ends_with(path)
                    && (name.ends_with('/')
                        || !after.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-')))
            })
        });
        folder.or_else(|| HOSTS.into_iter().find(|name| line.contains(name)))
    };
    let lines = file.text.lines().enumerate();
    lines
        .filter_map(|(number, line)| Some(format!("{}:{}: names {}", file.path, number + 1, named(line)?)))
        .collect()
}

fn unfinished(file: &File) -> Vec<String> {
    const MARKS: [&str; 4] =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimplemented", "!(")];
    let found = |line: &str| MARKS.into_iter().find(|mark| line.contains(mark));
    let lines = file.text.lines().enumerate();
    lines
        .filter_map(|(number, line)| Some(format!("{}:{}: {}", file.path, number + 1, found(line)?)))
        .collect()
}

fn hosted_core(file: &File) -> Vec<String> {
    if !file.path.starts_with("llm-core/src/") || !file.is("rs") || file.test {
        return Vec::new();
    }
    let code = without_tests(&code(&file.text));
    let uses = |line: &str| ["std", "alloc"].into_iter().any(|name| words(line, name).next().is_some());
    let lines = code.lines().enumerate().filter(|(_, line)| uses(line));
    lines.map(|(number, _)| format!("{}:{}: needs std or alloc", file.path, number + 1)).collect()
}

/// Links of README.md and the book that lead nowhere.
fn broken_links(file: &File) -> Vec<String> {
    if !file.is("md") {
        return Vec::new();
    }
    let folder = Path::new(&file.path).parent().expect("a file lies in a folder");
    let mut complaints = Vec::new();
    for (number, line) in prose(&file.text) {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|link| link.0) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let other = if path.is_empty() { PathBuf::from(&file.path) } else { folder.join(path) };
            let there = root().join(&other);
            let reached = if path.is_empty() {
                anchors(&file.text).any(|a| a == anchor)
            } else if anchor.is_empty() {
                there.exists()
            } else {
                fs::read_to_string(&there).is_ok_and(|text| anchors(&text).any(|a| a == anchor))
            };
            if !reached {
                complaints.push(format!("{}:{}: the link to {target} leads nowhere", file.path, number + 1));
            }
        }
    }
    complaints
}

/// The numbered lines of a Markdown text outside its code blocks.
fn prose(markdown: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    markdown.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// What links to the headings of a Markdown text look like.
fn anchors(markdown: &str) -> impl Iterator<Item = String> {
    prose(markdown).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[test]
fn unsafe_code_is_where_the_table_says() {
    let table = read_unsafe_table();
    let rows = unsafe_table(&table);
    assert!(!rows.is_empty(), "docs/unsafe.md has no table");
    check(|file| {
        let listed = rows.contains(&file.path.as_str());
        match (has_unsafe(file), listed) {
            (true, false) => vec![format!("{}: unsafe code, but no row in docs/unsafe.md", file.path)],
            (false, true) => vec![format!("{}: a row in docs/unsafe.md, but no unsafe code", file.path)],
            _ => Vec::new(),
        }
    });
    for row in rows {
        assert!(root().join(row).is_file(), "docs/unsafe.md names {row}, which is no file");
        assert!(!row.starts_with("llm-core/src/") || CORE_UNSAFE.contains(&row), "{row} must be safe");
    }
}

#[test]
fn unsafe_code_is_explained() {
    check(unexplained_unsafe);
}

#[test]
fn files_are_short() {
    check(too_long);
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    check(machine_names);
}

#[test]
fn nothing_is_unfinished() {
    check(unfinished);
}

#[test]
fn core_needs_no_host() {
    let lib = fs::read_to_string(root().join("llm-core/src/lib.rs")).expect("llm-core/src/lib.rs");
    for attribute in ["#![no_std]", "#![deny(unsafe_code)]"] {
        assert!(code(&lib).contains(attribute), "llm-core has lost its {attribute}");
    }
    check(hosted_core);
    check(|file| {
        let core = file.path.starts_with("llm-core/src/") && file.is("rs");
        let allows = core
            && ["allow(unsafe_code)", "expect(unsafe_code)"].iter().any(|a| code(&file.text).contains(a));
        if allows && !CORE_UNSAFE.contains(&file.path.as_str()) {
            return vec![format!("{}: allows unsafe code", file.path)];
        }
        Vec::new()
    });
}

#[test]
fn links_lead_somewhere() {
    check(broken_links);
}

#[test]
fn modules_for_tests_are_known() {
    let text = "#[cfg(test)]\nmod tests;\n#[cfg(test)]\n#[allow(x)]\npub(crate) mod vectors;\nmod a;\n";
    assert_eq!(test_modules("a/b/mod.rs", text), ["a/b/tests", "a/b/vectors"]);
    assert_eq!(test_modules("a/b.rs", "#[cfg(test)] mod c;\n#[cfg(test)] mod d { }"), ["a/b/c"]);
}

#[test]
fn the_table_is_read_by_its_first_column() {
    let table = "| file | why |\n|---|---|\n| `a/b.rs` | `c.rs` |\n`d.rs` | e\n";
    assert_eq!(unsafe_table(table), ["a/b.rs"]);
}

#[test]
fn bad_samples_are_found() {
    let explained =
        "// SAFETY:\n// - so.\nlet a = unsafe { b() };\n/// # Safety\n/// c\n#[inline]\nunsafe fn d() {}\n";
    assert_eq!(sample(unexplained_unsafe, "a.rs", explained), 0);
    let other = "// SAFETY:\n// - so.\nunsafe { b() };\nunsafe { b() };\n\nunsafe fn d() {}\nunsafe impl E for F {}\n";
    assert_eq!(sample(unexplained_unsafe, "a.rs", other), 3);
    let method = "// SAFETY: so.\nunsafe impl A for B {\n    unsafe fn c() {}\n}\nunsafe fn d() {}\n";
    assert_eq!(sample(unexplained_unsafe, "a.rs", method), 1);
    let kind = "type F = unsafe fn(u8);\nstruct A {\n    f: unsafe extern \"C\" fn(u8),\n}\n";
    assert_eq!(sample(unexplained_unsafe, "a.rs", kind), 0);

    let long = "let a = 1;\n".repeat(CODE_LINES_MAX + 1);
    assert_eq!(sample(too_long, "a/src/b.rs", &long), 1);
    assert_eq!(sample(too_long, "a/src/b.rs", &format!("#[cfg(test)]\nmod tests {{\n{long}}}\n")), 0);
    assert_eq!(sample(too_long, "a/src/b.rs", &"// a\n\n".repeat(CODE_LINES_MAX + 1)), 0);

    let (at_home, at_work) = (concat!("/ho", "me"), concat!("/wo", "rk"));
    let bad = [format!("cd {at_home}/a"), format!("\"{at_work}\""), concat!("see crates", ".io").to_owned()];
    for bad in bad {
        assert_eq!(sample(machine_names, "a.md", &bad), 1, "{bad}");
    }
    for good in [format!("a{at_home}/b"), format!("{at_work}s"), format!("${{A}}{at_work}/b")] {
        assert_eq!(sample(machine_names, "a.md", &good), 0, "{good}");
    }

    assert_eq!(sample(unfinished, "a.rs", concat!("// TO", "DO: b")), 1);

    let hosted =
        "use std::vec;\nuse core::mem; // std\n#[cfg(test)]\nextern crate std;\nextern crate alloc;\n";
    assert_eq!(sample(hosted_core, "llm-core/src/a.rs", hosted), 2);
    assert_eq!(sample(hosted_core, "llm-dom0/src/a.rs", hosted), 0);

    let links =
        "# A b: `c`\n[a](#a-b-c) [b](#b) [c](no.md) [d](../Cargo.toml)\n```\n[e](no.md)\n```\n[f](x://y)\n";
    assert_eq!(sample(broken_links, "docs/a.md", links), 2);
}
