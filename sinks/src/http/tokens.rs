//! The file of tokens: who may do what. It holds hashes only, one line for each token: `role sha256 name`.
//!
//! # Invariants
//! - I1: the file is read only while it belongs to this user or root and is closed to everybody else.
//! - I2: a file that cannot be read, or has a line that is none, lets nobody in.
//!
//! # Limits
//! [`FILE_BYTES_MAX`]; the file is looked at again at most once per [`LOOK_INTERVAL`].

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ronchi_config::check_name;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Longest file of tokens that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Random bytes of a token, and of a ticket.
const SECRET_BYTES: usize = 32;

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See everything.
    Read,
    /// Change it as well.
    Control,
}

impl Role {
    /// The word for it in the file and in answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Control => "control",
        }
    }

    /// The role of this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Read, Self::Control].into_iter().find(|role| role.word() == word)
    }
}

/// What is wrong with a file of tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others can read or write it.
    #[error("{path} has mode {mode:04o} and belongs to user {owner}: it must be yours, with mode 0600")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Number of its user.
        owner: u32,
    },
    /// A line that is no token.
    #[error("{path}:{line}: {problem}; expected `read|control SHA256 NAME`")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The name of a new token is taken, or none.
    #[error("{label:?} is taken, or no name for a token: use letters, digits and . _ - (at most 128)")]
    Label {
        /// As given.
        label: String,
    },
}

/// One token, as far as anybody may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    role: Role,
    hash: [u8; 32],
    label: String,
}

/// A secret of 256 random bits as text.
pub(super) fn secret() -> Result<String, io::Error> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(hex(&bytes))
}

/// What is kept of a secret.
pub(super) fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut hash = [0; 32];
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(hash)
}

/// Adds a token to the file, which is made when it is not there, and returns it: it is written down nowhere else.
pub fn new_token(path: &Path, role: Role, label: &str) -> Result<String, TokenError> {
    let failed = |action| move |source| TokenError::Io { action, path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(0o600).open(path).map_err(failed("open"))?;
    let known = read(&mut file, path)?;
    if check_name(label).is_err() || known.iter().any(|token| token.label == label) {
        return Err(TokenError::Label { label: label.to_owned() });
    }
    let token = secret().map_err(failed("make a token for"))?;
    let line = format!("{} {} {label}\n", role.word(), hex(&hash(&token)));
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    Ok(token)
}

/// The tokens of an open file (I1, I2).
fn read(file: &mut File, path: &Path) -> Result<Vec<Token>, TokenError> {
    let failed = |source| TokenError::Io { action: "read", path: path.to_owned(), source };
    let metadata = file.metadata().map_err(failed)?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 || !is_ours {
        return Err(TokenError::Open { path: path.to_owned(), mode, owner });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(failed(io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes"))));
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|(at, line)| {
            parse(line).map_err(|problem| TokenError::Line { path: path.to_owned(), line: at + 1, problem })
        })
        .collect()
}

fn parse(line: &str) -> Result<Token, &'static str> {
    let mut words = line.split_whitespace();
    let role = words.next().and_then(Role::parse).ok_or("no role")?;
    let hash = words.next().and_then(unhex).ok_or("no hash of 64 hexadecimal digits")?;
    let label = words.next().filter(|label| check_name(label).is_ok()).ok_or("no name")?.to_owned();
    match words.next() {
        None => Ok(Token { role, hash, label }),
        Some(_) => Err("words behind the name"),
    }
}

/// A file of tokens that is read again when it has changed.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    tokens: Vec<Token>,
    stamp: Option<Stamp>,
    looked: Instant,
}

/// What tells that a file has changed: inode, time of its last change in s and ns, bytes.
type Stamp = (u64, i64, i64, u64);

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec(), metadata.size())
}

impl TokenFile {
    /// Reads it for the first time. Errors: it is not to be trusted, or has lines that are none.
    pub(super) fn open(path: &Path) -> Result<Self, TokenError> {
        let (tokens, stamp) = load(path)?;
        let known = Known { tokens, stamp: Some(stamp), looked: Instant::now() };
        Ok(Self { path: path.to_owned(), known: Mutex::new(known) })
    }

