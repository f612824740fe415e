//! Which deployment a command talks to, and how.
//!
//! A deployment directory holds `client.toml`; whoever makes a deployment
//! (`dev`, `deploy init`) may write it with [`ClientFile::write`]; without one
//! `layout.toml` of an embedded deployment serves. The directory is found by
//! `--deployment DIR`, then `QUORATE_DEPLOYMENT`, then where `quorate dev` puts
//! it. What this client itself must remember (its secret, import journals)
//! lies in `client/` inside.

use crate::client::{Client, ClientOptions, Identity};
use crate::exit::Failure;
use crate::people::person::GRANT_LIFE_S;
use crate::people::service::ServiceFile;
use crate::people::{Known, Person, Wallet, known};
use quorate_engine::types::{AccountId, HomeId, Secret};
use quorate_node::embedded::layout::{ClusterLayout, Layout};
use quorate_node::pki::TrustStore;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Largest `client.toml` or certificate file read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `client.toml`. Paths are relative to its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFile {
    /// Deployment id, hex.
    #[serde(default)]
    pub deployment: String,
    /// `https://HOST:PORT` of each home node's client plane.
    pub endpoints: Vec<String>,
    /// PEM file with the CA of the client plane.
    pub ca: PathBuf,
    /// The home's name: grants are good for it alone.
    #[serde(default)]
    pub home: String,
    /// Directory with the descriptors of the home and of every custodian, and policy.toml.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<PathBuf>,
    /// `https://HOST:PORT` of each node's audit plane, by custodian.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub audit: BTreeMap<String, Vec<String>>,
    /// Operator plane of each cluster, by its name; only where this user is its operator.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operator: BTreeMap<String, OperatorFile>,
}

/// How to reach one cluster's operator plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorFile {
    /// `https://HOST:PORT` of each node.
    pub endpoints: Vec<String>,
    /// PEM file with the cluster's CA.
    pub ca: PathBuf,
    /// PEM file with the operator's certificate.
    pub certificate: PathBuf,
    /// PEM file with the operator's key.
    pub key: PathBuf,
}

impl ClientFile {
    /// From the layout of an embedded or test deployment, all of whose operators are this user.
    pub fn from_layout(layout: &Layout) -> Self {
        let https = |address: &SocketAddr| format!("https://{address}");
        let operator = |c: &ClusterLayout| {
            let file = OperatorFile {
                endpoints: c.nodes.iter().map(|n| https(&n.operator)).collect(),
                ca: c.ca.clone(),
                certificate: c.operator_cert.clone(),
                key: c.operator_key.clone(),
            };
            (c.name.clone(), file)
        };
        let audit = |c: &ClusterLayout| {
            let at: Vec<_> = c.nodes.iter().filter_map(|n| n.audit.as_ref()).collect();
            let at: Vec<_> = at.into_iter().map(https).collect();
            (!at.is_empty()).then(|| (c.name.clone(), at))
        };
        Self {
            deployment: layout.deployment.to_string(),
            endpoints: layout.client_endpoints().iter().map(https).collect(),
            ca: layout.home().ca.clone(),
            home: layout.home().name.clone(),
            trust: None,
            audit: layout.clusters.iter().filter_map(audit).collect(),
            operator: layout.clusters.iter().map(operator).collect(),
        }
    }

    /// Writes it to `dir/client.toml`.
    ///
    /// # Errors
    /// As the disk does.
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        std::fs::write(dir.join("client.toml"), text)
    }
}

/// A deployment directory that was found and read.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The directory.
    pub dir: PathBuf,
    /// Its `client.toml`.
    pub file: ClientFile,
    /// Seconds that its people's grants hold.
    pub grant_life_s: u64,
}

/// Where `quorate dev` keeps its deployment when nothing else is said.
pub fn default_dir() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME");
    let state = state.or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("quorate/dev"))
}

fn wrong(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::usage(
        format!("{} is not as it should be: {e}", path.display()),
        "correct it, or make the deployment anew; docs/cli.md shows its keys",
    )
}

