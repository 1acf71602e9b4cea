//! The writer stays within its budget however much data passes through it.
//!
//! A shard of every layer held in memory, or a queue that only grows, passes every other test. The measure is
//! the process's own peak of resident memory, so these tests have a process of their own and take turns.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod store_support;

use std::{fs, sync::Mutex};

use residuum_core::{
    ArraySpec, Codec, CommitRequest, Dtype, RowCounts, Run, Site, Source, Store, Writer,
    WriterOptions,
};
use store_support::make_root;

static TURN: Mutex<()> = Mutex::new(());

/// Kibibytes that `/proc/self/status` states under `key`.
fn status(key: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Writes `n_row` rows of `n_layer` layers in blocks, and returns how far memory peaked above its start.
fn peak_while_writing(spec: &ArraySpec, n_row: usize, block: usize, memory_bytes: usize) -> usize {
    let _turn = TURN.lock();
    let folder = tempfile::tempdir().unwrap();
    make_root(folder.path());
    let row_len = spec.row_len();
    // Whole numbers below 2048 are exact in half precision.
    let mut values: Vec<f32> = (0..block * row_len).map(|i| (i % 1013) as f32).collect();
    // 5 resets the peak.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    let options = WriterOptions { memory_bytes, threads: 2 };
    let writer = Writer::create(folder.path(), vec![spec.clone()], options).unwrap();
    for first in (0..n_row).step_by(block) {
        for &layer in &spec.layers {
            values[0] = ((first + layer) % 1013) as f32;
            let run = Run { src_row: 0, dst_row: first, n: block.min(n_row - first) };
            writer.write(0, layer, Source::F32(&values), row_len, &[run]).unwrap();
        }
    }
    let request = CommitRequest {
        rows: RowCounts { token: n_row, example: 0 },
        complete: true,
        publish_tail: true,
        ..CommitRequest::default()
    };
    writer.commit(request).unwrap();
    let peak = status("VmHWM").saturating_sub(before) * 1024;
    let store = Store::open(folder.path()).unwrap();
    let last = *spec.layers.last().unwrap();
    let mut row = vec![0.0; row_len];
    let first = (n_row - 1) / block * block;
    store.site(spec.name()).unwrap().read_block_f32(first..first + 1, last, &mut row).unwrap();
    // Codes are off by half a scale.
    let most = if spec.dtype == Dtype::I8 { 1013.0 / 254.0 } else { 0.0 };
    assert!((row[0] - ((first + last) % 1013) as f32).abs() <= most);
    let mut pairs = row[1..].iter().zip(&values[1..row_len]);
    assert!(pairs.all(|(a, b)| (a - b).abs() <= most), "the last block came back changed");
    peak
}

fn resid_post(n_layer: usize, width: usize, dtype: Dtype, shard_rows: usize) -> ArraySpec {
    let layers: Vec<usize> = (0..n_layer).collect();
    ArraySpec::for_site(Site::ResidPost, dtype, n_layer, &layers, &[width], shard_rows, Codec::None)
        .unwrap()
}

/// Stacks of the threads that make files durable, and the allocator's slack.
const OVERHEAD: usize = 8 << 20;

#[test]
fn a_small_budget_holds_while_ten_times_as_much_is_written() {
    // 12 layers of 1000 rows of 4 KB: 49 MB, in shards that stay open until the end.
    let spec = resid_post(12, 1024, Dtype::F32, 1024);
    let budget = 6 << 20;
    let peak = peak_while_writing(&spec, 1000, 100, budget);
    assert!(peak < budget + OVERHEAD, "peak {peak} with a budget of {budget}");
}

#[test]
fn rows_that_become_codes_are_within_the_budget() {
    let spec = resid_post(12, 1024, Dtype::I8, 1024);
    let budget = 12 << 20;
    let peak = peak_while_writing(&spec, 1000, 100, budget);
    assert!(peak < budget + OVERHEAD, "peak {peak} with a budget of {budget}");
}

#[test]
#[ignore = "writes 1.5 GB; make test-slow runs it"]
fn a_wide_model_is_written_in_256_megabytes() {
    let spec = resid_post(40, 8192, Dtype::F16, 1024);
    let budget = 256 << 20;
    let peak = peak_while_writing(&spec, 2300, 64, budget);
    assert!(peak < budget + OVERHEAD, "peak {peak} with a budget of {budget}");
}
