//! Who may know whom: every `crate::` path in rust/src is an edge that the house allows.
//!
//! Tests, and what stands in for a part in tests, may look around.

use std::path::{Path, PathBuf};

/// A module and what it may use; the order is that of the head of lib.rs.
const ALLOWED: [(&str, &[&str]); 23] = [
    (
        "python",
        &[
            "background",
            "codec",
            "durable",
            "engine",
            "error",
            "incident",
            "lab",
            "page",
            "session",
            "stats",
            "store",
            "wire",
            "worker",
            "writeback",
            "zpool",
        ],
    ),
    ("lab", &["codec", "error", "page", "random", "zpool"]),
    ("background", &["courtesy", "engine", "worker", "writeback"]),
    ("worker", &["engine", "error", "session", "wire"]),
    ("session", &["engine", "error", "page", "stats", "wire"]),
    (
        "engine",
        &[
            "age",
            "codec",
            "durable",
            "error",
            "incident",
            "page",
            "stats",
            "store",
            "table",
            "tiers",
            "writeback",
            "zpool",
        ],
    ),
    (
        "writeback",
        &[
            "age", "codec", "courtesy", "durable", "error", "incident", "page", "stats", "store",
            "table", "tiers", "zpool",
        ],
    ),
    (
        "tiers",
        &["age", "durable", "page", "stats", "store", "table", "zpool"],
    ),
    ("durable", &["error", "page", "store", "zpool"]),
    ("stats", &["codec", "table"]),
    ("table", &["codec", "error", "page", "store", "zpool"]),
    ("age", &[]),
    ("zpool", &["error", "hugetlbfs", "page"]),
    ("codec", &["error"]),
    ("store", &["error", "hugetlbfs"]),
    ("incident", &["page"]),
    ("wire", &[]),
    ("page", &[]),
    ("error", &[]),
    ("courtesy", &[]),
    ("hugetlbfs", &[]),
    ("random", &[]),
    ("testing", &["page", "random", "store"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Only built for tests: their files and directories, the zpools' suite, the session's fake pages.
fn is_test(path: &Path) -> bool {
    let test_parts = [
        "tests",
        "tests.rs",
        "conformance",
        "conformance.rs",
        "fake.rs",
    ];
    path.iter()
        .any(|part| test_parts.iter().any(|test| part == *test))
}

/// The modules that a source names after `crate::`, outside comments and its tests.
fn used(source: &str) -> Vec<String> {
    let code = source
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or("");
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let after = lines.flat_map(|line| line.split("crate::").skip(1));
    after
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .collect()
}

fn wrong_edges(module: &str, source: &str) -> Vec<String> {
    let (_, allowed) = ALLOWED
        .iter()
        .find(|(name, _)| *name == module)
        .unwrap_or_else(|| panic!("{module} has no place in the layers"));
    used(source)
        .into_iter()
        .filter(|used| used != module && !allowed.contains(&used.as_str()))
        .collect()
}

#[test]
fn no_module_knows_one_that_is_not_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut edges = 0;
    for path in files {
        let inside = path.strip_prefix(&root).expect("below the root");
        if is_test(inside) || inside == Path::new("lib.rs") {
            continue;
        }
        let module = inside
            .iter()
            .next()
            .and_then(|part| part.to_str())
            .expect("a name");
        let source = std::fs::read_to_string(&path).expect("a source");
        let wrong = wrong_edges(module.trim_end_matches(".rs"), &source);
        assert!(wrong.is_empty(), "{} uses {wrong:?}", inside.display());
        edges += used(&source).len();
    }
    assert!(edges > 100, "only {edges} uses were seen");
}

#[test]
fn an_edge_that_breaks_the_layers_is_seen() {
    assert_eq!(wrong_edges("store", "use crate::zpool::Handle;"), ["zpool"]);
    assert_eq!(
        wrong_edges("zpool", "    let x: crate::table::Word;"),
        ["table"]
    );
    assert_eq!(
        wrong_edges("codec", "// see crate::engine\nuse crate::error::Error;"),
        [""; 0]
    );
    // A list at the root would hide what it names.
    assert_eq!(wrong_edges("age", "use crate::{engine, store};"), [""]);
}