/// What `layout.toml` says, where nobody wrote a `client.toml`.
fn laid_out(dir: &Path, start: &str) -> Result<ClientFile, Failure> {
    if !dir.join("layout.toml").exists() {
        return Err(Failure::usage(
            format!(
                "no deployment at {}: it has neither client.toml nor layout.toml",
                dir.display()
            ),
            start,
        ));
    }
    let layout = Layout::load(dir).map_err(|e| wrong(&dir.join("layout.toml"), &e))?;
    if layout.clusters.is_empty() {
        return Err(wrong(&dir.join("layout.toml"), &"it names no cluster"));
    }
    Ok(ClientFile::from_layout(&layout))
}

impl Deployment {
    /// Finds the deployment: `given` (from `--deployment` or `QUORATE_DEPLOYMENT`) or the default place.
    ///
    /// # Errors
    /// When there is none, or its `client.toml` is wrong.
    pub fn find(given: Option<&Path>) -> Result<Self, Failure> {
        let start = "start one with `quorate dev` in another terminal, or name its directory with --deployment DIR or QUORATE_DEPLOYMENT";
        let dir = match given {
            Some(dir) => dir.to_owned(),
            None => default_dir().ok_or_else(|| {
                Failure::usage(
                    "no deployment given, and neither XDG_STATE_HOME nor HOME is set",
                    start,
                )
            })?,
        };
        let path = dir.join("client.toml");
        let bytes = match read_limited(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let file = laid_out(&dir, start)?;
                return Ok(Self::of(dir, file));
            }
            Err(e) => return Err(Failure::file("read", &path, &e)),
        };
        let file: ClientFile = String::from_utf8(bytes)
            .map_err(|e| e.to_string())
            .and_then(|text| toml::from_str(&text).map_err(|e| e.to_string()))
            .map_err(|e| wrong(&path, &e))?;
        Ok(Self::of(dir, file))
    }

    fn of(dir: PathBuf, file: ClientFile) -> Self {
        Self {
            dir,
            file,
            grant_life_s: GRANT_LIFE_S,
        }
    }

    /// The same, and grants of its people hold so many seconds.
    #[must_use]
    pub fn with_grant_life(mut self, seconds: u64) -> Self {
        self.grant_life_s = seconds;
        self
    }

    /// A client of `cluster`'s operator plane.
    ///
    /// # Errors
    /// When this user is not its operator, or a file of it is wrong.
    pub fn operator(&self, cluster: &str) -> Result<Client, Failure> {
        let file = self.operator_file(cluster)?;
        self.operator_client(cluster, file, &file.endpoints)
    }

    /// A client for each node of `cluster`'s operator plane, to ask every one of them.
    ///
    /// # Errors
    /// As [`Self::operator`].
    pub fn operator_of_each(&self, cluster: &str) -> Result<Vec<Client>, Failure> {
        let file = self.operator_file(cluster)?;
        let one = |at: &String| self.operator_client(cluster, file, std::slice::from_ref(at));
        file.endpoints.iter().map(one).collect()
    }

    fn operator_file(&self, cluster: &str) -> Result<&OperatorFile, Failure> {
        self.file.operator.get(cluster).ok_or_else(|| {
            let known: Vec<_> = self.file.operator.keys().map(String::as_str).collect();
            Failure::usage(
                format!("no operator certificate for cluster {cluster} is known here"),
                format!("the clusters operated from here are: {}", known.join(", ")),
            )
        })
    }

    fn operator_client(
        &self,
        cluster: &str,
        operator: &OperatorFile,
        endpoints: &[String],
    ) -> Result<Client, Failure> {
        let read = |what: &str, path: &Path| {
            let path = self.dir.join(path);
            read_limited(&path).map_err(|e| Failure::file(what, &path, &e))
        };
        let ca = read("read the CA file", &operator.ca)?;
        let certificate = read("read the operator's certificate", &operator.certificate)?;
        let key = Zeroizing::new(read("read the operator's key", &operator.key)?);
        let identity = Identity {
            certificate_pem: &certificate,
            key_pem: &key,
        };
        let options = ClientOptions::default();
        Client::operator(endpoints, &ca, identity, options).map_err(|e| {
            Failure::usage(
                format!("operator plane of {cluster}: {e}"),
                "correct its entry in client.toml, or make the deployment anew",
            )
        })
    }

    /// Where everything is, in a deployment that one hand laid out.
    ///
    /// # Errors
    /// When `layout.toml` is there and wrong.
    pub fn layout(&self) -> Result<Option<Layout>, Failure> {
        let path = self.dir.join("layout.toml");
        if !path.exists() {
            return Ok(None);
        }
        Layout::load(&self.dir)
            .map(Some)
            .map_err(|e| wrong(&path, &e))
    }

    /// Everybody's descriptors: those in `trust`, else in the directory `client.toml` names, else
    /// of a deployment that one hand laid out.
    ///
    /// # Errors
    /// When a file is wrong.
    pub fn trust(&self, trust: Option<&Path>) -> Result<Option<Arc<TrustStore>>, Failure> {
        let named = self.file.trust.as_ref().map(|t| self.dir.join(t));
        if let Some(dir) = trust.map(Path::to_owned).or(named) {
            return known::trust_of_dir(&dir).map(Some);
        }
        let layout = self.layout()?;
        let of = layout.map(|l| known::trust_of_layout(&l)).transpose()?;
        Ok(of.map(|(trust, _)| trust))
    }

    /// Whom to believe: those in `trust`, else in the directory `client.toml` names, else
    /// everybody of a deployment that one hand laid out.
    ///
    /// # Errors
    /// When a file is wrong.
    pub fn known(&self, trust: Option<&Path>) -> Result<Option<Known>, Failure> {
        let named = self.file.trust.as_ref().map(|t| self.dir.join(t));
        if let Some(dir) = trust.map(Path::to_owned).or(named) {
            return Known::of_dir(&dir).map(Some);
        }
        self.layout()?.map(|l| Known::of_layout(&l)).transpose()
    }

    /// Whom a client with this wallet acts for.
    ///
    /// # Errors
    /// When the wallet is of another deployment or not enrolled, or the home has no name here.
    pub fn person(&self, wallet: &Wallet) -> Result<Arc<Person>, Failure> {
        let path = self.dir.join("client.toml");
        let home = HomeId::new(&self.file.home).map_err(|e| wrong(&path, &format!("home: {e}")))?;
        if self.file.deployment != wallet.deployment.to_string() {
            return Err(Failure::usage(
                format!(
                    "the wallet in {} is for deployment {}, this is {:?}",
                    wallet.dir.display(),
                    wallet.deployment,
                    self.file.deployment
                ),
                "name the wallet for this deployment with --wallet DIR, or log in to it",
            ));
        }
        if !wallet.enrolled {
            return Err(Failure::new(
                crate::exit::Exit::Usage,
                "not_enrolled",
                format!("the login of {} is not finished", wallet.name),
                "run `quorate login` again, with --complete FILE where an identity authority sent one back",
            ));
        }
        Ok(wallet.person(home)?.with_grant_life(self.grant_life_s))
    }

    /// The same, with a service credential instead of a person: it appends messages.
    ///
    /// # Errors
    /// When the credential is of another deployment or home; as [`Self::client`].
    pub fn client_of_service(
        &self,
        file: ServiceFile,
        account: AccountId,
    ) -> Result<Client, Failure> {
        let here = (self.file.deployment.as_str(), self.file.home.as_str());
        let there = (file.deployment.to_string(), file.home.to_string());
        if here != (there.0.as_str(), there.1.as_str()) {
            let what = format!(
                "the service credential is for home {} of deployment {}, this is {} of {:?}",
                there.1, there.0, here.1, here.0
            );
            return Err(Failure::usage(
                what,
                "name its deployment with --deployment DIR",
            ));
        }
        let service = Arc::new(file.at_work(account));
        Ok(self.client(None)?.with_service(service))
    }

    /// A client of its home that acts for `person`; without one it asks for the status alone.
    ///
    /// # Errors
    /// When an endpoint or the CA file is wrong.
    pub fn client(&self, person: Option<Arc<Person>>) -> Result<Client, Failure> {
        let path = self.dir.join(&self.file.ca);
        let ca = read_limited(&path).map_err(|e| Failure::file("read the CA file", &path, &e))?;
        let options = ClientOptions::default();
        Client::new(&self.file.endpoints, &ca, person, options).map_err(|e| {
            Failure::usage(
                format!("{}: {e}", self.dir.join("client.toml").display()),
                "correct the endpoints and ca there, or make the deployment anew",
            )
        })
    }

    /// The directory for what this client remembers; made with mode 0700.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        let dir = self.dir.join("client");
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|e| Failure::file("make", &dir, &e))?;
        Ok(dir)
    }

    /// The directory for the journals of a person's imports: another person's are other chats.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn imports_dir(&self, account: &AccountId) -> Result<PathBuf, Failure> {
        let all = self.state_dir()?.join("imports");
        Ok(all.join(account.to_string()))
    }

    /// This client's own random secret for this deployment, made at first use, mode 0600.
    /// It keys digests of content, which must never leave unkeyed.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub fn secret(&self) -> Result<Secret<32>, Failure> {
        let path = self.state_dir()?.join("secret");
        let fresh = Secret::<32>::generate(&mut rand::rng());
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Ok(mut file) => {
                let written = file
                    .write_all(fresh.expose())
                    .and_then(|()| file.sync_all());
                written.map_err(|e| Failure::file("write", &path, &e))?;
                Ok(fresh)
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let bytes = read_limited(&path).map_err(|e| Failure::file("read", &path, &e))?;
                Secret::from_slice(&bytes).ok_or_else(|| {
                    Failure::new(
                        crate::exit::Exit::Failed,
                        "client_secret",
                        format!(
                            "{} must hold 32 bytes, it has {}",
                            path.display(),
                            bytes.len()
                        ),
                        "delete it; an import that was interrupted will then begin anew",
                    )
                })
            }
            Err(e) => Err(Failure::file("make", &path, &e)),
        }
    }
}

