//! One command of the session store, parsed as far as it can be without looking at the data.

use std::fmt;

use bytes::Bytes;

use super::{
    Class, Reply, Spec, scripts,
    spec::{Op, spec, subcommand},
};

/// A command with its arguments. Its name and number of words have been checked, nothing else: Redis too finds out
/// about wrong arguments only when it carries a command out, and so `EXEC` answers them in their place.
#[derive(Clone, PartialEq)]
pub struct Call {
    spec: &'static Spec,
    /// The database that the connection had selected.
    pub database: u16,
    /// All words but the name; those of a subcommand begin with its name.
    pub args: Vec<Bytes>,
    /// By which rules it is carried out: those of the release that sent it.
    rules: Rules,
}

/// Which release's rules, of those that change what becomes of keys. They go with a command through the log, because
/// replicas of different releases have to come to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rules {
    /// Of the first.
    First = 1,
    /// Keys that are over go before others give way, whatever the policy; what of large values is written again has a
    /// bound.
    Second = 2,
    /// What is worked out with numbers of many digits has a bound.
    Third = 3,
}

impl Rules {
    pub(super) const NEWEST: Self = Self::Third;

    pub(super) const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::First),
            2 => Some(Self::Second),
            3 => Some(Self::Third),
            _ => None,
        }
    }
}

/// Without what the client sent: keys are as good as passwords, and values are nobody's business.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: usize = self.args.iter().map(Bytes::len).sum();
        write!(f, "{} in database {}, {} words, {bytes} bytes", self.spec.name, self.database, self.args.len() + 1)
    }
}

impl Call {
    /// Parses the words of a command, the first of which is its name.
    ///
    /// # Errors
    /// What Redis answers: the command is not known, or has the wrong number of words.
    pub fn parse(database: u16, mut argv: Vec<Bytes>) -> Result<Self, Reply> {
        let Some(name) = argv.first() else { return Err(Reply::error("ERR empty command")) };
        let Some(mut found) = spec(name).filter(|spec| !spec.name.contains('|')) else {
            return Err(unknown(&argv));
        };
        if let Some(name) = argv.get(1).filter(|_| found.has_subcommands()) {
            found = subcommand(found, name).ok_or_else(|| unknown_subcommand(found, name))?;
        }
        if !found.takes(argv.len()) {
            return Err(wrong_arity(found));
        }
        argv.remove(0);
        Ok(Self { spec: found, database, args: argv, rules: Rules::NEWEST })
    }

    /// A call that came from the log; `None` if it has the wrong number of words.
    pub(super) fn stored(spec: &'static Spec, database: u16, args: Vec<Bytes>, rules: Rules) -> Option<Self> {
        spec.takes(args.len() + 1).then_some(Self { spec, database, args, rules })
    }

    pub(super) fn rules(&self) -> Rules {
        self.rules
    }

    /// What is known of the command.
    pub fn spec(&self) -> &'static Spec {
        self.spec
    }

    /// Who carries it out. A script that is not known is only read: it changes nothing.
    pub fn class(&self) -> Class {
        match self.spec.op {
            Op::Eval | Op::Evalsha if scripts::find(self).is_none() => Class::Read,
            _ => self.spec.class,
        }
    }

    /// The keys that it names.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let words = self.args.len() as i64 + 1;
        let (first, last, step) = match self.spec.op {
            Op::Eval | Op::Evalsha => {
                let count = scripts::key_count(self).unwrap_or(0);
                if count == 0 { (0, 0, 0) } else { (3, 2 + count, 1) }
            }
            _ => {
                let (first, last, step) = self.spec.keys;
                let last = i64::from(last);
                (i64::from(first), if last < 0 { words + last } else { last }, i64::from(step))
            }
        };
        let positions = if first == 0 { 0..0 } else { first - 1..last };
        positions.step_by(usize::try_from(step.max(1)).unwrap_or(1)).filter_map(|at| self.args.get(at as usize))
    }
}

