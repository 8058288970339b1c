//! Pass 4: scan units into fragments, fragments into lanes. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::model::TimeModel;

/// How many fragments a stage may have and how large they should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packing {
    /// Projected compressed bytes that one fragment should read, unless the model finds a function's burst to be faster.
    pub fragment_bytes_target: u64,
    pub model: TimeModel,
    /// Most fragments.
    pub functions_max: usize,
    /// If set, this many fragments, unless there are fewer units.
    pub functions: Option<usize>,
    /// Most lanes a fragment, one a core of the function.
    pub lanes_max: usize,
}

/// Packs `weights` into bins, each a list of lanes, each a list of positions in `weights`.
///
/// Largest first into the lightest bin (LPT: at most 4/3 of the best makespan), then the same within the bin. Ties go to the
/// lower position, so equal input gives equal output. No bin and no lane is empty.
pub fn pack(weights: &[u64], packing: &Packing) -> Vec<Vec<Vec<usize>>> {
    let all: Vec<usize> = (0..weights.len()).collect();
    let bins = lightest_first(&all, weights, fragments(weights, packing));
    bins.into_iter().map(|bin| lightest_first(&bin, weights, packing.lanes_max.min(bin.len()))).collect()
}

/// The number of fragments for a stage.
fn fragments(weights: &[u64], packing: &Packing) -> usize {
    let total: u64 = weights.iter().sum();
    let wanted = match packing.functions {
        Some(functions) => functions,
        None => {
            let wanted = packing.fragment_bytes_target.max(1);
            let target = packing.model.fragment_bytes(
                total,
                wanted,
                (packing.functions_max.min(weights.len()), packing.lanes_max),
            );
            usize::try_from(total.div_ceil(target)).unwrap_or(usize::MAX)
        }
    };
    wanted.clamp(1, packing.functions_max.max(1)).min(weights.len())
}

fn lightest_first(items: &[usize], weights: &[u64], bins: usize) -> Vec<Vec<usize>> {
    let mut order = items.to_vec();
    order.sort_by_key(|item| (Reverse(weights[*item]), *item));
    let mut packed = vec![Vec::new(); bins];
    let mut loads: BinaryHeap<Reverse<(u64, usize, usize)>> = (0..bins).map(|bin| Reverse((0, 0, bin))).collect();
    for item in order {
        let Some(Reverse((load, count, bin))) = loads.pop() else { break };
        packed[bin].push(item);
        loads.push(Reverse((load + weights[item], count + 1, bin)));
    }
    packed.retain(|bin| !bin.is_empty());
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weights: &[u64], functions: Option<usize>, lanes_max: usize, expect: &[&[&[usize]]]) {
        let packing =
            Packing { fragment_bytes_target: 10, model: TimeModel::laptop(1), functions_max: 3, functions, lanes_max };
        assert_eq!(pack(weights, &packing), expect, "{weights:?} {packing:?}");
    }

    #[test]
    fn largest_first_into_the_lightest() {
        check(&[], None, 2, &[]);
        check(&[3], None, 2, &[&[&[0]]]);
        check(&[1, 9, 5, 5], None, 1, &[&[&[1, 0]], &[&[2, 3]]]);
        check(&[1, 9, 5, 5], None, 2, &[&[&[1], &[0]], &[&[2], &[3]]]);
        check(&[100, 1, 1, 1], None, 1, &[&[&[0]], &[&[1, 3]], &[&[2]]]);
        check(&[1, 1], Some(8), 2, &[&[&[0]], &[&[1]]]);
        check(&[0, 0, 0], Some(2), 1, &[&[&[0, 2]], &[&[1]]]);
    }

    #[test]
    fn every_unit_is_packed_once_and_no_bin_is_twice_the_mean_plus_the_largest() {
        let weights: Vec<u64> = (0..500).map(|i| (i * 7919) % 101).collect();
        let packing = Packing {
            fragment_bytes_target: 700,
            model: TimeModel::laptop(1),
            functions_max: 64,
            functions: None,
            lanes_max: 4,
        };
        let packed = pack(&weights, &packing);
        let mut seen: Vec<usize> = packed.iter().flatten().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        let mean = weights.iter().sum::<u64>() / packed.len() as u64;
        let heaviest = packed.iter().map(|bin| bin.iter().flatten().map(|u| weights[*u]).sum::<u64>()).max();
        assert!(heaviest.is_some_and(|heaviest| heaviest <= mean + 101), "{heaviest:?} over a mean of {mean}");
    }
}
