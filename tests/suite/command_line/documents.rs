//! What README.md and docs/ show is so: commands run in order, page by page, and answer what the page shows
//! but for figures; and commands that cannot run here are at least accepted by the command line.
//!
//! A page runs as a reader would type it, in blocks of `sh` or `console` that are not marked `ignore`. In a
//! page the PIDs 4711, 4712 and so on stand for the workers, by slot.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use balancer::cli::Cli;
use balancer_steering::group::own_netns;
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use harness::{
    Host,
    host::balancer,
    running::{send, try_until, wait_until, wait_until_gone, watch},
    there,
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// What a page calls its workers.
const PIDS: [&str; 4] = ["4711", "4712", "4713", "4714"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// README.md and the book's pages, by name.
fn pages() -> Vec<(String, String)> {
    let book = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        book.filter(|path| path.extension().is_some_and(|e| e == "md")).collect();
    paths.sort();
    paths.push(root().join("README.md"));
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// A command as a page shows it.
struct Shown {
    line: usize,
    command: String,
    /// In a block that shows answers, what it prints.
    answer: Option<Vec<String>>,
    runs: bool,
}

/// The commands of a page's blocks.
fn commands(page: &str) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut block: Option<String> = None;
    for (index, line) in page.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            block = block.is_none().then(|| info.to_owned());
            continue;
        }
        let Some(info) = &block else { continue };
        let runs = !info.contains("ignore");
        let console = info.starts_with("console");
        let command = if console { line.strip_prefix("$ ") } else { Some(line) };
        match command {
            Some(command) if console || info.starts_with("sh") => shown.push(Shown {
                line: index + 1,
                command: command.split(" #").next().unwrap_or_default().trim().to_owned(),
                answer: console.then(Vec::new),
                runs,
            }),
            Some(_) => {}
            None => {
                let answer = shown.last_mut().and_then(|command| command.answer.as_mut());
                answer.expect("a command before its answer").push(line.to_owned());
            }
        }
    }
    shown.retain(|shown| !shown.command.is_empty());
    shown
}

/// A line without its figures, and without the widths that depend on them.
fn without_figures(line: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let mut plain = word.replace(|c: char| c.is_ascii_digit(), "0");
        while plain.contains("00") {
            plain = plain.replace("00", "0");
        }
        // A column has as many PIDs as fit.
        let figure = plain.chars().all(|c| "0.+".contains(c));
        if !(figure && words.last().is_some_and(|last| last == "0")) {
            words.push(if figure { "0".to_owned() } else { plain });
        }
    }
    words.join(" ")
}

/// Whether the answer is as shown; a line `…` stands for any lines.
fn is_as_shown(shown: &[String], lines: &[&str]) -> bool {
    match (shown.split_first(), lines.split_first()) {
        (None, first) => first.is_none(),
        (Some((line, rest)), _) if line == "…" => {
            (0..=lines.len()).any(|left_out| is_as_shown(rest, &lines[left_out..]))
        }
        (Some(_), None) => false,
        (Some((line, rest)), Some((first, others))) => {
            without_figures(line) == without_figures(first) && is_as_shown(rest, others)
        }
    }
}

/// Somebody who types what a page shows.
struct Reader<'a> {
    host: &'a Host,
    directory: TempDir,
    /// `run` or `attach`, in a terminal of its own.
    agent: Option<Child>,
    servers: usize,
}

impl<'a> Reader<'a> {
    fn new(host: &'a Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(balancer(), directory.path().join("balancer")).unwrap();
        Self { host, directory, agent: None, servers: 0 }
    }

    fn start(&self, command: &str, output: &str) -> (Child, PathBuf) {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = self.directory.path().join(output);
        let file = File::create(&output).unwrap();
        let child = Command::new("sh")
            .args(["-c", command])
            .current_dir(root())
            .env("PATH", format!("{}:{path}", self.directory.path().display()))
            .env("BALANCER_BPFFS", self.host.bpffs())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn();
        (child.unwrap(), output)
    }