/// As much of a name or of all arguments as is shown.
const SHOWN_MAX: usize = 128;

fn unknown(argv: &[Bytes]) -> Reply {
    let mut shown = Vec::new();
    for arg in &argv[1..] {
        if shown.len() >= SHOWN_MAX {
            break;
        }
        let room = SHOWN_MAX - shown.len();
        shown.push(b'\'');
        shown.extend_from_slice(as_text(arg, room));
        shown.extend_from_slice(b"' ");
    }
    let name = as_text(&argv[0], SHOWN_MAX);
    one_line([b"ERR unknown command '", name, b"', with args beginning with: ", &shown].concat())
}

fn unknown_subcommand(container: &Spec, name: &[u8]) -> Reply {
    let upper = container.name.to_ascii_uppercase();
    let name = as_text(name, SHOWN_MAX);
    one_line([b"ERR unknown subcommand '", name, b"'. Try ", upper.as_bytes(), b" HELP."].concat())
}

/// Redis' answer to a command with too many or too few words.
pub(super) fn wrong_arity(spec: &Spec) -> Reply {
    Reply::Error(format!("ERR wrong number of arguments for '{}' command", spec.name).into())
}

/// The text as C would print it: to the first NUL, and no more than `max`.
pub(super) fn as_text(text: &[u8], max: usize) -> &[u8] {
    let text = &text[..text.len().min(max)];
    &text[..text.iter().position(|byte| *byte == 0).unwrap_or(text.len())]
}

/// An error stands on one line, whatever a client wrote. Ends of lines at its own end are dropped.
pub(super) fn one_line(mut text: Vec<u8>) -> Reply {
    while matches!(text.last(), Some(b'\r' | b'\n')) {
        text.pop();
    }
    for byte in &mut text {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    Reply::Error(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Call, Reply> {
        Call::parse(0, words.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect())
    }

    fn refused(words: &str, with: &str) {
        assert_eq!(parse(words), Err(Reply::Error(Bytes::copy_from_slice(with.as_bytes()))), "{words}");
    }

    #[test]
    fn what_cannot_be_a_command_is_refused_in_redis_own_words() {
        refused("get", "ERR wrong number of arguments for 'get' command");
        refused("GET a b", "ERR wrong number of arguments for 'get' command");
        refused("object", "ERR wrong number of arguments for 'object' command");
        refused("OBJECT encoding", "ERR wrong number of arguments for 'object|encoding' command");
        refused("object foo a", "ERR unknown subcommand 'foo'. Try OBJECT HELP.");
        refused("foo", "ERR unknown command 'foo', with args beginning with: ");
        refused("foo a b", "ERR unknown command 'foo', with args beginning with: 'a' 'b' ");
        refused("object|encoding a", "ERR unknown command 'object|encoding', with args beginning with: 'a' ");
        let long = "x".repeat(200);
        let cut = "x".repeat(128);
        refused(&format!("foo {long} y"), &format!("ERR unknown command 'foo', with args beginning with: '{cut}' "));
        refused("f\r\no\0o a\nb", "ERR unknown command 'f  o', with args beginning with: 'a b' ");
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let keys = |words: &str| -> Vec<String> {
            let call = parse(words).expect("a command");
            call.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
        };
        assert_eq!(keys("get a"), ["a"]);
        assert_eq!(keys("del a b c"), ["a", "b", "c"]);
        assert_eq!(keys("mset a 1 b 2"), ["a", "b"]);
        assert_eq!(keys("copy a b replace"), ["a", "b"]);
        assert_eq!(keys("object encoding a"), ["a"]);
        assert_eq!(keys("evalsha x 2 a b c"), ["a", "b"]);
        assert_eq!(keys("evalsha x 0 a b c"), [""; 0]);
        assert_eq!(keys("evalsha x 99999999999 a"), [""; 0]);
        assert_eq!(keys("scan 0"), [""; 0]);
        assert_eq!(keys("ping"), [""; 0]);
    }
}
