use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ColumnKind, Error, Flows, Result, Schema};

/// Name of the benign class where none of its rows has a category.
const NORMAL: &str = "Normal";
/// Verdicts on categories are counted in a table of all by all.
const MAX_CLASSES: usize = 1024;

/// The classes of a multi-class problem, by name and in alphabetical order: a category of attack each, and one of all benign
/// rows, whatever their categories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Classes {
    names: Vec<String>,
    normal: usize,
}

/// Classes as written, before they are checked.
#[derive(Deserialize)]
#[serde(rename = "classes", deny_unknown_fields)]
struct Raw {
    names: Vec<String>,
    normal: usize,
}

impl Schema {
    /// The column that holds the kind of attack, where there is one.
    pub fn category(&self) -> Option<&str> {
        self.column_of(ColumnKind::Category).map(|column| column.name.as_str())
    }
}

impl Classes {
    /// The classes of the given rows. Benign rows are called what most of those with a category are called; `Normal` where none
    /// has one.
    ///
    /// # Errors
    /// If the flows have no labels, no categories or too many, or an attack has no category or that of the benign rows.
    pub fn fit(flows: &Flows, rows: &[u32]) -> Result<Self> {
        let column = flows.schema().category().unwrap_or("category");
        let missing = || Error::classes(format!("column \"{column}\" is missing, which says what kind of attack a row is"));
        let labels = flows.labels().ok_or_else(missing)?;
        let categories = flows.categories().ok_or_else(missing)?;
        let mut label_counts = [BTreeMap::new(), BTreeMap::new()];
        for &row in rows {
            let counts: &mut BTreeMap<&str, usize> = &mut label_counts[usize::from(labels[row as usize])];
            *counts.entry(categories.get(row as usize)).or_default() += 1;
        }
        let [benign, mut names] = label_counts;
        // the first of those that are as frequent
        let most = benign.iter().filter(|(name, _)| !name.is_empty()).max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
        let normal = most.map_or(NORMAL, |(name, _)| *name);
        for found in ["", normal] {
            if names.contains_key(found) {
                let is_bad = |&&row: &&u32| labels[row as usize] == 1 && categories.get(row as usize) == found;
                let id = rows.iter().find(is_bad).map_or("", |&row| flows.ids()[row as usize].as_str());
                let what =
                    if found.is_empty() { "no category".to_owned() } else { format!("the category `{found}` of benign rows") };
                let message = format!("row `{id}` is labelled 1 and has {what} in column \"{column}\": name the kind of attack");
                return Err(Error::classes(message));
            }
        }
        names.insert(normal, 0);
        if names.len() > MAX_CLASSES {
            let message = format!("{} categories in column \"{column}\"; at most {MAX_CLASSES}", names.len());
            return Err(Error::classes(message));
        }
        let names: Vec<String> = names.into_keys().map(str::to_owned).collect();
        let normal = names.partition_point(|name| name.as_str() < normal);
        Ok(Self { names, normal })
    }

    /// Their names, in alphabetical order of bytes.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Which of them is that of benign rows.
    pub fn normal(&self) -> usize {
        self.normal
    }

    /// The class of a row, or its category where that is none of the classes.
    ///
    /// # Panics
    /// If the flows have no labels or no categories.
    pub fn of<'f>(&self, flows: &'f Flows, row: usize) -> std::result::Result<usize, &'f str> {
        let (labels, categories) = flows.labels().zip(flows.categories()).expect("flows with labels and categories");
        if labels[row] == 0 {
            return Ok(self.normal);
        }
        let category = categories.get(row);
        // an attack is never of the benign class
        let found = self.names.binary_search_by(|name| name.as_str().cmp(category)).ok().filter(|&class| class != self.normal);
        found.ok_or(category)
    }
}

impl TryFrom<Raw> for Classes {
    type Error = String;

