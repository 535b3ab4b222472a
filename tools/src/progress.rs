//! Progress bars, on a terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ronchi_pipeline::LinkCounters;
use ronchi_sinks::live::Board;

/// A progress bar that follows the board until it is finished.
pub(crate) struct Progress {
    bar: ProgressBar,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A bar of bytes read, with this word before it, on a terminal; nothing elsewhere or beside `--json`.
pub(crate) fn bytes_bar(word: &'static str, is_json: bool) -> ProgressBar {
    let is_visible = !is_json && std::io::stderr().is_terminal();
    let target = if is_visible { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
    // The template is a constant; a wrong one shows the default bar.
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(None, target).with_style(style).with_prefix(word)
}

/// Shows progress on a terminal; does nothing elsewhere or when not wanted.
pub(crate) fn show(board: &Arc<Board>, wanted: bool) -> Progress {
    let visible = wanted && std::io::stderr().is_terminal();
    let bar = ProgressBar::with_draw_target(
        None,
        if visible { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() },
    );
    let done = Arc::new(AtomicBool::new(false));
    let thread = visible.then(|| {
        let (bar, done, board) = (bar.clone(), Arc::clone(&done), Arc::clone(board));
        std::thread::Builder::new().name("progress".into()).spawn(move || {
            let mut current = (String::new(), 0);
            while !done.load(Ordering::Relaxed) {
                update(&bar, &board, &mut current);
                std::thread::sleep(Duration::from_millis(200));
            }
        })
    });
    Progress { bar, done, thread: thread.and_then(Result::ok) }
}

/// A bar over bytes, for long work on files; nothing is shown unless wanted.
pub(crate) fn of_bytes(word: &str, is_wanted: bool) -> ProgressBar {
    let target = if is_wanted { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    bar.set_style(style(&format!("{word} [{{bar:30}}] {{bytes}}/{{total_bytes}}, {{bytes_per_sec}}, {{eta}} left")));
    bar
}

/// Redraws the bar. `current` is the name of the acquisition shown and the frames counted before it: counters are
/// totals of the receiver.
fn update(bar: &ProgressBar, board: &Board, current: &mut (String, u64)) {
    let shown = board.look(|all| {
        let shown = all.back()?;
        Some((shown.name.clone(), shown.frame_count, shown.frame_bytes, shown.durable()))
    });
    let Some((name, frame_count, frame_bytes, durable)) = shown else {
        bar.set_style(style("{spinner} waiting for the detector {elapsed}"));
        bar.tick();
        return;
    };
    let frames = board.wiring.links.iter().map(|link| LinkCounters::read(&link.counters.frames)).min().unwrap_or(0);
    if current.0 != name {
        let before = if current.0.is_empty() { 0 } else { frames };
        *current = (name.clone(), before);
        bar.reset();
    }
    bar.set_style(match frame_count {
        Some(_) => style("{msg} [{bar:30}] {pos}/{len} frames, {per_sec}, {eta} left"),
        None => style("{msg} {spinner} {pos} frames, {per_sec}"),
    });
    if let Some(count) = frame_count {
        bar.set_length(count);
    }
    bar.set_position(frames - current.1);
    let rate = bar.per_sec() * frame_bytes as f64 / 1e9;
    bar.set_message(format!("{name} {rate:.2} GB/s, {durable} durable"));
}

/// Templates are constants of this file; a wrong one shows the default bar.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Progress {
    /// Prints without tearing the bar.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Removes the bar.
    pub(crate) fn finish(mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // It cannot fail in a way that matters to a recording that has ended.
        }
        self.bar.finish_and_clear();
    }
}
