//! Takes out of the object what no loader reads: the DWARF, from which the linker made the BTF, and
//! with it most of the paths of the machine that built it. A user has no `llvm-strip`.

use anyhow::{Context as _, Result, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// The sections that loading by type (maps, globals, relocation to the running kernel) relies on.
const NEEDED: [&[u8]; 2] = [b".BTF", b".BTF.ext"];

/// The object without its debug sections.
pub fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the linker's output is not an ELF object")?;
    for section in &mut builder.sections {
        section.delete = is_ballast(&section.name);
    }
    builder.delete_orphans();
    for name in NEEDED {
        if !builder.sections.iter().any(|section| &*section.name == name) {
            bail!("the linker's output has no {} section", String::from_utf8_lossy(name));
        }
    }
    // LLVM names sections and symbols from one table; the builder wants one for each.
    let names = builder.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;

    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("could not write the stripped object")?;
    Ok(stripped)
}

/// Relocations of the BTF are for linking objects together; loaders read it as it stands.
fn is_ballast(section: &[u8]) -> bool {
    [&b".debug_"[..], b".rel.debug_", b".rel.BTF"].iter().any(|start| section.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_loader_reads_stays() {
        for section in [&b".BTF"[..], b".BTF.ext", b".maps", b".text", b".rel.text", b"license"] {
            assert!(!is_ballast(section));
        }
        for section in [&b".debug_info"[..], b".rel.debug_line", b".rel.BTF.ext"] {
            assert!(is_ballast(section));
        }
    }
}
