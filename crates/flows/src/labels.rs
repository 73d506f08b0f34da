//! What the words of a label column stand for.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};

use crate::canonical::canonical;

/// Words for benign rows and for attacks where a schema names none.
const BENIGN: [&str; 5] = ["0", "false", "benign", "normal", "normal."];
const ATTACK: [&str; 5] = ["1", "true", "attack", "malicious", "anomaly"];

/// What a label says of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    /// No attack.
    Benign,
    /// An attack.
    Attack,
    /// Nothing: the row counts as unlabelled.
    Ignored,
}

/// What the words of a label column stand for. Words are compared without case and blanks around them, `0`, `0.0` and `00` are one
/// word, and a blank cell is the word `-`. A word that ends in `*` stands for all that begin so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelWords {
    /// Words for benign rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub benign: Vec<String>,
    /// Words for attacks, or any word that the other lists do not have.
    #[serde(default = "AttackWords::any")]
    pub attack: AttackWords,
    /// Words that say neither.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "words")]
    pub ignore: Vec<String>,
    /// Where a file has no label column, the words of its category column say what is an attack.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_category: bool,
}

/// Words for attacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AttackWords {
    /// Any word that no other list has.
    Any(Any),
    /// These words.
    List(#[serde(deserialize_with = "words")] Vec<String>),
}

/// The word `any`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Any {
    /// `any`.
    Any,
}

impl AttackWords {
    fn any() -> Self {
        AttackWords::Any(Any::Any)
    }
}

impl Default for LabelWords {
    /// 0 and 1, false and true, and the words that are common.
    fn default() -> Self {
        let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        LabelWords { benign: list(&BENIGN), attack: AttackWords::List(list(&ATTACK)), ignore: Vec::new(), from_category: false }
    }
}

impl LabelWords {
    /// What `word` stands for; None where no list has it. A word as it is outranks a beginning.
    pub(crate) fn label(&self, word: &str) -> Option<Label> {
        let word = folded(word);
        let [benign, ignored, attacks] = self.lists();
        let lists = [ignored, benign, attacks];
        let listed = |matches: &dyn Fn(&str) -> bool| {
            lists.iter().find(|(_, words)| words.iter().any(|word| matches(word))).map(|(label, _)| *label)
        };
        let any = matches!(self.attack, AttackWords::Any(_)) && word != folded("");
        listed(&|listed| folded(listed) == word)
            .or_else(|| {
                listed(&|listed| listed.strip_suffix('*').is_some_and(|start| word.starts_with(&start.trim().to_lowercase())))
            })
            .or(any.then_some(Label::Attack))
    }

    fn lists(&self) -> [(Label, &[String]); 3] {
        let attacks: &[String] = match &self.attack {
            AttackWords::List(words) => words,
            AttackWords::Any(_) => &[],
        };
        [(Label::Benign, &self.benign), (Label::Ignored, &self.ignore), (Label::Attack, attacks)]
    }

    /// A word that stands in two lists.
    pub(crate) fn contradiction(&self) -> Option<&str> {
        let lists = self.lists().map(|(_, words)| words);
        let before = |list: usize, word: &String| {
            lists[..list].iter().any(|other| other.iter().any(|other| folded(other) == folded(word)))
        };
        let twice = lists.iter().enumerate().flat_map(|(list, words)| words.iter().filter(move |word| before(list, word)));
        twice.map(String::as_str).next()
    }
}

/// A word as it is compared.
pub(crate) fn folded(word: &str) -> String {
    canonical(word.trim()).to_lowercase()
}

/// Words of YAML, where `0` is a number and `false` no text.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word {
        Bool(bool),
        Int(i64),
        Float(f64),
        Text(String),
    }
    let words = Vec::<Word>::deserialize(from)?;
    let text = |word: Word| match word {
        Word::Bool(word) => Cow::Borrowed(if word { "true" } else { "false" }),
        Word::Int(word) => word.to_string().into(),
        Word::Float(word) => word.to_string().into(),
        Word::Text(word) => word.into(),
    };
    Ok(words.into_iter().map(|word| text(word).into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(yaml: &str) -> LabelWords {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn common_words_are_understood_without_a_list() {
        let words = LabelWords::default();
        for word in ["0", "0.0", "False", "f", " BENIGN ", "normal", "normal."] {
            assert_eq!(words.label(word), Some(Label::Benign), "{word}");
        }
        for word in ["1", "1.0", "TRUE", "T", "Malicious", "anomaly"] {
            assert_eq!(words.label(word), Some(Label::Attack), "{word}");
        }
        for word in ["", "-", "2", "-1", "DoS Hulk", "Background"] {
            assert_eq!(words.label(word), None, "{word}");
        }
    }

    #[test]
    fn lists_say_what_a_word_stands_for() {
        let words = words("benign: [BENIGN, 0, false, -1, 'flow=From-Normal*']\nattack: any\nignore: [Background, '']");
        for word in ["benign", "0.0", "FALSE", "-1", "flow=From-Normal-V42"] {
            assert_eq!(words.label(word), Some(Label::Benign), "{word}");
        }
        for word in ["background", "", "-"] {
            assert_eq!(words.label(word), Some(Label::Ignored), "{word:?}");
        }
        assert_eq!(words.label("DoS Hulk"), Some(Label::Attack));
        assert_eq!(self::words("benign: [ok]").label(""), None, "a blank label is no attack of any kind");
        let listed = self::words("benign: [ok]\nattack: [scan]\nignore: [maybe]");
        assert_eq!(listed.label("SCAN"), Some(Label::Attack));
        assert_eq!(listed.label("dos"), None);
    }

    #[test]
    fn a_word_stands_in_one_list() {
        assert_eq!(words("benign: [a]\nignore: [b, A]").contradiction(), Some("A"));
        assert_eq!(words("benign: [a, A]\nattack: [b]\nignore: ['', '-']").contradiction(), None);
    }

    #[test]
    fn what_was_read_is_written_and_read_again() {
        for yaml in ["benign: [a, 0]", "benign: [a]\nattack: [b]\nignore: [c]", "attack: any"] {
            let words = words(yaml);
            assert_eq!(serde_json::from_str::<LabelWords>(&serde_json::to_string(&words).unwrap()).unwrap(), words);
        }
    }
}