    fn types(&mut self, shown: &Shown, place: &str) {
        let command = self.meant(&shown.command);
        let words: Vec<&str> = command.split_whitespace().collect();
        let steers = matches!(words[..], ["balancer", "run" | "attach", ..]);
        if steers {
            self.stops();
        }
        if steers && !words.contains(&"--once") {
            let (agent, output) = self.start(&format!("exec {command}"), "agent");
            self.agent = Some(agent);
            let right = || {
                let text = fs::read_to_string(&output).unwrap();
                let lines: Vec<&str> = text.lines().collect();
                let steers = ["listening on ", "steering "].iter().any(|line| text.contains(line));
                shown.answer.as_ref().map_or(steers, |answer| is_as_shown(answer, &lines))
            };
            assert!(try_until(right), "{place}: {}", fs::read_to_string(&output).unwrap());
            return;
        }
        let ended: Vec<_> = words.iter().skip_while(|word| **word != "kill").skip(1).collect();
        let ended: Vec<_> = ended.iter().map(|pid| watch(pid.parse().unwrap())).collect();
        let (mut child, output) = self.start(&command, "output");
        let status = child.wait().unwrap();
        let text = fs::read_to_string(output).unwrap();
        assert!(status.success(), "{place}: {status}: {text}");
        if let Some(answer) = &shown.answer {
            let lines: Vec<&str> = text.lines().collect();
            assert!(is_as_shown(answer, &lines), "{place} shows {answer:#?}, but prints\n{text}");
        }
        ended.iter().for_each(|server| wait_until_gone(server, "a server"));
        self.servers -= self.servers.min(ended.len());
        if command.contains("server.py &") {
            self.servers += if command.starts_with("for n in 1 2 3;") { 3 } else { 1 };
            wait_until("the servers", || self.workers().len() == self.servers);
        }
    }

    /// The command with the PIDs of real workers, and as root is who runs it, without `sudo`.
    fn meant(&self, command: &str) -> String {
        // Tests beside this one have groups of their own.
        let command =
            command.replace("sudo ", "").replace("balancer groups", "balancer groups --netns $$");
        if !PIDS.iter().any(|pid| command.contains(pid)) {
            return command;
        }
        let workers = self.workers();
        PIDS.iter()
            .zip(workers)
            .fold(command, |command, (pid, worker)| command.replace(pid, &worker.to_string()))
    }

    /// The workers of the group that is steered, by slot; else those of the group there is.
    fn workers(&self) -> Vec<u64> {
        let pids = |list: &Value, pid: &dyn Fn(&Value) -> Option<u64>| -> Vec<u64> {
            list.as_array().unwrap().iter().filter_map(pid).collect()
        };
        let status = self.host.output(&["status", "--json"]);
        if status.status.success() {
            let status: Value = serde_json::from_slice(&status.stdout).unwrap();
            return pids(&status["members"], &|member| member["pid"].as_u64());
        }
        let found: Value = serde_json::from_str(&self.host.succeed(&["groups", "--json"])).unwrap();
        let here = own_netns().unwrap();
        let group = found["groups"].as_array().unwrap().iter().find(|group| group["netns"] == here);
        let mut found = group.map_or_else(Vec::new, |group| {
            pids(&group["sockets"], &|socket| socket["worker"]["pid"].as_u64())
        });
        found.sort_unstable();
        found
    }

    /// Presses Ctrl-C in the terminal of `run` or `attach`.
    fn stops(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            send(agent.id(), Signal::INT);
            assert!(agent.wait().unwrap().success());
        }
    }
}

