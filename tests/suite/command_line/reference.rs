//! docs/reference.md names every verb, every option and every field of the JSON.

use std::{fs, path::Path};

use balancer::cli::Cli;
use clap::CommandFactory as _;
use harness::Host;
use serde_json::Value;

fn reference() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference.md");
    fs::read_to_string(path).unwrap()
}

/// Whether there is code that begins with this option.
fn names(text: &str, option: &str) -> bool {
    text.split('`').any(|code| code.split(' ').next() == Some(&format!("--{option}")))
}

#[test]
fn the_reference_has_every_verb_and_every_option() {
    let reference = reference();
    let (general, _) = reference.split_once("\n## balancer ").unwrap();
    let command = Cli::command();
    let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
    let global: Vec<&str> = shown.filter_map(|argument| argument.get_long()).collect();
    for option in &global {
        assert!(names(general, option), "--{option}");
    }
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name();
        let section = reference.split_once(&format!("\n## balancer {name}\n"));
        let (_, section) = section.unwrap_or_else(|| panic!("no section on {name}"));
        let section = section.split("\n## ").next().unwrap_or_default();
        for option in verb.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(names(section, option), "{name}: --{option}");
        }
    }
}

/// The names of all fields, of objects in objects too.
fn fields(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(fields).collect(),
        Value::Object(object) => object
            .iter()
            .flat_map(|(name, value)| [vec![name.clone()], fields(value)].concat())
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_reference_has_every_field_of_the_json() {
    Host::with(|host| {
        let reference = reference();
        let running = host.run(&["--workers", "1"]);
        for verb in ["status", "groups"] {
            let section = reference.split_once(&format!("\n### {verb} --json\n")).unwrap().1;
            let section = section.split("\n## ").next().unwrap_or_default();
            let json = serde_json::from_str(&host.succeed(&[verb, "--json"])).unwrap();
            for field in fields(&json) {
                let named = [format!("{field}`"), format!("`{field}[]."), format!("`{field}.")];
                assert!(named.iter().any(|name| section.contains(name)), "{verb}: {field}");
            }
        }
        running.stop();
    });
}
