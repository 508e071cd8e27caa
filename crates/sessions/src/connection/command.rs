//! `COMMAND`: what commands there are.

use ballast_core::session::{Call, Pattern, Spec, spec, specs};
use bytes::Bytes;

use crate::wire::Out;

/// Answers `COMMAND` and its subcommands. A few bytes ask for the entry of a command, which has more than a thousand: what is
/// longer than `output_max` is left unfinished, for whoever puts an error in its place.
pub(super) fn tell(call: &Call, output_max: usize, out: &mut Out<'_>) {
    let args = call.args.get(1..).unwrap_or_default();
    match call.spec().name {
        "command" => entries(&commands(), out),
        "command|count" => out.integer(commands().len() as i64),
        "command|list" => list(args, out),
        "command|info" if args.is_empty() => entries(&commands(), out),
        "command|info" => {
            let full = out.end().saturating_add(output_max);
            out.array(args.len());
            for name in args {
                if out.end() > full {
                    return;
                }
                match spec(name) {
                    Some(spec) => entry(spec, out),
                    None => out.null(),
                }
            }
        }
        "command|docs" => docs(args, output_max, out),
        "command|getkeys" => keys(args, out),
        _ => super::own_help(out, HELP),
    }
}

fn commands() -> Vec<&'static Spec> {
    specs().filter(|spec| !spec.name.contains('|')).collect()
}

fn entries(specs: &[&'static Spec], out: &mut Out<'_>) {
    out.array(specs.len());
    specs.iter().for_each(|spec| entry(spec, out));
}

fn entry(spec: &'static Spec, out: &mut Out<'_>) {
    out.array(10);
    out.bulk(spec.name.as_bytes());
    out.integer(spec.arity.into());
    out.set(spec.flags.len());
    spec.flags.iter().for_each(|flag| out.simple(flag));
    let (first, last, step) = spec.keys;
    [first, last, step].into_iter().for_each(|number| out.integer(number.into()));
    let categories = categories(spec);
    out.set(categories.len());
    categories.iter().for_each(|category| out.simple(&format!("@{category}")));
    // Tips.
    out.array(0);
    key_specs(spec, out);
    let below = subcommands(spec);
    out.array(below.len());
    below.iter().for_each(|spec| entry(spec, out));
}

fn subcommands(container: &Spec) -> Vec<&'static Spec> {
    let is_below = |spec: &&Spec| spec.name.strip_prefix(container.name).is_some_and(|rest| rest.starts_with('|'));
    specs().filter(is_below).collect()
}

/// The categories of Redis' ACL, in its order.
fn categories(spec: &Spec) -> Vec<&'static str> {
    let of_group = match spec.group {
        "generic" => "keyspace",
        "transactions" => "transaction",
        "scripting" => "scripting",
        group => group,
    };
    let is_about_data = matches!(of_group, "set" | "hash" | "string");
    let of_flags = [
        (of_group == "keyspace", of_group),
        (spec.has_flag("readonly"), "read"),
        (spec.has_flag("write"), "write"),
        (is_about_data || of_group == "pubsub", of_group),
        (spec.has_flag("admin"), "admin"),
        (true, if spec.has_flag("fast") { "fast" } else { "slow" }),
        (spec.has_flag("admin"), "dangerous"),
        (matches!(of_group, "connection" | "transaction" | "scripting"), of_group),
    ];
    of_flags.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
}

fn key_specs(spec: &Spec, out: &mut Out<'_>) {
    let (first, last, step) = spec.keys;
    if first == 0 {
        return out.array(0);
    }
    let text = |out: &mut Out<'_>, text: &str| out.bulk(text.as_bytes());
    out.array(1);
    out.map(3);
    text(out, "flags");
    let flags: &[&str] = if spec.has_flag("write") { &["RW"] } else { &["RO"] };
    out.set(flags.len());
    flags.iter().for_each(|flag| out.simple(flag));
    text(out, "begin_search");
    out.map(2);
    text(out, "type");
    text(out, "index");
    text(out, "spec");
    out.map(1);
    text(out, "index");
    out.integer(first.into());
    text(out, "find_keys");
    out.map(2);
    text(out, "type");
    text(out, "range");
    text(out, "spec");
    out.map(3);
    text(out, "lastkey");
    out.integer(if last < 0 { last.into() } else { (last - first).into() });
    text(out, "keystep");
    out.integer(step.into());
    text(out, "limit");
    out.integer(0);
}

