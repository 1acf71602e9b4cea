//! Which bytes are asked for together.

use std::ops::Range;

/// Bytes between two wanted ranges that are always read along: a request of its own has longer headers.
const FREE_GAP: u64 = 1 << 10;

/// Requests that are worth their bytes: about as many run side by side. Beyond, the time of a request counts for more
/// than the gaps that it saves.
const MOST_RANGES: usize = 64;

/// Joins sorted ranges where what lies between two is at most `FREE_GAP`, or a quarter of both together: then at
/// most half as many bytes again are read as are wanted, if no gap was free. Where more than `MOST_RANGES` are left,
/// the shortest gaps are read along too.
pub(crate) fn merge(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    let mut before = 0;
    for range in ranges {
        let len = range.end - range.start;
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            Some(last) if range.start - last.end <= FREE_GAP.max((before + len) / 4) => {
                last.end = range.end;
            }
            _ => merged.push(range),
        }
        before = len;
    }
    fewer(merged)
}

/// Joins ranges over their shortest gaps until no more than `MOST_RANGES` are left.
fn fewer(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let Some(surplus) = ranges.len().checked_sub(MOST_RANGES).filter(|n| *n > 0) else {
        return ranges;
    };
    let mut gaps: Vec<u64> = ranges.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
    let (_, &mut longest, _) = gaps.select_nth_unstable(surplus - 1);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(MOST_RANGES);
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start - last.end <= longest => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
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
        assert_eq!(merged(&[(0, 10), (1034, 1040)]), [(0, 1040)]);
        assert_eq!(merged(&[(0, 10), (1035, 1040)]), [(0, 10), (1035, 1040)]);
        assert_eq!(merged(&[(0, 8000), (12000, 20000)]), [(0, 20000)]);
        assert_eq!(merged(&[(0, 8000), (12001, 20001)]), [(0, 8000), (12001, 20001)]);
        assert_eq!(merged(&[]), []);
    }

    #[test]
    fn gaps_cost_at_most_half_of_what_is_wanted() {
        let wanted: Vec<_> = (0..50).map(|i| (i * 9000, i * 9000 + 6000)).collect();
        let read: u64 = merged(&wanted).iter().map(|(start, end)| end - start).sum();
        assert!(read > 50 * 6000 && read <= 50 * 9000, "{read}");
    }

    #[test]
    fn many_ranges_become_few_over_their_shortest_gaps() {
        let n = MOST_RANGES as u64;
        let even: Vec<_> = (0..n).map(|i| (i * 9000, i * 9000 + 10)).collect();
        assert_eq!(merged(&even), even);
        // Two more, the last two nearer to one another than any others, but not for free.
        let mut more = even.clone();
        more.extend([(n * 9000, n * 9000 + 10), (n * 9000 + 2000, n * 9000 + 2010)]);
        more[0].1 += 5000;
        let mut want = more[1..more.len() - 2].to_vec();
        want[0].0 = 0;
        want.push((n * 9000, n * 9000 + 2010));
        assert_eq!(merged(&more), want);
    }

    #[test]
    fn long_ranges_are_cut() {
        assert_eq!(ends(&cut(&[0..5, 7..8], 2)), [(0, 2), (2, 4), (4, 5), (7, 8)]);
    }
}
