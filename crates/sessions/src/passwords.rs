//! Passwords against their hashes, off the workers' threads.
//!
//! A hash is slow on purpose, tens of milliseconds, and PHP connects for each request: a password that was right is
//! remembered as a hash under a key of this process, together with the stored hash that it fits, so that a change of the password
//! forgets it. A user that does not exist costs as much time as a wrong password.
//!
//! Logins from one address take turns, so that whoever tries many passwords at once makes only its own wait.
//!
//! Not here: who may do what ([`crate::policy`]).

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use argon2::{
    Argon2, PasswordHash, PasswordVerifier,
    password_hash::{PasswordHasher, SaltString},
};
use tokio::sync::{Semaphore, oneshot};

/// Logins that may wait. At some 30 ms each the last of them waits two seconds.
const WAITING_MAX: usize = 64;
/// Right passwords that are remembered; all are forgotten when there are more. Arbitrary, and harmless.
const KNOWN_MAX: usize = 4096;

/// Holds passwords against hashes.
pub struct Passwords {
    key: [u8; 32],
    known: Mutex<HashSet<[u8; 32]>>,
    turns: Mutex<HashMap<Source, Arc<Semaphore>>>,
    asks: Option<SyncSender<Ask>>,
    thread: Option<JoinHandle<()>>,
}

/// A password, and what it is held against. It has no `Debug`, which would show both.
struct Ask {
    stored: Option<Arc<str>>,
    decoy: Option<Arc<str>>,
    password: Vec<u8>,
    answer: oneshot::Sender<bool>,
}

/// Where a login comes from: an address, the network of 64 bits that an IPv6 address is in, or this machine by a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(Option<IpAddr>);

impl Source {
    /// Of a client at this address; `None` for a Unix socket.
    pub fn of(address: Option<IpAddr>) -> Self {
        let network = |address: IpAddr| match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            // Whoever has one address of such a network has all (RFC 4291, section 2.5.4).
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        };
        Self(address.map(network))
    }
}

/// A turn, which others of its source wait for. Forgotten when it is over and nobody does.
struct Turn<'p> {
    passwords: &'p Passwords,
    source: Source,
    turns: Arc<Semaphore>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut all = self.passwords.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // This one and the list's.
        if Arc::strong_count(&self.turns) == 2 {
            all.remove(&self.source);
        }
    }
}

/// What comes of a login.
#[derive(Debug)]
enum Verdict {
    /// Known already.
    Right,
    /// Wait for it.
    Coming(oneshot::Receiver<bool>, Remember),
    /// Too many wait.
    Busy,
}

/// Too many logins wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// What to remember if the password turns out right.
#[derive(Debug)]
struct Remember([u8; 32]);

impl Passwords {
    /// Starts the thread.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start() -> io::Result<Self> {
        let (asks, inbox) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new().name("sessions-logins".to_owned()).spawn(move || run(&inbox))?;
        Ok(Self {
            key: rand::random(),
            known: Mutex::default(),
            turns: Mutex::default(),
            asks: Some(asks),
            thread: Some(thread),
        })
    }

    /// Whether `password` fits `stored`. `None` stands for a user that does not exist, and is never right; `decoy`, the hash
    /// of somebody else, is tried instead, so that it takes as long. One that is not known waits until no other of `source` does,
    /// about `deadline` at most.
    ///
    /// # Errors
    /// Too many wait.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the answer.
    pub async fn check(
        &self,
        stored: Option<Arc<str>>,
        decoy: Option<Arc<str>>,
        password: &[u8],
        source: Source,
        deadline: Duration,
    ) -> Result<bool, Busy> {
        if self.is_known(stored.as_deref(), password) {
            return Ok(true);
        }
        let turn = self.turn(source);
        let permit = tokio::time::timeout(deadline, turn.turns.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(Busy) };
        match self.verify(stored, decoy, password) {
            Verdict::Right => Ok(true),
            Verdict::Coming(answer, remember) => {
                let right = answer.await.unwrap_or(false);
                if right {
                    self.remember(remember);
                }
                Ok(right)
            }
            Verdict::Busy => Err(Busy),
        }
    }

    fn turn(&self, source: Source) -> Turn<'_> {
        let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = all.entry(source).or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
        Turn { passwords: self, source, turns }
    }

    fn is_known(&self, stored: Option<&str>, password: &[u8]) -> bool {
        let mark = self.mark(stored, password);
        stored.is_some() && self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&mark)
    }

    fn verify(&self, stored: Option<Arc<str>>, decoy: Option<Arc<str>>, password: &[u8]) -> Verdict {
        let mark = self.mark(stored.as_deref(), password);
        if stored.is_some() && self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&mark) {
            return Verdict::Right;
        }
        let (answer, wait) = oneshot::channel();
        let ask = Ask { stored, decoy, password: password.to_vec(), answer };
        match self.asks.as_ref().map(|asks| asks.try_send(ask)) {
            Some(Ok(())) => Verdict::Coming(wait, Remember(mark)),
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => Verdict::Busy,
        }
    }

    /// The password was right.
    fn remember(&self, Remember(mark): Remember) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(mark);
    }

    fn mark(&self, stored: Option<&str>, password: &[u8]) -> [u8; 32] {
        let stored = stored.unwrap_or_default().as_bytes();
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(stored.len() as u64).to_le_bytes()).update(stored).update(password);
        hasher.finalize().into()
    }
}

