//! The language against a table of cases and against a direct model of its operators.

use std::borrow::Cow;

use proptest::prelude::*;

use super::{Fields, Filter};
use crate::ErrorKind;
use crate::snapshot::{Kind, Labels, Origin, Snapshot, Timestamp, Usage};

fn snapshot(key: &str, kind: Kind, parent: Option<&str>, labels: &[(&str, &str)]) -> Snapshot {
    Snapshot {
        key: key.as_bytes().to_vec(),
        id: 1,
        kind,
        parent: parent.map(|parent| parent.as_bytes().to_vec()),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect::<Labels>(),
        created: Timestamp::default(),
        updated: Timestamp::default(),
        layers: Vec::new(),
        deferred: None,
        origin: Origin::Local,
        scratch: None,
        imported: false,
        usage: Usage::default(),
    }
}

#[test]
fn selectors_of_every_form() {
    let it = snapshot(
        "default/1/extract-1 sha256:9e",
        Kind::Active,
        Some("base"),
        &[
            ("plain", "yes"),
            ("a.b", "dotted"),
            ("containerd.io/snapshot.ref", "sha256:9e"),
            ("tab", "a\tb"),
            ("", "keyless"),
            ("dashed", "-x/y:z"),
        ],
    );
    let cases: &[(&str, bool)] = &[
        ("", true),
        ("name", true),
        ("parent", true),
        ("kind", true),
        ("id", false),
        ("nothing.here", false),
        ("name.deeper", true),
        ("kind.deeper==active", true),
        ("kind==active", true),
        ("kind==Active", false),
        ("kind!=view", true),
        ("kind!=active", false),
        ("parent==base", true),
        (r#"parent!="""#, true),
        (r#"parent=="""#, false),
        (r#"name=="default/1/extract-1 sha256:9e""#, true),
        ("name==default/1/extract-1", false),
        ("name~=extract", true),
        ("name~=^extract", false),
        ("name~=^default/.*9e$", true),
        ("labels.plain", true),
        ("labels.plain==yes", true),
        ("labels.plain == yes", true),
        ("labels.plain==\tyes", true),
        (" labels. plain==yes", true),
        ("labels.plain!=no", true),
        ("labels.absent", false),
        ("labels.absent==yes", false),
        ("labels.absent!=yes", true),
        (r#"labels.absent=="""#, false),
        (r#"labels.absent!="""#, false),
        (r#"labels.plain!="""#, true),
        (r#"nothing!=x"#, true),
        ("labels.absent~=^$", true),
        ("labels.absent~=x", false),
        ("labels.a.b==dotted", true),
        (r#"labels."a.b"==dotted"#, true),
        (r#""labels"."a.b"==dotted"#, true),
        ("labels==keyless", true),
        (r#"labels."containerd.io/snapshot.ref"==sha256:9e"#, true),
        (r#"labels."containerd.io/snapshot.ref"==sha256:9e,parent=="base""#, true),
        (r#"labels."containerd.io/snapshot.ref"==sha256:9e,parent=="other""#, false),
        ("kind==active,parent==base,name~=extract", true),
        ("kind==active, parent==base", true),
        ("kind==active,parent==base,kind==view", false),
        (r#"labels.tab=="a\tb""#, true),
        (r#"labels.tab=="a\x09b""#, true),
        (r#"labels.tab=="a\011b""#, true),
        (r#"labels.tab=="\u0061\t\U00000062""#, true),
        ("labels.dashed==-x/y:z", true),
        ("labels.dashed~=/x.y/", true),
        ("labels.dashed~=|x/y|", true),
        (r"labels.dashed~=/x\/y/", true),
        (r"labels.dashed~=/^-x.\\w/", true),
        ("labels.plain=='yes'", false),
        // A bad expression is no error and matches nothing, not even what is absent.
        ("name~=(", false),
        ("labels.absent~=*", false),
        // So is one that would take too much memory.
        ("name~=((.{1000}){1000}){1000}", false),
    ];
    for (text, expected) in cases {
        let filter = Filter::parse_all(&[text]).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(filter.matches(&it), *expected, "{text:?}");
    }
}

#[test]
fn several_filters_need_one_match() {
    let it = snapshot("one", Kind::View, None, &[]);
    let matches = |filters: &[&str]| Filter::parse_all(filters).unwrap().matches(&it);
    assert!(matches(&[]));
    assert!(matches(&["name==one", "name==two"]));
    assert!(matches(&["name==two", "name==one"]));
    assert!(!matches(&["name==two", "name==three"]));
    assert!(matches(&["name==two", ""]));
    assert!(matches(&[r#"parent=="""#]), "a snapshot without parent has an empty one");
}

#[test]
fn errors_say_what_and_where() {
    let cases: &[(&str, &str)] = &[
        (
            " ",
            "at byte 1: expected the name of a field; quote names with other characters than A-Z a-z 0-9 _",
        ),
        (
            ",",
            "at byte 0: expected the name of a field; quote names with other characters than A-Z a-z 0-9 _",
        ),
        (
            "name,",
            "at byte 5: expected the name of a field; quote names with other characters than A-Z a-z 0-9 _",
        ),
        ("name ", "at byte 5: expected an operator: ==, != or ~="),
        ("name==x ", "at byte 7: expected a comma or the end"),
        ("name==x ,kind", "at byte 7: expected a comma or the end"),
        ("name==x y", "at byte 7: expected a comma or the end"),
        ("name=x", "at byte 4: unknown operator; there are ==, != and ~="),
        ("name===x", "at byte 4: unknown operator; there are ==, != and ~="),
        ("name=!x", "at byte 4: unknown operator; there are ==, != and ~="),
        ("name!x", "at byte 4: unknown operator; there are ==, != and ~="),
        ("name==", "at byte 6: expected a value"),
        ("name==,kind", "at byte 6: expected a value"),
        ("name==.x", "at byte 6: a value cannot start with this character; quote it"),
        ("name==/x/", "at byte 6: a value may be quoted with / or | only after ~=; use \""),
        ("name!=|x|", "at byte 6: a value may be quoted with / or | only after ~=; use \""),
        ("labels.containerd.io/gc.root==x", "at byte 20: expected an operator: ==, != or ~="),
        ("labels.a-b", "at byte 8: expected an operator: ==, != or ~="),
        (
            "labels.",
            "at byte 7: expected the name of a field; quote names with other characters than A-Z a-z 0-9 _",
        ),
        (
            "labels..a",
            "at byte 7: expected the name of a field; quote names with other characters than A-Z a-z 0-9 _",
        ),
        ("labels .a", "at byte 7: expected an operator: ==, != or ~="),
        (
            "==x",
            "at byte 0: expected the name of a field; quote names with other characters than A-Z a-z 0-9 _",
        ),
        (
            "/name/==x",
            "at byte 0: expected the name of a field; quote names with other characters than A-Z a-z 0-9 _",
        ),
        (r#"name=="x"#, "at byte 6: the quote does not end"),
        ("name==\"x\ny\"", "at byte 6: the quote does not end"),
        (r#"name=="x"y"#, "at byte 9: expected a comma or the end"),
        (r#"name=="\q""#, "at byte 7: unknown escape"),
        (r#"name=="\x4""#, "at byte 7: unknown escape"),
        (r#"name=="\400""#, "at byte 7: unknown escape"),
        (r#"name=="\ud800""#, "at byte 7: unknown escape"),
        (r#"name=="\/""#, "at byte 7: unknown escape"),
        (r"name~=/\./", "at byte 7: unknown escape"),
        ("name==x\0", "at byte 7: a NUL cannot be part of a filter"),
        ("name==\u{7}", "at byte 6: expected a value"),
    ];
    for (text, expected) in cases {
        let error = match Filter::parse_all(&["name", text]) {
            Err(error) => error,
            Ok(_) => panic!("{text:?} was taken"),
        };
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.to_string(), format!("filter {text:?}, {expected}"));
    }
}

/// The operators as the reference's table has them, on values that need quoting as well.
#[derive(Debug, Clone)]
enum Op {
    Present,
    Equal(String),
    NotEqual(String),
    Contains(String),
}

/// How one selector is written: everything that the grammar leaves open.
#[derive(Debug, Clone, Copy)]
struct Hand {
    spaces: bool,
    quoted_field: bool,
    bare_value: bool,
    numeric: bool,
    quote: char,
}

struct One<'a>(&'a [(String, String)]);

impl Fields for One<'_> {
    fn field(&self, path: &[Vec<u8>]) -> Option<Cow<'_, [u8]>> {
        let name = String::from_utf8(path.join(&b'.')).ok()?;
        let found = self.0.iter().find(|(key, _)| *key == name)?;
        Some(Cow::Borrowed(found.1.as_bytes()))
    }
}

fn quoted(text: &str, quote: char, numeric: bool) -> String {
    let mut quoted = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => quoted.push_str("\\\\"),
            _ if character == quote => quoted.extend(['\\', character]),
            _ if numeric && character.is_ascii() => {
                let code = u32::from(character);
                quoted.push_str(&match code % 4 {
                    0 => format!("\\x{code:02x}"),
                    1 => format!("\\{code:03o}"),
                    2 => format!("\\u{code:04X}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
            '\n' => quoted.push_str("\\n"),
            other => quoted.push(other),
        }
    }
    quoted.push(quote);
    quoted
}

fn written(name: &str, op: &Op, hand: Hand) -> String {
    let name = match hand.quoted_field || name.contains(['-', '/']) {
        true => quoted(name, '"', hand.numeric),
        false => name.to_owned(),
    };
    let (operator, value, quote) = match op {
        Op::Present => return name,
        Op::Equal(value) => ("==", value.clone(), '"'),
        Op::NotEqual(value) => ("!=", value.clone(), '"'),
        Op::Contains(part) => ("~=", regex::escape(part), hand.quote),
    };
    // A bare value may hold what starts other tokens, but not start with it.
    let bare = hand.bare_value
        && !value.is_empty()
        && !value.starts_with(['.', '=', '!', '~', '"', '/', '|'])
        && !value.contains([',', ' ', '\n']);
    let value = if bare { value } else { quoted(&value, quote, hand.numeric) };
    let space = if hand.spaces { " \t" } else { "" };
    format!("{space}{name}{space}{operator}{space}{value}")
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{0,2}", "[a-c.,\"/| \\\\é\n=~!'-]{0,4}"]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Present),
        word().prop_map(Op::Equal),
        word().prop_map(Op::NotEqual),
        word().prop_map(Op::Contains),
    ]
}

fn hand() -> impl Strategy<Value = Hand> {
    let quote = prop_oneof![Just('"'), Just('/'), Just('|')];
    (any::<[bool; 4]>(), quote).prop_map(|(choices, quote)| {
        let [spaces, quoted_field, bare_value, numeric] = choices;
        Hand { spaces, quoted_field, bare_value, numeric, quote }
    })
}

/// Names of fields: plain ones, paths, and such that must be quoted.
fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,2}", "[a-c]\\.[a-c]", "[a-c][-/][a-c]"]
}

proptest! {
    #[test]
    fn filters_agree_with_the_operator_table(
        fields in proptest::collection::vec((name(), word()), 0..6),
        filters in proptest::collection::vec(
            proptest::collection::vec((name(), op(), hand()), 1..4),
            0..3,
        ),
    ) {
        let mut fields = fields;
        fields.sort();
        fields.dedup_by(|one, other| one.0 == other.0);
        let value = |name: &str| {
            fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        };
        let holds = |name: &str, op: &Op| match op {
            Op::Present => value(name).is_some(),
            Op::Equal(wanted) => value(name) == Some(wanted),
            Op::NotEqual(unwanted) => value(name).unwrap_or("") != unwanted,
            Op::Contains(part) => value(name).unwrap_or("").contains(part.as_str()),
        };
        let expected = filters.is_empty()
            || filters.iter().any(|all| all.iter().all(|(name, op, _)| holds(name, op)));
        let texts: Vec<String> = filters
            .iter()
            .map(|all| {
                let selectors: Vec<String> =
                    all.iter().map(|(name, op, hand)| written(name, op, *hand)).collect();
                selectors.join(",")
            })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let filter = Filter::parse_all(&texts);
        prop_assert!(filter.is_ok(), "{:?}: {:?}", texts, filter.err());
        prop_assert_eq!(filter.unwrap().matches(&One(&fields)), expected, "{:?}", texts);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,40}|[a-z=!~.,\"/|\\\\ ]{0,30}") {
        let _ = Filter::parse_all(&[&text]);
    }
}
