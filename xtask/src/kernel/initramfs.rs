//! The file system that a kernel under test boots into: the test binaries, the balancer binary, and
//! what they need of this machine, at the places where it is here.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{Suite, image::Image};
use crate::{
    command::{self, quoted},
    ebpf,
};

/// Discovery asks for them; elsewhere the kernel loads them when they are asked for. In this order.
const MODULES: [&str; 4] =
    ["net/ipv4/inet_diag", "net/ipv4/tcp_diag", "net/ipv4/udp_diag", "net/mptcp/mptcp_diag"];

/// Prints where Python's binary and the modules that come with it are.
const ASK_PYTHON: &str = "import sys, sysconfig
print(sys.executable, sysconfig.get_path('stdlib'), sep='\\n', end='')";

/// Directories of Python's modules that nobody imports here.
const UNUSED: [&str; 5] = ["test", "site-packages", "dist-packages", "idlelib", "ensurepip"];

/// Puts an archive together that each of these images boots into.
pub fn make(cache: &Path, suite: &Suite, images: &[Image]) -> Result<PathBuf> {
    let stage = Stage::new(cache.join("root"))?;
    stage.script("init", include_str!("init.sh"))?;
    stage.script("suite", &script(suite))?;
    stage.program(
        &on_path("busybox").context("busybox is not installed; install busybox-static")?,
        "/bin/busybox",
    )?;
    stage.link("busybox", "sh")?;
    // Tests that miss one of these say so; where CI is, they fail.
    if let Some(bpftool) = on_path("bpftool") {
        stage.program(&bpftool, "/bin/bpftool")?;
    }
    if on_path("python3").is_some() {
        stage.python()?;
    }
    stage.program(&suite.binary, "/tests/suite")?;
    stage.program(&suite.balancer, "/bin/balancer")?;
    stage.tree(&suite.tests.join("servers"), &|path| path.is_file())?;
    if let Some(object) = &suite.object {
        stage.copy(object)?;
    }
    for image in images {
        for (number, module) in MODULES.iter().enumerate() {
            stage.module(image, number, module)?;
        }
    }
    let archive = cache.join("initramfs.cpio");
    stage.pack(&archive)?;
    Ok(archive)
}

/// Runs each test binary, as `init` wants it.
fn script(suite: &Suite) -> String {
    let mut lines = vec!["export BALANCER_BIN=/bin/balancer".to_owned()];
    if let Some(object) = &suite.object {
        lines.push(format!("export {}={}", ebpf::OVERRIDE, quoted(object.as_os_str())));
    }
    if env::var_os("CI").is_some() {
        lines.push("export CI=1".to_owned());
    }
    let args: String = suite.args.iter().map(|arg| format!(" {}", quoted(arg.as_ref()))).collect();
    lines.push(format!("run suite{args}"));
    lines.join("\n") + "\n"
}

/// A directory that becomes the root of a file system.
struct Stage(PathBuf);

impl Stage {
    fn new(root: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&root);
        let stage = Self(root);
        for directory in ["bin", "dev", "proc", "sys", "tmp", "root"] {
            make_directory(&stage.0.join(directory))?;
        }
        Ok(stage)
    }

    /// The same path in there, in a directory that exists.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let place = self.0.join(path.strip_prefix("/").unwrap_or(path));
        if let Some(directory) = place.parent() {
            make_directory(directory)?;
        }
        Ok(place)
    }

    fn copy(&self, path: &Path) -> Result<()> {
        let place = self.place(path)?;
        fs::copy(path, place).with_context(|| format!("could not copy {}", path.display()))?;
        Ok(())
    }

    fn script(&self, name: &str, text: &str) -> Result<()> {
        let place = self.0.join(name);
        ebpf::write(&place, text.as_bytes())?;
        Ok(fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?)
    }

    fn link(&self, target: &str, name: &str) -> Result<()> {
        let link = self.0.join("bin").join(name);
        symlink(target, &link).with_context(|| format!("could not make {}", link.display()))
    }

    /// A program under another path, without what is there for debuggers, and the libraries that it
    /// needs.
    fn program(&self, path: &Path, inside: &str) -> Result<()> {
        let place = self.place(inside.as_ref())?;
        command::capture(Command::new("strip").arg("--strip-debug").arg("-o").args([&place, path]))
            .context("cannot start strip; it is in Debian's package binutils")?;
        self.libraries(path)
    }

    fn libraries(&self, path: &Path) -> Result<()> {
        let listed = Command::new("ldd").arg(path).output().context("could not start ldd")?;
        // A static program has none, which ldd takes for a failure.
        let listed = String::from_utf8_lossy(&listed.stdout);
        let libraries: BTreeSet<&Path> =
            listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new).collect();
        libraries.into_iter().try_for_each(|library| self.copy(library))
    }

    /// The Python of this machine, at its own place: that is how it finds its modules.
    fn python(&self) -> Result<()> {
        let answer = command::capture(Command::new("python3").args(["-c", ASK_PYTHON]))?;
        let (binary, modules) =
            answer.split_once('\n').context("python3 does not print where it is")?;
        let binary = fs::canonicalize(binary)?;
        self.copy(&binary)?;
        self.libraries(&binary)?;
        self.link(&binary.to_string_lossy(), "python3")?;
        self.tree(Path::new(modules), &|path| {
            let name = path.file_name().unwrap_or_default();
            let is_module = path.extension().is_some_and(|suffix| suffix == "py" || suffix == "so");
            if path.is_dir() { !UNUSED.iter().any(|unused| name == *unused) } else { is_module }
        })
    }

    /// A directory, at its own place, and all in it that is wanted.
    fn tree(&self, directory: &Path, wanted: &impl Fn(&Path) -> bool) -> Result<()> {
        let entries = fs::read_dir(directory)
            .with_context(|| format!("could not read {}", directory.display()))?;
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| wanted(path)) {
            if path.is_dir() { self.tree(&path, wanted)? } else { self.copy(&path)? }
        }
        Ok(())
    }

    /// A kernel module; the number puts it in its place among the others.
    fn module(&self, image: &Image, number: usize, path: &str) -> Result<()> {
        let module = image.module(path)?;
        let name = Path::new(path).file_name().unwrap_or_default().display();
        let place = self.place(&Path::new("modules").join(&image.release))?;
        make_directory(&place)?;
        let place = place.join(format!("{number}-{name}.ko"));
        let mut copy =
            Command::new(if module.extension() == Some("xz".as_ref()) { "xzcat" } else { "cat" });
        copy.arg(&module).stdout(File::create(&place)?);
        command::run_as(&mut copy, &format!("unpacking {}", module.display()))
    }

    fn pack(&self, archive: &Path) -> Result<()> {
        let names =
            Command::new("find").arg(".").current_dir(&self.0).stdout(Stdio::piped()).spawn();
        let names = names.context("could not start find")?.stdout.context("find has no output")?;
        let mut cpio = Command::new("cpio");
        cpio.args(["--quiet", "--create", "--format=newc", "--owner=0:0"]).current_dir(&self.0);
        cpio.stdin(names).stdout(File::create(archive)?);
        command::run_as(&mut cpio, &format!("packing {}", archive.display()))
            .context("cannot start cpio; it is in Debian's package cpio")
    }
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("could not make {}", path.display()))
}

/// Where a program is, if it is here.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where root's programs are is not on everybody's path.
    let directories = env::split_paths(&path).chain(["/usr/sbin".into()]);
    directories.map(|directory| directory.join(program)).find(|path| path.is_file())
}
