//! Which bytes are asked for together.

use std::ops::Range;

/// Bytes between two wanted ranges that are read along: about what comes in the time in which another request waits
/// for its first byte (20 ms and more in a cloud's own network, at 50 to 100 MB/s a request). `object_store` and Arrow's
/// readers draw the line at the same place.
pub(crate) const MOST_GAP: u64 = 1 << 20;

/// Joins sorted ranges where no more than `MOST_GAP` lies between two.
pub(crate) fn merge(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start.saturating_sub(last.end) <= MOST_GAP => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Cuts ranges so that none is longer than `most`.
pub(super) fn cut(ranges: &[Range<u64>], most: u64) -> Vec<Range<u64>> {
    let pieces = |range: &Range<u64>| {
        let end = range.end;
        (range.start..end)
            .step_by(usize::try_from(most).unwrap_or(usize::MAX))
            .map(move |start| start..(start + most).min(end))
    };
    ranges.iter().cloned().flat_map(|range| pieces(&range).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
        ends(&merge(ranges.iter().map(|&(start, end)| start..end)))
    }

    fn ends(ranges: &[Range<u64>]) -> Vec<(u64, u64)> {
        ranges.iter().map(|range| (range.start, range.end)).collect()
    }

    #[test]
    fn near_ranges_are_read_together() {
        assert_eq!(merged(&[(0, 10), (5, 20), (20, 30)]), [(0, 30)]);
        assert_eq!(merged(&[(0, 50), (5, 20)]), [(0, 50)]);
        let far = 10 + MOST_GAP;
        assert_eq!(merged(&[(0, 10), (far, far + 4)]), [(0, far + 4)]);
        assert_eq!(merged(&[(0, 10), (far + 1, far + 4)]), [(0, 10), (far + 1, far + 4)]);
        assert_eq!(merged(&[]), []);
    }

    #[test]
    fn long_ranges_are_cut() {
        assert_eq!(ends(&cut(&[0..5, 7..8], 2)), [(0, 2), (2, 4), (4, 5), (7, 8)]);
    }
}