fn list(args: &[Bytes], out: &mut Out<'_>) {
    let is = |word: &Bytes, text: &str| word.eq_ignore_ascii_case(text.as_bytes());
    let names: Vec<&str> = match args {
        [] => commands().iter().map(|spec| spec.name).collect(),
        [filter, by, value] if is(filter, "filterby") && is(by, "pattern") => {
            let pattern = Pattern::new(&value.to_ascii_lowercase());
            let fits = |spec: &&Spec| pattern.matches(spec.name.as_bytes());
            specs().filter(fits).map(|spec| spec.name).collect()
        }
        [filter, by, value] if is(filter, "filterby") && is(by, "aclcat") => {
            let wanted = value.to_ascii_lowercase();
            specs().filter(|s| categories(s).iter().any(|c| c.as_bytes() == wanted)).map(|s| s.name).collect()
        }
        // There are no modules.
        [filter, by, _] if is(filter, "filterby") && is(by, "module") => Vec::new(),
        _ => return out.error(b"ERR syntax error"),
    };
    out.set(names.len());
    names.iter().for_each(|name| out.bulk(name.as_bytes()));
}

fn docs(args: &[Bytes], output_max: usize, out: &mut Out<'_>) {
    let full = out.end().saturating_add(output_max);
    let specs: Vec<_> = if args.is_empty() { commands() } else { args.iter().filter_map(|name| spec(name)).collect() };
    out.map(specs.len());
    for spec in specs {
        if out.end() > full {
            return;
        }
        out.bulk(spec.name.as_bytes());
        doc(spec, out);
    }
}

fn doc(spec: &'static Spec, out: &mut Out<'_>) {
    let below = subcommands(spec);
    out.map(3 + usize::from(!below.is_empty()));
    let summary = format!("See https://redis.io/commands/{}", spec.name.replace('|', "-"));
    for (key, value) in [("summary", summary.as_str()), ("since", spec.since), ("group", spec.group)] {
        out.bulk(key.as_bytes());
        out.bulk(value.as_bytes());
    }
    if !below.is_empty() {
        out.bulk(b"subcommands");
        out.map(below.len());
        for spec in below {
            out.bulk(spec.name.as_bytes());
            doc(spec, out);
        }
    }
}

fn keys(argv: &[Bytes], out: &mut Out<'_>) {
    let Ok(call) = Call::parse(0, argv.to_vec()) else {
        let known = spec(&argv[0]).is_some();
        let text: &[u8] = if known {
            b"ERR Invalid number of arguments specified for command"
        } else {
            b"ERR Invalid command specified"
        };
        return out.error(text);
    };
    let keys: Vec<_> = call.keys().collect();
    if keys.is_empty() {
        return out.error(b"ERR The command has no key arguments");
    }
    out.array(keys.len());
    keys.iter().for_each(|key| out.bulk(key));
}

const HELP: &[&str] = &[
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands.",
    "LIST",
    "    Return a list of all commands.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple commands.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "HELP",
    "    Prints this help.",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Resp;

    #[test]
    fn what_will_be_too_long_is_not_written_to_its_end() {
        for subcommand in ["INFO", "DOCS"] {
            let told = |times: usize| {
                let names = std::iter::repeat_n("client", times);
                let words = ["COMMAND", subcommand].into_iter().chain(names);
                let argv = words.map(|word| Bytes::from_static(word.as_bytes())).collect();
                let mut buf = b"+OK\r\n".to_vec();
                tell(&Call::parse(0, argv).unwrap(), 100_000, &mut Out::new(&mut buf, Resp::Two));
                buf.len()
            };
            let one = told(1);
            assert!((100_001..100_010 + one).contains(&told(10_000)), "{subcommand}");
            assert_eq!(told(2) - told(1), one - b"+OK\r\n*1\r\n".len(), "{subcommand}: what fits is whole");
        }
    }
}