    fn try_from(Raw { names, normal }: Raw) -> std::result::Result<Self, String> {
        if !(2..=MAX_CLASSES).contains(&names.len()) || normal >= names.len() || !names.is_sorted_by(|a, b| a < b) {
            return Err(format!("{} names and {normal} for the benign one are no classes in alphabetical order", names.len()));
        }
        Ok(Self { names, normal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    /// Flows with these labels and categories.
    fn flows(rows: &[(u8, &str)]) -> Flows {
        let mut flows = synthetic(rows.len(), 1);
        flows.labels = Some(rows.iter().map(|row| row.0).collect());
        let mut categories = crate::TextColumn::default();
        for row in rows {
            categories.push(row.1);
        }
        flows.categories = Some(categories);
        flows
    }

    fn fit(rows: &[(u8, &str)]) -> Result<Classes> {
        let n = rows.len() as u32;
        Classes::fit(&flows(rows), &(0..n).collect::<Vec<u32>>())
    }

    #[test]
    fn they_are_sorted_and_the_label_says_which_rows_are_benign() {
        let rows = [(1, "Worms"), (0, ""), (0, "benign"), (1, "DoS"), (0, "web"), (0, "benign"), (1, "DoS")];
        let classes = fit(&rows).unwrap();
        assert_eq!((classes.names(), classes.normal()), (["DoS", "Worms", "benign"].map(str::to_owned).as_slice(), 2));
        let flows = flows(&[(1, "DoS"), (0, "DoS"), (0, "new"), (1, "benign"), (1, "new"), (1, "")]);
        let found: Vec<_> = (0..flows.len()).map(|row| classes.of(&flows, row)).collect();
        assert_eq!(found, [Ok(0), Ok(2), Ok(2), Err("benign"), Err("new"), Err("")]);
    }

    #[test]
    fn benign_rows_without_a_category_are_called_normal() {
        assert_eq!(fit(&[(1, "a"), (0, "")]).unwrap().names(), ["Normal", "a"]);
        // of names that as many benign rows have, the first by its bytes
        for rows in [[(1, "a"), (0, "b"), (0, "c")], [(1, "a"), (0, "c"), (0, "b")]] {
            let classes = fit(&rows).unwrap();
            assert_eq!(classes.names()[classes.normal()], "b");
        }
        let synthetic = synthetic(500, 3);
        let classes = Classes::fit(&synthetic, &(0..500).collect::<Vec<u32>>()).unwrap();
        assert_eq!(classes.names()[classes.normal()], "Normal");
    }

    #[test]
    fn only_the_given_rows_count() {
        let classes = Classes::fit(&flows(&[(1, "a"), (1, "b"), (0, "Normal")]), &[2, 0]).unwrap();
        assert_eq!(classes.names(), ["Normal", "a"]);
    }

    #[test]
    fn an_attack_without_a_kind_is_an_error() {
        let message = |rows: &[(u8, &str)]| fit(rows).unwrap_err().to_string();
        assert_eq!(
            message(&[(0, "Normal"), (1, "Normal"), (1, "DoS")]),
            "row `2` is labelled 1 and has the category `Normal` of benign rows in column \"attack_cat\": name the kind of attack"
        );
        assert!(message(&[(0, ""), (1, "")]).contains("row `2` is labelled 1 and has no category"));
        let mut without = flows(&[(0, ""), (1, "a")]);
        without.categories = None;
        let error = Classes::fit(&without, &[0, 1]).unwrap_err();
        assert_eq!(error.to_string(), "column \"attack_cat\" is missing, which says what kind of attack a row is");
    }

    #[test]
    fn there_are_not_more_than_a_table_of_all_by_all_can_hold() {
        let names: Vec<String> = (0..MAX_CLASSES).map(|i| format!("a{i:04}")).collect();
        let mut rows: Vec<(u8, &str)> = names[1..].iter().map(|name| (1, name.as_str())).chain([(0, "b")]).collect();
        let classes = fit(&rows).unwrap();
        assert_eq!(serde_json::from_str::<Classes>(&serde_json::to_string(&classes).unwrap()).unwrap(), classes);
        rows.push((1, &names[0]));
        assert_eq!(fit(&rows).unwrap_err().to_string(), "1025 categories in column \"attack_cat\"; at most 1024");
        let names = [&names[..], &["b".to_owned()]].concat();
        let many = serde_json::json!({ "names": names, "normal": 0 });
        assert!(serde_json::from_value::<Classes>(many).is_err());
    }

    #[test]
    fn they_are_read_back_with_care() {
        let classes = fit(&[(1, "a"), (0, "Normal")]).unwrap();
        let text = serde_json::to_string(&classes).unwrap();
        assert_eq!(text, r#"{"names":["Normal","a"],"normal":0}"#);
        assert_eq!(serde_json::from_str::<Classes>(&text).unwrap(), classes);
        for bad in [
            r#"{"names":["b","a"],"normal":0}"#,
            r#"{"names":["a","a"],"normal":0}"#,
            r#"{"names":["a"],"normal":0}"#,
            r#"{"names":["a","b"],"normal":2}"#,
            r#"{"names":["a","b"],"normal":0,"more":1}"#,
        ] {
            assert!(serde_json::from_str::<Classes>(bad).is_err(), "{bad}");
        }
    }
}
