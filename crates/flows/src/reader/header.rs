//! Which columns of a file are used, and for what.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use percent_encoding::percent_decode_str;

use super::sink::Slot;
use super::{Ids, Labels, ReadOptions, shown, some_of};
use crate::nearest::{folded, nearest};
use crate::{At, Column, ColumnKind, Error, Result, Schema};

/// How a folder's name says that there is no value.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The plan by which rows of a file are read.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Place in the file, and what its cells are for; conditions come first.
    pub(super) uses: Vec<(usize, Slot)>,
    /// Cells that are not in the rows of the file.
    pub(super) given: Vec<Given>,
    /// Columns that the schema does not list.
    pub(super) unlisted: Vec<String>,
    /// Names of the columns that are read, for messages: by place in the file.
    pub(super) names: Vec<String>,
    pub(super) has_labels: bool,
    pub(super) has_categories: bool,
    pub(super) has_ids: bool,
    pub(super) notes: Vec<String>,
}

/// A cell that all rows of a file have: of a column that the schema lets a file lack, or that a folder's name gives.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) slot: Slot,
    pub(super) column: String,
    /// None: it is missing.
    pub(super) cell: Option<String>,
}

/// What is known of a file's columns.
pub(super) struct Header {
    pub(super) names: Vec<String>,
    /// How many of them were seen in the file; what comes after may follow.
    pub(super) n_seen: usize,
    /// Whether rows may leave out columns that have nothing to say, as JSON does.
    pub(super) is_sparse: bool,
    /// Whether columns stand in the order of the schema, and `names` are its own.
    pub(super) is_by_place: bool,
}

/// Finds what every column of the file is for, or reports all columns that are missing.
pub(super) fn plan(path: &Path, header: Header, schema: &Schema, options: &ReadOptions) -> Result<Plan> {
    let plan = Plan { names: header.names, ..Plan::default() };
    let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, name) in plan.names.iter().enumerate() {
        by_name.entry(folded(name)).or_default().push(place);
    }
    let mut planner = Planner {
        by_name,
        schema,
        options,
        n_seen: header.n_seen,
        n_columns: plan.names.len(),
        is_sparse: header.is_sparse,
        plan,
        missing: Vec::new(),
    };
    let cells = planner.folders(path);
    planner.plan(header.is_by_place, &cells).map_err(|message| Error::data(path, At::File, None, message))
}

struct Planner<'s> {
    /// Where columns stand, by their names as they are compared.
    by_name: HashMap<String, Vec<usize>>,
    schema: &'s Schema,
    options: &'s ReadOptions,
    n_seen: usize,
    /// Columns of the file; in `plan.names`, those of its folders' names come after.
    n_columns: usize,
    is_sparse: bool,
    plan: Plan,
    missing: Vec<&'s Column>,
}

