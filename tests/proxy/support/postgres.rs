//! A real PostgreSQL in a folder of its own, reached by a socket there. Debian's, or whichever `initdb` is
//! in the path.

use super::eventually;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// It does not run as root; where the tests do, it runs as nobody.
const NOBODY: u32 = 65_534;

/// Killed when dropped.
pub struct Postgres {
    folder: TempDir,
    _child: Child,
}

impl Postgres {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = folder.path().join("data");
        let made = program("initdb")
            .args([
                "--auth",
                "trust",
                "--username",
                "postgres",
                "--no-sync",
                "--encoding",
                "UTF8",
            ])
            .args(["--locale", "C", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .output()
            .await
            .expect("PostgreSQL is installed (make setup)");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let child = program("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let postgres = Self {
            folder,
            _child: child,
        };
        eventually("PostgreSQL answers", async || {
            (postgres.try_sql("SELECT 1").await.ok()? == "1").then_some(())
        })
        .await;
        postgres
    }

    /// What these statements answer, in one transaction each line.
    pub async fn sql(&self, statements: &str) -> String {
        let answer = self.try_sql(statements).await;
        answer.unwrap_or_else(|error| panic!("{statements}: {error}"))
    }

    async fn try_sql(&self, statements: &str) -> Result<String, String> {
        let output = self
            .client("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statements])
            .output()
            .await
            .map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A program that finds it by libpq's variables.
    pub fn client(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env("PGHOST", self.folder.path())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .kill_on_drop(true);
        command
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn program(name: &str) -> Command {
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = debian
        .map(|version| version.path().join("bin").join(name))
        .collect();
    found.retain(|path| path.exists());
    found.sort();
    let mut command = Command::new(found.pop().unwrap_or_else(|| name.into()));
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}