/// Reads a small file whole.
///
/// # Errors
/// As the disk does, and when it is over 1 MiB.
pub fn read_limited(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut out = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut out)?;
    if out.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("the file is over 1 MiB"));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_client_file_round_trips_and_refuses_unknown_keys() {
        let dir = tempfile::tempdir().unwrap();
        let file = ClientFile {
            endpoints: vec!["https://127.0.0.1:7000".into()],
            ca: "ca.pem".into(),
            home: "ae".into(),
            operator: [("ch".to_owned(), OperatorFile::default())].into(),
            ..ClientFile::default()
        };
        file.write(dir.path()).unwrap();
        assert_eq!(Deployment::find(Some(dir.path())).unwrap().file, file);
        std::fs::write(
            dir.path().join("client.toml"),
            "endpoints = []\nca = \"x\"\nhome = \"ae\"\ncolour = 1\n",
        )
        .unwrap();
        let e = Deployment::find(Some(dir.path())).unwrap_err();
        assert!(e.what.contains("colour"), "{e}");
        let e = Deployment::find(Some(&dir.path().join("none"))).unwrap_err();
        assert!(
            e.what.contains("no deployment at") && e.next.contains("quorate dev"),
            "{e}"
        );
    }

    #[test]
    fn the_secret_is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let d = Deployment {
            grant_life_s: GRANT_LIFE_S,
            dir: dir.path().into(),
            file: ClientFile::default(),
        };
        let first = d.secret().unwrap();
        assert_eq!(first.expose(), d.secret().unwrap().expose());
        let path = dir.path().join("client/secret");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        std::fs::write(&path, b"short").unwrap();
        assert!(d.secret().is_err());
    }
}
