//! Where a person's wallet is.

use super::wallet::Wallet;
use crate::client::no_wallet;
use crate::deployment::Deployment;
use crate::exit::Failure;
use std::path::{Path, PathBuf};

/// Longest name of a person here, in characters.
const NAME_CHARS_MAX: usize = 32;

/// What the command line says about the wallet.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// `--wallet DIR`.
    pub dir: Option<PathBuf>,
    /// `--as NAME`.
    pub name: Option<String>,
}

/// Where wallets lie in a deployment that one hand laid out.
pub fn wallets(deployment: &Deployment) -> Option<PathBuf> {
    let laid_out = deployment.dir.join("layout.toml").exists();
    laid_out.then(|| deployment.dir.join("wallets"))
}

/// Refuses what cannot be a directory's name.
///
/// # Errors
/// [`Failure`] with what can.
pub fn check_name(name: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let first = name.chars().next().is_some_and(|c| c != '-');
    if first && name.len() <= NAME_CHARS_MAX && name.chars().all(plain) {
        return Ok(());
    }
    Err(Failure::usage(
        format!(
            "{:?} cannot name a person here",
            name.chars().take(80).collect::<String>()
        ),
        format!("take 1 to {NAME_CHARS_MAX} characters of a-z, 0-9 and '-'"),
    ))
}

/// Where `name`'s wallet is, or will be.
///
/// # Errors
/// When the name cannot be one, or no place is known.
pub fn of_name(
    asked: &Asked,
    deployment: Option<&Deployment>,
    name: &str,
) -> Result<PathBuf, Failure> {
    check_name(name)?;
    match (&asked.dir, deployment.and_then(wallets)) {
        (Some(dir), _) => Ok(dir.clone()),
        (None, Some(all)) => Ok(all.join(name)),
        (None, None) => default_dir(),
    }
}

/// The wallet that is meant: `--wallet`, else `--as`, else the only one there.
///
/// # Errors
/// When there is none, or more than one.
pub fn find(asked: &Asked, deployment: Option<&Deployment>) -> Result<PathBuf, Failure> {
    if let Some(dir) = &asked.dir {
        return Ok(dir.clone());
    }
    let Some(all) = deployment.and_then(wallets) else {
        return match &asked.name {
            None => default_dir(),
            Some(_) => Err(Failure::usage(
                "--as names a wallet of a deployment that one hand laid out, and this is none",
                "name the wallet's directory with --wallet DIR",
            )),
        };
    };
    if let Some(name) = &asked.name {
        check_name(name)?;
        return Ok(all.join(name));
    }
    let names = logged_in(&all)?;
    match names.as_slice() {
        [] => Err(no_wallet(format!(
            "nobody is logged in: no wallet in {}",
            all.display()
        ))),
        [one] => Ok(all.join(one)),
        many => Err(Failure::usage(
            format!("{} people are logged in: {}", many.len(), many.join(", ")),
            "say who with --as NAME",
        )),
    }
}

/// Who has a wallet in `all`.
///
/// # Errors
/// As the disk does.
pub fn logged_in(all: &Path) -> Result<Vec<String>, Failure> {
    let entries = match std::fs::read_dir(all) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::file("read", all, &e)),
    };
    let mut out = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Failure::file("read", all, &e))?;
        if Wallet::exists(&entry.path()) {
            out.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    out.sort();
    Ok(out)
}

fn default_dir() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| {
        let set = std::env::var_os(name).map(PathBuf::from);
        set.filter(|p| p.is_absolute())
    };
    let config = absolute("XDG_CONFIG_HOME");
    let config = config.or_else(|| Some(absolute("HOME")?.join(".config")));
    let none = || {
        Failure::usage(
            "no wallet given, and neither XDG_CONFIG_HOME nor HOME is set",
            "name one with --wallet DIR or QUORATE_WALLET",
        )
    };
    Ok(config.ok_or_else(none)?.join("quorate/wallet"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::ClientFile;

    #[test]
    fn the_only_wallet_is_meant_and_several_have_to_be_named() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::write(tmp.path().join("layout.toml"), "").unwrap();
        let d = Deployment {
            grant_life_s: crate::people::person::GRANT_LIFE_S,
            dir: tmp.path().into(),
            file: ClientFile::default(),
        };
        let nobody = Asked::default();
        let e = find(&nobody, Some(&d)).unwrap_err();
        assert_eq!(e.code, "no_wallet");
        assert!(e.next.contains("quorate login --name"), "{e}");
        let put = |name: &str| {
            let dir = of_name(&nobody, Some(&d), name).unwrap();
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(super::super::wallet::WALLET_FILE), "").unwrap();
            dir
        };
        let anna = put("anna");
        assert_eq!(find(&nobody, Some(&d)).unwrap(), anna);
        let boris = put("boris");
        let e = find(&nobody, Some(&d)).unwrap_err();
        assert!(
            e.what.contains("anna, boris") && e.next.contains("--as"),
            "{e}"
        );
        let asked = Asked {
            name: Some("boris".into()),
            dir: None,
        };
        assert_eq!(find(&asked, Some(&d)).unwrap(), boris);
        let asked = Asked {
            dir: Some("/elsewhere".into()),
            ..asked
        };
        assert_eq!(find(&asked, Some(&d)).unwrap(), Path::new("/elsewhere"));
        for bad in ["", "../x", "A", "-a", &"a".repeat(33)] {
            assert!(of_name(&nobody, Some(&d), bad).is_err(), "{bad:?}");
        }
        std::fs::remove_file(tmp.path().join("layout.toml")).unwrap();
        let asked = Asked {
            name: Some("anna".into()),
            dir: None,
        };
        assert!(find(&asked, Some(&d)).is_err());
    }
}
