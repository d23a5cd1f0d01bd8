//! "Did you mean": the nearest of some names.

/// The nearest of `names` to `word`, if one is near enough to be a slip of the keyboard.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let slips_max = word.chars().count().div_ceil(3).clamp(1, 3);
    names
        .into_iter()
        .map(|name| (distance(&word.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(slips, _)| *slips <= slips_max)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, name)| name)
}

/// How many characters must be inserted, removed or replaced.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, one) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(one != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        assert_eq!(nearest("amout", ["user_id", "amount"]), Some("amount"));
        assert_eq!(nearest("Amount", ["amount"]), Some("amount"));
        assert_eq!(nearest("merchant", ["amount", "user_id"]), None);
        assert_eq!(nearest("x", []), None);
    }
}