impl Planner<'_> {
    /// Adds the columns of folders that are named `key=value`, as Hive does; returns their cells.
    fn folders(&mut self, path: &Path) -> Vec<String> {
        let mut cells = Vec::new();
        for (key, value) in path.parent().into_iter().flat_map(Path::iter).filter_map(|name| name.to_str()?.split_once('=')) {
            let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let (key, value) = (decoded(key), if value == NULL { String::new() } else { decoded(value) });
            let places = self.by_name.entry(folded(&key)).or_default();
            if places.iter().any(|&place| place < self.n_seen) {
                self.plan.notes.push(format!("column \"{}\" is read from the file, not from its folder's name", shown(&key)));
                continue;
            }
            *places = vec![self.plan.names.len()];
            self.plan.names.push(key);
            cells.push(value);
        }
        cells
    }

    fn plan(mut self, is_by_place: bool, cells: &[String]) -> std::result::Result<Plan, String> {
        self.conditions();
        let n_found = self.features();
        self.labels()?;
        if !self.missing.is_empty() || n_found == 0 {
            return Err(self.missing_columns());
        }
        self.id()?;
        self.carried()?;
        let is_listed = self.listed();
        let Planner { n_seen, n_columns, mut plan, .. } = self;
        let (uses, of_folders): (Vec<_>, Vec<_>) =
            std::mem::take(&mut plan.uses).into_iter().partition(|(at, _)| *at < n_columns);
        plan.uses = uses;
        let is_listed = |name: &String| is_listed.contains(&folded(name));
        let is_carried = |place: usize| plan.uses.iter().any(|(at, slot)| *at == place && matches!(slot, Slot::Carried(_)));
        let unlisted = plan.names[..n_seen].iter().enumerate();
        let unlisted = unlisted.filter(|(place, name)| !is_by_place && !is_listed(name) && !is_carried(*place));
        let unlisted: Vec<String> = unlisted.map(|(_, name)| shown(name)).collect();
        let is_used = |place: usize| of_folders.iter().any(|(at, _)| *at == place);
        let keys = plan.names.iter().enumerate().skip(n_columns).filter(|(place, name)| !is_used(*place) && !is_listed(name));
        plan.unlisted =
            unlisted.into_iter().chain(keys.map(|(_, name)| format!("{} (of a folder's name)", shown(name)))).collect();
        for (place, slot) in of_folders {
            let (column, cell) = (plan.names[place].clone(), Some(cells[place - n_columns].clone()));
            plan.notes.push(format!(
                "column \"{}\" is \"{}\", as the folder's name says",
                shown(&column),
                shown(&cells[place - n_columns])
            ));
            plan.given.push(Given { slot, column, cell });
        }
        Ok(plan)
    }

    /// All names of the schema, as they are compared.
    fn listed(&self) -> HashSet<String> {
        self.schema.columns().iter().flat_map(Column::names).map(folded).collect()
    }

    /// Where the file has a column, under any of its names.
    fn places(&self, column: &Column) -> Vec<usize> {
        let mut places: Vec<usize> =
            column.names().filter_map(|name| self.by_name.get(&folded(name))).flatten().copied().collect();
        places.sort_unstable();
        places
    }

    /// Where the file has the first column of that kind.
    fn place_of(&self, column: Option<&Column>) -> Option<usize> {
        column.and_then(|column| self.places(column).first().copied())
    }

    fn conditions(&mut self) {
        for (condition, name) in self.schema.cells().only.iter().flat_map(|only| only.keys()).enumerate() {
            let column = self.schema.columns().iter().find(|column| column.name == *name).expect("a schema checks it");
            match self.place_of(Some(column)).filter(|&place| place < self.n_columns) {
                Some(place) => self.plan.uses.push((place, Slot::Where(condition))),
                None => self.missing.push(column),
            }
        }
    }

    /// How many features the file has.
    fn features(&mut self) -> usize {
        let mut n_found = 0;
        let mut unseen: Vec<String> = Vec::new();
        for (feature, column) in self.schema.features().enumerate() {
            let slot = if column.kind == ColumnKind::Numeric { Slot::Numeric(feature) } else { Slot::Categorical(feature) };
            let places = self.places(column);
            let is_seen = places.iter().any(|&place| place < self.n_seen || place >= self.n_columns);
            n_found += usize::from(is_seen);
            if !is_seen && (self.is_sparse || column.optional) {
                unseen.push(format!("\"{}\"", shown(&column.name)));
            }
            match places.first() {
                Some(&first) => {
                    self.plan.uses.push((first, slot));
                    let others = places[1..].iter().filter(|&&place| place < self.n_columns);
                    self.plan.uses.extend(others.map(|&place| (place, Slot::SameAs(first))));
                }
                None if column.optional => self.plan.given.push(Given { slot, column: column.name.clone(), cell: None }),
                None => self.missing.push(column),
            }
            if places.len() > 1 && !self.is_sparse {
                let named: Vec<String> = places.iter().map(|&place| format!("\"{}\"", shown(&self.plan.names[place]))).collect();
                let note = format!("{} columns stand for `{}` and are compared: {}", places.len(), column.name, named.join(", "));
                self.plan.notes.push(note);
            }
        }
        if !unseen.is_empty() {
            let where_not = if self.is_sparse { "not in the first records" } else { "not in the file" };
            self.plan.notes.push(format!("{where_not}, read as missing: {}", some_of(&unseen)));
        }
        n_found
    }

    fn labels(&mut self) -> std::result::Result<(), String> {
        let are_required = match self.options.labels {
            Labels::Unused => return Ok(()),
            Labels::WherePresent => false,
            Labels::Required => true,
        };
        let of_kind = |kind| self.schema.columns().iter().find(|column| column.kind == kind);
        let (label, category) = (of_kind(ColumnKind::Label), of_kind(ColumnKind::Category));
        let Some(wanted) = label.or(category) else {
            if !are_required {
                return Ok(());
            }
            let name = self.schema.name();
            return Err(format!("labels are needed here, and schema `{name}` has no column of kind `label` or `category`"));
        };
        let (label_at, category_at) = (self.place_of(label), self.place_of(category));
        let may_fall_back = label.is_none() || self.schema.cells().labels.as_ref().is_some_and(|labels| labels.from_category);
        let categories = self.options.categories;
        match (label_at, category_at) {
            (Some(place), None) if category.is_none() && categories => self.plan.uses.push((place, Slot::LabelAndCategory)),
            (Some(place), None) => self.plan.uses.push((place, Slot::Label)),
            (Some(place), Some(category)) => {
                self.plan.uses.push((place, Slot::Label));
                self.plan.uses.extend(categories.then_some((category, Slot::Category)));
            }
            (None, Some(place)) if may_fall_back => {
                let name = shown(&self.plan.names[place]);
                self.plan.notes.push(format!("no column says what is an attack: labels are taken from \"{name}\""));
                self.plan.uses.push((place, if categories { Slot::CategoryAndLabel } else { Slot::Label }));
            }
            (None, _) if are_required => self.missing.push(wanted),
            (None, _) => return Ok(()),
        }
        self.plan.has_labels = true;
        self.plan.has_categories = categories && (category_at.is_some() || category.is_none());
        Ok(())
    }

    fn id(&mut self) -> std::result::Result<(), String> {
        let Some(id) = self.schema.id().filter(|_| self.options.ids == Ids::Schema) else { return Ok(()) };
        let column = self.schema.columns().iter().find(|column| column.name == id).expect("a schema checks it");
        let Some(place) = self.place_of(Some(column)).filter(|&place| place < self.n_seen) else {
            return Err(format!(
                "column \"{}\" is missing, which names the rows (`id` of schema `{}`): pass `--id row` to name them by their number",
                shown(&column.name),
                self.schema.name()
            ));
        };
        self.plan.has_ids = true;
        self.plan.uses.push((place, Slot::Id));
        Ok(())
    }

    fn carried(&mut self) -> std::result::Result<(), String> {
        for (idx, name) in self.options.carried.iter().enumerate() {
            let Some(place) = self.plan.names.iter().position(|found| folded(found) == folded(name)) else {
                let hint = nearest(name, self.plan.names.iter().map(String::as_str));
                let hint = hint.map_or_else(String::new, |name| format!("; did you mean \"{}\"?", shown(name)));
                return Err(format!("no column \"{}\", which is to be carried along{hint}", shown(name)));
            };
            self.plan.uses.push((place, Slot::Carried(idx)));
        }
        Ok(())
    }

    /// What to say of columns that are missing, or of a file that has none of the schema's.
    fn missing_columns(&self) -> String {
        let Planner { schema, is_sparse, .. } = *self;
        let header = &self.plan.names[..self.n_seen];
        let listed = self.listed();
        let is_listed = |name: &str| listed.contains(&folded(name));
        let free = || header.iter().filter(|name| !is_listed(name)).map(String::as_str);
        let names = self.missing.iter().map(|column| {
            let hint =
                nearest(&column.name, free()).map_or_else(String::new, |name| format!(" (did you mean \"{}\"?)", shown(name)));
            format!("\"{}\"{hint}", column.name)
        });
        let names: Vec<String> = names.collect();
        let wanted = schema.features().count();
        let n_known = header.iter().filter(|name| is_listed(name)).count();
        if n_known == 0 && (wanted > 1 || is_sparse) {
            let first: Vec<String> = header.iter().map(|name| format!("\"{}\"", shown(name))).collect();
            let numbers = header.iter().filter(|name| name.trim().parse::<f64>().is_ok()).count();
            let looks = match header.len() {
                0 | 1 if !is_sparse => "looks like no table of flows".to_owned(),
                n if 2 * numbers > n => format!("has no header line: its first line has {n} cells, {numbers} of them numbers"),
                _ => format!("has {}", some_of(&first)),
            };
            return format!(
                "none of the {} columns of schema `{}` is there, and the file {looks}; `nids-mixer schema FILE` proposes a schema \
                 for it",
                schema.columns().len(),
                schema.name()
            );
        }
        let s = if self.missing.len() == 1 { "" } else { "s" };
        format!("missing column{s} {} of schema `{}`", some_of(&names), schema.name())
    }
}