#[test]
fn the_commands_of_each_page_run_and_answer_what_it_shows() {
    if !there("curl") || !there("python3") {
        return;
    }
    let mut run = 0;
    for (name, text) in pages() {
        let shown: Vec<Shown> = commands(&text).into_iter().filter(|shown| shown.runs).collect();
        run += shown.len();
        Host::with(move |host| {
            let mut reader = Reader::new(host);
            for shown in &shown {
                reader.types(shown, &format!("{name}:{}: `{}`", shown.line, shown.command));
            }
            reader.stops();
        });
    }
    assert!(run > 20, "only {run} commands were found");
}

/// Why the command line refuses this, if it does; pipes and lists are several commands.
fn refusal(command: &str) -> Option<String> {
    // What stands in quotes is one word.
    let word = |(at, part): (usize, &str)| match at % 2 {
        0 => part.to_owned(),
        _ => part.replace(char::is_whitespace, "_"),
    };
    let command: String = command.split('\'').enumerate().map(word).collect();
    let parts = command.split(" && ").flat_map(|list| list.split(" | "));
    let refused = parts.filter_map(|part| {
        let words = part.trim().trim_start_matches("sudo ").split_whitespace();
        let words: Vec<&str> = words.take_while(|word| *word != ">" && *word != "&").collect();
        if words.first() != Some(&"balancer") {
            return None;
        }
        let error = Cli::try_parse_from(words).err()?;
        let fine = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        (!fine).then(|| error.to_string())
    });
    refused.reduce(|all, next| all + &next)
}

#[test]
fn every_command_that_a_page_shows_is_accepted() {
    for (name, text) in pages() {
        for shown in commands(&text) {
            let refusal = refusal(&shown.command);
            assert!(refusal.is_none(), "{name}:{}: `{}`: {refusal:?}", shown.line, shown.command);
        }
    }
}

#[test]
fn every_command_within_a_sentence_is_accepted() {
    let verbs: Vec<String> =
        Cli::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    for (name, text) in pages() {
        for span in text.split('`').skip(1).step_by(2) {
            let command = span.trim_start_matches("sudo ");
            // `balancer VERB` alone names the verb; capitals stand for something.
            let placeholder = command.contains(['…', '\n'])
                || command
                    .split_whitespace()
                    .any(|word| word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase()));
            match command.split_whitespace().collect::<Vec<_>>()[..] {
                ["balancer", verb] if !verb.starts_with('-') => {
                    assert!(verbs.iter().any(|known| known == verb), "{name}: `{span}`");
                }
                ["balancer", _, ..] if !placeholder => {
                    let refusal = refusal(command);
                    assert!(refusal.is_none(), "{name}: `{span}`: {refusal:?}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn every_example_of_the_help_is_accepted() {
    for verb in Cli::command().get_subcommands() {
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in help.lines().filter(|line| line.starts_with("  balancer ")) {
            // What it does comes behind a gap.
            let example = line.trim().split("  ").next().unwrap_or_default();
            let refusal = refusal(example);
            assert!(refusal.is_none(), "{line}: {refusal:?}");
        }
    }
}

#[test]
fn only_options_of_the_policy_are_listed_as_such() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let headed = run
        .get_arguments()
        .filter(|argument| argument.get_help_heading() == Some("Options of the policy"));
    let headed: Vec<&str> = headed.filter_map(|argument| argument.get_long()).collect();
    assert_eq!(headed, ["load", "avoid-stalled", "slow-start", "max-share", "observe", "no-count"]);
}

#[test]
fn every_fault_names_tests_that_there_are() {
    let page = fs::read_to_string(root().join("docs/reliability.md")).unwrap();
    let (table, _) = page.split_once("\n## ").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 20);
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{row}");
        for name in named.iter().filter(|name| **name != "chaos" && !name.starts_with("cargo ")) {
            let is_there = |part: &str| {
                let module = root().join("tests/suite").join(part).join(name);
                module.is_dir() || module.with_extension("rs").is_file()
            };
            assert!(is_there("command_line") || is_there("library"), "{name}, of {row}");
        }
    }
}