    /// Role and name of a token. Takes as long for a wrong one as for a right one.
    pub(super) fn find(&self, token: &str) -> Option<(Role, String)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.elapsed() > LOOK_INTERVAL {
            self.refresh(&mut known);
        }
        let hash = hash(token);
        let mut found = None;
        for token in &known.tokens {
            if bool::from(token.hash.ct_eq(&hash)) {
                found = Some((token.role, token.label.clone()));
            }
        }
        found
    }

    fn refresh(&self, known: &mut Known) {
        known.looked = Instant::now();
        let now = std::fs::metadata(&self.path).ok().map(|metadata| stamp(&metadata));
        if now.is_some() && now == known.stamp {
            return;
        }
        (known.tokens, known.stamp) = match load(&self.path) {
            Ok((tokens, stamp)) => (tokens, Some(stamp)),
            Err(error) => {
                if known.stamp.is_some() {
                    tracing::error!("{error}: nobody is let in"); // Once, not at every look.
                }
                (Vec::new(), None)
            }
        };
    }
}

fn load(path: &Path) -> Result<(Vec<Token>, Stamp), TokenError> {
    let failed = |source| TokenError::Io { action: "open", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let stamp = stamp(&file.metadata().map_err(failed)?);
    Ok((read(&mut file, path)?, stamp))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tokens");
        (folder, path)
    }

    /// A token is found by itself only, with its role and name; the file holds nothing that could be used.
    #[test]
    fn tokens_are_found_by_their_hash() {
        let (_folder, path) = file();
        let read = new_token(&path, Role::Read, "screen").expect("a token");
        let control = new_token(&path, Role::Control, "alice").expect("a token");
        assert!(read != control && read.len() == 64);
        let tokens = TokenFile::open(&path).expect("a file");
        assert_eq!(tokens.find(&read), Some((Role::Read, "screen".to_owned())));
        assert_eq!(tokens.find(&control), Some((Role::Control, "alice".to_owned())));
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(!text.contains(&read) && !text.contains(&control));
        let of_the_file = text.split_whitespace().nth(1).expect("a hash").to_owned();
        for wrong in ["", "x", &read[1..], &format!("{read} "), &of_the_file] {
            assert_eq!(tokens.find(wrong), None, "{wrong}");
        }
        assert_eq!(text.split_whitespace().nth(1).and_then(unhex), Some(hash(&read)));
        for label in ["alice", "", "a b", "../x"] {
            assert!(matches!(new_token(&path, Role::Read, label), Err(TokenError::Label { .. })), "{label}");
        }
    }

    /// A file that others can read, or with a line that is none, is refused with what is wrong.
    #[test]
    fn bad_files_are_refused() {
        let (_folder, path) = file();
        new_token(&path, Role::Read, "screen").expect("a token");
        for mode in [0o640, 0o604, 0o660, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            assert!(matches!(TokenFile::open(&path), Err(TokenError::Open { .. })), "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
        let good = "0".repeat(64);
        for line in ["admin x y", "read 00 a", &format!("read {good}"), &format!("read {good} a b"), "read"] {
            std::fs::write(&path, format!("# ours\n\n{line}\n")).expect("written");
            let error = TokenFile::open(&path).expect_err(line);
            assert!(matches!(error, TokenError::Line { line: 3, .. }), "{error}");
        }
        assert!(matches!(TokenFile::open(Path::new("/nowhere/tokens")), Err(TokenError::Io { .. })));
        std::fs::write(&path, "#\n".repeat(40_000)).expect("written");
        assert!(matches!(TokenFile::open(&path), Err(TokenError::Io { .. })));
    }

    /// A line that is deleted is a token that is gone, and a file that is broken lets nobody in, until it is mended.
    #[test]
    fn the_file_is_read_again() {
        let (_folder, path) = file();
        let token = new_token(&path, Role::Read, "screen").expect("a token");
        let text = std::fs::read_to_string(&path).expect("text");
        let tokens = TokenFile::open(&path).expect("a file");
        for (content, is_known) in [("", false), (text.as_str(), true), ("broken", false), (text.as_str(), true)] {
            std::fs::write(&path, content).expect("written");
            let mut known = tokens.known.lock().expect("not poisoned");
            tokens.refresh(&mut known);
            drop(known);
            assert_eq!(tokens.find(&token).is_some(), is_known, "{content}");
        }
    }
}
