//! Did you mean: which of some names a misspelt one stands for.

/// The candidate that `name` is most likely a misspelling of, if one is near: at most a third of its letters are missing, extra,
/// wrong or swapped with the next (Damerau-Levenshtein), else one of the two begins with the other. Blanks around a name and
/// upper case count for nothing.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const PREFIX: usize = 3;
    let name = folded(name);
    let rank = |candidate: &str| {
        let candidate = folded(candidate);
        let distance = strsim::damerau_levenshtein(&name, &candidate);
        let begins = candidate.starts_with(&name) || name.starts_with(&candidate);
        let is_near = distance <= candidate.len().max(3) / 3;
        (is_near || begins && name.len().min(candidate.len()) >= PREFIX).then_some((!is_near, distance))
    };
    let ranked = candidates.into_iter().filter_map(|candidate| Some((rank(candidate)?, candidate)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, candidate)| candidate)
}

/// A name as it is compared: without blanks around it, in lower case.
pub(crate) fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_finds_the_one_that_was_meant() {
        let names = ["seed", "steps", "log_every", "encode", "normalisation", "mae", "dim"];
        for (name, wanted) in [
            ("sead", Some("seed")),
            ("stesp", Some("steps")),
            ("mea", Some("mae")),
            ("dims", Some("dim")),
            (" Log_Evry ", Some("log_every")),
            ("encoder", Some("encode")),
            // the beginning of a longer name, which too many letters are missing of
            ("norm", Some("normalisation")),
            ("no", None),
            ("lr", None),
            ("threads", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, names), wanted, "{name}");
        }
        // of two that are near, the nearer; of a near one and one that begins so, the near one
        assert_eq!(nearest("rates", ["state", "rate"]), Some("rate"));
        assert_eq!(nearest("sload", ["sload_of_all", "dload"]), Some("dload"));
    }
}