impl Drop for Passwords {
    fn drop(&mut self) {
        drop(self.asks.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// What is tried where nobody has a password; made when the first such login comes.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let salt = SaltString::from_b64("bm9ib2R5bm9ib2R5").expect("these sixteen letters are Base64");
    let hash = Argon2::default().hash_password(b"nobody", &salt).expect("the default parameters are valid");
    hash.to_string()
});

fn run(inbox: &Receiver<Ask>) {
    while let Ok(ask) = inbox.recv() {
        let held_against = ask.stored.as_deref().or(ask.decoy.as_deref()).unwrap_or(NOBODY.as_str());
        let fits = fits(held_against, &ask.password);
        // Who asked may be gone.
        let _ = ask.answer.send(fits && ask.stored.is_some());
    }
}

fn fits(stored: &str, password: &[u8]) -> bool {
    PasswordHash::new(stored).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &[u8]) -> Arc<str> {
        let params = argon2::Params::new(8, 1, 1, None).unwrap();
        let argon = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let salt = SaltString::from_b64("c2FsdHNhbHQ").unwrap();
        argon.hash_password(password, &salt).unwrap().to_string().into()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    /// Whether it was right, and known already.
    fn ask(passwords: &Passwords, stored: Option<Arc<str>>, password: &[u8]) -> (bool, bool) {
        let known = passwords.is_known(stored.as_deref(), password);
        let answer = passwords.check(stored, Some(hash(b"nobody")), password, Source(None), Duration::from_secs(20));
        (runtime().block_on(answer).expect("nobody else asks"), known)
    }

    #[test]
    fn those_of_one_source_take_turns_and_others_do_not_wait_for_them() {
        let (passwords, stored) = (Passwords::start().unwrap(), hash(b"secret"));
        let source = |address: &str| Source::of(Some(address.parse().unwrap()));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        runtime().block_on(async {
            let turn = passwords.turn(source("192.0.2.1"));
            let held = turn.turns.acquire().await.unwrap();
            let check =
                |at: &str, patience| passwords.check(Some(stored.clone()), None, b"secret", source(at), patience);
            assert_eq!(check("192.0.2.1", Duration::from_millis(10)).await, Err(Busy));
            assert_eq!(check("192.0.2.2", Duration::from_secs(20)).await, Ok(true));
            assert_eq!(check("192.0.2.1", Duration::ZERO).await, Ok(true), "what is known waits for nobody");
            drop(held);
            drop(turn);
        });
        assert!(passwords.turns.lock().unwrap().is_empty());
    }

    #[test]
    fn a_right_password_is_remembered_and_a_wrong_one_is_not() {
        let (passwords, stored) = (Passwords::start().unwrap(), hash(b"secret"));
        assert_eq!(ask(&passwords, Some(stored.clone()), b"wrong"), (false, false));
        assert_eq!(ask(&passwords, Some(stored.clone()), b"wrong"), (false, false));
        assert_eq!(ask(&passwords, Some(stored.clone()), b"secret"), (true, false));
        assert_eq!(ask(&passwords, Some(stored), b"secret"), (true, true));
        assert_eq!(ask(&passwords, Some(hash(b"other")), b"secret"), (false, false), "the password was changed");
        assert_eq!(ask(&passwords, None, b"nobody"), (false, false), "there is no such user");
        assert_eq!(ask(&passwords, Some("no hash".into()), b"secret"), (false, false));
    }
}
